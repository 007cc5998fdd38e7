"""The projection's writes and the figures' reads. A batch of fills and the cursor that passes them are one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, LiteralString

from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from trading_platform import money
from trading_platform.config import AccountSettings
from trading_platform.db import Database
from trading_platform.domain import ledger, positions
from trading_platform.domain.ledger import Line
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue
from trading_platform.messages import Side

BATCH = 500


@dataclass(frozen=True, slots=True)
class FillRow:
    """A row of `fills`, as far as the projection needs it."""

    seq: int
    account_id: str
    venue: str
    venue_trade_id: str
    instrument_id: int
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    executed_at: datetime


_FILL_COLUMNS: LiteralString = (
    "seq, account_id, venue, venue_trade_id, instrument_id, side, quantity, price, fee, fee_currency, executed_at"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A row of equity_snapshots, without its account."""

    at: datetime
    equity: Decimal
    realised: Decimal
    unrealised: Decimal
    fees: Decimal
    exposure: Decimal
    peak_equity: Decimal
    max_drawdown: Decimal


async def project(cursor: AsyncCursor[TupleRow], catalogue: Catalogue, account_id: str, limit: int = BATCH) -> int:
    """Apply up to `limit` fills after the cursor, in the caller's transaction; how many there were."""
    await cursor.execute(
        "INSERT INTO portfolio_cursor (account_id, last_fill_seq) VALUES (%s, 0) ON CONFLICT (account_id) DO NOTHING", (account_id,)
    )
    await cursor.execute("SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %s FOR UPDATE", (account_id,))
    row = await cursor.fetchone()
    assert row is not None, "the cursor's row was just made"
    await cursor.execute(
        f"SELECT {_FILL_COLUMNS} FROM fills WHERE account_id = %s AND seq > %s ORDER BY seq LIMIT %s", (account_id, row[0], limit)
    )
    fills = [FillRow(*fill) for fill in await cursor.fetchall()]
    if not fills:
        return 0
    held = await _load_positions(cursor, account_id)
    changed: dict[int, FillRow] = {}
    for fill in fills:
        held[fill.instrument_id] = await _apply(cursor, catalogue, fill, held.get(fill.instrument_id, Position()))
        changed[fill.instrument_id] = fill
    for instrument_id, fill in changed.items():
        await _save_position(cursor, fill, held[instrument_id])
    await cursor.execute("UPDATE portfolio_cursor SET last_fill_seq = %s WHERE account_id = %s", (fills[-1].seq, account_id))
    return len(fills)


async def open_account(cursor: AsyncCursor[TupleRow], account: AccountSettings, at: datetime) -> bool:
    """The opening deposit, once; whether this call made it. A rebuild keeps it: it is a fact no fill tells."""
    identity = f"deposit:{account.id}:opening"
    await cursor.execute(
        "INSERT INTO ledger_transactions (id, kind, account_id, occurred_at) VALUES (%s, 'deposit', %s, %s) ON CONFLICT (id) DO NOTHING",
        (identity, account.id, at),
    )
    if cursor.rowcount == 0:
        return False
    await _write_lines(cursor, identity, account.id, ledger.deposit(account.currency, account.opening_balance))
    return True


async def _apply(cursor: AsyncCursor[TupleRow], catalogue: Catalogue, fill: FillRow, before: Position) -> Position:
    """One fill: ledger transaction, trade result, and the position after it."""
    instrument = catalogue.id(fill.instrument_id)
    after, effect = positions.apply(before, instrument, fill.side, fill.quantity, fill.price, fill.fee)
    identity = f"fill:{fill.venue}:{fill.account_id}:{fill.venue_trade_id}"
    await cursor.execute(
        "INSERT INTO ledger_transactions (id, kind, account_id, occurred_at, fill_seq) VALUES (%s, 'fill', %s, %s, %s)",
        (identity, fill.account_id, fill.executed_at, fill.seq),
    )
    lines = ledger.fill(instrument, fill.side, fill.quantity, fill.price, fill.fee, fill.fee_currency, effect)
    await _write_lines(cursor, identity, fill.account_id, lines)
    await cursor.execute(
        "INSERT INTO trade_results (fill_seq, account_id, instrument_id, closed_quantity, realised_pnl, fee, currency, executed_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            fill.seq, fill.account_id, fill.instrument_id, effect.closed_quantity, effect.realised_pnl, fill.fee,
            instrument.quote_currency, fill.executed_at,
        ),
    )  # fmt: skip
    return after


