"""The paper venue: matches orders against our own market data and keeps its own books (schema paper_venue).

Its books survive the engine: what was accepted or filled before a crash is there after it. It sees the market while it
runs (stream md:ticks); ticks of the time it was down fill nothing. Market orders fill in full at the top of the book.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from trading_platform import batches, bus, db, messages
from trading_platform.batches import InvalidBatch, TickBatch
from trading_platform.bus import Bus
from trading_platform.config import EngineSettings
from trading_platform.db import Database
from trading_platform.domain import matching
from trading_platform.domain.matching import Execution, Top
from trading_platform.domain.orders import Fill, Intent
from trading_platform.engine.metrics import BAD_BATCHES
from trading_platform.engine.venue import VenueOrder, VenueRejected, VenueTrade, VenueUnknown
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.messages import Side
from trading_platform.service import LoopContext

NAME = "paper"

_ORDER_COLUMNS = "venue_order_id, account_id, client_order_id, symbol, side, type, quantity, limit_price, status, filled_quantity, reason"


@dataclass(frozen=True, slots=True)
class PaperOrder:
    """A row of paper_venue.orders."""

    venue_order_id: int
    account_id: str
    client_order_id: str
    symbol: str
    side: Side
    type: str
    quantity: Decimal
    limit_price: Decimal | None
    status: str
    filled_quantity: Decimal
    reason: str | None

    @property
    def open_quantity(self) -> Decimal:
        return self.quantity - self.filled_quantity

    def to_venue_order(self) -> VenueOrder:
        return VenueOrder(self.client_order_id, str(self.venue_order_id), self.status, self.filled_quantity, self.reason)


@dataclass(frozen=True, slots=True)
class _Trade:
    """A row of paper_venue.trades with the client's id."""

    trade_id: int
    client_order_id: str
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_currency: str
    liquidity: str
    executed_at: datetime
    ts_event_ns: int


@dataclass(frozen=True, slots=True)
class _Market:
    """An instrument's top of book and when this platform received it."""

    top: Top
    ts_recv_ns: int


