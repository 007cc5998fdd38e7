"""The simulated market of one instrument: when an order trades, at what price, how much. Pure and deterministic.

It sees a top of book with sizes, and trades, as tick batches tell them (a size of 0 is unknown). Our orders trade with that market,
never with each other. Paper venue and backtest use it alike.

- **Resting orders** have price-time priority among themselves. One that joins the best price stands behind the size shown there; an
  unknown size, or a price behind the best, is an unknown queue until the side's quote comes to that price. Trades at the price (not
  those whose aggressor is on our side) eat the queue, then fill. A shown size smaller than the queue moves us up: what was cancelled
  is taken to have stood behind us as long as that can be. A side that falls back behind our price leaves nobody ahead.
- A **trade through the price**, or the **opposite side at or through it**, fills at the order's own price, up to the size told
  (unknown: in full). What a tick holds is given once: best price first, then time; a quote's remainder waits for takers, and what is
  taken is remembered until the next quote of that side.
- A **taker** meets the shown top. When a trade after the quote went through it, that trade's price counts; without quotes, the last
  trade's with unknown size. A limit order takes what the top holds, and the rest waits. A market order finds more behind the top, at
  prices the slippage model says, up to `depth` times the shown size in all; what is left then expires. IOC's rest expires; FOK trades
  in full from the top or expires; a LIMIT_MAKER that would take is rejected.
- **Stops** are triggered by trades; by quotes of the side they would take from (buy: ask) while no trade was ever seen. One that
  the market has already reached is rejected. Several triggered by one tick go in the order they came.
- An **iceberg** shows a slice at a time; the next slice queues anew, at the end.
- No market, or one older than `max_data_age_ns`: rejected, NO_MARKET. Nothing trades less than a lot.
- With **latency**, `submit` and `cancel` answer nothing; what comes of them is told by `on_ticks` or `on_time` once they arrive. A
  cancel never overtakes its order.

Every method that may change something returns what happened, in order. However ticks are cut into batches, the changes are the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Context, Decimal
from heapq import heappop, heappush
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trading_platform import money
from trading_platform.batches import ASK, BID, BUY_AGGRESSOR, SELL_AGGRESSOR, TRADE, TickBatch
from trading_platform.domain.models import Liquidity, Models
from trading_platform.instruments import Instrument, InvalidOrder
from trading_platform.messages import Side

BookOrderType = Literal["market", "limit", "limit_maker", "stop_loss", "stop_loss_limit", "take_profit", "take_profit_limit"]
BookTimeInForce = Literal["GTC", "IOC", "FOK"]

MAX_ICEBERG_PARTS = 100

_LIMITED = frozenset({"limit", "limit_maker", "stop_loss_limit", "take_profit_limit"})
_STOPS = frozenset({"stop_loss", "stop_loss_limit", "take_profit", "take_profit_limit"})
_TYPES = _LIMITED | _STOPS | {"market"}
# A price that no tick comes to, from above and from below.
_NEVER_BELOW, _NEVER_ABOVE = money.INT64_MIN, money.INT64_MAX
# Larger than any size and any sum of them that fits a tick.
_UNKNOWN = 1 << 120
_NOTHING_IN_REACH = (_NEVER_BELOW, _NEVER_ABOVE) * 3
_WIDE = Context(prec=76)


class Columns(Protocol):
    """What is read of ticks: the columns of a tick batch, of any length."""

    @property
    def ts_event(self) -> NDArray[np.int64]: ...
    @property
    def ts_recv(self) -> NDArray[np.int64]: ...
    @property
    def price(self) -> NDArray[np.int64]: ...
    @property
    def size(self) -> NDArray[np.int64]: ...
    @property
    def flags(self) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class BookOrder:
    """An order as the market sees it. `id` is the venue's, rising; `owner` the account; `visible` the slice of an iceberg."""

    id: int
    owner: str
    side: Side
    type: BookOrderType
    time_in_force: BookTimeInForce
    quantity: Decimal
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    visible: Decimal | None = None


# --- what happens --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    order_id: int
    ts_now_ns: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """It never was in the book. Codes: NO_MARKET, WOULD_TAKE, WOULD_TRIGGER, and those of a malformed order."""

    order_id: int
    code: str
    detail: str
    ts_now_ns: int


@dataclass(frozen=True, slots=True)
class Triggered:
    order_id: int
    ts_now_ns: int


@dataclass(frozen=True, slots=True)
class Executed:
    """`ts_event_ns` is the time of the tick it traded with, `ts_now_ns` when that was known here."""

    order_id: int
    price: Decimal
    quantity: Decimal
    liquidity: Liquidity
    ts_event_ns: int
    ts_now_ns: int


@dataclass(frozen=True, slots=True)
class Canceled:
    order_id: int
    ts_now_ns: int


