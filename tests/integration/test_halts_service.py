"""The risk service's side of halting and starting: what each path does, what it refuses, and what it says is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import eventually, free_port
from trading_platform import accounts, leadership
from trading_platform.auth import Authenticator
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.instruments import load
from trading_platform.risk import trading
from trading_platform.service import Service


@dataclass(frozen=True)
class Order:
    symbol: str
    client_order_id: str


@dataclass
class Venue:
    """An account's venue in the test's hands."""

    orders: list[Order] = field(default_factory=list)
    has_dead_man: bool = False
    silent: bool = False

    async def open(self) -> None:
        if self.silent:
            raise ConnectionError("the venue does not answer")

    async def close(self) -> None:
        pass

    async def open_orders(self) -> Sequence[Order]:
        return list(self.orders)

    async def cancel_all(self, symbols: Sequence[str]) -> None:
        self.orders = [order for order in self.orders if order.symbol not in symbols]

    async def arm_dead_man(self, symbols: Sequence[str], timeout_s: float) -> None:
        pass


@dataclass
class Others(httpx.AsyncBaseTransport):
    """The services beside risk: health says what it is told to, the engine notes what it is asked."""

    health: int = 200
    health_document: dict[str, Any] = field(default_factory=lambda: {"status": "healthy"})
    asked: list[tuple[str, str]] = field(default_factory=list)
    engine: int = 200
    instruments: list[dict[str, Any]] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            if self.health == 0:
                raise httpx.ConnectError("connection refused", request=request)
            return httpx.Response(self.health, json=self.health_document)
        if request.url.path == "/instruments":
            return httpx.Response(200, json=self.instruments)
        self.asked.append((request.url.path, request.headers.get("authorization", "")))
        return httpx.Response(self.engine, json={})


class Engine:
    """Leads an account and acknowledges what it reads, until it is frozen."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.frozen = False
        self.in_flight = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        lease = await leadership.acquire(self._db, "engine:paper", ttl_s=60)
        assert lease is not None
        # As if it had led for long: nothing of a leader before it can still arrive.
        self._task = asyncio.create_task(self._obey(lease))

    async def _obey(self, lease: leadership.Lease) -> None:
        while True:
            if not self.frozen:
                version = await self._db.fetch_value("SELECT max(version) FROM trading_state")
                await self._db.execute(
                    "INSERT INTO trading_state_acks (account_id, version, in_flight, lease, fencing_token)"
                    " VALUES ('paper', %s, %s, %s, %s)"
                    " ON CONFLICT (account_id) DO UPDATE SET version = EXCLUDED.version, in_flight = EXCLUDED.in_flight",
                    (version, self.in_flight, lease.name, lease.token),
                )
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


class Risk:
    """The routes under test, in a service of their own."""

    def __init__(self, settings: Settings) -> None:
        self.venue = Venue()
        self.others = Others()
        self.service = Service("risk", settings)
        trading.mount(self.service, settings, Authenticator(), venue_factory=lambda *_: self.venue, transport=self.others)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.service.app), base_url="http://test")

    async def post(self, path: str, headers: dict[str, str], **body: Any) -> httpx.Response:
        return await self.client.post(path, json=body or None, headers=headers)

    async def state(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get("/trading/state")).json()
        return found


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """A short window in which a signed request may arrive, for short tests; and a directory to write in."""
    venue = settings.venues["paper"].model_copy(update={"recv_window_s": 0.1})
    return settings.model_copy(update={"venues": {"paper": venue}, "data_directory": str(tmp_path)})


@pytest.fixture
async def risk(settings: Settings, credentials: Any, db: Database) -> AsyncIterator[Risk]:
    await accounts.ensure(db, settings)
    made = Risk(settings)
    async with made.service.running():
        yield made
        await made.client.aclose()


@pytest.fixture
async def engine(db: Database, risk: Risk) -> AsyncIterator[Engine]:
    made = Engine(db)
    yield made
    await made.stop()


