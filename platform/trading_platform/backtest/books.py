"""The account's books of a run, in memory: ledger balances, positions, round trips, the equity at each day's end. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from trading_platform import money
from trading_platform.domain import figures, ledger, performance, positions
from trading_platform.domain.figures import PublishedFigures
from trading_platform.domain.orders import Fill, Order, PositionSide
from trading_platform.domain.performance import Equity, Execution, RoundTrip
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue, Instrument

ZERO = Decimal(0)

Key = tuple[int, PositionSide]
Rates = Callable[[str, str], Decimal | None]


class Unbalanced(Exception):
    """Lines that do not sum to zero: a fault of this program, never of the data."""


@dataclass(frozen=True, slots=True)
class Starts:
    """The equities the current day, week and month began with."""

    day: Decimal
    week: Decimal
    month: Decimal


class Books:
    """What the fills of a run did to what the account has. Money figures are in the account's currency."""

    def __init__(self, catalogue: Catalogue, currency: str, rates: Rates, opening: Mapping[str, Decimal]) -> None:
        self._catalogue = catalogue
        self._currency = currency
        self._rates = rates
        self.balances: dict[tuple[str, str], Decimal] = {}
        self.positions: dict[Key, Position] = {}
        self.trips: list[tuple[Instrument, RoundTrip]] = []
        self.fees: dict[str, Decimal] = {}
        self.closings: list[Equity] = []
        self.curve: list[Equity] = []
        self._open_trips: dict[Key, RoundTrip] = {}
        self._sequence = 0
        self._post(ledger.opening(opening))
        self.capital = money.add(*(self._value(amount, name) for name, amount in opening.items()))
        self._starts = Starts(self.capital, self.capital, self.capital)
        self._peak = self.capital
        self._lost_in_a_row = 0

    def on_fill(self, order: Order, fill: Fill) -> None:
        intent = order.intent
        instrument, key = self._catalogue.id(intent.instrument_id), (intent.instrument_id, intent.position_side)
        before = self.positions.get(key, Position())
        after, effect = positions.after_fill(before, instrument, intent.side, fill.quantity, fill.price, fill.fee, fill.fee_currency)
        self.positions[key] = after
        self._post(ledger.fill(instrument, intent.side, fill.quantity, fill.price, fill.fee, fill.fee_currency, effect))
        self.fees[fill.fee_currency] = money.add(self.fees.get(fill.fee_currency, ZERO), fill.fee)
        self._sequence += 1
        value = positions.fee_value(instrument, fill.price, fill.fee, fill.fee_currency)
        others = () if value is not None else ((fill.fee_currency, fill.fee),)
        execution = Execution(
            self._sequence, fill.executed_at, intent.side, fill.quantity, fill.price, ZERO if value is None else value, others
        )
        closed, now_open = performance.follow(self._open_trips.get(key), instrument, execution, before, after, effect)
        if closed is not None:
            self.trips.append((instrument, closed))
            self._lost_in_a_row = self._lost_in_a_row + 1 if self.result_of(instrument, closed) < 0 else 0
        if now_open is None:
            self._open_trips.pop(key, None)
        else:
            self._open_trips[key] = now_open

    def holdings(self) -> dict[str, Decimal]:
        """What the account has, by currency."""
        return {currency: amount for (book, currency), amount in sorted(self.balances.items()) if book == "holdings"}

    def equity(self, marks: Mapping[str, Decimal]) -> Decimal:
        """Capital, realised and unrealised result less fees, at these prices. Raises figures.Unknown."""
        total = self.capital
        for (instrument_id, _), position in self.positions.items():
            instrument = self._catalogue.id(instrument_id)
            result = money.subtract(position.realised_pnl, position.fees)
            if position.quantity:
                mark = marks.get(instrument.symbol)
                if mark is None:
                    raise figures.Unknown(f"no price of {instrument.symbol}")
                result = money.add(result, positions.unrealised(position, instrument, mark))
            others = [self._value(amount, name).copy_negate() for name, amount in position.other_fees]
            total = money.add(total, self._value(result, instrument.quote_currency), *others)
        return total

    def begin(self, at: datetime) -> None:
        """Before the first tick the account has what was paid in."""
        self.closings.append(Equity(at, self.capital, self.capital))
        self.curve.append(self.closings[-1])

    def note(self, at: datetime, marks: Mapping[str, Decimal]) -> None:
        """A point of the equity's curve."""
        self.curve.append(Equity(at, self.equity(marks), self.capital))

    def close_day(self, at: datetime, marks: Mapping[str, Decimal]) -> None:
        """A day (and maybe a week, a month) is over at `at`."""
        self.note(at, marks)
        self.closings.append(self.curve[-1])
        equity = self.curve[-1].equity
        day, week, month = figures.period_starts(at)
        self._starts = Starts(equity, equity if day == week else self._starts.week, equity if day == month else self._starts.month)

    def published(self, now: datetime, marks: Mapping[str, Decimal]) -> PublishedFigures:
        """As the risk service would publish them now, without value at risk."""
        self._peak = max(self._peak, self.equity(marks))
        return PublishedFigures(
            computed_at=now,
            capital=self.capital,
            equity_day=self._starts.day,
            equity_week=self._starts.week,
            equity_month=self._starts.month,
            peak_equity=self._peak,
            consecutive_losses=self._lost_in_a_row,
            value_at_risk=None,
            values={},
            loss_rates={},
        )

    def result_of(self, instrument: Instrument, trip: RoundTrip) -> Decimal:
        """Of a round trip, less its fees. Raises figures.Unknown."""
        others = [self._value(amount, name).copy_negate() for name, amount in trip.other_fees]
        return money.add(self._value(money.subtract(trip.realised_pnl, trip.fees), instrument.quote_currency), *others)

    def _value(self, amount: Decimal, currency: str) -> Decimal:
        rate = self._rates(currency, self._currency)
        if rate is None:
            raise figures.Unknown(f"no conversion rate of {currency} into the account's {self._currency}")
        return money.multiply(amount, rate)

    def _post(self, lines: list[ledger.Line]) -> None:
        if left := ledger.imbalance(lines):
            raise Unbalanced(f"lines do not balance: {left}")
        for line in lines:
            key = (line.book, line.currency)
            self.balances[key] = money.add(self.balances.get(key, ZERO), line.amount)
