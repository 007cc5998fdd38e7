"""What passes in which state of trading, and who may change which into which."""

from __future__ import annotations

import itertools

import pytest
from trading_platform.auth import ROLES, Identity
from trading_platform.domain import trading_state
from trading_platform.domain.trading_state import CONTROL, EMERGENCY, RELEASE, STATES, NotPossible, State


@pytest.mark.parametrize(
    ("state", "passing"),
    [
        ("running", {"new", "reducing", "flatten", "cancel"}),
        ("reducing", {"reducing", "flatten", "cancel"}),
        ("draining", {"reducing", "flatten", "cancel"}),
        ("paused", {"flatten", "cancel"}),
        ("stopped", {"flatten", "cancel"}),
        ("emergency_stopped", {"flatten", "cancel"}),
    ],
)
def test_each_state_lets_pass_what_it_should_and_cancels_always(state: State, passing: set[str]) -> None:
    assert {what for what in ("new", "reducing", "flatten", "cancel") if trading_state.passes(state, what)} == passing


def test_a_stricter_state_never_lets_more_pass() -> None:
    for looser, stricter in itertools.pairwise(STATES):
        assert trading_state.PASSES[stricter] <= trading_state.PASSES[looser]


def test_the_strictest_row_counts_and_nothing_known_is_stopped() -> None:
    assert trading_state.effective(["running", "paused", "reducing"]) == "paused"
    assert trading_state.effective([]) == "stopped"


TABLE = {
    **{(current, wanted): CONTROL for current in STATES for wanted in STATES if "emergency_stopped" not in (current, wanted)},
    **{(current, "emergency_stopped"): EMERGENCY for current in STATES},
    ("emergency_stopped", "stopped"): RELEASE,
}


@pytest.mark.parametrize("change", list(itertools.product(STATES, STATES)), ids="->".join)
def test_every_change_needs_its_permission_or_is_possible_for_nobody(change: tuple[State, State]) -> None:
    if change in TABLE:
        assert trading_state.permission_needed(*change) == TABLE[change]
    else:
        with pytest.raises(NotPossible, match="EMERGENCY_STOPPED"):
            trading_state.permission_needed(*change)


@pytest.mark.parametrize(
    ("permission", "holders"), [(CONTROL, {"admin", "trader"}), (EMERGENCY, {"admin", "trader"}), (RELEASE, {"admin"})]
)
def test_whoever_may_halt_is_not_thereby_one_who_may_release(permission: str, holders: set[str]) -> None:
    assert {role for role in ROLES if Identity("somebody", role, "1", 0).may(permission)} == holders


def test_only_a_person_may_loosen() -> None:
    assert trading_state.is_person("user:alice")
    for machine in ("engine", "risk", "strategy:user:x", "host:alpha:root", "migration"):
        assert not trading_state.is_person(machine)
