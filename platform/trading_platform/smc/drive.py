"""Runs a compiled indicator over columns, or candle by candle. The same step, the same memory: the same answers.

An indicator is a compiled `step` over `Memory` and a function that makes its memory; everything else is here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trading_platform.smc.candles import Candles, complaint
from trading_platform.smc.events import KINDS, LIFE_COLUMNS, STATUSES, Event, Events, Status
from trading_platform.smc.memory import INDEX, LIVED, MADE, MOST_EVENTS, MOST_ITEMS, MOST_LIFE, Memory

Step = Callable[..., bool]
Run = Callable[..., int]

# Where an event's status is among its fields; its life follows in the order of the statuses.
STATUS = Event._fields.index("status")
UNSET = (-1,) * len(LIFE_COLUMNS)


@dataclass(frozen=True, slots=True)
class Indicator:
    """`step(row, o, h, l, c, v, t, *memory)` takes one candle or says False; `run(columns…, *memory)` says how many it had room for."""

    step: Step
    run: Run
    columns: tuple[str, ...]


def over(indicator: Indicator, memory: Memory, candles: Candles) -> Events:
    """The array form: everything the indicator says about these candles."""
    rows = len(candles)
    memory = memory._replace(values=np.empty((rows, len(indicator.columns))))
    columns = (candles.open, candles.high, candles.low, candles.close, candles.volume, candles.time_us)
    memory = _roomier(memory, rows)
    while indicator.run(*columns, *memory) < rows:
        memory = _roomier(memory, rows)
    made, lived = memory.numbers[MADE], memory.numbers[LIVED]
    return Events(memory.out[:made].copy(), memory.life[:lived].copy(), memory.values, indicator.columns)


def _roomier(memory: Memory, rows: int = 0) -> Memory:
    """The same memory with more room wherever it is short; `rows` still to come are a hint for what is said."""
    numbers, open_ = memory.numbers, int(memory.depth.sum())
    if numbers[MADE] + MOST_EVENTS > len(memory.out):
        memory = memory._replace(out=_longer(memory.out, max(2 * len(memory.out), rows // 4)))
    if numbers[LIVED] + open_ + MOST_LIFE > len(memory.life):
        memory = memory._replace(life=_longer(memory.life, max(2 * len(memory.life), rows // 4, 2 * open_ + MOST_LIFE)))
    if len(memory.depth) and memory.depth.max() + MOST_ITEMS > memory.book.shape[1]:
        book = np.zeros((memory.book.shape[0], 2 * memory.book.shape[1]), dtype=memory.book.dtype)
        book[:, : memory.book.shape[1]] = memory.book
        memory = memory._replace(book=book)
    return memory


def _longer(column: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    longer = np.empty(length, dtype=column.dtype)
    longer[: len(column)] = column
    return longer


class Stream:
    """The streaming form. Remembers what is open, and nothing of what is over: its memory does not grow with time."""

    def __init__(self, indicator: Indicator, memory: Memory) -> None:
        self._indicator = indicator
        self._memory = memory
        self._time: int | None = None
        self.open: dict[int, Event] = {}
        """Events of which more may be said, by id."""

    @property
    def index(self) -> int:
        """How many candles were taken."""
        return int(self._memory.numbers[INDEX])

    @property
    def values(self) -> dict[str, float]:
        """The indicator's values at the close of the last candle."""
        return dict(zip(self._indicator.columns, self._memory.values[0].tolist(), strict=True))

    def on_candle(self, o: float, h: float, l: float, c: float, v: float, t: int) -> list[Event]:  # noqa: E741
        """Take a closed candle; the events that are new or of which something was said, as they are now. ValueError changes nothing."""
        return self.take(*self.checked(o, h, l, c, v, t))

    def checked(self, o: float, h: float, l: float, c: float, v: float, t: int) -> tuple[float, float, float, float, float, int]:  # noqa: E741
        """The candle if it can be this stream's next one; else ValueError."""
        wrong = complaint(o, h, l, c, v, t, self._time)
        if wrong is not None:
            raise ValueError(f"candle {self.index}: {wrong}")
        return float(o), float(h), float(l), float(c), float(v), operator.index(t)

    def take(self, o: float, h: float, l: float, c: float, v: float, t: int) -> list[Event]:  # noqa: E741
        """`on_candle` for a candle that was checked already."""
        while not self._indicator.step(0, o, h, l, c, v, t, *self._memory):
            self._memory = _roomier(self._memory)
        self._time = t
        numbers = self._memory.numbers
        made, lived = numbers[MADE], numbers[LIVED]
        if not made and not lived:
            return []
        changed: dict[int, list[Any]] = {}
        for row in self._memory.out[:made].tolist():
            changed[row[0]] = [row[0], KINDS[row[1]], *row[2:], Status.ACTIVE, *UNSET]
        over = []
        for event, status, at, _, final in self._memory.life[:lived].tolist():
            fields = changed.get(event)
            if fields is None:
                fields = changed[event] = list(self.open[event])
            fields[STATUS], fields[STATUS + status] = STATUSES[status], at
            if final:
                over.append(event)
        numbers[MADE] = numbers[LIVED] = 0
        events = {event: Event._make(fields) for event, fields in changed.items()}
        self.open.update(events)
        for event in over:
            del self.open[event]
        return list(events.values())


class Panel:
    """Several streams over the same candles, each checked once."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        if not streams:
            raise ValueError("expected at least one stream")
        if len({stream.index for stream in streams.values()}) > 1:
            raise ValueError("expected streams that have taken equally many candles")
        self.streams = dict(streams)
        self._first = next(iter(self.streams.values()))

    def on_candle(self, o: float, h: float, l: float, c: float, v: float, t: int) -> dict[str, list[Event]]:  # noqa: E741
        """What each stream that has something to say says. ValueError changes nothing."""
        candle = self._first.checked(o, h, l, c, v, t)
        said = {}
        for name, stream in self.streams.items():
            if events := stream.take(*candle):
                said[name] = events
        return said
