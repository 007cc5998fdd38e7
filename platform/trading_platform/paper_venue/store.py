"""The venue's tables (schema paper_venue): what the exchange starts with, what a group of requests changed, what history is asked for.

One statement writes everything a group changed, and the position in the market's stream with it; the database refuses the
whole of it when the lease is not ours any more (TR001).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import psycopg

from trading_platform.config import AccountSettings
from trading_platform.db import Database
from trading_platform.domain.matching import Quoted, Snapshot, Standing
from trading_platform.instruments import COLUMNS, Catalogue, Instrument
from trading_platform.leadership import Lease, LeaseLost
from trading_platform.paper_venue.exchange import Changes, Exchange, State, Timer, book_order
from trading_platform.paper_venue.funds import Balance, Hold, Wallet
from trading_platform.paper_venue.shapes import Order, Trade

_FENCED = "TR001"
_encode = msgspec.json.Encoder().encode

_COMMIT = """
WITH o AS (
    INSERT INTO paper_venue.orders SELECT * FROM json_populate_recordset(NULL::paper_venue.orders, %(orders)s::json)
    ON CONFLICT (order_id) DO UPDATE SET
        status = EXCLUDED.status, executed = EXCLUDED.executed, executed_quote = EXCLUDED.executed_quote, reserved = EXCLUDED.reserved,
        working = EXCLUDED.working, reason = EXCLUDED.reason, updated_ms = EXCLUDED.updated_ms, working_ms = EXCLUDED.working_ms,
        seniority = EXCLUDED.seniority, queue_ahead = EXCLUDED.queue_ahead, triggered = EXCLUDED.triggered,
        slice_left = EXCLUDED.slice_left
), m AS (
    UPDATE paper_venue.orders AS kept
       SET seniority = moved.seniority, queue_ahead = moved.queue_ahead, triggered = moved.triggered, slice_left = moved.slice_left
      FROM json_populate_recordset(NULL::paper_venue.orders, %(moved)s::json) AS moved WHERE kept.order_id = moved.order_id
), t AS (
    INSERT INTO paper_venue.trades SELECT * FROM json_populate_recordset(NULL::paper_venue.trades, %(trades)s::json)
), b AS (
    INSERT INTO paper_venue.balances SELECT * FROM json_populate_recordset(NULL::paper_venue.balances, %(balances)s::json)
    ON CONFLICT (account_id, asset) DO UPDATE SET free = EXCLUDED.free, locked = EXCLUDED.locked, cost = EXCLUDED.cost
), k AS (
    INSERT INTO paper_venue.books SELECT * FROM json_populate_recordset(NULL::paper_venue.books, %(books)s::json)
    ON CONFLICT (instrument_id) DO UPDATE SET market = EXCLUDED.market
), n AS (
    INSERT INTO paper_venue.timers SELECT * FROM json_populate_recordset(NULL::paper_venue.timers, %(timers)s::json)
    ON CONFLICT (account_id, symbol) DO UPDATE SET countdown_ms = EXCLUDED.countdown_ms, due_ms = EXCLUDED.due_ms
), d AS (
    DELETE FROM paper_venue.timers AS gone USING json_populate_recordset(NULL::paper_venue.timers, %(disarmed)s::json) AS disarmed
     WHERE gone.account_id = disarmed.account_id AND gone.symbol = disarmed.symbol
)
UPDATE paper_venue.progress SET stream_position = %(position)s, gaps = %(gaps)s, lease = %(lease)s, fencing_token = %(token)s,
       written_at = clock_timestamp()
