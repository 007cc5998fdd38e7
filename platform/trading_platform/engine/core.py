"""What one account's engine knows, and what follows from each thing that happens. No I/O, no clock, no database, no randomness.

Every input returns a `Batch`: steps to commit, then requests to send, in that order. Memory runs ahead of the database: when a
commit fails, the core is thrown away and built again from what was committed. Hosted by the engine's service and by the backtest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal, Protocol, cast
from zlib import crc32

from trading_platform import money
from trading_platform.domain import parents, positions
from trading_platform.domain.orders import (
    HELD_TYPES,
    Event,
    EventType,
    Fill,
    IllegalTransition,
    Intent,
    Order,
    OrderType,
    Overfill,
    PositionSide,
    Status,
    Step,
    TimeInForce,
    advance,
    client_order_id,
    initialize,
)
from trading_platform.domain.parents import CancelChild, Finish, PlaceChild, Remember
from trading_platform.domain.top import Top
from trading_platform.domain.trading_state import State, halted
from trading_platform.engine.venues import VenueOrder, VenueRejected, VenueReport, VenueTrade, VenueUnknown
from trading_platform.instruments import Catalogue, Instrument, InvalidOrder
from trading_platform.messages import Side

ZERO = Decimal(0)
ACTOR = "engine"

# The reason of an end that a time in force brought; kept with the order, so that a cancel confirmed after a restart still is an expiry.
TIME_IN_FORCE_EXPIRED = "TIME_IN_FORCE_EXPIRED"

# Ended orders stay known this long for late fills and repeated requests; older ones are looked up in the database.
REMEMBERED = 10_000
# A trail's water mark is written at most this often when nothing else happens to it.
MEMORY_EVERY = timedelta(milliseconds=100)
QUERY_AGAIN_FIRST_S, QUERY_AGAIN_MOST_S = 0.2, 5.0
# A cancel that did not end its order is sent again after a pause that doubles; after some, whoever asked is told that it is refused.
CANCEL_ATTEMPTS = 5
CANCEL_AGAIN_FIRST_S, CANCEL_AGAIN_MOST_S = 0.2, 30.0
# The kind of alert that is no difference between the books.
UNPROTECTED = "position_unprotected"
# Rounds of decisions one input may cause for a held order; more would be a circle.
MAX_ROUNDS = 100


class Verdict(Protocol):
    """Whether an order may go out, and what that was decided by."""

    @property
    def accepted(self) -> bool: ...
    @property
    def code(self) -> str: ...
    @property
    def detail(self) -> str: ...
    def facts(self) -> Mapping[str, Any]: ...


class Judge(Protocol):
    """Who decides whether an order may go out, and is told what becomes of every one: domain.risk.AccountRisk."""

    def check(self, intent: Intent, now: datetime, state: State) -> Verdict: ...
    def on_open(self, order: Order) -> None: ...
    def on_fill(self, order: Order, fill: Fill) -> None: ...
    def on_end(self, order: Order) -> None: ...
    def on_reject(self, order: Order) -> None: ...


class UnknownOrder(LookupError):
    """No order of that id is open."""


class NotOpen(Exception):
    """The order is at its end; there is nothing to cancel or replace."""


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
    trigger_price: Decimal | None = None
    expire_at: datetime | None = None
    post_only: bool = False
    reduce_only: bool = False
    position_side: PositionSide = "net"
    terms: Mapping[str, Any] | None = None
    replaces: str | None = None
    flatten: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What a replacement changes. `quantity` is the new total: what the first order has filled counts towards it."""

    origin: str
    quantity: Decimal | None = None
    limit_price: Decimal | None = None
    trigger_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that cannot be explained: somebody must look, and nothing may be added meanwhile."""

    kind: str
    detail: str


@dataclass(slots=True)
class Batch:
    """What follows from one input: commit `steps` first, then carry out the rest."""

    steps: list[Step] = field(default_factory=list)
    sends: list[Intent] = field(default_factory=list)
    cancels: list[Order] = field(default_factory=list)
    queries: list[Order] = field(default_factory=list)
    symbols: set[str] = field(default_factory=set)  # whose executions must be asked for
    unmatched: list[VenueTrade] = field(default_factory=list)  # of orders not in memory: look them up, `revive`, tell again
    alerts: list[Alert] = field(default_factory=list)
    order: Order | None = None  # the one asked about, as it is now
    created: bool = False


@dataclass(slots=True)
class _Unsettled:
    """An order the venue has to be asked about. Until `signed_until` a request for it may have been signed.

    `arrival`: nothing is asked but whether it arrived, which an acknowledgement answers. Any other question (what came of a cancel,
    why the books differ, which executions it had) is answered only by asking, and not by an answer to one put before `since`.
    """

    signed_until: datetime
    due: datetime
    since: datetime
    arrival: bool = False
    pause_s: float = QUERY_AGAIN_FIRST_S


@dataclass(slots=True)
class _Remembered:
    order: Order
    trades: set[str]


class AccountCore:
    """Orders of one account, in memory. Feed it everything that happens, in the order it is learnt."""

    def __init__(
        self,
        account_id: str,
        venue: str,
        catalogue: Catalogue,
        risk: Judge,
        *,
        mode: Literal["netting", "hedging"] = "netting",
        recv_window_s: float = 2.0,
        price_max_age_s: float = 30.0,
        remembered: int = REMEMBERED,
    ) -> None:
        self.account_id = account_id
        self.venue = venue
        self.risk = risk
        self.state: State = "stopped"
        self._catalogue = catalogue
        self._mode = mode
        self._certain_after = timedelta(seconds=recv_window_s + 1)
        self._price_max_age = timedelta(seconds=price_max_age_s)
        self._remembered = remembered
        self._open: dict[str, Order] = {}
        self._trades: dict[str, set[str]] = {}  # by open order: the executions it has
        self._ended: OrderedDict[str, _Remembered] = OrderedDict()
        self._children: dict[str, dict[str, Order]] = {}  # by open parent, its children open and ended
        self._parents: dict[str, set[str]] = {}  # by symbol, the open parents that watch its prices
        self._tops: dict[str, Top] = {}
        self._positions: dict[tuple[int, PositionSide], Decimal] = {}
        self._sent: set[str] = set()  # submits whose answer is awaited
        self._canceling: set[str] = set()  # cancels whose answer is awaited
        self._cancel_attempts: dict[str, int] = {}  # in vain, since somebody asked for it
        self._cancel_due: dict[str, datetime] = {}  # not sent again before this
        self._unsettled: dict[str, _Unsettled] = {}
        self._missing: dict[str, datetime] = {}  # when the venue first said that it does not know an order it had
        self._ends: dict[str, VenueOrder] = {}  # the venue's end of an order, until all it filled has arrived
        self._replacing: dict[str, tuple[Changes, str]] = {}
        self._flattening: list[tuple[str, str, str | None]] = []
        self._memory: dict[str, Mapping[str, Any]] = {}  # of parents, newer than the last one written
        self._memory_due: dict[str, datetime] = {}
        self._wakeups: dict[str, datetime] = {}
        self._driving: set[str] = set()
        self._recovering = False
        self._timers: list[tuple[datetime, int, str, str]] = []
        self._number = count()
        self._alerted: set[tuple[str, str]] = set()

    # --- what is known ------------------------------------------------------------------------------------------------

    def get(self, order_id: str) -> Order | None:
        """The order if it is open or ended lately."""
        order = self._open.get(order_id)
        if order is not None:
            return order
        remembered = self._ended.get(order_id)
        return remembered.order if remembered else None

    @property
    def open_orders(self) -> list[Order]:
        return list(self._open.values())

    @property
    def unsettled(self) -> int:
        """Orders the venue has not answered for."""
        return len(self._unsettled)

    @property
    def busy(self) -> bool:
        """Whether anything is on its way to or from the venue, so that books may differ for the moment."""
        return bool(self._sent or self._canceling or self._unsettled or self._ends)

    @property
    def positions(self) -> Mapping[tuple[int, PositionSide], Decimal]:
        return self._positions

    @property
    def watched(self) -> set[str]:
        """Symbols whose prices matter now: of held orders, of open orders, of positions."""
        symbols = {order.intent.symbol for order in self._open.values()}
        return symbols | {self._catalogue.id(instrument).symbol for (instrument, _), quantity in self._positions.items() if quantity}

    def next_time(self) -> datetime | None:
        """When `on_time` has something to do at the latest; None: never."""
        moments = [unsettled.due for unsettled in self._unsettled.values()] + list(self._memory_due.values())
        if self._timers:
            moments.append(self._timers[0][0])
        return min(moments, default=None)

    # --- recovery -----------------------------------------------------------------------------------------------------

    def restore(
        self,
        orders: Iterable[Order],
        trades: Mapping[str, Iterable[str]],
        held: Mapping[tuple[int, PositionSide], Decimal],
        now: datetime,
    ) -> None:
        """Take up what was committed: open orders, the ended children of open parents, their executions, positions.

        What may have been on its way to the venue is unsettled: asked for at once, and not given up before it is certain.
        """
        self._recovering = True
        self._positions = dict(held)
        for order in sorted(orders, key=lambda order: not order.intent.is_held):  # parents first: children draw on what they reserved
            if not order.is_open:
                self.revive(order, trades.get(order.id, ()))
                if order.intent.parent_id in self._open:
                    self.risk.on_open(order)
                continue
            if order.status is Status.INITIALIZED:
                raise IllegalTransition(f"order {order.id} was committed neither sent, held nor denied")
            self._keep(order, set(trades.get(order.id, ())))
            self.risk.on_open(order)
            if order.status in (Status.PENDING_NEW, Status.UNKNOWN, Status.PENDING_CANCEL) and not order.intent.is_held:
                self._ask(order.id, now)

    def revive(self, order: Order, trades: Iterable[str]) -> None:
        """Remember an ended order again, because something about it was heard."""
        self._remember(order, set(trades))
        if order.intent.parent_id in self._children:
            self._children[order.intent.parent_id][order.id] = order

    def resume(self, now: datetime) -> Batch:
        """After recovery: held orders go on from where everything stands. Until then they place nothing."""
        self._recovering = False
        batch = Batch()
        for order in list(self._open.values()):
            if order.intent.is_held:
                self._drive(batch, order.id, now)
        return self._finish(batch, now)

    # --- orders in ----------------------------------------------------------------------------------------------------

    def place(self, request: OrderRequest, actor: str, now: datetime) -> Batch:
        """A new order, or the known one of the same origin. Raises InvalidOrder or UnknownInstrument when it is none at all."""
        order_id = client_order_id(self.account_id, request.origin)
        known = self.get(order_id)
        if known is not None:
            return Batch(order=known)
        intent = self._intent(order_id, request, now)
        batch = Batch(created=True)
        self._new_order(batch, intent, actor, now)
        return self._finish(batch, now, order_id)

    def cancel(self, order_id: str, actor: str, now: datetime) -> Batch:
        """End an order; passes in every state of trading, and asks at once whatever was refused before. Raises UnknownOrder or
        NotOpen."""
        order = self._require_open(order_id)
        batch = Batch()
        self._cancel_at_once(batch, order, actor, now)
        return self._finish(batch, now, order_id)

    def cancel_all(self, actor: str, now: datetime, symbol: str | None = None) -> Batch:
        """End every open order (of one symbol). Parents first, so that they place nothing for children that go."""
        batch = Batch()
        for order in sorted(self._open.values(), key=lambda order: not order.intent.is_held):
            current = self._open.get(order.id)
            if current is not None and symbol in (None, current.intent.symbol):
                self._cancel_at_once(batch, current, actor, now)
        return self._finish(batch, now)

    def replace(self, order_id: str, changes: Changes, actor: str, now: datetime) -> Batch:
        """Cancel, and once that is certain, a new order of what is left. `Batch.order` is the new one when it is there already.

        Safe to repeat with the same origin, also after the first order ended. Raises UnknownOrder, NotOpen (nothing is left) or
        InvalidOrder (the changed order would be none).
        """
        known = self.get(client_order_id(self.account_id, changes.origin))
        if known is not None:
            return Batch(order=known)
        order = self.get(order_id)
        if order is None:
            raise UnknownOrder(order_id)
        if order.intent.is_held or order.intent.parent_id is not None:
            raise InvalidOrder("NOT_REPLACEABLE", f"{order_id} is {order.intent.type}; cancel it and place another")
        request = self._replacement(order, changes)
        self._intent("t-check", request, now)
        batch = Batch()
        if order.is_open:
            self._replacing[order_id] = (changes, actor)
            self._cancel_at_once(batch, order, actor, now)
        elif order.status in (Status.CANCELED, Status.EXPIRED):
            batch.created = True
            self._new_order(batch, self._intent(client_order_id(self.account_id, request.origin), request, now), actor, now)
        else:
            raise NotOpen(f"{order_id} is {order.status}")
        return self._finish(batch, now)

    def flatten(self, origin: str, actor: str, now: datetime, symbol: str | None = None) -> Batch:
        """Cancel everything (of one symbol), then close the positions at the market once nothing works any more. The same origin
        closes once. The wish is kept in memory only: after a restart it has to be asked for again."""
        batch = self.cancel_all(actor, now, symbol)
        self._flattening.append((origin, actor, symbol))
        return self._finish(batch, now)

    def closing_ids(self, origin: str) -> list[str]:
        """The ids that flatten gives its orders."""
        return [client_order_id(self.account_id, self._closing(origin, key)) for key in sorted(self._positions)]

    def _closing(self, origin: str, key: tuple[int, PositionSide]) -> str:
        return f"flatten:{origin}:{self._catalogue.id(key[0]).symbol}:{key[1]}"

    # --- what the venue says ------------------------------------------------------------------------------------------

    def on_answer(self, order_id: str, answer: VenueOrder | VenueRejected | VenueUnknown, now: datetime) -> Batch:
        """What came of a submit."""
        batch = Batch()
        self._sent.discard(order_id)
        order = self._open.get(order_id)
        if order is not None:
            match answer:
                case VenueOrder():
                    self._follow(batch, order, answer, now)
                case VenueRejected() if order.venue_order_id is None and order.may(EventType.REJECTED):
                    self.risk.on_reject(order)
                    self._step(batch, order, Event(EventType.REJECTED, now, self._them, code=answer.code, detail=answer.detail), now)
                case _:
                    self._ask_of_submit(order_id, now)
                    if order.may(EventType.SUBMIT_UNKNOWN):
                        self._step(batch, order, Event(EventType.SUBMIT_UNKNOWN, now, ACTOR, detail=str(answer)), now)
            self._cancel_if_wanted(batch, order_id, now)
        elif isinstance(answer, VenueOrder):
            self._late(batch, answer, now)
        return self._finish(batch, now, order_id)

    def on_cancel_answer(self, order_id: str, answer: VenueOrder | VenueRejected | VenueUnknown, now: datetime) -> Batch:
        """What came of a cancel. A venue that has nothing to cancel is asked why."""
        batch = Batch()
        self._canceling.discard(order_id)
        order = self._open.get(order_id)
        if order is not None:
            if isinstance(answer, VenueOrder):
                self._follow(batch, order, answer, now)
            if order_id in self._open and order_id not in self._ends:
                self._pause_cancels(order_id, now)
                self._ask(order_id, now)
        elif isinstance(answer, VenueOrder):
            self._late(batch, answer, now)
        return self._finish(batch, now, order_id)

    def on_query(self, order_id: str, answer: VenueOrder | VenueUnknown | None, asked_at: datetime, now: datetime) -> Batch:
        """What the venue says when asked about one order; None: it does not know it."""
        batch = Batch()
        order = self._open.get(order_id)
        if order is None:
            return batch
        if isinstance(answer, VenueOrder):
            self._follow(batch, order, answer, now)
            self._settle(batch, order_id, answer, asked_at, now)
        elif answer is None:
            self._not_there(batch, order, asked_at, now)
        return self._finish(batch, now, order_id)

    def on_report(self, report: VenueReport, now: datetime) -> Batch:
        """What the venue's stream says: maybe again, late, or in a strange order."""
        batch = Batch()
        if report.trade is not None:
            self._accept(batch, report.order, now)
            self._trade(batch, report.trade, now)
        order = self._open.get(report.order.client_order_id)
        if order is not None:
            self._follow(batch, order, report.order, now)
            self._cancel_if_wanted(batch, order.id, now)
        return self._finish(batch, now, report.order.client_order_id)

    def on_trade(self, trade: VenueTrade, now: datetime) -> Batch:
        """An execution, told or found by asking."""
        batch = Batch()
        self._trade(batch, trade, now)
        return self._finish(batch, now, trade.client_order_id)

    # --- market, time, control ----------------------------------------------------------------------------------------

    def on_quotes(self, tops: Mapping[str, Top], now: datetime) -> Batch:
        """Newest prices; the held orders of those instruments look at them."""
        batch = Batch()
        for symbol, top in tops.items():
            self._tops[symbol] = top
            for parent_id in sorted(self._parents.get(symbol, ())):
                if parents.watches_prices(self._open[parent_id]):
                    self._drive(batch, parent_id, now)
        return self._finish(batch, now)

    def on_time(self, now: datetime) -> Batch:
        """Whatever is due: expiries, schedules of held orders, questions to the venue."""
        batch = Batch()
        while self._timers and self._timers[0][0] <= now:
            _, _, kind, order_id = heappop(self._timers)
            order = self._open.get(order_id)
            if order is None:
                continue
            if kind == "cancel":
                self._cancel_again(batch, order, now)
            elif kind == "expiry" and not order.intent.is_held:
                self._expire(batch, order, now)
            else:
                self._wakeups.pop(order_id, None)
                self._drive(batch, order_id, now)
        for parent_id in [parent_id for parent_id, due in self._memory_due.items() if due <= now]:
            self._write_memory(batch, parent_id, now)
        for order_id, unsettled in self._unsettled.items():
            if unsettled.due <= now and order_id not in self._sent and order_id not in self._canceling:
                unsettled.due = now + timedelta(seconds=unsettled.pause_s)
                unsettled.pause_s = min(QUERY_AGAIN_MOST_S, unsettled.pause_s * 2)
                batch.queries.append(self._open[order_id])
        return self._finish(batch, now)

    def on_state(self, state: State, now: datetime) -> Batch:
        """The state of trading that counts for this account. Held orders rest while it is halted and go on after it."""
        batch = Batch()
        released = halted(self.state) and not halted(state)
        self.state = state
        if released:
            for order in list(self._open.values()):
                if order.intent.is_held:
                    self._drive(batch, order.id, now)
        return self._finish(batch, now)

    def ask_again(self, order_id: str, now: datetime) -> None:
        """The books differ about this order: it is unsettled until the venue has been asked."""
        if order_id in self._open:
            self._ask(order_id, now)

    # --- a new order --------------------------------------------------------------------------------------------------

    def _intent(self, order_id: str, request: OrderRequest, now: datetime) -> Intent:
        instrument = self._catalogue.symbol(request.symbol)
        intent = Intent(
            client_order_id=order_id,
            account_id=self.account_id,
            symbol=instrument.symbol,
            instrument_id=instrument.id,
            venue=self.venue,
            side=request.side,
            type=request.type,
            time_in_force=request.time_in_force,
            quantity=request.quantity,
            limit_price=request.limit_price,
            strategy=request.strategy,
            signal_id=request.signal_id,
            trigger_price=request.trigger_price,
            expire_at=_next_midnight(now) if request.time_in_force == "DAY" else request.expire_at,
            post_only=request.post_only,
            reduce_only=request.reduce_only,
            position_side=request.position_side,
            replaces=request.replaces,
            flatten=request.flatten,
            terms=request.terms,
        )
        check(intent, instrument, self._mode, now)
        return intent

    def _new_order(self, batch: Batch, intent: Intent, actor: str, now: datetime) -> None:
        born = initialize(intent, now, actor, causation_id=intent.replaces or intent.signal_id or intent.parent_id)
        verdict = self.risk.check(intent, now, self.state)
        judged = _decision(intent, verdict)
        batch.steps.append(born)
        if not verdict.accepted:
            event = Event(EventType.DENIED, now, ACTOR, code=verdict.code, detail=verdict.detail, decision=judged)
            self._step(batch, born.order, event, now)
            return
        kind = EventType.HELD if intent.is_held else EventType.SUBMITTING
        step = advance(born.order, Event(kind, now, ACTOR, decision=judged))
        batch.steps.append(step)
        self._keep(step.order, set())
        self.risk.on_open(step.order)
        if intent.is_held:
            self._drive(batch, intent.client_order_id, now)
        else:
            self._sent.add(intent.client_order_id)
            batch.sends.append(intent)

    def _keep(self, order: Order, trades: set[str]) -> None:
        """Take an open order into memory."""
        self._open[order.id] = order
        self._trades[order.id] = trades
        self._note(order)
        if order.intent.is_held:
            self._children.setdefault(order.id, {})
            self._parents.setdefault(order.intent.symbol, set()).add(order.id)
        if order.intent.expire_at is not None:
            self._timer(order.intent.expire_at, "expiry", order.id)

    def _note(self, order: Order) -> None:
        """Let the family know how its member stands."""
        if order.intent.parent_id is not None:
            self._children.setdefault(order.intent.parent_id, {})[order.id] = order

    def _replacement(self, order: Order, changes: Changes) -> OrderRequest:
        intent = order.intent
        left = money.subtract(intent.quantity if changes.quantity is None else changes.quantity, order.filled_quantity)
        if left <= 0:
            raise NotOpen(f"{order.id} has filled {order.filled_quantity}; nothing is left to replace")
        return OrderRequest(
            origin=changes.origin,
            symbol=intent.symbol,
            side=intent.side,
            type=intent.type,
            quantity=left,
            limit_price=changes.limit_price if changes.limit_price is not None else intent.limit_price,
            time_in_force=intent.time_in_force,
            strategy=intent.strategy,
            signal_id=intent.signal_id,
            trigger_price=changes.trigger_price if changes.trigger_price is not None else intent.trigger_price,
            expire_at=intent.expire_at,
            post_only=intent.post_only,
            reduce_only=intent.reduce_only,
            position_side=intent.position_side,
            replaces=order.id,
        )

    # --- ending an order ----------------------------------------------------------------------------------------------

    def _cancel(self, batch: Batch, order: Order, actor: str, now: datetime, code: str | None = None, detail: str | None = None) -> None:
        if order.may(EventType.CANCEL_REQUESTED):
            order = self._step(batch, order, Event(EventType.CANCEL_REQUESTED, now, actor, code=code, detail=detail), now)
        if order.intent.is_held:
            self._drive(batch, order.id, now)
        else:
            self._cancel_if_wanted(batch, order.id, now)

    def _cancel_at_once(self, batch: Batch, order: Order, actor: str, now: datetime) -> None:
        """Somebody asks for it: what the venue refused before does not count, of its children neither."""
        children = list(self._children.get(order.id, ()))
        for order_id in (order.id, *children):
            self._cancel_attempts.pop(order_id, None)
            self._cancel_due.pop(order_id, None)
        self._cancel(batch, order, actor, now)
        for child_id in children:
            self._cancel_if_wanted(batch, child_id, now)

    def _cancel_again(self, batch: Batch, order: Order, now: datetime) -> None:
        """The pause after a refused cancel is over: whoever wants the order's end asks again."""
        if order.status is Status.PENDING_CANCEL:
            self._cancel_if_wanted(batch, order.id, now)
        elif order.intent.parent_id in self._open:
            self._drive(batch, order.intent.parent_id, now)
        elif order.intent.expire_at is not None and order.intent.expire_at <= now:
            self._expire(batch, order, now)

    def _expire(self, batch: Batch, order: Order, now: datetime) -> None:
        self._cancel(batch, order, ACTOR, now, code=TIME_IN_FORCE_EXPIRED, detail=f"{order.intent.time_in_force} is over")

    def _pause_cancels(self, order_id: str, now: datetime) -> None:
        """A cancel was in vain. The pause differs from order to order, so that not all come back in the same moment, and is the same
        every time it is worked out."""
        attempts = self._cancel_attempts[order_id] = self._cancel_attempts.get(order_id, 0) + 1
        longest = min(CANCEL_AGAIN_FIRST_S * 2 ** min(attempts - 1, 20), CANCEL_AGAIN_MOST_S)
        spread = 0.5 + crc32(f"{order_id}:{attempts}".encode()) / 2**33
        self._cancel_due[order_id] = due = now + timedelta(seconds=longest * spread)
        self._timer(due, "cancel", order_id)

    def _cancels_pause(self, order_id: str, now: datetime) -> bool:
        return order_id in self._cancel_due and now < self._cancel_due[order_id]

    def _cancel_if_wanted(self, batch: Batch, order_id: str, now: datetime) -> None:
        """Send the cancel of an order that is to end, unless its submit or another cancel is still on its way, or one was in vain a
        moment ago."""
        order = self._open.get(order_id)
        if order is None or order.status is not Status.PENDING_CANCEL or order.intent.is_held:
            return
        if order_id not in self._sent and order_id not in self._canceling and order_id not in self._ends:
            if self._cancels_pause(order_id, now):
                return
            self._canceling.add(order_id)
            batch.cancels.append(order)

    # --- what the venue has to be asked ---------------------------------------------------------------------------------

    def _ask(self, order_id: str, now: datetime, due: datetime | None = None) -> None:
        """Put a question about the order that only asking answers."""
        due = now if due is None else due
        unsettled = self._unsettled.setdefault(order_id, _Unsettled(now, due, now))
        unsettled.due, unsettled.since, unsettled.arrival = min(unsettled.due, due), now, False

    def _ask_of_submit(self, order_id: str, now: datetime) -> None:
        """Its submit got no answer. A question that was there before stays what it was."""
        known = self._unsettled.get(order_id)
        self._unsettled[order_id] = _Unsettled(now, now, now, arrival=known is None or known.arrival)

    def _settle(self, batch: Batch, order_id: str, answer: VenueOrder, asked_at: datetime, now: datetime) -> None:
        """The venue was asked and knows the order."""
        order = self._open.get(order_id)
        if order is None or order_id in self._ends or answer.filled_quantity > order.filled_quantity:
            return
        if order.status is not Status.PENDING_CANCEL:
            unsettled = self._unsettled.get(order_id)
            if unsettled is not None and asked_at >= unsettled.since:
                del self._unsettled[order_id]
        elif self._cancel_attempts.get(order_id, 0) < CANCEL_ATTEMPTS:
            self._cancel_if_wanted(batch, order_id, now)
        else:
            self._unsettled.pop(order_id, None)
            self._replacing.pop(order_id, None)
            detail = f"still {answer.status} after {self._cancel_attempts[order_id]} cancels"
            self._step(batch, order, Event(EventType.CANCEL_REFUSED, now, self._them, code="CANCEL_REFUSED", detail=detail), now)

    def _not_there(self, batch: Batch, order: Order, asked_at: datetime, now: datetime) -> None:
        """The venue does not know the order. It is over once no request for it can arrive any more."""
        if not order.may(EventType.NEVER_RECEIVED):
            if asked_at <= self._missing.setdefault(order.id, now):  # it may have been asked before the order was there
                self._ask(order.id, now)
                return
            self._alert(batch, "lost_order", f"we hold {order.id} as {order.status}; the venue does not know it")
            return
        unsettled = self._unsettled.setdefault(order.id, _Unsettled(now, now, now))
        if order.id not in self._sent and asked_at >= unsettled.signed_until + self._certain_after:
            event = Event(EventType.NEVER_RECEIVED, now, ACTOR, code="VENUE_NEVER_RECEIVED", detail="the venue does not know this order")
            self._step(batch, order, event, now)

    # --- following the venue ------------------------------------------------------------------------------------------

    def _accept(self, batch: Batch, theirs: VenueOrder, now: datetime) -> Order | None:
        """The venue knows our order."""
        order = self._open.get(theirs.client_order_id)
        if order is not None and order.may(EventType.ACCEPTED) and theirs.status != "REJECTED":
            accepted = Event(EventType.ACCEPTED, now, self._them, venue_order_id=theirs.venue_order_id)
            order = self._step(batch, order, accepted, now)
            unsettled = self._unsettled.get(order.id)
            if order.status is not Status.PENDING_CANCEL and unsettled is not None and unsettled.arrival:
                del self._unsettled[order.id]
        return order

    def _follow(self, batch: Batch, order: Order, theirs: VenueOrder, now: datetime) -> None:
        """Bring our order to where the venue's is: acknowledged, its fills, then its end."""
        self._missing.pop(order.id, None)
        self._accept(batch, theirs, now)
        for trade in theirs.trades:
            self._trade(batch, trade, now)
        current = self._open.get(order.id)
        if current is None:
            return
        if theirs.status in ("CANCELED", "EXPIRED", "REJECTED"):
            self._ends[order.id] = theirs
        if theirs.filled_quantity > current.filled_quantity:
            batch.symbols.add(current.intent.symbol)
            if order.id not in self._unsettled:
                self._ask(order.id, now, now + timedelta(seconds=QUERY_AGAIN_FIRST_S))
        else:
            self._end_if_complete(batch, current, now)

    def _late(self, batch: Batch, theirs: VenueOrder, now: datetime) -> None:
        """An answer about an order that is at its end: only executions can matter."""
        for trade in theirs.trades:
            self._trade(batch, trade, now)
        remembered = self._ended.get(theirs.client_order_id)
        if remembered is not None and theirs.filled_quantity > remembered.order.filled_quantity:
            batch.symbols.add(remembered.order.intent.symbol)

    def _end_if_complete(self, batch: Batch, order: Order, now: datetime) -> None:
        """The venue's end of the order, once everything it filled has arrived."""
        theirs = self._ends.get(order.id)
        if theirs is None or theirs.filled_quantity > order.filled_quantity:
            return
        del self._ends[order.id]
        kind = {"CANCELED": EventType.CANCELED, "EXPIRED": EventType.EXPIRED, "REJECTED": EventType.REJECTED}[theirs.status]
        if kind is EventType.CANCELED and order.reason_code == TIME_IN_FORCE_EXPIRED:
            kind = EventType.EXPIRED
        if order.may(kind):
            code = "VENUE_REJECTED" if kind is EventType.REJECTED else None
            if kind is EventType.REJECTED:
                self.risk.on_reject(order)
            self._step(batch, order, Event(kind, now, self._them, code=code, detail=theirs.reason), now)
        else:
            self._alert(batch, "impossible_end", f"the venue says {order.id} is {theirs.status}; we hold it as {order.status}")

    def _trade(self, batch: Batch, trade: VenueTrade, now: datetime) -> None:
        """Record an execution once."""
        order_id, fill = trade.client_order_id, trade.fill
        remembered = self._ended.get(order_id)
        order = self._open.get(order_id) or (remembered.order if remembered else None)
        if order is None:
            batch.unmatched.append(trade)
            return
        seen = self._trades[order_id] if order_id in self._open else cast(_Remembered, remembered).trades
        if fill.trade_id in seen:
            return
        try:
            step = advance(order, Event(EventType.FILLED, fill.executed_at, self._them, fill=fill))
        except (IllegalTransition, Overfill) as error:
            self._alert(batch, "impossible_fill", f"venue trade {fill.trade_id}: {error}")
            return
        seen.add(fill.trade_id)
        self._book(order.intent, fill)
        self._moved(batch, step, now)
        current = self._open.get(order_id)
        if current is not None:
            self._end_if_complete(batch, current, now)

    def _book(self, intent: Intent, fill: Fill) -> None:
        key = (intent.instrument_id, intent.position_side)
        self._positions[key] = money.add(self._positions.get(key, ZERO), positions.signed(intent.side, fill.quantity))

    # --- steps --------------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, order: Order, event: Event, now: datetime) -> Order:
        step = advance(order, event)
        self._moved(batch, step, now)
        return step.order

    def _moved(self, batch: Batch, step: Step, now: datetime) -> None:
        """An order changed: memory, risk and its family follow."""
        order, event = step.order, step.event
        batch.steps.append(step)
        if event.fill is not None:
            self.risk.on_fill(order, event.fill)
        self._note(order)
        if order.is_open:
            self._open[order.id] = order
        elif order.id in self._open:
            self._remember(order, self._forget(order))
            self.risk.on_end(order)
            self._after_end(batch, order, now)
        elif order.id in self._ended:
            self._ended[order.id].order = order
        else:
            self._remember(order, set())
        if order.intent.parent_id in self._open and not order.intent.is_held:
            self._drive(batch, order.intent.parent_id, now)

    def _forget(self, order: Order) -> set[str]:
        """Let an ended order go; the executions it had."""
        del self._open[order.id]
        self._sent.discard(order.id)
        self._canceling.discard(order.id)
        for table in (
            self._cancel_attempts, self._cancel_due, self._unsettled, self._missing, self._ends, self._memory, self._memory_due,
            self._wakeups,
        ):  # fmt: skip
            cast(dict[str, Any], table).pop(order.id, None)
        if order.intent.is_held:
            self._children.pop(order.id, None)
            self._parents[order.intent.symbol].discard(order.id)
        return self._trades.pop(order.id)

    def _remember(self, order: Order, trades: set[str]) -> None:
        self._ended[order.id] = _Remembered(order, trades)
        while len(self._ended) > self._remembered:
            self._ended.popitem(last=False)

    def _after_end(self, batch: Batch, order: Order, now: datetime) -> None:
        wanted = self._replacing.pop(order.id, None)
        if wanted is None or order.status not in (Status.CANCELED, Status.EXPIRED):
            return
        changes, actor = wanted
        try:
            request = self._replacement(order, changes)
            intent = self._intent(client_order_id(self.account_id, request.origin), request, now)
        except (NotOpen, InvalidOrder):
            return  # it filled further meanwhile: whoever asked finds it ended, with what it filled
        self._new_order(batch, intent, actor, now)

    def _finish(self, batch: Batch, now: datetime, order_id: str | None = None) -> Batch:
        """The last thought of every input."""
        for wish in list(self._flattening):
            origin, actor, symbol = wish
            if not any(symbol in (None, order.intent.symbol) for order in self._open.values()):
                self._flattening.remove(wish)
                for key in sorted(self._positions):
                    if symbol in (None, self._catalogue.id(key[0]).symbol):
                        self._close(batch, key, origin, actor, now)
        if order_id is not None:
            batch.order = self.get(order_id)
        return batch

    def _close(self, batch: Batch, key: tuple[int, PositionSide], origin: str, actor: str, now: datetime) -> None:
        instrument = self._catalogue.id(key[0])
        held = self._positions[key]
        quantity = min(instrument.round_quantity(abs(held)), instrument.max_quantity)
        if quantity < instrument.min_quantity:
            return  # dust no order can be made of
        request = OrderRequest(
            origin=self._closing(origin, key),
            symbol=instrument.symbol,
            side="sell" if held > 0 else "buy",
            type="market",
            quantity=quantity,
            reduce_only=True,
            position_side=key[1],
            flatten=True,
        )
        order_id = client_order_id(self.account_id, request.origin)
        if self.get(order_id) is None:
            self._new_order(batch, self._intent(order_id, request, now), actor, now)

    # --- held orders --------------------------------------------------------------------------------------------------

    def _drive(self, batch: Batch, parent_id: str, now: datetime) -> None:
        """Ask what is to be done for a held order, and do it, until nothing is."""
        if self._recovering or parent_id in self._driving:
            return  # what is being done for it changed a child: it is asked again when that is through
        self._driving.add(parent_id)
        try:
            for _ in range(MAX_ROUNDS):
                parent = self._open.get(parent_id)
                if parent is None:
                    return
                done = [self._act(batch, parent_id, action, now) for action in self._decisions(parent, now)]
                if not any(done):
                    self._wake(parent_id, now)
                    self._look_after(batch, self._open[parent_id], now)
                    return
            self._alert(batch, "undecided", f"held order {parent_id} does not come to rest")
        finally:
            self._driving.discard(parent_id)

    def _look_after(self, batch: Batch, parent: Order, now: datetime) -> None:
        """Say so when a position is held that its stop does not protect. One that is gone, by whatever hand, needs none."""
        children = list(self._children[parent.id].values())
        detail = parents.unprotected(parent, children)
        if detail is None:
            return
        own, instrument = parent.intent, self._catalogue.id(parent.intent.instrument_id)
        if own.type == "bracket" or own.reduce_only:
            held = self._positions.get((own.instrument_id, own.position_side), ZERO)
            closes_by_selling = (own.side == "buy") is (own.type == "bracket")
            if held == 0 or (held > 0) is not closes_by_selling:
                if not any(child.is_open for child in children):
                    self._act(batch, parent.id, parents.nothing_to_protect(parent, children, now, instrument), now)
                return
        self._alert(batch, UNPROTECTED, detail)

    def _decisions(self, parent: Order, now: datetime) -> Sequence[parents.Action]:
        instrument = self._catalogue.id(parent.intent.instrument_id)
        current = replace(parent, memory=self._memory.get(parent.id, parent.memory))
        children = list(self._children[parent.id].values())
        top = self._tops.get(parent.intent.symbol)
        if top is not None and now - top.ts > self._price_max_age:
            top = None
        return parents.decide(current, children, top, now, instrument)

    def _act(self, batch: Batch, parent_id: str, action: parents.Action, now: datetime) -> bool:
        """Carry one decision out; whether it changed anything that decisions depend on."""
        parent = self._open.get(parent_id)
        if parent is None:
            return False
        match action:
            case PlaceChild():
                if halted(self.state) or action.intent.client_order_id in self._children[parent_id]:
                    return False
                self._write_memory(batch, parent_id, now)
                self._new_order(batch, action.intent, ACTOR, now)
                return True
            case CancelChild():
                child = self._open.get(action.client_order_id)
                if child is None or child.status is Status.PENDING_CANCEL or self._cancels_pause(child.id, now):
                    return False
                self._write_memory(batch, parent_id, now)
                self._cancel(batch, child, ACTOR, now)
                return True
            case Remember():
                if self._memory.get(parent_id, parent.memory) == action.memory:
                    return False
                self._memory[parent_id] = action.memory
                self._memory_due.setdefault(parent_id, now + MEMORY_EVERY)
                return True
            case Finish():
                event = Event(EventType.FINISHED, now, ACTOR, code=action.code, detail=action.detail, outcome=action.outcome)
                self._step(batch, parent, event, now)
                return True

    def _write_memory(self, batch: Batch, parent_id: str, now: datetime) -> None:
        memory = self._memory.pop(parent_id, None)
        self._memory_due.pop(parent_id, None)
        if memory is not None:
            self._step(batch, self._open[parent_id], Event(EventType.MOVED, now, ACTOR, memory=memory), now)

    def _wake(self, parent_id: str, now: datetime) -> None:
        parent = self._open[parent_id]
        moment = parents.next_wakeup(parent, list(self._children[parent_id].values()), now)
        if moment is not None and self._wakeups.get(parent_id) != moment:
            self._wakeups[parent_id] = moment
            self._timer(moment, "wakeup", parent_id)

    # --- small things -------------------------------------------------------------------------------------------------

    def _timer(self, at: datetime, kind: str, order_id: str) -> None:
        heappush(self._timers, (at, next(self._number), kind, order_id))

    def _alert(self, batch: Batch, kind: str, detail: str) -> None:
        if (kind, detail) not in self._alerted:
            self._alerted.add((kind, detail))
            batch.alerts.append(Alert(kind, detail))

    def _require_open(self, order_id: str) -> Order:
        order = self._open.get(order_id)
        if order is not None:
            return order
        if order_id in self._ended:
            raise NotOpen(f"{order_id} is {self._ended[order_id].order.status}")
        raise UnknownOrder(order_id)

    @property
    def _them(self) -> str:
        return f"venue:{self.venue}"


