"""Misbehaviour on demand: rules that make the venue fail the way real ones do. Only where the configuration allows it.

Each rule draws from its own seeded generator, once for every request or event it matches, so the same rules and the same
sequence of requests fail in the same places.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec

Kind = Literal[
    "no_answer",  # processed, then never answered: the caller's time-out
    "error_before",  # 5xx, nothing processed
    "error_after",  # processed, then 5xx
    "slow",  # processed after a pause of `seconds`
    "slow_answer",  # processed, answered after a pause of `seconds`
    "rate_limit",  # 429 or 418 with Retry-After `seconds`, nothing processed
    "clock_drift",  # the venue's clock is `milliseconds` ahead
    "duplicate_reports",
    "delay_reports",  # by `seconds`
    "reorder_reports",  # each one matched is sent after the next one
    "lose_reports",
    "drop_streams",  # the account's user data connections are cut instead of the report
    "refuse_streams",  # new websocket connections are refused
]
REPORTS: tuple[Kind, ...] = ("lose_reports", "drop_streams", "duplicate_reports", "delay_reports", "reorder_reports")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` and `method` are patterns (`/api/v3/order`, `/api/*`; for the WebSocket API the method's name, `order.*`)."""

    kind: Kind
    path: str = "*"
    method: str = "*"
    account: str | None = None
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int = 0
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    code: int | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 1.0
    milliseconds: Annotated[int, msgspec.Meta(ge=-86_400_000, le=86_400_000)] = 0


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /faults."""

    rules: list[Rule]


class _Armed:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.left = rule.count
        self.hits = 0
        self._random = random.Random(rule.seed)  # noqa: S311 - reproducible on purpose

    def matches(self, method: str, path: str, account: str | None) -> bool:
        rule = self.rule
        return (
            self.left != 0
            and (rule.account is None or rule.account == account)
            and fnmatchcase(method, rule.method)
            and fnmatchcase(path, rule.path)
        )

    def strikes(self) -> bool:
        if self._random.random() >= self.rule.probability:
            return False
        self.hits += 1
        if self.left is not None:
            self.left -= 1
        return True


class Faults:
    """The rules in force."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def __bool__(self) -> bool:
        return bool(self._armed)

    def arm(self, rules: Iterable[Rule]) -> None:
        """These instead of what was there."""
        self._armed = [_Armed(rule) for rule in rules]

    def clear(self) -> None:
        self._armed = []

    def strike(self, kinds: Iterable[Kind], method: str = "", path: str = "", account: str | None = None) -> dict[Kind, Rule]:
        """The rules of these kinds that hit this request, the first of each kind."""
        hit: dict[Kind, Rule] = {}
        if not self._armed:
            return hit
        wanted = frozenset(kinds)
        for armed in self._armed:
            kind = armed.rule.kind
            if kind in wanted and kind not in hit and armed.matches(method, path, account) and armed.strikes():
                hit[kind] = armed.rule
        return hit

    def drift_ms(self) -> int:
        """How far the venue's clock is ahead."""
        return sum(armed.rule.milliseconds for armed in self._armed if armed.rule.kind == "clock_drift")

    def document(self) -> list[dict[str, object]]:
        return [{"rule": armed.rule, "hits": armed.hits, "left": armed.left} for armed in self._armed]
