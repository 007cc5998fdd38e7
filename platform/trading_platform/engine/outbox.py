"""From the outbox to the bus: every commit's order events are published at least once, in order; readers are idempotent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trading_platform.bus import Bus
from trading_platform.db import Database
from trading_platform.engine.metrics import OUTBOX
from trading_platform.messages import OrderEventMessage, OrderEventsMessage, encode
from trading_platform.service import LoopContext

COMMITS = 20
PAUSE_S = 0.05

_decode = msgspec.json.Decoder(list[OrderEventMessage]).decode


class OutboxPublisher:
    """One publisher for the platform, by lease."""

    def __init__(self, database: Database, stream: Bus) -> None:
        self._db = database
        self._bus = stream

    async def run(self, context: LoopContext) -> None:
        while not context.stopping:
            context.beat()
            context.lease.assert_held()
            published = await self.publish()
            if published < COMMITS:
                await context.sleep(PAUSE_S)

    async def publish(self) -> int:
        """Publish what waits, then delete it; how many commits."""
        rows = await self._db.fetch_tuples("SELECT id, stream, seqs, message FROM outbox ORDER BY id LIMIT %s", (COMMITS,))
        OUTBOX.set(len(rows))
        if not rows:
            return 0
        by_stream: dict[str, list[dict[bytes, bytes]]] = {}
        for _, stream, seqs, messages in rows:
            by_stream.setdefault(stream, []).append(_entry(seqs, messages))
        for stream, entries in by_stream.items():
            await self._bus.publish_many(stream, entries)
        await self._db.execute("DELETE FROM outbox WHERE id = ANY(%s)", ([row[0] for row in rows],))
        return len(rows)


def _entry(seqs: Sequence[int], messages: str) -> dict[bytes, bytes]:
    """One commit's events, with the numbers the database gave them."""
    events = [msgspec.structs.replace(message, seq=seq) for seq, message in zip(seqs, _decode(messages), strict=True)]
    return encode(OrderEventsMessage(events=events))
