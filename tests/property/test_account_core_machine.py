"""An account's core between a journal and a venue that loses, repeats, reorders and delays, killed at any moment.

The venue's truth and what was committed outlive every crash; the core, every answer and every report on its way do not. After
each step nothing is wrong, and once the network behaves both sides agree in every fill and every order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from held_orders import INSTRUMENT, START
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trading_platform.domain import ledger, orders, positions
from trading_platform.domain.figures import PublishedFigures
from trading_platform.domain.orders import Event, EventType, Fill, Intent, Order, Status, Step
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import AccountRisk, Limits
from trading_platform.domain.top import Top
from trading_platform.domain.trading_state import State, halted
from trading_platform.engine.core import UNPROTECTED, AccountCore, Batch, Changes, NotOpen, OrderRequest, UnknownOrder
from trading_platform.engine.venues import VenueOrder, VenueRejected, VenueReport, VenueTrade, VenueUnknown
from trading_platform.instruments import Catalogue, InvalidOrder

D = Decimal
LOT = D("0.05")
RECV_WINDOW = timedelta(seconds=2)
PERPETUAL = replace(INSTRUMENT, id=2, symbol="BTCUSD-PERP", kind="perpetual", quote_currency="USDT")
CATALOGUE = Catalogue([INSTRUMENT, PERPETUAL])
SYMBOLS = [instrument.symbol for instrument in CATALOGUE]
PLENTY = D(10**12)
LIMITS = Limits(1, PLENTY, PLENTY, PLENTY, 10**6, D(10), PLENTY, D(10**6))

CHOICE = st.integers(0, 11)
LOTS = st.integers(1, 8)
FATES = st.sampled_from(["answered", "answered", "bare", "unanswered", "rejected", "lost", "late"])
HELD_REQUESTS: list[dict[str, Any]] = [
    {"type": "trailing_stop", "terms": {"callback_amount": "5"}},
    {"type": "oco", "terms": {"take_profit_price": "110", "stop_price": "90"}},
    {"type": "bracket", "side": "buy", "limit_price": D(100), "terms": {"take_profit_price": "110", "stop_price": "90"}},
    {"type": "bracket", "side": "sell", "terms": {"take_profit_price": "90", "stop_price": "110"}},
    {"type": "iceberg", "limit_price": D(100), "terms": {"visible_quantity": "0.1"}},
    {"type": "twap", "terms": {"duration_s": 20, "slices": 4}},
    {"type": "twap", "limit_price": D(100), "terms": {"duration_s": 12, "slices": 3, "slice_type": "limit"}},
]


@dataclass
class Theirs:
    """An order as the venue holds it."""

    intent: Intent
    number: int
    status: Any = "NEW"
    trades: list[VenueTrade] = field(default_factory=list)

    @property
    def filled(self) -> Decimal:
        return sum((trade.fill.quantity for trade in self.trades), D(0))

    @property
    def is_open(self) -> bool:
        return self.status in ("NEW", "PARTIALLY_FILLED")

    def told(self, *, with_trades: bool = False) -> VenueOrder:
        trades = tuple(self.trades) if with_trades else ()
        return VenueOrder(self.intent.symbol, self.intent.client_order_id, str(self.number), self.status, self.filled, trades=trades)


class Market:
    """The venue: its orders and executions are the truth."""

    def __init__(self) -> None:
        self.orders: dict[str, Theirs] = {}
        self.trades: dict[str, list[VenueTrade]] = {symbol: [] for symbol in SYMBOLS}
        self.reports: list[VenueReport] = []

    def take(self, intent: Intent, lots: int, now: datetime) -> Theirs:
        """A submit arrives. What cannot rest trades at once, as far as the market goes."""
        assert intent.client_order_id not in self.orders, "an order is sent once"
        self.orders[intent.client_order_id] = order = Theirs(intent, len(self.orders) + 1)
        self._tell(order)
        if intent.type == "market" or intent.time_in_force in ("IOC", "FOK"):
            if lots:
                self.fill(order, lots, now)
            if order.is_open:
                self.end(order, "EXPIRED")
        return order

    def fill(self, order: Theirs, lots: int, now: datetime) -> None:
        quantity = min(LOT * lots, order.intent.quantity - order.filled)
        trades = self.trades[order.intent.symbol]
        fill = Fill(f"{order.intent.symbol}:{len(trades) + 1}", quantity, D(100), D("0.01"), "USDT", "taker", now, len(trades))
        trade = VenueTrade(order.intent.symbol, order.intent.client_order_id, fill)
        trades.append(trade)
        order.trades.append(trade)
        order.status = "FILLED" if order.filled == order.intent.quantity else "PARTIALLY_FILLED"
        self._tell(order, trade)

    def end(self, order: Theirs, status: str) -> None:
        order.status = status
        self._tell(order)

    def _tell(self, order: Theirs, trade: VenueTrade | None = None) -> None:
        self.reports.append(VenueReport(order.told(), trade))


class Journal:
    """What was committed. Refuses what the database refuses."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.events: dict[str, list[Event]] = {}
        self.fills: dict[str, tuple[Intent, Fill]] = {}

    def commit(self, steps: Sequence[Step]) -> None:
        for step in steps:
            key, event = step.order.id, step.event
            if step.before is None:
                assert key not in self.orders, "an order begins once"
                self.orders[key], self.events[key] = step.order, [event]
                continue
            assert self.orders[key].status is step.before
            assert self.orders[key].apply(event) == step.order, "memory and journal tell one story"
            self.orders[key] = step.order
            self.events[key].append(event)
            if event.fill is not None:
                assert event.fill.trade_id not in self.fills, "an execution is recorded once"
                self.fills[event.fill.trade_id] = (step.order.intent, event.fill)

    def trades_of(self, order_id: str) -> list[str]:
        return [event.fill.trade_id for event in self.events[order_id] if event.fill is not None]

    def positions(self) -> dict[tuple[int, Any], Position]:
        held: dict[tuple[int, Any], Position] = {}
        for intent, fill in self.fills.values():
            key, instrument = (intent.instrument_id, intent.position_side), CATALOGUE.id(intent.instrument_id)
            before = held.get(key, Position())
            held[key], _ = positions.after_fill(before, instrument, intent.side, fill.quantity, fill.price, fill.fee, fill.fee_currency)
        return held

    def lines(self) -> list[ledger.Line]:
        held: dict[int, Position] = {}
        lines: list[ledger.Line] = []
        for intent, fill in self.fills.values():
            instrument = CATALOGUE.id(intent.instrument_id)
            held[instrument.id], effect = positions.after_fill(
                held.get(instrument.id, Position()), instrument, intent.side, fill.quantity, fill.price, fill.fee, fill.fee_currency
            )
            lines += ledger.fill(instrument, intent.side, fill.quantity, fill.price, fill.fee, fill.fee_currency, effect)
        return lines


