"""Trend following: a close beyond the channel of the last candles, in the direction of an exponential average.

A candle is judged by levels that were known before it closed: it is part neither of its own channel nor of its own average.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import NamedTuple

from trading_platform.messages import Candle, Side
from trading_platform.strategies.model import Decision, Fact, Strategy
from trading_platform.strategies.parameters import DonchianParameters


class _Levels(NamedTuple):
    """What was known when the candle opened."""

    upper: int
    lower: int
    exit_upper: int
    exit_lower: int
    trend: float


class Donchian(Strategy[DonchianParameters]):
    """Enters beyond the channel, leaves at the opposite extreme of the exit channel."""

    kind = "donchian"
    version = "2"

    def __init__(self, parameters: DonchianParameters, symbol: str, interval_s: int) -> None:
        super().__init__(parameters, symbol, interval_s)
        longest = max(parameters.channel, parameters.exit_channel)
        self._highs: deque[int] = deque(maxlen=longest)
        self._lows: deque[int] = deque(maxlen=longest)
        self._average: float | None = None
        self._close = 0
        self._levels: _Levels | None = None

    @staticmethod
    def _needs(parameters: DonchianParameters) -> tuple[int, int]:
        longest = max(parameters.channel, parameters.exit_channel, parameters.trend)
        return longest + 1, 4 * longest

    def _learn(self, candle: Candle) -> None:
        if self._average is None:
            self._average = candle.close
        else:
            self._levels = self._known(self._average)
            self._average += 2.0 / (self.parameters.trend + 1) * (candle.close - self._average)
        self._close = candle.close
        self._highs.append(candle.high)
        self._lows.append(candle.low)

    def _known(self, average: float) -> _Levels:
        highs, lows, channel, leaving = list(self._highs), list(self._lows), self.parameters.channel, self.parameters.exit_channel
        return _Levels(max(highs[-channel:]), min(lows[-channel:]), max(highs[-leaving:]), min(lows[-leaving:]), average)

    def _decide(self, held: Decimal) -> Decision | None:
        close, levels = self._close, self._levels
        assert levels is not None, "a warm strategy has levels"
        if held > 0:
            return self._decision("sell", "exit_long", levels) if close < levels.exit_lower else None
        if held < 0:
            return self._decision("buy", "exit_short", levels) if close > levels.exit_upper else None
        if close > levels.upper and close > levels.trend:
            return self._decision("buy", "breakout_up", levels)
        if self.parameters.allow_short and close < levels.lower and close < levels.trend:
            return self._decision("sell", "breakout_down", levels)
        return None

    def _decision(self, side: Side, reason: str, levels: _Levels) -> Decision:
        known = [Fact(name, value, self.previous_end_ns) for name, value in levels._asdict().items()]
        return Decision(side, reason, reason.startswith("exit"), (Fact("close", self._close, self.end_ns), *known))
