"""Group commit: what all orders in progress want written goes into one statement, and while it is on its way the next group gathers.

Events, orders, fills and the outbox are one transaction. Nothing is retried: after a failure whoever waits learns it, and recovery
finds out from the database what was written. What is to be written becomes JSON when it is given here, not when its turn has come:
then the database would wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import psycopg

from trading_platform import db
from trading_platform.db import Database
from trading_platform.domain.orders import Event, EventType, Fill, Intent, Order, Status, Step
from trading_platform.engine import metrics
from trading_platform.engine.store import COMMIT, order_change, order_row
from trading_platform.leadership import Lease, LeaseLost
from trading_platform.messages import ORDER_EVENTS, OrderEventMessage
from trading_platform.service import LoopContext

_encode = msgspec.json.Encoder(decimal_format="string").encode


SMALL = 50  # events: a commit of so few is not worth dividing


class CommitFailed(ConnectionError):
    """The database did not confirm; whether it wrote is for recovery to find out."""


class Halted(CommitFailed):
    """The database refused to take an order while trading is halted; nothing was written."""


@dataclass(slots=True)
class _Row:
    """An order's row as it is to be: all of it where the order begins here, else what can change."""

    order: Order
    begins: bool
    encoded: bytes


@dataclass(slots=True)
class _Entry:
    """What one `append` gave; each JSON is the members of an array, without its brackets."""

    steps: Sequence[Step]
    events: bytes
    messages: bytes
    fills: bytes
    rows: dict[str, _Row]
    written: asyncio.Future[None]


