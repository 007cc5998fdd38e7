"""Candles and strategies for the tests of strategies: hand-made, synthetic and recorded candles, every kind with parameters that trade."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
from smc_candles import real_candles
from trading_platform.backtest import instruments
from trading_platform.market.candles import CandleBuilder
from trading_platform.market.synthetic import SyntheticMarket, synthetic_instrument
from trading_platform.messages import Candle
from trading_platform.strategies import parameters
from trading_platform.strategies.catalogue import create
from trading_platform.strategies.model import Decision, Strategy, decide
from trading_platform.strategies.parameters import Kind

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS

# Short enough to decide often in a few hundred candles.
QUICK: dict[Kind, dict[str, Any]] = {
    "donchian": {"channel": 6, "exit_channel": 4, "trend": 8},
    "ma_trend": {"fast": 3, "slow": 8, "atr": 4, "stop_channel": 5, "stop_atr": 1.5},
    "mean_reversion": {"period": 10, "entry_width": 1.5, "stop_width": 2.5, "rsi": 5, "oversold": 40, "overbought": 60},
    "smc_confluence": {"length": 3, "zone_candles": 60, "confluence": 2, "discount": 0.6},
}


def fresh(kind: Kind, interval_s: int = 60, **given: Any) -> Strategy[Any]:
    """A strategy that has seen nothing, short selling allowed."""
    return create(parameters.check(kind, {"allow_short": True} | given), kind, "X", interval_s)


def candle(number: int, open_: float, high: float, low: float, close: float) -> Candle:
    """The candle of minute `number`; prices in units, at a scale of 1."""
    prices = dict(zip(("open", "high", "low", "close"), (round(price * 10) for price in (open_, high, low, close)), strict=True))
    return Candle(symbol="X", interval_s=60, ts_open_ns=number * MINUTE_NS, volume=1, source="test", **prices)


def flat(closes: Iterable[float]) -> list[Candle]:
    """Candles that are nothing but their close."""
    return [candle(number, close, close, close, close) for number, close in enumerate(closes)]


def last(strategy: Strategy[Any], candles: Sequence[Candle], held: int) -> Decision | None:
    """The decision on the last candle."""
    decision = None
    for each in candles:
        decision = decide(strategy, each, Decimal(held), each.ts_open_ns + each.interval_s * SECOND_NS)
    return decision


@cache
def synthetic_candles(hours: int = 8) -> list[Candle]:
    """Minutes of the seeded synthetic market."""
    market = SyntheticMarket([synthetic_instrument(instruments.catalogue().symbol("BTCUSDT"), Decimal(60_000), 1.0, 1.0)], seed=5)
    begin = 1_767_600_000 * SECOND_NS
    builder = CandleBuilder([MINUTE_NS])
    trades = market.ticks(begin, begin + hours * 3600 * SECOND_NS).trades()
    builder.add(trades.instrument, trades.ts_event, trades.price, trades.size)
    columns = builder.close(begin + hours * 3600 * SECOND_NS)
    rows = zip(*(getattr(columns, name).tolist() for name in ("ts_open", "open", "high", "low", "close", "volume")), strict=True)
    names = ("ts_open_ns", "open", "high", "low", "close", "volume")
    return [Candle(symbol="X", interval_s=60, source="synthetic", **dict(zip(names, row, strict=True))) for row in rows]


@cache
def recorded_candles(market: str, count: int) -> list[Candle]:
    """The first candles of a recording; the test is skipped where it is absent."""
    scale, interval_s = {"eurusd": (100_000, 900), "btcusd": (100, 60)}[market]
    columns = real_candles(market)[:count]
    prices = [np.rint(column * scale).astype(int).tolist() for column in (columns.open, columns.high, columns.low, columns.close)]
    return [
        Candle(symbol="X", interval_s=interval_s, ts_open_ns=time_us * 1_000, open=o, high=h, low=lo, close=c, volume=1, source=market)
        for time_us, o, h, lo, c in zip(columns.time_us.tolist(), *prices, strict=True)
    ]
