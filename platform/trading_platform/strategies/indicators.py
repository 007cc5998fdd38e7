"""The usual indicators, from TA-Lib: row k of the answer is made of rows 0 to k, and of nothing later.

Columns are as long as the window they come from, so what an indicator says is a function of exactly those candles.
"""

from __future__ import annotations

import numpy as np
import talib
from numpy.typing import NDArray

Column = NDArray[np.float64]

# So many times n candles back, all but 1/3000 is forgotten: by an exponential average of n, and by one of Wilder's.
EMA_FORGETS, WILDER_FORGETS = 4, 8


def ema(values: Column, period: int) -> Column:
    """Exponential average, 2 / (n + 1) of each new value; begins with the plain average of the first n. NaN before."""
    answer: Column = talib.EMA(values, period)
    return answer


def atr(high: Column, low: Column, close: Column, period: int) -> Column:
    """Average true range by Wilder's average, 1 / n of each new range. NaN in the first n rows."""
    answer: Column = talib.ATR(high, low, close, period)
    return answer


def rsi(values: Column, period: int) -> Column:
    """Wilder's relative strength, 0 to 100. NaN in the first n rows."""
    answer: Column = talib.RSI(values, period)
    return answer


def mean_and_deviation(values: Column, period: int) -> tuple[Column, Column]:
    """The middle of the Bollinger bands, and the deviation they are multiples of (of the population). NaN in the first n - 1 rows."""
    # Not from the bands: a band around a large price has lost the digits of a small deviation.
    return talib.SMA(values, period), talib.STDDEV(values, period, 1.0)
