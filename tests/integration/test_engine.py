"""The engine against a venue in the test's hands: what it writes, sends, refuses and finds out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Market, Platform
from psycopg.types.json import Jsonb
from scripted_venue import Exchange
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.domain.figures import PublishedFigures


@pytest.fixture
def exchange() -> Exchange:
    return Exchange("40001")


@pytest.fixture
async def engine(
    settings: Settings, exchange: Exchange, credentials: Path, market: Market, superuser: psycopg.Connection[Any]
) -> AsyncIterator[Platform]:
    """The engine leading, with limits and prices; nothing else runs."""
    await market.quote("BTCUSDT", "40000.00", "40001.00")
    give_limits(superuser)
    platform = Platform(patient(settings), exchange)
    await platform.start("engine")
    await platform.leads()
    yield platform
    await platform.stop_all()


def patient(settings: Settings) -> Settings:
    """Figures that need not be renewed: nobody does in these tests."""
    return settings.model_copy(update={"risk": settings.risk.model_copy(update={"figures_max_age_s": 3600.0})})


def give_limits(superuser: psycopg.Connection[Any]) -> None:
    """Limits and figures, as the risk service has them."""
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD') ON CONFLICT DO NOTHING")
    superuser.execute(
        "INSERT INTO risk_limits (account_id, max_order_notional, max_position_notional, max_total_exposure, max_orders_per_minute,"
        " price_collar, max_daily_loss, max_data_age_s, changed_by, reason)"
        " VALUES ('paper', 100000, 1000000, 1000000, 100000000, 0.5, 100000, 3600, 'test', 'test')"
    )
    superuser.execute(
        "INSERT INTO leases (name, holder, token, acquired_at, renewed_at, expires_at) VALUES ('risk', 'test', 1, now(), now(), now())"
    )
    figures = PublishedFigures(
        datetime.now(UTC), Decimal(100_000), *[Decimal(100_000)] * 4, consecutive_losses=0, value_at_risk=Decimal(0), values={},
        loss_rates={"BTCUSDT": Decimal("0.01")},
    )  # fmt: skip
    superuser.execute(
        "INSERT INTO risk_figures (account_id, computed_at, currency, published, lease, fencing_token)"
        " VALUES ('paper', now(), 'USD', %s, 'risk', 1)",
        (Jsonb(figures.to_data()),),
    )


def order(request: str = "r1", **more: Any) -> dict[str, Any]:
    body = {"account": "paper", "client_request_id": request, "symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.01"}
    return {**body, **more}


def resting(request: str = "r1", **more: Any) -> dict[str, Any]:
    return order(request, type="limit", limit_price="39000", **more)


async def test_an_order_is_committed_sent_and_filled(engine: Platform, token: Any, db: Database) -> None:
    response = await engine["engine"].post("/orders", json=order(), headers=token("trader"))
    assert (response.status_code, response.json()["status"]) == (201, "FILLED"), response.text
    events = [row[0] for row in await db.fetch_tuples("SELECT type FROM order_events ORDER BY seq")]
    assert events == ["initialized", "submitting", "accepted", "filled"]