def check(intent: Intent, instrument: Instrument, mode: Literal["netting", "hedging"], now: datetime) -> None:
    """Whether it is an order at all. Raises InvalidOrder with the reason."""
    instrument.check_quantity(intent.quantity)
    for price in (intent.limit_price, intent.trigger_price):
        if price is not None:
            instrument.check_price(price)
    if (mode == "netting") != (intent.position_side == "net"):
        raise InvalidOrder("POSITION_SIDE_MISMATCH", f"the account is {mode}; position_side {intent.position_side} has no meaning there")
    if (intent.expire_at is not None) != (intent.time_in_force in ("GTD", "DAY")):
        raise InvalidOrder("EXPIRE_AT_MISMATCH", "GTD has expire_at, nothing else has")
    if intent.expire_at is not None and (intent.expire_at.tzinfo is None or intent.expire_at <= now):
        raise InvalidOrder("EXPIRE_AT_PAST", f"expire_at is {intent.expire_at}; it must lie ahead and name its zone")
    if intent.type in HELD_TYPES:
        parents.check_terms(intent, instrument)
    else:
        _check_working(intent)


def _check_working(intent: Intent) -> None:
    has_limit, has_trigger = intent.limit_price is not None, intent.trigger_price is not None
    if has_limit != (intent.type in ("limit", "stop_limit")):
        raise InvalidOrder("LIMIT_PRICE_MISMATCH", "limit and stop_limit orders have a limit price, market and stop orders have none")
    if has_trigger != (intent.type in ("stop", "stop_limit")):
        raise InvalidOrder("TRIGGER_PRICE_MISMATCH", "stop and stop_limit orders have a trigger price, market and limit orders have none")
    if intent.post_only and (intent.type != "limit" or intent.time_in_force in ("IOC", "FOK")):
        raise InvalidOrder("POST_ONLY_MISMATCH", "only a limit order that may rest can be post-only")
    if intent.type == "market" and intent.time_in_force == "FOK":
        text = "a market order takes what there is and venues do not take it fill-or-kill; use a limit order with FOK, or IOC"
        raise InvalidOrder("TIME_IN_FORCE_MISMATCH", text)
    if intent.type == "stop" and intent.time_in_force in ("IOC", "FOK"):
        raise InvalidOrder("TIME_IN_FORCE_MISMATCH", f"a stop order waits; {intent.time_in_force} has no meaning for it")
    if intent.terms is not None:
        raise InvalidOrder("TERMS_MISMATCH", f"a {intent.type} order has no terms; they belong to {', '.join(sorted(HELD_TYPES))}")


def _decision(intent: Intent, verdict: Verdict) -> dict[str, Any]:
    """As kept in the event."""
    facts = dict(verdict.facts())
    return {
        "symbol": intent.symbol,
        "accepted": verdict.accepted,
        "code": verdict.code,
        "detail": verdict.detail,
        "limits_version": facts.pop("limits_version", None),
        "facts": facts,
    }


def _next_midnight(now: datetime) -> datetime:
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today + timedelta(days=1)
