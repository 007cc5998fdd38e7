"""Indicators of strategies: causal to the bit, and what their definitions say."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from trading_platform.messages import Candle
from trading_platform.strategies.indicators import atr, ema, mean_and_deviation, rsi
from trading_platform.strategies.window import Window

Column = NDArray[np.float64]

prices = st.lists(st.integers(1, 10**9), min_size=2, max_size=60)
# High prices that hardly move: where sums of squares and bands lose their digits.
still = st.builds(
    lambda base, moves: [base + move for move in moves], st.integers(10**11, 10**12), st.lists(st.integers(0, 3), min_size=12)
)
closes = st.one_of(prices, still).map(lambda values: np.array(values, dtype=np.float64))
periods = st.integers(2, 12)

FORMS: dict[str, Callable[[Column, int], Column]] = {
    "ema": ema,
    "rsi": rsi,
    "atr": lambda close, period: atr(close + 3, close - 2, close, period),
    "mean": lambda close, period: mean_and_deviation(close, period)[0],
    "deviation": lambda close, period: mean_and_deviation(close, period)[1],
}


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=60, deadline=None)
@given(close=closes, period=periods, data=st.data())
def test_a_beginning_says_what_the_whole_says_of_it(name: str, close: Column, period: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, len(close)))
    whole, part = FORMS[name](close, period), FORMS[name](close[:length].copy(), period)
    assert np.array_equal(whole[:length], part, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(close=closes, period=periods)
def test_the_deviation_is_that_of_the_last_closes(close: Column, period: int) -> None:
    if len(close) < period:
        return
    last = [Fraction(int(value)) for value in close[-period:]]
    mean = sum(last) / period
    variance = sum((value - mean) ** 2 for value in last) / period
    means, deviations = mean_and_deviation(close[-period:].copy(), period)
    assert means[-1] == pytest.approx(float(mean), rel=1e-12)
    assert deviations[-1] == pytest.approx(float(variance) ** 0.5, rel=1e-9, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(close=closes, period=periods)
def test_averages_follow_their_recursions(close: Column, period: int) -> None:
    average, ranges = ema(close, period), atr(close + 3, close - 2, close, period)
    for row in range(period, len(close)):
        assert average[row] == pytest.approx(average[row - 1] + 2 / (period + 1) * (close[row] - average[row - 1]), rel=1e-9)
        if row > period:
            spread = max(close[row] + 3, close[row - 1]) - min(close[row] - 2, close[row - 1])
            assert ranges[row] == pytest.approx((ranges[row - 1] * (period - 1) + spread) / period, rel=1e-9)
    strength = rsi(close, period)
    assert all(0 <= value <= 100 for value in strength[~np.isnan(strength)])


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(1, 2**53), min_size=1, max_size=40), length=st.integers(2, 9))
def test_a_window_is_the_last_candles_in_order(values: list[int], length: int) -> None:
    window = Window(length)
    for number, value in enumerate(values):
        window.add(Candle(symbol="X", interval_s=1, ts_open_ns=number, open=1, high=value, low=1, close=value, volume=0, source=""))
        expected = ([0] * length + values[: number + 1])[-length:]
        assert window.high.tolist() == window.close.tolist() == expected
