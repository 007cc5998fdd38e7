"""What a fill does to a position, and what a position is worth. Pure; average cost, exact.

Used by the portfolio's projection and by whoever must see fills the projection has not reached yet (risk, engine).

    position, effect = after_fill(position, instrument, "buy", Decimal("0.5"), Decimal("39432.48"), fee, fee_currency)
    unrealised(position, instrument, mark)

A netting account has one position an instrument (`net`); a hedging one keeps `long` and `short` apart, two books with the same
arithmetic. A fill is a fact: should one close more than its book holds, the book goes through zero like a netting one, so that
the books' sum stays what the venue has. `is_turned` tells such a book.

The position is the sum of its fills. What is really there (net of fees taken from what was received) are the ledger's holdings.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from trading_platform import money
from trading_platform.instruments import Instrument
from trading_platform.messages import Side

ZERO = Decimal(0)

# Average prices are quotients: they are kept to this many decimal places. What the rounding leaves of the cost is kept as `residue`
# until the position is flat, so that realised and unrealised result always add up to exactly what was paid and received.
AVERAGE_PLACES = 18


@dataclass(frozen=True, slots=True)
class Position:
    """Signed quantity in base units; average price, realised P&L (before fees) and fees in the quote currency.

    `residue`: signed cost beyond quantity × average price. `other_fees`: fees in currencies that the fill's own price does not
    value, by currency; they are not in `fees`.
    """

    quantity: Decimal = ZERO
    average_price: Decimal = ZERO
    realised_pnl: Decimal = ZERO
    fees: Decimal = ZERO
    residue: Decimal = ZERO
    other_fees: tuple[tuple[str, Decimal], ...] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """What one fill changed: how much of the position it closed and what that realised."""

    closed_quantity: Decimal
    realised_pnl: Decimal


_OPENED = Effect(ZERO, ZERO)


def signed(side: Side, quantity: Decimal) -> Decimal:
    """Positive for a buy. (Python's own `-` and `abs` would round to 28 digits.)"""
    return quantity if side == "buy" else quantity.copy_negate()


def fee_value(instrument: Instrument, price: Decimal, fee: Decimal, fee_currency: str) -> Decimal | None:
    """A fill's fee in the quote currency: a base fee at the fill's price; None for a currency that the fill does not value."""
    if fee == 0:
        return ZERO
    if fee_currency == instrument.quote_currency:
        return fee
    if fee_currency == instrument.base_currency:
        return money.multiply(fee, price)
    return None


def after_fill(
    position: Position, instrument: Instrument, side: Side, quantity: Decimal, price: Decimal, fee: Decimal, fee_currency: str
) -> tuple[Position, Effect]:
    """The position after a fill whose fee may be in any currency."""
    value = fee_value(instrument, price, fee, fee_currency)
    after, effect = apply(position, instrument, side, quantity, price, ZERO if value is None else value)
    if value is None:
        after = Position(
            after.quantity, after.average_price, after.realised_pnl, after.fees, after.residue,
            merge(position.other_fees, ((fee_currency, fee),)),
        )  # fmt: skip
    return after, effect


def apply(
    position: Position, instrument: Instrument, side: Side, quantity: Decimal, price: Decimal, fee: Decimal
) -> tuple[Position, Effect]:
    """The position after a fill; `fee` in the quote currency.

    What reduces is realised at the average price; what is beyond zero opens anew at `price`.
    """
    change = signed(side, quantity)
    held = position.quantity
    total = money.add(held, change)
    fees = money.add(position.fees, fee)
    if held == 0:
        return Position(total, price, position.realised_pnl, fees, ZERO, position.other_fees), _OPENED
    if (held > 0) == (change > 0):
        cost = money.add(money.multiply(held, position.average_price), position.residue, money.multiply(change, price))
        average = money.divide(cost, total, AVERAGE_PLACES)
        residue = money.subtract(cost, money.multiply(total, average))
        return Position(total, average, position.realised_pnl, fees, residue, position.other_fees), _OPENED
    closed = min(held.copy_abs(), change.copy_abs())
    gain = money.subtract(price, position.average_price) if held > 0 else money.subtract(position.average_price, price)
    gained = money.multiply(closed, gain)
    average, residue = position.average_price, position.residue
    if total == 0 or (total > 0) != (held > 0):
        gained = money.subtract(gained, residue)
        average, residue = (price if total != 0 else ZERO), ZERO
    realised = instrument.notional(gained, _ONE)
    after = Position(total, average, money.add(position.realised_pnl, realised), fees, residue, position.other_fees)
    return after, Effect(closed, realised)


def unrealised(position: Position, instrument: Instrument, mark: Decimal) -> Decimal:
    """P&L if the position were closed at `mark`, in the quote currency."""
    gain = money.multiply(position.quantity, money.subtract(mark, position.average_price))
    return instrument.notional(money.subtract(gain, position.residue), _ONE)


def is_turned(position_side: str, position: Position) -> bool:
    """Whether a hedging account's book was closed by more than it held: the venue must be asked how that could be."""
    return (position_side == "long" and position.quantity < 0) or (position_side == "short" and position.quantity > 0)


def merge(*fees: tuple[tuple[str, Decimal], ...]) -> tuple[tuple[str, Decimal], ...]:
    """Amounts by currency, added up."""
    totals: dict[str, Decimal] = {}
    for each in fees:
        for currency, amount in each:
            totals[currency] = money.add(totals.get(currency, ZERO), amount)
    return tuple(sorted(totals.items()))


_ONE = Decimal(1)
