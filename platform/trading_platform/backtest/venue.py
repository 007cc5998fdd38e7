"""The venue of a backtest: one matcher an instrument, and what it says in the words a real venue's adapter uses. No I/O, no clock.

It takes fees, gives trade ids, and sells no account what it does not have: spot needs funds, and what works holds what it can cost.
How much of perpetuals an account may hold is risk's to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import numpy as np

from trading_platform import money
from trading_platform.backtest.columns import TickColumns, walk
from trading_platform.domain import positions
from trading_platform.domain.matching import (
    Accepted,
    BookOrder,
    BookOrderType,
    BookTimeInForce,
    Canceled,
    CancelRefused,
    Change,
    Executed,
    Expired,
    Matcher,
    Rejected,
    Top,
)
from trading_platform.domain.models import Models
from trading_platform.domain.orders import Fill, Intent, Order
from trading_platform.engine.venues import VenueOrder, VenueRejected, VenueReport, VenueStatus, VenueTrade
from trading_platform.instruments import Instrument

FeeAsset = Literal["quote", "received"]

ZERO = Decimal(0)
# A stop that buys at market holds this much more than its trigger price asks for: where it trades is not known yet.
STOP_MARGIN = Decimal("1.05")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES_IN_FORCE: dict[str, BookTimeInForce] = {"GTC": "GTC", "DAY": "GTC", "GTD": "GTC", "IOC": "IOC", "FOK": "FOK"}
_TYPES: dict[str, BookOrderType] = {"market": "market", "limit": "limit", "stop": "stop_loss", "stop_limit": "stop_loss_limit"}
# As the adapter of a real venue tells them.
_REFUSALS = {"NO_MARKET": "VENUE_MARKET_CLOSED", "WOULD_TAKE": "POST_ONLY_WOULD_TAKE", "WOULD_TRIGGER": "STOP_WOULD_TRIGGER"}


def moment(ts_ns: int) -> datetime:
    """UTC time, to the microsecond below."""
    return _EPOCH + timedelta(microseconds=ts_ns // 1000)


@dataclass(frozen=True, slots=True)
class Answered:
    """The venue's answer to a submit."""

    order_id: str
    answer: VenueOrder | VenueRejected


@dataclass(frozen=True, slots=True)
class CancelAnswered:
    order_id: str
    answer: VenueOrder | VenueRejected


Said = Answered | CancelAnswered | VenueReport


@dataclass(slots=True)
class _Known:
    """`unit`: what one unit of what is open keeps locked of `asset`."""

    intent: Intent
    number: int
    asset: str = ""
    unit: Decimal = ZERO
    status: VenueStatus = "NEW"
    filled: Decimal = ZERO
    trades: list[VenueTrade] = field(default_factory=list)


