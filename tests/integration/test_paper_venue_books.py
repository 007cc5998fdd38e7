"""The paper venue's promises: what was answered is there after a crash, nobody without the lease writes, bad input changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from conftest import Market, eventually, free_port
from test_paper_venue import SECRET, Venue, serving
from trading_platform import messages
from trading_platform.bus import Bus
from trading_platform.config import AccountSettings, Endpoint, Settings
from trading_platform.paper_venue.store import Store


@pytest.fixture
def venue_settings(settings: Settings, credentials: Path) -> Settings:
    (credentials / "paper-venue-secret").write_text(SECRET)
    services = {**settings.services, "paper-venue": Endpoint(port=free_port())}
    return settings.model_copy(update={"services": services})


@pytest.fixture
async def venue(venue_settings: Settings) -> AsyncIterator[Venue]:
    async with serving(venue_settings) as running:
        await running.leads()
        yield running


@pytest.fixture
async def trading(venue: Venue, market: Market) -> Venue:
    await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
    await venue.has_seen(bidPrice="60000", askPrice="60001")
    return venue


async def order_of(venue: Venue, client_id: str, symbol: str = "BTCUSDT") -> dict[str, Any]:
    document: dict[str, Any] = (await venue.signed("GET", "/api/v3/order", symbol=symbol, origClientOrderId=client_id)).json()
    return document


async def becomes(venue: Venue, client_id: str, status: str, symbol: str = "BTCUSDT") -> dict[str, Any]:
    async def reached() -> Any:
        found = await order_of(venue, client_id, symbol)
        return found if found.get("status") == status else None

    found: dict[str, Any] = await eventually(reached, what=f"{client_id} {status}")
    return found


# --- after a restart ------------------------------------------------------------------------------------------------------


async def test_a_restart_keeps_orders_locks_and_what_was_traded(venue_settings: Settings, market: Market) -> None:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
        await venue.has_seen(bidPrice="60000")
        await venue.place(type="MARKET", quantity="0.2", newClientOrderId="bought")
        await venue.place(price="59000", quantity="0.3", newClientOrderId="waits")
        before = (await venue.signed("GET", "/api/v3/account")).json()["balances"]
        trades = (await venue.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT")).json()
    async with serving(venue_settings) as venue:
        await venue.leads()
        assert (await venue.signed("GET", "/api/v3/account")).json()["balances"] == before
        assert (await venue.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT")).json() == trades
        assert [order["clientOrderId"] for order in (await venue.signed("GET", "/api/v3/openOrders")).json()] == ["waits"]
        again = await venue.place(newClientOrderId="bought")
        assert again.json() == {"code": -2010, "msg": "Duplicate order sent."}
        await venue.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="waits")
        assert (await venue.balance("USDT"))[1] == 0
        newer = (await venue.place(type="MARKET", quantity="0.1")).json()
        assert newer["orderId"] > 2
        assert newer["fills"][0]["tradeId"] == trades[-1]["id"] + 1


async def test_ticks_that_passed_while_it_was_down_are_matched_when_it_is_back(venue_settings: Settings, market: Market) -> None:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
        await venue.has_seen(bidPrice="60000")
        await venue.place(price="59500", quantity="0.3", newClientOrderId="reached")
        await venue.place(price="58000", quantity="0.3", newClientOrderId="not-reached")
    await market.quote("BTCUSDT", "59400.00", "59401.00", bid_size="1", ask_size="1")
    await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
    async with serving(venue_settings) as venue:
        await venue.leads()
        assert (await order_of(venue, "reached"))["status"] == "FILLED"
        assert (await order_of(venue, "not-reached"))["status"] == "NEW"
        assert (await venue.http.get("/health")).json()["stream_gaps"] == 0


async def test_ticks_that_were_trimmed_before_they_were_matched_are_told(
    venue_settings: Settings, market: Market, bus: Bus, superuser: psycopg.Connection[Any]
) -> None:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00")
        await venue.has_seen(bidPrice="60000")
    await market.quote("BTCUSDT", "60002.00", "60003.00")
    await market.quote("BTCUSDT", "60004.00", "60005.00")
    await bus.redis.xtrim(messages.TICKS, maxlen=1, approximate=False)
    async with serving(venue_settings) as venue:
        await venue.leads()
        await venue.has_seen(bidPrice="60004")
        assert (await venue.http.get("/health")).json()["stream_gaps"] == 1
    assert superuser.execute("SELECT gaps FROM paper_venue.progress").fetchone() == (1,)


async def test_a_queue_position_survives(venue_settings: Settings, market: Market) -> None:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
        await venue.has_seen(bidPrice="60000")
        await venue.place(price="60000", quantity="0.5", newClientOrderId="behind")
        await market.trade("BTCUSDT", "60000.00", "0.75")
        await venue.place(price="50000", quantity="0.1", newClientOrderId="commits-the-position")
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.trade("BTCUSDT", "60000.00", "0.5")
        order = await becomes(venue, "behind", "PARTIALLY_FILLED")
        assert order["executedQty"] == "0.25000000"


async def test_an_account_is_paid_once(venue_settings: Settings, superuser: psycopg.Connection[Any]) -> None:
    for _ in range(2):
        async with serving(venue_settings) as venue:
            await venue.leads()
            assert await venue.balance("USDT") == (50_000, 0)
    assert superuser.execute("SELECT opening FROM paper_venue.accounts").fetchone() == ({"USD": "50000", "USDT": "50000"},)


async def test_a_dead_man_timer_fires_after_a_restart(venue_settings: Settings, market: Market) -> None:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00")
        await venue.has_seen(bidPrice="60000")
        await venue.place(price="59000", newClientOrderId="left-alone")
        armed = await venue.signed("POST", "/api/v3/countdownCancelAll", countdownTime=700)
        assert armed.json() == {"symbol": "", "countdownTime": "700"}
    async with serving(venue_settings) as venue:
        await venue.leads()
        await becomes(venue, "left-alone", "CANCELED")
        assert (await venue.balance("USDT"))[1] == 0


async def test_a_dead_man_timer_that_is_armed_again_or_disarmed_does_not_fire(trading: Venue) -> None:
    await trading.place(price="59000", newClientOrderId="kept")
    await trading.signed("POST", "/api/v3/countdownCancelAll", symbol="BTCUSDT", countdownTime=300)
    await trading.signed("POST", "/api/v3/countdownCancelAll", symbol="BTCUSDT", countdownTime=0)
    await trading.place(price="58000", symbol="ETHUSDT", quantity="0.1")
    await trading.signed("POST", "/api/v3/countdownCancelAll", symbol="ETHUSDT", countdownTime=1)

    async def fired() -> bool:
        return not (await trading.signed("GET", "/api/v3/openOrders", symbol="ETHUSDT")).json()

    await eventually(fired, what="the other timer")
    assert (await order_of(trading, "kept"))["status"] == "NEW"


# --- one leader -----------------------------------------------------------------------------------------------------------


async def test_a_stand_by_answers_503_and_takes_over(venue_settings: Settings, market: Market) -> None:
    second = venue_settings.model_copy(update={"services": {**venue_settings.services, "paper-venue": Endpoint(port=free_port())}})
    async with serving(second) as waiting:
        await waiting.leads()
        async with serving(venue_settings) as other:
            assert (await other.http.get("/health/leading")).status_code == 503
            answer = await other.http.get("/api/v3/time")
            assert (answer.status_code, answer.json()["code"]) == (503, -1008)
            assert (await other.place()).json()["code"] == -1008
    async with serving(venue_settings) as other:
        await other.leads()


async def test_a_venue_whose_lease_was_taken_writes_nothing_and_says_that_it_does_not_know(
    trading: Venue, superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute("UPDATE leases SET holder = 'another', token = token + 1, expires_at = now() + '1 minute' WHERE name = 'paper-venue'")
    answer = await trading.place(newClientOrderId="too-late")
    assert answer.status_code == 503
    assert superuser.execute("SELECT count(*) FROM paper_venue.orders").fetchone() == (0,)
    assert (await trading.http.get("/health/leading")).status_code == 503


async def test_requests_go_on_while_the_bus_is_away_and_the_market_is_closed(trading: Venue, redis_server: Any) -> None:
    await trading.place(price="59000", newClientOrderId="open")
    redis_server.stop()
    try:
        canceled = await trading.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="open")
        assert canceled.json()["status"] == "CANCELED"
        assert (await trading.http.get("/health/leading")).status_code == 200
    finally:
        redis_server.start()


# --- refusals -------------------------------------------------------------------------------------------------------------


REFUSALS: list[tuple[dict[str, Any], int]] = [
    ({"symbol": "NOPE"}, -1121),
    ({"symbol": "btc usdt"}, -1100),
    ({"quantity": "-1"}, -1100),
    ({"quantity": "1e400"}, -1100),
    ({"quantity": "0.00000000001"}, -1111),
    ({"price": "60000.001"}, -1013),
    ({"quantity": "9999999"}, -1013),
    ({"quantity": "10"}, -2010),
    ({"side": "SELL"}, -2010),
    ({"type": "LIMIT_MAKER", "quantity": "0.1", "price": "60001"}, -2010),
    ({"type": "STOP_LOSS", "quantity": "0.1", "stopPrice": "59000"}, -2010),
    ({"trailingDelta": "10"}, -1104),
    ({"recvWindow": "60001"}, -1131),
    ({"timestamp": "1"}, -1021),
    ({"timestamp": str(1 << 80)}, -1100),
]


async def test_what_cannot_be_is_refused_with_binances_code_and_changes_nothing(trading: Venue, superuser: psycopg.Connection[Any]) -> None:
    answers = [await trading.place(**changes) for changes, _ in REFUSALS]
    found = [(changes, answer.json()["code"]) for (changes, _), answer in zip(REFUSALS, answers, strict=True)]
    assert found == REFUSALS
    assert {answer.status_code for answer in answers} == {400}
    assert superuser.execute("SELECT count(*) FROM paper_venue.orders").fetchone() == (0,)
    assert await trading.balance("USDT") == (50_000, 0)


async def test_a_request_from_the_future_is_refused(trading: Venue) -> None:
    answer = await trading.place(timestamp=time.time_ns() // 1_000_000 + 5_000)
    assert (answer.json()["code"], "ahead" in answer.json()["msg"]) == (-1021, True)


async def test_a_request_whose_turn_comes_after_its_window_is_refused(venue_settings: Settings, market: Market) -> None:
    slow = venue_settings.paper_venue.model_copy(update={"latency_ms": 400})
    async with serving(venue_settings.model_copy(update={"paper_venue": slow})) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00")
        await venue.has_seen(bidPrice="60000")
        late = await venue.place(recvWindow=200, newClientOrderId="late")
        assert late.json()["code"] == -1021
        assert (await order_of(venue, "late"))["code"] == -2013
        assert (await venue.place(recvWindow=5000)).status_code == 200


async def test_a_false_key_a_false_signature_and_no_signature_are_told_apart(trading: Venue) -> None:
    now = time.time_ns() // 1_000_000
    for headers, query, status, code in (
        ({}, f"timestamp={now}&signature=00", 401, -2014),
        ({"X-MBX-APIKEY": "f" * 64}, f"timestamp={now}&signature=00", 401, -2015),
        ({"X-MBX-APIKEY": trading.key.key}, f"timestamp={now}&signature=00", 400, -1022),
        ({"X-MBX-APIKEY": trading.key.key}, f"timestamp={now}", 400, -1102),
        ({"X-MBX-APIKEY": trading.key.key}, "signature=00", 400, -1022),
    ):
        answer = await trading.http.get(f"/api/v3/account?{query}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_signature_is_valid_in_the_body_too(trading: Venue) -> None:
    placed = await trading.signed(
        "POST", "/api/v3/order", in_body=True, symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.1", price="59000"
    )
    assert placed.json()["status"] == "NEW"


async def test_an_unknown_path_or_method_is_an_error_document(trading: Venue) -> None:
    assert (await trading.http.get("/api/v3/nothing")).status_code == 404
    assert (await trading.http.put("/api/v3/order")).status_code == 405
    assert (await trading.http.post("/api/v3/order", content=b"x" * 70_000)).status_code == 413


async def test_orders_that_are_not_there_are_not_found(trading: Venue) -> None:
    assert (await trading.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=77)).json()["code"] == -2013
    assert (await trading.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=77)).json()["code"] == -2011
    assert (await trading.signed("GET", "/api/v3/order", symbol="BTCUSDT")).json()["code"] == -1102
    assert (await trading.signed("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")).json()["code"] == -2011


async def test_nobody_trades_in_a_market_that_is_not_there_or_old(venue: Venue, market: Market) -> None:
    assert (await venue.place()).json() == {"code": -2010, "msg": "Market is closed."}
    await market.quote("BTCUSDT", "60000.00", "60001.00", age_s=60)
    await venue.has_seen(bidPrice="60000")
    assert (await venue.place(type="MARKET", quantity="0.1")).json() == {"code": -2010, "msg": "Market is closed."}


async def test_one_account_neither_sees_nor_touches_anothers_orders(settings: Settings, venue_settings: Settings, market: Market) -> None:
    accounts = [AccountSettings(id="paper"), AccountSettings(id="second", opening_balances={"USDT": Decimal(100)})]
    async with serving(venue_settings.model_copy(update={"accounts": accounts})) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00")
        await venue.has_seen(bidPrice="60000")
        placed = (await venue.place(price="59000", newClientOrderId="mine")).json()
        for method in ("GET", "DELETE"):
            answer = await venue.signed(method, "/api/v3/order", account="second", symbol="BTCUSDT", orderId=placed["orderId"])
            assert answer.json()["code"] in (-2013, -2011)
        assert (await venue.signed("GET", "/api/v3/openOrders", account="second")).json() == []
        assert (await order_of(venue, "mine"))["status"] == "NEW"


# --- what an order may do -------------------------------------------------------------------------------------------------


async def test_an_order_locks_and_releases_what_it_can_cost(trading: Venue) -> None:
    await trading.place(price="50000", quantity="0.5", newClientOrderId="locks")
    assert await trading.balance("USDT") == (Decimal("24987.5"), Decimal("25012.5"))
    await trading.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="locks")
    assert await trading.balance("USDT") == (50_000, 0)


async def test_answers_are_as_long_as_asked_for(trading: Venue) -> None:
    short = (await trading.place(price="59000", newOrderRespType="ACK")).json()
    longer = (await trading.place(price="59000", newOrderRespType="RESULT")).json()
    assert set(short) == {"symbol", "orderId", "orderListId", "clientOrderId", "transactTime"}
    assert set(short) < set(longer)
    assert "fills" not in longer


async def test_what_cannot_trade_at_once_expires_when_it_may_not_wait(trading: Venue, market: Market) -> None:
    await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="0.1", ask_size="0.1")
    await trading.has_seen(askQty="0.1")
    answers = [(await trading.place(price="60001", quantity="0.2", timeInForce=force)).json() for force in ("FOK", "IOC")]
    assert [(answer["status"], answer["executedQty"]) for answer in answers] == [("EXPIRED", "0.00000000"), ("EXPIRED", "0.10000000")]
    assert await trading.balance("USDT") == (Decimal("50000") - Decimal("6000.1") * Decimal("1.0005"), 0)


async def test_cancel_replace_places_only_after_the_cancel(trading: Venue) -> None:
    await trading.place(price="59000", newClientOrderId="old")
    new = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.1", "price": "59500"}
    path = "/api/v3/order/cancelReplace"
    done = await trading.signed(
        "POST", path, **new, cancelReplaceMode="STOP_ON_FAILURE", cancelOrigClientOrderId="old", newClientOrderId="new"
    )
    assert (done.json()["cancelResult"], done.json()["newOrderResponse"]["clientOrderId"]) == ("SUCCESS", "new")
    failed = await trading.signed("POST", path, **new, cancelReplaceMode="STOP_ON_FAILURE", cancelOrigClientOrderId="old")
    assert (failed.status_code, failed.json()["code"], failed.json()["data"]["newOrderResult"]) == (400, -2022, "NOT_ATTEMPTED")
    partly = await trading.signed(
        "POST", path, **{**new, "quantity": "5"}, cancelReplaceMode="ALLOW_FAILURE", cancelOrigClientOrderId="new"
    )
    assert (partly.status_code, partly.json()["code"], partly.json()["data"]["cancelResult"]) == (409, -2021, "SUCCESS")


async def test_a_perpetual_may_be_short_and_pays_in_its_quote_currency(venue: Venue, market: Market) -> None:
    await market.quote("BTCUSD-PERP", "60000.0", "60000.5", bid_size="5", ask_size="5")
    await venue.has_seen("BTCUSDPERP", bidPrice="60000")
    await venue.place(symbol="BTCUSDPERP", type="MARKET", side="SELL", quantity="1", newClientOrderId="short")
    assert await venue.balance("BTCUSDPERP") == (-1, 0)
    assert await venue.balance("USD") == (Decimal(50_000 - 30), 0)
    await market.quote("BTCUSD-PERP", "58999.5", "59000.0", bid_size="5", ask_size="5")
    await venue.has_seen("BTCUSDPERP", askPrice="59000")
    await venue.place(symbol="BTCUSDPERP", type="MARKET", side="BUY", quantity="1")
    assert await venue.balance("BTCUSDPERP") == (0, 0)
    assert await venue.balance("USD") == (Decimal("50940.5"), 0)
    too_much = await venue.place(symbol="BTCUSDPERP", type="MARKET", side="BUY", quantity="9")
    assert too_much.json()["msg"] == "Account has insufficient balance for requested action."


async def test_trades_go_on_where_a_client_left_off(trading: Venue, market: Market) -> None:
    for _ in range(3):
        await trading.place(type="MARKET", quantity="0.01")
    trades = (await trading.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT", fromId=2, limit=1)).json()
    assert [trade["id"] for trade in trades] == [2]
    newest = (await trading.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT", limit=2)).json()
    assert [trade["id"] for trade in newest] == [2, 3]


# --- limits ---------------------------------------------------------------------------------------------------------------


async def test_limits_are_told_and_kept(settings: Settings, venue_settings: Settings, market: Market) -> None:
    rules = venue_settings.paper_venue.model_copy(update={"orders_per_10_s": 3, "request_weight_per_minute": 200})
    async with serving(venue_settings.model_copy(update={"paper_venue": rules})) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00")
        await venue.has_seen(bidPrice="60000")
        answers = [await venue.place(price="59000", quantity="0.01") for _ in range(8)]
        assert answers[0].headers["x-mbx-order-count-10s"] == "1"
        limited = [answer for answer in answers if answer.status_code == 429]
        assert {answer.json()["code"] for answer in limited} == {-1015}
        assert 1 <= int(limited[0].headers["retry-after"]) <= 10
        statuses: set[int] = set()
        for _ in range(60):
            answer = await venue.signed("GET", "/api/v3/account")
            statuses.add(answer.status_code)
            if answer.status_code == 418:
                break
        assert statuses >= {429, 418}
        assert int(answer.headers["retry-after"]) >= 1
        assert int((await venue.http.get("/api/v3/ping")).headers["x-mbx-used-weight-1m"]) >= 1


async def test_entries_of_the_stream_that_are_no_ticks_stop_nothing(trading: Venue, bus: Bus, market: Market) -> None:
    await bus.publish(messages.TICKS, {b"b": b"nothing"})
    await bus.publish(messages.TICKS, {b"x": b"nothing"})
    await market.quote("BTCUSDT", "60010.00", "60011.00")
    await trading.has_seen(bidPrice="60010")


async def test_many_orders_at_once_are_each_answered_once(trading: Venue, superuser: psycopg.Connection[Any]) -> None:
    answers: list[httpx.Response] = await asyncio.gather(
        *(trading.place(price="50000", quantity="0.001", newClientOrderId=f"burst-{number % 80}") for number in range(100))
    )
    accepted = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.json()["orderId"] for answer in accepted}) == 80
    assert {answer.json()["code"] for answer in answers if answer.status_code == 400} == {-2010}
    assert superuser.execute("SELECT count(*), count(DISTINCT client_order_id) FROM paper_venue.orders").fetchone() == (80, 80)


async def test_how_many_orders_may_be_open_is_said_of_the_symbol_and_before_that_of_the_account(
    settings: Settings, venue_settings: Settings, market: Market
) -> None:
    other = AccountSettings(id="other", opening_balances={"USDT": Decimal(1_000)})
    rules = settings.paper_venue.model_copy(
        update={"max_open_orders": 1, "max_open_orders_by_symbol": {"BTCUSDT": 2}, "max_open_orders_by_account": {"other": 3}}
    )
    chosen = venue_settings.model_copy(update={"accounts": [*settings.accounts, other], "paper_venue": rules})
    async with serving(chosen) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
        await market.quote("ETHUSDT", "3000.00", "3001.00", bid_size="1", ask_size="1")
        await venue.has_seen("ETHUSDT", bidPrice="3000")

        async def placed(count: int, symbol: str, account: str = "paper") -> list[int | None]:
            order = {"side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01", "price": "1000", "symbol": symbol}
            answers = [await venue.signed("POST", "/api/v3/order", account=account, **order) for _ in range(count)]
            return [answer.json().get("code") for answer in answers]

        assert await placed(2, "ETHUSDT") == [None, -1013]
        assert await placed(3, "BTCUSDT") == [None, None, -1013]
        assert await placed(4, "BTCUSDT", "other") == [None, None, None, -1013]
        symbols = (await venue.http.get("/api/v3/exchangeInfo")).json()["symbols"]
        told = {each["symbol"]: each["filters"][-1] for each in symbols}
        assert told["BTCUSDT"] == {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 2}
        assert told["ETHUSDT"]["maxNumOrders"] == 1


# --- retention ------------------------------------------------------------------------------------------------------------


async def test_what_was_closed_long_ago_is_forgotten_and_nothing_else(
    venue_settings: Settings, market: Market, superuser: psycopg.Connection[Any]
) -> None:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="9")
        await market.quote("ETHUSDT", "3000.00", "3001.00", bid_size="1", ask_size="9")
        await venue.has_seen("ETHUSDT", bidPrice="3000")
        for name in ("old", "older", "young"):
            await venue.place(price="60001", quantity="0.1", newClientOrderId=name)
        await venue.place(price="50000", quantity="0.1", newClientOrderId="open")
        await venue.place(price="50000", quantity="0.1", newClientOrderId="canceled")
        await venue.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="canceled")
        await venue.place(symbol="ETHUSDT", price="3001", quantity="0.1", newClientOrderId="newest-trade-of-its-symbol")
        await venue.place(price="50000", quantity="0.1", newClientOrderId="newest")
        await venue.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="newest")
        before = [await venue.balance(asset) for asset in ("USDT", "BTC", "ETH")]
    superuser.execute("UPDATE paper_venue.orders SET created_ms = created_ms - 100 * 86400000::bigint")
    superuser.execute("UPDATE paper_venue.orders SET updated_ms = updated_ms - 91 * 86400000::bigint WHERE client_order_id <> 'young'")
    kept = {"young", "open", "newest-trade-of-its-symbol", "newest"}

    async def forgotten() -> bool:
        return {row[0] for row in superuser.execute("SELECT client_order_id FROM paper_venue.orders")} == kept

    async with serving(venue_settings) as venue:
        await venue.leads()
        await eventually(forgotten, what="retention")
        trades = superuser.execute(
            "SELECT client_order_id FROM paper_venue.trades JOIN paper_venue.orders USING (order_id) ORDER BY 1"
        ).fetchall()
        assert trades == [("newest-trade-of-its-symbol",), ("young",)]
        assert [await venue.balance(asset) for asset in ("USDT", "BTC", "ETH")] == before
        assert [order["clientOrderId"] for order in (await venue.signed("GET", "/api/v3/openOrders")).json()] == ["open"]
        assert (await venue.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="old")).json()["code"] == -2013
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="9")
        await venue.has_seen(bidPrice="60000")
        filled = (await venue.place(price="60001", quantity="0.1", newClientOrderId="next")).json()
        assert [fill["tradeId"] for fill in filled["fills"]] == [4]
        assert filled["orderId"] == 8


async def test_retention_goes_through_the_orders_a_few_at_a_time(venue_settings: Settings, market: Market, db: Any) -> None:
    async with serving(venue_settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="9")
        await venue.has_seen(bidPrice="60000")
        for number in range(7):
            await venue.place(price="60001", quantity="0.1", newClientOrderId=f"n{number}")
    store, far = Store(db), 1 << 62
    assert await store.forget(0, 0, 3) == (None, 0)
    assert await store.forget(far, 0, 3) == (3, 3)
    assert await store.forget(far, 3, 3) == (6, 3)
    assert await store.forget(far, 6, 3) == (None, 0)
    assert await db.fetch_value("SELECT count(*) FROM paper_venue.trades") == 1
