"""Halts against the real engine on a scripted venue: after one is acknowledged no order reaches the venue, whatever is away."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from conftest import Market, Platform, RedisServer, eventually
from prometheus_client import REGISTRY
from scripted_venue import Exchange
from test_engine import give_limits, order, patient, resting
from trading_platform import leadership
from trading_platform.auth import Authenticator
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.risk import trading
from trading_platform.service import Service


@dataclass
class Scene:
    """An engine that trades, and the risk service's side of halting."""

    platform: Platform
    exchange: Exchange
    risk: httpx.AsyncClient
    headers: dict[str, str]
    latch: Path

    async def place(self, request: str, **more: Any) -> httpx.Response:
        return await self.platform["engine"].post("/orders", json=resting(request, **more), headers=self.headers)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.risk.post(path, json=body or None, headers=self.headers)

    @property
    def open(self) -> set[str]:
        return self.exchange.account("paper").open

    @asynccontextmanager
    async def load(self) -> AsyncIterator[list[httpx.Response]]:
        """Orders from several sides without a pause; the answers as they come."""
        answers: list[httpx.Response] = []
        numbers = itertools.count()

        async def one() -> None:
            while True:
                answers.append(await self.place(f"load-{next(numbers)}", quantity="0.001"))
                await asyncio.sleep(0.001)

        tasks = [asyncio.create_task(one()) for _ in range(8)]
        try:
            await eventually(_async(lambda: len(self.exchange.submits) > 20), what="load")
            yield answers
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


def _async(value: Any) -> Any:
    async def ask() -> Any:
        return value()

    return ask


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    venue = settings.venues["paper"].model_copy(update={"recv_window_s": 0.5})
    engine = settings.engine.model_copy(update={"halt_latch": str(tmp_path / "halt")})
    return patient(settings).model_copy(update={"venues": {"paper": venue}, "engine": engine, "data_directory": str(tmp_path)})


@pytest.fixture
async def scene(
    settings: Settings, credentials: Path, market: Market, superuser: psycopg.Connection[Any], token: Any, tmp_path: Path
) -> AsyncIterator[Scene]:
    await market.quote("BTCUSDT", "40000.00", "40001.00")
    give_limits(superuser)
    exchange = Exchange("40001")
    platform = Platform(settings, exchange)
    await platform.start("engine")
    await platform.leads()
    service = Service("risk", settings, uses_bus=False)
    engine = httpx.ASGITransport(platform.service("engine").app)
    trading.mount(
        service,
        settings,
        Authenticator(),
        venue_factory=lambda _, account, catalogue: exchange.venues(account, catalogue),
        transport=engine,
    )
    risk = httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://test", timeout=60)
    async with service.running():
        yield Scene(platform, exchange, risk, token("trader"), tmp_path / "halt")
        await risk.aclose()
    await platform.stop_all()


async def _nothing_more_reaches(scene: Scene, db: Database) -> None:
    """Orders keep coming and none is sent, none committed for sending."""
    submits = len(scene.exchange.submits)
    intents = await db.fetch_value("SELECT count(*) FROM order_events WHERE type = 'submitting'")
    await asyncio.sleep(0.5)
    assert len(scene.exchange.submits) == submits
    assert await db.fetch_value("SELECT count(*) FROM order_events WHERE type = 'submitting'") == intents


@pytest.mark.parametrize("path", ["/trading/pause", "/trading/emergency-stop"])
async def test_under_load_no_order_reaches_the_venue_after_the_halt_is_acknowledged(scene: Scene, db: Database, path: str) -> None:
    """API-14, API-15."""
    async with scene.load() as answers:
        done = await scene.post(path, reason="a test under load")
        assert done.status_code == 200, done.text
        before = len(answers)
        await _nothing_more_reaches(scene, db)
        later = answers[before + 8 :]
    assert later, "the load went on"
    assert {answer.status_code for answer in later} == {409}
    if path == "/trading/emergency-stop":
        assert scene.open == set()


