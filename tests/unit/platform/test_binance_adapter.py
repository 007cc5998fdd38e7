"""The Binance adapter against a server that answers what the test tells it to: what is sent, and what each answer means."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import websockets
from trading_platform.config import ConfigError, VenueSettings
from trading_platform.domain.orders import Fill, Intent
from trading_platform.engine.venues import StreamGap, VenueOrder, VenueRejected, VenueReport, VenueTrade, VenueUnknown, binance
from trading_platform.engine.venues.binance import BinanceVenue, disagreement
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.venue_keys import ApiKey

KEY = ApiKey("k" * 64, "s" * 64)
ONE = Decimal(1)
STEP = Decimal("0.000001")
BTC = Instrument(1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, Decimal("0.01"), STEP, STEP, Decimal(9000), Decimal(5), ONE)
PERP = replace(BTC, id=6, symbol="BTCUSD-PERP", kind="perpetual", quote_currency="USD")
CATALOGUE = Catalogue([BTC, PERP])
ORDER_TYPES = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT"]
AT_MS = 1_790_000_000_123


@dataclass
class Request:
    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    payload: str

    @property
    def what(self) -> str:
        return f"{self.method} {self.path.removeprefix('/api/v3/')}"


@dataclass
class Answer:
    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        body = self.body if isinstance(self.body, str) else json.dumps(self.body)
        lines = [f"HTTP/1.1 {self.status} Whatever", "Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
        return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in self.headers.items()), "", body]).encode()


class Reset:
    """The connection is cut instead of an answer."""


class Silence:
    """No answer ever comes."""


def refusal(code: int, message: str = "refused", status: int = 400, **headers: str) -> Answer:
    return Answer({"code": code, "msg": message}, status, {name.replace("_", "-"): value for name, value in headers.items()})


Said = Answer | type[Reset] | type[Silence]


def listed(symbol: str, base: str, quote: str, **changes: str) -> dict[str, Any]:
    rules = {
        "tickSize": "0.01000000",
        "stepSize": "0.00000100",
        "minQty": "0.00000100",
        "maxQty": "9000.00000000",
        "minNotional": "5.0",
    } | changes
    return {
        "symbol": symbol, "status": "TRADING", "baseAsset": base, "quoteAsset": quote, "orderTypes": ORDER_TYPES, "permissions": ["SPOT"],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": rules["tickSize"]},
            {"filterType": "LOT_SIZE", "minQty": rules["minQty"], "maxQty": rules["maxQty"], "stepSize": rules["stepSize"]},
            {"filterType": "NOTIONAL", "minNotional": rules["minNotional"]},
        ],
    }  # fmt: skip


def market_list(*symbols: dict[str, Any]) -> dict[str, Any]:
    limits = [{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 50}]
    return {"rateLimits": limits, "symbols": list(symbols)}


MARKETS = market_list(listed("BTCUSDT", "BTC", "USDT"), listed("BTCUSDPERP", "BTCUSDPERP", "USD"))


def order_document(**changes: Any) -> dict[str, Any]:
    document = {
        "symbol": "BTCUSDT", "orderId": 28, "clientOrderId": "t-1", "transactTime": AT_MS, "price": "39000.10", "origQty": "0.50",
        "executedQty": "0.00000000", "status": "NEW", "timeInForce": "GTC", "type": "LIMIT", "side": "BUY", "fills": [],
    }  # fmt: skip
    return document | changes


class Server:
    """HTTP on a port of its own. `on` scripts the answers of one request, the last one repeats; `asked` are the requests made."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.ahead_ms = 0
        self._scripts: dict[str, list[Said]] = {"GET exchangeInfo": [Answer(MARKETS)]}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.transport.abort()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def on(self, what: str, *said: Said) -> None:
        self._scripts[what] = list(said)

    def asked(self, what: str) -> list[Request]:
        return [request for request in self.requests if request.what == what]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                said = self._answer(await self._read(reader))
                if said is Silence:
                    await reader.read()
                if not isinstance(said, Answer):
                    writer.transport.abort()
                    return
                writer.write(said.encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
        method, target, _ = head.split(" ")
        parts = urlsplit(target)
        payload = parts.query or body
        return Request(method, parts.path, dict(parse_qsl(payload)), headers, payload)

    def _answer(self, request: Request) -> Said:
        self.requests.append(request)
        if request.what == "GET time" and "GET time" not in self._scripts:
            return Answer({"serverTime": int(time.time() * 1_000) + self.ahead_ms})
        script = self._scripts[request.what]
        return script.pop(0) if len(script) > 1 else script[0]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    await running.start()
    yield running
    await running.stop()


def venue_of(server: Server, **changes: Any) -> BinanceVenue:
    settings = VenueSettings(**{"paper": True, "timeout_s": 0.3, "queue_s": 2.0, "rest_url": server.url} | changes)
    return BinanceVenue("paper", settings, KEY, CATALOGUE, account_id="paper")


@pytest.fixture
async def venue(server: Server) -> AsyncIterator[BinanceVenue]:
    opened = venue_of(server)
    await opened.open()
    yield opened
    await opened.close()


LIMIT = Intent("t-1", "paper", "BTCUSDT", 1, "paper", "buy", "limit", "GTC", Decimal("0.50"), Decimal("39000.10"))


# --- what is sent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({}, {"type": "LIMIT", "timeInForce": "GTC", "price": "39000.1", "quantity": "0.5"}),
        ({"time_in_force": "IOC"}, {"type": "LIMIT", "timeInForce": "IOC", "price": "39000.1", "quantity": "0.5"}),
        ({"time_in_force": "FOK"}, {"type": "LIMIT", "timeInForce": "FOK", "price": "39000.1", "quantity": "0.5"}),
        ({"time_in_force": "DAY"}, {"type": "LIMIT", "timeInForce": "GTC", "price": "39000.1", "quantity": "0.5"}),
        ({"time_in_force": "GTD"}, {"type": "LIMIT", "timeInForce": "GTC", "price": "39000.1", "quantity": "0.5"}),
        ({"post_only": True}, {"type": "LIMIT_MAKER", "price": "39000.1", "quantity": "0.5"}),
        ({"type": "market", "limit_price": None, "side": "sell"}, {"type": "MARKET", "quantity": "0.5", "side": "SELL"}),
        (
            {"type": "stop", "limit_price": None, "trigger_price": Decimal("38000.5")},
            {"type": "STOP_LOSS", "quantity": "0.5", "stopPrice": "38000.5"},
        ),
        (
            {"type": "stop_limit", "trigger_price": Decimal(38000), "time_in_force": "IOC"},
            {"type": "STOP_LOSS_LIMIT", "quantity": "0.5", "stopPrice": "38000", "price": "39000.1", "timeInForce": "IOC"},
        ),
        ({"symbol": "BTCUSD-PERP"}, {"symbol": "BTCUSDPERP", "type": "LIMIT", "timeInForce": "GTC", "price": "39000.1", "quantity": "0.5"}),
    ],
)
async def test_an_order_is_sent_as_binance_writes_it(
    server: Server, venue: BinanceVenue, changes: dict[str, Any], sent: dict[str, str]
) -> None:
    server.on("POST order", Answer(order_document()))
    await venue.submit(replace(LIMIT, **changes))
    (request,) = server.asked("POST order")
    of_every_one = {"symbol": "BTCUSDT", "side": "BUY", "newClientOrderId": "t-1", "newOrderRespType": "FULL", "recvWindow": "2000"}
    stated = {name: value for name, value in request.params.items() if name not in ("timestamp", "signature")}
    assert stated == of_every_one | sent