class PaperVenue:
    """A venue (see venue.py) inside the engine's process."""

    name = NAME

    def __init__(self, database: Database, stream: Bus, catalogue: Catalogue, settings: EngineSettings, max_data_age_s: float) -> None:
        self._db = database
        self._bus = stream
        self._catalogue = catalogue
        self._settings = settings
        self._max_age_ns = int(max_data_age_s * 1e9)
        self._lock = asyncio.Lock()
        self._resting: dict[str, list[PaperOrder]] = {}
        self._market: dict[str, _Market] = {}
        self._activity = asyncio.Event()

    # --- the venue's interface ----------------------------------------------------------------------------------------

    async def submit(self, intent: Intent) -> VenueOrder:
        async with _unknown_when_away(), self._lock:
            known = await self._find(intent.account_id, intent.client_order_id)
            if known is None:
                known = await self._accept(intent)
            if known.status == "REJECTED":
                code, _, detail = (known.reason or "REJECTED: ").partition(": ")
                raise VenueRejected(code, detail)
            return known.to_venue_order()

    async def cancel(self, account_id: str, client_order_id: str) -> VenueOrder:
        async with _unknown_when_away(), self._lock:
            order = await self._find(account_id, client_order_id)
            if order is None or order.status not in ("NEW", "PARTIALLY_FILLED"):
                raise VenueRejected("ORDER_NOT_OPEN", f"{client_order_id} is {order.status if order else 'not known here'}")
            async with self._db.transaction() as cursor:
                await _update(cursor, replace(order, status="CANCELED"))
            self._forget(order)
            return replace(order, status="CANCELED").to_venue_order()

    async def query(self, account_id: str, client_order_id: str) -> VenueOrder | None:
        async with _unknown_when_away():
            order = await self._find(account_id, client_order_id)
            return order.to_venue_order() if order else None

    async def open_orders(self, account_id: str) -> list[VenueOrder]:
        async with _unknown_when_away():
            return [order.to_venue_order() for order in await self._load_open() if order.account_id == account_id]

    async def trades(self, account_id: str, after_trade_id: str | None, limit: int) -> list[VenueTrade]:
        async with _unknown_when_away():
            rows = await self._db.fetch_all(
                "SELECT t.trade_id, o.client_order_id, t.price, t.quantity, t.fee, t.fee_currency, t.liquidity, t.executed_at,"
                " t.ts_event_ns FROM paper_venue.trades t JOIN paper_venue.orders o USING (venue_order_id)"
                " WHERE t.account_id = %s AND t.trade_id > %s ORDER BY t.trade_id LIMIT %s",
                (account_id, int(after_trade_id or 0), limit),
                as_=_Trade,
            )
        return [_venue_trade(row) for row in rows]

    async def changed(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._activity.wait(), timeout_s)
        self._activity.clear()

    # --- the market ---------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Follow the market and match resting orders against it."""
        async with self._lock:
            self._resting.clear()
            for order in await self._load_open():
                self._resting.setdefault(order.symbol, []).append(order)
        tail = self._bus.tail(messages.TICKS)
        while not context.stopping:
            for entry in await tail.read(block_ms=500):
                try:
                    batch = TickBatch.decode(entry.fields.get(b"b", b""))
                except InvalidBatch:
                    BAD_BATCHES.inc()
                    continue
                await self.on_batch(batch)
            context.beat()

    async def on_batch(self, batch: TickBatch) -> None:
        """One batch of ticks: new tops of book, and what they fill."""
        async with self._lock:
            for instrument_id in np.unique(batch.instrument):
                try:
                    instrument = self._catalogue.id(int(instrument_id))
                except LookupError:
                    continue
                rows = np.flatnonzero(batch.instrument == instrument_id)
                for order in list(self._resting.get(instrument.symbol, ())):
                    await self._match(order, instrument, batch, rows)
                self._market[instrument.symbol] = _newest(self._market.get(instrument.symbol), instrument, batch, rows)

    async def _match(self, order: PaperOrder, instrument: Instrument, batch: TickBatch, rows: np.ndarray[Any, Any]) -> None:
        """Fill a resting order from the rows that reach its price, first come first."""
        assert order.limit_price is not None, "only limit orders rest"
        limit = instrument.scaled_price(order.limit_price)
        price, flags = batch.price[rows], batch.flags[rows]
        trades = (flags & batches.TRADE) != 0
        if order.side == "buy":
            reached = (((flags & batches.ASK) != 0) & (price <= limit)) | (trades & (price < limit))
        else:
            reached = (((flags & batches.BID) != 0) & (price >= limit)) | (trades & (price > limit))
        executions: list[tuple[Execution, int]] = []
        left = order.open_quantity
        for row in rows[reached]:
            available = instrument.size(int(batch.size[row])) if batch.size[row] > 0 else left
            if (quantity := min(left, available)) > 0:
                executions.append((Execution(order.limit_price, quantity, "maker"), int(batch.ts_event[row])))
                left -= quantity
            if left == 0:
                break
        if executions:
            await self._execute(order, instrument, executions)

    async def _top(self, instrument: Instrument) -> Top:
        """The top of the book an arriving order meets. Raises VenueRejected where the market is not there."""
        market = self._market.get(instrument.symbol)
        if market is None:
            quote = (await self._bus.quotes([instrument.symbol])).get(instrument.symbol)
            if quote is not None:
                bid, ask, last = (None if p is None else instrument.price(p) for p in (quote.bid, quote.ask, quote.last))
                market = _Market(Top(bid, ask, last, ts_event_ns=quote.ts_event_ns), quote.ts_recv_ns)
        if market is None or time.time_ns() - market.ts_recv_ns > self._max_age_ns:
            raise VenueRejected("NO_MARKET", f"no current price of {instrument.symbol}")
        return market.top

    # --- the books ----------------------------------------------------------------------------------------------------

    async def _accept(self, intent: Intent) -> PaperOrder:
        """Write a new order, and what it trades on arrival, in one transaction."""
        instrument = self._catalogue.symbol(intent.symbol)
        try:
            top = await self._top(instrument)
        except VenueRejected as refusal:
            return await self._reject(intent, str(refusal))
        execution = matching.take(intent.side, intent.quantity, intent.limit_price, top)
        if execution is None and intent.type == "market":
            return await self._reject(intent, f"NO_MARKET: nobody to trade {intent.symbol} with")
        async with self._db.transaction() as cursor:
            order = await _insert(cursor, intent, "NEW", None)
            if execution is not None:
                order = await self._book(cursor, order, instrument, [(execution, top.ts_event_ns)])
            if order.open_quantity > 0 and intent.time_in_force == "IOC":
                order = replace(order, status="CANCELED")
                await _update(cursor, order)
        if order.status in ("NEW", "PARTIALLY_FILLED"):
            self._resting.setdefault(order.symbol, []).append(order)
        self._activity.set()
        return order

    async def _reject(self, intent: Intent, reason: str) -> PaperOrder:
        async with self._db.transaction() as cursor:
            return await _insert(cursor, intent, "REJECTED", reason)

    async def _execute(self, order: PaperOrder, instrument: Instrument, executions: list[tuple[Execution, int]]) -> None:
        async with self._db.transaction() as cursor:
            after = await self._book(cursor, order, instrument, executions)
        self._forget(order)
        if after.open_quantity > 0:
            self._resting.setdefault(after.symbol, []).append(after)
        self._activity.set()

    async def _book(
        self, cursor: AsyncCursor[TupleRow], order: PaperOrder, instrument: Instrument, executions: list[tuple[Execution, int]]
    ) -> PaperOrder:
        """Write executions and the order they leave."""
        for execution, ts_event_ns in executions:
            rate = self._settings.maker_fee_bps if execution.liquidity == "maker" else self._settings.taker_fee_bps
            fee = matching.fee(instrument.notional(execution.quantity, execution.price), rate)
            await cursor.execute(
                "INSERT INTO paper_venue.trades"
                " (venue_order_id, account_id, price, quantity, fee, fee_currency, liquidity, executed_at, ts_event_ns)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    order.venue_order_id, order.account_id, execution.price, execution.quantity, fee, instrument.quote_currency,
                    execution.liquidity, datetime.now(UTC), ts_event_ns,
                ),
            )  # fmt: skip
            order = replace(order, filled_quantity=order.filled_quantity + execution.quantity)
        order = replace(order, status="FILLED" if order.open_quantity == 0 else "PARTIALLY_FILLED")
        await _update(cursor, order)
        return order

    def _forget(self, order: PaperOrder) -> None:
        resting = self._resting.get(order.symbol, [])
        resting[:] = [other for other in resting if other.venue_order_id != order.venue_order_id]

    async def _find(self, account_id: str, client_order_id: str) -> PaperOrder | None:
        return await self._db.fetch_one(
            f"SELECT {_ORDER_COLUMNS} FROM paper_venue.orders WHERE account_id = %s AND client_order_id = %s",
            (account_id, client_order_id),
            as_=PaperOrder,
        )

    async def _load_open(self) -> list[PaperOrder]:
        return await self._db.fetch_all(
            f"SELECT {_ORDER_COLUMNS} FROM paper_venue.orders WHERE status IN ('NEW', 'PARTIALLY_FILLED') ORDER BY venue_order_id",
            as_=PaperOrder,
        )


