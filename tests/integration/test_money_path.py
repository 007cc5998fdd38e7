"""From a signal to the figures of the API, and what happens when a part is missing."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from conftest import Market, Platform, eventually
from trading_platform import messages, rebuild
from trading_platform.config import Settings
from trading_platform.db import Database


async def orders(platform: Platform) -> list[dict[str, Any]]:
    return list((await platform["engine"].get("/orders")).json())


async def first_order(platform: Platform, status: str) -> dict[str, Any]:
    async def found() -> Any:
        return next((order for order in await orders(platform) if order["status"] == status), None)

    return dict(await eventually(found, what=f"an order in status {status}"))


async def projected(platform: Platform, trades: int) -> None:
    async def done() -> bool:
        recent = (await platform["portfolio"].get("/trades/recent")).json()
        return len(recent) == trades and all(trade["realised_pnl"] is not None for trade in recent)

    await eventually(done, what=f"{trades} projected trades")


@pytest.fixture
async def trading(platform: Platform, market: Market) -> Platform:
    """Risk, portfolio and engine at work, and a price of BTCUSDT."""
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await platform.start("risk", "portfolio", "engine")
    await platform.leads()
    await platform.judges()
    return platform


async def test_a_signal_becomes_a_fill_a_position_and_the_figures_of_the_api(trading: Platform, market: Market) -> None:
    await market.signal("s1", "buy", "0.05")
    order = await first_order(trading, "FILLED")
    await projected(trading, 1)

    trade = (await trading["portfolio"].get("/trades/recent")).json()[0]
    assert (trade["symbol"], trade["side"], trade["quantity"], trade["price"]) == ("BTCUSDT", "buy", "0.05", "40001")
    assert trade["fee"] == "1.000025"  # 5 basis points of 2000.05
    assert trade["client_order_id"] == order["client_order_id"]

    positions = (await trading["portfolio"].get("/positions")).json()
    assert [(p["symbol"], p["quantity"], p["average_price"], p["mark_price"]) for p in positions] == [("BTCUSDT", "0.05", "40001", "40000")]

    summary = (await trading["risk"].get("/risk/summary")).json()
    assert summary["total_exposure"] == 2000
    assert summary["daily_pnl"] == pytest.approx(-0.05 - 1.000025)
    assert [p["symbol"] for p in summary["open_positions"]] == ["BTCUSDT"]
    assert 0 < summary["risk_score"] <= 100
    assert summary["max_drawdown"] > 0

    current = (await trading["risk"].get("/risk/current")).json()
    assert current["daily_loss"] == pytest.approx(1.050025)
    assert current["total_exposure"] == 2000


async def test_the_ledger_holds_what_was_traded(trading: Platform, market: Market, db: Database) -> None:
    await market.signal("s1", "buy", "0.05")
    await projected(trading, 1)
    balances = {row["currency"]: Decimal(row["amount"]) for row in (await trading["portfolio"].get("/balances")).json()}
    assert balances == {"BTC": Decimal("0.05"), "USD": Decimal(50_000), "USDT": Decimal("47998.949975")}
    assert await db.fetch_tuples("SELECT currency, sum(amount) FROM ledger_lines GROUP BY currency HAVING sum(amount) <> 0") == []


async def test_closing_a_position_realises_its_result(trading: Platform, market: Market) -> None:
    await market.signal("s1", "buy", "0.05")
    await projected(trading, 1)
    trading.exchange.price = Decimal(40101)
    await market.signal("s2", "sell", "0.05")
    await projected(trading, 2)
    newest = (await trading["portfolio"].get("/trades/recent?limit=1")).json()
    assert [(trade["side"], trade["price"], trade["realised_pnl"]) for trade in newest] == [("sell", "40101", "5")]
    assert (await trading["portfolio"].get("/positions")).json() == []
    today = (await trading["portfolio"].get("/performance/daily", params={"date": newest[0]["timestamp"][:10]})).json()
    assert (today["total_trades"], today["closed_trades"], today["win_rate"]) == (2, 1, 1)
    assert today["total_pnl"] == pytest.approx(5 - 1.000025 - 1.002525)


async def test_yesterday_without_trades_is_zero_trades_and_says_so(trading: Platform) -> None:
    figures = (await trading["portfolio"].get("/performance/daily")).json()
    names = ("total_trades", "win_rate", "total_pnl", "sharpe_ratio", "closed_trades", "sharpe_days", "complete")
    assert [figures[name] for name in names] == [0, 0, 0, 0, 0, 0, True]


async def test_the_same_signal_twice_is_one_order(trading: Platform, market: Market) -> None:
    await market.signal("same", "buy", "0.01")
    await market.signal("same", "buy", "0.01")
    await market.signal("another", "buy", "0.02")

    async def two_filled() -> bool:
        return [order["status"] for order in await orders(trading)] == ["FILLED", "FILLED"]

    await eventually(two_filled, what="two filled orders")
    assert {order["quantity"] for order in await orders(trading)} == {"0.01", "0.02"}


async def test_an_order_on_stale_prices_is_refused(trading: Platform, market: Market) -> None:
    await market.quote("BTCUSDT", "39999.00", "40001.00", age_s=31)
    numbers = itertools.count()

    async def refused() -> Any:
        await market.signal(f"s{next(numbers)}", "buy", "0.001")
        return [order["reason_code"] for order in await orders(trading) if order["status"] == "REJECTED"]

    assert (await eventually(refused, what="a refused order"))[0] == "MARKET_DATA_STALE"


async def test_an_order_without_a_price_is_refused(trading: Platform, market: Market) -> None:
    await market.signal("s1", "buy", "0.5", symbol="ETHUSDT")
    assert (await first_order(trading, "REJECTED"))["reason_code"] == "MARKET_DATA_MISSING"


async def test_when_risk_publishes_no_figures_any_more_nothing_is_sent(settings: Settings, credentials: Any, market: Market) -> None:
    risk = settings.risk.model_copy(update={"figures_every_s": 0.1, "figures_max_age_s": 1.0})
    trading = Platform(settings.model_copy(update={"risk": risk}))
    try:
        await market.quote("BTCUSDT", "39999.00", "40001.00")
        await trading.start("risk", "portfolio", "engine")
        await trading.leads()
        await trading.judges()
        await trading.stop("risk")
        numbers = itertools.count()

        async def refused() -> bool:
            await market.signal(f"s{next(numbers)}", "buy", "0.001")
            return "FIGURES_STALE" in [order["reason_code"] for order in await orders(trading)]

        await eventually(refused, what="an order refused for stale figures")
        sent = len(trading.exchange.submits)
        assert sent == len([order for order in await orders(trading) if order["status"] == "FILLED"])
    finally:
        await trading.stop_all()


async def test_an_order_above_the_limit_is_refused_with_its_reason_and_the_decision_is_kept(
    trading: Platform, market: Market, superuser: psycopg.Connection[Any]
) -> None:
    await market.signal("s1", "buy", "0.2")
    order = await first_order(trading, "REJECTED")
    assert order["reason_code"] == "ORDER_NOTIONAL_EXCEEDED"
    row = superuser.execute("SELECT client_order_id, accepted, code, limits_version FROM risk_decisions").fetchone()
    assert row == (order["client_order_id"], False, "ORDER_NOTIONAL_EXCEEDED", 1)


async def test_a_signal_that_waited_too_long_is_not_traded(trading: Platform, market: Market) -> None:
    await market.signal("late", "buy", "0.05", age_s=61)
    await market.signal("fresh", "buy", "0.01")
    await first_order(trading, "FILLED")
    assert [order["quantity"] for order in await orders(trading)] == ["0.01"]


async def test_figures_are_an_error_when_a_position_has_no_price(trading: Platform, market: Market, bus: Any) -> None:
    await market.signal("s1", "buy", "0.05")
    await projected(trading, 1)
    await bus.redis.delete("md:latest:BTCUSDT")
    for path in ("/risk/summary", "/risk/current"):
        response = await trading["risk"].get(path)
        assert response.status_code == 503
        assert response.json()["code"] == "FIGURES_UNKNOWN"


async def test_while_paused_new_orders_are_refused_and_cancels_pass(trading: Platform, market: Market, token: Any) -> None:
    body = {"account": "paper", "client_request_id": "r1", "symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.01"}
    resting = await trading["engine"].post("/orders", json={**body, "limit_price": "39000"}, headers=token("trader"))
    assert (resting.status_code, resting.json()["status"]) == (201, "NEW"), resting.text
    paused = await trading["risk"].post("/trading/state", json={"state": "paused", "reason": "a test"}, headers=token("trader"))
    assert paused.status_code == 200

    refused = await trading["engine"].post(
        "/orders", json={**body, "client_request_id": "r2", "limit_price": "39000"}, headers=token("trader")
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "TRADING_PAUSED")
    assert refused.headers["content-type"] == "application/problem+json"

    canceled = await trading["engine"].post(f"/orders/{resting.json()['client_order_id']}/cancel", headers=token("trader"))
    assert (canceled.status_code, canceled.json()["status"]) == (200, "CANCELED")


async def test_a_resting_limit_order_fills_in_parts_as_the_venue_tells(trading: Platform, market: Market, token: Any) -> None:
    body = {
        "account": "paper", "client_request_id": "r1", "symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.05",
        "limit_price": "39900",
    }  # fmt: skip
    placed = await trading["engine"].post("/orders", json=body, headers=token("trader"))
    assert placed.json()["status"] == "NEW"
    trading.exchange.fill("paper", placed.json()["client_order_id"], "0.03")
    await first_order(trading, "PARTIALLY_FILLED")
    trading.exchange.fill("paper", placed.json()["client_order_id"])
    await first_order(trading, "FILLED")
    await projected(trading, 2)
    trades = (await trading["portfolio"].get("/trades/recent")).json()
    assert [(t["quantity"], t["price"]) for t in trades] == [("0.02", "39900"), ("0.03", "39900")]


async def test_the_same_request_twice_is_one_order(trading: Platform, token: Any) -> None:
    body = {"account": "paper", "client_request_id": "r1", "symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.01"}
    first = await trading["engine"].post("/orders", json=body, headers=token("trader"))
    second = await trading["engine"].post("/orders", json=body, headers=token("trader"))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["client_order_id"] == second.json()["client_order_id"]
    assert len(await orders(trading)) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"quantity": "0.0000001"}, "QUANTITY_BELOW_MINIMUM"),
        ({"quantity": "0.000015"}, "QUANTITY_NOT_MULTIPLE_OF_LOT"),
        ({"quantity": "NaN"}, "INVALID_REQUEST"),
        ({"quantity": "-1"}, "INVALID_REQUEST"),
        ({"quantity": "1e400"}, "INVALID_REQUEST"),
        ({"symbol": "NOPE"}, "UNKNOWN_INSTRUMENT"),
        ({"type": "limit"}, "LIMIT_PRICE_MISMATCH"),
        ({"type": "limit", "limit_price": "39000.001"}, "PRICE_NOT_MULTIPLE_OF_TICK"),
        ({"type": "limit", "limit_price": "30000"}, "PRICE_COLLAR"),
        ({"leverage": 100}, "INVALID_REQUEST"),
    ],
)
async def test_a_wrong_order_is_refused_with_a_reason(trading: Platform, token: Any, change: dict[str, Any], code: str) -> None:
    body = {"account": "paper", "client_request_id": "r1", "symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.01"}
    response = await trading["engine"].post("/orders", json={**body, **change}, headers=token("trader"))
    assert (response.status_code, response.json()["code"]) == (422, code)


async def test_orders_need_a_token_with_the_permission(trading: Platform, token: Any) -> None:
    body = {"account": "paper", "client_request_id": "r1", "symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.01"}
    assert (await trading["engine"].post("/orders", json=body)).status_code == 401
    assert (await trading["engine"].post("/orders", json=body, headers=token("readonly"))).status_code == 403


async def test_committed_events_reach_the_bus_in_order(
    trading: Platform, market: Market, bus: Any, superuser: psycopg.Connection[Any]
) -> None:
    await market.signal("s1", "buy", "0.05")

    async def published() -> Any:
        entries = await bus.redis.xrange("orders:events")
        events = [event for _, fields in entries for event in messages.decode(fields, messages.OrderEventsMessage).events]
        return events if len(events) == 4 else None

    events = await eventually(published, what="four events on the bus")
    assert [event.type for event in events] == ["initialized", "submitting", "accepted", "filled"]
    assert [event.seq for event in events] == sorted(event.seq for event in events)

    async def empty() -> bool:
        return superuser.execute("SELECT count(*) FROM outbox").fetchone() == (0,)

    await eventually(empty, what="an empty outbox")


async def test_rebuilding_every_projection_from_the_facts_gives_identical_rows(
    trading: Platform, market: Market, settings: Settings, superuser: psycopg.Connection[Any]
) -> None:
    for number, side in enumerate(["buy", "buy", "sell", "sell", "sell"]):
        await market.signal(f"s{number}", side, "0.03")  # type: ignore[arg-type]
    await projected(trading, 5)
    assert await rebuild.rebuild(settings) == []
    superuser.execute("UPDATE positions SET quantity = quantity + 1")
    differences = await rebuild.rebuild(settings)
    assert [line.split(":")[0] for line in differences] == ["positions", "positions"]
    await rebuild.rebuild(settings, apply=True)
    assert await rebuild.rebuild(settings) == []
