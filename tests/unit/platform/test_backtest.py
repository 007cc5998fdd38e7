"""The backtest: fills worked out by hand, the same run to the letter every time, and nothing that knows the future."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from trading_platform.backtest import __main__ as command
from trading_platform.backtest import instruments
from trading_platform.backtest.columns import TickColumns
from trading_platform.backtest.fingerprint import Fingerprint
from trading_platform.backtest.result import Result
from trading_platform.backtest.runner import Backtest, BacktestFailed, Setup
from trading_platform.backtest.strategies import CancelRequest, ConfiguredStrategy, Script, Wish
from trading_platform.backtest.venue import Answered, CancelAnswered, Said, moment
from trading_platform.batches import ASK, BID, SELL_AGGRESSOR, TRADE, TickBatch
from trading_platform.config import AccountSettings, LimitSettings, PaperVenueSettings, StrategySettings
from trading_platform.domain.matching import Top
from trading_platform.domain.models import BasisPoints, ConstantLatency, Models, flat_fees
from trading_platform.domain.orders import Fill, Intent, Order
from trading_platform.domain.risk import Limits
from trading_platform.engine.core import OrderRequest
from trading_platform.engine.venues import VenueOrder, VenueRejected, VenueReport, VenueTrade
from trading_platform.market.synthetic import SyntheticMarket, synthetic_instrument
from trading_platform.market.ticks import Ticks
from trading_platform.paper_venue.errors import VenueError
from trading_platform.paper_venue.exchange import Exchange, State
from trading_platform.paper_venue.filters import OrderRequest as PaperRequest
from trading_platform.paper_venue.funds import Wallet
from trading_platform.paper_venue.shapes import Order as PaperOrder

D = Decimal
SECOND = 1_000_000_000
START = 1_767_600_000 * SECOND  # 2026-01-05T08:00:00Z
CATALOGUE = instruments.catalogue()
PLATFORM = Path(__file__).parents[3] / "platform"

Row = tuple[float, str, int, str, str]  # seconds from the start, symbol, flags, price, size


def ticks(rows: Iterable[Row]) -> Ticks:
    seconds, symbols, flags, prices, sizes = zip(*rows, strict=True)
    known = [CATALOGUE.symbol(symbol) for symbol in symbols]
    return Ticks(
        np.array([instrument.id for instrument in known], dtype=np.uint32),
        np.array([START + round(second * SECOND) for second in seconds], dtype=np.int64),
        np.array([each.scaled_price(D(price)) for each, price in zip(known, prices, strict=True)], dtype=np.int64),
        np.array([each.scaled_size(D(size)) for each, size in zip(known, sizes, strict=True)], dtype=np.int64),
        np.array(flags, dtype=np.uint8),
    )


def quote(second: float, bid: str, ask: str, size: str = "1", symbol: str = "BTCUSDT") -> list[Row]:
    return [(second, symbol, BID, bid, size), (second, symbol, ASK, ask, size)]


def trade(second: float, price: str, size: str = "1", symbol: str = "BTCUSDT") -> list[Row]:
    return [(second, symbol, TRADE | SELL_AGGRESSOR, price, size)]


class Venue(Protocol):
    """What a run asks of a venue: see SimulatedVenue."""

    def submit(self, intent: Intent, now_ns: int) -> list[Said]: ...
    def cancel(self, order: Order, now_ns: int) -> list[Said]: ...
    def query(self, order_id: str) -> VenueOrder | None: ...
    def on_ticks(self, ticks: TickColumns, at: int, stop: int) -> tuple[int, list[Said]]: ...
    def on_time(self, now_ns: int) -> list[Said]: ...
    def next_due(self) -> int | None: ...
    def top(self, instrument_id: int) -> Top: ...


class OnPaper:
    """The paper venue's exchange, asked as the adapter asks it."""

    def __init__(self, settings: PaperVenueSettings, balances: dict[str, Decimal]) -> None:
        wallet = Wallet()
        for asset, amount in balances.items():
            wallet.pay_in(asset, amount)
        self._exchange = Exchange(CATALOGUE, settings, State({"paper": wallet}))
        self.models = self._exchange.models
        self._numbers: dict[str, int] = {}
        self._orders: dict[int, PaperOrder] = {}

    def submit(self, intent: Intent, now_ns: int) -> list[Said]:
        kinds: dict[str, Any] = {"market": "MARKET", "limit": "LIMIT", "stop": "STOP_LOSS", "stop_limit": "STOP_LOSS_LIMIT"}
        request = PaperRequest(
            account="paper",
            client_order_id=intent.client_order_id,
            instrument=CATALOGUE.symbol(intent.symbol),
            side="BUY" if intent.side == "buy" else "SELL",
            type="LIMIT_MAKER" if intent.post_only else kinds[intent.type],
            time_in_force="GTC" if intent.time_in_force in ("DAY", "GTD") else intent.time_in_force,  # type: ignore[arg-type]
            quantity=intent.quantity,
            quote_quantity=D(0),
            price=intent.limit_price or D(0),
            stop_price=intent.trigger_price or D(0),
            iceberg_quantity=D(0),
            response="FULL",
        )
        try:
            order, _ = self._exchange.place(request, now_ns // 1_000_000)
        except VenueError as refusal:
            words = {"match and take": "POST_ONLY_WOULD_TAKE", "would trigger": "STOP_WOULD_TRIGGER", "insufficient": "INSUFFICIENT_FUNDS"}
            code = next((code for word, code in words.items() if word in refusal.message), "VENUE_FILTER")
            return [Answered(intent.client_order_id, VenueRejected(code, refusal.message))]
        self._numbers[intent.client_order_id] = order.order_id
        return [Answered(intent.client_order_id, replace(self._told(order, D(0)), status="NEW")), *self._said()]

    def cancel(self, order: Order, now_ns: int) -> list[Said]:
        theirs = self._exchange.find_open("paper", CATALOGUE.symbol(order.intent.symbol), self._numbers.get(order.id, -1), None)
        if theirs is None:
            return [CancelAnswered(order.id, VenueRejected("ORDER_NOT_OPEN", "Unknown order sent."))]
        self._exchange.cancel(theirs, now_ns // 1_000_000, "cancel")
        return [CancelAnswered(order.id, self._told(theirs, theirs.executed)), *self._said()]

    def query(self, order_id: str) -> VenueOrder | None:
        theirs = self._orders.get(self._numbers.get(order_id, -1))
        return None if theirs is None else self._told(theirs, theirs.executed)

    def on_ticks(self, ticks: TickColumns, at: int, stop: int) -> tuple[int, list[Said]]:
        columns = (getattr(ticks, name)[at : at + 1] for name in ("instrument", "ts_event", "ts_recv", "price", "size", "flags"))
        self._exchange.on_ticks(TickBatch(*columns), int(ticks.ts_recv[at]) // 1_000_000)
        return at + 1, self._said()

    def on_time(self, now_ns: int) -> list[Said]:
        return []

    def next_due(self) -> int | None:
        return None

    def top(self, instrument_id: int) -> Top:
        return self._exchange.book(CATALOGUE.id(instrument_id)).top()

    def _said(self) -> list[Said]:
        """What has changed since the last time, as the user stream tells it."""
        changes = self._exchange.take_changes()
        self._orders |= changes.orders
        said: list[Said] = []
        told = {
            number: order.executed - sum(t.quantity for t in changes.trades if t.order_id == number)
            for number, order in changes.orders.items()
        }
        for trade in changes.trades:
            order = self._orders[trade.order_id]
            told[trade.order_id] += trade.quantity
            fill = Fill(
                f"{order.instrument.symbol}:{trade.trade_id}", trade.quantity, trade.price, trade.fee, trade.fee_asset,
                "maker" if trade.maker else "taker", moment(trade.executed_ms * 1_000_000), trade.ts_event_ns,
            )  # fmt: skip
            now = replace(
                self._told(order, told[trade.order_id]), status="FILLED" if told[trade.order_id] == order.quantity else "PARTIALLY_FILLED"
            )
            said.append(VenueReport(now, VenueTrade(order.instrument.symbol, order.client_order_id, fill)))
        said += [VenueReport(self._told(order, order.executed)) for order in changes.orders.values() if order.status == "EXPIRED"]
        return said

    @staticmethod
    def _told(order: PaperOrder, filled: Decimal) -> VenueOrder:
        status: Any = order.status
        return VenueOrder(order.instrument.symbol, order.client_order_id, str(order.order_id), status, filled)


def limits(**changes: Any) -> Limits:
    generous = {"max_order_notional": D(1_000_000), "max_position_notional": D(1_000_000), "max_total_exposure": D(1_000_000)}
    return replace(command.limits_of(LimitSettings()), **generous, **changes)


def setup(**changes: Any) -> Setup:
    chosen: dict[str, Any] = {
        "catalogue": CATALOGUE,
        "symbols": ("BTCUSDT",),
        "account": AccountSettings(id="paper", currency="USDT", opening_balances={"USDT": D(10_000)}),
        "limits": limits(),
        "models": Models(fees=flat_fees(D(1), D(5))),
    }
    return Setup(**chosen | changes)


def order(origin: str, side: Any, quantity: str, limit: str | None = None, **options: Any) -> OrderRequest:
    kind = options.pop("type", "market" if limit is None else "limit")
    return OrderRequest(origin, options.pop("symbol", "BTCUSDT"), side, kind, D(quantity), None if limit is None else D(limit), **options)


def play(rows: Sequence[Row], wishes: Sequence[tuple[float, Wish]], *, on: Venue | None = None, **changes: Any) -> Result:
    """A script over these ticks; `on` another venue than the backtest's own."""
    run = Backtest(setup(**changes), Script([(START + round(second * SECOND), wish) for second, wish in wishes]))
    if on is not None:
        run._venue = on  # type: ignore[assignment]
    return run.run([ticks(rows)])


def fills(result: Result) -> list[tuple[float, str, str, str, str, str]]:
    """(seconds from the start, side, price, quantity, fee, liquidity)"""
    return [
        (
            (line.fill.ts_event_ns - START) / SECOND,
            line.side,
            *(format(number.normalize(), "f") for number in (line.fill.price, line.fill.quantity, line.fill.fee)),
            line.fill.liquidity,
        )
        for line in result.fills
    ]


def by_origin(result: Result) -> dict[str, str]:
    return {each.intent.type + ":" + (each.intent.role or ""): each.status.value for each in result.orders}


# --- by hand -------------------------------------------------------------------------------------------------------------


def test_a_tiny_run_gives_the_fills_the_books_and_the_figures_worked_out_by_hand() -> None:
    rows = [
        *quote(0, "40000", "40010", "0.1"),
        *trade(2, "40000", "0.07"),  # of the 0.1 ahead of our bid
        *trade(3, "40000", "0.05"),  # 0.03 are left ahead, 0.02 are ours
        *quote(5, "40100", "40110", "0.1"),
        *quote(9, "40200", "40210", "0.1"),
    ]
    result = play(
        rows,
        [
            (1, order("rest", "buy", "0.05", "40000")),
            (4, order("gone", "buy", "0.01", "39000")),
            (4.5, CancelRequest("gone")),
            (6, order("leave", "sell", "0.02")),
        ],
    )
    assert fills(result) == [(3, "buy", "40000", "0.02", "0.08", "maker"), (5, "sell", "40100", "0.02", "0.401", "taker")]
    # 10,000 − 800 − 0.08 + 802 − 0.401
    assert result.balances == {"BTC": D(0), "USDT": D("10001.519")}
    assert result.equity == D("10001.519")
    assert result.trips.round_trips == 1
    assert result.trips.gross_profit == D("1.519")
    assert [each.status.value for each in result.orders] == ["PARTIALLY_FILLED", "CANCELED", "FILLED"]


def test_a_result_is_the_same_whether_it_is_counted_from_balances_or_from_trades() -> None:
    rows = [
        row for second in range(0, 200, 2) for row in quote(second, str(40_000 + second * 7 % 97), str(40_100 + second * 5 % 89), "0.02")
    ]
    wishes = [(second + 0.5, order(str(second), "buy" if second % 3 else "sell", "0.01")) for second in range(2, 190, 2)]
    result = play(rows, wishes)
    bid, ask = 40_000 + 198 * 7 % 97, 40_100 + 198 * 5 % 89
    mark = (D(bid) + D(ask)) / 2
    assert result.balances["USDT"] + result.balances["BTC"] * mark == result.equity
    assert len(result.fills) > 50


def test_what_a_market_order_pays_behind_the_top_is_the_slippage_models_to_say() -> None:
    result = play(quote(0, "40000", "40010", "0.01"), [], models=Models())
    assert fills(result) == []
    rows = [*quote(0, "40000", "40010", "0.01"), *quote(9, "40000", "40010", "0.01")]
    result = play(rows, [(1, order("a", "buy", "0.03"))], models=Models(slippage=BasisPoints(D(10))))
    assert fills(result) == [(0, "buy", "40010", "0.01", "0", "taker"), (0, "buy", "40050.01", "0.02", "0", "taker")]


def test_latency_lets_an_order_meet_the_market_of_its_arrival() -> None:
    rows = [*quote(0, "40000", "40010"), *quote(2, "40100", "40110"), *quote(4, "40200", "40210")]
    assert fills(play(rows, [(1, order("a", "buy", "0.01"))]))[0][:3] == (0, "buy", "40010")
    slow = Models(latency=ConstantLatency(1_500_000_000))
    assert fills(play(rows, [(1, order("a", "buy", "0.01"))], models=slow))[0][:3] == (2, "buy", "40110")


def test_an_order_good_till_a_moment_expires_at_that_moment() -> None:
    rows = [*quote(0, "40000", "40010"), *quote(3, "40000", "40010"), *quote(8, "39000", "39010")]
    wanted = order("a", "buy", "0.01", "39500", time_in_force="GTD", expire_at=moment(START) + timedelta(seconds=5))
    result = play(rows, [(1, wanted)])
    assert [each.status.value for each in result.orders] == ["EXPIRED"]
    assert result.orders[0].updated_at == moment(START) + timedelta(seconds=5)


def test_a_bracket_places_its_exits_when_the_entry_fills_and_ends_one_with_the_other() -> None:
    rows = [
        *quote(0, "40000", "40010"),
        *quote(2, "40050", "40060"),
        *trade(3, "40100"),
        *quote(4, "40150", "40160"),
        *quote(6, "39000", "39010"),
        *trade(7, "39000"),
    ]
    bracket = order("b", "buy", "0.01", type="bracket", terms={"take_profit_price": "40140", "stop_price": "39500"})
    result = play(rows, [(1, bracket)])
    assert [line[:4] for line in fills(result)] == [(0, "buy", "40010", "0.01"), (4, "sell", "40140", "0.01")]
    assert by_origin(result)["bracket:"] == "FILLED"
    assert result.positions[1, "net"].quantity == 0


def test_an_exit_is_there_from_the_very_tick_that_filled_the_entry() -> None:
    """Ticks come faster than held orders look at prices."""
    rows = [
        *quote(0, "40000", "40010"),
        *quote(1.5, "40000", "40010"),
        *trade(1.501, "39970"),
        *trade(1.502, "40200"),
        *trade(1.503, "39990"),
        *quote(5, "39990", "40000"),
    ]
    bracket = order("b", "buy", "0.01", "39980", type="bracket", terms={"take_profit_price": "40140", "stop_price": "39500"})
    assert [line[:4] for line in fills(play(rows, [(1, bracket)]))] == [(1.501, "buy", "39980", "0.01"), (1.502, "sell", "40140", "0.01")]


def test_a_trailing_stop_follows_and_sells_when_the_market_turns() -> None:
    rows = [
        row
        for second, price in enumerate([40000, 40000, 40200, 40500, 40480, 40390, 40300])
        for row in quote(second, str(price), str(price + 10))
    ]
    wishes: list[tuple[float, Wish]] = [
        (0.5, order("in", "buy", "0.01")),
        (0.6, order("out", "sell", "0.01", type="trailing_stop", terms={"callback_amount": "100", "trigger_by": "quote"})),
    ]
    result = play(rows, wishes)
    assert fills(result)[-1][:4] == (5, "sell", "40390", "0.01")
    assert {each.status.value for each in result.orders} == {"FILLED"}


# --- what does not pass --------------------------------------------------------------------------------------------------


def reasons(result: Result) -> list[str | None]:
    return [each.reason_code for each in result.orders if each.status == "REJECTED"]


def test_risk_judges_a_backtest_as_it_judges_paper() -> None:
    rows = [*quote(0, "40000", "40010"), *quote(50, "40000", "40010")]
    result = play(rows, [(1, order("a", "buy", "0.1"))], limits=limits(max_orders_per_minute=1))
    assert reasons(result) == []
    small = replace(limits(), max_order_notional=D(1_000))
    assert reasons(play(rows, [(1, order("a", "buy", "0.1"))], limits=small)) == ["ORDER_NOTIONAL_EXCEEDED"]
    assert reasons(play(rows, [(40, order("a", "buy", "0.1"))])) == ["MARKET_DATA_STALE"]
    assert reasons(play(rows, [(1, order("a", "buy", "0.1", "30000"))])) == ["PRICE_COLLAR"]


def test_a_drawdown_counts_from_the_highest_equity_and_what_is_not_realised() -> None:
    rows = [*quote(0, "40000", "40010"), *quote(3, "44990", "45010"), *quote(6, "41990", "42010"), *quote(9, "41990", "42010")]
    wishes: list[tuple[float, Wish]] = [
        (1, order("in", "buy", "0.2")),
        (4, order("high", "buy", "0.001")),
        (7, order("low", "buy", "0.001")),
    ]
    five_per_cent = limits(max_drawdown=D("0.05"))
    assert reasons(play(rows, wishes, limits=five_per_cent)) == ["DRAWDOWN_LIMIT_REACHED"]
    assert reasons(play(rows, [wishes[0], wishes[2]], limits=five_per_cent)) == []


def test_the_equity_of_each_midnight_gives_the_figures_of_the_run() -> None:
    day = 86_400
    rows = [
        *quote(0, "40000", "40010"),
        *quote(day, "42000", "42010"),
        *quote(2 * day, "41000", "41010"),
        *quote(2 * day + 1, "41000", "41010"),
    ]
    result = play(rows, [(1, order("in", "buy", "0.1"))], models=Models())
    # bought at 40,010, valued in the middle of the quote
    assert result.equity == D(10_000) + (D(41_005) - D(40_010)) / 10
    assert result.returns.max_drawdown_money == D(42_005 - 41_005) / 10
    assert result.returns.days == 3


def test_spot_is_not_sold_short_and_not_bought_on_credit() -> None:
    rows = [*quote(0, "40000", "40010"), *quote(9, "40000", "40010")]
    assert reasons(play(rows, [(1, order("a", "sell", "0.01"))])) == ["INSUFFICIENT_FUNDS"]
    wishes = [(1, order("a", "buy", "0.15", "39000")), (2, order("b", "buy", "0.15", "39000"))]
    assert reasons(play(rows, wishes)) == ["INSUFFICIENT_FUNDS"]


def test_a_canceled_order_frees_what_it_held() -> None:
    rows = [*quote(0, "40000", "40010"), *quote(9, "40000", "40010")]
    first, second = order("a", "buy", "0.15", "39000"), order("b", "buy", "0.15", "39000")
    assert reasons(play(rows, [(1, first), (2, CancelRequest("a")), (3, second)])) == []


def test_a_perpetual_may_be_sold_short() -> None:
    rows = [*quote(0, "40000", "40010", symbol="BTCUSD-PERP"), *quote(9, "39000", "39010", symbol="BTCUSD-PERP")]
    account = AccountSettings(id="paper", currency="USD", opening_balances={"USD": D(10_000)})
    result = play(rows, [(1, order("a", "sell", "0.1", symbol="BTCUSD-PERP"))], symbols=("BTCUSD-PERP",), account=account)
    # sold at 40,000, marked at 39,005, fee 2
    assert result.equity == D(10_000) + D("99.5") - D(2)
    assert result.balances == {"USD": D(9_998)}


def test_a_wish_that_is_no_order_is_told_and_the_run_goes_on() -> None:
    rows = [*quote(0, "40000", "40010"), *quote(9, "40000", "40010")]
    result = play(rows, [(1, order("a", "buy", "0.0000001")), (2, CancelRequest("nothing")), (3, order("b", "buy", "0.01"))])
    assert [refusal.origin for refusal in result.refused] == ["a", "nothing"]
    assert "QUANTITY_BELOW_MINIMUM" in result.refused[0].reason
    assert len(result.fills) == 1


def test_ticks_that_go_back_in_time_are_refused() -> None:
    run = Backtest(setup(), Script([]))
    with pytest.raises(BacktestFailed, match="back in time"):
        run.run([ticks(quote(5, "40000", "40010")), ticks(quote(4, "40000", "40010"))])


# --- the same every time -------------------------------------------------------------------------------------------------


@cache
def synthetic(minutes: int, symbols: tuple[str, ...] = ("BTCUSDT", "BTCUSD-PERP")) -> list[Ticks]:
    market = SyntheticMarket([synthetic_instrument(CATALOGUE.symbol(symbol), D(60_000), 4.0, 2.0) for symbol in symbols], seed=11)
    return [market.ticks(START + minute * 60 * SECOND, START + (minute + 1) * 60 * SECOND) for minute in range(minutes)]


def donchian(parts: Iterable[Ticks], **changes: Any) -> Result:
    chosen = setup(
        symbols=("BTCUSDT", "BTCUSD-PERP"),
        account=AccountSettings(id="paper"),
        conversion_rates={"USDT:USD": D(1), "USD:USDT": D(1)},
        limits=limits(max_reject_share=None),
        **changes,
    )
    settings = StrategySettings(interval_s=10, channel=6, exit_channel=4, trend=8, allow_short=True)
    return Backtest(chosen, ConfiguredStrategy(settings, CATALOGUE)).run(parts)


def test_two_runs_of_one_thing_have_one_fingerprint() -> None:
    first, second = donchian(synthetic(20)), donchian(synthetic(20))
    assert len(first.fills) > 20
    assert (first.event_log_hash, first.fills_hash) == (second.event_log_hash, second.fills_hash)
    assert first.to_document(CATALOGUE) == second.to_document(CATALOGUE)


def test_however_the_ticks_are_handed_over_the_fingerprint_is_the_same() -> None:
    whole = Ticks.concatenate(synthetic(20))
    cuts = [part for at in range(0, len(whole), 700) for part in [whole[at : at + 700]] if len(part)]
    pairs = [cut for cut in cuts if cut.flags[-1] & BID and not cut.flags[-1] & TRADE]
    assert pairs, "some quotes are torn apart by the cutting"
    assert donchian([whole]).fills_hash == donchian(synthetic(20)).fills_hash
    assert donchian([whole]).event_log_hash == donchian(synthetic(20)).event_log_hash


def drawn(seed: str, count: int) -> list[int]:
    """Numbers from 0 to 65,535 that no library and no processor changes."""
    return [int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:2], "big") for number in range(count)]


def everything(models: Models, on: Venue | None = None) -> Result:
    """Orders of every kind in a market that walks by whole cents: 600 quotes, a trade with every third."""
    rows: list[Row] = []
    price = 4_000_000
    for second, number in enumerate(drawn("market", 600)):
        price += (number % 41 - 20) * 50
        size = str(D(20 + number % 90).scaleb(-3))
        rows += quote(second, str(D(price).scaleb(-2)), str(D(price + 200 + number % 7 * 100).scaleb(-2)), size, "BTCUSD-PERP")
        if number % 3 == 0:
            rows += trade(second, str(D(price - 50 * (number % 5)).scaleb(-2)), str(D(1 + number % 160).scaleb(-3)), "BTCUSD-PERP")
    wishes: list[tuple[float, Wish]] = []
    level = {round(second): D(row) for second, _, flags, row, _ in rows if flags & BID}
    for count, number in enumerate(drawn("wishes", 60)):
        second, side = 5 + count * 9, "buy" if number % 5 < 3 else "sell"
        at, away = level[second], D(number % 23 - 8) * 4 * (-1 if side == "buy" else 1)
        near = {"limit": str(at + away), "time_in_force": ("GTC", "IOC", "FOK", "GTC")[number // 5 % 4]}
        stop = {"type": "stop", "trigger_price": at + (60 if side == "buy" else -60)}
        gain, loss = (at + 90, at - 90) if side == "buy" else (at - 90, at + 90)
        options: dict[str, Any] = (
            near,
            {},
            near | {"time_in_force": "GTC", "post_only": True},
            stop,
            stop | {"type": "stop_limit", "limit": str(at + (70 if side == "buy" else -70))},
            {"type": "bracket", "terms": {"take_profit_price": str(gain), "stop_price": str(loss)}},
            {"type": "trailing_stop", "terms": {"callback_amount": "50", "trigger_by": "quote"}},
            {"type": "iceberg", "limit": str(at + away), "terms": {"visible_quantity": "0.004"}},
            {"type": "twap", "terms": {"duration_s": 40, "interval_s": 10}},
        )[count % 9]
        wishes.append((second + 0.25, order(str(count), side, str(D(10 + number % 30).scaleb(-3)), symbol="BTCUSD-PERP", **options)))
        if count % 4 == 3:
            wishes.append((second + 5.5, CancelRequest(str(count - 1))))
    account = AccountSettings(id="paper", currency="USD", opening_balances={"USD": D(100_000)})
    bounds = limits(max_reject_share=None, max_orders_per_minute=1_000)
    return play(rows, wishes, on=on, symbols=("BTCUSD-PERP",), models=models, account=account, limits=bounds)


def test_a_run_drifts_from_its_golden_fingerprint_only_on_purpose() -> None:
    """A change of rules changes these; then say in the commit why, and put in what the run has now."""
    models = Models(fees=flat_fees(D(1), D(5)), slippage=BasisPoints(D(3)), latency=ConstantLatency(120_000_000), depth=D(4))
    result = everything(models)
    assert {refusal.reason.split(":")[0] for refusal in result.refused} == {"NotOpen"}
    assert {each.intent.type for each in result.orders} == {
        "market", "limit", "stop", "stop_limit", "bracket", "trailing_stop", "iceberg", "twap",
    }  # fmt: skip
    assert (len(result.fills), result.fills_hash) == GOLDEN_FILLS
    assert (result.events, result.event_log_hash) == GOLDEN_EVENTS


@pytest.mark.parametrize("market", [{}, {"depth": D("1.5")}, {"slippage_impact": D("0.001"), "depth": D(3)}])
def test_the_same_orders_in_the_same_market_go_the_same_way_on_the_paper_venue(market: dict[str, Decimal]) -> None:
    """The engine's core on the paper venue's own exchange (its books, holds and funds; not its HTTP) and in the backtest."""
    rules = PaperVenueSettings(maker_fee_bps=D(1), taker_fee_bps=D(5), slippage_bps=D(3)).model_copy(update=market)
    venue = OnPaper(rules, {"USD": D(100_000)})
    on_paper, in_backtest = everything(venue.models, on=venue), everything(venue.models)
    assert len(in_backtest.fills) > 50
    assert fills(on_paper) == fills(in_backtest)
    assert on_paper.fills_hash == in_backtest.fills_hash
    assert on_paper.event_log_hash == in_backtest.event_log_hash


def test_another_process_with_another_hash_seed_has_the_same_fingerprint(tmp_path: Path) -> None:
    arguments = [
        "--synthetic", "2026-01-05T08:00", "2026-01-05T08:30", "--interval", "10", "--channel", "6", "--exit-channel", "4", "--trend", "8",
        "--seed", "3", "--latency-jitter-ms", "250", "--notional", "300",
    ]  # fmt: skip
    outcomes = []
    for seed in ("1", "77"):
        output = tmp_path / f"{seed}.json"
        done = subprocess.run(
            [sys.executable, "-m", "trading_platform.backtest", *arguments, "--output", str(output)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(PLATFORM)},
            capture_output=True,
            check=True,
        )
        outcomes.append((done.stdout, output.read_bytes()))
    assert outcomes[0] == outcomes[1]
    assert json.loads(outcomes[0][0])["fills"] > 4


def test_the_run_of_a_beginning_is_the_beginning_of_the_run() -> None:
    """Nothing that happens depends on what comes later."""
    whole, part = donchian(synthetic(20)), donchian(synthetic(12))
    assert len(whole.fills) > len(part.fills) > 5
    assert [replace(line) for line in whole.fills[: len(part.fills)]] == list(part.fills)


def test_a_fill_has_a_price_and_a_size_that_the_market_showed() -> None:
    parts = synthetic(20)
    shown: dict[tuple[str, int, int, int], int] = {}
    for part in parts:
        for number, ts, price, size, flags in zip(part.instrument, part.ts_event, part.price, part.size, part.flags, strict=True):
            symbol = CATALOGUE.id(int(number)).symbol
            key = (symbol, int(ts), int(price), ASK if flags & ASK else BID if flags & BID else TRADE)
            shown[key] = max(shown.get(key, 0), int(size))
    result = donchian(parts)
    for line in result.fills:
        instrument = CATALOGUE.symbol(line.symbol)
        price = instrument.scaled_price(line.fill.price)
        sides = {key[3] for key in shown if key[:3] == (line.symbol, line.fill.ts_event_ns, price)}
        assert (ASK if line.side == "buy" else BID) in sides


def test_a_fingerprint_does_not_see_clocks_and_venue_ids_and_sees_all_else() -> None:
    def of(**changes: Any) -> str:
        print_ = Fingerprint()
        data = {"price": "1", "trade_id": "x:1", "executed_at": "now", "venue_order_id": "7", "detail": "…", "risk": {"facts": {}}}
        print_.event("t-1", 3, "filled", data | changes)
        return print_.hexdigest()

    assert of() == of(trade_id="x:2", executed_at="later", venue_order_id="8", detail="!", risk={})
    assert of() != of(price="2")


# --- the room it lives in ------------------------------------------------------------------------------------------------


def test_a_backtest_needs_no_service_but_the_engines_core() -> None:
    listing = "import sys, trading_platform.backtest.__main__; print(*sorted(m for m in sys.modules if m.startswith('trading_platform.')))"
    done = subprocess.run([sys.executable, "-c", listing], env={"PYTHONPATH": str(PLATFORM)}, capture_output=True, check=True, text=True)
    services = {
        name
        for name in done.stdout.split()
        if re.match(r"trading_platform\.(engine|market_data|strategy|risk|portfolio|paper_venue|gateway)\b", name)
    }
    assert services == {"trading_platform.engine", "trading_platform.engine.core", "trading_platform.engine.venues"}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--data", "/nowhere.parquet"], 3, "cannot be read"),
        (["--synthetic", "2026-01-06T00:00", "2026-01-05T00:00"], 2, "not after"),
        (["--synthetic", "2026-01-05T00:00", "2026-01-06T00:00", "--symbol", "DOGE"], 2, "no instrument 'DOGE'"),
        (["--synthetic", "2026-01-05T00:00", "2026-01-06T00:00", "--channel", "1"], 2, "greater than or equal to 2"),
        (["--synthetic", "2026-01-05T00:00", "2026-01-06T00:00", "--config", "/nowhere.yaml"], 78, "cannot be read"),
        (["--synthetic", "2026-01-05T00:00", "2026-01-05T00:01", "--depth", "0"], 2, "depth is 0"),
        (["--synthetic", "2026-01-05T00:00", "2026-01-05T00:01", "--output", "/nowhere/out.json"], 2, "cannot be written"),
    ],
)
def test_wrong_use_is_told_with_a_status_of_its_own(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == status
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""


@pytest.mark.parametrize("amount", ["-1", "nan", "many"])
def test_an_amount_that_is_none_is_refused(amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(["--synthetic", "2026-01-05T00:00", "2026-01-05T00:01", f"--taker-bps={amount}"])
    assert refused.value.code == 2
    assert "taker-bps" in capsys.readouterr().err


def test_a_recording_is_run_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(
        f"{START + minute * 60 * SECOND},BTCUSDT,{1000 + 3 * minute},{1001 + 3 * minute},{999 + 3 * minute},{1000 + 3 * minute},50\n"
        for minute in range(90)
    )
    recording = tmp_path / "candles.csv"
    recording.write_text("ts_open_ns,symbol,open,high,low,close,volume\n" + rows)
    assert command.main(["--data", str(recording)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ticks"], told["fills"], told["orders_by_status"]) == (360, 1, {"FILLED": 1})


GOLDEN_FILLS = (78, "6e08f85f081892339074b7b7f2b2a85f5bedfd427dbc1e3b2ac079599f3d75fa")
GOLDEN_EVENTS = (606, "1db3f0550ebcfc1679d2c6d101c27abc8e0655c175bd552f2e0f503a580a0448")
