"""Where risk's facts come from and what it keeps: PostgreSQL for money, Redis for prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from trading_platform import instruments, money, telemetry
from trading_platform.bus import Bus
from trading_platform.config import AccountSettings, LimitSettings, RiskSettings, Settings
from trading_platform.db import Database
from trading_platform.domain import positions
from trading_platform.domain.figures import PublishedFigures, Unknown
from trading_platform.domain.orders import Intent, Order, OrderType, PositionSide, Role, Status
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import REJECT_MAX_AGE_NS, REJECT_WINDOW, REJECT_WINDOW_MIN, Limits
from trading_platform.domain.trading_state import PLATFORM
from trading_platform.domain.var import ENOUGH_RETURNS, MEASURABLE_RETURNS, Returns, returns_of
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.leadership import Lease, LeaseLost
from trading_platform.messages import Quote, Side

Key = tuple[int, PositionSide]

ZERO: Final = Decimal(0)
_FENCED: Final = "TR001"
_LIMIT_COLUMNS: Final = ", ".join(field.name for field in fields(Limits))
_TERMINAL: Final = "('FILLED', 'CANCELED', 'REJECTED', 'EXPIRED')"

# Horizons of candles, the longest with enough of them is used; at most so many candles of each.
_INTERVALS_S: Final = (86_400, 14_400, 3_600, 900, 300, 60)
_CANDLES: Final = 501
# How far back the breakers that count look.
_LOSSES_SEEN: Final = 1_000
_EVENTS_SEEN: Final = 5_000


@dataclass(frozen=True, slots=True)
class FigureRow:
    """A row of risk_figures, without its writer."""

    account_id: str
    computed_at: datetime
    currency: str
    capital: Decimal | None
    carry: Decimal | None
    equity: Decimal | None
    exposure: Decimal | None
    realised: Decimal | None
    unrealised: Decimal | None
    fees: Decimal | None
    equity_day: Decimal | None
    equity_week: Decimal | None
    equity_month: Decimal | None
    peak_equity: Decimal | None
    max_drawdown: Decimal | None
    consecutive_losses: int | None
    reject_share: Decimal
    var_95: Decimal | None
    var_99: Decimal | None
    expected_shortfall: Decimal | None
    breached: list[str]
    reasons: list[str]
    published: Mapping[str, Any]

    @property
    def figures(self) -> PublishedFigures:
        return PublishedFigures.from_data(self.published)


_FIGURE_COLUMNS: Final = ", ".join(field.name for field in fields(FigureRow))


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that was crossed; kept as an audit event with the figures that say so."""

    account_id: str
    limit: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an earlier moment's equity was, and what had been paid in by then."""

    equity: Decimal
    capital: Decimal
    peak_equity: Decimal
    max_drawdown: Decimal

    @property
    def profit(self) -> Decimal:
        return money.subtract(self.equity, self.capital)


@dataclass(frozen=True, slots=True)
class _FillRow:
    instrument_id: int
    position_side: PositionSide
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str


@dataclass(frozen=True, slots=True)
class _OrderRow:
    client_order_id: str
    instrument_id: int
    venue: str
    side: Side
    position_side: PositionSide
    type: OrderType
    quantity: Decimal
    filled_quantity: Decimal
    status: str
    parent_id: str | None
    role: Role | None
    created_at: datetime
    updated_at: datetime

    def to_order(self, account_id: str, symbol: str) -> Order:
        """As far as risk looks at an order: what it can still trade, and whose child it is."""
        intent = Intent(
            client_order_id=self.client_order_id,
            account_id=account_id,
            symbol=symbol,
            instrument_id=self.instrument_id,
            venue=self.venue,
            side=self.side,
            type=self.type,
            time_in_force="GTC",
            quantity=self.quantity,
            position_side=self.position_side,
            parent_id=self.parent_id,
            role=self.role,
        )
        return Order(intent, Status(self.status), 1, self.created_at, self.updated_at, filled_quantity=self.filled_quantity)


