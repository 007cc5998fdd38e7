"""Redis Streams: publish, consumer groups that lose nothing while Redis lives, and readers that survive when it does not.

Redis holds only what may be lost. Streams are bounded; a consumer group that vanished with Redis is made again; work
that must not be lost is recovered from PostgreSQL by its owner, not from here.

    bus = Bus(settings)
    await bus.publish("signals", encode(signal))
    group = bus.group("signals", "engine")                # one of its members gets each entry
    for entry in await group.read(block_ms=1000): ...; await group.ack(entry)
    tail = bus.tail("md:ticks")                           # every reader gets every entry from now on
    for entry in await tail.read(): ...
    bus.redis                                             # the client, for hashes and counters
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from trading_platform.config import RedisSettings, Settings, optional_secret, secret
from trading_platform.messages import LATEST_PREFIX, Quote

log = logging.getLogger(__name__)

TRANSIENT: tuple[type[Exception], ...] = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, RedisError)

DEFAULT_MAXLEN = 10_000
CLAIM_IDLE_MS = 30_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry."""

    id: bytes
    fields: dict[bytes, bytes]

    def age_s(self, now_s: float) -> float:
        """Seconds since it was published, by the clock of Redis; `now_s` is time.time()."""
        return now_s - int(self.id.partition(b"-")[0]) / 1000


def _split(address: str, default_port: int) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return (host, int(port)) if host else (address, default_port)


