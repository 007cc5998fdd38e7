"""What the account's core concludes from what happens, without clock, venue or database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from trading_platform.domain.orders import Fill, Intent, Order, Status, fold
from trading_platform.domain.top import Top
from trading_platform.engine.core import AccountCore, Batch, Changes, NotOpen, OrderRequest, UnknownOrder
from trading_platform.engine.venues import VenueOrder, VenueRejected, VenueReport, VenueStatus, VenueTrade, VenueUnknown
from trading_platform.instruments import Catalogue, Instrument, InvalidOrder

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
BTC = Instrument(
    1, "BTCUSDT", "spot", "BTC", "USDT", 2, 6, Decimal("0.01"), Decimal("0.001"), Decimal("0.001"), Decimal(100), Decimal(5), Decimal(1)
)


@dataclass(frozen=True)
class Said:
    accepted: bool = True
    code: str = "ACCEPTED"
    detail: str = ""

    def facts(self) -> Mapping[str, Any]:
        return {"mark": "100", "limits_version": 7}


@dataclass
class Judge:
    """Says what it is told to say, and remembers what it was told."""

    says: Said = field(default_factory=Said)
    told: list[str] = field(default_factory=list)

    def check(self, intent: Intent, now: datetime, state: str) -> Said:
        return self.says

    def on_open(self, order: Order) -> None:
        self.told.append("open")

    def on_fill(self, order: Order, fill: Fill) -> None:
        self.told.append("fill")

    def on_end(self, order: Order) -> None:
        self.told.append("end")

    def on_reject(self, order: Order) -> None:
        self.told.append("reject")


class Desk:
    """A core with what it had written so far."""

    def __init__(self, **options: Any) -> None:
        self.judge = Judge()
        self.options = options
        self.core = AccountCore("paper", "paper", Catalogue([BTC]), self.judge, **options)
        self.core.on_state("running", NOW)
        self.journal: list[Any] = []
        self.last = Batch()
        self.trades = 0

    def __call__(self, batch: Batch) -> Batch:
        self.journal += batch.steps
        return batch

    def place(self, origin: str = "a", quantity: str = "1", now: datetime = NOW, **more: Any) -> Batch:
        request = OrderRequest(origin, "BTCUSDT", "buy", more.pop("type", "market"), Decimal(quantity), **more)
        return self(self.core.place(request, "test", now))

    def limit(self, origin: str = "a", **more: Any) -> Order:
        """A resting order, acknowledged."""
        batch = self.place(origin, type="limit", limit_price=Decimal(100), **more)
        self(self.core.on_answer(batch.sends[0].client_order_id, theirs(batch.sends[0], "NEW"), NOW))
        assert batch.order is not None
        return self.now(batch.order.id)

    def trade(self, order_id: str, quantity: str, number: int | None = None) -> VenueTrade:
        self.trades += 1
        trade_id = f"BTCUSDT:{self.trades if number is None else number}"
        fill = Fill(trade_id, Decimal(quantity), Decimal(100), Decimal("0.1"), "USDT", "taker", NOW, 1)
        return VenueTrade("BTCUSDT", order_id, fill)

    def now(self, order_id: str) -> Order:
        order = self.core.get(order_id)
        assert order is not None
        return order

    def kinds(self, order_id: str) -> list[str]:
        return [step.event.type.value for step in self.journal if step.order.id == order_id]

    def restart(self, now: datetime) -> None:
        """The process dies; what was written is all that is left."""
        events: dict[str, list[Any]] = {}
        for step in self.journal:
            events.setdefault(step.order.id, []).append(step.event)
        orders = [fold(of_order) for of_order in events.values()]
        trades = {key: [event.fill.trade_id for event in of if event.fill is not None] for key, of in events.items()}
        known = {order.id: order for order in orders}
        family = [one for one in orders if one.is_open or ((up := known.get(one.intent.parent_id or "")) is not None and up.is_open)]
        held = {key: quantity for key, quantity in self.core.positions.items() if quantity}
        self.core = AccountCore("paper", "paper", Catalogue([BTC]), self.judge, **self.options)
        self.core.restore(family, trades, held, now)
        self.core.on_state("running", now)
        self.last = self(self.core.resume(now))


def theirs(what: Intent | str, status: VenueStatus, filled: str = "0", trades: tuple[VenueTrade, ...] = ()) -> VenueOrder:
    order_id = what if isinstance(what, str) else what.client_order_id
    return VenueOrder("BTCUSDT", order_id, "v-1", status, Decimal(filled), trades=trades)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_accepted_order_is_written_before_it_is_sent_with_the_decision_in_its_event(desk: Desk) -> None:
    batch = desk.place()
    assert [step.event.type for step in batch.steps] == ["initialized", "submitting"]
    assert [intent.client_order_id for intent in batch.sends] == [batch.steps[0].order.id]
    assert batch.steps[1].event.to_data()["risk"] == {
        "symbol": "BTCUSDT", "accepted": True, "code": "ACCEPTED", "detail": "", "limits_version": 7, "facts": {"mark": "100"},
    }  # fmt: skip


def test_a_denied_order_is_written_and_never_sent(desk: Desk) -> None:
    desk.judge.says = Said(False, "TOO_MUCH", "far too much")
    batch = desk.place()
    assert (batch.sends, [step.event.type for step in batch.steps]) == ([], ["initialized", "denied"])
    assert batch.order is not None
    assert (batch.order.status, batch.order.reason_code) == (Status.REJECTED, "TOO_MUCH")
    assert desk.judge.told == []


def test_the_same_origin_again_is_the_same_order(desk: Desk) -> None:
    first, second = desk.place(), desk.place()
    assert first.order == second.order
    assert (second.created, second.steps, second.sends) == (False, [], [])


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ({"type": "limit"}, "LIMIT_PRICE_MISMATCH"),
        ({"limit_price": Decimal(1)}, "LIMIT_PRICE_MISMATCH"),
        ({"type": "stop"}, "TRIGGER_PRICE_MISMATCH"),
        ({"trigger_price": Decimal(1)}, "TRIGGER_PRICE_MISMATCH"),
        ({"type": "limit", "limit_price": Decimal("1.001")}, "PRICE_NOT_MULTIPLE_OF_TICK"),
        ({"post_only": True}, "POST_ONLY_MISMATCH"),
        ({"type": "limit", "limit_price": Decimal(1), "post_only": True, "time_in_force": "IOC"}, "POST_ONLY_MISMATCH"),
        ({"type": "stop", "trigger_price": Decimal(1), "time_in_force": "FOK"}, "TIME_IN_FORCE_MISMATCH"),
        ({"time_in_force": "FOK"}, "TIME_IN_FORCE_MISMATCH"),
        ({"time_in_force": "GTD"}, "EXPIRE_AT_MISMATCH"),
        ({"expire_at": later(1)}, "EXPIRE_AT_MISMATCH"),
        ({"time_in_force": "GTD", "expire_at": NOW}, "EXPIRE_AT_PAST"),
        ({"position_side": "long"}, "POSITION_SIDE_MISMATCH"),
        ({"terms": {"a": "b"}}, "TERMS_MISMATCH"),
        ({"quantity": "0.0001"}, "QUANTITY_BELOW_MINIMUM"),
        ({"quantity": "NaN"}, "QUANTITY_NOT_POSITIVE"),
    ],
)
def test_what_is_no_order_changes_nothing(desk: Desk, what: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidOrder) as refused:
        desk.place(**what)
    assert refused.value.code == code
    assert (desk.core.open_orders, desk.journal) == ([], [])


def test_an_answer_with_its_executions_fills_the_order_at_once(desk: Desk) -> None:
    sent = desk.place().sends[0]
    trade = desk.trade(sent.client_order_id, "1")
    batch = desk(desk.core.on_answer(sent.client_order_id, theirs(sent, "FILLED", "1", (trade,)), NOW))
    assert batch.order is not None
    assert (batch.order.status, batch.order.venue_order_id) == (Status.FILLED, "v-1")
    assert desk.core.open_orders == []
    assert desk.judge.told == ["open", "fill", "end"]


def test_a_fill_told_by_answer_stream_and_asking_counts_once(desk: Desk) -> None:
    order = desk.limit()
    trade = desk.trade(order.id, "0.4")
    desk(desk.core.on_report(VenueReport(theirs(order.id, "PARTIALLY_FILLED", "0.4"), trade), NOW))
    desk(desk.core.on_report(VenueReport(theirs(order.id, "PARTIALLY_FILLED", "0.4"), trade), NOW))
    desk(desk.core.on_trade(trade, NOW))
    assert desk.now(order.id).filled_quantity == Decimal("0.4")
    assert desk.kinds(order.id).count("filled") == 1
    assert desk.core.positions[(1, "net")] == Decimal("0.4")


def test_a_fill_that_overtakes_its_acknowledgement_counts(desk: Desk) -> None:
    sent = desk.place().sends[0]
    desk(desk.core.on_trade(desk.trade(sent.client_order_id, "0.4"), NOW))
    desk(desk.core.on_answer(sent.client_order_id, theirs(sent, "NEW", "0.4"), NOW))
    order = desk.now(sent.client_order_id)
    assert (order.status, order.filled_quantity, order.venue_order_id) == (Status.PARTIALLY_FILLED, Decimal("0.4"), "v-1")


def test_missing_executions_are_asked_for_and_the_end_waits_for_them(desk: Desk) -> None:
    order = desk.limit()
    batch = desk(desk.core.on_report(VenueReport(theirs(order.id, "CANCELED", "0.4")), NOW))
    assert batch.symbols == {"BTCUSDT"}
    desk(desk.core.on_trade(desk.trade(order.id, "0.1"), NOW))
    assert desk.now(order.id).is_open
    desk(desk.core.on_trade(desk.trade(order.id, "0.3"), NOW))
    assert (desk.now(order.id).status, desk.now(order.id).filled_quantity) == (Status.CANCELED, Decimal("0.4"))


def test_a_fill_after_the_cancel_still_counts(desk: Desk) -> None:
    order = desk.limit()
    assert [canceled.id for canceled in desk(desk.core.cancel(order.id, "test", NOW)).cancels] == [order.id]
    desk(desk.core.on_cancel_answer(order.id, theirs(order.id, "CANCELED"), NOW))
    assert desk.now(order.id).status is Status.CANCELED
    desk(desk.core.on_trade(desk.trade(order.id, "0.4"), NOW))
    assert (desk.now(order.id).status, desk.now(order.id).filled_quantity) == (Status.CANCELED, Decimal("0.4"))
    assert desk.core.positions[(1, "net")] == Decimal("0.4")


def test_more_than_was_ordered_is_an_alert_and_not_a_fill(desk: Desk) -> None:
    order = desk.limit()
    batch = desk(desk.core.on_trade(desk.trade(order.id, "1.5"), NOW))
    assert [alert.kind for alert in batch.alerts] == ["impossible_fill"]
    assert desk.now(order.id).filled_quantity == 0


def test_an_execution_of_an_order_not_in_memory_is_handed_back(desk: Desk) -> None:
    assert [trade.client_order_id for trade in desk(desk.core.on_trade(desk.trade("t-strange", "1"), NOW)).unmatched] == ["t-strange"]


def test_a_submit_without_answer_is_asked_for_and_never_sent_again(desk: Desk) -> None:
    sent = desk.place().sends[0]
    desk(desk.core.on_answer(sent.client_order_id, VenueUnknown("no answer"), NOW))
    assert desk.now(sent.client_order_id).status is Status.UNKNOWN
    batch = desk(desk.core.on_time(NOW))
    assert ([order.id for order in batch.queries], batch.sends) == ([sent.client_order_id], [])
    desk(desk.core.on_query(sent.client_order_id, theirs(sent, "NEW"), NOW, NOW))
    assert (desk.now(sent.client_order_id).status, desk.core.unsettled) == (Status.NEW, 0)


def test_a_late_acknowledgement_answers_whether_the_order_arrived_and_nothing_else(desk: Desk) -> None:
    sent = desk.place(type="limit", limit_price=Decimal(100)).sends[0]
    order_id = sent.client_order_id
    desk(desk.core.on_trade(desk.trade(order_id, "0.4"), NOW))
    desk.core.ask_again(order_id, NOW)  # the stream was interrupted: it may have ended meanwhile
    desk(desk.core.on_report(VenueReport(theirs(sent, "NEW")), later(1)))
    assert [order.id for order in desk(desk.core.on_time(later(1))).queries] == []  # its submit is still on its way
    desk(desk.core.on_answer(order_id, theirs(sent, "NEW", "0.4"), later(1)))
    assert [order.id for order in desk(desk.core.on_time(later(1))).queries] == [order_id]
    desk(desk.core.on_query(order_id, theirs(sent, "CANCELED", "0.4"), later(1), later(2)))
    assert desk.now(order_id).status is Status.CANCELED


def test_a_submit_without_answer_does_not_take_the_place_of_another_question(desk: Desk) -> None:
    sent = desk.place(type="limit", limit_price=Decimal(100)).sends[0]
    desk.core.ask_again(sent.client_order_id, NOW)
    desk(desk.core.on_answer(sent.client_order_id, VenueUnknown("no answer"), later(1)))
    desk(desk.core.on_report(VenueReport(theirs(sent, "NEW")), later(1)))
    assert desk.core.unsettled == 1


def test_an_answer_to_a_question_put_before_does_not_answer_a_newer_one(desk: Desk) -> None:
    order = desk.limit()
    desk.core.ask_again(order.id, later(2))
    desk(desk.core.on_query(order.id, theirs(order.id, "NEW"), later(1), later(3)))
    assert [asked.id for asked in desk(desk.core.on_time(later(3))).queries] == [order.id]
    desk(desk.core.on_query(order.id, theirs(order.id, "NEW"), later(3), later(4)))
    assert desk.core.unsettled == 0


def test_an_order_unknown_to_the_venue_is_given_up_only_when_it_cannot_arrive_any_more(desk: Desk) -> None:
    sent = desk.place().sends[0]
    order_id = sent.client_order_id
    desk(desk.core.on_answer(order_id, VenueUnknown("no answer"), NOW))
    desk(desk.core.on_query(order_id, None, later(2.9), later(10)))
    assert desk.now(order_id).status is Status.UNKNOWN
    assert [order.id for order in desk(desk.core.on_time(later(11))).queries] == [order_id]
    desk(desk.core.on_query(order_id, None, later(3), later(12)))
    assert (desk.now(order_id).status, desk.now(order_id).reason_code) == (Status.REJECTED, "VENUE_NEVER_RECEIVED")


def test_an_acknowledged_order_the_venue_does_not_know_is_an_alert_when_it_says_so_twice(desk: Desk) -> None:
    order = desk.limit()
    assert desk(desk.core.on_query(order.id, None, later(60), later(60))).alerts == []
    batch = desk(desk.core.on_query(order.id, None, later(61), later(61)))
    assert [alert.kind for alert in batch.alerts] == ["lost_order"]
    assert desk.now(order.id).is_open


def test_a_cancel_while_the_submit_is_on_its_way_follows_its_answer(desk: Desk) -> None:
    sent = desk.place(type="limit", limit_price=Decimal(100)).sends[0]
    assert desk(desk.core.cancel(sent.client_order_id, "test", NOW)).cancels == []
    batch = desk(desk.core.on_answer(sent.client_order_id, theirs(sent, "NEW"), NOW))
    assert [order.id for order in batch.cancels] == [sent.client_order_id]
    assert desk.now(sent.client_order_id).venue_order_id == "v-1"


def test_a_refused_submit_ends_an_order_that_was_to_be_canceled(desk: Desk) -> None:
    sent = desk.place(type="limit", limit_price=Decimal(100)).sends[0]
    desk(desk.core.cancel(sent.client_order_id, "test", NOW))
    desk(desk.core.on_answer(sent.client_order_id, VenueRejected("VENUE_FILTER", "no"), NOW))
    assert desk.now(sent.client_order_id).status is Status.REJECTED


def test_a_cancel_the_venue_refuses_is_followed_by_a_question_and_then_by_its_answer(desk: Desk) -> None:
    order = desk.limit()
    desk(desk.core.cancel(order.id, "test", NOW))
    desk(desk.core.on_cancel_answer(order.id, VenueRejected("UNKNOWN_ORDER", "not open"), NOW))
    assert [asked.id for asked in desk(desk.core.on_time(NOW)).queries] == [order.id]
    trade = desk.trade(order.id, "1")
    desk(desk.core.on_query(order.id, theirs(order.id, "FILLED", "1", (trade,)), NOW, NOW))
    assert desk.now(order.id).status is Status.FILLED


def test_a_cancel_that_never_works_is_given_up_and_the_order_works_on(desk: Desk) -> None:
    order = desk.limit()
    batch = desk(desk.core.cancel(order.id, "test", NOW))
    sent = refuse_cancels(desk, batch, seconds=60)
    assert (desk.now(order.id).status, desk.kinds(order.id)[-1], len(sent)) == (Status.NEW, "cancel_refused", 5)


def refuse_cancels(desk: Desk, batch: Batch, seconds: float) -> list[float]:
    """The venue refuses every cancel and says that the order works; when cancels were sent."""
    moments, moment = [], 0.0
    while moment < seconds:
        for order in batch.cancels:
            moments.append(moment)
            desk(desk.core.on_cancel_answer(order.id, VenueRejected("NO", "not now"), later(moment)))
        moment = round(moment + 0.05, 2)
        batch = desk(desk.core.on_time(later(moment)))
        for order in batch.queries:
            answered = desk(desk.core.on_query(order.id, theirs(order.id, "NEW"), later(moment), later(moment)))
            batch.cancels += answered.cancels
    return moments


def test_a_cancel_the_venue_keeps_refusing_is_sent_ever_more_rarely_and_no_rarer_than_every_half_minute(desk: Desk) -> None:
    request = OrderRequest("i", "BTCUSDT", "buy", "iceberg", Decimal(1), Decimal(100), terms={"visible_quantity": "0.5"})
    batch = desk(desk.core.place(request, "test", NOW))
    (child,) = batch.sends
    desk(desk.core.on_answer(child.client_order_id, theirs(child, "NEW"), NOW))
    assert batch.order is not None
    sent = refuse_cancels(desk, desk(desk.core.cancel(batch.order.id, "test", NOW)), seconds=300)
    pauses = [after - before for before, after in pairwise(sent)]
    assert 0.1 <= pauses[0] <= 0.3
    assert all(pause <= 30.1 for pause in pauses)
    assert all(pause >= 15 for pause in pauses[8:])
    assert desk.kinds(child.client_order_id).count("cancel_refused") < len(sent)


def test_somebody_who_cancels_is_not_made_to_wait_for_the_pause(desk: Desk) -> None:
    request = OrderRequest("i", "BTCUSDT", "buy", "iceberg", Decimal(1), Decimal(100), terms={"visible_quantity": "0.5"})
    batch = desk(desk.core.place(request, "test", NOW))
    (child,) = batch.sends
    desk(desk.core.on_answer(child.client_order_id, theirs(child, "NEW"), NOW))
    assert batch.order is not None
    refuse_cancels(desk, desk(desk.core.cancel(batch.order.id, "test", NOW)), seconds=40)
    for wanted in (batch.order.id, child.client_order_id):
        again = desk(desk.core.cancel(wanted, "test", later(40)))
        assert [order.id for order in again.cancels] == [child.client_order_id]
        desk(desk.core.on_cancel_answer(child.client_order_id, VenueRejected("NO", "not now"), later(40)))
        assert desk(desk.core.on_time(later(40))).cancels == []


def test_an_order_whose_time_is_over_is_canceled_again_after_the_venue_refused_it(desk: Desk) -> None:
    order = desk.limit(time_in_force="GTD", expire_at=later(1))
    assert len(refuse_cancels(desk, Batch(), seconds=120)) > 5
    assert desk.now(order.id).reason_code in ("CANCEL_REFUSED", "TIME_IN_FORCE_EXPIRED")


def test_canceling_twice_asks_the_venue_once(desk: Desk) -> None:
    order = desk.limit()
    desk(desk.core.cancel(order.id, "test", NOW))
    batch = desk(desk.core.cancel(order.id, "test", NOW))
    assert (batch.steps, batch.cancels) == ([], [])


def test_ended_and_unknown_orders_cannot_be_canceled(desk: Desk) -> None:
    order = desk.limit()
    desk(desk.core.on_report(VenueReport(theirs(order.id, "CANCELED")), NOW))
    with pytest.raises(NotOpen):
        desk.core.cancel(order.id, "test", NOW)
    with pytest.raises(UnknownOrder):
        desk.core.cancel("t-never", "test", NOW)


@pytest.mark.parametrize(("tif", "expire_at", "due"), [("DAY", None, later(12 * 3600)), ("GTD", later(60), later(60))])
def test_an_order_whose_time_is_over_is_canceled_at_the_venue_and_expires(
    desk: Desk, tif: str, expire_at: datetime | None, due: datetime
) -> None:
    order = desk.limit(time_in_force=tif, expire_at=expire_at)
    assert desk(desk.core.on_time(due - timedelta(seconds=1))).cancels == []
    assert [expired.id for expired in desk(desk.core.on_time(due)).cancels] == [order.id]
    desk(desk.core.on_cancel_answer(order.id, theirs(order.id, "CANCELED"), due))
    assert (desk.now(order.id).status, desk.now(order.id).reason_code) == (Status.EXPIRED, "TIME_IN_FORCE_EXPIRED")


def test_an_expiry_survives_a_crash(desk: Desk) -> None:
    order = desk.limit(time_in_force="GTD", expire_at=later(60))
    desk(desk.core.on_time(later(60)))
    desk.restart(later(61))
    assert [canceled.id for canceled in desk(desk.core.on_time(later(61))).cancels] == [order.id]
    desk(desk.core.on_cancel_answer(order.id, theirs(order.id, "CANCELED"), later(61)))
    assert desk.now(order.id).status is Status.EXPIRED


def test_a_replacement_is_made_of_what_is_left_once_the_first_order_is_over(desk: Desk) -> None:
    order = desk.limit()
    desk(desk.core.on_trade(desk.trade(order.id, "0.4"), NOW))
    changes = Changes("again", quantity=Decimal("1.5"), limit_price=Decimal(99))
    assert desk(desk.core.replace(order.id, changes, "test", NOW)).sends == []
    batch = desk(desk.core.on_cancel_answer(order.id, theirs(order.id, "CANCELED", "0.4"), NOW))
    (sent,) = batch.sends
    assert (sent.quantity, sent.limit_price, sent.replaces) == (Decimal("1.1"), Decimal(99), order.id)
    repeated = desk(desk.core.replace(order.id, changes, "test", NOW))
    assert repeated.order is not None
    assert (repeated.order.id, repeated.sends) == (sent.client_order_id, [])


def test_nothing_replaces_an_order_that_filled_while_it_was_canceled(desk: Desk) -> None:
    order = desk.limit()
    desk(desk.core.replace(order.id, Changes("again", limit_price=Decimal(99)), "test", NOW))
    trade = desk.trade(order.id, "1")
    batch = desk(desk.core.on_cancel_answer(order.id, theirs(order.id, "FILLED", "1", (trade,)), NOW))
    assert (batch.sends, desk.core.open_orders) == ([], [])
    with pytest.raises(NotOpen):
        desk.core.replace(order.id, Changes("again", limit_price=Decimal(99)), "test", NOW)


def test_flatten_cancels_everything_and_closes_each_position_once(desk: Desk) -> None:
    order = desk.limit()
    desk(desk.core.on_trade(desk.trade(order.id, "0.4"), NOW))
    desk(desk.core.on_state("emergency_stopped", NOW))
    assert [canceled.id for canceled in desk(desk.core.flatten("e1", "test", NOW)).cancels] == [order.id]
    batch = desk(desk.core.on_cancel_answer(order.id, theirs(order.id, "CANCELED", "0.4"), NOW))
    (sent,) = batch.sends
    assert (sent.side, sent.quantity, sent.flatten, sent.reduce_only) == ("sell", Decimal("0.4"), True, True)
    trade = desk.trade(sent.client_order_id, "0.4")
    desk(desk.core.on_answer(sent.client_order_id, theirs(sent, "FILLED", "0.4", (trade,)), NOW))
    assert desk(desk.core.flatten("e1", "test", NOW)).sends == []
    assert desk.core.positions[(1, "net")] == 0


def test_after_a_crash_what_was_on_its_way_is_asked_for_and_not_sent(desk: Desk) -> None:
    sent = desk.place().sends[0]
    desk.restart(later(1))
    batch = desk(desk.core.on_time(later(1)))
    assert ([order.id for order in batch.queries], batch.sends) == ([sent.client_order_id], [])
    desk(desk.core.on_query(sent.client_order_id, None, later(3.9), later(3.9)))
    assert desk.now(sent.client_order_id).is_open
    desk(desk.core.on_query(sent.client_order_id, None, later(4), later(4)))
    assert desk.now(sent.client_order_id).status is Status.REJECTED


def test_ended_orders_leave_the_memory(desk: Desk) -> None:
    small = Desk(remembered=2)
    for number in range(5):
        order = small.limit(f"o{number}")
        small(small.core.on_report(VenueReport(theirs(order.id, "CANCELED")), NOW))
    assert small.core.get(small.journal[0].order.id) is None
    assert small.core.get(order.id) is not None


def test_a_trailing_stop_is_held_moves_with_the_market_and_sends_one_order_when_it_fires(desk: Desk) -> None:
    request = OrderRequest("trail", "BTCUSDT", "sell", "trailing_stop", Decimal(1), terms={"callback_amount": "1"})
    batch = desk(desk.core.place(request, "test", NOW))
    assert batch.order is not None
    assert (batch.order.status, batch.sends) == (Status.SUSPENDED, [])
    for number, price in enumerate((100, 105, 104)):
        at = later(number)
        desk(desk.core.on_quotes({"BTCUSDT": Top(Decimal(price), Decimal(price), Decimal(price), at)}, at))
        desk(desk.core.on_time(at + timedelta(milliseconds=200)))
    sends = [step.order for step in desk.journal if step.event.type == "submitting"]
    assert [(order.intent.side, order.intent.type, order.intent.parent_id) for order in sends] == [("sell", "market", batch.order.id)]
    assert "moved" in desk.kinds(batch.order.id)
    trade = desk.trade(sends[0].id, "1")
    desk(desk.core.on_answer(sends[0].id, theirs(sends[0].id, "FILLED", "1", (trade,)), later(3)))
    assert (desk.now(batch.order.id).status, desk.core.open_orders) == (Status.FILLED, [])


def bracket_with_a_refused_stop(desk: Desk, *, held: str) -> list[str]:
    """A bracket entered and its stop reached, of which `held` is left when the venue refuses every exit; the alerts that come."""
    terms = {"take_profit_price": "120", "stop_price": "90"}
    batch = desk(desk.core.place(OrderRequest("b", "BTCUSDT", "buy", "bracket", Decimal(1), terms=terms), "test", NOW))
    (entry,) = batch.sends
    batch = desk(desk.core.on_answer(entry.client_order_id, theirs(entry, "FILLED", "1", (desk.trade(entry.client_order_id, "1"),)), NOW))
    if held != "1":
        (sold,) = desk(desk.core.place(OrderRequest("s", "BTCUSDT", "sell", "market", Decimal(1)), "test", NOW)).sends
        trade = desk.trade(sold.client_order_id, "1")
        desk(desk.core.on_answer(sold.client_order_id, theirs(sold, "FILLED", "1", (trade,)), NOW))
    desk(desk.core.on_answer(batch.sends[0].client_order_id, VenueRejected("VENUE_OVERLOADED", "no"), NOW))
    batch = desk(desk.core.on_quotes({"BTCUSDT": Top(Decimal(89), Decimal(89), Decimal(89), NOW)}, NOW))
    alerts = []
    for minute in range(1, 20):
        for sent in batch.sends:
            alerts += desk(desk.core.on_answer(sent.client_order_id, VenueRejected("VENUE_FILTER", "no"), later(60 * minute))).alerts
        batch = desk(desk.core.on_time(later(60 * minute + 59)))
    return [alert.kind for alert in alerts]


def test_a_position_whose_stop_is_refused_for_good_is_said_to_be_unprotected_once_and_again_after_a_restart(desk: Desk) -> None:
    assert bracket_with_a_refused_stop(desk, held="1") == ["position_unprotected"]
    assert sum(step.event.type == "submitting" for step in desk.journal) == 1 + 1 + 8
    desk.restart(later(9_000))
    assert [alert.kind for alert in desk.last.alerts] == ["position_unprotected"]


def test_a_position_that_somebody_closed_needs_no_stop(desk: Desk) -> None:
    assert bracket_with_a_refused_stop(desk, held="0") == []
    (parent,) = {step.order.id for step in desk.journal if step.order.intent.type == "bracket"}
    assert (desk.now(parent).status, desk.now(parent).reason_code, desk.now(parent).filled_quantity) == (
        Status.FILLED, "POSITION_GONE", Decimal(1),
    )  # fmt: skip
    assert desk.core.open_orders == []
