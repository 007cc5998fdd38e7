"""Ticks, latest quotes and closed candles onto the bus: one round trip for everything a moment brought.

Redis may be away: live ticks are then dropped and counted, candles wait (bounded, counted beyond), replays hold still.
Delivery is at least once: a round trip that broke off half-way is sent again.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from trading_platform import bus, messages
from trading_platform.batches import ASK, BID, TRADE
from trading_platform.bus import Bus
from trading_platform.instruments import Catalogue
from trading_platform.market.candles import Candles
from trading_platform.market.ticks import Ticks
from trading_platform.market_data import metrics
from trading_platform.messages import Candle, Quote

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
# Batches kept on the stream: of full ones about 75 MB, of the usual small ones some minutes.
TICK_BATCHES_KEPT: Final = 2_000
CANDLES_KEPT: Final = 10_000
CANDLES_WAITING: Final = 50_000
SENT_AT_ONCE: Final = 5_000


@dataclass(slots=True)
class _Latest:
    bid: int | None = None
    ask: int | None = None
    last: int | None = None


class Publisher:
    """The bus side of one leader."""

    def __init__(self, publishing_bus: Bus, catalogue: Catalogue) -> None:
        self._bus = publishing_bus
        self._catalogue = catalogue
        self._latest: dict[int, _Latest] = {}
        self._candles: deque[dict[bytes, bytes]] = deque(maxlen=CANDLES_WAITING)
        self._away = False

    async def publish(self, ticks: Ticks, candles: Candles, source: str, now_ns: int) -> bool:
        """Send; False when the bus is away. Candles are kept for the next time, ticks are the caller's to keep or drop."""
        self._remember(candles, source)
        sending = min(len(self._candles), SENT_AT_ONCE)
        if not len(ticks) and not sending:
            return True
        try:
            async with self._bus.redis.pipeline(transaction=False) as pipeline:
                batches = self._queue_ticks(pipeline, ticks, now_ns)
                self._queue_quotes(pipeline, ticks, source, now_ns)
                for number in range(sending):
                    _append(pipeline, messages.CANDLES, self._candles[number], CANDLES_KEPT)
                await pipeline.execute()
        except bus.TRANSIENT as error:
            if not self._away:
                log.warning("bus is away; ticks are not published", extra={"error": str(error)[:300]})
            self._away = True
            return False
        if self._away:
            log.info("bus is back")
        self._away = False
        for _ in range(sending):
            self._candles.popleft()
        metrics.ROWS.labels(source.partition(":")[0]).inc(len(ticks))
        metrics.BATCHES.labels(source.partition(":")[0]).inc(batches)
        return True

    def forget(self, instrument_ids: list[int]) -> None:
        """Their next quote starts from nothing: another feed takes over."""
        for instrument_id in instrument_ids:
            self._latest.pop(instrument_id, None)

    @property
    def candles_waiting(self) -> int:
        return len(self._candles)

    def _remember(self, candles: Candles, source: str) -> None:
        lost = len(self._candles) + len(candles) - CANDLES_WAITING
        if lost > 0:
            metrics.CANDLES_DROPPED.labels("bus").inc(lost)
        for row in range(len(candles)):
            message = Candle(
                symbol=self._catalogue.id(int(candles.instrument[row])).symbol,
                interval_s=int(candles.interval[row]) // SECOND_NS,
                ts_open_ns=int(candles.ts_open[row]),
                open=int(candles.open[row]),
                high=int(candles.high[row]),
                low=int(candles.low[row]),
                close=int(candles.close[row]),
                volume=int(candles.volume[row]),
                source=source,
            )
            self._candles.append(messages.encode(message))

    @staticmethod
    def _queue_ticks(pipeline: Any, ticks: Ticks, now_ns: int) -> int:
        count = 0
        for batch in ticks.batches(now_ns):
            _append(pipeline, messages.TICKS, {b"b": batch.encode()}, TICK_BATCHES_KEPT)
            count += 1
        return count

    def _latest_of(self, instrument_id: int, ticks: Ticks) -> tuple[_Latest, int]:
        """The instrument's newest prices, and the time of its newest tick."""
        rows = np.flatnonzero(ticks.instrument == instrument_id)
        latest = self._latest.setdefault(instrument_id, _Latest())
        flags = ticks.flags[rows]
        for side, name in ((BID, "bid"), (ASK, "ask"), (TRADE, "last")):
            matching = rows[(flags & side) != 0]
            if len(matching):
                setattr(latest, name, int(ticks.price[matching[-1]]))
        return latest, int(ticks.ts_event[rows[-1]])

    def _queue_quotes(self, pipeline: Any, ticks: Ticks, source: str, now_ns: int) -> None:
        for instrument_id in np.unique(ticks.instrument).tolist():
            latest, ts_event_ns = self._latest_of(instrument_id, ticks)
            quote = Quote(
                symbol=self._catalogue.id(instrument_id).symbol,
                ts_event_ns=ts_event_ns,
                ts_recv_ns=now_ns,
                source=source,
                bid=latest.bid,
                ask=latest.ask,
                last=latest.last,
            )
            key = messages.LATEST_PREFIX + quote.symbol
            values = quote.to_hash()
            pipeline.hset(key, mapping=values)
            if absent := [name for name in ("bid", "ask", "last") if name not in values]:
                pipeline.hdel(key, *absent)
            metrics.received(quote.symbol, now_ns)


def _append(pipeline: Any, stream: str, fields: dict[bytes, bytes], kept: int) -> None:
    pipeline.xadd(stream, fields, maxlen=kept, approximate=True)
