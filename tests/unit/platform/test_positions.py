"""Fees of every currency, books of a hedging account, and amounts with more digits than Python's own arithmetic keeps."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from trading_platform.domain import positions
from trading_platform.domain.positions import Position
from trading_platform.instruments import Instrument

D = Decimal
SPOT = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))
LONG = D("123456789012345678901234567.000000001")


@pytest.mark.parametrize(
    ("fee", "currency", "value"),
    [("0.5", "USDT", D("0.5")), ("0.01", "BTC", D("1.00")), ("0.01", "BNB", None), ("0", "BNB", D(0)), ("-0.5", "USDT", D("-0.5"))],
)
def test_a_fee_is_valued_by_the_fill_where_the_fill_can(fee: str, currency: str, value: Decimal | None) -> None:
    assert positions.fee_value(SPOT, D(100), D(fee), currency) == value


def test_a_fee_nobody_can_value_is_neither_lost_nor_taken_for_zero() -> None:
    position, _ = positions.after_fill(Position(), SPOT, "buy", D(1), D(100), D("0.01"), "BNB")
    position, _ = positions.after_fill(position, SPOT, "sell", D(1), D(100), D("0.02"), "BNB")
    position, _ = positions.after_fill(position, SPOT, "buy", D(1), D(100), D("3"), "USDT")
    assert (position.fees, position.other_fees) == (3, (("BNB", D("0.03")),))


def test_more_digits_than_python_keeps_by_itself_are_kept() -> None:
    sold, _ = positions.apply(Position(), SPOT, "sell", LONG, D(1), D(0))
    assert sold.quantity == LONG.copy_negate()
    flat, effect = positions.apply(sold, SPOT, "buy", LONG, D(1), D(0))
    assert (flat.quantity, effect.closed_quantity) == (0, LONG)


@pytest.mark.parametrize(
    ("book", "quantity", "turned"), [("long", 1, False), ("long", -1, True), ("short", -1, False), ("short", 1, True), ("net", -1, False)]
)
def test_a_book_on_the_wrong_side_of_zero_is_told_apart(book: str, quantity: int, turned: bool) -> None:
    assert positions.is_turned(book, Position(D(quantity), D(100))) is turned
    assert positions.is_turned(book, Position()) is False


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_position_that_was_kept_without_its_residue_is_still_a_position(side: Any) -> None:
    assert positions.apply(Position(D(1), D(100), D(5), D(2)), SPOT, side, D(1), D(110), D(1))[0].fees == 3
