"""The engine's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ORDERS = Counter("smc_trading_orders_total", "Orders by what became of them first", ["account", "outcome"])
FILLS = Counter("smc_trading_fills_total", "Executions recorded", ["account", "symbol", "side"])
VOLUME = Counter("smc_trading_volume_quote_total", "Value traded, in the quote currency", ["account", "symbol"])
SIGNALS = Counter("smc_trading_signals_total", "Signals by what became of them", ["outcome"])
LATENCY = Histogram(
    "smc_trading_execution_latency_seconds",
    "From a decision to trade until the venue's answer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SLIPPAGE = Histogram(
    "smc_trading_slippage_ratio",
    "Average fill price against the price the signal saw, positive is worse",
    buckets=(-0.01, -0.001, -0.0001, 0, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05),
)
MISMATCHES = Counter("smc_trading_reconciliation_mismatches_total", "Differences between our books and the venue's", ["account", "kind"])
UNKNOWN_ORDERS = Gauge("smc_trading_unknown_orders", "Orders the venue has not answered for", ["account"])
OPEN_ORDERS = Gauge("smc_trading_open_orders", "Orders that still work", ["account"])
OUTBOX = Gauge("smc_trading_outbox_entries", "Events committed and not yet on the bus")
BAD_BATCHES = Counter("smc_trading_bad_tick_batches_total", "Stream entries that are no tick batch")
