"""The engine on the paper venue, through the adapter and HTTP: the same code that trades for money."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from conftest import Market, Platform, eventually, free_port
from test_engine import give_limits, order, patient, resting
from test_paper_venue import Venue, serving
from trading_platform.config import Endpoint, Settings
from trading_platform.db import Database
from trading_platform.engine import app as engine_app


@pytest.fixture
async def paper(settings: Settings, credentials: Path, market: Market) -> AsyncIterator[Venue]:
    """A venue that can be told to misbehave, with a market of 40,000.00 bid and 40,001.00 asked."""
    changed = settings.model_copy(
        update={
            "services": {**settings.services, "paper-venue": Endpoint(port=free_port())},
            "paper_venue": settings.paper_venue.model_copy(update={"faults": True}),
            "venues": {"paper": settings.venues["paper"].model_copy(update={"timeout_s": 1.0, "recv_window_s": 0.5})},
        }
    )
    async with serving(patient(changed)) as running:
        await running.leads()
        await market.quote("BTCUSDT", "40000.00", "40001.00", bid_size="5", ask_size="5")
        await running.has_seen(bidPrice="40000", askPrice="40001")
        yield running


@pytest.fixture
async def trading(paper: Venue, superuser: psycopg.Connection[Any]) -> AsyncIterator[Platform]:
    """Engine and portfolio at work on it."""
    give_limits(superuser)
    platform = Platform(paper.settings)
    service = engine_app.create(paper.settings)
    context = service.running()
    await context.__aenter__()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://test")
    platform._running["engine"] = (service, context, client)
    await platform.start("portfolio")
    await platform.leads()
    yield platform
    await platform.stop_all()


async def status_of(platform: Platform, order_id: str) -> str:
    return str((await platform["engine"].get(f"/orders/{order_id}")).json()["status"])


async def compared(db: Database) -> None:
    """Two looks at the books, fills included, without a difference."""
    seen = await db.fetch_value("SELECT coalesce(max(id), 0) FROM reconciliations")

    async def identical() -> bool:
        rows = await db.fetch_tuples("SELECT identical, detail FROM reconciliations WHERE id > %s ORDER BY id", (seen,))
        return len(rows) >= 3 and all(row[0] for row in rows[-2:])

    await eventually(identical, what="books that agree")
    assert await db.fetch_value("SELECT count(*) FROM audit_events WHERE type = 'reconciliation_mismatch'") == 0


async def test_orders_fill_rest_and_are_canceled_and_the_books_agree(trading: Platform, token: Any, db: Database, market: Market) -> None:
    filled = await trading["engine"].post("/orders", json=order(), headers=token("trader"))
    assert (filled.status_code, filled.json()["status"]) == (201, "FILLED"), filled.text
    first = await trading["engine"].post("/orders", json=resting("r2"), headers=token("trader"))
    second = await trading["engine"].post("/orders", json=resting("r3"), headers=token("trader"))
    assert (first.json()["status"], second.json()["status"]) == ("NEW", "NEW")
    order_id = second.json()["client_order_id"]
    canceled = await trading["engine"].post(f"/orders/{order_id}/cancel", headers=token("trader"))
    assert (canceled.status_code, canceled.json()["status"]) == (200, "CANCELED"), canceled.text
    await market.quote("BTCUSDT", "38998.00", "38999.00", bid_size="5", ask_size="5")

    async def bought() -> bool:
        return await status_of(trading, first.json()["client_order_id"]) == "FILLED"

    await eventually(bought, what="the resting order's fill")
    await compared(db)


@pytest.mark.parametrize("kind", ["no_answer", "error_before", "error_after"])
async def test_whatever_the_venue_does_to_a_submit_the_order_is_settled_once(
    trading: Platform, paper: Venue, token: Any, db: Database, kind: str
) -> None:
    rule = {"kind": kind, "path": "/api/v3/order", "count": 1}
    told = await paper.http.post("/faults", json={"rules": [rule]})
    assert told.is_success, told.text
    response = await trading["engine"].post("/orders", json=order(), headers=token("trader"))
    order_id = response.json()["client_order_id"]

    async def settled() -> bool:
        return await status_of(trading, order_id) in ("FILLED", "REJECTED")

    await eventually(settled, what="a settled order")
    theirs = await db.fetch_value("SELECT count(*) FROM paper_venue.trades")
    assert await db.fetch_value("SELECT count(*) FROM fills") == theirs
    assert await status_of(trading, order_id) == ("FILLED" if theirs else "REJECTED")
    await compared(db)
