"""What an account stands at: equity, exposure, results of the day, week and month, drawdown. Pure; unknown is Unknown, never zero.

`compute` works the figures out from positions, prices and where the periods began; `PublishedFigures` is what the risk service
tells those who judge orders in their own memory (domain/risk.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from trading_platform import money
from trading_platform.domain import positions
from trading_platform.domain.orders import PositionSide
from trading_platform.domain.positions import Position
from trading_platform.instruments import Instrument

ZERO = Decimal(0)

# Markets that never close: an old price there is a feed that has failed, not a weekend.
ALWAYS_OPEN = frozenset({"spot", "perpetual"})


class Unknown(Exception):
    """A figure cannot be computed; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A position with what values it: mark price and the rate into the account's currency (None: not known).

    `other_fees` are the fees the fills did not value themselves, already in the account's currency; None where a rate is missing.
    """

    instrument: Instrument
    position: Position
    mark: Decimal | None
    mark_age_s: Decimal | None
    rate: Decimal | None
    position_side: PositionSide = "net"
    other_fees: Decimal | None = ZERO


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was paid in, what came or went without a trade (`carry`), where the periods began, and how far the account ever fell.

    What was paid in or out since is part of the starts and of the peak: a deposit is no profit.
    """

    capital: Decimal
    carry: Decimal
    equity_day: Decimal
    equity_week: Decimal
    equity_month: Decimal
    peak_equity: Decimal
    max_drawdown: Decimal


@dataclass(frozen=True, slots=True)
class OpenPosition:
    symbol: str
    position_side: PositionSide
    quantity: Decimal
    average_price: Decimal
    mark_price: Decimal
    notional: Decimal
    unrealised_pnl: Decimal
    mark_age_s: Decimal


@dataclass(frozen=True, slots=True)
class Figures:
    """In the account's currency; drawdown as a share of the peak."""

    capital: Decimal
    equity: Decimal
    total_exposure: Decimal
    realised_pnl: Decimal
    unrealised_pnl: Decimal
    fees: Decimal
    daily_pnl: Decimal
    daily_loss: Decimal
    weekly_pnl: Decimal
    monthly_pnl: Decimal
    peak_equity: Decimal
    drawdown: Decimal
    max_drawdown: Decimal
    open_positions: list[OpenPosition]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What the other accounts add to the portfolio, in its currency; `rate` is the account's currency in the portfolio's.

    Equity, exposure and value at risk are the others'; starts and peak are those of all accounts together. None: unknown.
    """

    rate: Decimal | None
    exposure: Decimal | None
    equity: Decimal | None
    equity_day: Decimal | None
    equity_week: Decimal | None
    equity_month: Decimal | None
    peak_equity: Decimal | None
    value_at_risk: Decimal | None


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """What only the risk service can tell about an account. None: unknown, `reasons` say why.

    `capital` is what the equity begins with: paid in, and what came or went without a trade.
    `value_at_risk` (one day, 95 %) is that of the positions valued `values` by symbol; `loss_rates` is what each symbol's value
    can lose by itself in the same measure.
    """

    computed_at: datetime
    capital: Decimal | None
    equity_day: Decimal | None
    equity_week: Decimal | None
    equity_month: Decimal | None
    peak_equity: Decimal | None
    consecutive_losses: int | None
    value_at_risk: Decimal | None
    values: Mapping[str, Decimal]
    loss_rates: Mapping[str, Decimal]
    elsewhere: Elsewhere | None = None
    reasons: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """As kept in `risk_figures.published`: amounts are text."""
        elsewhere = self.elsewhere
        return {
            "computed_at": self.computed_at.isoformat(),
            **{name: _text(getattr(self, name)) for name in _AMOUNTS},
            "consecutive_losses": self.consecutive_losses,
            "values": {symbol: money.text(value) for symbol, value in self.values.items()},
            "loss_rates": {symbol: money.text(value) for symbol, value in self.loss_rates.items()},
            "elsewhere": None if elsewhere is None else {name: _text(getattr(elsewhere, name)) for name in Elsewhere.__slots__},
            "reasons": list(self.reasons),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> PublishedFigures:
        elsewhere = data["elsewhere"]
        return cls(
            computed_at=datetime.fromisoformat(data["computed_at"]),
            **{name: _amount(data[name]) for name in _AMOUNTS},
            consecutive_losses=data["consecutive_losses"],
            values={symbol: money.parse(value) for symbol, value in data["values"].items()},
            loss_rates={symbol: money.parse(value) for symbol, value in data["loss_rates"].items()},
            elsewhere=None if elsewhere is None else Elsewhere(**{name: _amount(elsewhere[name]) for name in Elsewhere.__slots__}),
            reasons=tuple(data["reasons"]),
        )


_AMOUNTS = ("capital", "equity_day", "equity_week", "equity_month", "peak_equity", "value_at_risk")


def period_starts(now: datetime) -> tuple[datetime, datetime, datetime]:
    """00:00 UTC of the day, of the ISO week's Monday and of the month's first day."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day, day - timedelta(days=day.weekday()), day.replace(day=1)


