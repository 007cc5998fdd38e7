"""Trailing stops: a stop that follows the market at a distance and never goes back. Pure.

The memory is the water mark (the best price seen since activation) and the stop that follows from it; both only ever move in
the order's favour, so whatever is missed while nobody looks never loosens the stop.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from trading_platform import money
from trading_platform.domain import family
from trading_platform.domain.family import Action, Family, Remember
from trading_platform.domain.terms import Trail
from trading_platform.domain.top import Top, reaches_stop
from trading_platform.messages import Side

_WIDE = Context(prec=76)


def stop_price(side: Side, mark: Decimal, terms: Trail, tick: Decimal) -> Decimal:
    """The stop at a water mark, on the tick grid, rounded away from the market and never below one tick."""
    if terms.callback_amount is not None:
        distance = terms.callback_amount
    else:
        assert terms.callback_percent is not None, "terms have one of the two"
        distance = money.multiply(mark, terms.callback_percent.scaleb(-2))
    raw = money.subtract(mark, distance) if side == "sell" else money.add(mark, distance)
    ticks = _WIDE.divide(raw, tick).to_integral_value(ROUND_FLOOR if side == "sell" else ROUND_CEILING)
    return max(money.multiply(ticks, tick), tick)


def decide(members: Family, terms: Trail, top: Top | None) -> list[Action]:
    own = members.parent.intent
    actions: list[Action] = []
    price = None if top is None else top.reference(own.side, terms.trigger_by)
    known = members.memory.get("stop_price")
    stop = None if known is None else money.parse(known)
    fired = bool(members.children) or "triggered_at" in members.memory
    if not fired and price is not None:
        if stop is not None and reaches_stop(own.side, price, stop):
            actions.append(Remember({**members.memory, "triggered_at": members.now.isoformat(), "price": money.text(price)}))
            fired = True
        elif stop is not None or _activated(own.side, price, terms):
            moved = stop_price(own.side, price, terms, members.instrument.tick_size)
            if stop is None or (moved > stop if own.side == "sell" else moved < stop):
                actions.append(Remember({"water_mark": money.text(price), "stop_price": money.text(moved)}))
    return actions + _work(members, terms, stop) if fired else actions


def _activated(side: Side, price: Decimal, terms: Trail) -> bool:
    if terms.activation_price is None:
        return True
    return price >= terms.activation_price if side == "sell" else price <= terms.activation_price


def _work(members: Family, terms: Trail, stop: Decimal | None) -> list[Action]:
    """Trade what is left, one child at a time."""
    own = members.parent.intent
    if not members.all_over:
        return []
    rest = money.subtract(own.quantity, family.filled(members.children))
    if rest <= 0:
        return [members.finish("FILLED")]
    if not family.tradable(members.instrument, rest, stop):
        return [members.finish("CANCELED", "REST_BELOW_MINIMUM", f"{rest} is less than may be ordered")]
    if not family.is_ready(members.children, members.now) or family.refused_for_good(members.children):
        return []
    if terms.limit_offset is None or stop is None:
        return [members.place("stop_loss", rest)]
    limit = money.subtract(stop, terms.limit_offset) if own.side == "sell" else money.add(stop, terms.limit_offset)
    return [members.place("stop_loss", rest, kind="limit", limit_price=max(limit, members.instrument.tick_size))]
