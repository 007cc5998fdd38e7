"""A held order with its children and the events that made them, driven by hand: what the engine does, without an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from trading_platform.domain import orders, parents
from trading_platform.domain.orders import Event, EventType, Fill, Intent, Order
from trading_platform.domain.parents import Action, CancelChild, Finish, PlaceChild, Remember
from trading_platform.domain.top import Top
from trading_platform.instruments import Instrument

D = Decimal
START = datetime(2026, 1, 1, tzinfo=UTC)
# Ticks of 0.5, lots of 0.01, at least 0.05 and 5 USDT an order.
INSTRUMENT = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.5"), D("0.01"), D("0.05"), D(900), D(5), D(1))


def held(kind: Any, terms: Mapping[str, Any] | None, side: Any = "sell", quantity: str = "10", **more: Any) -> Intent:
    """The wish for a held order."""
    given = {"time_in_force": "GTC", **more}
    return Intent("t-parent", "paper", "BTCUSDT", 1, "paper", side, kind, quantity=D(quantity), terms=terms, **given)


def top(last: str | None = None, bid: str | None = None, ask: str | None = None, at: datetime = START) -> Top:
    bid, ask, last = ((None if price is None else D(price)) for price in (bid, ask, last))  # type: ignore[assignment]
    return Top(bid, ask, last, at)  # type: ignore[arg-type]


class Household:
    """Parent and children as their events left them. Actions are carried out as an engine would commit them."""

    def __init__(self, intent: Intent, now: datetime = START) -> None:
        parents.check_terms(intent, INSTRUMENT)
        self.now = now
        self.events: dict[str, list[Event]] = {}
        self.orders: dict[str, Order] = {}
        self._born(intent)
        self.happens(intent.client_order_id, EventType.HELD)
        self._parent = intent.client_order_id
        self.market: Top | None = None

    @property
    def parent(self) -> Order:
        return self.orders[self._parent]

    @property
    def children(self) -> list[Order]:
        return [order for key, order in self.orders.items() if key != self._parent]

    def role(self, role: str) -> list[Order]:
        return [child for child in self.children if child.intent.role == role]

    @property
    def open(self) -> list[Order]:
        return [child for child in self.children if child.is_open]

    def only(self) -> Order:
        """The one child that is open."""
        (child,) = self.open
        return child

    def decide(self) -> list[Action]:
        return parents.decide(self.parent, self.children, self.market, self.now, INSTRUMENT)

    def wakeup(self) -> datetime | None:
        return parents.next_wakeup(self.parent, self.children, self.now)

    def carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case PlaceChild():
                    assert action.intent.client_order_id not in self.orders, "a child is placed once"
                    self._born(action.intent)
                    self.happens(action.intent.client_order_id, EventType.SUBMITTING)
                case CancelChild():
                    self.happens(action.client_order_id, EventType.CANCEL_REQUESTED)
                case Remember():
                    self.happens(self._parent, EventType.MOVED, memory=action.memory)
                case Finish():
                    assert not self.open, "children end before their parent"
                    self.happens(self._parent, EventType.FINISHED, code=action.code, detail=action.detail, outcome=action.outcome)

    def settle(self, last: str | None = None, after: float = 0) -> None:
        """Time passes, the price changes, and everything that follows is carried out."""
        self.now += timedelta(seconds=after)
        if last is not None:
            self.market = top(last, at=self.now)
        for _ in range(50):
            actions = self.decide()
            if not actions:
                return
            self.carry_out(actions)
        raise AssertionError(f"{self.parent.intent.type} does not come to rest: {actions}")

    def happens(self, order_id: str, kind: EventType, **more: Any) -> None:
        event = Event(kind, self.now, "test", **more)
        self.events[order_id].append(event)
        self.orders[order_id] = self.orders[order_id].apply(event)

    def accept(self, child: Order) -> None:
        self.happens(child.id, EventType.ACCEPTED, venue_order_id="7")

    def reject(self, child: Order, code: str = "VENUE_SAYS_NO") -> None:
        self.happens(child.id, EventType.REJECTED, code=code, detail="no")

    def cancel(self) -> None:
        """Somebody cancels the held order."""
        self.happens(self._parent, EventType.CANCEL_REQUESTED)

    def canceled(self, child: Order) -> None:
        self.happens(child.id, EventType.CANCELED)

    def fill(self, child: Order, quantity: str | Decimal | None = None, price: str = "100") -> None:
        size = self.orders[child.id].open_quantity if quantity is None else D(quantity)
        trade = f"BTCUSDT:{sum(map(len, self.events.values()))}"
        self.happens(child.id, EventType.FILLED, fill=Fill(trade, size, D(price), D(0), "USDT", "taker", self.now, 1))

    def crash(self) -> None:
        """Everything is forgotten but what was written."""
        for order_id, events in self.events.items():
            intent = events[0].intent
            assert intent is not None
            written = [(event.type, event.at, event.actor, event.to_data()) for event in events]
            read = [Event.from_data(kind, at, actor, order_id, "paper", data) for kind, at, actor, data in written]
            folded = orders.fold(read)
            assert folded == self.orders[order_id]
            self.orders[order_id] = folded

    def _born(self, intent: Intent) -> None:
        step = orders.initialize(intent, self.now, "test")
        self.events[intent.client_order_id] = [step.event]
        self.orders[intent.client_order_id] = step.order