def connect(settings: Settings) -> aioredis.Redis:
    """A client of the current primary: asked from Sentinel where there is one, else the first host."""
    config: RedisSettings = settings.redis
    options: dict[str, Any] = {
        "socket_connect_timeout": 3.0,
        "socket_timeout": 10.0,
        "socket_keepalive": True,
        "health_check_interval": 15,
        "retry": Retry(NoBackoff(), 1),
        "retry_on_error": [RedisConnectionError],
    }
    tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": config.tls_ca, "ssl_check_hostname": True} if config.tls_ca else {}
    password = secret("redis-app-password") if config.tls_ca else optional_secret("redis-app-password")
    if password:
        options |= {"username": config.user, "password": password}
    if config.sentinels:
        sentinel_options = {**options, **tls}
        sentinel = Sentinel([_split(address, 26379) for address in config.sentinels], sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
        client: aioredis.Redis = sentinel.master_for(config.master_name, **options, **tls)
        return client
    host, port = _split(config.hosts[0], 6379)
    return aioredis.Redis(host=host, port=port, **options, **tls)


class Bus:
    """The bus of one process."""

    def __init__(self, settings: Settings) -> None:
        self.redis = connect(settings)

    async def close(self) -> None:
        await self.redis.aclose()

    async def ping(self) -> None:
        """Raises one of TRANSIENT when Redis cannot be used."""
        await self.redis.ping()

    async def publish(self, stream: str, fields: Mapping[bytes, bytes], *, maxlen: int = DEFAULT_MAXLEN) -> bytes:
        """Append one entry, trimming the stream to about `maxlen`; its id."""
        entry_id: Any = await self.redis.xadd(stream, dict(fields), maxlen=maxlen, approximate=True)  # type: ignore[arg-type]
        return bytes(entry_id)

    async def publish_many(self, stream: str, entries: Iterable[Mapping[bytes, bytes]], *, maxlen: int = DEFAULT_MAXLEN) -> None:
        """Append entries in order with one round trip."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            for fields in entries:
                pipeline.xadd(stream, dict(fields), maxlen=maxlen, approximate=True)  # type: ignore[arg-type]
            await pipeline.execute()

    def group(self, stream: str, group: str, *, start: str = "0", exclusive: bool = False) -> Group:
        """A member of a consumer group. `start`: where the group begins when it has to be made ("0" all kept, "$" new ones).

        `exclusive`: the caller holds a lease and is the only member, so what a predecessor left is taken over at once.
        """
        return Group(self, stream, group, start, exclusive)

    def tail(self, stream: str, *, start: str = "$") -> Tail:
        """A reader of its own, from new entries on (or from the id `start`)."""
        return Tail(self, stream, start)

    async def set_quotes(self, quotes: Iterable[Quote]) -> None:
        """Write the latest quotes with one round trip."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            for quote in quotes:
                key = LATEST_PREFIX + quote.symbol
                values: dict[Any, Any] = dict(quote.to_hash())
                pipeline.hset(key, mapping=values)
                if absent := [name for name in ("bid", "ask", "last") if name not in values]:
                    pipeline.hdel(key, *absent)
            await pipeline.execute()

    async def quotes(self, symbols: Iterable[str]) -> dict[str, Quote]:
        """The latest quote of each symbol that has one."""
        names = list(symbols)
        async with self.redis.pipeline(transaction=False) as pipeline:
            for symbol in names:
                pipeline.hgetall(LATEST_PREFIX + symbol)
            answers = await pipeline.execute()
        found = {name: Quote.from_hash(name, values) for name, values in zip(names, answers, strict=True) if values}
        return {name: quote for name, quote in found.items() if quote is not None}


class Group:
    """One member of a consumer group: reads new entries, and takes over those a dead member left unacknowledged."""

    def __init__(self, bus: Bus, stream: str, group: str, start: str, exclusive: bool) -> None:
        self._redis = bus.redis
        self.stream = stream
        self.group = group
        self.member = socket.gethostname()
        self._start = start
        self._idle_ms = 0 if exclusive else CLAIM_IDLE_MS
        self._next_claim = 0.0

    async def read(self, *, count: int = 100, block_ms: int = 1000) -> list[Entry]:
        """Up to `count` entries, waiting up to `block_ms` for the first. Own unacknowledged ones are not read again."""
        try:
            claimed = await self._claim(count)
            if claimed:
                return claimed
            answer = await self._redis.xreadgroup(self.group, self.member, {self.stream: ">"}, count=count, block=block_ms)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._create()
            return []
        return _entries(answer)

    async def ack(self, *entries: Entry) -> None:
        """Done with these."""
        if entries:
            await self._redis.xack(self.stream, self.group, *[entry.id for entry in entries])

    async def _create(self) -> None:
        try:
            await self._redis.xgroup_create(self.stream, self.group, id=self._start, mkstream=True)
            log.info("consumer group made", extra={"stream": self.stream, "group": self.group})
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _claim(self, count: int) -> list[Entry]:
        """Entries a member read and never acknowledged; looked for now and then."""
        if time.monotonic() < self._next_claim:
            return []
        answer: Any = await self._redis.xautoclaim(self.stream, self.group, self.member, min_idle_time=self._idle_ms, count=count)
        entries = [Entry(entry_id, fields) for entry_id, fields in answer[1] if fields]
        if len(entries) < count:
            self._idle_ms = CLAIM_IDLE_MS
            self._next_claim = time.monotonic() + CLAIM_IDLE_MS / 2000
        return entries


class Tail:
    """A reader without a group; it remembers where it is."""

    def __init__(self, bus: Bus, stream: str, start: str) -> None:
        self._redis = bus.redis
        self.stream = stream
        self._last: bytes | str = start

    async def read(self, *, count: int = 100, block_ms: int = 1000) -> list[Entry]:
        """Up to `count` entries after the last one read, waiting up to `block_ms` for the first."""
        if self._last == "$":
            self._last = await self._newest()
        answer = await self._redis.xread({self.stream: self._last}, count=count, block=block_ms)
        entries = _entries(answer)
        if entries:
            self._last = entries[-1].id
        return entries

    async def _newest(self) -> bytes | str:
        """Id of the last entry now, so that nothing between two reads is missed."""
        newest: Any = await self._redis.xrevrange(self.stream, count=1)
        return newest[0][0] if newest else "0"


def _entries(answer: Any) -> list[Entry]:
    """Entries of a one-stream answer, RESP2 (list) or RESP3 (mapping)."""
    if not answer:
        return []
    if isinstance(answer, dict):
        groups = next(iter(answer.values()))
        flat = groups[0] if groups and isinstance(groups[0], list) else groups
    else:
        flat = answer[0][1]
    return [Entry(entry_id, fields) for entry_id, fields in flat if fields is not None]