async def _buy(db: Database, quantity: str, side: str = "buy") -> None:
    """A fill out of the blue: what the account then holds."""
    await db.execute(
        "INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, quantity, price, fee,"
        " fee_currency, liquidity, executed_at, ts_event_ns)"
        " SELECT 'paper', 'paper', 'BTCUSDT:' || (SELECT count(*) FROM fills), 'x', id, %s, %s, 1, 0, 'USDT', 'taker', now(), 0"
        " FROM instruments WHERE symbol = 'BTCUSDT'",
        (side, quantity),
    )


# --- pause and friends ----------------------------------------------------------------------------------------------------


async def test_a_pause_is_answered_once_the_engine_has_acknowledged_it(risk: Risk, engine: Engine, token: Any) -> None:
    """API-14."""
    await engine.start()
    done = await risk.post("/trading/pause", token("trader"), reason="a look at the logs")
    assert (done.status_code, done.json()["state"], done.json()["acknowledged"]) == (200, "paused", True)
    state = await risk.state()
    assert (state["state"], state["mode"]) == ("paused", "paused")
    [paper] = state["accounts"]
    assert (paper["state"], paper["acknowledged"], paper["by"], paper["reason"]) == (
        "paused", True, "user:somebody", "a look at the logs"
    )  # fmt: skip


async def test_a_halt_nobody_acknowledges_is_not_called_done_but_stays(
    risk: Risk, engine: Engine, token: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trading, "ACKNOWLEDGED_WITHIN_S", 0.3)
    engine.frozen = True
    await engine.start()
    done = await risk.post("/trading/pause", token("trader"))
    assert (done.status_code, done.json()["code"]) == (504, "HALT_NOT_ACKNOWLEDGED")
    assert done.json()["waiting"][0]["account"] == "paper"
    assert done.json()["waiting"][0]["host"] == leadership.HOLDER.split(":")[0]
    state = await risk.state()
    assert (state["state"], state["accounts"][0]["acknowledged"]) == ("paused", False)


async def test_requests_still_on_their_way_keep_a_halt_from_being_acknowledged(risk: Risk, engine: Engine, token: Any) -> None:
    engine.in_flight = 1
    await engine.start()
    done = await risk.post("/trading/state", token("trader"), state="paused", reason="a test", wait_s=0.3)
    assert (done.status_code, done.json()["waiting"][0]["why"]) == (504, "1 request(s) of its engine are on their way")
    engine.in_flight = 0
    again = await risk.post("/trading/state", token("trader"), state="paused", reason="a test")
    assert (again.status_code, again.json()["changed"]) == (200, False)


@pytest.mark.parametrize("path", ["/trading/pause", "/trading/start", "/trading/shutdown", "/trading/safe-mode", "/orders/cancel-all"])
@pytest.mark.parametrize("role", ["analyst", "readonly"])
async def test_who_may_not_is_refused_and_nothing_changes(risk: Risk, token: Any, path: str, role: str) -> None:
    before = await risk.state()
    assert (await risk.post(path, token(role))).status_code == 403
    assert (await risk.client.post(path)).status_code == 401
    assert await risk.state() == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"state": "asleep", "reason": "a test"}, "INVALID_REQUEST"),
        ({"state": "paused", "reason": ""}, "INVALID_REQUEST"),
        ({"state": "paused", "reason": "a test", "force": True}, "INVALID_REQUEST"),
        ({"state": "paused", "reason": "a test", "account": "nobody"}, "UNKNOWN_ACCOUNT"),
    ],
)
async def test_what_is_not_understood_is_refused_and_nothing_changes(risk: Risk, token: Any, body: dict[str, Any], code: str) -> None:
    done = await risk.post("/trading/state", token("trader"), **body)
    assert done.json()["code"] == code
    assert (await risk.state())["state"] == "running"


async def test_safe_mode_reduces_only_and_shows_as_the_mode_in_health(risk: Risk, token: Any) -> None:
    """API-18."""
    assert (await risk.post("/trading/safe-mode", token("trader"), reason="strange prices")).json()["state"] == "reducing"
    state = await risk.state()
    assert (state["mode"], state["accounts"][0]["safe_mode"]) == ("safe_mode", True)

    async def shown() -> bool:
        return bool((await risk.client.get("/health")).json()["mode"] == "safe_mode")

    await eventually(shown, what="the mode in /health")


