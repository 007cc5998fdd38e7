"""The loop that moves market data: whatever is due from the live feed and from replays goes through quarantine and candles
onto the bus. Runs on the one host that leads; everything a new leader needs it works out from the market and the candle table.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from pathlib import Path
from typing import Final

import numpy as np

from trading_platform import bus, instruments
from trading_platform.bus import Bus
from trading_platform.config import ConfigError, MarketDataSettings
from trading_platform.db import Database
from trading_platform.instruments import Catalogue
from trading_platform.market import replay_file
from trading_platform.market.candles import CandleBuilder, Candles
from trading_platform.market.quality import Quarantine
from trading_platform.market.replay_file import ReplayRefused
from trading_platform.market.synthetic import SECOND_NS, SyntheticInstrument, SyntheticMarket, synthetic_instrument
from trading_platform.market.ticks import Ticks
from trading_platform.market_data import metrics, replays
from trading_platform.market_data.feeds import Feed, ReplayFeed, SyntheticFeed
from trading_platform.market_data.publisher import Publisher
from trading_platform.market_data.replays import Replay, Running
from trading_platform.market_data.store import CandleStore
from trading_platform.problems import Problem
from trading_platform.service import LoopContext

log = logging.getLogger(__name__)

LEASE: Final = "market-data"
BATCH_WINDOW_S: Final = 0.005
# Live ticks older than this are no longer live: after an outage or a pause the bus gets the present, not the past.
LIVE_AGE_NS: Final = 5 * SECOND_NS
HISTORY_STEP_NS: Final = 60 * SECOND_NS
# A new leader sends the candles that closed while nobody led, if that was not longer ago than this.
RESEND_NS: Final = 3600 * SECOND_NS
BUS_RETRIED_EVERY_S: Final = 0.2


class _Lane:
    """A feed with what is particular to it: its quarantine, its open candles."""

    def __init__(self, feed: Feed, intervals_ns: list[int]) -> None:
        self.feed = feed
        self.label = feed.source.partition(":")[0]
        self.quarantine = Quarantine()
        self.builder = CandleBuilder(intervals_ns) if intervals_ns else None
        self.sent_until_ns = 0

    async def take(self, now_ns: int) -> tuple[Ticks, Candles]:
        """What is due, cleaned, and the candles it closed."""
        before = self.quarantine.refused.copy()
        ticks = self.quarantine.screen(await self.feed.take(now_ns))
        for reason, count in (self.quarantine.refused - before).items():
            metrics.QUARANTINED.labels(self.label, reason).inc(count)
        return ticks, self.candles(ticks)

    def candles(self, ticks: Ticks) -> Candles:
        if self.builder is None:
            return Candles.empty()
        points = ticks.trades() if self.feed.basis == "trades" else ticks.midpoints()
        late = self.builder.late_ticks
        self.builder.add(points.instrument, points.ts_event, points.price, points.size)
        metrics.LATE.labels(self.label).inc(self.builder.late_ticks - late)
        closed = self.builder.close(self.feed.watermark_ns)
        metrics.CANDLES.labels(self.label).inc(len(closed))
        return closed


class MarketData:
    """Leads the feed of the whole platform, or stands by."""

    def __init__(self, settings: MarketDataSettings, replay_directory: Path, db: Database, on_bus: Bus) -> None:
        self._settings = settings
        self._replay_directory = replay_directory
        self._db = db
        self._bus = on_bus
        self.store = CandleStore(db)
        self._catalogue: Catalogue | None = None
        self._publisher: Publisher | None = None
        self._running: dict[str, tuple[Running, _Lane]] = {}
        self._asked: deque[tuple[Running, _Lane]] = deque()
        self._symbols_taken: set[str] = set()
        self._intervals_ns = [seconds * SECOND_NS for seconds in settings.intervals_s]

    # --- questions ----------------------------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        return self._publisher is not None

    @property
    def live_symbols(self) -> list[str]:
        return list(self._settings.instruments) if self._settings.feed == "synthetic" else []

    async def catalogue(self) -> Catalogue:
        """Read once; instruments are added by a release, which restarts the service."""
        if self._catalogue is None:
            self._catalogue = await instruments.load(self._db)
        return self._catalogue

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Move data while this host leads."""
        catalogue = await self.catalogue()
        publisher = Publisher(self._bus, catalogue)
        try:
            self._publisher = publisher
            lanes = [lane for lane in [await self._live_lane(context, catalogue, publisher)] if lane]
            while not context.stopping:
                context.beat()
                context.lease.assert_held()
                while self._asked:
                    running, lane = self._asked.popleft()
                    self._running[running.id] = (running, lane)
                for lane in lanes:
                    await self._move(lane, publisher)
                hurry = False
                for running, lane in list(self._running.values()):
                    moved = await self._play(running, lane, publisher)
                    hurry = hurry or (moved and running.feed.unpaced)
                await self._rest(context, lanes, hurry)
        finally:
            self._publisher = None
            metrics.forget(self.live_symbols)
            await self._interrupt_replays()

    async def _live_lane(self, context: LoopContext, catalogue: Catalogue, publisher: Publisher) -> _Lane | None:
        """The live feed, its candles already grown from the past: what a leader that was there all along would hold."""
        if self._settings.feed != "synthetic":
            return None
        specs = [self._synthetic(catalogue, symbol) for symbol in self._settings.instruments]
        market = SyntheticMarket(specs, self._settings.seed)
        now_ns = time.time_ns()
        known = await self.store.newest([spec.instrument_id for spec in specs], list(self._settings.intervals_s))
        longest = max(self._intervals_ns)
        begin = max(now_ns - self._settings.history_s * SECOND_NS, min(known.values(), default=0))
        feed = SyntheticFeed(market, begin - begin % longest)
        lane = _Lane(feed, self._intervals_ns)
        while feed.watermark_ns < time.time_ns() - SECOND_NS:
            context.beat()
            ticks = await asyncio.to_thread(feed.advance, min(feed.watermark_ns + HISTORY_STEP_NS, time.time_ns()))
            candles = lane.candles(ticks)
            self.store.add(candles, feed.source)
            missed = candles[self._missed(candles, known, now_ns)]
            # The present does not wait for the past: it is the same market, whenever it is asked.
            until = time.time_ns()
            present = market.ticks(max(lane.sent_until_ns, until - SECOND_NS), until)
            lane.sent_until_ns = until
            await publisher.publish(present, missed, feed.source, until)
        log.info("live feed ready", extra={"symbols": self.live_symbols, "history_s": (now_ns - begin) // SECOND_NS})
        return lane

    @staticmethod
    def _missed(candles: Candles, known: dict[tuple[int, int], int], now_ns: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which candles closed since the last leader wrote one, not long ago: strategies have not seen them yet."""
        newest = np.array(
            [
                known.get((int(instrument), int(interval) // SECOND_NS), np.iinfo(np.int64).max)
                for instrument, interval in zip(candles.instrument, candles.interval, strict=True)
            ],
            dtype=np.int64,
        )
        missed: np.ndarray[tuple[int], np.dtype[np.bool_]] = (candles.ts_open > newest) & (candles.ts_close > now_ns - RESEND_NS)
        return missed

    def _synthetic(self, catalogue: Catalogue, symbol: str) -> SyntheticInstrument:
        try:
            instrument = catalogue.symbol(symbol)
        except instruments.UnknownInstrument as error:
            raise ConfigError(f"market_data.instruments: {error}") from None
        return synthetic_instrument(
            instrument, self._settings.prices.get(symbol), self._settings.quotes_per_second, self._settings.trades_per_second
        )

    async def _move(self, lane: _Lane, publisher: Publisher) -> None:
        """One moment of a live feed: what cannot be sent now is counted and gone, candles excepted."""
        now_ns = time.time_ns()
        ticks, candles = await lane.take(now_ns)
        self.store.add(candles, lane.feed.source)
        old, sent = (int(row) for row in np.searchsorted(ticks.ts_event, [now_ns - LIVE_AGE_NS, lane.sent_until_ns]))
        live = ticks[max(old, sent) :]
        published = await publisher.publish(live, candles, lane.feed.source, now_ns)
        if published and len(live):
            metrics.LATENCY.observe((time.time_ns() - int(live.ts_event[0])) / 1e9)
        lost = max(0, len(ticks) - sent) - (len(live) if published else 0)
        if lost:
            metrics.DROPPED.labels(lane.label).inc(lost)

    # --- replays ------------------------------------------------------------------------------------------------------

    async def start_replay(self, path: str, speed: float | None) -> Replay:
        """Check the whole file, then have it played. Raises Problem."""
        if self._publisher is None:
            raise await self._not_leading()
        file = self._replay_path(path)
        catalogue = await self.catalogue()
        try:
            facts = await asyncio.to_thread(replay_file.inspect, file, catalogue)
        except ReplayRefused as error:
            raise Problem(422, "REPLAY_REFUSED", f"{file.name}: {error}") from None
        if self._publisher is None:
            raise await self._not_leading()
        self._claim(facts.symbols)
        replay_id = replays.new_id()
        source = f"replay:{replay_id}"
        feed = ReplayFeed(source, file, facts, catalogue, speed, time.time_ns())
        intervals = [i for i in self._intervals_ns if not facts.interval_ns or i % facts.interval_ns == 0]
        running = Running(feed, replay_id, file, speed, [interval // SECOND_NS for interval in intervals])
        self._publisher.forget([catalogue.symbol(symbol).id for symbol in facts.symbols])
        report = running.report("running", time.time())
        self._asked.append((running, _Lane(feed, intervals)))
        metrics.REPLAYS.inc()
        await replays.save(self._bus, report)
        log.info("replay starts", extra={"replay": replay_id, "file": file.name, "rows": facts.rows, "speed": speed or "max"})
        return report

    async def stop_replay(self, replay_id: str) -> None:
        """Have it end at the next moment. Raises Problem."""
        playing = {running.id: running for running, _ in [*self._running.values(), *self._asked]}
        if replay_id not in playing:
            raise (
                await self._not_leading()
                if self._publisher is None
                else Problem(404, "UNKNOWN_REPLAY", f"no replay {replay_id[:40]!r} is running on this host")
            )
        playing[replay_id].stopped_by = "an operator"

    def _replay_path(self, path: str) -> Path:
        """The file asked for, inside the replay directory and nowhere else."""
        try:
            file = (self._replay_directory / path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            raise Problem(404, "REPLAY_FILE_MISSING", f"{path!r} is not in {self._replay_directory}; copy it there first") from None
        if not file.is_relative_to(self._replay_directory.resolve()) or not file.is_file():
            raise Problem(422, "REPLAY_FILE_OUTSIDE", f"{path!r} is no file inside {self._replay_directory}; only files there are replayed")
        return file

    def _claim(self, symbols: tuple[str, ...]) -> None:
        """One symbol, one feed: two prices for one thing would be neither."""
        if live := sorted(set(symbols) & set(self.live_symbols)):
            raise Problem(
                409,
                "SYMBOL_HAS_A_LIVE_FEED",
                f"{live[0]} is fed by the live feed; remove it from market_data.instruments to replay it",
            )
        if taken := sorted(set(symbols) & self._symbols_taken):
            raise Problem(409, "SYMBOL_IS_REPLAYED", f"{taken[0]} is being replayed already; wait until that replay is done")
        self._symbols_taken |= set(symbols)

    async def _play(self, running: Running, lane: _Lane, publisher: Publisher) -> bool:
        """One moment of a replay, and whether it moved: nothing is lost, so it holds still while the bus is away, and at full speed
        while consumers of candles are behind."""
        if running.stopped_by is not None:
            await self._end(running, "interrupted", f"stopped by {running.stopped_by}")
            return True
        if running.unsent is None:
            if running.feed.unpaced and running.waits_for_consumers(await self._bus_lag(), time.monotonic()):
                return False
            try:
                ticks, candles = await lane.take(time.time_ns())
            except ReplayRefused as error:
                await self._end(running, "failed", str(error))
                return True
            self.store.add(candles, running.feed.source)
        else:
            ticks, candles = running.unsent, Candles.empty()  # the publisher has kept the candles
        sent = await publisher.publish(ticks, candles, running.feed.source, time.time_ns())
        running.unsent = None if sent else ticks
        if sent and running.feed.finished:
            await self._end(running, "done")
        elif sent and running.due_for_report(time.monotonic()):
            await replays.save(self._bus, running.report("running", time.time()))
        return sent

    async def _bus_lag(self) -> int:
        try:
            groups = await self._bus.redis.xinfo_groups("md:candles")
        except bus.TRANSIENT:
            return 0
        return max((int(group.get("lag") or 0) for group in groups), default=0)

    async def _end(self, running: Running, state: replays.State, detail: str = "") -> None:
        del self._running[running.id]
        self._symbols_taken -= set(running.feed.facts.symbols)
        metrics.forget(list(running.feed.facts.symbols))
        metrics.REPLAYS.dec()
        await replays.save(self._bus, running.report(state, time.time(), detail))
        log.info("replay ends", extra={"replay": running.id, "state": state, "detail": detail})

    async def _interrupt_replays(self) -> None:
        for running, lane in self._asked:
            self._running[running.id] = (running, lane)
        self._asked.clear()
        for running, _ in list(self._running.values()):
            await self._end(running, "interrupted", "this host stopped leading; start it again")

    async def _not_leading(self) -> Problem:
        holder = await self._db.fetch_value(
            "SELECT holder FROM leases WHERE name = %s AND holder IS NOT NULL AND expires_at > clock_timestamp()", (LEASE,)
        )
        leader = str(holder).split(":", 1)[0] if holder else None
        where = f"{leader} does: start the replay there" if leader else "nobody does yet: try again in some seconds"
        return Problem(409, "NOT_THE_LEADER", f"this host does not lead market data; {where}", leader=leader)

    # --- pace ---------------------------------------------------------------------------------------------------------

    async def _rest(self, context: LoopContext, lanes: list[_Lane], hurry: bool) -> None:
        """Until something is due; never shorter than the batch window, so that what comes together leaves together."""
        if hurry or self._asked:
            await asyncio.sleep(0)
            return
        now_ns = time.time_ns()
        waits = [lane.feed.wait_s(now_ns) for lane in lanes]
        waits += [
            BUS_RETRIED_EVERY_S if running.unsent is not None else running.feed.wait_s(now_ns) for running, _ in self._running.values()
        ]
        await context.sleep(max(min(waits, default=1.0), BATCH_WINDOW_S))
