"""Candles in PostgreSQL. Closed candles wait here and go in together, one statement for thousands; the same candle twice is once.

COPY knows no ON CONFLICT and a staging table needs a right the application role is better without, so the rows travel as
arrays. Prices leave int64 here: the database scales them by the instrument's own scales, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

import numpy as np

from trading_platform.db import Database
from trading_platform.market.candles import Candles
from trading_platform.market_data import metrics
from trading_platform.service import LoopContext

SECOND_NS: Final = 1_000_000_000
WAITING: Final = 500_000
ROWS_AT_ONCE: Final = 5_000
WRITE_EVERY_S: Final = 0.25

_INSERT: Final = """
INSERT INTO candles (instrument_id, interval_s, ts_open, open, high, low, close, volume, source)
SELECT c.instrument_id, c.interval_s, to_timestamp(c.opened_s),
       trim_scale(c.open * power(10::numeric, -i.price_scale)), trim_scale(c.high * power(10::numeric, -i.price_scale)),
       trim_scale(c.low * power(10::numeric, -i.price_scale)), trim_scale(c.close * power(10::numeric, -i.price_scale)),
       trim_scale(c.volume * power(10::numeric, -i.size_scale)), %(source)s
  FROM unnest(%(instrument)s::int[], %(interval)s::int[], %(opened)s::bigint[], %(open)s::bigint[], %(high)s::bigint[],
              %(low)s::bigint[], %(close)s::bigint[], %(volume)s::bigint[])
    AS c (instrument_id, interval_s, opened_s, open, high, low, close, volume)
  JOIN instruments i ON i.id = c.instrument_id
ON CONFLICT (instrument_id, interval_s, ts_open) DO NOTHING
"""

_HISTORY: Final = """
SELECT ts_open, open, high, low, close, volume, source
  FROM (SELECT * FROM candles
         WHERE instrument_id = %(instrument)s AND interval_s = %(interval)s
           AND ts_open >= %(start)s AND ts_open < %(end)s
         ORDER BY ts_open DESC LIMIT %(limit)s) AS newest
 ORDER BY ts_open
"""


@dataclass(frozen=True, slots=True)
class StoredCandle:
    """A candle as people see it: the instrument's units, not its scales."""

    ts_open: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    source: str


class CandleStore:
    """Writes what it was given as soon as the database is there; reads history."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[tuple[Candles, str]] = []
        self._rows = 0
        self._months: set[date] = set()

    def add(self, candles: Candles, source: str) -> None:
        """Take closed candles in; they are written by `run`. Beyond WAITING rows the oldest are given up and counted."""
        if not len(candles):
            return
        self._waiting.append((candles, source))
        self._rows += len(candles)
        while self._rows > WAITING:
            oldest, _ = self._waiting.pop(0)
            self._rows -= len(oldest)
            metrics.CANDLES_DROPPED.labels("postgresql").inc(len(oldest))

    @property
    def waiting(self) -> int:
        return self._rows

    async def run(self, context: LoopContext) -> None:
        """Write until the service stops; what waits at the end is written before."""
        while True:
            context.beat()
            while self._waiting:
                await self._write_some()
                context.beat()
            if context.stopping:
                return
            await context.sleep(WRITE_EVERY_S)

    async def _write_some(self) -> None:
        source = self._waiting[0][1]
        taken, rows = 0, 0
        for candles, its_source in self._waiting:
            if its_source != source or (rows and rows + len(candles) > ROWS_AT_ONCE):
                break
            taken, rows = taken + 1, rows + len(candles)
        parts = self._waiting[:taken]
        await self.write(Candles.concatenate([candles for candles, _ in parts]), source)
        # While this was written, others may have been added behind, or these given up in front.
        written = {id(candles) for candles, _ in parts}
        self._waiting = [part for part in self._waiting if id(part[0]) not in written]
        self._rows = sum(len(candles) for candles, _ in self._waiting)

    async def write(self, candles: Candles, source: str) -> int:
        """How many of them were new. Raises one of db.TRANSIENT."""
        await self._ensure_partitions(candles)
        seconds = candles.ts_open // SECOND_NS
        stored = await self._db.execute(
            _INSERT,
            {
                "source": source,
                "instrument": candles.instrument.tolist(),
                "interval": (candles.interval // SECOND_NS).tolist(),
                "opened": seconds.tolist(),
                "open": candles.open.tolist(),
                "high": candles.high.tolist(),
                "low": candles.low.tolist(),
                "close": candles.close.tolist(),
                "volume": candles.volume.tolist(),
            },
        )
        metrics.CANDLES_STORED.inc(stored)
        return stored

    async def _ensure_partitions(self, candles: Candles) -> None:
        months = np.unique(candles.ts_open.astype("datetime64[ns]").astype("datetime64[M]")).astype("datetime64[D]").tolist()
        for month in months:
            if month not in self._months:
                await self._db.fetch_value("SELECT ensure_candle_partition(%s)", (month,))
                self._months.add(month)

    async def newest(self, instrument_ids: list[int], intervals_s: list[int]) -> dict[tuple[int, int], int]:
        """When the newest stored candle of each (instrument, interval) opened, UTC nanoseconds."""
        rows = await self._db.fetch_tuples(
            "SELECT wanted.instrument_id, wanted.interval_s, extract(epoch FROM newest.ts_open)::bigint"
            "  FROM (SELECT * FROM unnest(%s::int[]) AS i (instrument_id), unnest(%s::int[]) AS n (interval_s)) AS wanted,"
            "       LATERAL (SELECT c.ts_open FROM candles c WHERE c.instrument_id = wanted.instrument_id"
            "                 AND c.interval_s = wanted.interval_s ORDER BY c.ts_open DESC LIMIT 1) AS newest",
            (instrument_ids, intervals_s),
        )
        return {(instrument, interval): seconds * SECOND_NS for instrument, interval, seconds in rows}

    async def history(self, instrument_id: int, interval_s: int, start: datetime, end: datetime, limit: int) -> list[StoredCandle]:
        """The newest `limit` candles opened in [start, end), oldest first."""
        return await self._db.fetch_all(
            _HISTORY,
            {
                "instrument": instrument_id,
                "interval": interval_s,
                "start": start.astimezone(UTC),
                "end": end.astimezone(UTC),
                "limit": limit,
            },
            as_=StoredCandle,
        )
