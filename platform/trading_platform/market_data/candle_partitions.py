"""Months of the candle table: made ahead, freed from rows that fell into the default partition, dropped when their time is over.

One host does it, under a lease. Where a table is in use for long, the step is given up and tried in the next pass.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg

from trading_platform.config import MarketDataSettings
from trading_platform.db import Database
from trading_platform.market_data import lake_metrics
from trading_platform.problems import Problem
from trading_platform.service import LoopContext

log = logging.getLogger(__name__)

LEASE: Final = "candle-partitions"
EVERY_S: Final = 3_600.0
COUNTED: Final = 10_001
_DEFAULT_ROWS: Final = "SELECT count(*) FROM (SELECT FROM candles_default LIMIT %s) AS counted"


class CandlePartitions:
    """The upkeep of one process; whoever holds the lease works, everybody looks."""

    def __init__(self, settings: MarketDataSettings, db: Database) -> None:
        self._settings = settings
        self._db = db

    async def run(self, context: LoopContext) -> None:
        """A pass, then one an hour."""
        while not context.stopping:
            context.beat()
            await self.maintain(context, datetime.now(UTC).date())
            due = time.monotonic() + EVERY_S
            while not context.stopping and time.monotonic() < due:
                context.beat()
                await context.sleep(1.0)

    async def maintain(self, context: LoopContext, today: date) -> None:
        """What is due on that day, a month a transaction. Raises one of db.TRANSIENT when the database is away."""
        for month in months_ahead(today, self._settings.candle_partitions_ahead):
            await self._db.fetch_value("SELECT ensure_candle_partition(%s)", (month,))
            context.beat()
        await self._repeat(context, "adopted candles of the default partition", "SELECT adopt_default_candles()", ())
        if self._settings.candle_retention_days is not None:
            keep_from = today - timedelta(days=self._settings.candle_retention_days)
            await self._repeat(context, "dropped candles", "SELECT drop_candle_partition(%s)", (keep_from,))
        await self._measure(today)

    async def _repeat(self, context: LoopContext, done: str, step: str, parameters: tuple[Any, ...]) -> None:
        """The step until it has nothing to do any more; given up for this time where a lock is not to be had."""
        try:
            while not context.stopping and (partition := await self._db.fetch_value(step, parameters)) is not None:
                context.beat()
                context.lease.assert_held()
                log.info(done, extra={"partition": partition})
        except psycopg.errors.LockNotAvailable as error:
            log.warning("candle partitions are in use; tried again later", extra={"step": step, "error": str(error)[:300]})

    async def _measure(self, today: date) -> None:
        ahead = 0
        for month in months_ahead(today, self._settings.candle_partitions_ahead):
            ahead += bool(await self._db.fetch_value("SELECT to_regclass(%s) IS NOT NULL", (f"public.candles_{month:%Y_%m}",)))
        lake_metrics.PARTITIONS_AHEAD.set(ahead)

    async def check(self) -> None:
        """Raises Problem while rows sit in the default partition: their month cannot be made, nor dropped, before they are moved."""
        rows = int(await self._db.fetch_value(_DEFAULT_ROWS, (COUNTED,)))
        lake_metrics.DEFAULT_ROWS.set(rows)
        if rows:
            told = f"{rows}" if rows < COUNTED else f"more than {COUNTED - 1}"
            raise Problem(503, "CANDLES_WITHOUT_PARTITION", f"{told} candles are in the default partition; they are moved within the hour")


def months_ahead(today: date, ahead: int) -> list[date]:
    """First days of this month and of the next `ahead`."""
    first = today.year * 12 + today.month - 1
    return [date(month // 12, month % 12 + 1, 1) for month in range(first, first + ahead + 1)]
