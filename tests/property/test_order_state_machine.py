"""Whatever happens to an order in whatever order: legal steps only, no fill lost, no fill too many, rebuilt from its events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trading_platform.domain import orders
from trading_platform.domain.orders import (
    TERMINAL,
    TRANSITIONS,
    Event,
    EventType,
    Fill,
    IllegalTransition,
    Intent,
    Order,
    OrderType,
    Outcome,
    Overfill,
    Status,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
QUANTITY = Decimal(10)
NOT_FILLS = sorted(set(EventType) - {EventType.FILLED, EventType.INITIALIZED})


def intent(*, held: bool = False) -> Intent:
    kind: OrderType = "twap" if held else "market"
    return Intent("t-1", "paper", "BTCUSDT", 1, "paper", "buy", kind, "GTC", QUANTITY, terms={"slices": 4} if held else None)


def fill(trade: int, quantity: int) -> Fill:
    return Fill(str(trade), Decimal(quantity), Decimal(100), Decimal("0.1"), "USDT", "taker", START, 1)


class OrderLife(RuleBasedStateMachine):
    """Events arrive in any order; illegal ones must be refused and leave no trace."""

    @initialize(held=st.booleans())
    def born(self, held: bool) -> None:
        step = orders.initialize(intent(held=held), START, "test")
        self.order: Order = step.order
        self.events = [step.event]
        self.was_over = False

    def _event(self, kind: EventType, filled: Fill | None = None) -> Event:
        at = START + timedelta(seconds=len(self.events))
        memory = {"step": len(self.events)} if kind is EventType.MOVED else None
        outcome = Outcome("CANCELED", Decimal(3), Decimal(300)) if kind is EventType.FINISHED else None
        return Event(kind, at, "test", code="C", detail="D", venue_order_id="7", fill=filled, memory=memory, outcome=outcome)

    def _happens(self, event: Event) -> None:
        before = self.order
        step = orders.advance(before, event)
        assert step.before == before.status
        self.order = step.order
        self.events.append(event)

    @rule(kind=st.sampled_from(NOT_FILLS))
    def something_happens(self, kind: EventType) -> None:
        event = self._event(kind)
        if self.order.may(kind):
            self._happens(event)
        else:
            with pytest.raises(IllegalTransition):
                self.order.apply(event)

    @precondition(lambda self: self.order.may(EventType.FILLED))
    @rule(quantity=st.integers(1, 12))
    def some_of_it_trades(self, quantity: int) -> None:
        event = self._event(EventType.FILLED, fill(len(self.events), quantity))
        if self.order.filled_quantity + quantity > QUANTITY:
            with pytest.raises(Overfill):
                self.order.apply(event)
        else:
            self._happens(event)

    @precondition(lambda self: not self.order.may(EventType.FILLED))
    @rule()
    def a_fill_that_cannot_be_is_refused(self) -> None:
        with pytest.raises(IllegalTransition):
            self.order.apply(self._event(EventType.FILLED, fill(99, 1)))

    @invariant()
    def quantities_add_up(self) -> None:
        told = [event.fill.quantity for event in self.events if event.fill]
        told += [event.outcome.filled_quantity for event in self.events if event.outcome]
        filled = sum(told, Decimal(0))
        assert self.order.filled_quantity == filled <= QUANTITY
        assert self.order.filled_notional == filled * 100
        assert (self.order.status is Status.FILLED) is (filled == QUANTITY)

    @invariant()
    def a_held_order_never_meets_a_venue_and_a_working_one_is_never_held(self) -> None:
        held_only = {EventType.HELD, EventType.MOVED, EventType.FINISHED}
        seen = {event.type for event in self.events} - {EventType.INITIALIZED, EventType.DENIED, EventType.CANCEL_REQUESTED}
        assert seen <= held_only if self.order.intent.is_held else not seen & held_only

    @invariant()
    def what_was_remembered_last_is_known(self) -> None:
        memories = [event.memory for event in self.events if event.type is EventType.MOVED]
        assert self.order.memory == (memories[-1] if memories else None)

    @invariant()
    def an_order_that_is_over_stays_over(self) -> None:
        assert not (self.was_over and self.order.is_open)
        self.was_over = not self.order.is_open

    @invariant()
    def its_events_rebuild_it(self) -> None:
        assert self.order.order_seq == len(self.events)
        written = [(event.type, event.at, event.actor, event.to_data()) for event in self.events]
        read = [Event.from_data(kind, at, actor, "t-1", "paper", data) for kind, at, actor, data in written]
        assert orders.fold(read) == self.order


TestOrderLife = OrderLife.TestCase
TestOrderLife.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)


def test_every_event_but_the_first_is_in_the_transition_table() -> None:
    assert set(TRANSITIONS) == set(EventType) - {EventType.INITIALIZED}


def test_only_late_fills_happen_to_an_order_that_is_over() -> None:
    for event, (legal, _) in TRANSITIONS.items():
        if event is not EventType.FILLED:
            assert not legal & TERMINAL


def test_a_timed_out_submit_is_neither_accepted_nor_rejected() -> None:
    order = orders.advance(orders.initialize(intent(), START, "t").order, Event(EventType.SUBMITTING, START, "t")).order
    unknown = order.apply(Event(EventType.SUBMIT_UNKNOWN, START, "t"))
    assert unknown.status is Status.UNKNOWN
    assert unknown.is_open
    assert not unknown.may(EventType.SUBMITTING)


def test_the_same_origin_is_the_same_order_and_accounts_do_not_share() -> None:
    first = orders.client_order_id("paper", "signal-1")
    assert first == orders.client_order_id("paper", "signal-1")
    assert len({first, orders.client_order_id("paper", "signal-2"), orders.client_order_id("other", "signal-1")}) == 3
    assert len(first) <= 36
