"""Watching what is at stake. The leader publishes figures every second, and its breakers tighten trading when a limit is crossed.

Orders are judged where they are sent from (domain/risk.py); here is what only somebody who looks at all accounts and back in time
can tell: where the periods began, the highest equity, value at risk, the other accounts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from trading_platform import accounts, bus, money
from trading_platform.config import AccountSettings, Settings
from trading_platform.domain import figures as figures_module
from trading_platform.domain import var
from trading_platform.domain.figures import Baseline, Elsewhere, Figures, Holding, PublishedFigures, Unknown
from trading_platform.domain.orders import Event, EventType, Intent, Order, advance, initialize
from trading_platform.domain.positions import Position
from trading_platform.domain.risk import AccountRisk, Decision, Limits, Measure, Standing, measures
from trading_platform.domain.trading_state import PLATFORM
from trading_platform.domain.var import Returns, ValueAtRisk
from trading_platform.instruments import Instrument
from trading_platform.messages import Quote
from trading_platform.risk import metrics
from trading_platform.risk.store import Breach, FigureRow, Key, RiskStore
from trading_platform.service import LoopContext
from trading_platform.trading_states import TradingStates

log = logging.getLogger(__name__)

SHOW_EVERY_S: Final = 5.0
RETURNS_EVERY_S: Final = 60.0
STOPS_WITHIN: Final = timedelta(hours=24)

ZERO: Final = Decimal(0)

# Limits whose crossing puts the account (of the portfolio: everyone) on `reducing`. The others only refuse orders: a price can carry
# a position over them, and then nothing more is added.
BREAKERS: Final = frozenset(
    {"max_daily_loss", "max_weekly_loss", "max_monthly_loss", "max_drawdown", "max_consecutive_losses", "max_reject_share", "max_var"}
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One account at one moment. `reasons` say which figures are unknown, and why; `notes` what rests on assumptions."""

    account: AccountSettings
    risk: AccountRisk
    figures: Figures | None
    baseline: Baseline | None
    values: Mapping[str, Decimal]  # of positions, signed, by symbol
    at_risk: ValueAtRisk | None
    reject_share: Decimal
    consecutive_losses: int
    reasons: tuple[str, ...]


