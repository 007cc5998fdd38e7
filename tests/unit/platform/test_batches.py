"""Tick batches round-trip exactly, and nothing else passes for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trading_platform import batches
from trading_platform.batches import InvalidBatch, TickBatch


def batch(rows: int = 3, **changes: Any) -> TickBatch:
    columns: dict[str, Any] = {
        "instrument": np.full(rows, 1, np.uint32),
        "ts_event": np.arange(rows, dtype=np.int64),
        "ts_recv": np.arange(rows, dtype=np.int64),
        "price": np.full(rows, 2**63 - 1, np.int64),
        "size": np.zeros(rows, np.int64),
        "flags": np.full(rows, batches.TRADE, np.uint8),
    }
    return TickBatch(**{**columns, **changes})


@pytest.mark.parametrize("rows", [1, batches.MAX_ROWS])
def test_a_batch_survives_the_wire(rows: int) -> None:
    sent = batch(rows)
    assert TickBatch.decode(sent.encode()) == sent


@pytest.mark.parametrize("rows", [0, batches.MAX_ROWS + 1])
def test_a_batch_of_no_or_too_many_rows_is_refused(rows: int) -> None:
    with pytest.raises(InvalidBatch, match="1 to 1000 rows"):
        batch(rows)


def test_a_float_price_is_refused() -> None:
    with pytest.raises(InvalidBatch, match="column price is float64"):
        batch(price=np.array([1.0, 2.0, 3.0]))


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(InvalidBatch, match="column size has shape"):
        batch(size=np.zeros(2, np.int64))


def stream(schema: pa.Schema, columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 1000, batch().encode()[:-40]])
def test_bytes_that_are_no_arrow_stream_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidBatch):
        TickBatch.decode(data)


def test_another_schema_is_refused() -> None:
    schema = pa.schema([pa.field("price", pa.float64())])
    with pytest.raises(InvalidBatch, match="schema is"):
        TickBatch.decode(stream(schema, [pa.array([1.0])]))


def test_more_rows_than_allowed_on_the_wire_are_refused() -> None:
    rows = batches.MAX_ROWS + 1
    columns = [pa.array(np.zeros(rows, dtype)) for dtype in (np.uint32, np.int64, np.int64, np.int64, np.int64, np.uint8)]
    with pytest.raises(InvalidBatch, match="found 1001"):
        TickBatch.decode(stream(batches.SCHEMA, columns))