class SimulatedVenue:
    """Matchers of the instruments of a run. What they say is told in order, as of the moment it happens."""

    def __init__(
        self, instruments: Iterable[Instrument], models: Models, balances: Mapping[str, Decimal], fee_asset: FeeAsset = "quote"
    ) -> None:
        self._models = models
        self._balances = dict(balances)
        self._working: dict[int, _Known] = {}
        self._fee_asset = fee_asset
        self._instruments = {instrument.id: instrument for instrument in instruments}
        self._matchers = {instrument.id: Matcher(instrument, models) for instrument in self._instruments.values()}
        self._ids = np.array(list(self._matchers), dtype=np.uint32)
        self._reach = np.empty((len(self._matchers), 6), dtype=np.int64)
        self._newest = np.empty((len(self._matchers), 4), dtype=np.int64)
        self._tops: dict[int, Top] = {}
        self._by_number: dict[int, _Known] = {}
        self._by_id: dict[str, _Known] = {}
        self._trade_numbers = dict.fromkeys(self._instruments, 0)
        self._volume = ZERO
        self._volumes: deque[tuple[datetime, Decimal]] = deque()

    # --- what is asked of it ---------------------------------------------------------------------------------------------

    def submit(self, intent: Intent, now_ns: int) -> list[Said]:
        number = len(self._by_number) + 1
        known = self._by_number[number] = self._by_id[intent.client_order_id] = _Known(intent, number)
        refusal = self._hold(known)
        if refusal is not None:
            known.status = "REJECTED"
            return [Answered(intent.client_order_id, refusal)]
        kind = "limit_maker" if intent.post_only else _TYPES[intent.type]
        order = BookOrder(
            id=known.number,
            owner=intent.account_id,
            side=intent.side,
            type=kind,
            time_in_force=_TIMES_IN_FORCE[intent.time_in_force],
            quantity=intent.quantity,
            limit_price=intent.limit_price,
            stop_price=intent.trigger_price,
        )
        return self._tell(self._matchers[intent.instrument_id].submit(order, now_ns))

    def cancel(self, order: Order, now_ns: int) -> list[Said]:
        known = self._by_id.get(order.id)
        if known is None:
            return [CancelAnswered(order.id, _nothing_open(order.id))]
        return self._tell(self._matchers[order.intent.instrument_id].cancel(known.number, now_ns))

    def query(self, order_id: str) -> VenueOrder | None:
        known = self._by_id.get(order_id)
        return None if known is None else _as_told(known, tuple(known.trades))

    # --- what the market does --------------------------------------------------------------------------------------------

    def on_ticks(self, ticks: TickColumns, at: int, stop: int) -> tuple[int, list[Said]]:
        """Rows from `at` on, up to and with the first that may touch an order, at most to `stop`; where it stopped, and what is said."""
        for slot, matcher in enumerate(self._matchers.values()):
            self._reach[slot] = matcher.reach()
        self._newest.fill(-1)
        self._tops.clear()
        touching = walk(ticks.instrument, ticks.price, ticks.flags, at, stop, self._ids, self._reach, self._newest)
        for matcher, (trade, bid, ask, last) in zip(self._matchers.values(), self._newest.tolist(), strict=True):
            if last >= 0:
                matcher.went_by(ticks, trade, bid, ask, last)
        if touching == stop:
            return stop, []
        return touching + 1, self._tell(self._matchers[int(ticks.instrument[touching])].on_row(ticks, touching))

    def on_time(self, now_ns: int) -> list[Said]:
        return [said for matcher in self._matchers.values() for said in self._tell(matcher.on_time(now_ns))]

    def next_due(self) -> int | None:
        return min((due for matcher in self._matchers.values() if (due := matcher.next_due()) is not None), default=None)

    def top(self, instrument_id: int) -> Top:
        """The same object as long as the market has not moved."""
        top = self._tops.get(instrument_id)
        if top is None:
            top = self._tops[instrument_id] = self._matchers[instrument_id].top()
        return top

    # --- funds -----------------------------------------------------------------------------------------------------------

    def _hold(self, known: _Known) -> VenueRejected | None:
        """Lock what the order can cost, or say what is missing."""
        intent = known.intent
        instrument = self._instruments[intent.instrument_id]
        if instrument.settles_base:
            if intent.side == "sell":
                known.asset, known.unit = instrument.base_currency, Decimal(1)
            else:
                known.asset, known.unit = instrument.quote_currency, self._cost_of_one(instrument, intent)
            needed = money.multiply(known.unit, intent.quantity)
            free = money.subtract(self._balances.get(known.asset, ZERO), self._locked(known.asset))
            if needed > free:
                return VenueRejected("INSUFFICIENT_FUNDS", f"{money.text(needed)} {known.asset} needed, {money.text(free)} free")
        self._working[known.number] = known
        return None

    def _cost_of_one(self, instrument: Instrument, intent: Intent) -> Decimal:
        """The most that one unit may cost: at its limit, or where it would trade now, with the dearest fee on top."""
        if intent.limit_price is not None:
            price = intent.limit_price
        elif intent.trigger_price is not None:
            price = money.multiply(intent.trigger_price, STOP_MARGIN)
        else:
            pieces = self._matchers[instrument.id].preview(intent.side, intent.quantity)
            price = max((price for price, _ in pieces), default=ZERO)
        fees = self._models.fees
        rate = max(fees.rate("maker", self._volume), fees.rate("taker", self._volume), ZERO) if self._fee_asset == "quote" else ZERO
        return money.multiply(instrument.notional(Decimal(1), price), money.add(Decimal(1), rate))

    def _locked(self, asset: str) -> Decimal:
        held = (known for known in self._working.values() if known.asset == asset)
        return money.add(*(money.multiply(known.unit, money.subtract(known.intent.quantity, known.filled)) for known in held))

    def _settle(self, instrument: Instrument, intent: Intent, execution: Executed, fee: Decimal, currency: str) -> None:
        """What a trade of spot does to the balances; perpetuals are left to the books."""
        if instrument.settles_base:
            change = positions.signed(intent.side, execution.quantity)
            self._add(instrument.base_currency, change)
            self._add(instrument.quote_currency, instrument.notional(change, execution.price).copy_negate())
            self._add(currency, fee.copy_negate())

    def _add(self, asset: str, amount: Decimal) -> None:
        self._balances[asset] = money.add(self._balances.get(asset, ZERO), amount)

    # --- what it says ----------------------------------------------------------------------------------------------------

    def _tell(self, changes: list[Change]) -> list[Said]:
        said: list[Said] = []
        for change in changes:
            known = self._by_number[change.order_id]
            order_id = known.intent.client_order_id
            match change:
                case Accepted():
                    said.append(Answered(order_id, _as_told(known)))
                case Rejected():
                    self._end(known, "REJECTED")
                    said.append(Answered(order_id, VenueRejected(_REFUSALS.get(change.code, "VENUE_FILTER"), change.detail)))
                case Executed():
                    said.append(self._executed(known, change))
                case Canceled():
                    self._end(known, "CANCELED")
                    said.append(CancelAnswered(order_id, _as_told(known)))
                case CancelRefused():
                    said.append(CancelAnswered(order_id, _nothing_open(order_id)))
                case Expired():
                    self._end(known, "EXPIRED")
                    said.append(VenueReport(_as_told(known)))
        return said

    def _executed(self, known: _Known, execution: Executed) -> VenueReport:
        intent = known.intent
        instrument = self._instruments[intent.instrument_id]
        number = self._trade_numbers[instrument.id] = self._trade_numbers[instrument.id] + 1
        at = moment(execution.ts_now_ns)
        fee, currency = self._fee(instrument, intent, execution, at)
        fill = Fill(
            trade_id=f"{instrument.symbol}:{number}",
            quantity=execution.quantity,
            price=execution.price,
            fee=fee,
            fee_currency=currency,
            liquidity=execution.liquidity,
            executed_at=at,
            ts_event_ns=execution.ts_event_ns,
        )
        trade = VenueTrade(intent.symbol, intent.client_order_id, fill)
        known.trades.append(trade)
        known.filled = money.add(known.filled, execution.quantity)
        self._settle(instrument, intent, execution, fee, currency)
        if known.filled == intent.quantity:
            self._end(known, "FILLED")
        else:
            known.status = "PARTIALLY_FILLED"
        return VenueReport(_as_told(known), trade)

    def _fee(self, instrument: Instrument, intent: Intent, execution: Executed, at: datetime) -> tuple[Decimal, str]:
        """By the volume of the 30 days before, in the quote currency or in what was received."""
        while self._volumes and self._volumes[0][0] <= at - timedelta(days=30):
            self._volume = money.subtract(self._volume, self._volumes.popleft()[1])
        notional = instrument.notional(execution.quantity, execution.price)
        in_base = self._fee_asset == "received" and intent.side == "buy" and instrument.settles_base
        amount, currency = (execution.quantity, instrument.base_currency) if in_base else (notional, instrument.quote_currency)
        fee = self._models.fees.fee(amount, execution.liquidity, self._volume)
        self._volume = money.add(self._volume, notional)
        self._volumes.append((at, notional))
        return fee, currency

    def _end(self, known: _Known, status: VenueStatus) -> None:
        known.status = status
        self._working.pop(known.number, None)


def _as_told(known: _Known, trades: tuple[VenueTrade, ...] = ()) -> VenueOrder:
    return VenueOrder(known.intent.symbol, known.intent.client_order_id, str(known.number), known.status, known.filled, None, trades)


def _nothing_open(order_id: str) -> VenueRejected:
    return VenueRejected("ORDER_NOT_OPEN", f"{order_id} is not open here")