async def test_a_request_is_signed_with_the_accounts_key_and_dated_by_the_venues_clock(server: Server) -> None:
    server.ahead_ms = 30_000
    server.on("POST order", Answer(order_document()))
    venue = venue_of(server)
    await venue.open()
    await venue.submit(LIMIT)
    await venue.close()
    (request,) = server.asked("POST order")
    signed, _, signature = request.payload.rpartition("&signature=")
    assert hmac.new(KEY.secret.encode(), signed.encode(), hashlib.sha256).hexdigest() == signature
    assert request.headers["x-mbx-apikey"] == KEY.key
    assert abs(int(request.params["timestamp"]) - (time.time() * 1_000 + 30_000)) < 2_000


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"quantity": Decimal("0.0000005")}, "VENUE_ORDER_UNSUPPORTED"),
        ({"quantity": Decimal("0.5000005")}, "VENUE_FILTER"),
        ({"limit_price": Decimal("39000.101")}, "VENUE_FILTER"),
        ({"type": "market", "limit_price": None, "time_in_force": "FOK"}, "VENUE_ORDER_UNSUPPORTED"),
        ({"type": "market", "post_only": True, "limit_price": None}, "VENUE_ORDER_UNSUPPORTED"),
        ({"type": "iceberg"}, "VENUE_ORDER_UNSUPPORTED"),
        ({"symbol": "SPY"}, "VENUE_SYMBOL_UNKNOWN"),
    ],
)
async def test_what_the_venue_cannot_take_exactly_as_it_is_is_not_sent(
    server: Server, venue: BinanceVenue, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(VenueRejected) as refused:
        await venue.submit(replace(LIMIT, **changes))
    assert refused.value.code == code
    assert server.asked("POST order") == []


async def test_an_order_kept_back_at_the_gate_is_not_sent(server: Server, venue: BinanceVenue) -> None:
    def gate(intent: Intent) -> None:
        raise VenueRejected("TRADING_STOPPED", intent.client_order_id)

    venue.gate = gate
    with pytest.raises(VenueRejected, match="TRADING_STOPPED: t-1"):
        await venue.submit(LIMIT)
    assert server.asked("POST order") == []


async def test_an_order_that_waited_for_a_connection_is_dated_and_let_through_in_the_moment_it_leaves(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    venue, asked_at = await one_connection(server, monkeypatch), []
    venue.gate = lambda intent: asked_at.append(time.time() * 1_000)
    silent = asyncio.create_task(venue.query("BTCUSDT", "t-0"))
    await asyncio.sleep(0)  # it has the connection, until nobody answers for 0.3 s
    began = time.time() * 1_000
    await venue.submit(LIMIT)
    (request,) = server.asked("POST order")
    assert int(request.params["timestamp"]) - began > 200
    assert int(request.params["timestamp"]) + 5 >= asked_at[0] > began + 200
    assert isinstance((await asyncio.gather(silent, return_exceptions=True))[0], VenueUnknown)
    await venue.close()


async def test_an_order_is_dated_before_the_gate_is_asked(server: Server, venue: BinanceVenue) -> None:
    """A process that stands still after the gate has let the order through sends one that is too old."""
    asked_at: list[float] = []

    def gate(_: Intent) -> None:
        asked_at.append(time.time() * 1_000)
        time.sleep(0.1)

    server.on("POST order", Answer(order_document()))
    venue.gate = gate
    await venue.submit(LIMIT)
    (request,) = server.asked("POST order")
    assert abs(int(request.params["timestamp"]) - asked_at[0]) < 50


async def one_connection(server: Server, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> BinanceVenue:
    """A venue with room for one request at a time, which says nothing when asked about an order."""
    monkeypatch.setattr(binance, "CONNECTIONS", 1)
    server.on("GET order", Silence)
    server.on("POST order", Answer(order_document()))
    venue = venue_of(server, **changes)
    await venue.open()
    return venue


async def test_an_order_that_gets_no_connection_in_time_is_refused_unsent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    venue = await one_connection(server, monkeypatch, queue_s=0.1)
    silent = asyncio.create_task(venue.query("BTCUSDT", "t-0"))
    await asyncio.sleep(0)
    with pytest.raises(VenueRejected) as refused:
        await venue.submit(LIMIT)
    assert (refused.value.code, server.asked("POST order")) == ("VENUE_QUEUED_TOO_LONG", [])
    await asyncio.gather(silent, return_exceptions=True)
    await venue.close()


async def test_an_order_whose_time_ran_out_while_it_waited_is_refused_unsent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    venue, passed, asked = venue_of(server), 0.0, []
    clock = venue._clock
    monkeypatch.setattr(venue, "_clock", lambda: clock() + passed)
    await venue.open()
    venue.gate = lambda intent: asked.append(intent)

    async def late(*_: Any, **__: Any) -> None:
        nonlocal passed
        passed = 2.1

    monkeypatch.setattr(venue._limiter, "acquire", late)
    with pytest.raises(VenueRejected) as refused:
        await venue.submit(LIMIT)
    assert (refused.value.code, server.asked("POST order"), asked) == ("VENUE_QUEUED_TOO_LONG", [], [])
    await venue.close()


# --- what an answer means ------------------------------------------------------------------------------------------------


async def test_an_answer_brings_the_executions_that_came_at_once_exactly_as_written(server: Server, venue: BinanceVenue) -> None:
    fill = {"price": "39000.10", "qty": "0.20", "commission": "3.9000100000000001", "commissionAsset": "USDT", "tradeId": 56}
    server.on("POST order", Answer(order_document(status="PARTIALLY_FILLED", executedQty="0.20", fills=[fill])))
    at = datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)
    expected = Fill(
        "BTCUSDT:56", Decimal("0.20"), Decimal("39000.10"), Decimal("3.9000100000000001"), "USDT", "taker", at, AT_MS * 1_000_000
    )
    assert await venue.submit(LIMIT) == VenueOrder(
        "BTCUSDT", "t-1", "28", "PARTIALLY_FILLED", Decimal("0.20"), trades=(VenueTrade("BTCUSDT", "t-1", expected),)
    )


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (refusal(-2010, "Account has insufficient balance for requested action."), "INSUFFICIENT_FUNDS"),
        (refusal(-2010, "Order would immediately match and take."), "POST_ONLY_WOULD_TAKE"),
        (refusal(-2010, "Stop price would trigger immediately."), "STOP_WOULD_TRIGGER"),
        (refusal(-2010, "Market is closed."), "VENUE_MARKET_CLOSED"),
        (refusal(-2010, "This action is disabled on this account."), "VENUE_REJECTED"),
        (refusal(-1013, "Filter failure: NOTIONAL"), "VENUE_FILTER"),
        (refusal(-1013, "Filter failure: LOT_SIZE"), "VENUE_FILTER"),
        (refusal(-1111, "Parameter 'quantity' has too much precision."), "VENUE_FILTER"),
        (refusal(-1121, "Invalid symbol."), "VENUE_SYMBOL_UNKNOWN"),
        (refusal(-1102, "Mandatory parameter 'x' was not sent."), "VENUE_BAD_REQUEST"),
        (refusal(-1022, "Signature for this request is not valid."), "VENUE_SIGNATURE_INVALID"),
        (refusal(-2015, "Invalid API-key, IP, or permissions for action.", 401), "VENUE_KEY_INVALID"),
        (refusal(-2014, "API-key format invalid.", 401), "VENUE_KEY_INVALID"),
        (refusal(-1008, "Request throttled by system-level protection.", 503), "VENUE_OVERLOADED"),
        (Answer("<html>blocked</html>", 403), "VENUE_FORBIDDEN"),
    ],
)
async def test_a_refusal_is_a_rejection_with_a_reason_code(server: Server, venue: BinanceVenue, said: Answer, code: str) -> None:
    server.on("POST order", said)
    with pytest.raises(VenueRejected) as refused:
        await venue.submit(LIMIT)
    assert refused.value.code == code
    assert len(server.asked("POST order")) == 1


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(Silence, id="no answer in time"),
        pytest.param(Reset, id="reset after the request"),
        pytest.param(Answer("", 500), id="an empty 500"),
        pytest.param(Answer("<html>Bad Gateway</html>", 502), id="a proxy's page"),
        pytest.param(refusal(-2010, "Account has insufficient balance for requested action.", 500), id="a 5xx, whatever it says"),
        pytest.param(refusal(-1000, "An unknown error occurred while processing the request."), id="-1000"),
        pytest.param(refusal(-1006, "Execution status unknown.", 503), id="-1006"),
        pytest.param(refusal(-1007, "Execution status unknown.", 504), id="-1007"),
        pytest.param(Answer("Request Timeout", 408), id="a proxy's time-out"),
        pytest.param(Answer("elsewhere", 302), id="a redirection to nowhere"),
        pytest.param(Answer("<html>fine</html>"), id="200 that is no JSON"),
        pytest.param(Answer("null"), id="200 that is null"),
        pytest.param(Answer([]), id="200 that is a list"),
        pytest.param(Answer({"symbol": "BTCUSDT"}), id="200 without an order"),
        pytest.param(Answer(order_document(clientOrderId="t-2")), id="200 about another order"),
        pytest.param(Answer(order_document(executedQty=0.1)), id="an amount that was a float"),
        pytest.param(Answer(order_document(executedQty="NaN")), id="an amount that is none"),
        pytest.param(Answer(order_document(status="STRANGE")), id="a status nobody knows"),
    ],
)
async def test_an_order_nobody_answered_for_is_unknown_and_not_sent_again(server: Server, venue: BinanceVenue, said: Said) -> None:
    server.on("POST order", said, Answer(order_document()))
    with pytest.raises(VenueUnknown):
        await venue.submit(LIMIT)
    assert len(server.asked("POST order")) == 1


