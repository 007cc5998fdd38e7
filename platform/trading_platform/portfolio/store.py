"""What the portfolio reads from its projections, and the snapshots it keeps. Sums over history are never made while answering: the
database keeps the ledger's balances, and spans of time are bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any, LiteralString

import msgspec
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from trading_platform import money
from trading_platform.config import AccountSettings
from trading_platform.db import Database
from trading_platform.domain import ledger
from trading_platform.domain.ledger import Line
from trading_platform.domain.performance import FillTotals
from trading_platform.domain.positions import Position
from trading_platform.instruments import COLUMNS, Catalogue, Instrument, UnknownInstrument
from trading_platform.portfolio import projection
from trading_platform.portfolio.projection import Key, Projected, amounts

Rates = Mapping[str, Decimal]  # currency: what one unit is worth in the account's


class UnknownRate(LookupError):
    """Amounts of a currency that has no rate into the account's; the text says which."""


class TooMuch(ValueError):
    """More rows than an answer may rest on."""


MAX_ROUND_TRIPS = 200_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A row of equity_snapshots, without its account. `carry`: what came or went without a fill or a payment."""

    at: datetime
    equity: Decimal
    realised: Decimal
    unrealised: Decimal
    fees: Decimal
    exposure: Decimal
    peak_equity: Decimal
    max_drawdown: Decimal
    carry: Decimal

    @property
    def capital(self) -> Decimal:
        """What had been paid in by then, less what was taken out."""
        return money.add(self.equity, self.fees, *(each.copy_negate() for each in (self.realised, self.unrealised, self.carry)))


@dataclass(frozen=True, slots=True)
class TripRow:
    """A row of round_trips, with its symbol."""

    account_id: str
    symbol: str
    position_side: str
    direction: str
    opened_seq: int
    closed_seq: int | None
    opened_at: datetime
    closed_at: datetime | None
    peak_quantity: Decimal
    volume: Decimal
    realised_pnl: Decimal
    fees: Decimal
    other_fees: dict[str, str]
    fills: int
    currency: str


_TRIP_COLUMNS = (
    "account_id, symbol, position_side, direction, opened_seq, closed_seq, opened_at, closed_at, peak_quantity, volume,"
    " t.realised_pnl, t.fees, t.other_fees, fills, currency"
)


class PortfolioStore:
    """The portfolio's tables."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._catalogue: Catalogue | None = None

    async def catalogue(self, *, reload: bool = False) -> Catalogue:
        """Every instrument, retired ones too: what was traded stays in the books."""
        if self._catalogue is None or reload:
            self._catalogue = Catalogue(await self._db.fetch_all(f"SELECT {COLUMNS} FROM instruments", as_=Instrument))
        return self._catalogue

    async def project(self, account_id: str) -> Projected:
        """Take the next fills into the books."""
        try:
            return await self._project(account_id, await self.catalogue())
        except UnknownInstrument:
            return await self._project(account_id, await self.catalogue(reload=True))

    async def _project(self, account_id: str, catalogue: Catalogue) -> Projected:
        async with self._db.transaction() as cursor:
            return await projection.project(cursor, catalogue, account_id)

    async def open_account(self, account: AccountSettings) -> bool:
        """The opening deposit, once; whether this call made it. A rebuild keeps it: it is a fact no fill tells."""
        identity = f"deposit:{account.id}:opening"
        async with self._db.transaction() as cursor:
            await cursor.execute(
                "INSERT INTO ledger_transactions (id, kind, account_id, occurred_at, actor, reason)"
                " VALUES (%s, 'deposit', %s, %s, 'portfolio', 'opening balances') ON CONFLICT (id) DO NOTHING",
                (identity, account.id, datetime.now(UTC)),
            )
            if cursor.rowcount == 0:
                return False
            await write_lines(cursor, identity, account.id, ledger.opening(account.opening_balances))
            return True

    # --- what is there ------------------------------------------------------------------------------------------------

    async def positions(self, account_id: str) -> dict[Key, tuple[Position, datetime]]:
        """By instrument and book, with the time of the last change."""
        rows = await self._db.fetch_tuples(
            "SELECT instrument_id, position_side, quantity, average_price, realised_pnl, fees, residue, other_fees, updated_at"
            " FROM positions WHERE account_id = %s ORDER BY instrument_id, position_side",
            (account_id,),
        )
        return {(row[0], row[1]): (Position(*(*row[2:7], amounts(row[7]))), row[8]) for row in rows}

    async def balances(self, account_id: str, book: str = "holdings") -> list[tuple[str, Decimal]]:
        """(currency, amount) of one book of the ledger."""
        rows = await self._db.fetch_tuples(
            "SELECT currency, amount FROM ledger_balances WHERE account_id = %s AND book = %s ORDER BY currency", (account_id, book)
        )
        return [(row[0], row[1]) for row in rows]

    async def ledger_totals(self) -> list[tuple[str, Decimal]]:
        """What each currency's books sum to over all accounts: zero."""
        rows = await self._db.fetch_tuples("SELECT currency, total FROM ledger_totals ORDER BY currency")
        return [(row[0], row[1]) for row in rows]

    async def unprojected(self, account_id: str) -> int:
        """Fills the projection has not reached."""
        count: int = await self._db.fetch_value(
            "SELECT count(*) FROM fills WHERE account_id = %(account)s"
            " AND seq > coalesce((SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %(account)s), 0)",
            {"account": account_id},
        )
        return count

    async def lacks(self, account_id: str, end: datetime, patience_s: float) -> bool:
        """Whether figures up to `end` lack a fill they should have: any of a span that is over, else one recorded a while ago."""
        lacking: bool = await self._db.fetch_value(
            "SELECT EXISTS (SELECT FROM fills WHERE account_id = %(account)s AND executed_at < %(end)s"
            " AND seq > coalesce((SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %(account)s), 0)"
            " AND (%(end)s <= clock_timestamp() OR recorded_at < clock_timestamp() - make_interval(secs => %(patience)s)))",
            {"account": account_id, "end": end, "patience": patience_s},
        )
        return lacking

    async def recent_trades(self, limit: int) -> list[dict[str, Any]]:
        """Fills, newest first; `realised_pnl` is None until the projection has reached the fill."""
        names = (
            "trade_id", "account", "venue", "client_order_id", "symbol", "side", "position_side", "quantity", "price", "fee",
            "fee_currency", "liquidity", "realised_pnl", "slippage", "timestamp",
        )  # fmt: skip
        rows = await self._db.fetch_tuples(
            "SELECT f.venue_trade_id, f.account_id, f.venue, f.client_order_id, i.symbol, f.side, f.position_side, f.quantity, f.price,"
            " f.fee, f.fee_currency, f.liquidity, r.realised_pnl, r.slippage, f.executed_at FROM fills f"
            " JOIN instruments i ON i.id = f.instrument_id LEFT JOIN trade_results r ON r.fill_seq = f.seq ORDER BY f.seq DESC LIMIT %s",
            (limit,),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def round_trips(self, account_id: str, limit: int, before: int | None) -> list[TripRow]:
        """Closed ones, newest first; `before`: only those closed by an earlier fill than this."""
        return await self._db.fetch_all(
            f"SELECT {_TRIP_COLUMNS} FROM round_trips t JOIN instruments i ON i.id = instrument_id WHERE account_id = %s"
            " AND closed_seq IS NOT NULL AND closed_seq < %s ORDER BY closed_seq DESC LIMIT %s",
            (account_id, before if before is not None else (1 << 63) - 1, limit),
            as_=TripRow,
        )

    # --- figures ------------------------------------------------------------------------------------------------------

    async def fill_totals(self, account_id: str, bounds: Sequence[datetime], rates: Rates) -> list[FillTotals]:
        """Of the fills in each span between two neighbours of `bounds`, in the account's currency. Raises UnknownRate."""
        rows = await self._db.fetch_tuples(
            _FILL_TOTALS, {"account": account_id, "bounds": list(bounds), "first": bounds[0], "last": bounds[-1], "rates": _json(rates)}
        )
        unknown = sorted({currency for row in rows for currency in row[9] or ()})
        if unknown:
            raise UnknownRate(", ".join(unknown))
        found = {row[0]: FillTotals(*row[1:9]) for row in rows}
        return [found.get(number, _NO_FILLS) for number, _ in enumerate(pairwise(bounds), start=1)]

    async def closed_trips(self, account_id: str, start: datetime, end: datetime) -> list[TripRow]:
        """Round trips closed in [start, end), in that order. Raises TooMuch."""
        rows = await self._db.fetch_all(
            f"SELECT {_TRIP_COLUMNS} FROM round_trips t JOIN instruments i ON i.id = instrument_id WHERE account_id = %s"
            " AND closed_seq IS NOT NULL AND closed_at >= %s AND closed_at < %s ORDER BY closed_seq LIMIT %s",
            (account_id, start, end, MAX_ROUND_TRIPS + 1),
            as_=TripRow,
        )
        if len(rows) > MAX_ROUND_TRIPS:
            raise TooMuch(f"more than {MAX_ROUND_TRIPS} round trips were closed in that span; ask for a shorter one")
        return rows

    async def curve(self, account_id: str, start: datetime, end: datetime, step_s: int) -> list[Snapshot]:
        """The last snapshot of each step in [start, end) that has one, oldest first."""
        return await self._db.fetch_all(_CURVE, {"account": account_id, "start": start, "end": end, "step": step_s}, as_=Snapshot)

    async def newest_snapshot(self, account_id: str) -> Snapshot | None:
        return await self._db.fetch_one(
            f"SELECT {_SNAPSHOT} FROM equity_snapshots WHERE account_id = %s ORDER BY at DESC LIMIT 1", (account_id,), as_=Snapshot
        )

    async def save_snapshot(self, account_id: str, snapshot: Snapshot) -> None:
        await self._db.execute(
            f"INSERT INTO equity_snapshots (account_id, {_SNAPSHOT})"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (account_id, at) DO NOTHING",
            (
                account_id, snapshot.at, snapshot.equity, snapshot.realised, snapshot.unrealised, snapshot.fees, snapshot.exposure,
                snapshot.peak_equity, snapshot.max_drawdown, snapshot.carry,
            ),
        )  # fmt: skip


async def write_lines(cursor: AsyncCursor[TupleRow], identity: str, account_id: str, lines: Sequence[Line]) -> None:
    """All lines of a transaction in one statement: the database refuses a part of them."""
    rows = [{"line_no": number, **line_document(line)} for number, line in enumerate(lines, start=1)]
    await cursor.execute(
        "INSERT INTO ledger_lines (transaction_id, account_id, line_no, book, currency, amount) SELECT %s, %s, r.*"
        " FROM jsonb_to_recordset(%s) AS r (line_no smallint, book text, currency text, amount numeric)",
        (identity, account_id, _json(rows)),
    )


def line_document(line: Line) -> dict[str, Any]:
    return {"book": line.book, "currency": line.currency, "amount": line.amount}


def next_snapshot(
    at: datetime, *, capital: Decimal, realised: Decimal, unrealised: Decimal, fees: Decimal, carry: Decimal, exposure: Decimal,
    before: Snapshot | None,
) -> Snapshot:  # fmt: skip
    """Equity now, and the highest and the deepest fall the account has seen; what was paid in or out moves the peak with it."""
    equity = money.add(capital, realised, unrealised, fees.copy_negate(), carry)
    peak = capital if before is None else money.add(before.peak_equity, money.subtract(capital, before.capital))
    peak = max(equity, peak)
    fall = money.divide(money.subtract(peak, equity), peak, 8) if peak > 0 else Decimal(0)
    deepest = max(fall, before.max_drawdown if before else Decimal(0))
    return Snapshot(at, equity, realised, unrealised, fees, exposure, peak, deepest, carry)


_encoder = msgspec.json.Encoder()  # Decimals as text: exact


def _json(document: Any) -> str:
    return _encoder.encode(document).decode()


_NO_FILLS = FillTotals(0, 0, 0, *(Decimal(0) for _ in range(5)))
_SNAPSHOT: LiteralString = "at, equity, realised, unrealised, fees, exposure, peak_equity, max_drawdown, carry"
_CURVE: LiteralString = (
    "SELECT s.* FROM generate_series(%(start)s::timestamptz, %(end)s::timestamptz - interval '1 microsecond',"
    f" make_interval(secs => %(step)s)) AS step (begins) CROSS JOIN LATERAL (SELECT {_SNAPSHOT} FROM equity_snapshots"
    " WHERE account_id = %(account)s AND at >= begins AND at < least(begins + make_interval(secs => %(step)s), %(end)s::timestamptz)"
    " ORDER BY at DESC LIMIT 1) s ORDER BY s.at"
)
# A fill won when it closed something and realised more than its fees, whatever currency those were taken in.
_FILL_TOTALS: LiteralString = (
    "WITH rates AS (SELECT key AS currency, value::numeric AS rate FROM jsonb_each_text(%(rates)s::jsonb)),"
    " valued AS (SELECT r.*, q.rate, r.fee * q.rate + coalesce(r.other_fee * o.rate, 0) AS cost,"
    " CASE WHEN q.rate IS NULL THEN r.currency WHEN r.other_fee <> 0 AND o.rate IS NULL THEN r.other_fee_currency END AS unknown"
    " FROM trade_results r LEFT JOIN rates q ON q.currency = r.currency LEFT JOIN rates o ON o.currency = r.other_fee_currency"
    " WHERE r.account_id = %(account)s AND r.executed_at >= %(first)s AND r.executed_at < %(last)s)"
    " SELECT width_bucket(executed_at, %(bounds)s::timestamptz[]), count(*), count(*) FILTER (WHERE closed_quantity > 0),"
    " count(*) FILTER (WHERE closed_quantity > 0 AND realised_pnl * rate > cost), coalesce(sum(realised_pnl * rate), 0),"
    " coalesce(sum(cost), 0), coalesce(sum(volume * rate), 0), coalesce(sum(slippage * rate), 0),"
    " coalesce(sum(volume * rate) FILTER (WHERE slippage IS NOT NULL), 0),"
    " array_agg(DISTINCT unknown) FILTER (WHERE unknown IS NOT NULL) FROM valued GROUP BY 1"
)
