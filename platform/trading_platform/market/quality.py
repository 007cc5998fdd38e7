"""What never leaves this service: crossed quotes and absurd prices. Pure; every refused row is counted by reason.

A price is absurd when it stands further than `max_move` from the instrument's last accepted one. A market may really move that
far, so a run of `settle_rows` such prices that agree with each other is believed and becomes the new reference.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trading_platform.market.ticks import Ticks

CROSSED: Final = "crossed"
ABSURD: Final = "absurd"


class Quarantine:
    """Screens the ticks of one feed; keeps the reference prices that "absurd" is measured against."""

    def __init__(self, max_move: float = 0.25, settle_rows: int = 10) -> None:
        self._max_move = max_move
        self._settle_rows = settle_rows
        self._reference: dict[int, float] = {}
        self._suspects: dict[int, tuple[int, float, float]] = {}  # rows seen in this run, lowest, highest
        self.refused: Counter[str] = Counter()

    def screen(self, ticks: Ticks) -> Ticks:
        """The ticks that may leave."""
        if not len(ticks):
            return ticks
        crossed = self._crossed(ticks)
        absurd = self._absurd(ticks, crossed)
        refused = crossed | absurd
        if not refused.any():
            return ticks
        self._refuse_whole_quotes(ticks, refused)
        self.refused[CROSSED] += int(np.count_nonzero(crossed))
        self.refused[ABSURD] += int(np.count_nonzero(refused & ~crossed))
        return ticks[~refused]

    @staticmethod
    def _crossed(ticks: Ticks) -> NDArray[np.bool_]:
        bids, asks = ticks.quotes()
        inverted = ticks.price[bids] > ticks.price[asks]
        crossed = np.zeros(len(ticks), dtype=bool)
        crossed[bids[inverted]] = True
        crossed[asks[inverted]] = True
        return crossed

    def _absurd(self, ticks: Ticks, crossed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        absurd = np.zeros(len(ticks), dtype=bool)
        for instrument in np.unique(ticks.instrument).tolist():
            rows = np.flatnonzero((ticks.instrument == instrument) & ~crossed)
            if not len(rows):
                continue
            prices = ticks.price[rows]
            reference = self._reference.get(instrument, float(np.median(prices)))
            far = np.abs(prices - reference) > self._max_move * reference
            if far.any():
                reference = self._judge(instrument, prices, far, reference)
                far = np.abs(prices - reference) > self._max_move * reference
                absurd[rows[far]] = True
            elif instrument in self._suspects:
                del self._suspects[instrument]
            near = prices[~far]
            self._reference[instrument] = float(near[-1]) if len(near) else reference
        return absurd

    def _judge(self, instrument: int, prices: NDArray[np.int64], far: NDArray[np.bool_], reference: float) -> float:
        """The reference to hold the batch against: the old one, or the level a long enough run agrees on."""
        suspects = prices[far]
        low, high = float(suspects.min()), float(suspects.max())
        seen, seen_low, seen_high = self._suspects.get(instrument, (0, low, high))
        low, high = min(low, seen_low), max(high, seen_high)
        if high - low > self._max_move * low:
            self._suspects.pop(instrument, None)
            return reference
        if seen + len(suspects) < self._settle_rows or not far[-1]:
            self._suspects[instrument] = (seen + len(suspects), low, high)
            return reference
        self._suspects.pop(instrument, None)
        return float(suspects[-1])

    @staticmethod
    def _refuse_whole_quotes(ticks: Ticks, refused: NDArray[np.bool_]) -> None:
        """A quote with one refused side is refused altogether."""
        bids, asks = ticks.quotes()
        either = refused[bids] | refused[asks]
        refused[bids] |= either
        refused[asks] |= either
