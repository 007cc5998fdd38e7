"""One account at Binance spot, or at the paper venue, which speaks the same: only URL and key differ.

ccxt reads the markets, builds, signs and sends requests and sorts errors. Answers are read from the venue's own text: ccxt's unified
orders and trades know less (fees by fill, whose id a cancel carries) and think in floats. ccxt.pro's streams are not used either:
they merge events into bounded caches and do not say when the connection was lost.

An answer decides what is known. A refusal is `VenueRejected` only where the venue cannot have taken the order; whatever else
happens after a request may have left is `VenueUnknown`. Nothing is sent twice, but for what was certainly refused: too
many requests, or a wrong date.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec
import websockets

from trading_platform import money, venue_keys
from trading_platform.config import AccountSettings, ConfigError, Settings, VenueSettings
from trading_platform.domain.orders import Fill, Intent
from trading_platform.engine.venues import StreamGap, Usage, VenueOrder, VenueRejected, VenueReport, VenueStatus, VenueTrade, VenueUnknown
from trading_platform.engine.venues import ccxt_client as ccxt
from trading_platform.engine.venues.limiter import Limiter, Limits, RateLimited, Urgency
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.venue_keys import ApiKey

log = logging.getLogger(__name__)

LIVE_STREAM: Final = "wss://ws-api.binance.com:443/ws-api/v3"
CLOCK_KEEPS_S: Final = 900.0
NAMES_KEPT: Final = 20_000
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
PAGE: Final = 1_000
# Requests on their way at once: fewer than aiohttp has connections, which would let them wait dated and signed.
CONNECTIONS: Final = 90

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STATUSES: Final[Mapping[str, VenueStatus]] = {
    "NEW": "NEW",
    "PENDING_NEW": "NEW",
    "PARTIALLY_FILLED": "PARTIALLY_FILLED",
    "FILLED": "FILLED",
    "CANCELED": "CANCELED",
    "REJECTED": "REJECTED",
    "EXPIRED": "EXPIRED",
    "EXPIRED_IN_MATCH": "EXPIRED",
}
_OPEN: Final = frozenset({"NEW", "PARTIALLY_FILLED"})

_OVERLOADED: Final = -1008

# Refusals by Binance's code: the request was looked at and nothing came of it.
_CODES: Final[Mapping[int, str]] = {
    -1002: "VENUE_UNAUTHORIZED",
    _OVERLOADED: "VENUE_OVERLOADED",
    -1013: "VENUE_FILTER",
    -1014: "VENUE_ORDER_UNSUPPORTED",
    -1016: "VENUE_CLOSED",
    -1020: "VENUE_ORDER_UNSUPPORTED",
    -1021: "VENUE_CLOCK",
    -1022: "VENUE_SIGNATURE_INVALID",
    -1099: "VENUE_UNAUTHORIZED",
    -1111: "VENUE_FILTER",
    -1121: "VENUE_SYMBOL_UNKNOWN",
    -2008: "VENUE_KEY_INVALID",
    -2014: "VENUE_KEY_INVALID",
    -2015: "VENUE_KEY_INVALID",
}
# -2010 says it in words.
_WORDS: Final = (
    ("insufficient balance", "INSUFFICIENT_FUNDS"),
    ("immediately match and take", "POST_ONLY_WOULD_TAKE"),
    ("would trigger immediately", "STOP_WOULD_TRIGGER"),
    ("market is closed", "VENUE_MARKET_CLOSED"),
    ("filter", "VENUE_FILTER"),
)
# Of these nobody knows what became of the request.
_UNKNOWN_CODES: Final = frozenset({-1000, -1001, -1004, -1006, -1007})
_NO_SUCH_ORDER: Final = -2013
_CANCEL_REFUSED: Final = -2011
_ARCHIVED: Final = -2026
_WRONG_DATE: Final = -1021
_TOO_MANY_ORDERS: Final = -1015
_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, OverflowError)

T = TypeVar("T")


def of_account(settings: Settings, account: AccountSettings, catalogue: Catalogue) -> BinanceVenue:
    """The account's venue, by the settings. Raises ConfigError where its key is not delivered."""
    venue = settings.venues[account.venue]
    key = venue_keys.of_account(settings, account)
    rest_url = venue.rest_url or (settings.url("paper-venue") if venue.paper else None)
    return BinanceVenue(account.venue, venue, key, catalogue, rest_url=rest_url, account_id=account.id)


