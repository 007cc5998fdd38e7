"""Strategies on candles worked out by hand, and what nobody lets them do."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from strategy_candles import MINUTE_NS, QUICK, candle, flat, fresh, last
from trading_platform.backtest import instruments
from trading_platform.config import ConfigError, StrategySettings, parse
from trading_platform.messages import Candle
from trading_platform.strategies import identity, parameters, signals
from trading_platform.strategies.model import Decision, Fact, LookAhead, Strategy, UnexpectedCandle, decide
from trading_platform.strategies.parameters import MODELS, InvalidParameters, Kind, Parameters

D = Decimal
PLATFORM = Path(__file__).parents[3] / "platform"


def told(decision: Decision | None) -> tuple[str, str, bool] | None:
    return None if decision is None else (decision.side, decision.reason, decision.is_exit)


# --- moving averages -----------------------------------------------------------------------------------------------------

TREND: dict[str, Any] = {"fast": 2, "slow": 3, "atr": 2, "stop_channel": 2, "stop_atr": 1.0}
STILL = [100.0] * 16


def test_a_fast_average_that_crosses_the_slow_one_enters_with_what_it_saw() -> None:
    decision = last(fresh("ma_trend", **TREND), flat([*STILL, 103]), 0)
    assert told(decision) == ("buy", "cross_up", False)
    assert decision is not None
    # 100 + 2/3 of 3, 100 + 1/2 of 3; prices are tenths
    assert decision.fact("fast") == pytest.approx(1020)
    assert decision.fact("slow") == pytest.approx(1015)
    assert {fact.name: fact.known_at_ns // MINUTE_NS for fact in decision.facts} == {
        "close": 17, "fast_before": 16, "slow_before": 16, "fast": 17, "slow": 17,
    }  # fmt: skip


def test_a_trend_is_entered_at_its_cross_only() -> None:
    assert last(fresh("ma_trend", **TREND), flat([*STILL, 103, 105]), 0) is None


@pytest.mark.parametrize(("allowed", "reason"), [(True, "cross_down"), (False, None)])
def test_a_cross_down_is_sold_short_where_that_is_allowed(allowed: bool, reason: str | None) -> None:
    decision = last(fresh("ma_trend", **TREND | {"allow_short": allowed}), flat([*STILL, 97]), 0)
    assert (decision.reason if decision else None) == reason


def test_the_stop_hangs_an_average_range_below_the_highest_high() -> None:
    # ranges 10 and 6: Wilder's average of two is 5, then 5.5; the stop is 110 - 5.5
    decision = last(fresh("ma_trend", **TREND), flat([*STILL, 110, 104]), 1)
    assert told(decision) == ("sell", "atr_stop", True)
    assert decision is not None
    assert decision.fact("stop") == pytest.approx(1045)
    assert last(fresh("ma_trend", **TREND), flat([*STILL, 110, 105]), 1) is None


def test_a_trend_that_is_over_is_left_before_its_stop() -> None:
    patient = fresh("ma_trend", **TREND | {"stop_atr": 10.0})
    assert told(last(patient, flat([*STILL, 110, 104, 100]), 1)) == ("sell", "trend_over", True)


def test_a_short_position_has_the_same_rules_upside_down() -> None:
    assert told(last(fresh("ma_trend", **TREND), flat([*STILL, 90, 96]), -1)) == ("buy", "atr_stop", True)
    patient = fresh("ma_trend", **TREND | {"stop_atr": 10.0})
    assert told(last(patient, flat([*STILL, 90, 96, 100]), -1)) == ("buy", "trend_over", True)


# --- mean reversion ------------------------------------------------------------------------------------------------------

REVERSION: dict[str, Any] = {"period": 5, "entry_width": 1.5, "stop_width": 1.9, "rsi": 2}
SWINGING = [100.0, 102.0] * 8


def test_an_exaggeration_is_bought_with_the_mean_and_the_deviation_it_saw() -> None:
    decision = last(fresh("mean_reversion", **REVERSION), flat([*SWINGING, 96]), 0)
    assert told(decision) == ("buy", "oversold", False)
    assert decision is not None
    # of 100, 102, 100, 102, 96: the mean is 100, the variance (4 + 4 + 16) / 5; gains 4/6 against losses 20/6
    assert decision.fact("mean") == 1000
    assert decision.fact("deviation") == pytest.approx(10 * 4.8**0.5)
    assert decision.fact("rsi") == pytest.approx(100 / 6, abs=0.01)


def test_a_close_too_far_from_the_mean_is_not_entered_and_is_left() -> None:
    closes = flat([*SWINGING, 80])
    assert last(fresh("mean_reversion", **REVERSION), closes, 0) is None
    assert told(last(fresh("mean_reversion", **REVERSION), closes, 1)) == ("sell", "mean_lost", True)


def test_a_position_is_held_until_the_mean() -> None:
    assert last(fresh("mean_reversion", **REVERSION), flat([*SWINGING, 96, 97]), 1) is None
    assert told(last(fresh("mean_reversion", **REVERSION), flat([*SWINGING, 96, 100]), 1)) == ("sell", "mean_reached", True)


def test_an_exaggeration_upwards_is_its_mirror() -> None:
    mirrored = [200 - close for close in (*SWINGING, 96.0)]
    assert told(last(fresh("mean_reversion", **REVERSION), flat(mirrored), 0)) == ("sell", "overbought", False)
    assert last(fresh("mean_reversion", **REVERSION, allow_short=False), flat(mirrored), 0) is None
    assert told(last(fresh("mean_reversion", **REVERSION), flat([200.0 - close for close in (*SWINGING, 96, 100)]), -1)) == (
        "buy", "mean_reached", True,
    )  # fmt: skip


def test_a_market_without_deviation_is_not_entered() -> None:
    assert last(fresh("mean_reversion", **REVERSION), flat([100.0] * 40), 0) is None


# --- smart money concepts ------------------------------------------------------------------------------------------------

SMC: dict[str, Any] = {"length": 1, "zone_candles": 50, "confluence": 2}
# Swings between 98 and 103, a fall to 92, and the close at 104 that breaks the high: a change of character, from the order block
# 92 to 96, with a gap from 96 to 101 behind it. Then the dealing range is 92 to 108.
RISE = [
    *[(100, 102, 99, 101), (101, 103, 100, 102), (102, 102, 98, 99)] * 4,
    (99, 100, 95, 96), (96, 97, 94, 95), (95, 96, 92, 96), (96, 104, 96, 104), (104, 108, 101, 107), (107, 108, 105, 106),
]  # fmt: skip
Row = tuple[float, float, float, float]


def smc(rows: list[Row], held: int = 0, *, mirrored: bool = False, **given: Any) -> Decision | None:
    if mirrored:
        rows = [(200 - o, 200 - lo, 200 - h, 200 - c) for o, h, lo, c in rows]
    return last(fresh("smc_confluence", **SMC | given), [candle(number, *row) for number, row in enumerate(rows)], held)


def test_a_return_into_the_gap_at_a_discount_is_bought() -> None:
    decision = smc([*RISE, (98, 101, 97, 100)])
    assert told(decision) == ("buy", "confluence_long", False)
    assert decision is not None
    known = {fact.name: (fact.value, fact.known_at_ns // MINUTE_NS) for fact in decision.facts}
    assert known["confluence"] == (2, 19)
    assert known["position"] == (0.5, 19)
    gap = next(name for name in known if name.startswith("fair_value_gap") and name.endswith("_top"))
    assert (known[gap], known[gap.replace("_top", "_bottom")]) == ((1010.0, 17), (960.0, 17))
    broke = next(name for name in known if name.startswith("change_of_character") and name.endswith("_direction"))
    assert known[broke] == (1, 16)


def test_an_order_block_that_is_reached_as_well_agrees() -> None:
    assert smc([*RISE, (98, 101, 97, 100)], confluence=3) is None
    assert told(smc([*RISE, (98, 101, 95.5, 100)], confluence=3)) == ("buy", "confluence_long", False)


@pytest.mark.parametrize(
    ("row", "confluence", "why"),
    [
        ((101, 101, 97, 100), 2, "the candle closed downwards"),
        ((95, 101, 94, 95.5), 3, "the candle closed through the gap: block and discount are two"),
        ((98, 103, 97, 102), 2, "the close is in the premium half"),
        ((106, 107, 105.5, 106.5), 1, "nothing was reached"),
    ],
)
def test_what_does_not_agree_is_not_bought(row: Row, confluence: int, why: str) -> None:
    assert smc([*RISE, row], confluence=confluence) is None, why


@pytest.mark.parametrize(
    ("row", "reason"),
    [((100, 100, 90, 91), "structure_against"), ((104, 109, 103, 105), "liquidity_taken"), ((100, 107, 100, 107), "target_reached")],
)
def test_a_position_is_left_by_structure_liquidity_or_target(row: Row, reason: str) -> None:
    assert told(smc([*RISE, (98, 101, 97, 100), row], 1)) == ("sell", reason, True)
    assert told(smc([*RISE, (98, 101, 97, 100), row], -1, mirrored=True)) == ("buy", reason, True)


def test_a_fall_is_the_mirror_of_a_rise_and_sold_only_where_that_is_allowed() -> None:
    rows = [*RISE, (98, 101, 97, 100)]
    assert told(smc(rows, mirrored=True)) == ("sell", "confluence_short", False)
    assert smc(rows, mirrored=True, allow_short=False) is None


# --- what is judged ------------------------------------------------------------------------------------------------------


class Cheat(Strategy[Parameters]):
    """Says what it is told to have seen."""

    kind = "donchian"
    version = "cheat"
    facts: tuple[Fact, ...] = ()

    @staticmethod
    def _needs(parameters: Parameters) -> tuple[int, int]:
        return 1, 1

    def _learn(self, candle: Candle) -> None: ...

    def _decide(self, held: Decimal) -> Decision | None:
        return Decision("buy", "cheating", False, self.facts)


def cheat(*facts: Fact) -> Cheat:
    made = Cheat(Parameters(), "X", 60)
    made.facts = facts
    return made


def test_a_fact_from_after_the_candle_is_refused_whatever_the_clock_says() -> None:
    with pytest.raises(LookAhead, match=r"cheating saw high, known at 60000000001"):
        decide(cheat(Fact("close", 1, MINUTE_NS), Fact("high", 1, MINUTE_NS + 1)), candle(0, 1, 1, 1, 1), D(0), 10**18)
    assert decide(cheat(Fact("close", 1, MINUTE_NS)), candle(0, 1, 1, 1, 1), D(0), 10**18) is not None


def test_a_decision_without_facts_is_refused() -> None:
    with pytest.raises(LookAhead, match="without facts"):
        decide(cheat(), candle(0, 1, 1, 1, 1), D(0), MINUTE_NS)


def test_a_candle_that_is_not_over_is_refused_and_not_learned() -> None:
    strategy = cheat(Fact("close", 1, MINUTE_NS))
    with pytest.raises(LookAhead, match="closes at 60000000000, it is 59999999999"):
        decide(strategy, candle(0, 1, 1, 1, 1), D(0), MINUTE_NS - 1)
    assert strategy.candles_seen == 0


@pytest.mark.parametrize("kind", MODELS)
def test_a_candle_of_another_series_out_of_order_or_impossible_teaches_nothing(kind: Kind) -> None:
    strategy = fresh(kind, **QUICK[kind])
    strategy.learn(candle(5, 100, 101, 99, 100))
    for wrong in (
        candle(5, 100, 101, 99, 100),
        candle(4, 100, 101, 99, 100),
        candle(6, 100, 99, 99, 100),
        candle(6, 100, 101, 100.5, 101),
        Candle(symbol="Y", interval_s=60, ts_open_ns=6 * MINUTE_NS, open=1, high=1, low=1, close=1, volume=1, source=""),
        Candle(symbol="X", interval_s=30, ts_open_ns=6 * MINUTE_NS, open=1, high=1, low=1, close=1, volume=1, source=""),
        Candle(symbol="X", interval_s=60, ts_open_ns=6 * MINUTE_NS, open=1, high=1, low=1, close=1, volume=-1, source=""),
    ):
        with pytest.raises(UnexpectedCandle):
            strategy.learn(wrong)
    assert (strategy.candles_seen, strategy.end_ns) == (1, 6 * MINUTE_NS)
    strategy.learn(candle(9, 100, 101, 99, 100))
    assert strategy.previous_end_ns == 6 * MINUTE_NS


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_decided_before_the_warm_up(kind: Kind) -> None:
    strategy = fresh(kind, **QUICK[kind])
    for number in range(strategy.inputs.warm_up - 1):
        strategy.learn(candle(number, 100 + 9 * (number % 7), 170, 90, 100 + 9 * ((number + 1) % 7)))
        assert [strategy.decide(D(held)) for held in (0, 1, -1)] == [None] * 3
    assert not strategy.is_warm


# --- what they can be told -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        ("donchian", {"channel": 1}, "channel: found 1; input should be greater than or equal to 2"),
        ("donchian", {"fast": 1}, "fast: donchian has no such parameter; it has allow_short, channel, exit_channel, trend"),
        ("ma_trend", {"fast": 50, "slow": 50}, "expected fast below slow"),
        ("ma_trend", {"stop_atr": "nan"}, "stop_atr: found 'nan'"),
        ("ma_trend", {"slow": 2001, "atr": "x"}, "atr: found 'x'"),
        ("mean_reversion", {"entry_width": 3.5}, "expected entry_width below stop_width"),
        ("mean_reversion", {"stop_width": 5}, "no close is ever 4.36 deviations"),
        ("smc_confluence", {"confluence": 5}, "less than or equal to 4"),
        ("smc_confluence", {"discount": 0.9}, "expected discount below target"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_with_its_name_and_bound(kind: Kind, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidParameters, match=says.replace("(", r"\(")):
        parameters.check(kind, given)


def test_text_is_taken_for_what_it_says() -> None:
    assert parameters.check("ma_trend", {"fast": "5", "stop_atr": "2.5", "allow_short": "true"}) == parameters.MaTrendParameters(
        fast=5, stop_atr=2.5, allow_short=True
    )


def test_settings_are_complete_and_named_after_their_kind() -> None:
    settings = StrategySettings.model_validate({"kind": "ma_trend", "parameters": {"fast": 5}})
    assert settings.name == "ma-trend"
    assert settings.parameters == parameters.MaTrendParameters(fast=5).model_dump()
    assert StrategySettings.model_validate(settings.model_dump()) == settings


def test_parameters_in_the_section_itself_are_the_first_strategys_still() -> None:
    settings = StrategySettings.model_validate({"channel": 12, "allow_short": True})
    assert (settings.kind, settings.name) == ("donchian", "donchian-trend")
    assert settings.parameters == {"channel": 12, "exit_channel": 10, "trend": 50, "allow_short": True}


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"kind": "ma_trend", "channel": 3}, "strategy.parameters: channel: ma_trend has no such parameter"),
        ({"channel": 3, "parameters": {"channel": 4}}, "strategy.channel: stated here and in strategy.parameters"),
        ({"kind": "astrology"}, "strategy.kind: found 'astrology'"),
        ({"parameters": [1]}, "strategy.parameters: found"),
    ],
)
def test_a_configuration_is_refused_before_anything_starts(section: dict[str, Any], says: str) -> None:
    document = {
        "environment": "development", "host": "h", "database": {"host": "d"}, "mongodb": {"hosts": ["m"]}, "redis": {"hosts": ["r"]},
        "services": {}, "strategy": section,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=says):
        parse(document)


def test_a_configuration_is_checked_without_the_strategies_libraries() -> None:
    listing = "import sys, trading_platform.config, trading_platform.strategies.catalogue; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", listing], env={"PYTHONPATH": str(PLATFORM)}, capture_output=True, check=True, text=True)
    assert {"talib", "numba", "numpy"}.isdisjoint(done.stdout.split())


# --- which one decided ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_strategy_is_known_by_its_settings_and_its_code(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def known_as(**given: Any) -> dict[str, Any]:
        return identity.identity("name", "1", kind, parameters.check(kind, given))

    assert known_as() == known_as()
    assert known_as()["_id"] != known_as(allow_short=True)["_id"]
    before = known_as()["_id"]
    monkeypatch.setattr(identity, "_SHARED", ("model.py",))
    assert known_as()["_id"] != before


def test_an_exit_is_for_all_that_is_held_and_an_entry_for_the_money() -> None:
    instrument = instruments.catalogue().symbol("BTCUSDT")
    at = Candle(symbol="BTCUSDT", interval_s=60, ts_open_ns=0, open=1, high=1, low=1, close=40_000_00, volume=0, source="")
    entry, leave = Decision("buy", "in", False, ()), Decision("sell", "out", True, ())
    assert signals.quantity(instrument, at, entry, D(0), D(1000)) == D("0.025")
    assert signals.quantity(instrument, at, leave, D("-0.3"), D(1000)) == D("0.3")
    assert signals.quantity(instrument, at, entry, D(0), D("0.01")) is None
    assert signals.signal_id("s", "1", "a", at, entry) != signals.signal_id("s", "1", "a", at, leave)