# --- shutdown -------------------------------------------------------------------------------------------------------------


async def test_a_shutdown_drains_and_is_stopped_once_nothing_is_held(risk: Risk, db: Database, token: Any) -> None:
    """API-12, INC-12: the body may be left out."""
    await _buy(db, "0.5")
    done = await risk.client.post("/trading/shutdown", headers=token("trader"))
    assert (done.status_code, done.json()["state"]) == (200, "draining")
    await asyncio.sleep(2 * trading.WATCH_EVERY_S)
    assert (await risk.state())["state"] == "draining"
    assert (await risk.state())["accounts"][0]["positions"] == ["BTCUSDT 0.5"]
    await _buy(db, "0.5", "sell")

    async def stopped() -> bool:
        return bool((await risk.state())["state"] == "stopped")

    await eventually(stopped, what="the end of draining")


async def test_a_shutdown_that_keeps_positions_is_stopped_with_them(risk: Risk, db: Database, token: Any) -> None:
    await _buy(db, "0.5")
    await risk.post("/trading/shutdown", token("trader"), keep_positions=True, reason="end of day")

    async def stopped() -> bool:
        return bool((await risk.state())["state"] == "stopped")

    await eventually(stopped, what="the end of draining")


async def test_a_shutdown_of_what_is_stopped_does_not_loosen_it(risk: Risk, token: Any) -> None:
    await risk.post("/trading/state", token("trader"), state="stopped", reason="a test")
    assert (await risk.post("/trading/shutdown", token("trader"))).json()["state"] == "stopped"


# --- start ----------------------------------------------------------------------------------------------------------------


async def test_a_start_goes_back_to_running_and_names_what_stays_stricter(risk: Risk, token: Any) -> None:
    """API-13."""
    await risk.post("/trading/pause", token("trader"))
    await risk.post("/trading/pause", token("trader"), account="paper")
    done = await risk.post("/trading/start", token("trader"), reason="all good")
    assert (done.status_code, done.json()["state"], done.json()["stricter"]) == (200, "running", {"paper": "paused"})


@pytest.mark.parametrize(
    ("status", "document", "code"),
    [
        (503, {"status": "unhealthy", "dependencies": {"platform": {"status": "unhealthy", "detail": "redis down"}}}, "HEALTH_RED"),
        (0, {}, "HEALTH_UNKNOWN"),
    ],
)
async def test_a_start_is_refused_while_the_platform_is_not_well(
    risk: Risk, token: Any, status: int, document: dict[str, Any], code: str
) -> None:
    await risk.post("/trading/pause", token("trader"))
    risk.others.health, risk.others.health_document = status, document
    done = await risk.post("/trading/start", token("trader"))
    assert (done.status_code, done.json()["code"]) == (409, code)
    if document:
        assert done.json()["reasons"] == ["platform: redis down"]
    assert (await risk.state())["state"] == "paused"


# --- emergencies ----------------------------------------------------------------------------------------------------------


async def test_an_emergency_stop_latches_cancels_at_the_venue_and_tells_what_it_did(
    risk: Risk, engine: Engine, db: Database, token: Any
) -> None:
    """API-15, INC-07."""
    await engine.start()
    risk.venue.orders = [Order("BTCUSDT", "a"), Order("ETHUSDT", "b")]
    done = await risk.post("/trading/emergency-stop", token("trader"), reason="a runaway strategy")
    assert (done.status_code, done.json()["complete"], done.json()["left"]) == (200, True, [])
    assert done.json()["accounts"]["paper"]["cancelled"] == 2
    assert risk.venue.orders == []
    assert [path for path, authorization in risk.others.asked if authorization.startswith("Bearer ")] == ["/orders/cancel-all"]
    assert (await risk.state())["state"] == "emergency_stopped"
    types = await db.fetch_tuples(
        "SELECT type, actor FROM audit_events WHERE type IN ('trading_state_change', 'emergency_stop') ORDER BY id"
    )
    assert types == [("trading_state_change", "user:somebody"), ("emergency_stop", "user:somebody")]


