"""Double entry: everything that changes what an account has, as lines that sum to zero in each currency. Pure.

Books: `holdings` is what the account has, `capital` what was paid in, `exchange` the other side of trades, `fees` what
trading cost, `result` what contracts realised, `carry` what came or went without a trade: funding, charges, corrections.
Positive in `holdings` is an asset; capital stands negative against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.domain.positions import Effect, signed
from trading_platform.instruments import Instrument
from trading_platform.messages import Side

Book = Literal["holdings", "capital", "exchange", "fees", "result", "carry"]
TransferKind = Literal["deposit", "withdrawal", "funding", "fee", "adjustment"]

# Kinds whose amount may have either sign: funding is received or paid, a correction adds or takes.
SIGNED_KINDS: frozenset[TransferKind] = frozenset({"funding", "adjustment"})


class InvalidTransfer(ValueError):
    """An amount that cannot be booked; `code` is the reason code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Line:
    book: Book
    currency: str
    amount: Decimal


def opening(balances: Mapping[str, Decimal]) -> list[Line]:
    """What an account has when it is first seen."""
    return [line for currency in sorted(balances) for line in transfer("deposit", currency, balances[currency])]


def transfer(kind: TransferKind, currency: str, amount: Decimal) -> list[Line]:
    """Money that comes or goes without a trade. Deposits, withdrawals and fees are positive amounts; funding and adjustments are
    signed, positive when the account receives. Raises InvalidTransfer."""
    if not amount.is_finite():
        raise InvalidTransfer("AMOUNT_NOT_FINITE", f"amount is {amount}")
    if amount == 0:
        raise InvalidTransfer("AMOUNT_ZERO", f"a {kind} of nothing is not booked")
    if amount < 0 and kind not in SIGNED_KINDS:
        raise InvalidTransfer("AMOUNT_NOT_POSITIVE", f"amount of a {kind} is {amount}; state it without sign")
    match kind:
        case "deposit":
            return _pair("holdings", "capital", currency, amount)
        case "withdrawal":
            return _pair("capital", "holdings", currency, amount)
        case "fee":
            return _pair("carry", "holdings", currency, amount)
        case "funding" | "adjustment":
            return _pair("holdings", "carry", currency, amount)


def fill(
    instrument: Instrument, side: Side, quantity: Decimal, price: Decimal, fee: Decimal, fee_currency: str, effect: Effect
) -> list[Line]:
    """An execution: what changed hands (or, of a contract, what it realised), and its fee in the currency it was taken in."""
    lines: list[Line] = []
    if instrument.settles_base:
        change = signed(side, quantity)
        lines += _pair("holdings", "exchange", instrument.base_currency, change)
        lines += _pair("holdings", "exchange", instrument.quote_currency, instrument.notional(change, price).copy_negate())
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
