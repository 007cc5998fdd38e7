"""The tick lake of one host: every tick of the bus once, in Parquet files by day and symbol, in time order when read.

    <root>/ticks/date=2026-01-31/symbol=BTCUSDT/<first stream id>-<last stream id>.parquet
    <root>/gaps/<place>.json        what is missing, and since when
    <root>/quarantine/              torn files, and batches that are none

One process writes (`exclusive`); any number read, in any process:

    lake = Lake(Path("/var/lib/trading-platform/lake"))
    for batch in lake.read("BTCUSDT", from_ns, to_ns, kind="trades"): ...      # pyarrow.RecordBatch, memory bounded

A roll (what a span of the stream brought) is a file a symbol and day. All are on the disk under hidden names before the first gets
its name: that first rename is the commit, and `recover` finishes or undoes what a crash left.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trading_platform.batches import ASK, BID, TRADE, TickBatch
from trading_platform.instruments import Catalogue, Instrument, UnknownInstrument
from trading_platform.market_data import lake_files, lake_merge, lake_metrics
from trading_platform.market_data.lake_files import (
    BEGINNING,
    MERGE_PREFIX,
    ROLL_PREFIX,
    ROW_GROUP,
    SCHEMA,
    SUFFIX,
    Disk,
    FileInfo,
    LakeDamaged,
    Span,
    StreamId,
)
from trading_platform.market_data.lake_merge import Source

Kind = Literal["all", "quotes", "trades"]
COLUMNS: Final = tuple(SCHEMA.names)
_FLAGS: Final = {"all": 0xFF, "quotes": BID | ASK, "trades": TRADE}
_SYMBOL: Final = re.compile(r"^[A-Z0-9][A-Z0-9._-]{0,31}$")
_DAY: Final = re.compile(r"^date=([0-9]{4}-[0-9]{2}-[0-9]{2})$")
_INFOS_KEPT: Final = 100_000


class LakeBusy(OSError):
    """Another process writes this lake."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one instrument and one day, sorted by time; rows of one instant as they came."""

    instrument: Instrument
    day: str
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Gap:
    """Ticks that are not in the lake: those between two places in the stream, of one symbol or of all. `batches` where it is known."""

    after: StreamId
    before: StreamId
    batches: int | None
    reason: str
    symbol: str | None = None
    day: str | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """A stream entry that could not be used, as it came."""

    id: StreamId
    data: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Roll:
    """What a span of the stream brought; `ordinal` is the count of entries up to its end."""

    span: Span
    ordinal: int
    parts: tuple[Part, ...]
    gaps: tuple[Gap, ...] = ()
    raw: tuple[Raw, ...] = ()


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where the lake goes on: the last entry on the disk and its ordinal; and what a crash had left."""

    position: StreamId
    ordinal: int
    completed: int
    quarantined: tuple[str, ...]


def parts_of(batches: Iterable[TickBatch], catalogue: Catalogue) -> tuple[Part, ...]:
    """By instrument and day of ts_event. Rows of instruments the catalogue does not know are left out: see `strangers`."""
    taken = list(batches)
    if not taken:
        return ()
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(batch, name) for batch in taken]) for name in ("instrument", *COLUMNS)
    }
    parts = []
    for instrument_id in np.unique(columns["instrument"]).tolist():
        try:
            instrument = catalogue.id(instrument_id)
        except UnknownInstrument:
            continue
        rows = np.flatnonzero(columns["instrument"] == instrument_id)
        times = columns["ts_event"][rows]
        if (times[1:] < times[:-1]).any():
            rows = rows[np.argsort(times, kind="stable")]
        days = columns["ts_event"][rows].astype("datetime64[ns]").astype("datetime64[D]")
        edges = [0, *(np.flatnonzero(days[1:] != days[:-1]) + 1).tolist(), len(rows)]
        for first, past in pairwise(edges):
            table = pa.Table.from_arrays([pa.array(columns[name][rows[first:past]]) for name in COLUMNS], schema=SCHEMA)
            parts.append(Part(instrument, str(days[first]), table))
    return tuple(parts)


def strangers(batch: TickBatch, known: frozenset[int]) -> list[int]:
    """Instruments in it that are not among the known."""
    return sorted(set(np.unique(batch.instrument).tolist()) - known)


class Lake:
    """Reads and writes below one directory. Everything here is work for a thread."""

    def __init__(self, root: Path, disk: Disk | None = None, min_free_bytes: int = 0) -> None:
        self.root = root
        self.ticks = root / "ticks"
        self.gap_directory = root / "gaps"
        self.quarantine_directory = root / "quarantine"
        self.disk = disk or Disk()
        self._min_free_bytes = min_free_bytes
        # Rolls, recovery and the removal of whole days do not meet.
        self.changing = threading.RLock()
        self._infos: dict[Path, FileInfo] = {}

    # --- writing ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The right to write. Raises LakeBusy while another process has it, OSError where the directory cannot be used."""
        for directory in (self.ticks, self.gap_directory, self.quarantine_directory):
            self.disk.make(directory)
        with (self.root / ".writer").open("a") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LakeBusy(f"{self.root} is written by another process; end that one") from None
            yield

    def append(self, roll: Roll) -> int:
        """Have it on the disk, wholly or not at all; how many files. After OSError call `recover`: its position tells which."""
        with self.changing:
            self._check_room()
            for raw in roll.raw:
                self._keep_raw(raw)
            for gap in roll.gaps:
                self.record(gap)
            written = self._write_hidden(roll)
            for temporary, _ in written:
                self.disk.rename(temporary, self._final(temporary))
            for directory in sorted({temporary.parent for temporary, _ in written}):
                self.disk.sync(directory)
        lake_metrics.ROWS.inc(sum(part.table.num_rows for part in roll.parts))
        lake_metrics.FILES.labels("roll").inc(len(written))
        lake_metrics.BYTES.labels("roll").inc(sum(size for _, size in written))
        return len(written)

    def _write_hidden(self, roll: Roll) -> list[tuple[Path, int]]:
        written: list[tuple[Path, int]] = []
        begun: Path | None = None
        try:
            for part in roll.parts:
                directory = self.directory(part.day, part.instrument.symbol)
                self.disk.make(directory)
                begun = directory / f"{ROLL_PREFIX}{roll.span}{SUFFIX}"
                written.append((begun, self.disk.create(begun, partial(_write_part, part, roll.ordinal))))
            for directory in sorted({temporary.parent for temporary, _ in written}):
                self.disk.sync(directory)
        except OSError:
            for path in {begun, *(temporary for temporary, _ in written)} - {None}:
                with suppress(OSError):
                    path.unlink(missing_ok=True)  # type: ignore[union-attr]
            raise
        return written

    def _check_room(self) -> None:
        room = os.statvfs(self.root)
        free = room.f_bavail * room.f_frsize
        lake_metrics.FREE.set(free)
        if free < self._min_free_bytes:
            raise OSError(f"{self.root}: {free >> 20} MiB free, the lake leaves {self._min_free_bytes >> 20} MiB to others; make room")

    def record(self, gap: Gap) -> None:
        """Write it down; the same gap again takes its own place."""
        document = {
            "after": str(gap.after),
            "before": str(gap.before),
            "batches": gap.batches,
            "reason": gap.reason,
            "symbol": gap.symbol,
            "day": gap.day,
            "recorded_ns": time.time_ns(),
        }
        name = "_".join(str(part) for part in (gap.after, gap.day, gap.symbol) if part is not None)
        self._put(self.gap_directory / f"{name}.json", json.dumps(document).encode() + b"\n")

    def _keep_raw(self, raw: Raw) -> None:
        self._put(self.quarantine_directory / f"{raw.id}.batch", raw.data)

    def _put(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}")
        self.disk.create(temporary, lambda file: _write_all(file, data))
        self.disk.rename(temporary, path)
        self.disk.sync(path.parent)

    # --- after a crash ------------------------------------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Finish the roll that was committed, set aside what was not and what is torn; where to go on. Only with `exclusive`."""
        with self.changing:
            self._infos.clear()
            committed = [span for directory in self.directories() for span, _ in lake_files.spans(directory)]
            completed, aside = 0, []
            for temporary in self._hidden():
                if temporary.name.startswith(ROLL_PREFIX) and self._whole(temporary) and self._is_committed(temporary, committed):
                    self.disk.rename(temporary, self._final(temporary))
                    self.disk.sync(temporary.parent)
                    completed += 1
                elif temporary.name.startswith(ROLL_PREFIX):
                    aside.append(self._set_aside(temporary))
                else:
                    self.disk.remove(temporary)
            torn = [found for directory in self.directories() for found in self._torn(directory)]
            aside += [self._set_aside(path) for _, path in torn]
            position, ordinal = self._position()
            for span, path in torn:
                self._record_damage(span, path, position)
            return Recovered(position, ordinal, completed, tuple(aside))

    def _hidden(self) -> list[Path]:
        places = [*self.directories(), self.gap_directory, self.quarantine_directory]
        return [path for place in places for path in sorted(place.glob(".*")) if path.is_file()]

    @staticmethod
    def _is_committed(temporary: Path, committed: list[Span]) -> bool:
        """Whether another file of its roll has its name already, or went into a merged one since."""
        span = Span.parse(temporary.name.removeprefix(ROLL_PREFIX).removesuffix(SUFFIX))
        return any(other.holds(span) for other in committed)

    def _whole(self, path: Path) -> bool:
        try:
            lake_files.read_info(path)
        except LakeDamaged:
            return False
        return True

    def _torn(self, directory: Path) -> Iterator[tuple[Span, Path]]:
        for span, path in list(lake_files.spans(directory)):
            try:
                self.info(path)
            except LakeDamaged:
                yield span, path

    def _set_aside(self, path: Path) -> str:
        """Into quarantine, where no reader looks; its name there."""
        day, symbol = path.parent.parent.name.removeprefix("date="), path.parent.name.removeprefix("symbol=")
        target = self.quarantine_directory / f"{day}_{symbol}_{path.name.lstrip('.')}"
        self.disk.rename(path, target)
        self.disk.sync(path.parent)
        self.disk.sync(self.quarantine_directory)
        lake_metrics.QUARANTINED.labels("file").inc()
        return target.name

    def _record_damage(self, span: Span, path: Path, position: StreamId) -> None:
        """A torn file's rows are missing, unless they are read again from the bus or stand in a merged file."""
        if span.last > position or any(other.holds(span) for other, _ in lake_files.spans(path.parent)):
            return
        day, symbol = path.parent.parent.name.removeprefix("date="), path.parent.name.removeprefix("symbol=")
        self.record(Gap(span.first, span.last, None, "a file of this span was torn and is in quarantine", symbol, day))
        lake_metrics.GAPS.inc()

    def _position(self) -> tuple[StreamId, int]:
        newest: tuple[StreamId, Path] | None = None
        for directory in self.directories():
            for span, path in lake_files.spans(directory):
                if newest is None or span.last > newest[0]:
                    newest = (span.last, path)
        if newest is None:
            return BEGINNING, 0
        info = self.info(newest[1])
        lake_metrics.NEWEST.set(info.ts_recv_max / 1e9)
        return newest[0], info.ordinal

    @staticmethod
    def _final(temporary: Path) -> Path:
        return temporary.with_name(temporary.name.removeprefix(ROLL_PREFIX).removeprefix(MERGE_PREFIX))

    # --- reading ------------------------------------------------------------------------------------------------------------

    def directory(self, day: str, symbol: str) -> Path:
        if not _SYMBOL.match(symbol):
            raise ValueError(f"{symbol[:40]!r} is no symbol")
        return self.ticks / f"date={day}" / f"symbol={symbol}"

    def directories(self) -> list[Path]:
        """One a day and symbol, oldest day first."""
        return [path for day in self.days() for path in sorted(day.glob("symbol=*")) if path.is_dir()]

    def days(self) -> list[Path]:
        try:
            return sorted(path for path in self.ticks.iterdir() if _DAY.match(path.name) and path.is_dir())
        except FileNotFoundError:
            return []

    def info(self, path: Path) -> FileInfo:
        """What the file says of itself; read once, files do not change. Raises LakeDamaged, FileNotFoundError."""
        found = self._infos.get(path)
        if found is None:
            if len(self._infos) >= _INFOS_KEPT:
                self._infos.clear()
            found = self._infos[path] = lake_files.read_info(path)
        return found

    def forget(self, path: Path) -> None:
        """The file is gone."""
        self._infos.pop(path, None)

    def gaps(self) -> list[dict[str, Any]]:
        """What is known to be missing, oldest first: the documents of the gap directory."""
        try:
            paths = [path for path in self.gap_directory.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = []
        for path in sorted(paths):
            try:
                found.append({**json.loads(path.read_bytes())})
            except ValueError as error:
                found.append({"after": "0-0", "before": "0-0", "batches": None, "reason": f"{path.name} cannot be read: {error}"})
        return sorted(found, key=lambda gap: StreamId.parse(gap["after"]))

    def estimate(self, symbol: str, from_ns: int, to_ns: int) -> int:
        """About so many rows of any kind are in [from_ns, to_ns): a file's rows in proportion to the time it shares."""
        rows = 0.0
        for info in self._in_range(symbol, from_ns, to_ns):
            length = info.ts_max - info.ts_min + 1
            rows += info.rows * (min(info.ts_max, to_ns - 1) - max(info.ts_min, from_ns) + 1) / length
        return round(rows)

    def scales(self, symbol: str, from_ns: int, to_ns: int) -> tuple[int, int] | None:
        """Price and size scale of what `read` gives: the finest of the range's files; None where there is nothing."""
        found = [(info.price_scale, info.size_scale) for info in self._in_range(symbol, from_ns, to_ns)]
        return (max(price for price, _ in found), max(size for _, size in found)) if found else None

    def read(self, symbol: str, from_ns: int, to_ns: int, kind: Kind = "all", columns: Iterable[str] = COLUMNS) -> Iterator[pa.RecordBatch]:
        """Rows with from_ns <= ts_event < to_ns in time order, each once; of one instant in the order they came.

        Raises ValueError for a range, kind or column there is not; while it goes on, LakeDamaged.
        """
        wanted = list(columns)
        if from_ns >= to_ns:
            raise ValueError(f"from ({from_ns}) is not before to ({to_ns})")
        if kind not in _FLAGS:
            raise ValueError(f"kind is {kind!r}, expected one of {', '.join(_FLAGS)}")
        if not wanted or not set(wanted) <= set(COLUMNS):
            raise ValueError(f"columns are {wanted}, expected some of {', '.join(COLUMNS)}")
        self.directory("1970-01-01", symbol)
        scales = self.scales(symbol, from_ns, to_ns) or (0, 0)
        return self._read(symbol, from_ns, to_ns, _FLAGS[kind], wanted, scales)

    def _read(
        self, symbol: str, from_ns: int, to_ns: int, flags: int, wanted: list[str], scales: tuple[int, int]
    ) -> Iterator[pa.RecordBatch]:
        needed = [name for name in COLUMNS if name in wanted or name == "ts_event" or (name == "flags" and flags != 0xFF)]
        for directory in self._directories_of(symbol, from_ns, to_ns):
            with lake_files.holding(directory):
                sources = [self._source(path, scales) for _, path in lake_files.visible(directory)]
                for table in lake_merge.merged(sources, from_ns, to_ns, needed):
                    if flags != 0xFF:
                        table = table.filter(pa.array((table.column("flags").to_numpy() & flags) != 0))
                    yield from table.select(wanted).combine_chunks().to_batches(max_chunksize=ROW_GROUP)

    def _source(self, path: Path, scales: tuple[int, int]) -> Source:
        info = self.info(path)
        return Source(path, info, 10 ** max(0, scales[0] - info.price_scale), 10 ** max(0, scales[1] - info.size_scale))

    def _directories_of(self, symbol: str, from_ns: int, to_ns: int) -> list[Path]:
        first, last = (str(np.datetime64(at, "ns").astype("datetime64[D]")) for at in (from_ns, to_ns - 1))
        days = [day for day in self.days() if first <= day.name.removeprefix("date=") <= last]
        return [path for day in days if (path := self.directory(day.name.removeprefix("date="), symbol)).is_dir()]

    def _in_range(self, symbol: str, from_ns: int, to_ns: int) -> Iterator[FileInfo]:
        for directory in self._directories_of(symbol, from_ns, to_ns):
            with lake_files.holding(directory):
                infos = [self.info(path) for _, path in lake_files.visible(directory)]
                yield from (info for info in infos if info.ts_max >= from_ns and info.ts_min < to_ns)


def part_info(part: Part, ordinal: int) -> FileInfo:
    times = part.table.column("ts_event").to_numpy()
    return FileInfo(
        symbol=part.instrument.symbol,
        instrument=part.instrument.id,
        price_scale=part.instrument.price_scale,
        size_scale=part.instrument.size_scale,
        ordinal=ordinal,
        rows=part.table.num_rows,
        ts_min=int(times[0]),
        ts_max=int(times[-1]),
        ts_recv_max=int(part.table.column("ts_recv").to_numpy().max()),
    )


def merged_info(infos: list[FileInfo], replaces: tuple[str, ...]) -> FileInfo:
    """What the file that replaces these says of itself."""
    return replace(
        infos[-1],
        ordinal=max(info.ordinal for info in infos),
        rows=sum(info.rows for info in infos),
        ts_min=min(info.ts_min for info in infos),
        ts_max=max(info.ts_max for info in infos),
        ts_recv_max=max(info.ts_recv_max for info in infos),
        replaces=replaces,
    )


def write_tables(tables: Iterable[Any], info: FileInfo, file: IO[bytes], between: Callable[[float], None] = lambda _: None) -> None:
    """Row groups of ROW_GROUP rows. `between` is told how long each took. Raises LakeDamaged when the rows are not as many as said."""
    rows, waiting = 0, SCHEMA.empty_table()
    started = time.monotonic()
    with lake_files.parquet_writer(file, info) as writer:
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while waiting.num_rows >= ROW_GROUP:
                rows += ROW_GROUP
                writer.write_table(_with(info, waiting.slice(0, ROW_GROUP)))
                waiting = waiting.slice(ROW_GROUP)
                between(time.monotonic() - started)
                started = time.monotonic()
        if waiting.num_rows:
            rows += waiting.num_rows
            writer.write_table(_with(info, waiting))
    if rows != info.rows:
        raise LakeDamaged(f"{info.symbol}: {rows} rows, expected {info.rows}")


def _with(info: FileInfo, table: Any) -> Any:
    return table.combine_chunks().replace_schema_metadata(info.schema().metadata)


def _write_part(part: Part, ordinal: int, file: IO[bytes]) -> None:
    write_tables([part.table], part_info(part, ordinal), file)


def _write_all(file: IO[bytes], data: bytes) -> None:
    file.write(data)
