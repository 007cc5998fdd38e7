"""Group commit: what all orders in progress want written goes into one statement, and while it is on its way the next group gathers.

Events, orders, fills and the outbox are one transaction. Nothing is retried: after a failure whoever waits learns it, and recovery
finds out from the database what was written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import psycopg

from trading_platform import db
from trading_platform.db import Database
from trading_platform.domain.orders import EventType, Status, Step
from trading_platform.engine import metrics
from trading_platform.engine.store import COMMIT, order_row
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
class _Entry:
    steps: Sequence[Step]
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
        self._waiting.append(_Entry(steps, written))
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
                await self._write([step for entry in group for step in entry.steps])
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

    async def _write(self, steps: Sequence[Step]) -> None:
        self._lease.assert_held()
        parameters = self._parameters(steps)
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

    def _parameters(self, steps: Sequence[Step]) -> dict[str, Any]:
        orders = {step.order.id: step.order for step in steps}  # the last state of each
        return {
            "account": self._account_id,
            "lease": self._lease.name,
            "token": self._lease.token,
            "stream": ORDER_EVENTS,
            "events": _encode([_event(step) for step in steps]).decode(),
            "orders": _encode([order_row(order) for order in orders.values()]).decode(),
            "fills": _encode([_fill(step) for step in steps if step.event.fill is not None]).decode(),
            "messages": _encode([_message(step) for step in steps]).decode(),
        }


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


def _event(step: Step) -> _Event:
    event, order = step.event, step.order
    return _Event(
        order.id, order.order_seq, event.type, order.status, _data(step), event.actor, order.intent.correlation_id, event.at, step.before,
        event.causation_id,
    )  # fmt: skip


def _data(step: Step) -> dict[str, Any]:
    """The event's document; of a closing order's intent it says so, for the database lets only those pass a halt."""
    data = step.event.to_data()
    return data | {"flatten": True} if step.event.type is EventType.SUBMITTING and step.order.intent.flatten else data


def _fill(step: Step) -> dict[str, Any]:
    fill, intent = step.event.fill, step.order.intent
    assert fill is not None, "only filled events have a row in fills"
    return {
        **fill.to_data(),
        "venue": intent.venue,
        "id": intent.client_order_id,
        "instrument_id": intent.instrument_id,
        "side": intent.side,
        "position_side": intent.position_side,
    }


def _message(step: Step) -> OrderEventMessage:
    return OrderEventMessage(
        seq=0,
        account=step.order.intent.account_id,
        client_order_id=step.order.id,
        symbol=step.order.intent.symbol,
        type=step.event.type,
        status=step.order.status,
        ts_ns=int(step.event.at.timestamp() * 1_000_000) * 1_000,
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
