"""The projection's loop, equity snapshots, and the figures of positions, days and longer spans."""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from prometheus_client import Counter, Gauge

from trading_platform import accounts, bus, messages, money
from trading_platform.bus import Bus
from trading_platform.config import AccountSettings, Settings
from trading_platform.db import Database
from trading_platform.domain import performance, positions
from trading_platform.domain.performance import By, Daily, Equity, FillTotals, Outcome, ReturnFigures, TripFigures
from trading_platform.domain.positions import Position
from trading_platform.portfolio.projection import amounts
from trading_platform.portfolio.store import PortfolioStore, Rates, Snapshot, TooMuch, TripRow, UnknownRate, next_snapshot
from trading_platform.service import LoopContext, together

log = logging.getLogger(__name__)

PROJECTED = Counter("smc_trading_fills_projected_total", "Fills taken into ledger and positions", ["account"])
BEHIND = Gauge("smc_trading_projection_lag_fills", "Fills not yet in ledger and positions", ["account"])
LAG = Gauge("smc_trading_projection_lag_seconds", "From recording to booking, of the newest fill booked", ["account"])
TURNED = Counter("smc_trading_hedge_books_turned_total", "Times a long or short book was closed by more than it held", ["account"])
IMBALANCE = Gauge("smc_trading_ledger_imbalance_currencies", "Currencies whose books do not sum to zero")
PNL = Gauge("smc_trading_pnl", "Realised and unrealised result less fees, since the account was opened", ["account"])
WIN_RATE = Gauge("smc_trading_win_rate_ratio", "Share of closing fills with a gain, today (UTC)", ["account"])
SHARPE = Gauge("smc_trading_sharpe_ratio", "Annualised Sharpe ratio of up to 30 daily returns", ["account"])
SORTINO = Gauge("smc_trading_sortino_ratio", "Annualised Sortino ratio of up to 30 daily returns, NaN while unknown", ["account"])
MAX_DRAWDOWN = Gauge("smc_trading_max_drawdown_ratio", "Deepest fall from the highest equity", ["account"])
PROFIT_FACTOR = Gauge("smc_trading_profit_factor", "Gross profit by gross loss, today's round trips (UTC), NaN without loss", ["account"])
DURATION = Gauge("smc_trading_trade_duration_seconds", "Average length of today's round trips (UTC), NaN without any", ["account"])
VOLUME = Gauge("smc_trading_volume", "Value of today's fills (UTC), in the account's currency", ["account"])
SLIPPAGE = Gauge("smc_trading_slippage_bps", "What today's fills (UTC) cost beyond the price decided on, NaN while unknown", ["account"])

SNAPSHOT_EVERY_S = 60
MAX_CURVE_POINTS = 5_000

_NAN = float("nan")


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


@dataclass(frozen=True, slots=True)
class Span:
    """Everything there is to say about the days from `first` to before `end`."""

    first: date
    end: date
    totals: FillTotals
    trips: TripFigures | None
    returns: ReturnFigures

    def document(self) -> dict[str, Any]:
        """Flat; what cannot be known is absent."""
        document: dict[str, Any] = {
            "from": self.first.isoformat(),
            "to": (self.end - timedelta(days=1)).isoformat(),
            "total_pnl": money.subtract(self.totals.realised_pnl, self.totals.fees),
            **{name: getattr(self.totals, name) for name in ("fills", "closing_fills", "realised_pnl", "fees", "volume")},
        }
        if self.totals.slippage_bps is not None:
            document |= {"slippage": self.totals.slippage, "slippage_bps": self.totals.slippage_bps}
        return document | known(self.trips) | known(self.returns)


def known(figures: TripFigures | ReturnFigures | None) -> dict[str, Any]:
    """The figures that are not None."""
    return {} if figures is None else {name: value for name in figures.__slots__ if (value := getattr(figures, name)) is not None}


