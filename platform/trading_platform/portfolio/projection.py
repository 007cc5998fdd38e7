"""Fills become ledger, positions, trade results and round trips: exactly once, in the order they were recorded.

A batch and the cursor that passes it are one transaction, written table by table: one statement each, whatever the batch's size.
The caller's transaction decides who may write: the service's, or a rebuild's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

import msgspec
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from trading_platform import money
from trading_platform.domain import ledger, performance, positions
from trading_platform.domain.orders import PositionSide
from trading_platform.domain.performance import Execution, RoundTrip
from trading_platform.domain.positions import Effect, Position
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.messages import Side

BATCH = 2_000

Key = tuple[int, PositionSide]  # instrument id, and which of an account's books


@dataclass(frozen=True, slots=True)
class FillRow:
    """A row of `fills`, with the price that was seen when its order was decided."""

    seq: int
    account_id: str
    venue: str
    venue_trade_id: str
    instrument_id: int
    side: Side
    position_side: PositionSide
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    executed_at: datetime
    recorded_at: datetime
    decision_mark: str | None


@dataclass(frozen=True, slots=True)
class Projected:
    """What a batch held; `turned`: hedging books that were closed by more than they held, as (symbol, side)."""

    fills: int
    newest: datetime | None = None
    turned: tuple[tuple[str, PositionSide], ...] = ()


async def project(cursor: AsyncCursor[TupleRow], catalogue: Catalogue, account_id: str, limit: int = BATCH) -> Projected:
    """Apply up to `limit` fills after the cursor, in the caller's transaction.

    Raises UnknownInstrument, with nothing written, for a fill of an instrument the catalogue does not have.
    """
    fills = await _next_fills(cursor, account_id, limit)
    if not fills:
        return Projected(0)
    batch = Batch(catalogue, await _load_positions(cursor, account_id), await _load_open_trips(cursor, account_id))
    for fill in fills:
        batch.take(fill)
    await batch.write(cursor, account_id)
    await cursor.execute("UPDATE portfolio_cursor SET last_fill_seq = %s WHERE account_id = %s", (fills[-1].seq, account_id))
    return Projected(len(fills), fills[-1].recorded_at, tuple(sorted(batch.turned)))


class Batch:
    """Fills taken one after the other, and the rows they lead to. `held` and `trips` are where they left off."""

    def __init__(self, catalogue: Catalogue, held: dict[Key, Position], trips: dict[Key, RoundTrip]) -> None:
        self._catalogue = catalogue
        self.held = held
        self.trips = trips
        self._last: dict[Key, FillRow] = {}
        self._transactions: list[tuple[Any, ...]] = []
        self._lines: list[tuple[Any, ...]] = []
        self._results: list[tuple[Any, ...]] = []
        self.closed: list[tuple[Key, RoundTrip]] = []
        self.turned: set[tuple[str, PositionSide]] = set()

    def take(self, fill: FillRow) -> None:
        instrument = self._catalogue.id(fill.instrument_id)
        key = (fill.instrument_id, fill.position_side)
        before = self.held.get(key, Position())
        after, effect = positions.after_fill(before, instrument, fill.side, fill.quantity, fill.price, fill.fee, fill.fee_currency)
        self.held[key] = after
        self._last[key] = fill
        if positions.is_turned(fill.position_side, after) and not positions.is_turned(fill.position_side, before):
            self.turned.add((instrument.symbol, fill.position_side))
        self._book(fill, instrument, effect)
        self._judge(key, fill, instrument, before, after, effect)

    def _book(self, fill: FillRow, instrument: Instrument, effect: Effect) -> None:
        identity = f"fill:{fill.venue}:{fill.account_id}:{fill.venue_trade_id}"
        self._transactions.append((identity, "fill", fill.account_id, fill.executed_at, fill.seq))
        lines = ledger.fill(instrument, fill.side, fill.quantity, fill.price, fill.fee, fill.fee_currency, effect)
        self._lines += [
            (identity, number, fill.account_id, line.book, line.currency, line.amount) for number, line in enumerate(lines, start=1)
        ]

    def _judge(self, key: Key, fill: FillRow, instrument: Instrument, before: Position, after: Position, effect: Effect) -> None:
        value = positions.fee_value(instrument, fill.price, fill.fee, fill.fee_currency)
        unvalued = () if value is not None else ((fill.fee_currency, fill.fee),)
        fee = value if value is not None else positions.ZERO
        decided, slippage = _slippage(fill, instrument)
        self._results.append(
            (
                fill.seq, fill.account_id, fill.instrument_id, fill.position_side, effect.closed_quantity, effect.realised_pnl, fee,
                *(unvalued[0][::-1] if unvalued else (None, None)), instrument.notional(fill.quantity, fill.price), decided, slippage,
                instrument.quote_currency, fill.executed_at,
            )
        )  # fmt: skip
        execution = Execution(fill.seq, fill.executed_at, fill.side, fill.quantity, fill.price, fee, unvalued)
        closed, still_open = performance.follow(self.trips.get(key), instrument, execution, before, after, effect)
        if closed is not None:
            self.closed.append((key, closed))
        if still_open is not None:
            self.trips[key] = still_open
        else:
            self.trips.pop(key, None)

    async def write(self, cursor: AsyncCursor[TupleRow], account_id: str) -> None:
        await _copy(cursor, _COPY_TRANSACTIONS, self._transactions)
        await _copy(cursor, _COPY_LINES, self._lines)
        await _copy(cursor, _COPY_RESULTS, self._results)
        changed = [(key, self.trips[key]) for key in self._last if key in self.trips]
        # Closed ones first: the open one of a position is unique.
        for trips in (self.closed, changed):
            if trips:
                rows = [_trip_row(self._catalogue.id(key[0]), key, trip) for key, trip in trips]
                await cursor.execute(_UPSERT_TRIPS, (account_id, _json(rows)))
        await cursor.execute(_UPSERT_POSITIONS, (account_id, _json([self._position_row(key, fill) for key, fill in self._last.items()])))

    def _position_row(self, key: Key, fill: FillRow) -> dict[str, Any]:
        position = self.held[key]
        return {
            "instrument_id": key[0], "position_side": key[1], "quantity": position.quantity, "average_price": position.average_price,
            "realised_pnl": position.realised_pnl, "fees": position.fees, "residue": position.residue,
            "other_fees": dict(position.other_fees), "last_fill_seq": fill.seq, "updated_at": fill.executed_at,
        }  # fmt: skip


def _slippage(fill: FillRow, instrument: Instrument) -> tuple[Decimal | None, Decimal | None]:
    """(price decided on, what the fill cost more than at it); nothing where the decision's event names no price."""
    if fill.decision_mark is None:
        return None, None
    try:
        decided = money.parse(fill.decision_mark)
    except money.MoneyError:
        return None, None
    if decided <= 0:
        return None, None
    return decided, instrument.notional(positions.signed(fill.side, fill.quantity), money.subtract(fill.price, decided))