class Risk:
    """`clock` gives the present, UTC."""

    def __init__(self, store: RiskStore, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._states = TradingStates(store.database)
        self._returns: dict[str, Returns | None] = {}
        self._loss_rates: dict[str, Decimal] = {}
        self._returns_due = 0.0
        self._warned: set[tuple[str, str]] = set()

    # --- asking -------------------------------------------------------------------------------------------------------

    async def check(self, account: AccountSettings, intents: Sequence[Intent]) -> list[Decision]:
        """What would be decided about orders of one account, each after those accepted before it. Nothing is reserved."""
        now = self._clock()
        judge = await self.judge(account, [intent.symbol for intent in intents])
        state = await self._states.effective(account.id)
        decisions = []
        for intent in intents:
            decision = judge.check(intent, now, state)
            if decision.accepted:
                judge.on_open(_as_if_sent(intent, now))
            decisions.append(decision)
        return decisions

    async def judge(self, account: AccountSettings, symbols: Sequence[str] = ()) -> AccountRisk:
        """The account's risk as its engine holds it, made from what is committed and published."""
        row = await self._store.figure_row(account.id)
        judge = await self._judge(account, await self._store.positions(account.id), symbols)
        judge.set_limits(await self._store.limits(account.id), await self._store.limits(PLATFORM))
        judge.set_figures(None if row is None else row.figures)
        return judge

    async def figures(self, account: AccountSettings) -> Figures:
        """Where the account stands now. Raises Unknown."""
        now = self._clock()
        held = await self._store.positions(account.id)
        holdings = await self._holdings(account, held, await self._quotes(held), now)
        return figures_module.compute(holdings, await self._baseline(account, now, await self._store.figure_row(account.id)))

    async def usage(self, account_id: str) -> tuple[Limits, list[Measure]] | None:
        """Each limit that is set beside what is used of it; None while there are no limits. "*" is the portfolio."""
        limits = await self._store.limits(account_id)
        if limits is None:
            return None
        if account_id == PLATFORM:
            row = await self.published(PLATFORM)
            standing = _unknown() if row is None else _standing_of(row)
            return limits, list(measures(limits, standing, by_position=False))
        account = self._settings.account(account_id)
        assert account is not None, "callers know the account"
        judge = await self.judge(account)
        row = await self.published(account_id)
        if row is None:
            judge.set_figures(None)
        standing = replace(judge.standing(self._clock()), reject_share=ZERO if row is None else row.reject_share)
        used = Decimal(judge.orders_last_minute(self._clock()))
        rate = Measure("max_orders_per_minute", used, Decimal(limits.max_orders_per_minute), reached=True)
        return limits, [rate, *measures(limits, standing)]

    async def published(self, account_id: str) -> FigureRow | None:
        """The row of an account, or of "*"; None where there is none that still counts."""
        row = await self._store.figure_row(account_id)
        return None if row is None or self._is_old(row) else row

    def _is_old(self, row: FigureRow) -> bool:
        return (self._clock() - row.computed_at).total_seconds() > self._settings.risk.figures_max_age_s

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, context: LoopContext) -> None:
        """Figures of every account and of all together, and the breakers; for Service.loop with a lease."""
        await accounts.ensure(self._store.database, self._settings)
        await self._store.ensure_limits(self._settings.risk)
        self._returns_due = 0.0
        while not context.stopping:
            begun = time.monotonic()
            context.beat()
            await self.publish_once(context)
            await context.sleep(max(0.0, begun + self._settings.risk.figures_every_s - time.monotonic()))

    async def publish_once(self, context: LoopContext) -> None:
        """One look at everything."""
        now = self._clock()
        before = await self._store.figure_rows()
        await self._refresh_returns()
        held = {account.id: await self._store.positions(account.id) for account in self._settings.accounts}
        seen = [await self._look(account, held[account.id], now, before.get(account.id)) for account in self._settings.accounts]
        whole = self._portfolio(seen, now, before.get(PLATFORM))
        rows, breaches = [], []
        for each in seen:
            published = self._published(each, seen, whole, now)
            each.risk.set_figures(published)
            row = _row(each, published)
            standing = replace(each.risk.standing(now), reject_share=each.reject_share)
            broken = await self._broken(each.account.id, standing, row, before.get(each.account.id))
            rows.append(replace(row, breached=broken[0]))
            breaches += broken[1]
        broken = await self._broken(PLATFORM, _standing_of(whole), whole, before.get(PLATFORM))
        rows.append(replace(whole, breached=broken[0]))
        await self._store.publish(context.lease, rows, [*breaches, *broken[1]])

    async def _look(self, account: AccountSettings, held: dict[Key, Position], now: datetime, before: FigureRow | None) -> Seen:
        """What is known of one account by itself."""
        quotes = await self._quotes(held)
        risk = await self._judge(account, held)
        limits = await self._store.limits(account.id)
        risk.set_limits(limits, None)
        reasons: list[str] = []
        figures: Figures | None = None
        baseline: Baseline | None = None
        at_risk: ValueAtRisk | None = None
        holdings = await self._holdings(account, held, quotes, now)
        values = _signed_values(holdings)
        try:
            baseline = await self._baseline(account, now, before)
            figures = figures_module.compute(holdings, baseline)
            if old := _outdated(holdings, limits):
                raise Unknown(f"the price of {', '.join(old)} is too old")
        except Unknown as reason:
            reasons.append(str(reason))
            metrics.UNKNOWN.labels(account.id).inc()
        if values is not None:
            catalogue = await self._store.catalogue()
            at_risk = var.value_at_risk(values, self._returns, {symbol: catalogue.symbol(symbol).kind for symbol in values})
        since = await self._store.running_since(account.id)
        return Seen(
            account=account,
            risk=risk,
            figures=figures,
            baseline=baseline,
            values=values or {},
            at_risk=at_risk,
            reject_share=await self._store.reject_share(account.id, since, now),
            consecutive_losses=await self._store.consecutive_losses(account.id, since),
            reasons=tuple(reasons),
        )

    def _published(self, of: Seen, everyone: Sequence[Seen], whole: FigureRow, now: datetime) -> PublishedFigures:
        baseline = of.baseline
        return PublishedFigures(
            computed_at=now,
            capital=None if baseline is None else money.add(baseline.capital, baseline.carry),
            equity_day=None if baseline is None else baseline.equity_day,
            equity_week=None if baseline is None else baseline.equity_week,
            equity_month=None if baseline is None else baseline.equity_month,
            peak_equity=of.figures.peak_equity if of.figures and not of.reasons else (baseline.peak_equity if baseline else None),
            consecutive_losses=of.consecutive_losses,
            value_at_risk=None if of.at_risk is None else of.at_risk.var_95,
            values={symbol: value.copy_abs() for symbol, value in of.values.items()},
            loss_rates=self._loss_rates,
            elsewhere=self._elsewhere(of, everyone, whole),
            reasons=of.reasons,
        )

    def _elsewhere(self, of: Seen, everyone: Sequence[Seen], whole: FigureRow) -> Elsewhere:
        others = [each for each in everyone if each is not of]
        return Elsewhere(
            rate=self._rate(of.account),
            exposure=self._sum([(each.account, each.risk.exposure) for each in others]),
            equity=self._sum([(each.account, _equity(each)) for each in others]),
            equity_day=whole.equity_day,
            equity_week=whole.equity_week,
            equity_month=whole.equity_month,
            peak_equity=whole.peak_equity,
            value_at_risk=self._sum([(each.account, each.at_risk.var_95 if each.at_risk else None) for each in others]),
        )

    def _portfolio(self, seen: Sequence[Seen], now: datetime, before: FigureRow | None) -> FigureRow:
        """All accounts together, in the portfolio's currency. Its highest equity is kept from one row to the next."""

        def total(of: Callable[[Seen], Decimal | None]) -> Decimal | None:
            return self._sum([(each.account, of(each)) for each in seen])

        def base(name: str) -> Decimal | None:
            return total(lambda each: None if each.baseline is None else getattr(each.baseline, name))

        def result(name: str) -> Decimal | None:
            return total(lambda each: None if each.figures is None else getattr(each.figures, name))

        def at_risk(name: str) -> Decimal | None:
            return total(lambda each: None if each.at_risk is None else getattr(each.at_risk, name))

        capital, carry, equity = base("capital"), base("carry"), total(_equity)
        peak = None if before is None else before.peak_equity
        if peak is not None and before is not None and before.capital is not None and capital is not None:
            peak = money.add(peak, capital, before.capital.copy_negate())
        if equity is not None:
            peak = max(each for each in (peak if peak is not None else capital, equity) if each is not None)
        fallen = None if equity is None or peak is None or peak <= 0 else money.divide(money.subtract(peak, equity), peak, 8)
        known = [each for each in (before.max_drawdown if before else None, fallen) if each is not None]
        reasons = [f"{each.account.id}: {reason}" for each in seen for reason in each.reasons]
        reasons += [f"no rate of {each.account.currency} into the portfolio's" for each in seen if self._rate(each.account) is None]
        published = PublishedFigures(
            computed_at=now,
            capital=None if capital is None or carry is None else money.add(capital, carry),
            equity_day=base("equity_day"),
            equity_week=base("equity_week"),
            equity_month=base("equity_month"),
            peak_equity=peak,
            consecutive_losses=None,
            value_at_risk=at_risk("var_95"),
            values={},
            loss_rates={},
            reasons=tuple(reasons),
        )
        return FigureRow(
            account_id=PLATFORM,
            computed_at=now,
            currency=self._settings.risk.portfolio_currency,
            capital=capital,
            carry=carry,
            equity=equity,
            exposure=total(lambda each: each.risk.exposure),
            realised=result("realised_pnl"),
            unrealised=result("unrealised_pnl"),
            fees=result("fees"),
            equity_day=published.equity_day,
            equity_week=published.equity_week,
            equity_month=published.equity_month,
            peak_equity=peak,
            max_drawdown=max(known, default=None),
            consecutive_losses=None,
            reject_share=ZERO,
            var_95=published.value_at_risk,
            var_99=at_risk("var_99"),
            expected_shortfall=at_risk("expected_shortfall"),
            breached=[],
            reasons=reasons,
            published=published.to_data(),
        )

    def _rate(self, account: AccountSettings) -> Decimal | None:
        return self._settings.conversion_rate(account.currency, self._settings.risk.portfolio_currency)

    def _sum(self, parts: Sequence[tuple[AccountSettings, Decimal | None]]) -> Decimal | None:
        """In the portfolio's currency; None where a part or its rate is unknown."""
        total = ZERO
        for account, value in parts:
            rate = self._rate(account)
            if value is None or rate is None:
                return None
            total = money.add(total, money.multiply(value, rate))
        return total

    # --- breakers -----------------------------------------------------------------------------------------------------

    async def _broken(
        self, account_id: str, standing: Standing, row: FigureRow, before: FigureRow | None
    ) -> tuple[list[str], list[Breach]]:
        """The breakers' limits that are crossed now, and those that were not before. Trading is tightened first: should this be cut
        short, the crossing is found again."""
        limits = await self._store.limits(account_id)
        if limits is None:
            return [], []
        found = list(measures(limits, standing, by_position=account_id != PLATFORM))
        self._warn(account_id, found)
        crossed = [each for each in found if each.limit in BREAKERS and each.used is not None and each.broken]
        # What cannot be judged now stays crossed: it is no new crossing when it is known again.
        unknown = {each.limit for each in found if each.used is None}
        already = set(before.breached) if before else set()
        breaches = []
        for measure in crossed:
            if measure.limit in already:
                continue
            assert measure.used is not None, "an unknown measure is not crossed"
            used, allowed = money.text(money.round_money(measure.used, 6)), money.text(money.round_money(measure.allowed, 6))
            reason = f"{measure.limit}: {used} of {allowed} (limits version {limits.version})"
            change = await self._states.tighten(account_id, "reducing", reason, "risk")
            metrics.BREACHES.labels(account_id, measure.limit).inc()
            log.error("a risk limit is crossed", extra={"account": account_id, "limit": measure.limit, "reason": reason})
            detail: dict[str, Any] = {"used": used, "allowed": allowed, "limits_version": limits.version, "state": change.state}
            detail["equity"] = None if row.equity is None else money.text(row.equity)
            breaches.append(Breach(account_id, measure.limit, detail))
        return sorted({each.limit for each in crossed} | (already & unknown)), breaches

    def _warn(self, account_id: str, found: Sequence[Measure]) -> None:
        """Say once when a limit's usage has risen to the warning level."""
        for measure in found:
            name = (account_id, measure.limit)
            level = money.multiply(measure.allowed, self._settings.risk.warn_at)
            if measure.used is None:
                continue
            if measure.used <= 0 or measure.used < level:
                self._warned.discard(name)
            elif name not in self._warned:
                self._warned.add(name)
                metrics.WARNINGS.labels(account_id, measure.limit).inc()
                used, allowed = (money.text(money.round_money(each, 2)) for each in (measure.used, measure.allowed))
                log.warning(
                    "a risk limit is nearly used", extra={"account": account_id, "limit": measure.limit, "used": used, "of": allowed}
                )

    # --- showing ------------------------------------------------------------------------------------------------------

    async def show(self, context: LoopContext) -> None:
        """Keep the gauges of this host current; for Service.loop."""
        while not context.stopping:
            context.beat()
            now = self._clock()
            for row in (await self._store.figure_rows()).values():
                metrics.show(row, (now - row.computed_at).total_seconds())
            for account_id in (*(account.id for account in self._settings.accounts), PLATFORM):
                if (found := await self.usage(account_id)) is not None:
                    metrics.show_usage(account_id, found[1])
            for account in self._settings.accounts:
                metrics.show_stops(account.id, *await self._store.stops_hit(account.id, now - STOPS_WITHIN))
            await context.sleep(SHOW_EVERY_S)

    # --- facts --------------------------------------------------------------------------------------------------------

    async def _judge(self, account: AccountSettings, held: Mapping[Key, Position], symbols: Sequence[str] = ()) -> AccountRisk:
        """Positions, open orders, and the prices of both and of these symbols."""
        catalogue = await self._store.catalogue()
        orders = await self._store.open_orders(account.id)
        quotes = await self._quotes(held, symbols, [order.intent.symbol for order in orders])
        judge = AccountRisk(
            account.id,
            account.currency,
            self._settings.conversion_rate,
            catalogue,
            account.position_mode,
            figures_max_age_s=self._settings.risk.figures_max_age_s,
            warn_at=self._settings.risk.warn_at,
        )
        for symbol, quote in quotes.items():
            if quote.mark is not None:
                judge.on_quote(symbol, catalogue.symbol(symbol).price(quote.mark), quote.ts_recv_ns)
        for key, position in held.items():
            judge.set_position(*key, position)
        for order in orders:
            judge.on_open(order)
        return judge

    async def _quotes(self, held: Mapping[Key, Position], *more: Sequence[str]) -> dict[str, Quote]:
        """Prices of what is held and of these symbols. Without Redis there are none: what needs them is unknown."""
        catalogue = await self._store.catalogue()
        symbols = {catalogue.id(instrument_id).symbol for instrument_id, _ in held} | {symbol for each in more for symbol in each}
        try:
            return await self._store.quotes(sorted(symbols)) if symbols else {}
        except bus.TRANSIENT as error:
            log.warning("no prices", extra={"error": str(error)})
            return {}

    async def _holdings(
        self, account: AccountSettings, held: Mapping[Key, Position], quotes: Mapping[str, Quote], now: datetime
    ) -> list[Holding]:
        catalogue = await self._store.catalogue()
        return [self._holding(catalogue.id(key[0]), key, position, quotes, account, now) for key, position in held.items()]

    def _holding(
        self, instrument: Instrument, key: Key, position: Position, quotes: Mapping[str, Quote], account: AccountSettings, now: datetime
    ) -> Holding:
        quote = quotes.get(instrument.symbol)
        mark = None if quote is None else quote.mark
        other_fees: Decimal | None = ZERO
        for currency, fee in position.other_fees:
            rate = self._settings.conversion_rate(currency, account.currency)
            other_fees = None if rate is None or other_fees is None else money.add(other_fees, money.multiply(fee, rate))
        return Holding(
            instrument=instrument,
            position=position,
            mark=None if mark is None else instrument.price(mark),
            mark_age_s=None if quote is None else Decimal(int(now.timestamp() * 1_000_000) * 1_000 - quote.ts_recv_ns).scaleb(-9),
            rate=self._settings.conversion_rate(instrument.quote_currency, account.currency),
            position_side=key[1],
            other_fees=other_fees,
        )

    async def _baseline(self, account: AccountSettings, now: datetime, before: FigureRow | None) -> Baseline:
        """Where the periods began: what had been earned by then, on what is paid in now. Raises Unknown."""
        paid, carry = await self._store.paid(account)
        starts = []
        for start in figures_module.period_starts(now):
            snapshot = await self._store.snapshot(account.id, start)
            starts.append(paid if snapshot is None else money.add(paid, snapshot.profit))
        newest = await self._store.snapshot(account.id, now)
        peaks = [paid] if newest is None else [money.add(newest.peak_equity, paid, newest.capital.copy_negate())]
        deepest = ZERO if newest is None else newest.max_drawdown
        if before is not None and before.peak_equity is not None and before.capital is not None:
            peaks.append(money.add(before.peak_equity, paid, before.capital.copy_negate()))
        if before is not None and before.max_drawdown is not None:
            deepest = max(deepest, before.max_drawdown)
        return Baseline(paid, carry, starts[0], starts[1], starts[2], max(peaks), deepest)

    async def _refresh_returns(self) -> None:
        """Past returns change slowly: they are read once a minute."""
        if time.monotonic() < self._returns_due:
            return
        for instrument in await self._store.catalogue():
            known = await self._store.returns(instrument)
            self._returns[instrument.symbol] = known
            self._loss_rates[instrument.symbol] = var.loss_rate(instrument.symbol, known, instrument.kind)
        self._returns_due = time.monotonic() + RETURNS_EVERY_S


