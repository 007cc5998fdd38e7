"""What market data tells about itself."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

ROWS: Final = Counter("smc_trading_market_data_rows_total", "Tick rows published", ["feed"])
BATCHES: Final = Counter("smc_trading_market_data_batches_total", "Tick batches published", ["feed"])
DROPPED: Final = Counter("smc_trading_market_data_dropped_rows_total", "Live tick rows not published: the bus was away", ["feed"])
QUARANTINED: Final = Counter("smc_trading_market_data_quarantined_rows_total", "Tick rows refused", ["feed", "reason"])
LATE: Final = Counter("smc_trading_market_data_late_ticks_total", "Ticks too late for a candle that had closed", ["feed"])
CANDLES: Final = Counter("smc_trading_market_data_candles_total", "Candles closed", ["feed"])
CANDLES_STORED: Final = Counter("smc_trading_market_data_candles_stored_total", "Candles written to PostgreSQL")
CANDLES_DROPPED: Final = Counter(
    "smc_trading_market_data_candles_dropped_total", "Candles given up: the receiver was away too long", ["receiver"]
)
LATENCY: Final = Histogram(
    "smc_trading_market_data_publish_latency_seconds",
    "From a live event to its being on the bus",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0),
)
AGE: Final = Gauge("smc_trading_market_data_age_seconds", "Time since an instrument's last tick was received", ["symbol"])
REPLAYS: Final = Gauge("smc_trading_market_data_replays_running", "Replays running")

for _receiver in ("bus", "postgresql"):
    CANDLES_DROPPED.labels(_receiver)

_last_received_ns: dict[str, int] = {}


def received(symbol: str, now_ns: int) -> None:
    """An instrument's ticks were published; its age is counted from here at every scrape."""
    if symbol not in _last_received_ns:
        AGE.labels(symbol).set_function(lambda: (time.time_ns() - _last_received_ns.get(symbol, 0)) / 1e9)
    _last_received_ns[symbol] = now_ns


def forget(symbols: list[str]) -> None:
    """These are no longer ours to be fresh: the replay ended, or another host leads."""
    for symbol in symbols:
        if _last_received_ns.pop(symbol, None) is not None:
            AGE.remove(symbol)