def _trip_row(instrument: Instrument, key: Key, trip: RoundTrip) -> dict[str, Any]:
    return {
        "instrument_id": key[0], "position_side": key[1], "opened_seq": trip.opened_seq, "closed_seq": trip.closed_seq,
        "direction": trip.direction, "opened_at": trip.opened_at, "closed_at": trip.closed_at, "peak_quantity": trip.peak_quantity,
        "volume": trip.volume, "realised_pnl": trip.realised_pnl, "fees": trip.fees, "other_fees": dict(trip.other_fees),
        "fills": trip.fills, "currency": instrument.quote_currency,
    }  # fmt: skip


# --- statements -----------------------------------------------------------------------------------------------------------------


async def _next_fills(cursor: AsyncCursor[TupleRow], account_id: str, limit: int) -> list[FillRow]:
    """The fills after the cursor, whose row stays locked: who projects the same account waits."""
    await cursor.execute(
        "INSERT INTO portfolio_cursor (account_id, last_fill_seq) VALUES (%s, 0) ON CONFLICT (account_id) DO NOTHING", (account_id,)
    )
    await cursor.execute("SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %s FOR UPDATE", (account_id,))
    row = await cursor.fetchone()
    assert row is not None, "the cursor's row was just made"
    await cursor.execute(_NEXT_FILLS, (account_id, row[0], limit))
    fills = await cursor.fetchall()
    await cursor.execute(_DECISION_MARKS, (list({order_id for order_id, *_ in fills}),))
    marks: dict[str, str | None] = dict(await cursor.fetchall())
    return [FillRow(*(*fill[1:], marks.get(fill[0]))) for fill in fills]


async def _load_positions(cursor: AsyncCursor[TupleRow], account_id: str) -> dict[Key, Position]:
    await cursor.execute(
        "SELECT instrument_id, position_side, quantity, average_price, realised_pnl, fees, residue, other_fees FROM positions"
        " WHERE account_id = %s",
        (account_id,),
    )
    return {(row[0], row[1]): Position(*(*row[2:7], amounts(row[7]))) for row in await cursor.fetchall()}