"""

# The newest order and each symbol's newest trade stay, however old: numbers are counted on from them.
_FORGET = """
WITH looked AS (
    SELECT order_id, created_ms, updated_ms, status FROM paper_venue.orders WHERE order_id > %(after)s ORDER BY order_id LIMIT %(limit)s
), old AS (
    SELECT order_id FROM looked
     WHERE status NOT IN ('NEW', 'PARTIALLY_FILLED') AND updated_ms < %(before)s
       AND order_id < (SELECT max(order_id) FROM paper_venue.orders)
       AND order_id NOT IN (SELECT n.order_id FROM instruments i CROSS JOIN LATERAL (
               SELECT order_id FROM paper_venue.trades WHERE instrument_id = i.id ORDER BY trade_id DESC LIMIT 1) n)
), t AS (
    DELETE FROM paper_venue.trades USING old WHERE trades.order_id = old.order_id
), o AS (
    DELETE FROM paper_venue.orders USING old WHERE orders.order_id = old.order_id RETURNING 1
)
SELECT (SELECT max(order_id) FROM looked HAVING count(*) = %(limit)s AND max(created_ms) < %(before)s), (SELECT count(*) FROM o)
"""

_ORDER_COLUMNS = (
    "order_id, account_id, client_order_id, instrument_id, side, type, time_in_force, quantity, quote_quantity, price, stop_price, "
    "iceberg_quantity, status, executed, executed_quote, bound, reserved, working, reason, created_ms, updated_ms, working_ms"
)
_TRADE_COLUMNS = (
    "instrument_id, trade_id, order_id, account_id, buyer, maker, price, quantity, quote, fee, fee_asset, executed_ms, ts_event_ns"
)
_TIMER_COLUMNS = "account_id, symbol, countdown_ms, due_ms"


class _Market(msgspec.Struct, frozen=True):
    """What a book remembers beside the orders, whose own rows say where they stand."""

    bid: Quoted
    ask: Quoted
    last: int
    last_size: int
    last_event_ns: int
    ts_event_ns: int
    ts_recv_ns: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a leader starts with."""

    catalogue: Catalogue
    state: State
    position: str | None
    gaps: int


