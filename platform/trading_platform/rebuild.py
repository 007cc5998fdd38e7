"""Rebuild the projections from the facts and show that nothing differs: `python -m trading_platform.rebuild [--apply]`.

Orders are folded again from order_events; ledger, positions, trade results, round trips and cursors from fills. What no fill tells
(deposits, withdrawals, funding, charges, corrections) is a fact itself and stays; balances are compared with the sums of all lines.
Everything happens in one transaction as the migrator; services that write these tables wait for it. Without differences
it changes nothing. With differences it prints them and exits 1, and only `--apply` keeps the rebuilt rows.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow, class_row

from trading_platform import config, db
from trading_platform.config import ConfigError, Settings
from trading_platform.engine.store import UPSERT_ORDER, fold_orders, order_parameters
from trading_platform.instruments import COLUMNS, Catalogue, Instrument
from trading_platform.portfolio.projection import BATCH, project

# Every projection with the columns that describe its rows. The cursor comes first: who projects locks it first, too.
PROJECTIONS: Mapping[str, LiteralString] = {
    "portfolio_cursor": "SELECT account_id, last_fill_seq FROM portfolio_cursor WHERE last_fill_seq > 0",
    "ledger_transactions": "SELECT id, kind, account_id, occurred_at, fill_seq FROM ledger_transactions",
    "ledger_lines": "SELECT transaction_id, line_no, account_id, book, currency, amount FROM ledger_lines",
    "ledger_balances": "SELECT account_id, book, currency, amount FROM ledger_balances WHERE amount <> 0",
    "positions": "SELECT account_id, instrument_id, position_side, quantity, average_price, realised_pnl, fees, residue, other_fees::text,"
    " last_fill_seq, updated_at FROM positions",
    "trade_results": "SELECT fill_seq, account_id, instrument_id, position_side, closed_quantity, realised_pnl, fee, other_fee,"
    " other_fee_currency, volume, decision_price, slippage, currency, executed_at FROM trade_results",
    "round_trips": "SELECT account_id, instrument_id, position_side, opened_seq, closed_seq, direction, opened_at, closed_at,"
    " peak_quantity, volume, realised_pnl, fees, other_fees::text, fills, currency FROM round_trips",
    "orders": "SELECT client_order_id, account_id, instrument_id, venue, venue_order_id, side, type, time_in_force, quantity, limit_price,"
    " trigger_price, expire_at, post_only, reduce_only, position_side, parent_id, role, replaces, flatten, terms::text, memory::text,"
    " status, filled_quantity, filled_notional, fees, reason_code, reason, strategy, signal_id, last_order_seq, created_at, updated_at"
    " FROM orders",
}


async def rebuild(settings: Settings, *, apply: bool = False) -> list[str]:
    """The differences between what is kept and what the facts give; empty when they are identical."""
    connection = await db.connect_session_async(settings, "trading-rebuild")
    try:
        async with connection.transaction() as transaction, connection.cursor() as cursor:
            await cursor.execute(f"LOCK TABLE {', '.join(PROJECTIONS)} IN EXCLUSIVE MODE".encode())
            before = await _rows(cursor)
            await _rebuild_portfolio(cursor, await _catalogue(connection))
            await cursor.execute("DELETE FROM orders")
            for order in await fold_orders(cursor):
                await cursor.execute(UPSERT_ORDER.encode(), order_parameters(order))
            differences = _differences(before, await _rows(cursor))
            if not (apply and differences):
                raise psycopg.Rollback(transaction)
    finally:
        await connection.close()
    return differences


async def _rebuild_portfolio(cursor: AsyncCursor[TupleRow], catalogue: Catalogue) -> None:
    """Project again exactly the fills the projection had reached, so that only the rows can differ."""
    await cursor.execute("SELECT account_id, last_fill_seq FROM portfolio_cursor")
    reached = await cursor.fetchall()
    for statement in (
        b"DELETE FROM ledger_lines l USING ledger_transactions t WHERE t.id = l.transaction_id AND t.kind = 'fill'",
        b"DELETE FROM ledger_transactions WHERE kind = 'fill'",
        b"DELETE FROM trade_results",
        b"DELETE FROM round_trips",
        b"DELETE FROM positions",
        b"DELETE FROM portfolio_cursor",
        # Kept by the database as lines come and go, so that a wrong one would stay wrong: it starts from what no fill tells.
        b"DELETE FROM ledger_balances",
        b"INSERT INTO ledger_balances SELECT account_id, book, currency, sum(amount) FROM ledger_lines GROUP BY 1, 2, 3",
    ):
        await cursor.execute(statement)
    for account_id, last_seq in reached:
        await cursor.execute("SELECT count(*) FROM fills WHERE account_id = %s AND seq <= %s", (account_id, last_seq))
        row = await cursor.fetchone()
        left = int(row[0]) if row else 0
        while left > 0:
            left -= (await project(cursor, catalogue, account_id, limit=min(left, BATCH))).fills


async def _catalogue(connection: AsyncConnection[TupleRow]) -> Catalogue:
    async with connection.cursor(row_factory=class_row(Instrument)) as cursor:
        await cursor.execute(f"SELECT {COLUMNS} FROM instruments".encode())
        return Catalogue(await cursor.fetchall())


async def _rows(cursor: AsyncCursor[TupleRow]) -> dict[str, set[tuple[Any, ...]]]:
    found = {}
    for table, query in PROJECTIONS.items():
        await cursor.execute(query)
        found[table] = set(await cursor.fetchall())
    return found


def _differences(before: dict[str, set[tuple[Any, ...]]], after: dict[str, set[tuple[Any, ...]]]) -> list[str]:
    lines = []
    for table in before:
        lines += [f"{table}: kept, but the facts do not give it: {_show(row)}" for row in sorted(before[table] - after[table], key=str)]
        lines += [f"{table}: missing, the facts give it: {_show(row)}" for row in sorted(after[table] - before[table], key=str)]
    return lines


def _show(row: tuple[Any, ...]) -> str:
    return "(" + ", ".join(str(value) for value in row) + ")"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trading_platform.rebuild", description="Rebuild projections from facts.")
    parser.add_argument("--apply", action="store_true", help="keep the rebuilt rows where they differ")
    arguments = parser.parse_args()
    try:
        differences = asyncio.run(rebuild(config.load(), apply=arguments.apply))
    except ConfigError as error:
        print(f"trading-rebuild: {error}", file=sys.stderr)
        sys.exit(78)
    except psycopg.Error as error:
        print(f"trading-rebuild: the database refused: {error}".strip(), file=sys.stderr)
        sys.exit(2)
    for line in differences:
        print(line)
    if not differences:
        print("identical: every projection is what its facts give")
    elif arguments.apply:
        print(f"{len(differences)} difference(s) replaced by what the facts give")
    sys.exit(1 if differences and not arguments.apply else 0)


if __name__ == "__main__":
    main()
