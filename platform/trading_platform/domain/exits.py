"""OCO and bracket: a position with a limit order for the gain and a stop against the loss, of which only one trades. Pure.

The limit order rests at the venue, the stop is watched here. When the stop is reached, that is remembered, the limit order is
cancelled, and what it did not fill is sold by the stop's child once its end is known: two exits never promise the same quantity.
"""

from __future__ import annotations

from decimal import Decimal

from trading_platform import money
from trading_platform.domain import family
from trading_platform.domain.family import Action, Family, Remember
from trading_platform.domain.orders import Order, Role, Status
from trading_platform.domain.terms import Exits
from trading_platform.domain.top import Top, reaches_stop
from trading_platform.messages import Side

EXIT_ROLES: tuple[Role, ...] = ("take_profit", "stop_loss", "exit")


def decide_oco(members: Family, terms: Exits, top: Top | None) -> list[Action]:
    own = members.parent.intent
    if members.all_over and family.filled(members.children) >= own.quantity:
        return [members.finish("FILLED")]
    actions, stuck = _exits(members, terms, top, own.side, own.quantity)
    if not actions and stuck > 0:
        return [members.finish("CANCELED", "REST_BELOW_MINIMUM", f"{stuck} is less than may be ordered")]
    return actions


def decide_bracket(members: Family, terms: Exits, top: Top | None) -> list[Action]:
    """The entry once; exits for what it filled."""
    own = members.parent.intent
    entries = members.roles("entry")
    exits = members.roles(*EXIT_ROLES)
    bought = family.filled(entries)
    held = money.subtract(bought, family.filled(exits))
    if members.parent.status is Status.PENDING_CANCEL:
        if not members.all_over:
            return family.cancels(members.children)
        open_position = ("POSITION_UNPROTECTED", f"{held} stays without a stop") if held > 0 else (None, None)
        return [family.Finish(members.finish("CANCELED", counted=entries).outcome, *open_position)]
    if not entries:
        return [_entry(members)]
    entry = entries[0]
    if members.all_over and held <= 0:
        return [_end(members, entry)]
    exit_side: Side = "sell" if own.side == "buy" else "buy"
    actions, stuck = _exits(members, terms, top, exit_side, bought)
    if not actions and stuck > 0:
        outcome = members.finish("CANCELED", counted=entries).outcome
        return [family.Finish(outcome, "REST_BELOW_MINIMUM", f"{stuck} of the position is less than may be ordered")]
    return actions


def _entry(members: Family) -> family.PlaceChild:
    own = members.parent.intent
    if own.trigger_price is not None:
        kind = "stop" if own.limit_price is None else "stop_limit"
    else:
        kind = "market" if own.limit_price is None else "limit"
    return members.place(
        "entry",
        own.quantity,
        kind=kind,  # type: ignore[arg-type]
        limit_price=own.limit_price,
        trigger_price=own.trigger_price,
        time_in_force=own.time_in_force,
        expire_at=own.expire_at,
        post_only=own.post_only,
    )


def _end(members: Family, entry: Order) -> family.Finish:
    if entry.filled_quantity == 0 and entry.status is Status.REJECTED:
        return members.give_up(entry, [entry])
    status = "EXPIRED" if entry.status is Status.EXPIRED else "CANCELED"
    return members.finish(status, entry.reason_code, entry.reason, [entry])  # type: ignore[arg-type]


def _exits(members: Family, terms: Exits, top: Top | None, side: Side, entitled: Decimal) -> tuple[list[Action], Decimal]:
    """What to do about the exits of a position of `entitled`, and how much is stuck: too small to be traded ever."""
    instrument, now = members.instrument, members.now
    profits, stops = members.roles("take_profit"), members.roles("stop_loss", "exit")
    left = money.subtract(entitled, family.filled((*profits, *stops)))
    free = money.subtract(left, family.can_fill((*profits, *stops)))
    if free < 0:  # a late fill: what is open promises more than there is
        return family.cancels((*profits, *stops)), Decimal(0)
    actions: list[Action] = []
    fired = bool(stops) or "triggered_at" in members.memory
    price = None if top is None else top.reference(side, terms.trigger_by)
    if not fired and left > 0 and price is not None and reaches_stop(side, price, terms.stop_price):
        actions.append(Remember({"triggered_at": now.isoformat(), "price": money.text(price)}))
        fired = True
    working = stops if fired else profits
    if fired:
        actions += family.cancels((*members.roles("entry"), *profits))
    limit = _stop_limit(terms, stops) if fired else terms.take_profit_price
    if family.tradable(instrument, free, terms.stop_price if limit is None else limit):
        if family.is_ready(working, now) and not family.refused_for_good(working):
            actions.append(_exit(members, side, free, limit, fired=fired, failed=_failed(stops)))
        return actions, Decimal(0)
    resting = [child for child in working if child.is_open]
    if free <= 0 or any(child.is_open for child in members.children if child not in resting):
        return actions, Decimal(0)
    if resting:  # too small alone: with the newest order's rest it is not
        return actions + (family.cancels(resting[-1:]) if limit is not None else []), Decimal(0)
    return actions, free


def _stop_limit(terms: Exits, stops: list[Order]) -> Decimal | None:
    """The stop's limit, until one was refused: then the position goes at the market."""
    return None if _failed(stops) else terms.stop_limit_price


def _failed(stops: list[Order]) -> bool:
    return any(child.status is Status.REJECTED for child in stops)


def _exit(members: Family, side: Side, quantity: Decimal, limit: Decimal | None, *, fired: bool, failed: bool) -> family.PlaceChild:
    own = members.parent.intent
    is_bracket = own.type == "bracket"
    role: Role = "take_profit" if not fired else "exit" if failed else "stop_loss"
    return members.place(
        role,
        quantity,
        kind="market" if limit is None else "limit",
        side=side,
        limit_price=limit,
        post_only=own.post_only and not fired and not is_bracket,
        reduce_only=True if is_bracket else None,
    )
