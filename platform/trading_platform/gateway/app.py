"""Wiring and routes of the gateway. Every path below /api except the login names the permission it asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final

import httpx
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse, Response
from starlette.middleware import Middleware

from trading_platform.answers import answer
from trading_platform.auth import Authenticator
from trading_platform.config import Settings
from trading_platform.gateway import contract, login, trades, trading
from trading_platform.gateway.documentation import page
from trading_platform.gateway.edge import BodyLimit, PublicHealth
from trading_platform.gateway.throttle import LoginThrottle
from trading_platform.gateway.upstream import SERVICES, Upstreams
from trading_platform.gateway.users import Users
from trading_platform.gateway.websocket import Stream
from trading_platform.problems import Problem
from trading_platform.service import Service

Symbol = Annotated[str, PathParameter(pattern=r"^[A-Z0-9][A-Z0-9._-]{0,31}$", description="BTCUSDT, BTCUSD-PERP …")]
Account = Annotated[str | None, Query(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="default: the first account")]


class May:
    """A dependency: the caller's Authorization header, once it is known that he may. The service behind is told who asks."""

    def __init__(self, permission: str) -> None:
        self._permission = permission

    async def __call__(self, request: Request) -> str:
        header = request.headers.get("authorization") or ""
        auth: Authenticator = request.app.state.auth
        who = auth.identify(header)
        if not who.may(self._permission):
            raise Problem(403, "FORBIDDEN", f"role {who.role} lacks {self._permission}")
        return header


Market = Annotated[str, Depends(May("market_data.read"))]
Portfolio = Annotated[str, Depends(May("portfolio.read"))]
Risk = Annotated[str, Depends(May("risk.read"))]

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": contract.Problem, "description": description}
    for status, description in {
        401: "no token, or one that is not good (any more)",
        403: "the role may not",
        404: "there is no such thing",
        422: "the request is not understood",
        429: "too many requests",
        502: "a service behind is not reached or answers nonsense",
        503: "what was asked for is not known now; never answered with a guess",
        504: "a service behind is too slow",
    }.items()
}


def create(settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> Service:
    """The gateway. `transport` replaces the network towards the services behind in tests."""
    service = Service("gateway", settings)
    auth = service.app.state.auth = Authenticator()
    upstreams = Upstreams(settings, transport)
    service.on_stop(upstreams.close)
    for name in SERVICES:
        service.dependency(name, _ready(upstreams, name))
    users = Users(service.db)
    service.app.include_router(login.router(settings.gateway, auth, users, LoginThrottle(service.bus)), responses=ERRORS)
    service.app.include_router(_reads(service, upstreams), responses=ERRORS)
    trading.mount(service, upstreams, May, ERRORS)
    stream = Stream(service, auth, settings.gateway.websocket_clients)
    service.loop("quotes", stream.run)
    service.app.add_api_websocket_route("/ws", stream.serve)
    # Innermost, so that their answers are logged and carry the request id like all others.
    service.app.user_middleware.append(Middleware(BodyLimit, limit=settings.gateway.max_body_bytes))
    service.app.user_middleware.append(Middleware(PublicHealth, health=service.health))

    @service.app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(page(service.app.openapi()))

    return service


def _ready(upstreams: Upstreams, name: str) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        await upstreams.ready(name)

    return check


def _reads(service: Service, upstreams: Upstreams) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/market-data/{symbol}", response_model=contract.MarketData, tags=["market data"])
    async def market_data(symbol: Symbol, token: Market) -> Response:
        """The latest quote; an error when there is none or it is stale. Prices are decimal text."""
        return await upstreams.read("market-data", f"/market-data/{symbol}", contract.MarketData, token)

    @routes.get("/candles/{symbol}", response_model=contract.Candles, tags=["market data"])
    async def candles(
        symbol: Symbol,
        token: Market,
        interval: Annotated[int, Query(ge=1, le=604_800, description="seconds")] = 60,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: Annotated[int, Query(ge=1, le=5_000)] = 500,
    ) -> Response:
        """Closed candles opened in [start, end), the newest `limit` of them, oldest first."""
        params = {
            "interval": interval,
            "start": start.isoformat() if start else None,
            "end": end.isoformat() if end else None,
            "limit": limit,
        }
        return await upstreams.read("market-data", f"/candles/{symbol}", contract.Candles, token, params)

    @routes.get("/instruments", response_model=contract.Instruments, tags=["market data"])
    async def instruments(token: Market) -> Response:
        """What can be traded, and in which steps."""
        return await upstreams.read("market-data", "/instruments", contract.Instruments, token)

    @routes.get("/trades/recent", response_model=contract.Trades, tags=["trading"])
    async def recent_trades(token: Portfolio, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> Response:
        """The most recent fills, newest last."""
        return answer(await trades.recent(service.db, limit))

    @routes.get("/positions", response_model=contract.Positions, tags=["portfolio"])
    async def positions(token: Portfolio) -> Response:
        """What is held: facts as decimal text. What depends on a price is left out while there is none."""
        return await upstreams.read("portfolio", "/positions", contract.Positions, token, leave_out_unknown=True)

    @routes.get("/performance/daily", response_model=contract.DailyPerformance, tags=["portfolio"])
    async def daily_performance(
        token: Portfolio, day: Annotated[date | None, Query(alias="date")] = None, account: Account = None
    ) -> Response:
        """One UTC day's trades; the day before when none is named, today's being incomplete."""
        if day is not None and day > datetime.now(UTC).date():
            raise Problem(422, "INVALID_REQUEST", f"{day} has not been yet")
        params = {"date": day.isoformat() if day else None, "account": account}
        return await upstreams.read("portfolio", "/performance/daily", contract.DailyPerformance, token, params)

    @routes.get("/risk/summary", response_model=contract.RiskSummary, tags=["risk"])
    async def risk_summary(token: Risk, account: Account = None) -> Response:
        """Exposure, profit and drawdown with what is open; an error when a figure is not known."""
        return await upstreams.read("risk", "/risk/summary", contract.RiskSummary, token, {"account": account})

    @routes.get("/risk/current", response_model=contract.RiskCurrent, tags=["risk"])
    async def risk_current(token: Risk, account: Account = None) -> Response:
        """Today's loss and the exposure now."""
        return await upstreams.read("risk", "/risk/current", contract.RiskCurrent, token, {"account": account})

    return routes
