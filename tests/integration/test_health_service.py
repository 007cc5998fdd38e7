"""The health service against real PostgreSQL and Redis; the services are played by a transport, MongoDB is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from conftest import eventually
from trading_platform.config import Settings
from trading_platform.health import service as watch
from trading_platform.health.app import create

SERVICES = ("gateway", "market-data", "engine", "strategy", "risk", "portfolio", "paper-venue")


class Behind:
    """The services as the health service sees them; tests change how they are."""

    def __init__(self, settings: Settings) -> None:
        self._names = {settings.service(name).port: name for name in SERVICES}
        self.ill: dict[str, httpx.Response | Exception] = {}
        self.age_s = 0.5

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = self._names[request.url.port or 0]
        if isinstance(ill := self.ill.get(name), Exception):
            raise ill
        document: dict[str, Any] = {"status": "healthy", "service": name}
        if name == "market-data":
            document |= {"live_symbols": ["BTCUSDT"], "age_seconds": {"BTCUSDT": self.age_s}}
        return ill or httpx.Response(200, json=document)


@pytest.fixture(autouse=True)
def a_look_gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """MongoDB's driver waits for a server as long as a look lets it: here none comes."""
    monkeypatch.setattr(watch, "LOOK_WITHIN_S", 0.5)


@asynccontextmanager
async def watching(settings: Settings, behind: Behind) -> AsyncIterator[httpx.AsyncClient]:
    quick = settings.model_copy(update={"health": settings.health.model_copy(update={"interval_s": 0.1})})
    service = create(quick, httpx.MockTransport(behind))
    async with (
        service.running(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=service.app), base_url="http://health") as client,
    ):
        yield client


async def status_of(client: httpx.AsyncClient, part: str) -> str:
    return str({found["name"]: found["status"] for found in (await client.get("/services")).json()}[part])


async def becomes(client: httpx.AsyncClient, part: str, status: str) -> None:
    async def so() -> bool:
        return await status_of(client, part) == status

    await eventually(so, within_s=30, what=f"{part} {status}")


async def test_everything_well_but_mongodb_is_degraded_and_says_why(settings: Settings) -> None:
    async with watching(settings, Behind(settings)) as client:
        await becomes(client, "mongodb", "down")
        answer = await client.get("/health")
        assert answer.status_code == 200
        document = answer.json()
        assert document["status"] == "degraded"
        assert document["dependencies"]["parts"]["detail"].startswith("RuntimeError: mongodb down")
        assert {name for name, part in document["parts"].items() if part["status"] == "up"} == {
            *(f"trading-{name}" for name in SERVICES), "postgresql", "redis", "market data",
        }  # fmt: skip


async def test_a_service_that_refuses_is_down_after_three_looks_and_up_again_after_one(settings: Settings) -> None:
    behind = Behind(settings)
    async with watching(settings, behind) as client:
        await becomes(client, "trading-engine", "up")
        behind.ill["engine"] = httpx.ConnectError("refused")
        await becomes(client, "trading-engine", "down")
        answer = await client.get("/health")
        assert answer.status_code == 503
        assert "trading-engine down: refused" in answer.json()["dependencies"]["platform"]["detail"]
        del behind.ill["engine"]
        await becomes(client, "trading-engine", "up")
        assert (await client.get("/health")).status_code == 200


async def test_a_red_service_passes_on_its_reason(settings: Settings) -> None:
    behind = Behind(settings)
    document = {"status": "unhealthy", "dependencies": {"redis": {"status": "unhealthy", "detail": "no route"}}}
    behind.ill["risk"] = httpx.Response(503, json=document)
    async with watching(settings, behind) as client:
        await becomes(client, "trading-risk", "down")
        parts = {part["name"]: part for part in (await client.get("/services")).json()}
        assert parts["trading-risk"]["detail"] == "unhealthy: redis unhealthy (no route)"


async def test_a_degraded_service_is_degraded_not_down(settings: Settings) -> None:
    behind = Behind(settings)
    document = {"status": "degraded", "dependencies": {"mongodb": {"status": "unhealthy", "detail": ""}}}
    behind.ill["strategy"] = httpx.Response(200, json=document)
    async with watching(settings, behind) as client:
        await becomes(client, "trading-strategy", "degraded")


async def test_an_answer_that_is_no_health_document_is_not_well(settings: Settings) -> None:
    behind = Behind(settings)
    behind.ill["portfolio"] = httpx.Response(200, text="<html>welcome</html>")
    async with watching(settings, behind) as client:
        await becomes(client, "trading-portfolio", "down")


async def test_stale_market_data_is_a_part_of_its_own(settings: Settings) -> None:
    behind = Behind(settings)
    behind.age_s = 75.0
    async with watching(settings, behind) as client:
        await becomes(client, "market data", "down")
        parts = {part["name"]: part for part in (await client.get("/services")).json()}
        assert parts["market data"]["detail"] == "BTCUSDT is 75 s old (allowed: 60 s)"
        assert parts["trading-market-data"]["status"] == "up"


async def test_what_was_seen_is_in_the_metrics(settings: Settings) -> None:
    behind = Behind(settings)
    behind.ill["engine"] = httpx.ConnectError("refused")
    async with watching(settings, behind) as client:
        await becomes(client, "trading-engine", "down")
        metrics = (await client.get("/metrics")).text
        assert 'smc_trading_part_up{part="trading-engine"} 0.0' in metrics
        assert 'smc_trading_part_up{part="trading-risk"} 1.0' in metrics