def _equity(seen: Seen) -> Decimal | None:
    """Unknown as long as anything that it rests on is."""
    return None if seen.figures is None or seen.reasons else seen.figures.equity


def _row(seen: Seen, published: PublishedFigures) -> FigureRow:
    figures, at_risk = seen.figures, seen.at_risk
    return FigureRow(
        account_id=seen.account.id,
        computed_at=published.computed_at,
        currency=seen.account.currency,
        capital=None if seen.baseline is None else seen.baseline.capital,
        carry=None if seen.baseline is None else seen.baseline.carry,
        equity=_equity(seen),
        exposure=seen.risk.exposure,
        realised=None if figures is None else figures.realised_pnl,
        unrealised=None if figures is None else figures.unrealised_pnl,
        fees=None if figures is None else figures.fees,
        equity_day=published.equity_day,
        equity_week=published.equity_week,
        equity_month=published.equity_month,
        peak_equity=published.peak_equity,
        max_drawdown=figures.max_drawdown if figures and not seen.reasons else (seen.baseline.max_drawdown if seen.baseline else None),
        consecutive_losses=seen.consecutive_losses,
        reject_share=seen.reject_share,
        var_95=None if at_risk is None else at_risk.var_95,
        var_99=None if at_risk is None else at_risk.var_99,
        expected_shortfall=None if at_risk is None else at_risk.expected_shortfall,
        breached=[],
        reasons=[*seen.reasons, *(at_risk.notes if at_risk else ())],
        published=published.to_data(),
    )