@dataclass(frozen=True, slots=True)
class CancelRefused:
    """There was nothing to cancel: the order is not known, or ended before the cancel arrived."""

    order_id: int
    ts_now_ns: int


@dataclass(frozen=True, slots=True)
class Expired:
    """What an order that may not wait (market, IOC, FOK) could not trade is gone."""

    order_id: int
    ts_now_ns: int


Change = Accepted | Rejected | Triggered | Executed | Canceled | CancelRefused | Expired


# --- what can be seen and kept -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Top:
    """The market's newest prices; None where it has none. Sizes as shown, without what was taken since; None where not told."""

    bid: Decimal | None = None
    ask: Decimal | None = None
    last: Decimal | None = None
    bid_size: Decimal | None = None
    ask_size: Decimal | None = None
    ts_event_ns: int = 0
    ts_recv_ns: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """Quantity None: the market does not tell it."""

    price: Decimal
    quantity: Decimal | None


@dataclass(frozen=True, slots=True)
class Depth:
    """Best first."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """An order in the book and where it stands. `queue_ahead` None is unknown; `slice_left` None is a whole slice; `seniority` rises with
    time priority, 0 is not said."""

    order: BookOrder
    remaining: Decimal
    queue_ahead: Decimal | None = None
    triggered: bool = False
    slice_left: Decimal | None = None
    seniority: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Quoted:
    """One side of the quote at the instrument's scales: its price (0: none), its size (0: unknown), what was taken of it, the price of
    the newest trade since (0: none)."""

    price: int = 0
    size: int = 0
    taken: int = 0
    traded: int = 0
    ts_event_ns: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a Matcher knows. `orders` are in time priority, `coming` what latency still holds: (due, an order or the id of one to
    cancel). One made of rows kept elsewhere may leave the market out."""

    orders: tuple[Standing, ...] = ()
    coming: tuple[tuple[int, BookOrder | int], ...] = ()
    bid: Quoted = Quoted()
    ask: Quoted = Quoted()
    last: int = 0
    last_size: int = 0
    last_event_ns: int = 0
    ts_event_ns: int = 0
    ts_recv_ns: int = 0


# --- the inside: integers at the instrument's scales ------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    order: BookOrder
    buys: bool
    left: int
    limit: int
    stop: int
    visible: int
    triggered: bool = False
    slice: int = 0
    queue: int = 0
    seniority: int = 0


@dataclass(slots=True)
class _Level:
    """Orders of one price in time priority. `queued`: no order has more than this ahead of it."""

    orders: dict[int, _Open] = field(default_factory=dict)
    queued: int = 0

    def cap(self, size: int, moved: set[int]) -> None:
        """No more than this is ahead of anyone. Whose queue is shorter then is added to `moved`."""
        if self.queued > size:
            for resting in self.orders.values():
                if resting.queue > size:
                    resting.queue = size
                    moved.add(resting.order.id)
            self.queued = size

    def eat(self, size: int, moved: set[int]) -> None:
        """So much of what stood ahead has traded. Whose queue is shorter then is added to `moved`."""
        if size and self.orders:
            for resting in self.orders.values():
                if 0 < resting.queue < _UNKNOWN:
                    resting.queue = max(0, resting.queue - size)
                    moved.add(resting.order.id)
            self.queued = max(resting.queue for resting in self.orders.values())


class _Ladder:
    """Orders by price. `falling`: they are reached by prices at or below theirs, the highest first; else the other way round."""

    def __init__(self, falling: bool) -> None:
        self.falling = falling
        self.levels: dict[int, _Level] = {}
        self._prices: list[int] = []

    def __len__(self) -> int:
        return len(self._prices)

    @property
    def best(self) -> int:
        return self._prices[-1] if self.falling else self._prices[0]

    @property
    def queued(self) -> int | None:
        """The best price at which somebody may stand ahead of an order of ours."""
        return next((price for price, level in self.in_order() if level.queued), None)

    def reached(self, price: int) -> bool:
        """Whether the best order's price is at or beyond this one."""
        return bool(self._prices) and (price <= self._prices[-1] if self.falling else price >= self._prices[0])

    def passed(self, price: int) -> bool:
        return bool(self._prices) and (price < self._prices[-1] if self.falling else price > self._prices[0])

    def hits(self, price: NDArray[np.int64]) -> NDArray[np.bool_]:
        return price <= self._prices[-1] if self.falling else price >= self._prices[0]

    def first(self) -> _Open:
        return next(iter(self.levels[self.best].orders.values()))

    def better_than(self, price: int) -> Iterator[_Level]:
        for mine in reversed(self._prices) if self.falling else iter(self._prices):
            if mine == price or (mine < price) == self.falling:
                return
            yield self.levels[mine]

    def in_order(self) -> Iterator[tuple[int, _Level]]:
        for price in reversed(self._prices) if self.falling else iter(self._prices):
            yield price, self.levels[price]

    def add(self, price: int, resting: _Open) -> _Level:
        level = self.levels.get(price)
        if level is None:
            level = self.levels[price] = _Level()
            insort(self._prices, price)
        level.orders[resting.order.id] = resting
        level.queued = max(level.queued, resting.queue)
        return level

    def remove(self, price: int, order_id: int) -> None:
        level = self.levels[price]
        del level.orders[order_id]
        if not level.orders:
            del self.levels[price]
            del self._prices[bisect_left(self._prices, price)]


