"""Swing points as they become known, for every indicator that stands on them.

Candle i is a candidate when its high is the highest (its low the lowest) of the L − 1 candles before it and the L after it; that is
known when candle i + L closes, not earlier. Of candidates that follow each other on one side the most extreme counts, the first of
equals: a better one supersedes, one on the other side confirms. A candle that is both is a high. The first 2L − 1 are not judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trading_platform.smc.compiled import kernel
from trading_platform.smc.memory import (
    AT,
    CROSSED,
    EVENT_ID,
    FAR,
    FAR_AT,
    FAR_OTHER,
    FAR_TIME,
    HIGH,
    LENGTH,
    LEVEL,
    LOW,
    RUN,
    TIME,
    WHEN,
    Memory,
    memory,
    past,
)

# What a candle made known. The side is that of the newest swing: 1 a high, -1 a low.
NOTHING, STARTS, SUPERSEDES = 0, 1, 2


def swing_memory(length: int, *, books: int, columns: int, expire_after: int = 0) -> Memory:
    """Memory of an indicator that stands on swings of this length."""
    if length < 1:
        raise ValueError(f"swing length is {length}, expected at least 1 candle")
    return memory(window=2 * length + 1, books=books, columns=columns, length=length, expire_after=expire_after)


@kernel
def side_of(direction: int) -> int:
    """Row of the side: 0 for highs, 1 for lows."""
    return 0 if direction == 1 else 1


@kernel
def _extreme(m: Any, side: int, sign: int, what: int, k: int, window: int) -> float:
    """The highest `sign × price` of the last `window` candles: a queue of candidates, each better than all after it."""
    queue = m.extremes[side]
    size = len(queue) - 2
    head, count = queue[size], queue[size + 1]
    x = sign * past(m, what, k)
    while count > 0 and sign * past(m, what, queue[(head + count - 1) & (size - 1)]) <= x:
        count -= 1
    queue[(head + count) & (size - 1)] = k
    count += 1
    if queue[head] <= k - window:
        head = (head + 1) & (size - 1)
        count -= 1
    queue[size], queue[size + 1] = head, count
    return float(sign * past(m, what, queue[head]))


@kernel
def swing(m: Any, k: int) -> int:
    """Look at candle k; whether it made a swing known, and how: STARTS or SUPERSEDES. RUN then says on which side.

    The swing is then in the side's AT, TIME, LEVEL, not crossed, and the farthest candle against it since (before k) in FAR….
    """
    length = m.numbers[LENGTH]
    window = 2 * length
    highest = _extreme(m, 0, 1, HIGH, k, window)
    lowest = -_extreme(m, 1, -1, LOW, k, window)
    i = k - length
    if i < window - 1:
        return NOTHING
    if past(m, HIGH, i) == highest:
        direction, level = 1, highest
    elif past(m, LOW, i) == lowest:
        direction, level = -1, lowest
    else:
        return NOTHING
    side = side_of(direction)
    how = STARTS
    if m.numbers[RUN] == direction:
        if direction * level <= direction * m.side_reals[side, LEVEL]:
            return NOTHING
        how = SUPERSEDES
    m.numbers[RUN] = direction
    m.side_numbers[side, AT] = i
    m.side_numbers[side, TIME] = int(past(m, WHEN, i))
    m.side_numbers[side, CROSSED] = 0
    m.side_reals[side, LEVEL] = level
    m.side_numbers[side, FAR_AT] = -1
    m.side_reals[side, FAR] = np.nan
    for j in range(i + 1, k):
        farther(m, side, j)
    return how


@kernel
def farther(m: Any, side: int, k: int) -> None:
    """Candle k may be the farthest against the side's swing: the lowest since a high, the highest since a low; the last of equals."""
    if m.side_numbers[side, AT] < 0:
        return
    against, other, sign = (LOW, HIGH, 1) if side == 0 else (HIGH, LOW, -1)
    x = past(m, against, k)
    if m.side_numbers[side, FAR_AT] < 0 or sign * x <= sign * m.side_reals[side, FAR]:
        m.side_numbers[side, FAR_AT] = k
        m.side_numbers[side, FAR_TIME] = int(past(m, WHEN, k))
        m.side_reals[side, FAR] = x
        m.side_reals[side, FAR_OTHER] = past(m, other, k)


@kernel
def newest(m: Any, direction: int) -> int:
    """The event of the side's newest swing, -1 before there is one."""
    return int(m.side_numbers[side_of(direction), EVENT_ID])
