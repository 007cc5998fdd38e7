"""The limiter: never more than the venue allows, cancels first, and nobody waits longer than said."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_platform.engine.venues.limiter import Limiter, Limits, RateLimited, Urgency

REQUESTS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 0.2), st.floats(0, 20)),  # seconds after the one before
        st.sampled_from(Urgency),
        st.integers(1, 40),  # weight
        st.integers(0, 1),  # orders
        st.integers(0, 150),  # what the venue says is used
    ),
    max_size=60,
)


class Sent:
    """What was sent when."""

    def __init__(self) -> None:
        self.all: list[tuple[float, int, int, Urgency]] = []

    def within(self, seconds: float, until: float) -> list[tuple[float, int, int, Urgency]]:
        return [one for one in self.all if until - seconds < one[0] <= until]


@settings(max_examples=150, deadline=None)
@given(requests=REQUESTS, weight=st.integers(40, 200), orders=st.integers(1, 20))
def test_in_no_interval_more_is_sent_than_allowed_and_waiting_as_told_is_enough(
    requests: list[tuple[float, Urgency, int, int, int]], weight: int, orders: int
) -> None:
    limits, sent, now = Limits(weight, orders), Sent(), 1_000.0
    for pause, urgency, cost, count, told in requests:
        now += pause
        wait = limits.wait(urgency, cost, count, now)
        assert 0 <= wait < 62, "everything fits once the interval is over"
        now += wait + 1e-6
        assert limits.wait(urgency, cost, count, now) == 0
        limits.take(cost, count, now)
        sent.all.append((now, cost, count, urgency))
        assert sum(one[1] for one in sent.within(60, now)) <= weight
        assert sum(one[2] for one in sent.within(10, now)) <= orders
        limits.told({"X-MBX-USED-WEIGHT-1M": str(told)}, now)


@pytest.mark.parametrize("step_ms", [7, 40, 151])
def test_who_sends_as_fast_as_it_may_for_a_minute_never_sends_too_much(step_ms: int) -> None:
    limits, sent = Limits(10_000, 50), Sent()
    for moment in range(0, 60_000, step_ms):
        now = moment / 1_000
        if limits.wait(Urgency.NOW, 1, 1, now) == 0:
            limits.take(1, 1, now)
            sent.all.append((now, 1, 1, Urgency.NOW))
            assert len(sent.within(10, now)) <= 50
    assert len(sent.all) > 250, "what is allowed is used"


@settings(max_examples=100, deadline=None)
@given(requests=REQUESTS)
def test_new_orders_alone_always_leave_room_for_cancels_and_queries(requests: list[tuple[float, Urgency, int, int, int]]) -> None:
    limits, now = Limits(200, 20), 1_000.0
    for pause, _, cost, _, _ in requests:
        now += pause
        if limits.wait(Urgency.ORDER, cost, 1, now) == 0:
            limits.take(cost, 1, now)
        assert limits.wait(Urgency.NOW, 40, 0, now) == 0
        assert limits.wait(Urgency.NOW, 1, 1, now) == 0, "an emergency's closing orders have room too"
        assert limits.wait(Urgency.QUERY, 30, 0, now) == 0


@settings(max_examples=100, deadline=None)
@given(used=st.integers(0, 300), ours=st.integers(0, 50))
def test_usage_is_the_greater_of_ours_and_the_venues(used: int, ours: int) -> None:
    limits = Limits(1_000, 100)
    limits.take(ours, 0, 5.0)
    limits.told({"x-mbx-used-weight-1m": str(used), "x-mbx-used-weight-1d": "9", "x-mbx-used-weight-1m-": "9", "x-other": "x"}, 5.0)
    assert limits.usage(5.0)[0].used == max(used, ours)
    assert limits.usage(70.0)[0].used == 0


def test_a_limit_of_exchange_info_counts_where_it_is_stricter_and_new_ones_are_added() -> None:
    limits = Limits(1_000, 100)
    limits.learn(
        [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6_000},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 50},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 2},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 1},
        ]
    )
    assert [(one.limit, one.interval_s, one.allowed) for one in limits.usage(0.0)] == [
        ("weight", 60, 1_000), ("orders", 10, 50), ("orders", 86_400, 2),
    ]  # fmt: skip
    for at in (0.0, 20.0):
        limits.take(1, 1, at)
    assert limits.wait(Urgency.ORDER, 1, 1, 40.0) > 80_000


def test_what_never_fits_is_said_to() -> None:
    assert Limits(40, 10).wait(Urgency.NOW, 41, 0, 0.0) == math.inf
    assert Limits(80, 10).wait(Urgency.QUERY, 80, 0, 0.0) == 0, "what exceeds its share only may have everything"


def test_too_many_orders_holds_orders_back_and_nothing_else() -> None:
    limits = Limits(1_000, 100)
    limits.block(3, 10.0, orders_only=True)
    assert limits.wait(Urgency.ORDER, 1, 1, 11.0) == pytest.approx(2)
    assert limits.wait(Urgency.NOW, 1, 0, 11.0) == 0
    limits.block(5, 10.0)
    assert limits.wait(Urgency.NOW, 1, 0, 11.0) == pytest.approx(4)
    limits.block(1, 10.0)
    assert limits.wait(Urgency.NOW, 1, 0, 11.0) == pytest.approx(4), "a shorter pause does not end a longer one"


# --- the queue -----------------------------------------------------------------------------------------------------------


def limiter(limits: Limits, draw: float = 0.0) -> Limiter:
    return Limiter(limits, clock=asyncio.get_running_loop().time, draw=lambda: draw)


async def test_when_the_pause_is_over_cancels_go_before_queries_and_those_before_orders() -> None:
    queue = limiter(Limits(1_000, 100))
    queue.refused(429, "0.2", orders_only=False)
    deadline = asyncio.get_running_loop().time() + 5
    went: list[Urgency] = []

    async def go(urgency: Urgency) -> None:
        await queue.acquire(urgency, weight=1, deadline=deadline)
        went.append(urgency)

    await asyncio.gather(*(go(urgency) for urgency in (Urgency.ORDER, Urgency.QUERY, Urgency.NOW, Urgency.ORDER, Urgency.NOW)))
    assert went == [Urgency.NOW, Urgency.NOW, Urgency.QUERY, Urgency.ORDER, Urgency.ORDER]


async def test_who_cannot_go_in_time_is_told_at_once() -> None:
    queue = limiter(Limits(1_000, 100))
    queue.refused(418, None, orders_only=False)
    started = asyncio.get_running_loop().time()
    with pytest.raises(RateLimited, match="120"):
        await queue.acquire(Urgency.NOW, weight=1, deadline=started + 60)
    assert asyncio.get_running_loop().time() - started < 1


async def test_who_waits_waits_no_longer_than_the_deadline_and_who_goes_away_takes_nothing() -> None:
    limits = Limits(1_000, 100)
    queue = limiter(limits)
    queue.refused(429, "0.1", orders_only=True)
    now = asyncio.get_running_loop().time()

    async def go(until: float) -> None:
        await queue.acquire(Urgency.ORDER, weight=1, orders=1, deadline=now + until)

    impatient, gone, patient = asyncio.create_task(go(0.2)), asyncio.create_task(go(5)), asyncio.create_task(go(5))
    await asyncio.sleep(0)
    queue.refused(429, "0.5", orders_only=True)
    gone.cancel()
    with pytest.raises(RateLimited, match=r"no room for 0\.2 s"):
        await impatient
    await patient
    assert gone.cancelled()
    assert limits.usage(asyncio.get_running_loop().time())[1].used == 1


@pytest.mark.parametrize(("said", "pause"), [("7", 7.0), (None, 5.0), ("soon", 5.0), ("-1", 5.0), ("nan", 5.0)])
async def test_a_pause_that_cannot_be_read_is_the_usual_one_and_nobody_comes_back_in_the_same_moment(
    said: str | None, pause: float
) -> None:
    limits = Limits(1_000, 100)
    limiter(limits, draw=0.5).refused(429, said, orders_only=False)
    assert limits.wait(Urgency.NOW, 1, 0, asyncio.get_running_loop().time()) == pytest.approx(pause + 0.125, abs=0.05)
