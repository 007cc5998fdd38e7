"""The emergency stop's procedure against means that fail: what it does, when it is complete, and what it says it could not see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from trading_platform.emergency import procedure as emergency
from trading_platform.trading_states import Waiting


@dataclass(frozen=True)
class Order:
    symbol: str
    client_order_id: str


@dataclass
class Venue:
    """Orders open there. `late` appear after the first cancel; `stuck` are not cancelled; `silent` calls fail first."""

    orders: list[Order] = field(default_factory=list)
    late: list[Order] = field(default_factory=list)
    stuck: bool = False
    silent: int = 0
    has_dead_man: bool = False
    armed: list[tuple[tuple[str, ...], float]] = field(default_factory=list)
    looks: int = 0
    closed: bool = False

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    async def open_orders(self) -> Sequence[Order]:
        self.looks += 1
        if self.silent > 0:
            self.silent -= 1
            raise ConnectionError("no answer")
        return list(self.orders)

    async def cancel_all(self, symbols: Sequence[str]) -> None:
        if not self.stuck:
            self.orders = [order for order in self.orders if order.symbol not in symbols] + self.late
            self.late = []

    async def arm_dead_man(self, symbols: Sequence[str], timeout_s: float) -> None:
        self.armed.append((tuple(symbols), timeout_s))


@dataclass
class Means:
    of: dict[str, Venue]
    database: bool = True
    unacknowledged: int = 0  # looks until everybody has acknowledged
    held: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    halts: int = 0
    engine_alive: bool = True

    async def halt(self) -> int:
        self._reach()
        self.halts += 1
        return 7

    async def waiting(self, version: int) -> list[Waiting]:
        self._reach()
        if self.unacknowledged > 0:
            self.unacknowledged -= 1
            return [Waiting("paper", "alpha", "its engine is frozen")]
        return []

    async def venue(self, account_id: str) -> Venue:
        return self.of[account_id]

    def symbols(self) -> Sequence[str]:
        return ("BTCUSDT", "ETHUSDT")

    async def cancel_by_engine(self, account_id: str) -> None:
        self.asked.append(account_id)
        if not self.engine_alive:
            await asyncio.sleep(3600)

    async def positions(self, account_id: str) -> list[str]:
        self._reach()
        return self.held.get(account_id, [])

    def _reach(self) -> None:
        if not self.database:
            raise ConnectionError("the database is away")


async def stop(means: Means, *, flatten: bool = False, deadline_s: float = 3.0) -> emergency.Report:
    return await emergency.stop(means, tuple(means.of), flatten=flatten, deadline_s=deadline_s)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emergency, "PAUSE_S", 0.01)


A, B, C = Order("BTCUSDT", "a"), Order("ETHUSDT", "b"), Order("BTCUSDT", "c")


async def test_it_is_complete_when_the_halt_holds_and_every_venue_shows_nothing() -> None:
    means = Means({"paper": Venue([A, B]), "other": Venue([C])})
    report = await stop(means)
    assert (report.complete, report.version, emergency.outcome(report)) == (True, 7, 0)
    assert report.accounts["paper"].cancelled == 2
    assert set(means.asked) == {"paper", "other"}
    assert all(venue.closed for venue in means.of.values())


async def test_an_order_that_arrives_between_cancel_and_halt_is_found_and_cancelled() -> None:
    venue = Venue([A], late=[B])
    report = await stop(Means({"paper": venue}, unacknowledged=5))
    assert report.complete
    assert venue.orders == []


async def test_a_look_that_began_before_the_halt_held_proves_nothing() -> None:
    venue = Venue()
    means = Means({"paper": venue}, unacknowledged=3)
    report = await stop(means)
    assert report.complete
    assert venue.looks > 1


async def test_cancelling_does_not_wait_for_the_acknowledgement_and_a_frozen_engine_is_named() -> None:
    venue = Venue([A])
    report = await stop(Means({"paper": venue}, unacknowledged=10**9), deadline_s=0.3)
    assert venue.orders == []
    assert (report.complete, emergency.outcome(report)) == (False, 1)
    assert report.left == ["paper: not acknowledged on alpha: its engine is frozen"]


async def test_with_the_database_away_it_cancels_at_the_venue_and_says_what_it_could_not_do() -> None:
    venue = Venue([A])
    report = await stop(Means({"paper": venue}, database=False), deadline_s=0.3)
    assert venue.orders == []
    assert (report.complete, report.left, emergency.outcome(report)) == (False, [], 3)
    assert "the halt is not in the database (ConnectionError: the database is away)" in report.unseen[0]


async def test_what_the_venue_does_not_cancel_is_named_as_left() -> None:
    report = await stop(Means({"paper": Venue([A], stuck=True)}), deadline_s=0.2)
    assert (report.left, emergency.outcome(report)) == (["paper: open at the venue: BTCUSDT a"], 1)


async def test_a_venue_that_does_not_answer_is_asked_again_and_never_taken_for_empty() -> None:
    assert (await stop(Means({"paper": Venue([A], silent=5)}))).complete
    report = await stop(Means({"paper": Venue(silent=10**9)}), deadline_s=0.2)
    assert (report.complete, emergency.outcome(report)) == (False, 3)
    assert report.unseen == ["paper: what is open at the venue (ConnectionError: no answer)"]


async def test_a_venue_that_was_empty_and_then_fell_silent_is_not_known_to_be_empty() -> None:
    venue = Venue()
    means = Means({"paper": venue}, unacknowledged=10)
    stopping = asyncio.create_task(stop(means, deadline_s=0.4))
    while venue.looks == 0:
        await asyncio.sleep(0)
    venue.silent = 10**9
    report = await stopping
    assert report.acknowledged
    assert (report.complete, report.unseen) == (False, ["paper: what is open at the venue (ConnectionError: no answer)"])


async def test_one_account_that_cannot_be_cleared_does_not_keep_the_others() -> None:
    other = Venue([B])
    report = await stop(Means({"paper": Venue(silent=10**9), "other": other}), deadline_s=0.3)
    assert (other.orders, report.accounts["other"].open_orders) == ([], [])


async def test_a_dead_engine_holds_nothing_up() -> None:
    report = await stop(Means({"paper": Venue([A])}, engine_alive=False))
    assert report.complete
    assert report.seconds < 2


async def test_the_dead_man_timer_is_armed_once_and_disarmed_when_nothing_is_left() -> None:
    """Left armed it would cancel what is placed after a release."""
    symbols = ("BTCUSDT", "ETHUSDT")
    venue = Venue([A], has_dead_man=True)
    report = await stop(Means({"paper": venue}))
    assert (venue.armed, report.accounts["paper"].dead_man_armed) == ([(symbols, 10.0), (symbols, 0)], False)


async def test_the_dead_man_timer_stays_armed_while_something_is_left() -> None:
    venue = Venue([A], has_dead_man=True, stuck=True)
    report = await stop(Means({"paper": venue}), deadline_s=0.3)
    assert ([timeout for _, timeout in venue.armed], report.accounts["paper"].dead_man_armed) == ([10.0], True)


async def test_a_cancel_without_a_halt_leaves_the_dead_man_timer_alone() -> None:
    venue = Venue([A], has_dead_man=True)
    report = await emergency.cancel(Means({"paper": venue}), ("paper",), deadline_s=5)
    assert (venue.orders, venue.armed, report.complete) == ([], [], True)


async def test_what_is_held_counts_only_where_closing_was_asked_for() -> None:
    assert (await stop(Means({"paper": Venue()}, held={"paper": ["BTCUSDT 0.5"]}))).complete
    report = await stop(Means({"paper": Venue()}, held={"paper": ["BTCUSDT 0.5"]}), flatten=True, deadline_s=0.3)
    assert (report.left, emergency.outcome(report)) == (["paper: position: BTCUSDT 0.5"], 1)


async def test_it_waits_until_whoever_leads_has_closed_what_is_held() -> None:
    means = Means({"paper": Venue()}, held={"paper": ["BTCUSDT 0.5"]})
    stopping = asyncio.create_task(stop(means, flatten=True))
    await asyncio.sleep(0.1)
    assert not stopping.done()
    means.held = {}
    report = await stopping
    assert (report.complete, report.accounts["paper"].positions) == (True, [])


async def test_doing_it_again_does_it_again_and_no_more() -> None:
    means = Means({"paper": Venue([A])})
    assert (await stop(means)).complete
    again = await stop(means)
    assert (again.complete, again.accounts["paper"].cancelled) == (True, 0)
