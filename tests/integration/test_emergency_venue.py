"""The emergency stop on the real adapter and the real paper venue, with no engine and nobody else running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Market, free_port
from test_paper_venue import SECRET, serving
from trading_platform import accounts
from trading_platform.config import Endpoint, Settings
from trading_platform.db import Database
from trading_platform.emergency.means import PlatformMeans
from trading_platform.emergency.procedure import stop


@pytest.fixture
def settings(settings: Settings, credentials: Path, tmp_path: Path) -> Settings:
    (credentials / "paper-venue-secret").write_text(SECRET)
    used = {**settings.services, "paper-venue": Endpoint(port=free_port())}
    return settings.model_copy(update={"services": used, "data_directory": str(tmp_path)})


async def _open(venue: Any) -> list[str]:
    return [order["clientOrderId"] for order in (await venue.signed("GET", "/api/v3/openOrders")).json()]


async def test_what_rests_at_the_venue_is_cancelled_through_the_venues_own_api(settings: Settings, db: Database, market: Market) -> None:
    """API-15, INC-07: engine and risk are dead."""
    await accounts.ensure(db, settings)
    async with serving(settings) as venue:
        await venue.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="5", ask_size="5")
        await venue.has_seen(bidPrice="60000", askPrice="60001")
        for number in range(3):
            assert (await venue.place(price=str(50_000 + number), quantity="0.01")).status_code == 200
        assert len(await _open(venue)) == 3
        means = PlatformMeans(settings, db, scope="*", reason="a test", actor="host:test:root", flatten=False, authorization=None)
        try:
            report = await stop(means, tuple(means.windows), flatten=False, deadline_s=20)
        finally:
            await means.close()
        assert (report.complete, report.left, report.unseen) == (True, [], []), report.document()
        assert report.accounts["paper"].cancelled == 3
        assert not report.accounts["paper"].dead_man_armed
        assert await db.fetch_tuples("SELECT * FROM paper_venue.timers") == []
        assert await _open(venue) == []


async def test_a_venue_that_is_not_there_is_never_taken_for_empty(settings: Settings, db: Database) -> None:
    await accounts.ensure(db, settings)
    means = PlatformMeans(settings, db, scope="*", reason="a test", actor="host:test:root", flatten=False, authorization=None)
    try:
        report = await stop(means, tuple(means.windows), flatten=False, deadline_s=2)
    finally:
        await means.close()
    assert not report.complete
    assert report.unseen[0].startswith("paper: what is open at the venue")
    assert report.acknowledged
