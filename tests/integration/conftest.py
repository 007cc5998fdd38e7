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
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql
from trading_platform import config, migrate
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.db import Database

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
        self._run(
            initdb, "-D", f"{self.directory}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"
        )
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(
                "CREATE ROLE trading_owner NOLOGIN; CREATE ROLE trading_migrator LOGIN IN ROLE trading_owner;"
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
                sql.SQL("CREATE DATABASE {} OWNER trading_owner TEMPLATE {}").format(
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
            for name in ("gateway", "market-data", "engine", "strategy", "risk", "portfolio", "health")
        },
        "leases": {"ttl_s": 2},
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
