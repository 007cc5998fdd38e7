"""Strategies: small classes that see closed candles and say what to trade. Pure: no I/O, no clock; the same class in backtest and live.

What a strategy remembers is made of candles alone: what is held is asked of it, never kept by it (docs/strategies.md). Importing this
package costs nothing; a strategy's own libraries are imported with its class (`catalogue`).
"""
