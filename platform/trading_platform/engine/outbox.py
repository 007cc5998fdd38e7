"""From the outbox to the bus: every committed order event is published at least once, in order; readers are idempotent."""

from __future__ import annotations

from typing import Any

import msgspec

from trading_platform.bus import Bus
from trading_platform.db import Database
from trading_platform.engine.metrics import OUTBOX
from trading_platform.service import LoopContext

BATCH = 500
PAUSE_S = 0.05


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
            if published < BATCH:
                await context.sleep(PAUSE_S)

    async def publish(self) -> int:
        """Publish what waits, then delete it; how many entries."""
        rows = await self._db.fetch_tuples("SELECT id, stream, message FROM outbox ORDER BY id LIMIT %s", (BATCH,))
        OUTBOX.set(len(rows))
        if not rows:
            return 0
        by_stream: dict[str, list[dict[bytes, bytes]]] = {}
        for _, stream, message in rows:
            by_stream.setdefault(stream, []).append(_entry(message))
        for stream, entries in by_stream.items():
            await self._bus.publish_many(stream, entries)
        await self._db.execute("DELETE FROM outbox WHERE id = ANY(%s)", ([row[0] for row in rows],))
        return len(rows)


def _entry(message: Any) -> dict[bytes, bytes]:
    return {b"m": msgspec.json.encode(message)}