class Store:
    """Reads and writes of one process."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # --- start ------------------------------------------------------------------------------------------------------------

    async def load(self, lease: Lease, accounts: Iterable[AccountSettings]) -> Loaded:
        """Everything stored, after accounts seen for the first time were opened."""
        await self._open_accounts(lease, accounts)
        instruments = await self._db.fetch_all(
            f"SELECT {COLUMNS} FROM instruments WHERE active OR id IN (SELECT instrument_id FROM paper_venue.orders"
            " WHERE status IN ('NEW', 'PARTIALLY_FILLED')) ORDER BY id",
            as_=Instrument,
        )
        catalogue = Catalogue(instruments)
        position, gaps = (await self._db.fetch_tuples("SELECT stream_position, gaps FROM paper_venue.progress"))[0]
        orders = await self._orders(catalogue, "status IN ('NEW', 'PARTIALLY_FILLED') ORDER BY order_id", ())
        state = State(
            wallets=await self._wallets(),
            orders=orders,
            timers=[
                Timer(*row)
                for row in await self._db.fetch_tuples("SELECT account_id, symbol, countdown_ms, due_ms FROM paper_venue.timers")
            ],
            books=await self._books(catalogue, orders),
            last_order_id=await self._db.fetch_value("SELECT coalesce(max(order_id), 0) FROM paper_venue.orders"),
            last_trade_ids=dict(
                await self._db.fetch_tuples(
                    "SELECT i.id, coalesce((SELECT max(trade_id) FROM paper_venue.trades WHERE instrument_id = i.id), 0) FROM instruments i"
                )
            ),
        )
        return Loaded(catalogue, state, position, gaps)

    async def _open_accounts(self, lease: Lease, accounts: Iterable[AccountSettings]) -> None:
        known = {row[0] for row in await self._db.fetch_tuples("SELECT account_id FROM paper_venue.accounts")}
        for account in accounts:
            if account.id in known:
                continue
            opening = {currency: format(amount, "f") for currency, amount in account.opening_balances.items()}
            async with self._db.transaction() as cursor:
                await cursor.execute(
                    "INSERT INTO paper_venue.accounts (account_id, opening) VALUES (%s, %s::jsonb)", (account.id, _text(opening))
                )
                await cursor.execute(
                    "INSERT INTO paper_venue.balances (account_id, asset, free, locked)"
                    " SELECT %s, key, value::numeric, 0 FROM jsonb_each_text(%s::jsonb)",
                    (account.id, _text(opening)),
                )
                await cursor.execute(
                    "UPDATE paper_venue.progress SET lease = %s, fencing_token = %s, written_at = clock_timestamp()",
                    (lease.name, lease.token),
                )

    async def _wallets(self) -> dict[str, Wallet]:
        wallets = {row[0]: Wallet() for row in await self._db.fetch_tuples("SELECT account_id FROM paper_venue.accounts")}
        for account, asset, free, locked, cost in await self._db.fetch_tuples(
            "SELECT account_id, asset, free, locked, cost FROM paper_venue.balances"
        ):
            wallets[account].balances[asset] = Balance(free, locked, cost)
        return wallets

    async def _books(self, catalogue: Catalogue, orders: Sequence[Order]) -> dict[int, Snapshot]:
        rows = await self._db.fetch_tuples("SELECT instrument_id, market::text FROM paper_venue.books")
        markets = {instrument_id: msgspec.json.decode(text, type=_Market) for instrument_id, text in rows}
        by_id = {order.order_id: order for order in orders}
        standings: dict[int, list[Standing]] = {}
        for order_id, queue, triggered, slice_left, seniority in await self._db.fetch_tuples(
            "SELECT order_id, queue_ahead, triggered, slice_left, seniority FROM paper_venue.orders"
            " WHERE status IN ('NEW', 'PARTIALLY_FILLED') ORDER BY seniority"
        ):
            order = by_id[order_id]
            standing = Standing(book_order(order), order.remaining, queue, triggered, slice_left, seniority)
            standings.setdefault(order.instrument.id, []).append(standing)
        return {instrument.id: _snapshot(markets.get(instrument.id), standings.get(instrument.id, [])) for instrument in catalogue}

    # --- every group --------------------------------------------------------------------------------------------------------

    async def known(self, identities: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Which of these (account, client order id) were used before."""
        if not identities:
            return []
        accounts, ids = zip(*identities, strict=True)
        return [
            (account, client_id)
            for account, client_id in await self._db.fetch_tuples(
                "SELECT account_id, client_order_id FROM paper_venue.orders"
                " WHERE (account_id, client_order_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
                (list(accounts), list(ids)),
            )
        ]

    async def commit(self, lease: Lease, exchange: Exchange, changes: Changes, position: str | None, gaps: int) -> None:
        """Write what has changed. Raises LeaseLost when another leads."""
        parameters = {
            "orders": _text([_order_row(order) | _place_row(exchange, order.order_id) for order in changes.orders.values()]),
            "moved": _text([_place_row(exchange, order_id) for order_id in changes.moved if order_id not in changes.orders]),
            "trades": _text([_trade_row(trade) for trade in changes.trades]),
            "balances": _text([_balance_row(account, asset, exchange.wallets[account].of(asset)) for account, asset in changes.balances]),
            "books": _text([_book_row(exchange, instrument_id) for instrument_id in changes.books]),
            "timers": _text([_timer_row(timer) for timer in changes.timers.values() if timer is not None]),
            "disarmed": _text([{"account_id": a, "symbol": s} for (a, s), timer in changes.timers.items() if timer is None]),
            "position": position,
            "gaps": gaps,
            "lease": lease.name,
            "token": lease.token,
        }
        try:
            await self._db.execute(_COMMIT, parameters)
        except psycopg.Error as error:
            if error.sqlstate == _FENCED:
                raise LeaseLost(str(error).splitlines()[0]) from error
            raise

    async def forget(self, before_ms: int, after: int, limit: int) -> tuple[int | None, int]:
        """Delete what was closed before, with its trades, among the next `limit` orders after an id. (The id to go on after, or None
        where younger orders begin; how many were deleted.) Balances are kept as sums: they need none of it."""
        [(reached, forgotten)] = await self._db.fetch_tuples(_FORGET, {"before": before_ms, "after": after, "limit": limit})
        return reached, forgotten

    # --- history ------------------------------------------------------------------------------------------------------------

    async def order(self, account: str, instrument: Instrument, order_id: int | None, client_order_id: str | None) -> Order | None:
        """An order whatever became of it."""
        where, values = "account_id = %s AND instrument_id = %s", [account, instrument.id]
        if order_id is not None:
            where, values = f"{where} AND order_id = %s", [*values, order_id]
        if client_order_id is not None:
            where, values = f"{where} AND client_order_id = %s", [*values, client_order_id]
        found = await self._orders(Catalogue([instrument]), where, values)
        return found[0] if found else None

    async def orders(
        self, account: str, instrument: Instrument, from_id: int | None, start_ms: int | None, end_ms: int | None, limit: int
    ) -> list[Order]:
        """All orders from an id on, or the newest, oldest first."""
        newest = from_id is None and start_ms is None
        found = await self._orders(
            Catalogue([instrument]),
            "account_id = %s AND instrument_id = %s AND order_id >= %s AND created_ms BETWEEN %s AND %s"
            f" ORDER BY order_id {'DESC' if newest else 'ASC'} LIMIT %s",
            (account, instrument.id, from_id or 0, start_ms or 0, end_ms if end_ms is not None else 1 << 62, limit),
        )
        return found[::-1] if newest else found

    async def trades(
        self,
        account: str,
        instrument: Instrument,
        *,
        order_id: int | None,
        from_id: int | None,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
    ) -> list[Trade]:
        """The account's trades from an id on, or the newest, oldest first."""
        newest = from_id is None and start_ms is None and order_id is None
        of_order = "AND order_id = %s" if order_id is not None else ""
        values: list[Any] = [account, instrument.id, from_id or 0, start_ms or 0, end_ms if end_ms is not None else 1 << 62]
        rows = await self._db.fetch_tuples(
            f"SELECT {_TRADE_COLUMNS} FROM paper_venue.trades WHERE account_id = %s AND instrument_id = %s AND trade_id >= %s"
            f" AND executed_ms BETWEEN %s AND %s {of_order} ORDER BY trade_id {'DESC' if newest else 'ASC'} LIMIT %s",
            [*values, *([order_id] if order_id is not None else []), limit],
        )
        found = [Trade(instrument, *row[1:]) for row in rows]
        return found[::-1] if newest else found

    async def _orders(self, catalogue: Catalogue, where: str, values: Sequence[Any]) -> list[Order]:
        rows = await self._db.fetch_tuples(f"SELECT {_ORDER_COLUMNS} FROM paper_venue.orders WHERE {where}", values)
        return [_order(catalogue, row) for row in rows]

    async def candles(
        self, instrument: Instrument, source_s: int, interval_s: int, start_ms: int | None, end_ms: int | None, limit: int
    ) -> list[tuple[int, Decimal, Decimal, Decimal, Decimal, Decimal]]:
        """(opening ms, open, high, low, close, volume) of an interval, put together from a finer one; oldest first."""
        rows = await self._db.fetch_tuples(
            "SELECT extract(epoch FROM bin)::bigint * 1000, (array_agg(open ORDER BY ts_open))[1], max(high), min(low),"
            " (array_agg(close ORDER BY ts_open DESC))[1], sum(volume) FROM ("
            "   SELECT *, date_bin(make_interval(secs => %s), ts_open, 'epoch'::timestamptz) AS bin FROM candles"
            "    WHERE instrument_id = %s AND interval_s = %s AND ts_open >= to_timestamp(%s) AND ts_open < to_timestamp(%s)) AS c"
            f" GROUP BY bin ORDER BY bin {'ASC' if start_ms is not None else 'DESC'} LIMIT %s",
            (
                interval_s,
                instrument.id,
                source_s,
                (start_ms if start_ms is not None else max(0, (end_ms or 0) - interval_s * 1000 * (limit + 1))) / 1000,
                (end_ms if end_ms is not None else 1 << 42) / 1000,
                limit,
            ),
        )
        return rows if start_ms is not None else rows[::-1]