class BinanceVenue:
    """See engine/venues. `gate`, when set, is asked in the moment before a new order is signed, after all waiting: it raises
    VenueRejected to keep the order back. Instruments that the venue has with coarser rules than ours are in `disagreements`: orders
    in them are refused, everything else works."""

    def __init__(
        self,
        name: str,
        settings: VenueSettings,
        key: ApiKey,
        catalogue: Catalogue,
        *,
        account_id: str,
        rest_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.account_id = account_id
        self.recv_window_s = settings.recv_window_s
        self.has_dead_man = settings.paper
        self.gate: Callable[[Intent], None] | None = None
        self.disagreements: dict[str, str] = {}
        self._settings = settings
        self._key = key
        self._rest_url = rest_url or settings.rest_url
        self._stream_url = _stream_url(name, settings, self._rest_url)
        self._clock = clock
        self._draw = draw
        self._limiter = Limiter(Limits(settings.request_weight_per_minute, settings.orders_per_10_s), clock=clock, draw=draw)
        self._dates = _VenueClock(clock, wall)
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._instruments = {venue_symbol(instrument.symbol): instrument for instrument in catalogue}
        self._contracts = (
            frozenset(venue_symbol(one.symbol) for one in catalogue if not one.settles_base) if settings.paper else frozenset()
        )
        self._listed: dict[str, str] = {}  # our symbol: ccxt's
        self._names: OrderedDict[tuple[str, str], str] = OrderedDict()  # venue's symbol and order id: client order id
        self._client: Any = None

    # --- life -----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._client is None:
            self._client = ccxt.create(
                rest_url=self._rest_url, key=self._key.key, secret=self._key.secret, timeout_s=self._settings.timeout_s,
                recv_window_s=self.recv_window_s, now_ms=self._dates.now_ms, on_headers=self._told,
            )  # fmt: skip
        await self._set_clock()
        await self._load_markets()

    async def close(self) -> None:
        self._limiter.close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _load_markets(self) -> None:
        try:
            document = await self._exchange_info()
            markets = [self._client.parse_market(market) for market in document["symbols"]]
            listed = {str(market["symbol"]): market for market in document["symbols"]}
            self._limiter.limits.learn(document["rateLimits"])
            self._client.set_markets([market for market in markets if market is not None])
            self._listed = {
                self._instruments[market["id"]].symbol: str(market["symbol"])
                for market in markets
                if market is not None and market["id"] in self._instruments
            }
            self.disagreements = {
                instrument.symbol: found
                for identity, instrument in self._instruments.items()
                if identity in listed and (found := disagreement(instrument, listed[identity]))
            }
        except _UNREADABLE as error:
            raise VenueUnknown(f"exchangeInfo cannot be read: {error!r}") from error
        for symbol, found in self.disagreements.items():
            log.error("an instrument's rules are not the venue's; orders in it are refused", extra={"symbol": symbol, "detail": found})

    async def _exchange_info(self) -> dict[str, Any]:
        """What the venue lists of our instruments. A list with a symbol it does not know it refuses whole: then one by one."""
        try:
            return await self._markets_of(list(self._instruments))
        except ccxt.Refused as refused:
            if refused.code != -1121:
                raise _unknown(refused) from refused
        document: dict[str, Any] = {"symbols": [], "rateLimits": []}
        for identity in self._instruments:
            try:
                part = await self._markets_of([identity])
            except ccxt.Refused as refused:
                if refused.code != -1121:
                    raise _unknown(refused) from refused
            else:
                document["symbols"] += part["symbols"]
                document["rateLimits"] = part["rateLimits"]
        return document

    async def _markets_of(self, identities: Sequence[str]) -> dict[str, Any]:
        params = {"symbols": msgspec.json.encode(identities).decode()}
        self._client.options.update(crossMarginPairsData=[], isolatedMarginPairsData=[])
        return _document(await self._read("exchangeInfo", params, weight=20, signed=False, pass_refusals=True))

    async def _set_clock(self) -> None:
        sent = self._clock()
        answer = await self._read("time", {}, weight=1, signed=False)
        try:
            self._dates.set(int(_document(answer)["serverTime"]), sent)
        except _UNREADABLE as error:
            raise VenueUnknown(f"the venue's time cannot be read: {answer!r:.200}") from error

    # --- orders ---------------------------------------------------------------------------------------------------------

    async def submit(self, intent: Intent) -> VenueOrder:
        request = self._request(intent)
        deadline = self._clock() + self._settings.queue_s
        urgency = Urgency.NOW if intent.flatten else Urgency.ORDER
        gate = self.gate
        try:
            answer = await self._ask(
                "order", "POST", request, urgency=urgency, weight=1, orders=1, deadline=deadline,
                gate=None if gate is None else lambda: gate(intent),
            )  # fmt: skip
        except ccxt.NotSent as error:
            raise VenueRejected("VENUE_UNREACHABLE", f"no connection was made, nothing was sent: {error}") from error
        except ccxt.Refused as refused:
            if refused.code == -2010 and "duplicate" in refused.message.lower():
                return await self._acknowledged(intent)
            raise _verdict(refused) from refused
        return self._readable(answer, lambda: self._order(answer, of=intent.client_order_id))

    async def _acknowledged(self, intent: Intent) -> VenueOrder:
        known = await self.query(intent.symbol, intent.client_order_id)
        if known is None:
            raise VenueUnknown(f"the venue says {intent.client_order_id} was sent before, and that it does not know it")
        return known

    def _request(self, intent: Intent) -> dict[str, Any]:
        """The parameters of the order. Raises VenueRejected for what the venue does not have, and rather than round anything."""
        symbol = self._listed.get(intent.symbol)
        if symbol is None:
            raise VenueRejected("VENUE_SYMBOL_UNKNOWN", f"{self.name} does not list {intent.symbol}")
        if found := self.disagreements.get(intent.symbol):
            raise VenueRejected("INSTRUMENT_DISAGREES", f"{intent.symbol}: {found}")
        params: dict[str, Any] = {"newClientOrderId": intent.client_order_id}
        match intent.type:
            case "market" | "stop":
                kind: Literal["market", "limit"] = "market"
                if intent.time_in_force == "FOK":
                    raise VenueRejected("VENUE_ORDER_UNSUPPORTED", f"a {intent.type} order cannot be fill-or-kill at {self.name}")
            case "limit" | "stop_limit":
                kind = "limit"
                if not intent.post_only:
                    params["timeInForce"] = intent.time_in_force if intent.time_in_force in ("IOC", "FOK") else "GTC"
            case _:
                raise VenueRejected("VENUE_ORDER_UNSUPPORTED", f"{intent.type} orders stay with us; their children are sent")
        if intent.post_only:
            if intent.type != "limit" or intent.time_in_force in ("IOC", "FOK"):
                raise VenueRejected("VENUE_ORDER_UNSUPPORTED", "only a limit order that may rest can be post-only")
            params["postOnly"] = True
        if intent.trigger_price is not None:
            params["stopLossPrice"] = money.text(intent.trigger_price)
        limit = None if intent.limit_price is None else money.text(intent.limit_price)
        try:
            request: dict[str, Any] = self._client.order_request(symbol, kind, intent.side, money.text(intent.quantity), limit, params)
        except ccxt.Refused as refused:
            raise VenueRejected("VENUE_ORDER_UNSUPPORTED", refused.message) from refused
        for name, wanted in (("quantity", intent.quantity), ("price", intent.limit_price), ("stopPrice", intent.trigger_price)):
            written = request.get(name)
            if (None if written is None else money.parse(written)) != wanted:
                raise VenueRejected("VENUE_FILTER", f"{name} {wanted} would be sent as {written}")
        return request

    async def cancel(self, symbol: str, client_order_id: str) -> VenueOrder:
        params = {"symbol": venue_symbol(symbol), "origClientOrderId": client_order_id}
        try:
            answer = await self._ask("order", "DELETE", params, urgency=Urgency.NOW, weight=1, deadline=self._deadline())
        except ccxt.NotSent as error:
            raise VenueUnknown(f"no connection was made: {error}") from error
        except ccxt.Refused as refused:
            if refused.code == _CANCEL_REFUSED:
                return await self._ended(symbol, client_order_id, refused)
            raise _verdict(refused) from refused
        return self._readable(answer, lambda: self._order(answer, of=client_order_id, canceled=True))

    async def _ended(self, symbol: str, client_order_id: str, refused: ccxt.Refused) -> VenueOrder:
        """Why there was nothing to cancel. aiohttp repeats a DELETE on a connection found dead: the first may have done it."""
        found = await self.query(symbol, client_order_id)
        if found is None:
            raise VenueRejected("VENUE_ORDER_UNKNOWN", f"{self.name} does not know {client_order_id}")
        if found.status in ("CANCELED", "EXPIRED"):
            return found
        code = "VENUE_CANCEL_REFUSED" if found.status in _OPEN else "ORDER_NOT_OPEN"
        raise VenueRejected(code, f"{client_order_id} is {found.status} there: {refused.message}")

    async def query(self, symbol: str, client_order_id: str) -> VenueOrder | None:
        params = {"symbol": venue_symbol(symbol), "origClientOrderId": client_order_id}
        try:
            answer = await self._read("order", params, weight=4, pass_refusals=True)
        except ccxt.Refused as refused:
            if refused.code == _NO_SUCH_ORDER:
                return None
            if refused.code == _ARCHIVED:
                return VenueOrder(symbol, client_order_id, "", "CANCELED", Decimal(0), refused.message)
            raise _unknown(refused) from refused
        return self._readable(answer, lambda: self._order(answer, of=client_order_id))

    async def open_orders(self) -> list[VenueOrder]:
        answer = await self._read("openOrders", {}, weight=80)
        return self._readable(answer, lambda: [self._order(one) for one in answer])

    async def cancel_all(self, symbols: Sequence[str]) -> None:
        """Of symbols the venue does not list nothing is open."""
        outcomes = await asyncio.gather(*(self._cancel_symbol(symbol) for symbol in symbols), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _cancel_symbol(self, symbol: str) -> None:
        params = {"symbol": venue_symbol(symbol)}
        try:
            await self._ask("openOrders", "DELETE", params, urgency=Urgency.NOW, weight=1, deadline=self._deadline())
        except ccxt.NotSent as error:
            raise VenueUnknown(f"no connection was made: {error}") from error
        except ccxt.Refused as refused:
            if refused.code not in (_CANCEL_REFUSED, -1121):
                raise _verdict(refused) from refused

    async def arm_dead_man(self, symbols: Sequence[str], timeout_s: float) -> None:
        if not self.has_dead_man:
            raise VenueRejected("VENUE_HAS_NO_DEAD_MAN", f"{self.name} does not cancel by itself")
        for symbol in symbols:
            if symbol not in self._listed:
                continue
            params = {"symbol": venue_symbol(symbol), "countdownTime": round(timeout_s * 1_000)}
            try:
                await self._ask("countdownCancelAll", "POST", params, urgency=Urgency.NOW, weight=1, deadline=self._deadline())
            except ccxt.NotSent as error:
                raise VenueUnknown(f"no connection was made: {error}") from error
            except ccxt.Refused as refused:
                raise _verdict(refused) from refused

    # --- what is there --------------------------------------------------------------------------------------------------

    async def trades(self, symbol: str, after_trade_id: str | None, limit: int) -> list[VenueTrade]:
        params: dict[str, Any] = {"symbol": venue_symbol(symbol), "limit": min(limit, PAGE), "fromId": 0}
        if after_trade_id is not None:
            prefix, _, number = after_trade_id.rpartition(":")
            if prefix != symbol or not number.isdigit():
                raise ValueError(f"{after_trade_id!r} is no trade of {symbol}; expected {symbol}:<number>")
            params["fromId"] = int(number) + 1
        answer = await self._read("myTrades", params, weight=20)
        rows = self._readable(answer, lambda: sorted((_document(row) for row in answer), key=lambda row: int(row["id"])))
        orders = self._readable(rows, lambda: {str(int(row["orderId"])) for row in rows})
        names = await self._names_of(params["symbol"], orders)
        return self._readable(answer, lambda: [self._trade(symbol, names[str(row["orderId"])], row) for row in rows])

    async def _names_of(self, identity: str, order_ids: set[str]) -> dict[str, str]:
        """The client order id of each order: trades carry the venue's only."""
        names = {order_id: name for order_id in order_ids if (name := self._names.get((identity, order_id))) is not None}
        while missing := sorted(order_ids - names.keys(), key=int):
            # Five questions about one order each weigh what one about a thousand in a row does.
            if len(missing) < 5:
                answer = await self._one_order(identity, missing[0])
            else:
                answer = await self._read("allOrders", {"symbol": identity, "orderId": missing[0], "limit": PAGE}, weight=20)
            for document in answer:
                order = self._readable(document, lambda document=document: self._order(document))  # type: ignore[misc]
                names[order.venue_order_id] = order.client_order_id
            # An order the venue no longer has cannot be ours: ours are known by their ids.
            names.setdefault(missing[0], f"{self.name}:{missing[0]}")
        return names

    async def _one_order(self, identity: str, order_id: str) -> list[Any]:
        try:
            return [await self._read("order", {"symbol": identity, "orderId": order_id}, weight=4, pass_refusals=True)]
        except ccxt.Refused as refused:
            if refused.code in (_NO_SUCH_ORDER, _ARCHIVED):
                return []
            raise _unknown(refused) from refused

    async def balances(self) -> dict[str, Decimal]:
        answer = await self._read("account", {"omitZeroBalances": "true"}, weight=20)
        return self._readable(
            answer,
            lambda: {
                str(row["asset"]): total
                for row in _document(answer)["balances"]
                if row["asset"] not in self._contracts and (total := money.add(money.parse(row["free"]), money.parse(row["locked"])))
            },
        )

    def usage(self) -> list[Usage]:
        return self._limiter.limits.usage(self._clock())

    # --- stream ---------------------------------------------------------------------------------------------------------

    async def reports(self) -> AsyncIterator[VenueReport | StreamGap]:
        """A gap comes first, and after each loss once the stream is there again: from then on it tells everything."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                async with contextlib.aclosing(self._connected()) as connection:
                    async for said in connection:
                        if isinstance(said, StreamGap):
                            pause = FIRST_PAUSE_S
                        yield said
                reason = "the venue ended it"
            except (OSError, TimeoutError, websockets.WebSocketException, RateLimited, _StreamRefused) as error:
                reason = str(error) or type(error).__name__
            log.warning("the venue's stream is away", extra={"venue": self.name, "account": self.account_id, "reason": reason[:300]})
            await asyncio.sleep(pause * (0.5 + self._draw()))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _connected(self) -> AsyncGenerator[VenueReport | StreamGap]:
        """One connection of the WebSocket API, subscribed to the account's events."""
        await self._limiter.acquire(Urgency.QUERY, weight=4, deadline=self._deadline())
        async with websockets.connect(
            self._stream_url, open_timeout=self._settings.timeout_s, ping_interval=10, ping_timeout=10, close_timeout=1, max_size=1 << 20,
            proxy=None,
        ) as stream:  # fmt: skip
            await stream.send(msgspec.json.encode(self._subscription()).decode())
            async with asyncio.timeout(self._settings.timeout_s):
                answer = _document(msgspec.json.decode(await stream.recv()))
            if answer.get("status") != 200:
                if isinstance(answer.get("error"), dict) and answer["error"].get("code") == _WRONG_DATE:
                    await self._resynchronise()
                raise _StreamRefused(f"the subscription was refused: {answer!r:.300}")
            yield StreamGap()
            async for message in stream:
                try:
                    event = _event(msgspec.json.decode(message))
                    if event.get("e") == "eventStreamTerminated":
                        return
                    if event.get("e") == "executionReport":
                        yield self._report(event)
                except (*_UNREADABLE, msgspec.DecodeError) as error:
                    # What it said must be asked for: a stream that is not understood is as good as lost.
                    raise _StreamRefused(f"an event cannot be read ({error!r}): {message!r:.300}") from error

    async def _resynchronise(self) -> None:
        try:
            await self._set_clock()
        except VenueUnknown as error:
            raise _StreamRefused(f"the venue's time is not known: {error}") from error

    def _subscription(self) -> dict[str, Any]:
        params: dict[str, Any] = {
            "apiKey": self._key.key,
            "recvWindow": round(self.recv_window_s * 1_000),
            "timestamp": self._dates.now_ms(),
        }
        params["signature"] = self._client.hmac(self._client.rawencode(params).encode(), self._key.secret.encode(), hashlib.sha256)
        return {"id": "subscribe", "method": "userDataStream.subscribe.signature", "params": params}

    def _report(self, event: Mapping[str, Any]) -> VenueReport:
        identity = str(event["s"])
        symbol = self._symbol(identity)
        # A cancel's own id takes the place of the order's.
        name = str(event["C"] or event["c"]) if event["x"] in ("CANCELED", "REPLACED") else str(event["c"])
        reason = str(event.get("r") or "NONE")
        order = VenueOrder(
            symbol, name, str(event["i"]), _status(event["X"]), money.parse(event["z"]), None if reason == "NONE" else reason
        )
        self._remember(identity, order)
        if event["x"] != "TRADE":
            return VenueReport(order)
        fill = self._fill(
            symbol,
            number=event["t"],
            quantity=event["l"],
            price=event["L"],
            fee=event["n"],
            asset=event["N"],
            maker=event["m"],
            at_ms=event["T"],
        )
        return VenueReport(order, VenueTrade(symbol, name, fill))

    # --- asking ---------------------------------------------------------------------------------------------------------

    async def _read(
        self, path: str, params: Mapping[str, Any], *, weight: int, signed: bool = True, pass_refusals: bool = False
    ) -> Any:  # fmt: skip
        """Ask without changing anything. Raises VenueUnknown; Refused too where the caller wants to look at it."""
        try:
            if signed and self._dates.age > CLOCK_KEEPS_S:
                await self._set_clock()
            return await self._ask(path, "GET", params, urgency=Urgency.QUERY, weight=weight, deadline=self._deadline(), signed=signed)
        except ccxt.NotSent as error:
            raise VenueUnknown(f"no connection was made: {error}") from error
        except VenueRejected as refusal:
            raise VenueUnknown(str(refusal)) from refusal
        except ccxt.Refused as refused:
            if pass_refusals:
                raise
            raise _unknown(refused) from refused

    async def _ask(
        self,
        path: str,
        method: str,
        params: Mapping[str, Any],
        *,
        urgency: Urgency,
        weight: int,
        deadline: float,
        orders: int = 0,
        signed: bool = True,
        gate: Callable[[], None] | None = None,
    ) -> Any:
        """Wait for a place, then send unless the deadline has passed. Asked again only what the venue refused for its date, once, or
        for being too much, until the deadline. Raises VenueRejected, VenueUnknown, Refused, NotSent."""
        if self._client is None:
            raise VenueRejected("VENUE_NOT_OPEN", f"{self.name} is not open; nothing was sent")
        redated = False
        while True:
            try:
                await self._limiter.acquire(urgency, weight=weight, orders=orders, deadline=deadline)
            except RateLimited as limited:
                raise VenueRejected("VENUE_RATE_LIMITED", str(limited)) from limited
            try:
                return await self._send(path, method, params, signed=signed, deadline=deadline, gate=gate)
            except ccxt.NoAnswer as silence:
                raise VenueUnknown(str(silence)) from silence
            except ccxt.Refused as refused:
                if refused.status in (418, 429):
                    self._limiter.refused(refused.status, refused.retry_after, orders_only=refused.code == _TOO_MANY_ORDERS)
                elif refused.code == _WRONG_DATE and not redated:
                    redated = True
                    await self._redate(refused)
                else:
                    raise

    async def _send(
        self, path: str, method: str, params: Mapping[str, Any], *, signed: bool, deadline: float, gate: Callable[[], None] | None
    ) -> Any:
        """All waiting is before the date, and that before the gate: a process that stands still after it wakes with a request that is
        too old for the venue, not with a new one of a lease that is long another's."""
        await self._connection(deadline)
        try:
            if self._clock() > deadline:
                raise VenueRejected("VENUE_QUEUED_TOO_LONG", f"it waited for {self._settings.queue_s:g} s and was not sent")
            dated = self._dates.now_ms()
            if gate is not None:
                gate()
            return await self._client.ask(path, method, params, signed=signed, dated=dated)
        finally:
            self._connections.release()

    async def _connection(self, deadline: float) -> None:
        if not self._connections.locked():
            await self._connections.acquire()
            return
        try:
            async with asyncio.timeout(max(deadline - self._clock(), 0.0)):
                await self._connections.acquire()
        except TimeoutError:
            text = f"{CONNECTIONS} requests are on their way to {self.name}; it was not sent"
            raise VenueRejected("VENUE_QUEUED_TOO_LONG", text) from None

    async def _redate(self, refused: ccxt.Refused) -> None:
        try:
            await self._set_clock()
        except VenueUnknown as error:
            raise VenueRejected("VENUE_CLOCK", f"{refused.message} Its time is not known: {error}") from error

    def _deadline(self) -> float:
        return self._clock() + self._settings.queue_s

    def _told(self, headers: Mapping[str, str]) -> None:
        self._limiter.limits.told(headers, self._clock())

    # --- reading --------------------------------------------------------------------------------------------------------

    def _readable(self, answer: Any, read: Callable[[], T]) -> T:
        try:
            return read()
        except _UNREADABLE as error:
            raise VenueUnknown(f"the answer cannot be read ({error!r}): {answer!r:.200}") from error

    def _order(self, document: Any, *, of: str | None = None, canceled: bool = False) -> VenueOrder:
        """`of`: the order that was asked for; an answer about another one is none."""
        row = _document(document)
        identity = str(row["symbol"])
        symbol = self._symbol(identity)
        name = str(row["origClientOrderId"] if canceled else row["clientOrderId"])
        if of is not None and name != of:
            raise ValueError(f"it is about {name}, not {of}")
        trades = tuple(
            VenueTrade(symbol, name, self._fill(
                symbol, number=fill["tradeId"], quantity=fill["qty"], price=fill["price"], fee=fill["commission"],
                asset=fill["commissionAsset"], maker=False, at_ms=row["transactTime"],
            ))
            for fill in row.get("fills") or ()
        )  # fmt: skip
        order = VenueOrder(symbol, name, str(row["orderId"]), _status(row["status"]), money.parse(row["executedQty"]), trades=trades)
        self._remember(identity, order)
        return order

    def _trade(self, symbol: str, name: str, row: Mapping[str, Any]) -> VenueTrade:
        fill = self._fill(
            symbol, number=row["id"], quantity=row["qty"], price=row["price"], fee=row["commission"], asset=row["commissionAsset"],
            maker=row["isMaker"], at_ms=row["time"],
        )  # fmt: skip
        return VenueTrade(symbol, name, fill)

    def _fill(
        self, symbol: str, *, number: Any, quantity: Any, price: Any, fee: Any, asset: Any, maker: Any, at_ms: Any
    ) -> Fill:  # fmt: skip
        at = int(at_ms)
        paid = money.parse(fee)
        if asset is None:
            if paid:
                raise ValueError(f"a fee of {paid} without a currency")
            asset = self._instruments[venue_symbol(symbol)].quote_currency
        if not isinstance(maker, bool):
            raise ValueError(f"maker is {maker!r}")
        return Fill(
            trade_id=f"{symbol}:{int(number)}",
            quantity=money.parse(quantity),
            price=money.parse(price),
            fee=paid,
            fee_currency=str(asset),
            liquidity="maker" if maker else "taker",
            executed_at=_EPOCH + timedelta(milliseconds=at),
            ts_event_ns=at * 1_000_000,
        )

    def _symbol(self, identity: str) -> str:
        """Ours; the venue's own where we have no such instrument."""
        instrument = self._instruments.get(identity)
        return identity if instrument is None else instrument.symbol

    def _remember(self, identity: str, order: VenueOrder) -> None:
        self._names[identity, order.venue_order_id] = order.client_order_id
        if len(self._names) > NAMES_KEPT:
            self._names.popitem(last=False)


class _StreamRefused(Exception):
    """The venue's stream cannot be used as it is now."""


class _VenueClock:
    """The venue's time, kept by a clock that never jumps. Before it is set: ours."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._zero = wall() - clock()
        self._set_at: float | None = None

    @property
    def age(self) -> float:
        return float("inf") if self._set_at is None else self._clock() - self._set_at

    def now_ms(self) -> int:
        return int((self._zero + self._clock()) * 1_000)

    def set(self, server_ms: int, asked_at: float) -> None:
        """The venue read its clock somewhere between the question and now: the middle is wrong by half the way at most."""
        answered_at = self._clock()
        self._zero = server_ms / 1_000 - (asked_at + answered_at) / 2
        self._set_at = answered_at


def venue_symbol(symbol: str) -> str:
    """As the venue writes it."""
    return symbol.replace("-", "")


def disagreement(instrument: Instrument, market: Mapping[str, Any]) -> str | None:
    """How the venue's rules refuse what ours allow; None when they do not. Raises KeyError for a market without its filters."""
    filters = {str(one["filterType"]): one for one in market["filters"]}
    price, lot = filters["PRICE_FILTER"], filters["LOT_SIZE"]
    notional = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL")
    found = []
    if not _divides(tick := money.parse(price["tickSize"]), instrument.tick_size):
        found.append(f"tick {instrument.tick_size}, the venue's {tick}")
    if not _divides(step := money.parse(lot["stepSize"]), instrument.lot_size):
        found.append(f"lot {instrument.lot_size}, the venue's {step}")
    if (least := money.parse(lot["minQty"])) > instrument.min_quantity:
        found.append(f"smallest quantity {instrument.min_quantity}, the venue's {least}")
    if (most := money.parse(lot["maxQty"])) < instrument.max_quantity:
        found.append(f"largest quantity {instrument.max_quantity}, the venue's {most}")
    if notional is not None and (worth := money.parse(notional["minNotional"])) > instrument.min_notional:
        found.append(f"smallest notional {instrument.min_notional}, the venue's {worth}")
    return "; ".join(found) or None


def _divides(theirs: Decimal, ours: Decimal) -> bool:
    """Whether every multiple of ours is one of theirs; 0 is no rule."""
    return not theirs or money.floor_to_step(ours, theirs) == ours


def _stream_url(name: str, settings: VenueSettings, rest_url: str | None) -> str:
    """The WebSocket API that belongs to the REST URL. Raises ConfigError where that cannot be known."""
    if settings.websocket_url is not None:
        parts = urlsplit(settings.websocket_url)
        return urlunsplit(parts._replace(path="/ws-api/v3")) if parts.path in ("", "/") else settings.websocket_url
    if rest_url is None:
        return LIVE_STREAM
    if not settings.paper:
        raise ConfigError(f"venues.{name}.websocket_url: missing while rest_url is {rest_url}; name the WebSocket API that belongs to it")
    parts = urlsplit(rest_url)
    return urlunsplit(parts._replace(scheme="wss" if parts.scheme == "https" else "ws", path="/ws-api/v3"))


def _verdict(refused: ccxt.Refused) -> VenueRejected | VenueUnknown:
    """What an error answer means for a request that would have changed something."""
    code = refused.code
    if refused.status == 403:
        return VenueRejected("VENUE_FORBIDDEN", str(refused))
    if code is None or code in _UNKNOWN_CODES or (refused.status >= 500 and code != _OVERLOADED):
        return VenueUnknown(str(refused))
    if code in _CODES:
        return VenueRejected(_CODES[code], refused.message)
    if refused.kind == "InsufficientFunds":
        return VenueRejected("INSUFFICIENT_FUNDS", refused.message)
    if -1199 <= code <= -1100:
        return VenueRejected("VENUE_BAD_REQUEST", str(refused))
    lower = refused.message.lower()
    return VenueRejected(next((ours for words, ours in _WORDS if words in lower), "VENUE_REJECTED"), str(refused))


def _unknown(refused: ccxt.Refused) -> VenueUnknown:
    return VenueUnknown(str(refused))


def _document(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise TypeError(f"expected an object, found {answer!r:.200}")
    return answer


def _event(message: Any) -> dict[str, Any]:
    """A stream's event, out of the envelope the WebSocket API puts it in; an answer to a request is none."""
    document = _document(message)
    return _document(document["event"]) if "event" in document else document


def _status(value: Any) -> VenueStatus:
    return _STATUSES[value]
