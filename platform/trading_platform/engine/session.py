"""One lead of one account: the core with a journal, a venue, a clock and loops around it, from recovery until the lease ends.

Everything in memory belongs to the session and goes with it: whatever fails here, the next session starts from the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trading_platform import bus
from trading_platform.bus import Bus
from trading_platform.config import AccountSettings, Settings
from trading_platform.db import Database
from trading_platform.domain import trading_state
from trading_platform.domain.orders import Intent, Order, client_order_id
from trading_platform.domain.top import Top
from trading_platform.engine import metrics
from trading_platform.engine.controls import Control, Controls
from trading_platform.engine.core import ACTOR, UNPROTECTED, AccountCore, Alert, Batch, Changes, OrderRequest, UnknownOrder
from trading_platform.engine.journal import Journal
from trading_platform.engine.reconcile import Reconciler
from trading_platform.engine.signals import SignalReader
from trading_platform.engine.store import Books, OrderStore
from trading_platform.engine.venues import StreamGap, Venue, VenueOrder, VenueRejected, VenueTrade, VenueUnknown
from trading_platform.instruments import Catalogue
from trading_platform.leadership import Lease
from trading_platform.messages import Quote
from trading_platform.service import LoopContext, together
from trading_platform.trading_states import TradingStates

log = logging.getLogger(__name__)

CONTROL_EVERY_S = 0.1
QUOTES_EVERY_S = 0.05
TIME_EVERY_S = 0.02
SENDING_AT_ONCE = 64
ASKING_AT_ONCE = 8
FLATTEN_EVERY_S = 5.0


class NotLeading(Exception):
    """Another host leads this account, or it is still recovering; the request belongs there, or has to wait."""


class Latched(ConnectionError):
    """The halt latch lies on this host: nothing is sent and nothing is led from here."""


@dataclass(slots=True)
class _Flight:
    """A submit that is with the venue, or was and may still arrive there."""

    until: float | None = None  # monotonic; None while the answer is awaited


class Session:
    """Built by AccountEngine when the lease is had, thrown away with it."""

    def __init__(
        self,
        account: AccountSettings,
        settings: Settings,
        database: Database,
        stream: Bus,
        lease: Lease,
        venue: Venue,
        catalogue: Catalogue,
        in_flight: int = 0,
    ) -> None:
        """`in_flight`: submits of a session before this one, under the same lease, that may still reach the venue."""
        self.account = account
        self.lease = lease
        self.venue = venue
        self.catalogue = catalogue
        self.store = OrderStore(database)
        self.controls = Controls(database, settings, account, catalogue)
        self.journal = Journal(database, account.id, lease, settings.engine.commit_batch)
        self.core = AccountCore(
            account.id,
            account.venue,
            catalogue,
            self.controls.risk,
            mode=account.position_mode,
            recv_window_s=venue.recv_window_s,
            price_max_age_s=settings.risk.max_data_age_s,
        )
        self.safe_mode = False
        self.recovered = False
        self._settings = settings
        self._bus = stream
        self._states = TradingStates(database)
        self.reconciler = Reconciler(self)
        self._signals = SignalReader(self, stream, settings.engine.signal_max_age_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sending = asyncio.Semaphore(SENDING_AT_ONCE)
        self._asking = asyncio.Semaphore(ASKING_AT_ONCE)
        certain = time.monotonic() + venue.recv_window_s + 1
        self._flights = {f"before:{number}": _Flight(certain) for number in range(in_flight)}
        self._answered: dict[str, asyncio.Future[None]] = {}
        self._ended: dict[str, list[asyncio.Future[None]]] = {}
        self._lookups: dict[str, asyncio.Future[Order | None]] = {}
        self._symbols: set[str] = set()
        self._acknowledged: tuple[int, int] | None = None
        self._obeyed = 0
        self._flatten_due = 0.0
        self._alarms: set[tuple[str, str]] = set()
        self._latch = settings.engine.halt_latch

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Recover, then trade until stopped; raises what ends it."""
        self.venue.gate = self._gate
        try:
            await together(context, journal=self.journal.run, work=self._work, defects=self._watch)
        finally:
            self.venue.gate = _closed
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._failed.cancel()
            for waiting in self._answered.values():
                if not waiting.done():
                    waiting.set_exception(NotLeading(f"the lead of account {self.account.id} ended before the venue's answer was recorded"))
                    waiting.exception()

    async def _work(self, context: LoopContext) -> None:
        await self._recover(context)
        log.info("recovered; trading may begin", extra={"account": self.account.id, "open_orders": len(self.core.open_orders)})
        await together(
            context,
            control=self._controlling,
            quotes=self._quoting,
            time=self._timing,
            reports=self._reporting,
            executions=self._fetching,
            reconciliation=self.reconciler.run,
            signals=self._signals.run,
        )

    async def _recover(self, context: LoopContext) -> None:
        """Memory from what was committed, then everything compared with the venue before anything new is taken."""
        books = await self.store.books(self.account.id, self.catalogue)
        self._load(books)
        await self.controls.open()
        await self._obey(await self.controls.read())
        await self.reconciler.recover(context, books)
        await self._refresh_quotes()
        self.recovered = True
        self.apply(self.core.resume(now()))
        await self.journal.settled()

    def _load(self, books: Books) -> None:
        for key, position in books.positions.items():
            self.controls.risk.set_position(*key, position)
        held = {key: position.quantity for key, position in books.positions.items()}
        self.core.restore(books.orders, books.trades, held, now())

    async def _watch(self, context: LoopContext) -> None:
        """A task of ours that fails ends the session: nothing it had to do may be forgotten."""
        while not context.stopping:
            context.beat()
            done, _ = await asyncio.wait({self._failed}, timeout=1.0)
            for failed in done:
                failed.result()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def place(self, request: OrderRequest, actor: str, *, answered: bool = True) -> tuple[Order, bool]:
        """Check, commit, send; the order, and whether this call made it. Waits for the venue's answer unless told not to.

        Raises InvalidOrder or UnknownInstrument when it is no order at all.
        """
        order_id = client_order_id(self.account.id, request.origin)
        if self.core.get(order_id) is None and (known := await self._look_up(order_id)) is not None:
            return known, False
        with metrics.LATENCY.time():
            batch = self.core.place(request, actor, now())
            waiting = [self._answer_of(intent.client_order_id) for intent in batch.sends] if answered else []
            if waiting:  # what the orders rest on is durable before they are sent, let alone answered
                self.apply(batch)
                for answer in waiting:
                    await asyncio.shield(answer)
            else:
                await self.durable(batch)
        return self._known(order_id), batch.created

    async def cancel(self, order_id: str, actor: str) -> Order:
        """Ask for the end of an order; as it is once that wish is durable and the venue has answered. Raises UnknownOrder, NotOpen."""
        await self._remember(order_id)
        batch = self.core.cancel(order_id, actor, now())
        ended = self._end_of(order_id)
        await self.durable(batch)
        await self._for_a_while(ended)
        return self._known(order_id)

    async def cancel_all(self, actor: str, symbol: str | None) -> list[Order]:
        """Ask for the end of everything open; those orders, as they are after the venue's answers."""
        wanted = [order for order in self.core.open_orders if symbol in (None, order.intent.symbol)]
        ends = [self._end_of(order.id) for order in wanted]
        await self.durable(self.core.cancel_all(actor, now(), symbol))
        await self._for_a_while(*ends)
        return [self._known(order.id) for order in wanted]

    async def replace(self, order_id: str, changes: Changes, actor: str) -> tuple[Order, Order | None]:
        """Cancel, and a new order of what is left: the old one and, once it is there, the new one.

        Raises UnknownOrder, NotOpen (nothing is left) or InvalidOrder.
        """
        replacement = client_order_id(self.account.id, changes.origin)
        await self._remember(order_id, replacement)
        ended = self._end_of(order_id)
        batch = self.core.replace(order_id, changes, actor, now())
        await self.durable(batch)
        if self.core.get(replacement) is None:
            await self._for_a_while(ended)
        await self.journal.settled()
        return self._known(order_id), self.core.get(replacement)

    async def flatten(self, origin: str, actor: str, symbol: str | None) -> None:
        """Cancel everything and close what is held; durable wishes only: how far it came is seen in orders and positions."""
        await self._remember(*self.core.closing_ids(origin))
        await self.durable(self.core.flatten(origin, actor, now(), symbol))

    async def durable(self, batch: Batch) -> None:
        """Apply, and wait until what it rests on is committed."""
        self.apply(batch)
        await self.journal.settled()

    def _known(self, order_id: str) -> Order:
        order = self.core.get(order_id)
        if order is None:
            raise UnknownOrder(order_id)
        return order

    async def _remember(self, *ids: str) -> None:
        """Take orders into memory that ended long ago, so that they can be told from those that never were."""
        missing = [order_id for order_id in ids if self.core.get(order_id) is None]
        if missing:
            trades = await self.store.trades_of(missing)
            for order in await self.store.find(missing):
                if order.intent.account_id == self.account.id and self.core.get(order.id) is None:
                    self.core.revive(order, trades.get(order.id, ()))

    async def _look_up(self, order_id: str) -> Order | None:
        """Whether the order was made long ago. Questions that come while one is on its way are asked together."""
        found = self._lookups.get(order_id)
        if found is None:
            found = self._lookups[order_id] = asyncio.get_running_loop().create_future()
            if len(self._lookups) == 1:
                self.spawn(self._looking_up())
        return await asyncio.shield(found)

    async def _looking_up(self) -> None:
        while self._lookups:
            asked = dict(self._lookups)
            try:
                known = await self.store.known(list(asked))  # hardly ever any: not the whole rows
                orders = {order.id: order for order in await self.store.find(known)} if known else {}
            except BaseException as error:
                ended = NotLeading(f"the lead of account {self.account.id} ended before it was known whether the order is there")
                for found in self._lookups.values():  # those, too, that came while the database was asked
                    found.set_exception(ended if isinstance(error, asyncio.CancelledError) else error)
                    found.exception()
                self._lookups.clear()
                raise
            for order_id, found in asked.items():
                del self._lookups[order_id]
                found.set_result(orders.get(order_id))

    def _answer_of(self, order_id: str) -> asyncio.Future[None]:
        """Done when the venue's answer to this submit is durable."""
        return self._answered.setdefault(order_id, asyncio.get_running_loop().create_future())

    def _end_of(self, order_id: str) -> asyncio.Future[None]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended.setdefault(order_id, []).append(ended)
        return ended

    async def _for_a_while(self, *ends: asyncio.Future[None]) -> None:
        """Wait for orders to end, but not for ever: a venue may be silent."""
        settings = self._settings.venues[self.account.venue]
        if ends:
            await asyncio.wait(ends, timeout=settings.timeout_s + settings.queue_s)
        await self.journal.settled()

    # --- carrying out -------------------------------------------------------------------------------------------------

    def apply(self, batch: Batch) -> None:
        """Have the steps written, and everything else done after that."""
        written = self.journal.append(batch.steps) if batch.steps else None
        for step in batch.steps:
            metrics.observe(step)
            if not step.order.is_open:
                for ended in self._ended.pop(step.order.id, ()):
                    if not ended.done():
                        ended.set_result(None)
        for intent in batch.sends:
            self._flights[intent.client_order_id] = _Flight()
            self.spawn(self._send(intent, written))
        for order in batch.cancels:
            self.spawn(self._cancel(order, written))
        for order in batch.queries:
            self.spawn(self._query(order))
        self._symbols |= batch.symbols
        if batch.unmatched:
            self.spawn(self.match(batch.unmatched))
        for alert in batch.alerts:
            self.spawn(self.alarm(alert))

    async def _send(self, intent: Intent, written: asyncio.Future[None] | None) -> None:
        """Send a committed order, once. Whatever happens, what is known then is committed."""
        order_id = intent.client_order_id
        if written is not None:
            try:
                await asyncio.shield(written)
            except Exception as error:
                self._tell(order_id, error)
                raise
        async with self._sending:
            refusal = self._refusal(intent)
            answer: VenueOrder | VenueRejected | VenueUnknown
            if refusal is not None:
                answer = refusal
            else:
                answer = await self._submit(intent)
        if isinstance(answer, VenueUnknown):
            self._flights[order_id].until = time.monotonic() + self.venue.recv_window_s + 1
        else:
            del self._flights[order_id]
        self.apply(self.core.on_answer(order_id, answer, now()))
        waiting = self._answered.pop(order_id, None)
        if waiting is not None:
            self.journal.tell(waiting)

    def _tell(self, order_id: str, error: Exception) -> None:
        """Let whoever waits for the answer know that there will be none."""
        waiting = self._answered.pop(order_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
            waiting.exception()

    async def _submit(self, intent: Intent) -> VenueOrder | VenueRejected | VenueUnknown:
        settings = self._settings.venues[self.account.venue]
        try:
            async with asyncio.timeout(settings.timeout_s + settings.queue_s + 1):
                return await self.venue.submit(intent)
        except (VenueRejected, VenueUnknown) as answer:
            return answer
        except TimeoutError:
            return VenueUnknown("no answer in time")

    def _refusal(self, intent: Intent) -> VenueRejected | None:
        """Why a committed order must not leave after all."""
        if not self.lease.held:
            return VenueRejected("LEASE_LOST", "the lease ran out; the order was not sent")
        if os.path.exists(self._latch):
            return VenueRejected("HALT_LATCHED", f"{self._latch} lies on this host; the order was not sent")
        if trading_state.halted(self.core.state) and not intent.flatten:
            return VenueRejected(f"TRADING_{self.core.state.upper()}", f"trading is {self.core.state}; the order was not sent")
        return None

    def _gate(self, intent: Intent) -> None:
        """The venue asks in the moment before the request leaves, after it may have waited for its turn."""
        if (refusal := self._refusal(intent)) is not None:
            raise refusal

    async def _cancel(self, order: Order, written: asyncio.Future[None] | None) -> None:
        if written is not None:
            await asyncio.shield(written)
        settings = self._settings.venues[self.account.venue]
        answer: VenueOrder | VenueRejected | VenueUnknown
        try:
            async with asyncio.timeout(settings.timeout_s + settings.queue_s + 1):
                answer = await self.venue.cancel(order.intent.symbol, order.id)
        except (VenueRejected, VenueUnknown) as refused:
            answer = refused
        except TimeoutError:
            answer = VenueUnknown("no answer in time")
        self.apply(self.core.on_cancel_answer(order.id, answer, now()))

    async def _query(self, order: Order) -> None:
        async with self._asking:
            asked_at = now()
            answer: VenueOrder | VenueUnknown | None
            try:
                answer = await self.venue.query(order.intent.symbol, order.id)
            except VenueUnknown as unknown:
                answer = unknown
            except VenueRejected as refusal:  # too many questions: nothing is known of the order
                answer = VenueUnknown(str(refusal))
        self.apply(self.core.on_query(order.id, answer, asked_at, now()))

    async def match(self, trades: Sequence[VenueTrade]) -> None:
        """Executions of orders that are not in memory: ended long ago, or none of ours."""
        await self.journal.settled()
        recorded_ids = await self.store.recorded(self.account.venue, self.account.id, [trade.fill.trade_id for trade in trades])
        trades = [trade for trade in trades if trade.fill.trade_id not in recorded_ids]
        if not trades:
            return
        ids = sorted({trade.client_order_id for trade in trades})
        orders = {order.id: order for order in await self.store.find(ids) if order.intent.account_id == self.account.id}
        recorded = await self.store.trades_of(list(orders))
        for trade in trades:
            order = orders.get(trade.client_order_id)
            if order is None:
                if trade.fill.executed_at >= self.controls.account_since:
                    detail = f"venue trade {trade.fill.trade_id} is of {trade.client_order_id or 'an order'}, which we never made"
                    await self.alarm(Alert("foreign_fill", detail))
                continue
            if self.core.get(order.id) is None:
                self.core.revive(order, recorded.get(order.id, ()))
            self.apply(self.core.on_trade(trade, now()))

    async def alarm(self, alert: Alert) -> None:
        """The books differ, or a position is without its stop: only reducing orders from here on, and somebody must look."""
        if (alert.kind, alert.detail) in self._alarms:
            return
        self._alarms.add((alert.kind, alert.detail))
        if alert.kind == UNPROTECTED:
            metrics.UNPROTECTED.labels(self.account.id).inc()
            event, words = "position_unprotected", "a position stays without its stop"
        else:
            metrics.MISMATCHES.labels(self.account.id, alert.kind).inc()
            event, words = "reconciliation_mismatch", "books differ from the venue's"
        log.error(words, extra={"account": self.account.id, "kind": alert.kind, "detail": alert.detail})
        await self.store.audit(event, ACTOR, self.account.id, {"kind": alert.kind, "detail": alert.detail})
        await self._states.tighten(self.account.id, "reducing", f"{event.upper()}: {alert.detail}", ACTOR)

    # --- loops --------------------------------------------------------------------------------------------------------

    async def _controlling(self, context: LoopContext) -> None:
        """What others decide: the state of trading, limits, figures; obeyed, then acknowledged."""
        while not context.stopping:
            context.beat()
            refuse_latched(self._latch)
            await self._obey(await self.controls.read())
            await context.sleep(CONTROL_EVERY_S)

    async def _obey(self, control: Control) -> None:
        self._obeyed = control.version
        self.safe_mode = control.safe_mode
        if control.state != self.core.state:
            log.warning("state of trading", extra={"account": self.account.id, "before": self.core.state, "state": control.state})
            self.apply(self.core.on_state(control.state, now()))
        if control.flatten and self.recovered and any(self.core.positions.values()) and time.monotonic() >= self._flatten_due:
            # Until nothing is held: a closing order may be refused, or filled in part. Each try has orders of its own.
            self._flatten_due = time.monotonic() + FLATTEN_EVERY_S
            self.apply(self.core.flatten(f"state:{time.time_ns()}", f"state:{control.state}", now()))
        metrics.OPEN_ORDERS.labels(self.account.id).set(len(self.core.open_orders))
        metrics.UNKNOWN_ORDERS.labels(self.account.id).set(self.core.unsettled)
        if (self._obeyed, self.in_flight) != self._acknowledged:
            said = (self._obeyed, self.in_flight)
            await self.store.acknowledge(self.lease, self.account.id, *said)
            self._acknowledged = said

    def standing(self) -> dict[str, Any]:
        """For /health: what orders are judged by, and what is under way."""
        return {
            "state": self.core.state,
            "state_version": self._obeyed,
            "safe_mode": self.safe_mode,
            "limits_version": self.controls.limits_version,
            "figures_at": self.controls.figures_at,
            "open_orders": len(self.core.open_orders),
            "unanswered": self.core.unsettled,
            "in_flight": self.in_flight,
        }

    @property
    def in_flight(self) -> int:
        """Submits that may still reach the venue. While trading is halted it can only fall."""
        moment = time.monotonic()
        for order_id in [order_id for order_id, flight in self._flights.items() if flight.until is not None and flight.until <= moment]:
            del self._flights[order_id]
        return len(self._flights)

    async def _quoting(self, context: LoopContext) -> None:
        """Newest prices. Without the bus they age, and whoever needs them refuses."""
        while not context.stopping:
            context.beat()
            await context.sleep(QUOTES_EVERY_S if await self._refresh_quotes() else 1.0)

    async def _refresh_quotes(self) -> bool:
        try:
            quotes = await self._bus.quotes(instrument.symbol for instrument in self.catalogue)
        except bus.TRANSIENT as error:
            log.warning("no prices: the bus is away", extra={"account": self.account.id, "error": str(error)})
            return False
        tops = {}
        for symbol, quote in quotes.items():
            top = self._top(quote)
            self.controls.on_quote(symbol, quote)
            tops[symbol] = top
        self.apply(self.core.on_quotes(tops, now()))
        return True

    def _top(self, quote: Quote) -> Top:
        instrument = self.catalogue.symbol(quote.symbol)
        bid, ask, last = (None if side is None else instrument.price(side) for side in (quote.bid, quote.ask, quote.last))
        return Top(bid, ask, last, datetime.fromtimestamp(quote.ts_recv_ns / 1e9, UTC))

    async def _timing(self, context: LoopContext) -> None:
        while not context.stopping:
            context.beat()
            moment = now()
            due = self.core.next_time()
            if due is not None and due <= moment:
                self.apply(self.core.on_time(moment))
            await context.sleep(TIME_EVERY_S)

    async def _reporting(self, context: LoopContext) -> None:
        """What the venue's stream tells."""
        self.spawn(self._listen())
        await context.idle()

    async def _listen(self) -> None:
        async for said in self.venue.reports():
            if isinstance(said, StreamGap):
                log.warning("the venue's stream was interrupted", extra={"account": self.account.id})
                self.reconciler.now()
            else:
                metrics.REPORTS.labels(self.account.id).inc()
                self.apply(self.core.on_report(said, now()))
        raise ConnectionError("the venue's stream has ended")

    def heard_of(self) -> set[str]:
        """Symbols of executions that were heard of but not told; each is said once."""
        symbols, self._symbols = self._symbols, set()
        return symbols

    async def _fetching(self, context: LoopContext) -> None:
        """Executions that were heard of but not told."""
        while not context.stopping:
            context.beat()
            for symbol in sorted(self.heard_of()):
                try:
                    await self.reconciler.fetch(symbol)
                except (VenueUnknown, VenueRejected) as error:
                    self._symbols.add(symbol)
                    log.warning("executions not told", extra={"account": self.account.id, "symbol": symbol, "error": str(error)})
                    await context.sleep(0.5)
            await context.sleep(TIME_EVERY_S)


def now() -> datetime:
    return datetime.now(UTC)


def _closed(intent: Intent) -> None:
    """The gate of a venue that no session has."""
    raise VenueRejected("LEASE_LOST", f"the lead that sent {intent.client_order_id} is over; the order was not sent")


def refuse_latched(path: str) -> None:
    """Raises Latched while the halt latch lies there, whatever is in it."""
    if not os.path.exists(path):
        return
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.readline().strip()[:200]
    except OSError as error:
        text = str(error)
    raise Latched(f"{path} lies on this host: {text}; nothing is led from here until it is cleared")
