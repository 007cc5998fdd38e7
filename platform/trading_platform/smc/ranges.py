"""The range between the last known swing high and low: how far price has come back in it, and on which half it is.

A leg or range is known when its newest swing is, and superseded by the next. Retracements are measured from the newest swing, back to
its first candle after it; they fail when the leg's origin is taken. A dealing range is mitigated when price trades its middle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trading_platform.smc import drive
from trading_platform.smc.candles import Candles
from trading_platform.smc.compiled import kernel
from trading_platform.smc.drive import Indicator, Stream
from trading_platform.smc.events import Events, Kind, Status
from trading_platform.smc.memory import (
    AT,
    HIGH,
    INDEX,
    LEVEL,
    LOW,
    OPTION,
    OWN,
    RUN,
    TIME,
    Memory,
    has_room,
    past,
    remember,
    say,
    tell,
)
from trading_platform.smc.pivots import NOTHING, side_of, swing, swing_memory

LAST, IS_TOLD = OWN, OWN + 1
DEEPEST = 0
RETRACEMENTS_OPTION, PREMIUM_OPTION = 0, 1


@kernel
def _retraced(direction: int, h: float, lo: float, top: float, bottom: float) -> float:
    """Percent of the leg that the candle's far end has come back; 0 of a leg without height."""
    if top == bottom:
        return 0.0
    if direction == 1:
        return 100 - ((lo - bottom) / (top - bottom)) * 100
    return 100 - ((h - top) / (bottom - top)) * 100


@kernel
def _retrace(m: Any, row: int, new: bool, h: float, lo: float, k: int, t: int) -> None:
    n = m.numbers
    direction = n[RUN]
    top, bottom = m.side_reals[0, LEVEL], m.side_reals[1, LEVEL]
    if new:
        side = side_of(direction)
        at, time, level = m.side_numbers[side, AT], m.side_numbers[side, TIME], m.side_reals[side, LEVEL]
        upper, lower = max(top, bottom), min(top, bottom)
        n[LAST] = say(m, Kind.LEG.value, direction, at, time, k, t, upper, lower, level, np.nan, np.nan)
        m.reals[DEEPEST] = 0.0
        for j in range(at + 1, k):
            m.reals[DEEPEST] = max(m.reals[DEEPEST], _retraced(direction, past(m, HIGH, j), past(m, LOW, j), top, bottom))
    current = _retraced(direction, h, lo, top, bottom)
    m.reals[DEEPEST] = max(m.reals[DEEPEST], current)
    if m.reals[DEEPEST] > 100 and n[IS_TOLD] == 0:
        n[IS_TOLD] = 1
        tell(m, n[LAST], Status.FAILED.value, k, t, False)
    m.values[row, 0] = direction
    m.values[row, 1] = current
    m.values[row, 2] = m.reals[DEEPEST]


@kernel
def _place(m: Any, row: int, new: bool, h: float, lo: float, c: float, k: int, t: int) -> None:
    n = m.numbers
    top, bottom = m.side_reals[0, LEVEL], m.side_reals[1, LEVEL]
    middle = (top + bottom) / 2
    if top <= bottom:
        m.values[row, 0], m.values[row, 1] = np.nan, 0.0
        return
    if new:
        side = side_of(n[RUN])
        at, time = m.side_numbers[side, AT], m.side_numbers[side, TIME]
        n[LAST] = say(m, Kind.DEALING_RANGE.value, n[RUN], at, time, k, t, top, bottom, middle, np.nan, np.nan)
    if n[LAST] >= 0 and n[IS_TOLD] == 0 and lo <= middle <= h:
        n[IS_TOLD] = 1
        tell(m, n[LAST], Status.MITIGATED.value, k, t, False)
    m.values[row, 0] = (c - bottom) / (top - bottom)
    m.values[row, 1] = 1.0 if c > middle else (-1.0 if c < middle else 0.0)


@kernel
def _step(m: Any, row: int, o: float, h: float, lo: float, c: float, v: float, t: int) -> bool:
    if not has_room(m):
        return False
    k = remember(m, o, h, lo, c, v, t)
    n = m.numbers
    new = swing(m, k) != NOTHING
    if new and n[LAST] >= 0:
        tell(m, n[LAST], Status.SUPERSEDED.value, k, t, True)
    if new:
        n[LAST], n[IS_TOLD] = -1, 0
    if m.side_numbers[0, AT] < 0 or m.side_numbers[1, AT] < 0:
        m.values[row, 0] = 0.0 if n[OPTION] == RETRACEMENTS_OPTION else np.nan
        m.values[row, 1:] = np.nan if n[OPTION] == RETRACEMENTS_OPTION else 0.0
    elif n[OPTION] == RETRACEMENTS_OPTION:
        _retrace(m, row, new, h, lo, k, t)
    else:
        _place(m, row, new, h, lo, c, k, t)
    return True


@kernel
def step(row: int, o: float, h: float, lo: float, c: float, v: float, t: int, *arrays: Any) -> bool:
    """One candle."""
    return _step(Memory(*arrays), row, o, h, lo, c, v, t)


@kernel
def run(o: Any, h: Any, lo: Any, c: Any, v: Any, t: Any, *arrays: Any) -> int:
    """Candles, from the next one on, while there is room."""
    m = Memory(*arrays)
    k = m.numbers[INDEX]
    while k < len(t) and _step(m, k, o[k], h[k], lo[k], c[k], v[k], t[k]):
        k += 1
    return int(k)


RETRACEMENTS = Indicator(step, run, ("leg_direction", "current", "deepest"))
PREMIUM_DISCOUNT = Indicator(step, run, ("position", "zone"))


def _memory(indicator: Indicator, option: int, length: int) -> Memory:
    m = swing_memory(length, books=0, columns=len(indicator.columns))
    m.numbers[OPTION], m.numbers[LAST] = option, -1
    return m


def retracements(candles: Candles, *, length: int = 50) -> Events:
    """Every leg: `direction` 1 when its newest swing is a high; `level` that swing's price, `top` and `bottom` the leg's.

    Values, once a high and a low are known: `leg_direction` (0 before), `current` percent of the leg that this candle came back (negative
    beyond the swing, over 100 beyond the origin), `deepest` of all candles since the swing, at least 0; NaN before.
    """
    return drive.over(RETRACEMENTS, _memory(RETRACEMENTS, RETRACEMENTS_OPTION, length), candles)


class RetracementStream(Stream):
    """`retracements`, candle by candle."""

    def __init__(self, *, length: int = 50) -> None:
        super().__init__(RETRACEMENTS, _memory(RETRACEMENTS, RETRACEMENTS_OPTION, length))


def premium_discount(candles: Candles, *, length: int = 50) -> Events:
    """Every dealing range: from the last known swing low to the last known swing high, `level` its middle.

    Values: `position` of the close in the range, 0 its bottom and 1 its top (NaN while there is none), `zone` 1 premium, -1 discount, 0
    exactly between or no range.
    """
    return drive.over(PREMIUM_DISCOUNT, _memory(PREMIUM_DISCOUNT, PREMIUM_OPTION, length), candles)


class PremiumDiscountStream(Stream):
    """`premium_discount`, candle by candle."""

    def __init__(self, *, length: int = 50) -> None:
        super().__init__(PREMIUM_DISCOUNT, _memory(PREMIUM_DISCOUNT, PREMIUM_OPTION, length))
