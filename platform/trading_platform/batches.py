"""Tick batches: the columnar wire format of market data. One Redis Stream entry of `md:ticks` is one batch.

Columns (all of one length, at most MAX_ROWS, sorted by arrival):

    instrument u32   id of the table instruments
    ts_event   i64   UTC nanoseconds at the source (of a replay: the recorded time)
    ts_recv    i64   UTC nanoseconds when this platform received it; freshness is judged by this one
    price      i64   at the instrument's price_scale
    size       i64   at the instrument's size_scale; 0 where the source has none
    flags      u8    what the row is: TRADE, or one side of a quote (BID, ASK); plus aggressor and origin bits

A two-sided quote is two rows (BID, then ASK) with equal times. No per-tick objects: readers work on the arrays.

    batch = TickBatch(instrument, ts_event, ts_recv, price, size, flags)     # numpy arrays, checked
    TickBatch.decode(batch.encode()) == batch                                # raises InvalidBatch on anything else
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MAX_ROWS = 1_000

TRADE = 1
BID = 2
ASK = 4
BUY_AGGRESSOR = 8
SELL_AGGRESSOR = 16
DERIVED = 32  # not recorded as such: worked out from a candle
SYNTHETIC = 64
REPLAYED = 128

SCHEMA = pa.schema(
    [
        pa.field("instrument", pa.uint32(), nullable=False),
        pa.field("ts_event", pa.int64(), nullable=False),
        pa.field("ts_recv", pa.int64(), nullable=False),
        pa.field("price", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("flags", pa.uint8(), nullable=False),
    ]
)

_DTYPES: dict[str, npt.DTypeLike] = {
    "instrument": np.uint32,
    "ts_event": np.int64,
    "ts_recv": np.int64,
    "price": np.int64,
    "size": np.int64,
    "flags": np.uint8,
}


class InvalidBatch(ValueError):
    """Bytes or arrays that are not a tick batch."""


@dataclass(frozen=True, slots=True, eq=False)
class TickBatch:
    """The arrays of one batch."""

    instrument: npt.NDArray[np.uint32]
    ts_event: npt.NDArray[np.int64]
    ts_recv: npt.NDArray[np.int64]
    price: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        rows = len(self.instrument)
        if not 1 <= rows <= MAX_ROWS:
            raise InvalidBatch(f"a batch has 1 to {MAX_ROWS} rows, found {rows}")
        for name, dtype in _DTYPES.items():
            column = getattr(self, name)
            if column.dtype != dtype:
                raise InvalidBatch(f"column {name} is {column.dtype}, expected {np.dtype(dtype)}")
            if column.shape != (rows,):
                raise InvalidBatch(f"column {name} has shape {column.shape}, expected ({rows},)")

    def __len__(self) -> int:
        return len(self.instrument)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TickBatch):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def encode(self) -> bytes:
        """Arrow IPC stream of one record batch."""
        arrays: list[pa.Array[Any]] = [pa.array(getattr(self, name)) for name in _DTYPES]
        record = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(record)
        return sink.getvalue().to_pybytes()

    @classmethod
    def decode(cls, data: bytes) -> TickBatch:
        """The arrays (read-only views on `data`). Raises InvalidBatch."""
        try:
            with pa.ipc.open_stream(data) as reader:
                record = reader.read_next_batch()
        except (pa.ArrowException, OSError, StopIteration, ValueError) as error:
            raise InvalidBatch(f"{len(data)} bytes are no Arrow stream: {error}") from error
        if not record.schema.equals(SCHEMA):
            raise InvalidBatch(f"schema is {record.schema.to_string()!r}, expected {SCHEMA.to_string()!r}")
        if any(column.null_count for column in record.columns):
            raise InvalidBatch("a column holds nulls")
        return cls(**{name: record.column(name).to_numpy(zero_copy_only=True) for name in _DTYPES})
