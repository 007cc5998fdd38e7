"""Ticks of a source, written once as plain columns on disk, for many runs to read at the same time. Memory is bounded; disk is
29 bytes a tick, in the directory for temporary files (TMPDIR), until the sweep ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from trading_platform.market.ticks import Ticks

BLOCK = 131_072
_DTYPES = {"instrument": np.uint32, "ts_event": np.int64, "price": np.int64, "size": np.int64, "flags": np.uint8}


class Spool:
    """A directory with a file for each column."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self, parts: Iterable[Ticks]) -> None:
        files = {field.name: (self.directory / field.name).open("wb") for field in fields(Ticks)}
        try:
            for part in parts:
                for name, file in files.items():
                    file.write(np.ascontiguousarray(getattr(part, name), dtype=_DTYPES[name]).data)
        finally:
            for file in files.values():
                file.close()

    def __len__(self) -> int:
        return (self.directory / "flags").stat().st_size

    @property
    def first_ns(self) -> int:
        return int(self._column("ts_event")[0])

    @property
    def last_ns(self) -> int:
        return int(self._column("ts_event")[-1])

    def parts(self, begin_ns: int, end_ns: int) -> Iterator[Ticks]:
        """The ticks of [begin, end) in pieces; two rows of one moment are never in different ones."""
        columns = [self._column(field.name) for field in fields(Ticks)]
        ts = columns[1]
        at, end = (int(np.searchsorted(ts, moment, side="left")) for moment in (begin_ns, end_ns))
        while at < end:
            stop = min(end, at + BLOCK)
            if stop < end:
                stop = int(np.searchsorted(ts, ts[stop - 1], side="right"))
            yield Ticks(*(np.array(column[at:stop]) for column in columns))
            at = stop

    def _column(self, name: str) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
        return np.memmap(self.directory / name, dtype=_DTYPES[name], mode="r")
