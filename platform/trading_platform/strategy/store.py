"""What the strategy reads (positions, past candles) and the journal it keeps (MongoDB, buffered, never in the way)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import datetime
from decimal import Decimal
from typing import Any

from prometheus_client import Counter, Gauge
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from trading_platform.db import Database
from trading_platform.documents import Documents
from trading_platform.instruments import Instrument
from trading_platform.messages import Candle
from trading_platform.service import LoopContext

log = logging.getLogger(__name__)

BUFFERED = Gauge("smc_trading_journal_buffered", "Decisions not yet in the journal")
DROPPED = Counter("smc_trading_journal_dropped_total", "Decisions that fell out of the full buffer")

CAPACITY = 10_000
BATCH = 200
RETRY_S = 2.0
DUPLICATE_KEY = 11000


class DecisionJournal:
    """Decisions on their way to MongoDB. When it is away they wait, up to CAPACITY; then the oldest are dropped and counted.

    `strategy` is what the decisions refer to; it is written before them, once, and never changed: other settings or other code are
    another document.
    """

    def __init__(self, documents: Documents, strategy: dict[str, Any], capacity: int = CAPACITY) -> None:
        self._documents = documents
        self._strategy: dict[str, Any] | None = strategy
        self._waiting: deque[dict[str, Any]] = deque(maxlen=capacity)
        self._filled = asyncio.Event()
        self._is_away = False

    def add(self, document: dict[str, Any]) -> None:
        """Keep a decision; `_id` makes it unique. Never waits, never fails."""
        if len(self._waiting) == self._waiting.maxlen:
            DROPPED.inc()
        self._waiting.append(document)
        BUFFERED.set(len(self._waiting))
        self._filled.set()

    async def run(self, context: LoopContext) -> None:
        """Write what waits; for Service.loop."""
        while not context.stopping:
            context.beat()
            if not self._waiting and self._strategy is None:
                self._filled.clear()
                waiter = asyncio.create_task(self._filled.wait())
                await asyncio.wait({waiter}, timeout=1.0)
                waiter.cancel()
                continue
            if not await self.flush():
                await context.sleep(RETRY_S)
        if self._waiting:
            await self.flush()

    async def flush(self) -> bool:
        """Write the strategy and one batch; False when MongoDB is away. What is already there is left as it is."""
        batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
        try:
            if self._strategy is not None:
                await self._write_strategy(self._strategy)
                self._strategy = None
            if batch:
                await self._documents.database["decisions"].insert_many(batch, ordered=False)
        except BulkWriteError as error:
            if any(problem.get("code") != DUPLICATE_KEY for problem in error.details.get("writeErrors", [])):
                log.warning("decisions refused by the journal", extra={"error": str(error)[:500]})
                return False
        except (PyMongoError, RuntimeError) as error:
            # RuntimeError: with no server there the driver's condition can find its own lock released (Python 3.11's wait_for).
            if not self._is_away:
                log.warning("journal is away; decisions wait", extra={"waiting": len(self._waiting), "error": str(error)[:200]})
            self._is_away = True
            return False
        if self._is_away:
            log.info("journal is back", extra={"waiting": len(self._waiting)})
            self._is_away = False
        written = {id(document) for document in batch}
        while self._waiting and id(self._waiting[0]) in written:
            self._waiting.popleft()
        BUFFERED.set(len(self._waiting))
        return True

    async def _write_strategy(self, strategy: dict[str, Any]) -> None:
        """Two hosts may write the same one at the same moment: the first stays."""
        try:
            await self._documents.database["strategies"].update_one({"_id": strategy["_id"]}, {"$setOnInsert": strategy}, upsert=True)
        except DuplicateKeyError:
            log.debug("strategy is known already", extra={"strategy": strategy["_id"]})


class StrategyStore:
    """Reads of PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def held(self, account_id: str, instrument: Instrument) -> Decimal:
        """Signed position, long and short of a hedging account together, fills included that the projection has not reached."""
        value: Decimal = await self._db.fetch_value(
            "SELECT coalesce((SELECT sum(quantity) FROM positions WHERE account_id = %(account)s AND instrument_id = %(instrument)s), 0)"
            " + coalesce((SELECT sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) FROM fills"
            "   WHERE account_id = %(account)s AND instrument_id = %(instrument)s"
            "   AND seq > coalesce((SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %(account)s), 0)), 0)",
            {"account": account_id, "instrument": instrument.id},
        )
        return value

    async def has_working_order(self, account_id: str, instrument: Instrument) -> bool:
        """Whether an order of the instrument is still on its way."""
        return bool(
            await self._db.fetch_value(
                "SELECT EXISTS (SELECT FROM orders WHERE account_id = %s AND instrument_id = %s"
                " AND status NOT IN ('FILLED', 'CANCELED', 'REJECTED', 'EXPIRED'))",
                (account_id, instrument.id),
            )
        )

    async def settled(self, account_id: str, signal_id: str) -> bool:
        """Whether the order of a signal is at its end."""
        return bool(
            await self._db.fetch_value(
                "SELECT EXISTS (SELECT FROM orders WHERE account_id = %s AND signal_id = %s"
                " AND status IN ('FILLED', 'CANCELED', 'REJECTED', 'EXPIRED'))",
                (account_id, signal_id),
            )
        )

    async def past_candles(self, instrument: Instrument, interval_s: int, source: str, before: datetime, count: int) -> list[Candle]:
        """The newest `count` candles of one source that opened before `before`, oldest first."""
        rows = await self._db.fetch_tuples(
            "SELECT ts_open, open, high, low, close, volume FROM candles WHERE instrument_id = %s AND interval_s = %s"
            " AND source = %s AND ts_open < %s ORDER BY ts_open DESC LIMIT %s",
            (instrument.id, interval_s, source, before, count),
        )
        return [
            Candle(
                symbol=instrument.symbol,
                interval_s=interval_s,
                ts_open_ns=int(row[0].timestamp()) * 1_000_000_000,
                open=instrument.scaled_price(row[1]),
                high=instrument.scaled_price(row[2]),
                low=instrument.scaled_price(row[3]),
                close=instrument.scaled_price(row[4]),
                volume=instrument.scaled_size(row[5]),
                source=source,
            )
            for row in reversed(rows)
        ]
