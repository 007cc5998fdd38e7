"""Halting, draining and starting trading, the emergency stop, and what is left to be done: routes and the loops behind them.

The rows are trading_states.py's, the procedure of an emergency is emergency/procedure.py's.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Annotated, Any, Final

import httpx
from fastapi import Depends, Request
from fastapi.responses import Response
from prometheus_client import Counter, Gauge
from pydantic import BaseModel, ConfigDict, Field

from trading_platform.answers import answer
from trading_platform.auth import Authenticator, Identity
from trading_platform.config import Settings
from trading_platform.domain import trading_state
from trading_platform.domain.trading_state import CONTROL, EMERGENCY, PLATFORM, State
from trading_platform.emergency.means import PlatformMeans, VenueFactory, held, venue_at
from trading_platform.emergency.procedure import Report, cancel, stop
from trading_platform.problems import Problem
from trading_platform.service import LoopContext, Service
from trading_platform.trading_states import Change, Row, TradingStates, Waiting, Wishes, mode, recv_windows

log = logging.getLogger(__name__)

STATE = Gauge("smc_trading_state", "0 running, 1 reducing, 2 draining, 3 paused, 4 stopped, 5 emergency-stopped: what counts", ["account"])
VERSION = Gauge("smc_trading_state_version", "Version of the newest change that counts", ["account"])
UNACKNOWLEDGED = Gauge("smc_trading_state_unacknowledged", "1 while an engine does not obey the newest change yet", ["account"])
CHANGES = Counter("smc_trading_state_changes_total", "Changes made here", ["account", "state"])
EMERGENCIES = Counter("smc_trading_emergency_stops_total", "Emergency stops carried out here", ["outcome"])

WATCH_EVERY_S: Final = 1.0
ACKNOWLEDGED_WITHIN_S: Final = 15.0
HEALTH_WITHIN_S: Final = 8.0
RECORDED_WITHIN_S: Final = 2.0
ACTOR: Final = "risk"

# Statuses of domain.orders.TERMINAL, as in the partial index orders_open.
_OPEN: Final = "SELECT account_id, count(*) FROM orders WHERE status NOT IN ('FILLED', 'CANCELED', 'REJECTED', 'EXPIRED') GROUP BY 1"

Reason = Annotated[str, Field(min_length=3, max_length=500)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    account: str = PLATFORM


class Asked(_Body):
    """Body of the POST paths that halt or start: for one account, or "*" for all."""

    reason: Reason = "asked for, no reason given"


class StateBody(_Body):
    """Body of POST /trading/state."""

    state: State
    reason: Reason
    wait_s: Annotated[float, Field(ge=0, le=60)] = ACKNOWLEDGED_WITHIN_S


class ShutdownBody(Asked):
    keep_positions: bool = False


class EmergencyBody(_Body):
    """Body of POST /trading/emergency-stop."""

    reason: Reason
    flatten: bool = False
    deadline_s: Annotated[float, Field(ge=5, le=120)] = 30.0


def mount(
    service: Service,
    settings: Settings,
    auth: Authenticator,
    *,
    venue_factory: VenueFactory = venue_at,
    transport: httpx.AsyncBaseTransport | None = None,
) -> None:
    """Add the state of trading to the risk service. `transport` replaces the network towards other services in tests."""
    control = Trading(service, settings, venue_factory, transport)
    service.loop("trading-state", control.watch)
    service.loop("draining", control.drain, lease="draining")
    service.health_member(lambda: {"mode": control.mode})
    app = service.app

    @app.get("/trading/state", tags=["trading"])
    async def trading_states() -> Response:
        return answer(await control.overview())

    @app.post("/trading/state", tags=["trading"])
    async def change_state(body: StateBody, who: Annotated[Identity, Depends(auth.require(CONTROL))]) -> Response:
        account = control.known(body.account)
        change = await control.states.change(account, body.state, body.reason, who)
        return answer(await control.obeyed(change, body.wait_s))

    @app.post("/trading/pause", tags=["trading"])
    async def pause(who: Annotated[Identity, Depends(auth.require(CONTROL))], body: Asked | None = None) -> Response:
        asked = body or Asked()
        return answer(await control.tightened(asked.account, "paused", asked.reason, who))

    @app.post("/trading/shutdown", tags=["trading"])
    async def shutdown(who: Annotated[Identity, Depends(auth.require(CONTROL))], body: ShutdownBody | None = None) -> Response:
        asked = body or ShutdownBody()
        wishes = Wishes(keep_positions=asked.keep_positions)
        return answer(await control.tightened(asked.account, "draining", asked.reason, who, wishes))

    @app.post("/trading/safe-mode", tags=["trading"])
    async def safe_mode(who: Annotated[Identity, Depends(auth.require(CONTROL))], body: Asked | None = None) -> Response:
        asked = body or Asked()
        return answer(await control.tightened(asked.account, "reducing", asked.reason, who, Wishes(safe_mode=True)))

    @app.post("/trading/start", tags=["trading"])
    async def start(who: Annotated[Identity, Depends(auth.require(CONTROL))], body: Asked | None = None) -> Response:
        asked = body or Asked()
        return answer(await control.start(control.known(asked.account), asked.reason, who))

    @app.post("/trading/emergency-stop", tags=["trading"])
    async def emergency_stop(body: EmergencyBody, request: Request, who: Annotated[Identity, Depends(auth.require(EMERGENCY))]) -> Response:
        means = control.means(body.account, body.reason, who, request, flatten=body.flatten)
        return answer(await control.emergency_stop(means, body))

    @app.post("/orders/cancel-all", tags=["trading"])
    async def cancel_all(
        request: Request, who: Annotated[Identity, Depends(auth.require(EMERGENCY))], body: Asked | None = None
    ) -> Response:
        asked = body or Asked()
        return answer(await control.cancel_all(control.means(asked.account, asked.reason, who, request)))

    @app.post("/positions/emergency-close", tags=["trading"])
    async def emergency_close(
        request: Request, who: Annotated[Identity, Depends(auth.require(EMERGENCY))], body: Asked | None = None
    ) -> Response:
        if not settings.risk.emergency_close:
            raise Problem(409, "NOT_CONFIGURED", "closing positions in an emergency is off; set risk.emergency_close to true to allow it")
        asked = body or Asked()
        means = control.means(asked.account, asked.reason, who, request, flatten=True, state="reducing")
        return answer(await control.emergency_close(means))


class Trading:
    """The use cases. `mode` is what /health says of the platform's row: its state, `safe_mode`, or `unknown`."""

    def __init__(
        self, service: Service, settings: Settings, venue_factory: VenueFactory, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._db = service.db
        self._settings = settings
        self._venue_factory = venue_factory
        self._transport = transport
        self.states = TradingStates(service.db)
        self.mode = "unknown"

    def known(self, account: str) -> str:
        """The account's id, or "*". Raises Problem."""
        if account != PLATFORM and self._settings.account(account) is None:
            names = ", ".join(each.id for each in self._settings.accounts)
            raise Problem(404, "UNKNOWN_ACCOUNT", f'no account {account!r}; known: {names}, and "*" for all')
        return account

    # --- halting ------------------------------------------------------------------------------------------------------

    async def tightened(self, account: str, state: State, reason: str, who: Identity, wishes: Wishes | None = None) -> dict[str, Any]:
        """Make it at least that strict, and wait until everybody obeys."""
        change = await self.states.tighten(self.known(account), state, reason, f"user:{who.subject}", wishes)
        return await self.obeyed(change, ACKNOWLEDGED_WITHIN_S)

    async def obeyed(self, change: Change, within_s: float) -> dict[str, Any]:
        """The change as an answer, once no order of before it can reach a venue. Raises Problem 504; the change stays."""
        if change.changed:
            CHANGES.labels(change.account_id, change.state).inc()
        waiting: Sequence[Waiting] = ()
        if not trading_state.loosens(change.before, change.state):
            waiting = await self.states.await_halt(change.version, recv_windows(self._settings, change.account_id), within_s=within_s)
        document: dict[str, Any] = {
            "account": change.account_id,
            "state": change.state,
            "version": change.version,
            "changed": change.changed,
        }
        if waiting:
            log.error("a change of the trading state is not acknowledged", extra={**document, "waiting": [one.why for one in waiting]})
            names = "; ".join(f"{one.account_id} on {one.host or 'no host'}: {one.why}" for one in waiting)
            raise Problem(
                504, "HALT_NOT_ACKNOWLEDGED", f"{change.state} is in force, but not obeyed by everybody yet: {names}",
                **document, waiting=_waiting(waiting),
            )  # fmt: skip
        return document | {"acknowledged": True}

    # --- starting -----------------------------------------------------------------------------------------------------

    async def start(self, account: str, reason: str, who: Identity) -> dict[str, Any]:
        """Back to running, if the platform is well and nothing was tightened while that was looked at."""
        rows = {row.account_id: row for row in await self.states.rows()}
        row = rows.get(account)
        latched = [name for name in {account, PLATFORM} if name in rows and rows[name].state == "emergency_stopped"]
        if latched:
            by = rows[latched[0]]
            raise Problem(
                409, "EMERGENCY_STOPPED",
                f"{latched[0]} is emergency-stopped by {by.changed_by} ({by.reason}); an admin releases it to stopped first",
            )  # fmt: skip
        await self._assert_healthy()
        change = await self.states.change(account, "running", reason, who, seen_version=row.version if row else 0)
        if change.changed:
            CHANGES.labels(account, "running").inc()
        stricter = {name: other.state for name, other in rows.items() if name != account and other.state != "running"}
        return _changed(change) | {"stricter": stricter}

    async def _assert_healthy(self) -> None:
        async with self._client() as client:
            try:
                response = await client.get(self._settings.url("health") + "/health", timeout=HEALTH_WITHIN_S)
                document = response.json()
            except (httpx.HTTPError, ValueError) as error:
                raise Problem(
                    409,
                    "HEALTH_UNKNOWN",
                    f"trading-health does not say how the platform is ({type(error).__name__}); trading stays as it is",
                ) from None
        if response.status_code != httpx.codes.OK or not isinstance(document, dict):
            reasons = _reasons(document)
            raise Problem(409, "HEALTH_RED", f"the platform is not well: {'; '.join(reasons) or 'no cause given'}", reasons=reasons)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self._transport, trust_env=False, timeout=httpx.Timeout(5.0, connect=1.0))

    # --- emergencies --------------------------------------------------------------------------------------------------

    def means(
        self, account: str, reason: str, who: Identity, request: Request, *, flatten: bool = False, state: State = "emergency_stopped"
    ) -> PlatformMeans:
        """What the emergency is carried out with, in the name of who asks."""
        return PlatformMeans(
            self._settings, self._db, scope=self.known(account), reason=reason, actor=f"user:{who.subject}", flatten=flatten, state=state,
            authorization=request.headers.get("authorization"), venue_factory=self._venue_factory, transport=self._transport,
        )  # fmt: skip

    async def emergency_stop(self, means: PlatformMeans, body: EmergencyBody) -> dict[str, Any]:
        log.critical("emergency stop", extra={"account": body.account, "reason": body.reason, "flatten": body.flatten})
        try:
            report = await stop(means, tuple(means.windows), flatten=body.flatten, deadline_s=body.deadline_s)
            await _recorded(means, "emergency_stop", report)
        finally:
            await means.close()
        EMERGENCIES.labels("complete" if report.complete else "incomplete").inc()
        return _told(report, "EMERGENCY_STOP_INCOMPLETE")

    async def cancel_all(self, means: PlatformMeans) -> dict[str, Any]:
        try:
            report = await cancel(means, tuple(means.windows), deadline_s=ACKNOWLEDGED_WITHIN_S)
            await _recorded(means, "cancel_all", report)
        finally:
            await means.close()
        return _told(report, "ORDERS_LEFT")

    async def emergency_close(self, means: PlatformMeans) -> dict[str, Any]:
        try:
            report = await stop(means, tuple(means.windows), flatten=True, deadline_s=2 * ACKNOWLEDGED_WITHIN_S)
            await _recorded(means, "emergency_close", report)
        finally:
            await means.close()
        return _told(report, "POSITIONS_LEFT")

    # --- looking ------------------------------------------------------------------------------------------------------

    async def overview(self) -> dict[str, Any]:
        """Where trading stands: the rows, and for each account what counts, whether it is obeyed and what is left."""
        rows = {row.account_id: row for row in await self.states.rows()}
        windows = recv_windows(self._settings)
        open_orders: Mapping[str, int] = dict(await self._db.fetch_tuples(_OPEN))
        positions = await held(self._db, list(windows))
        accounts = []
        for account in windows:
            counting = _counting(rows, account)
            version = max((row.version for row in _both(rows, account)), default=0)
            waiting = await self.states.waiting(version, {account: windows[account]})
            accounts.append(
                {
                    "account": account,
                    "state": counting.state if counting else "stopped",
                    "version": version,
                    "acknowledged": not waiting,
                    "waiting_for": [one.why for one in waiting],
                    "open_orders": open_orders.get(account, 0),
                    "positions": [text for name, text in positions if name == account],
                }
                | (_decided(counting) if counting else {})
            )
        platform = rows.get(PLATFORM)
        return {
            "state": platform.state if platform else "stopped",
            "mode": mode(rows.values()),
            "rows": [{"account": row.account_id, "state": row.state, "version": row.version, **_decided(row)} for row in rows.values()],
            "accounts": accounts,
        }

    # --- loops --------------------------------------------------------------------------------------------------------

    async def watch(self, context: LoopContext) -> None:
        """Keep metrics and mode current; for Service.loop."""
        while not context.stopping:
            try:
                rows = {row.account_id: row for row in await self.states.rows()}
                windows = recv_windows(self._settings)
                for account in windows:
                    counting = _counting(rows, account)
                    version = max((row.version for row in _both(rows, account)), default=0)
                    waiting = await self.states.waiting(version, {account: windows[account]})
                    STATE.labels(account).set(trading_state.strictness(counting.state if counting else "stopped"))
                    VERSION.labels(account).set(version)
                    UNACKNOWLEDGED.labels(account).set(1 if waiting else 0)
            except BaseException:
                self.mode = "unknown"
                raise
            self.mode = mode(rows.values())
            context.beat()
            await context.sleep(WATCH_EVERY_S)

    async def drain(self, context: LoopContext) -> None:
        """What drains and has nothing open any more is stopped; for Service.loop with a lease."""
        while not context.stopping:
            for row in await self.states.rows():
                if row.state == "draining" and await self._drained(row):
                    await self.states.tighten(row.account_id, "stopped", f"drained: {row.reason}"[:500], ACTOR)
            context.beat()
            await context.sleep(WATCH_EVERY_S)

    async def _drained(self, row: Row) -> bool:
        """Whether no order is open and, unless they are to be kept, no position is held."""
        known = [account for (account,) in await self._db.fetch_tuples("SELECT id FROM accounts")]
        accounts = known if row.account_id == PLATFORM else [row.account_id]
        working = [account for account, _ in await self._db.fetch_tuples(_OPEN) if account in accounts]
        if working:
            return False
        return row.keep_positions or not await held(self._db, accounts)