class RiskStore:
    """Reads everything at the time of asking; nothing is remembered between two calls but the instruments."""

    def __init__(self, database: Database, stream: Bus, settings: Settings) -> None:
        self._db = database
        self._bus = stream
        self._settings = settings
        self._catalogue: Catalogue | None = None

    @property
    def database(self) -> Database:
        return self._db

    async def catalogue(self) -> Catalogue:
        """Instruments do not change while a release runs."""
        if self._catalogue is None:
            self._catalogue = await instruments.load(self._db)
        return self._catalogue

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        return await self._bus.quotes(symbols)

    # --- limits -------------------------------------------------------------------------------------------------------

    async def ensure_limits(self, initial: RiskSettings) -> None:
        """The first version for accounts that have none, and for the portfolio where it is configured."""
        wanted: list[tuple[str, LimitSettings]] = [(account.id, initial) for account in self._settings.accounts]
        if initial.portfolio is not None:
            wanted.append((PLATFORM, initial.portfolio))
        names = [field.name for field in fields(Limits) if field.name != "version"]
        for account_id, limits in wanted:
            values = {name: getattr(limits, name) for name in names} | {"max_data_age_s": Decimal(str(limits.max_data_age_s))}
            await self._db.execute(
                f"INSERT INTO risk_limits (account_id, changed_by, reason, {', '.join(names)})"
                f" SELECT %(account)s, 'configuration', 'first version', {', '.join(f'%({name})s' for name in names)}"
                " WHERE NOT EXISTS (SELECT FROM risk_limits WHERE account_id = %(account)s)",
                {**values, "account": account_id},
            )

    async def limits(self, account_id: str) -> Limits | None:
        """The version in force; of the portfolio for "*"."""
        return await self._db.fetch_one(
            f"SELECT {_LIMIT_COLUMNS} FROM risk_limits WHERE account_id = %s ORDER BY version DESC LIMIT 1", (account_id,), as_=Limits
        )

    async def limit_history(self, account_id: str, count: int) -> list[dict[str, Any]]:
        """Versions, newest first, with who made each and why."""
        names = (*(field.name for field in fields(Limits)), "changed_by", "reason", "changed_at")
        rows = await self._db.fetch_tuples(
            f"SELECT {', '.join(names)} FROM risk_limits WHERE account_id = %s ORDER BY version DESC LIMIT %s", (account_id, count)
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def change_limits(self, account_id: str, limits: Limits, changed_by: str, reason: str) -> int:
        """A new version, and the audit event of the change with what it was before; its number."""
        values = {key: value for key, value in asdict(limits).items() if key != "version"}
        async with self._db.transaction() as cursor:
            await cursor.execute(b"SELECT pg_advisory_xact_lock(hashtext('risk_limits:' || %s))", (account_id,))
            await cursor.execute(
                f"SELECT {_LIMIT_COLUMNS} FROM risk_limits WHERE account_id = %s ORDER BY version DESC LIMIT 1".encode(), (account_id,)
            )
            row = await cursor.fetchone()
            before = None if row is None else Limits(*row)
            await cursor.execute(
                f"INSERT INTO risk_limits (account_id, changed_by, reason, {', '.join(values)})"
                f" VALUES (%(account)s, %(who)s, %(why)s, {', '.join(f'%({name})s' for name in values)}) RETURNING version".encode(),
                {**values, "account": account_id, "who": changed_by, "why": reason},
            )
            made = await cursor.fetchone()
            assert made is not None, "INSERT … RETURNING answers a row"
            old = {} if before is None else asdict(before)
            changed = {name: {"before": _plain(old.get(name)), "after": _plain(value)} for name, value in values.items()}
            changes = {name: each for name, each in changed.items() if each["before"] != each["after"]}
            detail = {"version": made[0], "before_version": old.get("version"), "reason": reason, "changes": changes}
            await cursor.execute(
                b"INSERT INTO audit_events (type, actor, subject, detail, request_id) VALUES ('risk_limit_change', %s, %s, %s, %s)",
                (changed_by, account_id, Jsonb(detail), telemetry.request_id.get()),
            )
        return int(made[0])

    # --- facts --------------------------------------------------------------------------------------------------------

    async def positions(self, account_id: str) -> dict[Key, Position]:
        """Positions as of the newest fill: projection and cursor are read in one snapshot with the fills after it."""
        catalogue = await self.catalogue()
        async with self._db.transaction() as cursor:
            await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await cursor.execute(
                "SELECT instrument_id, position_side, quantity, average_price, realised_pnl, fees, residue, other_fees FROM positions"
                " WHERE account_id = %s",
                (account_id,),
            )
            held: dict[Key, Position] = {
                (row[0], row[1]): Position(
                    row[2], row[3], row[4], row[5], row[6], tuple(sorted((currency, money.parse(fee)) for currency, fee in row[7].items()))
                )
                for row in await cursor.fetchall()
            }
            await cursor.execute(
                "SELECT instrument_id, position_side, side, quantity, price, fee, fee_currency FROM fills WHERE account_id = %(account)s"
                " AND seq > coalesce((SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %(account)s), 0) ORDER BY seq",
                {"account": account_id},
            )
            for fill in [_FillRow(*row) for row in await cursor.fetchall()]:
                key = (fill.instrument_id, fill.position_side)
                instrument = catalogue.id(fill.instrument_id)
                held[key], _ = positions.after_fill(
                    held.get(key, Position()), instrument, fill.side, fill.quantity, fill.price, fill.fee, fill.fee_currency
                )
        return held

    async def open_orders(self, account_id: str) -> list[Order]:
        """Open orders, and the ended children of open held ones."""
        catalogue = await self.catalogue()
        names = ", ".join(field.name for field in fields(_OrderRow))
        rows = await self._db.fetch_all(
            f"SELECT {names} FROM orders WHERE account_id = %s AND status NOT IN {_TERMINAL} UNION ALL"
            f" SELECT {names} FROM orders WHERE account_id = %s AND status IN {_TERMINAL} AND parent_id IN"
            f" (SELECT client_order_id FROM orders WHERE account_id = %s AND status NOT IN {_TERMINAL}) ORDER BY created_at",
            (account_id, account_id, account_id),
            as_=_OrderRow,
        )
        return [row.to_order(account_id, catalogue.id(row.instrument_id).symbol) for row in rows]

    async def paid(self, account: AccountSettings) -> tuple[Decimal, Decimal]:
        """What was paid in less what was taken out, and what came or went without a trade, in the account's currency.

        Raises Unknown before the opening deposit."""
        rows = await self._db.fetch_tuples(
            "SELECT book, currency, -amount FROM ledger_balances WHERE account_id = %s AND book IN ('capital', 'carry')", (account.id,)
        )
        if not any(row[0] == "capital" for row in rows):
            raise Unknown(f"account {account.id} has no opening deposit yet (the portfolio service writes it)")
        totals = {"capital": ZERO, "carry": ZERO}
        for book, currency, amount in rows:
            rate = self._settings.conversion_rate(currency, account.currency)
            if rate is None and amount != 0:
                raise Unknown(f"no conversion rate of {currency} into {account.currency}")
            totals[book] = money.add(totals[book], money.multiply(amount, rate or ZERO))
        return totals["capital"], totals["carry"]

    async def snapshot(self, account_id: str, at: datetime) -> Snapshot | None:
        """The last equity seen up to then."""
        return await self._db.fetch_one(
            "SELECT equity, capital, peak_equity, max_drawdown FROM equity_snapshots WHERE account_id = %s AND at <= %s"
            " ORDER BY at DESC LIMIT 1",
            (account_id, at),
            as_=Snapshot,
        )

    async def running_since(self, account_id: str) -> datetime:
        """When trading of the account was last changed: what the counting breakers saw before is settled."""
        since = await self._db.fetch_value("SELECT max(changed_at) FROM trading_state WHERE account_id IN ('*', %s)", (account_id,))
        return since if isinstance(since, datetime) else datetime.min.replace(tzinfo=UTC)

    async def consecutive_losses(self, account_id: str, since: datetime) -> int:
        """Orders in a row, newest first, that closed something at a loss after fees."""
        rows = await self._db.fetch_tuples(
            "SELECT sum(r.realised_pnl - r.fee) FROM (SELECT * FROM trade_results WHERE account_id = %s AND executed_at > %s"
            " ORDER BY executed_at DESC, fill_seq DESC LIMIT %s) r JOIN fills f ON f.seq = r.fill_seq"
            " GROUP BY f.client_order_id HAVING sum(r.closed_quantity) > 0 ORDER BY max(r.fill_seq) DESC",
            (account_id, since, _LOSSES_SEEN),
        )
        return next((number for number, (result,) in enumerate(rows) if result >= 0), len(rows))

    async def reject_share(self, account_id: str, since: datetime, now: datetime) -> Decimal:
        """The share of the last orders that came to an end at the venue which it refused; 0 while there are too few to say."""
        rows = await self._db.fetch_tuples(
            "SELECT type = 'rejected' FROM (SELECT * FROM order_events ORDER BY seq DESC LIMIT %s) e WHERE account_id = %s"
            f" AND occurred_at > %s AND to_status IN {_TERMINAL} AND from_status NOT IN {_TERMINAL}"
            " AND from_status NOT IN ('INITIALIZED', 'SUSPENDED') AND type NOT IN ('never_received', 'finished') ORDER BY seq DESC"
            " LIMIT %s",
            (_EVENTS_SEEN, account_id, max(since, now - timedelta(seconds=REJECT_MAX_AGE_NS / 10**9)), REJECT_WINDOW),
        )
        refused = sum(1 for (each,) in rows if each)
        return money.divide(Decimal(refused), Decimal(len(rows)), 6) if len(rows) >= REJECT_WINDOW_MIN else ZERO

    async def returns(self, instrument: Instrument) -> Returns | None:
        """Past returns of the longest horizon there is enough of, or of the one there is most of; None: no candles to speak of."""
        best: Returns | None = None
        for interval_s in _INTERVALS_S:
            rows = await self._db.fetch_tuples(
                "SELECT extract(epoch FROM ts_open)::bigint, close::float8 FROM candles WHERE instrument_id = %s AND interval_s = %s"
                " ORDER BY ts_open DESC LIMIT %s",
                (instrument.id, interval_s, _CANDLES),
            )
            if len(rows) <= MEASURABLE_RETURNS:
                continue
            found = returns_of([(row[0], row[1]) for row in reversed(rows)], interval_s, gaps=instrument.kind not in ("spot", "perpetual"))
            if len(found.by_time) >= ENOUGH_RETURNS:
                return found
            if best is None or len(found.by_time) > len(best.by_time):
                best = found
        return best

    async def stops_hit(self, account_id: str, since: datetime) -> tuple[int, int]:
        """Of the protective orders filled since: stop losses, and take profits."""
        rows = await self._db.fetch_tuples(
            "SELECT count(*) FILTER (WHERE role = 'stop_loss'), count(*) FILTER (WHERE role = 'take_profit') FROM orders"
            " WHERE account_id = %s AND updated_at > %s AND role IN ('take_profit', 'stop_loss') AND status = 'FILLED'",
            (account_id, since),
        )
        return rows[0][0], rows[0][1]

    # --- figures ------------------------------------------------------------------------------------------------------

    async def figure_rows(self) -> dict[str, FigureRow]:
        """What was published last, by account; "*" is the portfolio."""
        rows = await self._db.fetch_all(f"SELECT {_FIGURE_COLUMNS} FROM risk_figures", as_=FigureRow)
        return {row.account_id: row for row in rows}

    async def figure_row(self, account_id: str) -> FigureRow | None:
        return await self._db.fetch_one(f"SELECT {_FIGURE_COLUMNS} FROM risk_figures WHERE account_id = %s", (account_id,), as_=FigureRow)

    async def publish(self, lease: Lease, rows: Sequence[FigureRow], breaches: Sequence[Breach]) -> None:
        """Figures and the audit events of limits crossed, together. Raises LeaseLost for a leader that is none any more."""
        names = [field.name for field in fields(FigureRow)]
        statement = (
            f"INSERT INTO risk_figures ({', '.join(names)}, lease, fencing_token) VALUES ({', '.join(f'%({name})s' for name in names)},"
            f" %(lease)s, %(token)s) ON CONFLICT (account_id) DO UPDATE SET "
            + ", ".join(f"{name} = EXCLUDED.{name}" for name in (*names[1:], "lease", "fencing_token"))
        ).encode()
        lease.assert_held()
        try:
            async with self._db.transaction() as cursor:
                for row in rows:
                    values = {name: getattr(row, name) for name in names} | {"published": Jsonb(row.published)}
                    await cursor.execute(statement, {**values, "lease": lease.name, "token": lease.token})
                for breach in breaches:
                    await cursor.execute(
                        b"INSERT INTO audit_events (type, actor, subject, detail) VALUES ('risk_limit_breached', 'risk', %s, %s)",
                        (breach.account_id, Jsonb({"limit": breach.limit, **breach.detail})),
                    )
        except psycopg.Error as error:
            if error.sqlstate == _FENCED:
                raise LeaseLost(str(error)) from error
            raise

    # --- decisions ----------------------------------------------------------------------------------------------------

    async def decisions(self, account_id: str | None, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        names = ("client_order_id", "account", "symbol", "accepted", "code", "detail", "limits_version", "facts", "decided_at")
        rows = await self._db.fetch_tuples(
            "SELECT client_order_id, account_id, symbol, accepted, code, detail, limits_version, facts, decided_at"
            " FROM risk_decisions WHERE %(account)s::text IS NULL OR account_id = %(account)s ORDER BY id DESC LIMIT %(limit)s",
            {"account": account_id, "limit": limit},
        )
        return [dict(zip(names, row, strict=True)) for row in rows]


def _plain(value: Any) -> Any:
    return money.text(value) if isinstance(value, Decimal) else value
