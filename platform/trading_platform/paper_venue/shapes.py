"""What goes over the wire, in Binance's words: documents of orders, trades, accounts, symbols and stream events. Pure.

Numbers are text with at least eight decimals, as Binance writes them; nothing is rounded to fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from trading_platform import money
from trading_platform.instruments import Instrument
from trading_platform.paper_venue.funds import Balance, Hold, Side, base_asset, venue_symbol

OrderType = Literal["LIMIT", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT", "LIMIT_MAKER"]
TimeInForce = Literal["GTC", "IOC", "FOK"]
Status = Literal["NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "REJECTED", "EXPIRED"]
Document = dict[str, Any]

ORDER_TYPES: tuple[OrderType, ...] = ("LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT")
OPEN: frozenset[str] = frozenset({"NEW", "PARTIALLY_FILLED"})
INTERVALS: dict[str, int] = {
    "1s": 1, "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "2h": 7200, "4h": 14400, "6h": 21600, "8h": 28800,
    "12h": 43200, "1d": 86400,
}  # fmt: skip
PLACES = 8


def number(value: Decimal) -> str:
    """Plain text with eight decimals, more where the value has them."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -PLACES:
        return f"{value:.8f}"
    text = money.text(value)
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:0<{PLACES}}"


@dataclass(slots=True)
class Order:
    """An order as the venue keeps it; amounts that do not apply are 0."""

    order_id: int
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
    status: Status
    executed: Decimal
    executed_quote: Decimal
    hold: Hold
    working: bool
    reason: str | None
    created_ms: int
    updated_ms: int
    working_ms: int

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.executed

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def symbol(self) -> str:
        return venue_symbol(self.instrument.symbol)


@dataclass(frozen=True, slots=True)
class Trade:
    """An execution of one of our orders. `executed_ms` is the venue's clock, `ts_event_ns` the market's."""

    instrument: Instrument
    trade_id: int
    order_id: int
    account: str
    buyer: bool
    maker: bool
    price: Decimal
    quantity: Decimal
    quote: Decimal
    fee: Decimal
    fee_asset: str
    executed_ms: int
    ts_event_ns: int


def _common(order: Order) -> Document:
    document: Document = {
        "price": number(order.price),
        "origQty": number(order.quantity),
        "executedQty": number(order.executed),
        "origQuoteOrderQty": number(order.quote_quantity),
        "cummulativeQuoteQty": number(order.executed_quote),
        "status": order.status,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "side": order.side,
    }
    if order.stop_price:
        document["stopPrice"] = number(order.stop_price)
    if order.iceberg_quantity:
        document["icebergQty"] = number(order.iceberg_quantity)
    return document


def acknowledgement(order: Order) -> Document:
    """newOrderRespType ACK."""
    return {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_order_id,
        "transactTime": order.updated_ms,
    }


def result(order: Order) -> Document:
    """newOrderRespType RESULT."""
    return acknowledgement(order) | _common(order) | {"workingTime": order.working_ms, "selfTradePreventionMode": "NONE"}


def full(order: Order, trades: Iterable[Trade]) -> Document:
    """newOrderRespType FULL: with what was executed at once."""
    fills = [
        {
            "price": number(trade.price),
            "qty": number(trade.quantity),
            "commission": number(trade.fee),
            "commissionAsset": trade.fee_asset,
            "tradeId": trade.trade_id,
        }
        for trade in trades
    ]
    return result(order) | {"fills": fills}


def canceled(order: Order, cancel_id: str) -> Document:
    """Answer to a cancel."""
    return (
        {
            "symbol": order.symbol,
            "origClientOrderId": order.client_order_id,
            "orderId": order.order_id,
            "orderListId": -1,
            "clientOrderId": cancel_id,
            "transactTime": order.updated_ms,
        }
        | _common(order)
        | {"selfTradePreventionMode": "NONE"}
    )


def queried(order: Order) -> Document:
    """An order as it is."""
    return (
        {"symbol": order.symbol, "orderId": order.order_id, "orderListId": -1, "clientOrderId": order.client_order_id}
        | _common(order)
        | {"stopPrice": number(order.stop_price), "icebergQty": number(order.iceberg_quantity)}
        | {
            "time": order.created_ms,
            "updateTime": order.updated_ms,
            "isWorking": order.working,
            "workingTime": order.working_ms,
            "selfTradePreventionMode": "NONE",
        }
    )


def my_trade(trade: Trade) -> Document:
    return {
        "symbol": venue_symbol(trade.instrument.symbol),
        "id": trade.trade_id,
        "orderId": trade.order_id,
        "orderListId": -1,
        "price": number(trade.price),
        "qty": number(trade.quantity),
        "quoteQty": number(trade.quote),
        "commission": number(trade.fee),
        "commissionAsset": trade.fee_asset,
        "time": trade.executed_ms,
        "isBuyer": trade.buyer,
        "isMaker": trade.maker,
        "isBestMatch": True,
    }


