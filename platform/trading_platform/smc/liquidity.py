"""Liquidity pools: confirmed swings of one side that lie within a tolerance of the first of them.

A pool is known when its second swing is confirmed; every further one makes a new event that supersedes. Swept by the first candle
that trades through the pool's far edge. The tolerance is a share of the range seen so far, fixed when the first swing is known.
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
    HIGH,
    INDEX,
    LEVEL,
    LOW,
    PENDING_TAKEN,
    RUN,
    TIME,
    TOLERANCE,
    Memory,
    has_room,
    past,
    remember,
    say,
    tell,
)
from trading_platform.smc.pivots import NOTHING, STARTS, side_of, swing, swing_memory

# Reals: the range seen so far, the share of it that is the tolerance, or a fixed tolerance; per side, the nearest edge of a pool.
HIGHEST, LOWEST, SHARE, FIXED, NEAREST = range(5)


@kernel
def _edge(side: int, level: float, tolerance: float) -> float:
    """Where a pool is swept, so that reached is `edge <= x` on both sides, x the high or the negative low."""
    return level + tolerance if side == 0 else -(level - tolerance)


@kernel
def _find_nearest(m: Any, side: int) -> None:
    """The nearest edge of what nobody swept yet; groups of one wait as well."""
    nearest = np.inf
    for place in range(m.depth[side]):
        group = m.book[side, place]
        if group["taken"] < 0:
            nearest = min(nearest, _edge(side, group["key"], group["price"]))
    m.reals[NEAREST + side] = nearest


@kernel
def _tell_event(m: Any, event: int, status: int, k: int, t: int) -> None:
    """A group of one has no event yet."""
    if event >= 0:
        tell(m, event, status, k, t, True)


@kernel
def _say_pool(m: Any, side: int, place: int, end: int, k: int, t: int) -> None:
    """A pool with the swings it has now."""
    group = m.book[side, place]
    first, tolerance, count, taken = group["key"], group["price"], group["count"], group["taken"]
    level = group["sum"] / count
    direction = 1 if side == 0 else -1
    event = say(
        m, Kind.LIQUIDITY.value, direction, group["at"], group["time"], k, t, first + tolerance, first - tolerance, level, count, end
    )  # fmt: skip
    group["event"] = event
    if taken >= 0:
        tell(m, event, Status.SWEPT.value, taken, t, True)


@kernel
def _confirmed(m: Any, side: int, k: int, t: int) -> None:
    """The side's newest swing is final: it joins the first pool it lies in, or may become the first of one."""
    at, time = m.side_numbers[side, AT], m.side_numbers[side, TIME]
    level = m.side_reals[side, LEVEL]
    groups = m.book[side]
    kept, joined = 0, -1
    for place in range(m.depth[side]):
        taken = groups[place]["taken"]
        if 0 <= taken <= at:
            continue
        if kept != place:
            groups[kept] = groups[place]
        group = groups[kept]
        if joined < 0 and group["key"] - group["price"] <= level <= group["key"] + group["price"]:
            joined = kept
        kept += 1
    m.depth[side] = kept
    if joined >= 0:
        group = groups[joined]
        group["count"] += 1
        group["sum"] += level
        if group["taken"] < 0:
            _tell_event(m, group["event"], Status.SUPERSEDED.value, k, t)
        _say_pool(m, side, joined, at, k, t)
        return
    group = groups[kept]
    group["key"] = level
    group["price"] = m.side_reals[side, TOLERANCE]
    group["event"] = -1
    group["known"] = k
    group["at"] = at
    group["time"] = time
    group["sum"] = level
    group["count"] = 1
    group["taken"] = m.side_numbers[side, PENDING_TAKEN]
    m.depth[side] = kept + 1
    _find_nearest(m, side)


