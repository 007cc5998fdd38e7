"""Orders survive: a stopped engine, a venue that does not answer, a second engine, a leader that slept, a bus that vanished."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Market, Platform, RedisServer, eventually
from trading_platform import accounts, instruments, leadership
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.domain import orders as domain
from trading_platform.domain.orders import Event, EventType, Intent, advance, client_order_id, initialize
from trading_platform.engine.paper import PaperVenue
from trading_platform.engine.store import DuplicateFill, OrderStore
from trading_platform.engine.venue import VenueUnknown
from trading_platform.leadership import Lease, LeaseLost

AT = domain.datetime.fromisoformat("2026-01-02T03:04:05+00:00")


def intent(origin: str, quantity: str = "0.05") -> Intent:
    return Intent(
        client_order_id=client_order_id("paper", origin), account_id="paper", symbol="BTCUSDT", instrument_id=1, venue="paper",
        side="buy", type="market", time_in_force="GTC", quantity=domain.Decimal(quantity), signal_id=origin,
    )  # fmt: skip


def submitting(what: Intent) -> tuple[domain.Step, domain.Step]:
    born = initialize(what, AT, "test")
    return born, advance(born.order, Event(EventType.SUBMITTING, AT, "test"))


async def statuses(db: Database) -> list[str]:
    return [row[0] for row in await db.fetch_tuples("SELECT status FROM orders ORDER BY created_at, client_order_id")]


async def status_becomes(db: Database, *wanted: str) -> None:
    async def reached() -> bool:
        return await statuses(db) == list(wanted)

    await eventually(reached, what=f"orders in status {wanted}")


@pytest.fixture
async def store(db: Database, settings: Settings) -> OrderStore:
    await accounts.ensure(db, settings)
    return OrderStore(db)


@pytest.fixture
async def lease(db: Database, store: OrderStore) -> Lease:
    held = await leadership.acquire(db, "engine:paper", ttl_s=30)
    assert held is not None
    return held


@pytest.fixture
async def venue(db: Database, bus: Any, settings: Settings, market: Market) -> PaperVenue:
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    return PaperVenue(db, bus, await instruments.load(db), settings.engine, 30.0)


async def test_a_restarted_engine_neither_loses_nor_repeats_orders(platform: Platform, market: Market, db: Database) -> None:
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await platform.start("risk", "portfolio", "engine")
    await platform.leads()
    await market.signal("s1", "buy", "0.01")
    await status_becomes(db, "FILLED")
    await platform.stop("engine")
    await market.signal("s1", "buy", "0.01")
    await market.signal("s2", "buy", "0.01")
    await platform.start("engine")
    await status_becomes(db, "FILLED", "FILLED")
    assert await db.fetch_value("SELECT count(*) FROM fills") == 2
    assert await db.fetch_value("SELECT count(*) FROM paper_venue.orders") == 2


async def test_an_order_that_was_committed_but_never_sent_is_closed_and_not_sent(
    platform: Platform, store: OrderStore, lease: Lease, db: Database
) -> None:
    await store.record(lease, *submitting(intent("crashed before sending")))
    await lease.release()
    await platform.start("engine")
    await status_becomes(db, "REJECTED")
    assert await db.fetch_value("SELECT reason_code FROM orders") == "VENUE_NEVER_RECEIVED"
    assert await db.fetch_value("SELECT count(*) FROM paper_venue.orders") == 0


async def test_an_order_that_was_sent_and_not_recorded_is_found_at_the_venue_with_its_fill(
    platform: Platform, store: OrderStore, lease: Lease, venue: PaperVenue, db: Database
) -> None:
    wanted = intent("crashed after sending")
    await store.record(lease, *submitting(wanted))
    await venue.submit(wanted)
    await lease.release()
    await platform.start("engine")
    await status_becomes(db, "FILLED")
    assert await db.fetch_value("SELECT count(*) FROM fills") == 1
    assert await db.fetch_value("SELECT count(*) FROM paper_venue.orders") == 1


async def test_a_second_submit_of_an_id_is_the_first_order_again(venue: PaperVenue, db: Database) -> None:
    first = await venue.submit(intent("twice"))
    assert await venue.submit(intent("twice")) == first
    assert await db.fetch_value("SELECT count(*) FROM paper_venue.trades") == 1


async def test_a_submit_without_answer_is_unknown_then_resolved_by_asking(
    platform: Platform, market: Market, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = PaperVenue.submit
    submits = 0

    async def accept_then_time_out(self: PaperVenue, what: Intent) -> Any:
        nonlocal submits
        submits += 1
        await answered(self, what)
        raise VenueUnknown("no answer in time")

    monkeypatch.setattr(PaperVenue, "submit", accept_then_time_out)
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await platform.start("risk", "portfolio", "engine")
    await platform.leads()
    await market.signal("s1", "buy", "0.01")
    await status_becomes(db, "FILLED")
    events = [row[0] for row in await db.fetch_tuples("SELECT type FROM order_events ORDER BY seq")]
    assert "submit_unknown" in events
    assert submits == 1


async def test_a_ghost_that_wakes_after_losing_its_lease_writes_nothing(store: OrderStore, lease: Lease, db: Database) -> None:
    await lease.release()
    heir = await leadership.acquire(db, "engine:paper", ttl_s=30, holder="heir")
    assert heir is not None
    ghost = Lease(db, lease.name, lease.holder, lease.token, lease.ttl_s, deadline=float("inf"))
    with pytest.raises(LeaseLost, match="FENCED"):
        await store.record(ghost, *submitting(intent("ghost")))
    assert await statuses(db) == []
    assert await db.fetch_value("SELECT count(*) FROM order_events") == 0


async def test_a_fill_reported_twice_is_recorded_once(store: OrderStore, lease: Lease, venue: PaperVenue, db: Database) -> None:
    wanted = intent("filled twice")
    order = await store.record(lease, *submitting(wanted))
    await venue.submit(wanted)
    (trade,) = await venue.trades("paper", None, 10)
    fill = Event(EventType.FILLED, AT, "test", fill=trade.fill)
    accepted = advance(order, Event(EventType.ACCEPTED, AT, "test"))
    await store.record(lease, accepted, advance(accepted.order, fill))
    with pytest.raises(DuplicateFill):
        await store.record(lease, accepted, advance(accepted.order, fill))
    assert await db.fetch_value("SELECT count(*) FROM fills") == 1
    assert await db.fetch_value("SELECT count(*) FROM order_events WHERE type = 'filled'") == 1


async def test_an_order_of_the_venue_we_never_made_puts_the_account_on_reduce_only(
    platform: Platform, store: OrderStore, venue: PaperVenue, db: Database
) -> None:
    await venue.submit(intent("not ours"))
    await platform.start("engine")

    async def reducing() -> bool:
        return await db.fetch_value("SELECT state FROM trading_state WHERE account_id = 'paper'") == "reducing"

    await eventually(reducing, what="the account on reduce-only")
    audit = await db.fetch_tuples("SELECT type, actor, subject FROM audit_events")
    assert audit == [("trading_state_change", "engine", "paper")]


async def test_a_resting_order_still_fills_after_the_engine_restarted(platform: Platform, market: Market, token: Any, db: Database) -> None:
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await platform.start("risk", "portfolio", "engine")
    await platform.leads()
    body = {
        "account": "paper", "client_request_id": "r1", "symbol": "BTCUSDT", "side": "sell", "type": "limit", "quantity": "0.01",
        "limit_price": "40500",
    }  # fmt: skip

    async def placed() -> bool:
        response = await platform["engine"].post("/orders", json=body, headers=token("trader"))
        return bool(response.is_success)

    await eventually(placed, what="a resting order")
    await platform.stop("engine")
    await platform.start("engine")
    await platform.leads()

    async def filled() -> bool:
        await market.quote("BTCUSDT", "40500.00", "40502.00")
        return await statuses(db) == ["FILLED"]

    await eventually(filled, what="the resting order's fill")


async def test_a_second_engine_stands_by_and_takes_over(settings: Settings, market: Market, db: Database, credentials: Any) -> None:
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    first, second = Platform(settings), Platform(settings)
    try:
        await first.start("risk", "portfolio", "engine")
        await first.leads()
        await second.start("engine", "risk")

        async def standing_by() -> bool:
            document = (await second["engine"].get("/health")).json()
            return document["loops"]["account:paper"]["status"] == "standby" and document["status"] == "healthy"

        await eventually(standing_by, what="the second engine standing by")
        await first.stop("engine")
        await second.leads()
        await market.signal("s1", "buy", "0.01")
        await status_becomes(db, "FILLED")
        tokens = await db.fetch_tuples("SELECT DISTINCT fencing_token FROM order_events")
        assert tokens == [(2,)]
    finally:
        await second.stop_all()
        await first.stop_all()


async def test_losing_all_of_redis_loses_no_order_and_trading_goes_on(
    platform: Platform, market: Market, db: Database, redis_server: RedisServer
) -> None:
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await platform.start("risk", "portfolio", "engine")
    await platform.leads()
    await market.signal("s1", "buy", "0.01")
    await status_becomes(db, "FILLED")
    redis_server.stop()
    redis_server.start()
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await market.signal("s2", "buy", "0.01")
    await status_becomes(db, "FILLED", "FILLED")


async def test_the_loops_come_back_after_the_database_was_away(
    platform: Platform, market: Market, postgres: Any, settings: Settings, superuser: psycopg.Connection[Any]
) -> None:
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await platform.start("risk", "portfolio", "engine")
    await platform.leads()
    superuser.close()
    postgres.stop("fast")
    try:
        health = await platform["engine"].get("/health")
        assert health.status_code == 503
        assert health.json()["dependencies"]["postgresql"]["status"] == "unhealthy"
        assert (await platform["risk"].get("/risk/summary")).status_code == 503
        assert (await platform["engine"].get("/health/live")).status_code == 200
    finally:
        postgres.start()
    await market.quote("BTCUSDT", "39999.00", "40001.00")

    async def ready() -> bool:
        answers = [await platform[name].get("/health/ready") for name in ("engine", "risk", "portfolio")]
        return all(answer.status_code == 200 for answer in answers)

    await eventually(ready, within_s=30, what="all services ready")
    await market.signal("after", "buy", "0.01")

    async def filled() -> bool:
        with postgres.connect(settings.database.name) as connection:
            return connection.execute("SELECT status FROM orders").fetchall() == [("FILLED",)]

    await eventually(filled, within_s=30, what="an order after the database came back")
