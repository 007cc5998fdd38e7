"""The paper venue as a process that is killed while it is working: whatever it answered is there, and nothing half done."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from conftest import Market, eventually, free_port
from test_paper_venue import SECRET, Venue
from trading_platform.config import Endpoint, Settings

PLATFORM = Path(__file__).resolve().parents[2] / "platform"
FEE = Decimal("1.0005")


@pytest.fixture
def venue_settings(settings: Settings, credentials: Path) -> Settings:
    (credentials / "paper-venue-secret").write_text(SECRET)
    services = {**settings.services, "paper-venue": Endpoint(port=free_port())}
    rules = settings.paper_venue.model_copy(update={"orders_per_10_s": 100_000})
    changed = settings.model_copy(update={"services": services, "paper_venue": rules})
    (credentials / "platform.yaml").write_text(yaml.safe_dump(changed.model_dump(mode="json")))
    return changed


@asynccontextmanager
async def process(settings: Settings, credentials: Path) -> AsyncIterator[tuple[Venue, asyncio.subprocess.Process]]:
    environment = {
        **os.environ,
        "TRADING_CONFIG": str(credentials / "platform.yaml"),
        "CREDENTIALS_DIRECTORY": str(credentials),
        "PYTHONPATH": str(PLATFORM),
    }
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trading_platform.paper_venue", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    venue = Venue(settings, None, None)  # type: ignore[arg-type]

    async def leading() -> bool:
        assert running.returncode is None, "the venue ended"
        with contextlib.suppress(httpx.TransportError):
            return (await venue.http.get("/health/leading")).status_code == 200
        return False

    try:
        await eventually(leading, within_s=40, what="the venue's lead")
        yield venue, running
    finally:
        await venue.http.aclose()
        if running.returncode is None:
            running.kill()
        await running.wait()


async def test_a_killed_venue_has_every_order_it_answered_and_balances_that_fit(
    venue_settings: Settings, credentials: Path, market: Market, superuser: psycopg.Connection[Any]
) -> None:
    answered: dict[str, dict[str, Any]] = {}

    async def trade(venue: Venue, worker: int) -> None:
        for number in range(1_000):
            name = f"w{worker}-{number}"
            taking = {"price": "60001"} if number % 2 else {"price": "100"}
            try:
                answer = await venue.place(quantity="0.001", newClientOrderId=name, timeInForce="IOC", **taking)
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                answered[name] = answer.json()

    async with process(venue_settings, credentials) as (venue, running):
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1000", ask_size="1000")
        await venue.has_seen(bidPrice="60000")
        workers = [asyncio.create_task(trade(venue, worker)) for worker in range(8)]

        async def busy() -> bool:
            return len(answered) > 100

        await eventually(busy, within_s=30, what="a hundred answers")
        running.send_signal(signal.SIGKILL)
        await running.wait()
        await asyncio.gather(*workers)

    async with process(venue_settings, credentials) as (venue, _):
        rows = dict(superuser.execute("SELECT client_order_id, status FROM paper_venue.orders").fetchall())
        assert {name: rows.get(name) for name in answered} == {name: document["status"] for name, document in answered.items()}
        bought = superuser.execute("SELECT coalesce(sum(quantity), 0) FROM paper_venue.trades").fetchone()
        filled = superuser.execute("SELECT coalesce(sum(executed), 0) FROM paper_venue.orders").fetchone()
        assert bought is not None
        assert bought == filled
        assert await venue.balance("BTC") == (bought[0], 0)
        assert await venue.balance("USDT") == (50_000 - bought[0] * 60_001 * FEE, 0)
        numbers = [row[0] for row in superuser.execute("SELECT trade_id FROM paper_venue.trades ORDER BY trade_id").fetchall()]
        assert numbers == list(range(1, len(numbers) + 1))
