"""The schema refuses what must never happen, whoever asks."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from trading_platform import instruments, leadership, migrate
from trading_platform.backtest import instruments as backtest_instruments
from trading_platform.config import Settings
from trading_platform.db import Database

EVENT = (
    "INSERT INTO order_events (client_order_id, order_seq, account_id, type, to_status, actor, correlation_id, lease, fencing_token,"
    " occurred_at) VALUES (%s, 1, 'paper', 'initialized', 'INITIALIZED', 'test', 'c', %s, %s, now())"
)


@pytest.fixture
def account(superuser: psycopg.Connection[Any]) -> str:
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD')")
    return "paper"


def test_migrating_a_migrated_database_does_nothing(settings: Settings) -> None:
    assert migrate.migrate(settings) == (0, ["schema is at 0003; nothing to do"])


def test_check_reports_what_is_pending_on_an_empty_database(postgres: Any, settings: Settings) -> None:
    empty = postgres.create_database()
    before = settings.model_copy(update={"database": settings.database.model_copy(update={"name": empty})})
    status, lines = migrate.migrate(before, check=True)
    assert (status, lines) == (1, ["pending: 0001, 0002, 0003"])


async def test_the_instruments_a_backtest_knows_are_those_of_the_database(db: Database) -> None:
    assert list(await instruments.load(db)) == list(backtest_instruments.catalogue())


async def test_lots_are_binances(db: Database) -> None:
    """What its exchangeInfo says of PRICE_FILTER, LOT_SIZE and NOTIONAL."""
    catalogue = await instruments.load(db)
    told = {each.symbol: (each.tick_size, each.lot_size, each.min_quantity, each.min_notional) for each in catalogue}
    assert told["BTCUSDT"] == (Decimal("0.01"), Decimal("0.00001"), Decimal("0.00001"), 5)
    assert told["ETHUSDT"] == (Decimal("0.01"), Decimal("0.0001"), Decimal("0.0001"), 5)


def test_objects_belong_to_the_owner_so_that_any_migrator_can_change_them(superuser: psycopg.Connection[Any]) -> None:
    owners = superuser.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'paper_venue')").fetchall()
    assert owners == [("trading_user",)]


async def test_the_current_leader_may_append_an_order_event(db: Database, account: str) -> None:
    lease = await leadership.acquire(db, "engine:paper", ttl_s=10)
    assert lease is not None
    assert await db.execute(EVENT, ("one", lease.name, lease.token)) == 1


async def test_a_ghost_with_an_old_token_is_refused(db: Database, account: str) -> None:
    ghost = await leadership.acquire(db, "engine:paper", ttl_s=10, holder="ghost")
    assert ghost is not None
    await ghost.release()
    heir = await leadership.acquire(db, "engine:paper", ttl_s=10, holder="heir")
    assert heir is not None
    assert heir.token > ghost.token
    with pytest.raises(psycopg.Error, match="FENCED"):
        await db.execute(EVENT, ("one", ghost.name, ghost.token))
    assert await db.fetch_value("SELECT count(*) FROM order_events") == 0


async def test_a_lease_that_is_held_is_not_given_to_another(db: Database) -> None:
    assert await leadership.acquire(db, "feed", ttl_s=10, holder="one") is not None
    assert await leadership.acquire(db, "feed", ttl_s=10, holder="two") is None


async def test_a_lease_that_ran_out_goes_to_another_and_the_first_cannot_renew(db: Database, superuser: psycopg.Connection[Any]) -> None:
    first = await leadership.acquire(db, "feed", ttl_s=10, holder="one")
    assert first is not None
    superuser.execute("UPDATE leases SET expires_at = clock_timestamp()")
    assert await leadership.acquire(db, "feed", ttl_s=10, holder="two") is not None
    with pytest.raises(leadership.LeaseLost):
        await first.renew()
    with pytest.raises(leadership.LeaseLost):
        first.assert_held()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE order_events SET type = 'x'",
        "DELETE FROM order_events",
        "TRUNCATE order_events",
        "UPDATE fills SET price = 1",
        "DELETE FROM fills",
        "UPDATE ledger_lines SET amount = 1",
        "DELETE FROM ledger_transactions",
        "UPDATE audit_events SET actor = 'x'",
        "UPDATE risk_limits SET max_daily_loss = 1",
        "DELETE FROM risk_decisions",
        "DELETE FROM leases",
        "DROP TABLE orders",
        "CREATE TABLE mine (x int)",
    ],
)
async def test_the_services_role_cannot_change_facts_or_the_schema(db: Database, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await db.execute(statement)


@pytest.mark.parametrize("table", ["order_events", "fills", "audit_events", "risk_decisions", "risk_limits"])
def test_not_even_a_superuser_deletes_facts(superuser: psycopg.Connection[Any], table: str) -> None:
    with pytest.raises(psycopg.Error, match="APPEND_ONLY"):
        superuser.execute(f"DELETE FROM {table}".encode())


async def test_a_ledger_transaction_that_does_not_sum_to_zero_is_refused_at_commit(db: Database, account: str) -> None:
    with pytest.raises(psycopg.Error, match="UNBALANCED"):
        async with db.transaction() as cursor:
            await cursor.execute("INSERT INTO ledger_transactions VALUES ('t', 'deposit', 'paper', now(), NULL)")
            await cursor.execute("INSERT INTO ledger_lines VALUES ('t', 1, 'paper', 'holdings', 'USD', 10)")
            await cursor.execute("INSERT INTO ledger_lines VALUES ('t', 2, 'paper', 'capital', 'EUR', -10)")
    assert await db.fetch_value("SELECT count(*) FROM ledger_transactions") == 0


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-Infinity", "0", "-1"])
async def test_a_fill_has_a_finite_positive_price(db: Database, account: str, price: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await db.execute(
            "INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, quantity, price, fee,"
            " fee_currency, liquidity, executed_at, ts_event_ns)"
            " VALUES ('paper', 'paper', '1', 'o', 1, 'buy', 1, %s, 0, 'USDT', 'taker', now(), 1)",
            (price,),
        )


async def test_a_candle_partition_is_made_once_and_used(db: Database, superuser: psycopg.Connection[Any]) -> None:
    assert await db.fetch_value("SELECT ensure_candle_partition('2022-01-15')") is True
    assert await db.fetch_value("SELECT ensure_candle_partition('2022-01-31')") is False
    await db.execute("INSERT INTO candles VALUES (1, 60, '2022-01-31T23:59:00Z', 1, 2, 1, 2, 5, 'test')")
    await db.execute("INSERT INTO candles VALUES (1, 60, '2022-02-01T00:00:00Z', 1, 2, 1, 2, 5, 'test')")
    rows = superuser.execute("SELECT tableoid::regclass::text FROM candles ORDER BY ts_open").fetchall()
    assert rows == [("candles_2022_01",), ("candles_default",)]


def test_password_hashes_are_hidden_from_the_readonly_role(superuser: psycopg.Connection[Any]) -> None:
    superuser.execute("SET ROLE trading_readonly")
    superuser.execute("SELECT id, name, role FROM users")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        superuser.execute("SELECT password_hash FROM users")
