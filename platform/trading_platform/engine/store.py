"""What the engine keeps: events first, everything else derived, all in one transaction, refused when fenced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncCursor
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from trading_platform.db import Database
from trading_platform.domain.orders import TERMINAL, Event, Fill, Intent, Order, Status, Step, fold
from trading_platform.leadership import Lease, LeaseLost
from trading_platform.messages import ORDER_EVENTS, OrderEventMessage

FENCED = "TR001"

_COLUMNS = (
    "client_order_id, account_id, symbol, instrument_id, orders.venue, venue_order_id, side, type, time_in_force, quantity, limit_price,"
    " status, filled_quantity, filled_notional, fees, reason_code, reason, strategy, signal_id, last_order_seq, created_at, updated_at"
)


class DuplicateFill(Exception):
    """The execution is already recorded; nothing was written."""


@dataclass(frozen=True, slots=True)
class _OrderRow:
    client_order_id: str
    account_id: str
    symbol: str
    instrument_id: int
    venue: str
    venue_order_id: str | None
    side: Any
    type: Any
    time_in_force: Any
    quantity: Decimal
    limit_price: Decimal | None
    status: str
    filled_quantity: Decimal
    filled_notional: Decimal
    fees: Decimal
    reason_code: str | None
    reason: str | None
    strategy: str | None
    signal_id: str | None
    last_order_seq: int
    created_at: datetime
    updated_at: datetime

    def to_order(self) -> Order:
        intent = Intent(
            client_order_id=self.client_order_id,
            account_id=self.account_id,
            symbol=self.symbol,
            instrument_id=self.instrument_id,
            venue=self.venue,
            side=self.side,
            type=self.type,
            time_in_force=self.time_in_force,
            quantity=self.quantity,
            limit_price=self.limit_price,
            strategy=self.strategy,
            signal_id=self.signal_id,
        )
        return Order(
            intent=intent,
            status=Status(self.status),
            order_seq=self.last_order_seq,
            created_at=self.created_at,
            updated_at=self.updated_at,
            venue_order_id=self.venue_order_id,
            filled_quantity=self.filled_quantity,
            filled_notional=self.filled_notional,
            fees=self.fees,
            reason_code=self.reason_code,
            reason=self.reason,
        )


class OrderStore:
    """Orders in PostgreSQL, written by the holder of `lease`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def get(self, client_order_id: str) -> Order | None:
        row = await self._db.fetch_one(
            f"SELECT {_COLUMNS} FROM orders JOIN instruments ON instruments.id = instrument_id WHERE client_order_id = %s",
            (client_order_id,),
            as_=_OrderRow,
        )
        return row.to_order() if row else None

    async def open_orders(self, account_id: str) -> list[Order]:
        """Orders that are not at their end, oldest first."""
        rows = await self._db.fetch_all(
            f"SELECT {_COLUMNS} FROM orders JOIN instruments ON instruments.id = instrument_id"
            f" WHERE account_id = %s AND status NOT IN ({_TERMINAL}) ORDER BY created_at, client_order_id",
            (account_id,),
            as_=_OrderRow,
        )
        return [row.to_order() for row in rows]

    async def recent(self, limit: int, *, only_open: bool) -> list[Order]:
        """Newest first."""
        condition = f"WHERE status NOT IN ({_TERMINAL})" if only_open else ""
        rows = await self._db.fetch_all(
            f"SELECT {_COLUMNS} FROM orders JOIN instruments ON instruments.id = instrument_id"
            f" {condition} ORDER BY created_at DESC, client_order_id LIMIT %s",
            (limit,),
            as_=_OrderRow,
        )
        return [row.to_order() for row in rows]

    async def last_trade_id(self, account_id: str, venue: str) -> str | None:
        """The venue's newest execution we have recorded."""
        value: str | None = await self._db.fetch_value(
            "SELECT venue_trade_id FROM fills WHERE account_id = %s AND venue = %s ORDER BY seq DESC LIMIT 1", (account_id, venue)
        )
        return value

    async def record(self, lease: Lease, *steps: Step) -> Order:
        """Append the events of one order's steps and keep the order they lead to; all or nothing. That order.

        Raises LeaseLost when this process no longer leads, DuplicateFill when an execution is already recorded.
        """
        lease.assert_held()
        order = steps[-1].order
        try:
            async with self._db.transaction() as cursor:
                for step in steps:
                    if step.event.fill is not None:
                        await _insert_fill(cursor, order, step.event.fill)
                await cursor.execute(UPSERT_ORDER.encode(), order_parameters(order))
                for step in steps:
                    seq = await _insert_event(cursor, lease, step)
                    await _insert_outbox(cursor, seq, step)
        except psycopg.Error as error:
            if error.sqlstate == FENCED:
                raise LeaseLost(str(error)) from error
            raise
        return order

    # --- the state of trading, and its emergency brake -----------------------------------------------------------------

    async def trading_state(self, account_id: str) -> str:
        """The stricter of the platform's state and the account's."""
        rows = await self._db.fetch_tuples("SELECT state FROM trading_state WHERE account_id IN ('*', %s)", (account_id,))
        states = [row[0] for row in rows]
        return max(states, key=STRICTNESS.index) if states else "stopped"

    async def reduce_only(self, account_id: str, reason: str) -> None:
        """After a mismatch with the venue: only orders that reduce may follow, until somebody has looked."""
        async with self._db.transaction() as cursor:
            await cursor.execute(
                "INSERT INTO trading_state AS t (account_id, state, reason, changed_by) VALUES (%s, 'reducing', %s, 'engine')"
                " ON CONFLICT (account_id) DO UPDATE SET state = EXCLUDED.state, reason = EXCLUDED.reason,"
                " changed_by = EXCLUDED.changed_by, changed_at = clock_timestamp() WHERE t.state = 'running'",
                (account_id, reason),
            )
            if cursor.rowcount:
                await cursor.execute(
                    "INSERT INTO audit_events (type, actor, subject, detail) VALUES ('trading_state_change', 'engine', %s, %s)",
                    (account_id, Jsonb({"state": "reducing", "reason": reason})),
                )


