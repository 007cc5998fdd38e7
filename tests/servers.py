"""Servers and market data the tests of real processes share: PostgreSQL and Redis from Debian's packages, on free ports, and a
market in the tests' hands."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from psycopg import sql
from trading_platform import batches, config, instruments, messages
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.instruments import Catalogue
from trading_platform.messages import Quote, Side, Signal

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
        "data_directory": str(redis_server.directory / "data" / database),
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


def key_pair() -> tuple[str, str]:
    """A private and a public Ed25519 key, PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