async def test_an_order_is_rejected_when_provably_nothing_was_sent(server: Server, venue: BinanceVenue) -> None:
    await server.stop()
    with pytest.raises(VenueRejected) as refused:
        for _ in range(2):  # the first may have taken the connection that was there
            try:
                await venue.submit(LIMIT)
            except VenueUnknown:
                continue
    assert refused.value.code == "VENUE_UNREACHABLE"


async def test_a_venue_that_cannot_be_reached_says_nothing_about_cancels_and_orders(server: Server, venue: BinanceVenue) -> None:
    await server.stop()
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: venue.cancel("BTCUSDT", "t-1"), lambda: venue.query("BTCUSDT", "t-1"), venue.open_orders, venue.balances,
        lambda: venue.trades("BTCUSDT", None, 10), lambda: venue.cancel_all(["BTCUSDT"]), lambda: venue.arm_dead_man(["BTCUSDT"], 5),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(VenueUnknown):
            await call()


async def test_an_id_the_venue_already_has_is_that_orders_acknowledgement(server: Server, venue: BinanceVenue) -> None:
    server.on("POST order", refusal(-2010, "Duplicate order sent."))
    server.on("GET order", Answer(order_document(status="FILLED", executedQty="0.5")))
    assert (await venue.submit(LIMIT)).status == "FILLED"
    assert server.asked("GET order")[0].params["origClientOrderId"] == "t-1"