async def _write_lines(cursor: AsyncCursor[TupleRow], identity: str, account_id: str, lines: Sequence[Line]) -> None:
    if lines:
        await cursor.executemany(
            "INSERT INTO ledger_lines (transaction_id, line_no, account_id, book, currency, amount) VALUES (%s, %s, %s, %s, %s, %s)",
            [(identity, number, account_id, line.book, line.currency, line.amount) for number, line in enumerate(lines, start=1)],
        )


async def _load_positions(cursor: AsyncCursor[TupleRow], account_id: str) -> dict[int, Position]:
    await cursor.execute(
        "SELECT instrument_id, quantity, average_price, realised_pnl, fees FROM positions WHERE account_id = %s", (account_id,)
    )
    return {row[0]: Position(*row[1:]) for row in await cursor.fetchall()}


async def _save_position(cursor: AsyncCursor[TupleRow], fill: FillRow, position: Position) -> None:
    await cursor.execute(
        "INSERT INTO positions (account_id, instrument_id, quantity, average_price, realised_pnl, fees, last_fill_seq, updated_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (account_id, instrument_id) DO UPDATE SET quantity = EXCLUDED.quantity,"
        " average_price = EXCLUDED.average_price, realised_pnl = EXCLUDED.realised_pnl, fees = EXCLUDED.fees,"
        " last_fill_seq = EXCLUDED.last_fill_seq, updated_at = EXCLUDED.updated_at",
        (
            fill.account_id, fill.instrument_id, position.quantity, position.average_price, position.realised_pnl, position.fees,
            fill.seq, fill.executed_at,
        ),
    )  # fmt: skip


# --- reads -------------------------------------------------------------------------------------------------------------------


