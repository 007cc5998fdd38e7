"""Orders: what they are, what may happen to them, and what follows. Pure: no clock, no database, no venue.

An order is the fold of its events. `TRANSITIONS` says which event is legal in which status; anything else raises
IllegalTransition. Statuses are FIX's plus UNKNOWN: a submit that timed out is neither accepted nor rejected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from trading_platform import money
from trading_platform.messages import Side

OrderType = Literal["market", "limit"]
TimeInForce = Literal["GTC", "IOC"]


class Status(StrEnum):
    INITIALIZED = "INITIALIZED"
    PENDING_NEW = "PENDING_NEW"
    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    PENDING_CANCEL = "PENDING_CANCEL"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"


TERMINAL = frozenset({Status.FILLED, Status.CANCELED, Status.REJECTED, Status.EXPIRED})


class EventType(StrEnum):
    INITIALIZED = "initialized"
    DENIED = "denied"  # by us: risk, trading state, instrument rules; nothing was sent
    SUBMITTING = "submitting"
    ACCEPTED = "accepted"
    REJECTED = "rejected"  # by the venue
    SUBMIT_UNKNOWN = "submit_unknown"
    NEVER_RECEIVED = "never_received"  # the venue was asked and does not know it
    FILLED = "filled"
    CANCEL_REQUESTED = "cancel_requested"
    CANCEL_REFUSED = "cancel_refused"
    CANCELED = "canceled"
    EXPIRED = "expired"


_S = Status
_WORKING = (_S.PENDING_NEW, _S.UNKNOWN, _S.NEW, _S.PARTIALLY_FILLED, _S.PENDING_CANCEL)

# event: the statuses it is legal in, and the status that follows (None: computed from the fills)
TRANSITIONS: dict[EventType, tuple[frozenset[Status], Status | None]] = {
    EventType.DENIED: (frozenset({_S.INITIALIZED}), _S.REJECTED),
    EventType.SUBMITTING: (frozenset({_S.INITIALIZED}), _S.PENDING_NEW),
    EventType.ACCEPTED: (frozenset({_S.PENDING_NEW, _S.UNKNOWN}), _S.NEW),
    EventType.REJECTED: (frozenset({_S.PENDING_NEW, _S.UNKNOWN, _S.NEW}), _S.REJECTED),
    EventType.SUBMIT_UNKNOWN: (frozenset({_S.PENDING_NEW}), _S.UNKNOWN),
    EventType.NEVER_RECEIVED: (frozenset({_S.PENDING_NEW, _S.UNKNOWN, _S.PENDING_CANCEL}), _S.REJECTED),
    EventType.CANCEL_REQUESTED: (frozenset({_S.PENDING_NEW, _S.UNKNOWN, _S.NEW, _S.PARTIALLY_FILLED}), _S.PENDING_CANCEL),
    EventType.CANCEL_REFUSED: (frozenset({_S.PENDING_CANCEL}), None),
    EventType.CANCELED: (frozenset(_WORKING), _S.CANCELED),
    EventType.EXPIRED: (frozenset(_WORKING), _S.EXPIRED),
    # A fill is a fact: one that arrives after the cancel still counts.
    EventType.FILLED: (frozenset({*_WORKING, _S.CANCELED, _S.EXPIRED}), None),
}


class IllegalTransition(Exception):
    """The event cannot happen to an order in this status."""


class Overfill(Exception):
    """Fills of more than was ordered."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is wanted. Quantity in base units, price in quote units."""

    client_order_id: str
    account_id: str
    symbol: str
    instrument_id: int
    venue: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    limit_price: Decimal | None = None
    strategy: str | None = None
    signal_id: str | None = None

    def to_data(self) -> dict[str, Any]:
        """As kept in the first event; enough to rebuild the order."""
        return {
            "symbol": self.symbol,
            "instrument_id": self.instrument_id,
            "venue": self.venue,
            "side": self.side,
            "type": self.type,
            "time_in_force": self.time_in_force,
            "quantity": money.text(self.quantity),
            "limit_price": None if self.limit_price is None else money.text(self.limit_price),
            "strategy": self.strategy,
            "signal_id": self.signal_id,
        }

    @classmethod
    def from_data(cls, client_order_id: str, account_id: str, data: dict[str, Any]) -> Intent:
        limit = data["limit_price"]
        return cls(
            client_order_id=client_order_id,
            account_id=account_id,
            symbol=data["symbol"],
            instrument_id=data["instrument_id"],
            venue=data["venue"],
            side=data["side"],
            type=data["type"],
            time_in_force=data["time_in_force"],
            quantity=money.parse(data["quantity"]),
            limit_price=None if limit is None else money.parse(limit),
            strategy=data["strategy"],
            signal_id=data["signal_id"],
        )


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution, as the venue reports it. `trade_id` is unique within (venue, account)."""

    trade_id: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    liquidity: Literal["maker", "taker"]
    executed_at: datetime
    ts_event_ns: int

    def to_data(self) -> dict[str, Any]:
        return {
            "trade_id": self.trade_id,
            "quantity": money.text(self.quantity),
            "price": money.text(self.price),
            "fee": money.text(self.fee),
            "fee_currency": self.fee_currency,
            "liquidity": self.liquidity,
            "executed_at": self.executed_at.isoformat(),
            "ts_event_ns": self.ts_event_ns,
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Fill:
        return cls(
            trade_id=data["trade_id"],
            quantity=money.parse(data["quantity"]),
            price=money.parse(data["price"]),
            fee=money.parse(data["fee"]),
            fee_currency=data["fee_currency"],
            liquidity=data["liquidity"],
            executed_at=datetime.fromisoformat(data["executed_at"]),
            ts_event_ns=data["ts_event_ns"],
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an order, before the database numbers it."""

    type: EventType
    at: datetime
    actor: str
    venue_order_id: str | None = None
    code: str | None = None
    detail: str | None = None
    fill: Fill | None = None
    intent: Intent | None = None
    causation_id: str | None = None

    def to_data(self) -> dict[str, Any]:
        """The JSON document kept with the event."""
        if self.intent is not None:
            return self.intent.to_data()
        if self.fill is not None:
            return self.fill.to_data()
        members = {"venue_order_id": self.venue_order_id, "code": self.code, "detail": self.detail}
        return {key: value for key, value in members.items() if value is not None}

    @classmethod
    def from_data(cls, kind: str, at: datetime, actor: str, client_order_id: str, account_id: str, data: dict[str, Any]) -> Event:
        event_type = EventType(kind)
        match event_type:
            case EventType.INITIALIZED:
                return cls(event_type, at, actor, intent=Intent.from_data(client_order_id, account_id, data))
            case EventType.FILLED:
                return cls(event_type, at, actor, fill=Fill.from_data(data))
            case _:
                return cls(event_type, at, actor, data.get("venue_order_id"), data.get("code"), data.get("detail"))