class Journal:
    """The one writer of an account's orders, while its lease is held."""

    def __init__(self, database: Database, account_id: str, lease: Lease, limit: int) -> None:
        self._db = database
        self._account_id = account_id
        self._lease = lease
        self._limit = limit
        self._waiting: deque[_Entry] = deque()
        self._steps = 0
        self._wake = asyncio.Event()
        self._newest: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    def append(self, steps: Sequence[Step]) -> asyncio.Future[None]:
        """Have steps written, in the order they are given here; the future is done when they are durable."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(_seen)
        if self._failure is not None:
            written.set_exception(self._failure)
            return written
        self._waiting.append(_entry(steps, written))
        self._steps += len(steps)
        self._newest = written
        self._wake.set()
        return written

    async def settled(self) -> None:
        """Until everything appended so far is durable."""
        if self._newest is not None:
            await asyncio.shield(self._newest)

    def tell(self, waiting: asyncio.Future[None]) -> None:
        """Have `waiting` share what becomes of the newest of what was appended so far."""
        if self._newest is None:
            _share(waiting, None)
        else:
            self._newest.add_done_callback(partial(_share, waiting))

    async def run(self, context: LoopContext) -> None:
        """Write until stopped. Raises LeaseLost, Halted or CommitFailed, and so does everything that waits."""
        group: list[_Entry] = []
        try:
            while True:
                context.beat()
                group = self._gather()
                if not group:
                    if context.stopping:
                        return
                    await self._something()
                    continue
                await self._write([step for entry in group for step in entry.steps], group)
                for entry in group:
                    if not entry.written.done():
                        entry.written.set_result(None)
                group = []
        except BaseException as error:
            self._fail(group, error)
            raise

    async def _something(self) -> None:
        """Until there is something to write, or a moment has passed."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self._wake.wait()

    def _gather(self) -> list[_Entry]:
        """What goes into the next commit: not more than half of much, so that the database writes one half while the orders of the
        other are carried on. All in one would have both wait for each other."""
        group: list[_Entry] = []
        limit = min(self._limit, max(SMALL, self._steps // 2))
        steps = 0
        while self._waiting and (not group or steps + len(self._waiting[0].steps) <= limit):
            entry = self._waiting.popleft()
            steps += len(entry.steps)
            group.append(entry)
        self._steps -= steps
        return group

    def _fail(self, group: list[_Entry], error: BaseException) -> None:
        told = CommitFailed("the engine stopped before the commit was confirmed") if isinstance(error, asyncio.CancelledError) else error
        self._failure = told
        for entry in [*group, *self._waiting]:
            if not entry.written.done():
                entry.written.set_exception(told)
        self._waiting.clear()

    async def _write(self, steps: Sequence[Step], group: Sequence[_Entry]) -> None:
        self._lease.assert_held()
        parameters = self._parameters(group)
        with metrics.COMMIT.time():
            try:
                await self._db.execute(COMMIT, parameters)
            except psycopg.Error as error:
                match error.sqlstate:
                    case "TR001":  # the token is not the lease's current one
                        raise LeaseLost(str(error)) from error
                    case "TR004":  # trading is halted
                        raise Halted(str(error)) from error
                    case _:
                        raise CommitFailed(f"{type(error).__name__}: {error}") from error
            except db.TRANSIENT as error:
                raise CommitFailed(f"{type(error).__name__}: {error}") from error
        metrics.COMMITTED.observe(len(steps))

    def _parameters(self, group: Sequence[_Entry]) -> dict[str, Any]:
        rows = _last_rows(group)
        return {
            "account": self._account_id,
            "lease": self._lease.name,
            "token": self._lease.token,
            "stream": ORDER_EVENTS,
            "events": _array(entry.events for entry in group),
            "messages": _array(entry.messages for entry in group),
            "orders": _array(row.encoded for row in rows if row.begins),
            "changes": _array(row.encoded for row in rows if not row.begins),
            "fills": _array(entry.fills for entry in group),
        }


def _entry(steps: Sequence[Step], written: asyncio.Future[None]) -> _Entry:
    events, messages, fills = [], [], []
    orders: dict[str, Order] = {}  # the last state of each
    for step in steps:
        order, event = step.order, step.event
        events.append(_event(order, event, step.before))
        messages.append(_message(order, event))
        if event.fill is not None:
            fills.append(_fill(order, event.fill))
        orders[order.intent.client_order_id] = order
    beginning = {step.order.id for step in steps if step.event.type is EventType.INITIALIZED}
    rows = {order_id: _row(order, order_id in beginning) for order_id, order in orders.items()}
    return _Entry(steps, _members(events), _members(messages), _members(fills) if fills else b"", rows, written)


def _row(order: Order, begins: bool) -> _Row:
    return _Row(order, begins, _encode(order_row(order) if begins else order_change(order)))


def _last_rows(group: Sequence[_Entry]) -> list[_Row]:
    """One row an order. An order that begins and goes on within one commit is written whole, as it is in the end."""
    rows: dict[str, _Row] = {}
    for entry in group:
        for order_id, row in entry.rows.items():
            before = rows.get(order_id)
            rows[order_id] = _row(row.order, begins=True) if before is not None and before.begins else row
    return list(rows.values())


def _members(values: Sequence[object]) -> bytes:
    return _encode(values)[1:-1]


def _array(members: Iterable[bytes]) -> str | None:
    """A JSON array of what is not empty; None where everything is."""
    joined = b",".join(filter(None, members))
    return f"[{joined.decode()}]" if joined else None


class _Event(msgspec.Struct, omit_defaults=True):
    id: str
    n: int
    type: EventType
    after: Status
    data: dict[str, Any]
    actor: str
    correlation: str
    at: datetime
    before: Status | None = None
    causation: str | None = None


def _event(order: Order, event: Event, before: Status | None) -> _Event:
    intent = order.intent
    return _Event(
        intent.client_order_id, order.order_seq, event.type, order.status, _data(intent, event), event.actor, intent.correlation_id,
        event.at, before, event.causation_id,
    )  # fmt: skip


def _data(intent: Intent, event: Event) -> dict[str, Any]:
    """The event's document; of a closing order's intent it says so, for the database lets only those pass a halt."""
    data = event.to_data()
    return data | {"flatten": True} if intent.flatten and event.type is EventType.SUBMITTING else data


def _fill(order: Order, fill: Fill) -> dict[str, Any]:
    intent = order.intent
    return {
        **fill.to_data(),
        "venue": intent.venue,
        "id": intent.client_order_id,
        "instrument_id": intent.instrument_id,
        "side": intent.side,
        "position_side": intent.position_side,
    }


def _message(order: Order, event: Event) -> OrderEventMessage:
    intent = order.intent
    return OrderEventMessage(
        seq=0,
        account=intent.account_id,
        client_order_id=intent.client_order_id,
        symbol=intent.symbol,
        type=event.type,
        status=order.status,
        ts_ns=int(event.at.timestamp() * 1_000_000) * 1_000,
    )


def _seen(written: asyncio.Future[None]) -> None:
    """Whoever had to know was told by awaiting it; the rest need no warning about an exception nobody fetched."""
    if not written.cancelled():
        written.exception()


def _share(waiting: asyncio.Future[None], written: asyncio.Future[None] | None) -> None:
    if waiting.done():
        return
    error: BaseException | None = None
    if written is not None:
        error = CommitFailed("the engine stopped before the commit was confirmed") if written.cancelled() else written.exception()
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)
        _seen(waiting)
