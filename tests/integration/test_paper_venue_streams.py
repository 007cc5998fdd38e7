"""What the paper venue tells by itself, and the ways it can be told to fail."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from conftest import Market, eventually, free_port
from test_paper_venue import SECRET, Venue, serving
from trading_platform.config import Endpoint, Settings
from websockets.asyncio.client import ClientConnection


@pytest.fixture
def venue_settings(settings: Settings, credentials: Path) -> Settings:
    (credentials / "paper-venue-secret").write_text(SECRET)
    services = {**settings.services, "paper-venue": Endpoint(port=free_port())}
    faulty = settings.paper_venue.model_copy(update={"faults": True})
    return settings.model_copy(update={"services": services, "paper_venue": faulty})


@pytest.fixture
async def trading(venue_settings: Settings, market: Market) -> AsyncIterator[Venue]:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
        await venue.has_seen(bidPrice="60000")
        yield venue


async def fail(venue: Venue, **rule: Any) -> None:
    answer = await venue.http.post("/faults", json={"rules": [rule]})
    assert answer.status_code == 200, answer.text


async def heard(connection: ClientConnection, within_s: float = 5) -> Any:
    return json.loads(await asyncio.wait_for(connection.recv(), within_s))


async def reports(connection: ClientConnection, count: int) -> list[tuple[str, str, str]]:
    """(client order id, execution, status) of the next executionReports."""
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        event = await heard(connection)
        event = event.get("event", event)
        if event["e"] == "executionReport":
            found.append((event["c"], event["x"], event["X"]))
    return found


@asynccontextmanager
async def listening(venue: Venue) -> AsyncIterator[ClientConnection]:
    """A connection to the user data stream by listen key."""
    answer = await venue.http.post("/api/v3/userDataStream", headers={"X-MBX-APIKEY": venue.key.key})
    async with websockets.connect(f"{venue.websocket_url}/ws/{answer.json()['listenKey']}") as connection:
        yield connection


def signed(venue: Venue, **parameters: Any) -> dict[str, Any]:
    """Parameters of a WebSocket API request."""
    values = {"apiKey": venue.key.key, "timestamp": time.time_ns() // 1_000_000, **parameters}
    payload = "&".join(f"{name}={value}" for name, value in sorted(values.items()))
    return {**values, "signature": hmac.new(venue.key.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()}


# --- events ---------------------------------------------------------------------------------------------------------------


async def test_the_user_data_stream_tells_orders_trades_and_balances_in_binances_letters(trading: Venue) -> None:
    async with listening(trading) as connection:
        await trading.place(price="60001", quantity="0.5", newClientOrderId="mine")
        new, trade, position = [await heard(connection) for _ in range(3)]
    assert (new["e"], new["x"], new["X"], new["c"], new["q"], new["p"]) == (
        "executionReport", "NEW", "NEW", "mine", "0.50000000", "60001.00000000",
    )  # fmt: skip
    assert {key: trade[key] for key in ("x", "X", "l", "z", "L", "n", "N", "t", "m", "Y")} == {
        "x": "TRADE", "X": "FILLED", "l": "0.50000000", "z": "0.50000000", "L": "60001.00000000", "n": "15.00025000", "N": "USDT", "t": 1,
        "m": False, "Y": "30000.50000000",
    }  # fmt: skip
    balances = {entry["a"]: (Decimal(entry["f"]), Decimal(entry["l"])) for entry in position["B"]}
    assert balances == {"BTC": (Decimal("0.5"), 0), "USDT": (Decimal("50000") - Decimal("30015.50025"), 0)}


async def test_a_cancel_is_told_under_its_own_id_with_the_orders(trading: Venue) -> None:
    async with listening(trading) as connection:
        await trading.place(price="59000", newClientOrderId="mine")
        await trading.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="mine", newClientOrderId="the-cancel")
        assert await reports(connection, 2) == [("mine", "NEW", "NEW"), ("the-cancel", "CANCELED", "CANCELED")]


async def test_what_is_reported_is_already_to_be_found(trading: Venue) -> None:
    async with listening(trading) as connection:
        placing = asyncio.ensure_future(trading.place(price="59000", newClientOrderId="mine"))
        await reports(connection, 1)
        found = await trading.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="mine")
        assert found.json()["status"] == "NEW"
        await placing


async def test_the_websocket_api_answers_by_id_and_subscribes_the_user_data_stream(trading: Venue) -> None:
    async with websockets.connect(f"{trading.websocket_url}/ws-api/v3") as connection:
        await connection.send(json.dumps({"id": "s", "method": "userDataStream.subscribe.signature", "params": signed(trading)}))
        answer = await heard(connection)
        assert (answer["id"], answer["status"]) == ("s", 200)
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.1", "price": "59000"}
        await connection.send(json.dumps({"id": 7, "method": "order.place", "params": signed(trading, newClientOrderId="ws", **order)}))
        first, second, third = [await heard(connection) for _ in range(3)]
        answered = next(message for message in (first, second, third) if "id" in message)
        told = next(message for message in (first, second, third) if message.get("event", {}).get("e") == "executionReport")
        assert (answered["id"], answered["result"]["clientOrderId"]) == (7, "ws")
        assert [limit["rateLimitType"] for limit in answered["rateLimits"]] == ["ORDERS", "REQUEST_WEIGHT"]
        assert told["event"]["c"] == "ws"
        for method, parameters, code in (
            ("order.status", signed(trading, symbol="BTCUSDT", orderId=99), -2013),
            ("order.place", {**signed(trading, **order), "signature": "00"}, -1022),
            ("order.fly", {}, -1020),
        ):
            await connection.send(json.dumps({"id": 8, "method": method, "params": parameters}))
            assert (await heard(connection))["error"]["code"] == code
        await connection.send("this is no request")
        assert (await heard(connection))["status"] == 400


async def test_listen_keys_end(trading: Venue) -> None:
    headers = {"X-MBX-APIKEY": trading.key.key}
    key = (await trading.http.post("/api/v3/userDataStream", headers=headers)).json()["listenKey"]
    assert (await trading.http.post("/api/v3/userDataStream", headers=headers)).json()["listenKey"] == key
    assert (await trading.http.put("/api/v3/userDataStream", params={"listenKey": key}, headers=headers)).json() == {}
    await trading.http.delete("/api/v3/userDataStream", params={"listenKey": key}, headers=headers)
    assert (await trading.http.put("/api/v3/userDataStream", params={"listenKey": key}, headers=headers)).json()["code"] == -1125
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"{trading.websocket_url}/ws/{key}")


async def test_market_streams_can_be_followed_and_left(trading: Venue, market: Market) -> None:
    url = f"{trading.websocket_url}/stream?streams=btcusdt@trade/btcusdt@bookTicker"
    async with websockets.connect(url) as connection:
        await market.trade("BTCUSDT", "60000.00", "0.25")
        seen = [await heard(connection), await heard(connection)]
        by_stream = {message["stream"]: message["data"] for message in seen}
        assert (by_stream["btcusdt@trade"]["p"], by_stream["btcusdt@trade"]["q"]) == ("60000.00000000", "0.25000000")
        await connection.send(json.dumps({"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 3}))
        assert await heard(connection) == {"result": None, "id": 3}
        await connection.send(json.dumps({"method": "SUBSCRIBE", "params": ["btcusdt@depth5", "btcusdt@kline_1m"], "id": 4}))
        assert await heard(connection) == {"result": None, "id": 4}
        await market.quote("BTCUSDT", "60005.00", "60006.00", bid_size="2", ask_size="2")
        streams = {(await heard(connection))["stream"] for _ in range(2)}
        assert streams == {"btcusdt@bookTicker", "btcusdt@depth5"}
        await market.trade("BTCUSDT", "60006.00", "0.5")
        while (message := await heard(connection))["stream"] != "btcusdt@kline_1m":
            pass
        assert (message["data"]["k"]["c"], message["data"]["k"]["x"]) == ("60006.00000000", False)
        for wrong in (["nosuch@trade"], ["btcusdt@kline_7m"], "btcusdt@trade"):
            await connection.send(json.dumps({"method": "SUBSCRIBE", "params": wrong, "id": 5}))
            while "error" not in (message := await heard(connection)):
                pass
            assert message["id"] == 5


# --- misbehaviour ---------------------------------------------------------------------------------------------------------


async def placed_anyway(venue: Venue, client_id: str) -> bool:
    return (await venue.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=client_id)).status_code == 200


async def test_an_order_can_be_accepted_and_never_answered(trading: Venue) -> None:
    await fail(trading, kind="no_answer", path="/api/v3/order", method="POST", count=1)
    async with httpx.AsyncClient(base_url=trading.url, timeout=0.5) as impatient:
        trading.http, patient = impatient, trading.http
        with pytest.raises(httpx.ReadTimeout):
            await trading.place(price="59000", newClientOrderId="unanswered")
        trading.http = patient
    assert await placed_anyway(trading, "unanswered")


@pytest.mark.parametrize(("kind", "is_there"), [("error_before", False), ("error_after", True)])
async def test_a_server_error_comes_before_or_after_the_order_was_accepted(trading: Venue, kind: str, is_there: bool) -> None:
    await fail(trading, kind=kind, path="/api/v3/order", method="POST", count=1, status=502)
    answer = await trading.place(price="59000", newClientOrderId="perhaps")
    assert answer.status_code == 502
    assert await placed_anyway(trading, "perhaps") is is_there


@pytest.mark.parametrize("status", [429, 418])
async def test_a_rate_limit_can_be_pretended(trading: Venue, status: int) -> None:
    await fail(trading, kind="rate_limit", path="/api/v3/order", count=1, status=status, seconds=3)
    answer = await trading.place(newClientOrderId="limited")
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["code"]) == (status, "3", -1003)
    assert not await placed_anyway(trading, "limited")


async def test_the_venues_clock_can_drift(trading: Venue) -> None:
    await fail(trading, kind="clock_drift", milliseconds=-60_000)
    assert (await trading.place()).json()["code"] == -1021
    drifted = (await trading.http.get("/api/v3/time")).json()["serverTime"]
    assert -61_000 < drifted - time.time() * 1_000 < -59_000
    assert (await trading.place(timestamp=drifted)).status_code == 200


async def test_a_request_that_was_slowed_down_beyond_its_window_is_refused(trading: Venue) -> None:
    await fail(trading, kind="slow", path="/api/v3/order", method="POST", count=1, seconds=0.3)
    answer = await trading.place(newClientOrderId="late", recvWindow=100)
    assert answer.json()["code"] == -1021
    assert not await placed_anyway(trading, "late")


async def test_reports_come_twice_late_in_another_order_or_not_at_all(trading: Venue) -> None:
    async with listening(trading) as connection:
        await fail(trading, kind="duplicate_reports", path="executionReport", count=1)
        await trading.place(price="59000", newClientOrderId="twice")
        assert [name for name, _, _ in await reports(connection, 2)] == ["twice", "twice"]
        await fail(trading, kind="reorder_reports", path="executionReport", count=1)
        await trading.place(price="60001", quantity="0.01", newClientOrderId="turned")
        assert [execution for _, execution, _ in await reports(connection, 2)] == ["TRADE", "NEW"]
        await fail(trading, kind="delay_reports", path="executionReport", count=1, seconds=0.3)
        await trading.place(price="59000", newClientOrderId="delayed")
        await trading.place(price="59000", newClientOrderId="later")
        assert [name for name, _, _ in await reports(connection, 2)] == ["later", "delayed"]
        await fail(trading, kind="lose_reports", path="executionReport", count=1)
        await trading.place(price="59000", newClientOrderId="lost")
        await trading.place(price="59000", newClientOrderId="after")
        assert [name for name, _, _ in await reports(connection, 1)] == ["after"]


async def test_streams_are_cut_and_new_ones_refused(trading: Venue) -> None:
    async with listening(trading) as connection:
        await fail(trading, kind="drop_streams", count=1)
        await trading.place(price="59000")
        with pytest.raises(websockets.ConnectionClosed):
            await reports(connection, 10)
    await fail(trading, kind="refuse_streams", count=1)
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"{trading.websocket_url}/ws-api/v3")
    async with websockets.connect(f"{trading.websocket_url}/ws-api/v3"):
        pass


async def test_faults_are_shown_and_taken_back(trading: Venue) -> None:
    await fail(trading, kind="error_before", path="/api/v3/time")
    assert (await trading.http.get("/api/v3/time")).status_code == 503
    shown = (await trading.http.get("/faults")).json()["rules"][0]
    assert (shown["rule"]["kind"], shown["hits"], shown["left"]) == ("error_before", 1, None)
    assert (await trading.http.delete("/faults")).json() == {"rules": []}
    assert (await trading.http.get("/api/v3/time")).status_code == 200
    assert (await trading.http.post("/faults", json={"rules": [{"kind": "explode"}]})).status_code == 422


async def test_a_venue_that_may_not_misbehave_has_no_such_switch(venue_settings: Settings) -> None:
    honest = venue_settings.model_copy(update={"paper_venue": venue_settings.paper_venue.model_copy(update={"faults": False})})
    async with serving(honest) as venue:
        await venue.leads()
        assert (await venue.http.post("/faults", json={"rules": []})).status_code == 404


async def test_streams_end_when_the_venue_stops_leading(trading: Venue, superuser: Any) -> None:
    async with listening(trading) as connection:
        superuser.execute("UPDATE leases SET holder = 'another', token = token + 1, expires_at = now() + '3 s' WHERE name = 'paper-venue'")
        with pytest.raises(websockets.ConnectionClosed):
            await reports(connection, 10)

    async def leads_again() -> bool:
        return (await trading.http.get("/health/leading")).status_code == 200

    await eventually(leads_again, within_s=15, what="the venue's return")
