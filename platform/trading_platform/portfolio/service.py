"""The projection's loop, equity snapshots, and the figures of positions and days."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from prometheus_client import Counter, Gauge

from trading_platform import accounts, bus, instruments, messages, money
from trading_platform.bus import Bus
from trading_platform.config import AccountSettings, Settings
from trading_platform.db import Database
from trading_platform.domain import performance, positions
from trading_platform.domain.performance import Daily, TradeResult
from trading_platform.instruments import Catalogue
from trading_platform.portfolio.store import PortfolioStore, Snapshot, next_snapshot
from trading_platform.service import LoopContext, together

log = logging.getLogger(__name__)

PROJECTED = Counter("smc_trading_fills_projected_total", "Fills taken into ledger and positions", ["account"])
BEHIND = Gauge("smc_trading_projection_lag_fills", "Fills not yet in ledger and positions", ["account"])
PNL = Gauge("smc_trading_pnl", "Realised and unrealised result less fees, since the account was opened", ["account"])
WIN_RATE = Gauge("smc_trading_win_rate_ratio", "Share of closing fills with a gain, today (UTC)", ["account"])
SHARPE = Gauge("smc_trading_sharpe_ratio", "Annualised Sharpe ratio of up to 30 daily returns", ["account"])
MAX_DRAWDOWN = Gauge("smc_trading_max_drawdown_ratio", "Deepest fall from the highest equity", ["account"])

SNAPSHOT_EVERY_S = 60


class Unvaluable(Exception):
    """A position has no price or no conversion rate; the text says which."""


_NO_PRICES: tuple[type[Exception], ...] = (Unvaluable, *bus.TRANSIENT)


@dataclass(frozen=True, slots=True)
class Valued:
    """Sums over an account's positions, in its currency."""

    realised: Decimal
    unrealised: Decimal
    fees: Decimal
    exposure: Decimal


