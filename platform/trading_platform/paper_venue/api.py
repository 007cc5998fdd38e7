"""The API: Binance spot's REST paths, WebSocket streams and WebSocket API as one ASGI application.

Both ways of asking meet in the same handlers: a route is a method and a path with a weight and who may use it, and the
WebSocket API's methods are names for routes. Nothing here changes anything itself: handlers hand their work to the venue.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import msgspec

from trading_platform import money
from trading_platform.db import TRANSIENT
from trading_platform.instruments import Instrument
from trading_platform.paper_venue import errors, filters, metrics, shapes, signing
from trading_platform.paper_venue.errors import VenueError, bad_request
from trading_platform.paper_venue.exchange import ALL_SYMBOLS, Exchange
from trading_platform.paper_venue.faults import Kind, Rule
from trading_platform.paper_venue.filters import OrderRequest, new_client_id
from trading_platform.paper_venue.funds import base_asset, venue_symbol
from trading_platform.paper_venue.limits import Limits
from trading_platform.paper_venue.market import Board
from trading_platform.paper_venue.parameters import Parameters, split
from trading_platform.paper_venue.service import PaperVenue
from trading_platform.paper_venue.shapes import Document, number
from trading_platform.paper_venue.signing import Keys, Window
from trading_platform.paper_venue.streams import LISTEN_KEY, Connection

log = logging.getLogger(__name__)

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Security = Literal["none", "key", "signed"]

MAX_BODY = 64 << 10
MAX_STREAMS = 1_024
DAY_MS = 86_400_000
NEVER_S = 3_600.0
TIMING = ("timestamp", "recvWindow")
BEFORE: tuple[Kind, ...] = ("slow", "rate_limit", "error_before", "no_answer", "error_after", "slow_answer")

_encode = msgspec.json.Encoder().encode
# Numbers of a WebSocket request keep the digits they were sent with.
_decode_request = msgspec.json.Decoder(float_hook=str).decode


@dataclass(slots=True)
class Call:
    """One request, whichever way it came."""

    parameters: Parameters
    caller: str
    account: str = ""
    window: Window | None = None
    orders_used: int | None = None


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    handler: Handler
    weight: int
    security: Security = "none"


@dataclass(slots=True)
class _Answer:
    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class Api:
    """The ASGI application."""

    def __init__(self, venue: PaperVenue, keys: Keys, limits: Limits) -> None:
        self._venue = venue
        self._keys = keys
        self._limits = limits
        self._subscriptions = 0
        signed: Security = "signed"
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/api/v3/ping"): Route(self._ping, 1),
            ("GET", "/api/v3/time"): Route(self._time, 1),
            ("GET", "/api/v3/exchangeInfo"): Route(self._exchange_info, 20),
            ("GET", "/api/v3/depth"): Route(self._depth, 5),
            ("GET", "/api/v3/trades"): Route(self._trades, 25),
            ("GET", "/api/v3/aggTrades"): Route(self._agg_trades, 4),
            ("GET", "/api/v3/klines"): Route(self._klines, 2),
            ("GET", "/api/v3/ticker/price"): Route(self._ticker_price, 2),
            ("GET", "/api/v3/ticker/bookTicker"): Route(self._book_ticker, 2),
            ("GET", "/api/v3/ticker/24hr"): Route(self._ticker_24h, 2),
            ("GET", "/api/v3/avgPrice"): Route(self._average_price, 2),
            ("POST", "/api/v3/order"): Route(self._place, 1, signed),
            ("POST", "/api/v3/order/test"): Route(self._test, 1, signed),
            ("POST", "/api/v3/order/cancelReplace"): Route(self._cancel_replace, 1, signed),
            ("GET", "/api/v3/order"): Route(self._order, 4, signed),
            ("DELETE", "/api/v3/order"): Route(self._cancel, 1, signed),
            ("GET", "/api/v3/openOrders"): Route(self._open_orders, 6, signed),
            ("DELETE", "/api/v3/openOrders"): Route(self._cancel_open, 1, signed),
            ("GET", "/api/v3/allOrders"): Route(self._all_orders, 20, signed),
            ("GET", "/api/v3/account"): Route(self._account, 20, signed),
            ("GET", "/api/v3/account/commission"): Route(self._commission, 20, signed),
            ("GET", "/api/v3/myTrades"): Route(self._my_trades, 20, signed),
            ("GET", "/api/v3/rateLimit/order"): Route(self._order_limits, 40, signed),
            ("POST", "/api/v3/countdownCancelAll"): Route(self._countdown, 1, signed),
            ("POST", "/api/v3/userDataStream"): Route(self._new_listen_key, 2, "key"),
            ("PUT", "/api/v3/userDataStream"): Route(self._keep_listen_key, 2, "key"),
            ("DELETE", "/api/v3/userDataStream"): Route(self._drop_listen_key, 2, "key"),
            ("GET", "/sapi/v1/capital/config/getall"): Route(self._coins, 10, signed),
            ("GET", "/sapi/v1/margin/allPairs"): Route(self._no_margin, 1, "key"),
            ("GET", "/sapi/v1/margin/isolated/allPairs"): Route(self._no_margin, 1, "key"),
        }
        self._methods: dict[str, tuple[str, str]] = {
            "ping": ("GET", "/api/v3/ping"),
            "time": ("GET", "/api/v3/time"),
            "exchangeInfo": ("GET", "/api/v3/exchangeInfo"),
            "depth": ("GET", "/api/v3/depth"),
            "trades.recent": ("GET", "/api/v3/trades"),
            "trades.aggregate": ("GET", "/api/v3/aggTrades"),
            "klines": ("GET", "/api/v3/klines"),
            "avgPrice": ("GET", "/api/v3/avgPrice"),
            "ticker.24hr": ("GET", "/api/v3/ticker/24hr"),
            "ticker.price": ("GET", "/api/v3/ticker/price"),
            "ticker.book": ("GET", "/api/v3/ticker/bookTicker"),
            "order.place": ("POST", "/api/v3/order"),
            "order.test": ("POST", "/api/v3/order/test"),
            "order.status": ("GET", "/api/v3/order"),
            "order.cancel": ("DELETE", "/api/v3/order"),
            "order.cancelReplace": ("POST", "/api/v3/order/cancelReplace"),
            "openOrders.status": ("GET", "/api/v3/openOrders"),
            "openOrders.cancelAll": ("DELETE", "/api/v3/openOrders"),
            "allOrders": ("GET", "/api/v3/allOrders"),
            "myTrades": ("GET", "/api/v3/myTrades"),
            "account.status": ("GET", "/api/v3/account"),
            "account.commission": ("GET", "/api/v3/account/commission"),
            "account.rateLimits.orders": ("GET", "/api/v3/rateLimit/order"),
            "userDataStream.start": ("POST", "/api/v3/userDataStream"),
            "userDataStream.ping": ("PUT", "/api/v3/userDataStream"),
            "userDataStream.stop": ("DELETE", "/api/v3/userDataStream"),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    # --- REST -------------------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = _path(scope), scope["method"]
        key = _header(scope, b"x-mbx-apikey")
        known = self._keys.known(key)
        faults = self._strike(method, path, known)
        try:
            body = await _body(receive)
            answer = await self._misbehaving(faults, self._rest(scope, method, path, key, known or _peer(scope), body))
        except VenueError as error:
            answer = _refusal(error)
        if "no_answer" in faults:
            await _until_gone(receive, faults["no_answer"])
            return
        headers = [
            (b"content-type", b"application/json;charset=UTF-8"),
            (b"content-length", str(len(answer.body)).encode()),
            *answer.headers,
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _rest(self, scope: Scope, method: str, path: str, key: str | None, caller: str, body: str) -> _Answer:
        route = self._routes.get((method, path))
        if route is None:
            known = any(known_path == path for _, known_path in self._routes)
            error = (
                VenueError(405, -1000, f"{method} is not supported here.")
                if known
                else VenueError(404, -1000, f"Path not found: {method} {path}.")
            )
            return _refusal(error)
        headers: list[tuple[bytes, bytes]] = []
        call: Call | None = None
        try:
            if not self._venue.ready:
                raise errors.busy("This process does not lead; ask again.")
            query = scope["query_string"].decode("latin-1")
            pairs = split(query) + split(body)
            call = Call(Parameters((name, value) for name, value in pairs if name != "signature"), caller)
            used = str(self._limits.charge(caller, _weight(route, path, method, call.parameters), self._venue.now_ms())).encode()
            headers += [(b"x-mbx-used-weight", used), (b"x-mbx-used-weight-1m", used)]
            if route.security != "none":
                call.account = self._keys.account(key)
            if route.security == "signed":
                self._keys.verify(call.account, signing.unsigned(query) + signing.unsigned(body), dict(pairs).get("signature"))
                call.window = signing.window(call.parameters)
                call.window.check(self._venue.now_ms())
            answer = _Answer(200, _encode(await route.handler(call)), headers)
        except VenueError as error:
            answer = _refusal(error)
            answer.headers += headers
        except TRANSIENT as error:
            log.warning("the books are away", extra={"path": path, "error": str(error)})
            answer = _refusal(errors.unknown_outcome())
        if call is not None and call.orders_used is not None:
            answer.headers.append((b"x-mbx-order-count-10s", str(call.orders_used).encode()))
        return answer

    # --- misbehaviour -----------------------------------------------------------------------------------------------------

    def _strike(self, method: str, path: str, account: str | None) -> dict[Kind, Rule]:
        hit = self._venue.faults.strike(BEFORE, method, path, account)
        for kind in hit:
            metrics.FAULTS.labels(kind).inc()
        return hit

    async def _misbehaving(self, faults: Mapping[Kind, Rule], work: Awaitable[_Answer]) -> _Answer:
        if not faults:
            return await work
        if (rule := faults.get("rate_limit")) is not None:
            _drop(work)
            status = rule.status or 429
            headers = {"Retry-After": str(max(1, int(rule.seconds)))}
            return _refusal(VenueError(status, rule.code or -1003, "Too many requests; told to say so.", headers))
        if (rule := faults.get("error_before")) is not None:
            _drop(work)
            return _refusal(VenueError(rule.status or 503, rule.code or -1008, "Server is currently overloaded; told to say so."))
        if (rule := faults.get("slow")) is not None:
            await asyncio.sleep(rule.seconds)
        answer = await work
        if (rule := faults.get("slow_answer")) is not None:
            await asyncio.sleep(rule.seconds)
        if (rule := faults.get("error_after")) is not None:
            return _refusal(VenueError(rule.status or 503, rule.code or -1007, errors.unknown_outcome().message))
        return answer

    # --- the market -------------------------------------------------------------------------------------------------------

    async def _ping(self, call: Call) -> Any:
        return {}

    async def _time(self, call: Call) -> Any:
        return {"serverTime": self._venue.now_ms()}

    async def _exchange_info(self, call: Call) -> Any:
        call.parameters.only("symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus")
        chosen = self._chosen(call)
        exchange = self._venue.exchange
        instruments = [exchange.instrument(symbol) for symbol in chosen or exchange.instruments]
        return {
            "timezone": "UTC",
            "serverTime": self._venue.now_ms(),
            "rateLimits": shapes.rate_limits(self._limits.weight_per_minute, self._limits.orders_per_10_s),
            "exchangeFilters": [],
            "symbols": [shapes.symbol_information(instrument, exchange.max_open_orders(instrument)) for instrument in instruments],
        }

    def _chosen(self, call: Call) -> list[str] | None:
        """The symbols asked for by `symbol` or `symbols`; None: all."""
        one, many = call.parameters.symbol(), call.parameters.text("symbols")
        if one is not None and many is not None:
            raise bad_request(-1128, "Combination of optional parameters invalid.")
        if one is not None:
            return [one]
        if many is None:
            return None
        try:
            return msgspec.json.decode(many, type=list[str])
        except msgspec.DecodeError:
            raise errors.illegal("symbols", '^\\["[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}\\]$') from None

    def _board(self, call: Call) -> Board:
        symbol = call.parameters.symbol()
        if symbol is None:
            raise errors.missing("symbol")
        return self._venue.board(symbol)

    async def _depth(self, call: Call) -> Any:
        call.parameters.only("symbol", "limit")
        board, limit = self._board(call), call.parameters.integer("limit", least=1, most=5_000) or 100
        return await self._venue.ask(lambda exchange, now_ms: board.depth_document(limit))

    async def _trades(self, call: Call) -> Any:
        call.parameters.only("symbol", "limit")
        limit = call.parameters.integer("limit", least=1, most=1_000) or 500
        return [trade.document() for trade in self._board(call).trades(limit)]

    async def _agg_trades(self, call: Call) -> Any:
        call.parameters.only("symbol", "limit", "fromId", "startTime", "endTime")
        values = call.parameters
        limit, from_id = values.integer("limit", least=1, most=1_000) or 500, values.integer("fromId")
        start_ms, end_ms = values.integer("startTime"), values.integer("endTime")
        found = [
            trade
            for trade in self._board(call).trades(1_000)
            if (from_id is None or trade.id >= from_id)
            and (start_ms is None or trade.time_ms >= start_ms)
            and (end_ms is None or trade.time_ms <= end_ms)
        ]
        newest = from_id is None and start_ms is None
        return [trade.aggregate() for trade in (found[-limit:] if newest else found[:limit])]

    async def _klines(self, call: Call) -> Any:
        values = call.parameters
        values.only("symbol", "interval", "startTime", "endTime", "limit", "timeZone")
        instrument = self._board(call).instrument
        interval = shapes.INTERVALS.get(values.required("interval"))
        source = max((s for s in self._venue.candle_intervals if interval is not None and interval % s == 0), default=None)
        if interval is None or source is None:
            raise bad_request(-1120, "Invalid interval.")
        start_ms, end_ms = values.integer("startTime"), values.integer("endTime")
        limit = values.integer("limit", least=1, most=1_000) or 500
        until_ms = self._venue.now_ms() if end_ms is None else end_ms + 1
        rows = await self._venue.store.candles(instrument, source, interval, start_ms, until_ms, limit)
        return [
            [
                open_ms, number(opened), number(high), number(low), number(close), number(volume), open_ms + interval * 1_000 - 1,
                number(money.multiply(close, volume)), 0, "0.00000000", "0.00000000", "0",
            ]
            for open_ms, opened, high, low, close, volume in rows
        ]  # fmt: skip

    def _boards(self, call: Call, *names: str) -> tuple[list[Board], bool]:
        """The boards asked for, and whether exactly one was."""
        call.parameters.only("symbol", "symbols", *names)
        chosen = self._chosen(call)
        boards = self._venue.boards() if chosen is None else [self._venue.board(symbol) for symbol in chosen]
        return boards, call.parameters.symbol() is not None

    async def _ticker_price(self, call: Call) -> Any:
        boards, single = self._boards(call)
        found = [{"symbol": board.symbol, "price": number(price)} for board in boards if (price := board.last()) is not None]
        if not single:
            return found
        if not found:
            raise bad_request(-2016, "No trading window could be found for the symbol. Try ticker/24hrs instead.")
        return found[0]

    async def _book_ticker(self, call: Call) -> Any:
        boards, single = self._boards(call)
        found = await self._venue.ask(lambda exchange, now_ms: [board.book_ticker() for board in boards])
        return found[0] if single else found

    async def _ticker_24h(self, call: Call) -> Any:
        boards, single = self._boards(call, "type")
        found = [await self._day(board) for board in boards]
        return found[0] if single else found

    async def _average_price(self, call: Call) -> Any:
        call.parameters.only("symbol")
        board = self._board(call)
        price = board.last()
        return {"mins": 5, "price": number(price or Decimal(0)), "closeTime": self._venue.now_ms()}

    async def _day(self, board: Board) -> Document:
        now_ms = self._venue.now_ms()
        start_ms = now_ms - DAY_MS
        source = min(self._venue.candle_intervals)
        rows = await self._venue.store.candles(board.instrument, source, 2 * DAY_MS // 1_000, start_ms, now_ms, 2)
        ticker, last = board.book_ticker(), board.last() or Decimal(0)
        opened = rows[0][1] if rows else last
        high = max([last, *(row[2] for row in rows)])
        low = min([last, *(row[3] for row in rows)])
        volume = money.add(*(row[5] for row in rows))
        change = money.subtract(last, opened)
        return {
            "symbol": board.symbol,
            "priceChange": number(change),
            "priceChangePercent": f"{money.divide(change * 100, opened, 3) if opened else 0:.3f}",
            "weightedAvgPrice": number(money.divide(money.add(opened, last), Decimal(2), 8)),
            "prevClosePrice": number(opened),
            "lastPrice": number(last),
            "lastQty": "0.00000000",
            "bidPrice": ticker["bidPrice"],
            "bidQty": ticker["bidQty"],
            "askPrice": ticker["askPrice"],
            "askQty": ticker["askQty"],
            "openPrice": number(opened),
            "highPrice": number(high),
            "lowPrice": number(low),
            "volume": number(volume),
            "quoteVolume": number(money.multiply(volume, last)),
            "openTime": start_ms,
            "closeTime": now_ms,
            "firstId": -1,
            "lastId": -1,
            "count": 0,
        }

    # --- orders -----------------------------------------------------------------------------------------------------------

    def _request(self, call: Call, *names: str) -> OrderRequest:
        call.parameters.only(*filters.PARAMETERS, *names)
        return filters.order_request(call.account, self._instrument(call), call.parameters)

    def _instrument(self, call: Call) -> Instrument:
        symbol = call.parameters.symbol()
        if symbol is None:
            raise errors.missing("symbol")
        return self._venue.exchange.instrument(symbol)

    def _count_order(self, call: Call) -> None:
        call.orders_used = self._limits.count_order(call.account, self._venue.now_ms())

    async def _place(self, call: Call) -> Any:
        request = self._request(call)
        self._count_order(call)
        return await self._venue.ask(
            lambda exchange, now_ms: _placed(exchange, request, now_ms),
            window=call.window,
            identities=((request.account, request.client_order_id),),
            about=request.client_order_id,
        )

    async def _test(self, call: Call) -> Any:
        request = self._request(call, "computeCommissionRates")
        with_rates = call.parameters.boolean("computeCommissionRates", False)

        def work(exchange: Exchange, now_ms: int) -> Document:
            exchange.test(request)
            return _rates(exchange) if with_rates else {}

        return await self._venue.ask(work, window=call.window)

    async def _cancel_replace(self, call: Call) -> Any:
        values = call.parameters
        request = self._request(
            call, "cancelReplaceMode", "cancelOrderId", "cancelOrigClientOrderId", "cancelNewClientOrderId", "cancelRestrictions",
            "orderRateLimitExceededMode",
        )  # fmt: skip
        mode = values.choice(
            "cancelReplaceMode", ("STOP_ON_FAILURE", "ALLOW_FAILURE"), -1130, "Data sent for parameter 'cancelReplaceMode' is not valid."
        ) or values.required("cancelReplaceMode")
        order_id, client_id = values.integer("cancelOrderId"), values.client_id("cancelOrigClientOrderId")
        if order_id is None and client_id is None:
            raise bad_request(-1102, "Param 'cancelOrigClientOrderId' or 'cancelOrderId' must be sent, but both were empty/null!")
        cancel_id = values.client_id("cancelNewClientOrderId") or new_client_id()
        self._count_order(call)

        def work(exchange: Exchange, now_ms: int) -> Document:
            return _replaced(exchange, request, order_id, client_id, cancel_id, mode == "STOP_ON_FAILURE", now_ms)

        identities = ((request.account, request.client_order_id),)
        return await self._venue.ask(work, window=call.window, identities=identities, about=client_id)

    def _identified(self, call: Call) -> tuple[Instrument, int | None, str | None]:
        instrument = self._instrument(call)
        order_id, client_id = call.parameters.integer("orderId"), call.parameters.client_id("origClientOrderId")
        if order_id is None and client_id is None:
            raise bad_request(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        return instrument, order_id, client_id

    async def _order(self, call: Call) -> Any:
        call.parameters.only("symbol", "orderId", "origClientOrderId", *TIMING)
        instrument, order_id, client_id = self._identified(call)

        def work(exchange: Exchange, now_ms: int) -> Document | None:
            order = exchange.find_open(call.account, instrument, order_id, client_id)
            return None if order is None else shapes.queried(order)

        found = await self._venue.ask(work, window=call.window, about=client_id)
        if found is not None:
            return found
        closed = await self._venue.store.order(call.account, instrument, order_id, client_id)
        if closed is None:
            raise errors.no_such_order()
        return shapes.queried(closed)

    async def _cancel(self, call: Call) -> Any:
        call.parameters.only("symbol", "orderId", "origClientOrderId", "newClientOrderId", "cancelRestrictions", *TIMING)
        instrument, order_id, client_id = self._identified(call)
        cancel_id = call.parameters.client_id("newClientOrderId") or new_client_id()
        only = call.parameters.choice(
            "cancelRestrictions", ("ONLY_NEW", "ONLY_PARTIALLY_FILLED"), -1130, "Data sent for parameter 'cancelRestrictions' is not valid."
        )

        def work(exchange: Exchange, now_ms: int) -> Document:
            order = exchange.find_open(call.account, instrument, order_id, client_id)
            if order is None:
                raise errors.unknown_order()
            if only is not None and only != f"ONLY_{order.status}":
                raise bad_request(-2011, "Order was not canceled due to cancel restrictions.")
            return shapes.canceled(exchange.cancel(order, now_ms, cancel_id), cancel_id)

        return await self._venue.ask(work, window=call.window, about=client_id)

    async def _open_orders(self, call: Call) -> Any:
        call.parameters.only("symbol", *TIMING)
        symbol = call.parameters.symbol()
        if symbol is not None:
            self._venue.exchange.instrument(symbol)
        return await self._venue.ask(
            lambda exchange, now_ms: [shapes.queried(order) for order in exchange.open_orders(call.account, symbol)], window=call.window
        )

    async def _cancel_open(self, call: Call) -> Any:
        call.parameters.only("symbol", *TIMING)
        symbol = venue_symbol(self._instrument(call).symbol)

        def work(exchange: Exchange, now_ms: int) -> list[Document]:
            done = exchange.cancel_all(call.account, symbol, now_ms, new_client_id)
            if not done:
                raise errors.unknown_order()
            return [shapes.canceled(order, cancel_id) for order, cancel_id in done]

        return await self._venue.ask(work, window=call.window)

    async def _all_orders(self, call: Call) -> Any:
        call.parameters.only("symbol", "orderId", "startTime", "endTime", "limit", *TIMING)
        values, instrument = call.parameters, self._instrument(call)
        start_ms, end_ms = _period(values)
        limit = values.integer("limit", least=1, most=1_000) or 500
        found = await self._venue.store.orders(call.account, instrument, values.integer("orderId"), start_ms, end_ms, limit)
        return [shapes.queried(order) for order in found]

    async def _my_trades(self, call: Call) -> Any:
        call.parameters.only("symbol", "orderId", "startTime", "endTime", "fromId", "limit", *TIMING)
        values, instrument = call.parameters, self._instrument(call)
        start_ms, end_ms = _period(values)
        found = await self._venue.store.trades(
            call.account,
            instrument,
            order_id=values.integer("orderId"),
            from_id=values.integer("fromId"),
            start_ms=start_ms,
            end_ms=end_ms,
            limit=values.integer("limit", least=1, most=1_000) or 500,
        )
        return [shapes.my_trade(trade) for trade in found]

    async def _countdown(self, call: Call) -> Any:
        call.parameters.only("symbol", "countdownTime", *TIMING)
        symbol = call.parameters.symbol()
        if symbol is not None:
            self._venue.exchange.instrument(symbol)
        call.parameters.required("countdownTime")
        countdown_ms = call.parameters.integer("countdownTime") or 0
        if countdown_ms > DAY_MS:
            raise bad_request(-1130, "Data sent for parameter 'countdownTime' is not valid.")

        def work(exchange: Exchange, now_ms: int) -> Document:
            exchange.set_timer(call.account, symbol or ALL_SYMBOLS, countdown_ms, now_ms)
            return {"symbol": symbol or "", "countdownTime": str(countdown_ms)}

        return await self._venue.ask(work, window=call.window)

    # --- the account ------------------------------------------------------------------------------------------------------

    async def _account(self, call: Call) -> Any:
        call.parameters.only("omitZeroBalances", *TIMING)
        omit_zero = call.parameters.boolean("omitZeroBalances", False)
        uid = int.from_bytes(hashlib.sha256(call.account.encode()).digest()[:4], "big")

        def work(exchange: Exchange, now_ms: int) -> Document:
            balances = exchange.wallets[call.account].balances
            return shapes.account(uid, balances, exchange.maker_rate, exchange.taker_rate, now_ms, omit_zero=omit_zero)

        return await self._venue.ask(work, window=call.window)

    async def _commission(self, call: Call) -> Any:
        call.parameters.only("symbol", *TIMING)
        return {"symbol": venue_symbol(self._instrument(call).symbol)} | _rates(self._venue.exchange)

    async def _order_limits(self, call: Call) -> Any:
        call.parameters.only(*TIMING)
        limit = shapes.rate_limits(self._limits.weight_per_minute, self._limits.orders_per_10_s)[1]
        return [limit | {"count": self._limits.orders(call.account, self._venue.now_ms())}]

    async def _coins(self, call: Call) -> Any:
        call.parameters.only(*TIMING)

        def work(exchange: Exchange, now_ms: int) -> list[Document]:
            balances = exchange.wallets[call.account].balances
            names = {asset for each in exchange.instruments.values() for asset in (base_asset(each), each.quote_currency)}
            return [_coin(asset, balances.get(asset)) for asset in sorted(names | set(balances))]

        return await self._venue.ask(work, window=call.window)

    async def _no_margin(self, call: Call) -> Any:
        """Nothing is traded on margin; clients ask when they load the markets."""
        return []

    async def _new_listen_key(self, call: Call) -> Any:
        call.parameters.only("apiKey")
        return {"listenKey": self._venue.users.listen_key(call.account)}

    async def _keep_listen_key(self, call: Call) -> Any:
        self._venue.users.prolong(self._listen_key(call))
        return {}

    async def _drop_listen_key(self, call: Call) -> Any:
        self._venue.users.revoke(self._listen_key(call))
        return {}

    def _listen_key(self, call: Call) -> str:
        call.parameters.only("listenKey", "apiKey")
        key = call.parameters.required("listenKey")
        if self._venue.users.owner(key) != call.account:
            raise bad_request(-1125, "This listenKey does not exist.")
        return key

    # --- WebSocket --------------------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        path = _path(scope)
        refused = self._venue.faults.strike(("refuse_streams",), "WS", path)
        if refused or not self._venue.ready:
            await _deny(send)
            return
        connection = Connection(send)
        if path == "/ws-api/v3":
            await send({"type": "websocket.accept"})
            await self._kept(connection, _Session(self, connection, scope).run(receive))
            return
        if path == "/stream":
            names = dict(split(scope["query_string"].decode("latin-1"))).get("streams", "")
            streams, combined = [name for name in names.split("/") if name], True
        elif path == "/ws" or path.startswith("/ws/"):
            streams, combined = [name for name in path.removeprefix("/ws").split("/") if name], False
        else:
            await _deny(send)
            return
        if not all(self._is_stream(name) for name in streams):
            await _deny(send)
            return
        await send({"type": "websocket.accept"})
        await self._kept(connection, _Follower(self._venue, connection, combined, self._is_stream).run(receive, streams))

    async def _kept(self, connection: Connection, run: Awaitable[None]) -> None:
        self._venue.connections.add(connection)
        try:
            await run
        finally:
            self._venue.connections.discard(connection)

    def _is_stream(self, name: str) -> bool:
        """Whether there is such a market stream or listen key. Other names without @ only tell connections apart, as on Binance."""
        symbol, at, kind = name.partition("@")
        if not at:
            return LISTEN_KEY.fullmatch(name) is None or self._venue.users.owner(name) is not None
        if symbol != symbol.lower() or symbol.upper() not in self._venue.exchange.instruments:
            return False
        base, _, speed = kind.partition("@")
        if base in ("trade", "aggTrade", "bookTicker"):
            return not speed
        if base in ("depth", "depth5", "depth10", "depth20"):
            return speed in ("", "100ms", "1000ms")
        return base.startswith("kline_") and base.removeprefix("kline_") in shapes.INTERVALS and not speed

    async def answer(self, session: _Session, name: str, parameters: dict[str, str]) -> tuple[Document, bool]:
        """A request of the WebSocket API: the document without its id, and whether it is to be sent at all."""
        account = self._keys.known(parameters.get("apiKey"))
        caller = account or session.peer
        faults = self._strike("WS", name, account)
        try:
            answer = await self._misbehaving(faults, self._method(session, name, parameters, caller))
        except VenueError as error:
            answer = _refusal(error)
        document: Document = {"status": answer.status}
        document["result" if answer.status == 200 else "error"] = msgspec.Raw(answer.body)
        now_ms = self._venue.now_ms()
        weight, orders = shapes.rate_limits(self._limits.weight_per_minute, self._limits.orders_per_10_s)
        document["rateLimits"] = [weight | {"count": self._limits.weight(caller, now_ms)}]
        if name.startswith("order"):
            document["rateLimits"].insert(0, orders | {"count": self._limits.orders(caller, now_ms)})
        return document, "no_answer" not in faults

    async def _method(self, session: _Session, name: str, parameters: dict[str, str], caller: str) -> _Answer:
        try:
            if not self._venue.ready:
                raise errors.busy("This process does not lead; ask again.")
            if name in ("userDataStream.subscribe.signature", "userDataStream.unsubscribe"):
                route = Route(session.subscribe if name.endswith("signature") else session.unsubscribe, 2, "signed")
                if name.endswith("unsubscribe"):
                    route = Route(session.unsubscribe, 2)
                path = method = ""
            elif name in self._methods:
                method, path = self._methods[name]
                route = self._routes[(method, path)]
            else:
                raise bad_request(-1020, f"This operation is not supported: {name}.")
            sent = {key: value for key, value in parameters.items() if key not in ("signature", "apiKey", "returnRateLimits")}
            call = Call(Parameters.of(sent), caller)
            self._limits.charge(caller, _weight(route, path, method, call.parameters), self._venue.now_ms())
            if route.security != "none":
                call.account = self._keys.account(parameters.get("apiKey"))
            if route.security == "signed":
                payload = "&".join(f"{key}={value}" for key, value in sorted(parameters.items()) if key != "signature")
                self._keys.verify(call.account, payload, parameters.get("signature"))
                call.window = signing.window(call.parameters)
                call.window.check(self._venue.now_ms())
            return _Answer(200, _encode(await route.handler(call)))
        except VenueError as error:
            return _refusal(error)
        except TRANSIENT as error:
            log.warning("the books are away", extra={"method": name, "error": str(error)})
            return _refusal(errors.unknown_outcome())

    def next_subscription(self) -> int:
        self._subscriptions += 1
        return self._subscriptions - 1


class _Session:
    """A connection to the WebSocket API: requests, and the user data streams subscribed on it."""

    def __init__(self, api: Api, connection: Connection, scope: Scope) -> None:
        self.peer = _peer(scope)
        self._api = api
        self._connection = connection
        self._subscribed: dict[int, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, receive: Receive) -> None:
        try:
            await self._connection.run(receive, self._on_text)
        finally:
            for task in self._tasks:
                task.cancel()
            for subscription, account in self._subscribed.items():
                self._api._venue.users.leave(account, self._connection, subscription)

    async def _on_text(self, text: str) -> None:
        """Requests of one connection run side by side, as on Binance."""
        task = asyncio.ensure_future(self._serve(text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, text: str) -> None:
        request_id: object = None
        try:
            request = _decode_request(text)
            if not isinstance(request, dict):
                raise ValueError("expected an object")
            request_id = request.get("id")
            name, parameters = request.get("method"), request.get("params") or {}
            if not isinstance(name, str) or not isinstance(parameters, dict):
                raise ValueError("expected method and params")
            plain = {str(key): _plain(value) for key, value in parameters.items()}
        except (ValueError, msgspec.DecodeError) as error:
            document: Document = {"status": 400, "error": {"code": -1000, "msg": f"Malformed request: {error}."}}
            self._connection.send(_encode({"id": request_id, **document}).decode())
            return
        document, is_sent = await self._api.answer(self, name, plain)
        if is_sent:
            if plain.get("returnRateLimits") == "false":
                document.pop("rateLimits", None)
            self._connection.send(_encode({"id": request_id, **document}).decode())

    async def subscribe(self, call: Call) -> Any:
        """userDataStream.subscribe.signature"""
        call.parameters.only(*TIMING)
        number_ = self._api.next_subscription()
        self._subscribed[number_] = call.account
        users = self._api._venue.users
        users.follow(call.account, self._connection, number_, lambda text: f'{{"subscriptionId":{number_},"event":{text}}}')
        return {"subscriptionId": number_}

    async def unsubscribe(self, call: Call) -> Any:
        """userDataStream.unsubscribe: one subscription of this connection, or all."""
        call.parameters.only("subscriptionId")
        wanted = call.parameters.integer("subscriptionId")
        for subscription in [wanted] if wanted is not None else list(self._subscribed):
            account = self._subscribed.pop(subscription, None)
            if account is None:
                raise bad_request(-1130, "Data sent for parameter 'subscriptionId' is not valid.")
            self._api._venue.users.leave(account, self._connection, subscription)
        return {}


class _Follower:
    """A connection to market streams and listen keys."""

    def __init__(self, venue: PaperVenue, connection: Connection, combined: bool, is_stream: Callable[[str], bool]) -> None:
        self._venue = venue
        self._connection = connection
        self._combined = combined
        self._is_stream = is_stream
        self._streams: dict[str, None] = {}
        self._accounts: dict[str, str] = {}

    async def run(self, receive: Receive, streams: list[str]) -> None:
        for name in streams:
            self._follow(name)
        try:
            await self._connection.run(receive, self._on_text)
        finally:
            for name in [*self._streams, *self._accounts]:
                self._leave(name)

    def _follow(self, name: str) -> None:
        account = self._venue.users.owner(name)
        if account is None:
            self._streams[name] = None
            self._venue.public.follow(name, self._connection, self._combined)
            return
        self._accounts[name] = account
        combined = self._combined
        self._venue.users.follow(account, self._connection, None, lambda text: f'{{"stream":"{name}","data":{text}}}' if combined else text)

    def _leave(self, name: str) -> None:
        account = self._accounts.pop(name, None)
        if account is not None:
            self._venue.users.leave(account, self._connection, None)
        elif name in self._streams:
            del self._streams[name]
            self._venue.public.leave(name, self._connection)

    async def _on_text(self, text: str) -> None:
        request_id: object = None
        try:
            request = msgspec.json.decode(text)
            if not isinstance(request, dict):
                raise ValueError("expected an object")
            request_id = request.get("id")
            answer: Document = {"result": self._do(str(request.get("method")), request.get("params") or []), "id": request_id}
        except (ValueError, msgspec.DecodeError) as error:
            answer = {"error": {"code": 2, "msg": f"Invalid request: {error}"}, "id": request_id}
        self._connection.send(_encode(answer).decode())

    def _do(self, method: str, names: Any) -> Any:
        if method == "LIST_SUBSCRIPTIONS":
            return [*self._streams, *self._accounts]
        if method == "GET_PROPERTY":
            return self._combined
        if method == "SET_PROPERTY" and isinstance(names, list) and len(names) == 2 and names[0] == "combined":
            self._combined = bool(names[1])
            for name in self._streams:
                self._venue.public.follow(name, self._connection, self._combined)
            return None
        if method not in ("SUBSCRIBE", "UNSUBSCRIBE") or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("expected SUBSCRIBE, UNSUBSCRIBE or LIST_SUBSCRIPTIONS with a list of stream names")
        if method == "UNSUBSCRIBE":
            for name in names:
                self._leave(name)
            return None
        unknown = [name for name in names if not self._is_stream(name)]
        if unknown:
            raise ValueError(f"no such stream: {', '.join(unknown)}")
        if len(self._streams) + len(names) > MAX_STREAMS:
            raise ValueError(f"at most {MAX_STREAMS} streams a connection")
        for name in names:
            self._follow(name)
        return None


# --- work done in its turn ------------------------------------------------------------------------------------------------


def _placed(exchange: Exchange, request: OrderRequest, now_ms: int) -> Document:
    order, trades = exchange.place(request, now_ms)
    if request.response == "ACK":
        return shapes.acknowledgement(order)
    return shapes.full(order, trades) if request.response == "FULL" else shapes.result(order)


def _replaced(
    exchange: Exchange,
    request: OrderRequest,
    order_id: int | None,
    client_id: str | None,
    cancel_id: str,
    stop_on_failure: bool,
    now_ms: int,
) -> Document:
    """Cancel, then place. Raises -2021 or -2022 with both outcomes when one or both fail."""
    canceled: Document | None = None
    cancel_error: VenueError | None = None
    order = exchange.find_open(request.account, request.instrument, order_id, client_id)
    try:
        if order is None:
            raise errors.unknown_order()
        canceled = shapes.canceled(exchange.cancel(order, now_ms, cancel_id), cancel_id)
    except VenueError as error:
        cancel_error = error
    placed: Document | None = None
    place_error: VenueError | None = None
    if cancel_error is None or not stop_on_failure:
        try:
            placed = _placed(exchange, request, now_ms)
        except VenueError as error:
            place_error = error
    outcome: Document = {
        "cancelResult": "SUCCESS" if cancel_error is None else "FAILURE",
        "newOrderResult": "SUCCESS" if placed is not None else "FAILURE" if place_error is not None else "NOT_ATTEMPTED",
        "cancelResponse": canceled if cancel_error is None else _error_document(cancel_error),
        "newOrderResponse": placed if placed is not None else None if place_error is None else _error_document(place_error),
    }
    if cancel_error is None and place_error is None:
        return outcome
    if "SUCCESS" in (outcome["cancelResult"], outcome["newOrderResult"]):
        raise VenueError(409, -2021, "Order cancel-replace partially failed.", data=outcome)
    raise VenueError(400, -2022, "Order cancel-replace failed.", data=outcome)


def _rates(exchange: Exchange) -> Document:
    standard = {"maker": number(exchange.maker_rate), "taker": number(exchange.taker_rate), "buyer": "0.00000000", "seller": "0.00000000"}
    none = dict.fromkeys(standard, "0.00000000")
    return {
        "standardCommission": standard,
        "standardCommissionForOrder": standard,
        "specialCommission": none,
        "taxCommission": none,
        "discount": {"enabledForAccount": False, "enabledForSymbol": False, "discountAsset": "BNB", "discount": "0.00000000"},
    }


def _coin(asset: str, balance: Any) -> Document:
    return {
        "coin": asset,
        "depositAllEnable": False,
        "withdrawAllEnable": False,
        "free": number(balance.free) if balance else "0.00000000",
        "locked": number(balance.locked) if balance else "0.00000000",
        "freeze": "0",
        "withdrawing": "0",
        "ipoing": "0",
        "ipoable": "0",
        "storage": "0",
        "isLegalMoney": False,
        "trading": True,
        "name": asset,
        "networkList": [],
    }


def _period(values: Parameters) -> tuple[int | None, int | None]:
    start_ms, end_ms = values.integer("startTime"), values.integer("endTime")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise bad_request(-1127, "Start time is greater than end time.")
    return start_ms, end_ms


def _weight(route: Route, path: str, method: str, parameters: Parameters) -> int:
    """What a request weighs; some weigh more when they ask for more."""
    if path == "/api/v3/openOrders" and method == "GET" and "symbol" not in parameters:
        return 80
    if path in ("/api/v3/ticker/price", "/api/v3/ticker/bookTicker") and "symbol" not in parameters:
        return 4
    if path == "/api/v3/ticker/24hr" and "symbol" not in parameters:
        return 80
    if path == "/api/v3/myTrades" and "orderId" in parameters:
        return 5
    if path == "/api/v3/depth":
        limit = parameters.integer("limit") or 100
        return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1_000 else 250
    return route.weight


# --- the wire -------------------------------------------------------------------------------------------------------------


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _header(scope: Scope, name: bytes) -> str | None:
    value = next((value for key, value in scope["headers"] if key == name), None)
    return None if value is None else value.decode("latin-1")


async def _body(receive: Receive) -> str:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise VenueError(400, -1000, "The request ended early.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise VenueError(413, -1000, f"The body is longer than {MAX_BODY} bytes.")
        if not message.get("more_body", False):
            break
    try:
        return b"".join(parts).decode("ascii")
    except UnicodeDecodeError:
        raise errors.illegal("body", "percent-encoded ASCII") from None


def _error_document(error: VenueError) -> Document:
    document: Document = {"code": error.code, "msg": error.message}
    if error.data is not None:
        document["data"] = error.data
    return document


def _refusal(error: VenueError) -> _Answer:
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return _Answer(error.status, _encode(_error_document(error)), headers)


async def _deny(send: Send) -> None:
    """Refuse a WebSocket before it is one; the server answers 403."""
    await send({"type": "websocket.close", "code": 1013})


async def _until_gone(receive: Receive, rule: Rule) -> None:
    """Say nothing until the caller gives up."""
    until = time.monotonic() + NEVER_S
    while time.monotonic() < until:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


def _drop(work: Awaitable[_Answer]) -> None:
    """Work that is not to be done."""
    if asyncio.iscoroutine(work):
        work.close()


def _plain(value: object) -> str:
    """A WebSocket parameter as it would stand in a query string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return _encode(value).decode()
    raise ValueError(f"a parameter is {type(value).__name__}")