# --- events of the user data stream ---------------------------------------------------------------------------------------


def execution_report(order: Order, execution: str, now_ms: int, *, trade: Trade | None = None, cancel_id: str | None = None) -> Document:
    """`executionReport`; `execution` is NEW, TRADE, CANCELED, REJECTED or EXPIRED."""
    canceling = cancel_id is not None
    return {
        "e": "executionReport",
        "E": now_ms,
        "s": order.symbol,
        "c": cancel_id if canceling else order.client_order_id,
        "S": order.side,
        "o": order.type,
        "f": order.time_in_force,
        "q": number(order.quantity),
        "p": number(order.price),
        "P": number(order.stop_price),
        "F": number(order.iceberg_quantity),
        "g": -1,
        "C": order.client_order_id if canceling else "",
        "x": execution,
        "X": order.status,
        "r": order.reason if order.reason and order.status == "REJECTED" else "NONE",
        "i": order.order_id,
        "l": number(trade.quantity) if trade else "0.00000000",
        "z": number(order.executed),
        "L": number(trade.price) if trade else "0.00000000",
        "n": number(trade.fee) if trade else "0",
        "N": trade.fee_asset if trade else None,
        "T": order.updated_ms,
        "t": trade.trade_id if trade else -1,
        "I": order.order_id * 100 + (trade.trade_id % 100 if trade else 0),
        "w": order.working and order.is_open,
        "m": trade.maker if trade else False,
        "M": False,
        "O": order.created_ms,
        "Z": number(order.executed_quote),
        "Y": number(trade.quote) if trade else "0.00000000",
        "Q": number(order.quote_quantity),
        "W": order.working_ms,
        "V": "NONE",
    }


def account_position(balances: Iterable[tuple[str, Balance]], now_ms: int) -> Document:
    """`outboundAccountPosition`: the balances that changed."""
    return {
        "e": "outboundAccountPosition",
        "E": now_ms,
        "u": now_ms,
        "B": [{"a": asset, "f": number(balance.free), "l": number(balance.locked)} for asset, balance in balances],
    }


# --- the account and the symbols ------------------------------------------------------------------------------------------


def account(uid: int, balances: Mapping[str, Balance], maker: Decimal, taker: Decimal, updated_ms: int, *, omit_zero: bool) -> Document:
    listed = sorted(balances.items())
    return {
        "makerCommission": int(maker.scaleb(4)),
        "takerCommission": int(taker.scaleb(4)),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {"maker": number(maker), "taker": number(taker), "buyer": "0.00000000", "seller": "0.00000000"},
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": updated_ms,
        "accountType": "SPOT",
        "balances": [
            {"asset": asset, "free": number(balance.free), "locked": number(balance.locked)}
            for asset, balance in listed
            if not omit_zero or balance.free or balance.locked
        ],
        "permissions": ["SPOT"],
        "uid": uid,
    }


def max_price(instrument: Instrument) -> Decimal:
    """Highest price of the PRICE_FILTER: a billion ticks."""
    return instrument.tick_size * 1_000_000_000


def _decimals(step: Decimal) -> int:
    exponent = step.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def asset_precision(instrument: Instrument) -> tuple[int, int]:
    """Decimals taken of quantities and of prices: eight, more where the instrument is finer."""
    return max(PLACES, _decimals(instrument.lot_size)), max(PLACES, _decimals(instrument.tick_size))


def symbol_information(instrument: Instrument, max_open_orders: int) -> Document:
    """An entry of exchangeInfo's symbols."""
    base_places, quote_places = asset_precision(instrument)
    return {
        "symbol": venue_symbol(instrument.symbol),
        "status": "TRADING",
        "baseAsset": base_asset(instrument),
        "baseAssetPrecision": base_places,
        "quoteAsset": instrument.quote_currency,
        "quotePrecision": quote_places,
        "quoteAssetPrecision": quote_places,
        "baseCommissionPrecision": PLACES,
        "quoteCommissionPrecision": PLACES,
        "orderTypes": list(ORDER_TYPES),
        "icebergAllowed": True,
        "ocoAllowed": False,
        "otoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": True,
        "amendAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": number(instrument.tick_size),
                "maxPrice": number(max_price(instrument)),
                "tickSize": number(instrument.tick_size),
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": number(instrument.min_quantity),
                "maxQty": number(instrument.max_quantity),
                "stepSize": number(instrument.lot_size),
            },
            {"filterType": "ICEBERG_PARTS", "limit": 100},
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": number(instrument.min_quantity),
                "maxQty": number(instrument.max_quantity),
                "stepSize": number(instrument.lot_size),
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": number(instrument.min_notional),
                "applyMinToMarket": True,
                "maxNotional": number(max_price(instrument) * instrument.max_quantity),
                "applyMaxToMarket": False,
                "avgPriceMins": 0,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": max_open_orders},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def rate_limits(weight_per_minute: int, orders_per_10_s: int) -> list[Document]:
    return [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_per_minute},
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": orders_per_10_s},
    ]