async def test_a_duplicate_that_the_venue_does_not_know_is_unknown(server: Server, venue: BinanceVenue) -> None:
    server.on("POST order", refusal(-2010, "Duplicate order sent."))
    server.on("GET order", refusal(-2013, "Order does not exist."))
    with pytest.raises(VenueUnknown):
        await venue.submit(LIMIT)


async def test_a_wrong_date_is_corrected_once_and_the_order_signed_anew(server: Server, venue: BinanceVenue) -> None:
    server.ahead_ms = 60_000
    server.on("POST order", refusal(-1021, "Timestamp for this request is outside of the recvWindow."), Answer(order_document()))
    assert (await venue.submit(LIMIT)).venue_order_id == "28"
    first, second = server.asked("POST order")
    assert int(second.params["timestamp"]) - int(first.params["timestamp"]) > 50_000


async def test_a_date_that_stays_wrong_is_a_rejection(server: Server, venue: BinanceVenue) -> None:
    server.on("POST order", refusal(-1021, "Timestamp for this request is outside of the recvWindow."))
    with pytest.raises(VenueRejected) as refused:
        await venue.submit(LIMIT)
    assert refused.value.code == "VENUE_CLOCK"
    assert len(server.asked("POST order")) == 2


# --- limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 418])
async def test_too_many_requests_waits_as_long_as_told_and_signs_anew(server: Server, venue: BinanceVenue, status: int) -> None:
    server.on("POST order", refusal(-1003, "Too much request weight used.", status, Retry_After="0.4"), Answer(order_document()))
    assert (await venue.submit(LIMIT)).venue_order_id == "28"
    first, second = server.asked("POST order")
    assert int(second.params["timestamp"]) - int(first.params["timestamp"]) >= 400


