"""What a held order needs beyond an ordinary one: the JSON `terms` of each type, read and checked. Pure.

Amounts are decimals as text. Fields are exact: one that is missing, unknown or not what it should be refuses the order with a
reason code. `read` gives the typed terms, `check` says whether an order with them makes sense on the instrument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from trading_platform import money
from trading_platform.domain.orders import Intent, OrderType
from trading_platform.domain.top import TriggerBy
from trading_platform.instruments import Instrument, InvalidOrder
from trading_platform.messages import Side

MAX_SLICES = 1_000
MAX_DURATION_S = 30 * 24 * 3600

_AMOUNT = re.compile(r"\d{1,20}(\.\d{1,18})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Trail:
    """`callback_amount` or `callback_percent`; the rest is optional. With `limit_offset` the child is a limit order that far
    beyond the stop, otherwise a market order."""

    callback_amount: Decimal | None
    callback_percent: Decimal | None
    activation_price: Decimal | None
    limit_offset: Decimal | None
    trigger_by: TriggerBy


@dataclass(frozen=True, slots=True)
class Exits:
    """Two ways out of a position: a limit order for the gain, a stop (with a limit, if given) against the loss."""

    take_profit_price: Decimal
    stop_price: Decimal
    stop_limit_price: Decimal | None
    trigger_by: TriggerBy


@dataclass(frozen=True, slots=True)
class Iceberg:
    """How much is shown at a time, varied by up to this share if wanted; the same seed shows the same slices."""

    visible_quantity: Decimal
    variation_percent: Decimal
    seed: str | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """A quantity spread over time: one weight a slice (equal for TWAP). `start_at` None is when the order is taken on."""

    start_at: datetime | None
    duration: timedelta
    weights: tuple[Decimal, ...]
    slice_type: Literal["market", "limit"]
    late: Literal["catch_up", "skip"]
    max_catch_up: Decimal | None


Terms = Trail | Exits | Iceberg | Schedule


def read(intent: Intent) -> Terms:
    """The terms of a held order. Raises InvalidOrder."""
    if intent.terms is None:
        raise InvalidOrder("TERMS_MISSING", f"an order of type {intent.type} has terms")
    fields = _Fields(intent.type, intent.terms)
    terms = _READERS[intent.type](fields)
    fields.close()
    return terms


class _Fields:
    """The members of a terms document, each taken once."""

    def __init__(self, kind: str, document: Mapping[str, Any]) -> None:
        self._kind = kind
        self._left = dict(document)

    def close(self) -> None:
        if self._left:
            raise InvalidOrder("TERM_UNKNOWN", f"{self._kind} has no {', '.join(sorted(map(repr, self._left)))}")

    def has(self, name: str) -> bool:
        return self._left.get(name) is not None

    def amount(self, name: str) -> Decimal:
        value = self.optional_amount(name)
        if value is None:
            raise InvalidOrder("TERM_MISSING", f"{self._kind} needs {name}")
        return value

    def optional_amount(self, name: str) -> Decimal | None:
        value = self._left.pop(name, None)
        return None if value is None else self._decimal(name, value)

    def amounts(self, name: str) -> tuple[Decimal, ...]:
        values = self._left.pop(name, None)
        if not isinstance(values, list | tuple) or not values:
            raise InvalidOrder("TERM_MISSING", f"{self._kind} needs {name}, a list of numbers as text")
        return tuple(self._decimal(name, value) for value in values)

    def whole(self, name: str, most: int) -> int:
        value = self._left.pop(name, None)
        if value is None:
            raise InvalidOrder("TERM_MISSING", f"{self._kind} needs {name}")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise InvalidOrder("TERM_INVALID", f"{name} is {_shown(value)}, not a whole number of 1 to {most}")
        return value

    def choice(self, name: str, *allowed: str) -> Any:
        """One of the allowed words, the first of them by default."""
        value = self._left.pop(name, None)
        if value is None:
            return allowed[0]
        if value not in allowed:
            raise InvalidOrder("TERM_INVALID", f"{name} is {_shown(value)}, not one of {', '.join(allowed)}")
        return value

    def moment(self, name: str) -> datetime | None:
        value = self._left.pop(name, None)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise InvalidOrder("TERM_INVALID", f"{name} is {_shown(value)}, not a time as ISO 8601 writes it") from None
        if moment.utcoffset() is None:
            raise InvalidOrder("TERM_INVALID", f"{name} is {_shown(value)}, which names no time zone")
        return moment

    def word(self, name: str) -> str | None:
        value = self._left.pop(name, None)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= 64):
            raise InvalidOrder("TERM_INVALID", f"{name} is {_shown(value)}, not text of 1 to 64 characters")
        return value

    @staticmethod
    def _decimal(name: str, value: object) -> Decimal:
        if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
            raise InvalidOrder("TERM_INVALID", f"{name} is {_shown(value)}, not a positive decimal as text")
        return money.parse(value)


def _shown(value: object) -> str:
    return repr(value)[:60]


def _trail(fields: _Fields) -> Trail:
    if fields.has("callback_amount") == fields.has("callback_percent"):
        raise InvalidOrder("TERM_MISSING", "a trailing stop has either callback_amount or callback_percent")
    return Trail(
        fields.optional_amount("callback_amount"),
        fields.optional_amount("callback_percent"),
        fields.optional_amount("activation_price"),
        fields.optional_amount("limit_offset"),
        fields.choice("trigger_by", "last", "quote"),
    )


def _exits(fields: _Fields) -> Exits:
    return Exits(
        fields.amount("take_profit_price"),
        fields.amount("stop_price"),
        fields.optional_amount("stop_limit_price"),
        fields.choice("trigger_by", "last", "quote"),
    )


def _iceberg(fields: _Fields) -> Iceberg:
    visible, variation = fields.amount("visible_quantity"), fields.optional_amount("variation_percent")
    return Iceberg(visible, Decimal(0) if variation is None else variation, fields.word("seed"))


def _twap(fields: _Fields) -> Schedule:
    start, duration = _span(fields)
    if fields.has("slices") == fields.has("interval_s"):
        raise InvalidOrder("TERM_MISSING", "a TWAP has either slices or interval_s")
    if fields.has("slices"):
        count = fields.whole("slices", MAX_SLICES)
    else:
        interval = timedelta(seconds=fields.whole("interval_s", MAX_DURATION_S))
        count, over = divmod(duration, interval)
        if over or count == 0:
            raise InvalidOrder("TERM_INVALID", f"{interval} does not divide {duration}")
    return _paced(fields, start, duration, (Decimal(1),) * count)


def _vwap(fields: _Fields) -> Schedule:
    start, duration = _span(fields)
    return _paced(fields, start, duration, fields.amounts("weights"))


def _span(fields: _Fields) -> tuple[datetime | None, timedelta]:
    start = fields.moment("start_at")
    if fields.has("duration_s") == fields.has("end_at"):
        raise InvalidOrder("TERM_MISSING", "a schedule has either duration_s or end_at")
    if fields.has("duration_s"):
        return start, timedelta(seconds=fields.whole("duration_s", MAX_DURATION_S))
    end = fields.moment("end_at")
    if start is None or end is None:
        raise InvalidOrder("TERM_MISSING", "end_at goes with start_at; without it, say duration_s")
    if not timedelta(0) < end - start <= timedelta(seconds=MAX_DURATION_S):
        raise InvalidOrder("TERM_INVALID", f"from {start.isoformat()} to {end.isoformat()} is not a span of up to 30 days")
    return start, end - start


def _paced(fields: _Fields, start: datetime | None, duration: timedelta, weights: tuple[Decimal, ...]) -> Schedule:
    if len(weights) > MAX_SLICES:
        raise InvalidOrder("TOO_MANY_SLICES", f"{len(weights)} slices; {MAX_SLICES} are the most")
    if sum(weights) == 0:
        raise InvalidOrder("TERM_INVALID", "the weights are all zero")
    if duration < len(weights) * timedelta(seconds=1):
        raise InvalidOrder("TERM_INVALID", f"{len(weights)} slices in {duration} are more than one a second")
    return Schedule(
        start,
        duration,
        weights,
        fields.choice("slice_type", "market", "limit"),
        fields.choice("late", "catch_up", "skip"),
        fields.optional_amount("max_catch_up"),
    )


_READERS: dict[OrderType, Callable[[_Fields], Terms]] = {
    "trailing_stop": _trail,
    "oco": _exits,
    "bracket": _exits,
    "iceberg": _iceberg,
    "twap": _twap,
    "vwap": _vwap,
}


def check(intent: Intent, instrument: Instrument) -> None:
    """Whether the order makes sense, as far as that can be known without market and clock. Raises InvalidOrder."""
    if not intent.is_held:
        if intent.terms is not None:
            raise InvalidOrder("TERMS_NOT_ALLOWED", f"an order of type {intent.type} has no terms")
        return
    terms = read(intent)
    instrument.check_quantity(intent.quantity)
    if intent.parent_id is not None:
        raise InvalidOrder("HELD_ORDER_HAS_PARENT", f"a {intent.type} cannot be another order's child")
    if intent.flatten:
        raise InvalidOrder("FLATTEN_NOT_ALLOWED", f"a {intent.type} does not close a position at once")
    if (intent.time_in_force in ("DAY", "GTD")) != (intent.expire_at is not None):
        raise InvalidOrder("EXPIRY_MISMATCH", f"{intent.time_in_force} with expiry {intent.expire_at}")
    for price in (intent.limit_price, intent.trigger_price):
        if price is not None:
            instrument.check_price(price)
    if intent.type == "bracket" and isinstance(terms, Exits):
        _check_bracket(intent, terms, instrument)
        return
    if intent.trigger_price is not None:
        raise InvalidOrder("TRIGGER_PRICE_NOT_ALLOWED", f"a {intent.type} has its prices in its terms")
    if intent.time_in_force in ("IOC", "FOK"):
        raise InvalidOrder("TIME_IN_FORCE_NOT_ALLOWED", f"a {intent.type} takes time; it cannot be {intent.time_in_force}")
    match terms:
        case Trail():
            _check_trail(intent, terms, instrument)
        case Exits():
            _refuse_limit(intent)
            _check_exits(intent.side, terms, intent.quantity, instrument)
        case Iceberg():
            _check_iceberg(intent, terms, instrument)
        case Schedule():
            _check_schedule(intent, terms, instrument)


def _refuse_limit(intent: Intent) -> None:
    if intent.limit_price is not None:
        raise InvalidOrder("LIMIT_PRICE_NOT_ALLOWED", f"a {intent.type} has its prices in its terms")


def _refuse_post_only(intent: Intent) -> None:
    if intent.post_only:
        raise InvalidOrder("POST_ONLY_NOT_ALLOWED", f"this {intent.type} sends orders that take")


def _positive(name: str, value: Decimal | None) -> None:
    if value is not None and value <= 0:
        raise InvalidOrder("TERM_INVALID", f"{name} is {value}, not positive")


def _check_value(name: str, quantity: Decimal, price: Decimal, instrument: Instrument) -> None:
    value = instrument.notional(quantity, price)
    if value < instrument.min_notional:
        raise InvalidOrder("NOTIONAL_BELOW_MINIMUM", f"{quantity} at {name} {price} is {value}, below {instrument.min_notional}")


def _check_trail(intent: Intent, terms: Trail, instrument: Instrument) -> None:
    _refuse_limit(intent)
    _refuse_post_only(intent)
    _positive("callback_amount", terms.callback_amount)
    _positive("callback_percent", terms.callback_percent)
    if terms.callback_percent is not None and terms.callback_percent >= 100:
        raise InvalidOrder("TERM_INVALID", f"callback_percent is {terms.callback_percent}, not below 100")
    for price in (terms.callback_amount, terms.activation_price):
        if price is not None:
            instrument.check_price(price)
    if terms.limit_offset:
        instrument.check_price(terms.limit_offset)


def _check_exits(exit_side: Side, terms: Exits, quantity: Decimal, instrument: Instrument) -> None:
    prices = {"take_profit_price": terms.take_profit_price, "stop_price": terms.stop_price}
    if terms.stop_limit_price is not None:
        prices["stop_limit_price"] = terms.stop_limit_price
    for name, price in prices.items():
        instrument.check_price(price)
        _check_value(name, quantity, price, instrument)
    _check_between(exit_side, terms.stop_price, terms.take_profit_price, "take_profit_price")
    if terms.stop_limit_price not in (None, terms.stop_price):
        assert terms.stop_limit_price is not None
        _check_between(exit_side, terms.stop_limit_price, terms.stop_price, "stop_price")


def _check_between(exit_side: Side, worse: Decimal, better: Decimal, name: str) -> None:
    """For a sale the better price is the higher one."""
    if worse == better or (worse > better) == (exit_side == "sell"):
        raise InvalidOrder("PRICES_NOT_IN_ORDER", f"{name} {better} is not better than {worse} for a {exit_side}")


def _check_bracket(intent: Intent, terms: Exits, instrument: Instrument) -> None:
    if intent.reduce_only:
        raise InvalidOrder("REDUCE_ONLY_NOT_ALLOWED", "a bracket opens a position")
    exit_side: Side = "sell" if intent.side == "buy" else "buy"
    _check_exits(exit_side, terms, intent.quantity, instrument)
    if intent.limit_price is None:
        _refuse_post_only(intent)
        if intent.time_in_force in ("IOC", "FOK"):
            raise InvalidOrder("TIME_IN_FORCE_NOT_ALLOWED", f"a bracket entered at the market cannot be {intent.time_in_force}")
    if intent.trigger_price is not None and intent.time_in_force in ("IOC", "FOK"):
        raise InvalidOrder("TIME_IN_FORCE_NOT_ALLOWED", f"an entry that waits for its trigger cannot be {intent.time_in_force}")
    for price in (intent.limit_price, intent.trigger_price):
        if price is not None:
            _check_value("the entry's price", intent.quantity, price, instrument)
            _check_between(exit_side, terms.stop_price, price, "the entry's price")
            _check_between(exit_side, price, terms.take_profit_price, "take_profit_price")


def _check_iceberg(intent: Intent, terms: Iceberg, instrument: Instrument) -> None:
    if intent.limit_price is None:
        raise InvalidOrder("LIMIT_PRICE_MISSING", "an iceberg is a limit order")
    instrument.check_quantity(terms.visible_quantity)
    if terms.visible_quantity >= intent.quantity:
        raise InvalidOrder("TERM_INVALID", f"visible_quantity {terms.visible_quantity} is not below the quantity {intent.quantity}")
    if terms.variation_percent > 50:
        raise InvalidOrder("TERM_INVALID", f"variation_percent is {terms.variation_percent}, above 50")
    smallest = instrument.round_quantity(money.multiply(terms.visible_quantity, 1 - terms.variation_percent.scaleb(-2)))
    if smallest < instrument.min_quantity:
        raise InvalidOrder("QUANTITY_BELOW_MINIMUM", f"the smallest slice, {smallest}, is below {instrument.min_quantity}")
    _check_value("limit price", smallest, intent.limit_price, instrument)
    if money.multiply(smallest, Decimal(MAX_SLICES)) < intent.quantity:
        raise InvalidOrder("TOO_MANY_SLICES", f"{intent.quantity} in slices of {smallest}; {MAX_SLICES} slices are the most")


def _check_schedule(intent: Intent, terms: Schedule, instrument: Instrument) -> None:
    if terms.slice_type == "limit" and intent.limit_price is None:
        raise InvalidOrder("LIMIT_PRICE_MISSING", "limit slices need a limit price")
    if terms.slice_type == "market":
        _refuse_post_only(intent)
    if intent.limit_price is not None:
        _check_value("limit price", intent.quantity, intent.limit_price, instrument)
    if terms.max_catch_up is not None and terms.late == "skip":
        raise InvalidOrder("TERM_INVALID", "max_catch_up goes with late catch_up")
