"""Wiring and routes of risk."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from trading_platform.answers import answer
from trading_platform.auth import Authenticator, Identity
from trading_platform.config import AccountSettings, Settings
from trading_platform.instruments import UnknownInstrument
from trading_platform.messages import Side
from trading_platform.problems import Problem
from trading_platform.risk import trading
from trading_platform.risk.old_figures import Figures, Unknown, risk_score
from trading_platform.risk.rules import Limits, OrderToCheck
from trading_platform.risk.service import Risk
from trading_platform.risk.store import RiskStore
from trading_platform.service import Service

Positive = Annotated[Decimal, Field(gt=0, max_digits=36)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OrderBody(_Body):
    client_order_id: Annotated[str, Field(min_length=1, max_length=64)]
    account: str
    symbol: str
    side: Side
    type: Literal["market", "limit"]
    quantity: Positive
    limit_price: Positive | None = None


class CheckBody(_Body):
    """Body of POST /risk/check."""

    orders: Annotated[list[OrderBody], Field(min_length=1, max_length=100)]


class LimitsBody(_Body):
    """Body of POST /risk/limits: a complete new version, and why."""

    account: str
    reason: Annotated[str, Field(min_length=3, max_length=500)]
    max_order_notional: Positive
    max_position_notional: Positive
    max_total_exposure: Positive
    max_orders_per_minute: Annotated[int, Field(ge=1, le=1_000_000)]
    price_collar: Annotated[Decimal, Field(gt=0, lt=1)]
    max_daily_loss: Positive
    max_data_age_s: Positive


def create(settings: Settings) -> Service:
    """The risk service."""
    service = Service("risk", settings)
    auth = Authenticator()
    store = RiskStore(service.db, service.bus, settings)
    risk = Risk(store, settings)
    service.loop("watch", risk.watch)

    def account_of(account_id: str | None) -> AccountSettings:
        wanted = account_id or settings.accounts[0].id
        account = settings.account(wanted)
        if account is None:
            known = ", ".join(each.id for each in settings.accounts)
            raise Problem(404, "UNKNOWN_ACCOUNT", f"no account {wanted!r}; known: {known}")
        return account

    async def figures_of(account: AccountSettings) -> tuple[Figures, Limits]:
        """Figures and limits, or a 503: an unknown loss is not a loss of nothing."""
        try:
            figures = await risk.figures(account)
        except Unknown as reason:
            raise Problem(503, "FIGURES_UNKNOWN", str(reason), headers={"Retry-After": "5"}) from None
        limits = await store.limits(account.id)
        if limits is None:
            raise Problem(503, "LIMITS_MISSING", f"account {account.id} has no limits yet", headers={"Retry-After": "5"})
        return figures, limits

    @service.app.post("/risk/check", tags=["risk"])
    async def check(body: CheckBody) -> Response:
        catalogue = await store.catalogue()
        by_account: dict[str, list[OrderToCheck]] = {}
        for item in body.orders:
            try:
                instrument = catalogue.symbol(item.symbol)
            except UnknownInstrument as error:
                raise Problem(422, "UNKNOWN_INSTRUMENT", str(error)) from None
            order = OrderToCheck(item.client_order_id, item.account, instrument, item.side, item.type, item.quantity, item.limit_price)
            by_account.setdefault(item.account, []).append(order)
        decided: dict[str, dict[str, Any]] = {}
        for account_id, orders in by_account.items():
            for order, decision in zip(orders, await risk.check(account_of(account_id), orders), strict=True):
                decided[order.client_order_id] = {
                    "client_order_id": order.client_order_id,
                    "accepted": decision.accepted,
                    "code": decision.code,
                    "detail": decision.detail,
                }
        return answer({"decisions": [decided[item.client_order_id] for item in body.orders]})

    @service.app.get("/risk/summary", tags=["risk"])
    async def summary(account: str | None = None) -> Response:
        of = account_of(account)
        figures, limits = await figures_of(of)
        document = {
            "account": of.id,
            "currency": of.currency,
            "total_exposure": figures.total_exposure,
            "daily_pnl": figures.daily_pnl,
            "max_drawdown": figures.max_drawdown,
            "open_positions": [_position(position) for position in figures.open_positions],
            "risk_score": risk_score(figures, limits),
            "equity": figures.equity,
            "drawdown": figures.drawdown,
            "realised_pnl": figures.realised_pnl,
            "unrealised_pnl": figures.unrealised_pnl,
            "fees": figures.fees,
            "limits_version": limits.version,
        }
        return answer(document, numbers=True)

    @service.app.get("/risk/current", tags=["risk"])
    async def current(account: str | None = None) -> Response:
        figures, limits = await figures_of(account_of(account))
        document = {
            "daily_loss": figures.daily_loss,
            "total_exposure": figures.total_exposure,
            "daily_loss_limit": limits.max_daily_loss,
            "total_exposure_limit": limits.max_total_exposure,
        }
        return answer(document, numbers=True)

    @service.app.get("/risk/limits", tags=["risk"])
    async def limits(account: str | None = None) -> Response:
        of = account_of(account)
        found = await store.limits(of.id)
        if found is None:
            raise Problem(503, "LIMITS_MISSING", f"account {of.id} has no limits yet", headers={"Retry-After": "5"})
        return answer({"account": of.id, **{name: getattr(found, name) for name in found.__slots__}})

    @service.app.post("/risk/limits", tags=["risk"], status_code=201)
    async def change_limits(body: LimitsBody, who: Annotated[Identity, Depends(auth.require("risk.manage"))]) -> Response:
        of = account_of(body.account)
        values = body.model_dump(exclude={"account", "reason"})
        version = await store.change_limits(of.id, Limits(version=0, **values), f"user:{who.subject}", body.reason)
        return answer({"account": of.id, "version": version}, status=201)

    @service.app.get("/risk/decisions", tags=["risk"])
    async def decisions(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        return answer(await store.decisions(limit))

    trading.mount(service, settings, auth)
    return service


def _position(position: Any) -> dict[str, Any]:
    return {name: getattr(position, name) for name in position.__slots__}
