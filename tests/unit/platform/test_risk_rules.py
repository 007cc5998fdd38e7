"""Every rule refuses with its own code at its own boundary, in order; what is not known refuses; what reduces passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from trading_platform.domain.figures import Elsewhere, PublishedFigures
from trading_platform.domain.orders import Event, EventType, Fill, Intent, Order, Outcome, advance, initialize
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import AccountRisk, Decision, Limits
from trading_platform.domain.trading_state import State
from trading_platform.instruments import Catalogue, Instrument

D = Decimal

BTC = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, D("0.01"), D("0.000001"), D("0.000001"), D(9000), D(5), D(1))
ETH = Instrument(2, "ETHUSDT", "spot", "ETH", "USDT", 2, 5, D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5), D(1))
SPY = Instrument(5, "SPY", "equity", "SPY", "USD", 4, 4, D("0.01"), D("0.0001"), D("0.0001"), D(1000000), D(0), D(1))
EUR = Instrument(3, "EURGBP", "fx", "EUR", "GBP", 5, 2, D("0.00001"), D(1), D(1), D(50000000), D(0), D(1))
CATALOGUE = Catalogue([BTC, ETH, SPY, EUR])

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9

LIMITS = Limits(7, D(5000), D(20000), D(50000), 60, D("0.05"), D(1000), D(30))
FIGURES = PublishedFigures(
    NOW, D(100000), D(100000), D(100000), D(100000), D(100000), 0, D(0), {}, {"BTCUSDT": D("0.05"), "ETHUSDT": D("0.1")}
)


def rates(source: str, target: str) -> Decimal | None:
    return {("USDT", "USD"): D(1), ("USD", "USD"): D(1)}.get((source, target))


def account(limits: Limits | None = LIMITS, figures: PublishedFigures | None = FIGURES, mode: Any = "netting", **more: Any) -> AccountRisk:
    """An account with a price of 40,000 for BTC and 2,000 for ETH, all fresh, and nothing held."""
    risk = AccountRisk("paper", "USD", rates, CATALOGUE, mode, **more)
    risk.set_limits(limits, None)
    risk.set_figures(figures)
    risk.on_quote("BTCUSDT", D(40000), NOW_NS)
    risk.on_quote("ETHUSDT", D(2000), NOW_NS)
    return risk


def intent(order_id: str = "o", instrument: Instrument = BTC, **changes: Any) -> Intent:
    plain = Intent(order_id, "paper", instrument.symbol, instrument.id, "paper", "buy", "market", "GTC", D("0.1"))
    return replace(plain, **changes)


def opened(risk: AccountRisk, wanted: Intent, at: datetime = NOW) -> Order:
    """The order as it is once it was taken on, and risk told."""
    kind = EventType.HELD if wanted.is_held else EventType.SUBMITTING
    order = advance(initialize(wanted, at, "test").order, Event(kind, at, "test")).order
    risk.on_open(order)
    return order


def filled(risk: AccountRisk, order: Order, quantity: str, price: str = "40000", fee: str = "0", at: datetime = NOW) -> Order:
    fill = Fill(f"{order.id}:{order.order_seq}", D(quantity), D(price), D(fee), "USDT", "taker", at, 0)
    after = order.apply(Event(EventType.FILLED, at, "venue", fill=fill))
    risk.on_fill(after, fill)
    if not after.is_open:
        risk.on_end(after)
    return after


def ended(risk: AccountRisk, order: Order, kind: EventType = EventType.CANCELED, at: datetime = NOW) -> Order:
    if kind is EventType.FINISHED:
        event = Event(kind, at, "engine", outcome=Outcome("CANCELED", D(0), D(0)))
    else:
        event = Event(kind, at, "venue", code="VENUE")
    if kind is EventType.REJECTED:
        risk.on_reject(order)
    after = order.apply(event)
    risk.on_end(after)
    return after


def holding(quantity: str, average: str = "40000", **of: Any) -> AccountRisk:
    risk = account(**of)
    risk.set_position(1, "net", Position(D(quantity), D(average)))
    return risk


def code(risk: AccountRisk, wanted: Intent | None = None, state: State = "running", at: datetime = NOW) -> str:
    return risk.check(intent() if wanted is None else wanted, at, state).code


def test_an_order_within_all_limits_is_accepted_and_says_what_was_seen() -> None:
    decision = account().check(intent(), NOW, "running")
    assert decision.accepted
    assert decision.facts() == {
        "state": "running", "mark": "40000", "mark_age_s": "0.0", "orders_last_minute": 0, "order_value": "4000",
        "figures_age_s": "0.0", "position": "0", "position_value": "4000", "exposure": "4000", "equity": "100000", "limits_version": 7,
    }  # fmt: skip


# --- the order by itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (intent(quantity=D("0.125")), "ACCEPTED"),
        (intent(quantity=D("0.125001")), "ORDER_NOTIONAL_EXCEEDED"),
        (intent(quantity=D("0.000125")), "ACCEPTED"),
        (intent(quantity=D("0.000124")), "NOTIONAL_BELOW_MINIMUM"),
        (intent(type="limit", limit_price=D(42000)), "ACCEPTED"),
        (intent(type="limit", limit_price=D("42000.01")), "PRICE_COLLAR"),
        (intent(type="limit", limit_price=D(38000)), "ACCEPTED"),
        (intent(type="limit", limit_price=D("37999.99")), "PRICE_COLLAR"),
        (intent(type="stop", trigger_price=D(42000)), "ACCEPTED"),
        (intent(type="stop", trigger_price=D("42000.01")), "PRICE_COLLAR"),
        (intent(type="limit", limit_price=D(42000), quantity=D("0.12")), "ORDER_NOTIONAL_EXCEEDED"),
        (intent(quantity=D("0.1000001")), "QUANTITY_NOT_MULTIPLE_OF_LOT"),
        (intent(quantity=D(9001)), "QUANTITY_EXCEEDS_MAXIMUM"),
        (intent(type="limit", limit_price=D("40000.001")), "PRICE_NOT_MULTIPLE_OF_TICK"),
        (intent(instrument=SPY), "MARKET_DATA_MISSING"),
    ],
)
def test_an_order_is_judged_by_its_own_size_and_prices(wanted: Intent, expected: str) -> None:
    assert code(account(), wanted) == expected


@pytest.mark.parametrize(
    ("age_s", "expected"), [(30, "ACCEPTED"), (30.001, "MARKET_DATA_STALE"), (-5, "ACCEPTED"), (-5.001, "MARKET_DATA_STALE")]
)
def test_a_price_counts_while_it_is_fresh(age_s: float, expected: str) -> None:
    risk = account()
    risk.on_quote("BTCUSDT", D(40000), NOW_NS - int(age_s * 1e9))
    assert code(risk) == expected


def test_a_currency_without_a_rate_is_not_worth_nothing() -> None:
    risk = account()
    risk.on_quote("EURGBP", D("0.85"), NOW_NS)
    assert code(risk, intent(instrument=EUR, quantity=D(100))) == "CURRENCY_NOT_CONVERTIBLE"


def test_orders_a_minute_are_limited_and_leave_the_window_after_it() -> None:
    risk = account(replace(LIMITS, max_orders_per_minute=2))
    opened(risk, intent("a", ETH), NOW - timedelta(seconds=60))
    opened(risk, intent("b", ETH), NOW - timedelta(seconds=59))
    assert code(risk) == "ACCEPTED"
    opened(risk, intent("c", ETH), NOW)
    assert code(risk) == "ORDER_RATE_EXCEEDED"
    assert code(risk, at=NOW + timedelta(seconds=2)) == "ACCEPTED"


def test_orders_a_second_are_limited() -> None:
    risk = account(replace(LIMITS, max_orders_per_second=2))
    opened(risk, intent("a", ETH), NOW - timedelta(milliseconds=1001))
    opened(risk, intent("b", ETH), NOW - timedelta(milliseconds=900))
    assert code(risk) == "ACCEPTED"
    opened(risk, intent("c", ETH), NOW)
    assert code(risk) == "ORDER_BURST_EXCEEDED"


# --- the state of trading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["paused", "stopped", "emergency_stopped"])
def test_a_halt_refuses_even_what_reduces(state: State) -> None:
    risk = holding("1")
    assert code(risk, intent(side="sell"), state) == f"TRADING_{state.upper()}"


@pytest.mark.parametrize("state", ["reducing", "draining"])
def test_while_reducing_only_what_can_do_nothing_else_passes(state: State) -> None:
    risk = holding("0.1")
    assert code(risk, intent(side="buy"), state) == f"TRADING_{state.upper()}"
    assert code(risk, intent(side="sell", quantity=D("0.100001")), state) == f"TRADING_{state.upper()}"
    assert code(risk, intent(side="sell", quantity=D("0.1")), state) == "ACCEPTED"
    opened(risk, intent("working", side="sell", quantity=D("0.04"), type="limit", limit_price=D(41000)))
    assert code(risk, intent(side="sell", quantity=D("0.06")), state) == "ACCEPTED"
    assert code(risk, intent(side="sell", quantity=D("0.060001")), state) == f"TRADING_{state.upper()}"


@pytest.mark.parametrize("state", ["running", "reducing", "draining", "paused", "stopped", "emergency_stopped"])
def test_an_emergencys_closing_order_passes_everything_but_the_instruments_rules(state: State) -> None:
    risk = account(limits=None, figures=None)
    closing = intent(instrument=SPY, quantity=D(900000), side="sell", flatten=True)
    assert code(risk, closing, state) == "ACCEPTED"
    assert code(risk, replace(closing, quantity=D("0.00001")), state) == "QUANTITY_BELOW_MINIMUM"


def test_a_reduce_only_order_that_could_turn_the_position_is_refused() -> None:
    risk = holding("0.1")
    assert code(risk, intent(side="sell", reduce_only=True)) == "ACCEPTED"
    assert code(risk, intent(side="sell", reduce_only=True, quantity=D("0.11"))) == "REDUCE_ONLY_WOULD_INCREASE"
    assert code(risk, intent(side="buy", reduce_only=True)) == "REDUCE_ONLY_WOULD_INCREASE"
    assert code(account(), intent(side="sell", reduce_only=True)) == "REDUCE_ONLY_WOULD_INCREASE"


def test_a_hedging_account_closes_no_more_of_a_side_than_it_holds() -> None:
    risk = account(mode="hedging")
    risk.set_position(1, "long", Position(D("0.1"), D(40000)))
    risk.set_position(1, "short", Position(D("-0.05"), D(40000)))
    assert code(risk, intent(side="sell", position_side="long")) == "ACCEPTED"
    assert code(risk, intent(side="sell", position_side="long", quantity=D("0.11"))) == "CLOSE_EXCEEDS_POSITION"
    assert code(risk, intent(side="buy", position_side="short", quantity=D("0.05"))) == "ACCEPTED"
    assert code(risk, intent(side="buy", position_side="short", quantity=D("0.06"))) == "CLOSE_EXCEEDS_POSITION"
    assert code(risk, intent(side="sell", position_side="short")) == "ACCEPTED"


def test_both_sides_of_a_hedging_account_count_towards_the_position() -> None:
    risk = account(mode="hedging")
    risk.set_position(1, "short", Position(D("-0.4"), D(40000)))
    assert code(risk, intent(position_side="long", quantity=D("0.1"))) == "ACCEPTED"
    assert code(risk, intent(position_side="long", quantity=D("0.100001"))) == "POSITION_LIMIT_EXCEEDED"


# --- where the account would stand ---------------------------------------------------------------------------------------


def test_the_position_counts_with_everything_that_works_on_its_side() -> None:
    risk = holding("0.3")
    opened(risk, intent("a", quantity=D("0.1"), type="limit", limit_price=D(39000)))
    assert code(risk, intent(quantity=D("0.1"))) == "ACCEPTED"
    assert code(risk, intent(quantity=D("0.100001"))) == "POSITION_LIMIT_EXCEEDED"


def test_a_sale_beyond_what_is_held_is_judged_as_a_short_position() -> None:
    risk = holding("0.01", limits=replace(LIMITS, max_position_notional=D(2000)))
    assert code(risk, intent(side="sell", quantity=D("0.06"))) == "ACCEPTED"
    assert code(risk, intent(side="sell", quantity=D("0.060001"))) == "POSITION_LIMIT_EXCEEDED"


def test_the_exposure_counts_every_instrument_at_its_largest() -> None:
    risk = account(replace(LIMITS, max_total_exposure=D(10000)))
    risk.set_position(2, "net", Position(D(-1), D(2000)))
    opened(risk, intent("a", ETH, side="sell", quantity=D(2), type="limit", limit_price=D(2050)))
    assert code(risk, intent(quantity=D("0.1"))) == "ACCEPTED"
    assert code(risk, intent(quantity=D("0.100001"))) == "EXPOSURE_LIMIT_EXCEEDED"


def test_a_position_elsewhere_without_a_price_is_not_worth_nothing() -> None:
    risk = account()
    risk.set_position(5, "net", Position(D(1), D(500)))
    assert code(risk) == "EXPOSURE_UNKNOWN"
    risk.on_quote("SPY", D(500), NOW_NS)
    assert code(risk) == "ACCEPTED"


@pytest.mark.parametrize(("held", "expected"), [(ETH, "DAILY_LOSS_UNKNOWN"), (SPY, "ACCEPTED")])
def test_an_old_price_of_what_is_held_makes_the_equity_unknown_unless_its_market_closes(held: Instrument, expected: str) -> None:
    risk = account()
    risk.set_position(held.id, "net", Position(D(1), D(2000)))
    risk.on_quote(held.symbol, D(2000), NOW_NS - 31 * 10**9)
    assert code(risk) == expected


LOSS_LIMITS = replace(LIMITS, max_daily_loss=D(10**9), max_total_exposure=D(10**9), max_position_notional=D(10**9))


@pytest.mark.parametrize(
    ("limits", "boundary", "expected"),
    [
        (replace(LIMITS, max_daily_loss=D(1000)), D(1000), "DAILY_LOSS_LIMIT_REACHED"),
        (replace(LIMITS, max_daily_loss_share=D("0.005")), D(500), "DAILY_LOSS_LIMIT_REACHED"),
        (replace(LOSS_LIMITS, max_weekly_loss=D(700)), D(700), "WEEKLY_LOSS_LIMIT_REACHED"),
        (replace(LOSS_LIMITS, max_weekly_loss=D(700), max_weekly_loss_share=D("0.006")), D(600), "WEEKLY_LOSS_LIMIT_REACHED"),
        (replace(LOSS_LIMITS, max_weekly_loss=D(500), max_weekly_loss_share=D("0.006")), D(500), "WEEKLY_LOSS_LIMIT_REACHED"),
        (replace(LOSS_LIMITS, max_monthly_loss_share=D("0.008")), D(800), "MONTHLY_LOSS_LIMIT_REACHED"),
        (replace(LOSS_LIMITS, max_drawdown=D("0.009")), D(900), "DRAWDOWN_LIMIT_REACHED"),
    ],
)
def test_a_loss_that_reaches_its_limit_refuses_whether_realised_or_not(limits: Limits, boundary: Decimal, expected: str) -> None:
    for lost, code_then in ((boundary - D("0.01"), "ACCEPTED"), (boundary, expected)):
        realised = account(limits)
        realised.set_position(1, "net", Position(D(0), D(0), -lost, D(0)))
        assert code(realised) == code_then
        unrealised = account(limits)
        unrealised.set_position(1, "net", Position(D("0.001"), D(40000) + lost * 1000))
        assert code(unrealised, intent(quantity=D("0.001"))) == code_then
        fees = account(limits)
        fees.set_position(2, "net", Position(D(0), D(0), D(0), lost))
        assert code(fees) == code_then


def test_after_the_daily_loss_a_position_may_still_be_reduced_but_not_turned() -> None:
    risk = holding("0.1", "140000")
    assert code(risk) == "DAILY_LOSS_LIMIT_REACHED"
    assert code(risk, intent(side="sell")) == "ACCEPTED"
    assert code(risk, intent(side="sell", quantity=D("0.11"))) == "DAILY_LOSS_LIMIT_REACHED"


def test_drawdown_is_measured_from_the_highest_equity_ever() -> None:
    limits = replace(LOSS_LIMITS, max_drawdown=D("0.20"))
    assert code(account(limits, replace(FIGURES, peak_equity=D("124999")))) == "ACCEPTED"
    assert code(account(limits, replace(FIGURES, peak_equity=D("125000")))) == "DRAWDOWN_LIMIT_REACHED"


def test_leverage_and_concentration_are_multiples_of_the_equity() -> None:
    figures = replace(FIGURES, capital=D(2000), equity_day=D(2000), equity_week=D(2000), equity_month=D(2000), peak_equity=D(2000))
    leveraged = account(replace(LIMITS, max_leverage=D(2)), figures)
    assert code(leveraged, intent(quantity=D("0.1"))) == "ACCEPTED"
    assert code(leveraged, intent(quantity=D("0.100001"))) == "LEVERAGE_LIMIT_EXCEEDED"
    concentrated = account(replace(LIMITS, max_concentration=D("0.5")), figures)
    concentrated.set_position(2, "net", Position(D(5), D(2000)))
    assert code(concentrated, intent(quantity=D("0.025"))) == "ACCEPTED"
    assert code(concentrated, intent(quantity=D("0.025001"))) == "CONCENTRATION_LIMIT_EXCEEDED"


def test_without_equity_nothing_may_be_leveraged() -> None:
    figures = replace(FIGURES, capital=D(-1), equity_day=D(-1), equity_week=D(-1), equity_month=D(-1), peak_equity=D(-1))
    assert code(account(replace(LIMITS, max_leverage=D(3)), figures)) == "LEVERAGE_LIMIT_EXCEEDED"


def test_value_at_risk_counts_what_was_added_since_it_was_published() -> None:
    limits = replace(LIMITS, max_var=D("0.01"), max_order_notional=D(50000))
    assert code(account(limits), intent(quantity=D("0.5"))) == "ACCEPTED"
    held = holding("0.25", limits=limits, figures=replace(FIGURES, value_at_risk=D(600), values={"BTCUSDT": D(10000)}))
    assert code(held, intent(quantity=D("0.2"))) == "ACCEPTED"
    assert code(held, intent(quantity=D("0.200001"))) == "VAR_LIMIT_EXCEEDED"
    opened(held, intent("e", ETH, quantity=D(1)))
    assert code(held, intent(quantity=D("0.100001"))) == "VAR_LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("limits", "figures", "expected"),
    [
        (LIMITS, None, "FIGURES_MISSING"),
        (LIMITS, replace(FIGURES, computed_at=NOW - timedelta(seconds=15)), "ACCEPTED"),
        (LIMITS, replace(FIGURES, computed_at=NOW - timedelta(seconds=15.1)), "FIGURES_STALE"),
        (LIMITS, replace(FIGURES, capital=None), "DAILY_LOSS_UNKNOWN"),
        (LIMITS, replace(FIGURES, equity_day=None), "DAILY_LOSS_UNKNOWN"),
        (replace(LIMITS, max_weekly_loss=D(1)), replace(FIGURES, equity_week=None), "WEEKLY_LOSS_UNKNOWN"),
        (replace(LIMITS, max_monthly_loss=D(1)), replace(FIGURES, equity_month=None), "MONTHLY_LOSS_UNKNOWN"),
        (replace(LIMITS, max_drawdown=D("0.2")), replace(FIGURES, peak_equity=None), "DRAWDOWN_UNKNOWN"),
        (replace(LIMITS, max_leverage=D(3)), replace(FIGURES, capital=None), "LEVERAGE_UNKNOWN"),
        (replace(LIMITS, max_var=D("0.05")), replace(FIGURES, value_at_risk=None), "VAR_UNKNOWN"),
        (replace(LIMITS, max_var=D("0.05")), replace(FIGURES, loss_rates={}), "VAR_UNKNOWN"),
        (replace(LIMITS, max_consecutive_losses=3), replace(FIGURES, consecutive_losses=None), "CONSECUTIVE_LOSSES_UNKNOWN"),
        (None, FIGURES, "LIMITS_MISSING"),
    ],
)
def test_what_is_not_known_refuses(limits: Limits | None, figures: PublishedFigures | None, expected: str) -> None:
    assert code(account(limits, figures)) == expected


def test_what_is_not_known_does_not_keep_a_position_from_being_reduced() -> None:
    risk = holding("0.1", figures=None)
    assert code(risk, intent(side="sell")) == "ACCEPTED"


def test_the_reason_of_an_unknown_figure_reaches_whoever_asked() -> None:
    decision = account(figures=replace(FIGURES, capital=None, reasons=("no opening deposit yet",))).check(intent(), NOW, "running")
    assert "no opening deposit yet" in decision.detail


# --- the breakers that count -----------------------------------------------------------------------------------------------


def losing_trade(risk: AccountRisk, name: str, price: str = "39999") -> None:
    filled(risk, opened(risk, intent(f"{name}-in", quantity=D("0.01")), NOW - timedelta(hours=1)), "0.01", "40000")
    order = opened(risk, intent(f"{name}-out", side="sell", quantity=D("0.01")), NOW - timedelta(hours=1))
    filled(risk, filled(risk, order, "0.004", price), "0.006", price)


def test_losses_in_a_row_are_counted_by_order_until_one_wins() -> None:
    risk = account(replace(LIMITS, max_consecutive_losses=2))
    code(risk)
    losing_trade(risk, "a")
    assert code(risk) == "ACCEPTED"
    losing_trade(risk, "b")
    assert code(risk) == "CONSECUTIVE_LOSSES_REACHED"
    losing_trade(risk, "c", price="40001")
    assert code(risk) == "ACCEPTED"


def test_losses_published_count_and_a_release_by_a_person_starts_anew() -> None:
    limits = replace(LIMITS, max_consecutive_losses=2)
    assert code(account(limits, replace(FIGURES, consecutive_losses=2))) == "CONSECUTIVE_LOSSES_REACHED"
    risk = account(limits)
    code(risk)
    losing_trade(risk, "a")
    losing_trade(risk, "b")
    assert code(risk) == "CONSECUTIVE_LOSSES_REACHED"
    assert code(risk, state="reducing") == "TRADING_REDUCING"
    assert code(risk) == "ACCEPTED"


def test_a_venue_that_refuses_most_orders_is_sent_no_more_for_a_while() -> None:
    risk = account(replace(LIMITS, max_reject_share=D("0.5")))
    code(risk)
    for number in range(5):
        ended(risk, opened(risk, intent(f"good{number}")))
    for number in range(4):
        ended(risk, opened(risk, intent(f"bad{number}")), EventType.REJECTED)
    assert code(risk) == "ACCEPTED"
    ended(risk, opened(risk, intent("bad5")), EventType.REJECTED)
    assert code(risk) == "REJECT_RATE_EXCEEDED"
    later = NOW + timedelta(minutes=10)
    risk.on_quote("BTCUSDT", D(40000), NOW_NS + 600 * 10**9)
    risk.set_figures(replace(FIGURES, computed_at=later))
    assert code(risk, at=later) == "ACCEPTED"


# --- all accounts together -------------------------------------------------------------------------------------------------

ELSEWHERE = Elsewhere(D(1), D(30000), D(50000), D(150000), D(150000), D(150000), D(150000), D(500))
PORTFOLIO = Limits(3, D(1), D(1), D(34000), 1, D("0.01"), D(1000), D(1))


def in_portfolio(portfolio: Limits = PORTFOLIO, elsewhere: Elsewhere | None = ELSEWHERE) -> AccountRisk:
    risk = account(figures=replace(FIGURES, elsewhere=elsewhere))
    risk.set_limits(LIMITS, portfolio)
    return risk


def test_the_portfolios_exposure_counts_what_other_accounts_hold() -> None:
    assert code(in_portfolio(), intent(quantity=D("0.1"))) == "ACCEPTED"
    assert code(in_portfolio(), intent(quantity=D("0.100001"))) == "PORTFOLIO_EXPOSURE_LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("portfolio", "elsewhere", "expected"),
    [
        (PORTFOLIO, replace(ELSEWHERE, equity=D("49000.01")), "ACCEPTED"),
        (PORTFOLIO, replace(ELSEWHERE, equity=D(49000)), "PORTFOLIO_DAILY_LOSS_LIMIT_REACHED"),
        (replace(PORTFOLIO, max_weekly_loss=D(5)), replace(ELSEWHERE, equity_week=D(150005)), "PORTFOLIO_WEEKLY_LOSS_LIMIT_REACHED"),
        (replace(PORTFOLIO, max_monthly_loss=D(5)), replace(ELSEWHERE, equity_month=D(150005)), "PORTFOLIO_MONTHLY_LOSS_LIMIT_REACHED"),
        (replace(PORTFOLIO, max_drawdown=D("0.5")), replace(ELSEWHERE, peak_equity=D(300000)), "PORTFOLIO_DRAWDOWN_LIMIT_REACHED"),
        (replace(PORTFOLIO, max_leverage=D("0.2")), ELSEWHERE, "PORTFOLIO_LEVERAGE_LIMIT_EXCEEDED"),
        (replace(PORTFOLIO, max_var=D("0.004")), ELSEWHERE, "PORTFOLIO_VAR_LIMIT_EXCEEDED"),
        (PORTFOLIO, None, "PORTFOLIO_EXPOSURE_UNKNOWN"),
        (PORTFOLIO, replace(ELSEWHERE, rate=None), "PORTFOLIO_EXPOSURE_UNKNOWN"),
        (PORTFOLIO, replace(ELSEWHERE, exposure=None), "PORTFOLIO_EXPOSURE_UNKNOWN"),
        (PORTFOLIO, replace(ELSEWHERE, equity=None), "PORTFOLIO_DAILY_LOSS_UNKNOWN"),
    ],
)
def test_the_portfolio_has_limits_of_its_own(portfolio: Limits, elsewhere: Elsewhere | None, expected: str) -> None:
    assert code(in_portfolio(portfolio, elsewhere)) == expected


# --- order of the rules, warnings ------------------------------------------------------------------------------------------


def test_the_rules_are_judged_from_the_state_of_trading_to_the_portfolio() -> None:
    """Everything is wrong at once; what is refused first is set right, one after the other."""
    limits = replace(
        LIMITS, max_orders_per_minute=1, max_order_notional=D(1), max_position_notional=D(1), max_total_exposure=D(1), max_daily_loss=D(1),
        max_leverage=D("0.00001"), max_drawdown=D("0.00001"), max_var=D("0.0000001"),
    )  # fmt: skip
    figures = replace(FIGURES, equity_day=D(100001), peak_equity=D(100005))
    risk = AccountRisk("paper", "USD", rates, CATALOGUE)
    opened(risk, intent("before", ETH, type="limit", limit_price=D(2000)))
    wanted = intent(quantity=D("0.1000001"), type="limit", limit_price=D(50000))

    assert code(risk, wanted, "paused") == "TRADING_PAUSED"
    assert code(risk, wanted) == "QUANTITY_NOT_MULTIPLE_OF_LOT"
    wanted = replace(wanted, quantity=D("0.1"))
    assert code(risk, wanted) == "LIMITS_MISSING"
    risk.set_limits(limits, PORTFOLIO)
    assert code(risk, wanted) == "MARKET_DATA_MISSING"
    risk.on_quote("BTCUSDT", D(40000), 0)
    assert code(risk, wanted) == "MARKET_DATA_STALE"
    risk.on_quote("BTCUSDT", D(40000), NOW_NS)
    risk.on_quote("ETHUSDT", D(2000), NOW_NS)
    assert code(risk, wanted) == "PRICE_COLLAR"
    wanted = replace(wanted, limit_price=D(40000))
    assert code(risk, wanted) == "ORDER_RATE_EXCEEDED"
    limits = replace(limits, max_orders_per_minute=9)
    risk.set_limits(limits, PORTFOLIO)
    assert code(risk, wanted) == "ORDER_NOTIONAL_EXCEEDED"
    limits = replace(limits, max_order_notional=D(9999))
    risk.set_limits(limits, PORTFOLIO)
    assert code(risk, wanted) == "FIGURES_MISSING"
    risk.set_figures(replace(figures, computed_at=NOW - timedelta(hours=1)))
    assert code(risk, wanted) == "FIGURES_STALE"
    risk.set_figures(figures)
    repairs: list[tuple[str, dict[str, Any]]] = [
        ("POSITION_LIMIT_EXCEEDED", {"max_position_notional": D(9999)}),
        ("EXPOSURE_LIMIT_EXCEEDED", {"max_total_exposure": D(9999)}),
        ("LEVERAGE_LIMIT_EXCEEDED", {"max_leverage": D(9)}),
        ("DAILY_LOSS_LIMIT_REACHED", {"max_daily_loss": D(9)}),
        ("DRAWDOWN_LIMIT_REACHED", {"max_drawdown": D("0.9")}),
        ("VAR_LIMIT_EXCEEDED", {"max_var": D("0.9")}),
    ]
    for expected, repair in repairs:
        assert code(risk, wanted) == expected
        limits = replace(limits, **repair)
        risk.set_limits(limits, PORTFOLIO)
    assert code(risk, wanted) == "PORTFOLIO_EXPOSURE_UNKNOWN"


def warnings(decision: Decision) -> tuple[str, ...]:
    assert decision.accepted
    return decision.warnings


def test_a_limit_that_is_used_to_four_fifths_warns() -> None:
    risk = holding("0.3")
    assert warnings(risk.check(intent(quantity=D("0.099999")), NOW, "running")) == ()
    decision = risk.check(intent(quantity=D("0.1")), NOW, "running")
    assert warnings(decision) == ("max_position_notional",)
    assert decision.facts()["warnings"] == ["max_position_notional"]


def test_the_portfolios_limits_warn_too() -> None:
    assert warnings(in_portfolio().check(intent(), NOW, "running")) == ("portfolio_max_total_exposure",)
