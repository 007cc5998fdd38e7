"""Whatever happens to an account's orders: what is accepted fits its limits in the worst case, and the sums kept step by step are
those of a slow look at everything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trading_platform.domain import positions
from trading_platform.domain.figures import Baseline, Holding, PublishedFigures, compute
from trading_platform.domain.orders import Event, EventType, Fill, Intent, Order, Outcome, advance, initialize
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import AccountRisk, Limits
from trading_platform.instruments import Catalogue, Instrument

D = Decimal
NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9
SPOT = Instrument(1, "AAAUSD", "spot", "AAA", "USD", 2, 2, D("0.01"), D("0.01"), D("0.01"), D(10**6), D(0), D(1))
PERPETUAL = Instrument(2, "BBBUSD", "perpetual", "BBB", "USD", 2, 2, D("0.01"), D("0.01"), D("0.01"), D(10**6), D(0), D(2))
BY_ID = {each.id: each for each in (SPOT, PERPETUAL)}
LIMITS = Limits(1, D(600), D(900), D(1300), 10**6, D("0.9"), D(10**6), D(30), max_leverage=D("1.25"))
CAPITAL = D(1000)
FIGURES = PublishedFigures(NOW, CAPITAL, CAPITAL, CAPITAL, CAPITAL, CAPITAL, 0, D(0), {}, {})

instruments = st.sampled_from([SPOT, PERPETUAL])
states = st.sampled_from(["running", "reducing"])
sides = st.sampled_from(["buy", "sell"])
quantities = st.integers(1, 600).map(lambda lots: D(lots).scaleb(-2))
prices = st.integers(5000, 20000).map(lambda ticks: D(ticks).scaleb(-2))


@dataclass
class Family:
    """A held order and its children as the test sees them: a list of what was placed."""

    parent: Order
    children: list[str]


class Account(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.risk = AccountRisk("a", "USD", lambda _source, _target: D(1), Catalogue([SPOT, PERPETUAL]))
        self.risk.set_limits(LIMITS, None)
        self.risk.set_figures(FIGURES)
        self.marks = {1: D(100), 2: D(100)}
        self.orders: dict[str, Order] = {}
        self.families: dict[str, Family] = {}
        self.fills: list[tuple[int, str, Decimal, Decimal]] = []
        self.number = 0
        for instrument in BY_ID.values():
            self.risk.on_quote(instrument.symbol, D(100), NOW_NS)

    # --- the slow look ----------------------------------------------------------------------------------------------------

    def held(self, instrument_id: int) -> Position:
        position = Position()
        for of, side, quantity, price in self.fills:
            if of == instrument_id:
                position, _ = positions.apply(position, BY_ID[of], side, quantity, price, D(0))  # type: ignore[arg-type]
        return position

    def still(self, instrument_id: int, side: str) -> Decimal:
        """What can still be traded on a side, counted order by order."""
        total = D(0)
        for order in self.orders.values():
            intent = order.intent
            if intent.instrument_id == instrument_id and intent.side == side and intent.parent_id is None and not intent.is_held:
                total += order.open_quantity
        for family in self.families.values():
            parent, children = family.parent, [self.orders[each] for each in family.children]
            if parent.intent.instrument_id != instrument_id:
                continue
            mine = [each for each in children if each.intent.side == side]
            placed = sum((each.open_quantity for each in mine), D(0))
            entered = sum((each.filled_quantity for each in children if each.intent.side == parent.intent.side), D(0))
            left = D(0)
            if parent.is_open and side == parent.intent.side:
                is_over = parent.intent.type == "bracket" and bool(mine) and not any(each.is_open for each in mine)
                left = D(0) if is_over else parent.intent.quantity - entered
            elif parent.is_open and parent.intent.type == "bracket":
                left = entered - sum((each.filled_quantity for each in mine), D(0))
            total += max(left, placed)
        return total

    def worst(self, instrument_id: int) -> Decimal:
        quantity = self.held(instrument_id).quantity
        up, down = quantity + self.still(instrument_id, "buy"), quantity - self.still(instrument_id, "sell")
        return max(abs(up), abs(down)) * self.marks[instrument_id] * BY_ID[instrument_id].multiplier

    # --- what happens -----------------------------------------------------------------------------------------------------

    def intent(self, instrument: Instrument, side: str, quantity: Decimal, **changes: object) -> Intent:
        self.number += 1
        plain = Intent(f"o{self.number}", "a", instrument.symbol, instrument.id, "paper", side, "market", "GTC", quantity)  # type: ignore[arg-type]
        return replace(plain, **changes)  # type: ignore[arg-type]

    def place(self, intent: Intent, state: str = "running") -> bool:
        """Ask, and take the order on if it is accepted; then everything must still fit."""
        held = self.held(intent.instrument_id).quantity
        decision = self.risk.check(intent, NOW, state)  # type: ignore[arg-type]
        if not decision.accepted:
            return False
        kind = EventType.HELD if intent.is_held else EventType.SUBMITTING
        order = advance(initialize(intent, NOW, "t").order, Event(kind, NOW, "t")).order
        self.orders[order.id] = order
        if intent.is_held:
            self.families[order.id] = Family(order, [])
        if intent.parent_id is not None:
            self.families[intent.parent_id].children.append(order.id)
        self.risk.on_open(order)
        working = sum(
            each.open_quantity
            for each in self.orders.values()
            if each.intent.instrument_id == intent.instrument_id and each.intent.side == intent.side and not each.intent.is_held
        )
        takes_back = abs(held) if (held < 0) == (intent.side == "buy") else D(0)
        if state == "reducing":
            assert not intent.is_held or intent.type != "bracket"
            assert (intent.quantity if intent.is_held else working) <= takes_back, "accepted while reducing, and could do more"
        elif self.still(intent.instrument_id, intent.side) > takes_back:
            signed = (
                self.still(intent.instrument_id, intent.side) if intent.side == "buy" else -self.still(intent.instrument_id, intent.side)
            )
            value = abs(held + signed) * self.marks[intent.instrument_id] * BY_ID[intent.instrument_id].multiplier
            reduces = intent.type != "bracket" and (intent.quantity + working if intent.is_held else working) <= takes_back
            assert reduces or value <= LIMITS.max_position_notional
            exposure = self.worst(1) + self.worst(2)
            equity = CAPITAL + sum(
                (self.held(each).realised_pnl + positions.unrealised(self.held(each), BY_ID[each], self.marks[each]) for each in BY_ID),
                D(0),
            )
            assert reduces or exposure <= min(LIMITS.max_total_exposure, D("1.25") * max(D(0), equity))
        return True

    @rule(instrument=instruments, side=sides, quantity=quantities, state=states)
    def order(self, instrument: Instrument, side: str, quantity: Decimal, state: str) -> None:
        self.place(self.intent(instrument, side, quantity), state)

    @rule(instrument=instruments, part=st.integers(1, 100), kind=st.sampled_from(["market", "trailing_stop"]), state=states)
    def give_back(self, instrument: Instrument, part: int, kind: str, state: str) -> None:
        """Some of what is held, or all of it."""
        held = self.held(instrument.id).quantity
        quantity = instrument.round_quantity(abs(held) * part / 60)
        if quantity > 0:
            self.place(self.intent(instrument, "sell" if held > 0 else "buy", quantity, type=kind, terms={}), state)

    @rule(instrument=instruments, side=sides, quantity=quantities, kind=st.sampled_from(["twap", "trailing_stop", "bracket"]))
    def hold(self, instrument: Instrument, side: str, quantity: Decimal, kind: str) -> None:
        self.place(self.intent(instrument, side, quantity, type=kind, terms={}))

    @precondition(lambda self: any(each.parent.is_open for each in self.families.values()))
    @rule(data=st.data(), state=states)
    def child(self, data: st.DataObject, state: str) -> None:
        """The next order of a family, never more than it may."""
        family = self.families[data.draw(st.sampled_from([key for key, each in self.families.items() if each.parent.is_open]))]
        parent, children = family.parent.intent, [self.orders[each] for each in family.children]
        exits = parent.type == "bracket" and bool(children) and data.draw(st.booleans())
        side = parent.side if not exits else ("sell" if parent.side == "buy" else "buy")
        used = sum((each.filled_quantity + each.open_quantity for each in children if each.intent.side == side), D(0))
        entered = sum((each.filled_quantity for each in children if each.intent.side == parent.side), D(0))
        left = (entered if exits else parent.quantity) - used
        if left <= 0 or (parent.type == "bracket" and not exits and children):
            return
        role = "stop_loss" if exits else ("entry" if parent.type == "bracket" else "slice")
        quantity = left if role == "entry" else min(left, data.draw(quantities))
        self.place(self.intent(BY_ID[parent.instrument_id], side, quantity, parent_id=family.parent.id, role=role), state)

    @precondition(lambda self: any(not each.intent.is_held and each.is_open for each in self.orders.values()))
    @rule(data=st.data(), part=quantities, price=prices)
    def fill(self, data: st.DataObject, part: Decimal, price: Decimal) -> None:
        order = self.orders[
            data.draw(st.sampled_from([each.id for each in self.orders.values() if not each.intent.is_held and each.is_open]))
        ]
        quantity = min(part, order.open_quantity)
        self.number += 1
        fill = Fill(str(self.number), quantity, price, D(0), "USD", "taker", NOW, 0)
        self.orders[order.id] = after = order.apply(Event(EventType.FILLED, NOW, "v", fill=fill))
        self.fills.append((order.intent.instrument_id, order.intent.side, quantity, price))
        self.risk.on_fill(after, fill)
        if not after.is_open:
            self.risk.on_end(after)

    def end(self, order: Order) -> None:
        if order.intent.is_held:
            event = Event(EventType.FINISHED, NOW, "e", outcome=Outcome("CANCELED", D(0), D(0)))
        else:
            event = Event(EventType.CANCELED, NOW, "v")
        self.orders[order.id] = after = order.apply(event)
        if order.intent.is_held:
            self.families[order.id].parent = after
        self.risk.on_end(after)

    @precondition(lambda self: any(each.is_open for each in self.orders.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        order = self.orders[data.draw(st.sampled_from([each.id for each in self.orders.values() if each.is_open]))]
        if order.intent.is_held and any(self.orders[each].is_open for each in self.families[order.id].children):
            return
        self.end(order)

    @rule(instrument=instruments, price=prices)
    def quote(self, instrument: Instrument, price: Decimal) -> None:
        self.marks[instrument.id] = price
        self.risk.on_quote(instrument.symbol, price, NOW_NS)

    @rule()
    def restart(self) -> None:
        """A new process, told what was committed: the same is reserved."""
        fresh = AccountRisk("a", "USD", lambda _source, _target: D(1), Catalogue([SPOT, PERPETUAL]))
        fresh.set_limits(LIMITS, None)
        fresh.set_figures(FIGURES)
        for instrument in BY_ID.values():
            fresh.on_quote(instrument.symbol, self.marks[instrument.id], NOW_NS)
            fresh.set_position(instrument.id, "net", self.held(instrument.id))
        live = {key for key, each in self.families.items() if each.parent.is_open}
        for order in self.orders.values():
            if order.is_open or order.intent.parent_id in live:
                fresh.on_open(order)
        self.risk = fresh

    # --- what always holds ------------------------------------------------------------------------------------------------

    @invariant()
    def what_works_is_the_sum_of_the_orders(self) -> None:
        for instrument_id in BY_ID:
            assert self.risk.working(instrument_id) == (self.still(instrument_id, "buy"), self.still(instrument_id, "sell"))

    @invariant()
    def the_sums_are_those_of_a_slow_look(self) -> None:
        assert self.risk.exposure == self.worst(1) + self.worst(2)
        holdings = [Holding(BY_ID[each], self.held(each), self.marks[each], D(0), D(1)) for each in BY_ID]
        assert self.risk.equity == compute(holdings, Baseline(CAPITAL, D(0), CAPITAL, CAPITAL, CAPITAL, CAPITAL, D(0))).equity

    def teardown(self) -> None:
        """Everything ended: nothing is reserved, nothing remembered."""
        for order in sorted(self.orders.values(), key=lambda order: order.intent.is_held):
            if order.is_open:
                self.end(order)
        for instrument_id in BY_ID:
            assert self.risk.working(instrument_id) == (D(0), D(0))
        assert not self.risk._orders
        assert not self.risk._families


TestAccount = Account.TestCase
TestAccount.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
