"""Against exaggeration: a close beyond the Bollinger band with an exhausted RSI, held until the mean is reached.

Left as well when the close is so far away that the mean is no longer believed in. Every figure is made of the last `history` candles
and of nothing else.
"""

from __future__ import annotations

from decimal import Decimal

from trading_platform.messages import Candle, Side
from trading_platform.strategies.indicators import WILDER_FORGETS, mean_and_deviation, rsi
from trading_platform.strategies.model import Decision, Fact, Strategy
from trading_platform.strategies.parameters import MeanReversionParameters
from trading_platform.strategies.window import Window


class MeanReversion(Strategy[MeanReversionParameters]):
    """A market without deviation is never entered."""

    kind = "mean_reversion"
    version = "1"

    def __init__(self, parameters: MeanReversionParameters, symbol: str, interval_s: int) -> None:
        super().__init__(parameters, symbol, interval_s)
        self._window = Window(self.inputs.history)

    @staticmethod
    def _needs(parameters: MeanReversionParameters) -> tuple[int, int]:
        length = max(parameters.period, WILDER_FORGETS * parameters.rsi) + 1
        return length, length

    def _learn(self, candle: Candle) -> None:
        self._window.add(candle)

    def _decide(self, held: Decimal) -> Decision | None:
        chosen, closes = self.parameters, self._window.close
        means, deviations = mean_and_deviation(closes[-chosen.period :], chosen.period)
        close, mean, deviation = float(closes[-1]), float(means[-1]), float(deviations[-1])
        strength = float(rsi(closes, chosen.rsi)[-1])
        away = close - mean
        near, far = chosen.entry_width * deviation, chosen.stop_width * deviation

        def decision(side: Side, reason: str, is_exit: bool) -> Decision:
            facts = {"close": int(close), "mean": mean, "deviation": deviation, "rsi": strength}
            return Decision(side, reason, is_exit, tuple(Fact(name, value, self.end_ns) for name, value in facts.items()))

        if held > 0:
            return decision("sell", "mean_reached", True) if away >= 0 else decision("sell", "mean_lost", True) if away < -far else None
        if held < 0:
            return decision("buy", "mean_reached", True) if away <= 0 else decision("buy", "mean_lost", True) if away > far else None
        if -far <= away < -near and strength < chosen.oversold:
            return decision("buy", "oversold", False)
        if chosen.allow_short and near < away <= far and strength > chosen.overbought:
            return decision("sell", "overbought", False)
        return None