def exposure_of(holding: Holding) -> Decimal:
    """Value of a position, without sign. Raises Unknown."""
    if holding.position.quantity == 0:
        return ZERO
    mark, rate = _priced(holding)
    return money.multiply(holding.instrument.notional(holding.position.quantity, mark).copy_abs(), rate)


def compute(holdings: Sequence[Holding], baseline: Baseline) -> Figures:
    """Raises Unknown when any position that matters cannot be valued."""
    realised = unrealised = fees = exposure = ZERO
    open_positions: list[OpenPosition] = []
    for holding in holdings:
        position, rate = holding.position, holding.rate
        if rate is None:
            raise Unknown(f"no conversion rate of {holding.instrument.quote_currency} into the account's currency")
        if holding.other_fees is None:
            names = ", ".join(currency for currency, _ in position.other_fees)
            raise Unknown(f"fees of {holding.instrument.symbol} in {names} have no conversion rate into the account's currency")
        realised = money.add(realised, money.multiply(position.realised_pnl, rate))
        fees = money.add(fees, money.multiply(position.fees, rate), holding.other_fees)
        if position.quantity == 0:
            continue
        mark, rate = _priced(holding)
        pnl = money.multiply(positions.unrealised(position, holding.instrument, mark), rate)
        value = exposure_of(holding)
        unrealised, exposure = money.add(unrealised, pnl), money.add(exposure, value)
        open_positions.append(
            OpenPosition(
                symbol=holding.instrument.symbol,
                position_side=holding.position_side,
                quantity=position.quantity,
                average_price=position.average_price,
                mark_price=mark,
                notional=value,
                unrealised_pnl=pnl,
                mark_age_s=holding.mark_age_s or ZERO,
            )
        )
    equity = money.add(baseline.capital, baseline.carry, realised, unrealised, fees.copy_negate())
    daily = money.subtract(equity, baseline.equity_day)
    peak = max(baseline.peak_equity, equity)
    drawdown = money.divide(money.subtract(peak, equity), peak, 8) if peak > 0 else ZERO
    return Figures(
        capital=baseline.capital,
        equity=equity,
        total_exposure=exposure,
        realised_pnl=realised,
        unrealised_pnl=unrealised,
        fees=fees,
        daily_pnl=daily,
        daily_loss=max(ZERO, daily.copy_negate()),
        weekly_pnl=money.subtract(equity, baseline.equity_week),
        monthly_pnl=money.subtract(equity, baseline.equity_month),
        peak_equity=peak,
        drawdown=drawdown,
        max_drawdown=max(baseline.max_drawdown, drawdown),
        open_positions=open_positions,
    )


def _priced(holding: Holding) -> tuple[Decimal, Decimal]:
    if holding.mark is None:
        raise Unknown(f"no price of {holding.instrument.symbol}")
    if holding.rate is None:
        raise Unknown(f"no conversion rate of {holding.instrument.quote_currency} into the account's currency")
    return holding.mark, holding.rate


def _text(value: Decimal | None) -> str | None:
    return None if value is None else money.text(value)


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else money.parse(text)