class Portfolio:
    """Everything the fills add up to."""

    def __init__(self, database: Database, stream: Bus, settings: Settings) -> None:
        self._db = database
        self._bus = stream
        self._settings = settings
        self._store = PortfolioStore(database)
        self._catalogue: Catalogue | None = None

    async def catalogue(self) -> Catalogue:
        if self._catalogue is None:
            self._catalogue = await instruments.load(self._db)
        return self._catalogue

    # --- loops --------------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Open accounts, then project fills and take snapshots; for Service.loop with a lease."""
        await accounts.ensure(self._db, self._settings)
        for account in self._settings.accounts:
            if await self._store.open_account(account):
                log.info("account opened", extra={"account": account.id, "opening_balance": str(account.opening_balance)})
        await together(context, projection=self._projecting, snapshots=self._snapshots)

    async def _projecting(self, context: LoopContext) -> None:
        """Project whenever the bus says there is something; look by ourselves each second, as the bus may be away."""
        catalogue = await self.catalogue()
        tail = self._bus.tail(messages.ORDER_EVENTS)
        while not context.stopping:
            context.beat()
            context.lease.assert_held()
            for account in self._settings.accounts:
                while count := await self._store.project(catalogue, account.id):
                    PROJECTED.labels(account.id).inc(count)
                    context.beat()
                BEHIND.labels(account.id).set(await self._store.unprojected(account.id))
            try:
                await tail.read(block_ms=1000)
            except bus.TRANSIENT:
                await context.sleep(1.0)

    async def _snapshots(self, context: LoopContext) -> None:
        """Equity at the start and at every full minute, midnight included."""
        due = datetime.now(UTC)
        while not context.stopping:
            context.beat()
            if (now := datetime.now(UTC)) >= due:
                for account in self._settings.accounts:
                    await self._take_snapshot(account, now)
                due = _next_minute(now)
            await context.sleep(min(1.0, max(0.01, (due - datetime.now(UTC)).total_seconds())))

    async def _take_snapshot(self, account: AccountSettings, now: datetime) -> None:
        try:
            snapshot = await self.snapshot(account, now)
        except _NO_PRICES as reason:
            log.warning("no equity snapshot", extra={"account": account.id, "reason": str(reason)})
            return
        await self._store.save_snapshot(account.id, snapshot)
        PNL.labels(account.id).set(float(money.add(snapshot.realised, snapshot.unrealised, -snapshot.fees)))
        MAX_DRAWDOWN.labels(account.id).set(float(snapshot.max_drawdown))
        with contextlib.suppress(Unvaluable):
            today = await self.daily(account, now.date())
            WIN_RATE.labels(account.id).set(float(today.win_rate))
            SHARPE.labels(account.id).set(float(today.sharpe_ratio))

    # --- figures ------------------------------------------------------------------------------------------------------

    async def snapshot(self, account: AccountSettings, now: datetime) -> Snapshot:
        """Equity now, to the minute. Raises Unvaluable."""
        capital = Decimal(0)
        for currency, amount in await self._store.capital(account.id):
            capital = money.add(capital, money.multiply(amount, self._rate(currency, account)))
        valued = await self._value(account)
        before = await self._store.newest_snapshot(account.id)
        minute = now.replace(second=0, microsecond=0)
        return next_snapshot(minute, capital, valued.realised, valued.unrealised, valued.fees, valued.exposure, before)

    async def positions(self) -> list[dict[str, Any]]:
        """Every position that is not flat; prices None where the market has none."""
        catalogue = await self.catalogue()
        documents = []
        for account in self._settings.accounts:
            held = await self._store.positions(account.id)
            marks = await self._marks([catalogue.id(key).symbol for key in held])
            for instrument_id, (position, updated_at) in held.items():
                if position.quantity == 0:
                    continue
                instrument = catalogue.id(instrument_id)
                mark = marks.get(instrument.symbol)
                documents.append(
                    {
                        "account": account.id,
                        "symbol": instrument.symbol,
                        "side": "long" if position.quantity > 0 else "short",
                        "quantity": position.quantity,
                        "average_price": position.average_price,
                        "mark_price": mark,
                        "notional": None if mark is None else abs(instrument.notional(position.quantity, mark)),
                        "unrealised_pnl": None if mark is None else positions.unrealised(position, instrument, mark),
                        "realised_pnl": position.realised_pnl,
                        "fees": position.fees,
                        "currency": instrument.quote_currency,
                        "updated_at": updated_at,
                    }
                )
        return documents

    async def daily(self, account: AccountSettings, day: date) -> Daily:
        """Figures of one UTC day. Raises Unvaluable where a currency has no rate."""
        start, end = performance.day_bounds(day)
        rows = await self._store.day_results(account.id, start, end)
        trades = [
            TradeResult(closed, realised, fee, value, self._rate(currency, account)) for closed, realised, fee, value, currency in rows
        ]
        closing = await self._store.closing_equity(account.id, day - timedelta(days=performance.SHARPE_DAYS), day)
        return performance.daily(trades, closing)

    async def _value(self, account: AccountSettings) -> Valued:
        catalogue = await self.catalogue()
        held = await self._store.positions(account.id)
        marks = await self._marks([catalogue.id(key).symbol for key, (position, _) in held.items() if position.quantity != 0])
        realised = unrealised = fees = exposure = Decimal(0)
        for instrument_id, (position, _) in held.items():
            instrument = catalogue.id(instrument_id)
            rate = self._rate(instrument.quote_currency, account)
            realised = money.add(realised, money.multiply(position.realised_pnl, rate))
            fees = money.add(fees, money.multiply(position.fees, rate))
            if position.quantity == 0:
                continue
            mark = marks.get(instrument.symbol)
            if mark is None:
                raise Unvaluable(f"no price of {instrument.symbol}")
            unrealised = money.add(unrealised, money.multiply(positions.unrealised(position, instrument, mark), rate))
            exposure = money.add(exposure, money.multiply(abs(instrument.notional(position.quantity, mark)), rate))
        return Valued(realised, unrealised, fees, exposure)

    async def _marks(self, symbols: list[str]) -> dict[str, Decimal]:
        catalogue = await self.catalogue()
        quotes = await self._bus.quotes(symbols) if symbols else {}
        return {symbol: catalogue.symbol(symbol).price(mark) for symbol, quote in quotes.items() if (mark := quote.mark)}

    def _rate(self, currency: str, account: AccountSettings) -> Decimal:
        rate = self._settings.conversion_rate(currency, account.currency)
        if rate is None:
            raise Unvaluable(f"no conversion rate of {currency} into {account.currency}; add it to conversion_rates")
        return rate


def _next_minute(now: datetime) -> datetime:
    return now.replace(second=0, microsecond=0) + timedelta(seconds=SNAPSHOT_EVERY_S)
