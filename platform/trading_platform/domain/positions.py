"""What a fill does to a position, and what a position is worth. Pure; netting, average cost, exact.

Used by the portfolio's projection and by risk, which must see fills the projection has not reached yet.

    position, realised = apply(position, instrument, "buy", Decimal("0.5"), Decimal("39432.48"), fee)
    unrealised(position, instrument, mark)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from trading_platform import money
from trading_platform.instruments import Instrument
from trading_platform.messages import Side

ZERO = Decimal(0)

# Average prices are quotients: they are kept to this many decimal places, and the rounding is never lost but ends in realised P&L.
AVERAGE_PLACES = 18


@dataclass(frozen=True, slots=True)
class Position:
    """Signed quantity in base units; average price, realised P&L (before fees) and fees in the quote currency."""

    quantity: Decimal = ZERO
    average_price: Decimal = ZERO
    realised_pnl: Decimal = ZERO
    fees: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Effect:
    """What one fill changed: how much of the position it closed and what that realised."""

    closed_quantity: Decimal
    realised_pnl: Decimal


def signed(side: Side, quantity: Decimal) -> Decimal:
    """Positive for a buy."""
    return quantity if side == "buy" else -quantity


def apply(
    position: Position, instrument: Instrument, side: Side, quantity: Decimal, price: Decimal, fee: Decimal
) -> tuple[Position, Effect]:
    """The position after a fill. What reduces is realised at the average price; what is beyond zero opens anew at `price`."""
    change = signed(side, quantity)
    held = position.quantity
    total = money.add(held, change)
    fees = money.add(position.fees, fee)
    if held == 0 or (held > 0) == (change > 0):
        cost = money.add(money.multiply(abs(held), position.average_price), money.multiply(abs(change), price))
        average = money.divide(cost, abs(total), AVERAGE_PLACES)
        return replace(position, quantity=total, average_price=average, fees=fees), Effect(ZERO, ZERO)
    closed = min(abs(held), abs(change))
    gain = money.subtract(price, position.average_price) if held > 0 else money.subtract(position.average_price, price)
    realised = instrument.notional(closed, gain)
    if total == 0:
        average = ZERO
    elif (total > 0) == (held > 0):
        average = position.average_price
    else:
        average = price
    after = Position(total, average, money.add(position.realised_pnl, realised), fees)
    return after, Effect(closed, realised)


def unrealised(position: Position, instrument: Instrument, mark: Decimal) -> Decimal:
    """P&L if the position were closed at `mark`, in the quote currency."""
    return instrument.notional(position.quantity, money.subtract(mark, position.average_price))
