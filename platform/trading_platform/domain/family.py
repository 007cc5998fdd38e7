"""A held order and its children: what may be done next, and how the family stands. Pure.

A child's id follows from its parent's, its role and its number, so doing an action twice is doing it once. What a child can
still fill is its whole rest until it is over, whatever was asked of it: nothing is promised to two children at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from trading_platform import money
from trading_platform.domain import orders
from trading_platform.domain.orders import EventType, Intent, Order, OrderType, Outcome, Role, TimeInForce
from trading_platform.instruments import Instrument
from trading_platform.messages import Side

ZERO = Decimal(0)

FIRST_DELAY_S = 1
LONGEST_DELAY_S = 60

# A stop that fails this often in a row is told (two minutes after the first). When it was for one of these reasons, which are in the
# order itself or between us and the venue, it is not tried any more; funds, limits and positions may change by themselves.
ATTEMPTS = 8
LASTING = frozenset(
    {
        "CURRENCY_NOT_CONVERTIBLE",
        "INSTRUMENT_DISAGREES",
        "NOTIONAL_BELOW_MINIMUM",
        "VENUE_BAD_REQUEST",
        "VENUE_FILTER",
        "VENUE_FORBIDDEN",
        "VENUE_KEY_INVALID",
        "VENUE_ORDER_UNSUPPORTED",
        "VENUE_REJECTED",
        "VENUE_SIGNATURE_INVALID",
        "VENUE_SYMBOL_UNKNOWN",
        "VENUE_UNAUTHORIZED",
    }
)


@dataclass(frozen=True, slots=True)
class PlaceChild:
    """Judge, commit and send a working order of the parent's."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class CancelChild:
    """Ask the venue to cancel this child."""

    client_order_id: str


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep this with the parent (MOVED); it replaces what was kept before."""

    memory: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finish:
    """The parent is over (FINISHED). Comes only once every child is."""

    outcome: Outcome
    code: str | None = None
    detail: str | None = None


Action = PlaceChild | CancelChild | Remember | Finish


@lru_cache(maxsize=65_536)
def child_id(account_id: str, parent_id: str, role: Role, number: int) -> str:
    """The id of a parent's n-th child of a role, from 1."""
    return orders.client_order_id(account_id, f"child:{parent_id}:{role}:{number}")


def filled(children: Iterable[Order]) -> Decimal:
    return money.add(*(child.filled_quantity for child in children))


def notional(children: Iterable[Order]) -> Decimal:
    return money.add(*(child.filled_notional for child in children))


def can_fill(children: Iterable[Order]) -> Decimal:
    """What these may still fill."""
    return money.add(*(child.open_quantity for child in children))


def cancels(children: Iterable[Order]) -> list[Action]:
    """Cancel those that are open and not already asked to end."""
    return [CancelChild(child.id) for child in children if child.may(EventType.CANCEL_REQUESTED)]


def failures(children: Sequence[Order]) -> int:
    """How many of the newest children ended one after another without filling anything."""
    count = 0
    for child in reversed(children):
        if child.is_open or child.filled_quantity > 0:
            break
        count += 1
    return count


def refused_for_good(children: Sequence[Order]) -> bool:
    """Whether the newest ones were all refused for the same lasting reason: another would be, too."""
    newest = children[-ATTEMPTS:]
    if len(newest) < ATTEMPTS or failures(newest) < ATTEMPTS:
        return False
    code = newest[-1].reason_code
    return code in LASTING and all(child.status is orders.Status.REJECTED and child.reason_code == code for child in newest)


def ready_at(children: Sequence[Order]) -> datetime | None:
    """When the next child of these may be placed: at once (None), or some seconds after one that ended before it was filled,
    doubled with every failure, so that a venue that refuses is not stormed."""
    if not children or children[-1].is_open or children[-1].status is orders.Status.FILLED:
        return None
    delay = min(FIRST_DELAY_S * 2 ** min(max(failures(children) - 1, 0), 10), LONGEST_DELAY_S)
    return max(child.updated_at for child in children) + timedelta(seconds=delay)


def is_ready(children: Sequence[Order], now: datetime) -> bool:
    moment = ready_at(children)
    return moment is None or moment <= now


