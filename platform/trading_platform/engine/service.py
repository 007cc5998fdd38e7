"""The order loop of one account: signals and requests in, orders committed before they are sent, fills recorded once.

Recovery is the start: every order that is not at its end is compared with the venue before anything new is taken. An
order the venue did not answer for is UNKNOWN until the venue is asked by its id; it is never sent again. A difference
nobody can explain puts the account on reduce-only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from trading_platform import accounts, instruments, messages, money
from trading_platform.bus import Bus, Entry
from trading_platform.config import AccountSettings, Settings
from trading_platform.db import Database
from trading_platform.domain.orders import (
    Event,
    EventType,
    IllegalTransition,
    Intent,
    Order,
    OrderType,
    Overfill,
    Status,
    TimeInForce,
    advance,
    client_order_id,
    initialize,
)
from trading_platform.engine import metrics
from trading_platform.engine.paper import PaperVenue
from trading_platform.engine.risk_client import RiskClient
from trading_platform.engine.store import DuplicateFill, OrderStore
from trading_platform.engine.venue import Venue, VenueOrder, VenueRejected, VenueTrade, VenueUnknown
from trading_platform.instruments import Catalogue, InvalidOrder, UnknownInstrument
from trading_platform.leadership import Lease
from trading_platform.messages import InvalidMessage, Side, Signal
from trading_platform.service import LoopContext, together

log = logging.getLogger(__name__)

ACTOR = "engine"
RECONCILE_EVERY_S = 15.0
MAX_TRADES = 500

# States in which a new order may be sent; risk sees to it that in `reducing` it reduces.
TRADING = frozenset({"running", "reducing"})


class NotLeading(Exception):
    """Another host leads this account; the request belongs there."""


class UnknownOrder(LookupError):
    """No order of that id."""


class NotOpen(Exception):
    """The order is at its end; there is nothing to cancel."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order somebody asks for. `origin` makes it unique: the same origin again is the same order."""

    origin: str
    symbol: str
    side: Side
    type: OrderType
    quantity: Decimal
    limit_price: Decimal | None = None
    time_in_force: TimeInForce = "GTC"
    strategy: str | None = None
    signal_id: str | None = None


