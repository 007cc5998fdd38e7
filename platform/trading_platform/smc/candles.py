"""Candles as columns, checked once, so that nothing behind this door asks again whether a number is one.

A candle is closed, carries the time it opened at, and is named by its row: "index" everywhere in this package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Candles:
    """Prices and volume as float64, opening times in UTC microseconds as int64, strictly rising. Raises ValueError naming the row."""

    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    time_us: NDArray[np.int64]

    @staticmethod
    def of(open: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike, volume: ArrayLike, time_us: ArrayLike) -> Candles:
        """Candles of anything array-like. Columns that already have the right type are used as they are, not copied."""
        o, h, lo, c, v = (np.ascontiguousarray(column, dtype=np.float64) for column in (open, high, low, close, volume))
        times = np.asarray(time_us)
        if times.dtype.kind not in "iu":
            raise ValueError(f"expected time_us as integers, UTC microseconds, found {times.dtype}")
        return Candles(o, h, lo, c, v, np.ascontiguousarray(times, dtype=np.int64))

    def __post_init__(self) -> None:
        for field in fields(self):
            column = getattr(self, field.name)
            wanted = np.int64 if field.name == "time_us" else np.float64
            if column.dtype != wanted or column.ndim != 1 or not column.flags.c_contiguous:
                raise ValueError(f"expected {field.name} as a contiguous column of {np.dtype(wanted)}, found {column.dtype} {column.shape}")
            if len(column) != len(self.open):
                raise ValueError(f"expected columns of one length, found {len(self.open)} rows of open and {len(column)} of {field.name}")
        finite = (
            np.isfinite(self.open) & np.isfinite(self.high) & np.isfinite(self.low) & np.isfinite(self.close) & np.isfinite(self.volume)
        )
        inside = (self.low <= np.minimum(self.open, self.close)) & (np.maximum(self.open, self.close) <= self.high)
        good = finite & inside & (self.volume >= 0)
        good[1:] &= self.time_us[1:] > self.time_us[:-1]
        if not good.all():
            row = int(np.argmin(good))
            before = int(self.time_us[row - 1]) if row else None
            o, h, lo, c, v = (float(column[row]) for column in (self.open, self.high, self.low, self.close, self.volume))
            raise ValueError(f"row {row}: {complaint(o, h, lo, c, v, int(self.time_us[row]), before)}")

    def __len__(self) -> int:
        return len(self.time_us)

    def __getitem__(self, rows: slice) -> Candles:
        return Candles(*(getattr(self, field.name)[rows] for field in fields(self)))


def complaint(o: float, h: float, lo: float, c: float, v: float, t: int, before: int | None) -> str | None:
    """What is wrong with a candle, or None; `before` is the time of the candle before it."""
    for name, value in (("open", o), ("high", h), ("low", lo), ("close", c), ("volume", v)):
        if not math.isfinite(value):
            return f"{name} is {value}, expected a finite number"
    if h < lo:
        return f"high {h} is below low {lo}"
    for name, value in (("open", o), ("close", c)):
        if not lo <= value <= h:
            return f"{name} {value} is outside low {lo} to high {h}"
    if v < 0:
        return f"volume {v} is negative"
    if before is not None and t <= before:
        return f"time {t} is not after {before}, the candle before it"
    return None
