"""Swing highs and lows, known `length` candles later, with all that becomes of them.

Confirmed by a swing on the other side, superseded by a better one on the same side before that; swept by the first candle that trades
beyond it, broken by the first that closes beyond it. There are no swings at the ends of the data.
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
    EVENT_ID,
    EXPIRE_AFTER,
    INDEX,
    LEVEL,
    OWN,
    RUN,
    TIME,
    Memory,
    has_room,
    put,
    reached,
    remember,
    say,
    take,
    tell,
)
from trading_platform.smc.pivots import NOTHING, STARTS, newest, side_of, swing, swing_memory

# Whether the swing that is neither confirmed nor superseded has left the books.
NEWEST_IS_OVER = OWN

# Books: not yet swept, by side; then swept but not yet broken, by side.
SWEPT_BOOKS = 2


@kernel
def _leave(m: Any, event: int, status: int, k: int, t: int) -> None:
    """A swing leaves the books. More can only be said of it while it is the newest."""
    is_newest = event == newest(m, m.numbers[RUN])
    tell(m, event, status, k, t, not is_newest)
    if is_newest:
        m.numbers[NEWEST_IS_OVER] = 1


@kernel
def _expire(m: Any, book: int, k: int, t: int) -> None:
    """As `memory.expire`, for swings."""
    after = m.numbers[EXPIRE_AFTER]
    if after == 0:
        return
    rows = m.book[book]
    kept = 0
    for place in range(m.depth[book]):
        if k - rows[place]["known"] > after:
            _leave(m, rows[place]["event"], Status.EXPIRED.value, k, t)
        else:
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
        while reached(m, side, beyond):
            item = take(m, side)
            tell(m, item["event"], Status.SWEPT.value, k, t, False)
            put(m, SWEPT_BOOKS + side, item["key"], item["event"], item["known"], item["price"])
        while reached(m, SWEPT_BOOKS + side, sign * c):
            _leave(m, take(m, SWEPT_BOOKS + side)["event"], Status.BROKEN.value, k, t)
        _expire(m, side, k, t)
        _expire(m, SWEPT_BOOKS + side, k, t)

    before = newest(m, m.numbers[RUN])
    how = swing(m, k)
    if how != NOTHING:
        if before >= 0:
            status = Status.CONFIRMED.value if how == STARTS else Status.SUPERSEDED.value
            tell(m, before, status, k, t, m.numbers[NEWEST_IS_OVER] == 1)
        direction = m.numbers[RUN]
        side = side_of(direction)
        level = m.side_reals[side, LEVEL]
        at, time = m.side_numbers[side, AT], m.side_numbers[side, TIME]
        event = say(m, Kind.SWING.value, direction, at, time, k, t, level, level, level, np.nan, np.nan)
        m.side_numbers[side, EVENT_ID] = event
        m.numbers[NEWEST_IS_OVER] = 0
        put(m, side, direction * level, event, k, level)
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


SWINGS = Indicator(step, run, ())


def swings(candles: Candles, *, length: int = 50, expire_after: int = 0) -> Events:
    """Every swing: `direction` 1 a high, -1 a low; `level` its price; `event_at` its candle, `known_at` `length` candles later.

    `expire_after`: candles after which a swing that was not broken is given up; 0 keeps it for ever.
    """
    return drive.over(SWINGS, swing_memory(length, books=4, columns=0, expire_after=expire_after), candles)


class SwingStream(Stream):
    """`swings`, candle by candle."""

    def __init__(self, *, length: int = 50, expire_after: int = 0) -> None:
        super().__init__(SWINGS, swing_memory(length, books=4, columns=0, expire_after=expire_after))
