"""Wiring and routes of the engine."""

from decimal import Decimal
from typing import Annotated, Any

import httpx
from fastapi import Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from trading_platform.answers import answer
from trading_platform.auth import Authenticator, Identity
from trading_platform.config import Settings
from trading_platform.domain.orders import Order, OrderType, TimeInForce
from trading_platform.engine.outbox import OutboxPublisher
from trading_platform.engine.risk_client import RiskClient
from trading_platform.engine.service import AccountEngine, NotLeading, NotOpen, OrderRequest, UnknownOrder
from trading_platform.engine.store import OrderStore
from trading_platform.instruments import InvalidOrder, UnknownInstrument
from trading_platform.messages import Side
from trading_platform.problems import Problem
from trading_platform.service import Service


class NewOrder(BaseModel):
    """Body of POST /orders. Quantities and prices are decimal text; `client_request_id` makes a repeat harmless."""

    model_config = ConfigDict(extra="forbid")

    account: str
    client_request_id: Annotated[str, Field(min_length=1, max_length=64)]
    symbol: str
    side: Side
    type: OrderType
    quantity: Annotated[Decimal, Field(max_digits=36, gt=0)]
    limit_price: Annotated[Decimal, Field(max_digits=36, gt=0)] | None = None
    time_in_force: TimeInForce = "GTC"


def create(settings: Settings, risk_transport: httpx.AsyncBaseTransport | None = None) -> Service:
    """The engine. `risk_transport` replaces the network towards risk in tests."""
    service = Service("engine", settings)
    auth = Authenticator()
    risk = RiskClient(settings.url("risk"), settings.engine.risk_timeout_s, risk_transport)
    service.on_stop(risk.close)
    engines = {account.id: AccountEngine(account, settings, service.db, service.bus, risk) for account in settings.accounts}
    for account_id, engine in engines.items():
        service.loop(f"account:{account_id}", engine.run, lease=f"engine:{account_id}")
    service.loop("outbox", OutboxPublisher(service.db, service.bus).run, lease="outbox")
    service.health_member(lambda: {"leads": sorted(name for name, engine in engines.items() if engine.leading)})
    store = OrderStore(service.db)

    def engine_of(account: str) -> AccountEngine:
        try:
            return engines[account]
        except KeyError:
            raise Problem(404, "UNKNOWN_ACCOUNT", f"no account {account!r}; known: {', '.join(engines)}") from None

    @service.app.get("/orders", tags=["orders"])
    async def orders(limit: Annotated[int, Query(ge=1, le=1000)] = 100, open: bool = False) -> Response:
        return answer([_document(order) for order in await store.recent(limit, only_open=open)])

    @service.app.get("/orders/{client_order_id}", tags=["orders"])
    async def order(client_order_id: str) -> Response:
        found = await store.get(client_order_id)
        if found is None:
            raise Problem(404, "UNKNOWN_ORDER", f"no order {client_order_id!r}")
        return answer(_document(found))

    @service.app.post("/orders", tags=["orders"], status_code=201)
    async def place(body: NewOrder, who: Annotated[Identity, Depends(auth.require("trading.submit"))]) -> Response:
        request = OrderRequest(
            origin=f"request:{who.subject}:{body.client_request_id}",
            symbol=body.symbol,
            side=body.side,
            type=body.type,
            quantity=body.quantity,
            limit_price=body.limit_price,
            time_in_force=body.time_in_force,
        )
        try:
            placed, created = await engine_of(body.account).place(request, actor=f"user:{who.subject}")
        except InvalidOrder as error:
            raise Problem(422, error.code, error.detail) from None
        except UnknownInstrument as error:
            raise Problem(422, "UNKNOWN_INSTRUMENT", str(error)) from None
        except NotLeading as error:
            raise Problem(503, "NOT_LEADING", str(error), headers={"Retry-After": "2"}) from None
        if created and placed.reason_code and placed.order_seq == 2 and not placed.is_open:
            status = 409 if placed.reason_code.startswith("TRADING_") else 422
            raise Problem(status, placed.reason_code, placed.reason or "the order was refused", order=_text_document(placed))
        return answer(_document(placed), status=201 if created else 200)

    @service.app.post("/orders/{client_order_id}/cancel", tags=["orders"])
    async def cancel(client_order_id: str, who: Annotated[Identity, Depends(auth.require("trading.cancel"))]) -> Response:
        found = await store.get(client_order_id)
        if found is None:
            raise Problem(404, "UNKNOWN_ORDER", f"no order {client_order_id!r}")
        try:
            canceled = await engine_of(found.intent.account_id).cancel(client_order_id, actor=f"user:{who.subject}")
        except UnknownOrder:
            raise Problem(404, "UNKNOWN_ORDER", f"no order {client_order_id!r}") from None
        except NotOpen as error:
            raise Problem(409, "ORDER_NOT_OPEN", str(error)) from None
        except NotLeading as error:
            raise Problem(503, "NOT_LEADING", str(error), headers={"Retry-After": "2"}) from None
        return answer(_document(canceled))

    return service


def _document(order: Order) -> dict[str, Any]:
    intent = order.intent
    return {
        "client_order_id": order.id,
        "venue_order_id": order.venue_order_id,
        "account": intent.account_id,
        "symbol": intent.symbol,
        "side": intent.side,
        "type": intent.type,
        "time_in_force": intent.time_in_force,
        "quantity": intent.quantity,
        "limit_price": intent.limit_price,
        "status": order.status.value,
        "filled_quantity": order.filled_quantity,
        "filled_notional": order.filled_notional,
        "fees": order.fees,
        "reason_code": order.reason_code,
        "reason": order.reason,
        "strategy": intent.strategy,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }


def _text_document(order: Order) -> dict[str, str]:
    return {"client_order_id": order.id, "status": order.status.value}
