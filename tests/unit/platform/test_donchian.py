"""The strategy decides on what was known, the same way every time."""

from __future__ import annotations

from decimal import Decimal

import pytest
from trading_platform.domain.donchian import Decision, DonchianTrend, Parameters
from trading_platform.messages import Candle

PARAMETERS = Parameters(channel=3, exit_channel=2, trend=3)
FLAT, LONG, SHORT = Decimal(0), Decimal(1), Decimal(-1)


def candle(number: int, close: int, high: int | None = None, low: int | None = None) -> Candle:
    return Candle(
        symbol="X", interval_s=60, ts_open_ns=number * 60_000_000_000, open=close, high=high or close, low=low or close, close=close,
        volume=1, source="test",
    )  # fmt: skip


def decisions(closes: list[int], held: Decimal, parameters: Parameters = PARAMETERS) -> list[Decision | None]:
    model = DonchianTrend(parameters)
    return [model.on_candle(candle(number, close), held) for number, close in enumerate(closes)]


def test_nothing_is_decided_before_the_warm_up() -> None:
    assert decisions([100, 200, 300], FLAT) == [None, None, None]


def test_a_close_above_the_channel_enters() -> None:
    last = decisions([100, 101, 100, 102], FLAT)[-1]
    assert last is not None
    assert (last.side, last.reason, last.is_exit, last.view.upper) == ("buy", "breakout_up", False, 101)


def test_a_close_at_the_channel_does_not_enter() -> None:
    assert decisions([100, 101, 100, 101], FLAT)[-1] is None


def test_the_candle_itself_is_not_part_of_its_channel() -> None:
    model = DonchianTrend(PARAMETERS)
    for number, close in enumerate([100, 100, 100]):
        model.on_candle(candle(number, close), FLAT)
    decision = model.on_candle(candle(3, 105, high=200), FLAT)
    assert decision is not None
    assert decision.view.upper == 100


def test_a_long_position_leaves_below_its_exit_channel() -> None:
    last = decisions([100, 100, 100, 99], LONG)[-1]
    assert last is not None
    assert (last.side, last.reason, last.is_exit) == ("sell", "exit_long", True)


def test_a_held_position_is_not_added_to() -> None:
    assert decisions([100, 101, 100, 102], LONG)[-1] is None


@pytest.mark.parametrize(("allowed", "reason"), [(True, "breakout_down"), (False, None)])
def test_shorts_only_where_they_are_allowed(allowed: bool, reason: str | None) -> None:
    last = decisions([100, 100, 100, 90], FLAT, Parameters(3, 2, 3, allowed))[-1]
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
