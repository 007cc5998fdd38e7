"""Real servers for the integration tests: PostgreSQL and Redis from Debian's packages, started here on free ports.

settings   configuration of a fresh, migrated database and an empty Redis, for one test
db, bus    open connections to them, as the services have (role trading_app)
superuser  a connection that may do everything, to arrange and to look
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from scripted_venue import Exchange
from servers import Market, PostgresServer, RedisServer, key_pair, settings_for
from servers import free_port as free_port  # for the tests that take it from here
from trading_platform import auth, migrate
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.engine import app as engine_app
from trading_platform.portfolio import app as portfolio_app
from trading_platform.risk import app as risk_app
from trading_platform.service import Service
from trading_platform.strategy import app as strategy_app


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    directory = Path(tempfile.mkdtemp(prefix="trading-postgres-", dir="/tmp"))
    server = PostgresServer(directory)
    server.initialise()
    yield server
    server.stop()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer, redis_server: RedisServer) -> str:
    """Name of a migrated database nobody connects to: the template of every test's own."""
    name = postgres.create_database()
    migrate.migrate(settings_for(postgres, redis_server, name))
    return name


@pytest.fixture
def settings(postgres: PostgresServer, redis_server: RedisServer, migrated: str) -> Settings:
    redis_server.client().flushall()
    return settings_for(postgres, redis_server, postgres.create_database(template=migrated))


@pytest.fixture
def superuser(postgres: PostgresServer, settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(settings.database.name) as connection:
        yield connection


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    connection = Bus(settings)
    yield connection
    await connection.close()


async def eventually(condition: Any, *, within_s: float = 10.0, what: str = "condition") -> Any:
    """The first true value of an async `condition`, polled; fails the test when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {within_s} s (last value {value!r})")
        await asyncio.sleep(0.02)


@pytest.fixture
async def market(db: Database, bus: Bus) -> Market:
    opened = Market(bus)
    await opened.open(db)
    return opened


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credentials directory as systemd delivers it, with signing keys."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    private, public = key_pair()
    (directory / "jwt-private-key").write_text(private)
    (directory / "jwt-public-key").write_text(public)
    (directory / "paper-venue-secret").write_text("a secret of these tests")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


@pytest.fixture
def token(credentials: Path) -> Any:
    """`token("trader")`: the Authorization header of somebody with that role."""
    authenticator = auth.Authenticator()
    return lambda role: {"Authorization": f"Bearer {authenticator.mint('somebody', role)}"}


class Platform:
    """Services of the money path, running in this process on the test's servers."""

    def __init__(self, settings: Settings, exchange: Exchange | None = None) -> None:
        self.settings = settings
        self.exchange = exchange or Exchange("40001")
        self._running: dict[str, tuple[Service, Any, httpx.AsyncClient]] = {}

    async def start(self, *names: str) -> None:
        for name in names:
            service = self._create(name)
            context = service.running()
            await context.__aenter__()
            client = httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://test")
            self._running[name] = (service, context, client)

    def _create(self, name: str) -> Service:
        match name:
            case "engine":
                return engine_app.create(self.settings, self.exchange.venues)
            case "risk":
                return risk_app.create(self.settings)
            case "portfolio":
                return portfolio_app.create(self.settings)
            case "strategy":
                return strategy_app.create(self.settings)
        raise LookupError(name)

    async def stop(self, *names: str) -> None:
        for name in names:
            _, context, client = self._running.pop(name)
            await client.aclose()
            await context.__aexit__(None, None, None)

    async def stop_all(self) -> None:
        await self.stop(*reversed(list(self._running)))

    def __getitem__(self, name: str) -> httpx.AsyncClient:
        return self._running[name][2]

    def service(self, name: str) -> Service:
        return self._running[name][0]

    def __contains__(self, name: str) -> bool:
        return name in self._running

    async def leads(self, account: str = "paper") -> None:
        """Wait until the engine has recovered and trades."""

        async def leading() -> bool:
            document = (await self["engine"].get("/health")).json()
            return account in document["leads"] and document["loops"][f"account:{account}"]["status"] == "running"

        await eventually(leading, what="the engine's lead")

    async def judges(self, account: str = "paper") -> None:
        """Wait until the engine has what it judges orders by: limits, figures, and a price of BTCUSDT."""

        async def informed() -> bool:
            standing = (await self["engine"].get("/health")).json()["accounts"].get(account)
            return bool(standing and standing["limits_version"] and standing["figures_at"])

        await eventually(informed, what="limits and figures in the engine")


@pytest.fixture
async def platform(settings: Settings, credentials: Path) -> AsyncIterator[Platform]:
    running = Platform(settings)
    yield running
    await running.stop_all()
