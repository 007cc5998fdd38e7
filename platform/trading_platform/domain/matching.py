"""The paper market: when an order trades, at what price, how much, for which fee. Pure.

A taker trades at the opposite side of the book (the last trade where the source has no sides); a resting limit order
trades at its own price when the market reaches it: the opposite side at or through its price, or a trade through it.
A trade exactly at its price leaves it waiting, as others were there before. Where the market says how much was
there, no more than that is filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.messages import Side

FEE_PLACES = 8


@dataclass(frozen=True, slots=True)
class Top:
    """Newest prices of an instrument; None where the source has none. Sizes None where they are not told."""

    bid: Decimal | None = None
    ask: Decimal | None = None
    last: Decimal | None = None
    bid_size: Decimal | None = None
    ask_size: Decimal | None = None
    ts_event_ns: int = 0


@dataclass(frozen=True, slots=True)
class Execution:
    price: Decimal
    quantity: Decimal
    liquidity: Literal["maker", "taker"]


def take(side: Side, quantity: Decimal, limit: Decimal | None, top: Top) -> Execution | None:
    """What an arriving order trades at once; a limit order only as far as its price allows."""
    price, size = (top.ask, top.ask_size) if side == "buy" else (top.bid, top.bid_size)
    if price is None:
        price, size = top.last, None
    if price is None or (limit is not None and not _reaches(side, price, limit)):
        return None
    filled = quantity if size is None or limit is None else min(quantity, size)
    return Execution(price, filled, "taker") if filled > 0 else None


def fee(notional: Decimal, basis_points: Decimal) -> Decimal:
    """A share of the traded value, half-even to eight places."""
    return money.round_money(money.multiply(abs(notional), basis_points.scaleb(-4)), FEE_PLACES)


def _reaches(side: Side, price: Decimal, limit: Decimal) -> bool:
    return price <= limit if side == "buy" else price >= limit
