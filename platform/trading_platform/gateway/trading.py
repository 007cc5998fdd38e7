"""The public paths of halting and starting trading, and of emergencies. The risk service of this host does it, and asks who may.

All of them may be repeated. One that cannot be completed in time is a 504 whose document says what is left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from trading_platform.domain.trading_state import CONTROL, EMERGENCY, PLATFORM, State
from trading_platform.gateway import contract
from trading_platform.gateway.upstream import Upstreams
from trading_platform.service import LoopContext, Service
from trading_platform.trading_states import TradingStates, mode

# Longer than risk itself takes to say that something was not acknowledged, and than the longest emergency it is asked for.
OBEYED_WITHIN_S: Final = 40.0
CLOSED_WITHIN_S: Final = 45.0
MODE_EVERY_S: Final = 2.0

Reason = Annotated[str, Field(min_length=3, max_length=500, description="for the audit")]
Account = Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,31})$", description='an account, or "*" for all')]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    account: Account = PLATFORM


class Why(_Body):
    reason: Reason = "asked for through the API, no reason given"


class Shutdown(Why):
    keep_positions: Annotated[bool, Field(description="stopped once no order is open, whatever is held")] = False


class Change(_Body):
    state: State
    reason: Reason


class Emergency(_Body):
    reason: Reason
    flatten: Annotated[bool, Field(description="close what is held, too")] = False
    deadline_s: Annotated[float, Field(ge=5, le=40, description="how long to try; the edge gives an answer a minute")] = 30.0


def mount(
    service: Service, upstreams: Upstreams, may: Callable[[str], Callable[[Request], Awaitable[str]]], errors: dict[Any, Any]
) -> None:
    """Add the paths to the gateway. `may(permission)` is the dependency that lets pass who holds it, and gives his header."""
    routes = APIRouter(prefix="/api", tags=["trading"])
    answers = {**errors, 409: {"model": contract.Problem, "description": "not in this state, or not configured"}}

    async def act(path: str, shape: type[BaseModel], token: str, body: BaseModel, within_s: float = OBEYED_WITHIN_S) -> Response:
        return await upstreams.act("risk", path, shape, token, body.model_dump(mode="json"), timeout_s=within_s)

    @routes.get("/trading/state", response_model=contract.TradingOverview)
    async def state(token: Annotated[str, Depends(may("risk.read"))]) -> Response:
        """Where trading stands: for each account its state, who decided it and why, whether it is obeyed, and what is left."""
        return await upstreams.read("risk", "/trading/state", contract.TradingOverview, token)

    @routes.post("/trading/state", response_model=contract.TradingChange)
    async def change(body: Change, token: Annotated[str, Depends(may(CONTROL))]) -> Response:
        """Any change the caller may make. An emergency is released by an admin, to `stopped`."""
        return await act("/trading/state", contract.TradingChange, token, body)

    @routes.post("/trading/pause", response_model=contract.TradingChange)
    async def pause(token: Annotated[str, Depends(may(CONTROL))], body: Why | None = None) -> Response:
        """No new order; answered once no order can reach a venue."""
        return await act("/trading/pause", contract.TradingChange, token, body or Why())

    @routes.post("/trading/shutdown", response_model=contract.TradingChange)
    async def shutdown(token: Annotated[str, Depends(may(CONTROL))], body: Shutdown | None = None) -> Response:
        """Draining: only what reduces passes; stopped once no order is open and nothing is held."""
        return await act("/trading/shutdown", contract.TradingChange, token, body or Shutdown())

    @routes.post("/trading/start", response_model=contract.TradingChange)
    async def start(token: Annotated[str, Depends(may(CONTROL))], body: Why | None = None) -> Response:
        """Running again; refused while the platform is not well or an emergency was not released."""
        return await act("/trading/start", contract.TradingChange, token, body or Why())

    @routes.post("/admin/safe-mode", response_model=contract.TradingChange)
    async def safe_mode(token: Annotated[str, Depends(may(CONTROL))], body: Why | None = None) -> Response:
        """Only what reduces passes, and signals of strategies are ignored; ended by a start."""
        return await act("/trading/safe-mode", contract.TradingChange, token, body or Why())

    @routes.post("/trading/emergency-stop", response_model=contract.EmergencyReport)
    async def emergency_stop(body: Emergency, token: Annotated[str, Depends(may(EMERGENCY))]) -> Response:
        """Stop, cancel everything at the venue, close what is held if asked for; latched until an admin releases it."""
        return await act("/trading/emergency-stop", contract.EmergencyReport, token, body, body.deadline_s + 15)

    @routes.post("/orders/cancel-all", response_model=contract.EmergencyReport)
    async def cancel_all(token: Annotated[str, Depends(may(EMERGENCY))], body: Why | None = None) -> Response:
        """Cancel everything open; complete when the venue has shown nothing open."""
        return await act("/orders/cancel-all", contract.EmergencyReport, token, body or Why())

    @routes.post("/positions/emergency-close", response_model=contract.EmergencyReport)
    async def emergency_close(token: Annotated[str, Depends(may(EMERGENCY))], body: Why | None = None) -> Response:
        """Cancel everything, close what is held at the market, and let only what reduces pass from then on. Only if configured."""
        return await act("/positions/emergency-close", contract.EmergencyReport, token, body or Why(), CLOSED_WITHIN_S)

    service.app.include_router(routes, responses=answers)
    watch = _ModeWatch(TradingStates(service.db))
    service.loop("trading-mode", watch.run)
    service.health_member(lambda: {"mode": watch.mode})


class _ModeWatch:
    """What /health on this host says of trading: the platform's state, `safe_mode`, or `unknown`."""

    def __init__(self, states: TradingStates) -> None:
        self._states = states
        self.mode = "unknown"

    async def run(self, context: LoopContext) -> None:
        while not context.stopping:
            try:
                self.mode = mode(await self._states.rows())
            except (Exception, asyncio.CancelledError):
                self.mode = "unknown"
                raise
            context.beat()
            await context.sleep(MODE_EVERY_S)