async def test_an_order_that_cannot_be_sent_in_time_is_rejected_and_everything_else_waits_too(server: Server, venue: BinanceVenue) -> None:
    server.on("POST order", refusal(-1003, "Too much request weight used.", 429, Retry_After="30"))
    for _ in range(2):
        with pytest.raises(VenueRejected) as refused:
            await venue.submit(LIMIT)
        assert refused.value.code == "VENUE_RATE_LIMITED"
    with pytest.raises(VenueUnknown, match="VENUE_RATE_LIMITED"):
        await venue.query("BTCUSDT", "t-1")
    assert len(server.asked("POST order")) == 1
    assert server.asked("GET order") == []


async def test_too_many_orders_does_not_keep_cancels(server: Server, venue: BinanceVenue) -> None:
    server.on("POST order", refusal(-1015, "Too many new orders.", 429, Retry_After="30"))
    server.on("DELETE order", Answer(order_document(clientOrderId="c", origClientOrderId="t-1", status="CANCELED")))
    with pytest.raises(VenueRejected):
        await venue.submit(LIMIT)
    assert (await venue.cancel("BTCUSDT", "t-1")).status == "CANCELED"


async def test_usage_is_what_the_venue_says_and_its_limits_are_learned(server: Server, venue: BinanceVenue) -> None:
    server.on("POST order", Answer(order_document(), headers={"X-MBX-USED-WEIGHT-1M": "4321", "x-mbx-order-count-10s": "7"}))
    await venue.submit(LIMIT)
    usage = {one.limit: one for one in venue.usage()}
    assert (usage["weight"].used, usage["weight"].allowed, usage["weight"].interval_s) == (4321, 6000, 60)
    assert (usage["orders"].used, usage["orders"].allowed, usage["orders"].interval_s) == (7, 50, 10)


# --- cancelling and asking ------------------------------------------------------------------------------------------------


async def test_a_cancelled_order_is_known_by_its_own_id_not_the_cancels(server: Server, venue: BinanceVenue) -> None:
    server.on("DELETE order", Answer(order_document(clientOrderId="c", origClientOrderId="t-1", status="CANCELED", executedQty="0.1")))
    assert await venue.cancel("BTCUSDT", "t-1") == VenueOrder("BTCUSDT", "t-1", "28", "CANCELED", Decimal("0.1"))


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (refusal(-2013, "Order does not exist."), "VENUE_ORDER_UNKNOWN"),
        (Answer(order_document(status="FILLED")), "ORDER_NOT_OPEN"),
        (Answer(order_document(status="NEW")), "VENUE_CANCEL_REFUSED"),
    ],
)
async def test_a_cancel_with_nothing_to_cancel_says_why(server: Server, venue: BinanceVenue, found: Answer, code: str) -> None:
    server.on("DELETE order", refusal(-2011, "Unknown order sent."))
    server.on("GET order", found)
    with pytest.raises(VenueRejected) as refused:
        await venue.cancel("BTCUSDT", "t-1")
    assert refused.value.code == code


async def test_a_cancel_that_was_done_before_is_done(server: Server, venue: BinanceVenue) -> None:
    server.on("DELETE order", refusal(-2011, "Unknown order sent."))
    server.on("GET order", Answer(order_document(status="CANCELED")))
    assert (await venue.cancel("BTCUSDT", "t-1")).status == "CANCELED"


