"""Ticks inside this service: columns of any length, before they are cut into batches and stamped with the time of reception."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from trading_platform.batches import ASK, BID, MAX_ROWS, TRADE, TickBatch


@dataclass(frozen=True, slots=True)
class Ticks:
    """Columns of equal length in time order, with the meaning they have in a tick batch.

    A quote is a BID row directly followed by its ASK row, of the same instrument and time.
    """

    instrument: NDArray[np.uint32]
    ts_event: NDArray[np.int64]
    price: NDArray[np.int64]
    size: NDArray[np.int64]
    flags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ts_event)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Ticks:
        return Ticks(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def empty() -> Ticks:
        none = np.empty(0, dtype=np.int64)
        return Ticks(np.empty(0, dtype=np.uint32), none, none, none, np.empty(0, dtype=np.uint8))

    @staticmethod
    def concatenate(parts: Sequence[Ticks]) -> Ticks:
        if not parts:
            return Ticks.empty()
        if len(parts) == 1:
            return parts[0]
        return Ticks(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Ticks)))

    def trades(self) -> Ticks:
        return self[(self.flags & TRADE) != 0]

    def quotes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row numbers of the bid and of the ask of every complete quote."""
        bids = np.flatnonzero((self.flags[:-1] & BID != 0) & (self.flags[1:] & ASK != 0))
        return bids, bids + 1

    def midpoints(self) -> Ticks:
        """One row per quote: the middle, rounded down to the instrument's scale, with size 0."""
        bids, asks = self.quotes()
        low, high = self.price[bids], self.price[asks]
        return Ticks(
            instrument=self.instrument[bids],
            ts_event=self.ts_event[bids],
            price=low + (high - low) // 2,
            size=np.zeros(len(bids), dtype=np.int64),
            flags=self.flags[bids],
        )

    def batches(self, ts_recv_ns: int) -> Iterator[TickBatch]:
        """Wire batches of at most MAX_ROWS rows, stamped as received at `ts_recv_ns`; a quote is never torn apart."""
        start = 0
        while start < len(self):
            end = min(start + MAX_ROWS, len(self))
            if end < len(self) and self.flags[end - 1] & BID and self.flags[end] & ASK:
                end -= 1
            part = self[start:end]
            received = np.full(len(part), ts_recv_ns, dtype=np.int64)
            yield TickBatch(part.instrument, part.ts_event, received, part.price, part.size, part.flags)
            start = end
