"""The gateway's paths of halting and starting: who may, what is passed to risk, and what comes back; risk is played by a transport."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from conftest import eventually
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.gateway.app import create
from trading_platform.trading_states import TradingStates, Wishes

CHANGE = {"account": "*", "state": "paused", "version": 7, "changed": True, "acknowledged": True}
REPORT = {"complete": True, "left": [], "unseen": [], "accounts": {"paper": {"cancelled": 2}}}
OVERVIEW = {
    "state": "running", "mode": "running", "rows": [],
    "accounts": [
        {"account": "paper", "state": "running", "version": 1, "acknowledged": True, "waiting_for": [], "open_orders": 0, "positions": []}
    ],
}  # fmt: skip

# Path, what risk is asked, a body, and who may.
ACTIONS: list[tuple[str, str, dict[str, Any] | None, set[str]]] = [
    ("/api/trading/pause", "/trading/pause", None, {"admin", "trader"}),
    ("/api/trading/shutdown", "/trading/shutdown", None, {"admin", "trader"}),
    ("/api/trading/start", "/trading/start", None, {"admin", "trader"}),
    ("/api/admin/safe-mode", "/trading/safe-mode", None, {"admin", "trader"}),
    ("/api/trading/state", "/trading/state", {"state": "stopped", "reason": "a test"}, {"admin", "trader"}),
    ("/api/trading/emergency-stop", "/trading/emergency-stop", {"reason": "a test"}, {"admin", "trader"}),
    ("/api/orders/cancel-all", "/orders/cancel-all", None, {"admin", "trader"}),
    ("/api/positions/emergency-close", "/positions/emergency-close", None, {"admin", "trader"}),
]


@dataclass
class Behind:
    """Risk as it is told to answer."""

    status: int = 200
    document: dict[str, Any] | None = None
    broken: int = 0
    asked: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/health"):
            return httpx.Response(200, json={"status": "ready"})
        self.asked.append(request)
        if self.broken > 0:
            self.broken -= 1
            raise httpx.RemoteProtocolError("the server closed the connection")
        report = request.url.path in ("/trading/emergency-stop", "/orders/cancel-all", "/positions/emergency-close")
        usual = OVERVIEW if request.method == "GET" else REPORT if report else CHANGE
        return httpx.Response(self.status, json=usual if self.document is None else self.document)


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
async def gateway(settings: Settings, credentials: Any, behind: Behind) -> AsyncIterator[httpx.AsyncClient]:
    service = create(settings, httpx.MockTransport(behind))
    transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
    async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize(("path", "passed_to", "body", "who"), ACTIONS)
async def test_each_action_asks_risk_in_the_callers_name_and_only_for_who_may(
    gateway: httpx.AsyncClient, behind: Behind, token: Any, path: str, passed_to: str, body: dict[str, Any] | None, who: set[str]
) -> None:
    """API-12 to API-18."""
    assert (await gateway.post(path, json=body)).status_code == 401
    for role in ("admin", "trader", "analyst", "readonly"):
        behind.asked.clear()
        headers = token(role)
        done = await gateway.post(path, json=body, headers=headers)
        assert done.status_code == (200 if role in who else 403), (role, done.text)
        assert [request.url.path for request in behind.asked] == ([passed_to] if role in who else [])
        if role in who:
            assert behind.asked[0].headers["authorization"] == headers["Authorization"]
            assert json.loads(behind.asked[0].content).items() >= {"account": "*", **(body or {})}.items()


async def test_every_role_may_see_where_trading_stands(gateway: httpx.AsyncClient, token: Any) -> None:
    for role in ("admin", "trader", "analyst", "readonly"):
        assert (await gateway.get("/api/trading/state", headers=token(role))).json() == OVERVIEW


async def test_what_was_not_done_is_passed_on_with_what_is_left(gateway: httpx.AsyncClient, behind: Behind, token: Any) -> None:
    behind.status = 504
    behind.document = {
        "type": "x", "title": "x", "status": 504, "code": "EMERGENCY_STOP_INCOMPLETE", "detail": "left: one", "instance": "/x",
        "request_id": None, "complete": False, "left": ["paper: open at the venue: BTCUSDT a"], "unseen": [],
    }  # fmt: skip
    done = await gateway.post("/api/trading/emergency-stop", json={"reason": "a test"}, headers=token("trader"))
    assert (done.status_code, done.json()["code"]) == (504, "EMERGENCY_STOP_INCOMPLETE")
    assert done.json()["left"] == ["paper: open at the venue: BTCUSDT a"]
    assert done.json()["instance"] == "/api/trading/emergency-stop"


async def test_an_answer_that_is_not_as_agreed_is_no_success(gateway: httpx.AsyncClient, behind: Behind, token: Any) -> None:
    behind.document = {"state": "paused"}
    done = await gateway.post("/api/trading/pause", headers=token("trader"))
    assert (done.status_code, done.json()["code"]) == (502, "UPSTREAM_INVALID")


async def test_a_connection_that_breaks_is_tried_once_more(gateway: httpx.AsyncClient, behind: Behind, token: Any) -> None:
    behind.broken = 1
    assert (await gateway.post("/api/trading/pause", headers=token("trader"))).status_code == 200
    behind.broken = 2
    assert (await gateway.post("/api/trading/pause", headers=token("trader"))).status_code == 502


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/trading/emergency-stop", {}),
        ("/api/trading/emergency-stop", {"reason": "no"}),
        ("/api/trading/emergency-stop", {"reason": "a test", "deadline_s": 1e9}),
        ("/api/trading/pause", {"account": "No Such!"}),
        ("/api/trading/pause", {"reason": "a test", "until": "noon"}),
        ("/api/trading/state", {"state": "asleep", "reason": "a test"}),
    ],
)
async def test_what_is_not_understood_never_reaches_risk(
    gateway: httpx.AsyncClient, behind: Behind, token: Any, path: str, body: dict[str, Any]
) -> None:
    done = await gateway.post(path, json=body, headers=token("trader"))
    assert (done.status_code, behind.asked) == (422, [])


async def test_health_on_this_host_names_the_mode(gateway: httpx.AsyncClient, db: Database) -> None:
    """API-18."""
    await TradingStates(db).tighten("*", "reducing", "safe mode", "risk", Wishes(safe_mode=True))

    async def shown() -> bool:
        return bool((await gateway.get("/health")).json()["mode"] == "safe_mode")

    await eventually(shown, what="the mode in /health")
