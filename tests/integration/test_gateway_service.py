"""The gateway against real PostgreSQL and Redis; the services behind it are played by a transport."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from conftest import RedisServer, eventually, free_port, settings_for
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trading_platform import messages
from trading_platform.auth import Authenticator, Role
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.gateway import websocket
from trading_platform.gateway.app import create
from trading_platform.gateway.users import Users, ensure_admin
from trading_platform.service import Service
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError
from websockets.typing import Subprotocol

PASSWORD = "correct horse battery staple"
Handler = Callable[[httpx.Request], httpx.Response]

MARKET = {
    "symbol": "BTCUSDT",
    "bid": "39432.48",
    "ask": "39432.50",
    "mark": "39432.49",
    "timestamp": 1_700_000_000_000,
    "event_timestamp": 1_700_000_000_000,
    "age_seconds": 0.1,
    "source": "synthetic",
}
SUMMARY = '{"total_exposure": 12345678901234567890.12, "daily_pnl": -1.50, "max_drawdown": 0, "open_positions": [], "risk_score": 3}'
CURRENT = '{"daily_loss": 0, "total_exposure": 5.5}'
DAILY = '{"total_trades": 3, "win_rate": 0.5, "total_pnl": 1.25, "sharpe_ratio": 0}'
POSITION = {
    "account": "paper", "symbol": "BTCUSDT", "side": "long", "quantity": "0.5", "average_price": "39000", "realised_pnl": "0",
    "mark_price": None,
}  # fmt: skip

PATHS = {
    "/api/market-data/BTCUSDT": "market_data.read",
    "/api/candles/BTCUSDT": "market_data.read",
    "/api/instruments": "market_data.read",
    "/api/trades/recent": "portfolio.read",
    "/api/positions": "portfolio.read",
    "/api/performance/daily": "portfolio.read",
    "/api/risk/summary": "risk.read",
    "/api/risk/current": "risk.read",
}
# What changes something: test_gateway_trading.py.
TRADING = (
    "/api/trading/state", "/api/trading/pause", "/api/trading/shutdown", "/api/trading/start", "/api/trading/emergency-stop",
    "/api/admin/safe-mode", "/api/orders/cancel-all", "/api/positions/emergency-close",
)  # fmt: skip


def services_behind(request: httpx.Request) -> httpx.Response:
    """What they answer when all is well."""
    answers: dict[str, Any] = {
        "/health/ready": {"status": "ready"},
        "/market-data/BTCUSDT": MARKET,
        "/candles/BTCUSDT": [],
        "/instruments": [],
        "/positions": [POSITION],
        "/performance/daily": DAILY,
        "/risk/summary": SUMMARY,
        "/risk/current": CURRENT,
    }
    found = answers[request.url.path]
    return httpx.Response(200, content=found if isinstance(found, str) else json.dumps(found))


@pytest.fixture(scope="module")
def keys() -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


@pytest.fixture(autouse=True)
def credentials(keys: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("jwt-private-key", keys[0]), ("jwt-public-key", keys[1])):
        (tmp_path / name).write_text(value)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))


@pytest.fixture
def bearer(credentials: None) -> Callable[..., dict[str, str]]:
    def of(role: Role = "trader", **changes: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {Authenticator().mint('alice', role, **changes)}"}

    return of


@asynccontextmanager
async def gateway(settings: Settings, behind: Handler = services_behind) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    service = create(settings, httpx.MockTransport(behind))
    transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
    async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield service, client


def answering(status: int, content: Any = "") -> Handler:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda _: httpx.Response(status, content=text)


# --- who may what ---------------------------------------------------------------------------------------------------------


async def test_every_path_below_api_needs_a_token_except_the_login(settings: Settings) -> None:
    async with gateway(settings) as (service, client):
        documented = service.app.openapi()["paths"]
        operations = [(path, method) for path, methods in documented.items() if path.startswith("/api/") for method in methods]
        assert {path for path, _ in operations} == {path.replace("BTCUSDT", "{symbol}") for path in PATHS} | {
            "/api/auth/login",
            "/api/auth/password",
            *TRADING,
        }
        for path, method in operations:
            if path == "/api/auth/login":
                continue
            body = {"current": "a", "new": "b"} if path == "/api/auth/password" else None
            answer = await client.request(method, path.replace("{symbol}", "BTCUSDT"), json=body)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), path
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", PATHS)
async def test_every_role_may_read_what_is_documented(settings: Settings, path: str, bearer: Callable[..., dict[str, str]]) -> None:
    async with gateway(settings) as (_, client):
        for role in ("admin", "trader", "analyst", "readonly"):
            answer = await client.get(path, headers=bearer(role))
            assert answer.status_code == 200, (role, path, answer.text)


async def test_an_expired_token_and_one_of_another_key_are_refused(settings: Settings, bearer: Callable[..., dict[str, str]]) -> None:
    other = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    stranger = Authenticator(private_key=other.decode(), public_key=None)
    stranger.key_id = Authenticator().key_id
    async with gateway(settings) as (_, client):
        expired = await client.get("/api/positions", headers=bearer(now=time.time() - 7200))
        forged = await client.get("/api/positions", headers={"Authorization": f"Bearer {stranger.mint('eve', 'admin')}"})
        assert (expired.status_code, forged.status_code) == (401, 401)


# --- logging in -----------------------------------------------------------------------------------------------------------


async def test_a_login_gives_a_token_that_opens_the_other_paths(settings: Settings, db: Database) -> None:
    await Users(db).create("alice", PASSWORD, "analyst", actor="test")
    async with gateway(settings) as (_, client):
        answer = await client.post("/api/auth/login", json={"username": "alice", "password": PASSWORD})
        assert answer.status_code == 200
        document = answer.json()
        assert (document["token_type"], document["expires_in"], document["role"]) == ("Bearer", 3600, "analyst")
        opened = await client.get("/api/positions", headers={"Authorization": f"Bearer {document['access_token']}"})
        assert opened.status_code == 200
        events = await db.fetch_tuples("SELECT type, actor FROM audit_events ORDER BY id")
        assert events == [("user.created", "test"), ("login.succeeded", "alice")]


async def test_an_administrators_token_lives_a_quarter_of_an_hour(settings: Settings, db: Database) -> None:
    await ensure_admin(db, "admin", PASSWORD, reset=False)
    async with gateway(settings) as (_, client):
        answer = await client.post("/api/auth/login", json={"username": "admin", "password": PASSWORD})
        assert answer.json()["expires_in"] == 900


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", PASSWORD), ("disabled", PASSWORD), ("a\u0000b", "x")])
async def test_a_wrong_login_says_the_same_whatever_is_wrong(settings: Settings, db: Database, name: str, password: str) -> None:
    users = Users(db)
    await users.create("alice", PASSWORD, "trader", actor="test")
    await users.create("disabled", PASSWORD, "trader", actor="test")
    await db.execute("UPDATE users SET disabled = true WHERE name = 'disabled'")
    async with gateway(settings) as (_, client):
        answer = await client.post("/api/auth/login", json={"username": name, "password": password})
        if "\0" in name:
            assert answer.status_code == 422
            return
        assert answer.status_code == 401
        assert answer.json()["detail"] == "no such user with this password"


async def test_a_guesser_has_to_wait_and_even_the_right_password_does_not_help_meanwhile(settings: Settings, db: Database) -> None:
    await Users(db).create("alice", PASSWORD, "trader", actor="test")
    async with gateway(settings) as (_, client):
        for _ in range(5):
            answer = await client.post("/api/auth/login", json={"username": "alice", "password": "guess"})
            assert answer.status_code == 401
        answer = await client.post("/api/auth/login", json={"username": "alice", "password": PASSWORD})
        assert (answer.status_code, answer.json()["code"]) == (429, "TOO_MANY_ATTEMPTS")
        assert 0 < int(answer.headers["retry-after"]) <= 300
        elsewhere = await client.post(
            "/api/auth/login", json={"username": "alice", "password": PASSWORD}, headers={"X-Real-IP": "198.51.100.7"}
        )
        assert elsewhere.status_code == 200


async def test_guessing_is_throttled_while_redis_is_away(settings: Settings, postgres: Any, tmp_path: Path, db: Database) -> None:
    away = settings_for(postgres, RedisServer(tmp_path), settings.database.name)
    async with gateway(away) as (_, client):
        statuses = [(await client.post("/api/auth/login", json={"username": "alice", "password": "guess"})).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_passwords_stand_in_no_answer(settings: Settings) -> None:
    async with gateway(settings) as (_, client):
        answer = await client.post("/api/auth/login", json={"username": "alice", "password": "s3cret" * 100})
        assert answer.status_code == 422
        assert "s3cret" not in answer.text


async def test_a_user_changes_the_own_password(settings: Settings, db: Database, bearer: Callable[..., dict[str, str]]) -> None:
    await Users(db).create("alice", PASSWORD, "trader", actor="test")
    async with gateway(settings) as (_, client):
        weak = await client.post("/api/auth/password", json={"current": PASSWORD, "new": "short"}, headers=bearer())
        assert (weak.status_code, weak.json()["code"]) == (422, "WEAK_PASSWORD")
        wrong = await client.post("/api/auth/password", json={"current": "x", "new": PASSWORD + "!"}, headers=bearer())
        assert wrong.status_code == 401
        changed = await client.post("/api/auth/password", json={"current": PASSWORD, "new": PASSWORD + "!"}, headers=bearer())
        assert changed.status_code == 204
        again = await client.post("/api/auth/login", json={"username": "alice", "password": PASSWORD + "!"})
        assert again.status_code == 200


async def test_the_first_administrator_is_made_once_and_then_left_alone(db: Database) -> None:
    assert await ensure_admin(db, "admin", PASSWORD, reset=False) == "created administrator admin"
    before = await db.fetch_value("SELECT password_hash FROM users WHERE name = 'admin'")
    assert before.startswith("$argon2id$")
    assert await ensure_admin(db, "admin", PASSWORD + "other", reset=False) == "administrator admin exists"
    assert await db.fetch_value("SELECT password_hash FROM users WHERE name = 'admin'") == before
    assert await ensure_admin(db, "admin", PASSWORD + "other", reset=True) == "changed the password of administrator admin"


# --- what is answered -----------------------------------------------------------------------------------------------------


async def test_digits_pass_exactly_and_figures_are_numbers(settings: Settings, bearer: Callable[..., dict[str, str]]) -> None:
    async with gateway(settings) as (_, client):
        answer = await client.get("/api/risk/summary", headers=bearer())
        assert '"total_exposure":12345678901234567890.12' in answer.text
        assert isinstance(answer.json()["daily_pnl"], float)


async def test_positions_and_trades_are_bare_arrays(settings: Settings, bearer: Callable[..., dict[str, str]]) -> None:
    async with gateway(settings) as (_, client):
        positions = (await client.get("/api/positions", headers=bearer())).json()
        assert [position["symbol"] for position in positions] == ["BTCUSDT"]
        assert "mark_price" not in positions[0]
        assert (await client.get("/api/trades/recent", headers=bearer())).json() == []


async def test_recent_trades_are_the_committed_fills_newest_last(
    settings: Settings, superuser: Any, bearer: Callable[..., dict[str, str]]
) -> None:
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD') ON CONFLICT DO NOTHING")
    for number in range(1, 4):
        superuser.execute(
            "INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, quantity, price, fee,"
            " fee_currency, liquidity, executed_at, ts_event_ns) VALUES ('paper', 'paper', %s, 'o', 1, 'buy', 0.50, 39432.48, 0.1,"
            " 'USDT', 'taker', to_timestamp(1700000000 + %s), 1640995200000000000)",
            (str(number), number),
        )
    async with gateway(settings) as (_, client):
        trades = (await client.get("/api/trades/recent?limit=2", headers=bearer())).json()
        assert [trade["id"] for trade in trades] == ["paper:2", "paper:3"]
        assert trades[1]["timestamp"] == 1_700_000_003_000
        assert (trades[1]["quantity"], trades[1]["price"]) == ("0.5", "39432.48")


@pytest.mark.parametrize(
    ("behind", "status", "code"),
    [
        (answering(200, '{"daily_loss": null, "total_exposure": 1}'), 502, "UPSTREAM_INVALID"),
        (answering(200, '{"daily_loss": "0", "total_exposure": 1}'), 502, "UPSTREAM_INVALID"),
        (answering(200, '{"daily_loss": NaN, "total_exposure": 1}'), 502, "UPSTREAM_INVALID"),
        (answering(200, '{"total_exposure": 1}'), 502, "UPSTREAM_INVALID"),
        (answering(200, '{"daily_loss": 0, "total_exposure": 1, "extra": {"x": null}}'), 502, "UPSTREAM_INVALID"),
        (answering(200, "[" * 100_000), 502, "UPSTREAM_INVALID"),
        (answering(200, "<html>"), 502, "UPSTREAM_INVALID"),
        (answering(500, {"code": "INTERNAL_ERROR", "detail": "secret internals"}), 502, "UPSTREAM_FAILED"),
        (answering(503, {"code": "FIGURES_UNKNOWN", "detail": "no mark of X"}), 503, "FIGURES_UNKNOWN"),
        (answering(404, {"code": "UNKNOWN_ACCOUNT", "detail": "no account"}), 404, "UNKNOWN_ACCOUNT"),
        (answering(404, "nginx"), 502, "UPSTREAM_FAILED"),
    ],
)
async def test_what_a_service_may_not_say_never_leaves(
    settings: Settings, bearer: Callable[..., dict[str, str]], behind: Handler, status: int, code: str
) -> None:
    async with gateway(settings, behind) as (_, client):
        answer = await client.get("/api/risk/current", headers=bearer())
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret internals" not in answer.text


@pytest.mark.parametrize(
    ("error", "status", "code", "calls"),
    [
        (httpx.ConnectError("refused"), 502, "UPSTREAM_UNREACHABLE", 2),
        (httpx.ReadError("reset"), 502, "UPSTREAM_UNREACHABLE", 2),
        (httpx.ReadTimeout("slow"), 504, "UPSTREAM_TIMEOUT", 1),
    ],
)
async def test_a_service_that_is_not_there_is_tried_twice_and_a_slow_one_once(
    settings: Settings, bearer: Callable[..., dict[str, str]], error: Exception, status: int, code: str, calls: int
) -> None:
    asked = []

    def behind(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise error

    async with gateway(settings, behind) as (_, client):
        answer = await client.get("/api/risk/current", headers=bearer())
        assert (answer.status_code, answer.json()["code"], len(asked)) == (status, code, calls)


async def test_a_service_that_answers_the_second_time_is_believed(settings: Settings, bearer: Callable[..., dict[str, str]]) -> None:
    asked = []

    def behind(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            raise httpx.ReadError("a kept connection was closed")
        return services_behind(request)

    async with gateway(settings, behind) as (_, client):
        answer = await client.get("/api/risk/current", headers=bearer() | {"X-Request-Id": "given-1"})
        assert answer.status_code == 200
    assert asked[1].headers["x-request-id"] == "given-1"
    assert asked[1].headers["authorization"].startswith("Bearer ")


@pytest.mark.parametrize(
    "path",
    ["/api/market-data/..%2Fhealth", "/api/market-data/btc", "/api/market-data/A%0aB", "/api/candles/BTCUSDT?limit=100000",
     "/api/trades/recent?limit=0", "/api/performance/daily?date=yesterday", "/api/performance/daily?date=2999-01-01"],
)  # fmt: skip
async def test_requests_that_are_not_understood_are_problems(settings: Settings, path: str, bearer: Callable[..., dict[str, str]]) -> None:
    async with gateway(settings) as (_, client):
        answer = await client.get(path, headers=bearer())
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_large_body_is_refused_by_its_length_and_by_its_bytes(settings: Settings) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    async with gateway(settings) as (_, client):
        announced = await client.post("/api/auth/login", content=b"x" * 300_000)
        sent = await client.post("/api/auth/login", content=endless())
        for answer in (announced, sent):
            assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
            assert "x-request-id" in answer.headers


# --- health and documentation ---------------------------------------------------------------------------------------------


async def test_health_is_red_when_a_service_behind_is_and_strangers_learn_only_that(settings: Settings) -> None:
    def behind(request: httpx.Request) -> httpx.Response:
        if request.url.port == settings.service("risk").port:
            return httpx.Response(503, json={"status": "not ready", "reasons": ["postgresql: away"]})
        return services_behind(request)

    async with gateway(settings, behind) as (_, client):
        inside = await client.get("/health")
        assert inside.status_code == 503
        assert inside.json()["dependencies"]["risk"]["detail"] == "RuntimeError: postgresql: away"
        outside = await client.get("/health", headers={"X-Forwarded-For": "198.51.100.7"})
        assert (outside.status_code, outside.json()) == (503, {"status": "unhealthy", "service": "gateway"})


async def test_health_is_green_when_everything_behind_is(settings: Settings) -> None:
    async with gateway(settings) as (_, client):

        async def green() -> bool:
            return (await client.get("/health")).status_code == 200

        await eventually(green)


async def test_documentation_needs_nothing_from_elsewhere(settings: Settings) -> None:
    async with gateway(settings) as (_, client):
        page = (await client.get("/docs")).text
        assert "GET /api/risk/summary" in page
        assert "http://" not in page
        assert "https://" not in page
        assert (await client.get("/openapi.json")).json()["paths"].keys() >= {"/api/positions", "/api/auth/login"}


# --- the stream -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def online(settings: Settings) -> AsyncIterator[str]:
    """The gateway behind a real listener: where its stream is."""
    service = create(settings, httpx.MockTransport(services_behind))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(service.app, port=port, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await eventually(started)
    yield f"ws://127.0.0.1:{port}/ws"
    server.should_exit = True
    await serving


async def told(socket: ClientConnection) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 10))
    return document


async def tell(socket: ClientConnection, **document: Any) -> None:
    await socket.send(json.dumps(document))


async def publish(bus: Bus, last: int, at_ns: int) -> None:
    quote = messages.Quote(symbol="BTCUSDT", ts_event_ns=at_ns, ts_recv_ns=at_ns, source="test", bid=last - 1, ask=last + 1, last=last)
    await bus.set_quotes([quote])


@pytest.fixture
def token(bearer: Callable[..., dict[str, str]]) -> Callable[..., str]:
    return lambda **changes: bearer(**changes)["Authorization"].removeprefix("Bearer ")


def protocols(token: str) -> list[Subprotocol]:
    return [Subprotocol("trading.v1"), Subprotocol(f"bearer.{token}")]


async def test_a_client_gets_the_quotes_it_asked_for(settings: Settings, bus: Bus, token: Callable[..., str]) -> None:
    await publish(bus, 3_943_248, 1_700_000_000_000_000_000)
    async with online(settings) as url, connect(url, subprotocols=protocols(token())) as socket:
        assert socket.subprotocol == "trading.v1"
        assert (await told(socket))["subject"] == "alice"
        await tell(socket, type="subscribe", topic="quotes", symbols=["BTCUSDT", "NOPE"])
        assert (await told(socket))["symbols"] == ["BTCUSDT", "NOPE"]
        first = await told(socket)
        assert first["sequence"] == 1
        assert first["quotes"] == [
            {
                "symbol": "BTCUSDT", "bid": "39432.47", "ask": "39432.49", "last": "39432.48",
                "timestamp": 1_700_000_000_000, "event_timestamp": 1_700_000_000_000,
            }
        ]  # fmt: skip
        await publish(bus, 3_943_250, 1_700_000_001_000_000_000)
        assert (await told(socket))["quotes"][0]["last"] == "39432.5"
        await tell(socket, type="ping")
        assert await told(socket) == {"type": "pong"}


async def test_a_token_in_the_first_message_is_as_good(settings: Settings, token: Callable[..., str]) -> None:
    async with online(settings) as url, connect(url) as socket:
        await tell(socket, type="authenticate", token=token())
        assert (await told(socket))["type"] == "authenticated"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('{"type": "subscribe", "topic": "quotes", "symbols": []}', 4401),
        ('{"type": "authenticate", "token": "nonsense"}', 4401),
        ('{"type": "dance"}', 4400),
        ("not json", 4400),
        ("x" * 20_000, 4400),
        (b"\x00\xff", 4400),
    ],
)
async def test_a_client_that_does_wrong_is_told_why_and_cut(settings: Settings, message: str | bytes, code: int) -> None:
    async with online(settings) as url, connect(url) as socket:
        await socket.send(message)
        with pytest.raises(ConnectionClosedError):
            await told(socket)
        assert socket.close_code == code
        assert socket.close_reason


async def test_a_connection_ends_with_its_token(settings: Settings, token: Callable[..., str]) -> None:
    async with online(settings) as url, connect(url, subprotocols=protocols(token(ttl_s=2))) as socket:
        assert (await told(socket))["type"] == "authenticated"
        with pytest.raises(ConnectionClosedError):
            await told(socket)
        assert (socket.close_code, socket.close_reason) == (4401, "token expired")


async def test_one_user_has_a_bounded_number_of_connections(
    settings: Settings, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "OF_ONE_USER", 1)
    async with online(settings) as url, connect(url, subprotocols=protocols(token())) as first:
        await told(first)
        async with connect(url, subprotocols=protocols(token())) as second:
            await told(second)
            with pytest.raises(ConnectionClosedError):
                await told(second)
            assert second.close_code == 4429
