"""Order blocks: the last candle against the move before price closes through the last known swing.

Known at that close. Mitigated when price trades through the far edge, from then on a breaker; it has failed when price after that
comes back through the near edge. Nothing is erased.
"""

from __future__ import annotations

from typing import Any

from trading_platform.smc import drive
from trading_platform.smc.candles import Candles
from trading_platform.smc.compiled import kernel
from trading_platform.smc.drive import Indicator, Stream
from trading_platform.smc.events import Events, Kind, Status
from trading_platform.smc.memory import (
    AT,
    CROSSED,
    FAR,
    FAR_AT,
    FAR_OTHER,
    FAR_TIME,
    INDEX,
    LEVEL,
    OPTION,
    VOLUME,
    Memory,
    expire,
    has_room,
    past,
    put,
    reached,
    remember,
    say,
    take,
    tell,
)
from trading_platform.smc.pivots import farther, swing, swing_memory

# Books: not yet mitigated, by side; then breakers, by side.
BREAKERS = 2


@kernel
def _step(m: Any, row: int, o: float, h: float, lo: float, c: float, v: float, t: int) -> bool:
    if not has_room(m):
        return False
    k = remember(m, o, h, lo, c, v, t)
    n, sides, reals = m.numbers, m.side_numbers, m.side_reals

    lowest, highest = (min(o, c), max(o, c)) if n[OPTION] == 1 else (lo, h)
    for side in range(2):
        while reached(m, BREAKERS + side, h if side == 0 else -lo):
            tell(m, take(m, BREAKERS + side)["event"], Status.FAILED.value, k, t, True)
        while reached(m, side, -lowest if side == 0 else highest):
            item = take(m, side)
            tell(m, item["event"], Status.MITIGATED.value, k, t, False)
            near = item["price"] if side == 0 else -item["price"]
            put(m, BREAKERS + side, near, item["event"], item["known"], item["price"])
        expire(m, side, k, t)
        expire(m, BREAKERS + side, k, t)

    swing(m, k)
    for side in range(2):
        direction = 1 if side == 0 else -1
        if sides[side, AT] >= 0 and sides[side, CROSSED] == 0 and direction * c > direction * reals[side, LEVEL]:
            sides[side, CROSSED] = 1
            far, near = reals[side, FAR], reals[side, FAR_OTHER]
            top, bottom = (near, far) if side == 0 else (far, near)
            with_move, before = v + past(m, VOLUME, k - 1), past(m, VOLUME, k - 2)
            most = max(with_move, before)
            strength = min(with_move, before) / most * 100 if most != 0 else 100.0
            at, time = sides[side, FAR_AT], sides[side, FAR_TIME]
            event = say(
                m, Kind.ORDER_BLOCK.value, direction, at, time, k, t, top, bottom, reals[side, LEVEL], with_move + before, strength
            )  # fmt: skip
            put(m, side, -direction * far, event, k, near)
        farther(m, side, k)
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


ORDER_BLOCKS = Indicator(step, run, ())


def _memory(length: int, close_mitigation: bool, expire_after: int) -> Memory:
    m = swing_memory(length, books=4, columns=0, expire_after=expire_after)
    m.numbers[OPTION] = close_mitigation
    return m


def order_blocks(candles: Candles, *, length: int = 50, close_mitigation: bool = False, expire_after: int = 0) -> Events:
    """Every order block: `top` and `bottom` of its candle `event_at`, `level` the swing that was broken at `known_at`.

    Bullish: the lowest candle between the swing high and the close above it, the last of equals. `value` is the volume of the breaking
    candle and the two before it; `extra` how even the breaking candle with the one before it is with the third, 0 to 100.
    With `close_mitigation` bodies mitigate, not wicks. `expire_after`: candles after which it is given up; 0 keeps it for ever.
    """
    return drive.over(ORDER_BLOCKS, _memory(length, close_mitigation, expire_after), candles)


class OrderBlockStream(Stream):
    """`order_blocks`, candle by candle."""

    def __init__(self, *, length: int = 50, close_mitigation: bool = False, expire_after: int = 0) -> None:
        super().__init__(ORDER_BLOCKS, _memory(length, close_mitigation, expire_after))