async def _load_open_trips(cursor: AsyncCursor[TupleRow], account_id: str) -> dict[Key, RoundTrip]:
    await cursor.execute(
        "SELECT instrument_id, position_side, opened_seq, direction, opened_at, peak_quantity, volume, realised_pnl, fees, other_fees,"
        " fills FROM round_trips WHERE account_id = %s AND closed_seq IS NULL",
        (account_id,),
    )
    return {(row[0], row[1]): RoundTrip(*(*row[2:9], amounts(row[9]), row[10])) for row in await cursor.fetchall()}


async def _copy(cursor: AsyncCursor[TupleRow], statement: LiteralString, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        async with cursor.copy(statement) as copy:
            for row in rows:
                await copy.write_row(row)


def amounts(document: dict[str, str]) -> tuple[tuple[str, Decimal], ...]:
    """Amounts by currency, as a jsonb column keeps them."""
    return tuple(sorted((currency, money.parse(amount)) for currency, amount in document.items()))


_encoder = msgspec.json.Encoder()  # Decimals as text: exact


def _json(rows: Iterable[dict[str, Any]]) -> str:
    return _encoder.encode(list(rows)).decode()


_NEXT_FILLS: LiteralString = (
    "SELECT client_order_id, seq, account_id, venue, venue_trade_id, instrument_id, side, position_side, quantity, price, fee,"
    " fee_currency, executed_at, recorded_at FROM fills WHERE account_id = %s AND seq > %s ORDER BY seq LIMIT %s"
)
# What each order was decided at: once an order, however many fills it has.
_DECISION_MARKS: LiteralString = (
    "SELECT DISTINCT ON (client_order_id) client_order_id, data->'risk'->'facts'->>'mark' FROM order_events"
    " WHERE client_order_id = ANY(%s) AND type = 'submitting' ORDER BY client_order_id, order_seq"
)
_COPY_TRANSACTIONS: LiteralString = "COPY ledger_transactions (id, kind, account_id, occurred_at, fill_seq) FROM STDIN"
_COPY_LINES: LiteralString = "COPY ledger_lines (transaction_id, line_no, account_id, book, currency, amount) FROM STDIN"
_COPY_RESULTS: LiteralString = (
    "COPY trade_results (fill_seq, account_id, instrument_id, position_side, closed_quantity, realised_pnl, fee, other_fee,"
    " other_fee_currency, volume, decision_price, slippage, currency, executed_at) FROM STDIN"
)
_UPSERT_TRIPS: LiteralString = (
    "INSERT INTO round_trips (account_id, instrument_id, position_side, opened_seq, closed_seq, direction, opened_at, closed_at,"
    " peak_quantity, volume, realised_pnl, fees, other_fees, fills, currency)"
    " SELECT %s, r.* FROM jsonb_to_recordset(%s) AS r (instrument_id integer, position_side text, opened_seq bigint, closed_seq bigint,"
    " direction text, opened_at timestamptz, closed_at timestamptz, peak_quantity numeric, volume numeric, realised_pnl numeric,"
    " fees numeric, other_fees jsonb, fills integer, currency text)"
    " ON CONFLICT (account_id, instrument_id, position_side, opened_seq) DO UPDATE SET closed_seq = EXCLUDED.closed_seq,"
    " closed_at = EXCLUDED.closed_at, peak_quantity = EXCLUDED.peak_quantity, volume = EXCLUDED.volume,"
    " realised_pnl = EXCLUDED.realised_pnl, fees = EXCLUDED.fees, other_fees = EXCLUDED.other_fees, fills = EXCLUDED.fills"
)
_UPSERT_POSITIONS: LiteralString = (
    "INSERT INTO positions (account_id, instrument_id, position_side, quantity, average_price, realised_pnl, fees, residue, other_fees,"
    " last_fill_seq, updated_at)"
    " SELECT %s, r.* FROM jsonb_to_recordset(%s) AS r (instrument_id integer, position_side text, quantity numeric,"
    " average_price numeric, realised_pnl numeric, fees numeric, residue numeric, other_fees jsonb, last_fill_seq bigint,"
    " updated_at timestamptz)"
    " ON CONFLICT (account_id, instrument_id, position_side) DO UPDATE SET quantity = EXCLUDED.quantity,"
    " average_price = EXCLUDED.average_price, realised_pnl = EXCLUDED.realised_pnl, fees = EXCLUDED.fees, residue = EXCLUDED.residue,"
    " other_fees = EXCLUDED.other_fees, last_fill_seq = EXCLUDED.last_fill_seq, updated_at = EXCLUDED.updated_at"
)