@dataclass(slots=True)
class _Side:
    """One side of the market's quote, see Quoted."""

    is_bid: bool
    price: int = 0
    size: int = 0
    taken: int = 0
    traded: int = 0
    ts_event_ns: int = 0

    @property
    def taker_price(self) -> int:
        if not self.traded:
            return self.price
        return min(self.price, self.traded) if self.is_bid else max(self.price, self.traded)

    @property
    def available(self) -> int:
        return max(0, self.size - self.taken) if self.size else _UNKNOWN

    def told(self, price: int, size: int, ts_event_ns: int) -> None:
        self.price, self.size, self.taken, self.traded, self.ts_event_ns = price, size, 0, 0, ts_event_ns


class Matcher:
    """The market of one instrument and our orders in it."""

    def __init__(self, instrument: Instrument, models: Models, *, restore: Snapshot | None = None) -> None:
        self._instrument = instrument
        self._models = models
        self._tick = instrument.scaled_price(instrument.tick_size)
        self._lot = instrument.scaled_size(instrument.lot_size)
        self._orders: dict[int, _Open] = {}
        self._resting = {"buy": _Ladder(falling=True), "sell": _Ladder(falling=False)}
        # By the side of the order, then by whether a falling price triggers it.
        self._stops = {(side, falling): _Ladder(falling) for side in ("buy", "sell") for falling in (True, False)}
        self._coming: list[tuple[int, int, BookOrder | int]] = []  # due, sequence, an order or the id of one to cancel
        self._due: dict[int, int] = {}  # orders on their way
        self._sequence = 0
        self._bid = _Side(is_bid=True)
        self._ask = _Side(is_bid=False)
        self._last = self._last_size = self._last_event_ns = 0
        self._ts_event_ns = self._ts_recv_ns = 0
        self._widened = False
        self._moved: set[int] = set()
        self._changes: list[Change] = []
        if restore is not None:
            self._restore(restore)

    # --- what may happen -------------------------------------------------------------------------------------------------

    def submit(self, order: BookOrder, now_ns: int) -> list[Change]:
        """Acceptance or rejection and what trades at once. Raises ValueError for an id that is open already."""
        if order.id in self._orders or order.id in self._due:
            raise ValueError(f"order {order.id} of {self._instrument.symbol} is open already; ids are given once")
        try:
            self._check(order)
        except InvalidOrder as refusal:
            return [Rejected(order.id, refusal.code, refusal.detail, now_ns)]
        delay = self._models.latency.delay_ns(order.id)
        if delay:
            self._send(now_ns + delay, order)
            return []
        self._arrive(order, now_ns)
        return self._told()

    def cancel(self, order_id: int, now_ns: int) -> list[Change]:
        due = max(now_ns + self._models.latency.delay_ns(order_id), self._due.get(order_id, 0))
        if due > now_ns:
            self._send(due, order_id)
            return []
        self._cancel(order_id, now_ns)
        return self._told()

    def on_time(self, now_ns: int) -> list[Change]:
        """Orders and cancels whose latency is over."""
        self._arrivals(now_ns)
        return self._told()

    def on_ticks(self, batch: TickBatch, rows: NDArray[np.intp]) -> list[Change]:
        """The rows of this instrument, in order. Rows that touch none of our orders cost vector work only."""
        if not len(rows):
            return []
        ticks = _Rows(batch, rows)
        at, end = 0, len(rows)
        while at < end:
            stop, due = end, None
            if self._coming:
                due = self._coming[0][0]
                stop = at + int(np.searchsorted(ticks.ts_recv[at:], due, side="left"))
            at = self._match(ticks, at, stop)
            if due is not None and at == stop < end:
                self._arrivals(due)
        return self._told()

    # --- what can be seen ------------------------------------------------------------------------------------------------

    def next_due(self) -> int | None:
        """When `on_time` has something to do; None: nothing is on its way."""
        return self._coming[0][0] if self._coming else None

    def reach(self) -> tuple[int, int, int, int, int, int]:
        """The prices at which a row may change something of ours: at or below the first and at or above the second for a trade, the
        next two for a bid, the last two for an ask. Holds until an order of ours changes. More rows are in reach than do change something.
        """
        if not self._orders:
            return _NOTHING_IN_REACH
        low = {"trade": _NEVER_BELOW, "buy": _NEVER_BELOW, "sell": _NEVER_BELOW}  # a bid by "buy", an ask by "sell"
        high = {"trade": _NEVER_ABOVE, "buy": _NEVER_ABOVE, "sell": _NEVER_ABOVE}
        for side, opposite in (("buy", "sell"), ("sell", "buy")):
            resting = self._resting[side]
            stops = [self._stops[side, falling] for falling in (True, False)]
            by_trades = [ladder for ladder in (resting, *stops) if ladder]
            by_quotes = [ladder for ladder in ((resting,) if self._last else (resting, *stops)) if ladder]
            for row, ladders in (("trade", by_trades), (opposite, by_quotes)):
                for ladder in ladders:
                    if ladder.falling:
                        low[row] = max(low[row], ladder.best)
                    else:
                        high[row] = min(high[row], ladder.best)
            if resting and (queued := resting.queued) is not None:
                if side == "buy":
                    low[side] = max(low[side], queued)
                else:
                    high[side] = min(high[side], queued)
        return low["trade"], high["trade"], low["buy"], high["buy"], low["sell"], high["sell"]

    def went_by(self, ticks: Columns, trade: int, bid: int, ask: int, last: int) -> None:
        """Rows of this instrument out of `reach` have passed, with nothing due: the newest of each kind (-1: none was), the last of all."""
        for side, row in ((self._bid, bid), (self._ask, ask)):
            if row >= 0:
                side.told(int(ticks.price[row]), int(ticks.size[row]), int(ticks.ts_event[row]))
            if trade > row:
                side.traded = int(ticks.price[trade])
        if trade >= 0:
            self._saw_trade(ticks, trade)
        self._ts_event_ns, self._ts_recv_ns = int(ticks.ts_event[last]), int(ticks.ts_recv[last])

    def on_row(self, ticks: Columns, row: int) -> list[Change]:
        """One row of this instrument, with nothing due before it."""
        self._meet(ticks, row)
        return self._told()

    def top(self) -> Top:
        price, size = self._instrument.price, self._instrument.size
        return Top(
            bid=price(self._bid.price) if self._bid.price else None,
            ask=price(self._ask.price) if self._ask.price else None,
            last=price(self._last) if self._last else None,
            bid_size=size(self._bid.size) if self._bid.size else None,
            ask_size=size(self._ask.size) if self._ask.size else None,
            ts_event_ns=self._ts_event_ns,
            ts_recv_ns=self._ts_recv_ns,
        )

    def depth(self, levels: int = 100) -> Depth:
        """The market's top with what waits here of ours behind it; of an iceberg, its slice."""
        bids = self._levels(self._bid, self._resting["buy"], levels)
        asks = self._levels(self._ask, self._resting["sell"], levels)
        return Depth(bids, asks)

    def resting(self) -> list[Standing]:
        """Every order in the book, in time priority."""
        return [self._standing(resting) for resting in sorted(self._orders.values(), key=lambda resting: resting.seniority)]

    def standing(self, order_id: int) -> Standing | None:
        """An order in the book, or None."""
        found = self._orders.get(order_id)
        return None if found is None else self._standing(found)

    def take_moved(self) -> set[int]:
        """Orders in the book that stand elsewhere, or came into it, since this was last asked: what a keeper of them must write."""
        moved, self._moved = self._moved, set()
        return moved

    def preview(self, side: Side, quantity: Decimal, limit_price: Decimal | None = None) -> list[tuple[Decimal, Decimal]]:
        """(price, quantity) of what an order would take if it arrived now: market without a limit. Changes nothing."""
        limit = None if limit_price is None else self._instrument.scaled_price(limit_price)
        pieces = self._walk(side, self._instrument.scaled_size(quantity), limit)
        return [(self._instrument.price(price), self._instrument.size(part)) for price, part in pieces]

    def quantity_for(self, side: Side, amount: Decimal) -> Decimal:
        """The most a market order can trade now for this much of the quote currency, in whole lots; 0 where that is none."""
        low, high = 0, self._instrument.scaled_size(self._instrument.max_quantity) // self._lot
        while low < high:
            middle = (low + high + 1) // 2
            pieces = self._walk(side, middle * self._lot, None)
            price, size = self._instrument.price, self._instrument.size
            cost = money.add(*(self._instrument.notional(size(part), price(at)) for at, part in pieces))
            if cost <= amount and sum(part for _, part in pieces) == middle * self._lot:
                low = middle
            else:
                high = middle - 1
        return self._instrument.size(low * self._lot)

    def snapshot(self) -> Snapshot:
        """Enough for another Matcher to go on as this one would."""
        coming = tuple((due, item) for due, _, item in sorted(self._coming))
        return replace(self.market(), orders=tuple(self.resting()), coming=coming)

    def market(self) -> Snapshot:
        """What is remembered beside the orders, whose rows somebody else keeps."""
        return Snapshot(
            bid=_quoted(self._bid),
            ask=_quoted(self._ask),
            last=self._last,
            last_size=self._last_size,
            last_event_ns=self._last_event_ns,
            ts_event_ns=self._ts_event_ns,
            ts_recv_ns=self._ts_recv_ns,
        )

    # --- arrivals --------------------------------------------------------------------------------------------------------

    def _send(self, due_ns: int, item: BookOrder | int) -> None:
        self._sequence += 1
        heappush(self._coming, (due_ns, self._sequence, item))
        if isinstance(item, BookOrder):
            self._due[item.id] = due_ns

    def _arrivals(self, now_ns: int) -> None:
        while self._coming and self._coming[0][0] <= now_ns:
            due, _, item = heappop(self._coming)
            if isinstance(item, BookOrder):
                del self._due[item.id]
                self._arrive(item, due)
            else:
                self._cancel(item, due)

    def _check(self, order: BookOrder) -> None:
        """Raises InvalidOrder for what no market takes."""
        instrument = self._instrument
        if order.type not in _TYPES or order.side not in ("buy", "sell") or order.time_in_force not in ("GTC", "IOC", "FOK"):
            raise InvalidOrder("ORDER_NOT_SUPPORTED", f"{order.side} {order.type} {order.time_in_force}")
        instrument.check_quantity(order.quantity)
        for name, price, wanted in (
            ("limit price", order.limit_price, order.type in _LIMITED),
            ("stop price", order.stop_price, order.type in _STOPS),
        ):
            if (price is not None) != wanted:
                raise InvalidOrder("PRICE_MISSING" if wanted else "PRICE_NOT_USED", f"a {order.type} order with {name} {price}")
            if price is not None:
                instrument.check_price(price)
                try:
                    instrument.scaled_price(price)
                except money.MoneyError as error:
                    raise InvalidOrder("PRICE_EXCEEDS_MAXIMUM", str(error)) from None
        if order.visible is not None:
            if order.type not in _LIMITED or order.time_in_force != "GTC":
                raise InvalidOrder("ICEBERG_NOT_SUPPORTED", f"a {order.type} {order.time_in_force} order cannot be an iceberg")
            instrument.check_quantity(order.visible)
            if order.visible * MAX_ICEBERG_PARTS < order.quantity:
                raise InvalidOrder("ICEBERG_TOO_MANY_PARTS", f"{order.quantity} in slices of {order.visible}: at most {MAX_ICEBERG_PARTS}")

    def _arrive(self, order: BookOrder, now_ns: int) -> None:
        refusal = self._refusal(order, now_ns)
        if refusal is not None:
            self._changes.append(Rejected(order.id, *refusal, now_ns))
            return
        self._changes.append(Accepted(order.id, now_ns))
        arrived = self._open(Standing(order, order.quantity))
        if order.type in _STOPS:
            self._place(arrived)
        else:
            self._enter(arrived, now_ns)

    def _refusal(self, order: BookOrder, now_ns: int) -> tuple[str, str] | None:
        symbol, oldest = self._instrument.symbol, self._models.max_data_age_ns
        if not self._ts_recv_ns:
            return "NO_MARKET", f"no price of {symbol} was ever seen"
        if oldest is not None and now_ns - self._ts_recv_ns > oldest:
            return "NO_MARKET", f"the newest price of {symbol} is {(now_ns - self._ts_recv_ns) / 1e9:.1f} s old"
        price = self._taker_price(order.side)
        if order.type == "market" and price is None:
            return "NO_MARKET", f"nobody to trade {symbol} with"
        if order.type == "limit_maker" and price is not None and order.limit_price is not None:
            limit = self._instrument.scaled_price(order.limit_price)
            if price <= limit if order.side == "buy" else price >= limit:
                return "WOULD_TAKE", f"{self._instrument.price(price)} is there to be taken"
        if order.type in _STOPS and order.stop_price is not None and (seen := self._last or price):
            stop = self._instrument.scaled_price(order.stop_price)
            if seen <= stop if _falls(order) else seen >= stop:
                return "WOULD_TRIGGER", f"the market is at {self._instrument.price(seen)} already"
        return None

    def _open(self, standing: Standing) -> _Open:
        order, scaled = standing.order, self._instrument.scaled_price
        left = self._instrument.scaled_size(standing.remaining)
        visible = left if order.visible is None else self._instrument.scaled_size(order.visible)
        return _Open(
            order=order,
            buys=order.side == "buy",
            left=left,
            limit=0 if order.limit_price is None else scaled(order.limit_price),
            stop=0 if order.stop_price is None else scaled(order.stop_price),
            visible=visible,
            triggered=standing.triggered,
            slice=min(left, visible) if standing.slice_left is None else self._instrument.scaled_size(standing.slice_left),
            queue=_UNKNOWN if standing.queue_ahead is None else self._instrument.scaled_size(standing.queue_ahead),
        )

    def _enter(self, arrived: _Open, now_ns: int) -> None:
        """An order that may trade at once does; what is left waits or expires."""
        order = arrived.order
        limit = arrived.limit or None
        pieces = self._walk(order.side, arrived.left, limit)
        if order.time_in_force == "FOK" and limit is not None and sum(part for _, part in pieces) < arrived.left:
            pieces = []
        quote = self._opposite(order.side)
        ts_event_ns = quote.ts_event_ns if quote.price else self._last_event_ns
        for price, part in pieces:
            quote.taken += part
            arrived.left -= part
            self._executed(order.id, price, part, "taker", ts_event_ns, now_ns)
        if not arrived.left:
            return
        if limit is None or order.time_in_force != "GTC":
            self._changes.append(Expired(order.id, now_ns))
            return
        arrived.slice = min(arrived.left, arrived.visible)
        arrived.queue = self._queue_at(order.side, arrived.limit)
        self._place(arrived)

    def _cancel(self, order_id: int, now_ns: int) -> None:
        found = self._orders.get(order_id)
        if found is None:
            self._changes.append(CancelRefused(order_id, now_ns))
            return
        self._take_out(found)
        self._changes.append(Canceled(order_id, now_ns))

    # --- ticks -----------------------------------------------------------------------------------------------------------

    def _match(self, ticks: _Rows, at: int, stop: int) -> int:
        """Go through the rows up to `stop`, or up to one that makes other rows matter than before. The next row to look at."""
        self._widened = False
        for row in self._touching(ticks, at, stop):
            self._pass_over(ticks, at, row)
            self._meet(ticks, row)
            at = row + 1
            if self._widened:
                return at
        self._pass_over(ticks, at, stop)
        return stop

    def _touching(self, ticks: _Rows, at: int, stop: int) -> list[int]:
        """The rows that may change something about our orders; more than do, never fewer."""
        if not self._orders or at == stop:
            return []
        part = slice(at, stop)
        price, is_trade, is_bid, is_ask = ticks.price[part], ticks.is_trade[part], ticks.is_bid[part], ticks.is_ask[part]
        touching = np.zeros(stop - at, dtype=np.bool_)
        for side, own, opposite in (("buy", is_bid, is_ask), ("sell", is_ask, is_bid)):
            resting = self._resting[side]
            if resting:
                touching |= (is_trade | opposite) & resting.hits(price)
                if (queued := resting.queued) is not None:
                    touching |= own & (price <= queued if side == "buy" else price >= queued)
            for falling in (True, False):
                stops = self._stops[side, falling]
                if stops:
                    touching |= (is_trade if self._last else is_trade | opposite) & stops.hits(price)
        rows: list[int] = (np.flatnonzero(touching) + at).tolist()
        return rows

    def _pass_over(self, ticks: _Rows, at: int, stop: int) -> None:
        """Rows that touch nothing only leave the market as the newest of them say."""
        if at == stop:
            return
        self.went_by(
            ticks,
            ticks.newest(ticks.trades, at, stop),
            ticks.newest(ticks.bids, at, stop),
            ticks.newest(ticks.asks, at, stop),
            stop - 1,
        )

    def _saw_trade(self, ticks: Columns, row: int) -> None:
        self._last, self._last_size, self._last_event_ns = int(ticks.price[row]), int(ticks.size[row]), int(ticks.ts_event[row])

    def _meet(self, ticks: Columns, row: int) -> None:
        """One row, and all it does to our orders."""
        price, size, flags = int(ticks.price[row]), int(ticks.size[row]), int(ticks.flags[row])
        ts_event_ns, now_ns = int(ticks.ts_event[row]), int(ticks.ts_recv[row])
        self._ts_event_ns, self._ts_recv_ns = ts_event_ns, now_ns
        if flags & TRADE:
            self._saw_trade(ticks, row)
            self._bid.traded = self._ask.traded = price
            self._on_trade(price, size, flags, ts_event_ns, now_ns)
            self._fire(price, tuple(self._stops.values()), now_ns)
            return
        quote, own, opposite = (self._bid, "buy", "sell") if flags & BID else (self._ask, "sell", "buy")
        quote.told(price, size, ts_event_ns)
        for level in self._resting[own].better_than(price):
            level.cap(0, self._moved)
        if size and (joined := self._resting[own].levels.get(price)):
            joined.cap(size, self._moved)
        left = self._sweep(self._resting[opposite], price, size or _UNKNOWN, True, ts_event_ns, now_ns)
        quote.taken = (size or _UNKNOWN) - left
        if not self._last:
            self._fire(price, (self._stops[opposite, True], self._stops[opposite, False]), now_ns)

    def _on_trade(self, price: int, size: int, flags: int, ts_event_ns: int, now_ns: int) -> None:
        left = size or _UNKNOWN
        for side, own_aggressor in (("buy", BUY_AGGRESSOR), ("sell", SELL_AGGRESSOR)):
            ladder = self._resting[side]
            left = self._sweep(ladder, price, left, False, ts_event_ns, now_ns)
            level = ladder.levels.get(price)
            if level is not None and left >= self._lot and not flags & own_aggressor:
                left = self._eat(ladder, level, left, bool(size), ts_event_ns, now_ns)

    def _sweep(self, ladder: _Ladder, price: int, left: int, at_price: bool, ts_event_ns: int, now_ns: int) -> int:
        """Fill orders which this price went through (or came to), best first. What is left of the tick."""
        while left >= self._lot and (ladder.reached(price) if at_price else ladder.passed(price)):
            left = self._make(ladder, ladder.first(), left, ts_event_ns, now_ns)
        return left

    def _eat(self, ladder: _Ladder, level: _Level, left: int, known: bool, ts_event_ns: int, now_ns: int) -> int:
        """A trade at the price of a level: those ahead of each order first, then the order. What is left of the tick."""
        eaten = 0
        for resting in list(level.orders.values()):
            ahead = resting.queue - eaten
            if ahead > 0:
                if resting.queue == _UNKNOWN or not known:
                    break
                bite = min(ahead, left)
                eaten, left = eaten + bite, left - bite
            if left < self._lot:
                break
            left = self._make(ladder, resting, left, ts_event_ns, now_ns)
        level.eat(eaten, self._moved)
        return left

    def _make(self, ladder: _Ladder, resting: _Open, left: int, ts_event_ns: int, now_ns: int) -> int:
        """Fill a waiting order at its own price with at most `left`. What is left of it."""
        part = min(resting.slice, left)
        part -= part % self._lot
        resting.left -= part
        resting.slice -= part
        self._moved.add(resting.order.id)
        self._executed(resting.order.id, resting.limit, part, "maker", ts_event_ns, now_ns)
        if not resting.slice:
            self._take_out(resting)
            if resting.left:
                resting.slice = min(resting.left, resting.visible)
                resting.queue = self._queue_at(resting.order.side, resting.limit)
                self._place(resting)
        return left - part

    def _fire(self, price: int, ladders: tuple[_Ladder, ...], now_ns: int) -> None:
        """Stops this price has reached, in the order they came."""
        fired: list[_Open] = []
        for ladder in ladders:
            while ladder.reached(price):
                fired.append(ladder.first())
                self._take_out(fired[-1])
        for stop in sorted(fired, key=lambda stop: stop.seniority):
            stop.triggered = True
            self._changes.append(Triggered(stop.order.id, now_ns))
            self._enter(stop, now_ns)

    # --- the book --------------------------------------------------------------------------------------------------------

    def _ladder_of(self, resting: _Open) -> tuple[_Ladder, int]:
        if resting.order.type in _STOPS and not resting.triggered:
            return self._stops[resting.order.side, _falls(resting.order)], resting.stop
        return self._resting[resting.order.side], resting.limit

    def _place(self, resting: _Open) -> None:
        """At the end of its price."""
        ladder, price = self._ladder_of(resting)
        self._sequence += 1
        resting.seniority = self._sequence
        self._orders[resting.order.id] = resting
        level = ladder.add(price, resting)
        self._moved.add(resting.order.id)
        if resting.queue < _UNKNOWN:
            level.cap(resting.queue, self._moved)
        self._widened = True

    def _take_out(self, resting: _Open) -> None:
        ladder, price = self._ladder_of(resting)
        ladder.remove(price, resting.order.id)
        del self._orders[resting.order.id]
        self._moved.discard(resting.order.id)

    def _opposite(self, side: Side) -> _Side:
        return self._ask if side == "buy" else self._bid

    def _taker_price(self, side: Side) -> int | None:
        return self._opposite(side).taker_price or self._last or None

    def _queue_at(self, side: Side, price: int) -> int:
        """What stands at a price now: nothing ahead of the best, what is shown at it, unknown behind it."""
        own = self._bid if side == "buy" else self._ask
        if not own.price:
            return _UNKNOWN
        if price == own.price:
            return own.size or _UNKNOWN
        return 0 if (price > own.price) == (side == "buy") else _UNKNOWN

    def _walk(self, side: Side, wanted: int, limit: int | None) -> list[tuple[int, int]]:
        """What a taker gets now, at scaled prices and sizes."""
        quote, buys = self._opposite(side), side == "buy"
        price = self._taker_price(side)
        if price is None or (limit is not None and (price > limit if buys else price < limit)):
            return []
        known = bool(quote.price and quote.size)
        if not known and limit is None:
            reference = quote.size or self._last_size
            return [(self._behind(price, buys, wanted, reference), wanted)]
        top = self._whole(min(wanted, quote.available if known else wanted))
        pieces = [(price, top)] if top else []
        if limit is None and top < wanted:
            before = max(0, quote.taken - quote.size)
            room = int(_WIDE.multiply(Decimal(quote.size), self._models.depth)) - quote.size - before
            behind = self._whole(min(wanted - top, max(0, room)))
            if behind:
                worse = self._behind(price, buys, before + behind, quote.size)
                pieces = [(price, top + behind)] if worse == price else [*pieces, (worse, behind)]
        return pieces

    def _whole(self, size: int) -> int:
        return size - size % self._lot

    def _behind(self, price: int, buys: bool, taken: int, shown: int) -> int:
        """The price of what is taken from behind the top, a whole number of ticks away from it."""
        size = self._instrument.size
        distance = self._models.slippage.distance(size(taken), size(shown) if shown else None)
        ticks = _WIDE.divide(_WIDE.multiply(Decimal(price), distance), Decimal(self._tick)).to_integral_value(ROUND_CEILING)
        return price + int(ticks) * self._tick if buys else max(self._tick, price - int(ticks) * self._tick)

    # --- telling and keeping ---------------------------------------------------------------------------------------------

    def _told(self) -> list[Change]:
        changes, self._changes = self._changes, []
        return changes

    def _executed(self, order_id: int, price: int, part: int, liquidity: Liquidity, ts_event_ns: int, now_ns: int) -> None:
        exact = self._instrument
        self._changes.append(Executed(order_id, exact.price(price), exact.size(part), liquidity, ts_event_ns, now_ns))

    def _levels(self, quote: _Side, ladder: _Ladder, limit: int) -> tuple[Level, ...]:
        waiting: dict[int, int | None] = {}
        for price, level in ladder.in_order():
            if len(waiting) == limit:
                break
            waiting[price] = sum(resting.slice for resting in level.orders.values())
        if quote.price:
            ours = waiting.get(quote.price) or 0
            waiting[quote.price] = quote.size + ours if quote.size else None
        return tuple(
            Level(self._instrument.price(price), None if size is None else self._instrument.size(size))
            for price, size in sorted(waiting.items(), reverse=quote.is_bid)[:limit]
        )

    def _standing(self, resting: _Open) -> Standing:
        size = self._instrument.size
        return Standing(
            order=resting.order,
            remaining=size(resting.left),
            queue_ahead=None if resting.queue == _UNKNOWN else size(resting.queue),
            triggered=resting.triggered,
            slice_left=size(resting.slice),
            seniority=resting.seniority,
        )

    def _restore(self, kept: Snapshot) -> None:
        for side, quoted in ((self._bid, kept.bid), (self._ask, kept.ask)):
            side.told(quoted.price, quoted.size, quoted.ts_event_ns)
            side.taken, side.traded = quoted.taken, quoted.traded
        self._last, self._last_size, self._last_event_ns = kept.last, kept.last_size, kept.last_event_ns
        self._ts_event_ns, self._ts_recv_ns = kept.ts_event_ns, kept.ts_recv_ns
        for standing in kept.orders:
            if standing.order.type == "market":
                raise ValueError(f"order {standing.order.id}: a market order does not wait, it cannot be restored")
            self._sequence = max(self._sequence, standing.seniority - 1)
            self._place(self._open(standing))
        self._moved.clear()
        for due, item in kept.coming:
            self._send(due, item)


