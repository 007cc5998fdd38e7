"""History over HTTP: ticks from this host's lake, candles from PostgreSQL, streamed as they are read; memory does not grow with the range.

Arrow streams carry int64 at the scales told in the schema's metadata, CSV decimal text. A range too long is refused before it begins.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from fastapi import FastAPI, Header, Query
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from trading_platform import money
from trading_platform.batches import ASK, BID, BUY_AGGRESSOR, SELL_AGGRESSOR, TRADE
from trading_platform.db import Database
from trading_platform.instruments import Instrument
from trading_platform.market_data.lake import Kind, Lake
from trading_platform.market_data.lake_files import SCHEMA, LakeDamaged
from trading_platform.market_data.store import StoredCandle
from trading_platform.problems import Problem

log = logging.getLogger(__name__)

ARROW: Final = "application/vnd.apache.arrow.stream"
CSV: Final = "text/csv"
MAX_ROWS: Final = 10_000_000
MAX_RANGE_DAYS: Final = 31
AT_ONCE: Final = 2
CANDLES_AT_ONCE: Final = 5_000
# Seconds or milliseconds taken for nanoseconds would be the first days of 1970.
_EARLIEST_NS: Final = 100_000_000 * 1_000_000_000
_LATEST_NS: Final = 1 << 62
_CSV_COLUMNS: Final = ("ts_event_ns", "ts_recv_ns", "kind", "price", "size", "aggressor", "flags")

Symbol = Annotated[str, PathParameter(pattern=r"^[A-Z0-9][A-Z0-9._-]{0,31}$", description="As in the instrument list: BTCUSDT")]
_MOMENT: Final = "ISO 8601 (without a zone it is UTC), or UTC nanoseconds since 1970"
From = Annotated[str, Query(alias="from", max_length=40, description=_MOMENT)]
To = Annotated[str, Query(alias="to", max_length=40, description=_MOMENT)]

_CANDLES: Final = """
SELECT ts_open, open, high, low, close, volume, source FROM candles
 WHERE instrument_id = %(instrument)s AND interval_s = %(interval)s AND ts_open >= %(start)s AND ts_open < %(end)s
 ORDER BY ts_open LIMIT %(limit)s