def tradable(instrument: Instrument, quantity: Decimal, price: Decimal | None) -> bool:
    """Whether an order of this size may stand alone; the value is looked at where a price is known."""
    if quantity < instrument.min_quantity or quantity <= 0:
        return False
    return price is None or instrument.notional(quantity, price) >= instrument.min_notional


def of_roles(children: Iterable[Order], *roles: Role) -> list[Order]:
    """Those made for one of these, oldest first."""
    return [child for child in in_order(children) if child.intent.role in roles]


def in_order(children: Iterable[Order]) -> list[Order]:
    """By role, and in a role by number: times may be the same, or turned back by another host's clock."""
    given = list(children)
    of_role = Counter(child.intent.role for child in given)
    numbers: dict[str, int] = {}
    for own in {child.intent.role: child.intent for child in given}.values():
        if own.parent_id is not None and own.role is not None:
            for number in range(1, of_role[own.role] + 1):
                numbers[child_id(own.account_id, own.parent_id, own.role, number)] = number
    return sorted(given, key=lambda child: (_ROLES.get(child.intent.role, 0), numbers.get(child.id, 0)))


_ROLES: dict[Role | None, int] = {"entry": 1, "take_profit": 2, "stop_loss": 3, "exit": 4, "slice": 5}


@dataclass(frozen=True, slots=True)
class Family:
    """A held order, its children in their order, the instrument, and the moment it is looked at."""

    parent: Order
    children: tuple[Order, ...]
    instrument: Instrument
    now: datetime

    @classmethod
    def of(cls, parent: Order, children: Iterable[Order], instrument: Instrument, now: datetime) -> Family:
        return cls(parent, tuple(in_order(children)), instrument, now)

    def roles(self, *roles: Role) -> list[Order]:
        return [child for child in self.children if child.intent.role in roles]

    @property
    def memory(self) -> Mapping[str, Any]:
        return self.parent.memory or {}

    @property
    def all_over(self) -> bool:
        return not any(child.is_open for child in self.children)

    def place(
        self,
        role: Role,
        quantity: Decimal,
        *,
        kind: OrderType = "market",
        side: Side | None = None,
        limit_price: Decimal | None = None,
        trigger_price: Decimal | None = None,
        time_in_force: TimeInForce = "GTC",
        expire_at: datetime | None = None,
        post_only: bool = False,
        reduce_only: bool | None = None,
    ) -> PlaceChild:
        """The next child of this role. Side and reduce-only are the parent's unless said otherwise."""
        own = self.parent.intent
        number = sum(child.intent.role == role for child in self.children) + 1
        return PlaceChild(
            Intent(
                client_order_id=child_id(own.account_id, own.client_order_id, role, number),
                account_id=own.account_id,
                symbol=own.symbol,
                instrument_id=own.instrument_id,
                venue=own.venue,
                side=own.side if side is None else side,
                type=kind,
                time_in_force=time_in_force,
                quantity=quantity,
                limit_price=limit_price,
                strategy=own.strategy,
                signal_id=own.signal_id,
                trigger_price=trigger_price,
                expire_at=expire_at,
                post_only=post_only,
                reduce_only=own.reduce_only if reduce_only is None else reduce_only,
                position_side=own.position_side,
                parent_id=own.client_order_id,
                role=role,
            )
        )

    def finish(
        self,
        status: Literal["FILLED", "CANCELED", "REJECTED", "EXPIRED"],
        code: str | None = None,
        detail: str | None = None,
        counted: Sequence[Order] | None = None,
    ) -> Finish:
        """The end, with what `counted` (all children unless said otherwise) filled: everything is FILLED whatever was asked for."""
        counts = self.children if counted is None else counted
        quantity, wanted = filled(counts), self.parent.intent.quantity
        if quantity > wanted:
            return Finish(Outcome("FILLED", wanted, notional(counts)), "OVERFILLED", f"children filled {quantity} of {wanted}")
        if quantity == wanted:
            status, code, detail = "FILLED", None, None
        return Finish(Outcome(status, quantity, notional(counts)), code, detail)

    def give_up(self, last: Order, counted: Sequence[Order] | None = None) -> Finish:
        """The end because children failed, for the newest one's reason: REJECTED when nothing was filled."""
        nothing = filled(self.children if counted is None else counted) == 0
        return self.finish("REJECTED" if nothing else "CANCELED", last.reason_code or f"CHILD_{last.status}", last.reason, counted)
