"""Wiring and routes of risk."""

from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from trading_platform.answers import answer
from trading_platform.auth import Authenticator, Identity
from trading_platform.config import AccountSettings, Settings
from trading_platform.domain.figures import Figures, Unknown
from trading_platform.domain.orders import Intent, OrderType, PositionSide
from trading_platform.domain.risk import Limits, Measure, ratio, risk_score
from trading_platform.domain.trading_state import PLATFORM
from trading_platform.instruments import UnknownInstrument
from trading_platform.messages import Side
from trading_platform.problems import Problem
from trading_platform.risk import trading
from trading_platform.risk.service import Risk
from trading_platform.risk.store import RiskStore
from trading_platform.service import Service

Positive = Annotated[Decimal, Field(gt=0, max_digits=36)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[Decimal, Field(gt=0, le=1, max_digits=36)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OrderBody(_Body):
    client_order_id: Annotated[str, Field(min_length=1, max_length=64)]
    account: str
    symbol: str
    side: Side
    type: OrderType
    quantity: Positive
    limit_price: Positive | None = None
    trigger_price: Positive | None = None
    reduce_only: bool = False
    position_side: PositionSide = "net"


class CheckBody(_Body):
    """Body of POST /risk/check: orders that might be placed, each judged after those accepted before it. Nothing is reserved."""

    orders: Annotated[list[OrderBody], Field(min_length=1, max_length=100)]


class LimitsBody(_Body):
    """Body of POST /risk/limits: a complete new version for an account ("*": all together), and why. What is not stated is not limited."""

    account: str
    reason: Annotated[str, Field(min_length=3, max_length=500)]
    max_order_notional: Positive
    max_position_notional: Positive
    max_total_exposure: Positive
    max_orders_per_minute: Count
    max_orders_per_second: Count | None = None
    price_collar: Annotated[Decimal, Field(gt=0, lt=1, max_digits=36)]
    max_daily_loss: Positive
    max_data_age_s: Annotated[Decimal, Field(gt=0, le=3600, max_digits=36)]
    max_daily_loss_share: Share | None = None
    max_weekly_loss: Positive | None = None
    max_weekly_loss_share: Share | None = None
    max_monthly_loss: Positive | None = None
    max_monthly_loss_share: Share | None = None
    max_drawdown: Share | None = None
    max_leverage: Positive | None = None
    max_concentration: Positive | None = None
    max_consecutive_losses: Count | None = None
    max_reject_share: Share | None = None
    max_var: Share | None = None


def create(settings: Settings) -> Service:
    """The risk service."""
    service = Service("risk", settings)
    auth = Authenticator()
    store = RiskStore(service.db, service.bus, settings)
    risk = Risk(store, settings)
    service.loop("figures", risk.publish, lease="risk")
    service.loop("watch", risk.show)

    def account_of(account_id: str | None) -> AccountSettings:
        wanted = account_id or settings.accounts[0].id
        account = settings.account(wanted)
        if account is None:
            known = ", ".join(each.id for each in settings.accounts)
            raise Problem(404, "UNKNOWN_ACCOUNT", f"no account {wanted!r}; known: {known}")
        return account

    def account_or_all(account_id: str | None) -> str:
        return PLATFORM if account_id == PLATFORM else account_of(account_id).id

    async def figures_of(account: AccountSettings) -> tuple[Figures, Limits, list[Measure]]:
        """Figures, limits and their usage, or a 503: an unknown loss is not a loss of nothing."""
        try:
            figures = await risk.figures(account)
        except Unknown as reason:
            raise _unknown(str(reason)) from None
        return figures, *await usage_of(account.id)

    async def usage_of(account_id: str) -> tuple[Limits, list[Measure]]:
        found = await risk.usage(account_id)
        if found is None:
            raise Problem(503, "LIMITS_MISSING", f"{account_id} has no limits", headers={"Retry-After": "5"})
        unknown = [each.limit for each in found[1] if each.used is None]
        if unknown:
            raise _unknown(f"cannot be told: {', '.join(unknown)}", unknown=unknown)
        return found

    @service.app.post("/risk/check", tags=["risk"])
    async def check(body: CheckBody) -> Response:
        catalogue = await store.catalogue()
        by_account: dict[str, list[Intent]] = {}
        for item in body.orders:
            try:
                instrument = catalogue.symbol(item.symbol)
            except UnknownInstrument as error:
                raise Problem(422, "UNKNOWN_INSTRUMENT", str(error)) from None
            intent = Intent(
                item.client_order_id, item.account, instrument.symbol, instrument.id, account_of(item.account).venue, item.side, item.type,
                "GTC", item.quantity, item.limit_price, trigger_price=item.trigger_price, reduce_only=item.reduce_only,
                position_side=item.position_side,
            )  # fmt: skip
            by_account.setdefault(item.account, []).append(intent)
        decided: dict[str, dict[str, Any]] = {}
        for account_id, intents in by_account.items():
            for intent, decision in zip(intents, await risk.check(account_of(account_id), intents), strict=True):
                decided[intent.client_order_id] = {
                    "client_order_id": intent.client_order_id,
                    "accepted": decision.accepted,
                    "code": decision.code,
                    "detail": decision.detail,
                    "warnings": list(decision.warnings),
                }
        return answer({"decisions": [decided[item.client_order_id] for item in body.orders]})

    @service.app.get("/risk/summary", tags=["risk"])
    async def summary(account: str | None = None) -> Response:
        of = account_of(account)
        figures, limits, used = await figures_of(of)
        document = {
            "account": of.id,
            "currency": of.currency,
            "total_exposure": figures.total_exposure,
            "daily_pnl": figures.daily_pnl,
            "max_drawdown": figures.max_drawdown,
            "open_positions": [_position(position) for position in figures.open_positions],
            "risk_score": risk_score(used),
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
        figures, limits, _ = await figures_of(account_of(account))
        document = {
            "daily_loss": figures.daily_loss,
            "total_exposure": figures.total_exposure,
            "daily_loss_limit": limits.max_daily_loss,
            "total_exposure_limit": limits.max_total_exposure,
        }
        return answer(document, numbers=True)

    @service.app.get("/risk/limits", tags=["risk"])
    async def limits(account: str | None = None) -> Response:
        name = account_or_all(account)
        found = await store.limits(name)
        if found is None:
            raise Problem(503, "LIMITS_MISSING", f"{name} has no limits yet", headers={"Retry-After": "5"})
        return answer({"account": name, **{field: getattr(found, field) for field in found.__slots__}})

    @service.app.post("/risk/limits", tags=["risk"], status_code=201)
    async def change_limits(body: LimitsBody, who: Annotated[Identity, Depends(auth.require("risk.manage"))]) -> Response:
        name = account_or_all(body.account)
        values = body.model_dump(exclude={"account", "reason"})
        version = await store.change_limits(name, Limits(version=0, **values), f"user:{who.subject}", body.reason)
        return answer({"account": name, "version": version}, status=201)

    @service.app.get("/risk/limits/history", tags=["risk"])
    async def limit_history(account: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        return answer(await store.limit_history(account_or_all(account), limit))

    @service.app.get("/risk/limits/usage", tags=["risk"])
    async def usage(account: str | None = None) -> Response:
        name = account_or_all(account)
        in_force, used = await usage_of(name)
        rows = [{"limit": each.limit, "used": each.used, "allowed": each.allowed, "ratio": ratio(each)} for each in used]
        return answer({"account": name, "limits_version": in_force.version, "usage": rows})

    @service.app.get("/risk/var", tags=["risk"])
    async def value_at_risk(account: str | None = None) -> Response:
        row = await risk.published(account_or_all(account))
        if row is None or row.var_95 is None:
            why = "; ".join(row.reasons) if row else "the figures published last are missing or too old"
            raise _unknown(f"value at risk: {why}")
        document = {
            "account": row.account_id,
            "currency": row.currency,
            "computed_at": row.computed_at,
            "horizon_days": 1,
            "var_95": row.var_95,
            "var_99": row.var_99,
            "expected_shortfall": row.expected_shortfall,
            "notes": row.reasons,
        }
        return answer(document)

    @service.app.get("/risk/decisions", tags=["risk"])
    async def decisions(account: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        return answer(await store.decisions(account and account_of(account).id, limit))

    trading.mount(service, settings, auth)
    return service


def _unknown(detail: str, **members: Any) -> Problem:
    return Problem(503, "FIGURES_UNKNOWN", detail, headers={"Retry-After": "5"}, **members)


def _position(position: Any) -> dict[str, Any]:
    return {name: getattr(position, name) for name in position.__slots__}
