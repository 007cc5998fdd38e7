"""Figures of a UTC day. Pure.

A trade is a fill. `win_rate` is the share of the fills that closed something and realised more than their fee, 0 when
nothing was closed. `total_pnl` is realised P&L less fees of that day, in the account's currency. `sharpe_ratio` is the
annualised (365 days) Sharpe ratio of daily equity returns of up to 30 days ending with that day, 0 when there are fewer than
two returns or they do not vary; `sharpe_days` says how many returns it rests on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from trading_platform import money

SHARPE_DAYS = 30
DAYS_A_YEAR = 365

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class TradeResult:
    """One fill's contribution; `rate` converts its currency into the account's."""

    closed_quantity: Decimal
    realised_pnl: Decimal
    fee: Decimal
    volume: Decimal
    rate: Decimal


@dataclass(frozen=True, slots=True)
class Daily:
    total_trades: int
    closed_trades: int
    winning_trades: int
    win_rate: Decimal
    total_pnl: Decimal
    realised_pnl: Decimal
    fees: Decimal
    volume: Decimal
    sharpe_ratio: Decimal
    sharpe_days: int


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """First instant of the UTC day and of the next one."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


def daily(trades: Sequence[TradeResult], closing_equity: Sequence[Decimal]) -> Daily:
    """`closing_equity`: equity at the end of consecutive days, oldest first, the asked day last; at most SHARPE_DAYS + 1."""
    closed = [trade for trade in trades if trade.closed_quantity > 0]
    winners = [trade for trade in closed if trade.realised_pnl > trade.fee]
    realised = money.add(*(money.multiply(trade.realised_pnl, trade.rate) for trade in trades))
    fees = money.add(*(money.multiply(trade.fee, trade.rate) for trade in trades))
    returns = [float(after / before) - 1 for before, after in itertools.pairwise(closing_equity) if before > 0]
    return Daily(
        total_trades=len(trades),
        closed_trades=len(closed),
        winning_trades=len(winners),
        win_rate=money.divide(Decimal(len(winners)), Decimal(len(closed)), 6) if closed else ZERO,
        total_pnl=money.subtract(realised, fees),
        realised_pnl=realised,
        fees=fees,
        volume=money.add(*(money.multiply(trade.volume, trade.rate) for trade in trades)),
        sharpe_ratio=_sharpe(returns),
        sharpe_days=len(returns),
    )


def _sharpe(returns: Sequence[float]) -> Decimal:
    if len(returns) < 2:
        return ZERO
    mean = math.fsum(returns) / len(returns)
    deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in returns) / (len(returns) - 1))
    return money.round_money(Decimal(repr(mean / deviation * math.sqrt(DAYS_A_YEAR))), 6) if deviation > 1e-12 else ZERO
