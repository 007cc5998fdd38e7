"""Double entry: every fill and deposit as lines that sum to zero in each currency. Pure.

Books: `holdings` is what the account has, `capital` what was paid in, `exchange` the other side of trades, `fees` what
trading cost, `result` what contracts realised. Positive in `holdings` is an asset; capital stands negative against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.domain.positions import Effect, signed
from trading_platform.instruments import Instrument
from trading_platform.messages import Side

Book = Literal["holdings", "capital", "exchange", "fees", "result"]


@dataclass(frozen=True, slots=True)
class Line:
    book: Book
    currency: str
    amount: Decimal


def deposit(currency: str, amount: Decimal) -> list[Line]:
    """Money paid in."""
    return _pair("holdings", "capital", currency, amount)


def fill(
    instrument: Instrument, side: Side, quantity: Decimal, price: Decimal, fee: Decimal, fee_currency: str, effect: Effect
) -> list[Line]:
    """An execution: what changed hands (or, of a contract, what it realised), and its fee."""
    lines: list[Line] = []
    change = signed(side, quantity)
    if instrument.settles_base:
        lines += _pair("holdings", "exchange", instrument.base_currency, change)
        lines += _pair("holdings", "exchange", instrument.quote_currency, -instrument.notional(change, price))
    else:
        lines += _pair("holdings", "result", instrument.quote_currency, effect.realised_pnl)
    lines += _pair("fees", "holdings", fee_currency, fee)
    return lines


def imbalance(lines: Sequence[Line]) -> dict[str, Decimal]:
    """What each currency's lines sum to, where that is not zero."""
    totals: dict[str, Decimal] = {}
    for line in lines:
        totals[line.currency] = money.add(totals.get(line.currency, Decimal(0)), line.amount)
    return {currency: total for currency, total in totals.items() if total != 0}


def _pair(debit: Book, credit: Book, currency: str, amount: Decimal) -> list[Line]:
    """Two lines that cancel; none for nothing."""
    return [Line(debit, currency, amount), Line(credit, currency, amount.copy_negate())] if amount != 0 else []
