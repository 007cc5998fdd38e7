"""Held orders: what to do next, from where everything stands. Pure, and the same answer to the same question.

`decide` is asked after every change in the family, on prices and on time, and again after a crash. Actions are carried out in
their order and may stop after any of them: asking again goes on from there. It holds at every moment that what children have
filled and can still fill is no more than the parent's quantity (of a bracket: exits no more than the entry filled).

Children are told by what they were made for (role); one that ended short, by whatever hand, is followed by another as the type
says: to stop a held order, cancel the order itself. A child counts as over once its fills are all known.
docs/order-types.md explains each type.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from trading_platform.domain import exits, family, schedules, terms, trails
from trading_platform.domain.family import Action, CancelChild, Family, Finish, PlaceChild, Remember, child_id
from trading_platform.domain.orders import Intent, Order, Status
from trading_platform.domain.terms import Exits, Iceberg, Schedule, Trail
from trading_platform.domain.top import Top
from trading_platform.instruments import Instrument

__all__ = [
    "Action",
    "CancelChild",
    "Finish",
    "PlaceChild",
    "Remember",
    "check_terms",
    "child_id",
    "decide",
    "next_wakeup",
    "nothing_to_protect",
    "unprotected",
    "watches_prices",
]


def check_terms(intent: Intent, instrument: Instrument) -> None:
    """Whether an order may be held (or, of a working type, has no terms). Raises InvalidOrder with a reason code."""
    terms.check(intent, instrument)


def decide(parent: Order, children: Sequence[Order], top: Top | None, now: datetime, instrument: Instrument) -> list[Action]:
    """What to do now, in this order. `children` are all the parent ever had; `top` is None when there is no current market."""
    if parent.status not in (Status.SUSPENDED, Status.PENDING_CANCEL):
        return []
    members = Family.of(parent, children, instrument, now)
    own = parent.intent
    if own.type == "bracket":
        wanted = terms.read(own)
        assert isinstance(wanted, Exits), "a bracket has exits"
        return exits.decide_bracket(members, wanted, top)
    if parent.status is Status.PENDING_CANCEL:
        return _wind_down(members, members.finish("CANCELED"))
    if own.expire_at is not None and own.expire_at <= now:
        return _wind_down(members, members.finish("EXPIRED"))
    match terms.read(own):
        case Trail() as trail:
            return trails.decide(members, trail, top)
        case Exits() as oco:
            return exits.decide_oco(members, oco, top)
        case Iceberg() as iceberg:
            return schedules.decide_iceberg(members, iceberg)
        case Schedule() as schedule:
            return schedules.decide(members, schedule, top)


def next_wakeup(parent: Order, children: Sequence[Order], now: datetime) -> datetime | None:
    """The next moment at which time alone may change what `decide` says; None when only events or prices can."""
    if parent.status is not Status.SUSPENDED:
        return None
    own = parent.intent
    moments = [own.expire_at] if own.type != "bracket" else []
    for roles in (("take_profit",), ("stop_loss", "exit"), ("slice",)):
        moments.append(family.ready_at(family.of_roles(children, *roles)))
    if own.type in ("twap", "vwap"):
        wanted = terms.read(own)
        assert isinstance(wanted, Schedule), "it has a schedule"
        moments.append(schedules.next_moment(parent, wanted, now))
    return min((moment for moment in moments if moment is not None and moment > now), default=None)


def watches_prices(parent: Order) -> bool:
    """Whether a price can change what `decide` says, so that it must be asked on every quote."""
    return parent.status is Status.SUSPENDED and parent.intent.type in ("trailing_stop", "oco", "bracket")


def unprotected(parent: Order, children: Sequence[Order]) -> str | None:
    """What somebody must be told: the stop was reached, and its orders fail again and again."""
    if not watches_prices(parent) or len(children) < family.ATTEMPTS:
        return None
    stops = family.of_roles(children, "stop_loss", "exit")
    if family.failures(stops) < family.ATTEMPTS:
        return None
    ended = "; it is not tried any more" if family.refused_for_good(stops) else ""
    return f"the stop of {parent.id} is not taken: {stops[-1].reason_code or stops[-1].status}{ended}"


def nothing_to_protect(parent: Order, children: Sequence[Order], now: datetime, instrument: Instrument) -> Finish:
    """The end of an order whose stop only reduces a position that is gone, by whatever hand. Only when every child is over."""
    members = Family.of(parent, children, instrument, now)
    counted = members.roles("entry") if parent.intent.type == "bracket" else None
    outcome = members.finish("CANCELED", counted=counted).outcome
    return Finish(outcome, "POSITION_GONE", "the position was closed by another order; nothing is left to protect")


def _wind_down(members: Family, end: Finish) -> list[Action]:
    """Children end first, then the parent."""
    return [end] if members.all_over else family.cancels(members.children)
