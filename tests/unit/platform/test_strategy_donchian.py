"""The strategy decides on what was known, the same way every time."""

from __future__ import annotations

from decimal import Decimal

import pytest
from trading_platform.messages import Candle
from trading_platform.strategies.donchian import Donchian
from trading_platform.strategies.model import Decision, decide
from trading_platform.strategies.parameters import DonchianParameters

PARAMETERS = DonchianParameters(channel=3, exit_channel=2, trend=3)
FLAT, LONG, SHORT = Decimal(0), Decimal(1), Decimal(-1)


def candle(number: int, close: int, high: int | None = None, low: int | None = None) -> Candle:
    return Candle(
        symbol="X", interval_s=60, ts_open_ns=number * 60_000_000_000, open=close, high=high or close, low=low or close, close=close,
        volume=1, source="test",
    )  # fmt: skip


def decisions(closes: list[int], held: Decimal, parameters: DonchianParameters = PARAMETERS) -> list[Decision | None]:
    model = Donchian(parameters, "X", 60)
    return [decide(model, candle(number, close), held, (number + 1) * 60_000_000_000) for number, close in enumerate(closes)]


def test_nothing_is_decided_before_the_warm_up() -> None:
    assert decisions([100, 200, 300], FLAT) == [None, None, None]


def test_a_close_above_the_channel_enters() -> None:
    last = decisions([100, 101, 100, 102], FLAT)[-1]
    assert last is not None
    assert (last.side, last.reason, last.is_exit, last.fact("upper")) == ("buy", "breakout_up", False, 101)


def test_a_close_at_the_channel_does_not_enter() -> None:
    assert decisions([100, 101, 100, 101], FLAT)[-1] is None


def test_the_candle_itself_is_not_part_of_its_channel() -> None:
    model = Donchian(PARAMETERS, "X", 60)
    for number, close in enumerate([100, 100, 100]):
        model.learn(candle(number, close))
    model.learn(candle(3, 105, high=200))
    decision = model.decide(FLAT)
    assert decision is not None
    assert decision.fact("upper") == 100
    assert {fact.name: fact.known_at_ns // 60_000_000_000 for fact in decision.facts} == {
        "close": 4, "upper": 3, "lower": 3, "exit_upper": 3, "exit_lower": 3, "trend": 3,
    }  # fmt: skip


def test_a_long_position_leaves_below_its_exit_channel() -> None:
    last = decisions([100, 100, 100, 99], LONG)[-1]
    assert last is not None
    assert (last.side, last.reason, last.is_exit) == ("sell", "exit_long", True)


def test_a_held_position_is_not_added_to() -> None:
    assert decisions([100, 101, 100, 102], LONG)[-1] is None


@pytest.mark.parametrize(("allowed", "reason"), [(True, "breakout_down"), (False, None)])
def test_shorts_only_where_they_are_allowed(allowed: bool, reason: str | None) -> None:
    last = decisions([100, 100, 100, 90], FLAT, PARAMETERS.model_copy(update={"allow_short": allowed}))[-1]
    assert (last.reason if last else None) == reason


def test_a_short_position_leaves_above_its_exit_channel() -> None:
    last = decisions([100, 100, 100, 101], SHORT)[-1]
    assert last is not None
    assert (last.side, last.reason) == ("buy", "exit_short")


def test_later_candles_change_no_earlier_decision() -> None:
    closes = [100, 103, 99, 105, 98, 110, 111, 90, 95, 120, 119, 125, 80, 81, 130]
    whole = decisions(closes, FLAT)
    for length in range(1, len(closes)):
        assert decisions(closes[:length], FLAT) == whole[:length]
