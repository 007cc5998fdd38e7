"""Wiring and routes of the engine.

Every order and cancel is audited by its events (`order_events`, with actor and times): they are not written a second time. A
request that is no order at all leaves no event, so it gets an audit event of its own, `order_rejected`.
"""

import base64
import binascii
import gc
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trading_platform import money, venue_keys
from trading_platform.answers import answer
from trading_platform.auth import Authenticator, Identity
from trading_platform.config import AccountSettings, Settings
from trading_platform.domain.orders import Order, OrderType, PositionSide, TimeInForce
from trading_platform.engine.core import Changes, NotOpen, OrderRequest, UnknownOrder
from trading_platform.engine.outbox import OutboxPublisher
from trading_platform.engine.service import AccountEngine, VenueFactory
from trading_platform.engine.session import NotLeading
from trading_platform.engine.store import OrderStore
from trading_platform.engine.venues import Venue, VenueRejected, VenueUnknown
from trading_platform.instruments import Catalogue, InvalidOrder, UnknownInstrument
from trading_platform.leadership import LeaseLost
from trading_platform.messages import Side
from trading_platform.problems import Problem
from trading_platform.service import Service

MAX_TEXT = 64


def _exact(value: Any) -> Any:
    """Amounts are text (or whole numbers), so that nobody's float is taken for money."""
    if isinstance(value, float):
        raise ValueError("send amounts as text, not as a JSON number with a point")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ValueError(f"an amount has at most {MAX_TEXT} characters")
    return value


