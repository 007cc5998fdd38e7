"""The loop that brings the bus's ticks into this host's lake, each once. No lease: every host keeps its own copy.

The lake itself says where to go on. Whatever may be missing is a gap in its books: the stream was trimmed before it was read, or is
not the stream it was. While the disk refuses, what was read waits, nothing more is read, and the bus keeps the rest.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from redis.exceptions import ResponseError

from trading_platform import bus
from trading_platform.batches import InvalidBatch, TickBatch
from trading_platform.bus import Bus
from trading_platform.config import LakeSettings
from trading_platform.instruments import Catalogue
from trading_platform.market_data import lake_metrics, lake_upkeep
from trading_platform.market_data.lake import Gap, Lake, LakeBusy, Raw, Roll, parts_of, strangers
from trading_platform.market_data.lake_files import BEGINNING, Span, StreamId
from trading_platform.market_data.publisher import TICK_BATCHES_KEPT
from trading_platform.messages import TICKS
from trading_platform.problems import Problem
from trading_platform.service import LoopContext, together

log = logging.getLogger(__name__)

POLL_S: Final = 0.25
READ_AT_ONCE: Final = 200
# A roll is due when this much of what the stream keeps is in memory only: a crash must find it on the bus still.
ROLL_BATCHES: Final = TICK_BATCHES_KEPT // 2
RETRY_S: Final = 2.0
FIRST_UPKEEP_S: Final = 30.0
UPKEEP_EVERY_S: Final = 300.0
LATE_ROLLS: Final = 3

_RETRIED: Final[tuple[type[Exception], ...]] = (OSError, *bus.TRANSIENT)

R = TypeVar("R")


@dataclass(slots=True)
class Place:
    """How far the stream is read: the last entry's id, and its ordinal as Redis counts."""

    position: StreamId = BEGINNING
    ordinal: int = 0


@dataclass(slots=True)
class Glance:
    """The stream at one moment: what it holds, and what comes after our place."""

    added: int
    length: int
    newest: StreamId
    oldest: StreamId | None
    entries: list[tuple[StreamId, dict[bytes, bytes]]]


@dataclass(slots=True)
class Pending:
    """Read, not yet on the disk."""

    batches: list[TickBatch] = field(default_factory=list)
    raw: list[Raw] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    rows: int = 0
    entries: int = 0
    first: StreamId | None = None
    last: StreamId = BEGINNING
    ordinal: int = 0
    since: float = 0.0

    def add(self, identity: StreamId, ordinal: int) -> None:
        if self.first is None:
            self.first, self.since = identity, time.monotonic()
        self.last, self.ordinal = max(self.last, identity), ordinal
        self.entries += 1


def follow(place: Place, glance: Glance) -> Gap | None:
    """Move the place up to where the first entry read begins; what lies between is a gap, unless nothing does."""
    before = Place(place.position, place.ordinal)
    if glance.newest < place.position:
        # Not the stream it was (or a replica that had not heard everything leads now): what it says next is new.
        place.position, place.ordinal = glance.newest, glance.added
        return Gap(before.position, glance.newest, None, "the stream went back to an earlier place")
    if glance.oldest is None or glance.oldest <= place.position:
        return None
    trimmed = glance.added - glance.length
    if before.position == BEGINNING or trimmed == before.ordinal:
        place.ordinal = trimmed
        return None
    place.ordinal = trimmed
    if trimmed < before.ordinal:
        return Gap(before.position, glance.oldest, None, "the stream was lost and began anew")
    return Gap(before.position, glance.oldest, trimmed - before.ordinal, "the stream was trimmed before it was read")


