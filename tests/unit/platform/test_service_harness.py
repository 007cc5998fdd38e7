"""The harness every service runs in: problem documents, request ids, health, supervision, systemd."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from trading_platform import config, leadership
from trading_platform.problems import Problem
from trading_platform.service import LoopContext, Notifier, Service, together

SETTINGS = config.load(Path(__file__).parents[3] / "platform" / "platform.example.yaml")


def service() -> Service:
    return Service("engine", SETTINGS, database=False, uses_bus=False)


@asynccontextmanager
async def client_of(running: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(running.app, raise_app_exceptions=False)
    async with running.running(), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("POST", "/health", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/number?n=x", 422, "INVALID_REQUEST"),
        ("GET", "/refused", 409, "SOME_REASON"),
        ("GET", "/defect", 500, "INTERNAL_ERROR"),
        ("GET", "/away", 503, "DEPENDENCY_UNAVAILABLE"),
    ],
)
async def test_every_error_is_a_problem_document_with_the_request_id(method: str, path: str, status: int, code: str) -> None:
    running = service()

    @running.app.get("/number")
    async def number(n: int) -> int:
        return n

    @running.app.get("/refused")
    async def refused() -> None:
        raise Problem(409, "SOME_REASON", "because")

    @running.app.get("/defect")
    async def defect() -> None:
        raise RuntimeError("secret detail")

    @running.app.get("/away")
    async def away() -> None:
        raise httpx.ConnectError("refused")

    async with client_of(running) as client:
        response = await client.request(method, path, headers={"X-Request-Id": "abc-1"})
    document = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == "abc-1"
    assert (response.status_code, document["status"], document["code"], document["request_id"]) == (status, status, code, "abc-1")
    assert "secret detail" not in response.text


@pytest.mark.parametrize("offered", ["with space", "x" * 65, 'a"b', "new\tline"])
async def test_a_request_id_that_could_harm_a_log_is_replaced(offered: str) -> None:
    async with client_of(service()) as client:
        answered = (await client.get("/health/live", headers={"X-Request-Id": offered})).headers["x-request-id"]
    assert answered != offered
    assert len(answered) == 32


async def test_health_is_red_while_a_critical_dependency_is_away_and_degraded_without_an_optional_one() -> None:
    running = service()
    broken: set[str] = set()

    def check(name: str) -> Callable[[], Any]:
        async def probe() -> None:
            if name in broken:
                raise ConnectionError(f"{name} is away")

        return probe

    running.dependency("database", check("database"))
    running.dependency("documents", check("documents"), critical=False)
    async with client_of(running) as client:
        assert (await client.get("/health")).json()["status"] == "healthy"
        broken.add("documents")
        degraded = await client.get("/health")
        assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
        broken.add("database")
        red = await client.get("/health")
        assert (red.status_code, red.json()["status"]) == (503, "unhealthy")
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert "database: ConnectionError: database is away" in ready.json()["reasons"]
        assert (await client.get("/health/live")).status_code == 200


async def test_a_loop_that_loses_a_dependency_starts_again_and_readiness_is_red_meanwhile() -> None:
    running = service()
    attempts = 0
    repaired = asyncio.Event()

    async def body(context: LoopContext) -> None:
        nonlocal attempts
        attempts += 1
        if not repaired.is_set():
            raise ConnectionError("away")
        await context.idle()

    running.loop("work", body)
    async with client_of(running) as client:
        await until(lambda: attempts >= 2)
        assert (await client.get("/health/ready")).status_code == 503
        repaired.set()
        await until(lambda: running._loops[0].status == "running")
        assert (await client.get("/health/ready")).status_code == 200
    assert running.crashed is None


async def test_a_loop_that_is_not_admitted_leaves_its_lease_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    running = service()
    asked, acquired = 0, 0
    latched = True

    def admit() -> None:
        nonlocal asked
        asked += 1
        if latched:
            raise ConnectionError("the latch lies here")

    async def acquire(*_: Any, **__: Any) -> None:
        nonlocal acquired
        acquired += 1

    async def body(context: LoopContext) -> None:
        raise AssertionError("it never leads")

    monkeypatch.setattr(leadership, "acquire", acquire)
    monkeypatch.setattr(Service, "db", None)
    running.loop("work", body, lease="engine:paper", admit=admit)
    async with client_of(running):
        await until(lambda: asked >= 2)
        assert acquired == 0
        assert "the latch lies here" in running._loops[0].detail
        latched = False
        await until(lambda: acquired >= 1)


async def test_a_defect_in_a_loop_ends_the_service() -> None:
    running = service()
    ended = asyncio.Event()
    running.on_crash = ended.set

    async def body(context: LoopContext) -> None:
        raise ValueError("a defect")

    running.loop("work", body)
    async with running.running():
        await asyncio.wait_for(ended.wait(), 5)
    assert isinstance(running.crashed, ValueError)


async def test_stopping_lets_a_loop_finish_what_it_does() -> None:
    running = service()
    finished = []

    async def body(context: LoopContext) -> None:
        await context.idle()
        finished.append(True)

    running.loop("work", body)
    async with running.running():
        await until(lambda: running._loops[0].status == "running")
    assert finished == [True]


async def test_the_watchdog_is_fed_only_while_every_loop_beats(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.setblocking(False)
        running = service()
        running.notifier = Notifier(address, "1000000")
        running.loop("alive", LoopContext.idle)
        running.loop("hung", LoopContext.idle)
        alive, hung = running._loops
        alive.beat()
        assert systemd.recv(100) == b"WATCHDOG=1"
        hung.last_beat -= hung.stall_after_s + 1
        running._fed = 0.0
        alive.beat()
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


async def test_a_body_of_several_parts_beats_only_when_all_of_them_have() -> None:
    running = service()
    beats: list[str] = []
    release = asyncio.Event()

    async def quick(context: LoopContext) -> None:
        for _ in range(5):
            context.beat()
            await asyncio.sleep(0)
        beats.append(running._loops[0].status)
        await release.wait()

    async def slow(context: LoopContext) -> None:
        await until(lambda: beats)
        context.beat()
        beats.append(running._loops[0].status)
        release.set()

    async def body(context: LoopContext) -> None:
        await together(context, quick=quick, slow=slow)
        await context.idle()

    running.loop("work", body)
    async with running.running():
        await until(lambda: len(beats) == 2)
    assert beats == ["starting", "running"]


async def test_the_first_part_that_fails_ends_the_others_with_its_own_exception() -> None:
    running = service()
    ended = []

    async def failing(context: LoopContext) -> None:
        raise ConnectionError("away")

    async def working(context: LoopContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    raised: list[BaseException] = []

    async def body(context: LoopContext) -> None:
        try:
            await together(context, working=working, failing=failing)
        except ConnectionError as error:
            raised.append(error)
        await context.idle()

    running.loop("work", body)
    async with running.running():
        await until(lambda: raised)
    assert ended == [True]


async def test_metrics_name_routes_and_not_paths() -> None:
    running = service()

    @running.app.get("/orders/{order_id}")
    async def order(order_id: str) -> str:
        return order_id

    async with client_of(running) as client:
        await client.get("/orders/secret-id")
        text = (await client.get("/metrics")).text
    assert 'http_requests_total{method="GET",route="/orders/{order_id}",service="engine",status="200"}' in text
    assert "secret-id" not in text


async def test_a_part_that_swallows_a_cancellation_ends_all_the_same() -> None:
    running = service()
    swallowed = asyncio.Event()

    async def deaf(context: LoopContext) -> None:
        while True:
            context.beat()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if swallowed.is_set():
                    raise
                swallowed.set()

    async def failing(context: LoopContext) -> None:
        await asyncio.sleep(0)
        raise ConnectionError("the database is away")

    ended = asyncio.Event()

    async def body(context: LoopContext) -> None:
        try:
            await together(context, deaf=deaf, failing=failing)
        finally:
            ended.set()

    running.loop("both", body)
    async with client_of(running):
        await until(ended.is_set)
    assert swallowed.is_set()
