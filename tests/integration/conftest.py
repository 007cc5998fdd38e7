"""Real servers for the integration tests: PostgreSQL and Redis from Debian's packages, started here on free ports.

settings   configuration of a fresh, migrated database and an empty Redis, for one test
db, bus    open connections to them, as the services have (role trading_app)
superuser  a connection that may do everything, to arrange and to look
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from psycopg import sql
from scripted_venue import Exchange
from trading_platform import auth, batches, config, instruments, messages, migrate
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.engine import app as engine_app
from trading_platform.instruments import Catalogue
from trading_platform.messages import Quote, Side, Signal
from trading_platform.portfolio import app as portfolio_app
from trading_platform.risk import app as risk_app
from trading_platform.service import Service
from trading_platform.strategy import app as strategy_app

START_TIMEOUT_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(name: str, package: str, *directories: str) -> str:
    for directory in directories:
        for found in sorted(Path("/").glob(f"{directory.lstrip('/')}/{name}"), reverse=True):
            return str(found)
    if found_on_path := shutil.which(name):
        return found_on_path
    pytest.fail(f"{name} is not installed; run: apt-get install --no-install-recommends {package}", pytrace=False)


@dataclass
class PostgresServer:
    """One PostgreSQL cluster in a directory of its own, not run by root."""

    directory: Path
    port: int = field(default_factory=free_port)
    _names: Iterator[int] = field(default_factory=itertools.count)

    @property
    def _user(self) -> str | None:
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, user=self._user, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode != 0:
            log = self.directory / "log"
            pytest.fail(f"{command[0]} failed: {done.stderr}\n{log.read_text() if log.exists() else ''}", pytrace=False)

    def initialise(self) -> None:
        if self._user is not None:
            shutil.chown(self.directory, self._user)
        binaries = "/usr/lib/postgresql/*/bin"
        initdb = _program("initdb", "postgresql", binaries)
        self._run(initdb, "-D", f"{self.directory}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(
                "CREATE ROLE trading_user NOLOGIN; CREATE ROLE trading_migrator LOGIN IN ROLE trading_user;"
                "CREATE ROLE trading_app LOGIN; CREATE ROLE trading_readonly LOGIN;"
            )

    def start(self) -> None:
        self._run(
            _program("pg_ctl", "postgresql", "/usr/lib/postgresql/*/bin"), "-D", f"{self.directory}/data", "-w",
            "-l", f"{self.directory}/log", "start", "-o",
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.directory}"
            " -c fsync=off -c max_connections=100 -c timezone=Asia/Kolkata",
        )  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        pg_ctl = _program("pg_ctl", "postgresql", "/usr/lib/postgresql/*/bin")
        self._run(pg_ctl, "-D", f"{self.directory}/data", "-m", mode, "-w", "stop")

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True)

    def create_database(self, template: str | None = None) -> str:
        """A new database that belongs to the owner role; a copy of `template` if one is named."""
        name = f"trading_{next(self._names)}"
        with self.connect("postgres") as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER trading_user TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template or "template1")
                )
            )
        return name


@dataclass
class RedisServer:
    """One Redis that keeps nothing on disk."""

    directory: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                _program("redis-server", "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", "no", "--dir", str(self.directory), "--logfile", str(self.directory / "redis.log"),
            ]
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        client = self.client()
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    pytest.fail(f"redis-server did not answer: {(self.directory / 'redis.log').read_text()}", pytrace=False)
                time.sleep(0.05)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def settings_for(postgres: PostgresServer, redis_server: RedisServer, database: str, **changes: Any) -> Settings:
    """A complete configuration of these servers; `changes` replace whole sections."""
    document: dict[str, Any] = {
        "environment": "development",
        "host": "test",
        "database": {
            "host": "127.0.0.1", "port": postgres.port, "session_port": postgres.port, "replica_port": postgres.port,
            "name": database, "pool_size": 6,
        },
        "mongodb": {"hosts": ["127.0.0.1:1"], "replica_set": None},
        "redis": {"hosts": [f"127.0.0.1:{redis_server.port}"]},
        "services": {
            name: {"port": free_port()}
            for name in ("gateway", "market-data", "engine", "strategy", "risk", "portfolio", "paper-venue", "health")
        },
        "leases": {"ttl_s": 2},
        "engine": {"halt_latch": str(postgres.directory / "no-such-directory" / "halt"), "reconcile_every_s": 1},
    }  # fmt: skip
    return config.parse({**document, **changes})


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


class Market:
    """A market in the test's hands: what it says goes on the bus as market data does."""

    def __init__(self, stream: Bus) -> None:
        self._bus = stream
        self._catalogue: Catalogue | None = None

    async def open(self, database: Database) -> None:
        self._catalogue = await instruments.load(database)

    async def quote(self, symbol: str, bid: str, ask: str, *, age_s: float = 0.0, bid_size: str = "0", ask_size: str = "0") -> None:
        """A two-sided quote, received `age_s` ago: the latest quote, then the tick batch."""
        assert self._catalogue is not None
        instrument = self._catalogue.symbol(symbol)
        received = time.time_ns() - int(age_s * 1e9)
        prices = [instrument.scaled_price(Decimal(bid)), instrument.scaled_price(Decimal(ask))]
        sizes = [instrument.scaled_size(Decimal(bid_size)), instrument.scaled_size(Decimal(ask_size))]
        quote = Quote(symbol=symbol, ts_event_ns=received, ts_recv_ns=received, source="test", bid=prices[0], ask=prices[1])
        await self._bus.set_quotes([quote])
        await self._publish(instrument.id, received, prices, sizes, [batches.BID, batches.ASK])

    async def trade(self, symbol: str, price: str, size: str) -> None:
        """A printed trade."""
        assert self._catalogue is not None
        instrument = self._catalogue.symbol(symbol)
        prices, sizes = [instrument.scaled_price(Decimal(price))], [instrument.scaled_size(Decimal(size))]
        await self._publish(instrument.id, time.time_ns(), prices, sizes, [batches.TRADE])

    async def _publish(self, instrument_id: int, received: int, prices: list[int], sizes: list[int], flags: list[int]) -> None:
        rows = len(prices)
        batch = batches.TickBatch(
            instrument=np.full(rows, instrument_id, np.uint32),
            ts_event=np.full(rows, received, np.int64),
            ts_recv=np.full(rows, received, np.int64),
            price=np.array(prices, np.int64),
            size=np.array(sizes, np.int64),
            flags=np.array(flags, np.uint8),
        )
        await self._bus.publish(messages.TICKS, {b"b": batch.encode()})

    async def signal(self, identity: str, side: Side, quantity: str, symbol: str = "BTCUSDT", *, age_s: float = 0.0) -> None:
        """A strategy's signal."""
        signal = Signal(
            id=identity, strategy="test", version="1", account="paper", symbol=symbol, side=side, quantity=quantity, price=1,
            reason="test", ts_candle_ns=time.time_ns(), ts_ns=time.time_ns() - int(age_s * 1e9),
        )  # fmt: skip
        await self._bus.publish(messages.SIGNALS, messages.encode(signal))


@pytest.fixture
async def market(db: Database, bus: Bus) -> Market:
    opened = Market(bus)
    await opened.open(db)
    return opened


def key_pair() -> tuple[str, str]:
    """A private and a public Ed25519 key, PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


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
