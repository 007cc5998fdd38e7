"""Whatever the market does and whatever is ordered: nothing trades that was not there, nor worse than asked, nor out of turn."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
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
from trading_platform.domain.models import BasisPoints, ConstantLatency, JitterLatency, Models, NoSlippage, VolumeShare
from trading_platform.instruments import Instrument

D = Decimal
START = 1_700_000_000_000_000_000
STEP = 1_000_000

COIN = Instrument(7, "COINUSD", "spot", "COIN", "USD", 0, 0, D(1), D(1), D(1), D(1_000_000), D(0), D(1))


@dataclass(frozen=True)
class Tick:
    flags: int
    price: int
    size: int


@dataclass(frozen=True)
class Cancel:
    nth: int


# Prices so close together that orders, quotes and trades meet all the time; sizes of 0 are unknown.
PRICES = st.integers(95, 105)
TICKS = st.builds(
    Tick, st.sampled_from([BID, ASK, BID, ASK, TRADE, TRADE | BUY_AGGRESSOR, TRADE | SELL_AGGRESSOR]), PRICES, st.integers(0, 12)
)
QUANTITIES = st.integers(1, 15).map(D)


@st.composite
def orders(draw: st.DrawFn) -> BookOrder:
    kind: Any = draw(
        st.sampled_from(["limit"] * 6 + ["limit_maker", "market", "stop_loss", "stop_loss_limit", "take_profit", "take_profit_limit"])
    )
    limited, stopped = kind not in ("market", "stop_loss", "take_profit"), "stop" in kind or "profit" in kind
    tif: Any = draw(st.sampled_from(["GTC", "GTC", "GTC", "IOC", "FOK"])) if kind == "limit" else "GTC"
    visible = draw(st.none() | st.integers(1, 4).map(D)) if limited and tif == "GTC" else None
    return BookOrder(
        id=0,
        owner="paper",
        side=draw(st.sampled_from(["buy", "sell"])),
        type=kind,
        time_in_force=tif,
        quantity=draw(QUANTITIES),
        limit_price=D(draw(PRICES)) if limited else None,
        stop_price=D(draw(PRICES)) if stopped else None,
        visible=visible,
    )


HAPPENINGS = st.lists(st.lists(TICKS, min_size=1, max_size=8) | orders() | st.builds(Cancel, st.integers(0, 9)), min_size=5, max_size=40)
MODELS = st.builds(
    Models,
    slippage=st.sampled_from([NoSlippage(), BasisPoints(D(150)), VolumeShare(D("0.02"))]),
    latency=st.sampled_from([ConstantLatency(0), ConstantLatency(0), ConstantLatency(3 * STEP), JitterLatency(0, 9 * STEP, seed=5)]),
    depth=st.sampled_from([D(1), D("2.5"), D(10)]),
)


class EveryRow(Matcher):
    """Looks at every row instead of choosing those that may matter."""

    def _touching(self, ticks: Any, at: int, stop: int) -> list[int]:
        return list(range(at, stop))


@dataclass
class Run:
    """What was ordered, what was shown, what came of it."""

    matcher: Matcher
    orders: dict[int, BookOrder]
    ticks: dict[int, Tick]  # by their time
    changes: list[Change]


def run(models: Models, happenings: list[Any], *, cut: int | None = None, restart: bool = False, matcher: type[Matcher] = Matcher) -> Run:
    """Every tick has a time of its own. `cut`: rows a batch; `restart`: a new matcher before each happening."""
    done = Run(matcher(COIN, models), {}, {}, [])
    now = START
    for happening in [[Tick(BID, 99, 5), Tick(ASK, 101, 5)], *happenings]:
        if restart:
            done.matcher = matcher(COIN, models, restore=done.matcher.snapshot())
        if isinstance(happening, BookOrder):
            now += STEP
            order = BookOrder(**{name: getattr(happening, name) for name in BookOrder.__slots__} | {"id": len(done.orders) + 1})
            done.orders[order.id] = order
            done.changes += done.matcher.submit(order, now)
        elif isinstance(happening, Cancel):
            now += STEP
            done.changes += done.matcher.cancel(happening.nth % (len(done.orders) + 1) + 1, now)
        else:
            times = np.arange(1, len(happening) + 1, dtype=np.int64) * STEP + now
            now = int(times[-1])
            done.ticks |= dict(zip(times.tolist(), happening, strict=True))
            for part in np.array_split(np.arange(len(happening)), -(-len(happening) // (cut or len(happening)))):
                batch = TickBatch(
                    np.full(len(part), COIN.id, dtype=np.uint32),
                    times[part],
                    times[part],
                    np.array([happening[row].price for row in part], dtype=np.int64),
                    np.array([happening[row].size for row in part], dtype=np.int64),
                    np.array([happening[row].flags for row in part], dtype=np.uint8),
                )
                done.changes += done.matcher.on_ticks(batch, np.arange(len(part)))
    done.changes += done.matcher.on_time(now + 100 * STEP)
    return done


def executions(done: Run) -> list[Executed]:
    return [change for change in done.changes if isinstance(change, Executed)]


FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FAST
@given(MODELS, HAPPENINGS)
def test_an_order_never_fills_more_than_ordered_and_never_worse_than_its_limit(models: Models, happenings: list[Any]) -> None:
    done = run(models, happenings)
    filled: dict[int, Decimal] = defaultdict(Decimal)
    for execution in executions(done):
        order = done.orders[execution.order_id]
        filled[order.id] += execution.quantity
        assert execution.quantity > 0
        assert filled[order.id] <= order.quantity
        if order.limit_price is not None:
            worse = execution.price - order.limit_price
            assert worse <= 0 if order.side == "buy" else worse >= 0
    for standing in done.matcher.resting():
        assert standing.remaining == standing.order.quantity - filled[standing.order.id] > 0


@FAST
@given(HAPPENINGS)
def test_no_tick_gives_more_than_it_holds(happenings: list[Any]) -> None:
    done = run(Models(depth=D(1)), happenings)
    given_away: dict[int, Decimal] = defaultdict(Decimal)
    for execution in executions(done):
        given_away[execution.ts_event_ns] += execution.quantity
    for time, quantity in given_away.items():
        assert done.ticks[time].size == 0 or quantity <= done.ticks[time].size


@FAST
@given(MODELS, HAPPENINGS)
def test_a_market_order_finds_no_more_than_the_depth_behind_the_top(models: Models, happenings: list[Any]) -> None:
    done = run(models, happenings)
    taken: dict[int, Decimal] = defaultdict(Decimal)
    for execution in executions(done):
        if execution.liquidity == "taker":
            taken[execution.ts_event_ns] += execution.quantity
    for time, quantity in taken.items():
        tick = done.ticks[time]
        assert tick.size == 0 or tick.flags & TRADE or quantity <= tick.size * models.depth


@FAST
@given(HAPPENINGS)
def test_nobody_waiting_is_passed_over(happenings: list[Any]) -> None:
    """When a waiting order trades, none of a better price, and none of the same price that came first, is left waiting."""
    plain = [
        BookOrder(**{name: getattr(each, name) for name in BookOrder.__slots__} | {"visible": None})
        if isinstance(each, BookOrder)
        else each
        for each in happenings
    ]
    done = run(Models(), plain)
    waiting: dict[int, Decimal] = {}
    for change in done.changes:
        match change:
            case Accepted():
                order = done.orders[change.order_id]
                if order.type in ("limit", "limit_maker"):
                    waiting[order.id] = order.quantity
            case Executed(liquidity="maker"):
                order = done.orders[change.order_id]
                for other_id, left in waiting.items():
                    other = done.orders[other_id]
                    if other.side != order.side or left == 0 or order.id not in waiting:
                        continue
                    assert other.limit_price is not None
                    assert order.limit_price is not None
                    ahead = other.limit_price - order.limit_price
                    if order.side == "sell":
                        ahead = -ahead
                    assert ahead < 0 or (ahead == 0 and other_id >= order.id), (change, other)
                if order.id in waiting:
                    waiting[order.id] -= change.quantity
            case Executed():
                if change.order_id in waiting:
                    waiting[change.order_id] -= change.quantity
            case Canceled() | Expired():
                waiting.pop(change.order_id, None)
            case _:
                pass


@FAST
@given(MODELS, HAPPENINGS, st.integers(1, 3))
def test_however_ticks_are_cut_kept_and_looked_at_the_changes_are_the_same(models: Models, happenings: list[Any], cut: int) -> None:
    whole = run(models, happenings).changes
    assert run(models, happenings).changes == whole
    assert run(models, happenings, cut=cut).changes == whole
    assert run(models, happenings, restart=True).changes == whole
    assert run(models, happenings, matcher=EveryRow).changes == whole


@FAST
@given(MODELS, HAPPENINGS)
def test_every_order_has_one_beginning_and_at_most_one_end(models: Models, happenings: list[Any]) -> None:
    done = run(models, happenings)
    state: dict[int, str] = {}
    filled: dict[int, Decimal] = defaultdict(Decimal)
    for change in done.changes:
        before = state.get(change.order_id)
        match change:
            case Accepted() | Rejected():
                assert before is None
                state[change.order_id] = "open" if isinstance(change, Accepted) else "ended"
            case CancelRefused():
                assert before != "open"
            case Triggered():
                assert before == "open"
            case Executed():
                assert before == "open"
                filled[change.order_id] += change.quantity
                if filled[change.order_id] == done.orders[change.order_id].quantity:
                    state[change.order_id] = "ended"
            case Canceled() | Expired():
                assert before == "open"
                state[change.order_id] = "ended"
    assert {order_id for order_id, each in state.items() if each == "open"} == {standing.order.id for standing in done.matcher.resting()}
    assert set(state) == set(done.orders)


@FAST
@given(HAPPENINGS)
@example([BookOrder(0, "paper", "buy", "limit", "GTC", D(3), D(99)), [Tick(TRADE, 99, 3)], [Tick(BID, 99, 1)]])
def test_who_writes_only_what_moved_has_every_order_where_it_stands(happenings: list[Any]) -> None:
    """A keeper of rows that takes what moved, drops what ended, and starts a new matcher from its rows after every happening."""
    kept: dict[int, Standing] = {}

    class Keeper(Matcher):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            assert self.take_moved() == set()

        def snapshot(self) -> Snapshot:
            moved = self.take_moved()
            for order_id in [*moved, *kept]:
                standing = self.standing(order_id)
                if standing is None:
                    kept.pop(order_id)
                elif order_id in moved:
                    kept[order_id] = standing
            rows = sorted(kept.values(), key=lambda standing: standing.seniority)
            assert rows == self.resting()
            assert [standing.seniority for standing in rows] == [standing.seniority for standing in self.resting()]
            return replace(self.market(), orders=tuple(rows))

    restarted = run(Models(), happenings, restart=True, matcher=Keeper)
    assert restarted.changes == run(Models(), happenings).changes
