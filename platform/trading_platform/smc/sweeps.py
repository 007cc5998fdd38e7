"""Liquidity sweeps: a candle trades beyond a known swing for the first time and closes back inside.

Known at that close; it has failed when a later candle closes beyond the sweep's own extreme.
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
    EXPIRE_AFTER,
    INDEX,
    LEVEL,
    RUN,
    TIME,
    Memory,
    expire,
    has_room,
    put,
    reached,
    remember,
    say,
    take,
    tell,
)
from trading_platform.smc.pivots import NOTHING, side_of, swing, swing_memory

# Books: swings nobody traded beyond yet, by side; then sweeps that have not failed, by side.
SWEEPS_BOOKS = 2


@kernel
def _forget(m: Any, book: int, k: int) -> None:
    """Drop swings nobody took in EXPIRE_AFTER candles; nothing was said of them."""
    after = m.numbers[EXPIRE_AFTER]
    rows = m.book[book]
    kept = 0
    for place in range(m.depth[book]):
        if k - rows[place]["known"] <= after:
            if kept != place:
                rows[kept] = rows[place]
            kept += 1
    m.depth[book] = kept


@kernel
def _step(m: Any, row: int, o: float, h: float, lo: float, c: float, v: float, t: int) -> bool:
    if not has_room(m):
        return False
    k = remember(m, o, h, lo, c, v, t)

    for side in range(2):
        sign = 1 if side == 0 else -1
        beyond = h if side == 0 else -lo
        extreme = h if side == 0 else lo
        while reached(m, SWEEPS_BOOKS + side, sign * c):
            tell(m, take(m, SWEEPS_BOOKS + side)["event"], Status.FAILED.value, k, t, True)
        expire(m, SWEEPS_BOOKS + side, k, t)
        # One candle sweeps as one: of the swings it took and closed inside of, the farthest; of those it closed beyond, none.
        taken, at, time, level = False, 0, 0, 0.0
        while reached(m, side, beyond):
            item = take(m, side)
            if sign * c <= item["key"]:
                taken, at, time, level = True, item["at"], item["time"], item["price"]
        if m.numbers[EXPIRE_AFTER] > 0:
            _forget(m, side, k)
        if taken:
            top, bottom = max(level, extreme), min(level, extreme)
            event = say(m, Kind.SWEEP.value, sign, at, time, k, t, top, bottom, level, c, np.nan)
            put(m, SWEEPS_BOOKS + side, sign * extreme, event, k, level)

    if swing(m, k) != NOTHING:
        side = side_of(m.numbers[RUN])
        level = m.side_reals[side, LEVEL]
        put(m, side, m.numbers[RUN] * level, -1, k, level, m.side_numbers[side, AT], m.side_numbers[side, TIME])
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


SWEEPS = Indicator(step, run, ())


def sweeps(candles: Candles, *, length: int = 50, expire_after: int = 0) -> Events:
    """Every sweep: `direction` 1 when highs were swept (buy-side liquidity), -1 for lows; `event_at` the swing, `level` its price,
    `top` and `bottom` from the level to the sweep's extreme, `value` the close.

    `expire_after`: candles after which a swing is no longer waited on, and a sweep no longer watched; 0 for never.
    """
    return drive.over(SWEEPS, swing_memory(length, books=4, columns=0, expire_after=expire_after), candles)


class SweepStream(Stream):
    """`sweeps`, candle by candle."""

    def __init__(self, *, length: int = 50, expire_after: int = 0) -> None:
        super().__init__(SWEEPS, swing_memory(length, books=4, columns=0, expire_after=expire_after))
