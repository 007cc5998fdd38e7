"""Replays asked for by operators: each is a file, a speed and a state, and at most one feed speaks for a symbol.

The state is kept on the bus (`md:replay:<id>`), so that any host can answer how far a replay is. A replay ends with its
leader: one that was running and says nothing any more is "interrupted", and is started again by whoever wants it.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from trading_platform import bus
from trading_platform.bus import Bus
from trading_platform.market.ticks import Ticks
from trading_platform.market_data.feeds import ReplayFeed

log = logging.getLogger(__name__)

KEY_PREFIX: Final = "md:replay:"
KEPT_S: Final = 7 * 86_400
SILENT_S: Final = 15.0
REPORT_EVERY_S: Final = 1.0
CONSUMERS_MAY_LAG: Final = 2_000
CONSUMERS_WAITED_FOR_S: Final = 30.0

State = Literal["running", "done", "failed", "interrupted"]
ID: Final = re.compile(r"[0-9a-f]{12}")


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one replay. `speed` 0 is as fast as possible; `updated_at` in epoch seconds."""

    id: str
    file: str
    kind: str
    symbols: list[str]
    rows: int
    speed: float
    state: State
    progress: float
    ticks: int
    crossed_quotes: int
    candle_intervals_s: list[int]
    event_time: str
    updated_at: float
    detail: str = ""


class Running:
    """A replay that plays on this host."""

    def __init__(self, feed: ReplayFeed, replay_id: str, path: Path, speed: float | None, intervals_s: list[int]) -> None:
        self.feed = feed
        self.id = replay_id
        self._path = path
        self._speed = speed
        self._intervals_s = intervals_s
        self._reported = 0.0
        self.unsent: Ticks | None = None
        self.stopped_by: str | None = None
        self._lag: tuple[int, float] | None = None
        self._follows = True

    def waits_for_consumers(self, lag: int, monotonic: float) -> bool:
        """Whether to hold still at this lag. Consumers that make no progress for CONSUMERS_WAITED_FOR_S are waited for no more."""
        if lag <= CONSUMERS_MAY_LAG or not self._follows:
            self._lag = None
            return False
        if self._lag is None or lag < self._lag[0]:
            self._lag = (lag, monotonic)
        self._follows = monotonic - self._lag[1] < CONSUMERS_WAITED_FOR_S
        return self._follows

    def report(self, state: State, now: float, detail: str = "") -> Replay:
        facts = self.feed.facts
        at = time.gmtime(self.feed.watermark_ns // 1_000_000_000)
        return Replay(
            id=self.id,
            file=self._path.name,
            kind=facts.kind,
            symbols=list(facts.symbols),
            rows=facts.rows,
            speed=self._speed or 0.0,
            state=state,
            progress=round(self.feed.progress, 6),
            ticks=self.feed.rows_taken,
            crossed_quotes=facts.crossed,
            candle_intervals_s=self._intervals_s,
            event_time=time.strftime("%Y-%m-%dT%H:%M:%SZ", at),
            updated_at=round(now, 3),
            detail=detail,
        )

    def due_for_report(self, monotonic: float) -> bool:
        if monotonic - self._reported < REPORT_EVERY_S:
            return False
        self._reported = monotonic
        return True


def new_id() -> str:
    return uuid.uuid4().hex[:12]


async def save(to: Bus, replay: Replay) -> None:
    """Progress is worth little: a bus that is away is not waited for."""
    try:
        await to.redis.set(KEY_PREFIX + replay.id, msgspec.json.encode(replay), ex=KEPT_S)
    except bus.TRANSIENT as error:
        log.warning("progress of a replay not kept", extra={"replay": replay.id, "error": str(error)[:300]})


async def find(on: Bus, replay_id: str, now: float) -> Replay | None:
    """What was last said of a replay; None when nothing was. Raises one of bus.TRANSIENT."""
    if not ID.fullmatch(replay_id):
        return None
    value: Any = await on.redis.get(KEY_PREFIX + replay_id)
    if value is None:
        return None
    replay = msgspec.json.decode(value, type=Replay)
    if replay.state == "running" and now - replay.updated_at > SILENT_S:
        return msgspec.structs.replace(replay, state="interrupted", detail="the host that played it stopped; start it again")
    return replay