def _text(value: object) -> str:
    return _encode(value).decode()


def _order_row(order: Order) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "account_id": order.account,
        "client_order_id": order.client_order_id,
        "instrument_id": order.instrument.id,
        "side": order.side,
        "type": order.type,
        "time_in_force": order.time_in_force,
        "quantity": order.quantity,
        "quote_quantity": order.quote_quantity,
        "price": order.price,
        "stop_price": order.stop_price,
        "iceberg_quantity": order.iceberg_quantity,
        "status": order.status,
        "executed": order.executed,
        "executed_quote": order.executed_quote,
        "bound": order.hold.bound,
        "reserved": order.hold.amount,
        "working": order.working,
        "reason": order.reason,
        "created_ms": order.created_ms,
        "updated_ms": order.updated_ms,
        "working_ms": order.working_ms,
    }


def _order(catalogue: Catalogue, row: tuple[Any, ...]) -> Order:
    (
        order_id, account, client_order_id, instrument_id, side, kind, force, quantity, quote_quantity, price, stop_price, iceberg, status,
        executed, executed_quote, bound, reserved, working, reason, created_ms, updated_ms, working_ms,
    ) = row  # fmt: skip
    instrument = catalogue.id(instrument_id)
    asset = instrument.base_currency if side == "SELL" and instrument.settles_base else instrument.quote_currency
    return Order(
        order_id, account, client_order_id, instrument, side, kind, force, quantity, quote_quantity, price, stop_price, iceberg, status,
        executed, executed_quote, Hold(asset, reserved, bound), working, reason, created_ms, updated_ms, working_ms,
    )  # fmt: skip


