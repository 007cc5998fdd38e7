"""Market data: feeds in, tick batches, latest quotes and closed candles out. The only writer of market data in the platform."""