class LakeWriter:
    """The lake of this host, kept up with the bus."""

    def __init__(self, lake: Lake, settings: LakeSettings, on_bus: Bus, catalogue: Callable[[], Awaitable[Catalogue]]) -> None:
        self.lake = lake
        self._settings = settings
        self._bus = on_bus
        self._load_catalogue = catalogue
        self._place = Place()
        # What a failed pass has read waits for the next one: the bus may not have it any more.
        self._pending = Pending()
        self._clamp = BEGINNING
        self._failure: str | None = None
        self._known: frozenset[int] = frozenset()
        self._upkeep_due = time.monotonic() + FIRST_UPKEEP_S
        self._gaps = 0
        self._quarantined = 0
        self._written_rows = 0
        lake_metrics.LAG.set_function(self.lag_s)

    # --- questions ----------------------------------------------------------------------------------------------------------

    def lag_s(self) -> float:
        """Age of what is read and not on the disk."""
        return time.monotonic() - self._pending.since if self._pending.first is not None else 0.0

    async def check(self) -> None:
        """Raises Problem while ticks do not reach the disk."""
        if self._failure is not None:
            raise Problem(503, "LAKE_NOT_WRITTEN", f"ticks wait on the bus: {self._failure}")
        if self.lag_s() > LATE_ROLLS * self._settings.roll_s:
            raise Problem(503, "LAKE_LATE", f"ticks wait {self.lag_s():.0f} s for the disk (every {self._settings.roll_s:g} s is meant)")

    def health(self) -> dict[str, Any]:
        return {
            "lake": {
                "position": str(self._place.position),
                "rows_written": self._written_rows,
                "rows_waiting": self._pending.rows,
                "gaps": self._gaps,
                "quarantined": self._quarantined,
            }
        }

    # --- the loop -----------------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Write while the service lives; a disk or a lock that refuses is tried again."""
        while not context.stopping:
            context.beat()
            try:
                with self.lake.exclusive():
                    await together(context, write=self._write, upkeep=self._upkeep)
            except _RETRIED as error:
                self._failed(error)
                await context.sleep(RETRY_S)

    def _failed(self, error: Exception) -> None:
        lake_metrics.FAILURES.inc()
        told = f"{type(error).__name__}: {error}"[:300]
        if told != self._failure:
            log.log(logging.WARNING if isinstance(error, LakeBusy) else logging.ERROR, "the lake is not written", extra={"error": told})
        self._failure = told

    async def _write(self, context: LoopContext) -> None:
        catalogue = await self._load_catalogue()
        self._known = frozenset(instrument.id for instrument in catalogue)
        await self._recover(context)
        while True:
            context.beat()
            read = 0
            if self._pending.entries < ROLL_BATCHES and self._pending.rows < self._settings.roll_rows:
                read = await self._read(context)
            if self._due() or context.stopping:
                await self._roll(context, catalogue)
            if context.stopping:
                return
            if read < READ_AT_ONCE:
                await context.sleep(POLL_S)

    async def _recover(self, context: LoopContext) -> None:
        """Where the disk ends; what is pending behind it stays pending, the rest is there already."""
        found = await _beating(context, self.lake.recover)
        pending = self._pending
        if pending.first is None or found.position >= self._span(pending).last or found.position != self._clamp:
            self._pending = pending = Pending()
            self._place = Place(found.position, found.ordinal)
            self._clamp = found.position
        self._quarantined += len(found.quarantined)
        self._failure = None
        self._gaps = len(await _beating(context, self.lake.gaps))
        if found.completed or found.quarantined:
            log.warning(
                "the lake was left in the middle of writing",
                extra={"position": str(found.position), "completed": found.completed, "quarantined": list(found.quarantined)},
            )

    # --- from the bus -------------------------------------------------------------------------------------------------------

    async def _read(self, context: LoopContext) -> int:
        """How many entries were read. A bus that is away is waited for here: what is pending is rolled meanwhile."""
        try:
            glance = await self._glance()
        except bus.TRANSIENT as error:
            log.debug("no ticks: the bus is away", extra={"error": str(error)[:300]})
            await context.sleep(POLL_S)
            return 0
        if glance is None:
            return 0
        gap = follow(self._place, glance)
        if gap is not None:
            self._note(gap)
        for identity, fields in glance.entries:
            self._place.position = identity
            self._place.ordinal += 1
            self._take(identity, fields.get(b"b", b""))
        return len(glance.entries)

    async def _glance(self) -> Glance | None:
        """State and entries of one moment, so that nothing is trimmed between the two."""
        async with self._bus.redis.pipeline(transaction=True) as pipeline:
            pipeline.xinfo_stream(TICKS)
            pipeline.xrange(TICKS, min=f"({self._place.position}", count=READ_AT_ONCE)
            answers: Any = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, ResponseError) and "no such key" in str(answer):
                return None
            if isinstance(answer, Exception):
                raise answer
        state, entries = answers
        oldest = state["first-entry"]
        return Glance(
            added=int(state["entries-added"]),
            length=int(state["length"]),
            newest=StreamId.parse(state["last-generated-id"]),
            oldest=StreamId.parse(oldest[0]) if oldest else None,
            entries=[(StreamId.parse(identity), fields) for identity, fields in entries],
        )

    def _note(self, gap: Gap) -> None:
        self._gaps += 1
        self._pending.gaps.append(gap)
        lake_metrics.GAPS.inc()
        lake_metrics.GAP_BATCHES.inc(gap.batches or 0)
        log.error(
            "ticks are missing from the lake",
            extra={"reason": gap.reason, "after": str(gap.after), "before": str(gap.before), "batches": gap.batches},
        )

    def _take(self, identity: StreamId, data: bytes) -> None:
        self._pending.add(identity, self._place.ordinal)
        try:
            batch = TickBatch.decode(data)
        except InvalidBatch as error:
            self._set_aside(Raw(identity, data, str(error)[:300]))
            return
        if found := strangers(batch, self._known):
            self._set_aside(Raw(identity, data, f"instruments {found} are not in the catalogue; the other rows are kept"))
        self._pending.batches.append(batch)
        self._pending.rows += len(batch)

    def _set_aside(self, raw: Raw) -> None:
        self._quarantined += 1
        self._pending.raw.append(raw)
        lake_metrics.QUARANTINED.labels("batch").inc()
        log.error("a stream entry is no tick batch; it is in quarantine", extra={"id": str(raw.id), "reason": raw.reason})

    # --- to the disk --------------------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        pending = self._pending
        full = pending.entries >= ROLL_BATCHES or pending.rows >= self._settings.roll_rows
        return full or self.lag_s() >= self._settings.roll_s

    def _span(self, pending: Pending) -> Span:
        """Of what is pending. After the stream went back it is moved behind what is on the disk: spans never meet again."""
        assert pending.first is not None
        first = max(pending.first, self._clamp.next)
        return Span(first, max(pending.last, first))

    async def _roll(self, context: LoopContext, catalogue: Catalogue) -> None:
        """What is pending onto the disk. Raises OSError; it stays pending then."""
        pending = self._pending
        if pending.first is None:
            return
        span = self._span(pending)

        def write() -> int:
            parts = parts_of(pending.batches, catalogue)
            return self.lake.append(Roll(span, pending.ordinal, parts, tuple(pending.gaps), tuple(pending.raw)))

        if await _beating(context, write):
            self._clamp = span.last
            self._written_rows += pending.rows
            lake_metrics.NEWEST.set(max(int(batch.ts_recv.max()) for batch in pending.batches) / 1e9)
        self._pending = Pending()
        self._failure = None

    # --- upkeep -------------------------------------------------------------------------------------------------------------

    async def _upkeep(self, context: LoopContext) -> None:
        """Merge and drop, now and then, in a thread that gives way and is over before the lake is let go."""
        while not context.stopping:
            context.beat()
            if time.monotonic() >= self._upkeep_due:
                self._upkeep_due = time.monotonic() + UPKEEP_EVERY_S
                stop = threading.Event()
                work = asyncio.ensure_future(
                    asyncio.to_thread(lake_upkeep.upkeep, self.lake, self._settings.retention_days, lake_upkeep.today(), stop)
                )
                try:
                    while not work.done() and not context.stopping:
                        context.beat()
                        await asyncio.wait({work}, timeout=0.5)
                finally:
                    stop.set()
                    await asyncio.wait({work})
                work.result()
            await context.sleep(0.5)


async def _beating(context: LoopContext, work: Callable[[], R]) -> R:
    """Run it in a thread, beating meanwhile."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    while not task.done():
        context.beat()
        await asyncio.wait({task}, timeout=1.0)
    return task.result()