def _trade_row(trade: Trade) -> dict[str, Any]:
    return {
        "instrument_id": trade.instrument.id,
        "trade_id": trade.trade_id,
        "order_id": trade.order_id,
        "account_id": trade.account,
        "buyer": trade.buyer,
        "maker": trade.maker,
        "price": trade.price,
        "quantity": trade.quantity,
        "quote": trade.quote,
        "fee": trade.fee,
        "fee_asset": trade.fee_asset,
        "executed_ms": trade.executed_ms,
        "ts_event_ns": trade.ts_event_ns,
    }


def _balance_row(account: str, asset: str, balance: Balance) -> dict[str, Any]:
    return {"account_id": account, "asset": asset, "free": balance.free, "locked": balance.locked, "cost": balance.cost}


def _timer_row(timer: Timer) -> dict[str, Any]:
    return {"account_id": timer.account, "symbol": timer.symbol, "countdown_ms": timer.countdown_ms, "due_ms": timer.due_ms}


def _place_row(exchange: Exchange, order_id: int) -> dict[str, Any]:
    """Where an order stands, beside what it is; nothing of one that is closed."""
    standing = exchange.standing(order_id)
    if standing is None:
        return {"order_id": order_id, "seniority": 0, "queue_ahead": None, "triggered": False, "slice_left": None}
    return {
        "order_id": order_id,
        "seniority": standing.seniority,
        "queue_ahead": standing.queue_ahead,
        "triggered": standing.triggered,
        "slice_left": standing.slice_left,
    }


def _book_row(exchange: Exchange, instrument_id: int) -> dict[str, Any]:
    known = exchange.market(instrument_id)
    return {"instrument_id": instrument_id, "market": {name: getattr(known, name) for name in _Market.__struct_fields__}}


def _snapshot(market: _Market | None, standings: Sequence[Standing]) -> Snapshot:
    """A book as it was: what it knew of the market, and the orders in time priority."""
    known = {} if market is None else {name: getattr(market, name) for name in _Market.__struct_fields__}
    return Snapshot(orders=tuple(standings), **known)
