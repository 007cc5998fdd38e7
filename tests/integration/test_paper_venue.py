"""The paper venue as a client sees it: unmodified ccxt and python-binance, on a real server, PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import ccxt.async_support as ccxt
import ccxt.pro as ccxtpro
import httpx
import psycopg
import pytest
import uvicorn
from binance.client import Client
from conftest import Market, eventually, free_port
from trading_platform import venue_keys
from trading_platform.config import Endpoint, Settings
from trading_platform.paper_venue.app import create
from trading_platform.service import Service

SECRET = "a secret only of this test"


class Venue:
    """A paper venue serving on a port of its own."""

    def __init__(self, settings: Settings, service: Service, server: uvicorn.Server) -> None:
        self.settings = settings
        self.service = service
        self.server = server
        self.url = settings.url("paper-venue")
        self.websocket_url = self.url.replace("http", "ws")
        self.http = httpx.AsyncClient(base_url=self.url, timeout=10)
        self.key = venue_keys.paper("paper", SECRET)

    async def leads(self) -> None:
        async def leading() -> bool:
            return (await self.http.get("/health/leading")).status_code == 200

        await eventually(leading, what="the venue's lead")

    async def has_seen(self, market_symbol: str = "BTCUSDT", **wanted: str) -> None:
        """Wait until the venue shows this top: bidPrice, askPrice, bidQty, askQty."""

        async def shown() -> bool:
            ticker = (await self.http.get("/api/v3/ticker/bookTicker", params={"symbol": market_symbol})).json()
            return all(Decimal(ticker[name]) == Decimal(value) for name, value in wanted.items())

        await eventually(shown, what=f"the top {wanted}")

    async def signed(
        self, method: str, path: str, *, account: str = "paper", timestamp: int | None = None, in_body: bool = False, **parameters: Any
    ) -> httpx.Response:
        """A request signed with the account's key."""
        key = venue_keys.paper(account, SECRET)
        query = urlencode({**parameters, "timestamp": timestamp if timestamp is not None else time.time_ns() // 1_000_000})
        query += "&signature=" + hmac.new(key.secret.encode(), query.encode(), hashlib.sha256).hexdigest()
        headers = {"X-MBX-APIKEY": key.key}
        if in_body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return await self.http.request(method, path, content=query, headers=headers)
        return await self.http.request(method, f"{path}?{query}", headers=headers)

    async def place(self, **parameters: Any) -> httpx.Response:
        limit = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.1", "price": "60000"}
        if parameters.get("type", "LIMIT") != "LIMIT":
            limit = {"symbol": "BTCUSDT", "side": "BUY"}
        return await self.signed("POST", "/api/v3/order", **{**limit, **parameters})

    async def balance(self, asset: str) -> tuple[Decimal, Decimal]:
        """Free and locked."""
        document = (await self.signed("GET", "/api/v3/account")).json()
        found = {entry["asset"]: (Decimal(entry["free"]), Decimal(entry["locked"])) for entry in document["balances"]}
        return found.get(asset, (Decimal(0), Decimal(0)))

    def point(self, exchange: Any) -> Any:
        """A ccxt client with nothing changed but where it looks."""
        api = exchange.urls["api"]
        api["public"] = api["private"] = f"{self.url}/api/v3"
        api["v1"], api["sapi"] = f"{self.url}/api/v1", f"{self.url}/sapi/v1"
        if "ws" in api:
            api["ws"] |= {"spot": f"{self.websocket_url}/ws", "ws-api": {"spot": f"{self.websocket_url}/ws-api/v3"}}
        return exchange

    def ccxt_options(self) -> dict[str, Any]:
        options = {"defaultType": "spot", "fetchMarkets": {"types": ["spot"]}}
        return {"apiKey": self.key.key, "secret": self.key.secret, "enableRateLimit": False, "options": options}


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Venue]:
    """The service as `serve` runs it, in this process."""
    service = create(settings)
    endpoint = settings.service("paper-venue")
    server = uvicorn.Server(
        uvicorn.Config(
            service.app, host=endpoint.host, port=endpoint.port, http="httptools", log_config=None, access_log=False, lifespan="on"
        )
    )
    task = asyncio.create_task(server._serve())  # serve() would take the signals of the test run
    venue = Venue(settings, service, server)

    async def started() -> bool:
        assert not task.done(), task.exception()
        return bool(server.started)

    try:
        await eventually(started, what="the listener")
        yield venue
    finally:
        await venue.http.aclose()
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)


@pytest.fixture
def venue_settings(settings: Settings, credentials: Path) -> Settings:
    (credentials / "paper-venue-secret").write_text(SECRET)
    changed = settings.model_copy(update={"services": {**settings.services, "paper-venue": Endpoint(port=free_port())}})
    return changed.model_copy(update={"paper_venue": settings.paper_venue.model_copy(update={"faults": True})})


@pytest.fixture
async def venue(venue_settings: Settings) -> AsyncIterator[Venue]:
    async with serving(venue_settings) as running:
        await running.leads()
        yield running


