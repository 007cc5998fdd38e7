"""Wiring and routes of the health service."""

from __future__ import annotations

from typing import Any, Final

import httpx
from fastapi.responses import JSONResponse

from trading_platform.config import Settings
from trading_platform.documents import Documents
from trading_platform.health.service import Check, Watch, freshness_check, service_check
from trading_platform.health.state import Part, Status, verdict
from trading_platform.service import Service

# Explains decisions, decides none: trading goes on without it.
NOT_CRITICAL: Final = frozenset({"mongodb"})


def create(settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> Service:
    """The health service. `transport` replaces the network towards the services in tests.

    Its own /health is the platform's as seen from this host: 503 when a critical part is down. /health/live is its own.
    """
    service = Service("health", settings)
    client = httpx.AsyncClient(timeout=httpx.Timeout(5.0, connect=1.0), transport=transport, trust_env=False)
    service.on_stop(client.aclose)
    documents = Documents(settings)
    service.on_stop(documents.close)
    watch = Watch(settings.health)
    for name in settings.services:
        if name != service.name:
            watch.part(f"trading-{name}", service_check(client, settings.url(name)))
    watch.part("postgresql", _pinged(service.db.ping))
    watch.part("redis", _pinged(service.bus.ping))
    watch.part("mongodb", _pinged(documents.ping), critical="mongodb" not in NOT_CRITICAL)
    watch.part("market data", freshness_check(client, settings.url("market-data"), settings.market_data.stale_after_s))
    service.loop("watch", watch.run)
    service.dependency("platform", lambda: _assert_none(watch, verdict(watch.parts) == "unhealthy", ("down", "unknown")))
    service.dependency(
        "parts", lambda: _assert_none(watch, verdict(watch.parts) != "healthy", ("degraded", "suspect", "down")), critical=False
    )
    service.health_member(lambda: {"parts": {part.name: _document(part) for part in watch.parts}})

    @service.app.get("/services", tags=["health"])
    async def services() -> JSONResponse:
        """Every part: how it is, since when, and why."""
        return JSONResponse([_document(part) for part in watch.parts])

    return service


async def _assert_none(watch: Watch, wrong: bool, statuses: tuple[Status, ...]) -> None:
    """Raises naming the parts that are so, when that is wrong."""
    if wrong:
        named = [
            f"{part.name} {part.status}" + (f": {part.detail}" if part.detail else "") for part in watch.parts if part.status in statuses
        ]
        raise RuntimeError("; ".join(named) or "not looked yet")


def _pinged(ping: Any) -> Check:
    async def check() -> str | None:
        await ping()
        return None

    return check


def _document(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "status": part.status,
        "critical": part.critical,
        "since": round(part.since, 3),
        "failed_in_a_row": part.failed_in_a_row,
        "detail": part.detail,
        "latency_ms": part.latency_ms,
        "looked_at": round(part.looked_at, 3),
    }
