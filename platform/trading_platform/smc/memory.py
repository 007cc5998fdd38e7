"""What an indicator remembers between candles, and the few compiled moves every indicator is made of.

Both forms run the same compiled step over the same memory: arrays a loop inside the compiled code, streams one call a candle.
Nothing here grows by itself: a step that finds no room says so before it changes anything, and the driver (`drive.py`) makes room.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trading_platform.smc.compiled import kernel
from trading_platform.smc.events import EVENT, LIFE, Status

# An open thing on a book: what it waits for (`key`), which event it is, and what else its indicator needs to know of it.
ITEM = np.dtype(
    [
        ("key", np.float64), ("event", np.int64), ("known", np.int64), ("price", np.float64),
        ("at", np.int64), ("time", np.int64), ("sum", np.float64), ("count", np.int64), ("taken", np.int64),
    ]
)  # fmt: skip

# Integers of every indicator; those from OWN on are the indicator's own.
INDEX, MADE, LIVED, NEXT, LENGTH, EXPIRE_AFTER, RUN, OPTION, OWN = range(9)
INTEGERS = OWN + 8

# Of each side (0 highs, 1 lows): its last known swing and the farthest candle against it since.
AT, TIME, EVENT_ID, CROSSED, FAR_AT, FAR_TIME, PENDING_TAKEN = range(7)
LEVEL, FAR, FAR_OTHER, TOLERANCE = range(4)

# Rows of the ring of past candles.
OPEN, HIGH, LOW, CLOSE, VOLUME, WHEN = range(6)

# A step makes at most this many events and book entries, and says at most this much beside what is on the books.
MOST_EVENTS, MOST_LIFE, MOST_ITEMS = 4, 16, 4


class Memory(NamedTuple):
    """Plain arrays, so that compiled code takes them as they are."""

    numbers: NDArray[np.int64]
    reals: NDArray[np.float64]
    side_numbers: NDArray[np.int64]
    side_reals: NDArray[np.float64]
    ring: NDArray[np.float64]
    extremes: NDArray[np.int64]
    book: NDArray[np.void]
    depth: NDArray[np.int64]
    out: NDArray[np.void]
    life: NDArray[np.void]
    values: NDArray[np.float64]


def memory(*, window: int, books: int, columns: int, length: int = 0, expire_after: int = 0) -> Memory:
    """Empty memory that sees `window` candles back. ValueError for lengths that mean nothing."""
    if expire_after < 0:
        raise ValueError(f"expire_after is {expire_after}, expected a number of candles, or 0 for never")
    # A power of two, so that a place in a ring is a mask and not a division.
    width = 1 << max(window - 1, 3).bit_length()
    numbers = np.zeros(INTEGERS, dtype=np.int64)
    numbers[LENGTH], numbers[EXPIRE_AFTER] = length, expire_after
    return Memory(
        numbers=numbers,
        reals=np.full(8, np.nan),
        side_numbers=np.full((2, 8), -1, dtype=np.int64),
        side_reals=np.full((2, 8), np.nan),
        ring=np.full((6, width), np.nan),
        extremes=np.zeros((2, width + 2), dtype=np.int64),
        book=np.zeros((books, 16), dtype=ITEM),
        depth=np.zeros(books, dtype=np.int64),
        out=np.zeros(MOST_EVENTS, dtype=EVENT),
        life=np.zeros(64, dtype=LIFE),
        values=np.zeros((1, columns)),
    )


@kernel
def has_room(m: Any) -> bool:
    """Whether a step can be taken without anything running over."""
    open_ = 0
    for book in range(len(m.depth)):
        open_ += m.depth[book]
        if m.depth[book] + MOST_ITEMS > m.book.shape[1]:
            return False
    return bool(m.numbers[MADE] + MOST_EVENTS <= len(m.out) and m.numbers[LIVED] + open_ + MOST_LIFE <= len(m.life))


@kernel
def remember(m: Any, o: float, h: float, lo: float, c: float, v: float, t: int) -> int:
    """Put the candle into the ring; its index. A time fits a float64 exactly until the year 2255."""
    k = m.numbers[INDEX]
    slot = k & (m.ring.shape[1] - 1)
    m.ring[OPEN, slot] = o
    m.ring[HIGH, slot] = h
    m.ring[LOW, slot] = lo
    m.ring[CLOSE, slot] = c
    m.ring[VOLUME, slot] = v
    m.ring[WHEN, slot] = t
    m.numbers[INDEX] = k + 1
    return int(k)


@kernel
def past(m: Any, what: int, index: int) -> float:
    """A value of one of the last candles."""
    return float(m.ring[what, index & (m.ring.shape[1] - 1)])


@kernel
def say(
    m: Any, kind: int, direction: int, event_at: int, event_time: int, known_at: int, known_time: int,
    top: float, bottom: float, level: float, value: float, extra: float,
) -> int:  # fmt: skip
    """Append an event; its id."""
    row = m.out[m.numbers[MADE]]
    id_ = m.numbers[NEXT]
    row["id"] = id_
    row["kind"] = kind
    row["direction"] = direction
    row["event_at"] = event_at
    row["event_time"] = event_time
    row["known_at"] = known_at
    row["known_time"] = known_time
    row["top"] = top
    row["bottom"] = bottom
    row["level"] = level
    row["value"] = value
    row["extra"] = extra
    m.numbers[MADE] += 1
    m.numbers[NEXT] = id_ + 1
    return int(id_)


@kernel
def tell(m: Any, event: int, status: int, at: int, time: int, final: bool) -> None:
    """Append what became of an event."""
    row = m.life[m.numbers[LIVED]]
    row["event"] = event
    row["status"] = status
    row["at"] = at
    row["time"] = time
    row["final"] = final
    m.numbers[LIVED] += 1


# Books are sorted so that what waits for the nearest price is last: keys fall. Prices below the market are kept as their negative,
# so that on every book "reached" is one comparison, `key < x`, and what is reached comes off the end.


@kernel
def put(m: Any, book: int, key: float, event: int, known: int, price: float, at: int = -1, time: int = -1) -> None:
    """Keep an open thing until the market reaches `key`."""
    rows = m.book[book]
    place = m.depth[book]
    while place > 0 and rows[place - 1]["key"] < key:
        rows[place] = rows[place - 1]
        place -= 1
    rows[place]["key"] = key
    rows[place]["event"] = event
    rows[place]["known"] = known
    rows[place]["price"] = price
    rows[place]["at"] = at
    rows[place]["time"] = time
    m.depth[book] += 1


@kernel
def reached(m: Any, book: int, x: float) -> bool:
    """Whether the nearest thing on the book lies before `x`."""
    depth = m.depth[book]
    return bool(depth > 0 and m.book[book, depth - 1]["key"] < x)


@kernel
def touched(m: Any, book: int, x: float) -> bool:
    """Whether the nearest thing on the book lies before or at `x`."""
    depth = m.depth[book]
    return bool(depth > 0 and m.book[book, depth - 1]["key"] <= x)


@kernel
def take(m: Any, book: int) -> Any:
    """Take the nearest thing off the book. What is returned is good until the next `put`."""
    m.depth[book] -= 1
    return m.book[book, m.depth[book]]


@kernel
def expire(m: Any, book: int, k: int, t: int) -> None:
    """End what has been on the book for longer than EXPIRE_AFTER candles; 0 keeps everything."""
    after = m.numbers[EXPIRE_AFTER]
    if after == 0 or m.depth[book] == 0:
        return
    rows = m.book[book]
    kept = 0
    for place in range(m.depth[book]):
        if k - rows[place]["known"] > after:
            tell(m, rows[place]["event"], Status.EXPIRED.value, k, t, True)
        else:
            if kept != place:
                rows[kept] = rows[place]
            kept += 1
    m.depth[book] = kept
