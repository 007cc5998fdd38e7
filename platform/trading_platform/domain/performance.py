"""What came of trading: round trips, and the figures of days, weeks, months or any span of time. Pure.

A *fill* closes something or does not; a *round trip* goes from flat to flat at average cost, in one instrument and one book
(net, long or short). A fill that turns a position ends one round trip and begins the next; its fee is shared by quantity.

Daily figures count fills: `win_rate` is the share of the fills that closed something and realised more than their fee, 0 when
nothing was closed; `total_pnl` is realised P&L less fees of that day. Round trips give what needs a whole trade: profit factor,
expectancy, averages, duration, losses in a row. Days' ends give what needs a series: Sharpe, Sortino, Calmar, volatility,
drawdown. Money is exact; ratios are statistics (floats inside). A figure that cannot be known is None here and absent in an
answer, except `win_rate` and `sharpe_ratio`, which are 0 and come with the number of observations they rest on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.domain import positions
from trading_platform.domain.positions import Effect, Position
from trading_platform.instruments import Instrument
from trading_platform.messages import Side

SHARPE_DAYS = 30
DAYS_A_YEAR = 365
PLACES = 6

ZERO = Decimal(0)
_BPS = Decimal(10_000)

Direction = Literal["long", "short"]
By = Literal["day", "week", "month"]


# --- round trips --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """From flat to flat, or what there is of it yet (`closed_at` None). Money in the instrument's quote currency.

    `peak_quantity` is the most that was held, `volume` the value of all fills, `realised_pnl` before fees.
    """

    opened_seq: int
    direction: Direction
    opened_at: datetime
    peak_quantity: Decimal
    volume: Decimal
    realised_pnl: Decimal
    fees: Decimal
    other_fees: tuple[tuple[str, Decimal], ...]
    fills: int
    closed_seq: int | None = None
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """A fill as round trips see it; `fee` in the quote currency, what it does not value in `other_fees`."""

    seq: int
    at: datetime
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    other_fees: tuple[tuple[str, Decimal], ...]


def follow(
    trip: RoundTrip | None, instrument: Instrument, execution: Execution, before: Position, after: Position, effect: Effect
) -> tuple[RoundTrip | None, RoundTrip | None]:
    """What a fill makes of the open round trip: (the one it closed, the one that is open now)."""
    trip = trip or _begin(execution, before.quantity if before.quantity != 0 else after.quantity)
    turned = before.quantity != 0 and after.quantity != 0 and (after.quantity > 0) != (before.quantity > 0)
    if after.quantity != 0 and not turned:
        return None, _add(trip, instrument, execution, effect.realised_pnl, after.quantity)
    closing, opening = _shares(execution, effect.closed_quantity)
    closed = _add(trip, instrument, closing, effect.realised_pnl, before.quantity)
    closed = replace(closed, closed_seq=execution.seq, closed_at=execution.at)
    return closed, _add(_begin(opening, after.quantity), instrument, opening, ZERO, after.quantity) if turned else None


def _begin(execution: Execution, held: Decimal) -> RoundTrip:
    return RoundTrip(execution.seq, "long" if held > 0 else "short", execution.at, ZERO, ZERO, ZERO, ZERO, (), 0)


def _shares(execution: Execution, closed: Decimal) -> tuple[Execution, Execution]:
    """A fill that turns a position, in its closing and its opening part: together exactly the whole."""
    if closed in (ZERO, execution.quantity):
        return execution, execution
    rest = money.subtract(execution.quantity, closed)
    fee = money.divide(money.multiply(execution.fee, closed), execution.quantity)
    others = tuple((name, money.divide(money.multiply(amount, closed), execution.quantity)) for name, amount in execution.other_fees)
    left = tuple((name, amount.copy_negate()) for name, amount in others)
    return (
        replace(execution, quantity=closed, fee=fee, other_fees=others),
        replace(execution, quantity=rest, fee=money.subtract(execution.fee, fee), other_fees=positions.merge(execution.other_fees, left)),
    )


def _add(trip: RoundTrip, instrument: Instrument, part: Execution, realised: Decimal, held: Decimal) -> RoundTrip:
    return RoundTrip(
        opened_seq=trip.opened_seq,
        direction=trip.direction,
        opened_at=trip.opened_at,
        peak_quantity=max(trip.peak_quantity, held.copy_abs()),
        volume=money.add(trip.volume, instrument.notional(part.quantity, part.price)),
        realised_pnl=money.add(trip.realised_pnl, realised),
        fees=money.add(trip.fees, part.fee),
        other_fees=positions.merge(trip.other_fees, part.other_fees) if part.other_fees else trip.other_fees,
        fills=trip.fills + 1,
    )


# --- figures of round trips -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """A closed round trip's result less its fees, in the account's currency, and how long it was held."""

    result: Decimal
    duration: timedelta


@dataclass(frozen=True, slots=True)
class TripFigures:
    """Of round trips closed in a span. Averages and ratios are None where there is nothing to average.

    profit factor = gross profit / gross loss; expectancy = average result a trade (V. Tharp, "Trade Your Way to Financial Freedom",
    without dividing by the average loss). A result of exactly zero is neither win nor loss.
    """

    round_trips: int
    winning_round_trips: int
    losing_round_trips: int
    gross_profit: Decimal
    gross_loss: Decimal
    round_trip_win_rate: Decimal | None
    profit_factor: Decimal | None
    expectancy: Decimal | None
    average_win: Decimal | None
    average_loss: Decimal | None
    largest_win: Decimal | None
    largest_loss: Decimal | None
    max_consecutive_losses: int
    average_duration_seconds: Decimal | None


def trip_figures(trips: Sequence[Outcome]) -> TripFigures:
    """`trips` in the order they were closed."""
    wins = [trip.result for trip in trips if trip.result > 0]
    losses = [trip.result.copy_negate() for trip in trips if trip.result < 0]
    profit, loss = money.add(*wins), money.add(*losses)
    count = Decimal(len(trips))
    seconds = sum((trip.duration for trip in trips), timedelta()) / timedelta(microseconds=1)
    return TripFigures(
        round_trips=len(trips),
        winning_round_trips=len(wins),
        losing_round_trips=len(losses),
        gross_profit=profit,
        gross_loss=loss,
        round_trip_win_rate=money.divide(Decimal(len(wins)), count, PLACES) if trips else None,
        profit_factor=money.divide(profit, loss, PLACES) if losses else None,
        expectancy=money.divide(money.subtract(profit, loss), count) if trips else None,
        average_win=money.divide(profit, Decimal(len(wins))) if wins else None,
        average_loss=money.divide(loss, Decimal(len(losses))) if losses else None,
        largest_win=max(wins, default=None),
        largest_loss=max(losses, default=None),
        max_consecutive_losses=max((len(list(run)) for lost, run in itertools.groupby(trips, _is_loss) if lost), default=0),
        average_duration_seconds=money.divide(Decimal(int(seconds)).scaleb(-6), count, PLACES) if trips else None,
    )


def _is_loss(trip: Outcome) -> bool:
    return trip.result < 0


# --- figures of a series of equities ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Equity:
    """What an account was worth at a moment, and what had been paid in (less what was taken out) by then."""

    at: datetime
    equity: Decimal
    capital: Decimal


@dataclass(frozen=True, slots=True)
class ReturnFigures:
    """Of daily returns; deposits and withdrawals are no returns and no drawdowns. Ratios are annualised with 365 days, against a
    risk-free rate and a target of zero.

    Sharpe: mean / sample deviation (W. F. Sharpe, "The Sharpe Ratio", 1994). Sortino: mean / downside deviation over all
    observations (F. Sortino, L. Price, 1994). Volatility: sample deviation. Calmar: compound annual return / greatest drawdown
    (T. Young, "Calmar Ratio", 1991). Drawdown: the deepest fall from the highest equity before it, as money and as a share.
    """

    days: int
    sharpe_ratio: Decimal | None
    sortino_ratio: Decimal | None
    calmar_ratio: Decimal | None
    volatility: Decimal | None
    max_drawdown: Decimal | None
    max_drawdown_money: Decimal | None
    total_return: Decimal | None


def daily_returns(closing: Sequence[Equity]) -> list[float]:
    """The relative change from each day's end to the next, without what was paid in or out between them."""
    return [
        float(money.subtract(after.equity, money.subtract(after.capital, before.capital)) / before.equity) - 1
        for before, after in itertools.pairwise(closing)
        if before.equity > 0
    ]


