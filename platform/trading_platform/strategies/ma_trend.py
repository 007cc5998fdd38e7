"""Trend following: a fast exponential average crosses a slow one; left when it crosses back, or at a stop that trails by average ranges.

The stop hangs from the highest high (the lowest low) of the last candles, not from an entry: whoever looks at the same candles sees
the same stop. Every figure is made of the last `history` candles and of nothing else.
"""

from __future__ import annotations

from decimal import Decimal

from trading_platform.messages import Candle, Side
from trading_platform.strategies.indicators import EMA_FORGETS, WILDER_FORGETS, atr, ema
from trading_platform.strategies.model import Decision, Fact, Strategy
from trading_platform.strategies.parameters import MaTrendParameters
from trading_platform.strategies.window import Window


class MaTrend(Strategy[MaTrendParameters]):
    """Enters at the cross only, so that a stop is not followed by an entry into the same trend."""

    kind = "ma_trend"
    version = "1"

    def __init__(self, parameters: MaTrendParameters, symbol: str, interval_s: int) -> None:
        super().__init__(parameters, symbol, interval_s)
        self._window = Window(self.inputs.history)

    @staticmethod
    def _needs(parameters: MaTrendParameters) -> tuple[int, int]:
        length = max(EMA_FORGETS * parameters.slow, WILDER_FORGETS * parameters.atr, parameters.stop_channel) + 1
        return length, length

    def _learn(self, candle: Candle) -> None:
        self._window.add(candle)

    def _decide(self, held: Decimal) -> Decision | None:
        chosen, close = self.parameters, self._window.close
        fast, slow = ema(close, chosen.fast), ema(close, chosen.slow)
        if held == 0:
            return self._entry(*fast[-2:].tolist(), *slow[-2:].tolist())
        gap = chosen.stop_atr * float(atr(self._window.high, self._window.low, close, chosen.atr)[-1])
        facts = {"fast": float(fast[-1]), "slow": float(slow[-1]), "atr_gap": gap}
        if held > 0:
            stop = float(self._window.high[-chosen.stop_channel :].max()) - gap
            return self._exit("sell", close[-1] < stop, fast[-1] < slow[-1], facts | {"stop": stop})
        stop = float(self._window.low[-chosen.stop_channel :].min()) + gap
        return self._exit("buy", close[-1] > stop, fast[-1] > slow[-1], facts | {"stop": stop})

    def _entry(self, fast_before: float, fast: float, slow_before: float, slow: float) -> Decision | None:
        facts = {"fast_before": fast_before, "slow_before": slow_before, "fast": fast, "slow": slow}
        if fast_before <= slow_before and fast > slow:
            return self._decision("buy", "cross_up", False, facts)
        if self.parameters.allow_short and fast_before >= slow_before and fast < slow:
            return self._decision("sell", "cross_down", False, facts)
        return None

    def _exit(self, side: Side, stopped: bool, crossed: bool, facts: dict[str, float]) -> Decision | None:
        if stopped:
            return self._decision(side, "atr_stop", True, facts)
        return self._decision(side, "trend_over", True, facts) if crossed else None

    def _decision(self, side: Side, reason: str, is_exit: bool, facts: dict[str, float]) -> Decision:
        known = {name: self.previous_end_ns if name.endswith("_before") else self.end_ns for name in facts}
        close = Fact("close", int(self._window.close[-1]), self.end_ns)
        return Decision(side, reason, is_exit, (close, *(Fact(name, value, known[name]) for name, value in facts.items())))