@pytest.fixture
async def trading(venue: Venue, market: Market) -> Venue:
    """A venue with a market: 60,000.00 × 1 bid, 60,001.00 × 1 asked."""
    await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
    await venue.has_seen(bidPrice="60000", askPrice="60001")
    return venue


@pytest.fixture
async def client(trading: Venue) -> AsyncIterator[Any]:
    exchange = trading.point(ccxt.binance(trading.ccxt_options()))
    yield exchange
    await exchange.close()


# --- an unmodified ccxt ---------------------------------------------------------------------------------------------------


async def test_ccxt_loads_the_markets_with_their_rules(client: Any) -> None:
    markets = await client.load_markets()
    btc = markets["BTC/USDT"]
    assert (btc["precision"]["price"], btc["precision"]["amount"], btc["limits"]["cost"]["min"]) == (0.01, 0.00001, 5.0)
    assert markets["BTCUSDPERP/USD"]["id"] == "BTCUSDPERP"
    assert client.currencies["BTC"]["code"] == "BTC"


async def test_ccxt_reads_the_market(client: Any, market: Market) -> None:
    await market.trade("BTCUSDT", "60000.50", "0.25")
    book = await client.fetch_order_book("BTC/USDT")
    assert (book["bids"][0], book["asks"][0]) == ([60000.0, 1.0], [60001.0, 1.0])

    async def traded() -> Any:
        return await client.fetch_trades("BTC/USDT")

    trades = await eventually(traded, what="the trade")
    assert (trades[-1]["price"], trades[-1]["amount"]) == (60000.5, 0.25)
    ticker = await client.fetch_ticker("BTC/USDT")
    assert (ticker["bid"], ticker["ask"], ticker["last"]) == (60000.0, 60001.0, 60000.5)


async def test_ccxt_reads_candles(client: Any, superuser: psycopg.Connection[Any]) -> None:
    minute = int(time.time()) // 180 * 180 - 360
    for number in range(6):
        superuser.execute(
            "INSERT INTO candles VALUES (1, 60, to_timestamp(%s), %s, %s, %s, %s, 2, 'test')",
            (minute + 60 * number, 100 + number, 110 + number, 90 + number, 105 + number),
        )
    candles = await client.fetch_ohlcv("BTC/USDT", "3m", limit=2)
    assert candles == [
        [minute * 1000, 100.0, 112.0, 90.0, 107.0, 6.0],
        [(minute + 180) * 1000, 103.0, 115.0, 93.0, 110.0, 6.0],
    ]


async def test_ccxt_trades_and_sees_partial_fills_as_the_market_moves(client: Any, market: Market) -> None:
    taken = await client.create_order("BTC/USDT", "market", "buy", 0.5)
    assert (taken["status"], taken["filled"], taken["average"]) == ("closed", 0.5, 60001.0)
    resting = await client.create_order("BTC/USDT", "limit", "sell", 0.4, 60010.0)
    assert resting["status"] == "open"
    await market.quote("BTCUSDT", "60010.00", "60011.00", bid_size="0.1", ask_size="1")

    async def partly() -> Any:
        found = await client.fetch_order(resting["id"], "BTC/USDT")
        return found if found["filled"] else None

    order = await eventually(partly, what="the partial fill")
    assert (order["filled"], order["remaining"], order["status"]) == (0.1, 0.3, "open")
    assert [entry["id"] for entry in await client.fetch_open_orders("BTC/USDT")] == [resting["id"]]
    canceled = await client.cancel_order(resting["id"], "BTC/USDT")
    assert (canceled["status"], canceled["filled"]) == ("canceled", 0.1)
    trades = await client.fetch_my_trades("BTC/USDT")
    assert [(trade["side"], trade["amount"], trade["takerOrMaker"], trade["id"]) for trade in trades] == [
        ("buy", 0.5, "taker", "1"),
        ("sell", 0.1, "maker", "2"),
    ]
    balance = await client.fetch_balance()
    assert (balance["BTC"]["free"], balance["BTC"]["used"]) == (0.4, 0.0)


async def test_ccxt_stop_orders_wait_trigger_and_trade(client: Any, market: Market) -> None:
    await client.create_order("BTC/USDT", "market", "buy", 0.5)
    stop = await client.create_order("BTC/USDT", "market", "sell", 0.5, None, {"stopLossPrice": 59000.0})
    assert stop["status"] in ("open", None)
    await market.quote("BTCUSDT", "58990.00", "58991.00", bid_size="1", ask_size="1")

    async def done() -> Any:
        found = await client.fetch_order(stop["id"], "BTC/USDT")
        return found if found["status"] == "closed" else None

    order = await eventually(done, what="the stop's execution")
    assert (order["filled"], order["average"]) == (0.5, 58990.0)


async def test_ccxt_knows_our_errors(client: Any) -> None:
    with pytest.raises(ccxt.InsufficientFunds):
        await client.create_order("BTC/USDT", "limit", "buy", 100, 60000.0)
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        await client.create_order("BTC/USDT", "limit", "buy", 0.1, 60002.0, {"postOnly": True})
    with pytest.raises(ccxt.OrderNotFound):
        await client.fetch_order("999999", "BTC/USDT")
    with pytest.raises(ccxt.BadRequest, match="NOTIONAL"):
        await client.create_order("BTC/USDT", "limit", "buy", 0.00001, 60000.0)


