"""Market data as columns, pure: ticks, candles, what is quarantined, recorded files, the synthetic market.

Shared by market-data and backtest; no I/O beyond reading a recording.
"""
