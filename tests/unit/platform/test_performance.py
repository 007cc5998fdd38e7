"""A day's figures are exact, and honest where there is nothing to say."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from trading_platform.domain.performance import TradeResult, daily, day_bounds

D = Decimal


def trade(closed: str, realised: str, fee: str = "1", rate: str = "1") -> TradeResult:
    return TradeResult(D(closed), D(realised), D(fee), D(100), D(rate))


def test_a_day_without_trades_is_all_zeros_and_rests_on_nothing() -> None:
    figures = daily([], [])
    assert (figures.total_trades, figures.win_rate, figures.total_pnl, figures.sharpe_ratio, figures.sharpe_days) == (0, 0, 0, 0, 0)


def test_only_fills_that_close_something_count_for_the_win_rate() -> None:
    figures = daily([trade("0", "0"), trade("1", "5"), trade("1", "-5"), trade("1", "0.5")], [])
    assert (figures.total_trades, figures.closed_trades, figures.winning_trades) == (4, 3, 1)
    assert figures.win_rate == D("0.333333")


def test_the_result_is_net_of_fees_in_the_accounts_currency() -> None:
    assert daily([trade("1", "5", "0.1", rate="2")], []).total_pnl == D("9.8")


def test_the_sharpe_ratio_needs_two_returns_that_differ() -> None:
    assert daily([], [D(100), D(101)]).sharpe_ratio == 0
    assert daily([], [D(100), D(100), D(100)]).sharpe_ratio == 0
    up = daily([], [D(100), D(101), D(103)])
    assert (up.sharpe_ratio > 0, up.sharpe_days) == (True, 2)


def test_a_day_is_a_utc_day() -> None:
    assert day_bounds(date(2024, 2, 29)) == (datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
