"""Figures against examples worked out by hand, and honest where there is nothing to say."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from trading_platform.domain import performance, positions
from trading_platform.domain.performance import Equity, Execution, FillTotals, Outcome, RoundTrip
from trading_platform.domain.positions import Position
from trading_platform.instruments import Instrument

D = Decimal
START = datetime(2024, 2, 1, tzinfo=UTC)
SPOT = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))
NO_FILLS = FillTotals(0, 0, 0, D(0), D(0), D(0), D(0), D(0))


def outcomes(*results: str, minutes: int = 10) -> list[Outcome]:
    return [Outcome(D(result), timedelta(minutes=minutes * number)) for number, result in enumerate(results, start=1)]


def series(*values: str | tuple[str, str]) -> list[Equity]:
    """Equities of consecutive days; a pair is (equity, paid in by then), 100 where only the equity is stated."""
    pairs = [value if isinstance(value, tuple) else (value, "100") for value in values]
    return [Equity(START + timedelta(days=day), D(equity), D(paid)) for day, (equity, paid) in enumerate(pairs)]


def trips(*fills: tuple[Any, str, str, str], other: str | None = None) -> tuple[list[RoundTrip], RoundTrip | None]:
    """Round trips of fills (side, quantity, price, fee), a minute apart."""
    position, trip, closed = Position(), None, []
    for number, (side, quantity, price, fee) in enumerate(fills, start=1):
        after, effect = positions.apply(position, SPOT, side, D(quantity), D(price), D(fee))
        others = ((other, D(fee)),) if other else ()
        execution = Execution(number, START + timedelta(minutes=number), side, D(quantity), D(price), D(fee), others)
        ended, trip = performance.follow(trip, SPOT, execution, position, after, effect)
        closed += [ended] if ended else []
        position = after
    return closed, trip


# --- round trips --------------------------------------------------------------------------------------------------------------


def test_a_round_trip_goes_from_flat_to_flat() -> None:
    closed, still_open = trips(("buy", "2", "100", "1"), ("buy", "1", "103", "1"), ("sell", "1", "110", "1"), ("sell", "2", "98", "1"))
    assert still_open is None
    [trip] = closed
    assert (trip.opened_seq, trip.closed_seq, trip.fills, trip.direction) == (1, 4, 4, "long")
    assert (trip.peak_quantity, trip.volume, trip.fees) == (3, 200 + 103 + 110 + 196, 4)
    assert trip.realised_pnl == 110 + 196 - 200 - 103
    assert trip.closed_at is not None
    assert trip.closed_at - trip.opened_at == timedelta(minutes=3)


def test_turning_a_position_ends_a_round_trip_and_begins_the_next_with_its_share_of_the_fee() -> None:
    [closed], still_open = trips(("buy", "1", "100", "0.5"), ("sell", "4", "90", "2"))
    assert still_open is not None
    assert (closed.realised_pnl, closed.fees, closed.volume, closed.fills) == (-10, D("1"), 190, 2)
    assert (still_open.direction, still_open.opened_seq, still_open.fees, still_open.peak_quantity) == ("short", 2, D("1.5"), 3)
    assert (still_open.realised_pnl, still_open.volume, still_open.fills) == (0, 270, 1)


def test_a_fee_in_another_currency_is_shared_like_any_other() -> None:
    [closed], still_open = trips(("buy", "1", "100", "0.3"), ("sell", "3", "90", "0.3"), other="BNB")
    assert still_open is not None
    assert (closed.other_fees, still_open.other_fees) == ((("BNB", D("0.4")),), (("BNB", D("0.2")),))


def test_a_round_trip_that_is_not_over_has_no_end() -> None:
    closed, still_open = trips(("sell", "2", "100", "0"), ("buy", "1", "90", "0"))
    assert closed == []
    assert still_open is not None
    assert (still_open.closed_at, still_open.realised_pnl, still_open.direction) == (None, 10, "short")


# --- figures of round trips -----------------------------------------------------------------------------------------------------


def test_figures_of_round_trips_worked_out_by_hand() -> None:
    figures = performance.trip_figures(outcomes("30", "-10", "-5", "0", "-5", "20"))
    assert (figures.round_trips, figures.winning_round_trips, figures.losing_round_trips) == (6, 2, 3)
    assert (figures.gross_profit, figures.gross_loss, figures.profit_factor) == (50, 20, D("2.5"))
    assert (figures.expectancy, figures.average_win) == (5, 25)
    assert figures.average_loss == D("6.666666666666666667")
    assert (figures.largest_win, figures.largest_loss) == (30, 10)
    assert figures.round_trip_win_rate == D("0.333333")
    assert figures.average_duration_seconds == 60 * 35


@pytest.mark.parametrize(
    ("results", "losses"), [("", 0), ("1", 0), ("-1", 1), ("-1 -1 1 -1", 2), ("1 -1 -1 -1", 3), ("-1 0 -1", 1), ("-1 -1", 2)]
)
def test_losses_in_a_row_end_with_anything_that_is_no_loss(results: str, losses: int) -> None:
    assert performance.trip_figures(outcomes(*results.split())).max_consecutive_losses == losses


def test_what_there_is_nothing_to_average_of_is_not_known() -> None:
    nothing, only_wins = performance.trip_figures([]), performance.trip_figures(outcomes("1"))
    unknown = (nothing.expectancy, nothing.average_win, nothing.average_duration_seconds, nothing.round_trip_win_rate)
    assert unknown == (None, None, None, None)
    assert (only_wins.profit_factor, only_wins.average_loss, only_wins.largest_loss) == (None, None, None)
    assert (nothing.round_trips, nothing.gross_profit, nothing.max_consecutive_losses) == (0, 0, 0)


# --- figures of equities ----------------------------------------------------------------------------------------------------------


def test_ratios_of_returns_worked_out_by_hand() -> None:
    # Returns of +10 %, -10 % and +20 %: mean 1/15, deviation sqrt(((1/30)² + (1/6)² + (2/15)²) / 2), downside sqrt(0.01 / 3).
    closing = series("100", "110", "99", "118.8")
    figures = performance.return_figures(closing, closing)
    deviation = math.sqrt(((1 / 30) ** 2 + (1 / 6) ** 2 + (2 / 15) ** 2) / 2)
    assert figures.days == 3
    assert float(figures.sharpe_ratio or 0) == pytest.approx(1 / 15 / deviation * math.sqrt(365), rel=1e-6)
    assert float(figures.sortino_ratio or 0) == pytest.approx(1 / 15 / math.sqrt(0.01 / 3) * math.sqrt(365), rel=1e-6)
    assert float(figures.volatility or 0) == pytest.approx(deviation * math.sqrt(365), rel=1e-6)
    assert (figures.max_drawdown, figures.max_drawdown_money, figures.total_return) == (D("0.1"), 11, D("0.188"))
    assert float(figures.calmar_ratio or 0) == pytest.approx((1.188 ** (365 / 3) - 1) / 0.1, rel=1e-6)


def test_what_is_paid_in_or_out_is_neither_a_return_nor_a_drawdown() -> None:
    steady = performance.return_figures(series("100", ("151", "150"), ("50.5", "50")), series("100", ("151", "150"), ("50.5", "50")))
    assert (steady.max_drawdown_money, steady.days) == (D("0.5"), 2)
    returns = performance.daily_returns(series("100", ("151", "150"), ("50.5", "50")))
    assert returns == pytest.approx([0.01, (50.5 + 100) / 151 - 1])


def test_the_deepest_fall_counts_from_the_highest_before_it() -> None:
    assert performance.drawdown(series("100", "200", "150", "300", "240", "310")) == (D(60), D("0.25"))


def test_returns_need_two_days_that_differ_to_be_judged() -> None:
    single, flat, none = (performance.return_figures(each, each) for each in (series("100", "101"), series("100", "100", "100"), []))
    assert (single.sharpe_ratio, single.volatility, single.days) == (None, None, 1)
    assert (flat.sharpe_ratio, flat.sortino_ratio, flat.volatility, flat.calmar_ratio) == (None, None, 0, None)
    assert (none.max_drawdown, none.total_return, none.days) == (None, None, 0)


@pytest.mark.parametrize("values", [("100", "1000000", "1"), ("100", "0", "0"), ("100", "-5", "10"), ("0", "10", "20")])
def test_no_series_of_equities_breaks_the_figures(values: tuple[str, ...]) -> None:
    closing = series(*values)
    figures = performance.return_figures(closing, closing)
    assert figures.calmar_ratio is None or figures.calmar_ratio.is_finite()


# --- days -------------------------------------------------------------------------------------------------------------------------


def test_a_day_without_fills_is_all_zeros_and_rests_on_nothing() -> None:
    figures = performance.daily(NO_FILLS, performance.return_figures([], []))
    assert (figures.total_trades, figures.win_rate, figures.total_pnl, figures.sharpe_ratio, figures.sharpe_days) == (0, 0, 0, 0, 0)


def test_a_day_counts_fills_and_its_result_is_net_of_fees() -> None:
    figures = performance.daily(FillTotals(4, 3, 1, D(10), D("0.2"), D(400), D(0), D(0)), performance.return_figures([], []))
    assert (figures.total_trades, figures.closed_trades, figures.winning_trades, figures.win_rate) == (4, 3, 1, D("0.333333"))
    assert (figures.total_pnl, figures.realised_pnl, figures.fees, figures.volume) == (D("9.8"), 10, D("0.2"), 400)


def test_slippage_is_a_share_of_the_value_that_has_a_price_to_compare_with() -> None:
    assert FillTotals(2, 0, 0, D(0), D(0), D(900), D(1), D(500)).slippage_bps == 20
    assert NO_FILLS.slippage_bps is None


def test_a_day_is_a_utc_day() -> None:
    assert performance.day_bounds(date(2024, 2, 29)) == (datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    weeks = list(performance.periods("week", date(2024, 2, 28), date(2024, 3, 4)))
    assert weeks == [(date(2024, 2, 26), date(2024, 3, 4)), (date(2024, 3, 4), date(2024, 3, 11))]
    months = list(performance.periods("month", date(2023, 12, 31), date(2024, 2, 1)))
    assert [begin for begin, _ in months] == [date(2023, 12, 1), date(2024, 1, 1), date(2024, 2, 1)]
    assert list(performance.periods("day", date(2024, 2, 29), date(2024, 2, 29))) == [(date(2024, 2, 29), date(2024, 3, 1))]
