"""The loop that looks at every part, all at once, every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
from prometheus_client import Gauge

from trading_platform.config import HealthSettings
from trading_platform.health.state import Look, Part
from trading_platform.service import LoopContext

log = logging.getLogger(__name__)

LOOK_WITHIN_S: Final = 5.0
STARTING_S: Final = 60.0
STARTING_EVERY_S: Final = 2.0

UP: Final = Gauge("smc_trading_part_up", "1 while a part is up or degraded, 0 while it is down, suspect or unknown", ["part"])
LATENCY: Final = Gauge("smc_trading_part_latency_seconds", "How long the newest look at a part took", ["part"])
LOOKED: Final = Gauge("smc_trading_health_last_look_timestamp_seconds", "When the parts were last looked at")

# Raises when the part is not well; what it returns is said about a part that works with something amiss.
Check = Callable[[], Awaitable[str | None]]


class Watch:
    """All parts as they were last seen."""

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._checks: dict[str, Check] = {}
        self._parts: dict[str, Part] = {}
        self.rounds = 0

    def part(self, name: str, check: Check, *, critical: bool = True) -> None:
        """Watch one more part. A critical one that is down makes the whole unhealthy."""
        self._checks[name] = check
        self._parts[name] = Part(name, critical, since=time.time())
        UP.labels(name).set(0)

    @property
    def parts(self) -> list[Part]:
        return list(self._parts.values())

    async def run(self, context: LoopContext) -> None:
        started = time.monotonic()
        while not context.stopping:
            began = time.monotonic()
            await self.look()
            context.beat()
            pause = self._settings.interval_s if self._settled(began - started) else min(STARTING_EVERY_S, self._settings.interval_s)
            await context.sleep(max(0.1, pause - (time.monotonic() - began)))

    def _settled(self, running_s: float) -> bool:
        """Whether the first minute is over or all is well: what starts together is seen well soon, not a round later."""
        return running_s > STARTING_S or all(part.status == "up" for part in self.parts)

    async def look(self) -> None:
        """One round: every part once, none waiting for another."""
        looks = await asyncio.gather(*(_look(check) for check in self._checks.values()))
        now = time.time()
        for name, look in zip(self._checks, looks, strict=True):
            before = self._parts[name]
            after = self._parts[name] = before.after(look, now, self._settings.failures)
            UP.labels(name).set(1 if after.status in ("up", "degraded") else 0)
            LATENCY.labels(name).set(look.latency_ms / 1000)
            if after.status != before.status:
                level = logging.WARNING if after.status in ("suspect", "down", "degraded") else logging.INFO
                log.log(level, "part changed", extra={"part": name, "was": before.status, "is": after.status, "detail": after.detail})
        LOOKED.set(now)
        self.rounds += 1


async def _look(check: Check) -> Look:
    began = time.monotonic()
    try:
        said = await asyncio.wait_for(check(), LOOK_WITHIN_S)
        look = Look(ok=True, degraded=said is not None, detail=said or "")
    except TimeoutError:
        look = Look(ok=False, detail=f"no answer within {LOOK_WITHIN_S:g} s")
    except Exception as error:
        look = Look(ok=False, detail=(f"{error}" or type(error).__name__).splitlines()[0][:300])
    return Look(look.ok, look.degraded, look.detail, round((time.monotonic() - began) * 1000, 2))


def service_check(client: httpx.AsyncClient, url: str) -> Check:
    """Looks at a service's own /health."""

    async def check() -> str | None:
        response = await client.get(f"{url}/health")
        document = response.json()
        causes = _causes(document)
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"{document.get('status', 'HTTP ' + str(response.status_code))}: {causes}")
        return None if document.get("status") == "healthy" else f"{document.get('status')}: {causes}"

    return check


def _causes(document: dict[str, object]) -> str:
    """Which dependencies and loops are not well, and why."""
    causes = []
    for kind in ("dependencies", "loops"):
        parts = document.get(kind)
        for name, part in parts.items() if isinstance(parts, dict) else ():
            if part.get("status") not in ("healthy", "running", "standby", "starting"):
                causes.append(f"{name} {part.get('status')}" + (f" ({part['detail']})" if part.get("detail") else ""))
    return "; ".join(causes) or "no cause given"


def freshness_check(client: httpx.AsyncClient, url: str, stale_after_s: float) -> Check:
    """Looks at how old market data is, by what the market data service says of it."""

    async def check() -> str | None:
        document = (await client.get(f"{url}/health")).json()
        ages = document.get("age_seconds", {})
        if not ages and document.get("live_symbols"):
            raise RuntimeError(f"no data of {', '.join(document['live_symbols'])} yet")
        stale = [f"{symbol} is {age:.0f} s old" for symbol, age in ages.items() if age > stale_after_s]
        if stale:
            raise RuntimeError(f"{', '.join(stale)} (allowed: {stale_after_s:g} s)")
        return None

    return check
