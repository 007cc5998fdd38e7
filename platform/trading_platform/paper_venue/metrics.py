"""The paper venue's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

ORDERS = Counter("smc_trading_paper_venue_orders_total", "Orders written, each once for every group it changed in")
TRADES = Counter("smc_trading_paper_venue_trades_total", "Executions of our orders")
GAPS = Counter("smc_trading_paper_venue_stream_gaps_total", "Times the market's stream no longer had what was missed")
BAD_BATCHES = Counter("smc_trading_paper_venue_bad_tick_batches_total", "Entries of the market's stream that are no tick batch")
FORGOTTEN = Counter("smc_trading_paper_venue_forgotten_orders_total", "Orders closed for so long that they left the tables")
FAULTS = Counter("smc_trading_paper_venue_faults_total", "Misbehaviour done on demand", ["kind"])
COMMIT = Histogram(
    "smc_trading_paper_venue_commit_seconds",
    "Time to write what a group of requests changed",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