class Portfolio:
    """Everything the fills add up to."""

    def __init__(self, database: Database, stream: Bus, settings: Settings) -> None:
        self._db = database
        self._bus = stream
        self._settings = settings
        self._store = PortfolioStore(database)

    # --- loops --------------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Open accounts, then project fills and take snapshots; for Service.loop with a lease."""
        await accounts.ensure(self._db, self._settings)
        for account in self._settings.accounts:
            if await self._store.open_account(account):
                opened = {currency: money.text(amount) for currency, amount in account.opening_balances.items()}
                log.info("account opened", extra={"account": account.id, "opening_balances": opened})
        await together(context, projection=self._projecting, snapshots=self._snapshots)

    async def _projecting(self, context: LoopContext) -> None:
        """Project whenever the bus says there is something; look by ourselves each second, as the bus may be away."""
        tail = self._bus.tail(messages.ORDER_EVENTS)
        while not context.stopping:
            context.beat()
            behind = self._settings.accounts
            while behind and not context.stopping:  # a batch of each in turn: a busy account does not keep the others waiting
                behind = [account for account in behind if await self._project(context, account)]
            try:
                await tail.read(block_ms=1000)
            except bus.TRANSIENT:
                await context.sleep(1.0)

    async def _project(self, context: LoopContext, account: AccountSettings) -> bool:
        """Take one batch of an account's fills into the books; whether there were any."""
        context.lease.assert_held()
        done = await self._store.project(account.id)
        context.beat()
        BEHIND.labels(account.id).set(0 if done.newest is None else await self._store.unprojected(account.id))
        if done.newest is None:
            return False
        PROJECTED.labels(account.id).inc(done.fills)
        LAG.labels(account.id).set(max(0.0, (datetime.now(UTC) - done.newest).total_seconds()))
        for symbol, side in done.turned:
            TURNED.labels(account.id).inc()
            log.error("a hedging book was closed by more than it held", extra={"account": account.id, "symbol": symbol, "side": side})
        return True

    async def _snapshots(self, context: LoopContext) -> None:
        """Equity at the start and at every full minute, midnight included."""
        due = datetime.now(UTC)
        while not context.stopping:
            context.beat()
            if (now := datetime.now(UTC)) >= due:
                for account in self._settings.accounts:
                    await self._take_snapshot(account, now)
                await self._check_ledger()
                due = _next_minute(now)
            await context.sleep(min(1.0, max(0.01, (due - datetime.now(UTC)).total_seconds())))

    async def _take_snapshot(self, account: AccountSettings, now: datetime) -> None:
        with contextlib.suppress(Unvaluable):
            await self._show_today(account, now)
        try:
            snapshot = await self.snapshot(account, now)
        except _NO_PRICES as reason:
            log.warning("no equity snapshot", extra={"account": account.id, "reason": str(reason)})
            return
        await self._store.save_snapshot(account.id, snapshot)
        PNL.labels(account.id).set(float(money.subtract(snapshot.equity, snapshot.capital)))
        MAX_DRAWDOWN.labels(account.id).set(float(snapshot.max_drawdown))

    async def _show_today(self, account: AccountSettings, now: datetime) -> None:
        figures, span = await self.daily(account, now.date())
        WIN_RATE.labels(account.id).set(float(figures.win_rate))
        SHARPE.labels(account.id).set(float(figures.sharpe_ratio))
        VOLUME.labels(account.id).set(float(figures.volume))
        for gauge, value in (
            (SORTINO, span.returns.sortino_ratio), (PROFIT_FACTOR, None if span.trips is None else span.trips.profit_factor),
            (DURATION, None if span.trips is None else span.trips.average_duration_seconds), (SLIPPAGE, span.totals.slippage_bps),
        ):  # fmt: skip
            gauge.labels(account.id).set(_NAN if value is None else float(value))

    async def _check_ledger(self) -> None:
        wrong = {currency: money.text(total) for currency, total in await self._store.ledger_totals() if total != 0}
        IMBALANCE.set(len(wrong))
        if wrong:
            log.error("the ledger does not balance", extra={"totals": wrong})

    # --- what is there ------------------------------------------------------------------------------------------------

    async def snapshot(self, account: AccountSettings, now: datetime) -> Snapshot:
        """Equity now, to the minute. Raises Unvaluable."""
        capital, carry = [await self._paid(account, book) for book in ("capital", "carry")]
        valued = await self._value(account)
        return next_snapshot(
            now.replace(second=0, microsecond=0),
            capital=capital,
            realised=valued.realised,
            unrealised=valued.unrealised,
            fees=valued.fees,
            carry=carry,
            exposure=valued.exposure,
            before=await self._store.newest_snapshot(account.id),
        )

    async def positions(self, account_id: str | None = None) -> list[dict[str, Any]]:
        """Every position that is not flat; prices None where the market has none."""
        catalogue = await self._store.catalogue()
        documents = []
        for account in self._settings.accounts:
            if account_id not in (None, account.id):
                continue
            held = {key: found for key, found in (await self._store.positions(account.id)).items() if found[0].quantity != 0}
            marks = await self._marks([catalogue.id(instrument_id).symbol for instrument_id, _ in held])
            for (instrument_id, position_side), (position, updated_at) in held.items():
                instrument = catalogue.id(instrument_id)
                mark = marks.get(instrument.symbol)
                fees, unvalued = self._fees(position, instrument.quote_currency)
                document: dict[str, Any] = {
                    "account": account.id,
                    "symbol": instrument.symbol,
                    "side": "long" if position.quantity > 0 else "short",
                    "position_side": position_side,
                    "quantity": position.quantity,
                    "average_price": position.average_price,
                    "mark_price": mark,
                    "notional": None if mark is None else instrument.notional(position.quantity, mark).copy_abs(),
                    "unrealised_pnl": None if mark is None else positions.unrealised(position, instrument, mark),
                    "realised_pnl": position.realised_pnl,
                    "fees": fees,
                    "currency": instrument.quote_currency,
                    "updated_at": updated_at,
                }
                if unvalued:
                    document["unvalued_fees"] = unvalued
                documents.append(document)
        return documents

    async def round_trips(self, account: AccountSettings, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Closed round trips, newest first; money in the instrument's quote currency."""
        documents = []
        for row in await self._store.round_trips(account.id, limit, before):
            names = (
                "symbol", "position_side", "direction", "opened_seq", "closed_seq", "opened_at", "closed_at", "peak_quantity", "volume",
                "realised_pnl", "fees", "fills", "currency",
            )  # fmt: skip
            documents.append({"account": row.account_id, **{name: getattr(row, name) for name in names}})
            if row.other_fees:
                documents[-1]["other_fees"] = row.other_fees
        return documents

    # --- figures ------------------------------------------------------------------------------------------------------

    async def daily(self, account: AccountSettings, day: date) -> tuple[Daily, Span]:
        """Figures of one UTC day; returns are of up to SHARPE_DAYS days that end with it. A day of more round trips than can be looked
        at one by one has no figures of them. Raises Unvaluable."""
        bounds = list(performance.day_bounds(day))
        [totals] = await self._totals(account, bounds)
        try:
            [outcomes] = await self._outcomes(account, bounds)
            trips = performance.trip_figures(outcomes)
        except TooMuch as reason:
            log.warning("no figures of round trips", extra={"account": account.id, "day": day.isoformat(), "reason": str(reason)})
            trips = None
        closing = await self._closing(account, bounds[0] - timedelta(days=performance.SHARPE_DAYS), bounds[1])
        returns = performance.return_figures(closing, await self._curve(account, bounds))
        return performance.daily(totals, returns), Span(day, day + timedelta(days=1), totals, trips, returns)

    async def summary(self, account: AccountSettings, first: date, last: date) -> Span:
        """Figures of a span of UTC days, both included. Raises Unvaluable, TooMuch."""
        bounds = [performance.midnight(first), performance.midnight(last + timedelta(days=1))]
        [totals] = await self._totals(account, bounds)
        [trips] = await self._outcomes(account, bounds)
        closing = await self._closing(account, bounds[0] - timedelta(days=1), bounds[1])
        returns = performance.return_figures(closing, await self._curve(account, bounds))
        return Span(first, last + timedelta(days=1), totals, performance.trip_figures(trips), returns)

    async def periods(self, account: AccountSettings, by: By, first: date, last: date) -> list[Span]:
        """Figures of each day, ISO week or month with a day in [first, last], oldest first. Raises Unvaluable, TooMuch."""
        spans = list(performance.periods(by, first, last))
        bounds = [performance.midnight(spans[0][0]), *(performance.midnight(end) for _, end in spans)]
        totals = await self._totals(account, bounds)
        trips = await self._outcomes(account, bounds)
        closing = await self._closing(account, bounds[0] - timedelta(days=1), bounds[-1])
        figures = []
        for number, (begin, end) in enumerate(spans):
            # The day before the period is where its first return begins.
            start, stop = bounds[number] - timedelta(days=1), bounds[number + 1]
            series = [point for point in closing if start <= point.at < stop]
            returns = performance.return_figures(series, series)
            figures.append(Span(begin, end, totals[number], performance.trip_figures(trips[number]), returns))
        return figures

    async def curve(self, account: AccountSettings, start: datetime, end: datetime, step_s: int) -> list[Snapshot]:
        """The equity curve: the last snapshot of each step."""
        return await self._store.curve(account.id, start, end, step_s)

    async def _totals(self, account: AccountSettings, bounds: list[datetime]) -> list[FillTotals]:
        try:
            return await self._store.fill_totals(account.id, bounds, self._rates(account))
        except UnknownRate as unknown:
            raise _no_rate(str(unknown), account.currency) from None

    async def _outcomes(self, account: AccountSettings, bounds: list[datetime]) -> list[list[Outcome]]:
        rates = self._rates(account)
        outcomes: list[list[Outcome]] = [[] for _ in bounds[1:]]
        for row in await self._store.closed_trips(account.id, bounds[0], bounds[-1]):
            assert row.closed_at is not None, "closed round trips have an end"
            outcomes[bisect_right(bounds, row.closed_at) - 1].append(_outcome(row, row.closed_at, rates, account))
        return outcomes

    async def _closing(self, account: AccountSettings, start: datetime, end: datetime) -> list[Equity]:
        """Equity at the end of each day."""
        return [_equity(each) for each in await self._store.curve(account.id, start, end, 86_400)]

    async def _curve(self, account: AccountSettings, bounds: list[datetime]) -> list[Equity]:
        """As fine as a bounded number of points allows: what drawdowns are measured on."""
        seconds = int((bounds[1] - bounds[0]).total_seconds())
        step = max(SNAPSHOT_EVERY_S, -(-seconds // MAX_CURVE_POINTS))
        return [_equity(each) for each in await self._store.curve(account.id, bounds[0], bounds[1], step)]

    # --- values -------------------------------------------------------------------------------------------------------

    async def _paid(self, account: AccountSettings, book: str) -> Decimal:
        """What one of the ledger's books received from outside, in the account's currency."""
        rates = self._rates(account)
        total = Decimal(0)
        for currency, amount in await self._store.balances(account.id, book):
            if amount != 0:
                total = money.subtract(total, _converted(amount, currency, rates, account))
        return total

    async def _value(self, account: AccountSettings) -> Valued:
        catalogue = await self._store.catalogue()
        held = await self._store.positions(account.id)
        marks = await self._marks([catalogue.id(key).symbol for (key, _), (position, _) in held.items() if position.quantity != 0])
        rates = self._rates(account)
        realised = unrealised = fees = exposure = Decimal(0)
        for (instrument_id, _), (position, _) in held.items():
            instrument = catalogue.id(instrument_id)
            currency = instrument.quote_currency
            realised = money.add(realised, _converted(position.realised_pnl, currency, rates, account))
            fees = money.add(fees, _cost(position.fees, currency, position.other_fees, rates, account))
            if position.quantity == 0:
                continue
            mark = marks.get(instrument.symbol)
            if mark is None:
                raise Unvaluable(f"no price of {instrument.symbol}")
            unrealised = money.add(unrealised, _converted(positions.unrealised(position, instrument, mark), currency, rates, account))
            value = instrument.notional(position.quantity, mark).copy_abs()
            exposure = money.add(exposure, _converted(value, currency, rates, account))
        return Valued(realised, unrealised, fees, exposure)

    def _fees(self, position: Position, quote_currency: str) -> tuple[Decimal, dict[str, Decimal]]:
        """(in the quote currency, what has no rate into it by currency)."""
        fees, unvalued = position.fees, {}
        for currency, amount in position.other_fees:
            rate = self._settings.conversion_rate(currency, quote_currency)
            if rate is None:
                unvalued[currency] = amount
            else:
                fees = money.add(fees, money.multiply(amount, rate))
        return fees, unvalued

    async def _marks(self, symbols: list[str]) -> dict[str, Decimal]:
        catalogue = await self._store.catalogue()
        quotes = await self._bus.quotes(symbols) if symbols else {}
        return {symbol: catalogue.symbol(symbol).price(mark) for symbol, quote in quotes.items() if (mark := quote.mark)}

    def _rates(self, account: AccountSettings) -> dict[str, Decimal]:
        """Every currency that has a rate into the account's."""
        pairs = (pair.partition(":")[::2] for pair in self._settings.conversion_rates)
        found = {source: self._settings.conversion_rates[f"{source}:{target}"] for source, target in pairs if target == account.currency}
        return {**found, account.currency: Decimal(1)}


def _converted(amount: Decimal, currency: str, rates: Rates, account: AccountSettings) -> Decimal:
    if currency not in rates:
        raise _no_rate(currency, account.currency)
    return money.multiply(amount, rates[currency])


def _cost(fees: Decimal, currency: str, others: tuple[tuple[str, Decimal], ...], rates: Rates, account: AccountSettings) -> Decimal:
    """Fees of all currencies, in the account's."""
    return money.add(
        _converted(fees, currency, rates, account), *(_converted(amount, name, rates, account) for name, amount in others if amount != 0)
    )


def _outcome(row: TripRow, closed_at: datetime, rates: Rates, account: AccountSettings) -> Outcome:
    cost = _cost(row.fees, row.currency, amounts(row.other_fees), rates, account)
    result = money.subtract(_converted(row.realised_pnl, row.currency, rates, account), cost)
    return Outcome(result, closed_at - row.opened_at)


def _equity(snapshot: Snapshot) -> Equity:
    return Equity(snapshot.at, snapshot.equity, snapshot.capital)


def _no_rate(currency: str, target: str) -> Unvaluable:
    return Unvaluable(f"no conversion rate of {currency} into {target}; add it to conversion_rates")


def _next_minute(now: datetime) -> datetime:
    return now.replace(second=0, microsecond=0) + timedelta(seconds=SNAPSHOT_EVERY_S)
