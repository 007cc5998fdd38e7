"""Wiring and routes of the portfolio."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from trading_platform.answers import answer
from trading_platform.auth import Authenticator, Identity
from trading_platform.config import AccountSettings, Currency, Settings
from trading_platform.domain import performance
from trading_platform.domain.ledger import InvalidTransfer, TransferKind
from trading_platform.domain.performance import By
from trading_platform.portfolio import transfers
from trading_platform.portfolio.service import MAX_CURVE_POINTS, Portfolio, Unvaluable, known
from trading_platform.portfolio.store import PortfolioStore, TooMuch
from trading_platform.portfolio.transfers import Refused, Transfer
from trading_platform.problems import Problem, problem_response
from trading_platform.service import Service

MAX_DAYS = 1_830
MAX_PERIODS = 400
PATIENCE_S = 2.0  # today's figures may lack what was recorded just now

_CONFLICTS = frozenset({"KEY_ALREADY_USED", "INSUFFICIENT_HOLDINGS"})


class TransferBody(BaseModel):
    """Body of POST /transfers: money that came or went without a trade. The same key again answers what was booked."""

    model_config = ConfigDict(extra="forbid")

    account: str
    kind: TransferKind
    currency: Currency
    amount: Annotated[Decimal, Field(allow_inf_nan=False, description="decimal text; signed for funding and adjustment")]
    key: Annotated[str, Field(pattern=transfers.KEY_PATTERN)]
    reason: Annotated[str, Field(min_length=3, max_length=500)]
    symbol: str | None = None
    occurred_at: AwareDatetime | None = None


def create(settings: Settings) -> Service:
    """The portfolio service."""
    service = Service("portfolio", settings)
    auth = Authenticator()
    portfolio = Portfolio(service.db, service.bus, settings)
    store = PortfolioStore(service.db)
    service.loop("projection", portfolio.run, lease="portfolio")

    def account_of(account_id: str | None) -> AccountSettings:
        wanted = account_id or settings.accounts[0].id
        account = settings.account(wanted)
        if account is None:
            raise Problem(404, "UNKNOWN_ACCOUNT", f"no account {wanted!r}; known: {', '.join(each.id for each in settings.accounts)}")
        return account

    async def figures_ready(account: AccountSettings, last: date) -> None:
        if await store.lacks(account.id, performance.day_bounds(last)[1], PATIENCE_S):
            raise Problem(503, "PROJECTION_BEHIND", "fills are still being taken into the books; ask again", headers={"Retry-After": "1"})

    @service.app.exception_handler(Unvaluable)
    async def _unvaluable(request: Request, error: Unvaluable) -> Response:
        return problem_response(request, 503, "FIGURES_UNKNOWN", str(error), {"Retry-After": "5"})

    @service.app.exception_handler(TooMuch)
    async def _too_much(request: Request, error: TooMuch) -> Response:
        return problem_response(request, 422, "SPAN_TOO_LONG", str(error))

    @service.app.get("/positions", tags=["portfolio"])
    async def positions(account: str | None = None) -> Response:
        """A bare array of what is held; money as text."""
        return answer(await portfolio.positions(account_of(account).id if account else None))

    @service.app.get("/trades/recent", tags=["portfolio"])
    async def recent_trades(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        """A bare array of fills, newest first; money as text."""
        return answer(await store.recent_trades(limit))

    @service.app.get("/round-trips", tags=["portfolio"])
    async def round_trips(
        account: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[int | None, Query(ge=1, description="the last `closed_seq` of the page before")] = None,
    ) -> Response:
        """A bare array of closed round trips, newest first; money as text, in the instrument's quote currency."""
        return answer(await portfolio.round_trips(account_of(account), limit, before))

    @service.app.get("/balances", tags=["portfolio"])
    async def balances(account: str | None = None) -> Response:
        """What the account has, by currency: net of fees, whatever they were taken from."""
        return answer([{"currency": currency, "amount": amount} for currency, amount in await store.balances(account_of(account).id)])

    @service.app.get("/ledger/totals", tags=["portfolio"])
    async def ledger_totals() -> Response:
        """What each currency's books sum to over all accounts: zero, or something is wrong."""
        totals = await store.ledger_totals()
        return answer({"balanced": all(total == 0 for _, total in totals), "totals": dict(totals)})

    @service.app.get("/performance/daily", tags=["portfolio"])
    async def daily(day: Annotated[date | None, Query(alias="date")] = None, account: str | None = None) -> Response:
        """Figures of a UTC day, yesterday unless one is named; numbers, never null: what cannot be known is absent."""
        of = account_of(account)
        today = datetime.now(UTC).date()
        wanted = day or today - timedelta(days=1)
        if wanted > today:
            raise Problem(422, "DATE_IN_FUTURE", f"{wanted} has not begun (UTC)")
        await figures_ready(of, wanted)
        figures, span = await portfolio.daily(of, wanted)
        document = {"date": wanted.isoformat(), "complete": wanted < today, "account": of.id, "currency": of.currency}
        document |= known(span.trips) | known(span.returns)
        document |= {name: getattr(figures, name) for name in figures.__slots__}
        if span.totals.slippage_bps is not None:
            document |= {"slippage": span.totals.slippage, "slippage_bps": span.totals.slippage_bps}
        return answer(document, numbers=True)

    @service.app.get("/performance/summary", tags=["portfolio"])
    async def summary(
        first: Annotated[date | None, Query(alias="from")] = None,
        last: Annotated[date | None, Query(alias="to")] = None,
        account: str | None = None,
    ) -> Response:
        """Figures of a span of UTC days, both included; the last thirty unless named. What cannot be known is absent."""
        of = account_of(account)
        first, last = _days(first, last)
        await figures_ready(of, last)
        span = await portfolio.summary(of, first, last)
        return answer({"account": of.id, "currency": of.currency, **span.document()}, numbers=True)

    @service.app.get("/performance/periods", tags=["portfolio"])
    async def periods(
        by: By = "day",
        first: Annotated[date | None, Query(alias="from")] = None,
        last: Annotated[date | None, Query(alias="to")] = None,
        account: str | None = None,
    ) -> Response:
        """A bare array: the figures of each UTC day, ISO week or month with a day in the span, oldest first."""
        of = account_of(account)
        first, last = _days(first, last)
        if (count := sum(1 for _ in performance.periods(by, first, last))) > MAX_PERIODS:
            raise Problem(422, "SPAN_TOO_LONG", f"{count} periods; at most {MAX_PERIODS}: ask for a shorter span or longer periods")
        await figures_ready(of, last)
        spans = await portfolio.periods(of, by, first, last)
        return answer([{"account": of.id, "currency": of.currency, **span.document()} for span in spans], numbers=True)

    @service.app.get("/equity", tags=["portfolio"])
    async def equity(
        start: Annotated[AwareDatetime | None, Query(alias="from")] = None,
        end: Annotated[AwareDatetime | None, Query(alias="to")] = None,
        step: Annotated[int, Query(ge=60, le=31 * 86_400, description="seconds")] = 3600,
        account: str | None = None,
    ) -> Response:
        """The equity curve in [from, to): the last value seen in each step that has one, oldest first. The last day unless named."""
        of = account_of(account)
        end = (end or datetime.now(UTC)).astimezone(UTC)
        start = (start or end - timedelta(days=1)).astimezone(UTC)
        if start >= end:
            raise Problem(422, "SPAN_EMPTY", f"from {start.isoformat()} is not before to {end.isoformat()}")
        points = -(-int((end - start).total_seconds()) // step)
        if points > MAX_CURVE_POINTS:
            raise Problem(422, "STEP_TOO_SMALL", f"{points} points; at most {MAX_CURVE_POINTS}: ask for a longer step or a shorter span")
        names = ("equity", "capital", "realised", "unrealised", "fees", "carry", "exposure")
        curve = [
            {"timestamp": int(each.at.timestamp() * 1000), **{name: getattr(each, name) for name in names}}
            for each in await portfolio.curve(of, start, end, step)
        ]
        return answer({"account": of.id, "currency": of.currency, "step": step, "points": curve}, numbers=True)

    @service.app.post("/transfers", tags=["portfolio"], status_code=201)
    async def transfer(body: TransferBody, who: Annotated[Identity, Depends(auth.require("portfolio.manage"))]) -> Response:
        """Book money that came or went without a trade: 201, or 200 when that key was booked already."""
        asked = Transfer(
            account_of(body.account).id, body.kind, body.currency, body.amount, body.key, body.reason, body.symbol, body.occurred_at
        )
        try:
            booked = await transfers.book(service.db, settings, asked, f"user:{who.subject}")
        except (Refused, InvalidTransfer) as refused:
            raise Problem(409 if refused.code in _CONFLICTS else 422, refused.code, refused.detail) from None
        document = {name: getattr(booked, name) for name in booked.__slots__ if name != "created"}
        return answer(document, status=201 if booked.created else 200)

    return service


def _days(first: date | None, last: date | None) -> tuple[date, date]:
    """A span of days that have begun, both included. Raises Problem."""
    today = datetime.now(UTC).date()
    last = last or today
    first = first or last - timedelta(days=29)
    if last > today:
        raise Problem(422, "DATE_IN_FUTURE", f"{last} has not begun (UTC)")
    if first > last:
        raise Problem(422, "SPAN_EMPTY", f"from {first} is after to {last}")
    if (last - first).days >= MAX_DAYS:
        raise Problem(422, "SPAN_TOO_LONG", f"{first} to {last} is more than {MAX_DAYS} days")
    return first, last
