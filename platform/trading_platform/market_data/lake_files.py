"""Files of the tick lake: what they are called, what stands in them, and the few operations on the disk that durability rests on.

A file's name is the span of stream ids it was written from. Spans of one directory are disjoint, or one holds the other: then the
longer is the merged file and the shorter, which it replaces, is not looked at any more. No file is ever changed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP: Final = 131_072
SUFFIX: Final = ".parquet"
ROLL_PREFIX: Final = ".roll-"
MERGE_PREFIX: Final = ".merge-"
_METADATA: Final = b"trading.lake"

SCHEMA: Final = pa.schema(
    [
        pa.field("ts_event", pa.int64(), nullable=False),
        pa.field("ts_recv", pa.int64(), nullable=False),
        pa.field("price", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("flags", pa.uint8(), nullable=False),
    ]
)
# Chosen by measurement (tests/bench/storage): sorted times and small price steps are best told as differences, sizes repeat.
_DICTIONARY: Final[Any] = ["size", "flags"]  # the stubs know a truth value only
_ENCODINGS: Final = dict.fromkeys(("ts_event", "ts_recv", "price"), "DELTA_BINARY_PACKED")


class LakeDamaged(Exception):
    """A file of the lake that cannot be read; the text names it."""


class StreamId(NamedTuple):
    """Place of an entry in a Redis stream; ordered as the stream is."""

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: bytes | str) -> StreamId:
        """Raises ValueError."""
        ms, _, seq = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(ms), int(seq or 0))

    @property
    def next(self) -> StreamId:
        return StreamId(self.ms, self.seq + 1)

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


BEGINNING: Final = StreamId(0, 0)


class Span(NamedTuple):
    """First and last entry something was made of."""

    first: StreamId
    last: StreamId

    @classmethod
    def parse(cls, name: str) -> Span:
        """Of a file's name, without prefix and suffix. Raises ValueError."""
        first_ms, first_seq, last_ms, last_seq = (int(part) for part in name.split("-"))
        return cls(StreamId(first_ms, first_seq), StreamId(last_ms, last_seq))

    def holds(self, other: Span) -> bool:
        return self.first <= other.first and other.last <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file says of itself. `ordinal` counts the entries of the stream up to the span's end, as Redis counts them."""

    symbol: str
    instrument: int
    price_scale: int
    size_scale: int
    ordinal: int
    rows: int
    ts_min: int
    ts_max: int
    ts_recv_max: int
    replaces: tuple[str, ...] = ()

    @property
    def merged(self) -> bool:
        return bool(self.replaces)

    def schema(self) -> pa.Schema:
        return SCHEMA.with_metadata({_METADATA: json.dumps(asdict(self)).encode()})


def read_info(path: Path) -> FileInfo:
    """From the file's footer. Raises LakeDamaged where it is torn, OSError where the disk does not let us look."""
    try:
        with pq.ParquetFile(path) as file:
            told = (file.schema_arrow.metadata or {}).get(_METADATA)
            document: dict[str, Any] = json.loads(told) if told else {}
            info = FileInfo(**{**document, "replaces": tuple(document.get("replaces", ()))})
            if not file.schema_arrow.equals(SCHEMA) or file.metadata.num_rows != info.rows:
                raise LakeDamaged(f"{path}: {file.metadata.num_rows} rows of {file.schema_arrow.names}, it says {info.rows}")
            return info
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise LakeDamaged(f"{path}: cannot be read: {str(error)[:300]}") from error


class Disk:
    """What the lake does to the disk. Each operation is over when it returns; none is, when the machine stops in the middle."""

    def create(self, path: Path, write: Callable[[IO[bytes]], None]) -> int:
        """Write a new file and have it on the disk; its size."""
        with path.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def rename(self, path: Path, target: Path) -> None:
        path.replace(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync(self, directory: Path) -> None:
        """Names made, changed and removed in it are on the disk from here on."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make(self, directory: Path) -> None:
        """Make it and what is above it."""
        if directory.is_dir():
            return
        self.make(directory.parent)
        directory.mkdir(exist_ok=True)
        self.sync(directory.parent)


def parquet_writer(file: IO[bytes], info: FileInfo) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        info.schema(),
        compression="zstd",
        compression_level=3,
        use_dictionary=_DICTIONARY,
        column_encoding=_ENCODINGS,
        write_page_checksum=True,
    )


def visible(directory: Path) -> list[tuple[Span, Path]]:
    """The files that count, in the order of the stream: whole, and not replaced by a merged one."""
    return [pair for pair, counts in _judged(directory) if counts]


def replaced(directory: Path) -> list[Path]:
    """Files a merged one has taken the place of."""
    return [path for (_, path), counts in _judged(directory) if not counts]


def _judged(directory: Path) -> Iterator[tuple[tuple[Span, Path], bool]]:
    newest: StreamId | None = None
    for span, path in sorted(spans(directory), key=lambda pair: (pair[0].first, (-pair[0].last.ms, -pair[0].last.seq))):
        counts = newest is None or span.last > newest
        newest = span.last if counts else newest
        yield (span, path), counts


def spans(directory: Path) -> Iterator[tuple[Span, Path]]:
    """Every file with a final name. Other names are not the lake's."""
    try:
        names = [entry.name for entry in os.scandir(directory)]
    except FileNotFoundError:
        return
    for name in names:
        if not name.startswith(".") and name.endswith(SUFFIX):
            try:
                yield Span.parse(name.removesuffix(SUFFIX)), directory / name
            except ValueError:
                continue


@contextmanager
def holding(directory: Path, *, exclusive: bool = False) -> Iterator[bool]:
    """Whoever reads a directory holds it, in whatever process; files are removed only by somebody who has it alone.

    Yields whether it is held: asking for it alone does not wait, reading does; a directory that is gone nobody holds.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