async def test_an_emergency_survives_a_restart_and_only_an_admin_releases_it(risk: Risk, settings: Settings, token: Any) -> None:
    """API-15."""
    await risk.post("/trading/emergency-stop", token("trader"), reason="a test")
    again = Risk(settings)
    async with again.service.running():
        assert (await again.state())["state"] == "emergency_stopped"
        refused = await again.post("/trading/start", token("admin"))
        assert (refused.status_code, refused.json()["code"]) == (409, "EMERGENCY_STOPPED")
        assert (await again.post("/trading/state", token("trader"), state="stopped", reason="let me")).status_code == 403
        released = await again.post("/trading/state", token("admin"), state="stopped", reason="the cause is gone")
        assert (released.status_code, released.json()["state"]) == (200, "stopped")
        assert (await again.post("/trading/start", token("trader"))).json()["state"] == "running"
        await again.client.aclose()


async def test_an_emergency_stop_whose_venue_does_not_answer_is_not_called_complete(risk: Risk, token: Any) -> None:
    risk.venue.silent = True
    done = await risk.post("/trading/emergency-stop", token("trader"), reason="a test", deadline_s=5)
    assert (done.status_code, done.json()["code"]) == (504, "EMERGENCY_STOP_INCOMPLETE")
    assert done.json()["unseen"] == ["paper: what is open at the venue (ConnectionError: the venue does not answer)"]
    assert (await risk.state())["state"] == "emergency_stopped"


async def test_with_the_database_away_an_emergency_stop_cancels_at_the_venue_and_is_not_called_complete(
    settings: Settings, credentials: Any, db: Database, token: Any
) -> None:
    """The token is good without a database; the instruments are market data's."""
    instruments = [asdict(one) for one in await load(db)]
    away = settings.model_copy(update={"database": settings.database.model_copy(update={"port": free_port()})})
    risk = Risk(away)
    risk.others.instruments = json.loads(json.dumps(instruments, default=str))
    risk.venue.orders = [Order("BTCUSDT", "a")]
    async with risk.service.running():
        done = await risk.post("/trading/emergency-stop", token("trader"), reason="everything is on fire", deadline_s=5)
        assert (done.status_code, risk.venue.orders) == (504, [])
        assert "the halt is not in the database" in done.json()["unseen"][0]
        await risk.client.aclose()


async def test_cancel_all_leaves_nothing_open_and_trading_goes_on(risk: Risk, token: Any) -> None:
    """API-16."""
    risk.venue.orders = [Order("BTCUSDT", "a")]
    done = await risk.post("/orders/cancel-all", token("trader"))
    assert (done.status_code, done.json()["accounts"]["paper"]["open_orders"]) == (200, [])
    assert (await risk.state())["state"] == "running"


async def test_positions_are_closed_in_an_emergency_only_where_that_is_configured(risk: Risk, token: Any) -> None:
    """API-17."""
    done = await risk.post("/positions/emergency-close", token("trader"))
    assert (done.status_code, done.json()["code"]) == (409, "NOT_CONFIGURED")
    assert (await risk.state())["state"] == "running"


async def test_an_emergency_close_asks_for_it_in_the_row_and_ends_with_nothing_held(
    settings: Settings, credentials: Any, db: Database, token: Any
) -> None:
    """API-17: whichever host's engine leads reads the wish."""
    configured = settings.model_copy(update={"risk": settings.risk.model_copy(update={"emergency_close": True})})
    await accounts.ensure(db, settings)
    await _buy(db, "0.5")
    risk = Risk(configured)

    async def closes() -> None:
        async def wished() -> Any:
            return await db.fetch_value("SELECT flatten FROM trading_state WHERE account_id = '*'")

        await eventually(wished, what="the wish to close")
        await _buy(db, "0.5", "sell")

    async with risk.service.running():
        done, _ = await asyncio.gather(risk.post("/positions/emergency-close", token("trader")), closes())
        assert (done.status_code, done.json()["accounts"]["paper"]["positions"]) == (200, [])
        assert (await risk.state())["state"] == "reducing"
        await risk.client.aclose()
