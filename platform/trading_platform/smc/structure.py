"""Market structure: the close that breaks the last known swing.

A break in the direction of the last one is a break of structure, one against it a change of character. It is known at the close that
breaks, and fails when a later close goes beyond the farthest price against it between swing and break.
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
    CROSSED,
    FAR,
    INDEX,
    LEVEL,
    OPTION,
    OWN,
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
from trading_platform.smc.pivots import farther, swing, swing_memory

# The direction of the last break, 0 before the first.
TREND = OWN


@kernel
def _step(m: Any, row: int, o: float, h: float, lo: float, c: float, v: float, t: int) -> bool:
    if not has_room(m):
        return False
    k = remember(m, o, h, lo, c, v, t)
    n, sides, reals = m.numbers, m.side_numbers, m.side_reals

    for book in range(2):
        against = -c if book == 0 else c
        while reached(m, book, against):
            tell(m, take(m, book)["event"], Status.FAILED.value, k, t, True)
        expire(m, book, k, t)

    swing(m, k)
    for side in range(2):
        direction = 1 if side == 0 else -1
        farther(m, side, k)
        if sides[side, AT] < 0 or sides[side, CROSSED] == 1:
            continue
        level = reals[side, LEVEL]
        price = c if n[OPTION] == 1 else (h if side == 0 else lo)
        if direction * price <= direction * level:
            continue
        sides[side, CROSSED] = 1
        kind = Kind.CHANGE_OF_CHARACTER.value if n[TREND] == -direction else Kind.BREAK_OF_STRUCTURE.value
        n[TREND] = direction
        origin = reals[side, FAR]
        top, bottom = max(level, origin), min(level, origin)
        event = say(m, kind, direction, sides[side, AT], sides[side, TIME], k, t, top, bottom, level, price, np.nan)
        put(m, side, -direction * origin, event, k, level)
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


STRUCTURE = Indicator(step, run, ())


def _memory(length: int, close_break: bool, expire_after: int) -> Memory:
    m = swing_memory(length, books=2, columns=0, expire_after=expire_after)
    m.numbers[OPTION] = close_break
    return m


def structure(candles: Candles, *, length: int = 50, close_break: bool = True, expire_after: int = 0) -> Events:
    """Every break: `event_at` the swing that was broken, `level` its price, `known_at` the candle that broke it, `value` its price.

    `top` and `bottom` span from the level to the farthest price against the break since the swing. Without `close_break` a wick is
    enough. `expire_after`: candles after which nobody watches any more whether the break fails; 0 for never.
    """
    return drive.over(STRUCTURE, _memory(length, close_break, expire_after), candles)


class StructureStream(Stream):
    """`structure`, candle by candle."""

    def __init__(self, *, length: int = 50, close_break: bool = True, expire_after: int = 0) -> None:
        super().__init__(STRUCTURE, _memory(length, close_break, expire_after))
