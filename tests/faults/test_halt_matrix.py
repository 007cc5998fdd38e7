"""Every halt under load, alone and with a dependency away: once it is acknowledged no new order is accepted by the venue.

The venue's own log of what reached its exchange decides. The load only buys: what an emergency sells to close what is held does not
count. No gateway runs in any of these tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import pytest
from harness import ROOT, Stage, ended
from servers import PostgresServer, RedisServer

AFTERWARDS_S = 0.6
CLIENTS = 6
REASON = "a halt of the matrix"


@dataclass(frozen=True)
class Halt:
    """How it is asked for and what it leaves. `path` None: emergency_stop.sh on the host."""

    name: str
    path: str | None
    body: dict[str, Any] = field(default_factory=dict)
    state: str = "paused"
    account: str = "*"
    flatten: bool = False

    @property
    def is_emergency(self) -> bool:
        return self.state == "emergency_stopped"


PAUSE = Halt("pause", "/trading/pause")
STOP = Halt("stop", "/trading/state", {"state": "stopped"}, "stopped")
REDUCE = Halt("reduce", "/trading/safe-mode", state="reducing")
DRAIN = Halt("drain", "/trading/shutdown", {"keep_positions": True}, "draining")
EMERGENCY = Halt("emergency", "/trading/emergency-stop", state="emergency_stopped")
FLATTEN = Halt("emergency-flatten", "/trading/emergency-stop", {"flatten": True}, "emergency_stopped", flatten=True)
LATCH = Halt("latch", None, state="emergency_stopped")
LATCH_FLATTEN = Halt("latch-flatten", None, {"flatten": True}, "emergency_stopped", flatten=True)


def of_account(halt: Halt) -> Halt:
    return Halt(f"{halt.name}-account", halt.path, halt.body, halt.state, "paper", halt.flatten)


HALTS = [PAUSE, STOP, REDUCE, DRAIN, EMERGENCY, FLATTEN, LATCH, LATCH_FLATTEN]
HALTS += [of_account(halt) for halt in (PAUSE, STOP, REDUCE, DRAIN, EMERGENCY, FLATTEN, LATCH)]

_numbers = itertools.count(1)


@dataclass
class Answer:
    status: int
    document: dict[str, Any]
    at: float

    @property
    def code(self) -> str:
        return str(self.document.get("code", ""))


class Scene:
    """A platform that trades, and somebody who halts it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.answers: list[Answer] = []

    # --- asking -----------------------------------------------------------------------------------------------------------

    async def ask(self, service: str, path: str, body: dict[str, Any] | None = None, role: str = "trader") -> Answer:
        async with httpx.AsyncClient(timeout=60) as http:
            answer = await http.post(self.stage.url(service) + path, json=body, headers=self.stage.headers(role))
        return Answer(answer.status_code, answer.json(), time.time())

    async def order(self, http: httpx.AsyncClient | None = None, **more: Any) -> Answer:
        body = {
            "account": "paper", "client_request_id": f"halt-{next(_numbers)}", "symbol": "BTCUSDT", "side": "buy", "type": "market",
            "quantity": "0.001", **more,
        }  # fmt: skip
        if http is None:
            return await self.ask("engine", "/orders", body)
        answer = await http.post("/orders", json=body, headers=self.stage.headers())
        return Answer(answer.status_code, answer.json(), time.time())

    async def resting(self) -> str:
        answer = await self.order(type="limit", limit_price="50000")
        assert (answer.status, answer.document["status"]) == (201, "NEW"), answer
        return str(answer.document["client_order_id"])

    async def halt(self, halt: Halt) -> Answer:
        if halt.path is None:
            return await self.script(halt)
        return await self.ask("risk", halt.path, {**halt.body, "account": halt.account, "reason": REASON})

    async def script(self, halt: Halt, *more: str) -> Answer:
        """emergency_stop.sh's program; its exit status in place of HTTP's."""
        arguments = ["--yes", "--json", "--deadline", "20", "--reason", REASON]
        arguments += ["--account", halt.account] if halt.account != "*" else []
        return await self._program(*arguments, *(["--flatten"] if halt.flatten else []), *more)

    async def _program(self, *arguments: str) -> Answer:
        environment = {**os.environ, **self.stage.environment, "PYTHONPATH": str(ROOT / "platform")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trading_platform.emergency", *arguments,
            env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
        document = json.loads(output) if output.startswith(b"{") else {"said": output.decode()}
        assert process.returncode is not None
        return Answer(process.returncode, {**document, "errors": errors.decode()[-800:]}, time.time())

    @property
    def latch(self) -> bool:
        return os.path.exists(self.stage.settings.engine.halt_latch)

    # --- load -------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients that buy without a pause; inside, the venue takes orders."""
        before = len(self.accepted())
        tasks = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        try:

            async def taken() -> bool:
                return len(self.accepted()) > before + 15

            await self.stage.until("load at the venue", taken, 20)
            yield
        finally:
            await ended(*tasks)

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self.stage.url("engine"), timeout=30) as http:
            while True:
                more = {"type": "limit", "limit_price": str(50_000 + number)} if number % 2 else {}
                with contextlib.suppress(httpx.TransportError):
                    self.answers.append(await self.order(http, **more))
                await asyncio.sleep(0.01)

    def accepted(self, side: str = "BUY", after: float = 0.0) -> list[str]:
        """Lines of the venue's log: orders its exchange took after that time."""
        lines = self.stage.received.read_text().splitlines() if self.stage.received.exists() else []
        words = [line.split() for line in lines]
        return [" ".join(word) for word in words if word[2] == side and word[3] == "accepted" and int(word[0]) > after * 1000]

    def refusals(self, after: float) -> set[str]:
        return {answer.code for answer in self.answers if answer.at > after and answer.status >= 400}

    # --- looking ----------------------------------------------------------------------------------------------------------

    def state(self, account: str) -> str:
        row = self.stage.connection.execute("SELECT state FROM trading_state WHERE account_id = %s", (account,)).fetchone()
        return str(row[0]) if row else "running"

    def open_at_venue(self) -> int:
        row = self.stage.connection.execute(
            "SELECT count(*) FROM paper_venue.orders WHERE status IN ('NEW', 'PARTIALLY_FILLED')"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def held(self) -> Decimal:
        row = self.stage.connection.execute("SELECT free + locked FROM paper_venue.balances WHERE asset = 'BTC'").fetchone()
        return Decimal(row[0]) if row else Decimal(0)

    def history(self, client_order_id: str) -> list[tuple[Any, ...]]:
        """What was written of an order; for the message of a test that failed."""
        return self.stage.connection.execute(
            "SELECT order_seq, type, to_status, data, actor, occurred_at FROM order_events WHERE client_order_id = %s ORDER BY order_seq",
            (client_order_id,),
        ).fetchall()

    # --- life -------------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Everything runs, nothing is halted, an engine leads, prices are there."""
        self.stage.feed.deep = True
        await self.stage.faults([])
        if "engine" not in self.stage.processes or not self.stage.engine.alive:
            self.stage.start("engine")
        await self.stage.ready()
        said: list[Answer] = []

        async def filled() -> bool:
            """A platform that has just started knows no losses of the day and refuses for that long."""
            said.append(await self.order(quantity="0.01"))
            return said[-1].status == 201

        await self.stage.until("a first order", filled, 20)
        assert said[-1].document["status"] == "FILLED", said

    async def restart(self) -> None:
        self.stage.engine.kill()
        self.stage.start("engine")
        await self.stage.ready()

    async def release(self, halt: Halt) -> None:
        """Only those who may, and step by step; then it trades again."""
        body = {"account": halt.account, "reason": REASON}
        assert (await self.ask("risk", "/trading/state", {**body, "state": "running"}, "analyst")).status == 403
        if halt.is_emergency:
            assert (await self.ask("risk", "/trading/state", {**body, "state": "running"}, "admin")).status == 409
            assert (await self.ask("risk", "/trading/state", {**body, "state": "stopped"})).status == 403
            assert self.state(halt.account) == "emergency_stopped"
            if self.latch:
                assert (await self._program("--clear-latch")).status == 1
            released = await self.ask("risk", "/trading/state", {**body, "state": "stopped"}, "admin")
            assert released.status == 200, released
            if self.latch:
                cleared = await self._program("--clear-latch")
                assert (cleared.status, self.latch) == (0, False), cleared
        started = await self.ask("risk", "/trading/state", {**body, "state": "running"})
        assert started.status == 200, started
        await self.stage.ready()

        async def trades() -> bool:
            return (await self.order()).status == 201

        await self.stage.until("trading again", trades, 10)


def play(stage: Stage, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with stage.market():
            scene = Scene(stage)
            await scene.begin()
            await act(scene)

    asyncio.run(run())


async def _holds(scene: Scene, acknowledged_at: float) -> None:
    """The load goes on and nothing of it arrives."""
    await asyncio.sleep(AFTERWARDS_S)
    assert scene.accepted(after=acknowledged_at) == []


@pytest.mark.parametrize("halt", HALTS, ids=lambda halt: halt.name)
def test_after_a_halt_is_acknowledged_no_new_order_is_accepted(stage: Stage, halt: Halt) -> None:
    """API-15, API-16, INC-07: under load; it outlives the engine; cancels pass; only who may releases it."""

    async def act(scene: Scene) -> None:
        kept = await scene.resting()
        async with scene.load():
            acknowledged = await scene.halt(halt)
            assert acknowledged.status == (0 if halt.path is None else 200), acknowledged
            await _holds(scene, acknowledged.at)
        assert scene.state(halt.account) == halt.state
        assert {code for code in scene.refusals(acknowledged.at) if code} & {f"TRADING_{halt.state.upper()}", "NOT_LEADING"}
        if halt.is_emergency:
            assert scene.open_at_venue() == 0
            assert (scene.held() == 0) is halt.flatten
        if not scene.latch:
            await _still_held_after_a_restart(scene, halt, kept, acknowledged.at)
        await scene.release(halt)

    play(stage, act)


async def _still_held_after_a_restart(scene: Scene, halt: Halt, kept: str, acknowledged_at: float) -> None:
    await scene.restart()
    assert (await scene.order()).code == f"TRADING_{halt.state.upper()}"
    if not halt.is_emergency:
        canceled = await scene.ask("engine", f"/orders/{kept}/cancel")
        assert (canceled.status, canceled.document["status"]) == (200, "CANCELED"), (canceled, scene.history(kept))
    if halt.state in ("reducing", "draining"):
        sold = await scene.order(side="sell")
        assert (sold.status, sold.document["status"]) == (201, "FILLED"), sold
    assert scene.accepted(after=acknowledged_at) == []
    if halt.state == "draining":
        await scene.ask("engine", "/orders/cancel-all", {"account": "paper"})

        async def drained() -> bool:
            return scene.state(halt.account) == "stopped"

        await scene.stage.until("the end of draining", drained, 10)


# --- with something away -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halt", [PAUSE, FLATTEN], ids=lambda halt: halt.name)
def test_a_halt_holds_without_redis(stage: Stage, servers: tuple[PostgresServer, RedisServer, Any], halt: Halt) -> None:
    async def act(scene: Scene) -> None:
        async with scene.load():
            servers[1].stop()
            try:
                acknowledged = await scene.halt(halt)
                assert acknowledged.status == 200, acknowledged
                await _holds(scene, acknowledged.at)
            finally:
                servers[1].start()
        await scene.release(halt)

    play(stage, act)


def test_without_the_risk_service_the_script_on_the_host_halts(stage: Stage) -> None:
    async def act(scene: Scene) -> None:
        async with scene.load():
            stage.processes["risk"].kill()
            with pytest.raises(httpx.TransportError):
                await scene.halt(PAUSE)
            acknowledged = await scene.halt(LATCH)
            assert acknowledged.status == 0, acknowledged
            await _holds(scene, acknowledged.at)
        stage.start("risk")
        await stage.until("risk", lambda: _answers(stage, "risk"), 20)
        await scene.release(LATCH)

    play(stage, act)


def test_without_the_database_a_halt_is_never_acknowledged_and_the_latch_still_holds(
    stage: Stage, servers: tuple[PostgresServer, RedisServer, Any]
) -> None:
    async def act(scene: Scene) -> None:
        async with scene.load():
            servers[0].stop()
            try:
                refused = await scene.halt(PAUSE)
                assert refused.status >= 500, refused
                told = await scene.script(LATCH, "--deadline", "5")
                assert (told.status, scene.latch) == (3, True), told
                await _holds(scene, told.at)
            finally:
                servers[0].start()
                stage.reconnect()
            await stage.venue_leads()
            await _holds(scene, told.at)
            assert scene.state("*") == "running"
        again = await scene.halt(LATCH)
        assert again.status == 0, again
        assert scene.accepted(after=told.at) == []
        await stage.until("risk", lambda: _answers(stage, "risk"), 30)
        await scene.release(LATCH)

    play(stage, act)


@pytest.mark.parametrize("halt", [PAUSE, EMERGENCY], ids=lambda halt: halt.name)
@pytest.mark.parametrize(
    "rules",
    [
        [{"kind": "slow", "seconds": 0.4, "path": "/api/v3/order", "method": "POST"}],
        [{"kind": "error_after", "probability": 0.5, "path": "/api/v3/order", "method": "POST"}],
        [{"kind": "no_answer", "probability": 0.3, "path": "/api/v3/order", "method": "POST"}],
    ],
    ids=["slow", "5xx", "silent"],
)
def test_a_halt_waits_for_what_a_misbehaving_venue_may_still_take(stage: Stage, halt: Halt, rules: list[dict[str, Any]]) -> None:
    async def act(scene: Scene) -> None:
        async with scene.load():
            await stage.faults(rules)
            await asyncio.sleep(0.5)
            acknowledged = await scene.halt(halt)
            assert acknowledged.status == 200, acknowledged
            await _holds(scene, acknowledged.at)
            await stage.faults([])
            await _holds(scene, acknowledged.at)
        await scene.release(halt)

    play(stage, act)


@pytest.mark.parametrize("halt", [PAUSE, EMERGENCY, LATCH], ids=lambda halt: halt.name)
def test_a_halt_outlasts_a_frozen_engine(stage: Stage, halt: Halt) -> None:
    """Acknowledged once the lease has run out and nothing that was signed can arrive; when it wakes, it sends nothing."""

    async def act(scene: Scene) -> None:
        async with scene.load():
            stage.engine.signal(signal.SIGSTOP)
            frozen_at = time.time()
            acknowledged = await scene.halt(halt)
            assert acknowledged.status == (0 if halt.path is None else 200), acknowledged
            venue = stage.settings.venues["paper"]
            assert acknowledged.at - frozen_at >= venue.recv_window_s
            stage.engine.signal(signal.SIGCONT)
            await _holds(scene, acknowledged.at)
        await scene.release(halt)

    play(stage, act)


async def _answers(stage: Stage, service: str) -> bool:
    async with httpx.AsyncClient(timeout=5) as http:
        return (await http.get(stage.url(service) + "/health")).status_code == 200
