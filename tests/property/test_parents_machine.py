"""Held orders against a venue that does what venues do: nothing is ever promised twice, and everything comes to an end.

Fills are partial and late, cancels cross them, children are denied, rejected or of unknown fate, and everything but what was
written is forgotten at any moment. What a child filled is known before it counts as over, as the engine sees to.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from held_orders import INSTRUMENT, START, Household, held
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trading_platform.domain import parents
from trading_platform.domain.family import tradable
from trading_platform.domain.orders import EventType, Order, Status
from trading_platform.domain.top import Top

D = Decimal
LOT = INSTRUMENT.lot_size

FORCES: list[dict[str, Any]] = [
    {},
    {},
    {"time_in_force": "GTD", "expire_at": START + timedelta(seconds=40)},
]
EXITS = {"take_profit_price": "110", "stop_price": "90"}
SHORT_EXITS = {"take_profit_price": "90", "stop_price": "110"}
WISHES: list[tuple[Any, Any, Any, dict[str, Any]]] = [
    ("trailing_stop", {"callback_amount": "5"}, "sell", {}),
    ("trailing_stop", {"callback_percent": "4", "activation_price": "98"}, "buy", {}),
    ("trailing_stop", {"callback_amount": "3", "limit_offset": "2"}, "sell", {}),
    ("oco", EXITS, "sell", {}),
    ("oco", {**SHORT_EXITS, "stop_limit_price": "112", "trigger_by": "quote"}, "buy", {}),
    ("bracket", EXITS, "buy", {}),
    ("bracket", {**EXITS, "stop_limit_price": "88"}, "buy", {"limit_price": D(100)}),
    ("bracket", SHORT_EXITS, "sell", {"trigger_price": D(99)}),
    ("iceberg", {"visible_quantity": "0.2"}, "buy", {"limit_price": D(100)}),
    ("iceberg", {"visible_quantity": "0.21", "variation_percent": "30", "seed": "s"}, "sell", {"limit_price": D(100)}),
    ("twap", {"duration_s": 30, "slices": 7}, "buy", {}),
    ("twap", {"duration_s": 30, "interval_s": 5, "slice_type": "limit", "max_catch_up": "0.1"}, "buy", {"limit_price": D(100)}),
    ("twap", {"duration_s": 30, "slices": 30, "late": "skip"}, "sell", {"limit_price": D(100)}),
    ("vwap", {"duration_s": 30, "weights": ["1", "0", "2.5", "4", "1"]}, "sell", {}),
]


class Family(RuleBasedStateMachine):
    """One held order's life."""

    @initialize(
        wish=st.sampled_from(WISHES),
        force=st.sampled_from(FORCES),
        lots=st.integers(22, 150),
        last=st.integers(170, 230),
    )
    def taken_on(self, wish: tuple[Any, Any, Any, dict[str, Any]], force: dict[str, Any], lots: int, last: int) -> None:
        kind, terms, side, more = wish
        self.home = Household(held(kind, terms, side, str(LOT * lots), **{**more, **force}))
        self.kind = kind
        self.there: dict[str, Decimal] = {}  # by child, what the venue filled; we may not know yet
        self.ended_there: set[str] = set()
        self.untold: list[tuple[str, Decimal]] = []
        self.stops: list[Decimal] = []
        self.canceled = False
        self._price(last)

    def _price(self, halves: int) -> None:
        last = D(halves) / 2
        self.home.market = Top(last - 1, last + 1, last, self.home.now)

    def _pick(self, choice: int, candidates: list[Order]) -> Order | None:
        return candidates[choice % len(candidates)] if candidates else None

    def _rest_there(self, child: Order) -> Decimal:
        return D(0) if child.id in self.ended_there else child.intent.quantity - self.there.get(child.id, D(0))

    # --- the world -----------------------------------------------------------------------------------------------------

    @rule(halves=st.one_of(st.integers(196, 204), st.integers(160, 240)))
    def the_price_moves(self, halves: int) -> None:
        self._price(halves)

    @rule()
    def there_is_no_market(self) -> None:
        self.home.market = None

    @rule(seconds=st.one_of(st.integers(0, 3), st.integers(4, 30)))
    def time_passes(self, seconds: int) -> None:
        self.home.now += timedelta(seconds=seconds)

    @rule(choice=st.integers(0, 9), fate=st.sampled_from(["accepted", "accepted", "rejected", "unknown", "never"]))
    def the_venue_answers(self, choice: int, fate: str) -> None:
        child = self._pick(choice, [order for order in self.home.open if order.venue_order_id is None])
        if child is None:
            return
        untouched = self.there.get(child.id, D(0)) == 0 and child.id not in self.ended_there
        if fate == "accepted" and child.may(EventType.ACCEPTED):
            self.home.accept(child)
        elif fate == "unknown" and child.may(EventType.SUBMIT_UNKNOWN):
            self.home.happens(child.id, EventType.SUBMIT_UNKNOWN)
        elif fate == "rejected" and untouched and child.may(EventType.REJECTED):
            self.ended_there.add(child.id)
            self.home.reject(child)
        elif fate == "never" and untouched and child.may(EventType.NEVER_RECEIVED):
            self.ended_there.add(child.id)
            self.home.happens(child.id, EventType.NEVER_RECEIVED, code="VENUE_NEVER_RECEIVED")

    @rule(choice=st.integers(0, 9), lots=st.integers(1, 200), told=st.booleans())
    def the_venue_fills(self, choice: int, lots: int, told: bool) -> None:
        child = self._pick(choice, [order for order in self.home.open if self._rest_there(order) > 0])
        if child is None:
            return
        size = min(LOT * lots, self._rest_there(child))
        self.there[child.id] = self.there.get(child.id, D(0)) + size
        self.untold.append((child.id, size))
        if told:
            self.we_hear_of_a_fill(len(self.untold) - 1)

    @rule(choice=st.integers(0, 9))
    def we_hear_of_a_fill(self, choice: int) -> None:
        if self.untold:
            child, size = self.untold.pop(choice % len(self.untold))
            self.home.fill(self.home.orders[child], size)

    @rule(choice=st.integers(0, 9), unasked=st.booleans())
    def the_venue_ends_an_order(self, choice: int, unasked: bool) -> None:
        """Cancelled because we asked, or by the venue's own doing."""
        live = [order for order in self.home.open if order.id not in self.ended_there]
        child = self._pick(choice, [order for order in live if unasked or order.status is Status.PENDING_CANCEL])
        if child is not None:
            self.ended_there.add(child.id)

    @rule(choice=st.integers(0, 9), expired=st.booleans())
    def we_hear_of_an_end(self, choice: int, expired: bool) -> None:
        child = self._pick(choice, [order for order in self.home.open if order.id in self.ended_there])
        if child is not None and child.filled_quantity == self.there.get(child.id, D(0)):
            self.home.happens(child.id, EventType.EXPIRED if expired else EventType.CANCELED)

    # --- us ------------------------------------------------------------------------------------------------------------

    @rule(how_many=st.integers(1, 3))
    def some_of_what_is_decided_is_done(self, how_many: int) -> None:
        self.home.carry_out(self.home.decide()[:how_many])

    @rule()
    def all_that_is_decided_is_done(self) -> None:
        self.home.settle()

    @rule()
    def everything_is_forgotten(self) -> None:
        self.home.crash()

    @precondition(lambda self: self.home.parent.status is Status.SUSPENDED)
    @rule(really=st.integers(0, 5))
    def somebody_cancels(self, really: int) -> None:
        if really == 0:
            self.home.cancel()
            self.canceled = True

    # --- what always holds ---------------------------------------------------------------------------------------------

    def _promised(self, children: list[Order]) -> Decimal:
        return sum((self.there.get(child.id, D(0)) + self._rest_there(child) for child in children), D(0))

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        parent, children = self.home.parent, self.home.children
        entries = [child for child in children if child.intent.role == "entry"]
        others = [child for child in children if child.intent.role != "entry"]
        most = sum((child.filled_quantity for child in entries), D(0)) if self.kind == "bracket" else parent.intent.quantity
        assert self._promised(others) <= most
        assert self._promised(entries) <= parent.intent.quantity

    @invariant()
    def every_child_is_an_order_the_venue_would_take(self) -> None:
        for child in self.home.children:
            INSTRUMENT.check_quantity(child.intent.quantity)
            assert tradable(INSTRUMENT, child.intent.quantity, child.intent.limit_price)
            assert child.intent.limit_price is None or child.intent.limit_price % INSTRUMENT.tick_size == 0

    @invariant()
    def the_same_question_has_the_same_answer(self) -> None:
        home = self.home
        turned = list(reversed(home.children))
        assert parents.decide(home.parent, turned, home.market, home.now, INSTRUMENT) == home.decide()
        assert parents.next_wakeup(home.parent, turned, home.now) == home.wakeup()

    @invariant()
    def a_stop_never_loosens(self) -> None:
        stop = (self.home.parent.memory or {}).get("stop_price")
        if stop is None:
            return
        self.stops.append(D(stop))
        assert self.stops == sorted(self.stops, reverse=self.home.parent.intent.side == "buy")

    @invariant()
    def one_exit_works_at_a_time(self) -> None:
        if self.kind in ("oco", "bracket") and any(child.intent.role in ("stop_loss", "exit") for child in self.home.open):
            covered = self._promised([child for child in self.home.children if child.intent.role != "entry"])
            entries = [child for child in self.home.children if child.intent.role == "entry"]
            limit = self.home.parent.intent.quantity if self.kind == "oco" else sum(child.filled_quantity for child in entries)
            assert covered <= limit

    @invariant()
    def an_end_says_what_was_filled(self) -> None:
        parent = self.home.parent
        if parent.is_open:
            return
        assert not self.home.open
        counted = self.home.role("entry") if self.kind == "bracket" else self.home.children
        assert parent.filled_quantity == sum((child.filled_quantity for child in counted), D(0))
        assert (parent.status is Status.FILLED) is (parent.filled_quantity == parent.intent.quantity)

    @invariant()
    def whoever_waits_for_time_waits_for_a_moment_ahead(self) -> None:
        moment = self.home.wakeup()
        assert moment is None or moment > self.home.now

    # --- the end -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """A venue that behaves and a market that moves bring every held order to its end, with nothing left unprotected."""
        if not hasattr(self, "home"):
            return
        home = self.home
        for round_ in range(400):
            home.settle()
            self.nothing_is_promised_twice()
            if not home.parent.is_open:
                break
            self._venue_behaves()
            # where trails activate and entries fill, through every stop but to no gain, and where the other side's limits are
            adverse = 160 if (home.parent.intent.side == "sell") is (self.kind != "bracket") else 240
            self._price((196, adverse, 204)[round_ % 3])
            home.now = max(home.now, self._wake(home.wakeup()))
        assert not home.parent.is_open, f"{self.kind} never ends: {home.parent} {home.open}"
        self.an_end_says_what_was_filled()
        if self.kind == "bracket" and not self.canceled and home.parent.reason_code != "REST_BELOW_MINIMUM":
            entered = sum((child.filled_quantity for child in home.role("entry")), D(0))
            left = sum((child.filled_quantity for child in home.children if child.intent.role != "entry"), D(0))
            assert entered == left

    def _wake(self, moment: datetime | None) -> datetime:
        return self.home.now if moment is None else moment

    def _venue_behaves(self) -> None:
        home = self.home
        while self.untold:
            self.we_hear_of_a_fill(0)
        for child in home.open:
            if child.id not in self.ended_there and child.status is Status.PENDING_CANCEL:
                self.ended_there.add(child.id)
            if child.id in self.ended_there:
                home.canceled(home.orders[child.id])
            else:
                if child.may(EventType.ACCEPTED):
                    home.accept(child)
                if child.intent.role != "take_profit" or self._is_gain(child):
                    self.there[child.id] = child.intent.quantity
                    home.fill(home.orders[child.id])

    def _is_gain(self, child: Order) -> bool:
        market, limit = self.home.market, child.intent.limit_price
        if market is None or market.last is None or limit is None:
            return False
        return market.last <= limit if child.intent.side == "buy" else market.last >= limit


TestFamily = Family.TestCase
TestFamily.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
