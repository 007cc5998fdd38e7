"""The loop that runs the venue: everything that changes it goes through one sequence, is committed in groups, then told.

Requests and ticks wait in one queue. A group of them is applied in memory, written in one statement, and only after that
answered and reported, so whoever was told something finds it after any crash. Reads of what is open take their turn too:
an answer never shows what is not committed, and never misses what was. When a commit fails, what was being answered is
unknown, the memory is thrown away and built anew from the tables.

Ticks come from the stream's retained entries, from the position of the last commit on: what passed while the venue was down
is matched when it is back. Redis being away stops the market, not the venue: cancels and queries go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from trading_platform import bus, db
from trading_platform.batches import InvalidBatch, TickBatch
from trading_platform.bus import Bus, Entry, Tail
from trading_platform.config import PaperVenueSettings, Settings
from trading_platform.db import Database
from trading_platform.domain.models import LatencyModel
from trading_platform.messages import TICKS
from trading_platform.paper_venue import errors, metrics
from trading_platform.paper_venue.errors import VenueError
from trading_platform.paper_venue.exchange import Exchange, models_of
from trading_platform.paper_venue.faults import Faults
from trading_platform.paper_venue.market import Board
from trading_platform.paper_venue.signing import Window
from trading_platform.paper_venue.store import Store
from trading_platform.paper_venue.streams import Connection, PublicStreams, UserStreams
from trading_platform.service import LoopContext, together

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Exchange, int], Any]
Identity = tuple[str, str]

GROUP = 256
QUEUED_REQUESTS = 10_000
QUEUED_BATCHES = 256
READ_BATCHES = 100
KEEP_POSITION_S = 1.0
DAY_MS = 86_400_000
FORGET_EVERY_S = 3_600.0
FORGET_BATCH = 1_000
FORGET_PAUSE_S = 0.05
FIRST_LOOK = 200  # entries of the stream a venue that never ran starts from: the market as it is, there is nothing to match


@dataclass(slots=True)
class _Request:
    work: Work
    window: Window | None
    identities: tuple[Identity, ...]
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Ticks:
    entry_id: bytes
    batch: TickBatch | None


@dataclass(slots=True)
class _Leading:
    """What exists while this process leads."""

    exchange: Exchange
    boards: dict[str, Board]
    boards_by_id: dict[int, Board]
    position: str | None
    gaps: int
    committed: str | None
    committed_at: float = field(default_factory=time.monotonic)


class Delays:
    """How long requests wait before their turn. Those about one client order id wait equally long: none overtakes its order."""

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency
        self._asked = itertools.count()

    def next_s(self, about: str | None) -> float:
        return self._latency.delay_ns(next(self._asked) if about is None else zlib.crc32(about.encode())) / 1e9


class PaperVenue:
    """One process's part: leads, or waits to."""

    def __init__(self, database: Database, stream: Bus, settings: Settings, faults: Faults) -> None:
        self.store = Store(database)
        self.settings: PaperVenueSettings = settings.paper_venue
        self.public = PublicStreams()
        self.faults = faults
        self.users = UserStreams(faults)
        self.connections: set[Connection] = set()  # cut when this process stops leading: whoever leads then is elsewhere
        self._bus = stream
        self.candle_intervals = sorted(settings.market_data.intervals_s)
        self._accounts = [account for account in settings.accounts if settings.venues[account.venue].paper]
        self._delays = Delays(models_of(settings.paper_venue).latency)
        self._queue: deque[_Request | _Ticks] = deque()
        self._wake = asyncio.Event()
        self._requests = 0
        self._room = asyncio.Semaphore(QUEUED_BATCHES)
        self._leading: _Leading | None = None
        self._ready = False

    # --- for the API ------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether this process leads and has caught up with the market."""
        return self._ready

    @property
    def exchange(self) -> Exchange:
        """Raises -1008 while this process does not lead. For what never changes (instruments, rates): anything else takes its turn."""
        return self._led().exchange

    def now_ms(self) -> int:
        """The venue's clock as it shows it: drifting when told to."""
        return time.time_ns() // 1_000_000 + self.faults.drift_ms()

    def board(self, symbol: str) -> Board:
        """Raises -1121."""
        try:
            return self._led().boards[symbol]
        except KeyError:
            raise errors.invalid_symbol() from None

    def boards(self) -> list[Board]:
        return list(self._led().boards.values())

    def health(self) -> dict[str, Any]:
        led = self._leading
        return {"leads": self._ready, "position": led.position if led else None, "stream_gaps": led.gaps if led else None}

    async def ask(
        self,
        work: Callable[[Exchange, int], T],
        *,
        window: Window | None = None,
        identities: tuple[Identity, ...] = (),
        about: str | None = None,
    ) -> T:
        """Do `work(exchange, now_ms)` in its turn; its result, after everything it changed is committed.

        `window` is checked again at that moment; `identities` are client order ids about to be used. Requests `about` one client
        order id have the same latency: what is asked of an order never overtakes it. Raises VenueError: with 5xx -1008 nothing was
        done, with -1007 nobody knows.
        """
        self._led()
        if self._requests >= QUEUED_REQUESTS:
            raise errors.busy()
        if delay_s := self._delays.next_s(about):
            await asyncio.sleep(delay_s)
            self._led()
        request = _Request(work, window, identities, asyncio.get_running_loop().create_future())
        self._requests += 1
        self._enqueue(request)
        result: T = await request.answer
        return result

    def _enqueue(self, item: _Request | _Ticks) -> None:
        self._queue.append(item)
        self._wake.set()

    def _led(self) -> _Leading:
        if self._leading is None or not self._ready:
            raise errors.busy("This process does not lead; ask again.")
        return self._leading

    # --- the loop's body ----------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Under the lease: load, catch up, serve."""
        loaded = await self.store.load(context.lease, self._accounts)
        exchange = Exchange(loaded.catalogue, self.settings, loaded.state)
        boards = {
            symbol: Board(instrument, exchange.book(instrument), self.public.wants, self.public.publish)
            for symbol, instrument in exchange.instruments.items()
        }
        self._leading = _Leading(
            exchange, boards, {board.instrument.id: board for board in boards.values()}, loaded.position, loaded.gaps, loaded.position
        )
        self._room = asyncio.Semaphore(QUEUED_BATCHES)
        try:
            await together(context, market=self._read, sequence=self._sequence, retention=self._forget)
        finally:
            self._ready = False
            self._leading = None
            self._refuse_queued()
            self.users.close()
            for connection in list(self.connections):
                connection.close()

    def _refuse_queued(self) -> None:
        requests = [item for item in self._queue if isinstance(item, _Request)]
        self._queue.clear()
        self._requests -= len(requests)
        _refuse(requests, errors.busy("This process does not lead any more; ask again."))

    # --- the market ---------------------------------------------------------------------------------------------------------

    async def _read(self, context: LoopContext) -> None:
        """Bring ticks into the queue, from where the last commit was; the venue is ready once it has caught up."""
        led = self._leading
        assert led is not None, "set by run"
        tail: Tail | None = None
        position = led.position
        while not context.stopping:
            context.beat()
            try:
                if tail is None:
                    tail = self._bus.tail(TICKS, start=await self._start_of(position, led))
                entries = await tail.read(count=READ_BATCHES, block_ms=500 if self._ready else 1)
            except bus.TRANSIENT as error:
                self._ready, tail = True, None
                log.warning("no market: the bus is away", extra={"error": str(error)})
                await context.sleep(0.5)
                continue
            for entry in entries:
                await self._room.acquire()
                self._enqueue(_Ticks(entry.id, _decode(entry)))
                position = entry.id.decode()
            if not entries and not self._ready:
                await self._caught_up(context, position, led)

    async def _caught_up(self, context: LoopContext, position: str | None, led: _Leading) -> None:
        while led.position != position and not context.stopping:
            await asyncio.sleep(0.005)
        self._ready = True
        log.info("the venue is open", extra={"position": position, "gaps": led.gaps})

    async def _start_of(self, position: str | None, led: _Leading) -> str:
        """Where to read on from. Counts a gap when the stream no longer has what followed `position`."""
        if position is None:
            newest: Any = await self._bus.redis.xrevrange(TICKS, count=FIRST_LOOK)
            return str(newest[-1][0].decode()) if len(newest) == FIRST_LOOK else "0-0"
        oldest: Any = await self._bus.redis.xrange(TICKS, count=1)
        if not oldest or _place(oldest[0][0]) > _place(position.encode()):
            led.gaps += 1
            metrics.GAPS.inc()
            log.error(
                "ticks were trimmed from the stream before they were matched; orders may have missed fills",
                extra={"position": position, "oldest": oldest[0][0].decode() if oldest else None},
            )
        return position

    # --- retention --------------------------------------------------------------------------------------------------------

    async def _forget(self, context: LoopContext) -> None:
        """Once in a while, a little at a time beside the sequence: what was closed long ago leaves the tables."""
        while not context.stopping:
            before_ms = time.time_ns() // 1_000_000 - self.settings.retention_days * DAY_MS
            reached: int | None = 0
            forgotten = 0
            try:
                while reached is not None and not context.stopping:
                    context.beat()
                    context.lease.assert_held()
                    reached, gone = await self.store.forget(before_ms, reached, FORGET_BATCH)
                    forgotten += gone
                    await context.sleep(FORGET_PAUSE_S)
            except db.TRANSIENT as error:
                log.warning("what was closed long ago stays a while longer: the database is away", extra={"error": str(error)})
            metrics.FORGOTTEN.inc(forgotten)
            if forgotten:
                log.info("forgot what was closed long ago", extra={"orders": forgotten, "retention_days": self.settings.retention_days})
            due = time.monotonic() + FORGET_EVERY_S
            while not context.stopping and time.monotonic() < due:
                context.beat()
                await context.sleep(1.0)

    # --- the sequence -------------------------------------------------------------------------------------------------------

    async def _sequence(self, context: LoopContext) -> None:
        led = self._leading
        assert led is not None, "set by run"
        while not context.stopping:
            context.beat()
            await self._wait(led)
            await self._process(context, led)
        await self._commit(context, led, force=True)

    async def _wait(self, led: _Leading) -> None:
        """Until there is something to do, or may be."""
        if self._queue:
            return
        self._wake.clear()
        timer = led.exchange.next_timer_ms()
        wait_s = 0.5 if timer is None else min(0.5, max(0.0, timer / 1_000 - time.time()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()

    async def _process(self, context: LoopContext, led: _Leading) -> None:
        group = [self._queue.popleft() for _ in range(min(GROUP, len(self._queue)))]
        requests = [item for item in group if isinstance(item, _Request)]
        answers: list[tuple[asyncio.Future[Any], Any, VenueError | None]] = []
        failure = errors.busy()
        try:
            context.lease.assert_held()
            identities = [identity for request in requests for identity in request.identities]
            led.exchange.begin(await self.store.known(identities))
            failure = errors.unknown_outcome()
            now_ms = time.time_ns() // 1_000_000
            for item in group:
                if isinstance(item, _Ticks):
                    self._match(led, item, now_ms)
                else:
                    answers.append(self._apply(led.exchange, item, now_ms))
            for timer in led.exchange.on_time(now_ms):
                log.warning("dead-man timer fired", extra={"account": timer.account, "symbol": timer.symbol})
            await self._commit(context, led)
        except BaseException:
            _refuse(requests, failure)
            raise
        finally:
            self._requests -= len(requests)
            for item in group:
                if isinstance(item, _Ticks):
                    self._room.release()
        for answer, result, error in answers:
            if answer.done():
                continue  # whoever asked has gone
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def _apply(self, exchange: Exchange, request: _Request, now_ms: int) -> tuple[asyncio.Future[Any], Any, VenueError | None]:
        try:
            if request.window is not None:
                request.window.check(self.now_ms())
            return request.answer, request.work(exchange, now_ms), None
        except VenueError as error:
            return request.answer, None, error

    def _match(self, led: _Leading, item: _Ticks, now_ms: int) -> None:
        led.position = item.entry_id.decode()
        if item.batch is None:
            return
        led.exchange.on_ticks(item.batch, now_ms)
        for instrument_id in np.unique(item.batch.instrument):
            board = led.boards_by_id.get(int(instrument_id))
            if board is not None:
                board.on_batch(item.entry_id, item.batch, np.flatnonzero(item.batch.instrument == instrument_id))

    async def _commit(self, context: LoopContext, led: _Leading, *, force: bool = False) -> None:
        """Write what has changed, then tell it. Where only the market moved, its position is kept once in a while."""
        changed = led.exchange.has_changes()
        late = time.monotonic() - led.committed_at > KEEP_POSITION_S
        if not changed and not ((late or force) and led.position != led.committed):
            return
        changes = led.exchange.take_changes()
        position = led.position
        with metrics.COMMIT.time():
            await self.store.commit(context.lease, led.exchange, changes, position, led.gaps)
        led.committed, led.committed_at = position, time.monotonic()
        metrics.ORDERS.inc(len(changes.orders))
        metrics.TRADES.inc(len(changes.trades))
        for account, event in changes.events:
            self.users.publish(account, event)


def _refuse(requests: Iterable[_Request], error: VenueError) -> None:
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(error)


def _place(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def _decode(entry: Entry) -> TickBatch | None:
    try:
        return TickBatch.decode(entry.fields[b"b"])
    except (InvalidBatch, KeyError) as error:
        metrics.BAD_BATCHES.inc()
        log.error("an entry of the market's stream is no tick batch", extra={"entry": entry.id.decode(), "error": str(error)})
        return None