"""


def install(app: FastAPI, lake: Lake, db: Database, instrument: Callable[[str], Awaitable[Instrument]]) -> None:
    """Add the routes; `instrument` raises a Problem for a symbol there is not."""
    reading: set[object] = set()

    @app.get("/market-data/{symbol}/ticks", tags=["market data"], response_class=StreamingResponse)
    async def ticks(
        symbol: Symbol,
        start: From,
        end: To,
        kind: Kind = "all",
        limit: Annotated[int | None, Query(ge=1, le=MAX_ROWS, description="the first so many rows of the range")] = None,
        accept: Annotated[str, Header()] = "*/*",
    ) -> StreamingResponse:
        """Ticks with from <= ts_event < to in time order, from this host's lake: Arrow stream or CSV, as Accept says. The header
        `lake-gaps` counts the times this lake is known to miss ticks that came in the range; `GET /lake/gaps` tells them."""
        known = await instrument(symbol)
        media_type = _media_type(accept)
        from_ns, to_ns = _range(start, end)
        if len(reading) >= AT_ONCE:
            raise Problem(503, "LAKE_BUSY", f"{AT_ONCE} histories are being read already; ask again", headers={"Retry-After": "2"})
        batches, scales, gaps = await run_in_threadpool(_open, lake, symbol, from_ns, to_ns, kind, limit)
        price_scale, size_scale = scales or (known.price_scale, known.size_scale)
        rows = _first(batches, limit)
        body = _arrow(rows, symbol, price_scale, size_scale) if media_type == ARROW else _csv(rows, price_scale, size_scale)
        return StreamingResponse(_counted(body, reading), media_type=media_type, headers={"lake-gaps": str(gaps)})

    @app.get("/lake/gaps", tags=["market data"])
    async def gaps() -> list[dict[str, Any]]:
        """What this host's lake is known to miss, oldest first: between two places in the stream `md:ticks`, whose ids begin with
        epoch milliseconds; `batches` where the number is known."""
        return await run_in_threadpool(lake.gaps)

    @app.get("/candles/{symbol}/history", tags=["market data"], response_class=StreamingResponse)
    async def candle_history(
        symbol: Symbol,
        start: From,
        end: To,
        interval: Annotated[int, Query(ge=1, le=7 * 86_400, description="seconds")] = 60,
    ) -> StreamingResponse:
        """Every closed candle opened in [from, to), oldest first, as CSV; prices and volume are decimal text."""
        known = await instrument(symbol)
        from_ns, to_ns = _ordered(start, end)
        pages = _candle_pages(db, known.id, interval, _utc(from_ns), _utc(to_ns))
        first = await anext(pages)  # an error of the database is a problem document, not a torn answer
        return StreamingResponse(_candle_lines(first, pages), media_type=CSV)


def _open(
    lake: Lake, symbol: str, from_ns: int, to_ns: int, kind: Kind, limit: int | None
) -> tuple[Iterator[pa.RecordBatch], tuple[int, int] | None, int]:
    """The reading begun, so far that what cannot be read is a problem and not a torn answer."""
    try:
        about = lake.estimate(symbol, from_ns, to_ns)
        if limit is None and about > MAX_ROWS:
            detail = (
                f"the range holds about {about} ticks; shorten it to {MAX_ROWS} at most, or give limit and go on from the last ts_event"
            )
            raise Problem(422, "TOO_MANY_ROWS", detail, rows=about)
        batches = lake.read(symbol, from_ns, to_ns, kind)
        head = next(batches, None)
        scales = lake.scales(symbol, from_ns, to_ns)
        missing = sum(from_ns < _ms(gap["before"]) * 1_000_000 and _ms(gap["after"]) * 1_000_000 < to_ns for gap in lake.gaps())
    except LakeDamaged as error:
        log.exception("a file of the lake cannot be read")
        raise Problem(500, "LAKE_DAMAGED", str(error)) from error
    return itertools.chain([head], batches) if head is not None else iter(()), scales, missing


def _ms(place: str) -> int:
    return int(place.partition("-")[0])


async def _counted(body: Iterator[bytes], reading: set[object]) -> AsyncIterator[bytes]:
    """The body, read in threads; among the reading until it is at its end or the client went."""
    reading.add(body)
    try:
        while (chunk := await run_in_threadpool(next, body, None)) is not None:
            yield chunk
    finally:
        reading.discard(body)


def _first(batches: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch.slice(0, left)
        left -= min(left, batch.num_rows)
        if not left:
            return


# --- what is asked -----------------------------------------------------------------------------------------------------------


def _media_type(accept: str) -> str:
    wanted = accept.lower()
    if ARROW in wanted:
        return ARROW
    if any(name in wanted for name in (CSV, "text/*", "*/*")):
        return CSV
    raise Problem(406, "NOT_ACCEPTABLE", f"Accept is {accept[:100]!r}; expected {ARROW} or {CSV}")


def _range(start: str, end: str) -> tuple[int, int]:
    from_ns, to_ns = _ordered(start, end)
    if to_ns - from_ns > MAX_RANGE_DAYS * 86_400 * 1_000_000_000:
        days = (to_ns - from_ns) / 86_400 / 1e9
        raise Problem(422, "RANGE_TOO_LONG", f"from and to are {days:.0f} days apart; ask for {MAX_RANGE_DAYS} at most at a time")
    return from_ns, to_ns


def _ordered(start: str, end: str) -> tuple[int, int]:
    from_ns, to_ns = _nanoseconds("from", start), _nanoseconds("to", end)
    if from_ns >= to_ns:
        raise Problem(422, "INVALID_REQUEST", f"from ({start}) is not before to ({end})")
    return from_ns, to_ns


def _nanoseconds(name: str, text: str) -> int:
    try:
        if text.isascii() and text.isdigit():
            moment = int(text)
        else:
            parsed = datetime.fromisoformat(text)
            parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
            since = parsed - datetime(1970, 1, 1, tzinfo=UTC)
            moment = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
    except (ValueError, OverflowError):
        moment = -1
    if moment != 0 and not _EARLIEST_NS <= moment < _LATEST_NS:
        expected = "a time after 1973 in ISO 8601 or UTC nanoseconds (a + in a query is %2B)"
        raise Problem(422, "INVALID_REQUEST", f"{name} is {text[:40]!r}, expected {expected}")
    return moment


def _utc(moment_ns: int) -> datetime:
    return datetime.fromtimestamp(moment_ns // 1_000_000_000, UTC).replace(microsecond=moment_ns // 1_000 % 1_000_000)


# --- what is answered --------------------------------------------------------------------------------------------------------


def _arrow(batches: Iterator[pa.RecordBatch], symbol: str, price_scale: int, size_scale: int) -> Iterator[bytes]:
    schema = SCHEMA.with_metadata({"symbol": symbol, "price_scale": str(price_scale), "size_scale": str(size_scale)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def _csv(batches: Iterator[pa.RecordBatch], price_scale: int, size_scale: int) -> Iterator[bytes]:
    yield (",".join(_CSV_COLUMNS) + "\n").encode()
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    for batch in batches:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        flags = columns["flags"].to_numpy()
        rows = pa.RecordBatch.from_arrays(
            [
                columns["ts_event"],
                columns["ts_recv"],
                _named(flags, {TRADE: "trade", BID: "bid", ASK: "ask"}),
                _decimal(columns["price"], price_scale),
                _decimal(columns["size"], size_scale),
                _named(flags, {BUY_AGGRESSOR: "buy", SELL_AGGRESSOR: "sell"}),
                columns["flags"],
            ],
            names=list(_CSV_COLUMNS),
        )
        sink = io.BytesIO()
        pa.csv.write_csv(rows, sink, options)
        yield sink.getvalue()


def _named(flags: Any, names: dict[int, str]) -> Any:
    """The name of the bit that is set, empty where none is."""
    table = np.full(256, "", dtype=object)
    for bit, name in names.items():
        table[(np.arange(256) & bit) != 0] = name
    return pa.array(table[flags], pa.string())


def _decimal(column: Any, scale: int) -> Any:
    """int64 at a scale as the decimal it means: the same digits, 128 bits wide."""
    values = column.to_numpy()
    wide = np.empty((len(values), 2), dtype=np.int64)
    wide[:, 0], wide[:, 1] = values, values >> 63
    return pa.Array.from_buffers(pa.decimal128(19, scale), len(values), [None, pa.py_buffer(wide.tobytes())])


async def _candle_pages(
    db: Database, instrument_id: int, interval_s: int, start: datetime, end: datetime
) -> AsyncIterator[list[StoredCandle]]:
    while True:
        asked = {"instrument": instrument_id, "interval": interval_s, "start": start, "end": end, "limit": CANDLES_AT_ONCE}
        page = await db.fetch_all(_CANDLES, asked, as_=StoredCandle)
        yield page
        if len(page) < CANDLES_AT_ONCE:
            return
        start = datetime.fromtimestamp(page[-1].ts_open.timestamp() + 1, UTC)


async def _candle_lines(first: list[StoredCandle], pages: AsyncIterator[list[StoredCandle]]) -> AsyncIterator[str]:
    yield "timestamp,open,high,low,close,volume,source\n"
    yield _lines(first)
    async for page in pages:
        yield _lines(page)


def _lines(page: list[StoredCandle]) -> str:
    """`timestamp` in epoch milliseconds."""
    text = io.StringIO()
    figures = ("open", "high", "low", "close", "volume")
    csv.writer(text, lineterminator="\n").writerows(
        [int(candle.ts_open.timestamp()) * 1000, *(money.text(getattr(candle, name)) for name in figures), candle.source] for candle in page
    )
    return text.getvalue()
