"""What the order path is measured on: PostgreSQL that forces every commit to disk, Redis, the paper venue as a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "tests")]

import httpx
import yaml
from psycopg.types.json import Jsonb
from servers import PostgresServer, RedisServer, _program, key_pair, settings_for
from trading_platform import migrate
from trading_platform.config import Settings
from trading_platform.domain.figures import PublishedFigures

PLENTY = 100_000_000
WAIT_S = 60.0


class DurablePostgres(PostgresServer):
    """The tests' server, but a commit is on the disk before it is confirmed. Everything else as the distribution has it."""

    def start(self) -> None:
        self._run(
            _program("pg_ctl", "postgresql", "/usr/lib/postgresql/*/bin"), "-D", f"{self.directory}/data", "-w",
            "-l", f"{self.directory}/log", "start", "-o",
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.directory}"
            " -c fsync=on -c synchronous_commit=on -c full_page_writes=on -c max_connections=100",
        )  # fmt: skip
        with self.connect("postgres") as connection:
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                row = connection.execute(f"SHOW {name}").fetchone()
                assert row == ("on",), f"{name} is {row}: nothing measured here would be durable"


class Servers:
    """Started once; every measurement gets a database and a configuration of its own."""

    def __init__(self, directory: Path) -> None:
        postgres, redis, self._configurations = (directory / name for name in ("postgres", "redis", "configurations"))
        for each in (postgres, redis, self._configurations):
            each.mkdir()
        self.postgres, self.redis = DurablePostgres(postgres), RedisServer(redis)
        self.postgres.initialise()
        self.redis.start()
        self._template = self.postgres.create_database()
        migrate.migrate(settings_for(self.postgres, self.redis, self._template))

    def stop(self) -> None:
        self.postgres.stop("fast")
        self.redis.stop()

    def fresh(self) -> tuple[Settings, Path]:
        """The configuration of an empty platform with limits and figures, and the file it is in."""
        self.redis.client().flushall()
        database = self.postgres.create_database(template=self._template)
        settings = settings_for(
            self.postgres, self.redis, database,
            leases={"ttl_s": 10},
            engine={"halt_latch": "/tmp/no-such-directory/halt"},
            risk={"figures_max_age_s": 3600.0},
            venues={"paper": {"paper": True, "request_weight_per_minute": PLENTY, "orders_per_10_s": PLENTY}},
            paper_venue={"request_weight_per_minute": PLENTY, "orders_per_10_s": PLENTY},
            accounts=[{"id": "paper", "opening_balances": {"USDT": str(PLENTY), "BTC": "1000"}}],
        )  # fmt: skip
        with self.postgres.connect(database) as connection:
            give_limits(connection)
        path = self._configurations / f"{database}.yaml"
        path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        return settings, path


def give_limits(connection: Any) -> None:
    """Every limit there is, none near; figures as the risk service publishes them."""
    connection.execute("INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD') ON CONFLICT DO NOTHING")
    connection.execute(
        "INSERT INTO risk_limits (account_id, max_order_notional, max_position_notional, max_total_exposure, max_orders_per_minute,"
        " max_orders_per_second, price_collar, max_daily_loss, max_daily_loss_share, max_weekly_loss, max_weekly_loss_share,"
        " max_monthly_loss, max_monthly_loss_share, max_drawdown, max_leverage, max_concentration, max_consecutive_losses,"
        " max_reject_share, max_var, max_data_age_s, changed_by, reason)"
        " VALUES ('paper', 100000, 1000000, 1000000, 100000000, 1000000, 0.05, 10000000, 0.5, 10000000, 0.5, 10000000, 0.5, 0.5, 3, 1,"
        " 10000000, 0.5, 0.5, 30, 'user:bench', 'bench')"
    )
    connection.execute(
        "INSERT INTO leases (name, holder, token, acquired_at, renewed_at, expires_at) VALUES ('risk', 'bench', 1, now(), now(), now())"
    )
    figures = PublishedFigures(
        datetime.now(UTC) + timedelta(seconds=1), *[Decimal(PLENTY)] * 5, consecutive_losses=0, value_at_risk=Decimal(0), values={},
        loss_rates={"BTCUSDT": Decimal("0.01")},
    )  # fmt: skip
    connection.execute(
        "INSERT INTO risk_figures (account_id, computed_at, currency, published, lease, fencing_token)"
        " VALUES ('paper', now(), 'USD', %s, 'risk', 1)",
        (Jsonb(figures.to_data()),),
    )


@contextmanager
def running() -> Iterator[Servers]:
    """The servers, with what services need to sign and be signed for, on a disk and gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="bench-order-path-", dir="/tmp"))
    directory.chmod(0o755)
    credentials = directory / "credentials"
    credentials.mkdir()
    private, public = key_pair()
    for name, text in (("jwt-private-key", private), ("jwt-public-key", public), ("paper-venue-secret", "a secret of this bench")):
        (credentials / name).write_text(text)
    os.environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    servers = Servers(directory)
    try:
        yield servers
    finally:
        servers.stop()
        shutil.rmtree(directory)


@contextmanager
def paper_venue(settings: Settings, config: Path) -> Iterator[None]:
    """The paper venue as systemd runs it, until it leads and has caught up with the market."""
    environment = {**os.environ, "TRADING_CONFIG": str(config), "PYTHONPATH": str(ROOT / "platform")}
    log = config.with_suffix(".venue.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "trading_platform.paper_venue"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        endpoint = settings.service("paper-venue")
        deadline = time.monotonic() + WAIT_S
        while not _leads(f"http://{endpoint.host}:{endpoint.port}/health/leading"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the paper venue does not lead:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _leads(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        return False
