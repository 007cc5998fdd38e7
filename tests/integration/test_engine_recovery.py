"""Orders survive: a stopped engine, a venue that does not answer, a second engine, a leader that slept, a bus or database away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Market, Platform, PostgresServer, RedisServer, eventually
from scripted_venue import Exchange, ScriptedVenue
from test_engine import give_limits, order, patient, resting
from trading_platform import accounts, instruments, leadership
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.domain import orders as domain
from trading_platform.domain.orders import Event, EventType, Intent, Step, advance, client_order_id, initialize
from trading_platform.engine.journal import CommitFailed, Halted, Journal
from trading_platform.engine.store import FillRow, OrderStore, settled_otherwise
from trading_platform.engine.venues import VenueOrder
from trading_platform.leadership import Lease, LeaseLost

AT = domain.datetime.fromisoformat("2026-01-02T03:04:05+00:00")


class Context:
    """A loop's context for a journal run by hand."""

    stopping = False

    def beat(self) -> None:
        pass


def intent(origin: str, quantity: str = "0.05", **more: Any) -> Intent:
    return Intent(
        client_order_id=client_order_id("paper", origin), account_id="paper", symbol="BTCUSDT", instrument_id=1, venue="paper",
        side="buy", type="market", time_in_force="GTC", quantity=domain.Decimal(quantity), signal_id=origin, **more,
    )  # fmt: skip


def submitting(what: Intent) -> list[Step]:
    born = initialize(what, AT, "test")
    return [born, advance(born.order, Event(EventType.SUBMITTING, AT, "test"))]


async def statuses(db: Database) -> list[str]:
    return [row[0] for row in await db.fetch_tuples("SELECT status FROM orders ORDER BY created_at, client_order_id")]


async def status_becomes(db: Database, *wanted: str) -> None:
    async def reached() -> bool:
        return await statuses(db) == list(wanted)

    await eventually(reached, what=f"orders in status {wanted}")


async def events_of(db: Database, order_id: str) -> list[str]:
    rows = await db.fetch_tuples("SELECT type FROM order_events WHERE client_order_id = %s ORDER BY order_seq", (order_id,))
    return [row[0] for row in rows]


@pytest.fixture
def exchange() -> Exchange:
    return Exchange("40001")


@pytest.fixture
async def platform(
    settings: Settings, exchange: Exchange, credentials: Path, market: Market, superuser: psycopg.Connection[Any]
) -> AsyncIterator[Platform]:
    """Limits, figures and prices are there; nothing runs yet."""
    give_limits(superuser)
    await market.quote("BTCUSDT", "40000.00", "40001.00")
    running = Platform(patient(settings), exchange)
    yield running
    await running.stop_all()


@pytest.fixture
async def lease(db: Database, settings: Settings) -> Lease:
    await accounts.ensure(db, settings)
    held = await leadership.acquire(db, "engine:paper", ttl_s=30)
    assert held is not None
    return held


