"""From request parameters to an order that may be placed: mandatory parameters by type, precision, the symbol's filters. Pure."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from trading_platform import money
from trading_platform.instruments import Instrument
from trading_platform.paper_venue import errors, shapes
from trading_platform.paper_venue.errors import bad_request, filter_failure
from trading_platform.paper_venue.funds import Side
from trading_platform.paper_venue.parameters import Parameters
from trading_platform.paper_venue.shapes import OrderType, TimeInForce

ZERO = Decimal(0)
ICEBERG_PARTS = 100

PARAMETERS = (
    "symbol", "side", "type", "timeInForce", "quantity", "quoteOrderQty", "price", "newClientOrderId", "strategyId", "strategyType",
    "stopPrice", "icebergQty", "newOrderRespType", "selfTradePreventionMode", "recvWindow", "timestamp",
)  # fmt: skip

# What each type must have beside symbol, side and type; MARKET needs one of quantity and quoteOrderQty.
_MANDATORY: dict[OrderType, tuple[str, ...]] = {
    "LIMIT": ("timeInForce", "quantity", "price"),
    "MARKET": (),
    "STOP_LOSS": ("quantity", "stopPrice"),
    "STOP_LOSS_LIMIT": ("timeInForce", "quantity", "price", "stopPrice"),
    "TAKE_PROFIT": ("quantity", "stopPrice"),
    "TAKE_PROFIT_LIMIT": ("timeInForce", "quantity", "price", "stopPrice"),
    "LIMIT_MAKER": ("quantity", "price"),
}
_OPTIONAL: dict[OrderType, tuple[str, ...]] = {
    "LIMIT": ("icebergQty",),
    "MARKET": ("quantity", "quoteOrderQty"),
    "STOP_LOSS": (),
    "STOP_LOSS_LIMIT": ("icebergQty",),
    "TAKE_PROFIT": (),
    "TAKE_PROFIT_LIMIT": ("icebergQty",),
    "LIMIT_MAKER": ("icebergQty",),
}
_BY_TYPE = ("timeInForce", "quantity", "quoteOrderQty", "price", "stopPrice", "icebergQty")


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order that passed everything that can be judged without books and market; amounts that do not apply are 0."""

    account: str
    client_order_id: str
    instrument: Instrument
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    quote_quantity: Decimal
    price: Decimal
    stop_price: Decimal
    iceberg_quantity: Decimal
    response: str


def new_client_id() -> str:
    """An id for who sends none."""
    return secrets.token_hex(11)


def order_request(account: str, instrument: Instrument, parameters: Parameters) -> OrderRequest:
    """Raises VenueError with Binance's code for what is wrong first."""
    side = cast("Side", parameters.choice("side", ("BUY", "SELL"), -1117, "Invalid side.") or parameters.required("side"))
    kind = cast("OrderType", parameters.choice("type", shapes.ORDER_TYPES, -1116, "Invalid orderType.") or parameters.required("type"))
    stated_force = parameters.choice("timeInForce", ("GTC", "IOC", "FOK"), -1115, "Invalid timeInForce.")
    for name in _MANDATORY[kind]:
        parameters.required(name)
    for name in _BY_TYPE:
        if name in parameters and name not in _MANDATORY[kind] and name not in _OPTIONAL[kind]:
            raise bad_request(-1106, f"Parameter '{name}' sent when not required.")
    if kind == "MARKET" and ("quantity" in parameters) == ("quoteOrderQty" in parameters):
        if "quantity" in parameters:
            raise bad_request(-1106, "Parameter 'quoteOrderQty' sent when not required.")
        raise bad_request(-1102, "Param 'quantity' or 'quoteOrderQty' must be sent, but both were empty/null!")
    parameters.choice(
        "selfTradePreventionMode", ("NONE", "EXPIRE_MAKER", "EXPIRE_TAKER", "EXPIRE_BOTH", "DECREMENT"), -1130,
        "Data sent for parameter 'selfTradePreventionMode' is not valid.",
    )  # fmt: skip
    default = "FULL" if kind in ("LIMIT", "MARKET") else "ACK"
    response = parameters.choice(
        "newOrderRespType", ("ACK", "RESULT", "FULL"), -1130, "Data sent for parameter 'newOrderRespType' is not valid."
    )
    request = OrderRequest(
        account=account,
        client_order_id=parameters.client_id("newClientOrderId") or new_client_id(),
        instrument=instrument,
        side=side,
        type=kind,
        time_in_force=cast("TimeInForce", stated_force or "GTC"),
        quantity=parameters.decimal("quantity") or ZERO,
        quote_quantity=parameters.decimal("quoteOrderQty") or ZERO,
        price=parameters.decimal("price") or ZERO,
        stop_price=parameters.decimal("stopPrice") or ZERO,
        iceberg_quantity=parameters.decimal("icebergQty") or ZERO,
        response=response or default,
    )
    _check(request, parameters)
    return request


def _check(request: OrderRequest, parameters: Parameters) -> None:
    instrument = request.instrument
    base_places, quote_places = shapes.asset_precision(instrument)
    for name, value, places in (
        ("quantity", request.quantity, base_places),
        ("quoteOrderQty", request.quote_quantity, quote_places),
        ("price", request.price, quote_places),
        ("stopPrice", request.stop_price, quote_places),
        ("icebergQty", request.iceberg_quantity, base_places),
    ):
        if name not in parameters:
            continue
        if money.floor_to_step(value, Decimal(1).scaleb(-places)) != value:
            raise bad_request(-1111, f"Parameter '{name}' has too much precision.")
        if value == 0 and name != "icebergQty":
            what = "quantity" if name in ("quantity", "quoteOrderQty") else "price" if name == "price" else "stopPrice"
            raise bad_request(-1013, f"Invalid {what}.")
    for price in (request.price, request.stop_price):
        if price:
            _check_price(instrument, price)
    if request.quantity:
        _check_quantity(instrument, request.quantity, "LOT_SIZE")
        if request.type == "MARKET":
            _check_quantity(instrument, request.quantity, "MARKET_LOT_SIZE")
    if request.iceberg_quantity:
        _check_iceberg(request)
    if request.price and request.quantity:
        check_notional(instrument, request.quantity, request.price)
    elif request.stop_price:
        check_notional(instrument, request.quantity, request.stop_price)


def _check_price(instrument: Instrument, price: Decimal) -> None:
    if not instrument.tick_size <= price <= shapes.max_price(instrument) or money.floor_to_step(price, instrument.tick_size) != price:
        raise filter_failure("PRICE_FILTER")


def _check_quantity(instrument: Instrument, quantity: Decimal, name: str) -> None:
    if not instrument.min_quantity <= quantity <= instrument.max_quantity or money.floor_to_step(quantity, instrument.lot_size) != quantity:
        raise filter_failure(name)


def _check_iceberg(request: OrderRequest) -> None:
    if request.iceberg_quantity > request.quantity:
        raise errors.rejected("IcebergQty exceeds QTY.")
    if request.type != "LIMIT_MAKER" and request.time_in_force != "GTC":
        raise bad_request(-1013, "TimeInForce must be GTC for iceberg orders.")
    if request.iceberg_quantity < request.quantity:
        _check_quantity(request.instrument, request.iceberg_quantity, "LOT_SIZE")
    if request.quantity > request.iceberg_quantity * ICEBERG_PARTS:
        raise filter_failure("ICEBERG_PARTS")


def check_notional(instrument: Instrument, quantity: Decimal, price: Decimal) -> None:
    """The order's value against the NOTIONAL filter."""
    if instrument.notional(quantity, price) < instrument.min_notional:
        raise filter_failure("NOTIONAL")
