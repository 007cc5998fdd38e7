"""Wiring and routes of the portfolio."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from trading_platform.answers import answer
from trading_platform.config import AccountSettings, Settings
from trading_platform.portfolio.service import Portfolio, Unvaluable
from trading_platform.portfolio.store import PortfolioStore
from trading_platform.problems import Problem
from trading_platform.service import Service


def create(settings: Settings) -> Service:
    """The portfolio service."""
    service = Service("portfolio", settings)
    portfolio = Portfolio(service.db, service.bus, settings)
    store = PortfolioStore(service.db)
    service.loop("projection", portfolio.run, lease="portfolio")

    def account_of(account_id: str | None) -> AccountSettings:
        wanted = account_id or settings.accounts[0].id
        account = settings.account(wanted)
        if account is None:
            raise Problem(404, "UNKNOWN_ACCOUNT", f"no account {wanted!r}; known: {', '.join(each.id for each in settings.accounts)}")
        return account

    @service.app.get("/positions", tags=["portfolio"])
    async def positions() -> Response:
        """A bare array of what is held; money as text."""
        return answer(await portfolio.positions())

    @service.app.get("/trades/recent", tags=["portfolio"])
    async def recent_trades(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        """A bare array of fills, newest first; money as text."""
        return answer(await store.recent_trades(limit))

    @service.app.get("/balances", tags=["portfolio"])
    async def balances(account: str | None = None) -> Response:
        return answer(await store.balances(account_of(account).id))

    @service.app.get("/performance/daily", tags=["portfolio"])
    async def daily(day: Annotated[date | None, Query(alias="date")] = None, account: str | None = None) -> Response:
        """Figures of a UTC day, yesterday unless one is named; numbers, never null."""
        of = account_of(account)
        today = datetime.now(UTC).date()
        wanted = day or today - timedelta(days=1)
        if wanted > today:
            raise Problem(422, "DATE_IN_FUTURE", f"{wanted} has not begun (UTC)")
        if await store.unprojected(of.id):
            raise Problem(503, "PROJECTION_BEHIND", "fills are still being taken into the books; ask again", headers={"Retry-After": "1"})
        try:
            figures = await portfolio.daily(of, wanted)
        except Unvaluable as reason:
            raise Problem(503, "FIGURES_UNKNOWN", str(reason)) from None
        document = {"date": wanted.isoformat(), "complete": wanted < today, "account": of.id, "currency": of.currency}
        document |= {name: getattr(figures, name) for name in figures.__slots__}
        return answer(document, numbers=True)

    return service
