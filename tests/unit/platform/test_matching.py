"""The simulated market, rule by rule. Prices have two decimals, sizes three; a lot is 0.001."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from trading_platform.batches import ASK, BID, BUY_AGGRESSOR, SELL_AGGRESSOR, TRADE, TickBatch
from trading_platform.domain.matching import (
    Accepted,
    BookOrder,
    Canceled,
    CancelRefused,
    Change,
    Executed,
    Expired,
    Matcher,
    Rejected,
    Snapshot,
    Standing,
    Triggered,
)
from trading_platform.domain.models import BasisPoints, ConstantLatency, JitterLatency, Models, VolumeShare
from trading_platform.instruments import Instrument

D = Decimal
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

COIN = Instrument(
    id=7,
    symbol="COINUSD",
    kind="spot",
    base_currency="COIN",
    quote_currency="USD",
    price_scale=2,
    size_scale=3,
    tick_size=D("0.01"),
    lot_size=D("0.001"),
    min_quantity=D("0.001"),
    max_quantity=D(1_000_000),
    min_notional=D(0),
    multiplier=D(1),
)

Tick = tuple[int, str, str]


def bid(price: str, size: str = "0") -> Tick:
    return BID, price, size


def ask(price: str, size: str = "0") -> Tick:
    return ASK, price, size


def trade(price: str, size: str = "0", aggressor: int = 0) -> Tick:
    return TRADE | aggressor, price, size


def batch_of(ticks: Iterable[Tick], at: int = START, step: int = 0) -> TickBatch:
    flags, prices, sizes = zip(*ticks, strict=True)
    times = np.arange(len(flags), dtype=np.int64) * step + at
    return TickBatch(
        instrument=np.full(len(flags), COIN.id, dtype=np.uint32),
        ts_event=times,
        ts_recv=times,
        price=np.array([COIN.scaled_price(D(price)) for price in prices], dtype=np.int64),
        size=np.array([COIN.scaled_size(D(size)) for size in sizes], dtype=np.int64),
        flags=np.array(flags, dtype=np.uint8),
    )


class Market:
    """A matcher and a clock that moves one second a step."""

    def __init__(self, models: Models | None = None, *, restore: Snapshot | None = None) -> None:
        self.matcher = Matcher(COIN, models or Models(), restore=restore)
        self.now = START
        self.next_id = 1

    def ticks(self, *ticks: Tick) -> list[Change]:
        self.now += SECOND
        batch = batch_of(ticks, self.now)
        return self.matcher.on_ticks(batch, np.arange(len(batch)))

    def place(self, side: Any, quantity: str, limit: str | None = None, **options: Any) -> list[Change]:
        self.now += SECOND
        kind = options.pop("type", "market" if limit is None else "limit")
        stop, visible = options.pop("stop", None), options.pop("visible", None)
        order = BookOrder(
            id=options.pop("id", self.next_id),
            owner="paper",
            side=side,
            type=kind,
            time_in_force=options.pop("time_in_force", "GTC"),
            quantity=D(quantity),
            limit_price=None if limit is None else D(limit),
            stop_price=None if stop is None else D(stop),
            visible=None if visible is None else D(visible),
        )
        assert not options
        self.next_id = order.id + 1
        return self.matcher.submit(order, self.now)


def fills(changes: Iterable[Change]) -> list[tuple[int, str, str, str]]:
    return [
        (change.order_id, str(change.price), format(change.quantity.normalize(), "f"), change.liquidity)
        for change in changes
        if isinstance(change, Executed)
    ]


def kinds(changes: Iterable[Change]) -> list[type]:
    return [type(change) for change in changes]


def quoted(models: Models | None = None) -> Market:
    """A market of 100.00 (5) to 101.00 (3)."""
    market = Market(models)
    market.ticks(bid("100", "5"), ask("101", "3"))
    return market


# --- takers --------------------------------------------------------------------------------------------------------------


def test_a_market_order_takes_the_other_side() -> None:
    market = quoted()
    assert fills(market.place("buy", "2")) == [(1, "101.00", "2", "taker")]
    assert fills(market.place("sell", "4")) == [(2, "100.00", "4", "taker")]


def test_an_execution_carries_the_time_of_the_tick_it_met() -> None:
    market = quoted()
    seen = market.now
    executed = next(change for change in market.place("buy", "1") if isinstance(change, Executed))
    assert (executed.ts_event_ns, executed.ts_now_ns) == (seen, seen + SECOND)


def test_a_limit_order_takes_what_the_top_holds_and_the_rest_waits() -> None:
    market = quoted()
    changes = market.place("buy", "5", "102")
    assert kinds(changes) == [Accepted, Executed]
    assert fills(changes) == [(1, "101.00", "3", "taker")]
    standing = market.matcher.standing(1)
    assert standing is not None
    assert (standing.remaining, standing.queue_ahead) == (D(2), D(0))


def test_what_was_taken_is_not_there_for_the_next_until_the_side_is_quoted_again() -> None:
    market = quoted()
    market.place("buy", "2", "101", time_in_force="IOC")
    assert fills(market.place("buy", "2", "101", time_in_force="IOC")) == [(2, "101.00", "1", "taker")]
    assert kinds(market.place("buy", "1", "101", time_in_force="IOC")) == [Accepted, Expired]
    market.ticks(ask("101", "3"))
    assert fills(market.place("buy", "5", "101", time_in_force="IOC")) == [(4, "101.00", "3", "taker")]


def test_fill_or_kill_is_all_or_nothing() -> None:
    market = quoted()
    assert kinds(market.place("buy", "3.001", "105", time_in_force="FOK")) == [Accepted, Expired]
    assert fills(market.place("buy", "3", "105", time_in_force="FOK")) == [(2, "101.00", "3", "taker")]


def test_an_unknown_size_fills_in_full() -> None:
    market = Market()
    market.ticks(bid("100"), ask("101"))
    assert fills(market.place("buy", "5000", "101", time_in_force="FOK")) == [(1, "101.00", "5000", "taker")]


def test_a_market_order_finds_more_behind_the_top_at_slipped_prices_and_not_without_end() -> None:
    market = quoted(Models(slippage=BasisPoints(D(10)), depth=D(4)))
    changes = market.place("buy", "20")
    # 10 basis points of 101.00 are 0.101: eleven ticks, away from us; four times the shown 3 in all.
    assert fills(changes) == [(1, "101.00", "3", "taker"), (1, "101.11", "9", "taker")]
    assert kinds(changes)[-1] is Expired
    assert kinds(market.place("buy", "1")) == [Accepted, Expired]


def test_slippage_of_a_sale_goes_down() -> None:
    market = quoted(Models(slippage=BasisPoints(D(10))))
    assert fills(market.place("sell", "6")) == [(1, "100.00", "5", "taker"), (1, "99.90", "1", "taker")]


def test_slippage_by_volume_grows_with_what_others_took_before() -> None:
    market = quoted(Models(slippage=VolumeShare(D("0.01"))))
    assert fills(market.place("buy", "6")) == [(1, "101.00", "3", "taker"), (1, "102.01", "3", "taker")]
    assert fills(market.place("buy", "3")) == [(2, "105.04", "3", "taker")]


def test_without_slippage_what_is_behind_the_top_is_one_execution() -> None:
    assert fills(quoted().place("buy", "4")) == [(1, "101.00", "4", "taker")]


def test_without_quotes_takers_meet_the_last_trade() -> None:
    market = Market()
    market.ticks(trade("99.5", "2"))
    assert fills(market.place("buy", "7")) == [(1, "99.50", "7", "taker")]
    assert fills(market.place("sell", "1", "99.50")) == [(2, "99.50", "1", "taker")]
    assert fills(market.place("sell", "1", "99.51")) == []


def test_a_trade_through_the_quote_is_what_the_next_taker_meets() -> None:
    market = quoted()
    market.ticks(trade("98", "1", SELL_AGGRESSOR))
    assert fills(market.place("sell", "1")) == [(1, "98.00", "1", "taker")]
    assert fills(market.place("buy", "1")) == [(2, "101.00", "1", "taker")]
    market.ticks(bid("97", "5"))
    assert fills(market.place("sell", "1")) == [(3, "97.00", "1", "taker")]


def test_less_than_a_lot_is_not_traded() -> None:
    coarse = replace(COIN, lot_size=D(1), min_quantity=D(1))
    matcher = Matcher(coarse, Models())
    batch = batch_of([bid("100", "2.5"), ask("101", "2.5")])
    matcher.on_ticks(batch, np.arange(2))
    order = BookOrder(1, "paper", "buy", "limit", "IOC", D(3), D(101))
    assert fills(matcher.submit(order, START)) == [(1, "101.00", "2", "taker")]


# --- refusals ------------------------------------------------------------------------------------------------------------


def refusal(changes: list[Change]) -> str:
    (change,) = changes
    assert isinstance(change, Rejected)
    return change.code


def test_without_a_market_everything_is_rejected() -> None:
    market = Market()
    assert refusal(market.place("buy", "1")) == "NO_MARKET"
    assert refusal(market.place("buy", "1", "100")) == "NO_MARKET"


def test_a_market_order_needs_somebody_on_the_other_side() -> None:
    market = Market()
    market.ticks(bid("100", "5"))
    assert refusal(market.place("buy", "1")) == "NO_MARKET"


def test_an_old_market_is_no_market() -> None:
    market = quoted(Models(max_data_age_ns=30 * SECOND))
    market.now += 30 * SECOND
    assert refusal(market.place("buy", "1")) == "NO_MARKET"
    market.ticks(bid("100", "5"))
    assert kinds(market.place("buy", "1")) == [Accepted, Executed]


def test_a_limit_maker_that_would_take_is_rejected() -> None:
    market = quoted()
    assert refusal(market.place("buy", "1", "101", type="limit_maker")) == "WOULD_TAKE"
    assert refusal(market.place("sell", "1", "99", type="limit_maker")) == "WOULD_TAKE"
    assert kinds(market.place("buy", "1", "100.99", type="limit_maker")) == [Accepted]


@pytest.mark.parametrize(
    ("quantity", "options", "code"),
    [
        ("0.0005", {"limit": "100"}, "QUANTITY_BELOW_MINIMUM"),
        ("1.0005", {"limit": "100"}, "QUANTITY_NOT_MULTIPLE_OF_LOT"),
        ("NaN", {"limit": "100"}, "QUANTITY_NOT_POSITIVE"),
        ("1", {"limit": "100.001"}, "PRICE_NOT_MULTIPLE_OF_TICK"),
        ("1", {"limit": "1e30"}, "PRICE_EXCEEDS_MAXIMUM"),
        ("1", {"limit": "-1"}, "PRICE_NOT_POSITIVE"),
        ("1", {"type": "limit"}, "PRICE_MISSING"),
        ("1", {"type": "stop_loss"}, "PRICE_MISSING"),
        ("1", {"limit": "100", "stop": "99"}, "PRICE_NOT_USED"),
        ("1", {"limit": "100", "type": "trailing"}, "ORDER_NOT_SUPPORTED"),
        ("1", {"limit": "100", "time_in_force": "GTD"}, "ORDER_NOT_SUPPORTED"),
        ("10", {"limit": "100", "visible": "1", "time_in_force": "IOC"}, "ICEBERG_NOT_SUPPORTED"),
        ("10", {"limit": "100", "visible": "0.09"}, "ICEBERG_TOO_MANY_PARTS"),
    ],
)
def test_a_malformed_order_is_rejected_with_its_reason(quantity: str, options: dict[str, Any], code: str) -> None:
    market = quoted()
    assert refusal(market.place("buy", quantity, **options)) == code
    assert market.matcher.resting() == []


def test_an_id_is_given_once() -> None:
    market = quoted()
    market.place("buy", "1", "90")
    with pytest.raises(ValueError, match="open already"):
        market.place("buy", "1", "90", id=1)


# --- waiting -------------------------------------------------------------------------------------------------------------


def test_an_order_at_the_best_price_waits_behind_the_size_shown_there() -> None:
    market = quoted()
    market.place("buy", "2", "100")
    assert fills(market.ticks(trade("100", "4", SELL_AGGRESSOR))) == []
    assert fills(market.ticks(trade("100", "2", SELL_AGGRESSOR))) == [(1, "100.00", "1", "maker")]
    assert fills(market.ticks(trade("100", "9", SELL_AGGRESSOR))) == [(1, "100.00", "1", "maker")]


def test_buyers_at_our_price_do_not_trade_with_our_buy() -> None:
    market = quoted()
    market.place("buy", "2", "100.5")
    assert fills(market.ticks(trade("100.5", "9", BUY_AGGRESSOR))) == []
    assert fills(market.ticks(trade("100.5", "9"))) == [(1, "100.50", "2", "maker")]


def test_a_shrinking_size_moves_us_up_and_a_growing_one_never_back() -> None:
    market = quoted()
    market.place("buy", "1", "100")
    market.ticks(bid("100", "2"), bid("100", "8"))
    standing = market.matcher.standing(1)
    assert standing is not None
    assert standing.queue_ahead == D(2)
    assert fills(market.ticks(trade("100", "3"))) == [(1, "100.00", "1", "maker")]


def test_a_price_behind_the_best_has_an_unknown_queue_until_it_is_the_best() -> None:
    market = quoted()
    market.place("buy", "1", "99")
    assert fills(market.ticks(trade("99", "50"))) == []
    market.ticks(bid("99", "4"))
    assert fills(market.ticks(trade("99", "4"))) == []
    assert fills(market.ticks(trade("99", "1"))) == [(1, "99.00", "1", "maker")]


def test_a_side_that_falls_back_leaves_us_first() -> None:
    market = quoted()
    market.place("buy", "1", "100")
    market.ticks(bid("99", "4"))
    assert fills(market.ticks(trade("100", "1"))) == [(1, "100.00", "1", "maker")]


def test_a_better_price_than_the_best_has_nobody_ahead() -> None:
    market = quoted()
    market.place("sell", "1", "100.5")
    assert fills(market.ticks(trade("100.5", "0.4", BUY_AGGRESSOR))) == [(1, "100.50", "0.4", "maker")]


def test_a_trade_through_the_price_fills_at_the_price_up_to_its_size() -> None:
    market = quoted()
    market.place("buy", "2", "100")
    assert fills(market.ticks(trade("99.99", "1.5"))) == [(1, "100.00", "1.5", "maker")]
    assert fills(market.ticks(trade("99.99"))) == [(1, "100.00", "0.5", "maker")]


def test_a_trade_of_unknown_size_at_the_price_does_not_pass_the_queue() -> None:
    market = quoted()
    market.place("buy", "2", "100")
    assert fills(market.ticks(trade("100"))) == []


def test_the_other_side_coming_to_the_price_fills_up_to_what_it_holds() -> None:
    market = quoted()
    market.place("buy", "2", "100")
    assert fills(market.ticks(ask("100", "1"))) == [(1, "100.00", "1", "maker")]
    assert fills(market.ticks(ask("99", "9"))) == [(1, "100.00", "1", "maker")]
    assert fills(market.place("buy", "9", "99", time_in_force="IOC")) == [(2, "99.00", "8", "taker")]


def test_best_price_first_then_time() -> None:
    market = quoted()
    for limit in ("100.1", "100.2", "100.2"):
        market.place("buy", "1", limit)
    assert fills(market.ticks(ask("100", "2.5"))) == [
        (2, "100.20", "1", "maker"),
        (3, "100.20", "1", "maker"),
        (1, "100.10", "0.5", "maker"),
    ]


def test_those_between_our_orders_trade_between_them() -> None:
    market = quoted()
    market.place("buy", "1", "100")  # 5 ahead
    market.ticks(bid("100", "9"))
    market.place("buy", "1", "100")  # 9 ahead: 4 between the two
    assert fills(market.ticks(trade("100", "9.5"))) == [(1, "100.00", "1", "maker")]
    standing = market.matcher.standing(2)
    assert standing is not None
    assert standing.queue_ahead == D("0.5")


def test_one_trade_fills_no_more_than_its_size_in_all() -> None:
    market = quoted()
    market.place("buy", "3", "100.4")
    market.place("sell", "3", "100.2")
    assert fills(market.ticks(trade("100.3", "4"))) == [(1, "100.40", "3", "maker"), (2, "100.20", "1", "maker")]


def test_an_iceberg_shows_a_slice_and_queues_anew_for_the_next() -> None:
    market = quoted()
    market.place("buy", "3", "100.5", visible="1")
    market.place("buy", "1", "100.5")
    assert [(level.price, level.quantity) for level in market.matcher.depth().bids] == [(D("100.50"), D(2)), (D(100), D(5))]
    assert fills(market.ticks(trade("100.5", "1"))) == [(1, "100.50", "1", "maker")]
    assert fills(market.ticks(trade("100.5", "1.5"))) == [(2, "100.50", "1", "maker"), (1, "100.50", "0.5", "maker")]
    assert fills(market.ticks(trade("100", "9"))) == [(1, "100.50", "0.5", "maker"), (1, "100.50", "1", "maker")]
    assert market.matcher.resting() == []


def test_a_canceled_order_is_gone_and_cannot_be_canceled_again() -> None:
    market = quoted()
    market.place("buy", "1", "100")
    assert kinds(market.matcher.cancel(1, market.now)) == [Canceled]
    assert kinds(market.matcher.cancel(1, market.now)) == [CancelRefused]
    assert fills(market.ticks(trade("90", "9"))) == []


# --- stops ---------------------------------------------------------------------------------------------------------------


def test_a_stop_waits_for_a_trade_where_there_are_trades() -> None:
    market = quoted()
    market.ticks(trade("100.5", "1"))
    market.place("sell", "1", type="stop_loss", stop="99")
    assert market.ticks(bid("98", "5")) == []
    changes = market.ticks(trade("98.5", "1"))
    assert kinds(changes) == [Triggered, Executed]
    assert fills(changes) == [(1, "98.00", "1", "taker")]


def test_a_stop_follows_the_side_it_would_take_where_there_are_no_trades() -> None:
    market = quoted()
    market.place("buy", "1", type="stop_loss", stop="102")
    assert market.ticks(bid("102", "5")) == []
    assert fills(market.ticks(ask("103", "5"))) == [(1, "103.00", "1", "taker")]


def test_a_take_profit_is_triggered_from_the_other_direction() -> None:
    market = quoted()
    market.place("sell", "1", type="take_profit", stop="102")
    market.place("buy", "1", type="take_profit", stop="99")
    assert fills(market.ticks(bid("102", "5"))) == [(1, "102.00", "1", "taker")]
    assert fills(market.ticks(ask("99", "5"))) == [(2, "99.00", "1", "taker")]


def test_a_triggered_stop_limit_waits_at_its_price() -> None:
    market = quoted()
    market.ticks(trade("101", "1"))
    market.place("sell", "1", "99.5", type="stop_loss_limit", stop="100")
    changes = market.ticks(bid("98", "2"), trade("99", "1"))
    assert kinds(changes) == [Triggered]
    standing = market.matcher.standing(1)
    assert standing is not None
    assert standing.triggered
    assert fills(market.ticks(bid("99.5", "0.4"))) == [(1, "99.50", "0.4", "maker")]


def test_stops_of_one_tick_go_in_the_order_they_came_and_share_the_top() -> None:
    market = quoted(Models(depth=D(1)))
    market.ticks(trade("100.5", "1"))
    market.place("buy", "2", type="stop_loss", stop="102")
    market.place("buy", "2", type="stop_loss", stop="101.5")
    changes = market.ticks(trade("103", "1"))
    assert fills(changes) == [(1, "103.00", "2", "taker"), (2, "103.00", "1", "taker")]
    assert kinds(changes)[-1] is Expired


def test_a_stop_that_is_reached_already_is_rejected() -> None:
    market = quoted()
    assert refusal(market.place("sell", "1", type="stop_loss", stop="100")) == "WOULD_TRIGGER"
    assert refusal(market.place("buy", "1", type="stop_loss", stop="101")) == "WOULD_TRIGGER"
    assert kinds(market.place("buy", "1", type="stop_loss", stop="101.01")) == [Accepted]


# --- latency -------------------------------------------------------------------------------------------------------------


def test_an_order_meets_the_market_of_the_moment_it_arrives() -> None:
    market = quoted(Models(latency=ConstantLatency(3 * SECOND)))
    assert market.place("buy", "1") == []
    due = market.now + 3 * SECOND
    assert market.ticks(ask("105", "3")) == []
    changes = market.matcher.on_ticks(batch_of([ask("106", "3"), ask("107", "3")], due - 1, step=2), np.arange(2))
    assert fills(changes) == [(1, "106.00", "1", "taker")]
    assert changes[0] == Accepted(1, due)


def test_without_ticks_time_alone_lets_an_order_arrive() -> None:
    market = quoted(Models(latency=ConstantLatency(3 * SECOND)))
    market.place("buy", "1")
    assert market.matcher.on_time(market.now + 3 * SECOND - 1) == []
    assert kinds(market.matcher.on_time(market.now + 3 * SECOND)) == [Accepted, Executed]


def test_a_cancel_does_not_overtake_its_order() -> None:
    market = quoted(Models(latency=JitterLatency(SECOND, 5 * SECOND, seed=3)))
    market.place("buy", "1", "90")
    assert market.matcher.cancel(1, market.now) == []
    assert kinds(market.matcher.on_time(market.now + 20 * SECOND)) == [Accepted, Canceled]


# --- seeing and keeping --------------------------------------------------------------------------------------------------


def test_the_top_is_the_markets_own() -> None:
    market = quoted()
    market.ticks(trade("100.5", "1"))
    market.place("buy", "1", "100.7")
    top = market.matcher.top()
    assert (top.bid, top.bid_size, top.ask, top.ask_size, top.last) == (D(100), D(5), D(101), D(3), D("100.5"))
    assert top.ts_recv_ns == START + 2 * SECOND


def test_a_preview_says_what_a_taker_would_get_and_changes_nothing() -> None:
    market = quoted(Models(slippage=BasisPoints(D(10))))
    before = market.matcher.snapshot()
    assert market.matcher.preview("buy", D(4)) == [(D("101.00"), D(3)), (D("101.11"), D(1))]
    assert market.matcher.preview("buy", D(4), D(101)) == [(D("101.00"), D(3))]
    assert market.matcher.preview("buy", D(4), D(100)) == []
    assert market.matcher.snapshot() == before


def test_an_amount_of_money_buys_what_the_market_gives_for_it() -> None:
    market = quoted(Models(slippage=BasisPoints(D(10)), depth=D(2)))
    assert market.matcher.quantity_for("buy", D(303)) == D(3)
    assert market.matcher.quantity_for("buy", D("404.11")) == D(4)
    assert market.matcher.quantity_for("buy", D("404.10")) == D("3.999")
    assert market.matcher.quantity_for("buy", D(1_000_000)) == D(6)
    assert market.matcher.quantity_for("buy", D("0.05")) == 0


def test_a_restored_market_goes_on_as_the_one_before() -> None:
    models = Models(latency=ConstantLatency(SECOND))
    market = quoted(models)
    for side, limit, options in (
        ("buy", "100", {}),
        ("buy", "100.5", {"visible": "0.5"}),
        ("sell", "99", {"type": "stop_loss_limit", "stop": "99.5"}),
        ("buy", "101", {}),
    ):
        market.place(side, "2", limit, **options)
    market.ticks(trade("100", "4.5"), bid("99.9", "1"))
    market.place("sell", "1", "102")
    market.matcher.cancel(1, market.now)
    twin = Market(models, restore=market.matcher.snapshot())
    twin.now = market.now
    assert twin.matcher.snapshot() == market.matcher.snapshot()
    after = [bid("99.4", "1"), trade("99.4", "3"), ask("100.4", "1"), trade("99", "0.7"), bid("103", "2")]
    assert twin.ticks(*after) == market.ticks(*after) != []


def test_an_order_restored_from_rows_alone_queues_behind_an_unknown_size() -> None:
    order = BookOrder(5, "paper", "buy", "limit", "GTC", D(3), D(100))
    market = Market(restore=Snapshot(orders=(Standing(order, D(2)),)))
    assert fills(market.ticks(trade("100", "50"))) == []
    assert fills(market.ticks(trade("99", "50"))) == [(5, "100.00", "2", "maker")]


def test_ticks_of_other_instruments_are_not_looked_at() -> None:
    market = quoted()
    market.place("buy", "1", "100")
    batch = batch_of([trade("50", "9"), trade("100.2", "9")], market.now)
    assert market.matcher.on_ticks(batch, np.array([1])) == []
    assert market.matcher.top().last == D("100.2")
