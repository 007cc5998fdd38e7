"""Every rule refuses with its own code, and what is not known refuses too."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from trading_platform.domain.figures import Baseline, Holding, Unknown, compute, risk_score
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import Facts, Limits, OrderToCheck, evaluate
from trading_platform.instruments import Instrument

D = Decimal

BTC = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))
LIMITS = Limits(1, D(5000), D(20000), D(50000), 60, D("0.05"), D(1000), D(30))
FACTS = Facts("running", D(40000), D(1), D(1), D(0), D(0), D(0), D(0), D(0), 0)
ORDER = OrderToCheck("o", "paper", BTC, "buy", "market", D("0.1"), None)


def code(order: OrderToCheck = ORDER, facts: Facts = FACTS, limits: Limits = LIMITS) -> str:
    return evaluate(order, facts, limits).code


def test_an_order_within_all_limits_is_accepted() -> None:
    assert evaluate(ORDER, FACTS, LIMITS).accepted


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trading_state": "paused"}, "TRADING_PAUSED"),
        ({"trading_state": "emergency_stopped"}, "TRADING_EMERGENCY_STOPPED"),
        ({"trading_state": "reducing"}, "TRADING_REDUCING"),
        ({"mark": None}, "MARKET_DATA_MISSING"),
        ({"mark_age_s": D("30.001")}, "MARKET_DATA_STALE"),
        ({"mark_age_s": D(-6)}, "MARKET_DATA_STALE"),
        ({"rate": None}, "CURRENCY_NOT_CONVERTIBLE"),
        ({"orders_last_minute": 60}, "ORDER_RATE_EXCEEDED"),
        ({"position": D("0.41")}, "POSITION_LIMIT_EXCEEDED"),
        ({"open_buys": D("0.41")}, "POSITION_LIMIT_EXCEEDED"),
        ({"exposure_elsewhere": None}, "EXPOSURE_UNKNOWN"),
        ({"exposure_elsewhere": D(46001)}, "EXPOSURE_LIMIT_EXCEEDED"),
        ({"daily_pnl": None}, "DAILY_LOSS_UNKNOWN"),
        ({"daily_pnl": D(-1000)}, "DAILY_LOSS_LIMIT_REACHED"),
    ],
)
def test_a_fact_beyond_its_limit_refuses_with_its_code(change: dict[str, Any], expected: str) -> None:
    assert code(facts=replace(FACTS, **change)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"quantity": D("0.125001")}, "ORDER_NOTIONAL_EXCEEDED"),
        ({"quantity": D("0.0001")}, "NOTIONAL_BELOW_MINIMUM"),
        ({"type": "limit", "limit_price": D(42001)}, "PRICE_COLLAR"),
        ({"type": "limit", "limit_price": D(37999)}, "PRICE_COLLAR"),
        ({"type": "limit", "limit_price": D(42000), "quantity": D("0.12")}, "ORDER_NOTIONAL_EXCEEDED"),
    ],
)
def test_an_order_beyond_its_limit_refuses_with_its_code(change: dict[str, Any], expected: str) -> None:
    assert code(replace(ORDER, **change)) == expected


def test_after_the_daily_loss_a_position_may_still_be_reduced_but_not_turned() -> None:
    facts = replace(FACTS, daily_pnl=D(-5000), position=D("0.1"))
    selling = replace(ORDER, side="sell")
    assert code(selling, facts) == "ACCEPTED"
    assert code(replace(selling, quantity=D("0.11")), facts) == "DAILY_LOSS_LIMIT_REACHED"
    assert code(selling, replace(facts, open_sells=D("0.05"))) == "DAILY_LOSS_LIMIT_REACHED"


def holding(quantity: str, mark: str | None, average: str = "40000") -> Holding:
    position = Position(D(quantity), D(average), D(0), D(0))
    return Holding(BTC, position, None if mark is None else D(mark), D(1), D(1))


BASELINE = Baseline(capital=D(100_000), equity_at_midnight=D(100_000), peak_equity=D(100_000), max_drawdown=D(0))


def test_a_loss_that_is_not_realised_counts() -> None:
    figures = compute([holding("1", "38000")], BASELINE)
    assert (figures.daily_pnl, figures.daily_loss, figures.max_drawdown) == (D(-2000), D(2000), D("0.02"))
    assert risk_score(figures, LIMITS) == 100


def test_a_position_without_a_price_makes_the_figures_unknown() -> None:
    with pytest.raises(Unknown, match="no price of BTCUSDT"):
        compute([holding("1", None)], BASELINE)


def test_a_closed_position_needs_no_price() -> None:
    assert compute([holding("0", None)], BASELINE).total_exposure == 0


def test_the_deepest_fall_is_never_forgotten() -> None:
    figures = compute([holding("0", None)], replace(BASELINE, max_drawdown=D("0.3")))
    assert (figures.drawdown, figures.max_drawdown) == (D(0), D("0.3"))
