"""A held order reserves its whole quantity once; its children draw on that, and nothing stays reserved when it is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from test_risk_rules import LIMITS, NOW, account, code, ended, filled, holding, intent, opened
from trading_platform.domain.orders import EventType, Intent, Order, Role
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import AccountRisk

D = Decimal


def held(order_id: str = "parent", kind: str = "twap", side: str = "buy", quantity: str = "0.1") -> Intent:
    return intent(order_id, type=kind, side=side, quantity=D(quantity), terms={})


def child(parent: str = "parent", number: int = 1, quantity: str = "0.04", side: str = "buy", role: Role = "slice") -> Intent:
    return intent(f"{parent}-{role}{number}", parent_id=parent, role=role, side=side, quantity=D(quantity))


def working(risk: AccountRisk) -> tuple[Decimal, Decimal]:
    return risk.working(1)


def test_a_held_order_is_judged_once_for_its_whole_quantity() -> None:
    risk = account(replace(LIMITS, max_position_notional=D(4000)))
    assert code(risk, held(quantity="0.100001")) == "POSITION_LIMIT_EXCEEDED"
    assert code(risk, held(quantity="0.1")) == "ACCEPTED"
    opened(risk, held())
    assert working(risk) == (D("0.1"), D(0))
    assert code(risk, child()) == "ACCEPTED", "the child draws on what its parent reserved"
    assert code(risk, intent(quantity=D("0.001"))) == "POSITION_LIMIT_EXCEEDED", "a stranger does not"


def test_children_do_not_count_beside_their_parent_and_fills_move_from_reserved_to_held() -> None:
    risk = account()
    opened(risk, held())
    first = opened(risk, child())
    assert working(risk) == (D("0.1"), D(0))
    filled(risk, first, "0.01")
    assert working(risk) == (D("0.09"), D(0))
    assert risk.exposure == D(4000)


def test_a_child_beyond_what_its_parent_reserved_is_judged_for_the_rest() -> None:
    risk = account(replace(LIMITS, max_position_notional=D(4000)))
    opened(risk, held())
    opened(risk, child(quantity="0.1"))
    assert code(risk, child(number=2, quantity="0.001")) == "POSITION_LIMIT_EXCEEDED"


def test_what_is_reserved_returns_to_nothing_when_the_family_is_over() -> None:
    risk = account()
    parent = opened(risk, held())
    filled(risk, opened(risk, child(number=1)), "0.04")
    ended(risk, opened(risk, child(number=2)))
    ended(risk, filled(risk, opened(risk, child(number=3)), "0.02"))
    assert working(risk) == (D("0.04"), D(0))
    ended(risk, parent, EventType.FINISHED)
    assert working(risk) == (D(0), D(0))
    assert risk.position(1).quantity == D("0.06")
    assert risk.exposure == D(2400)


def test_a_child_that_outlives_its_parent_still_counts() -> None:
    risk = account()
    parent = opened(risk, held())
    last = opened(risk, child())
    ended(risk, parent, EventType.FINISHED)
    assert working(risk) == (D("0.04"), D(0))
    ended(risk, last)
    assert working(risk) == (D(0), D(0))


@pytest.mark.parametrize("parents_first", [True, False])
def test_recovery_reserves_the_same_in_whatever_order_it_is_told(parents_first: bool) -> None:
    before = account()
    orders = [opened(before, held()), filled(before, opened(before, child(number=1)), "0.04")]
    orders.append(filled(before, opened(before, child(number=2, quantity="0.03")), "0.01"))
    after = account()
    after.set_position(1, "net", Position(D("0.05"), D(40000)))
    for order in orders if parents_first else reversed(orders):
        after.on_open(order)
        after.on_open(order)
    assert working(after) == working(before) == (D("0.05"), D(0))


def test_of_a_bracket_the_entry_adds_and_the_exits_take_back_what_it_filled() -> None:
    risk = account()
    parent = opened(risk, held(kind="bracket"))
    entry = opened(risk, child(quantity="0.1", role="entry"))
    assert working(risk) == (D("0.1"), D(0))
    entry = filled(risk, entry, "0.06")
    assert working(risk) == (D("0.04"), D("0.06"))
    opened(risk, child(quantity="0.06", side="sell", role="take_profit"))
    assert working(risk) == (D("0.04"), D("0.06"))
    ended(risk, entry)
    assert working(risk) == (D(0), D("0.06")), "what the entry did not fill is free again"
    exit_order: Order = opened(risk, child(number=2, quantity="0.01", side="sell", role="stop_loss"))
    assert working(risk) == (D(0), D("0.07")), "were more placed than reserved, what is placed counts"
    ended(risk, exit_order)
    ended(risk, parent, EventType.FINISHED)
    assert working(risk) == (D(0), D("0.06"))


def test_an_exit_that_takes_back_what_is_held_passes_losses_old_prices_and_the_rate_but_no_halt() -> None:
    limits = replace(LIMITS, max_orders_per_minute=2, max_daily_loss=D(1), max_order_notional=D(4000))
    risk = account(limits)
    opened(risk, held(kind="bracket"))
    filled(risk, opened(risk, child(quantity="0.1", role="entry")), "0.1")
    opened(risk, intent("other", quantity=D("0.001")))
    stop = child(quantity="0.1", side="sell", role="stop_loss")
    later = NOW + timedelta(seconds=45)
    risk.on_quote("BTCUSDT", D(45000), int(NOW.timestamp()) * 10**9)
    assert code(risk, intent(quantity=D("0.01")), at=later) == "MARKET_DATA_STALE"
    assert code(risk, stop, at=later) == "ACCEPTED"
    assert code(risk, stop, "reducing", at=later) == "ACCEPTED"
    assert code(risk, stop, "paused", at=later) == "TRADING_PAUSED"
    assert code(risk, replace(stop, quantity=D("0.11")), "reducing", at=later) == "TRADING_REDUCING"


def test_while_reducing_a_stop_may_be_set_for_what_is_held_and_a_bracket_may_not() -> None:
    risk = holding("0.1")
    assert code(risk, held(kind="trailing_stop", side="sell"), "reducing") == "ACCEPTED"
    assert code(risk, held(kind="trailing_stop", side="sell", quantity="0.11"), "reducing") == "TRADING_REDUCING"
    assert code(risk, held(kind="bracket", side="sell", quantity="0.05"), "reducing") == "TRADING_REDUCING"


def test_of_two_stops_for_one_position_the_second_to_fire_is_refused_while_reducing() -> None:
    risk = holding("0.1")
    opened(risk, held("a", "trailing_stop", "sell"))
    opened(risk, held("b", "trailing_stop", "sell"))
    first = child("a", quantity="0.1", side="sell", role="exit")
    assert code(risk, first, "reducing") == "ACCEPTED"
    order = opened(risk, first)
    second = child("b", quantity="0.1", side="sell", role="exit")
    assert code(risk, second, "reducing") == "TRADING_REDUCING"
    filled(risk, order, "0.1")
    assert code(risk, second, "reducing") == "TRADING_REDUCING"


def test_a_slice_is_stopped_by_a_loss_that_came_after_its_parent_was_taken_on() -> None:
    risk = account()
    opened(risk, held())
    filled(risk, opened(risk, child()), "0.04")
    assert code(risk, child(number=2)) == "ACCEPTED"
    risk.set_position(2, "net", Position(D(0), D(0), D(-1000), D(0)))
    assert code(risk, child(number=2)) == "DAILY_LOSS_LIMIT_REACHED"


def test_a_position_may_be_closed_by_hand_though_a_stop_waits_for_it() -> None:
    risk = holding("0.1", limits=replace(LIMITS, max_daily_loss=D(1)))
    opened(risk, held(kind="trailing_stop", side="sell"))
    risk.set_position(2, "net", Position(D(0), D(0), D(-10), D(0)))
    by_hand = intent("by-hand", side="sell")
    assert code(risk, by_hand) == "ACCEPTED"
    filled(risk, opened(risk, by_hand), "0.1")
    fires = child(quantity="0.1", side="sell", role="exit")
    assert code(risk, fires) == "DAILY_LOSS_LIMIT_REACHED", "nothing is left to protect: it would open a short position"
