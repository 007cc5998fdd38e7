"""The rules every order passes. Pure: all facts are given, an unknown fact is None and refuses.

decision = evaluate(order, facts, limits)     # accepted, or the first rule it breaks with its reason code
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.instruments import Instrument
from trading_platform.messages import Side

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Limits:
    """One version of an account's limits; money in the account's currency."""

    version: int
    max_order_notional: Decimal
    max_position_notional: Decimal
    max_total_exposure: Decimal
    max_orders_per_minute: int
    price_collar: Decimal
    max_daily_loss: Decimal
    max_data_age_s: Decimal


@dataclass(frozen=True, slots=True)
class OrderToCheck:
    """What the engine wants to send."""

    client_order_id: str
    account: str
    instrument: Instrument
    side: Side
    type: Literal["market", "limit"]
    quantity: Decimal
    limit_price: Decimal | None

    @property
    def signed_quantity(self) -> Decimal:
        return self.quantity if self.side == "buy" else -self.quantity


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when an order is judged. `rate` converts the quote currency into the account's."""

    trading_state: str
    mark: Decimal | None
    mark_age_s: Decimal | None
    rate: Decimal | None
    position: Decimal
    open_buys: Decimal
    open_sells: Decimal
    exposure_elsewhere: Decimal | None
    daily_pnl: Decimal | None
    orders_last_minute: int


@dataclass(frozen=True, slots=True)
class Decision:
    accepted: bool
    code: str
    detail: str


ACCEPTED = Decision(True, "ACCEPTED", "within all limits")


def evaluate(order: OrderToCheck, facts: Facts, limits: Limits) -> Decision:
    """The first rule the order breaks, or ACCEPTED."""
    if facts.trading_state not in ("running", "reducing"):
        return _refuse(f"TRADING_{facts.trading_state.upper()}", f"trading is {facts.trading_state}")
    if facts.mark is None or facts.mark_age_s is None:
        return _refuse("MARKET_DATA_MISSING", f"no price of {order.instrument.symbol}")
    if not -5 <= facts.mark_age_s <= limits.max_data_age_s:
        return _refuse(
            "MARKET_DATA_STALE", f"the price of {order.instrument.symbol} is {facts.mark_age_s:.1f} s old, limit {limits.max_data_age_s} s"
        )
    if facts.rate is None:
        return _refuse("CURRENCY_NOT_CONVERTIBLE", f"no conversion rate of {order.instrument.quote_currency} into the account's currency")
    if facts.orders_last_minute >= limits.max_orders_per_minute:
        return _refuse("ORDER_RATE_EXCEEDED", f"{facts.orders_last_minute} orders in the last minute, limit {limits.max_orders_per_minute}")
    return _evaluate_value(order, facts, limits, facts.mark, facts.rate)


def _evaluate_value(order: OrderToCheck, facts: Facts, limits: Limits, mark: Decimal, rate: Decimal) -> Decision:
    """The rules about money, once prices and rates are known."""
    instrument = order.instrument
    if order.limit_price is not None:
        away = abs(order.limit_price - mark) / mark
        if away > limits.price_collar:
            return _refuse(
                "PRICE_COLLAR", f"limit price {order.limit_price} is {away:.2%} from the market {mark}, limit {limits.price_collar:.2%}"
            )
    # A limit order may trade at the market or at its price: the dearer counts.
    price = mark if order.limit_price is None else max(mark, order.limit_price)
    value = _value(instrument, order.quantity, price, rate)
    if value < instrument.min_notional * rate:
        return _refuse("NOTIONAL_BELOW_MINIMUM", f"value {_money(value)} is below {instrument.min_notional} {instrument.quote_currency}")
    if value > limits.max_order_notional:
        return _refuse("ORDER_NOTIONAL_EXCEEDED", f"value {_money(value)}, limit {limits.max_order_notional}")
    if reduces(order, facts):
        return ACCEPTED
    if facts.trading_state == "reducing":
        return _refuse("TRADING_REDUCING", "only orders that reduce a position pass")
    worst = worst_position(order, facts)
    position_value = _value(instrument, worst, price, rate)
    if position_value > limits.max_position_notional:
        return _refuse("POSITION_LIMIT_EXCEEDED", f"position would be worth {_money(position_value)}, limit {limits.max_position_notional}")
    if facts.exposure_elsewhere is None:
        return _refuse("EXPOSURE_UNKNOWN", "a position elsewhere has no price")
    exposure = facts.exposure_elsewhere + position_value
    if exposure > limits.max_total_exposure:
        return _refuse("EXPOSURE_LIMIT_EXCEEDED", f"exposure would be {_money(exposure)}, limit {limits.max_total_exposure}")
    if facts.daily_pnl is None:
        return _refuse("DAILY_LOSS_UNKNOWN", "today's result cannot be computed")
    if -facts.daily_pnl >= limits.max_daily_loss:
        return _refuse("DAILY_LOSS_LIMIT_REACHED", f"lost {_money(-facts.daily_pnl)} since 00:00 UTC, limit {limits.max_daily_loss}")
    return ACCEPTED


def order_value(order: OrderToCheck, facts: Facts) -> Decimal:
    """What an accepted order can add to the exposure, in the account's currency."""
    assert facts.mark is not None, "an order without a price is never accepted"
    assert facts.rate is not None, "an order that cannot be valued is never accepted"
    price = facts.mark if order.limit_price is None else max(facts.mark, order.limit_price)
    return _value(order.instrument, order.quantity, price, facts.rate)


def reduces(order: OrderToCheck, facts: Facts) -> bool:
    """Whether the order, with what already works on its side, can only bring the position nearer to zero."""
    if order.side == "buy":
        return facts.position < 0 and facts.open_buys + order.quantity <= -facts.position
    return facts.position > 0 and facts.open_sells + order.quantity <= facts.position


def worst_position(order: OrderToCheck, facts: Facts) -> Decimal:
    """The largest position, either way, that this order and the working ones can lead to."""
    buys = facts.open_buys + (order.quantity if order.side == "buy" else ZERO)
    sells = facts.open_sells + (order.quantity if order.side == "sell" else ZERO)
    return max(abs(facts.position + buys), abs(facts.position - sells))


def after_accepting(order: OrderToCheck, facts: Facts) -> Facts:
    """The facts for the next order of the same batch and instrument."""
    buys = facts.open_buys + (order.quantity if order.side == "buy" else ZERO)
    sells = facts.open_sells + (order.quantity if order.side == "sell" else ZERO)
    return replace(facts, open_buys=buys, open_sells=sells, orders_last_minute=facts.orders_last_minute + 1)


def _value(instrument: Instrument, quantity: Decimal, price: Decimal, rate: Decimal) -> Decimal:
    return money.multiply(abs(instrument.notional(quantity, price)), rate)


def _refuse(code: str, detail: str) -> Decision:
    return Decision(False, code, detail)


def _money(value: Decimal) -> str:
    return money.text(money.round_money(value, 2))