def _standing_of(row: FigureRow) -> Standing:
    return Standing(
        position_value=None,
        exposure=row.exposure,
        equity=row.equity,
        equity_day=row.equity_day,
        equity_week=row.equity_week,
        equity_month=row.equity_month,
        peak_equity=row.peak_equity,
        value_at_risk=row.var_95,
    )


def _unknown() -> Standing:
    return Standing(None, None, None, None, None, None, None, None, None)


def _signed_values(holdings: Sequence[Holding]) -> dict[str, Decimal] | None:
    """Value of each instrument's positions, longs less shorts; None where one cannot be valued."""
    values: dict[str, Decimal] = {}
    for holding in holdings:
        try:
            value = figures_module.exposure_of(holding)
        except Unknown:
            return None
        symbol = holding.instrument.symbol
        signed = value if holding.position.quantity > 0 else value.copy_negate()
        values[symbol] = money.add(values.get(symbol, ZERO), signed)
    return values


def _outdated(holdings: Sequence[Holding], limits: Limits | None) -> list[str]:
    """What is held of markets that never close, with a price too old to know the equity by."""
    if limits is None:
        return []
    return [
        holding.instrument.symbol
        for holding in holdings
        if holding.position.quantity
        and holding.instrument.kind in figures_module.ALWAYS_OPEN
        and (holding.mark_age_s is None or holding.mark_age_s > limits.max_data_age_s)
    ]


def _as_if_sent(intent: Intent, now: datetime) -> Order:
    """The order as the engine would tell risk of it."""
    kind = EventType.HELD if intent.is_held else EventType.SUBMITTING
    return advance(initialize(intent, now, "risk").order, Event(kind, now, "risk")).order