class _Rows:
    """The rows of one instrument as columns, and where its bids, asks and trades are."""

    def __init__(self, batch: TickBatch, rows: NDArray[np.intp]) -> None:
        whole = len(rows) == len(batch)
        self.price = batch.price if whole else batch.price[rows]
        self.size = batch.size if whole else batch.size[rows]
        self.flags = batch.flags if whole else batch.flags[rows]
        self.ts_event = batch.ts_event if whole else batch.ts_event[rows]
        self.ts_recv = batch.ts_recv if whole else batch.ts_recv[rows]
        self.is_trade = (self.flags & TRADE) != 0
        self.is_bid = (self.flags & BID) != 0
        self.is_ask = (self.flags & ASK) != 0
        self.trades = np.flatnonzero(self.is_trade)
        self.bids = np.flatnonzero(self.is_bid)
        self.asks = np.flatnonzero(self.is_ask)

    @staticmethod
    def newest(of: NDArray[np.intp], at: int, stop: int) -> int:
        """The last of these rows within [at, stop), or -1."""
        position = int(np.searchsorted(of, stop, side="left")) - 1
        return int(of[position]) if position >= 0 and of[position] >= at else -1


def _falls(order: BookOrder) -> bool:
    """Whether a falling price triggers it."""
    return (order.side == "sell") == (order.type in ("stop_loss", "stop_loss_limit"))


def _quoted(side: _Side) -> Quoted:
    return Quoted(side.price, side.size, side.taken, side.traded, side.ts_event_ns)
