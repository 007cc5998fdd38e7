"""What the tick lake and the candle partitions tell about themselves."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

ROWS: Final = Counter("smc_trading_lake_rows_total", "Tick rows written to the lake")
FILES: Final = Counter("smc_trading_lake_files_total", "Files written to the lake", ["kind"])
BYTES: Final = Counter("smc_trading_lake_bytes_total", "Bytes written to the lake", ["kind"])
REMOVED: Final = Counter("smc_trading_lake_removed_files_total", "Files removed from the lake", ["reason"])
GAPS: Final = Counter("smc_trading_lake_gaps_total", "Times ticks are missing from the lake; the directory gaps has which")
GAP_BATCHES: Final = Counter("smc_trading_lake_gap_batches_total", "Tick batches missing from the lake, where their number is known")
QUARANTINED: Final = Counter("smc_trading_lake_quarantined_total", "Files and batches set aside", ["what"])
FAILURES: Final = Counter("smc_trading_lake_failures_total", "Writes to the lake that failed; they are tried again")
NEWEST: Final = Gauge("smc_trading_lake_newest_tick_timestamp_seconds", "When the newest tick on disk was received")
LAG: Final = Gauge("smc_trading_lake_lag_seconds", "Age of the oldest tick that is read but not yet on disk; 0 where there is none")
FREE: Final = Gauge("smc_trading_lake_free_bytes", "Room left on the lake's file system")

PARTITIONS_AHEAD: Final = Gauge("smc_trading_candle_partitions_ahead", "Months from this one on whose candle partition exists")
DEFAULT_ROWS: Final = Gauge("smc_trading_candle_default_partition_rows", "Candles in the default partition, counted to 10001")

for _kind in ("roll", "merge"):
    FILES.labels(_kind)
    BYTES.labels(_kind)
for _what in ("file", "batch"):
    QUARANTINED.labels(_what)
for _reason in ("merged", "retention"):
    REMOVED.labels(_reason)
