"""Where risk's facts come from and its decisions go: PostgreSQL for money, Redis for prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from trading_platform import instruments, money
from trading_platform.bus import Bus
from trading_platform.config import AccountSettings, RiskSettings, Settings
from trading_platform.db import Database
from trading_platform.domain import positions
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.messages import Quote
from trading_platform.risk.old_figures import Baseline, Holding, Unknown
from trading_platform.risk.rules import Decision, Facts, Limits, OrderToCheck

_LIMIT_COLUMNS = ", ".join(field.name for field in fields(Limits))
_STRICTNESS = ("running", "reducing", "draining", "paused", "stopped", "emergency_stopped")


@dataclass(frozen=True, slots=True)
class Working:
    """What orders still open can add: base units still to buy and to sell."""

    buys: Decimal
    sells: Decimal


@dataclass(frozen=True, slots=True)
class _FillRow:
    instrument_id: int
    side: Any
    quantity: Decimal
    price: Decimal
    fee: Decimal


class RiskStore:
    """Reads everything at the time of asking; nothing is remembered between two checks."""

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

    # --- limits and state ---------------------------------------------------------------------------------------------

    async def ensure_limits(self, initial: RiskSettings) -> None:
        """The first version for accounts that have none."""
        for account in self._settings.accounts:
            await self._db.execute(
                "INSERT INTO risk_limits (account_id, max_order_notional, max_position_notional, max_total_exposure,"
                " max_orders_per_minute, price_collar, max_daily_loss, max_data_age_s, changed_by, reason)"
                " SELECT %(account)s, %(max_order_notional)s, %(max_position_notional)s, %(max_total_exposure)s,"
                " %(max_orders_per_minute)s, %(price_collar)s, %(max_daily_loss)s, %(max_data_age_s)s, 'configuration', 'first version'"
                " WHERE NOT EXISTS (SELECT FROM risk_limits WHERE account_id = %(account)s)",
                {**initial.model_dump(), "max_data_age_s": Decimal(str(initial.max_data_age_s)), "account": account.id},
            )

    async def limits(self, account_id: str) -> Limits | None:
        """The version in force."""
        return await self._db.fetch_one(
            f"SELECT {_LIMIT_COLUMNS} FROM risk_limits WHERE account_id = %s ORDER BY version DESC LIMIT 1", (account_id,), as_=Limits
        )

    async def change_limits(self, account_id: str, limits: Limits, changed_by: str, reason: str) -> int:
        """A new version and the audit event of the change; its number."""
        values = {key: value for key, value in asdict(limits).items() if key != "version"}
        names = ", ".join(values)
        places = ", ".join(f"%({name})s" for name in values)
        async with self._db.transaction() as cursor:
            await cursor.execute(
                f"INSERT INTO risk_limits (account_id, changed_by, reason, {names})"
                f" VALUES (%(account)s, %(who)s, %(why)s, {places}) RETURNING version".encode(),
                {**values, "account": account_id, "who": changed_by, "why": reason},
            )
            row = await cursor.fetchone()
            assert row is not None, "INSERT … RETURNING answers a row"
            detail = {"version": row[0], "reason": reason, **{key: str(value) for key, value in values.items()}}
            await cursor.execute(
                "INSERT INTO audit_events (type, actor, subject, detail) VALUES ('risk_limit_change', %s, %s, %s)",
                (changed_by, account_id, Jsonb(detail)),
            )
        return int(row[0])

    async def trading_state(self, account_id: str) -> str:
        """The stricter of the platform's and the account's; `stopped` where nothing is known."""
        rows = await self._db.fetch_tuples("SELECT state FROM trading_state WHERE account_id IN ('*', %s)", (account_id,))
        return max((row[0] for row in rows), key=_STRICTNESS.index, default="stopped")

    async def trading_states(self) -> list[dict[str, Any]]:
        rows = await self._db.fetch_tuples("SELECT account_id, state, reason, changed_by, changed_at FROM trading_state ORDER BY 1")
        return [dict(zip(("account", "state", "reason", "changed_by", "changed_at"), row, strict=True)) for row in rows]

    async def set_trading_state(self, account_id: str, state: str, reason: str, changed_by: str) -> None:
        async with self._db.transaction() as cursor:
            await cursor.execute(
                "INSERT INTO trading_state (account_id, state, reason, changed_by) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (account_id) DO UPDATE SET state = EXCLUDED.state, reason = EXCLUDED.reason,"
                " changed_by = EXCLUDED.changed_by, changed_at = clock_timestamp()",
                (account_id, state, reason, changed_by),
            )
            await cursor.execute(
                "INSERT INTO audit_events (type, actor, subject, detail) VALUES ('trading_state_change', %s, %s, %s)",
                (changed_by, account_id, Jsonb({"state": state, "reason": reason})),
            )

    # --- facts --------------------------------------------------------------------------------------------------------

    async def holdings(self, account: AccountSettings, now: datetime, extra_symbols: Sequence[str] = ()) -> list[Holding]:
        """Every position, fills included that the projection has not reached, with prices; and the instruments of `extra_symbols`."""
        catalogue = await self.catalogue()
        held = await self._positions(account.id, catalogue)
        for symbol in extra_symbols:
            held.setdefault(catalogue.symbol(symbol).id, Position())
        symbols = [catalogue.id(instrument_id).symbol for instrument_id in held]
        quotes = await self._bus.quotes(symbols)
        return [self._holding(catalogue.id(key), position, quotes, account, now) for key, position in held.items()]

    def _holding(
        self, instrument: Instrument, position: Position, quotes: dict[str, Quote], account: AccountSettings, now: datetime
    ) -> Holding:
        quote = quotes.get(instrument.symbol)
        mark = quote.mark if quote else None
        age = Decimal(int(now.timestamp() * 1_000_000) * 1_000 - quote.ts_recv_ns).scaleb(-9) if quote else None
        return Holding(
            instrument=instrument,
            position=position,
            mark=instrument.price(mark) if mark else None,
            mark_age_s=age,
            rate=self._settings.conversion_rate(instrument.quote_currency, account.currency),
        )

    async def _positions(self, account_id: str, catalogue: Catalogue) -> dict[int, Position]:
        """Positions as of the newest fill: projection and cursor are read in one snapshot with the fills after it."""
        async with self._db.transaction() as cursor:
            await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await cursor.execute(
                "SELECT instrument_id, quantity, average_price, realised_pnl, fees FROM positions WHERE account_id = %s", (account_id,)
            )
            held = {row[0]: Position(*row[1:]) for row in await cursor.fetchall()}
            await cursor.execute(
                "SELECT instrument_id, side, quantity, price, fee FROM fills WHERE account_id = %(account)s"
                " AND seq > coalesce((SELECT last_fill_seq FROM portfolio_cursor WHERE account_id = %(account)s), 0) ORDER BY seq",
                {"account": account_id},
            )
            for row in [_FillRow(*row) for row in await cursor.fetchall()]:
                position = held.get(row.instrument_id, Position())
                instrument = catalogue.id(row.instrument_id)
                held[row.instrument_id], _ = positions.apply(position, instrument, row.side, row.quantity, row.price, row.fee)
        return held

    async def working(self, account_id: str) -> dict[int, Working]:
        """Open orders by instrument."""
        rows = await self._db.fetch_tuples(
            "SELECT instrument_id, coalesce(sum(quantity - filled_quantity) FILTER (WHERE side = 'buy'), 0),"
            " coalesce(sum(quantity - filled_quantity) FILTER (WHERE side = 'sell'), 0) FROM orders"
            " WHERE account_id = %s AND status NOT IN ('FILLED', 'CANCELED', 'REJECTED', 'EXPIRED') GROUP BY instrument_id",
            (account_id,),
        )
        return {row[0]: Working(row[1], row[2]) for row in rows}

    async def orders_last_minute(self, account_id: str) -> int:
        count: int = await self._db.fetch_value(
            "SELECT count(*) FROM risk_decisions WHERE accepted AND account_id = %s"
            " AND decided_at > clock_timestamp() - interval '1 minute'",
            (account_id,),
        )
        return count

    async def baseline(self, account: AccountSettings, now: datetime) -> Baseline:
        """Capital paid in, equity at 00:00 UTC, and how far the account ever fell. Raises Unknown before the opening deposit."""
        capital_lines = await self._db.fetch_tuples(
            "SELECT currency, -sum(amount) FROM ledger_lines WHERE account_id = %s AND book = 'capital' GROUP BY currency", (account.id,)
        )
        if not capital_lines:
            raise Unknown(f"account {account.id} has no opening deposit yet (the portfolio service writes it)")
        capital = Decimal(0)
        for currency, amount in capital_lines:
            rate = self._settings.conversion_rate(currency, account.currency)
            if rate is None:
                raise Unknown(f"no conversion rate of {currency} into {account.currency}")
            capital = money.add(capital, money.multiply(amount, rate))
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        before = await self._db.fetch_value(
            "SELECT equity FROM equity_snapshots WHERE account_id = %s AND at <= %s ORDER BY at DESC LIMIT 1", (account.id, midnight)
        )
        newest = await self._db.fetch_tuples(
            "SELECT peak_equity, max_drawdown FROM equity_snapshots WHERE account_id = %s ORDER BY at DESC LIMIT 1", (account.id,)
        )
        peak, max_drawdown = newest[0] if newest else (capital, Decimal(0))
        return Baseline(capital, capital if before is None else before, peak, max_drawdown)

    # --- decisions ----------------------------------------------------------------------------------------------------

    async def record(self, order: OrderToCheck, decision: Decision, limits: Limits | None, facts: Facts | None) -> None:
        """Keep the decision with the facts it saw."""
        seen = {} if facts is None else {key: None if value is None else str(value) for key, value in asdict(facts).items()}
        asked = {"side": order.side, "type": order.type, "quantity": str(order.quantity), "limit_price": str(order.limit_price or "")}
        await self._db.execute(
            "INSERT INTO risk_decisions (client_order_id, account_id, symbol, accepted, code, detail, limits_version, facts)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            (
                order.client_order_id, order.account, order.instrument.symbol, decision.accepted, decision.code, decision.detail,
                limits.version if limits else None, Jsonb({**seen, "order": asked}),
            ),
        )  # fmt: skip

    async def decisions(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        names = ("client_order_id", "account", "symbol", "accepted", "code", "detail", "limits_version", "facts", "decided_at")
        rows = await self._db.fetch_tuples(
            "SELECT client_order_id, account_id, symbol, accepted, code, detail, limits_version, facts, decided_at"
            " FROM risk_decisions ORDER BY id DESC LIMIT %s",
            (limit,),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]