@asynccontextmanager
async def _unknown_when_away() -> AsyncIterator[None]:
    """To the engine, a venue that cannot reach its books is one that does not answer."""
    try:
        yield
    except (*db.TRANSIENT, *bus.TRANSIENT) as error:
        raise VenueUnknown(f"the paper venue does not answer: {error}") from error


async def _insert(cursor: AsyncCursor[TupleRow], intent: Intent, status: str, reason: str | None) -> PaperOrder:
    await cursor.execute(
        "INSERT INTO paper_venue.orders"
        " (account_id, client_order_id, symbol, side, type, quantity, limit_price, status, reason, created_at)"
        f" VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING {_ORDER_COLUMNS}".encode(),
        (
            intent.account_id, intent.client_order_id, intent.symbol, intent.side, intent.type, intent.quantity, intent.limit_price,
            status, reason, datetime.now(UTC),
        ),
    )  # fmt: skip
    row = await cursor.fetchone()
    assert row is not None, "INSERT … RETURNING answers a row"
    return PaperOrder(*row)


async def _update(cursor: AsyncCursor[TupleRow], order: PaperOrder) -> None:
    await cursor.execute(
        "UPDATE paper_venue.orders SET status = %s, filled_quantity = %s WHERE venue_order_id = %s",
        (order.status, order.filled_quantity, order.venue_order_id),
    )


def _venue_trade(row: _Trade) -> VenueTrade:
    fill = Fill(
        trade_id=str(row.trade_id),
        quantity=row.quantity,
        price=row.price,
        fee=row.fee,
        fee_currency=row.fee_currency,
        liquidity="maker" if row.liquidity == "maker" else "taker",
        executed_at=row.executed_at,
        ts_event_ns=row.ts_event_ns,
    )
    return VenueTrade(row.client_order_id, fill)


def _newest(known: _Market | None, instrument: Instrument, batch: TickBatch, rows: np.ndarray[Any, Any]) -> _Market:
    """The top of the book after the rows of one instrument."""
    top = known.top if known else Top()
    flags = batch.flags[rows]
    for bit, price_name, size_name in (
        (batches.BID, "bid", "bid_size"),
        (batches.ASK, "ask", "ask_size"),
        (batches.TRADE, "last", None),
    ):
        hits = rows[(flags & bit) != 0]
        if not len(hits):
            continue
        newest = hits[-1]
        changes: dict[str, Any] = {price_name: instrument.price(int(batch.price[newest]))}
        if size_name:
            changes[size_name] = instrument.size(int(batch.size[newest])) if batch.size[newest] > 0 else None
        top = replace(top, **changes)
    return _Market(replace(top, ts_event_ns=int(batch.ts_event[rows[-1]])), int(batch.ts_recv[rows[-1]]))