@dataclass(frozen=True, slots=True)
class Order:
    """An order as its events left it."""

    intent: Intent
    status: Status
    order_seq: int
    created_at: datetime
    updated_at: datetime
    venue_order_id: str | None = None
    filled_quantity: Decimal = Decimal(0)
    filled_notional: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    reason_code: str | None = None
    reason: str | None = None

    @property
    def id(self) -> str:
        return self.intent.client_order_id

    @property
    def is_open(self) -> bool:
        return self.status not in TERMINAL

    @property
    def open_quantity(self) -> Decimal:
        return money.subtract(self.intent.quantity, self.filled_quantity) if self.is_open else Decimal(0)

    def may(self, event: EventType) -> bool:
        """Whether the event is legal now."""
        return self.status in TRANSITIONS[event][0]

    def apply(self, event: Event) -> Order:
        """The order after the event. Raises IllegalTransition or Overfill; the order itself never changes."""
        if event.type not in TRANSITIONS or not self.may(event.type):
            raise IllegalTransition(f"order {self.id}: {event.type} is illegal in status {self.status}")
        moved = replace(self, order_seq=self.order_seq + 1, updated_at=event.at)
        if event.type is EventType.FILLED:
            assert event.fill is not None, "a fill event carries its fill"
            return moved._filled(event.fill)
        status = TRANSITIONS[event.type][1] or self._working_status()
        return replace(
            moved,
            status=status,
            venue_order_id=event.venue_order_id or self.venue_order_id,
            reason_code=event.code or self.reason_code,
            reason=event.detail or self.reason,
        )

    def _filled(self, fill: Fill) -> Order:
        filled = money.add(self.filled_quantity, fill.quantity)
        if filled > self.intent.quantity:
            raise Overfill(f"order {self.id}: {filled} filled of {self.intent.quantity}")
        after = replace(
            self,
            filled_quantity=filled,
            filled_notional=money.add(self.filled_notional, money.multiply(fill.quantity, fill.price)),
            fees=money.add(self.fees, fill.fee),
        )
        if filled == self.intent.quantity:
            return replace(after, status=Status.FILLED)
        stays = (Status.PENDING_CANCEL, Status.CANCELED, Status.EXPIRED)
        return after if self.status in stays else replace(after, status=Status.PARTIALLY_FILLED)

    def _working_status(self) -> Status:
        return Status.PARTIALLY_FILLED if self.filled_quantity > 0 else Status.NEW


@dataclass(frozen=True, slots=True)
class Step:
    """One event with the status before it and the order after it: what is written together."""

    event: Event
    before: Status | None
    order: Order


def initialize(intent: Intent, at: datetime, actor: str, causation_id: str | None = None) -> Step:
    """A new order, by its first event."""
    event = Event(EventType.INITIALIZED, at, actor, intent=intent, causation_id=causation_id)
    return Step(event, None, Order(intent, Status.INITIALIZED, 1, at, at))


def advance(order: Order, event: Event) -> Step:
    """The event applied. Raises IllegalTransition or Overfill."""
    return Step(event, order.status, order.apply(event))


def fold(events: Iterable[Event]) -> Order:
    """The order its events describe. Raises IllegalTransition when they cannot have happened."""
    order: Order | None = None
    for event in events:
        if order is None:
            if event.intent is None:
                raise IllegalTransition(f"an order begins with {EventType.INITIALIZED}, found {event.type}")
            order = initialize(event.intent, event.at, event.actor).order
        else:
            order = order.apply(event)
    if order is None:
        raise IllegalTransition("an order has at least one event")
    return order


def client_order_id(account_id: str, origin: str) -> str:
    """Deterministic and unique: the same origin (a signal, a client's request) always is the same order. 32 characters."""
    digest = hashlib.sha256(f"{account_id}\n{origin}".encode()).hexdigest()
    return "t-" + digest[:30]
