"""Figures of an account and its value at risk, against examples worked out by hand and an independent slow computation."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from trading_platform.domain import var
from trading_platform.domain.figures import Baseline, Elsewhere, Holding, PublishedFigures, Unknown, compute, period_starts
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import Limits, Measure, Standing, measures, ratio, risk_score
from trading_platform.domain.var import Returns
from trading_platform.instruments import Instrument

D = Decimal
DAY = 86_400

BTC = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))
LIMITS = Limits(1, D(5000), D(20000), D(50000), 60, D("0.05"), D(1000), D(30))
BASELINE = Baseline(D(100_000), D(0), D(100_000), D(100_000), D(100_000), D(100_000), D(0))


def holding(quantity: str, mark: str | None, average: str = "40000", rate: str | None = "1") -> Holding:
    position = Position(D(quantity), D(average), D(0), D(0))
    return Holding(BTC, position, None if mark is None else D(mark), D(1), None if rate is None else D(rate))


def test_a_loss_that_is_not_realised_counts_in_every_period() -> None:
    figures = compute([holding("1", "38000")], replace(BASELINE, equity_week=D(99_000), equity_month=D(101_000), peak_equity=D(102_000)))
    assert (figures.equity, figures.daily_pnl, figures.daily_loss) == (D(98_000), D(-2000), D(2000))
    assert (figures.weekly_pnl, figures.monthly_pnl) == (D(-1000), D(-3000))
    assert figures.drawdown == figures.max_drawdown == D("0.03921569")


def test_what_came_without_a_trade_is_part_of_the_equity_and_of_the_result() -> None:
    figures = compute([holding("0", None)], replace(BASELINE, carry=D(-50)))
    assert (figures.equity, figures.daily_pnl) == (D(99_950), D(-50))


def test_a_position_without_a_price_or_rate_makes_the_figures_unknown() -> None:
    with pytest.raises(Unknown, match="no price of BTCUSDT"):
        compute([holding("1", None)], BASELINE)
    with pytest.raises(Unknown, match="no conversion rate of USDT"):
        compute([holding("1", "40000", rate=None)], BASELINE)


def test_a_fee_that_cannot_be_converted_makes_the_figures_unknown() -> None:
    position = Position(D(0), D(0), D(0), D(0), D(0), (("BNB", D("0.1")),))
    with pytest.raises(Unknown, match="in BNB"):
        compute([Holding(BTC, position, None, None, D(1), "net", None)], BASELINE)
    assert compute([Holding(BTC, position, None, None, D(1), "net", D(60))], BASELINE).fees == 60


def test_a_closed_position_needs_no_price() -> None:
    assert compute([holding("0", None)], BASELINE).total_exposure == 0


def test_long_and_short_of_a_hedging_account_both_are_exposure() -> None:
    figures = compute([holding("1", "40000"), replace(holding("-0.5", "40000"), position_side="short")], BASELINE)
    assert figures.total_exposure == 60_000


def test_the_deepest_fall_is_never_forgotten() -> None:
    figures = compute([holding("0", None)], replace(BASELINE, max_drawdown=D("0.3")))
    assert (figures.drawdown, figures.max_drawdown) == (D(0), D("0.3"))


@pytest.mark.parametrize(
    ("now", "week", "month"),
    [("2026-11-18T23:59:59+00:00", 16, 1), ("2026-11-16T00:00:00+00:00", 16, 1), ("2026-11-18T05:00:00+05:30", 16, 1)],
)
def test_periods_begin_at_midnight_utc_on_monday_and_on_the_first(now: str, week: int, month: int) -> None:
    day, monday, first = period_starts(datetime.fromisoformat(now))
    assert day == datetime.fromisoformat(now).astimezone(UTC).replace(hour=0, minute=0, second=0)
    assert (monday, first) == (datetime(2026, 11, week, tzinfo=UTC), datetime(2026, 11, month, tzinfo=UTC))


def test_a_week_may_begin_in_the_month_before() -> None:
    assert period_starts(datetime(2026, 7, 1, 8, tzinfo=UTC))[1] == datetime(2026, 6, 29, tzinfo=UTC)


def test_published_figures_survive_their_way_through_the_database() -> None:
    elsewhere = Elsewhere(D(1), D("2.50"), None, D(3), D(4), D(5), D(6), None)
    figures = PublishedFigures(
        datetime(2026, 11, 18, 12, 0, 0, 5, tzinfo=UTC), D("1.10"), None, D(2), D(3), D(4), 5, D("0.00000001"), {"A": D("1E+3")},
        {"A": D("0.05")}, elsewhere, ("no price of A",),
    )  # fmt: skip
    assert PublishedFigures.from_data(figures.to_data()) == figures
    assert figures.to_data()["values"] == {"A": "1000"}


# --- limits beside what is used ---------------------------------------------------------------------------------------------

STANDING = Standing(D(5000), D(10000), D(99000), D(100000), D(100000), D(100000), D(100000), D(900))


def test_every_limit_that_is_set_is_measured_and_no_other() -> None:
    assert [each.limit for each in measures(LIMITS, STANDING)] == ["max_position_notional", "max_total_exposure", "max_daily_loss"]
    full = replace(
        LIMITS, max_weekly_loss=D(1), max_monthly_loss_share=D("0.1"), max_drawdown=D("0.2"), max_leverage=D(3), max_concentration=D("0.5"),
        max_consecutive_losses=3, max_reject_share=D("0.5"), max_var=D("0.05"),
    )  # fmt: skip
    found = {each.limit: each.allowed for each in measures(full, STANDING)}
    assert found == {
        "max_position_notional": D(20000), "max_total_exposure": D(50000), "max_leverage": D(297000), "max_concentration": D(49500),
        "max_daily_loss": D(1000), "max_weekly_loss": D(1), "max_monthly_loss": D(10000), "max_drawdown": D(20000),
        "max_consecutive_losses": D(3), "max_reject_share": D("0.5"), "max_var": D(4950),
    }  # fmt: skip
    assert "max_position_notional" not in {each.limit for each in measures(full, STANDING, by_position=False)}


def test_the_score_is_the_most_used_limit_and_a_hundred_when_one_is_unknown() -> None:
    assert risk_score(list(measures(LIMITS, STANDING))) == 100
    assert risk_score(list(measures(LIMITS, replace(STANDING, equity=D(99_500))))) == 50
    assert risk_score(list(measures(LIMITS, replace(STANDING, exposure=None, equity=D(100_000))))) == 100
    assert risk_score([]) == 0


def test_an_equity_above_its_peak_is_no_drawdown() -> None:
    found = {each.limit: each for each in measures(replace(LIMITS, max_drawdown=D("0.2")), replace(STANDING, peak_equity=D(90_000)))}
    assert (found["max_drawdown"].used, found["max_drawdown"].allowed) == (D(0), D(19_800))


def test_nothing_used_of_nothing_allowed_is_no_breach() -> None:
    assert ratio(Measure("max_leverage", D(0), D(0))) == 0
    assert ratio(Measure("max_leverage", D(1), D(0))) == 1


# --- value at risk ----------------------------------------------------------------------------------------------------------


def daily(values: list[float]) -> Returns:
    return Returns(DAY, {number * DAY: value for number, value in enumerate(values)})


def test_the_loss_that_one_period_in_twenty_exceeds() -> None:
    """Returns of −1 % to −100 %: 95 of the 100 losses are at most 95 %, and the mean of the worst from there is 97.5 %."""
    history = daily([-number / 100 for number in range(1, 101)])
    found = var.value_at_risk({"A": D(100)}, {"A": history}, {"A": "spot"})
    assert (found.var_95, found.var_99, found.expected_shortfall) == (D(95), D(99), D("97.5"))
    assert found.notes == ()


def test_a_short_position_loses_by_what_a_long_one_gains() -> None:
    history = daily([-number / 100 for number in range(1, 101)])
    assert var.value_at_risk({"A": D(-100)}, {"A": history}, {"A": "spot"}).var_95 == 0
    assert var.loss_rate("A", history, "spot") == D("0.95")


def test_opposite_positions_that_move_together_lose_nothing() -> None:
    history = daily([random.Random(1).gauss(0, 0.02) for _ in range(200)])
    found = var.value_at_risk({"A": D(100), "B": D(-100)}, {"A": history, "B": history}, {"A": "spot", "B": "spot"})
    assert found.var_95 == 0


def test_shorter_horizons_are_scaled_by_the_root_of_time() -> None:
    values = [random.Random(2).gauss(0, 0.01) for _ in range(400)]
    by_day = var.value_at_risk({"A": D(1000)}, {"A": daily(values)}, {"A": "spot"})
    by_hour = var.value_at_risk({"A": D(1000)}, {"A": Returns(3600, {n * 3600: v for n, v in enumerate(values)})}, {"A": "spot"})
    assert float(by_hour.var_95) == pytest.approx(float(by_day.var_95) * math.sqrt(24))


def test_simulation_agrees_with_a_slow_look_at_every_scenario() -> None:
    source = random.Random(3)
    history = {name: daily([source.gauss(0, 0.02) for _ in range(300)]) for name in "ABC"}
    values = {"A": D(1000), "B": D(-400), "C": D(250)}
    losses = sorted(-sum(float(values[name]) * history[name].by_time[n * DAY] for name in "ABC") for n in range(300))
    exceeded = [loss for loss in losses if sum(each <= loss for each in losses) >= 0.95 * 300]
    found = var.value_at_risk(values, history, dict.fromkeys("ABC", "spot"))
    assert float(found.var_95) == pytest.approx(exceeded[0])
    assert float(found.expected_shortfall) == pytest.approx(statistics.fmean(exceeded))
    alone = sum(float(abs(values[name]) * var.loss_rate(name, history[name], "spot")) for name in "ABC")
    assert float(found.var_95) <= alone


def test_too_few_returns_are_taken_as_normal_with_the_larger_volatility() -> None:
    calm, wild = daily([0.001, -0.001] * 20), daily([0.5, -0.5] * 20)
    assumed = 1.0 / math.sqrt(365)
    found = var.value_at_risk({"A": D(1000)}, {"A": calm}, {"A": "spot"})
    assert float(found.var_95) == pytest.approx(1000 * assumed * statistics.NormalDist().inv_cdf(0.95), rel=1e-6)
    assert found.notes == ("A: too few candles, volatility of its kind assumed",)
    measured = statistics.stdev([0.5, -0.5] * 20)
    found = var.value_at_risk({"A": D(1000)}, {"A": wild}, {"A": "spot"})
    assert float(found.var_99) == pytest.approx(1000 * measured * statistics.NormalDist().inv_cdf(0.99), rel=1e-6)
    assert not found.notes
    assert var.value_at_risk({"A": D(1000)}, {"A": None}, {"A": "fx"}).var_95 < var.value_at_risk({"A": D(1000)}, {}, {"A": "spot"}).var_95


def test_positions_whose_candles_differ_in_length_are_added_up() -> None:
    days = daily([random.Random(4).gauss(0, 0.02) for _ in range(150)])
    hours = Returns(3600, {n * 3600: random.Random(5).gauss(0, 0.01) for n in range(150)})
    kinds = {"A": "spot", "B": "spot"}
    both = var.value_at_risk({"A": D(100), "B": D(-100)}, {"A": days, "B": hours}, kinds)  # type: ignore[arg-type]
    apart = [var.value_at_risk({name: D(sign)}, {"A": days, "B": hours}, kinds) for name, sign in (("A", 100), ("B", -100))]  # type: ignore[arg-type]
    assert abs(both.var_95 - apart[0].var_95 - apart[1].var_95) <= D("0.00000002")


def test_returns_are_between_candles_that_follow_each_other() -> None:
    closes = [(0, 100.0), (60, 110.0), (180, 121.0), (240, 121.0)]
    assert var.returns_of(closes, 60).by_time == {60: pytest.approx(0.1), 240: 0.0}
    week = [(0, 100.0), (3 * DAY, 110.0), (9 * DAY, 120.0)]
    assert var.returns_of(week, DAY, gaps=True).by_time == {3 * DAY: pytest.approx(0.1)}
    assert var.returns_of(week, DAY).by_time == {}


def test_nothing_held_is_nothing_at_risk() -> None:
    found = var.value_at_risk({"A": D(0)}, {}, {"A": "spot"})
    assert (found.var_95, found.var_99, found.expected_shortfall) == (D(0), D(0), D(0))
