"""Does a strategy know the future? It is run again on beginnings of the same candles, and must have decided the same there.

Asked at every candle for a flat, a long and a short position, so that no path of positions hides a decision. What this cannot see is
a future that is in the candles themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from trading_platform.messages import Candle
from trading_platform.strategies.model import SECOND_NS, Decision, LookAhead, Strategy, decide, judged

POSITIONS = (Decimal(0), Decimal(1), Decimal(-1))

Decisions = tuple[Decision | None, ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """At `candle` (its row) a strategy that had seen `seen` candles decided otherwise than the one that saw them all."""

    candle: int
    seen: int
    with_all: str
    with_beginning: str


@dataclass(frozen=True, slots=True)
class Report:
    """`decisions` counts those of the whole run, over all three positions."""

    candles: int
    beginnings: int
    decisions: int
    violations: tuple[Violation, ...]

    def to_document(self) -> dict[str, Any]:
        return {
            "candles": self.candles,
            "beginnings": self.beginnings,
            "decisions": self.decisions,
            "violations": [
                {"candle": each.candle, "seen": each.seen, "with_all": each.with_all, "with_beginning": each.with_beginning}
                for each in self.violations
            ],
        }


def lookahead(fresh: Callable[[], Strategy[Any]], candles: Sequence[Candle], beginnings: int = 20) -> Report:
    """Compare a whole run with runs of so many beginnings, spread over what follows the warm-up. `fresh` makes a strategy that has seen
    nothing. A fact from the future, or a candle decided before its end, is a violation as well."""
    try:
        whole = _decisions(fresh(), candles)
    except LookAhead as error:
        return Report(len(candles), 0, 0, (Violation(-1, len(candles), str(error), ""),))
    violations = []
    lengths = _lengths(min(fresh().inputs.warm_up, len(candles)), len(candles), beginnings)
    for length in lengths:
        try:
            part = _decisions(fresh(), candles[:length])
        except LookAhead as error:
            violations.append(Violation(-1, length, "", str(error)))
            continue
        differing = (row for row, (ours, theirs) in enumerate(zip(part, whole, strict=False)) if ours != theirs)
        if (row := next(differing, None)) is not None:
            violations.append(Violation(row, length, repr(whole[row]), repr(part[row])))
    count = sum(decision is not None for row in whole for decision in row)
    return Report(len(candles), len(lengths), count, tuple(violations))


def _lengths(first: int, last: int, count: int) -> list[int]:
    """At most `count` lengths from first to last, both included; the whole once more finds what is not the same twice."""
    if count < 1 or last == 0:
        return []
    steps = max(1, count - 1)
    return sorted({first + (last - first) * step // steps for step in range(steps + 1)} | {last})[-count:]


def _decisions(strategy: Strategy[Any], candles: Sequence[Candle]) -> list[Decisions]:
    rows = []
    for candle in candles:
        end_ns = candle.ts_open_ns + candle.interval_s * SECOND_NS
        rows.append((decide(strategy, candle, POSITIONS[0], end_ns), *(judged(strategy, held) for held in POSITIONS[1:])))
    return rows