class Account(RuleBasedStateMachine):
    """One account's life: requests, a venue, a network between, and crashes."""

    @initialize(last=st.integers(196, 204))
    def begin(self, last: int) -> None:
        self.now = START
        self.market = Market()
        self.journal = Journal()
        self.state: State = "running"
        self.last = D(last) / 2
        self.sent: set[str] = set()
        self.submits: list[tuple[Intent, datetime, bool]] = []  # on their way; whether the answer was given up already
        self.cancels: list[str] = []
        self.answers: list[Callable[[], Batch]] = []
        self.requests: list[OrderRequest] = []
        self.dying: str | None = None
        self.recover()

    # --- the host ------------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """A new core from what was committed, then what the venue tells when asked."""
        self.answers.clear()
        self.market.reports.clear()
        self.submits = [(intent, signed_at, True) for intent, signed_at, _ in self.submits]
        self.asked: dict[str, int] = dict.fromkeys(SYMBOLS, 0)
        self.risk = AccountRisk("paper", "USDT", lambda *_: D(1), CATALOGUE, figures_max_age_s=10**6)
        self.risk.set_limits(LIMITS, None)
        self.risk.set_figures(PublishedFigures(self.now, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, 0, D(0), {}, {}))
        held = self.journal.positions()
        for key, position in held.items():
            self.risk.set_position(*key, position)
        self.core = AccountCore("paper", "paper", CATALOGUE, self.risk, recv_window_s=RECV_WINDOW.total_seconds())
        known = self.journal.orders
        family = [order for order in known.values() if order.is_open or self._has_open_parent(order)]
        trades = {order.id: self.journal.trades_of(order.id) for order in family}
        self.core.restore(family, trades, {key: position.quantity for key, position in held.items()}, self.now)
        self.do(self.core.on_state(self.state, self.now))
        self._compare()
        self.fetch(SYMBOLS)
        self.quote()
        self.do(self.core.resume(self.now))

    def _has_open_parent(self, order: Order) -> bool:
        parent = self.journal.orders.get(order.intent.parent_id or "")
        return parent is not None and parent.is_open

    def do(self, batch: Batch) -> None:
        """Commit, then carry out; or die on the way."""
        assert {alert.kind for alert in batch.alerts} <= {UNPROTECTED}, batch.alerts
        dying, self.dying = self.dying, None
        if dying == "before the commit":
            return self.recover()
        self.journal.commit(batch.steps)
        for step in batch.steps:
            theirs = self.market.orders.get(step.order.id)
            if theirs is not None and not step.order.is_open:
                assert step.order.filled_quantity == theirs.filled, f"{step.order.id} counts as over and lacks fills"
        if dying == "after the commit":
            return self.recover()
        for intent in batch.sends:
            self.send(intent)
        self.cancels += [order.id for order in batch.cancels]
        for order in batch.queries:
            self.answers.append(self._query(order.id))
        for trade in batch.unmatched:
            self.match(trade)
        if batch.symbols:
            self.fetch(sorted(batch.symbols))
        return None

    def send(self, intent: Intent) -> None:
        order_id = intent.client_order_id
        assert order_id not in self.sent, "an order is sent once, whatever happens"
        assert EventType.SUBMITTING in {event.type for event in self.journal.events[order_id]}, "committed before it is sent"
        if halted(self.state) and not intent.flatten:
            refused = VenueRejected("TRADING_HALTED", "not sent")
            self.answers.append(lambda: self.core.on_answer(order_id, refused, self.now))
            return
        self.sent.add(order_id)
        self.submits.append((intent, self.now, False))

    def _query(self, order_id: str) -> Callable[[], Batch]:
        asked_at, theirs = self.now, self.market.orders.get(order_id)
        answer = None if theirs is None else theirs.told()
        return lambda: self.core.on_query(order_id, answer, asked_at, self.now)

    def match(self, trade: VenueTrade) -> None:
        """An execution of an order that is not in memory."""
        order = self.journal.orders[trade.client_order_id]
        if self.core.get(order.id) is None:
            self.core.revive(order, self.journal.trades_of(order.id))
        self.do(self.core.on_trade(trade, self.now))

    def fetch(self, symbols: Sequence[str]) -> None:
        """Ask for the executions after the last ones asked for."""
        for symbol in symbols:
            trades = self.market.trades[symbol][self.asked[symbol] :]
            self.asked[symbol] = len(self.market.trades[symbol])
            for trade in trades:
                core = self.core
                self.do(self.core.on_trade(trade, self.now))
                if core is not self.core:
                    return  # it died, and recovery asked for everything

    def quote(self) -> None:
        tops = {symbol: Top(self.last - D("0.5"), self.last + D("0.5"), self.last, self.now) for symbol in SYMBOLS}
        for symbol in SYMBOLS:
            self.risk.on_quote(symbol, self.last, int(self.now.timestamp() * 1e9))
        self.do(self.core.on_quotes(tops, self.now))

    def _pick(self, choice: int, candidates: Sequence[Any]) -> Any:
        return candidates[choice % len(candidates)] if candidates else None

    def _ours(self, choice: int) -> Order | None:
        return self._pick(choice, sorted(self.core.open_orders, key=lambda order: order.id))

    # --- requests ------------------------------------------------------------------------------------------------------

    def _request(self, *, halted: bool, **wish: Any) -> None:
        """Most requests come while trading runs: one that is refused at once tries little."""
        if not halted and self.state != "running":
            self._state("running")
        request = OrderRequest(origin=f"request-{len(self.requests)}", **wish)
        self.requests.append(request)
        self.do(self.core.place(request, "user:a", self.now))

    @rule(
        symbol=st.sampled_from(SYMBOLS),
        side=st.sampled_from(["buy", "sell"]),
        lots=LOTS,
        kind=st.sampled_from(["market", "limit", "stop"]),
        force=st.sampled_from(["GTC", "GTC", "IOC", "GTD"]),
        whenever=st.integers(0, 5),
    )
    def somebody_orders(self, symbol: str, side: Any, lots: int, kind: Any, force: Any, whenever: int) -> None:
        force = "GTC" if kind == "stop" and force == "IOC" else force
        self._request(
            halted=whenever == 1,
            symbol=symbol,
            side=side,
            type=kind,
            quantity=LOT * 2 * lots,
            time_in_force=force,
            limit_price=D(100) if kind == "limit" else None,
            trigger_price=D(100) if kind == "stop" else None,
            expire_at=self.now + timedelta(seconds=5) if force == "GTD" else None,
        )

    @rule(wish=st.sampled_from(HELD_REQUESTS), side=st.sampled_from(["buy", "sell"]), lots=LOTS, whenever=st.integers(0, 5))
    def somebody_orders_something_held(self, wish: dict[str, Any], side: str, lots: int, whenever: int) -> None:
        side = "sell" if wish["type"] == "oco" else side
        self._request(halted=whenever == 1, **{"symbol": SYMBOLS[0], "side": side, "quantity": LOT * (4 + 2 * lots), **wish})

    @precondition(lambda self: self.requests)
    @rule(choice=CHOICE)
    def somebody_repeats_a_request(self, choice: int) -> None:
        request = self._pick(choice, self.requests)
        order_id = request and orders.client_order_id("paper", request.origin)
        if order_id in self.journal.orders and self.core.get(order_id) is not None:
            batch = self.core.place(request, "user:a", self.now)
            assert not batch.created
            assert batch.steps == batch.sends == []

    @precondition(lambda self: self.core.open_orders)
    @rule(choice=CHOICE)
    def somebody_cancels(self, choice: int) -> None:
        order = self._ours(choice)
        if order is not None:
            self.do(self.core.cancel(order.id, "user:a", self.now))

    @precondition(lambda self: self.core.open_orders)
    @rule(choice=CHOICE, lots=LOTS)
    def somebody_replaces(self, choice: int, lots: int) -> None:
        order = self._ours(choice)
        if order is None:
            return
        changes = Changes(f"replace-{order.id}", LOT * 2 * lots, limit_price=D(99) if order.intent.type == "limit" else None)
        try:
            batch = self.core.replace(order.id, changes, "user:a", self.now)
        except (NotOpen, UnknownOrder, InvalidOrder):
            return
        self.do(batch)

    @precondition(lambda self: self.core.open_orders)
    @rule(really=st.integers(0, 3), flatten=st.booleans())
    def somebody_cancels_everything(self, really: int, flatten: bool) -> None:
        if really == 1:
            origin = f"flatten-{len(self.journal.events)}"
            self.do(self.core.flatten(origin, "user:a", self.now) if flatten else self.core.cancel_all("user:a", self.now))

    @rule(state=st.sampled_from(["reducing", "paused", "emergency_stopped"]), really=st.integers(0, 4))
    def trading_is_put_into_a_state(self, state: State, really: int) -> None:
        self._state(state if really == 1 else "running")

    def _state(self, state: State) -> None:
        self.state = state
        self.do(self.core.on_state(state, self.now))

    # --- the network ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.submits)
    @rule(choice=CHOICE, lots=st.integers(0, 8), fate=FATES)
    def a_submit_arrives(self, choice: int, lots: int, fate: str) -> None:
        submit = self._pick(choice, self.submits)
        if submit is None:
            return
        intent, signed_at, given_up = submit
        order_id = intent.client_order_id
        answer: VenueOrder | VenueRejected | VenueUnknown = VenueUnknown("no answer in time")
        if fate == "late" and not given_up:
            self.submits[self.submits.index(submit)] = (intent, signed_at, True)
        else:
            self.submits.remove(submit)
            if self.now > signed_at + RECV_WINDOW or fate == "rejected":
                answer = VenueRejected("VENUE_SAYS_NO", "no")
            elif fate != "lost":
                order = self.market.take(intent, lots, self.now)
                if fate != "unanswered":
                    answer = order.told(with_trades=fate == "answered")
        if not given_up:
            self.answers.append(lambda: self.core.on_answer(order_id, answer, self.now))

    @precondition(lambda self: self.cancels)
    @rule(choice=CHOICE, fate=st.sampled_from(["answered", "answered", "unanswered", "lost", "refused"]))
    def a_cancel_arrives(self, choice: int, fate: str) -> None:
        order_id = self._pick(choice, self.cancels)
        if order_id is None:
            return
        self.cancels.remove(order_id)
        order = self.market.orders.get(order_id)
        answer: VenueOrder | VenueRejected | VenueUnknown = VenueUnknown("no answer in time")
        if fate == "refused":
            answer = VenueRejected("VENUE_SAYS_NO", "not now")
        elif fate != "lost":
            if order is not None and order.is_open:
                self.market.end(order, "CANCELED")
                answer = order.told() if fate == "answered" else answer
            else:
                answer = VenueRejected("ORDER_NOT_OPEN", "nothing to cancel") if fate == "answered" else answer
        self.answers.append(lambda: self.core.on_cancel_answer(order_id, answer, self.now))

    @precondition(lambda self: self.answers)
    @rule(choice=CHOICE)
    def an_answer_comes(self, choice: int) -> None:
        if self.answers:
            self.do(self.answers.pop(choice % len(self.answers))())

    @precondition(lambda self: self.market.reports)
    @rule(choice=CHOICE, again=st.booleans())
    def a_report_comes(self, choice: int, again: bool) -> None:
        report = self._pick(choice, self.market.reports)
        if report is not None:
            if not again:
                self.market.reports.remove(report)
            self.do(self.core.on_report(report, self.now))

    @rule(choices=st.lists(st.tuples(CHOICE, CHOICE, LOTS), min_size=1, max_size=8))
    def the_network_moves(self, choices: list[tuple[int, int, int]]) -> None:
        """Several things arrive, most of them as they should."""
        for kind, choice, lots in choices:
            match kind % 5:
                case 0 if self.submits:
                    self.a_submit_arrives(choice, lots - 1, "answered")
                case 1 if self.cancels:
                    self.a_cancel_arrives(choice, "answered")
                case 2 if self.market.reports:
                    self.a_report_comes(choice, again=False)
                case 3:
                    self.the_venue_fills(choice, lots)
                case _:
                    self.an_answer_comes(choice)

    @precondition(lambda self: self.market.reports)
    @rule()
    def the_stream_is_lost(self) -> None:
        """What it had is gone; everything is asked for."""
        self.market.reports.clear()
        self._compare()
        self.fetch(SYMBOLS)

    def _compare(self) -> None:
        """What the venue does not list among its open orders is asked for."""
        for order in self.core.open_orders:
            theirs = self.market.orders.get(order.id)
            if not order.intent.is_held and (theirs is None or not theirs.is_open):
                self.core.ask_again(order.id, self.now)

    @rule(how=st.sampled_from(["at once", "before the commit", "after the commit"]), really=st.integers(0, 2))
    def it_dies(self, how: str, really: int) -> None:
        """At once, or in the commit of what comes next."""
        if really != 1:
            return
        if how == "at once":
            self.recover()
        else:
            self.dying = how

    # --- the world -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(order.is_open for order in self.market.orders.values()))
    @rule(choice=CHOICE, lots=LOTS)
    def the_venue_fills(self, choice: int, lots: int) -> None:
        order = self._pick(choice, [order for order in self.market.orders.values() if order.is_open])
        if order is not None:
            self.market.fill(order, lots, self.now)

    @precondition(lambda self: any(order.is_open for order in self.market.orders.values()))
    @rule(choice=CHOICE)
    def the_venue_ends_an_order(self, choice: int) -> None:
        order = self._pick(choice, [order for order in self.market.orders.values() if order.is_open])
        if order is not None:
            self.market.end(order, "EXPIRED")

    @rule(halves=st.integers(175, 225))
    def the_price_moves(self, halves: int) -> None:
        self.last = D(halves) / 2
        self.quote()

    @rule(seconds=st.sampled_from([0.05, 0.3, 1, 4]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.do(self.core.on_time(self.now))

    # --- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def every_fill_recorded_happened_there_and_nowhere_else(self) -> None:
        for trade_id, (intent, fill) in self.journal.fills.items():
            symbol, number = trade_id.split(":")
            theirs = self.market.trades[symbol][int(number) - 1]
            assert (theirs.client_order_id, theirs.fill) == (intent.client_order_id, fill)

    @invariant()
    def positions_are_the_sum_of_fills(self) -> None:
        summed: dict[tuple[int, Any], Decimal] = {}
        for intent, fill in self.journal.fills.values():
            key = (intent.instrument_id, intent.position_side)
            summed[key] = summed.get(key, D(0)) + positions.signed(intent.side, fill.quantity)
        assert {key: quantity for key, quantity in self.core.positions.items() if quantity} == {k: v for k, v in summed.items() if v}
        assert all(self.risk.position(*key).quantity == quantity for key, quantity in summed.items())

    @invariant()
    def books_balance(self) -> None:
        assert ledger.imbalance(self.journal.lines()) == {}

    @invariant()
    def what_works_is_never_negative(self) -> None:
        for instrument in CATALOGUE:
            buys, sells = self.risk.working(instrument.id)
            assert buys >= 0
            assert sells >= 0
            on_book = [order for order in self.core.open_orders if order.intent.instrument_id == instrument.id and not order.intent.is_held]
            assert buys >= sum(order.open_quantity for order in on_book if order.intent.side == "buy")
            assert sells >= sum(order.open_quantity for order in on_book if order.intent.side == "sell")

    @invariant()
    def no_order_is_both_over_and_live(self) -> None:
        for order in self.journal.orders.values():
            theirs = self.market.orders.get(order.id)
            if not order.is_open and theirs is not None:
                assert not theirs.is_open, f"{order.id} is {order.status} here and works there"
            if order.status is Status.REJECTED and theirs is not None:
                assert theirs.status == "REJECTED", f"{order.id} was given up and is {theirs.status} there"

    @invariant()
    def memory_is_what_was_committed(self) -> None:
        kept = {order.id: order for order in self.core.open_orders}
        assert kept == {key: order for key, order in self.journal.orders.items() if order.is_open}

    @invariant()
    def no_family_can_trade_more_than_was_wanted(self) -> None:
        for parent in [order for order in self.journal.orders.values() if order.intent.is_held]:
            members = [order for order in self.journal.orders.values() if order.intent.parent_id == parent.id]
            entries = [child for child in members if child.intent.role == "entry"]
            exits = [child for child in members if child.intent.role != "entry"]
            entered = sum((self._filled_there(child) for child in entries), D(0))
            most = entered if parent.intent.type == "bracket" else parent.intent.quantity
            assert sum((self._promised(child) for child in exits), D(0)) <= most
            assert sum((self._promised(child) for child in entries), D(0)) <= parent.intent.quantity
            assert parent.is_open or not any(child.is_open for child in members)

    def _filled_there(self, child: Order) -> Decimal:
        theirs = self.market.orders.get(child.id)
        return D(0) if theirs is None else theirs.filled

    def _promised(self, child: Order) -> Decimal:
        """What the venue filled and may still fill, what is on its way included."""
        theirs = self.market.orders.get(child.id)
        if theirs is not None:
            return theirs.intent.quantity if theirs.is_open else theirs.filled
        coming = [intent for intent, signed_at, _ in self.submits if self.now <= signed_at + RECV_WINDOW]
        return child.intent.quantity if child.intent in coming else D(0)

    # --- the end -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything is cancelled and the network behaves: both sides agree in every order and every execution."""
        if not hasattr(self, "core"):
            return
        self.dying = None
        for _ in range(6):
            self._the_network_behaves()
            self.time_passes(2)
        self._the_network_behaves()
        assert not {Status.UNKNOWN, Status.PENDING_NEW} & {order.status for order in self.core.open_orders}
        for _ in range(3):
            self._compare()  # as is done again and again while running
            self.time_passes(2)
            self._the_network_behaves()
        for order in self.core.open_orders:
            assert order.intent.is_held or self.market.orders[order.id].is_open, f"{order.id} was left {order.status}"
        self.do(self.core.cancel_all("user:a", self.now))
        for _ in range(60):
            self._the_network_behaves()
            if not self.core.open_orders and not self.core.busy:
                break
            self.time_passes(2)
            self.do(self.core.cancel_all("user:a", self.now))
        self.the_stream_is_lost()
        assert not self.core.busy
        assert self.core.open_orders == []
        assert not any(order.is_open for order in self.market.orders.values())
        executed = {trade.fill.trade_id for trades in self.market.trades.values() for trade in trades}
        assert set(self.journal.fills) == executed
        for order_id, theirs in self.market.orders.items():
            ours = self.journal.orders[order_id]
            assert ours.filled_quantity == theirs.filled
            expired = ours.status is Status.EXPIRED and ours.intent.expire_at is not None and theirs.status == "CANCELED"
            assert expired or str(ours.status) == theirs.status, (ours, theirs)
        for instrument in CATALOGUE:
            assert self.risk.working(instrument.id) == (0, 0)
        for name in ("every_fill_recorded_happened_there_and_nowhere_else", "positions_are_the_sum_of_fills", "books_balance"):
            getattr(self, name)()

    def _the_network_behaves(self) -> None:
        while self.submits or self.cancels or self.answers or self.market.reports:
            if self.submits:
                self.a_submit_arrives(0, 1, "answered")
            elif self.cancels:
                self.a_cancel_arrives(0, "answered")
            elif self.answers:
                self.an_answer_comes(0)
            else:
                self.a_report_comes(0, again=False)


TestAccount = Account.TestCase
TestAccount.settings = settings(max_examples=250, stateful_step_count=60, deadline=None)


def test_an_order_that_ended_there_ends_here_with_its_last_fill_and_not_before() -> None:
    account = Account()
    account.begin(last=200)
    account.somebody_orders(symbol=SYMBOLS[0], side="buy", lots=4, kind="limit", force="GTC", whenever=0)
    account.a_submit_arrives(0, 0, "answered")
    account.an_answer_comes(0)
    (order,) = account.core.open_orders
    theirs = account.market.orders[order.id]
    for _ in range(2):
        account.market.fill(theirs, 1, account.now)
    account.market.end(theirs, "CANCELED")
    account.the_stream_is_lost()
    account.time_passes(1)
    account.an_answer_comes(0)
    assert (account.journal.orders[order.id].status, account.journal.orders[order.id].filled_quantity) == (Status.CANCELED, 2 * LOT)


def test_fills_heard_of_after_the_end_come_before_it_in_the_journal() -> None:
    account = Account()
    account.begin(last=200)
    account.somebody_orders(symbol=SYMBOLS[0], side="buy", lots=4, kind="limit", force="GTC", whenever=0)
    account.a_submit_arrives(0, 0, "answered")
    account.an_answer_comes(0)
    (order,) = account.core.open_orders
    theirs = account.market.orders[order.id]
    for _ in range(2):
        account.market.fill(theirs, 1, account.now)
    account.market.end(theirs, "CANCELED")
    account.do(account.core.on_report(account.market.reports[-1], account.now))
    kinds = [event.type for event in account.journal.events[order.id]]
    assert kinds[-3:] == [EventType.FILLED, EventType.FILLED, EventType.CANCELED]