async def test_ccxt_pro_watches_orders_trades_and_balance(trading: Venue, market: Market) -> None:
    exchange = trading.point(ccxtpro.binance(trading.ccxt_options()))
    try:
        await exchange.load_markets()
        orders = asyncio.create_task(exchange.watch_orders("BTC/USDT"))
        trades = asyncio.create_task(exchange.watch_my_trades("BTC/USDT"))
        balance = asyncio.create_task(exchange.watch_balance())

        async def subscribed() -> bool:
            return len(_followers(trading)) > 0

        await eventually(subscribed, what="the user data stream")
        placed = await exchange.create_order("BTC/USDT", "limit", "buy", 0.5, 60001.0, {"newClientOrderId": "watched"})
        seen = await asyncio.wait_for(orders, 10)
        assert seen[-1]["clientOrderId"] == "watched"
        executed = await asyncio.wait_for(trades, 10)
        assert (executed[-1]["order"], executed[-1]["amount"], executed[-1]["price"]) == (placed["id"], 0.5, 60001.0)
        assert (await asyncio.wait_for(balance, 10))["BTC"]["free"] == 0.5
    finally:
        await exchange.close()


def _followers(venue: Venue) -> list[Any]:
    api = next(route.app for route in venue.service.app.routes if type(getattr(route, "app", None)).__name__ == "Api")
    return [follower for followers in api._venue.users._followers.values() for follower in followers]


async def test_ccxt_pro_trades_over_the_websocket_api(trading: Venue) -> None:
    exchange = trading.point(ccxtpro.binance(trading.ccxt_options()))
    try:
        await exchange.load_markets()
        order = await exchange.create_order_ws("BTC/USDT", "limit", "buy", 0.1, 59000.0)
        assert (await exchange.fetch_order_ws(order["id"], "BTC/USDT"))["status"] == "open"
        assert (await exchange.cancel_order_ws(order["id"], "BTC/USDT"))["status"] == "canceled"
        status = await exchange.fetch_balance_ws()
        assert {"asset": "USDT", "free": "50000.00000000", "locked": "0.00000000"} in status["info"]["balances"]
    finally:
        await exchange.close()


async def test_ccxt_pro_watches_the_market(trading: Venue, market: Market) -> None:
    exchange = trading.point(ccxtpro.binance(trading.ccxt_options()))
    try:
        await exchange.load_markets()
        book = asyncio.create_task(exchange.watch_order_book("BTC/USDT"))
        trades = asyncio.create_task(exchange.watch_trades("BTC/USDT"))
        tops = asyncio.create_task(exchange.watch_bids_asks(["BTC/USDT"]))
        price = Decimal("60000.00")
        while not (book.done() and trades.done() and tops.done()):
            price += 1
            await market.quote("BTCUSDT", str(price), str(price + 1), bid_size="1", ask_size="1")
            await market.trade("BTCUSDT", str(price), "0.01")
            await asyncio.wait({book, trades, tops}, timeout=0.2)
            assert price < 60100, "the streams told nothing"
        assert trades.result()[-1]["amount"] == 0.01
        assert book.result()["bids"][0][0] >= 60000.0
        assert tops.result()["BTC/USDT"]["ask"] >= 60001.0
    finally:
        await exchange.close()


# --- another client -------------------------------------------------------------------------------------------------------


async def test_python_binance_places_queries_cancels_and_reads_the_account(trading: Venue) -> None:
    def session() -> list[Any]:
        client = Client(trading.key.key, trading.key.secret, ping=False)
        client.API_URL = f"{trading.url}/api"
        client.ping()
        placed = client.order_limit_buy(symbol="BTCUSDT", quantity="0.1", price="59000.00", newClientOrderId="other-client")
        found = client.get_order(symbol="BTCUSDT", orderId=placed["orderId"])
        listed = client.get_open_orders(symbol="BTCUSDT")
        canceled = client.cancel_order(symbol="BTCUSDT", origClientOrderId="other-client")
        bought = client.order_market_buy(symbol="BTCUSDT", quoteOrderQty="600.01")
        account = client.get_account()
        return [placed, found, listed, canceled, bought, account, client.get_my_trades(symbol="BTCUSDT"), client.get_symbol_info("BTCUSDT")]

    placed, found, listed, canceled, bought, account, trades, info = await asyncio.to_thread(session)
    assert (placed["status"], found["status"], len(listed), canceled["status"]) == ("NEW", "NEW", 1, "CANCELED")
    assert bought["executedQty"] == "0.01000000"
    assert [trade["price"] for trade in trades] == ["60001.00000000"]
    assert {entry["asset"]: entry["free"] for entry in account["balances"]}["BTC"] == "0.01000000"
    assert info["filters"][0]["tickSize"] == "0.01000000"