async def test_an_emergency_stop_leaves_the_books_with_nothing_open_either(scene: Scene, db: Database) -> None:
    for number in range(3):
        assert (await scene.place(f"r{number}")).status_code == 201
    trailing = order("t1", side="sell", type="trailing_stop", terms={"callback_amount": "100"})
    held = await scene.platform["engine"].post("/orders", json=trailing, headers=scene.headers)
    assert (held.status_code, held.json()["status"]) == (201, "SUSPENDED"), held.text
    done = await scene.post("/trading/emergency-stop", reason="a test")
    assert (done.status_code, done.json()["accounts"]["paper"]["open_orders"]) == (200, []), done.text

    async def closed() -> bool:
        return not await db.fetch_value("SELECT count(*) FROM orders WHERE status NOT IN ('FILLED', 'CANCELED', 'REJECTED', 'EXPIRED')")

    await eventually(closed, what="the end of every order in the books")


async def test_a_request_without_an_answer_counts_until_it_can_no_longer_arrive(scene: Scene) -> None:
    scene.exchange.script.append("silence")
    assert (await scene.place("r1")).json()["status"] == "UNKNOWN"
    done = await scene.post("/trading/state", state="paused", reason="a test", wait_s=0.2)
    assert (done.status_code, done.json()["code"]) == (504, "HALT_NOT_ACKNOWLEDGED")
    assert "on their way" in done.json()["detail"]
    assert (await scene.post("/trading/state", state="paused", reason="a test")).status_code == 200


async def test_an_emergency_stop_closes_what_is_held_when_asked_to(scene: Scene, db: Database) -> None:
    bought = await scene.platform["engine"].post("/orders", json=order("b1", quantity="0.02"), headers=scene.headers)
    assert bought.json()["status"] == "FILLED"
    await scene.place("r1")
    done = await scene.post("/trading/emergency-stop", reason="a test", flatten=True)
    assert (done.status_code, done.json()["accounts"]["paper"]["positions"]) == (200, []), done.text
    sold = await db.fetch_value("SELECT sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) FROM fills")
    assert (sold, scene.open) == (0, set())


async def test_with_redis_away_an_emergency_stop_is_complete_all_the_same(scene: Scene, redis_server: RedisServer) -> None:
    await scene.place("r1")
    redis_server.stop()
    try:
        done = await scene.post("/trading/emergency-stop", reason="a test")
        assert (done.status_code, scene.open) == (200, set()), done.text
    finally:
        redis_server.start()


async def test_with_the_engine_dead_an_emergency_stop_cancels_at_the_venue(scene: Scene) -> None:
    await scene.place("r1")
    await scene.platform.stop("engine")
    done = await scene.post("/trading/emergency-stop", reason="a test")
    assert (done.status_code, scene.open) == (200, set()), done.text


async def test_with_an_engine_that_is_frozen_it_is_complete_once_its_lease_has_run_out(scene: Scene, db: Database) -> None:
    await scene.place("r1")
    await scene.platform.stop("engine")
    assert await leadership.acquire(db, "engine:paper", ttl_s=2, holder="frozen:1:x") is not None
    done = await scene.post("/trading/emergency-stop", reason="a test")
    assert (done.status_code, scene.open) == (200, set()), done.text
    assert done.json()["seconds"] > 2


async def test_behind_the_latch_the_engine_neither_leads_nor_sends(scene: Scene) -> None:
    scene.latch.write_text("a test\n")

    async def leads() -> bool:
        return bool((await scene.platform["engine"].get("/health")).json()["leads"])

    async def stands_down() -> bool:
        return not await leads()

    await eventually(stands_down, what="standing down")
    assert (await scene.place("r1")).status_code == 503
    assert scene.exchange.submits == []
    scene.latch.unlink()
    await eventually(leads, what="leading again", within_s=20)


async def test_in_safe_mode_signals_are_ignored(scene: Scene, market: Market) -> None:
    """API-18."""

    def ignored() -> float:
        return REGISTRY.get_sample_value("smc_trading_signals_total", {"outcome": "safe_mode"}) or 0.0

    before = ignored()
    assert (await scene.post("/trading/safe-mode", reason="strange prices")).status_code == 200
    await market.signal("s1", "sell", "0.001")
    await eventually(_async(lambda: ignored() > before), what="the signal to be seen")
    assert scene.exchange.submits == []
