"""Held orders, one situation at a time: what is sent, what is taken back, and how each ends."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from held_orders import INSTRUMENT, START, Household, held, top
from trading_platform.domain import parents, schedules, terms
from trading_platform.domain.orders import EventType, Status

D = Decimal


def prices(home: Household) -> Any:
    return home.parent.memory


# --- trailing stop -----------------------------------------------------------------------------------------------------


def trailing(side: str = "sell", **more: Any) -> Household:
    return Household(held("trailing_stop", {"callback_amount": "5", **more}, side))


def test_a_trail_follows_the_market_up_and_never_back_down() -> None:
    home = trailing()
    for price in ("100", "110", "106"):
        home.settle(price)
    assert prices(home) == {"water_mark": "110", "stop_price": "105"}
    assert home.children == []


def test_a_trail_that_is_reached_sells_everything_at_the_market() -> None:
    home = trailing()
    home.settle("100")
    home.settle("95")
    child = home.only()
    assert (child.intent.type, child.intent.side, child.intent.quantity, child.intent.role) == ("market", "sell", D(10), "stop_loss")
    home.fill(child, price="94")
    home.settle()
    assert (home.parent.status, home.parent.filled_quantity, home.parent.filled_notional) == (Status.FILLED, D(10), D(940))


def test_a_buy_trail_follows_the_market_down() -> None:
    home = trailing("buy")
    for price in ("100", "90", "94.5"):
        home.settle(price)
    assert prices(home)["stop_price"] == "95"
    home.settle("95")
    assert home.only().intent.side == "buy"


def test_a_gap_while_nobody_looked_fires_the_stop_and_does_not_move_it() -> None:
    home = trailing()
    home.settle("100")
    home.crash()
    home.settle("60")
    assert prices(home)["stop_price"] == "95"
    assert home.only().intent.type == "market"


def test_a_reached_trail_stays_reached_though_the_price_comes_back_and_memory_is_lost() -> None:
    home = trailing()
    home.settle("100")
    home.market = top("94")
    home.carry_out(home.decide()[:1])
    home.crash()
    home.settle("120")
    assert home.only().intent.quantity == D(10)


def test_a_trail_moves_by_whole_ticks_only() -> None:
    home = Household(held("trailing_stop", {"callback_percent": "1"}))
    home.settle("100")
    assert prices(home)["stop_price"] == "99"
    home.settle("100.2")
    assert prices(home) == {"water_mark": "100", "stop_price": "99"}
    home.settle("100.6")
    assert prices(home)["stop_price"] == "99.5"


def test_a_trail_waits_for_its_activation() -> None:
    home = trailing(activation_price="105")
    home.settle("104.5")
    assert prices(home) is None
    home.settle("105")
    home.settle("101")
    assert prices(home)["stop_price"] == "100"


def test_a_trail_with_an_offset_sends_a_limit_order_beyond_the_stop() -> None:
    home = trailing(limit_offset="2")
    home.settle("100")
    home.settle("94")
    assert (home.only().intent.type, home.only().intent.limit_price) == ("limit", D(93))


def test_no_stop_and_no_limit_falls_below_one_tick() -> None:
    home = Household(held("trailing_stop", {"callback_amount": "99", "limit_offset": "5"}))
    home.settle("99.2")
    assert prices(home)["stop_price"] == "0.5"
    home.settle("0.5")
    assert home.only().intent.limit_price == D("0.5")


def test_without_a_market_nothing_moves() -> None:
    home = trailing()
    home.settle()
    assert (prices(home), home.children) == (None, [])


def test_a_trail_looks_at_the_quote_when_told_to_or_when_nothing_traded() -> None:
    by_quote, by_last = trailing(trigger_by="quote"), trailing()
    for home in (by_quote, by_last):
        home.market = top(last="100", bid="98", ask="99")
        home.settle()
    assert (prices(by_quote)["water_mark"], prices(by_last)["water_mark"]) == ("98", "100")
    nothing_traded = trailing()
    nothing_traded.market = top(bid="98", ask="99")
    nothing_traded.settle()
    assert prices(nothing_traded)["water_mark"] == "98"


def test_a_market_child_that_ended_short_is_followed_by_one_for_the_rest_after_a_second() -> None:
    home = trailing()
    home.settle("100")
    home.settle("95")
    first = home.only()
    home.fill(first, "4")
    home.happens(first.id, EventType.EXPIRED)
    home.settle()
    assert home.open == []
    assert home.wakeup() == home.now + timedelta(seconds=1)
    home.settle(after=1)
    assert home.only().intent.quantity == D(6)


def test_a_venue_that_refuses_is_asked_again_ever_more_rarely_and_no_rarer_than_every_minute() -> None:
    home = trailing()
    home.settle("100")
    home.settle("95")
    waits = []
    for _ in range(9):
        home.reject(home.only())
        home.settle()
        moment = home.wakeup()
        assert moment is not None
        waits.append((moment - home.now).total_seconds())
        home.settle(after=waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("code", "ends"), [("VENUE_FILTER", True), ("INSUFFICIENT_FUNDS", False)])
def test_a_stop_refused_again_and_again_is_told_and_for_a_reason_that_stays_not_tried_again(code: str, ends: bool) -> None:
    home = trailing()
    home.settle("100")
    home.settle("95")
    for number in range(8):
        assert parents.unprotected(home.parent, home.children) is None
        home.reject(home.only(), code)
        home.settle(after=60 if number < 7 else 0)
    said = parents.unprotected(home.parent, home.children)
    assert said is not None
    assert (code in said, "not tried any more" in said) == (True, ends)
    home.settle(after=3600)
    assert (len(home.children), len(home.open), home.parent.status) == ((8, 0) if ends else (9, 1)) + (Status.SUSPENDED,)


def test_a_stop_refused_for_changing_reasons_is_tried_on() -> None:
    home = trailing()
    home.settle("100")
    home.settle("95")
    for number in range(20):
        home.reject(home.only(), "VENUE_FILTER" if number % 3 else "VENUE_KEY_INVALID")
        home.settle(after=60)
    assert len(home.open) == 1


# --- OCO ---------------------------------------------------------------------------------------------------------------


def oco(**more: Any) -> Household:
    home = Household(held("oco", {"take_profit_price": "110", "stop_price": "90", **more}))
    home.settle("100")
    return home


def test_only_the_profit_leg_of_an_oco_rests_at_the_venue() -> None:
    home = oco()
    child = home.only()
    assert (child.intent.role, child.intent.type, child.intent.limit_price, child.intent.quantity) == (
        "take_profit",
        "limit",
        D(110),
        D(10),
    )
    home.fill(child, price="110")
    home.settle()
    assert home.parent.status is Status.FILLED


def test_the_stop_is_sent_only_once_the_end_of_the_profit_leg_is_known_and_for_what_it_left() -> None:
    home = oco()
    profit = home.only()
    home.accept(profit)
    home.settle("90")
    assert home.orders[profit.id].status is Status.PENDING_CANCEL
    assert home.open == home.role("take_profit")
    home.fill(profit, "3")
    home.canceled(profit)
    home.settle("95")
    stop = home.only()
    assert (stop.intent.role, stop.intent.type, stop.intent.quantity) == ("stop_loss", "market", D(7))
    home.fill(stop)
    home.settle()
    assert (home.parent.status, home.parent.filled_quantity) == (Status.FILLED, D(10))


def test_a_stop_that_fired_is_remembered_before_anything_is_cancelled() -> None:
    home = oco()
    home.market = top("90")
    kinds = [type(action) for action in home.decide()]
    assert kinds == [parents.Remember, parents.CancelChild]


def test_a_crash_between_remembering_and_cancelling_changes_nothing() -> None:
    home = oco()
    home.market = top("90")
    home.carry_out(home.decide()[:1])
    home.crash()
    home.settle("100")
    assert home.only().status is Status.PENDING_CANCEL


def test_a_profit_leg_that_fills_although_it_was_cancelled_leaves_no_stop_to_send() -> None:
    home = oco()
    home.settle("90")
    home.fill(home.only(), price="110")
    home.settle()
    assert (home.parent.status, len(home.children)) == (Status.FILLED, 1)


def test_a_profit_leg_of_unknown_fate_keeps_the_stop_waiting() -> None:
    home = oco()
    profit = home.only()
    home.happens(profit.id, EventType.SUBMIT_UNKNOWN)
    home.settle("90")
    assert home.role("stop_loss") == []
    home.happens(profit.id, EventType.NEVER_RECEIVED)
    home.settle()
    assert home.only().intent.role == "stop_loss"


def test_a_stop_with_a_limit_is_a_limit_order_and_after_a_refusal_a_market_order() -> None:
    home = oco(stop_limit_price="89.5")
    home.settle("90")
    home.canceled(home.only())
    home.settle()
    stop = home.only()
    assert (stop.intent.type, stop.intent.limit_price) == ("limit", D("89.5"))
    home.reject(stop)
    home.settle(after=1)
    assert (home.only().intent.type, home.only().intent.role, home.only().intent.quantity) == ("market", "exit", D(10))


def test_a_refused_profit_leg_is_tried_again_and_the_stop_still_watches() -> None:
    home = oco()
    home.reject(home.only())
    home.settle("95")
    assert home.open == []
    home.settle("90")
    assert home.only().intent.role == "stop_loss"


def test_a_profit_leg_refused_for_good_is_not_tried_again_and_the_stop_still_watches() -> None:
    home = oco()
    for _ in range(8):
        home.reject(home.only(), "VENUE_FILTER")
        home.settle("95", after=60)
    assert (home.open, parents.unprotected(home.parent, home.children)) == ([], None)
    home.settle("90")
    assert home.only().intent.role == "stop_loss"


def test_what_a_half_filled_oco_leaves_too_small_to_trade_ends_it_with_a_reason() -> None:
    home = oco()
    profit = home.only()
    home.fill(profit, "9.96")
    home.settle("90")
    home.canceled(profit)
    home.settle()
    assert (home.parent.status, home.parent.reason_code, home.parent.filled_quantity) == (Status.CANCELED, "REST_BELOW_MINIMUM", D("9.96"))


# --- bracket -----------------------------------------------------------------------------------------------------------


def bracket(**more: Any) -> Household:
    home = Household(held("bracket", {"take_profit_price": "110", "stop_price": "90"}, "buy", limit_price=D(100), **more))
    home.settle("101")
    return home


def test_the_exits_of_a_bracket_grow_with_what_the_entry_fills() -> None:
    home = bracket()
    entry = home.only()
    home.fill(entry, "4")
    home.settle()
    home.fill(entry, "2")
    home.settle()
    assert [child.intent.quantity for child in home.role("take_profit")] == [D(4), D(2)]
    assert {(child.intent.side, child.intent.reduce_only) for child in home.role("take_profit")} == {("sell", True)}


def test_a_fill_too_small_for_an_exit_waits_for_more() -> None:
    home = bracket()
    home.fill(home.only(), "0.04")
    home.settle()
    assert home.role("take_profit") == []
    home.fill(home.only(), "0.02")
    home.settle()
    assert [child.intent.quantity for child in home.role("take_profit")] == [D("0.06")]


def test_a_last_fill_too_small_for_an_exit_is_joined_to_the_newest_one() -> None:
    home = bracket()
    entry = home.only()
    home.fill(entry, "9.97")
    home.settle()
    (profit,) = home.role("take_profit")
    home.fill(entry, "0.03")
    home.settle()
    assert home.orders[profit.id].status is Status.PENDING_CANCEL
    home.canceled(profit)
    home.settle(after=1)
    assert home.only().intent.quantity == D(10)


def test_a_fired_stop_takes_back_entry_and_profit_and_sells_what_is_held() -> None:
    home = bracket()
    entry = home.only()
    home.fill(entry, "4")
    home.settle()
    home.settle("90")
    assert {child.status for child in home.open} == {Status.PENDING_CANCEL}
    home.fill(entry, "1")  # crosses the cancel
    home.settle()
    assert [child.intent.quantity for child in home.role("stop_loss")] == [D(1)]
    home.canceled(entry)
    home.canceled(home.role("take_profit")[0])
    home.settle()
    assert [child.intent.quantity for child in home.role("stop_loss")] == [D(1), D(4)]
    for child in home.open:
        home.fill(child)
    home.settle()
    assert (home.parent.status, home.parent.filled_quantity) == (Status.CANCELED, D(5))


def test_a_stop_below_an_entry_that_has_not_filled_does_not_fire() -> None:
    home = Household(held("bracket", {"take_profit_price": "110", "stop_price": "90"}, "buy", trigger_price=D(95)))
    home.settle("89")
    entry = home.only()
    assert (entry.intent.type, entry.status) == ("stop", Status.PENDING_NEW)


def test_an_entry_that_is_cancelled_leaves_the_exits_of_what_it_filled() -> None:
    home = bracket()
    entry = home.only()
    home.fill(entry, "4")
    home.settle()
    home.canceled(entry)
    home.settle()
    profit = home.only()
    assert (profit.intent.role, home.parent.status) == ("take_profit", Status.SUSPENDED)
    home.fill(profit)
    home.settle()
    assert (home.parent.status, home.parent.filled_quantity) == (Status.CANCELED, D(4))


@pytest.mark.parametrize(("kind", "status"), [(EventType.REJECTED, Status.REJECTED), (EventType.EXPIRED, Status.EXPIRED)])
def test_a_bracket_whose_entry_came_to_nothing_ends_like_it(kind: EventType, status: Status) -> None:
    home = bracket()
    home.happens(home.only().id, kind, code="WHY")
    home.settle()
    assert (home.parent.status, home.parent.reason_code, len(home.children)) == (status, "WHY", 1)


def test_a_refused_stop_of_a_bracket_is_followed_by_market_orders_until_the_position_is_closed() -> None:
    home = Household(held("bracket", {"take_profit_price": "110", "stop_price": "90", "stop_limit_price": "89"}, "buy"))
    home.settle("100")
    home.fill(home.only())
    home.settle()
    home.settle("90")
    home.canceled(home.only())
    home.settle()
    home.reject(home.only())
    for wait in (1, 2, 4):
        home.settle(after=wait)
        child = home.only()
        assert (child.intent.role, child.intent.type, child.intent.quantity) == ("exit", "market", D(10))
        home.reject(child)
    home.settle(after=8)
    home.fill(home.only())
    home.settle()
    assert home.parent.status is Status.FILLED


def test_an_entry_expires_by_its_own_time_in_force_and_exits_outlive_it() -> None:
    expiry = START + timedelta(hours=1)
    home = bracket(time_in_force="GTD", expire_at=expiry)
    entry = home.only()
    assert (entry.intent.time_in_force, entry.intent.expire_at) == ("GTD", expiry)
    home.fill(entry, "4")
    home.settle()
    home.happens(entry.id, EventType.EXPIRED)
    home.settle(after=7200)
    assert [child.intent.role for child in home.open] == ["take_profit"]


def test_cancelling_a_bracket_says_what_it_leaves_without_a_stop() -> None:
    home = bracket()
    home.fill(home.only(), "4")
    home.settle()
    home.cancel()
    home.settle()
    for child in home.open:
        home.canceled(child)
    home.settle()
    assert (home.parent.status, home.parent.reason_code) == (Status.CANCELED, "POSITION_UNPROTECTED")
    assert home.parent.reason == "4 stays without a stop"


# --- iceberg -----------------------------------------------------------------------------------------------------------


def iceberg(**more: Any) -> Household:
    home = Household(held("iceberg", {"visible_quantity": "3", **more}, "buy", limit_price=D(100)))
    home.settle()
    return home


def test_an_iceberg_shows_one_slice_after_the_other() -> None:
    home = iceberg()
    shown = []
    while home.parent.is_open:
        shown.append(home.only().intent.quantity)
        home.fill(home.only())
        home.settle()
    assert shown == [D(3), D(3), D(3), D(1)]
    assert home.parent.status is Status.FILLED


def test_a_partly_filled_slice_is_still_the_one_that_shows() -> None:
    home = iceberg()
    home.fill(home.only(), "2.9")
    home.settle()
    assert len(home.children) == 1


@pytest.mark.parametrize("filled", range(1, 9))
def test_a_slice_refused_in_the_instant_its_predecessor_was_made_is_the_newest_still(filled: int) -> None:
    home = iceberg(visible_quantity="1")
    for _ in range(filled):
        home.fill(home.only())
        home.settle()
    home.reject(home.only())
    home.settle()
    assert home.open == []


def test_varied_slices_differ_stay_within_their_share_and_are_the_same_every_time() -> None:
    def shown(seed: str) -> list[Decimal]:
        home = Household(held("iceberg", {"visible_quantity": "1", "variation_percent": "20", "seed": seed}, "buy", limit_price=D(100)))
        home.settle()
        while home.parent.is_open:
            home.fill(home.only())
            home.settle()
        return [child.intent.quantity for child in home.children]

    sizes = shown("a")
    assert sizes == shown("a") != shown("b")
    assert sum(sizes) == D(10)
    assert all(D("0.8") <= size <= D("1.2") for size in sizes[:-1])
    assert len(set(sizes)) > 3


def test_a_rest_too_small_to_stand_alone_joins_the_last_slice() -> None:
    home = Household(held("iceberg", {"visible_quantity": "3"}, "buy", "6.02", limit_price=D(100)))
    home.settle()
    home.fill(home.only())
    home.settle()
    assert home.only().intent.quantity == D("3.02")


@pytest.mark.parametrize(("filled", "status"), [(None, Status.REJECTED), ("3", Status.CANCELED)])
def test_an_iceberg_gives_up_after_three_refusals_for_the_venues_reason(filled: str | None, status: Status) -> None:
    home = iceberg()
    if filled:
        home.fill(home.only())
        home.settle()
    for _ in range(3):
        home.reject(home.only(), "INSUFFICIENT_FUNDS")
        home.settle(after=60)
    assert (home.parent.status, home.parent.reason_code) == (status, "INSUFFICIENT_FUNDS")


# --- TWAP and VWAP -----------------------------------------------------------------------------------------------------


def twap(quantity: str = "10", **more: Any) -> Household:
    limit = more.pop("limit_price", None)
    home = Household(held("twap", {"duration_s": 40, "slices": 4, **more}, "buy", quantity, limit_price=limit))
    home.settle()
    return home


def test_a_twap_sends_equal_slices_at_equal_distances_and_all_of_it() -> None:
    home = twap("10.01")
    for _ in range(4):
        home.fill(home.only())
        home.settle(after=10)
    assert [child.intent.quantity for child in home.children] == [D("2.50"), D("2.50"), D("2.50"), D("2.51")]
    assert [(child.created_at - START).total_seconds() for child in home.children] == [0, 10, 20, 30]
    assert home.parent.status is Status.FILLED


def test_a_schedule_that_starts_later_waits_and_wakes() -> None:
    home = twap(start_at=(START + timedelta(seconds=5)).isoformat())
    assert home.children == []
    assert home.wakeup() == START + timedelta(seconds=5)
    home.settle(after=5)
    assert len(home.children) == 1
    assert home.wakeup() == START + timedelta(seconds=15)


def test_slices_missed_in_an_outage_are_caught_up_one_at_a_time() -> None:
    home = twap()
    home.fill(home.only())
    home.settle(after=25)  # 10 s is missed
    assert home.only().intent.quantity == D(5)
    home.fill(home.only())
    home.settle(after=10)
    assert home.only().intent.quantity == D("2.5")


def test_what_may_be_caught_up_at_once_is_limited() -> None:
    home = twap(max_catch_up="1")
    home.fill(home.only())
    home.settle(after=25)
    assert home.only().intent.quantity == D("3.5")


def test_missed_slices_are_left_out_where_that_is_wanted_and_the_end_says_so() -> None:
    home = twap(late="skip")
    home.fill(home.only())
    for _ in range(2):
        home.settle(after=15)
        home.fill(home.only())
    home.settle(after=10)
    assert [child.intent.quantity for child in home.children] == [D("2.5")] * 3
    assert (home.parent.status, home.parent.reason_code, home.parent.filled_quantity) == (Status.EXPIRED, "SCHEDULE_OVER", D("7.5"))


def test_limit_slices_rest_until_the_next_one_and_leave_it_their_rest() -> None:
    home = twap(slice_type="limit", limit_price=D(100))
    first = home.only()
    home.fill(first, "1")
    home.settle(after=10)
    assert home.only().status is Status.PENDING_CANCEL
    home.canceled(first)
    home.settle()
    assert (home.only().intent.quantity, home.only().intent.limit_price) == (D(4), D(100))


def test_market_slices_under_a_cap_take_what_the_cap_allows_and_never_rest() -> None:
    home = twap(limit_price=D(100))
    assert (home.only().intent.type, home.only().intent.time_in_force, home.only().intent.limit_price) == ("limit", "IOC", D(100))


def test_slices_too_small_to_stand_alone_are_joined_and_the_sum_is_the_whole() -> None:
    intent = held("twap", {"duration_s": 100, "slices": 100}, "buy", "0.33")
    wanted = terms.read(intent)
    assert isinstance(wanted, terms.Schedule)
    plan = schedules.plan(intent, wanted, START, INSTRUMENT)
    sizes = [slice_.due - before for slice_, before in zip(plan, [D(0), *(slice_.due for slice_ in plan)], strict=False)]
    assert sum(sizes) == D("0.33")
    assert all(size >= INSTRUMENT.min_quantity for size in sizes)
    assert len(sizes) == 6


def test_a_market_slice_worth_too_little_waits_for_the_next() -> None:
    home = Household(held("twap", {"duration_s": 40, "slices": 4}, "buy", "0.4"))
    home.settle("40")
    assert home.children == []  # 0.1 at 40 is 4, and 5 is the least
    home.settle("40", after=10)
    assert home.only().intent.quantity == D("0.2")


def test_a_refused_slice_is_not_repeated_but_made_up_for_by_the_next() -> None:
    home = twap()
    home.reject(home.only())
    home.settle(after=5)
    assert home.open == []
    home.settle(after=5)
    assert home.only().intent.quantity == D(5)


def test_a_vwap_follows_its_weights() -> None:
    home = Household(held("vwap", {"duration_s": 40, "weights": ["1", "0", "2.5", "1.5"]}, "sell", "10"))
    home.settle()
    while home.parent.is_open:
        if home.open:
            home.fill(home.only())
        home.settle(after=10)
    assert [child.intent.quantity for child in home.children] == [D(2), D(5), D(3)]
    assert [(child.created_at - START).total_seconds() for child in home.children] == [0, 20, 30]


def test_the_end_of_a_schedule_takes_back_what_is_open_and_keeps_what_filled() -> None:
    home = twap(slice_type="limit", limit_price=D(100))
    home.fill(home.only(), "1")
    child = home.only()
    home.settle(after=40)
    home.canceled(child)
    home.settle()
    assert (home.parent.status, home.parent.filled_quantity) == (Status.EXPIRED, D(1))


# --- all ---------------------------------------------------------------------------------------------------------------

HELD: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    ("trailing_stop", {"callback_amount": "5"}, {}),
    ("oco", {"take_profit_price": "110", "stop_price": "90"}, {}),
    ("iceberg", {"visible_quantity": "3"}, {"limit_price": D(100)}),
    ("twap", {"duration_s": 40, "slices": 4}, {}),
    ("vwap", {"duration_s": 40, "weights": ["1", "2"]}, {}),
]


@pytest.mark.parametrize(("kind", "more", "force"), HELD)
def test_a_cancelled_parent_ends_after_its_children_and_places_no_more(kind: Any, more: Any, force: Any) -> None:
    home = Household(held(kind, more, **force))
    home.settle("100")
    home.settle("94")
    home.cancel()
    home.settle()
    for child in home.open:
        assert child.status is Status.PENDING_CANCEL
        assert home.parent.is_open
        home.fill(child, "1")
        home.canceled(child)
    home.settle()
    assert (home.parent.status, home.parent.filled_quantity) == (Status.CANCELED, D(1))


@pytest.mark.parametrize(("kind", "more", "force"), HELD)
def test_a_parent_whose_time_is_over_takes_its_children_back_and_expires(kind: Any, more: Any, force: Any) -> None:
    home = Household(held(kind, more, time_in_force="GTD", expire_at=START + timedelta(seconds=20), **force))
    home.settle("100")
    home.settle("94")
    assert home.wakeup() is not None
    home.settle("100", after=20)
    for child in home.open:
        home.canceled(child)
    home.settle()
    assert home.parent.status is Status.EXPIRED


def test_children_carry_on_what_was_asked_of_the_parent() -> None:
    home = Household(
        held("iceberg", {"visible_quantity": "3"}, limit_price=D(100), post_only=True, reduce_only=True, strategy="s", signal_id="g")
    )
    home.settle()
    child = home.only().intent
    assert (child.post_only, child.reduce_only, child.strategy, child.signal_id) == (True, True, "s", "g")
    assert (child.parent_id, child.account_id, child.venue, child.instrument_id) == ("t-parent", "paper", "paper", 1)
    assert child.client_order_id == parents.child_id("paper", "t-parent", "slice", 1)


def test_only_trails_and_stops_watch_prices() -> None:
    watching = {kind for kind, more, force in HELD if parents.watches_prices(Household(held(kind, more, **force)).parent)}
    assert watching == {"trailing_stop", "oco"}
    assert parents.watches_prices(bracket().parent)


def test_late_fills_beyond_the_quantity_are_told_at_the_end() -> None:
    home = oco()
    profit = home.only()
    home.canceled(profit)
    home.settle(after=1)
    home.fill(home.orders[profit.id], "4", price="110")
    home.settle()
    assert home.only().status is Status.PENDING_CANCEL  # it promises more than is left
    home.fill(home.only())
    home.settle()
    assert (home.parent.filled_quantity, home.parent.reason_code) == (D(10), "OVERFILLED")
