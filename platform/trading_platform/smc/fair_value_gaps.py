"""Fair value gaps: three candles of which the first and the third do not overlap and the middle one closed in the gap's direction.

Known at the close of the third candle. Mitigated by the first later candle that trades back to the gap's near edge.
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
    CLOSE,
    HIGH,
    INDEX,
    LOW,
    OPEN,
    OPTION,
    OWN,
    WHEN,
    Memory,
    expire,
    has_room,
    memory,
    past,
    put,
    remember,
    say,
    take,
    tell,
    touched,
)

LAST_DIRECTION, LAST_EVENT, LAST_AT = OWN, OWN + 1, OWN + 2
LAST_TOP, LAST_BOTTOM = 0, 1


@kernel
def _step(m: Any, row: int, o: float, h: float, lo: float, c: float, v: float, t: int) -> bool:
    if not has_room(m):
        return False
    k = remember(m, o, h, lo, c, v, t)
    n, r = m.numbers, m.reals

    direction, top, bottom = 0, 0.0, 0.0
    if k >= 2:
        rising = past(m, CLOSE, k - 1) > past(m, OPEN, k - 1)
        falling = past(m, CLOSE, k - 1) < past(m, OPEN, k - 1)
        if rising and past(m, HIGH, k - 2) < lo:
            direction, top, bottom = 1, lo, past(m, HIGH, k - 2)
        elif falling and past(m, LOW, k - 2) > h:
            direction, top, bottom = -1, past(m, LOW, k - 2), h

    # A gap that carries on the one before it takes it over; that one was known a candle ago, so it is still open.
    joined = n[OPTION] == 1 and direction != 0 and n[LAST_DIRECTION] == direction and n[LAST_AT] == k - 2
    if joined:
        top, bottom = max(top, r[LAST_TOP]), min(bottom, r[LAST_BOTTOM])
        take(m, 0 if direction == 1 else 1)
        tell(m, n[LAST_EVENT], Status.SUPERSEDED.value, k, t, True)

    while touched(m, 0, -lo):
        tell(m, take(m, 0)["event"], Status.MITIGATED.value, k, t, True)
    while touched(m, 1, h):
        tell(m, take(m, 1)["event"], Status.MITIGATED.value, k, t, True)
    expire(m, 0, k, t)
    expire(m, 1, k, t)

    if direction != 0:
        level = (top + bottom) / 2
        time = int(past(m, WHEN, k - 1))
        event = say(m, Kind.FAIR_VALUE_GAP.value, direction, k - 1, time, k, t, top, bottom, level, np.nan, np.nan)
        if direction == 1:
            put(m, 0, -top, event, k, bottom)
        else:
            put(m, 1, bottom, event, k, top)
        n[LAST_DIRECTION], n[LAST_EVENT], n[LAST_AT] = direction, event, k - 1
        r[LAST_TOP], r[LAST_BOTTOM] = top, bottom
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


FAIR_VALUE_GAPS = Indicator(step, run, ())


def _memory(join_consecutive: bool, expire_after: int) -> Memory:
    m = memory(window=4, books=2, columns=0, expire_after=expire_after)
    m.numbers[OPTION] = join_consecutive
    return m


def fvg(candles: Candles, *, join_consecutive: bool = False, expire_after: int = 0) -> Events:
    """Every fair value gap: `top` and `bottom` of the gap, `event_at` its middle candle.

    `join_consecutive`: a gap that follows one of its direction takes it over (superseded) and spans both. `expire_after`: candles
    after which an open gap is given up; 0 keeps it for ever.
    """
    return drive.over(FAIR_VALUE_GAPS, _memory(join_consecutive, expire_after), candles)


class FvgStream(Stream):
    """`fvg`, candle by candle."""

    def __init__(self, *, join_consecutive: bool = False, expire_after: int = 0) -> None:
        super().__init__(FAIR_VALUE_GAPS, _memory(join_consecutive, expire_after))
