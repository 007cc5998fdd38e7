"""What the engine keeps and reads: events first, everything else derived, written by one call, refused when fenced or halted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, LiteralString

import msgspec
from psycopg import AsyncCursor
from psycopg.rows import TupleRow, class_row
from psycopg.types.json import Jsonb

from trading_platform import money
from trading_platform.db import Database
from trading_platform.domain import ledger, positions
from trading_platform.domain.orders import TERMINAL, Event, Intent, Order, PositionSide, Status, fold
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue
from trading_platform.leadership import Lease

ZERO = Decimal(0)

# One round trip, one transaction: the events, one entry of the outbox, the orders they lead to, the fills (see the migration).
COMMIT: LiteralString = (
    "SELECT commit_orders(%(account)s, %(lease)s, %(token)s, %(stream)s, %(events)s, %(messages)s, %(orders)s, %(changes)s, %(fills)s)"
)

_ORDER_COLUMNS: tuple[str, ...] = (
    "client_order_id", "account_id", "instrument_id", "venue", "venue_order_id", "side", "type", "time_in_force", "quantity",
    "limit_price", "trigger_price", "expire_at", "post_only", "reduce_only", "position_side", "parent_id", "role", "replaces", "flatten",
    "terms", "memory", "status", "filled_quantity", "filled_notional", "fees", "reason_code", "reason", "strategy", "signal_id",
    "last_order_seq", "created_at", "updated_at",
)  # fmt: skip


class OrderRow(msgspec.Struct, omit_defaults=True):
    """The columns of an order; what is NULL is left out of its JSON."""

    client_order_id: str
    account_id: str
    instrument_id: int
    venue: str
    side: str
    type: str
    time_in_force: str
    quantity: Decimal
    post_only: bool
    reduce_only: bool
    position_side: str
    flatten: bool
    status: str
    filled_quantity: Decimal
    filled_notional: Decimal
    fees: Decimal
    last_order_seq: int
    created_at: datetime
    updated_at: datetime
    venue_order_id: str | None = None
    limit_price: Decimal | None = None
    trigger_price: Decimal | None = None
    expire_at: datetime | None = None
    parent_id: str | None = None
    role: str | None = None
    replaces: str | None = None
    terms: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None
    reason_code: str | None = None
    reason: str | None = None
    strategy: str | None = None
    signal_id: str | None = None


def order_row(order: Order) -> OrderRow:
    intent = order.intent
    return OrderRow(
        intent.client_order_id, intent.account_id, intent.instrument_id, intent.venue, intent.side, intent.type, intent.time_in_force,
        intent.quantity, intent.post_only, intent.reduce_only, intent.position_side, intent.flatten, order.status,
        order.filled_quantity, order.filled_notional, order.fees, order.order_seq, order.created_at, order.updated_at,
        order.venue_order_id, intent.limit_price, intent.trigger_price, intent.expire_at, intent.parent_id, intent.role, intent.replaces,
        intent.terms, order.memory, order.reason_code, order.reason, intent.strategy, intent.signal_id,
    )  # fmt: skip


class OrderChange(msgspec.Struct, omit_defaults=True):
    """The columns of an order that can change; what is NULL is left out of its JSON."""

    client_order_id: str
    status: str
    filled_quantity: Decimal
    filled_notional: Decimal
    fees: Decimal
    last_order_seq: int
    updated_at: datetime
    venue_order_id: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    memory: Mapping[str, Any] | None = None


def order_change(order: Order) -> OrderChange:
    return OrderChange(
        order.intent.client_order_id, order.status, order.filled_quantity, order.filled_notional, order.fees, order.order_seq,
        order.updated_at, order.venue_order_id, order.reason_code, order.reason, order.memory,
    )  # fmt: skip


_VALUES = ", ".join(f"%({name})s" for name in _ORDER_COLUMNS)
# For the rebuild, which writes rows one by one.
UPSERT_ORDER = f"INSERT INTO orders ({', '.join(_ORDER_COLUMNS)}) VALUES ({_VALUES})"


def order_parameters(order: Order) -> dict[str, Any]:
    """The columns of an order as parameters of UPSERT_ORDER."""
    row = msgspec.structs.asdict(order_row(order))
    return row | {name: None if row[name] is None else Jsonb(row[name]) for name in ("terms", "memory")}


@dataclass(frozen=True, slots=True)
class _OrderRow:
    """A row of `orders` with its instrument's symbol."""

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
    trigger_price: Decimal | None
    expire_at: datetime | None
    post_only: bool
    reduce_only: bool
    position_side: Any
    parent_id: str | None
    role: Any
    replaces: str | None
    flatten: bool
    terms: Any
    memory: Any
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
            trigger_price=self.trigger_price,
            expire_at=self.expire_at,
            post_only=self.post_only,
            reduce_only=self.reduce_only,
            position_side=self.position_side,
            parent_id=self.parent_id,
            role=self.role,
            replaces=self.replaces,
            flatten=self.flatten,
            terms=self.terms,
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
            memory=self.memory,
        )