def return_figures(closing: Sequence[Equity], curve: Sequence[Equity]) -> ReturnFigures:
    """`closing`: equity at the end of consecutive days, oldest first; `curve`: as fine as there is, for the drawdown."""
    returns = daily_returns(closing)
    fall, share = drawdown(curve)
    total = math.prod(1 + each for each in returns) - 1
    return ReturnFigures(
        days=len(returns),
        sharpe_ratio=_ratio(_mean(returns), _deviation(returns)) if len(returns) > 1 else None,
        sortino_ratio=_ratio(_mean(returns), _downside(returns)) if len(returns) > 1 else None,
        calmar_ratio=_calmar(total, len(returns), share),
        volatility=_decimal(_deviation(returns) * math.sqrt(DAYS_A_YEAR)) if len(returns) > 1 else None,
        max_drawdown=share,
        max_drawdown_money=fall,
        total_return=_decimal(total) if returns else None,
    )


def drawdown(series: Sequence[Equity]) -> tuple[Decimal | None, Decimal | None]:
    """(money, share): each the greatest of its kind in the series, oldest first. A payment moves the peak with the equity."""
    if not series:
        return None, None
    peak, paid_in = series[0].equity, series[0].capital
    money_fall = share_fall = ZERO
    for point in series:
        peak = max(point.equity, money.add(peak, money.subtract(point.capital, paid_in)))
        paid_in = point.capital
        fall = money.subtract(peak, point.equity)
        money_fall = max(money_fall, fall)
        if peak > 0:
            share_fall = max(share_fall, money.divide(fall, peak, 8))
    return money_fall, share_fall


