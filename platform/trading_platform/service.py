"""The harness every service runs in: HTTP, health, logs, systemd, background loops, leadership, shutdown.

A service's `app.py` wires one up; `__main__.py` runs it:

    def create(settings: Settings) -> Service:
        service = Service("engine", settings)                     # gives service.app (FastAPI), service.db, service.bus
        engine = Engine(service.db, service.bus, settings)
        service.loop("orders", engine.run, lease="engine:paper")  # async def run(self, context: LoopContext) -> None
        service.dependency("mongodb", documents.ping, critical=False)
        service.on_start(engine.open); service.on_stop(engine.close)
        @service.app.get("/orders") ...
        return service

    if __name__ == "__main__":
        main(create)                                              # loads the configuration, serves until SIGTERM

A loop's body runs until `context.stopping`, calling `context.beat()` at least every `stall_after_s` seconds: systemd's
watchdog is fed from these beats and only while every loop beats, so a loop that hangs gets the service restarted.
`await context.sleep(s)` and `await context.idle()` end early on stop. What a body raises decides: a dependency that is
away (TRANSIENT) turns readiness red and the body is started again after a jittered pause; anything else is a defect, the
process ends with status 1 and systemd starts it anew. With `lease`, the body runs only while this process leads;
`context.lease.token` goes into what it writes, and the body is cancelled the moment the lease is lost. `admit` is asked before the
lease is: while it raises something TRANSIENT, this process leaves the lease to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trading_platform import __version__, bus, config, db, leadership, problems, telemetry
from trading_platform.config import ConfigError, Settings

log = logging.getLogger(__name__)

# MongoDB is not among them: who uses it must go on without it (and its driver is a fifth of the start-up of those who do not).
TRANSIENT: tuple[type[Exception], ...] = (*db.TRANSIENT, *bus.TRANSIENT, httpx.TransportError, OSError)
_TRANSIENT_OR_SLOW: tuple[type[Exception], ...] = (*TRANSIENT, TimeoutError)

CHECK_TIMEOUT_S = 3.0
CANCEL_AGAIN_S = 1.0
DRAIN_S = 15.0
MAX_BACKOFF_S = 10.0

Check = Callable[[], Awaitable[None]]
Hook = Callable[[], Awaitable[None]]
Body = Callable[["LoopContext"], Awaitable[None]]


class Notifier:
    """systemd's notification socket; does nothing where there is none."""

    def __init__(self, address: str | None = None, watchdog_usec: str | None = None) -> None:
        self._address = address if address is not None else os.environ.get("NOTIFY_SOCKET")
        usec = watchdog_usec if watchdog_usec is not None else os.environ.get("WATCHDOG_USEC")
        self.watchdog_s = int(usec) / 1e6 if usec else None

    def send(self, state: str) -> None:
        """Send `READY=1`, `STOPPING=1`, `WATCHDOG=1` or `STATUS=…`."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel, contextlib.suppress(OSError):
            channel.sendto(state.encode(), address)


class LoopContext:
    """What a loop's body gets: when to stop, how to beat, and the lease it runs under."""

    def __init__(self, loop: _Loop, stop: asyncio.Event, lease: leadership.Lease | None) -> None:
        self._loop = loop
        self._stop = stop
        self._lease = lease

    @property
    def stopping(self) -> bool:
        """Whether the service is shutting down."""
        return self._stop.is_set()

    @property
    def lease(self) -> leadership.Lease:
        """The lease this body runs under. Raises RuntimeError for a loop without one."""
        if self._lease is None:
            raise RuntimeError(f"loop {self._loop.name} has no lease")
        return self._lease

    def beat(self) -> None:
        """This loop is alive and working."""
        self._loop.beat()
        self._loop.recovered()

    async def sleep(self, seconds: float) -> None:
        """Pause, ending early on stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for of Python 3.11 may swallow a cancellation
                await self._stop.wait()

    async def idle(self) -> None:
        """Wait until stop, beating: for a body whose work happens elsewhere."""
        while not self.stopping:
            self.beat()
            await self.sleep(1.0)


class _Part(LoopContext):
    """One of several activities of a body: the loop beats once all of them have beaten."""

    def __init__(self, whole: LoopContext, name: str, waiting: set[str], names: frozenset[str]) -> None:
        super().__init__(whole._loop, whole._stop, whole._lease)
        self._whole = whole
        self._name = name
        self._waiting = waiting
        self._names = names

    def beat(self) -> None:
        self._waiting.discard(self._name)
        if not self._waiting:
            self._waiting |= self._names
            self._whole.beat()


async def together(context: LoopContext, **parts: Body) -> None:
    """Run several activities as one body: `await together(context, orders=self._orders, fills=self._fills)`.

    Each gets a context of its own and must beat on it. The first that fails ends the others, and its exception is raised.
    """
    names = frozenset(parts)
    waiting = set(names)
    tasks = [asyncio.ensure_future(body(_Part(context, name, waiting, names))) for name, body in parts.items()]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        while left := [task for task in tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=CANCEL_AGAIN_S)  # a library may swallow a cancellation
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class _Loop:
    """A supervised background loop."""

    name: str
    body: Body
    lease: str | None
    admit: Callable[[], None]
    stall_after_s: float
    feed: Callable[[], None]
    service: str
    status: str = "starting"
    detail: str = ""
    failures: int = 0
    last_beat: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        self.last_beat = time.monotonic()
        self.feed()

    def recovered(self) -> None:
        if self.status != "running":
            self._set("running", "")
        self.failures = 0

    def _set(self, status: str, detail: str) -> None:
        if (status, detail) != (self.status, self.detail):
            self.status, self.detail = status, detail
            telemetry.LOOP_RUNNING.labels(self.service, self.name).set(1 if status == "running" else 0)

    def standing_by(self) -> None:
        self._set("standby", f"lease {self.lease} is held by another")

    def retrying(self, error: Exception) -> float:
        """Note a lost dependency; how long to wait before the next attempt."""
        self.failures += 1
        telemetry.LOOP_RETRIES.labels(self.service, self.name).inc()
        self._set("retrying", f"{type(error).__name__}: {error}".splitlines()[0][:300])
        return min(MAX_BACKOFF_S, 0.2 * 2.0 ** min(self.failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    @property
    def stalled(self) -> bool:
        return time.monotonic() - self.last_beat > self.stall_after_s

    def report(self) -> dict[str, Any]:
        status = "stalled" if self.stalled else self.status
        return {
            "status": status,
            "detail": self.detail,
            "beat_age_seconds": round(time.monotonic() - self.last_beat, 3),
        }


@dataclass
class _Dependency:
    name: str
    check: Check
    critical: bool

    async def probe(self) -> dict[str, Any]:
        started = time.monotonic()
        status, detail = "healthy", ""
        try:
            await asyncio.wait_for(self.check(), CHECK_TIMEOUT_S)
        except TimeoutError:
            status, detail = "unhealthy", f"no answer within {CHECK_TIMEOUT_S:g} s"
        except Exception as error:
            status, detail = "unhealthy", f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return {
            "status": status,
            "critical": self.critical,
            "detail": detail,
            "latency_ms": round((time.monotonic() - started) * 1000, 2),
        }


class Service:
    """One service process. `database=False` or `uses_bus=False` where it needs none."""

    def __init__(self, name: str, settings: Settings, *, database: bool = True, uses_bus: bool = True) -> None:
        self.name = name
        self.settings = settings
        self.stopping = asyncio.Event()
        self.crashed: BaseException | None = None
        self.on_crash: Callable[[], None] = lambda: None
        self.notifier = Notifier()
        self._started = time.monotonic()
        self._fed = 0.0
        self._loops: list[_Loop] = []
        self._dependencies: list[_Dependency] = []
        self._start_hooks: list[Hook] = []
        self._stop_hooks: list[Hook] = []
        self._health_members: list[Callable[[], dict[str, Any]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._db = db.Database(settings, application=f"trading-{name}") if database else None
        self._bus = bus.Bus(settings) if uses_bus else None
        if self._db is not None:
            self.dependency("postgresql", self._db.ping)
        if self._bus is not None:
            self.dependency("redis", self._bus.ping)
        self.app = self._build_app()

    @property
    def db(self) -> db.Database:
        if self._db is None:
            raise RuntimeError(f"service {self.name} was made without a database")
        return self._db

    @property
    def bus(self) -> bus.Bus:
        if self._bus is None:
            raise RuntimeError(f"service {self.name} was made without a bus")
        return self._bus

    # --- wiring -----------------------------------------------------------------------------------------------------

    def loop(
        self, name: str, body: Body, *, lease: str | None = None, admit: Callable[[], None] = lambda: None, stall_after_s: float = 30.0
    ) -> None:
        """Run `body` as a supervised loop (see the module's page)."""
        self._loops.append(_Loop(name, body, lease, admit, stall_after_s, self._feed_watchdog, self.name))

    def dependency(self, name: str, check: Check, *, critical: bool = True) -> None:
        """`check` raises when the dependency cannot be used; a critical one turns /health and readiness red."""
        self._dependencies.append(_Dependency(name, check, critical))

    def on_start(self, hook: Hook) -> None:
        """Called before loops start; must not need a dependency to be up."""
        self._start_hooks.append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Called after loops have ended, last registered first."""
        self._stop_hooks.append(hook)

    def health_member(self, member: Callable[[], dict[str, Any]]) -> None:
        """Add members to the /health document."""
        self._health_members.append(member)

    # --- life -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything but the HTTP listener: for the server's lifespan, and for tests that call the app in process."""
        if self._db is not None:
            await self._db.open()
        for hook in self._start_hooks:
            await hook()
        if not self._loops:
            self.loop("http", LoopContext.idle)
        for loop in self._loops:
            loop.beat()
            self._tasks.append(asyncio.create_task(self._guard(loop), name=f"{self.name}:{loop.name}"))
        try:
            yield
        finally:
            self.stopping.set()
            await self._drain()
            for hook in reversed(self._stop_hooks):
                try:
                    await hook()
                except Exception:
                    log.exception("stop hook failed")
            if self._bus is not None:
                await self._bus.close()
            if self._db is not None:
                await self._db.close()

    async def _drain(self) -> None:
        """Let loops finish what they do; cancel those that do not within DRAIN_S."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=DRAIN_S)
        for task in pending:
            log.warning("loop did not stop in time", extra={"loop": task.get_name()})
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guard(self, loop: _Loop) -> None:
        """Supervise one loop; a defect ends the process."""
        try:
            await self._supervise(loop)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            log.critical("loop crashed; the service ends", exc_info=error, extra={"loop": loop.name})
            loop.status, loop.detail = "crashed", f"{type(error).__name__}: {error}"
            self.crashed = error
            self.stopping.set()
            self.on_crash()

    async def _supervise(self, loop: _Loop) -> None:
        while not self.stopping.is_set():
            loop.beat()
            try:
                loop.admit()
                if loop.lease is None:
                    await loop.body(LoopContext(loop, self.stopping, None))
                else:
                    await self._lead(loop, loop.lease)
            except leadership.LeaseLost as error:
                log.warning("lease lost", extra={"loop": loop.name, "error": str(error)})
            except TRANSIENT as error:
                pause = loop.retrying(error)
                log.warning(
                    "dependency lost; the loop starts again",
                    extra={"loop": loop.name, "error": loop.detail, "pause_s": round(pause, 2)},
                )
                await self._beating_pause(loop, pause)

    async def _lead(self, loop: _Loop, name: str) -> None:
        """Wait for the lease, then run the body under it."""
        ttl_s = self.settings.leases.ttl_s
        lease = await leadership.acquire(self.db, name, ttl_s=ttl_s)
        if lease is None:
            loop.standing_by()
            await self._beating_pause(loop, ttl_s / 5 * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            return
        log.info("leading", extra={"loop": loop.name, "lease": name, "token": lease.token})
        body = asyncio.ensure_future(loop.body(LoopContext(loop, self.stopping, lease)))
        keeper = asyncio.create_task(self._keep(lease))
        try:
            await asyncio.wait({body, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if not body.done():
                body.cancel()
                await asyncio.gather(body, return_exceptions=True)
                keeper.result()
            body.result()
        finally:
            keeper.cancel()
            body.cancel()
            await asyncio.gather(keeper, body, return_exceptions=True)
            with contextlib.suppress(*TRANSIENT):
                await lease.release()

    async def _keep(self, lease: leadership.Lease) -> None:
        """Renew until the lease is lost; a database that does not answer is asked again while the lease lasts."""
        while True:
            await asyncio.sleep(lease.ttl_s / 4)
            try:
                async with asyncio.timeout(max(0.1, lease.deadline - time.monotonic())):
                    await lease.renew()
            except _TRANSIENT_OR_SLOW:
                lease.assert_held()

    async def _beating_pause(self, loop: _Loop, seconds: float) -> None:
        """Pause in steps, so that waiting for a dependency is not taken for a hang."""
        until = time.monotonic() + seconds
        while not self.stopping.is_set() and (left := until - time.monotonic()) > 0:
            loop.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await self.stopping.wait()

    def _feed_watchdog(self) -> None:
        """Called on every beat: tells systemd we live, while every loop beats."""
        if self.notifier.watchdog_s is None:
            return
        now = time.monotonic()
        if now - self._fed >= self.notifier.watchdog_s / 4 and not any(loop.stalled for loop in self._loops):
            self._fed = now
            self.notifier.send("WATCHDOG=1")

    # --- health -----------------------------------------------------------------------------------------------------

    async def health(self) -> dict[str, Any]:
        """The /health document: status healthy, degraded (something not critical is away) or unhealthy."""
        probes = await asyncio.gather(*(dependency.probe() for dependency in self._dependencies))
        dependencies = {d.name: result for d, result in zip(self._dependencies, probes, strict=True)}
        loops = {loop.name: loop.report() for loop in self._loops}
        bad_loops = [name for name, report in loops.items() if report["status"] not in ("running", "standby", "starting")]
        critical = [n for n, result in dependencies.items() if result["status"] != "healthy" and result["critical"]]
        optional = [n for n, result in dependencies.items() if result["status"] != "healthy" and not result["critical"]]
        status = "unhealthy" if critical or bad_loops or self.stopping.is_set() else "degraded" if optional else "healthy"
        document: dict[str, Any] = {
            "status": status,
            "service": self.name,
            "version": __version__,
            "host": self.settings.host,
            "environment": self.settings.environment,
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "draining": self.stopping.is_set(),
            "dependencies": dependencies,
            "loops": loops,
        }
        for member in self._health_members:
            document |= member()
        return document

    def _build_app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with self.running():
                yield

        app = FastAPI(title=f"trading-{self.name}", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
        problems.install(app, TRANSIENT)
        app.add_middleware(_RequestMiddleware, service=self.name)

        @app.get("/health", tags=["health"])
        async def health() -> JSONResponse:
            document = await self.health()
            return JSONResponse(document, 503 if document["status"] == "unhealthy" else 200)

        @app.get("/health/live", tags=["health"])
        async def live() -> JSONResponse:
            stalled = [loop.name for loop in self._loops if loop.stalled]
            document = {"status": "stalled" if stalled else "alive", "service": self.name, "stalled": stalled}
            return JSONResponse(document, 503 if stalled else 200)

        @app.get("/health/ready", tags=["health"])
        async def ready() -> JSONResponse:
            document = await self.health()
            is_ready = document["status"] != "unhealthy"
            reasons = [
                f"{name}: {part['detail'] or part['status']}"
                for part_kind in ("dependencies", "loops")
                for name, part in document[part_kind].items()
                if part["status"] not in ("healthy", "running", "standby", "starting")
            ]
            answer = {"status": "ready" if is_ready else "not ready", "service": self.name, "reasons": reasons}
            return JSONResponse(answer, 200 if is_ready else 503)

        @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
        async def metrics() -> PlainTextResponse:
            return PlainTextResponse(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        return app


class _RequestMiddleware:
    """Request id, metrics and one log line for each request."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = next((value for key, value in scope["headers"] if key == b"x-request-id"), b"")
        current = telemetry.accept_request_id(offered.decode("latin-1"))
        reset = telemetry.request_id.set(current)
        started = time.perf_counter()
        status = 500
        answered = False

        async def tagged(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                message.setdefault("headers", []).append((b"x-request-id", current.encode()))
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except Exception:
            log.exception("request failed", extra={"path": scope["path"]})
            if answered:
                raise
            detail = "the request failed; the service's log says why under this request_id"
            await problems.problem_response(Request(scope), 500, "INTERNAL_ERROR", detail)(scope, receive, tagged)
        finally:
            self._account(scope, status, time.perf_counter() - started)
            telemetry.request_id.reset(reset)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "(none)")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        telemetry.HTTP_REQUESTS.labels(self._service, method, route, str(status)).inc()
        telemetry.HTTP_DURATION.labels(self._service, method, route).observe(seconds)
        quiet = route in ("/metrics", "/health", "/health/live", "/health/ready")
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra={"method": scope["method"], "path": scope["path"], "status": status, "ms": round(seconds * 1000, 2)},
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Server(uvicorn.Server):
    """uvicorn, telling systemd when the listener is up and when the stop begins."""

    def __init__(self, settings: uvicorn.Config, service: Service) -> None:
        super().__init__(settings)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._service.notifier.send("READY=1")
            log.info("serving", extra={"version": __version__})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.notifier.send("STOPPING=1")
        log.info("stopping", extra={"signal": signal.Signals(sig).name})
        self.should_exit = True


def serve(service: Service) -> int:
    """Serve until told to stop; the exit status: 0 after a stop, 1 after a crash."""
    endpoint = service.settings.service(service.name)
    server = _Server(
        uvicorn.Config(
            service.app,
            host=endpoint.host,
            port=endpoint.port,
            loop="uvloop",
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws_max_size=64 << 10,
            # Longer than any client of ours keeps an idle connection: whoever closes first must be the client, or a
            # request on its way meets a closed connection and an order is denied for nothing.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(DRAIN_S),
        ),
        service,
    )

    def stop() -> None:
        server.should_exit = True

    service.on_crash = stop
    server.run()
    if service.crashed is not None or not server.started:
        return 1
    return 0


def main(create: Callable[[Settings], Service]) -> None:
    """Entry point of `python -m trading_platform.<service>`."""
    name = create.__module__.split(".")[1]
    try:
        settings = config.load()
        telemetry.configure_logging(name, settings.log_level)
        service = create(settings)
        service.settings.service(service.name)
    except ConfigError as error:
        print(f"trading-{name}: {error}", file=sys.stderr)
        sys.exit(78)  # EX_CONFIG: systemd's RestartPreventExitStatus
    sys.exit(serve(service))