class AccountEngine:
    """Orders of one account, while its lease is held."""

    def __init__(self, account: AccountSettings, settings: Settings, database: Database, stream: Bus, risk: RiskClient) -> None:
        self.account = account
        self._settings = settings
        self._db = database
        self._bus = stream
        self._risk = risk
        self._store = OrderStore(database)
        self._lock = asyncio.Lock()
        self._lease: Lease | None = None
        self._venue: Venue | None = None
        self._catalogue: Catalogue | None = None
        self._reported: set[str] = set()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Recover, then trade until stopped. For Service.loop with a lease."""
        await accounts.ensure(self._db, self._settings)
        self._catalogue = await instruments.load(self._db)
        venue = PaperVenue(self._db, self._bus, self._catalogue, self._settings.engine, self._settings.risk.max_data_age_s)
        self._venue = venue
        self._lease = context.lease
        try:
            async with self._lock:
                await self._reconcile(starting=True)
            log.info("recovered; trading may begin", extra={"account": self.account.id})
            await together(context, market=venue.run, signals=self._signals, fills=self._fills, reconcile=self._reconciling)
        finally:
            self._lease = None

    async def _signals(self, context: LoopContext) -> None:
        """Every signal becomes an order or a reason why not; it is acknowledged when that is committed."""
        group = self._bus.group(messages.SIGNALS, f"engine:{self.account.id}", exclusive=True)
        while not context.stopping:
            context.beat()
            for entry in await group.read(count=10, block_ms=500):
                await self._on_entry(entry)
                await group.ack(entry)
                context.beat()

    async def _on_entry(self, entry: Entry) -> None:
        try:
            signal = messages.decode(entry.fields, Signal)
        except InvalidMessage as error:
            log.error("signal refused", extra={"error": str(error), "entry": entry.id.decode()})
            metrics.SIGNALS.labels("invalid").inc()
            return
        if signal.account != self.account.id:
            return
        age_s = time.time() - signal.ts_ns / 1e9
        if age_s > self._settings.engine.signal_max_age_s:
            log.warning("signal too old to trade", extra={"signal": signal.id, "age_s": round(age_s, 1)})
            metrics.SIGNALS.labels("too_old").inc()
            return
        try:
            request = OrderRequest(
                origin=signal.id,
                symbol=signal.symbol,
                side=signal.side,
                type="market",
                quantity=money.parse(signal.quantity),
                strategy=f"{signal.strategy}@{signal.version}",
                signal_id=signal.id,
            )
            order, created = await self.place(request, actor=f"strategy:{signal.strategy}")
        except (InvalidOrder, UnknownInstrument, money.MoneyError) as error:
            log.error("signal refused", extra={"signal": signal.id, "error": str(error)})
            metrics.SIGNALS.labels("invalid").inc()
            return
        metrics.SIGNALS.labels("traded" if created else "duplicate").inc()
        if created:
            self._observe_slippage(order, signal)
        log.info("signal handled", extra={"signal": signal.id, "client_order_id": order.id, "status": order.status, "new": created})

    async def _fills(self, context: LoopContext) -> None:
        """Record executions as the venue makes them."""
        venue = self._require_venue()
        while not context.stopping:
            context.beat()
            await venue.changed(timeout_s=0.5)
            async with self._lock:
                try:
                    await self._sync_fills()
                except VenueUnknown as error:
                    log.warning("venue does not answer", extra={"error": str(error)})
                    await context.sleep(0.5)

    async def _reconciling(self, context: LoopContext) -> None:
        """Ask for what the venue did not answer, and compare the books now and then."""
        due = time.monotonic() + RECONCILE_EVERY_S
        while not context.stopping:
            context.beat()
            await context.sleep(1.0)
            async with self._lock:
                unknown = [order for order in await self._store.open_orders(self.account.id) if order.status is Status.UNKNOWN]
                metrics.UNKNOWN_ORDERS.labels(self.account.id).set(len(unknown))
                if unknown or time.monotonic() >= due:
                    await self._reconcile(starting=False)
                    due = time.monotonic() + RECONCILE_EVERY_S

    def _observe_slippage(self, order: Order, signal: Signal) -> None:
        """How much worse the order traded than the price its decision saw."""
        seen = self._require_catalogue().symbol(signal.symbol).price(signal.price)
        if order.filled_quantity == 0 or seen <= 0:
            return
        average = money.divide(order.filled_notional, order.filled_quantity)
        worse = average - seen if signal.side == "buy" else seen - average
        metrics.SLIPPAGE.observe(float(worse / seen))

    # --- orders in ----------------------------------------------------------------------------------------------------

    async def place(self, request: OrderRequest, *, actor: str) -> tuple[Order, bool]:
        """Check, commit, send. The order, and whether this call made it.

        Raises InvalidOrder or UnknownInstrument when it is no order at all, NotLeading on a stand-by.
        """
        instrument = self._require_catalogue().symbol(request.symbol)
        instrument.check_quantity(request.quantity)
        if request.limit_price is not None:
            instrument.check_price(request.limit_price)
        if (request.type == "limit") != (request.limit_price is not None):
            raise InvalidOrder("LIMIT_PRICE_MISMATCH", "a limit order has a limit price, a market order has none")
        intent = Intent(
            client_order_id=client_order_id(self.account.id, request.origin),
            account_id=self.account.id,
            symbol=instrument.symbol,
            instrument_id=instrument.id,
            venue=self.account.venue,
            side=request.side,
            type=request.type,
            time_in_force=request.time_in_force,
            quantity=request.quantity,
            limit_price=request.limit_price,
            strategy=request.strategy,
            signal_id=request.signal_id,
        )
        async with self._lock:
            known = await self._store.get(intent.client_order_id)
            if known is not None:
                return known, False
            with metrics.LATENCY.time():
                return await self._new_order(intent, actor), True

    async def _new_order(self, intent: Intent, actor: str) -> Order:
        lease = self._require_lease()
        born = initialize(intent, _now(), actor, causation_id=intent.signal_id)
        refusal = await self._refusal(intent)
        if refusal is not None:
            code, detail = refusal
            denied = Event(EventType.DENIED, _now(), ACTOR, code=code, detail=detail)
            metrics.ORDERS.labels(self.account.id, "denied").inc()
            log.warning("order denied", extra={"client_order_id": intent.client_order_id, "code": code, "detail": detail})
            return await self._store.record(lease, born, advance(born.order, denied))
        order = await self._store.record(lease, born, advance(born.order, Event(EventType.SUBMITTING, _now(), ACTOR)))
        return await self._submit(lease, order)

    async def _refusal(self, intent: Intent) -> tuple[str, str] | None:
        """Why the order must not be sent, or None."""
        state = await self._store.trading_state(self.account.id)
        if state not in TRADING:
            return f"TRADING_{state.upper()}", f"trading is {state}; only cancels pass"
        decision = await self._risk.check(intent)
        return None if decision.accepted else (decision.code, decision.detail)

    async def _submit(self, lease: Lease, order: Order) -> Order:
        """Send a committed order, once. Whatever happens, what we then know is committed."""
        lease.assert_held()
        try:
            async with asyncio.timeout(self._settings.engine.venue_timeout_s):
                answer = await self._require_venue().submit(order.intent)
        except VenueRejected as refusal:
            metrics.ORDERS.labels(self.account.id, "rejected").inc()
            event = Event(EventType.REJECTED, _now(), self._actor, code=refusal.code, detail=refusal.detail)
            return await self._store.record(lease, advance(order, event))
        except (VenueUnknown, TimeoutError) as error:
            metrics.ORDERS.labels(self.account.id, "unknown").inc()
            event = Event(EventType.SUBMIT_UNKNOWN, _now(), ACTOR, detail=str(error) or "no answer in time")
            return await self._store.record(lease, advance(order, event))
        metrics.ORDERS.labels(self.account.id, "accepted").inc()
        order = await self._store.record(
            lease, advance(order, Event(EventType.ACCEPTED, _now(), self._actor, venue_order_id=answer.venue_order_id))
        )
        return await self._follow(lease, order, answer)

    # --- cancels ------------------------------------------------------------------------------------------------------

    async def cancel(self, order_id: str, *, actor: str) -> Order:
        """Cancel at the venue; passes in every state of trading. Raises UnknownOrder, NotOpen or NotLeading."""
        async with self._lock:
            lease = self._require_lease()
            order = await self._store.get(order_id)
            if order is None or order.intent.account_id != self.account.id:
                raise UnknownOrder(order_id)
            if not order.is_open:
                raise NotOpen(f"{order_id} is {order.status}")
            if order.may(EventType.CANCEL_REQUESTED):
                order = await self._store.record(lease, advance(order, Event(EventType.CANCEL_REQUESTED, _now(), actor)))
            return await self._cancel_at_venue(lease, order)

    async def _cancel_at_venue(self, lease: Lease, order: Order) -> Order:
        try:
            async with asyncio.timeout(self._settings.engine.venue_timeout_s):
                answer: VenueOrder | None = await self._require_venue().cancel(self.account.id, order.id)
        except VenueRejected:
            answer = await self._require_venue().query(self.account.id, order.id)
        except (VenueUnknown, TimeoutError) as error:
            log.warning("cancel not answered; asked again at the next reconciliation", extra={"order": order.id, "error": str(error)})
            return order
        if answer is None:
            return await self._settle_never_received(lease, order)
        return await self._follow(lease, order, answer)

    # --- what the venue says ------------------------------------------------------------------------------------------

    async def _follow(self, lease: Lease, order: Order, answer: VenueOrder) -> Order:
        """Bring our order to where the venue's is: its fills first, then its end."""
        if order.may(EventType.ACCEPTED):
            accepted = Event(EventType.ACCEPTED, _now(), self._actor, venue_order_id=answer.venue_order_id)
            order = await self._store.record(lease, advance(order, accepted))
        if answer.filled_quantity > order.filled_quantity:
            await self._sync_fills()
            order = await self._store.get(order.id) or order
        ends = {"CANCELED": EventType.CANCELED, "EXPIRED": EventType.EXPIRED, "REJECTED": EventType.REJECTED}
        end = ends.get(answer.status)
        if end is not None and order.is_open and order.may(end):
            order = await self._store.record(lease, advance(order, Event(end, _now(), self._actor, detail=answer.reason)))
        elif end is None and order.status is Status.PENDING_CANCEL and answer.status in ("NEW", "PARTIALLY_FILLED"):
            order = await self._cancel_again(lease, order)
        return order

    async def _cancel_again(self, lease: Lease, order: Order) -> Order:
        """The venue still works an order we want gone: a cancel may be repeated, unlike a submit."""
        try:
            answer = await self._require_venue().cancel(self.account.id, order.id)
        except VenueRejected as refusal:
            refused = Event(EventType.CANCEL_REFUSED, _now(), self._actor, code=refusal.code, detail=refusal.detail)
            return await self._store.record(lease, advance(order, refused))
        canceled = Event(EventType.CANCELED, _now(), self._actor, detail=answer.reason)
        return await self._store.record(lease, advance(order, canceled))

    async def _sync_fills(self) -> None:
        """Record every execution the venue has and we have not, in its order."""
        lease, venue = self._require_lease(), self._require_venue()
        after = await self._store.last_trade_id(self.account.id, venue.name)
        while trades := await venue.trades(self.account.id, after, MAX_TRADES):
            for trade in trades:
                await self._record_fill(lease, trade)
                after = trade.fill.trade_id

    async def _record_fill(self, lease: Lease, trade: VenueTrade) -> None:
        order = await self._store.get(trade.client_order_id)
        if order is None:
            await self._mismatch("unknown_fill", f"venue trade {trade.fill.trade_id} is of an order we never made")
            return
        steps = []
        try:
            if order.may(EventType.ACCEPTED):  # the execution overtook the acknowledgement
                accepted = advance(order, Event(EventType.ACCEPTED, _now(), self._actor))
                steps.append(accepted)
                order = accepted.order
            steps.append(advance(order, Event(EventType.FILLED, trade.fill.executed_at, self._actor, fill=trade.fill)))
            order = await self._store.record(lease, *steps)
        except DuplicateFill:
            return
        except (IllegalTransition, Overfill) as error:
            await self._mismatch("impossible_fill", f"venue trade {trade.fill.trade_id}: {error}")
            return
        intent = order.intent
        metrics.FILLS.labels(self.account.id, intent.symbol, intent.side).inc()
        metrics.VOLUME.labels(self.account.id, intent.symbol).inc(float(trade.fill.price * trade.fill.quantity))
        log.info(
            "fill recorded",
            extra={
                "client_order_id": order.id,
                "trade_id": trade.fill.trade_id,
                "quantity": str(trade.fill.quantity),
                "price": str(trade.fill.price),
                "status": order.status,
            },
        )

    # --- reconciliation -----------------------------------------------------------------------------------------------

    async def _reconcile(self, *, starting: bool) -> None:
        """Compare our open orders with the venue's, and theirs with ours. The venue must answer before trading begins."""
        lease, venue = self._require_lease(), self._require_venue()
        try:
            await self._sync_fills()
            for order in await self._store.open_orders(self.account.id):
                await self._reconcile_order(lease, venue, order, starting)
            for theirs in await venue.open_orders(self.account.id):
                if await self._store.get(theirs.client_order_id) is None:
                    await self._mismatch("unknown_order", f"the venue works {theirs.client_order_id}, which we never made")
        except VenueUnknown as error:
            if starting:
                raise ConnectionError(str(error)) from error
            log.warning("reconciliation waits for the venue", extra={"error": str(error)})
        still_open = await self._store.open_orders(self.account.id)
        metrics.OPEN_ORDERS.labels(self.account.id).set(len(still_open))

    async def _reconcile_order(self, lease: Lease, venue: Venue, order: Order, starting: bool) -> None:
        answer = await venue.query(self.account.id, order.id)
        if answer is not None:
            await self._follow(lease, order, answer)
        elif order.may(EventType.NEVER_RECEIVED):
            settled_s = (_now() - order.updated_at).total_seconds()
            if starting or settled_s > 2 * self._settings.engine.venue_timeout_s:
                await self._settle_never_received(lease, order)
        else:
            await self._mismatch("lost_order", f"we hold {order.id} as {order.status}; the venue does not know it")

    async def _settle_never_received(self, lease: Lease, order: Order) -> Order:
        """The venue was asked and never received it: it is over, and is not sent again."""
        if not order.may(EventType.NEVER_RECEIVED):
            await self._mismatch("lost_order", f"we hold {order.id} as {order.status}; the venue does not know it")
            return order
        event = Event(EventType.NEVER_RECEIVED, _now(), ACTOR, code="VENUE_NEVER_RECEIVED", detail="the venue does not know this order")
        return await self._store.record(lease, advance(order, event))

    async def _mismatch(self, kind: str, detail: str) -> None:
        """A difference between the books: only reducing orders from here on, and somebody must look."""
        if detail in self._reported:
            return
        self._reported.add(detail)
        metrics.MISMATCHES.labels(self.account.id, kind).inc()
        log.error("books differ from the venue's", extra={"account": self.account.id, "kind": kind, "detail": detail})
        await self._store.reduce_only(self.account.id, f"RECONCILIATION_MISMATCH: {detail}")

    # --- small things -------------------------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        return self._lease is not None and self._lease.held

    @property
    def _actor(self) -> str:
        return f"venue:{self.account.venue}"

    def _require_lease(self) -> Lease:
        if self._lease is None:
            raise NotLeading(f"account {self.account.id} is led elsewhere or still recovering")
        return self._lease

    def _require_venue(self) -> Venue:
        if self._venue is None:
            raise NotLeading(f"account {self.account.id} is led elsewhere or still recovering")
        return self._venue

    def _require_catalogue(self) -> Catalogue:
        if self._catalogue is None or self._lease is None:
            raise NotLeading(f"account {self.account.id} is led elsewhere or still recovering")
        return self._catalogue


def _now() -> datetime:
    return datetime.now(UTC)
