"""Strategy: closed candles in, signals out. It decides, it never trades; every decision says what it saw."""
