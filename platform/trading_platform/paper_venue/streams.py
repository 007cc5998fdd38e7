"""WebSocket connections: who follows which stream, and the way events take to them.

A connection has a bounded queue; who does not keep up is cut off, never waited for. User data events may be made to arrive
twice, late, out of order or not at all (faults.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from trading_platform.paper_venue.faults import REPORTS, Faults
from trading_platform.paper_venue.shapes import Document

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

QUEUED = 10_000
LISTEN_KEY_S = 3_600.0
LISTEN_KEY = re.compile(r"[0-9a-f]{64}")
_encode = msgspec.json.Encoder().encode


class Connection:
    """One WebSocket. `send` never waits."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._code = 1000
        self._closing = False

    def send(self, text: str) -> None:
        if self._closing:
            return
        if self._queue.qsize() >= QUEUED:
            self.close(1008)
            return
        self._queue.put_nowait(text)

    def close(self, code: int = 1001) -> None:
        """Close after what is queued was sent; at once when the reader does not keep up."""
        if not self._closing:
            self._closing, self._code = True, code
            if self._queue.qsize() >= QUEUED:
                self._queue = asyncio.Queue()
            self._queue.put_nowait(None)

    async def run(self, receive: Receive, on_text: Callable[[str], Awaitable[None]]) -> None:
        """Serve until either side closes."""
        writer = asyncio.ensure_future(self._write())
        reader = asyncio.ensure_future(self._read(receive, on_text))
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closing = True
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            text = await self._queue.get()
            with contextlib.suppress(OSError, RuntimeError):
                if text is None:
                    await self._send({"type": "websocket.close", "code": self._code})
                    return
                await self._send({"type": "websocket.send", "text": text})

    @staticmethod
    async def _read(receive: Receive, on_text: Callable[[str], Awaitable[None]]) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            await on_text(text if text is not None else (message.get("bytes") or b"").decode(errors="replace"))


class PublicStreams:
    """Followers of market streams, by the stream's name."""

    def __init__(self) -> None:
        self._followers: dict[str, dict[Connection, bool]] = defaultdict(dict)

    def wants(self, stream: str) -> bool:
        return stream in self._followers

    def follow(self, stream: str, connection: Connection, combined: bool) -> None:
        self._followers[stream][connection] = combined

    def leave(self, stream: str, connection: Connection) -> None:
        followers = self._followers.get(stream)
        if followers is not None:
            followers.pop(connection, None)
            if not followers:
                del self._followers[stream]

    def publish(self, stream: str, event: Document) -> None:
        followers = self._followers.get(stream)
        if not followers:
            return
        text = _encode(event).decode()
        wrapped = f'{{"stream":"{stream}","data":{text}}}'
        for connection, combined in list(followers.items()):
            connection.send(wrapped if combined else text)


class UserStreams:
    """Followers of accounts' events, and the listen keys that stand for accounts."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._followers: dict[str, dict[tuple[Connection, int | None], Callable[[str], str]]] = defaultdict(dict)
        self._keys: dict[str, tuple[str, float]] = {}
        self._held_back: dict[str, list[str]] = defaultdict(list)
        self._late: set[asyncio.TimerHandle] = set()

    # --- listen keys ------------------------------------------------------------------------------------------------------

    def listen_key(self, account: str) -> str:
        """The account's key; the one it has, prolonged, as long as it is good."""
        for key, (owner, _) in list(self._keys.items()):
            if owner == account and self.owner(key) is not None:
                self.prolong(key)
                return key
        key = secrets.token_hex(32)
        self._keys[key] = (account, time.monotonic() + LISTEN_KEY_S)
        return key

    def owner(self, key: str) -> str | None:
        """Whose key it is; None when there is no such key (any more)."""
        account, until = self._keys.get(key, ("", 0.0))
        if account and time.monotonic() > until:
            self.revoke(key)
            return None
        return account or None

    def prolong(self, key: str) -> None:
        account, _ = self._keys[key]
        self._keys[key] = (account, time.monotonic() + LISTEN_KEY_S)

    def revoke(self, key: str) -> None:
        self._keys.pop(key, None)

    # --- followers --------------------------------------------------------------------------------------------------------

    def follow(self, account: str, connection: Connection, subscription: int | None, wrap: Callable[[str], str]) -> None:
        self._followers[account][(connection, subscription)] = wrap

    def leave(self, account: str, connection: Connection, subscription: int | None) -> None:
        self._followers[account].pop((connection, subscription), None)

    def cut(self, accounts: Iterable[str] | None = None) -> None:
        """Close the connections of these accounts, or of all."""
        for account in list(self._followers if accounts is None else accounts):
            for connection, _ in list(self._followers[account]):
                connection.close()

    # --- events -----------------------------------------------------------------------------------------------------------

    def publish(self, account: str, event: Document) -> None:
        """Tell an account's followers what was committed."""
        if not self._followers.get(account):
            return
        text = _encode(event).decode()
        if not self._faults:
            self._deliver(account, text)
            return
        hit = self._faults.strike(REPORTS, "STREAM", str(event["e"]), account)
        if "lose_reports" in hit:
            return
        if "drop_streams" in hit:
            self.cut([account])
            return
        if "reorder_reports" in hit:
            self._held_back[account].append(text)
            return
        for _ in range(2 if "duplicate_reports" in hit else 1):
            if "delay_reports" in hit:
                self._deliver_later(account, text, hit["delay_reports"].seconds)
            else:
                self._deliver(account, text)
        for held in self._held_back.pop(account, []):
            self._deliver(account, held)

    def _deliver(self, account: str, text: str) -> None:
        for (connection, _), wrap in list(self._followers[account].items()):
            connection.send(wrap(text))

    def _deliver_later(self, account: str, text: str, seconds: float) -> None:
        def deliver() -> None:
            self._late.discard(handle)
            self._deliver(account, text)

        handle = asyncio.get_running_loop().call_later(seconds, deliver)
        self._late.add(handle)

    def close(self) -> None:
        """Cut everybody off and forget what was to come late."""
        for handle in self._late:
            handle.cancel()
        self._late.clear()
        self._held_back.clear()
        self.cut()