async def test_an_order_the_venue_does_not_know_is_none(server: Server, venue: BinanceVenue) -> None:
    server.on("GET order", refusal(-2013, "Order does not exist."))
    assert await venue.query("BTCUSD-PERP", "t-1") is None
    assert server.asked("GET order")[0].params["symbol"] == "BTCUSDPERP"


async def test_an_order_that_was_archived_had_ended_unfilled(server: Server, venue: BinanceVenue) -> None:
    server.on("GET order", refusal(-2026, "Order was archived."))
    found = await venue.query("BTCUSDT", "t-1")
    assert found is not None
    assert (found.status, found.filled_quantity) == ("CANCELED", 0)


@pytest.mark.parametrize("said", [Answer("", 500), refusal(-2015, "Invalid API-key.", 401), Answer("x"), Silence])
async def test_a_question_without_a_usable_answer_is_unknown_not_absent(server: Server, venue: BinanceVenue, said: Said) -> None:
    server.on("GET order", said)
    with pytest.raises(VenueUnknown):
        await venue.query("BTCUSDT", "t-1")


async def test_open_orders_are_reported_with_our_symbols_and_strange_ones_as_they_are(server: Server, venue: BinanceVenue) -> None:
    strange = order_document(symbol="DOGEUSDT", clientOrderId="web_1", orderId=3)
    server.on("GET openOrders", Answer([order_document(symbol="BTCUSDPERP"), strange]))
    assert [(one.symbol, one.client_order_id) for one in await venue.open_orders()] == [("BTCUSD-PERP", "t-1"), ("DOGEUSDT", "web_1")]


async def test_cancelling_everything_passes_over_symbols_with_nothing_open(server: Server, venue: BinanceVenue) -> None:
    server.on("DELETE openOrders", Answer([]), refusal(-2011, "Unknown order sent."), refusal(-1121, "Invalid symbol."))
    await venue.cancel_all(["BTCUSDT", "BTCUSD-PERP", "SPY"])
    assert sorted(one.params["symbol"] for one in server.asked("DELETE openOrders")) == ["BTCUSDPERP", "BTCUSDT", "SPY"]


async def test_cancelling_everything_tries_every_symbol_and_tells_of_a_failure(server: Server, venue: BinanceVenue) -> None:
    server.on("DELETE openOrders", Answer("", 500), Answer([]))
    with pytest.raises(VenueUnknown):
        await venue.cancel_all(["BTCUSDT", "BTCUSD-PERP"])
    assert len(server.asked("DELETE openOrders")) == 2


async def test_the_dead_man_is_armed_for_each_symbol_the_venue_has(server: Server, venue: BinanceVenue) -> None:
    server.on("POST countdownCancelAll", Answer({}))
    await venue.arm_dead_man(["BTCUSDT", "SPY"], 2.5)
    (request,) = server.asked("POST countdownCancelAll")
    assert (request.params["symbol"], request.params["countdownTime"]) == ("BTCUSDT", "2500")


def trade_document(number: int, order_id: int) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT", "id": number, "orderId": order_id, "price": "100.5", "qty": "0.1", "commission": "0", "commissionAsset": None,
        "time": AT_MS, "isBuyer": True, "isMaker": True,
    }  # fmt: skip


async def test_trades_go_on_after_the_one_named_and_carry_the_orders_client_id(server: Server, venue: BinanceVenue) -> None:
    server.on("POST order", Answer(order_document()))
    server.on("GET myTrades", Answer([trade_document(9, 31), trade_document(8, 28)]))
    server.on("GET order", Answer(order_document(orderId=31, clientOrderId="web_1")))
    await venue.submit(LIMIT)
    trades = await venue.trades("BTCUSDT", "BTCUSDT:7", 500)
    assert server.asked("GET myTrades")[0].params["fromId"] == "8"
    assert [(one.fill.trade_id, one.client_order_id) for one in trades] == [("BTCUSDT:8", "t-1"), ("BTCUSDT:9", "web_1")]
    assert (trades[0].fill.liquidity, trades[0].fill.fee, trades[0].fill.fee_currency) == ("maker", 0, "USDT")
    assert [one.params["orderId"] for one in server.asked("GET order")] == ["31"]


async def test_trades_of_many_orders_ask_for_their_ids_together(server: Server, venue: BinanceVenue) -> None:
    server.on("GET myTrades", Answer([trade_document(number, number + 100) for number in range(1, 8)]))
    server.on("GET allOrders", Answer([order_document(orderId=number + 100, clientOrderId=f"t-{number}") for number in range(1, 8)]))
    assert [one.client_order_id for one in await venue.trades("BTCUSDT", None, 500)] == [f"t-{number}" for number in range(1, 8)]
    assert len(server.asked("GET allOrders")) == 1
    await venue.trades("BTCUSDT", None, 500)
    assert len(server.asked("GET allOrders")) == 1, "what is known is not asked for again"