Amount = Annotated[Decimal, BeforeValidator(_exact), Field(max_digits=36, gt=0)]
RequestId = Annotated[str, Field(min_length=1, max_length=64)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewOrder(_Body):
    """Body of POST /orders. `client_request_id` makes a repeat harmless."""

    account: str
    client_request_id: RequestId
    symbol: str
    side: Side
    type: OrderType
    quantity: Amount
    limit_price: Amount | None = None
    trigger_price: Amount | None = None
    time_in_force: TimeInForce = "GTC"
    expire_at: datetime | None = None
    post_only: bool = False
    reduce_only: bool = False
    position_side: PositionSide = "net"
    terms: dict[str, Any] | None = None


class Replacement(_Body):
    """Body of POST /orders/{id}/replace. `quantity` is the new total: what has filled counts towards it."""

    client_request_id: RequestId
    quantity: Amount | None = None
    limit_price: Amount | None = None
    trigger_price: Amount | None = None


class CancelAll(_Body):
    """Body of POST /orders/cancel-all: everything of the account, or of one symbol."""

    account: str
    symbol: str | None = None


class ClosePositions(_Body):
    """Body of POST /positions/close: everything is cancelled, then what is held is closed at the market."""

    account: str
    client_request_id: RequestId
    symbol: str | None = None


T = TypeVar("T")


def binance_venues(settings: Settings) -> VenueFactory:
    """Each account at its venue, by the settings. Raises ConfigError where a key lacks: now, not when an account is to be led."""
    for account in settings.accounts:
        venue_keys.of_account(settings, account)

    def make(account: AccountSettings, catalogue: Catalogue) -> Venue:
        from trading_platform.engine.venues import binance  # ccxt takes seconds and memory: only where an account is led

        return binance.of_account(settings, account, catalogue)

    return make


def create(settings: Settings, venue_factory: VenueFactory | None = None) -> Service:
    """The engine. `venue_factory` replaces the venues."""
    service = Service("engine", settings)
    auth = Authenticator()
    venues = venue_factory or binance_venues(settings)
    engines = {account.id: AccountEngine(account, settings, service.db, service.bus, venues) for account in settings.accounts}
    for account_id, engine in engines.items():
        service.loop(f"account:{account_id}", engine.run, lease=f"engine:{account_id}", admit=engine.admit)
    service.loop("outbox", OutboxPublisher(service.db, service.bus).run, lease="outbox")
    service.on_start(_calm_collector)
    service.health_member(lambda: {"leads": sorted(name for name, engine in engines.items() if engine.leading)})
    service.health_member(lambda: {"accounts": {name: standing for name, engine in engines.items() if (standing := engine.standing())}})
    store = OrderStore(service.db)

    def engine_of(account: str) -> AccountEngine:
        try:
            return engines[account]
        except KeyError:
            raise Problem(404, "UNKNOWN_ACCOUNT", f"no account {account!r}; known: {', '.join(engines)}") from None

    async def stored(client_order_id: str) -> Order:
        found = await store.get(client_order_id)
        if found is None:
            raise Problem(404, "UNKNOWN_ORDER", f"no order {client_order_id!r}")
        return found

    async def refused(who: Identity, subject: str, code: str, detail: str, asked: BaseModel) -> Problem:
        """Bad input leaves an audit event and nothing else."""
        document = {"code": code, "detail": detail, "request": asked.model_dump(mode="json")}
        await store.audit("order_rejected", f"user:{who.subject}", subject, document)
        return Problem(422, code, detail)

    async def asked(who: Identity, subject: str, body: BaseModel, request: Callable[[], Awaitable[T]]) -> T:
        """The answer, or the problem that stands in its way."""
        try:
            return await request()
        except InvalidOrder as error:
            raise await refused(who, subject, error.code, error.detail, body) from None
        except UnknownInstrument as error:
            raise await refused(who, subject, "UNKNOWN_INSTRUMENT", str(error), body) from None
        except money.MoneyError as error:
            raise await refused(who, subject, "INVALID_AMOUNT", str(error), body) from None
        except UnknownOrder:
            raise Problem(404, "UNKNOWN_ORDER", f"no order {subject!r}") from None
        except NotOpen as error:
            raise Problem(409, "ORDER_NOT_OPEN", str(error)) from None
        except (NotLeading, LeaseLost) as error:
            raise Problem(503, "NOT_LEADING", str(error), headers={"Retry-After": "2"}) from None

    @service.app.get("/orders", tags=["orders"])
    async def orders(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        open: bool = False,
        account: str | None = None,
        cursor: str | None = None,
    ) -> Response:
        found = await store.page(limit, only_open=open, account=account, before=None if cursor is None else _read_cursor(cursor))
        response = answer([_document(order) for order in found])
        if len(found) == limit:
            response.headers["X-Next-Cursor"] = _cursor(found[-1])
        return response

    @service.app.get("/orders/{client_order_id}", tags=["orders"])
    async def order(client_order_id: str) -> Response:
        document = _document(await stored(client_order_id))
        return answer(document | {"events": await store.events(client_order_id)})

    @service.app.get("/reconciliations", tags=["orders"])
    async def reconciliations(account: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        return answer(await store.reconciliations(account, limit))

    @service.app.get("/venues/usage", tags=["orders"])
    async def usage() -> Response:
        return answer(
            [
                {"account": name, "limit": one.limit, "used": one.used, "allowed": one.allowed, "interval_s": one.interval_s}
                for name, engine in engines.items()
                for one in engine.usage()
            ]
        )

    @service.app.post("/orders", tags=["orders"], status_code=201)
    async def place(body: NewOrder, who: Annotated[Identity, Depends(auth.require("trading.submit"))]) -> Response:
        engine = engine_of(body.account)
        fields = body.model_dump(exclude={"account", "client_request_id"})
        request = OrderRequest(origin=f"request:{who.subject}:{body.client_request_id}", **fields)
        placed, created = await asked(who, body.account, body, lambda: engine.place(request, f"user:{who.subject}"))
        if created and placed.order_seq == 2 and not placed.is_open:
            code = placed.reason_code or "DENIED"
            status = 409 if code.startswith("TRADING_") else 422
            raise Problem(status, code, placed.reason or "the order was refused", order=_text_document(placed))
        return answer(_document(placed), status=201 if created else 200)

    @service.app.post("/orders/cancel-all", tags=["orders"])
    async def cancel_all(body: CancelAll, who: Annotated[Identity, Depends(auth.require("trading.cancel"))]) -> Response:
        engine = engine_of(body.account)
        canceled = await asked(who, body.account, body, lambda: engine.cancel_all(f"user:{who.subject}", body.symbol))
        return answer({"orders": [_document(order) for order in canceled], "open": sum(order.is_open for order in canceled)})

    @service.app.post("/positions/close", tags=["orders"], status_code=202)
    async def close(body: ClosePositions, who: Annotated[Identity, Depends(auth.require("trading.submit"))]) -> Response:
        engine = engine_of(body.account)
        origin = f"{who.subject}:{body.client_request_id}"
        await asked(who, body.account, body, lambda: engine.flatten(origin, f"user:{who.subject}", body.symbol))
        return answer({"account": body.account, "symbol": body.symbol, "closing": True}, status=202)

    @service.app.post("/orders/{client_order_id}/cancel", tags=["orders"])
    async def cancel(client_order_id: str, who: Annotated[Identity, Depends(auth.require("trading.cancel"))]) -> Response:
        engine = engine_of((await stored(client_order_id)).intent.account_id)
        canceled = await asked(who, client_order_id, _Body(), lambda: engine.cancel(client_order_id, f"user:{who.subject}"))
        return answer(_document(canceled))

    @service.app.post("/orders/{client_order_id}/replace", tags=["orders"])
    async def replace(
        client_order_id: str, body: Replacement, who: Annotated[Identity, Depends(auth.require("trading.submit"))]
    ) -> Response:
        engine = engine_of((await stored(client_order_id)).intent.account_id)
        changes = Changes(
            origin=f"replace:{who.subject}:{body.client_request_id}",
            quantity=body.quantity,
            limit_price=body.limit_price,
            trigger_price=body.trigger_price,
        )
        first, second = await asked(who, client_order_id, body, lambda: engine.replace(client_order_id, changes, f"user:{who.subject}"))
        return answer({"replaced": _document(first), "order": None if second is None else _document(second)})

    @service.app.post("/reconciliations", tags=["orders"])
    async def reconcile(account: str, who: Annotated[Identity, Depends(auth.require("trading.control"))]) -> Response:
        engine = engine_of(account)
        try:
            found = await asked(who, account, _Body(), engine.reconcile)
        except (VenueUnknown, VenueRejected) as error:
            raise Problem(503, "VENUE_UNAVAILABLE", str(error), headers={"Retry-After": "2"}) from None
        return answer({"account": account, "identical": not found.differences, **found.detail()})

    return service


async def _calm_collector() -> None:
    """What is loaded by now stays; orders are freed by their counts, so there is little to find and much to walk past. Every order in
    progress waits for a walk: the young are looked at often, a few thousand at a time (2 ms at most), and the whole heap hardly ever.
    Python's default would walk it some times a second; 50,000 young ones at once took 12 to 45 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 5, 1_000)


def _cursor(order: Order) -> str:
    return base64.urlsafe_b64encode(f"{order.created_at.isoformat()} {order.id}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        at, _, order_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        return datetime.fromisoformat(at), order_id
    except (ValueError, binascii.Error):
        raise Problem(422, "INVALID_CURSOR", "cursor: take it from the answer's X-Next-Cursor header") from None


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
        "trigger_price": intent.trigger_price,
        "expire_at": intent.expire_at,
        "post_only": intent.post_only,
        "reduce_only": intent.reduce_only,
        "position_side": intent.position_side,
        "parent_id": intent.parent_id,
        "role": intent.role,
        "replaces": intent.replaces,
        "terms": intent.terms,
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
