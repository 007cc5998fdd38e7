"""Feeds: where ticks come from and when they are due. They know the time only as it is told to them.

ticks = await feed.take(now_ns)      # what is due and was not taken yet, in time order
feed.watermark_ns                    # everything up to here has been said
feed.wait_s(now_ns)                  # when to ask again
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np

from trading_platform.instruments import Catalogue
from trading_platform.market import replay_file
from trading_platform.market.replay_file import ReplayFacts
from trading_platform.market.synthetic import SECOND_NS, SyntheticMarket
from trading_platform.market.ticks import Ticks

PriceBasis = Literal["trades", "quotes"]

# A replay hands over at most so many rows at once, so that the loop stays responsive at any speed.
REPLAY_ROWS: Final = 20_000
LONGEST_WAIT_S: Final = 1.0


class Feed(Protocol):
    """One source of ticks. `lossless` feeds wait while the bus is away, live ones go on and their ticks are dropped."""

    source: str
    basis: PriceBasis
    lossless: bool

    @property
    def watermark_ns(self) -> int: ...

    @property
    def finished(self) -> bool: ...

    async def take(self, now_ns: int) -> Ticks: ...

    def wait_s(self, now_ns: int) -> float: ...


class SyntheticFeed:
    """The synthetic market in real time."""

    source = "synthetic"
    basis: PriceBasis = "trades"
    lossless = False
    finished = False

    def __init__(self, market: SyntheticMarket, start_ns: int) -> None:
        self._market = market
        self.watermark_ns = start_ns

    async def take(self, now_ns: int) -> Ticks:
        return self.advance(now_ns)

    def advance(self, now_ns: int) -> Ticks:
        """What happened since the watermark; after a long time that is work for a thread."""
        ticks = self._market.ticks(self.watermark_ns, max(self.watermark_ns, now_ns))
        self.watermark_ns = max(self.watermark_ns, now_ns)
        return ticks

    def wait_s(self, now_ns: int) -> float:
        coming = self._market.ticks(self.watermark_ns, self.watermark_ns + SECOND_NS)
        if not len(coming):
            return LONGEST_WAIT_S
        return float(np.clip((int(coming.ts_event[0]) + 1 - now_ns) / 1e9, 0.0, LONGEST_WAIT_S))


class ReplayFeed:
    """A checked file, `speed` times as fast as it was recorded; None is as fast as everything downstream takes it."""

    lossless = True

    def __init__(self, source: str, path: Path, facts: ReplayFacts, catalogue: Catalogue, speed: float | None, start_ns: int) -> None:
        self.source = source
        self.facts = facts
        self.basis: PriceBasis = "quotes" if facts.kind == "quotes" else "trades"
        self.rows_taken = 0
        self._blocks: Iterator[Ticks] = replay_file.read(path, facts, catalogue)
        self._block = Ticks.empty()
        self._ended = False
        self._speed = speed
        self._start_ns = start_ns
        self._watermark_ns = facts.first_ns

    @property
    def watermark_ns(self) -> int:
        return self.facts.end_ns if self.finished and self.facts.interval_ns else self._watermark_ns

    @property
    def finished(self) -> bool:
        return self._ended and not len(self._block)

    @property
    def unpaced(self) -> bool:
        return self._speed is None

    @property
    def progress(self) -> float:
        """Share of the recorded time that has been played."""
        span = self.facts.end_ns - self.facts.first_ns
        return 1.0 if self.finished or span == 0 else (self._watermark_ns - self.facts.first_ns) / span

    async def take(self, now_ns: int) -> Ticks:
        await self._look_ahead()
        due = min(self._due_rows(now_ns), REPLAY_ROWS)
        ticks, self._block = self._block[:due], self._block[due:]
        if len(ticks):
            self.rows_taken += len(ticks)
            self._watermark_ns = int(ticks.ts_event[-1])
        await self._look_ahead()
        return ticks

    async def _look_ahead(self) -> None:
        """Have the next rows at hand, so that `finished` and `wait_s` are known."""
        while not len(self._block) and not self._ended:
            block = await asyncio.to_thread(next, self._blocks, None)
            self._ended = block is None
            self._block = block if block is not None else Ticks.empty()

    def _due_rows(self, now_ns: int) -> int:
        if self._speed is None:
            return len(self._block)
        played_to = self.facts.first_ns + int((now_ns - self._start_ns) * self._speed)
        return int(np.searchsorted(self._block.ts_event, played_to, side="right"))

    def wait_s(self, now_ns: int) -> float:
        if self._speed is None or not len(self._block):
            return 0.0
        due_ns = self._start_ns + (int(self._block.ts_event[0]) - self.facts.first_ns) / self._speed
        return float(np.clip((due_ns - now_ns) / 1e9, 0.0, LONGEST_WAIT_S))
