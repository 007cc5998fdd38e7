"""A database of the release before keeps its facts, and its projections are made again from them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from conftest import PostgresServer, RedisServer, settings_for
from sqlalchemy import create_engine
from trading_platform import migrate, rebuild
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.portfolio.store import PortfolioStore

D = Decimal

BEFORE = """
INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD');
INSERT INTO ledger_transactions VALUES ('deposit:paper:opening', 'deposit', 'paper', now(), NULL);
INSERT INTO ledger_lines VALUES ('deposit:paper:opening', 1, 'paper', 'holdings', 'USD', 100000),
                                ('deposit:paper:opening', 2, 'paper', 'capital', 'USD', -100000);
INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, quantity, price, fee, fee_currency, liquidity,
                   executed_at, ts_event_ns)
    VALUES ('paper', 'paper', '1', 'o1', 1, 'buy', 2, 100, 1, 'USDT', 'taker', now(), 1),
           ('paper', 'paper', '2', 'o2', 1, 'sell', 1, 110, 1, 'USDT', 'taker', now(), 1);
INSERT INTO ledger_transactions VALUES ('fill:paper:paper:1', 'fill', 'paper', now(), 1);
INSERT INTO ledger_lines VALUES ('fill:paper:paper:1', 1, 'paper', 'holdings', 'BTC', 2),
                                ('fill:paper:paper:1', 2, 'paper', 'exchange', 'BTC', -2);
INSERT INTO trade_results VALUES (1, 'paper', 1, 0, 0, 1, 'USDT', now());
INSERT INTO positions VALUES ('paper', 1, 2, 100, 0, 1, 1, now());
INSERT INTO portfolio_cursor VALUES ('paper', 1);
INSERT INTO equity_snapshots VALUES ('paper', now(), 100005, 0, 20, 15, 200, 100005, 0);
"""


@pytest.fixture
def upgraded(postgres: PostgresServer, redis_server: RedisServer) -> Settings:
    """A database with a history in the first schema, brought to the newest."""
    settings = settings_for(postgres, redis_server, postgres.create_database())
    with psycopg.connect(host="127.0.0.1", port=postgres.port, user="trading_migrator", dbname=settings.database.name) as connection:
        connection.execute("SET ROLE trading_user")
        connection.commit()
        script = Config()
        script.set_main_option("script_location", str(migrate.migrations_directory()))
        with create_engine("postgresql+psycopg://", creator=lambda: connection).connect() as alchemy:
            script.attributes["connection"] = alchemy
            command.upgrade(script, "0001")
            alchemy.commit()
            connection.execute(BEFORE)
            connection.commit()
    status, lines = migrate.migrate(settings)
    assert (status, "applied 0001" in lines, "applied 0002" in lines) == (0, False, True)
    return settings


async def test_an_upgrade_keeps_what_was_paid_in_and_books_every_fill_again(upgraded: Settings) -> None:
    database = Database(upgraded)
    await database.open()
    try:
        store = PortfolioStore(database)
        assert dict(await store.balances("paper")) == {"USD": 100_000}
        assert (await store.project("paper")).fills == 2
        assert dict(await store.balances("paper")) == {"BTC": 1, "USD": 100_000, "USDT": D(-92)}
        [(position, _)] = (await store.positions("paper")).values()
        assert (position.quantity, position.realised_pnl, position.fees) == (1, 10, 2)
        snapshot: Any = await store.newest_snapshot("paper")
        assert (snapshot.capital, snapshot.carry) == (100_000, 0)
        assert not await store.open_account(upgraded.accounts[0])
    finally:
        await database.close()
    assert await rebuild.rebuild(upgraded) == []
