"""How often somebody may fail to log in. Counted on the bus, so that all gateways count together; in this process while the bus
is away. A success does not reset what others have used up: only time does.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from trading_platform import bus
from trading_platform.bus import Bus

WINDOW_S: Final = 300
LOCAL_KEYS: Final = 10_000
KEY_PREFIX: Final = "auth:failures:"


@dataclass(frozen=True, slots=True)
class Rule:
    """At most `limit` failures in WINDOW_S for one key."""

    kind: str
    limit: int


# One person at one place; everybody behind one address; one name from everywhere (wide: it must not lock its owner out easily).
PERSON, ADDRESS, NAME = Rule("person", 5), Rule("address", 30), Rule("name", 100)


class LoginThrottle:
    def __init__(self, on_bus: Bus) -> None:
        self._bus = on_bus
        self._local: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def seconds_to_wait(self, name: str, address: str) -> int:
        """0 when an attempt is allowed."""
        keys = _keys(name, address)
        try:
            counts = await self._bus.redis.mget([key for key, _ in keys])
            wait = max(
                [
                    int(await self._bus.redis.ttl(key))
                    for (key, rule), count in zip(keys, counts, strict=True)
                    if int(count or 0) >= rule.limit
                ],
                default=0,
            )
        except bus.TRANSIENT:
            wait = 0
        return max(wait, self._local_wait(keys))

    async def failed(self, name: str, address: str) -> None:
        """Count one failure against everything it may be part of."""
        keys = _keys(name, address)
        try:
            async with self._bus.redis.pipeline(transaction=True) as pipeline:
                for key, _ in keys:
                    pipeline.incr(key)
                    pipeline.expire(key, WINDOW_S, nx=True)
                await pipeline.execute()
        except bus.TRANSIENT:
            self._count_locally(keys)

    def _local_wait(self, keys: list[tuple[str, Rule]]) -> int:
        now = time.monotonic()
        waits = [0]
        for key, rule in keys:
            count, until = self._local.get(key, (0, 0.0))
            if count >= rule.limit and until > now:
                waits.append(int(until - now) + 1)
        return max(waits)

    def _count_locally(self, keys: list[tuple[str, Rule]]) -> None:
        now = time.monotonic()
        for key, _ in keys:
            count, until = self._local.pop(key, (0, 0.0))
            self._local[key] = (count + 1, until) if until > now else (1, now + WINDOW_S)
        while len(self._local) > LOCAL_KEYS:
            self._local.popitem(last=False)


def _keys(name: str, address: str) -> list[tuple[str, Rule]]:
    """Names and addresses come from outside: hashed, they are short and hold nothing to be read."""
    parts = {PERSON: f"{name}\0{address}", ADDRESS: address, NAME: name}
    return [(f"{KEY_PREFIX}{rule.kind}:{hashlib.sha256(part.encode()).hexdigest()[:32]}", rule) for rule, part in parts.items()]
