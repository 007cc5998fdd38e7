"""Whatever is traded: books balance, the position is the sum of its fills, and P&L is cash plus what is held."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trading_platform.domain import ledger, positions
from trading_platform.domain.positions import Position
from trading_platform.instruments import Instrument

D = Decimal
SPOT = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))
CONTRACT = Instrument(6, "PERP", "perpetual", "BTC", "USD", 3, 4, D("0.5"), D("0.0001"), D("0.0001"), D(9000), D(5), D(1))

FILLS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "sell"]),
        st.integers(1, 10**9).map(lambda n: D(n).scaleb(-6)),
        st.integers(1, 10**8).map(lambda n: D(n).scaleb(-2)),
        st.integers(0, 10**6).map(lambda n: D(n).scaleb(-8)),
    ),
    max_size=30,
)

# The average price is a quotient kept to 18 places; over thirty fills of up to a thousand units the error stays far below this.
TOLERANCE = Fraction(1, 10**9)


def replay(instrument: Instrument, fills: list[Any]) -> tuple[Position, list[ledger.Line]]:
    position, lines = Position(), []
    for side, quantity, price, fee in fills:
        position, effect = positions.apply(position, instrument, side, quantity, price, fee)
        lines += ledger.fill(instrument, side, quantity, price, fee, instrument.quote_currency, effect)
    return position, lines


def balance(lines: list[ledger.Line], book: str, currency: str) -> Fraction:
    return sum((Fraction(line.amount) for line in lines if (line.book, line.currency) == (book, currency)), Fraction(0))


@given(FILLS, st.sampled_from([SPOT, CONTRACT]))
def test_every_fill_balances_in_every_currency(fills: list[Any], instrument: Instrument) -> None:
    _, lines = replay(instrument, fills)
    assert ledger.imbalance(lines) == {}
    assert all(line.amount != 0 for line in lines)


@given(FILLS)
def test_the_position_is_the_sum_of_its_fills_and_so_are_the_holdings(fills: list[Any]) -> None:
    position, lines = replay(SPOT, fills)
    summed = sum((Fraction(q) if side == "buy" else -Fraction(q) for side, q, _, _ in fills), Fraction(0))
    assert Fraction(position.quantity) == summed == balance(lines, "holdings", "BTC")
    assert Fraction(position.fees) == sum((Fraction(fee) for *_, fee in fills), Fraction(0))


@given(FILLS, st.integers(1, 10**8).map(lambda n: D(n).scaleb(-2)))
def test_cash_and_holdings_at_any_price_are_realised_and_unrealised_result(fills: list[Any], mark: Decimal) -> None:
    position, lines = replay(SPOT, fills)
    worth = balance(lines, "holdings", "USDT") + balance(lines, "holdings", "BTC") * Fraction(mark)
    result = Fraction(position.realised_pnl) + Fraction(positions.unrealised(position, SPOT, mark)) - Fraction(position.fees)
    assert abs(worth - result) < TOLERANCE


@given(FILLS)
def test_a_contract_moves_only_what_it_realised_and_its_fees(fills: list[Any]) -> None:
    position, lines = replay(CONTRACT, fills)
    assert balance(lines, "holdings", "USD") == Fraction(position.realised_pnl) - Fraction(position.fees)
    assert balance(lines, "holdings", "BTC") == 0


@given(FILLS)
def test_a_flat_position_has_no_average_price_and_an_open_one_has(fills: list[Any]) -> None:
    position, _ = replay(SPOT, fills)
    assert (position.average_price == 0) is (position.quantity == 0)


def test_turning_a_position_realises_what_was_closed_and_opens_at_the_new_price() -> None:
    held, _ = positions.apply(Position(), SPOT, "buy", D(2), D(100), D(0))
    turned, effect = positions.apply(held, SPOT, "sell", D(5), D(110), D(0))
    assert (effect.closed_quantity, effect.realised_pnl) == (D(2), D(20))
    assert (turned.quantity, turned.average_price) == (D(-3), D(110))


@pytest.mark.parametrize(("side", "result"), [("buy", D(-10)), ("sell", D(10))])
def test_a_short_gains_when_the_price_falls(side: Any, result: Decimal) -> None:
    first: Any = "sell" if side == "buy" else "buy"
    held, _ = positions.apply(Position(), SPOT, first, D(1), D(100), D(0))
    _, effect = positions.apply(held, SPOT, side, D(1), D(110), D(0))
    assert effect.realised_pnl == result
