"""The market all contestants run over: a seeded walk of quotes one tick wide, a thousand a second. numpy alone: the peers have no more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

START_NS = 1_767_600_000_000_000_000
STEP_NS = 1_000_000
BLOCK = 65_536
FIRST = 5_000_000  # 50,000.00


def blocks(quotes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Times in UTC nanoseconds and bids in cents; every ask is a cent more. The same for every number of quotes, as far as it goes."""
    dice, bid = np.random.default_rng(20260105), FIRST
    for at in range(0, quotes, BLOCK):
        steps = dice.integers(-1, 2, BLOCK)
        rows = min(BLOCK, quotes - at)
        bids = bid + np.cumsum(steps)[:rows]
        bid = int(bids[-1])
        yield START_NS + (at + np.arange(rows, dtype=np.int64)) * STEP_NS, bids.astype(np.int64)
