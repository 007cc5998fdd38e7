"""Orders: what they are, what may happen to them, and what follows. Pure: no clock, no database, no venue.

An order is the fold of its events. `TRANSITIONS` says which event is legal in which status; anything else raises
IllegalTransition. Statuses are FIX's plus UNKNOWN: a submit that timed out is neither accepted nor rejected.

A *working* order (market, limit, stop, stop_limit) goes to the venue. A *held* one (trailing_stop, oco, bracket, iceberg,
twap, vwap) never does: it stays with us, SUSPENDED, and lives through its children, which are working orders with
`parent_id` and `role` (see parents.py). Fills belong to children only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from trading_platform import money
from trading_platform.messages import Side

OrderType = Literal["market", "limit", "stop", "stop_limit", "trailing_stop", "oco", "bracket", "iceberg", "twap", "vwap"]
TimeInForce = Literal["GTC", "IOC", "FOK", "DAY", "GTD"]
PositionSide = Literal["net", "long", "short"]
Role = Literal["entry", "take_profit", "stop_loss", "exit", "slice"]

HELD_TYPES = frozenset({"trailing_stop", "oco", "bracket", "iceberg", "twap", "vwap"})


class Status(StrEnum):
    INITIALIZED = "INITIALIZED"
    SUSPENDED = "SUSPENDED"
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
    HELD = "held"  # taken on by us; its children do the work
    MOVED = "moved"  # what a held order must remember: a trail's water mark, a schedule's progress
    FINISHED = "finished"  # a held order's end, once every child is at its own
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
    EventType.HELD: (frozenset({_S.INITIALIZED}), _S.SUSPENDED),
    EventType.MOVED: (frozenset({_S.SUSPENDED, _S.PENDING_CANCEL}), None),
    EventType.FINISHED: (frozenset({_S.SUSPENDED, _S.PENDING_CANCEL}), None),
    EventType.SUBMITTING: (frozenset({_S.INITIALIZED}), _S.PENDING_NEW),
    # The acknowledgement may come after a fill, or after the order's end was asked for (see `may`).
    EventType.ACCEPTED: (frozenset({_S.PENDING_NEW, _S.UNKNOWN, _S.PARTIALLY_FILLED, _S.PENDING_CANCEL}), None),
    EventType.REJECTED: (frozenset({_S.PENDING_NEW, _S.UNKNOWN, _S.NEW, _S.PENDING_CANCEL}), _S.REJECTED),
    EventType.SUBMIT_UNKNOWN: (frozenset({_S.PENDING_NEW}), _S.UNKNOWN),
    EventType.NEVER_RECEIVED: (frozenset({_S.PENDING_NEW, _S.UNKNOWN, _S.PENDING_CANCEL}), _S.REJECTED),
    EventType.CANCEL_REQUESTED: (
        frozenset({_S.SUSPENDED, _S.PENDING_NEW, _S.UNKNOWN, _S.NEW, _S.PARTIALLY_FILLED}),
        _S.PENDING_CANCEL,
    ),
    EventType.CANCEL_REFUSED: (frozenset({_S.PENDING_CANCEL}), None),
    EventType.CANCELED: (frozenset(_WORKING), _S.CANCELED),
    EventType.EXPIRED: (frozenset(_WORKING), _S.EXPIRED),
    # A fill is a fact: one that arrives after the cancel still counts.
    EventType.FILLED: (frozenset({*_WORKING, _S.CANCELED, _S.EXPIRED}), None),
}

# What happens to held orders only, and to both kinds; everything else is between a working order and its venue.
HELD_ONLY = frozenset({EventType.HELD, EventType.MOVED, EventType.FINISHED})
EITHER_KIND = frozenset({EventType.DENIED, EventType.CANCEL_REQUESTED})


class IllegalTransition(Exception):
    """The event cannot happen to an order in this status."""


class Overfill(Exception):
    """Fills of more than was ordered."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is wanted. Quantity in base units, prices in quote units.

    `expire_at` is set for DAY (the next 00:00 UTC) and GTD. `terms` are what a held type needs beyond this (parents.py), JSON with
    amounts as text. `flatten` marks an order that closes a position on behalf of an emergency: it alone passes a halt.
    """

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
    trigger_price: Decimal | None = None
    expire_at: datetime | None = None
    post_only: bool = False
    reduce_only: bool = False
    position_side: PositionSide = "net"
    parent_id: str | None = None
    role: Role | None = None
    replaces: str | None = None
    flatten: bool = False
    terms: Mapping[str, Any] | None = None

    @property
    def is_held(self) -> bool:
        return self.type in HELD_TYPES

    @property
    def correlation_id(self) -> str:
        """What ties together everything that follows from one decision."""
        return self.signal_id or self.parent_id or self.client_order_id

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
            "trigger_price": None if self.trigger_price is None else money.text(self.trigger_price),
            "expire_at": None if self.expire_at is None else self.expire_at.isoformat(),
            "post_only": self.post_only,
            "reduce_only": self.reduce_only,
            "position_side": self.position_side,
            "parent_id": self.parent_id,
            "role": self.role,
            "replaces": self.replaces,
            "flatten": self.flatten,
            "terms": self.terms,
        }

    @classmethod
    def from_data(cls, client_order_id: str, account_id: str, data: dict[str, Any]) -> Intent:
        limit, trigger, expiry = data["limit_price"], data.get("trigger_price"), data.get("expire_at")
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
            trigger_price=None if trigger is None else money.parse(trigger),
            expire_at=None if expiry is None else datetime.fromisoformat(expiry),
            post_only=data.get("post_only", False),
            reduce_only=data.get("reduce_only", False),
            position_side=data.get("position_side", "net"),
            parent_id=data.get("parent_id"),
            role=data.get("role"),
            replaces=data.get("replaces"),
            flatten=data.get("flatten", False),
            terms=data.get("terms"),
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
class Outcome:
    """How a held order ended, and what its children filled in all."""

    status: Literal["FILLED", "CANCELED", "REJECTED", "EXPIRED"]
    filled_quantity: Decimal
    filled_notional: Decimal

    def to_data(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "filled_quantity": money.text(self.filled_quantity),
            "filled_notional": money.text(self.filled_notional),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Outcome:
        return cls(data["status"], money.parse(data["filled_quantity"]), money.parse(data["filled_notional"]))


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
    decision: Mapping[str, Any] | None = None  # risk's, with the facts it saw: on DENIED, HELD and SUBMITTING
    memory: Mapping[str, Any] | None = None  # of MOVED
    outcome: Outcome | None = None  # of FINISHED

    def to_data(self) -> dict[str, Any]:
        """The JSON document kept with the event."""
        if self.intent is not None:
            return self.intent.to_data()
        if self.fill is not None:
            return self.fill.to_data()
        members = {
            "venue_order_id": self.venue_order_id,
            "code": self.code,
            "detail": self.detail,
            "risk": self.decision,
            "memory": self.memory,
            "outcome": None if self.outcome is None else self.outcome.to_data(),
        }
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
                outcome = data.get("outcome")
                return cls(
                    event_type,
                    at,
                    actor,
                    data.get("venue_order_id"),
                    data.get("code"),
                    data.get("detail"),
                    decision=data.get("risk"),
                    memory=data.get("memory"),
                    outcome=None if outcome is None else Outcome.from_data(outcome),
                )


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
    memory: Mapping[str, Any] | None = None

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
        """Whether the event is legal now. An order the venue has acknowledged, or filled, cannot turn out never to have been received
        nor be refused after all; it is acknowledged once."""
        if event not in EITHER_KIND and (event in HELD_ONLY) is not self.intent.is_held:
            return False
        match event:
            case EventType.NEVER_RECEIVED if self.venue_order_id is not None or self.filled_quantity > 0:
                return False
            case EventType.REJECTED if self.filled_quantity > 0:
                return False
            case EventType.ACCEPTED if self.venue_order_id is not None:
                return False
            case _:
                return self.status in TRANSITIONS[event][0]

    def apply(self, event: Event) -> Order:
        """The order after the event. Raises IllegalTransition or Overfill; the order itself never changes."""
        if event.type not in TRANSITIONS or not self.may(event.type):
            raise IllegalTransition(f"order {self.id}: {event.type} is illegal in status {self.status}")
        if event.type is EventType.FILLED:
            assert event.fill is not None, "a fill event carries its fill"
            return self._filled(event.fill, event.at)
        if event.type is EventType.MOVED:
            return replace(self, order_seq=self.order_seq + 1, updated_at=event.at, memory=event.memory)
        if event.type is EventType.FINISHED:
            assert event.outcome is not None, "a finished event says how"
            return replace(
                self,
                order_seq=self.order_seq + 1,
                updated_at=event.at,
                status=Status(event.outcome.status),
                filled_quantity=event.outcome.filled_quantity,
                filled_notional=event.outcome.filled_notional,
                reason_code=event.code or self.reason_code,
                reason=event.detail or self.reason,
            )
        status = TRANSITIONS[event.type][1] or self._working_status()
        if event.type is EventType.ACCEPTED and self.status is Status.PENDING_CANCEL:
            status = Status.PENDING_CANCEL
        return Order(  # not replace(): every order passes here several times, and it takes twice as long
            self.intent,
            status,
            self.order_seq + 1,
            self.created_at,
            event.at,
            event.venue_order_id or self.venue_order_id,
            self.filled_quantity,
            self.filled_notional,
            self.fees,
            event.code or self.reason_code,
            event.detail or self.reason,
            self.memory,
        )

    def _filled(self, fill: Fill, at: datetime) -> Order:
        filled = money.add(self.filled_quantity, fill.quantity)
        if filled > self.intent.quantity:
            raise Overfill(f"order {self.id}: {filled} filled of {self.intent.quantity}")
        if filled == self.intent.quantity:
            status = Status.FILLED
        else:
            stays = self.status in (Status.PENDING_CANCEL, Status.CANCELED, Status.EXPIRED)
            status = self.status if stays else Status.PARTIALLY_FILLED
        return Order(
            self.intent,
            status,
            self.order_seq + 1,
            self.created_at,
            at,
            self.venue_order_id,
            filled,
            money.add(self.filled_notional, money.multiply(fill.quantity, fill.price)),
            money.add(self.fees, fill.fee),
            self.reason_code,
            self.reason,
            self.memory,
        )

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
