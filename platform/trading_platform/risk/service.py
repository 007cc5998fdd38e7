"""Judging orders and watching what is at stake. One check at a time for an account; every decision is kept."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from prometheus_client import Counter, Gauge

from trading_platform import accounts
from trading_platform.config import AccountSettings, Settings
from trading_platform.risk import old_figures as figures_module
from trading_platform.risk import rules
from trading_platform.risk.old_figures import Figures, Holding, Unknown
from trading_platform.risk.rules import Decision, Facts, Limits, OrderToCheck
from trading_platform.risk.store import RiskStore, Working
from trading_platform.service import LoopContext

log = logging.getLogger(__name__)

DECISIONS = Counter("smc_risk_decisions_total", "Orders judged", ["account", "code"])
EXPOSURE = Gauge("smc_risk_total_exposure", "Value of all positions, NaN while unknown", ["account"])
EXPOSURE_RATIO = Gauge("smc_risk_exposure_ratio", "Exposure as a share of its limit", ["account"])
EQUITY = Gauge("smc_risk_equity", "Capital with realised and unrealised result", ["account"])
DAILY_PNL = Gauge("smc_risk_daily_pnl", "Result since 00:00 UTC, NaN while unknown", ["account"])
DAILY_LOSS_RATIO = Gauge("smc_risk_daily_loss_ratio", "Loss since 00:00 UTC as a share of its limit", ["account"])
POSITION_RATIO = Gauge("smc_risk_position_ratio", "Largest position as a share of its limit", ["account"])
DRAWDOWN = Gauge("smc_risk_drawdown_ratio", "Fall from the highest equity", ["account"])
UNKNOWN = Counter("smc_risk_unknown_total", "Times the figures could not be computed", ["account"])

WATCH_EVERY_S = 5.0

_NAN = float("nan")


class Risk:
    """`clock` gives the present, UTC."""

    def __init__(self, store: RiskStore, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # --- judging ------------------------------------------------------------------------------------------------------

    async def check(self, account: AccountSettings, orders: Sequence[OrderToCheck]) -> list[Decision]:
        """Decide on orders of one account, in turn; each counts what was accepted before it."""
        async with self._locks[account.id]:
            limits = await self._store.limits(account.id)
            if limits is None:
                decision = Decision(False, "LIMITS_MISSING", f"account {account.id} has no limits yet")
                return [await self._decided(order, decision, None, None) for order in orders]
            facts = await self._facts(account, orders)
            decisions = []
            accepted: list[tuple[OrderToCheck, Decimal]] = []
            for order in orders:
                seen = self._with_accepted(facts[order.instrument.symbol], order, accepted)
                decision = rules.evaluate(order, seen, limits)
                decisions.append(await self._decided(order, decision, limits, seen))
                if decision.accepted:
                    accepted.append((order, rules.order_value(order, seen)))
            return decisions

    def _with_accepted(self, facts: Facts, order: OrderToCheck, accepted: Sequence[tuple[OrderToCheck, Decimal]]) -> Facts:
        """The facts as the orders accepted before, in the same batch, leave them."""
        for before, value in accepted:
            if before.instrument.symbol == order.instrument.symbol:
                facts = rules.after_accepting(before, facts)
            else:
                elsewhere = None if facts.exposure_elsewhere is None else facts.exposure_elsewhere + value
                facts = replace(facts, orders_last_minute=facts.orders_last_minute + 1, exposure_elsewhere=elsewhere)
        return facts

    async def _decided(self, order: OrderToCheck, decision: Decision, limits: Limits | None, facts: Facts | None) -> Decision:
        await self._store.record(order, decision, limits, facts)
        DECISIONS.labels(order.account, decision.code).inc()
        if not decision.accepted:
            log.warning("order refused", extra={"client_order_id": order.client_order_id, "code": decision.code, "detail": decision.detail})
        return decision

    async def _facts(self, account: AccountSettings, orders: Sequence[OrderToCheck]) -> dict[str, Facts]:
        """What is known about each instrument that is asked for."""
        now = self._clock()
        symbols = {order.instrument.symbol for order in orders}
        working = await self._store.working(account.id)
        catalogue = await self._store.catalogue()
        extra = sorted(symbols | {catalogue.id(instrument_id).symbol for instrument_id in working})
        holdings = await self._store.holdings(account, now, extra)
        state = await self._store.trading_state(account.id)
        rate = await self._store.orders_last_minute(account.id)
        try:
            daily_pnl: Decimal | None = figures_module.compute(holdings, await self._store.baseline(account, now)).daily_pnl
        except Unknown as reason:
            log.warning("today's result is unknown", extra={"account": account.id, "reason": str(reason)})
            daily_pnl = None
        facts = {}
        for holding in holdings:
            own = working.get(holding.instrument.id, _NOTHING)
            facts[holding.instrument.symbol] = Facts(
                trading_state=state,
                mark=holding.mark,
                mark_age_s=holding.mark_age_s,
                rate=holding.rate,
                position=holding.position.quantity,
                open_buys=own.buys,
                open_sells=own.sells,
                exposure_elsewhere=_exposure_elsewhere(holdings, working, holding),
                daily_pnl=daily_pnl,
                orders_last_minute=rate,
            )
        return facts

    # --- watching -----------------------------------------------------------------------------------------------------

    async def figures(self, account: AccountSettings) -> Figures:
        """Where the account stands now. Raises Unknown."""
        now = self._clock()
        return figures_module.compute(await self._store.holdings(account, now), await self._store.baseline(account, now))

    async def watch(self, context: LoopContext) -> None:
        """Keep the gauges current; for Service.loop."""
        await accounts.ensure(self._store.database, self._settings)
        await self._store.ensure_limits(self._settings.risk)
        while not context.stopping:
            context.beat()
            for account in self._settings.accounts:
                await self._show(account)
            await context.sleep(WATCH_EVERY_S)

    async def _show(self, account: AccountSettings) -> None:
        limits = await self._store.limits(account.id)
        try:
            now = await self.figures(account)
        except Unknown as reason:
            log.warning("figures are unknown", extra={"account": account.id, "reason": str(reason)})
            UNKNOWN.labels(account.id).inc()
            for gauge in (EXPOSURE, EXPOSURE_RATIO, EQUITY, DAILY_PNL, DAILY_LOSS_RATIO, POSITION_RATIO, DRAWDOWN):
                gauge.labels(account.id).set(_NAN)
            return
        EXPOSURE.labels(account.id).set(float(now.total_exposure))
        EQUITY.labels(account.id).set(float(now.equity))
        DAILY_PNL.labels(account.id).set(float(now.daily_pnl))
        DRAWDOWN.labels(account.id).set(float(now.drawdown))
        if limits is not None:
            largest = max((position.notional for position in now.open_positions), default=Decimal(0))
            EXPOSURE_RATIO.labels(account.id).set(float(now.total_exposure / limits.max_total_exposure))
            DAILY_LOSS_RATIO.labels(account.id).set(float(now.daily_loss / limits.max_daily_loss))
            POSITION_RATIO.labels(account.id).set(float(largest / limits.max_position_notional))


_NOTHING = Working(Decimal(0), Decimal(0))


def _exposure_elsewhere(holdings: Sequence[Holding], working: dict[int, Working], own: Holding) -> Decimal | None:
    """Value of the other positions with their working orders; None where one cannot be valued."""
    total = Decimal(0)
    for holding in holdings:
        if holding is own:
            continue
        orders = working.get(holding.instrument.id, _NOTHING)
        quantity = holding.position.quantity
        worst = max(abs(quantity + orders.buys), abs(quantity - orders.sells))
        grown = replace(holding, position=replace(holding.position, quantity=worst))
        try:
            total += figures_module.exposure_of(grown)
        except Unknown:
            return None
    return total