async def _recorded(means: PlatformMeans, what: str, report: Report) -> None:
    """The audit event; where the database is away, the log has to do."""
    try:
        await asyncio.wait_for(means.record(what, report), RECORDED_WITHIN_S)
    except Exception:
        log.exception("no audit event could be written", extra={"what": what, **report.document()})


def _told(report: Report, code: str) -> dict[str, Any]:
    """The report as an answer. Raises Problem 504 where something is left or was not seen."""
    document = report.document()
    if report.complete:
        return document
    log.error("not complete", extra={"code": code, "left": report.left, "unseen": report.unseen})
    detail = "; ".join([*(f"left: {one}" for one in report.left), *(f"not seen: {one}" for one in report.unseen)])
    raise Problem(504, code, detail[:2000] or "time ran out", **document)


def _both(rows: Mapping[str, Row], account: str) -> list[Row]:
    return [rows[name] for name in (PLATFORM, account) if name in rows]


def _counting(rows: Mapping[str, Row], account: str) -> Row | None:
    """The row that decides for an account: the stricter one."""
    return max(_both(rows, account), key=lambda row: trading_state.strictness(row.state), default=None)


def _decided(row: Row) -> dict[str, Any]:
    return {"since": row.changed_at.astimezone(UTC), "by": row.changed_by, "reason": row.reason, "safe_mode": row.safe_mode}


def _changed(change: Change) -> dict[str, Any]:
    return {"account": change.account_id, "state": change.state, "version": change.version, "changed": change.changed}


def _waiting(waiting: Sequence[Waiting]) -> list[dict[str, str]]:
    return [{"account": one.account_id, "host": one.host, "why": one.why} for one in waiting]


def _reasons(document: Any) -> list[str]:
    """Why the platform is not well, from its /health document."""
    if not isinstance(document, dict):
        return []
    reasons = []
    for kind in ("dependencies", "loops"):
        parts = document.get(kind)
        for name, part in parts.items() if isinstance(parts, dict) else ():
            if isinstance(part, dict) and part.get("status") not in ("healthy", "running", "standby", "starting"):
                reasons.append(f"{name}: {part.get('detail') or part.get('status')}"[:300])
    return reasons