class PortfolioStore:
    """Positions, trades and snapshots for the API."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def project(self, catalogue: Catalogue, account_id: str) -> int:
        async with self._db.transaction() as cursor:
            return await project(cursor, catalogue, account_id)

    async def open_account(self, account: AccountSettings) -> bool:
        async with self._db.transaction() as cursor:
            return await open_account(cursor, account, datetime.now(UTC))

    async def positions(self, account_id: str) -> dict[int, tuple[Position, datetime]]:
        """By instrument id, with the time of the last change."""
        rows = await self._db.fetch_tuples(
            "SELECT instrument_id, quantity, average_price, realised_pnl, fees, updated_at FROM positions"
            " WHERE account_id = %s ORDER BY instrument_id",
            (account_id,),
        )
        return {row[0]: (Position(*row[1:5]), row[5]) for row in rows}

    async def recent_trades(self, limit: int) -> list[dict[str, Any]]:
        """Newest first; `realised_pnl` is None until the projection has reached the fill."""
        names = (
            "trade_id", "account", "venue", "client_order_id", "symbol", "side", "quantity", "price", "fee", "fee_currency", "liquidity",
            "realised_pnl", "timestamp",
        )  # fmt: skip
        rows = await self._db.fetch_tuples(
            "SELECT f.venue_trade_id, f.account_id, f.venue, f.client_order_id, i.symbol, f.side, f.quantity, f.price, f.fee,"
            " f.fee_currency, f.liquidity, r.realised_pnl, f.executed_at FROM fills f JOIN instruments i ON i.id = f.instrument_id"
            " LEFT JOIN trade_results r ON r.fill_seq = f.seq ORDER BY f.seq DESC LIMIT %s",
            (limit,),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def balances(self, account_id: str) -> list[dict[str, Any]]:
        """What the account has, by currency."""
        rows = await self._db.fetch_tuples(
            "SELECT currency, sum(amount) FROM ledger_lines WHERE account_id = %s AND book = 'holdings' GROUP BY currency ORDER BY 1",
            (account_id,),
        )
        return [{"currency": row[0], "amount": row[1]} for row in rows]

    async def capital(self, account_id: str) -> list[tuple[str, Decimal]]:
        rows = await self._db.fetch_tuples(
            "SELECT currency, -sum(amount) FROM ledger_lines WHERE account_id = %s AND book = 'capital' GROUP BY currency", (account_id,)
        )
        return [(row[0], row[1]) for row in rows]

    async def day_results(self, account_id: str, start: datetime, end: datetime) -> list[tuple[Decimal, Decimal, Decimal, Decimal, str]]:
        """(closed quantity, realised P&L, fee, value, currency) of the fills in [start, end)."""
        rows = await self._db.fetch_tuples(
            "SELECT r.closed_quantity, r.realised_pnl, r.fee, f.quantity * f.price * i.multiplier, r.currency FROM trade_results r"
            " JOIN fills f ON f.seq = r.fill_seq JOIN instruments i ON i.id = r.instrument_id"
            " WHERE r.account_id = %s AND r.executed_at >= %s AND r.executed_at < %s ORDER BY r.fill_seq",
            (account_id, start, end),
        )
        return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]

    async def unprojected(self, account_id: str) -> int:
        """Fills the projection has not reached."""
        count: int = await self._db.fetch_value(
            "SELECT count(*) FROM fills WHERE account_id = %(account)s"
            " AND seq > coalesce((SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %(account)s), 0)",
            {"account": account_id},
        )
        return count

    async def closing_equity(self, account_id: str, first: date, last: date) -> list[Decimal]:
        """The last equity seen on each UTC day that has one, oldest first."""
        rows = await self._db.fetch_tuples(
            "SELECT DISTINCT ON ((at AT TIME ZONE 'UTC')::date) equity FROM equity_snapshots WHERE account_id = %s"
            " AND (at AT TIME ZONE 'UTC')::date BETWEEN %s AND %s ORDER BY (at AT TIME ZONE 'UTC')::date, at DESC",
            (account_id, first, last),
        )
        return [row[0] for row in rows]

    async def newest_snapshot(self, account_id: str) -> Snapshot | None:
        return await self._db.fetch_one(
            "SELECT at, equity, realised, unrealised, fees, exposure, peak_equity, max_drawdown FROM equity_snapshots"
            " WHERE account_id = %s ORDER BY at DESC LIMIT 1",
            (account_id,),
            as_=Snapshot,
        )

    async def save_snapshot(self, account_id: str, snapshot: Snapshot) -> None:
        await self._db.execute(
            "INSERT INTO equity_snapshots (account_id, at, equity, realised, unrealised, fees, exposure, peak_equity, max_drawdown)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (account_id, at) DO NOTHING",
            (
                account_id, snapshot.at, snapshot.equity, snapshot.realised, snapshot.unrealised, snapshot.fees, snapshot.exposure,
                snapshot.peak_equity, snapshot.max_drawdown,
            ),
        )  # fmt: skip


def next_snapshot(
    at: datetime, capital: Decimal, realised: Decimal, unrealised: Decimal, fees: Decimal, exposure: Decimal, before: Snapshot | None
) -> Snapshot:
    """Equity now, and the highest and the deepest fall the account has seen."""
    equity = money.add(capital, realised, unrealised, -fees)
    peak = max(equity, before.peak_equity if before else capital)
    fall = money.divide(peak - equity, peak, 8) if peak > 0 else Decimal(0)
    deepest = max(fall, before.max_drawdown if before else Decimal(0))
    return Snapshot(at, equity, realised, unrealised, fees, exposure, peak, deepest)
