"""Whatever is traded: books balance, a position is the sum of its fills, and P&L is exactly cash plus what is held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trading_platform.domain import ledger, positions
from trading_platform.domain.performance import RoundTrip
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.portfolio.projection import Batch, FillRow

D = Decimal
SPOT = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))
CONTRACT = Instrument(6, "PERP", "perpetual", "BTC", "USD", 3, 4, D("0.5"), D("0.0001"), D("0.0001"), D(9000), D(5), D(10))
BOTH = Catalogue([SPOT, CONTRACT])

# Up to eighteen places: far more digits than Python's own arithmetic keeps.
QUANTITIES = st.one_of(st.integers(1, 10**9).map(lambda n: D(n).scaleb(-6)), st.integers(1, 10**21).map(lambda n: D(n).scaleb(-18)))
PRICES = st.one_of(st.integers(1, 10**8).map(lambda n: D(n).scaleb(-2)), st.integers(1, 10**24).map(lambda n: D(n).scaleb(-18)))
FEES = st.integers(-(10**4), 10**6).map(lambda n: D(n).scaleb(-8))
SIDES = st.sampled_from(["buy", "sell"])
FILLS = st.lists(st.tuples(SIDES, QUANTITIES, PRICES, FEES), max_size=30)
INSTRUMENTS = st.sampled_from([SPOT, CONTRACT])
START = datetime(2024, 1, 1, tzinfo=UTC)


@st.composite
def histories(draw: st.DrawFn, *, books: tuple[str, ...] = ("net", "long", "short")) -> list[FillRow]:
    """Fills of one account in both instruments, all books, with fees of any kind."""
    fills = []
    for number in range(1, draw(st.integers(0, 25)) + 1):
        instrument = draw(INSTRUMENTS)
        currency = draw(st.sampled_from([instrument.quote_currency, instrument.base_currency, "BNB"]))
        fills.append(
            FillRow(
                seq=number, account_id="paper", venue="paper", venue_trade_id=str(number), instrument_id=instrument.id, side=draw(SIDES),
                position_side=draw(st.sampled_from(books)), quantity=draw(QUANTITIES), price=draw(PRICES), fee=draw(FEES),
                fee_currency=currency, executed_at=START + timedelta(seconds=number), recorded_at=START, decision_mark=None,
            )
        )  # fmt: skip
    return fills


def replay(instrument: Instrument, fills: list[Any], currency: str | None = None) -> tuple[Position, list[ledger.Line]]:
    position, lines = Position(), []
    for side, quantity, price, fee in fills:
        paid_in = currency or instrument.quote_currency
        position, effect = positions.after_fill(position, instrument, side, quantity, price, fee, paid_in)
        lines += ledger.fill(instrument, side, quantity, price, fee, paid_in, effect)
    return position, lines


def balance(lines: list[ledger.Line], book: str, currency: str) -> Fraction:
    return sum((Fraction(line.amount) for line in lines if (line.book, line.currency) == (book, currency)), Fraction(0))


def result(position: Position, instrument: Instrument, mark: Decimal) -> Fraction:
    return Fraction(position.realised_pnl) + Fraction(positions.unrealised(position, instrument, mark)) - Fraction(position.fees)


def signed(fill: Any) -> Fraction:
    return Fraction(positions.signed(fill[0], fill[1]))


# --- one book ---------------------------------------------------------------------------------------------------------------------


@given(FILLS, INSTRUMENTS, st.sampled_from([None, "BTC", "BNB"]))
def test_every_fill_balances_in_every_currency(fills: list[Any], instrument: Instrument, currency: str | None) -> None:
    _, lines = replay(instrument, fills, currency)
    assert ledger.imbalance(lines) == {}
    assert all(line.amount != 0 for line in lines)


@given(FILLS)
def test_the_position_is_the_sum_of_its_fills_and_so_are_the_holdings(fills: list[Any]) -> None:
    position, lines = replay(SPOT, fills)
    assert Fraction(position.quantity) == sum(map(signed, fills)) == balance(lines, "holdings", "BTC")
    assert Fraction(position.fees) == sum((Fraction(fee) for *_, fee in fills), Fraction(0))


@given(FILLS, PRICES)
def test_cash_and_holdings_at_any_price_are_exactly_realised_and_unrealised_result_less_fees(fills: list[Any], mark: Decimal) -> None:
    position, lines = replay(SPOT, fills)
    worth = balance(lines, "holdings", "USDT") + balance(lines, "holdings", "BTC") * Fraction(mark)
    assert worth == result(position, SPOT, mark)


@given(FILLS, PRICES)
def test_a_contract_is_worth_exactly_what_its_fills_cost(fills: list[Any], mark: Decimal) -> None:
    position, lines = replay(CONTRACT, fills)
    assert balance(lines, "holdings", "USD") == Fraction(position.realised_pnl) - Fraction(position.fees)
    assert balance(lines, "holdings", "BTC") == 0
    paid = sum((signed(fill) * Fraction(fill[2]) for fill in fills), Fraction(0))
    held = Fraction(position.quantity) * Fraction(mark)
    fees = sum((Fraction(fee) for *_, fee in fills), Fraction(0))
    assert result(position, CONTRACT, mark) == (held - paid) * 10 - fees


@given(FILLS, PRICES)
def test_a_fee_taken_from_what_was_received_lowers_the_holdings_and_is_valued_when_it_was_taken(fills: list[Any], mark: Decimal) -> None:
    position, lines = replay(SPOT, fills, "BTC")
    assert Fraction(position.fees) == sum((Fraction(fee) * Fraction(price) for _, _, price, fee in fills), Fraction(0))
    assert balance(lines, "holdings", "BTC") == Fraction(position.quantity) - sum((Fraction(fee) for *_, fee in fills), Fraction(0))
    worth = balance(lines, "holdings", "USDT") + balance(lines, "holdings", "BTC") * Fraction(mark)
    drift = sum((Fraction(fee) * (Fraction(mark) - Fraction(price)) for _, _, price, fee in fills), Fraction(0))
    assert worth == result(position, SPOT, mark) - drift


@given(FILLS, INSTRUMENTS)
def test_a_fee_of_a_third_currency_is_kept_apart(fills: list[Any], instrument: Instrument) -> None:
    position, lines = replay(instrument, fills, "BNB")
    assert position.fees == 0
    assert -sum((Fraction(amount) for _, amount in position.other_fees), Fraction(0)) == balance(lines, "holdings", "BNB")
    plain, _ = replay(instrument, [(*fill[:3], D(0)) for fill in fills])
    assert (position.quantity, position.average_price, position.realised_pnl) == (plain.quantity, plain.average_price, plain.realised_pnl)


@given(FILLS, INSTRUMENTS)
def test_a_flat_position_has_no_cost_and_an_open_one_has(fills: list[Any], instrument: Instrument) -> None:
    position, peak = Position(), Fraction(0)
    for side, quantity, price, fee in fills:
        before = position.quantity
        position, _ = positions.apply(position, instrument, side, quantity, price, fee)
        peak = max(peak if before * position.quantity > 0 else Fraction(0), abs(Fraction(position.quantity)))
    assert position.average_price >= 0
    if position.quantity == 0:
        assert (position.average_price, position.residue) == (0, 0)
    # What closes in part leaves the whole residue to the rest, so it is the largest the position ever was that bounds it.
    assert abs(Fraction(position.residue)) <= peak * Fraction(1, 10**18)


@given(FILLS, INSTRUMENTS, PRICES, st.data())
def test_the_order_fills_are_booked_in_changes_neither_position_nor_result(
    fills: list[Any], instrument: Instrument, mark: Decimal, data: st.DataObject
) -> None:
    """Late fills are booked after later ones: what is realised when may differ, what it comes to may not."""
    in_time, _ = replay(instrument, fills)
    late, _ = replay(instrument, data.draw(st.permutations(fills)))
    assert (late.quantity, late.fees) == (in_time.quantity, in_time.fees)
    assert result(late, instrument, mark) == result(in_time, instrument, mark)


@given(FILLS.filter(bool), INSTRUMENTS, PRICES, st.data())
def test_once_flat_the_cash_is_the_same_whatever_order_fills_were_booked_in(
    fills: list[Any], instrument: Instrument, price: Decimal, data: st.DataObject
) -> None:
    held = replay(instrument, fills)[0].quantity
    if held != 0:
        fills = [*fills, ("sell" if held > 0 else "buy", held.copy_abs(), price, D(0))]
    in_time, booked = replay(instrument, fills)
    late, booked_late = replay(instrument, data.draw(st.permutations(fills)))
    assert late.quantity == in_time.quantity == 0
    assert late.realised_pnl == in_time.realised_pnl
    for currency in ("BTC", instrument.quote_currency):
        assert balance(booked_late, "holdings", currency) == balance(booked, "holdings", currency)


def test_turning_a_position_realises_what_was_closed_and_opens_at_the_new_price() -> None:
    held, _ = positions.apply(Position(), SPOT, "buy", D(2), D(100), D(0))
    turned, effect = positions.apply(held, SPOT, "sell", D(5), D(110), D(0))
    assert (effect.closed_quantity, effect.realised_pnl) == (D(2), D(20))
    assert (turned.quantity, turned.average_price) == (D(-3), D(110))


@pytest.mark.parametrize(("side", "gain"), [("buy", D(-10)), ("sell", D(10))])
def test_a_short_gains_when_the_price_falls(side: Any, gain: Decimal) -> None:
    first: Any = "sell" if side == "buy" else "buy"
    held, _ = positions.apply(Position(), SPOT, first, D(1), D(100), D(0))
    _, effect = positions.apply(held, SPOT, side, D(1), D(110), D(0))
    assert effect.realised_pnl == gain


def test_what_rounding_leaves_of_an_average_is_realised_with_the_last_of_the_position() -> None:
    position, _ = replay(SPOT, [("buy", D(1), D(100), D(0)), ("buy", D(2), D("100.5"), D(0))])
    assert (position.average_price, position.residue) == (D("100.333333333333333333"), D("0.000000000000000001"))
    flat, effect = positions.apply(position, SPOT, "sell", D(3), D(101), D(0))
    assert (effect.realised_pnl, flat.realised_pnl, flat.residue) == (2, 2, 0)


# --- the projection ----------------------------------------------------------------------------------------------------------------


def project(fills: list[FillRow], *cuts: int) -> tuple[dict[Any, Position], dict[Any, RoundTrip], list[Any]]:
    """Positions, open round trips and closed ones, the fills taken in batches that end at `cuts`."""
    held: dict[Any, Position] = {}
    trips: dict[Any, RoundTrip] = {}
    closed: list[Any] = []
    for begin, end in zip([0, *cuts], [*cuts, len(fills)], strict=True):
        batch = Batch(BOTH, held, trips)
        for fill in fills[begin:end]:
            batch.take(fill)
        held, trips = batch.held, batch.trips
        closed += batch.closed
    return held, trips, closed


@given(histories(), st.data())
def test_how_fills_are_batched_does_not_matter(fills: list[FillRow], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(fills)), max_size=4)))
    assert project(fills, *cuts) == project(fills)


@given(histories(books=("long", "short")))
def test_a_hedging_account_is_two_netting_ones(fills: list[FillRow]) -> None:
    held, trips, closed = project(fills)
    for book in ("long", "short"):
        alone = project([fill for fill in fills if fill.position_side == book])
        assert {key: position for key, position in held.items() if key[1] == book} == alone[0]
        assert {key: trip for key, trip in trips.items() if key[1] == book} == alone[1]
        assert [each for each in closed if each[0][1] == book] == alone[2]


@given(histories())
def test_the_books_of_an_account_add_up_to_its_fills(fills: list[FillRow]) -> None:
    held, _, _ = project(fills)
    for instrument in BOTH:
        summed = sum((Fraction(positions.signed(f.side, f.quantity)) for f in fills if f.instrument_id == instrument.id), Fraction(0))
        assert sum((Fraction(position.quantity) for key, position in held.items() if key[0] == instrument.id), Fraction(0)) == summed


@given(histories())
def test_round_trips_are_a_partition_of_what_positions_realised_and_paid(fills: list[FillRow]) -> None:
    held, trips, closed = project(fills)
    for key, position in held.items():
        own = [trip for other, trip in closed if other == key] + ([trips[key]] if key in trips else [])
        assert sum((Fraction(trip.realised_pnl) for trip in own), Fraction(0)) == Fraction(position.realised_pnl)
        assert sum((Fraction(trip.fees) for trip in own), Fraction(0)) == Fraction(position.fees)
        assert positions.merge(*(trip.other_fees for trip in own)) == position.other_fees
        turned = sum(1 for one in own for other in own if one.opened_seq == other.closed_seq)
        assert sum(trip.fills for trip in own) - turned == len([f for f in fills if (f.instrument_id, f.position_side) == key])
        assert (key in trips) == (position.quantity != 0)
        if key in trips:
            assert trips[key].direction == ("long" if position.quantity > 0 else "short")
        assert all(trip.closed_seq is not None and trip.closed_seq > trip.opened_seq for other, trip in closed if other == key)
