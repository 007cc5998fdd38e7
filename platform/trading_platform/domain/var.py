"""Value at risk and expected shortfall of a set of positions over one day. Pure; statistics in float, results in money.

Historical simulation (J. Hull, *Options, Futures, and Other Derivatives*, "Value at Risk"): today's positions are put through every
past return, and the loss at the confidence's order statistic counts. Returns of a shorter horizon h are scaled by sqrt(1 day / h),
as RiskMetrics (J. P. Morgan/Reuters, 1996, section 2) does: right for independent returns, too little where moves follow each
other. An instrument with too few returns is taken as normal, with the larger of its measured and an assumed volatility, and as
moving against us together with all the rest: VaR is subadditive there, so the sum is never too small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from trading_platform import money
from trading_platform.domain.figures import ALWAYS_OPEN
from trading_platform.instruments import Kind

DAY_S: Final = 86_400
ENOUGH_RETURNS: Final = 100  # for a 95 % quantile to rest on five returns
MEASURABLE_RETURNS: Final = 30  # for a volatility to mean anything

# Annual volatility of an instrument about which too little is known yet: deliberately high for its kind.
ASSUMED_VOLATILITY: Final[Mapping[Kind, float]] = {"spot": 1.0, "perpetual": 1.0, "equity": 0.4, "metal": 0.25, "fx": 0.15}

# Standard normal: quantiles at 95 % and 99 %, and the mean beyond the 95 % quantile, density(z) / 0.05.
Z_95: Final = 1.6448536269514722
Z_99: Final = 2.3263478740408408
TAIL_95: Final = 2.0627128075074258

_PLACES: Final = 8


@dataclass(frozen=True, slots=True)
class Returns:
    """Simple returns of one instrument over `interval_s`, by the time (epoch seconds) each ended."""

    interval_s: int
    by_time: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class ValueAtRisk:
    """One-day losses in money, never negative; `notes` say what rests on assumptions."""

    var_95: Decimal
    var_99: Decimal
    expected_shortfall: Decimal
    notes: tuple[str, ...] = ()


def returns_of(closes: Sequence[tuple[int, float]], interval_s: int, *, gaps: bool = False) -> Returns:
    """Returns between candles (start, close) that follow each other, oldest first; `gaps`: also over closed hours up to four days."""
    longest = max(interval_s, 4 * DAY_S) if gaps and interval_s >= DAY_S else interval_s
    pairs = itertools.pairwise(closes)
    return Returns(
        interval_s, {at: close / before - 1 for (earlier, before), (at, close) in pairs if at - earlier <= longest and before > 0}
    )


def value_at_risk(values: Mapping[str, Decimal], history: Mapping[str, Returns | None], kinds: Mapping[str, Kind]) -> ValueAtRisk:
    """Of positions worth `values` (signed, by symbol)."""
    held = {symbol: float(value) for symbol, value in values.items() if value != 0}
    together: dict[int, list[str]] = {}
    alone: list[str] = []
    for symbol in sorted(held):
        known = history.get(symbol)
        if known is not None and len(known.by_time) >= ENOUGH_RETURNS:
            together.setdefault(known.interval_s, []).append(symbol)
        else:
            alone.append(symbol)
    total = (0.0, 0.0, 0.0)
    for interval_s, symbols in sorted(together.items()):
        losses = _joint_losses({symbol: held[symbol] for symbol in symbols}, history)
        if len(losses) < ENOUGH_RETURNS:
            parts = [_historical(_joint_losses({symbol: held[symbol]}, history), interval_s) for symbol in symbols]
        else:
            parts = [_historical(losses, interval_s)]
        total = _plus(total, *parts)
    notes = []
    for symbol in alone:
        deviation, assumed = _deviation(history.get(symbol), kinds[symbol])
        loss = abs(held[symbol]) * deviation
        total = _plus(total, (loss * Z_95, loss * Z_99, loss * TAIL_95))
        if assumed:
            notes.append(f"{symbol}: too few candles, volatility of its kind assumed")
    var_95, var_99, shortfall = (_amount(each) for each in total)
    return ValueAtRisk(var_95, var_99, shortfall, tuple(notes))


def loss_rate(symbol: str, history: Returns | None, kind: Kind) -> Decimal:
    """The share of its value that one instrument alone can lose in a day, at 95 %, in whichever direction it is held."""
    found = [value_at_risk({symbol: Decimal(sign)}, {symbol: history}, {symbol: kind}).var_95 for sign in (1, -1)]
    return max(found)


def _joint_losses(values: Mapping[str, float], history: Mapping[str, Returns | None]) -> list[float]:
    """What these positions would have lost in every period all of them have a return of; smallest loss first."""
    series = [(value, known.by_time) for symbol, value in values.items() if (known := history[symbol]) is not None]
    shared = set.intersection(*(set(by_time) for _, by_time in series))
    return sorted(-math.fsum(value * by_time[at] for value, by_time in series) for at in shared)


def _historical(losses: Sequence[float], interval_s: int) -> tuple[float, float, float]:
    """VaR at 95 % and 99 % and the expected shortfall of one day: the smallest losses that at least that share does not exceed."""
    scale = math.sqrt(DAY_S / interval_s)
    at_95, at_99 = (losses[math.ceil(share * len(losses) / 100) - 1] for share in (95, 99))
    tail = losses[math.ceil(95 * len(losses) / 100) - 1 :]
    return at_95 * scale, at_99 * scale, math.fsum(tail) / len(tail) * scale


def _deviation(known: Returns | None, kind: Kind) -> tuple[float, bool]:
    """Daily standard deviation, and whether it is the assumed one."""
    assumed = ASSUMED_VOLATILITY[kind] / math.sqrt(365 if kind in ALWAYS_OPEN else 252)
    if known is None or len(known.by_time) < MEASURABLE_RETURNS:
        return assumed, True
    values = list(known.by_time.values())
    mean = math.fsum(values) / len(values)
    variance = math.fsum((each - mean) ** 2 for each in values) / (len(values) - 1)
    measured = math.sqrt(variance * DAY_S / known.interval_s)
    return (measured, False) if measured >= assumed else (assumed, True)


def _plus(*parts: tuple[float, float, float]) -> tuple[float, float, float]:
    """Sums of losses; a gain of one part does not make up for another's loss."""
    return tuple(math.fsum(max(0.0, part[index]) for part in parts) for index in range(3))  # type: ignore[return-value]


def _amount(value: float) -> Decimal:
    return money.round_money(Decimal(repr(max(0.0, value))), _PLACES)
