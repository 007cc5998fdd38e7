"""Candles built once, from ticks, for every configured interval. Pure arithmetic on columns; no clock, no I/O.

A candle closes when its feed's watermark (the instant up to which the feed promises to have said everything) passes its end.
Ticks older than that are late: they are counted and never change a candle that has left. An interval without ticks has no candle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Candles:
    """Columns of equal length: prices and volume at the instrument's scales, times and intervals in UTC nanoseconds."""

    instrument: NDArray[np.uint32]
    interval: NDArray[np.int64]
    ts_open: NDArray[np.int64]
    open: NDArray[np.int64]
    high: NDArray[np.int64]
    low: NDArray[np.int64]
    close: NDArray[np.int64]
    volume: NDArray[np.int64]
    ticks: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ts_open)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Candles:
        return Candles(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def ts_close(self) -> NDArray[np.int64]:
        return self.ts_open + self.interval

    @staticmethod
    def empty() -> Candles:
        none = np.empty(0, dtype=np.int64)
        return Candles(np.empty(0, dtype=np.uint32), *([none] * 8))

    @staticmethod
    def concatenate(parts: Sequence[Candles]) -> Candles:
        if not parts:
            return Candles.empty()
        return Candles(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Candles)))


class CandleBuilder:
    """Open candles of one feed. Feed ticks with `add`, take what has closed with `close`."""

    def __init__(self, intervals_ns: Sequence[int]) -> None:
        if not intervals_ns or min(intervals_ns) <= 0:
            raise ValueError(f"expected at least one positive interval in nanoseconds, found {list(intervals_ns)}")
        self._intervals = tuple(intervals_ns)
        self._open = Candles.empty()
        self._watermark = np.iinfo(np.int64).min
        self.late_ticks = 0

    def add(
        self,
        instrument: NDArray[np.uint32],
        ts_event: NDArray[np.int64],
        price: NDArray[np.int64],
        size: NDArray[np.int64],
    ) -> None:
        """Take in ticks in any order; of equal stamps the earlier row counts as the earlier tick.

        `size` is what counts towards volume: the trade's size, or 0 for a quote's midpoint.
        """
        if not len(ts_event):
            return
        order = np.lexsort((ts_event, instrument))
        instrument, ts_event, price, size = instrument[order], ts_event[order], price[order], size[order]
        parts = [self._open]
        for interval in self._intervals:
            ts_open = ts_event - ts_event % interval
            on_time = ts_open + interval > self._watermark
            if not on_time.all():
                self.late_ticks += int(np.count_nonzero(~on_time))
                if not on_time.any():
                    continue
            parts.append(_candles_of_ticks(instrument[on_time], ts_open[on_time], price[on_time], size[on_time], interval))
        if len(parts) > 1:
            self._open = _merge(Candles.concatenate(parts))

    def close(self, watermark_ns: int) -> Candles:
        """The candles that end at or before the watermark, oldest end first. The watermark never moves back."""
        self._watermark = max(self._watermark, watermark_ns)
        ends = self._open.ts_close
        closed = ends <= self._watermark
        if not closed.any():
            return Candles.empty()
        leaving, self._open = self._open[closed], self._open[~closed]
        return leaving[np.lexsort((leaving.interval, leaving.instrument, ends[closed]))]


def _candles_of_ticks(
    instrument: NDArray[np.uint32],
    ts_open: NDArray[np.int64],
    price: NDArray[np.int64],
    size: NDArray[np.int64],
    interval: int,
) -> Candles:
    """Ticks sorted by (instrument, time) to one candle per instrument and interval."""
    starts = _starts(instrument, ts_open)
    ends = np.append(starts[1:], len(ts_open)) - 1
    return Candles(
        instrument=instrument[starts],
        interval=np.full(len(starts), interval, dtype=np.int64),
        ts_open=ts_open[starts],
        open=price[starts],
        high=np.maximum.reduceat(price, starts),
        low=np.minimum.reduceat(price, starts),
        close=price[ends],
        volume=np.add.reduceat(size, starts),
        ticks=(ends - starts + 1).astype(np.int64),
    )


def _merge(parts: Candles) -> Candles:
    """Fold parts of the same candle into one; of two parts the earlier row holds the earlier ticks."""
    rows = parts[np.lexsort((parts.ts_open, parts.interval, parts.instrument))]
    starts = _starts(rows.instrument, rows.interval, rows.ts_open)
    ends = np.append(starts[1:], len(rows)) - 1
    return Candles(
        instrument=rows.instrument[starts],
        interval=rows.interval[starts],
        ts_open=rows.ts_open[starts],
        open=rows.open[starts],
        high=np.maximum.reduceat(rows.high, starts),
        low=np.minimum.reduceat(rows.low, starts),
        close=rows.close[ends],
        volume=np.add.reduceat(rows.volume, starts),
        ticks=np.add.reduceat(rows.ticks, starts),
    )


def _starts(*keys: NDArray[np.generic]) -> NDArray[np.int64]:
    """Where a new group begins in rows sorted by `keys`; rows must not be empty."""
    changed = np.zeros(len(keys[0]), dtype=bool)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)