@kernel
def _expire(m: Any, side: int, k: int, t: int) -> None:
    """Give up what was not joined or swept in EXPIRE_AFTER candles."""
    after = m.numbers[EXPIRE_AFTER]
    groups = m.book[side]
    kept = 0
    for place in range(m.depth[side]):
        if k - groups[place]["known"] > after:
            if groups[place]["taken"] < 0:
                _tell_event(m, groups[place]["event"], Status.EXPIRED.value, k, t)
            continue
        if kept != place:
            groups[kept] = groups[place]
        kept += 1
    if kept < m.depth[side]:
        m.depth[side] = kept
        _find_nearest(m, side)


@kernel
def _step(m: Any, row: int, o: float, h: float, lo: float, c: float, v: float, t: int) -> bool:
    if not has_room(m):
        return False
    k = remember(m, o, h, lo, c, v, t)
    n, r = m.numbers, m.reals
    r[HIGHEST] = h if k == 0 else max(r[HIGHEST], h)
    r[LOWEST] = lo if k == 0 else min(r[LOWEST], lo)

    for side in range(2):
        x = h if side == 0 else -lo
        if r[NEAREST + side] <= x:
            for place in range(m.depth[side]):
                group = m.book[side, place]
                if group["taken"] < 0 and _edge(side, group["key"], group["price"]) <= x:
                    group["taken"] = k
                    _tell_event(m, group["event"], Status.SWEPT.value, k, t)
            _find_nearest(m, side)
        if m.side_numbers[side, PENDING_TAKEN] < 0 and _edge(side, m.side_reals[side, LEVEL], m.side_reals[side, TOLERANCE]) <= x:
            m.side_numbers[side, PENDING_TAKEN] = k
        if n[EXPIRE_AFTER] > 0:
            _expire(m, side, k, t)

    before = n[RUN]
    how = swing(m, k)
    if how == STARTS and before != 0:
        _confirmed(m, side_of(before), k, t)
    if how != NOTHING:
        side = side_of(n[RUN])
        tolerance = r[FIXED] if not np.isnan(r[FIXED]) else (r[HIGHEST] - r[LOWEST]) * r[SHARE]
        m.side_reals[side, TOLERANCE] = tolerance
        m.side_numbers[side, PENDING_TAKEN] = -1
        edge = _edge(side, m.side_reals[side, LEVEL], tolerance)
        for j in range(m.side_numbers[side, AT] + 1, k + 1):
            if edge <= (past(m, HIGH, j) if side == 0 else -past(m, LOW, j)):
                m.side_numbers[side, PENDING_TAKEN] = j
                break
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


LIQUIDITY = Indicator(step, run, ())


def _memory(length: int, range_percent: float, tolerance: float | None, expire_after: int) -> Memory:
    if not 0 <= range_percent <= 1:
        raise ValueError(f"range_percent is {range_percent}, expected a share from 0 to 1 (0.01 is one percent)")
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance is {tolerance}, expected a distance in price that is not negative")
    m = swing_memory(length, books=2, columns=0, expire_after=expire_after)
    m.reals[SHARE] = range_percent
    m.reals[FIXED] = np.nan if tolerance is None else tolerance
    m.reals[NEAREST : NEAREST + 2] = np.inf
    return m


def liquidity(
    candles: Candles, *, length: int = 50, range_percent: float = 0.01, tolerance: float | None = None, expire_after: int = 0
) -> Events:
    """Every pool: `direction` 1 of highs, -1 of lows; `event_at` its first swing; `level` the mean of its swings; `top` and `bottom` the
    first one's price give or take the tolerance; `value` the number of swings, `extra` the last one's candle.

    `tolerance` as a distance in price takes the place of `range_percent` of the range seen so far. `expire_after`: candles after which
    a pool (or a lone swing waiting for another) is given up; 0 keeps it for ever.
    """
    return drive.over(LIQUIDITY, _memory(length, range_percent, tolerance, expire_after), candles)


class LiquidityStream(Stream):
    """`liquidity`, candle by candle."""

    def __init__(self, *, length: int = 50, range_percent: float = 0.01, tolerance: float | None = None, expire_after: int = 0) -> None:
        super().__init__(LIQUIDITY, _memory(length, range_percent, tolerance, expire_after))
