"""Whatever comes, in whatever portions, and wherever the machine stops: what is read is what was sent, in order, each row once."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from lake_ticks import DAY, MONDAY, Crash, FallibleDisk, S, batch, expected, read, roll
from trading_platform.batches import TickBatch
from trading_platform.market_data import lake, lake_files, lake_upkeep
from trading_platform.market_data.lake import Lake
from trading_platform.market_data.lake_files import StreamId

LATER = datetime.fromtimestamp(MONDAY / S + 400 * 86_400, UTC)


@dataclass(frozen=True)
class Send:
    """A batch on the bus: rows of two instruments, on either side of midnight, early, late and at once."""

    times: tuple[int, ...]
    instruments: tuple[int, ...]


@dataclass(frozen=True)
class Write:
    """Up to so many of what the bus has and the lake has not, as one roll."""

    entries: int
    crash_after: int | None


@dataclass(frozen=True)
class Merge:
    crash_after: int | None


@st.composite
def sends(draw: st.DrawFn) -> Send:
    times = draw(st.lists(st.integers(-4, 4), min_size=1, max_size=5))
    return Send(tuple(times), tuple(draw(st.sampled_from([1, 2])) for _ in times))


STOPS = st.none() | st.integers(0, 12)
HAPPENINGS = st.lists(st.one_of(sends(), sends(), st.builds(Write, st.integers(1, 4), STOPS), st.builds(Merge, STOPS)), max_size=25)


class World:
    """A bus that keeps everything, and a lake on a disk that may stop."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.disk = FallibleDisk(seed)
        self.sent: list[TickBatch] = []
        self.rows = 0
        self.start()

    def start(self) -> None:
        self.lake = Lake(self.root, self.disk)
        with self.lake.exclusive():
            recovered = self.lake.recover()
        self.position = recovered.position
        assert recovered.ordinal == recovered.position.ms

    def send(self, happening: Send) -> None:
        times = [MONDAY + DAY + time for time in happening.times]
        self.sent.append(batch(times, happening.instruments, start=self.rows))
        self.rows += len(times)

    def write(self, entries: int) -> None:
        done = self.position.ms
        waiting = list(enumerate(self.sent, 1))[done : done + entries]
        if waiting:
            self.lake.append(roll(waiting))
            self.position = StreamId(waiting[-1][0], 0)

    def merge(self) -> None:
        for directory in self.lake.directories():
            lake_upkeep.remove_replaced(self.lake, directory)
            lake_upkeep.compact(self.lake, directory, LATER, threading.Event())

    def do(self, happening: Send | Write | Merge) -> None:
        if isinstance(happening, Send):
            self.send(happening)
            return
        self.disk.left = happening.crash_after
        try:
            if isinstance(happening, Write):
                self.write(happening.entries)
            else:
                self.merge()
            self.disk.left = None
        except Crash:
            self.start()

    def check(self) -> None:
        written = self.sent[: self.position.ms]
        for symbol, instrument in (("BTCUSDT", 1), ("ETHUSDT", 2)):
            assert read(self.lake, symbol) == expected(written, instrument)


@settings(max_examples=100, deadline=None)
@given(HAPPENINGS, st.integers(0, 1_000))
def test_any_batches_rolls_merges_and_crashes_read_back_what_was_sent_in_order(happenings: list[Send | Write | Merge], seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory, patch("os.fsync"), patch.object(lake, "ROW_GROUP", 2):
        world = World(Path(directory) / "lake", seed)
        for happening in happenings:
            world.do(happening)
            world.check()
        world.write(len(world.sent))
        world.merge()
        world.check()
        assert world.position.ms == len(world.sent)
        assert world.lake.gaps() == []
        assert all(len(lake_files.visible(each)) == 1 for each in world.lake.directories())


@settings(max_examples=60, deadline=None)
@given(st.lists(sends(), min_size=1, max_size=6), st.integers(-5, 5), st.integers(1, 9), st.sampled_from(["all", "quotes", "trades"]))
def test_any_range_and_kind_is_the_rows_of_it(sent: list[Send], start: int, length: int, kind: str) -> None:
    with tempfile.TemporaryDirectory() as directory, patch("os.fsync"), patch.object(lake, "ROW_GROUP", 2):
        world = World(Path(directory) / "lake", 0)
        for each in sent:
            world.send(each)
            world.write(1)
        from_ns = MONDAY + DAY + start
        wanted = {"all": 7, "quotes": 6, "trades": 1}[kind]
        rows = [row for row in expected(world.sent) if from_ns <= row[0] < from_ns + length and row[4] & wanted]
        assert read(world.lake, "BTCUSDT", from_ns, from_ns + length, kind=kind) == rows