async def write(db: Database, lease: Lease, *groups: list[Step]) -> list[BaseException | None]:
    """Have a journal write; what became of each group."""
    journal = Journal(db, "paper", lease, 500)
    written = [journal.append(steps) for steps in groups]
    running = asyncio.create_task(journal.run(Context()))  # type: ignore[arg-type]
    done = await asyncio.gather(*written, return_exceptions=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return [result if isinstance(result, BaseException) else None for result in done]


# --- what was on its way ----------------------------------------------------------------------------------------------------------------


async def test_a_restarted_engine_neither_loses_nor_repeats_orders(platform: Platform, market: Market, db: Database) -> None:
    await platform.start("engine")
    await platform.leads()
    await market.signal("s1", "buy", "0.01")
    await status_becomes(db, "FILLED")
    await platform.stop("engine")
    await market.signal("s1", "buy", "0.01")
    await market.signal("s2", "buy", "0.01")
    await platform.start("engine")
    await status_becomes(db, "FILLED", "FILLED")
    assert await db.fetch_value("SELECT count(*) FROM fills") == 2
    assert len(platform.exchange.submits) == 2


async def test_an_order_that_was_committed_but_never_sent_is_closed_and_not_sent(
    platform: Platform, lease: Lease, db: Database, exchange: Exchange
) -> None:
    await write(db, lease, submitting(intent("crashed before sending")))
    await lease.release()
    await platform.start("engine")
    await status_becomes(db, "REJECTED")
    assert await db.fetch_value("SELECT reason_code FROM orders") == "VENUE_NEVER_RECEIVED"
    assert exchange.submits == []


async def test_an_order_that_was_sent_and_not_recorded_is_found_at_the_venue_with_its_fill(
    platform: Platform, lease: Lease, db: Database, exchange: Exchange
) -> None:
    wanted = intent("crashed after sending")
    await write(db, lease, submitting(wanted))
    exchange.accept(wanted)
    await lease.release()
    await platform.start("engine")
    await status_becomes(db, "FILLED")
    assert await db.fetch_value("SELECT count(*) FROM fills") == 1
    assert exchange.submits == []


async def test_a_request_still_on_its_way_at_the_start_is_waited_for(
    platform: Platform, lease: Lease, db: Database, exchange: Exchange
) -> None:
    wanted = intent("slow")
    await write(db, lease, submitting(wanted))
    await lease.release()
    await platform.start("engine")

    async def recovering() -> bool:
        return bool(await db.fetch_value("SELECT holder IS NOT NULL FROM leases WHERE name = 'engine:paper'"))

    await eventually(recovering, what="an engine in recovery")
    exchange.accept(wanted)  # within recv_window_s of the start
    await status_becomes(db, "FILLED")


async def test_a_submit_without_answer_is_unknown_then_resolved_by_asking(
    platform: Platform, market: Market, db: Database, exchange: Exchange
) -> None:
    exchange.script.append("accept_then_silence")
    exchange.mute = True
    await platform.start("engine")
    await platform.leads()
    await market.signal("s1", "buy", "0.01")
    await status_becomes(db, "FILLED")
    events = await events_of(db, exchange.submits[0])
    assert events == ["initialized", "submitting", "submit_unknown", "accepted", "filled"]
    assert len(exchange.submits) == 1


async def test_a_submit_that_never_arrived_is_given_up_after_the_window_and_not_repeated(
    platform: Platform, market: Market, db: Database, exchange: Exchange
) -> None:
    exchange.script.append("silence")
    await platform.start("engine")
    await platform.leads()
    await market.signal("s1", "buy", "0.01")
    await status_becomes(db, "REJECTED")
    assert await db.fetch_value("SELECT reason_code FROM orders") == "VENUE_NEVER_RECEIVED"
    waited = "SELECT max(occurred_at) FILTER (WHERE type = 'never_received') - max(occurred_at) FILTER (WHERE type = 'submit_unknown')"
    assert (await db.fetch_value(f"{waited} FROM order_events")).total_seconds() >= 1.2
    assert exchange.submits == []


async def test_fills_made_while_the_engine_was_down_are_found(platform: Platform, token: Any, db: Database, exchange: Exchange) -> None:
    await platform.start("engine")
    await platform.leads()
    first = (await platform["engine"].post("/orders", json=resting("r1"), headers=token("trader"))).json()["client_order_id"]
    second = (await platform["engine"].post("/orders", json=resting("r2"), headers=token("trader"))).json()["client_order_id"]
    await platform.stop("engine")
    exchange.fill("paper", first)
    exchange.fill("paper", second, "0.004")
    exchange.end("paper", second)
    await platform.start("engine")
    await status_becomes(db, "FILLED", "CANCELED")
    filled = await db.fetch_tuples("SELECT filled_quantity FROM orders ORDER BY created_at")
    assert [row[0] for row in filled] == [domain.Decimal("0.01"), domain.Decimal("0.004")]


async def test_a_held_order_goes_on_after_a_restart(
    platform: Platform, token: Any, db: Database, exchange: Exchange, market: Market
) -> None:
    await platform.start("engine")
    await platform.leads()
    trail = order("t1", type="trailing_stop", side="sell", terms={"callback_amount": "10"})
    placed = await platform["engine"].post("/orders", json=trail, headers=token("trader"))
    assert placed.json()["status"] == "SUSPENDED", placed.text
    parent = placed.json()["client_order_id"]

    async def moved() -> bool:
        return "moved" in await events_of(db, parent)

    await eventually(moved, what="a water mark")
    await platform.stop("engine")
    await market.quote("BTCUSDT", "39980.00", "39981.00")
    await platform.start("engine")

    async def over() -> bool:
        return await db.fetch_value("SELECT status FROM orders WHERE client_order_id = %s", (parent,)) == "FILLED"

    await eventually(over, what="the trailing stop's end")
    assert len(exchange.submits) == 1


# --- what a start settles by itself -----------------------------------------------------------------------------------------------------


@pytest.fixture
def once(platform: Platform) -> Platform:
    """Engines that compare the books at their start and never again: what a start leaves undone stays undone."""
    platform.settings = platform.settings.model_copy(
        update={"engine": platform.settings.engine.model_copy(update={"reconcile_every_s": 3600.0})}
    )
    return platform


async def start_settled(db: Database, number: int) -> None:
    """Until the comparison of the n-th start is over; whatever it settles is durable before its row is."""

    async def compared() -> bool:
        return await db.fetch_value("SELECT count(*) FROM reconciliations WHERE kind = 'start'") == number

    await eventually(compared, what="a comparison at the start")


async def test_a_start_finds_executions_of_an_order_that_had_ended_here(
    once: Platform, token: Any, db: Database, exchange: Exchange
) -> None:
    """No question about an open order leads to them, only the venue's executions themselves."""
    await once.start("engine")
    await once.leads()
    await once["engine"].post("/orders", json=order(), headers=token("trader"))
    ended = (await once["engine"].post("/orders", json=resting("r2"), headers=token("trader"))).json()["client_order_id"]
    await once["engine"].post(f"/orders/{ended}/cancel", headers=token("trader"))
    await once.stop("engine")
    exchange.fill("paper", ended, "0.004")
    exchange.end("paper", ended)
    await once.start("engine")
    await start_settled(db, 2)
    assert await db.fetch_value("SELECT filled_quantity FROM orders WHERE client_order_id = %s", (ended,)) == Decimal("0.004")


async def test_a_start_finds_executions_of_orders_we_never_made(once: Platform, token: Any, db: Database, exchange: Exchange) -> None:
    await once.start("engine")
    await once.leads()
    await once["engine"].post("/orders", json=order(), headers=token("trader"))
    await once.stop("engine")
    exchange.accept(intent("not ours"))
    await once.start("engine")
    await start_settled(db, 2)
    found = await db.fetch_tuples("SELECT detail->>'kind' FROM audit_events WHERE type = 'reconciliation_mismatch'")
    assert ("foreign_fill",) in found
    assert await reducing(db)


@pytest.mark.parametrize("arrived", [False, True], ids=["lost", "arrived"])
async def test_a_start_settles_what_was_on_its_way_before_it_trades(
    once: Platform, lease: Lease, db: Database, exchange: Exchange, arrived: bool
) -> None:
    """An intent without an answer is neither forgotten nor sent again; only then anything new is taken."""
    wanted = intent("in flight")
    await write(db, lease, submitting(wanted))
    if arrived:
        exchange.accept(wanted)
    await lease.release()
    await once.start("engine")
    await start_settled(db, 1)
    assert await statuses(db) == ["FILLED" if arrived else "REJECTED"]
    assert exchange.submits == []


# --- between commit and send ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Submits wait for it, as behind the venue's rate limit: committed, not sent."""
    waited = asyncio.Event()
    submit = ScriptedVenue.submit

    async def in_turn(venue: ScriptedVenue, wanted: Intent) -> VenueOrder:
        await waited.wait()
        return await submit(venue, wanted)

    monkeypatch.setattr(ScriptedVenue, "submit", in_turn)
    return waited


async def test_an_order_that_waits_for_its_turn_when_a_halt_comes_is_not_sent(
    platform: Platform, token: Any, db: Database, exchange: Exchange, superuser: psycopg.Connection[Any], turn: asyncio.Event
) -> None:
    """The halt is read while the order is committed and waits; it counts as on its way until it was refused."""
    await platform.start("engine")
    await platform.leads()
    asked = asyncio.create_task(platform["engine"].post("/orders", json=order(), headers=token("trader")))
    await status_becomes(db, "PENDING_NEW")
    superuser.execute("UPDATE trading_state SET state = 'paused', changed_by = 'user:test' WHERE account_id = '*'")
    halted = "SELECT max(version) FROM trading_state"

    async def obeyed(in_flight: int) -> bool:
        return bool(await db.fetch_value(f"SELECT version = ({halted}) AND in_flight = %s FROM trading_state_acks", (in_flight,)))

    await eventually(lambda: obeyed(1), what="the halt obeyed with an order on its way")
    turn.set()
    answer = (await asked).json()
    assert (answer["status"], answer["reason_code"]) == ("REJECTED", "TRADING_PAUSED"), answer
    await eventually(lambda: obeyed(0), what="nothing on its way")
    assert exchange.submits == []


async def test_an_engine_that_was_frozen_beyond_its_lease_sends_nothing_when_it_wakes(
    platform: Platform, token: Any, db: Database, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between commit and send the process stands still for longer than the lease; the order is not sent by the one that wakes."""
    submit, frozen = ScriptedVenue.submit, []

    async def freeze(venue: ScriptedVenue, wanted: Intent) -> VenueOrder:
        frozen.append(wanted.client_order_id)
        time.sleep(platform.settings.leases.ttl_s)  # noqa: ASYNC251 - nothing of this process moves
        return await submit(venue, wanted)

    monkeypatch.setattr(ScriptedVenue, "submit", freeze)
    await platform.start("engine")
    await platform.leads()
    answer = await platform["engine"].post("/orders", json=order(), headers=token("trader"))
    assert frozen != []
    assert exchange.submits == [], answer.text
    assert (answer.status_code, answer.json()["code"]) == (503, "NOT_LEADING"), answer.text
    await status_becomes(db, "REJECTED")


async def test_requests_that_are_looked_up_when_the_lead_ends_are_answered(
    platform: Platform, token: Any, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that came while the question of others was on its way."""
    asked = asyncio.Event()

    async def never(*_: Any) -> list[str]:
        asked.set()
        await asyncio.Event().wait()
        return []

    await platform.start("engine")
    await platform.leads()
    monkeypatch.setattr(OrderStore, "known", never)
    first = asyncio.create_task(platform["engine"].post("/orders", json=order("r1"), headers=token("trader")))
    await asked.wait()
    second = asyncio.create_task(platform["engine"].post("/orders", json=order("r2"), headers=token("trader")))
    superuser.execute("UPDATE leases SET holder = 'heir', token = token + 1 WHERE name = 'engine:paper'")
    async with asyncio.timeout(10):
        answers = [(await request).json() for request in (first, second)]
    assert [answer["code"] for answer in answers] == ["NOT_LEADING"] * 2, answers


# --- who may write ----------------------------------------------------------------------------------------------------------------------


async def test_a_ghost_that_wakes_after_losing_its_lease_writes_nothing(lease: Lease, db: Database) -> None:
    await lease.release()
    heir = await leadership.acquire(db, "engine:paper", ttl_s=30, holder="heir")
    assert heir is not None
    ghost = Lease(db, lease.name, lease.holder, lease.token, lease.ttl_s, deadline=float("inf"))
    (refused,) = await write(db, ghost, submitting(intent("ghost")))
    assert isinstance(refused, LeaseLost)
    assert "FENCED" in str(refused)
    assert await statuses(db) == []
    assert await db.fetch_value("SELECT count(*) FROM order_events") == 0


async def test_many_orders_are_few_transactions(lease: Lease, db: Database) -> None:
    results = await write(db, lease, *[submitting(intent(f"o{number}")) for number in range(50)])
    assert results == [None] * 50
    assert await db.fetch_value("SELECT count(DISTINCT xmin::text) FROM order_events") == 2
    assert await db.fetch_tuples("SELECT json_array_length(message::json), cardinality(seqs) FROM outbox ORDER BY id") == [
        (50, 50),
        (50, 50),
    ]


async def test_an_order_that_begins_and_goes_on_within_one_commit_is_kept_as_it_is_in_the_end(lease: Lease, db: Database) -> None:
    begun = submitting(intent("quick"))
    unknown = advance(begun[-1].order, Event(EventType.SUBMIT_UNKNOWN, AT, "test"))
    assert await write(db, lease, begun, [unknown]) == [None, None]
    assert await db.fetch_tuples("SELECT status, last_order_seq, type FROM orders") == [("UNKNOWN", 3, "market")]
    assert await db.fetch_value("SELECT count(*) FROM outbox") == 1


async def test_what_becomes_of_an_order_that_is_not_there_is_not_written(lease: Lease, db: Database) -> None:
    begun = submitting(intent("never written"))
    unknown = advance(begun[-1].order, Event(EventType.SUBMIT_UNKNOWN, AT, "test"))
    (refused,) = await write(db, lease, [unknown])
    assert isinstance(refused, CommitFailed)
    assert "of 1 orders that changed 0 are there" in str(refused)
    assert await db.fetch_value("SELECT (SELECT count(*) FROM order_events) + (SELECT count(*) FROM outbox)") == 0


async def test_a_group_with_a_fill_that_is_already_recorded_is_not_written_at_all(lease: Lease, db: Database) -> None:
    def filled(origin: str) -> list[Step]:
        steps = submitting(intent(origin))
        fill = domain.Fill("BTCUSDT:1", domain.Decimal("0.05"), domain.Decimal(40000), domain.Decimal(1), "USDT", "taker", AT, 1)
        return [*steps, advance(steps[-1].order, Event(EventType.FILLED, AT, "test", fill=fill))]

    assert await write(db, lease, filled("first")) == [None]
    (refused,) = await write(db, lease, filled("second"))
    assert isinstance(refused, CommitFailed)
    assert await db.fetch_value("SELECT count(*) FROM fills") == 1
    assert await statuses(db) == ["FILLED"]


async def test_a_halt_refuses_the_group_and_lets_closing_orders_pass(
    lease: Lease, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute("UPDATE trading_state SET state = 'emergency_stopped', changed_by = 'user:test' WHERE account_id = '*'")
    (refused,) = await write(db, lease, submitting(intent("new")))
    assert isinstance(refused, Halted)
    assert await write(db, lease, submitting(intent("closing", flatten=True))) == [None]
    assert await db.fetch_value("SELECT count(*) FROM orders") == 1


async def test_a_second_engine_stands_by_and_takes_over(platform: Platform, market: Market, db: Database, exchange: Exchange) -> None:
    second = Platform(platform.settings, exchange)
    try:
        await platform.start("engine")
        await platform.leads()
        await second.start("engine")

        async def standing_by() -> bool:
            document = (await second["engine"].get("/health")).json()
            return document["loops"]["account:paper"]["status"] == "standby" and document["status"] == "healthy"

        await eventually(standing_by, what="the second engine standing by")
        await platform.stop("engine")
        await second.leads()
        await market.signal("s1", "buy", "0.01")
        await status_becomes(db, "FILLED")
        tokens = await db.fetch_tuples("SELECT DISTINCT fencing_token FROM order_events")
        assert tokens == [(2,)]
    finally:
        await second.stop_all()


# --- what is away -----------------------------------------------------------------------------------------------------------------------


async def test_cancels_fills_and_recovery_work_while_redis_is_away(
    platform: Platform, token: Any, db: Database, exchange: Exchange, redis_server: RedisServer
) -> None:
    await platform.start("engine")
    await platform.leads()
    ids = []
    for request in ("r1", "r2", "r3"):
        placed = await platform["engine"].post("/orders", json=resting(request), headers=token("trader"))
        ids.append(placed.json()["client_order_id"])
    redis_server.stop()
    try:
        canceled = await platform["engine"].post(f"/orders/{ids[0]}/cancel", headers=token("trader"))
        assert (canceled.status_code, canceled.json()["status"]) == (200, "CANCELED")
        exchange.fill("paper", ids[1])
        await status_becomes(db, "CANCELED", "FILLED", "NEW")
        await platform.stop("engine")
        exchange.fill("paper", ids[2])
        await platform.start("engine")
        await status_becomes(db, "CANCELED", "FILLED", "FILLED")
    finally:
        redis_server.start()


async def test_losing_all_of_redis_loses_no_order_and_trading_goes_on(
    platform: Platform, market: Market, db: Database, redis_server: RedisServer
) -> None:
    await platform.start("engine")
    await platform.leads()
    await market.signal("s1", "buy", "0.01")
    await status_becomes(db, "FILLED")
    redis_server.stop()
    redis_server.start()
    await market.quote("BTCUSDT", "39999.00", "40001.00")
    await market.signal("s2", "buy", "0.01")
    await status_becomes(db, "FILLED", "FILLED")


async def test_the_loops_come_back_after_the_database_was_away(
    platform: Platform, market: Market, postgres: PostgresServer, settings: Settings, superuser: psycopg.Connection[Any]
) -> None:
    await platform.start("engine")
    await platform.leads()
    superuser.close()
    postgres.stop("fast")
    try:
        health = await platform["engine"].get("/health")
        assert health.status_code == 503
        assert health.json()["dependencies"]["postgresql"]["status"] == "unhealthy"
        assert (await platform["engine"].get("/health/live")).status_code == 200
    finally:
        postgres.start()

    async def ready() -> bool:
        return (await platform["engine"].get("/health/ready")).status_code == 200

    await eventually(ready, within_s=30, what="the engine ready")
    await market.signal("after", "buy", "0.01")

    async def filled() -> bool:
        with postgres.connect(settings.database.name) as connection:
            return connection.execute("SELECT status FROM orders").fetchall() == [("FILLED",)]

    await eventually(filled, within_s=30, what="an order after the database came back")


async def test_an_engine_does_not_trade_before_the_venue_has_answered(platform: Platform, exchange: Exchange, token: Any) -> None:
    exchange.away = True
    await platform.start("engine")

    async def retrying() -> bool:
        document = (await platform["engine"].get("/health")).json()
        return document["loops"]["account:paper"]["status"] == "retrying"

    await eventually(retrying, what="an engine that waits for the venue")
    refused = await platform["engine"].post("/orders", json=order(), headers=token("trader"))
    assert (refused.status_code, refused.json()["code"]) == (503, "NOT_LEADING")
    exchange.away = False
    await platform.leads()


# --- what cannot be explained -----------------------------------------------------------------------------------------------------------


async def reducing(db: Database) -> bool:
    return await db.fetch_value("SELECT state FROM trading_state WHERE account_id = 'paper'") == "reducing"


async def test_an_order_of_the_venue_we_never_made_puts_the_account_on_reducing(
    platform: Platform, db: Database, exchange: Exchange
) -> None:
    exchange.accept(_limit("not ours"))
    await platform.start("engine")
    await eventually(lambda: reducing(db), what="the account on reducing")
    audit = {row[0] for row in await db.fetch_tuples("SELECT type FROM audit_events WHERE actor = 'engine'")}
    assert audit == {"reconciliation_mismatch", "trading_state_change"}
    assert await db.fetch_value("SELECT identical FROM reconciliations ORDER BY id LIMIT 1") is False


async def test_an_execution_of_an_order_we_never_made_puts_the_account_on_reducing(
    platform: Platform, db: Database, exchange: Exchange, token: Any
) -> None:
    await platform.start("engine")
    await platform.leads()
    await platform["engine"].post("/orders", json=order(), headers=token("trader"))
    exchange.accept(intent("not ours"))
    await eventually(lambda: reducing(db), what="the account on reducing")
    await platform.stop_all()


async def test_books_that_agree_leave_a_row_that_says_so(platform: Platform, db: Database, token: Any) -> None:
    await platform.start("portfolio", "engine")
    await platform.leads()
    await platform["engine"].post("/orders", json=order(), headers=token("trader"))

    async def compared() -> bool:
        rows = await db.fetch_tuples("SELECT kind, identical, detail FROM reconciliations ORDER BY id")
        return len(rows) >= 4 and all(row[1] for row in rows) and rows[0][0] == "start" and "BTCUSDT" in rows[-1][2]["cursors"]

    await eventually(compared, what="comparisons without differences")
    assert not await reducing(db)


async def test_a_fill_made_while_an_engine_starts_is_no_difference(
    platform: Platform, db: Database, exchange: Exchange, token: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The market goes on between the questions a start asks: after the executions, before the balances."""
    await platform.start("portfolio", "engine")
    await platform.leads()
    first = (await platform["engine"].post("/orders", json=resting("r1"), headers=token("trader"))).json()["client_order_id"]
    await platform.stop("engine")
    asked = ScriptedVenue.balances

    async def balances(venue: ScriptedVenue) -> dict[str, Decimal]:
        if first in exchange.account("paper").open:
            exchange.fill("paper", first)
        return await asked(venue)

    monkeypatch.setattr(ScriptedVenue, "balances", balances)
    await platform.start("engine")
    await platform.leads()
    await status_becomes(db, "FILLED")
    assert not await reducing(db)


def _executions(*said: tuple[int, str, str, str]) -> list[FillRow]:
    """Of the perpetual, as the venue made them: the place in our books, side, quantity, price."""
    return [FillRow(seq, 6, side, "net", Decimal(quantity), Decimal(price), Decimal(0), "USD") for seq, side, quantity, price in said]


async def test_an_execution_learnt_late_realises_at_another_time_and_is_no_difference(db: Database) -> None:
    """Bought at 100 and 200, sold one at 300: 150 realised where both purchases come first, 200 where the second was learnt late."""
    catalogue = await instruments.load(db)
    late = _executions((1, "buy", "1", "100"), (3, "buy", "1", "200"), (2, "sell", "1", "300"))
    in_time = _executions((1, "buy", "1", "100"), (2, "buy", "1", "200"), (3, "sell", "1", "300"))
    flat = _executions((1, "buy", "1", "100"), (3, "buy", "1", "200"), (2, "sell", "1", "300"), (4, "sell", "1", "300"))
    assert settled_otherwise(late, catalogue) == {"USD": Decimal(-50)}
    assert settled_otherwise(in_time, catalogue) == {"USD": Decimal(0)}
    assert settled_otherwise(flat, catalogue) == {"USD": Decimal(0)}


async def test_a_balance_that_differs_at_two_looks_puts_the_account_on_reducing(
    platform: Platform, db: Database, exchange: Exchange
) -> None:
    await platform.start("portfolio", "engine")
    await platform.leads()
    exchange.account("paper").balances["USDT"] += 1
    await eventually(lambda: reducing(db), what="the account on reducing")
    detail = await db.fetch_value("SELECT detail->>'detail' FROM audit_events WHERE type = 'reconciliation_mismatch'")
    assert detail.startswith("USDT: our books have")


def _limit(origin: str) -> Intent:
    wanted = intent(origin)
    return domain.replace(wanted, type="limit", limit_price=domain.Decimal(39000))
