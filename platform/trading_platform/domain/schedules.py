"""Iceberg, TWAP and VWAP: one order sent in slices. Pure; sizes are counted in lots and always sum to the whole.

A schedule follows from its terms alone. A slice that ended short leaves its rest to the next one (or, where late slices are
skipped, to nobody); each moment of the schedule has at most one child.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Context, Decimal

from trading_platform import money
from trading_platform.domain import family
from trading_platform.domain.family import Action, Family
from trading_platform.domain.orders import Intent, Order
from trading_platform.domain.terms import Iceberg, Schedule
from trading_platform.domain.top import Top
from trading_platform.instruments import Instrument

MAX_FAILURES = 3

_WIDE = Context(prec=76)


def decide_iceberg(members: Family, terms: Iceberg) -> list[Action]:
    """The next slice when the last one is done."""
    own = members.parent.intent
    if not members.all_over:
        return []
    rest = money.subtract(own.quantity, family.filled(members.children))
    if rest <= 0:
        return [members.finish("FILLED")]
    if family.failures(members.children) >= MAX_FAILURES:
        return [members.give_up(members.children[-1])]
    if not family.tradable(members.instrument, rest, own.limit_price):
        return [members.finish("CANCELED", "REST_BELOW_MINIMUM", f"{rest} is less than may be ordered")]
    if not family.is_ready(members.children, members.now):
        return []
    size = _visible(own, terms, len(members.children) + 1, members.instrument)
    if not family.tradable(members.instrument, money.subtract(rest, size), own.limit_price):
        size = rest
    return [members.place("slice", size, kind="limit", limit_price=own.limit_price, post_only=own.post_only)]


def _visible(own: Intent, terms: Iceberg, number: int, instrument: Instrument) -> Decimal:
    """The size of the n-th slice: the visible quantity, varied by a share that follows from the seed."""
    if terms.variation_percent == 0:
        return terms.visible_quantity
    digest = hashlib.sha256(f"{terms.seed or own.client_order_id}:{number}".encode()).digest()
    permyriad = int.from_bytes(digest[:8]) % 20_001 - 10_000
    factor = money.add(Decimal(1), money.multiply(terms.variation_percent.scaleb(-2), Decimal(permyriad).scaleb(-4)))
    return instrument.round_quantity(money.multiply(terms.visible_quantity, factor))


@dataclass(frozen=True, slots=True)
class Slice:
    """One moment of a schedule: from when, and how much is due in all once it has come."""

    at: datetime
    due: Decimal


def plan(own: Intent, terms: Schedule, start: datetime, instrument: Instrument) -> list[Slice]:
    """The slices. Each is whole lots; one too small to stand alone joins the next, the last such one its predecessor."""
    lots = int(_WIDE.divide_int(own.quantity, instrument.lot_size))
    least = _lots_up(instrument.min_quantity, instrument)
    if own.limit_price is not None:
        value = money.multiply(own.limit_price, instrument.multiplier)
        least = max(least, _lots_up(_WIDE.divide(instrument.min_notional, value), instrument))
    whole = money.add(*terms.weights)
    slices: list[tuple[datetime, int]] = []
    passed, sent = Decimal(0), 0
    for index, weight in enumerate(terms.weights):
        passed = money.add(passed, weight)
        due = int(_WIDE.divide_int(money.multiply(Decimal(lots), passed), whole))
        if due - sent >= max(least, 1):
            slices.append((start + terms.duration * index / len(terms.weights), due))
            sent = due
    if not slices:
        slices = [(start, lots)]
    slices[-1] = (slices[-1][0], lots)
    return [Slice(at, money.multiply(Decimal(due), instrument.lot_size)) for at, due in slices]


def _lots_up(quantity: Decimal, instrument: Instrument) -> int:
    return int(_WIDE.divide(quantity, instrument.lot_size).to_integral_value(ROUND_CEILING))


def decide(members: Family, terms: Schedule, top: Top | None) -> list[Action]:
    own = members.parent.intent
    start = terms.start_at or members.parent.created_at
    if members.now >= start + terms.duration or family.filled(members.children) >= own.quantity:
        end = members.finish("EXPIRED", "SCHEDULE_OVER", "the schedule ended before everything was filled")
        return [end] if members.all_over else family.cancels(members.children)
    slices = plan(own, terms, start, members.instrument)
    moments = [slice_.at for slice_ in slices]
    current = bisect_right(moments, members.now) - 1
    if current < 0:
        return []
    served = max((bisect_right(moments, child.created_at) - 1 for child in members.children), default=-1)
    if served >= current:
        return []
    if not members.all_over:
        return family.cancels(members.children)
    size = _due(members, terms, slices, current)
    price = own.limit_price
    if price is None and top is not None:
        price = top.reference(own.side, "quote")
    if not family.tradable(members.instrument, size, price):
        return []
    if terms.slice_type == "limit":
        return [members.place("slice", size, kind="limit", limit_price=own.limit_price, post_only=own.post_only)]
    if own.limit_price is not None:
        return [members.place("slice", size, kind="limit", limit_price=own.limit_price, time_in_force="IOC")]
    return [members.place("slice", size)]


def _due(members: Family, terms: Schedule, slices: list[Slice], current: int) -> Decimal:
    """What this moment's child is to trade, given that every other child is over."""
    own, filled = members.parent.intent, family.filled(members.children)
    before = [Decimal(0), *(slice_.due for slice_ in slices)]
    sizes = [money.subtract(slice_.due, due) for slice_, due in zip(slices, before, strict=False)]
    rest = money.subtract(own.quantity, filled)
    if terms.late == "skip":
        return min(sizes[current], rest)
    extra = max(sizes) if terms.max_catch_up is None else members.instrument.round_quantity(terms.max_catch_up)
    return min(money.subtract(slices[current].due, filled), money.add(sizes[current], extra))


def next_moment(parent: Order, terms: Schedule, now: datetime) -> datetime:
    """When the schedule goes on, or is over: an upper bound of the moments of `plan`, which joins small slices."""
    start = terms.start_at or parent.created_at
    moments = (start + terms.duration * index / len(terms.weights) for index in range(len(terms.weights)))
    return next((moment for moment in moments if moment > now), start + terms.duration)
