"""The engine against a venue in the test's hands: what it writes, sends, refuses and finds out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Market, Platform, eventually
from psycopg.types.json import Jsonb
from scripted_venue import Exchange
from trading_platform import telemetry
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.domain import family
from trading_platform.domain.figures import PublishedFigures


@pytest.fixture
def exchange() -> Exchange:
    return Exchange("40001")


@pytest.fixture
async def engine(
    settings: Settings, exchange: Exchange, credentials: Path, market: Market, superuser: psycopg.Connection[Any]
) -> AsyncIterator[Platform]:
    """The engine leading, with limits and prices; nothing else runs."""
    await market.quote("BTCUSDT", "40000.00", "40001.00")
    give_limits(superuser)
    platform = Platform(patient(settings), exchange)
    await platform.start("engine")
    await platform.leads()
    yield platform
    await platform.stop_all()


def patient(settings: Settings) -> Settings:
    """Figures that need not be renewed: nobody does in these tests."""
    return settings.model_copy(update={"risk": settings.risk.model_copy(update={"figures_max_age_s": 3600.0})})


def give_limits(superuser: psycopg.Connection[Any]) -> None:
    """Limits and figures, as the risk service has them."""
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD') ON CONFLICT DO NOTHING")
    superuser.execute(
        "INSERT INTO risk_limits (account_id, max_order_notional, max_position_notional, max_total_exposure, max_orders_per_minute,"
        " price_collar, max_daily_loss, max_data_age_s, changed_by, reason)"
        " VALUES ('paper', 100000, 1000000, 1000000, 100000000, 0.5, 100000, 3600, 'test', 'test')"
    )
    superuser.execute(
        "INSERT INTO leases (name, holder, token, acquired_at, renewed_at, expires_at) VALUES ('risk', 'test', 1, now(), now(), now())"
    )
    figures = PublishedFigures(
        datetime.now(UTC), Decimal(100_000), *[Decimal(100_000)] * 4, consecutive_losses=0, value_at_risk=Decimal(0), values={},
        loss_rates={"BTCUSDT": Decimal("0.01")},
    )  # fmt: skip
    superuser.execute(
        "INSERT INTO risk_figures (account_id, computed_at, currency, published, lease, fencing_token)"
        " VALUES ('paper', now(), 'USD', %s, 'risk', 1)",
        (Jsonb(figures.to_data()),),
    )


def order(request: str = "r1", **more: Any) -> dict[str, Any]:
    body = {"account": "paper", "client_request_id": request, "symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.01"}
    return {**body, **more}


def resting(request: str = "r1", **more: Any) -> dict[str, Any]:
    return order(request, type="limit", limit_price="39000", **more)


async def test_an_order_is_committed_sent_and_filled(engine: Platform, token: Any, db: Database) -> None:
    response = await engine["engine"].post("/orders", json=order(), headers=token("trader"))
    assert (response.status_code, response.json()["status"]) == (201, "FILLED"), response.text
    events = [row[0] for row in await db.fetch_tuples("SELECT type FROM order_events ORDER BY seq")]
    assert events == ["initialized", "submitting", "accepted", "filled"]


async def test_every_order_judged_is_counted_by_decision_and_reason(engine: Platform, token: Any) -> None:
    """MON-06: what risk let through and what it refused, and why, is seen in the engine, where it is decided."""
    accepted, denied = (f'smc_risk_decisions_total{{account="paper",code="{code}",decision="{decision}"}}' for code, decision in (
        ("ACCEPTED", "accepted"), ("ORDER_NOTIONAL_EXCEEDED", "denied"),
    ))  # fmt: skip

    async def counted() -> tuple[float, float]:
        lines = dict(line.rpartition(" ")[::2] for line in (await engine["engine"].get("/metrics")).text.splitlines())
        return float(lines.get(accepted, 0)), float(lines.get(denied, 0))

    before = await counted()
    for request, quantity in (("small", "0.01"), ("again", "0.01"), ("large", "50"), ("again", "0.01")):
        await engine["engine"].post("/orders", json=order(request, quantity=quantity), headers=token("trader"))
    after = await counted()
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)


async def test_a_position_whose_stop_is_refused_puts_the_account_on_reducing_and_is_told(
    engine: Platform, token: Any, exchange: Exchange, db: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "ATTEMPTS", 2)
    bracket = order(type="bracket", terms={"take_profit_price": "44000", "stop_price": "39500"})
    assert (await engine["engine"].post("/orders", json=bracket, headers=token("trader"))).status_code == 201

    async def guarded() -> bool:
        return len(exchange.open_orders("paper")) == 1

    await eventually(guarded, what="a profit leg at the venue")
    exchange.script.extend(["reject"] * 20)
    await market.quote("BTCUSDT", "39400.00", "39401.00")

    async def told() -> list[Any]:
        return await db.fetch_tuples("SELECT subject, detail->>'detail' FROM audit_events WHERE type = 'position_unprotected'")

    await eventually(told, what="an alarm", within_s=20)
    ((account, detail),) = await told()
    assert account == "paper"
    assert "VENUE_FILTER; it is not tried any more" in detail

    async def reducing() -> bool:
        return bool(await db.fetch_tuples("SELECT FROM trading_state WHERE account_id = 'paper' AND state = 'reducing'"))

    await eventually(reducing, what="an account on reducing")
    assert 'smc_trading_positions_unprotected_total{account="paper"} 1.0' in (await engine["engine"].get("/metrics")).text


# --- the API ----------------------------------------------------------------------------------------------------------------------------


async def placed(engine: Platform, token: Any, body: dict[str, Any]) -> dict[str, Any]:
    response = await engine["engine"].post("/orders", json=body, headers=token("trader"))
    assert response.status_code == 201, response.text
    return dict(response.json())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"quantity": 0.01}, "INVALID_REQUEST"),
        ({"quantity": "NaN"}, "INVALID_REQUEST"),
        ({"quantity": "1" * 70}, "INVALID_REQUEST"),
        ({"quantity": "0.000015"}, "QUANTITY_NOT_MULTIPLE_OF_LOT"),
        ({"symbol": "NOPE"}, "UNKNOWN_INSTRUMENT"),
        ({"type": "stop"}, "TRIGGER_PRICE_MISMATCH"),
        ({"type": "limit", "limit_price": "39000.001"}, "PRICE_NOT_MULTIPLE_OF_TICK"),
        ({"time_in_force": "FOK"}, "TIME_IN_FORCE_MISMATCH"),
        ({"time_in_force": "GTD"}, "EXPIRE_AT_MISMATCH"),
        ({"time_in_force": "GTD", "expire_at": "2020-01-01T00:00:00Z"}, "EXPIRE_AT_PAST"),
        ({"time_in_force": "GTD", "expire_at": "2999-01-01T00:00:00"}, "EXPIRE_AT_PAST"),
        ({"position_side": "long"}, "POSITION_SIDE_MISMATCH"),
        ({"type": "trailing_stop", "terms": {}}, "TERM_MISSING"),
        ({"type": "iceberg", "terms": {"visible": "nonsense"}}, "TERM_MISSING"),
    ],
)
async def test_bad_input_is_refused_with_a_reason_and_sends_nothing(
    engine: Platform, token: Any, db: Database, exchange: Exchange, change: dict[str, Any], code: str
) -> None:
    response = await engine["engine"].post("/orders", json=order(**change), headers=token("trader"))
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert exchange.submits == []
    assert await db.fetch_value("SELECT count(*) FROM orders") == 0
    if code != "INVALID_REQUEST":
        audit = await db.fetch_tuples("SELECT type, actor, subject, detail->>'code' FROM audit_events")
        assert audit == [("order_rejected", "user:somebody", "paper", code)]


async def test_an_unknown_account_is_not_found(engine: Platform, token: Any) -> None:
    response = await engine["engine"].post("/orders", json=order(account="nobody"), headers=token("trader"))
    assert (response.status_code, response.json()["code"]) == (404, "UNKNOWN_ACCOUNT")


async def test_the_same_request_at_the_same_time_is_one_order(engine: Platform, token: Any, exchange: Exchange) -> None:
    responses = await asyncio.gather(*(engine["engine"].post("/orders", json=order(), headers=token("trader")) for _ in range(10)))
    assert sorted(response.status_code for response in responses) == [200] * 9 + [201]
    assert len({response.json()["client_order_id"] for response in responses}) == 1
    assert len(exchange.submits) == 1


async def test_a_repeated_replacement_is_one_order_of_what_is_left(engine: Platform, token: Any, exchange: Exchange) -> None:
    first = (await placed(engine, token, resting()))["client_order_id"]
    exchange.fill("paper", first, "0.004")
    body = {"client_request_id": "again", "limit_price": "39001"}
    answers = [await engine["engine"].post(f"/orders/{first}/replace", json=body, headers=token("trader")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    documents = [answer.json() for answer in answers]
    assert documents[0]["order"]["client_order_id"] == documents[1]["order"]["client_order_id"]
    assert (documents[0]["replaced"]["status"], documents[0]["replaced"]["filled_quantity"]) == ("CANCELED", "0.004")
    assert (documents[0]["order"]["quantity"], documents[0]["order"]["limit_price"]) == ("0.006", "39001")
    assert documents[0]["order"]["replaces"] == first
    assert len(exchange.submits) == 2


async def test_cancel_all_ends_everything_also_what_is_held(engine: Platform, token: Any, exchange: Exchange) -> None:
    for number in range(3):
        await placed(engine, token, resting(f"r{number}"))
    await placed(engine, token, order("t", type="trailing_stop", side="sell", terms={"callback_amount": "1000"}))
    response = await engine["engine"].post("/orders/cancel-all", json={"account": "paper"}, headers=token("trader"))
    assert (response.status_code, response.json()["open"]) == (200, 0), response.text
    assert {document["status"] for document in response.json()["orders"]} == {"CANCELED"}
    assert exchange.open_orders("paper") == []


async def test_closing_positions_cancels_and_sells_what_is_held(engine: Platform, token: Any, exchange: Exchange, db: Database) -> None:
    await placed(engine, token, order())
    await placed(engine, token, resting("r2"))
    body = {"account": "paper", "client_request_id": "c1"}
    for _ in range(2):
        response = await engine["engine"].post("/positions/close", json=body, headers=token("trader"))
        assert response.status_code == 202, response.text

    async def flat() -> bool:
        net = await db.fetch_value("SELECT sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) FROM fills")
        return net == 0 and exchange.open_orders("paper") == []

    await eventually(flat, what="a flat account")
    assert await db.fetch_value("SELECT count(*) FROM orders WHERE flatten") == 1


async def test_orders_are_listed_page_by_page_and_told_with_their_events(engine: Platform, token: Any) -> None:
    made = [(await placed(engine, token, resting(f"r{number}")))["client_order_id"] for number in range(5)]
    seen: list[str] = []
    query = "/orders?limit=2"
    while True:
        page = await engine["engine"].get(query)
        seen += [document["client_order_id"] for document in page.json()]
        if "x-next-cursor" not in page.headers:
            break
        query = f"/orders?limit=2&cursor={page.headers['x-next-cursor']}"
    assert seen == made[::-1]
    assert (await engine["engine"].get("/orders?cursor=nonsense")).json()["code"] == "INVALID_CURSOR"
    document = (await engine["engine"].get(f"/orders/{made[0]}")).json()
    assert [event["type"] for event in document["events"]] == ["initialized", "submitting", "accepted"]
    assert document["events"][1]["data"]["risk"]["accepted"] is True


async def test_a_gtd_order_is_canceled_at_the_venue_when_its_time_is_over(engine: Platform, token: Any, exchange: Exchange) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    body = resting(time_in_force="GTD", expire_at=soon.isoformat())
    order_id = (await placed(engine, token, body))["client_order_id"]

    async def expired() -> bool:
        document = (await engine["engine"].get(f"/orders/{order_id}")).json()
        return (document["status"], document["reason_code"]) == ("EXPIRED", "TIME_IN_FORCE_EXPIRED")

    await eventually(expired, what="an expired order")
    assert exchange.open_orders("paper") == []


async def test_a_fill_the_stream_repeats_or_loses_is_recorded_once(engine: Platform, token: Any, exchange: Exchange, db: Database) -> None:
    exchange.duplicate = 3
    first = (await placed(engine, token, resting("r1")))["client_order_id"]
    exchange.fill("paper", first, "0.004")
    exchange.mute = True
    exchange.fill("paper", first, "0.006")

    async def filled() -> bool:
        return await db.fetch_value("SELECT status FROM orders") == "FILLED"

    await eventually(filled, what="a filled order")
    assert await db.fetch_value("SELECT count(*) FROM fills") == 2
    assert await db.fetch_value("SELECT count(*) FROM order_events WHERE type = 'filled'") == 2


# --- halts ------------------------------------------------------------------------------------------------------------------------------


def halt(superuser: psycopg.Connection[Any], state: str = "paused", **more: Any) -> int:
    row = superuser.execute(
        "UPDATE trading_state SET state = %s, changed_by = 'user:test', flatten = %s WHERE account_id = '*' RETURNING version",
        (state, more.get("flatten", False)),
    ).fetchone()
    assert row is not None
    return int(row[0])


async def acknowledged(db: Database) -> tuple[int, int]:
    rows = await db.fetch_tuples("SELECT version, in_flight FROM trading_state_acks WHERE account_id = 'paper'")
    return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)


async def test_a_halt_is_acknowledged_once_what_was_on_its_way_is_certain(
    engine: Platform, token: Any, exchange: Exchange, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    exchange.answers.clear()
    under_way = asyncio.create_task(engine["engine"].post("/orders", json=resting(), headers=token("trader")))

    async def arrived() -> bool:
        return len(exchange.submits) == 1

    await eventually(arrived, what="an order at the venue")
    version = halt(superuser)

    async def obeyed() -> Any:
        return await acknowledged(db) == (version, 1)

    await eventually(obeyed, what="a halt obeyed with one request under way")
    exchange.answers.set()
    assert (await under_way).json()["status"] == "NEW"

    async def certain() -> Any:
        return await acknowledged(db) == (version, 0)

    await eventually(certain, what="a halt with nothing under way")
    refused = await engine["engine"].post("/orders", json=order("r2"), headers=token("trader"))
    assert (refused.status_code, refused.json()["code"]) == (409, "TRADING_PAUSED")
    assert len(exchange.submits) == 1


async def test_a_request_without_answer_counts_until_it_can_no_longer_arrive(
    engine: Platform, token: Any, exchange: Exchange, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    exchange.script.append("silence")
    await engine["engine"].post("/orders", json=resting(), headers=token("trader"))
    version = halt(superuser)
    seen: list[tuple[int, int]] = []

    async def certain() -> bool:
        seen.append(await acknowledged(db))
        return seen[-1] == (version, 0)

    await eventually(certain, what="a halt with nothing under way")
    assert (version, 1) in seen


async def test_orders_that_meet_a_halt_in_the_database_are_denied_and_not_lost(
    engine: Platform, token: Any, exchange: Exchange, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    """The halt is committed, the engine has not looked yet: the database refuses the group (TR004)."""

    async def submit(number: int) -> Any:
        return await engine["engine"].post("/orders", json=resting(f"h{number}"), headers=token("trader"))

    before = [await submit(number) for number in range(3)]
    version = halt(superuser)
    responses = await asyncio.gather(*(submit(number) for number in range(10, 30)))
    assert {(response.status_code, response.json()["code"]) for response in responses} == {(409, "TRADING_PAUSED")}
    assert await db.fetch_value("SELECT count(*) FROM orders WHERE reason_code = 'TRADING_PAUSED'") == 20
    assert len(exchange.submits) == len(before)
    canceled = await engine["engine"].post("/orders/cancel-all", json={"account": "paper"}, headers=token("trader"))
    assert (canceled.status_code, len(canceled.json()["orders"]), canceled.json()["open"]) == (200, 3, 0)

    async def certain() -> Any:
        return await acknowledged(db) == (version, 0)

    await eventually(certain, what="an acknowledged halt")


async def test_an_emergency_that_wants_it_so_closes_what_is_held(
    engine: Platform, token: Any, exchange: Exchange, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await placed(engine, token, order())
    await placed(engine, token, resting("r2"))
    halt(superuser, "emergency_stopped", flatten=True)

    async def flat() -> bool:
        net = await db.fetch_value("SELECT sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) FROM fills")
        return net == 0 and exchange.open_orders("paper") == []

    await eventually(flat, what="a flat account")
    assert await db.fetch_value("SELECT count(*) FROM orders WHERE flatten") == 1


async def test_closing_that_was_wanted_goes_on_after_an_engine_ended_between_acknowledgement_and_effect(
    engine: Platform, token: Any, exchange: Exchange, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    """The wish is in the row of the halt, not in the memory of the engine that read it first."""
    await placed(engine, token, order())
    await placed(engine, token, resting("r2"))
    exchange.cancel_script.extend(["reject"] * 1_000)  # what is open stays open, so that nothing can be closed yet
    version = halt(superuser, "emergency_stopped", flatten=True)

    async def certain() -> Any:
        return await acknowledged(db) == (version, 0)

    await eventually(certain, what="a halt that is acknowledged")
    assert await db.fetch_value("SELECT count(*) FROM orders WHERE flatten") == 0
    await engine.stop("engine")
    assert len(exchange.open_orders("paper")) == 1
    exchange.cancel_script.clear()
    await engine.start("engine")

    async def flat() -> bool:
        net = await db.fetch_value("SELECT sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) FROM fills")
        return net == 0 and exchange.open_orders("paper") == []

    await eventually(flat, what="a flat account", within_s=20)
    assert await db.fetch_value("SELECT count(*) FROM orders WHERE flatten") == 1


async def test_while_the_halt_latch_lies_on_the_host_nothing_is_sent_and_nothing_led(
    settings: Settings,
    exchange: Exchange,
    credentials: Path,
    market: Market,
    superuser: psycopg.Connection[Any],
    token: Any,
    db: Database,
    tmp_path: Path,
) -> None:
    latch = tmp_path / "halt"
    give_limits(superuser)
    await market.quote("BTCUSDT", "40000.00", "40001.00")
    with_latch = patient(settings)
    with_latch = with_latch.model_copy(update={"engine": with_latch.engine.model_copy(update={"halt_latch": str(latch)})})
    platform = Platform(with_latch, exchange)
    try:
        await platform.start("engine")
        await platform.leads()
        latch.write_text("operator, 12:00, something is wrong\n")
        response = await platform["engine"].post("/orders", json=order(), headers=token("trader"))
        assert response.status_code in (201, 503)
        assert exchange.submits == []

        async def gave_up() -> bool:
            document = (await platform["engine"].get("/health")).json()
            return document["leads"] == [] and "something is wrong" in document["loops"]["account:paper"]["detail"]

        await eventually(gave_up, what="an engine that does not lead")
        retries = telemetry.LOOP_RETRIES.labels("engine", "account:paper")
        before, token_before = retries._value.get(), await db.fetch_value("SELECT token FROM leases WHERE name = 'engine:paper'")

        async def tried_again() -> bool:
            return retries._value.get() >= before + 2

        await eventually(tried_again, what="an engine that wants to lead again", within_s=20)
        assert await db.fetch_value("SELECT token FROM leases WHERE name = 'engine:paper'") == token_before
        latch.unlink()
        await platform.leads()
    finally:
        await platform.stop_all()
