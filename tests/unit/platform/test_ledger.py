"""Each kind of booking is balanced lines on the right sides, or is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from trading_platform.domain import ledger
from trading_platform.domain.ledger import InvalidTransfer
from trading_platform.domain.positions import Effect
from trading_platform.instruments import Instrument

D = Decimal
SPOT = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))


@pytest.mark.parametrize(
    ("kind", "amount", "holdings", "against"),
    [
        ("deposit", "5", 5, ("capital", -5)),
        ("withdrawal", "5", -5, ("capital", 5)),
        ("fee", "5", -5, ("carry", 5)),
        ("funding", "5", 5, ("carry", -5)),
        ("funding", "-5", -5, ("carry", 5)),
        ("adjustment", "-5", -5, ("carry", 5)),
    ],
)
def test_what_a_transfer_does_to_the_books(kind: Any, amount: str, holdings: int, against: tuple[str, int]) -> None:
    lines = ledger.transfer(kind, "USD", D(amount))
    assert {line.book: line.amount for line in lines} == {"holdings": holdings, against[0]: against[1]}
    assert ledger.imbalance(lines) == {}


@pytest.mark.parametrize(
    ("kind", "amount", "code"),
    [
        ("deposit", "0", "AMOUNT_ZERO"),
        ("funding", "0", "AMOUNT_ZERO"),
        ("deposit", "-1", "AMOUNT_NOT_POSITIVE"),
        ("withdrawal", "-1", "AMOUNT_NOT_POSITIVE"),
        ("fee", "-1", "AMOUNT_NOT_POSITIVE"),
        ("deposit", "NaN", "AMOUNT_NOT_FINITE"),
        ("adjustment", "-Infinity", "AMOUNT_NOT_FINITE"),
    ],
)
def test_what_cannot_be_booked_is_refused(kind: Any, amount: str, code: str) -> None:
    with pytest.raises(InvalidTransfer) as refused:
        ledger.transfer(kind, "USD", D(amount))
    assert refused.value.code == code


def test_an_account_opens_with_all_its_currencies() -> None:
    lines = ledger.opening({"USDT": D(2), "BTC": D(1)})
    assert [(line.book, line.currency, line.amount) for line in lines] == [
        ("holdings", "BTC", 1), ("capital", "BTC", -1), ("holdings", "USDT", 2), ("capital", "USDT", -2),
    ]  # fmt: skip


@pytest.mark.parametrize(("currency", "holdings"), [("BTC", {"BTC": D("0.9"), "USDT": D(-100)}), ("BNB", {"BTC": D(1), "BNB": D("-0.1")})])
def test_a_fee_leaves_the_currency_it_was_taken_in(currency: str, holdings: dict[str, Decimal]) -> None:
    lines = ledger.fill(SPOT, "buy", D(1), D(100), D("0.1"), currency, Effect(D(0), D(0)))
    found: dict[str, Decimal] = {}
    for line in lines:
        if line.book == "holdings":
            found[line.currency] = found.get(line.currency, D(0)) + line.amount
    assert holdings.items() <= found.items()
    assert ledger.imbalance(lines) == {}


def test_a_rebate_is_a_fee_the_other_way() -> None:
    lines = ledger.fill(SPOT, "buy", D(1), D(100), D("-0.1"), "USDT", Effect(D(0), D(0)))
    assert ("fees", D("-0.1")) in [(line.book, line.amount) for line in lines]


def test_books_that_do_not_sum_to_zero_are_named() -> None:
    assert ledger.imbalance([*ledger.transfer("deposit", "USD", D(1)), ledger.Line("holdings", "EUR", D(2))]) == {"EUR": 2}
