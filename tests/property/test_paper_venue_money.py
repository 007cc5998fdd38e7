"""The paper venue's books, whatever is asked of it and whatever the market does: nothing appears, nothing is lost, no debt in spot."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_platform import batches
from trading_platform.config import PaperVenueSettings
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.paper_venue.errors import VenueError
from trading_platform.paper_venue.exchange import Exchange, State
from trading_platform.paper_venue.filters import OrderRequest
from trading_platform.paper_venue.funds import Wallet, base_asset
from trading_platform.paper_venue.shapes import Trade


def instrument(identity: int, symbol: str, kind: Any) -> Instrument:
    return Instrument(
        id=identity, symbol=symbol, kind=kind, base_currency="BTC", quote_currency="USD", price_scale=2, size_scale=3,
        tick_size=Decimal("0.01"), lot_size=Decimal("0.001"), min_quantity=Decimal("0.001"), max_quantity=Decimal(1000),
        min_notional=Decimal(0), multiplier=Decimal(1),
    )  # fmt: skip


SPOT, PERPETUAL = instrument(1, "BTCUSD", "spot"), instrument(2, "BTCUSD-PERP", "perpetual")
CATALOGUE = Catalogue([SPOT, PERPETUAL])
OPENING = {"USD": Decimal(1000), "BTC": Decimal(5)}
START_MS = 1_700_000_000_000

TYPES = ("LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT")
prices = st.integers(9_000, 11_000).map(lambda cents: Decimal(cents).scaleb(-2))
quantities = st.integers(1, 20_000).map(lambda lots: Decimal(lots).scaleb(-3))
instruments = st.sampled_from([SPOT, PERPETUAL])
orders = st.tuples(
    st.just("place"), instruments, st.sampled_from(["BUY", "SELL"]), st.sampled_from(TYPES), st.sampled_from(["GTC", "IOC", "FOK"]),
    quantities, prices, prices, st.booleans(),
)  # fmt: skip
ticks = st.tuples(
    st.just("ticks"),
    instruments,
    st.integers(9_000, 11_000),
    st.integers(1, 200),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
    st.booleans(),
)
cancels = st.tuples(st.just("cancel"), st.integers(0, 50))
timers = st.tuples(st.just("timer"), st.integers(1, 5))


def exchange_with(dollars: Decimal = OPENING["USD"], **changes: Any) -> Exchange:
    wallet = Wallet()
    for asset, amount in {**OPENING, "USD": dollars}.items():
        wallet.pay_in(asset, amount)
    fees = {"maker_fee_bps": Decimal("1.3"), "taker_fee_bps": Decimal("7.7")}
    rules = PaperVenueSettings(slippage_bps=Decimal(30), **{**fees, **changes})
    exchange = Exchange(CATALOGUE, rules, State(wallets={"paper": wallet}))
    show(exchange, SPOT, 10_000, 10, 2_000, 2_000, False)
    show(exchange, PERPETUAL, 10_000, 10, 2_000, 2_000, False)
    exchange.take_changes()
    return exchange


def show(exchange: Exchange, of: Instrument, bid: int, spread: int, bid_size: int, ask_size: int, traded: bool) -> None:
    """A quote, and perhaps a trade at the bid before it."""
    rows = [(bid, bid_size, batches.BID), (bid + spread, ask_size, batches.ASK)]
    if traded:
        rows = [(bid, bid_size, batches.TRADE | batches.SELL_AGGRESSOR), *rows]
    price, size, flags = (np.array(column) for column in zip(*rows, strict=True))
    now_ns = np.full(len(rows), START_MS * 1_000_000, np.int64)
    batch = batches.TickBatch(
        np.full(len(rows), of.id, np.uint32), now_ns, now_ns, price.astype(np.int64), size.astype(np.int64), flags.astype(np.uint8)
    )
    exchange.on_ticks(batch, START_MS)


def place(exchange: Exchange, number: int, step: tuple[Any, ...]) -> None:
    _, of, side, kind, force, quantity, price, stop, iceberg = step
    limited, stops = "LIMIT" in kind, "STOP" in kind or "TAKE" in kind
    request = OrderRequest(
        account="paper",
        client_order_id=f"order-{number}",
        instrument=of,
        side=side,
        type=kind,
        time_in_force=force if kind in ("LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT") else "GTC",
        quantity=Decimal(0) if kind == "MARKET" and iceberg else quantity,
        quote_quantity=quantity * 50 if kind == "MARKET" and iceberg else Decimal(0),
        price=price if limited else Decimal(0),
        stop_price=stop if stops else Decimal(0),
        iceberg_quantity=quantity.quantize(Decimal("0.01")) / 10 if kind == "LIMIT" and iceberg and force == "GTC" else Decimal(0),
        response="FULL",
    )
    with suppress(VenueError):
        exchange.place(request, START_MS)


def check(exchange: Exchange, trades: list[Trade], fee_in_quote: bool) -> None:
    balances = exchange.wallets["paper"].balances
    locked: dict[str, Decimal] = defaultdict(Decimal)
    for order in exchange.open_orders("paper"):
        assert 0 <= order.executed < order.quantity
        locked[order.hold.asset] += order.hold.amount
    expected: dict[str, Decimal] = defaultdict(Decimal, OPENING)
    for trade in trades:
        signed = trade.quantity if trade.buyer else -trade.quantity
        expected[base_asset(trade.instrument)] += signed
        expected["USD"] -= trade.instrument.notional(signed, trade.price)
        expected[trade.fee_asset] -= trade.fee
    contract = base_asset(PERPETUAL)
    held = balances[contract].cost if contract in balances else Decimal(0)
    expected["USD"] += held  # of a perpetual only what is closed is paid for
    for asset in {*expected, *balances}:
        balance = balances.get(asset)
        total = balance.free + balance.locked if balance else Decimal(0)
        assert abs(total - expected[asset]) < Decimal("1e-12"), (asset, total, expected[asset])
        assert (balance.locked if balance else 0) == locked[asset]
    assert balances["BTC"].free >= 0
    if not any(trade.instrument is PERPETUAL for trade in trades):
        assert balances["USD"].free >= 0


def run(steps: list[tuple[Any, ...]], fee_asset: str) -> list[Trade]:
    exchange = exchange_with(fee_asset=fee_asset)
    trades: list[Trade] = []
    for number, step in enumerate(steps):
        match step[0]:
            case "place":
                place(exchange, number, step)
            case "ticks":
                show(exchange, *step[1:])
            case "cancel":
                opened = exchange.open_orders("paper")
                if opened:
                    exchange.cancel(opened[step[1] % len(opened)], START_MS, "cancel")
            case "timer":
                exchange.set_timer("paper", "*", step[1], START_MS)
                exchange.on_time(START_MS + 3)
        trades += exchange.take_changes().trades
        check(exchange, trades, fee_asset == "quote")
    return trades


@given(st.lists(st.one_of(orders, orders, ticks, cancels, timers), max_size=25), st.sampled_from(["quote", "received"]))
@settings(max_examples=150, deadline=None)
def test_every_balance_is_what_was_paid_in_and_traded_and_orders_hold_what_they_hold(steps: list[tuple[Any, ...]], fee_asset: str) -> None:
    run(steps, fee_asset)


@given(st.lists(st.one_of(orders, orders, ticks), max_size=25))
@settings(max_examples=60, deadline=None)
def test_spot_alone_never_gets_anybody_into_debt(steps: list[tuple[Any, ...]]) -> None:
    spot_only = [(step[0], SPOT, *step[2:]) for step in steps]
    for trade in run(spot_only, "quote"):
        assert trade.fee >= 0


def buy(kind: str, quantity: str, price: str = "0", stop: str = "0") -> OrderRequest:
    numbers = [Decimal(text) for text in (quantity, "0", price, stop, "0")]
    return OrderRequest("paper", "all-in", SPOT, "BUY", kind, "GTC", *numbers, response="FULL")  # type: ignore[arg-type]


def test_an_order_for_everything_leaves_room_for_its_fee() -> None:
    exchange = exchange_with(Decimal("100.077"))
    order, _ = exchange.place(buy("LIMIT", "1", "100.00"), START_MS)
    assert exchange.wallets["paper"].balances["USD"].free == 0
    show(exchange, SPOT, 9_990, 10, 5_000, 5_000, False)
    assert (order.status, exchange.wallets["paper"].balances["USD"].free >= 0) == ("FILLED", True)
    poorer = exchange_with(Decimal("100.076"))
    with pytest.raises(VenueError, match="insufficient balance"):
        poorer.place(buy("LIMIT", "1", "100.00"), START_MS)


def test_fees_rounded_up_do_not_take_more_than_was_held() -> None:
    exchange = exchange_with(Decimal("1.00087008"), maker_fee_bps=Decimal("7.7"))
    order, _ = exchange.place(buy("LIMIT", "0.010", "100.01"), START_MS)
    exchange.wallets["paper"].balances["USD"].free = Decimal(0)
    for _ in range(10):
        show(exchange, SPOT, 9_990, 10, 5_000, 1, False)
        assert exchange.wallets["paper"].balances["USD"].free >= 0
    assert order.status == "FILLED"


def test_a_stop_that_trades_far_beyond_its_price_buys_what_can_be_paid_and_no_more() -> None:
    exchange = exchange_with()
    exchange.on_ticks(_trade(10_000), START_MS)
    order, _ = exchange.place(buy("STOP_LOSS", "9.000", stop="105.00"), START_MS)
    show(exchange, SPOT, 19_990, 10, 5_000, 9_000, False)
    exchange.on_ticks(_trade(20_000), START_MS)
    balance = exchange.wallets["paper"].balances["USD"]
    assert (order.status, order.executed) == ("EXPIRED", Decimal("4.996"))
    assert balance.locked == 0
    assert 0 <= balance.free < Decimal(1)


def _trade(price: int) -> batches.TickBatch:
    one = np.array([START_MS * 1_000_000], np.int64)
    return batches.TickBatch(
        np.array([SPOT.id], np.uint32), one, one, np.array([price], np.int64), np.array([1], np.int64), np.array([batches.TRADE], np.uint8)
    )