def _mean(returns: Sequence[float]) -> float:
    return math.fsum(returns) / len(returns)


def _deviation(returns: Sequence[float]) -> float:
    mean = _mean(returns)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in returns) / (len(returns) - 1))


def _downside(returns: Sequence[float]) -> float:
    return math.sqrt(math.fsum(min(each, 0.0) ** 2 for each in returns) / len(returns))


def _ratio(mean: float, deviation: float) -> Decimal | None:
    """None where the returns do not vary: the ratio would be infinite."""
    return _decimal(mean / deviation * math.sqrt(DAYS_A_YEAR)) if deviation > 1e-12 else None


def _calmar(total: float, days: int, share: Decimal | None) -> Decimal | None:
    """None without a fall, after a total loss, and where a few days' return, made a year's, is beyond any number."""
    if not days or not share or total <= -1:
        return None
    try:
        return _decimal(((1 + total) ** (DAYS_A_YEAR / days) - 1) / float(share))
    except OverflowError:
        return None


def _decimal(value: float) -> Decimal | None:
    return money.round_money(Decimal(repr(value)), PLACES) if math.isfinite(value) and abs(value) < 1e40 else None


# --- spans of time ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FillTotals:
    """Of the fills in a span, in the account's currency.

    `slippage`: what fills cost more (negative: less) than at the price seen when the order was decided (implementation shortfall:
    A. Perold, 1988), over `slippage_volume`, the value of those fills that have such a price.
    """

    fills: int
    closing_fills: int
    winning_fills: int
    realised_pnl: Decimal
    fees: Decimal
    volume: Decimal
    slippage: Decimal
    slippage_volume: Decimal

    @property
    def slippage_bps(self) -> Decimal | None:
        """In ten-thousandths of the value traded."""
        return money.divide(money.multiply(self.slippage, _BPS), self.slippage_volume, PLACES) if self.slippage_volume > 0 else None


@dataclass(frozen=True, slots=True)
class Daily:
    """The fields of a day's answer that have always been there."""

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


def daily(totals: FillTotals, returns: ReturnFigures) -> Daily:
    """`returns` of up to SHARPE_DAYS days, the asked day last."""
    return Daily(
        total_trades=totals.fills,
        closed_trades=totals.closing_fills,
        winning_trades=totals.winning_fills,
        win_rate=money.divide(Decimal(totals.winning_fills), Decimal(totals.closing_fills), PLACES) if totals.closing_fills else ZERO,
        total_pnl=money.subtract(totals.realised_pnl, totals.fees),
        realised_pnl=totals.realised_pnl,
        fees=totals.fees,
        volume=totals.volume,
        sharpe_ratio=ZERO if returns.sharpe_ratio is None else returns.sharpe_ratio,
        sharpe_days=returns.days,
    )


def midnight(day: date) -> datetime:
    """First instant of a UTC day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """First instant of the UTC day and of the next one."""
    return midnight(day), midnight(day + timedelta(days=1))


def periods(by: By, first: date, last: date) -> Iterator[tuple[date, date]]:
    """(first day, day after the last) of each whole day, ISO week or month that has a day in [first, last], oldest first."""
    start = _period_start(by, first)
    while start <= last:
        end = _next_period(by, start)
        yield start, end
        start = end


def _period_start(by: By, day: date) -> date:
    match by:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)


def _next_period(by: By, start: date) -> date:
    match by:
        case "day":
            return start + timedelta(days=1)
        case "week":
            return start + timedelta(days=7)
        case "month":
            return _period_start("month", start + timedelta(days=31))
