"""Trend following: a close beyond the channel of the last candles, in the direction of an exponential average.

Pure and causal: a decision on a candle uses that candle's close and only earlier candles' highs and lows; the same
candles give the same decisions. Prices are int64 at the instrument's price_scale; only the average is a float.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.instruments import Instrument
from trading_platform.messages import Candle, Side

Reason = Literal["breakout_up", "breakout_down", "exit_long", "exit_short"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Lengths in candles."""

    channel: int
    exit_channel: int
    trend: int
    allow_short: bool = False

    @property
    def warm_up(self) -> int:
        """Candles seen before the first decision."""
        return max(self.channel, self.exit_channel, self.trend)


@dataclass(frozen=True, slots=True)
class View:
    """What a decision saw: the close against levels that were known before the candle closed."""

    close: int
    upper: int
    lower: int
    exit_upper: int
    exit_lower: int
    trend: float
    candles_seen: int


@dataclass(frozen=True, slots=True)
class Decision:
    """To enter (quantity is for the caller to size) or to leave what is held."""

    side: Side
    reason: Reason
    is_exit: bool
    view: View


class DonchianTrend:
    """The state of one instrument."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._highs: deque[int] = deque(maxlen=max(parameters.channel, parameters.exit_channel))
        self._lows: deque[int] = deque(maxlen=max(parameters.channel, parameters.exit_channel))
        self._average: float | None = None
        self._seen = 0

    @property
    def is_warm(self) -> bool:
        return self._seen >= self._parameters.warm_up

    def on_candle(self, candle: Candle, held: Decimal) -> Decision | None:
        """The decision on a closed candle, given the signed position held; None to do nothing."""
        view = self._view(candle) if self.is_warm else None
        self._learn(candle)
        if view is None:
            return None
        if held > 0:
            return Decision("sell", "exit_long", True, view) if view.close < view.exit_lower else None
        if held < 0:
            return Decision("buy", "exit_short", True, view) if view.close > view.exit_upper else None
        if view.close > view.upper and view.close > view.trend:
            return Decision("buy", "breakout_up", False, view)
        if self._parameters.allow_short and view.close < view.lower and view.close < view.trend:
            return Decision("sell", "breakout_down", False, view)
        return None

    def _view(self, candle: Candle) -> View:
        highs, lows = list(self._highs), list(self._lows)
        channel, exit_channel = self._parameters.channel, self._parameters.exit_channel
        assert self._average is not None, "a warm strategy has an average"
        return View(
            close=candle.close,
            upper=max(highs[-channel:]),
            lower=min(lows[-channel:]),
            exit_upper=max(highs[-exit_channel:]),
            exit_lower=min(lows[-exit_channel:]),
            trend=self._average,
            candles_seen=self._seen,
        )

    def _learn(self, candle: Candle) -> None:
        self._highs.append(candle.high)
        self._lows.append(candle.low)
        weight = 2.0 / (self._parameters.trend + 1)
        self._average = candle.close if self._average is None else self._average + weight * (candle.close - self._average)
        self._seen += 1


def size(instrument: Instrument, close: int, notional: Decimal) -> Decimal:
    """What so much money buys at the close, down to the lot."""
    value_of_one = instrument.notional(Decimal(1), instrument.price(close))
    return instrument.round_quantity(money.divide(notional, value_of_one))


def signal_id(strategy: str, version: str, account: str, candle: Candle, decision: Decision) -> str:
    """Deterministic: strategy, version, account, series, candle, direction."""
    parts = (
        strategy, version, account, candle.symbol, candle.interval_s, candle.source, candle.ts_open_ns, decision.side, decision.reason,
    )  # fmt: skip
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