STRICTNESS = ("running", "reducing", "draining", "paused", "stopped", "emergency_stopped")
_TERMINAL = ", ".join(f"'{status}'" for status in sorted(TERMINAL))


async def _insert_event(cursor: AsyncCursor[TupleRow], lease: Lease, step: Step) -> int:
    event, order = step.event, step.order
    await cursor.execute(
        "INSERT INTO order_events (client_order_id, order_seq, account_id, type, from_status, to_status, data, actor, correlation_id,"
        " causation_id, lease, fencing_token, occurred_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING seq",
        (
            order.id, order.order_seq, order.intent.account_id, event.type, step.before, order.status, Jsonb(event.to_data()),
            event.actor, order.intent.signal_id or order.id, event.causation_id, lease.name, lease.token, event.at,
        ),
    )  # fmt: skip
    row = await cursor.fetchone()
    assert row is not None, "INSERT … RETURNING answers a row"
    return int(row[0])


async def _insert_outbox(cursor: AsyncCursor[TupleRow], seq: int, step: Step) -> None:
    message = OrderEventMessage(
        seq=seq,
        account=step.order.intent.account_id,
        client_order_id=step.order.id,
        symbol=step.order.intent.symbol,
        type=step.event.type,
        status=step.order.status,
        ts_ns=int(step.event.at.timestamp() * 1_000_000) * 1_000,
    )
    await cursor.execute("INSERT INTO outbox (stream, message) VALUES (%s, %s)", (ORDER_EVENTS, Jsonb(msgspec.to_builtins(message))))


async def _insert_fill(cursor: AsyncCursor[TupleRow], order: Order, fill: Fill) -> None:
    await cursor.execute(
        "INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, quantity, price, fee, fee_currency,"
        " liquidity, executed_at, ts_event_ns) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (venue, account_id, venue_trade_id) DO NOTHING",
        (
            order.intent.account_id, order.intent.venue, fill.trade_id, order.id, order.intent.instrument_id, order.intent.side,
            fill.quantity, fill.price, fill.fee, fill.fee_currency, fill.liquidity, fill.executed_at, fill.ts_event_ns,
        ),
    )  # fmt: skip
    if cursor.rowcount == 0:
        raise DuplicateFill(f"{order.intent.venue} trade {fill.trade_id} of {order.intent.account_id}")


UPSERT_ORDER = (
    "INSERT INTO orders (client_order_id, account_id, instrument_id, venue, venue_order_id, side, type, time_in_force, quantity,"
    " limit_price, status, filled_quantity, filled_notional, fees, reason_code, reason, strategy, signal_id, last_order_seq, created_at,"
    " updated_at) VALUES (%(client_order_id)s, %(account_id)s, %(instrument_id)s, %(venue)s, %(venue_order_id)s, %(side)s, %(type)s,"
    " %(time_in_force)s, %(quantity)s, %(limit_price)s, %(status)s, %(filled_quantity)s, %(filled_notional)s, %(fees)s,"
    " %(reason_code)s, %(reason)s, %(strategy)s, %(signal_id)s, %(order_seq)s, %(created_at)s, %(updated_at)s)"
    " ON CONFLICT (client_order_id) DO UPDATE SET venue_order_id = EXCLUDED.venue_order_id, status = EXCLUDED.status,"
    " filled_quantity = EXCLUDED.filled_quantity, filled_notional = EXCLUDED.filled_notional, fees = EXCLUDED.fees,"
    " reason_code = EXCLUDED.reason_code, reason = EXCLUDED.reason, last_order_seq = EXCLUDED.last_order_seq,"
    " updated_at = EXCLUDED.updated_at"
)


def order_parameters(order: Order) -> dict[str, Any]:
    """The columns of an order."""
    intent = order.intent
    return {
        "client_order_id": order.id,
        "account_id": intent.account_id,
        "instrument_id": intent.instrument_id,
        "venue": intent.venue,
        "venue_order_id": order.venue_order_id,
        "side": intent.side,
        "type": intent.type,
        "time_in_force": intent.time_in_force,
        "quantity": intent.quantity,
        "limit_price": intent.limit_price,
        "status": order.status,
        "filled_quantity": order.filled_quantity,
        "filled_notional": order.filled_notional,
        "fees": order.fees,
        "reason_code": order.reason_code,
        "reason": order.reason,
        "strategy": intent.strategy,
        "signal_id": intent.signal_id,
        "order_seq": order.order_seq,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }


async def fold_orders(cursor: AsyncCursor[TupleRow]) -> list[Order]:
    """Every order as its events make it. Raises IllegalTransition where events cannot have happened."""
    await cursor.execute(
        "SELECT client_order_id, account_id, type, occurred_at, actor, data FROM order_events ORDER BY client_order_id, order_seq"
    )
    rows = await cursor.fetchall()
    return [
        fold(Event.from_data(kind, at, actor, order_id, account_id, data) for _, account_id, kind, at, actor, data in group)
        for order_id, group in groupby(rows, key=itemgetter(0))
    ]
