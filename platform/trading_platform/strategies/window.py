"""The last candles of a series as columns, always of the same length and in one piece."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trading_platform.messages import Candle

_HIGH, _LOW, _CLOSE = range(3)


class Window:
    """The newest `length` candles. Each is written twice, so that any `length` in a row are a plain slice: no copying, O(1) a candle."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._columns = np.zeros((3, 2 * length))
        self._next = 0

    def add(self, candle: Candle) -> None:
        for at in (self._next, self._next + self._length):
            self._columns[:, at] = candle.high, candle.low, candle.close
        self._next = (self._next + 1) % self._length

    def _column(self, which: int) -> NDArray[np.float64]:
        column: NDArray[np.float64] = self._columns[which, self._next : self._next + self._length]
        return column

    @property
    def high(self) -> NDArray[np.float64]:
        """Oldest first; whole numbers at the price_scale, exact to 2^53. Zeros where there was no candle yet."""
        return self._column(_HIGH)

    @property
    def low(self) -> NDArray[np.float64]:
        return self._column(_LOW)

    @property
    def close(self) -> NDArray[np.float64]:
        return self._column(_CLOSE)
