"""Ticks for the lake's tests, a disk that stops in the middle, and what must be read back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from trading_platform.backtest import instruments
from trading_platform.batches import ASK, BID, TRADE, TickBatch
from trading_platform.market_data.lake import COLUMNS, Lake, Roll, parts_of
from trading_platform.market_data.lake_files import Disk, Span, StreamId

CATALOGUE = instruments.catalogue()
S = 1_000_000_000
DAY = 86_400 * S
MONDAY = 1_704_067_200 * S  # 2024-01-01
FLAGS = np.array([TRADE, BID, ASK], dtype=np.uint8)


def batch(times: Sequence[int], instrument: int | Sequence[int] = 1, *, start: int = 0) -> TickBatch:
    """One row a time; prices count from `start`, so that each row is told from every other."""
    rows = len(times)
    return TickBatch(
        instrument=np.full(rows, instrument, np.uint32) if isinstance(instrument, int) else np.array(instrument, np.uint32),
        ts_event=np.array(times, np.int64),
        ts_recv=np.array(times, np.int64) + 7,
        price=np.arange(start, start + rows, dtype=np.int64),
        size=np.arange(start, start + rows, dtype=np.int64) % 3,
        flags=FLAGS[np.arange(start, start + rows) % 3],
    )


def roll(entries: Sequence[tuple[int, TickBatch]], **more: Any) -> Roll:
    """A roll of entries whose ids are `<number>-0`."""
    span = Span(StreamId(entries[0][0], 0), StreamId(entries[-1][0], 0))
    return Roll(span, entries[-1][0], parts_of([each for _, each in entries], CATALOGUE), **more)


def read(lake: Lake, symbol: str = "BTCUSDT", from_ns: int = 0, to_ns: int = 1 << 62, **more: Any) -> list[tuple[int, ...]]:
    """Rows as tuples in the lake's order of columns."""
    rows: list[tuple[int, ...]] = []
    for record in lake.read(symbol, from_ns, to_ns, **more):
        rows += list(zip(*(column.to_pylist() for column in record.columns), strict=True))
    return rows


def expected(batches: Sequence[TickBatch], instrument: int = 1) -> list[tuple[int, ...]]:
    """What `read` must give: every row once, by time, of one time as they came."""
    rows = [
        tuple(int(getattr(each, name)[row]) for name in COLUMNS)
        for each in batches
        for row in range(len(each))
        if int(each.instrument[row]) == instrument
    ]
    return sorted(rows, key=lambda row: row[0])


class Crash(BaseException):
    """The machine stops."""


class FallibleDisk(Disk):
    """Stops at the n-th operation. What was not synced by then is on the disk or is not, as chance has it."""

    def __init__(self, seed: int = 0) -> None:
        self.left: int | None = None
        self._chance = random.Random(seed)
        self._unsynced: list[tuple[Path, Callable[[], None]]] = []

    def _step(self) -> bool:
        """Whether the machine stops in this operation."""
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0

    def _stop(self) -> None:
        """Lose some of what was not synced: of each directory the newest first, for names go to the disk in order."""
        for directory in {directory for directory, _ in self._unsynced}:
            undo = [action for place, action in self._unsynced if place == directory]
            for action in reversed(undo[self._chance.randint(0, len(undo)) :]):
                action()
        self._unsynced.clear()
        self.left = None
        raise Crash

    def create(self, path: Path, write: Callable[[IO[bytes]], None]) -> int:
        stops = self._step()
        size = super().create(path, write)
        if stops:
            with path.open("r+b") as file:
                file.truncate(self._chance.randint(0, size))
        self._unsynced.append((path.parent, lambda: path.unlink(missing_ok=True)))
        if stops:
            self._stop()
        return size

    def rename(self, path: Path, target: Path) -> None:
        if self._step():
            self._stop()
        before = target.read_bytes() if target.exists() else None

        def undo() -> None:
            target.replace(path)
            if before is not None:
                target.write_bytes(before)

        super().rename(path, target)
        self._unsynced.append((target.parent, undo))

    def remove(self, path: Path) -> None:
        if self._step():
            self._stop()
        content = path.read_bytes()
        super().remove(path)
        self._unsynced.append((path.parent, lambda: (path.write_bytes(content), None)[1]))

    def sync(self, directory: Path) -> None:
        if self._step():
            self._stop()
        super().sync(directory)
        self._unsynced = [each for each in self._unsynced if each[0] != directory]
