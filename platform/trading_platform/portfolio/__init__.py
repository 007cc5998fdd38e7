"""Portfolio: what the fills add up to. Ledger, positions and results are projections of fills, made exactly once."""
