"""/ws: the latest quotes of the symbols a client asks for. What changed faster than a client is told is left out (conflated):
each message carries the newest state, so nothing is ever queued for a slow client.

    client  {"type": "authenticate", "token": "…"}          unless the subprotocols were ["trading.v1", "bearer.<token>"]
    server  {"type": "authenticated", "subject": "…", "expires_at": 1700000000}
    client  {"type": "subscribe", "topic": "quotes", "symbols": ["BTCUSDT"]}        replaces the subscription before
    server  {"type": "subscribed", "topic": "quotes", "symbols": ["BTCUSDT"]}
    server  {"type": "quotes", "sequence": 1, "quotes": [{"symbol": …, "bid": …, "ask": …, "last": …, "timestamp": …}]}
    client  {"type": "ping"}    server  {"type": "pong"}

A client that does wrong is told so in the close reason: 4400 not understood, 4401 not authenticated or token expired, 4403 not
allowed, 4408 too slow, 4429 too many. The protocol's own pings keep idle connections open.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import WebSocket, WebSocketDisconnect
from prometheus_client import Counter, Gauge

from trading_platform import instruments, money
from trading_platform.auth import Authenticator, Identity, InvalidToken
from trading_platform.instruments import Catalogue
from trading_platform.messages import Quote
from trading_platform.service import LoopContext, Service

PROTOCOL: Final = "trading.v1"
TOKEN_PREFIX: Final = "bearer."  # noqa: S105 - the name of a subprotocol
PERMISSION: Final = "market_data.read"
AUTHENTICATE_WITHIN_S: Final = 5.0
SEND_WITHIN_S: Final = 5.0
QUOTES_EVERY_S: Final = 0.2
OF_ONE_USER: Final = 20
LARGEST_MESSAGE: Final = 16 << 10

CLIENTS: Final = Gauge("smc_trading_gateway_websocket_clients", "WebSocket clients connected")
CLOSED: Final = Counter("smc_trading_gateway_websocket_closed_total", "WebSocket clients cut by us", ["code"])
CONFLATED: Final = Counter("smc_trading_gateway_websocket_messages_total", "Quote messages sent to WebSocket clients")

Symbols = Annotated[list[Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9][A-Z0-9._-]{0,31}$")]], msgspec.Meta(min_length=0, max_length=100)]


class Authenticate(msgspec.Struct, tag="authenticate", forbid_unknown_fields=True):
    token: str


class Subscribe(msgspec.Struct, tag="subscribe", forbid_unknown_fields=True):
    topic: Literal["quotes"]
    symbols: Symbols


class Ping(msgspec.Struct, tag="ping", forbid_unknown_fields=True):
    pass


Wish = Authenticate | Subscribe | Ping

_decoder: Final = msgspec.json.Decoder(Wish)


class Cut(Exception):
    """Close the connection, saying why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Client:
    """One connection: what it wants, and what it was told last."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.symbols: frozenset[str] = frozenset()
        self.sequence = 0
        self.news = asyncio.Event()
        self._told: dict[str, int] = {}

    def subscribe(self, symbols: list[str]) -> None:
        self.symbols = frozenset(symbols)
        self._told = {}
        self.news.set()

    def changed(self, quotes: dict[str, Quote]) -> list[Quote]:
        """The quotes this client wants and does not have yet; from here on it has them."""
        new = [q for s in sorted(self.symbols) if (q := quotes.get(s)) and self._told.get(s) != q.ts_recv_ns]
        self._told.update({quote.symbol: quote.ts_recv_ns for quote in new})
        return new

    async def send(self, document: dict[str, Any]) -> None:
        """Raises Cut when the client does not take it in time."""
        try:
            await asyncio.wait_for(self.socket.send_text(msgspec.json.encode(document).decode()), SEND_WITHIN_S)
        except TimeoutError:
            raise Cut(4408, "too slow") from None


class Stream:
    """All WebSocket clients of this gateway, and the one reader of quotes that serves them all."""

    def __init__(self, service: Service, auth: Authenticator, most_clients: int) -> None:
        self._service = service
        self._auth = auth
        self._most_clients = most_clients
        self._clients: dict[Client, str] = {}
        self._quotes: dict[str, Quote] = {}
        self._catalogue: Catalogue | None = None

    async def run(self, context: LoopContext) -> None:
        """Read what clients want, as often as they may be told."""
        while not context.stopping:
            wanted = frozenset[str]().union(*(client.symbols for client in self._clients))
            if wanted:
                if self._catalogue is None:
                    self._catalogue = await instruments.load(self._service.db)
                self._quotes = await self._service.bus.quotes(sorted(wanted))
                for client in self._clients:
                    client.news.set()
            context.beat()
            await context.sleep(QUOTES_EVERY_S if wanted else 1.0)

    async def serve(self, socket: WebSocket) -> None:
        """The life of one connection."""
        offered = [part.strip() for part in socket.headers.get("sec-websocket-protocol", "").split(",") if part.strip()]
        token = next((part.removeprefix(TOKEN_PREFIX) for part in offered if part.startswith(TOKEN_PREFIX)), None)
        await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
        client = Client(socket)
        CLIENTS.inc()
        try:
            who = await self._authenticate(client, token)
            self._admit(client, who)
            await self._talk(client, who)
        except Cut as cut:
            CLOSED.labels(str(cut.code)).inc()
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                await asyncio.wait_for(socket.close(cut.code, cut.reason), SEND_WITHIN_S)
        except WebSocketDisconnect:
            pass
        finally:
            CLIENTS.dec()
            self._clients.pop(client, None)

    async def _authenticate(self, client: Client, token: str | None) -> Identity:
        if token is None:
            try:
                message = await asyncio.wait_for(self._receive(client), AUTHENTICATE_WITHIN_S)
            except TimeoutError:
                raise Cut(4401, "no token in time") from None
            if not isinstance(message, Authenticate):
                raise Cut(4401, "authenticate first")
            token = message.token
        try:
            who = self._auth.verify(token)
        except InvalidToken as error:
            raise Cut(4401, str(error)[:100]) from None
        if not who.may(PERMISSION):
            raise Cut(4403, f"role {who.role} lacks {PERMISSION}")
        await client.send({"type": "authenticated", "subject": who.subject, "expires_at": who.expires_at})
        return who

    def _admit(self, client: Client, who: Identity) -> None:
        if len(self._clients) >= self._most_clients:
            raise Cut(4429, "too many clients")
        if sum(1 for subject in self._clients.values() if subject == who.subject) >= OF_ONE_USER:
            raise Cut(4429, f"{who.subject} has {OF_ONE_USER} connections already")
        self._clients[client] = who.subject

    async def _talk(self, client: Client, who: Identity) -> None:
        """Listen and tell until the client goes, the token expires or the service stops."""
        tasks = {
            asyncio.create_task(self._listen(client)),
            asyncio.create_task(self._tell(client)),
            asyncio.create_task(self._expire(who)),
            asyncio.create_task(self._stopping()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _listen(self, client: Client) -> None:
        while True:
            match await self._receive(client):
                case Subscribe(symbols=symbols):
                    client.subscribe(symbols)
                    await client.send({"type": "subscribed", "topic": "quotes", "symbols": sorted(client.symbols)})
                case Ping():
                    await client.send({"type": "pong"})
                case _:
                    raise Cut(4400, "authenticated already")

    async def _tell(self, client: Client) -> None:
        while True:
            await client.news.wait()
            client.news.clear()
            if changed := client.changed(self._quotes):
                client.sequence += 1
                quotes = [self._document(quote) for quote in changed]
                await client.send({"type": "quotes", "sequence": client.sequence, "quotes": quotes})
                CONFLATED.inc()

    async def _expire(self, who: Identity) -> None:
        await asyncio.sleep(max(0.0, who.expires_at - time.time()))
        raise Cut(4401, "token expired")

    async def _stopping(self) -> None:
        await self._service.stopping.wait()
        raise Cut(1001, "the service stops; connect again")

    @staticmethod
    async def _receive(client: Client) -> Wish:
        message = await client.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            raise Cut(4400, "messages are JSON text")
        if len(text) > LARGEST_MESSAGE:
            raise Cut(4400, f"a message has at most {LARGEST_MESSAGE} characters")
        try:
            wish: Wish = _decoder.decode(text)
        except msgspec.DecodeError as error:
            raise Cut(4400, str(error)[:100]) from None
        return wish

    def _document(self, quote: Quote) -> dict[str, Any]:
        assert self._catalogue is not None, "quotes are read after the catalogue"
        known = self._catalogue.symbol(quote.symbol)
        prices = {"bid": quote.bid, "ask": quote.ask, "last": quote.last}
        return {
            "symbol": quote.symbol,
            **{name: money.text(known.price(value)) for name, value in prices.items() if value is not None},
            "timestamp": quote.ts_recv_ns // 1_000_000,
            "event_timestamp": quote.ts_event_ns // 1_000_000,
        }