_TERMINAL = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
_SELECT = (
    "SELECT "
    + ", ".join(f"orders.{name}" for name in _ORDER_COLUMNS)
    + ", symbol FROM orders JOIN instruments ON instruments.id = orders.instrument_id"
)


@dataclass(frozen=True, slots=True)
class Books:
    """What was committed, as of one moment: all an account's engine starts from."""

    orders: list[Order]  # open ones, and the ended children of open parents
    trades: dict[str, list[str]]  # by order, the executions it has
    positions: dict[tuple[int, PositionSide], Position]
    cursors: dict[str, str]  # by symbol, up to where executions were asked for


@dataclass(frozen=True, slots=True)
class FillRow:
    """What an execution does to positions and books."""

    seq: int
    instrument_id: int
    side: Any
    position_side: Any
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str


class OrderStore:
    """Orders of all accounts in PostgreSQL, for reading; the journal writes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def get(self, client_order_id: str) -> Order | None:
        found = await self.find([client_order_id])
        return found[0] if found else None

    async def find(self, ids: Sequence[str]) -> list[Order]:
        """Those of the orders that exist."""
        rows = await self._db.fetch_all(f"{_SELECT} WHERE client_order_id = ANY(%s)", (list(ids),), as_=_OrderRow)
        return [row.to_order() for row in rows]

    async def known(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that orders have."""
        rows = await self._db.fetch_tuples("SELECT client_order_id FROM orders WHERE client_order_id = ANY(%s)", (list(ids),))
        return [row[0] for row in rows]

    async def recorded(self, venue: str, account_id: str, trade_ids: Sequence[str]) -> set[str]:
        """Those of a venue's executions that are recorded."""
        rows = await self._db.fetch_tuples(
            "SELECT venue_trade_id FROM fills WHERE venue = %s AND account_id = %s AND venue_trade_id = ANY(%s)",
            (venue, account_id, list(trade_ids)),
        )
        return {row[0] for row in rows}

    async def trades_of(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """The executions recorded of each order."""
        async with self._db.transaction() as cursor:
            return await _trades(cursor, ids)

    async def page(self, limit: int, *, only_open: bool, account: str | None, before: tuple[datetime, str] | None) -> list[Order]:
        """Newest first, those before (created_at, id)."""
        conditions = ["true"]
        parameters: list[Any] = []
        if only_open:
            conditions.append(f"status NOT IN ({_TERMINAL})")
        if account is not None:
            conditions.append("account_id = %s")
            parameters.append(account)
        if before is not None:
            conditions.append("(orders.created_at, client_order_id) < (%s, %s)")
            parameters += before
        rows = await self._db.fetch_all(
            f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY orders.created_at DESC, client_order_id DESC LIMIT %s",
            (*parameters, limit),
            as_=_OrderRow,
        )
        return [row.to_order() for row in rows]

    async def events(self, client_order_id: str) -> list[dict[str, Any]]:
        """An order's history, as it is kept."""
        rows = await self._db.fetch_tuples(
            "SELECT seq, order_seq, type, from_status, to_status, data, actor, correlation_id, causation_id, fencing_token, occurred_at"
            " FROM order_events WHERE client_order_id = %s ORDER BY order_seq",
            (client_order_id,),
        )
        names = (
            "seq", "order_seq", "type", "from_status", "to_status", "data", "actor", "correlation_id", "causation_id", "fencing_token",
            "occurred_at",
        )  # fmt: skip
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def holdings(self, account_id: str, catalogue: Catalogue) -> dict[str, Decimal] | None:
        """What the account has by currency, fills included that the portfolio has not projected; None before it was opened."""
        async with self._db.transaction() as cursor:
            await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return (await _positions(cursor, account_id, catalogue))[1]

    async def settled_otherwise(self, account_id: str, catalogue: Catalogue) -> dict[str, Decimal]:
        """What the venue has settled of perpetuals beyond what our books have of the same executions, by currency.

        An execution that was learnt late is booked after those the venue made after it: profit is realised at another time then,
        until nothing is held. The venue nets; hedging books do not.
        """
        contracts = [instrument.id for instrument in catalogue if not instrument.settles_base]
        rows = await self._db.fetch_all(
            "SELECT seq, instrument_id, side, position_side, quantity, price, fee, fee_currency FROM fills"
            " WHERE account_id = %s AND instrument_id = ANY(%s) ORDER BY length(venue_trade_id), venue_trade_id",
            (account_id, contracts),
            as_=FillRow,
        )
        return await asyncio.to_thread(settled_otherwise, rows, catalogue)

    async def books(self, account_id: str, catalogue: Catalogue) -> Books:
        """Everything committed of one account, read at one moment."""
        async with self._db.transaction() as cursor:
            await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            orders = await _open_family(cursor, account_id)
            return Books(
                orders=orders,
                trades=await _trades(cursor, [order.id for order in orders]),
                positions=(await _positions(cursor, account_id, catalogue))[0],
                cursors=await _cursors(cursor, account_id),
            )

    # --- control ------------------------------------------------------------------------------------------------------

    async def acknowledge(self, lease: Lease, account_id: str, version: int, in_flight: int) -> None:
        """Say which version of the trading state is obeyed, and how many requests from before it are not certain yet."""
        await self._db.execute(
            "INSERT INTO trading_state_acks AS acks (account_id, version, in_flight, lease, fencing_token)"
            " SELECT %(account)s, %(version)s, %(in_flight)s, name, token FROM leases"
            "  WHERE name = %(lease)s AND token = %(token)s AND holder IS NOT NULL"
            " ON CONFLICT (account_id) DO UPDATE SET version = EXCLUDED.version, in_flight = EXCLUDED.in_flight,"
            "  lease = EXCLUDED.lease, fencing_token = EXCLUDED.fencing_token, acked_at = clock_timestamp()",
            {"account": account_id, "version": version, "in_flight": in_flight, "lease": lease.name, "token": lease.token},
        )

    async def record_reconciliation(self, account_id: str, kind: str, identical: bool, detail: Mapping[str, Any]) -> None:
        await self._db.execute(
            "INSERT INTO reconciliations (account_id, kind, identical, detail) VALUES (%s, %s, %s, %s)",
            (account_id, kind, identical, Jsonb(detail)),
        )

    async def reconciliations(self, account_id: str | None, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        rows = await self._db.fetch_tuples(
            "SELECT id, account_id, at, kind, identical, detail FROM reconciliations"
            " WHERE %(account)s::text IS NULL OR account_id = %(account)s ORDER BY id DESC LIMIT %(limit)s",
            {"account": account_id, "limit": limit},
        )
        return [dict(zip(("id", "account", "at", "kind", "identical", "detail"), row, strict=True)) for row in rows]

    async def audit(self, kind: str, actor: str, subject: str, detail: Mapping[str, Any]) -> None:
        await self._db.execute(
            "INSERT INTO audit_events (type, actor, subject, detail) VALUES (%s, %s, %s, %s)", (kind, actor, subject, Jsonb(detail))
        )


async def _open_family(cursor: AsyncCursor[TupleRow], account_id: str) -> list[Order]:
    rows = cursor.connection.cursor(row_factory=class_row(_OrderRow))
    await rows.execute(
        f"{_SELECT} WHERE account_id = %(account)s AND (status NOT IN ({_TERMINAL}) OR parent_id IN"
        f" (SELECT client_order_id FROM orders WHERE account_id = %(account)s AND status NOT IN ({_TERMINAL})))"
        " ORDER BY orders.created_at, client_order_id".encode(),
        {"account": account_id},
    )
    return [row.to_order() for row in await rows.fetchall()]


async def _trades(cursor: AsyncCursor[TupleRow], ids: Sequence[str]) -> dict[str, list[str]]:
    await cursor.execute(
        "SELECT client_order_id, data->>'trade_id' FROM order_events WHERE client_order_id = ANY(%s) AND type = 'filled'", (list(ids),)
    )
    found: dict[str, list[str]] = {}
    for order_id, trade_id in await cursor.fetchall():
        found.setdefault(order_id, []).append(trade_id)
    return found


async def _positions(
    cursor: AsyncCursor[TupleRow], account_id: str, catalogue: Catalogue
) -> tuple[dict[tuple[int, PositionSide], Position], dict[str, Decimal] | None]:
    """Positions and holdings: what the portfolio has projected, and the fills it has not reached yet."""
    await cursor.execute(
        "SELECT instrument_id, position_side, quantity, average_price, realised_pnl, fees, residue, other_fees"
        " FROM positions WHERE account_id = %s",
        (account_id,),
    )
    held: dict[tuple[int, PositionSide], Position] = {
        (row[0], row[1]): Position(
            row[2], row[3], row[4], row[5], row[6], tuple(sorted((name, money.parse(fee)) for name, fee in row[7].items()))
        )
        for row in await cursor.fetchall()
    }
    await cursor.execute("SELECT currency, amount FROM ledger_balances WHERE account_id = %s AND book = 'holdings'", (account_id,))
    holdings: dict[str, Decimal] = dict(await cursor.fetchall())
    opened = bool(holdings)
    rows = cursor.connection.cursor(row_factory=class_row(FillRow))
    await rows.execute(
        "SELECT seq, instrument_id, side, position_side, quantity, price, fee, fee_currency FROM fills WHERE account_id = %(account)s"
        " AND seq > coalesce((SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %(account)s), 0) ORDER BY seq",
        {"account": account_id},
    )
    for row in await rows.fetchall():
        instrument = catalogue.id(row.instrument_id)
        key: tuple[int, PositionSide] = (row.instrument_id, row.position_side)
        before = held.get(key, Position())
        held[key], effect = positions.after_fill(before, instrument, row.side, row.quantity, row.price, row.fee, row.fee_currency)
        for line in ledger.fill(instrument, row.side, row.quantity, row.price, row.fee, row.fee_currency, effect):
            if line.book == "holdings":
                holdings[line.currency] = money.add(holdings.get(line.currency, ZERO), line.amount)
    return held, holdings if opened else None


def settled_otherwise(theirs: Sequence[FillRow], catalogue: Catalogue) -> dict[str, Decimal]:
    """See OrderStore.settled_otherwise. `theirs`: executions as the venue made them."""
    beyond: dict[str, Decimal] = {}
    orders = (
        (theirs, False, lambda row: row.instrument_id),
        (sorted(theirs, key=lambda row: row.seq), True, lambda row: (row.instrument_id, row.position_side)),
    )
    for rows, ours, key in orders:
        held: dict[Any, Position] = {}
        for row in rows:
            instrument = catalogue.id(row.instrument_id)
            before = held.get(key(row), Position())
            held[key(row)], effect = positions.after_fill(before, instrument, row.side, row.quantity, row.price, row.fee, row.fee_currency)
            realised = effect.realised_pnl.copy_negate() if ours else effect.realised_pnl
            beyond[instrument.quote_currency] = money.add(beyond.get(instrument.quote_currency, ZERO), realised)
    return beyond


async def _cursors(cursor: AsyncCursor[TupleRow], account_id: str) -> dict[str, str]:
    """Up to where the venue's executions were asked for and recorded without a gap, by symbol. The newest fill recorded would not do:
    the stream may have told it and lost one before it."""
    await cursor.execute("SELECT detail->'cursors' FROM reconciliations WHERE account_id = %s ORDER BY id DESC LIMIT 1", (account_id,))
    row = await cursor.fetchone()
    return dict(row[0]) if row and row[0] else {}


async def fold_orders(cursor: AsyncCursor[TupleRow]) -> list[Order]:
    """Every order as its events make it. Raises IllegalTransition where events cannot have happened."""
    await cursor.execute(
        "SELECT client_order_id, account_id, type, occurred_at, actor, data FROM order_events ORDER BY client_order_id, order_seq"
    )
    rows: Iterable[Any] = await cursor.fetchall()
    return [
        fold(Event.from_data(kind, at, actor, order_id, account_id, data) for _, account_id, kind, at, actor, data in group)
        for order_id, group in groupby(rows, key=itemgetter(0))
    ]