async def test_a_trade_of_an_order_the_venue_has_forgotten_is_reported_under_a_strange_id(server: Server, venue: BinanceVenue) -> None:
    server.on("GET myTrades", Answer([trade_document(1, 5)]))
    server.on("GET order", refusal(-2013, "Order does not exist."))
    assert [one.client_order_id for one in await venue.trades("BTCUSDT", None, 500)] == ["paper:5"]


async def test_a_cursor_of_another_symbol_is_refused(venue: BinanceVenue) -> None:
    with pytest.raises(ValueError, match="no trade of BTCUSDT"):
        await venue.trades("BTCUSDT", "ETHUSDT:5", 10)


async def test_balances_are_free_and_locked_without_contracts_and_empty_ones(server: Server, venue: BinanceVenue) -> None:
    rows = [("USDT", "10.10", "0.02"), ("BTCUSDPERP", "-3", "0"), ("BTC", "0.00", "0.00"), ("USD", "-1.5", "0")]
    server.on("GET account", Answer({"balances": [{"asset": asset, "free": free, "locked": held} for asset, free, held in rows]}))
    assert await venue.balances() == {"USDT": Decimal("10.12"), "USD": Decimal("-1.5")}


# --- opening -------------------------------------------------------------------------------------------------------------


async def test_symbols_the_venue_does_not_list_are_left_out(server: Server) -> None:
    only = Answer(market_list(listed("BTCUSDT", "BTC", "USDT")))
    server.on("GET exchangeInfo", refusal(-1121, "Invalid symbol."), only, refusal(-1121, "Invalid symbol."))
    server.on("POST order", Answer(order_document()))
    venue = venue_of(server)
    await venue.open()
    await venue.submit(LIMIT)
    with pytest.raises(VenueRejected, match="VENUE_SYMBOL_UNKNOWN"):
        await venue.submit(replace(LIMIT, symbol="BTCUSD-PERP"))
    await venue.close()


