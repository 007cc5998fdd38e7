"""States of trading: how strict each is, what passes in which, and who may change which into which. Pure.

A state is latched: whoever may (an engine, a breaker, a script on a host) makes it stricter, only a person makes it less strict,
and the end of an emergency needs a permission of its own. The database enforces the same (trigger on trading_state).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

State = Literal["running", "reducing", "draining", "paused", "stopped", "emergency_stopped"]
Passing = Literal["new", "reducing", "flatten", "cancel"]

# From the most to the least permissive.
STATES: Final[tuple[State, ...]] = get_args(State)
PLATFORM: Final = "*"  # the row that counts for every account

CONTROL: Final = "trading.control"
EMERGENCY: Final = "trading.emergency"
# Outside `trading.`, whose every permission a trader holds: an emergency is ended by an admin.
RELEASE: Final = "emergency.release"

_CLOSING: Final[frozenset[Passing]] = frozenset({"flatten", "cancel"})
_REDUCING: Final[frozenset[Passing]] = frozenset({"reducing", "flatten", "cancel"})
PASSES: Final[dict[State, frozenset[Passing]]] = {
    "running": frozenset({"new", "reducing", "flatten", "cancel"}),
    "reducing": _REDUCING,
    "draining": _REDUCING,
    "paused": _CLOSING,
    "stopped": _CLOSING,
    "emergency_stopped": _CLOSING,
}


class NotPossible(Exception):
    """No role leads from this state to that one; `code` is the reason code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def passes(state: State, what: Passing) -> bool:
    """Whether that kind of request may be sent in that state. A cancel always may."""
    return what in PASSES[state]


def halted(state: State) -> bool:
    """Whether nothing but cancels and closing orders passes."""
    return PASSES[state] == _CLOSING


def strictness(state: State) -> int:
    """0 for running, rising."""
    return STATES.index(state)


def effective(states: Iterable[State]) -> State:
    """What counts of several rows: the strictest. Nothing known is `stopped`."""
    return max(states, key=strictness, default="stopped")


def loosens(current: State, wanted: State) -> bool:
    """Whether the change lets more pass: then a person must have asked for it."""
    return strictness(wanted) < strictness(current)


def is_person(actor: str) -> bool:
    """Engine, breakers and scripts are no persons: they can only tighten."""
    return actor.startswith("user:")


def permission_needed(current: State, wanted: State) -> str:
    """The permission for a change. Raises NotPossible.

    An emergency is left for `stopped` only: its end and the start of trading are two decisions, the second one checked.
    """
    if wanted == "emergency_stopped":
        return EMERGENCY
    if current == "emergency_stopped":
        if wanted != "stopped":
            raise NotPossible("EMERGENCY_STOPPED", f"an emergency stop is released to stopped, not to {wanted}; start trading after that")
        return RELEASE
    return CONTROL
