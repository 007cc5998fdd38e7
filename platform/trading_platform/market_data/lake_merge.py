"""Several sorted files as one, in time order, a row group of each at a time.

Rows of one instant keep the order of the stream: an older file's before a newer one's, within a file as they stand there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trading_platform.market_data.lake_files import SCHEMA, FileInfo, LakeDamaged


@dataclass(frozen=True, slots=True)
class Source:
    """A file to merge, with what its footer says, and what its prices and sizes are multiplied by."""

    path: Path
    info: FileInfo
    price_factor: int = 1
    size_factor: int = 1


class _Cursor:
    """Where one file is read: a sorted block in memory, row groups still to come."""

    def __init__(self, order: int, source: Source, from_ns: int, to_ns: int, columns: list[str]) -> None:
        self.order = order
        self._source = source
        self._from_ns, self._to_ns = from_ns, to_ns
        self._columns = columns
        try:
            self._file = pq.ParquetFile(source.path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise LakeDamaged(f"{source.path}: cannot be read: {str(error)[:300]}") from error
        self._groups = [group for group in range(self._file.num_row_groups) if self._wanted(group)]
        self.block: Any = SCHEMA.empty_table().select(columns)
        self.times: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def _wanted(self, group: int) -> bool:
        statistics: Any = self._file.metadata.row_group(group).column(0).statistics
        return statistics is None or (statistics.max >= self._from_ns and statistics.min < self._to_ns)

    @property
    def more(self) -> bool:
        return bool(self._groups)

    @property
    def end(self) -> int:
        """Time of the last row in memory."""
        return int(self.times[-1]) if len(self.times) else self._from_ns

    def load(self) -> None:
        """One more row group, behind what is in memory. Raises LakeDamaged."""
        try:
            group: Any = self._file.read_row_group(self._groups.pop(0), columns=self._columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise LakeDamaged(f"{self._source.path}: cannot be read: {str(error)[:300]}") from error
        group = _scaled(group.replace_schema_metadata(None), self._source)
        times = group.column("ts_event").to_numpy()
        first, last = (int(row) for row in np.searchsorted(times, [self._from_ns, self._to_ns]))
        self.block = pa.concat_tables([self.block, group.slice(first, last - first)])
        self.times = np.concatenate([self.times, times[first:last]])

    def take(self, until_ns: int | None) -> Any:
        """Rows up to and with that time (None: all), out of memory."""
        rows = len(self.times) if until_ns is None else int(np.searchsorted(self.times, until_ns, side="right"))
        taken = self.block.slice(0, rows)
        self.block, self.times = self.block.slice(rows), self.times[rows:]
        return taken

    def close(self) -> None:
        self._file.close()


def merged(sources: list[Source], from_ns: int, to_ns: int, columns: list[str]) -> Iterator[Any]:
    """Tables of `columns` (ts_event among them), rows of [from_ns, to_ns) in order. `sources` are in the order of the stream."""
    overlapping = [each for each in enumerate(sources) if each[1].info.ts_max >= from_ns and each[1].info.ts_min < to_ns]
    waiting = sorted(overlapping, key=lambda each: (each[1].info.ts_min, each[0]))
    active: list[_Cursor] = []
    try:
        while waiting or active:
            blocker, until_ns = _limit(active, waiting)
            parts = [part for cursor in active if (part := cursor.take(until_ns)).num_rows]
            if parts:
                yield _ordered(parts)
            elif isinstance(blocker, _Cursor):
                blocker.load()
            elif waiting:
                order, source = waiting.pop(0)
                active.append(_Cursor(order, source, from_ns, to_ns, columns))
                active.sort(key=lambda cursor: cursor.order)
            for cursor in active:
                if not len(cursor.times) and not cursor.more:
                    cursor.close()
            active = [cursor for cursor in active if len(cursor.times) or cursor.more]
    finally:
        for cursor in active:
            cursor.close()


def _limit(active: list[_Cursor], waiting: list[tuple[int, Source]]) -> tuple[_Cursor | None, int | None]:
    """Up to which time everything is in memory (None: to the end), and the cursor that must load before there is more."""
    blocker, limit = None, None
    for cursor in active:
        if cursor.more and (limit is None or cursor.end - 1 < limit):
            blocker, limit = cursor, cursor.end - 1
    if waiting and (limit is None or waiting[0][1].info.ts_min - 1 < limit):
        blocker, limit = None, waiting[0][1].info.ts_min - 1
    return blocker, limit


def _scaled(group: Any, source: Source) -> Any:
    for name, factor in (("price", source.price_factor), ("size", source.size_factor)):
        if factor != 1 and name in group.column_names:
            column = pc.multiply_checked(group.column(name), factor)
            group = group.set_column(group.column_names.index(name), SCHEMA.field(name), column)
    return group


def _ordered(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    times = [part.column("ts_event").to_numpy() for part in parts]
    together = pa.concat_tables(parts)
    if all(before[-1] <= after[0] for before, after in pairwise(times)):
        return together
    return together.take(np.argsort(np.concatenate(times), kind="stable"))