async def test_an_instrument_with_rules_other_than_the_venues_is_not_traded_but_can_be_cancelled(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    coarse = listed("BTCUSDT", "BTC", "USDT", stepSize="0.00001000")
    server.on("GET exchangeInfo", Answer(market_list(coarse, listed("BTCUSDPERP", "BTCUSDPERP", "USD"))))
    server.on("DELETE openOrders", Answer([]))
    venue = venue_of(server)
    await venue.open()
    assert "rules are not the venue's" in caplog.text
    with pytest.raises(VenueRejected, match=r"INSTRUMENT_DISAGREES: BTCUSDT: lot 0\.000001, the venue's 0\.00001000"):
        await venue.submit(LIMIT)
    await venue.cancel_all(["BTCUSDT"])
    await venue.close()


@pytest.mark.parametrize(
    ("rule", "value", "agrees"),
    [
        ("tickSize", "0.005", True), ("tickSize", "0.10", False), ("tickSize", "0.003", False), ("tickSize", "0", True),
        ("stepSize", "0.0000005", True), ("stepSize", "0.00001", False), ("minQty", "0.1", False), ("maxQty", "100", False),
        ("minNotional", "10", False), ("minNotional", "1", True),
    ],
)  # fmt: skip
def test_stricter_rules_of_ours_agree_and_looser_ones_do_not(rule: str, value: str, agrees: bool) -> None:
    assert (disagreement(BTC, listed("BTCUSDT", "BTC", "USDT", **{rule: value})) is None) == agrees


@pytest.mark.parametrize("said", [Answer({}), Answer("x"), Answer("", 500), Answer({"symbols": [{"symbol": "BTCUSDT"}], "rateLimits": []})])
async def test_a_venue_whose_markets_cannot_be_read_does_not_open(server: Server, said: Answer) -> None:
    server.on("GET exchangeInfo", said)
    venue = venue_of(server)
    with pytest.raises(VenueUnknown):
        await venue.open()
    await venue.close()


def test_a_real_venue_with_one_url_changed_needs_the_other() -> None:
    settings = VenueSettings(rest_url="https://testnet.example")
    with pytest.raises(ConfigError, match=r"venues\.binance\.websocket_url: missing"):
        BinanceVenue("binance", settings, KEY, CATALOGUE, account_id="live")


def test_only_the_modules_binance_needs_are_loaded_and_ccxt_stays_usable_for_others() -> None:
    program = """
import asyncio, sys
from trading_platform.engine.venues import ccxt_client
async def main():
    client = ccxt_client.create(rest_url=None, key="k", secret="s", timeout_s=1, recv_window_s=1, now_ms=lambda: 1, on_headers=print)
    assert type(client).__mro__[1].__module__ == "ccxt.async_support.binance"
    assert client.urls["api"]["private"] == "https://api.binance.com/api/v3"
    await client.close()
    assert not any(name.endswith("kraken") for name in sys.modules), "every exchange was loaded"
    import ccxt.async_support
    assert ccxt.async_support.kraken
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd="platform", timeout=60)


# --- the stream ----------------------------------------------------------------------------------------------------------


def execution(**changes: Any) -> dict[str, Any]:
    event = {
        "e": "executionReport", "E": AT_MS, "s": "BTCUSDT", "c": "t-1", "C": "", "x": "NEW", "X": "NEW", "r": "NONE", "i": 28, "l": "0",
        "z": "0", "L": "0", "n": "0", "N": None, "T": AT_MS, "t": -1, "m": False,
    }  # fmt: skip
    return {"subscriptionId": 0, "event": event | changes}


TRADE = execution(x="TRADE", X="PARTIALLY_FILLED", l="0.1", z="0.1", L="39000.1", n="0.0001", N="BTC", t=77, m=True)


@asynccontextmanager
async def streaming(*connections: list[Any], status: int = 200) -> AsyncIterator[tuple[str, list[Any]]]:
    """A WebSocket API whose connections each send these messages and are closed; the last one stays."""
    subscribed: list[Any] = []
    left = list(connections)

    async def serve(stream: websockets.ServerConnection) -> None:
        subscribed.append(json.loads(await stream.recv()))
        await stream.send(json.dumps({"id": "subscribe", "status": status, "result": {"subscriptionId": 0}}))
        for message in left.pop(0) if left else []:
            await stream.send(message if isinstance(message, str) else json.dumps(message))
        if not left:
            await stream.wait_closed()

    async with websockets.serve(serve, "127.0.0.1", 0) as listening:
        yield f"ws://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}", subscribed


async def told(server: Server, url: str, count: int) -> list[VenueReport | StreamGap]:
    venue = venue_of(server, websocket_url=url)
    await venue.open()
    heard: list[VenueReport | StreamGap] = []
    try:
        async with asyncio.timeout(10), aclosing(venue.reports()) as reports:  # type: ignore[type-var]
            async for said in reports:
                heard.append(said)
                if len(heard) == count:
                    break
    finally:
        await venue.close()
    return heard


async def test_the_stream_begins_with_a_gap_and_tells_of_orders_and_trades(server: Server) -> None:
    async with streaming([execution(), {"event": {"e": "balanceUpdate"}}, TRADE]) as (url, subscribed):
        gap, accepted, traded = await told(server, url, 3)
    assert isinstance(gap, StreamGap)
    assert accepted == VenueReport(VenueOrder("BTCUSDT", "t-1", "28", "NEW", Decimal(0)))
    at = datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)
    fill = Fill("BTCUSDT:77", Decimal("0.1"), Decimal("39000.1"), Decimal("0.0001"), "BTC", "maker", at, AT_MS * 1_000_000)
    order = VenueOrder("BTCUSDT", "t-1", "28", "PARTIALLY_FILLED", Decimal("0.1"))
    assert traded == VenueReport(order, VenueTrade("BTCUSDT", "t-1", fill))
    params = subscribed[0]["params"]
    signed = "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")
    assert params["signature"] == hmac.new(KEY.secret.encode(), signed.encode(), hashlib.sha256).hexdigest()


async def test_a_cancel_reported_carries_the_orders_id_and_a_rejection_its_reason(server: Server) -> None:
    canceled = execution(x="CANCELED", X="CANCELED", c="cancel-1", C="t-1")
    rejected = execution(x="REJECTED", X="REJECTED", r="INSUFFICIENT_BALANCES")
    async with streaming([canceled, rejected]) as (url, _):
        _, first, second = await told(server, url, 3)
    assert first == VenueReport(VenueOrder("BTCUSDT", "t-1", "28", "CANCELED", Decimal(0)))
    assert second == VenueReport(VenueOrder("BTCUSDT", "t-1", "28", "REJECTED", Decimal(0), "INSUFFICIENT_BALANCES"))


@pytest.mark.parametrize(
    "last",
    [
        pytest.param([execution()], id="cut"),
        pytest.param([execution(), {"event": {"e": "eventStreamTerminated"}}], id="ended by the venue"),
        pytest.param([execution(), "no json"], id="no JSON"),
        pytest.param([execution(), execution(z=0.5)], id="an amount that was a float"),
        pytest.param([execution(), execution(X="STRANGE")], id="a status nobody knows"),
    ],
)
async def test_after_every_loss_the_stream_comes_back_with_a_gap(server: Server, last: list[Any]) -> None:
    async with streaming(last, [TRADE]) as (url, _):
        heard = await told(server, url, 4)
    assert [isinstance(said, StreamGap) for said in heard] == [True, False, True, False]


async def test_a_stream_that_is_refused_is_tried_again_and_never_called_up(server: Server) -> None:
    async with streaming([], [], [], status=400) as (url, subscribed):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await told(server, url, 1)
    assert len(subscribed) > 1
