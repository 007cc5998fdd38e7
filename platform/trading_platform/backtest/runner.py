"""The loop of a backtest: ticks, candles, timers and the venue's answers in the order of their time, into the engine's core. Pure.

The clock is the ticks' own. Whatever may change something stops the stream of ticks there, so the core reacts at the very tick
that moved it; between such moments ticks pass by the batch. What the engine would commit is counted as committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.backtest.books import Books
from trading_platform.backtest.columns import Screen, TickColumns, in_order
from trading_platform.backtest.fingerprint import Fingerprint
from trading_platform.backtest.result import FillLine, Refusal, Result, TradeLine
from trading_platform.backtest.strategies import CancelRequest, Strategy, Wish
from trading_platform.backtest.venue import Answered, CancelAnswered, FeeAsset, Said, SimulatedVenue, moment
from trading_platform.config import AccountSettings
from trading_platform.domain import matching
from trading_platform.domain.models import Models
from trading_platform.domain.orders import Order, Step, client_order_id
from trading_platform.domain.performance import Outcome, return_figures, trip_figures
from trading_platform.domain.risk import AccountRisk, Limits
from trading_platform.domain.top import Top
from trading_platform.engine.core import AccountCore, Batch, NotOpen, UnknownOrder
from trading_platform.engine.venues import VenueReport
from trading_platform.instruments import Catalogue, Instrument, InvalidOrder, UnknownInstrument
from trading_platform.market.candles import CandleBuilder
from trading_platform.market.ticks import Ticks
from trading_platform.messages import Candle

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
_CANDLE = ("instrument", "interval", "ts_open", "open", "high", "low", "close", "volume")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BacktestFailed(Exception):
    """The run came to something that cannot be: the core and the market disagree. Never the strategy's doing."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a run depends on besides strategy and ticks. `basis` is what candles are made of; `prices_every_ns` how often held
    orders look at prices. Before `trade_from_ns` the strategy sees candles, and nothing it wants is done."""

    catalogue: Catalogue
    symbols: tuple[str, ...]
    account: AccountSettings
    limits: Limits
    models: Models
    conversion_rates: Mapping[str, Decimal] = field(default_factory=dict)
    fee_asset: FeeAsset = "quote"
    basis: Literal["trades", "quotes"] = "trades"
    source: str = "backtest"
    prices_every_ns: int = 50_000_000
    trade_from_ns: int = 0

    def rate(self, source: str, target: str) -> Decimal | None:
        return Decimal(1) if source == target else self.conversion_rates.get(f"{source}:{target}")


class Backtest:
    """One run of one strategy on one account. `run` is for calling once."""

    def __init__(self, setup: Setup, strategy: Strategy) -> None:
        self._setup = setup
        self._strategy = strategy
        self._instruments = tuple(setup.catalogue.symbol(symbol) for symbol in setup.symbols)
        account, longest = setup.account, float(setup.limits.max_data_age_s)
        self._venue = SimulatedVenue(self._instruments, setup.models, account.opening_balances, setup.fee_asset)
        self._risk = AccountRisk(account.id, account.currency, setup.rate, setup.catalogue, account.position_mode)
        self._risk.set_limits(setup.limits, None)
        self._core = AccountCore(
            account.id, account.venue, setup.catalogue, self._risk, mode=account.position_mode, price_max_age_s=longest
        )
        self._core.state = "running"
        self._books = Books(setup.catalogue, account.currency, setup.rate, account.opening_balances)
        self._intervals = sorted({interval * SECOND_NS for interval in strategy.intervals.values()})
        self._candles = CandleBuilder(self._intervals or [DAY_NS])
        self._quarantine = Screen()
        self._ended: deque[tuple[int, ...]] = deque()
        self._wishes = deque(strategy.moments)
        self._now_ns = 0
        self._candle_end: int | None = None
        self._day_end: int | None = None
        self._prices_seen_ns = 0
        self._prices_moved = False
        self._held_orders: set[str] = set()
        self._marks: dict[str, Decimal] = {}
        self._valued = False
        self._tops: dict[str, matching.Top] = {}
        self._said: deque[Said] = deque()
        self._ticks = 0
        self._first_ns = 0
        self._log, self._fill_log = Fingerprint(), Fingerprint()
        self._orders: dict[str, Order] = {}
        self._fills: list[FillLine] = []
        self._refused: list[Refusal] = []

    def run(self, parts: Iterable[Ticks]) -> Result:
        """Through all the ticks, in time order. Raises BacktestFailed, or figures.Unknown where money cannot be valued."""
        for part in parts:
            ticks = self._quarantine.screen(part)
            if len(ticks):
                self._on_part(ticks)
        return self._result()

    # --- time ------------------------------------------------------------------------------------------------------------

    def _on_part(self, part: Ticks) -> None:
        ticks, at, end = TickColumns.of(part), 0, len(part)
        if int(ticks.ts_event[0]) < self._now_ns or not in_order(ticks.ts_event):
            raise BacktestFailed(f"ticks go back in time: {moment(int(ticks.ts_event.min()))} after {moment(self._now_ns)}")
        if self._intervals:
            self._grow_candles(part)
        if not self._first_ns:
            self._first_ns = int(ticks.ts_event[0])
            self._books.begin(moment(self._began_ns))
        while at < end:
            tick_ns = int(ticks.ts_event[at])
            self._expect(tick_ns)
            due = self._next_due(tick_ns)
            stop = end if due is None else at + int(ticks.ts_event[at:].searchsorted(due))
            if stop == at and due is not None:
                self._on_due(max(due, self._now_ns))
                continue
            at = self._pass(ticks, at, stop)

    def _expect(self, ts_ns: int) -> None:
        """With ticks again, candles open and a day goes on."""
        if self._candle_end is None and self._intervals:
            self._candle_end = min(ts_ns - ts_ns % interval + interval for interval in self._intervals)
        if self._day_end is None:
            self._day_end = ts_ns - ts_ns % DAY_NS + DAY_NS

    def _next_due(self, tick_ns: int) -> int | None:
        """The next moment at which something has to be done, seen from before the tick at `tick_ns`."""
        timer, prices = self._core.next_time(), None
        if self._held_orders:
            # Once the instant of a price is over: between the two rows of a quote there is no price to look at.
            instant_ns = self._now_ns if self._prices_moved else tick_ns
            prices = max(self._prices_seen_ns + self._setup.prices_every_ns, instant_ns + 1)
        return min(
            (
                due
                for due in (
                    self._candle_end,
                    self._day_end,
                    self._venue.next_due(),
                    None if timer is None else _ns(timer),
                    self._wishes[0] if self._wishes else None,
                    prices,
                )
                if due is not None
            ),
            default=None,
        )

    def _on_due(self, now_ns: int) -> None:
        """Everything that is due now, in a fixed order: what arrives at the venue, prices, timers, candles, the strategy's moments."""
        self._valued = self._valued and now_ns == self._now_ns
        self._now_ns = now_ns
        self._value()
        self._hear(self._venue.on_time(now_ns))
        self._look_at_prices()
        self._carry_out(self._core.on_time(self._now))
        if self._day_end is not None and self._day_end <= now_ns:
            if self._may_trade:
                self._books.close_day(moment(self._day_end), self._marks)
            self._day_end, self._valued = None, False
        if self._candle_end is not None and self._candle_end <= now_ns:
            self._candle_end = None
            if self._may_trade:
                self._books.note(self._now, self._marks)
            self._close_candles(now_ns)
        while self._wishes and self._wishes[0] <= now_ns:
            self._want(self._strategy.on_moment(self._wishes.popleft(), self))

    def _pass(self, ticks: TickColumns, at: int, stop: int) -> int:
        """Rows from `at` on go by until an order is concerned, or to `stop`. The next row."""
        stop, said = self._venue.on_ticks(ticks, at, stop)
        self._now_ns = int(ticks.ts_event[stop - 1])
        self._ticks += stop - at
        self._prices_moved = True
        self._valued = False
        if said:
            self._value()
            self._hear(said)
        return stop

    @property
    def now_ns(self) -> int:
        """For the strategy: the ticks' time."""
        return self._now_ns

    @property
    def _now(self) -> datetime:
        return moment(self._now_ns)

    # --- candles and the strategy ----------------------------------------------------------------------------------------

    def _grow_candles(self, part: Ticks) -> None:
        """A candle takes what lies in its time only, so ticks may be added before their moment has come; and what ends by the part's last
        tick is complete with it, since later parts hold later ticks."""
        points = part.trades() if self._setup.basis == "trades" else part.midpoints()
        self._candles.add(points.instrument, points.ts_event, points.price, points.size)
        closed = self._candles.close(int(part.ts_event[-1]))
        self._ended.extend(zip(*(getattr(closed, name).tolist() for name in _CANDLE), strict=True))

    def _close_candles(self, now_ns: int) -> None:
        while self._ended and self._ended[0][2] + self._ended[0][1] <= now_ns:
            number, interval, *values = self._ended.popleft()
            symbol, interval_s = self._setup.catalogue.id(number).symbol, interval // SECOND_NS
            if self._strategy.intervals.get(symbol) == interval_s:
                named = dict(zip(_CANDLE[2:], values, strict=True))
                candle = Candle(symbol=symbol, interval_s=interval_s, ts_open_ns=named.pop("ts_open"), source=self._setup.source, **named)
                self._want(self._strategy.on_candle(candle, self))

    def held(self, symbol: str) -> Decimal:
        """For the strategy: the signed position."""
        instrument = self._setup.catalogue.symbol(symbol)
        return money.add(*(quantity for (number, _), quantity in self._core.positions.items() if number == instrument.id))

    def is_working(self, symbol: str) -> bool:
        """For the strategy: whether an order of the instrument is open."""
        return any(order.intent.symbol == symbol for order in self._core.open_orders)

    @property
    def _may_trade(self) -> bool:
        """Whether it may by now."""
        return self._now_ns >= self._setup.trade_from_ns

    @property
    def _began_ns(self) -> int:
        return max(self._first_ns, self._setup.trade_from_ns)

    def _want(self, wishes: Iterable[Wish]) -> None:
        if not self._may_trade:
            return
        for wish in wishes:
            self._value()
            try:
                if isinstance(wish, CancelRequest):
                    order_id = client_order_id(self._setup.account.id, wish.origin)
                    self._carry_out(self._core.cancel(order_id, self._actor, self._now))
                else:
                    self._carry_out(self._core.place(wish, self._actor, self._now))
            except (InvalidOrder, UnknownInstrument, NotOpen, UnknownOrder) as refusal:
                self._refused.append(Refusal(wish.origin, self._now, f"{type(refusal).__name__}: {refusal}"))

    @property
    def _actor(self) -> str:
        return f"strategy:{self._strategy.name}"

    # --- prices ----------------------------------------------------------------------------------------------------------

    def _look_at_prices(self) -> None:
        self._value()
        self._prices_seen_ns, self._prices_moved = self._now_ns, False
        tops: dict[str, Top] = {}
        for instrument in self._instruments:
            seen = self._venue.top(instrument.id)
            if seen.ts_recv_ns:
                tops[instrument.symbol] = Top(seen.bid, seen.ask, seen.last, moment(seen.ts_recv_ns))
        self._carry_out(self._core.on_quotes(tops, self._now))

    def _value(self) -> None:
        """Tell risk the newest prices and what they make of the account, where anything may have changed since it was told."""
        if self._valued:
            return
        self._valued = True
        for instrument in self._instruments:
            top = self._venue.top(instrument.id)
            if top is self._tops.get(instrument.symbol):
                continue
            self._tops[instrument.symbol] = top
            mark = _mark(instrument, top.bid, top.ask, top.last)
            if mark is not None:
                self._marks[instrument.symbol] = mark
                self._risk.on_quote(instrument.symbol, mark, top.ts_recv_ns)
        self._risk.set_figures(self._books.published(self._now, self._marks))

    # --- the core and the venue ------------------------------------------------------------------------------------------

    def _hear(self, said: Iterable[Said]) -> None:
        self._said.extend(said)
        while self._said:
            self._do(self._tell_core(self._said.popleft()))

    def _carry_out(self, batch: Batch) -> None:
        self._do(batch)
        self._hear(())

    def _tell_core(self, said: Said) -> Batch:
        match said:
            case Answered():
                return self._core.on_answer(said.order_id, said.answer, self._now)
            case CancelAnswered():
                return self._core.on_cancel_answer(said.order_id, said.answer, self._now)
            case VenueReport():
                return self._core.on_report(said, self._now)

    def _do(self, batch: Batch) -> None:
        """What the core wants done; what the venue says to it is heard afterwards."""
        for step in batch.steps:
            self._record(step)
        if batch.alerts or batch.unmatched:
            raise BacktestFailed(f"at {self._now}: {[alert.detail for alert in batch.alerts] + batch.unmatched}")
        for intent in batch.sends:
            self._said.extend(self._venue.submit(intent, self._now_ns))
        for order in batch.cancels:
            self._said.extend(self._venue.cancel(order, self._now_ns))
        for order in batch.queries:
            self._do(self._core.on_query(order.id, self._venue.query(order.id), self._now, self._now))

    def _record(self, step: Step) -> None:
        order, event = step.order, step.event
        self._orders[order.id] = order
        self._log.event(order.id, order.order_seq, event.type, event.to_data())
        if order.intent.is_held:
            if order.is_open:
                self._held_orders.add(order.id)
            else:
                self._held_orders.discard(order.id)
        if event.fill is not None:
            fill, intent = event.fill, order.intent
            self._books.on_fill(order, fill)
            self._valued = False
            self._fill_log.fill(intent.symbol, intent.side, fill.price, fill.quantity, fill.liquidity, fill.ts_event_ns)
            self._fills.append(FillLine(order.id, intent.symbol, intent.side, fill))

    def _result(self) -> Result:
        """Where it ended: nothing is closed on behalf of the strategy."""
        if self._ticks:
            self._value()
            if self._may_trade:
                self._books.close_day(self._now, self._marks)
        trades = [
            TradeLine(
                symbol=instrument.symbol,
                direction=trip.direction,
                opened_at=trip.opened_at,
                closed_at=trip.closed_at,
                quantity=trip.peak_quantity,
                volume=trip.volume,
                fills=trip.fills,
                result=self._books.result_of(instrument, trip),
            )
            for instrument, trip in self._books.trips
            if trip.closed_at is not None
        ]
        return Result(
            strategy=self._strategy.name,
            source=self._setup.source,
            ticks=self._ticks,
            quarantined=sum(self._quarantine.refused.values()),
            first=moment(self._began_ns),
            last=self._now,
            orders=list(self._orders.values()),
            fills=self._fills,
            refused=self._refused,
            positions=dict(self._books.positions),
            balances=self._books.holdings(),
            fees=self._books.fees,
            capital=self._books.capital,
            equity=self._books.equity(self._marks),
            trades=trades,
            curve=self._books.curve,
            closings=self._books.closings,
            trips=trip_figures([Outcome(trade.result, trade.closed_at - trade.opened_at) for trade in trades]),
            returns=return_figures(self._books.closings, self._books.curve),
            event_log_hash=self._log.hexdigest(),
            events=self._log.lines,
            fills_hash=self._fill_log.hexdigest(),
        )


def _mark(instrument: Instrument, bid: Decimal | None, ask: Decimal | None, last: Decimal | None) -> Decimal | None:
    """The middle of the quote (towards zero), else the last trade."""
    if bid is None or ask is None:
        return last
    return instrument.price((instrument.scaled_price(bid) + instrument.scaled_price(ask)) // 2)


def _ns(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000
