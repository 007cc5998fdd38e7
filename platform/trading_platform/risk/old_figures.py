"""What an account stands at now: equity, exposure, today's result, drawdown, risk score. Pure; unknown is Unknown, never zero."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from trading_platform import money
from trading_platform.domain import positions
from trading_platform.domain.positions import Position
from trading_platform.instruments import Instrument
from trading_platform.risk.rules import Limits

ZERO = Decimal(0)


class Unknown(Exception):
    """A figure cannot be computed; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A position with what values it: mark price and the rate into the account's currency (None: not known)."""

    instrument: Instrument
    position: Position
    mark: Decimal | None
    mark_age_s: Decimal | None
    rate: Decimal | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """Where today began and how far the account ever fell."""

    capital: Decimal
    equity_at_midnight: Decimal
    peak_equity: Decimal
    max_drawdown: Decimal


@dataclass(frozen=True, slots=True)
class OpenPosition:
    symbol: str
    quantity: Decimal
    average_price: Decimal
    mark_price: Decimal
    notional: Decimal
    unrealised_pnl: Decimal
    mark_age_s: Decimal


@dataclass(frozen=True, slots=True)
class Figures:
    """In the account's currency; drawdown as a share of the peak, risk score 0 to 100."""

    equity: Decimal
    total_exposure: Decimal
    realised_pnl: Decimal
    unrealised_pnl: Decimal
    fees: Decimal
    daily_pnl: Decimal
    daily_loss: Decimal
    drawdown: Decimal
    max_drawdown: Decimal
    open_positions: list[OpenPosition]


def exposure_of(holding: Holding) -> Decimal:
    """Value of a position, without sign. Raises Unknown."""
    if holding.position.quantity == 0:
        return ZERO
    mark, rate = _priced(holding)
    return money.multiply(abs(holding.instrument.notional(holding.position.quantity, mark)), rate)


def compute(holdings: list[Holding], baseline: Baseline) -> Figures:
    """Raises Unknown when any position that matters cannot be valued."""
    realised = unrealised = fees = exposure = ZERO
    open_positions: list[OpenPosition] = []
    for holding in holdings:
        position, rate = holding.position, holding.rate
        if rate is None:
            raise Unknown(f"no conversion rate of {holding.instrument.quote_currency} into the account's currency")
        realised = money.add(realised, money.multiply(position.realised_pnl, rate))
        fees = money.add(fees, money.multiply(position.fees, rate))
        if position.quantity == 0:
            continue
        mark, rate = _priced(holding)
        pnl = money.multiply(positions.unrealised(position, holding.instrument, mark), rate)
        value = exposure_of(holding)
        unrealised, exposure = money.add(unrealised, pnl), money.add(exposure, value)
        open_positions.append(
            OpenPosition(
                symbol=holding.instrument.symbol,
                quantity=position.quantity,
                average_price=position.average_price,
                mark_price=mark,
                notional=value,
                unrealised_pnl=pnl,
                mark_age_s=holding.mark_age_s or ZERO,
            )
        )
    equity = money.add(baseline.capital, realised, unrealised, -fees)
    daily = money.subtract(equity, baseline.equity_at_midnight)
    peak = max(baseline.peak_equity, equity)
    drawdown = money.divide(peak - equity, peak, 8) if peak > 0 else ZERO
    return Figures(
        equity=equity,
        total_exposure=exposure,
        realised_pnl=realised,
        unrealised_pnl=unrealised,
        fees=fees,
        daily_pnl=daily,
        daily_loss=max(ZERO, -daily),
        drawdown=drawdown,
        max_drawdown=max(baseline.max_drawdown, drawdown),
        open_positions=open_positions,
    )


def risk_score(figures: Figures, limits: Limits) -> Decimal:
    """The most used of the limits, in percent of it, at most 100."""
    used = [
        figures.total_exposure / limits.max_total_exposure,
        figures.daily_loss / limits.max_daily_loss,
        *(position.notional / limits.max_position_notional for position in figures.open_positions),
    ]
    return money.round_money(min(Decimal(100), max(used) * 100), 2)


def _priced(holding: Holding) -> tuple[Decimal, Decimal]:
    if holding.mark is None:
        raise Unknown(f"no price of {holding.instrument.symbol}")
    if holding.rate is None:
        raise Unknown(f"no conversion rate of {holding.instrument.quote_currency} into the account's currency")
    return holding.mark, holding.rate
