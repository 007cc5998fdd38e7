"""The venue itself: accounts, orders, trades and timers, and what requests, ticks and time do to them. No I/O, no clock.

Every change is noted in `changes`; the service commits what has been noted and only then lets anybody know of it. After a
commit that failed the exchange is thrown away and built anew from what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from trading_platform import money
from trading_platform.batches import TickBatch
from trading_platform.config import PaperVenueSettings
from trading_platform.domain import matching, models
from trading_platform.domain.matching import BookOrder, Change, Matcher
from trading_platform.domain.models import Models
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.messages import Side as PlatformSide
from trading_platform.paper_venue import errors, filters, shapes
from trading_platform.paper_venue.filters import OrderRequest
from trading_platform.paper_venue.funds import LEVERAGE, ZERO, Balance, InsufficientFunds, Wallet, base_asset, cost_bound, venue_symbol
from trading_platform.paper_venue.shapes import Document, Order, Trade

ALL_SYMBOLS = "*"
# A stop that buys at market holds this much more than its stop price asks for: where it trades is not known yet.
STOP_MARGIN = Decimal("1.05")

_BOOK_TYPES: Mapping[str, matching.BookOrderType] = {
    "LIMIT": "limit",
    "LIMIT_MAKER": "limit_maker",
    "MARKET": "market",
    "STOP_LOSS": "stop_loss",
    "STOP_LOSS_LIMIT": "stop_loss_limit",
    "TAKE_PROFIT": "take_profit",
    "TAKE_PROFIT_LIMIT": "take_profit_limit",
}
_REJECTIONS: Mapping[str, str] = {
    "NO_MARKET": errors.MARKET_CLOSED,
    "WOULD_TAKE": errors.WOULD_TAKE,
    "WOULD_TRIGGER": errors.WOULD_TRIGGER,
}


@dataclass(frozen=True, slots=True)
class Timer:
    """A dead-man timer: at `due_ms` everything open of the account and symbol is canceled."""

    account: str
    symbol: str
    countdown_ms: int
    due_ms: int


@dataclass(slots=True)
class Changes:
    """What has changed since the last commit, and what to tell afterwards."""

    orders: dict[int, Order] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    balances: set[tuple[str, str]] = field(default_factory=set)
    timers: dict[tuple[str, str], Timer | None] = field(default_factory=dict)
    books: set[int] = field(default_factory=set)
    moved: set[int] = field(default_factory=set)  # orders that stand elsewhere in their book
    events: list[tuple[str, Document]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.orders or self.trades or self.balances or self.timers)


@dataclass(slots=True)
class State:
    """What the exchange starts with: nothing, or what is stored."""

    wallets: dict[str, Wallet]
    orders: list[Order] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    books: dict[int, matching.Snapshot] = field(default_factory=dict)
    last_order_id: int = 0
    last_trade_ids: dict[int, int] = field(default_factory=dict)


def models_of(settings: PaperVenueSettings) -> Models:
    """The market's models as configured."""
    return models.simulated(
        maker_fee_bps=settings.maker_fee_bps,
        taker_fee_bps=settings.taker_fee_bps,
        slippage_bps=settings.slippage_bps,
        slippage_impact=settings.slippage_impact,
        depth=settings.depth,
        latency_ms=money.parse(str(settings.latency_ms)),
        latency_jitter_ms=money.parse(str(settings.latency_jitter_ms)),
        max_data_age_s=money.parse(str(settings.max_data_age_s)),
        seed=1,
    )


class Exchange:
    """All accounts and all instruments."""

    def __init__(self, catalogue: Catalogue, settings: PaperVenueSettings, state: State) -> None:
        self.instruments = {venue_symbol(instrument.symbol): instrument for instrument in catalogue}
        self.models = models_of(settings)
        self.wallets = state.wallets
        self.changes = Changes()
        self.maker_rate = self.models.fees.rate("maker")
        self.taker_rate = self.models.fees.rate("taker")
        self._settings = settings
        self._fee_in_quote = settings.fee_asset == "quote"
        self._dearest = max(self.maker_rate, self.taker_rate, ZERO)
        self._orders: dict[int, Order] = {}
        self._by_client: dict[tuple[str, str], Order] = {}
        self._of_account: dict[tuple[str, int], dict[int, Order]] = {}
        for order in state.orders:
            self._remember(order)
        self._timers = {(timer.account, timer.symbol): timer for timer in state.timers}
        self._last_order_id = state.last_order_id
        self._last_trade_ids = dict(state.last_trade_ids)
        self._known: set[tuple[str, str]] = set()
        # A request waits before its turn, in the service: what is answered here has arrived.
        arrived = replace(self.models, latency=models.NO_LATENCY)
        self._books = {instrument.id: Matcher(instrument, arrived, restore=state.books.get(instrument.id)) for instrument in catalogue}
        self._by_id = {instrument.id: instrument for instrument in catalogue}

    # --- what can be seen -------------------------------------------------------------------------------------------------

    def instrument(self, symbol: str) -> Instrument:
        """Raises -1121."""
        try:
            return self.instruments[symbol]
        except KeyError:
            raise errors.invalid_symbol() from None

    def book(self, instrument: Instrument) -> Matcher:
        return self._books[instrument.id]

    def market(self, instrument_id: int) -> matching.Snapshot:
        """What a book remembers of the market, without the orders in it."""
        return self._books[instrument_id].market()

    def standing(self, order_id: int) -> matching.Standing | None:
        """Where an order stands in its book; None for one that is not open."""
        order = self._orders.get(order_id)
        return None if order is None else self._books[order.instrument.id].standing(order_id)

    def max_open_orders(self, instrument: Instrument, account: str | None = None) -> int:
        """How many orders an account may have open in an instrument; without one, what is said of the instrument."""
        of_account, of_symbol = self._settings.max_open_orders_by_account, self._settings.max_open_orders_by_symbol
        if account is not None and account in of_account:
            return of_account[account]
        return of_symbol.get(instrument.symbol, self._settings.max_open_orders)

    def open_orders(self, account: str, symbol: str | None = None) -> list[Order]:
        """Oldest first."""
        wanted = self.instruments.values() if symbol is None else [self.instrument(symbol)]
        found = [order for instrument in wanted for order in self._open(account, instrument).values()]
        return sorted(found, key=lambda order: order.order_id)

    def _open(self, account: str, instrument: Instrument) -> dict[int, Order]:
        return self._of_account.get((account, instrument.id), {})

    def find_open(self, account: str, instrument: Instrument, order_id: int | None, client_order_id: str | None) -> Order | None:
        """An open order by its id, or by its client's; both must fit where both are given."""
        order = self._orders.get(order_id) if order_id is not None else self._by_client.get((account, client_order_id or ""))
        if order is None or order.account != account or order.instrument.id != instrument.id:
            return None
        return order if client_order_id in (None, order.client_order_id) else None

    def next_timer_ms(self) -> int | None:
        return min((timer.due_ms for timer in self._timers.values()), default=None)

    def has_changes(self) -> bool:
        """Whether anything but the market has changed."""
        return bool(self.changes) or any(wallet.changed for wallet in self.wallets.values())

    def take_changes(self) -> Changes:
        """What has been noted since the last call."""
        for account, wallet in self.wallets.items():
            self.changes.balances.update((account, asset) for asset in wallet.changed)
            wallet.changed.clear()
        for instrument_id in self.changes.books:
            self.changes.moved |= self._books[instrument_id].take_moved()
        changes, self.changes = self.changes, Changes()
        return changes

    def begin(self, known: Iterable[tuple[str, str]]) -> None:
        """A new group of requests, of whose client ids these were used before."""
        self._known = set(known)

    # --- requests ---------------------------------------------------------------------------------------------------------

    def place(self, request: OrderRequest, now_ms: int) -> tuple[Order, list[Trade]]:
        """A new order and what it traded at once. Raises VenueError; nothing has changed then."""
        instrument, account = request.instrument, request.account
        identity = (account, request.client_order_id)
        if identity in self._known or identity in self._by_client:
            raise errors.rejected(errors.DUPLICATE_ORDER)
        book = self._books[instrument.id]
        if len(self._open(account, instrument)) >= self.max_open_orders(instrument, account):
            raise errors.filter_failure("MAX_NUM_ORDERS")
        now_ns = now_ms * 1_000_000
        quantity = request.quantity or self._quantity_for(book, request)
        bound = self._bound(book, request, quantity)
        wallet = self.wallets[account]
        self._check_margin(account, request, quantity, bound)
        try:
            hold = wallet.hold(instrument, request.side, quantity, bound, self._fee_on_top(request), self._usable(request))
        except InsufficientFunds:
            raise errors.rejected(errors.INSUFFICIENT_FUNDS) from None
        order_id = self._last_order_id + 1
        changes = book.submit(self._book_order(request, order_id, quantity), now_ns)
        if changes and isinstance(refusal := changes[0], matching.Rejected):
            wallet.release(hold)
            raise errors.rejected(_REJECTIONS.get(refusal.code, f"{refusal.code}: {refusal.detail}"))
        self._last_order_id = order_id
        order = Order(
            order_id=order_id,
            account=account,
            client_order_id=request.client_order_id,
            instrument=instrument,
            side=request.side,
            type=request.type,
            time_in_force=request.time_in_force,
            quantity=quantity,
            quote_quantity=request.quote_quantity,
            price=request.price,
            stop_price=request.stop_price,
            iceberg_quantity=request.iceberg_quantity,
            status="NEW",
            executed=ZERO,
            executed_quote=ZERO,
            hold=hold,
            working=not request.stop_price,
            reason=None,
            created_ms=now_ms,
            updated_ms=now_ms,
            working_ms=-1 if request.stop_price else now_ms,
        )
        self._remember(order)
        self._known.add(identity)
        first = len(self.changes.trades)
        self._note(order)
        self._tell(account, shapes.execution_report(order, "NEW", now_ms))
        self._apply(changes, now_ms)
        self._tell_balances(account, now_ms)
        return order, [trade for trade in self.changes.trades[first:] if trade.order_id == order_id]

    def test(self, request: OrderRequest) -> None:
        """What can be said about an order without placing it. Raises VenueError."""
        if (request.account, request.client_order_id) in self._by_client:
            raise errors.rejected(errors.DUPLICATE_ORDER)

    def cancel(self, order: Order, now_ms: int, cancel_id: str) -> Order:
        """Raises -2011 when it is not open any more."""
        if order.order_id not in self._orders:
            raise errors.unknown_order()
        changes = self._books[order.instrument.id].cancel(order.order_id, now_ms * 1_000_000)
        self._apply(changes, now_ms, cancel_id)
        if order.status != "CANCELED":
            raise errors.unknown_order()
        self._tell_balances(order.account, now_ms)
        return order

    def cancel_all(self, account: str, symbol: str | None, now_ms: int, new_id: Callable[[], str]) -> list[tuple[Order, str]]:
        """Everything open of the account (and symbol), with the ids of the cancels."""
        done = []
        for order in self.open_orders(account, symbol):
            cancel_id = new_id()
            done.append((self.cancel(order, now_ms, cancel_id), cancel_id))
        return done

    def set_timer(self, account: str, symbol: str, countdown_ms: int, now_ms: int) -> None:
        """Arm, or with 0 disarm, a dead-man timer."""
        key = (account, symbol)
        if countdown_ms == 0:
            if self._timers.pop(key, None) is not None:
                self.changes.timers[key] = None
            return
        timer = Timer(account, symbol, countdown_ms, now_ms + countdown_ms)
        self._timers[key] = self.changes.timers[key] = timer

    # --- the market and time ----------------------------------------------------------------------------------------------

    def on_ticks(self, batch: TickBatch, now_ms: int) -> None:
        """Match a batch of the market's ticks."""
        for instrument_id in np.unique(batch.instrument):
            book = self._books.get(int(instrument_id))
            if book is None:
                continue
            rows: NDArray[np.intp] = np.flatnonzero(batch.instrument == instrument_id)
            self.changes.books.add(int(instrument_id))
            happened = book.on_ticks(batch, rows)
            if happened:
                self._apply(happened, now_ms)
                for account in {order.account for order in self.changes.orders.values()}:
                    self._tell_balances(account, now_ms)

    def on_time(self, now_ms: int) -> list[Timer]:
        """Let the timers that are due fire; which they were."""
        due = [timer for timer in self._timers.values() if timer.due_ms <= now_ms]
        for timer in due:
            del self._timers[(timer.account, timer.symbol)]
            self.changes.timers[(timer.account, timer.symbol)] = None
            self.cancel_all(timer.account, None if timer.symbol == ALL_SYMBOLS else timer.symbol, now_ms, filters.new_client_id)
        return due

    # --- what changes mean ------------------------------------------------------------------------------------------------

    def _apply(self, happened: list[Change], now_ms: int, cancel_id: str | None = None) -> None:
        for change in happened:
            order = self._orders.get(change.order_id)
            if order is None:
                continue
            match change:
                case matching.Triggered():
                    order.working, order.working_ms, order.updated_ms = True, now_ms, now_ms
                    self._note(order)
                    self._tell(order.account, shapes.execution_report(order, "NEW", now_ms))
                case matching.Executed():
                    self._execute(order, change, now_ms)
                case matching.Canceled():
                    self._end(order, "CANCELED", None, now_ms, cancel_id or filters.new_client_id())
                case matching.Expired():
                    self._end(order, "EXPIRED", order.reason, now_ms)
                case matching.Rejected():
                    self._end(order, "REJECTED", f"{change.code}: {change.detail}", now_ms)

    def _execute(self, order: Order, execution: matching.Executed, now_ms: int) -> None:
        instrument, wallet = order.instrument, self.wallets[order.account]
        rate = self._fee_on_top(order)
        quantity = wallet.affordable(instrument, order.side, execution.quantity, execution.price, rate, order.hold)
        if quantity > 0:
            self._trade(order, execution, quantity, now_ms)
        if quantity < execution.quantity:
            order.reason = "INSUFFICIENT_FUNDS: the market moved further than what was held for this order"
            self._books[instrument.id].cancel(order.order_id, now_ms * 1_000_000)
            self._end(order, "EXPIRED", order.reason, now_ms)

    def _trade(self, order: Order, execution: matching.Executed, quantity: Decimal, now_ms: int) -> None:
        instrument, wallet = order.instrument, self.wallets[order.account]
        notional = instrument.notional(quantity, execution.price)
        in_quote = self._fee_in_quote or order.side == "SELL" or not instrument.settles_base
        if in_quote:
            fee, fee_asset = self.models.fees.fee(notional, execution.liquidity), instrument.quote_currency
        else:
            fee, fee_asset = self.models.fees.fee(quantity, execution.liquidity), base_asset(instrument)
        remaining = money.subtract(order.remaining, quantity)
        keep = self._kept(order, remaining)
        fee = wallet.trade(instrument, order.side, quantity, execution.price, fee, fee_asset, order.hold, keep)
        number = self._last_trade_ids[instrument.id] = self._last_trade_ids.get(instrument.id, 0) + 1
        trade = Trade(
            instrument=instrument,
            trade_id=number,
            order_id=order.order_id,
            account=order.account,
            buyer=order.side == "BUY",
            maker=execution.liquidity == "maker",
            price=execution.price,
            quantity=quantity,
            quote=notional,
            fee=fee,
            fee_asset=fee_asset,
            executed_ms=now_ms,
            ts_event_ns=execution.ts_event_ns,
        )
        order.executed = money.add(order.executed, quantity)
        order.executed_quote = money.add(order.executed_quote, notional)
        order.status = "PARTIALLY_FILLED" if remaining else "FILLED"
        order.updated_ms = now_ms
        self._note(order)
        self.changes.trades.append(trade)
        self._tell(order.account, shapes.execution_report(order, "TRADE", now_ms, trade=trade))
        if not remaining:
            self._forget(order)

    def _end(self, order: Order, status: shapes.Status, reason: str | None, now_ms: int, cancel_id: str | None = None) -> None:
        self.wallets[order.account].release(order.hold)
        order.status, order.reason, order.updated_ms, order.working = status, reason, now_ms, False
        self._note(order)
        self._forget(order)
        self._tell(order.account, shapes.execution_report(order, status, now_ms, cancel_id=cancel_id))

    def _remember(self, order: Order) -> None:
        self._orders[order.order_id] = order
        self._by_client[(order.account, order.client_order_id)] = order
        self._of_account.setdefault((order.account, order.instrument.id), {})[order.order_id] = order

    def _forget(self, order: Order) -> None:
        order.working = False
        del self._orders[order.order_id]
        del self._by_client[(order.account, order.client_order_id)]
        del self._of_account[(order.account, order.instrument.id)][order.order_id]

    def _note(self, order: Order) -> None:
        self.changes.orders[order.order_id] = order
        self.changes.books.add(order.instrument.id)

    def _tell(self, account: str, event: Document) -> None:
        self.changes.events.append((account, event))

    def _tell_balances(self, account: str, now_ms: int) -> None:
        wallet = self.wallets[account]
        if wallet.changed:
            balances = [(asset, wallet.of(asset)) for asset in sorted(wallet.changed)]
            self._tell(account, shapes.account_position(balances, now_ms))
            self.changes.balances.update((account, asset) for asset in wallet.changed)
            wallet.changed.clear()

    # --- funds ------------------------------------------------------------------------------------------------------------

    def _fee_on_top(self, order: Order | OrderRequest) -> Decimal:
        """The share of a purchase that is charged in the quote currency beside its price."""
        return self._dearest if self._fee_in_quote and order.side == "BUY" else ZERO

    def _kept(self, order: Order, remaining: Decimal) -> Decimal:
        """What stays locked for the rest of an order."""
        if not order.instrument.settles_base or not remaining:
            return ZERO
        if order.side == "SELL":
            return remaining
        return cost_bound(order.instrument, remaining, order.hold.bound, self._fee_on_top(order))

    def _bound(self, book: Matcher, request: OrderRequest, quantity: Decimal) -> Decimal:
        """The worst price an order is expected to trade at."""
        if request.price:
            return request.price
        if request.stop_price:
            margin = STOP_MARGIN if request.side == "BUY" else Decimal(1)
            return money.multiply(request.stop_price, margin)
        pieces = book.preview(_platform(request.side), quantity)
        if not pieces:
            raise errors.rejected(errors.MARKET_CLOSED)
        if request.quantity:
            filters.check_notional(request.instrument, quantity, pieces[0][0])
        return max(price for price, _ in pieces)

    def _quantity_for(self, book: Matcher, request: OrderRequest) -> Decimal:
        """How much quoteOrderQty pays for, at the market."""
        if not book.preview(_platform(request.side), request.instrument.min_quantity):
            raise errors.rejected(errors.MARKET_CLOSED)
        quantity = min(book.quantity_for(_platform(request.side), request.quote_quantity), request.instrument.max_quantity)
        if quantity < request.instrument.min_quantity:
            raise errors.filter_failure("LOT_SIZE")
        if request.quote_quantity < request.instrument.min_notional:
            raise errors.filter_failure("NOTIONAL")
        return quantity

    def _usable(self, request: OrderRequest) -> Decimal | None:
        """What a purchase may spend of the quote currency where perpetuals of the account are settled in it; None: all that is free."""
        if request.side == "SELL" or not request.instrument.settles_base:
            return None
        exposure, equity = self._contracts(request.account, request.instrument.quote_currency, None, ZERO)
        if not exposure:
            return None
        return money.subtract(equity, money.divide(exposure, LEVERAGE))

    def _check_margin(self, account: str, request: OrderRequest, quantity: Decimal, price: Decimal) -> None:
        """A perpetual's order passes when it only reduces, or when all that could be held then is at most LEVERAGE × equity."""
        instrument = request.instrument
        if instrument.settles_base:
            return
        signed = quantity if request.side == "BUY" else -quantity
        position = self.wallets[account].of(base_asset(instrument)).free
        waiting = money.add(*(order.remaining for order in self._open(account, instrument).values() if order.side == request.side))
        if position * signed < 0 and quantity + waiting <= abs(position):
            return
        exposure, equity = self._contracts(account, instrument.quote_currency, request, quantity)
        fee = money.multiply(instrument.notional(quantity, price), self._dearest)
        if money.add(money.divide(exposure, LEVERAGE), fee) > equity:
            raise errors.rejected(errors.INSUFFICIENT_FUNDS)

    def _contracts(self, account: str, currency: str, request: OrderRequest | None, quantity: Decimal) -> tuple[Decimal, Decimal]:
        """Value of the perpetuals the account could hold in a currency when all its orders traded (and `request` too), and its
        equity there: free balance and unrealised profit and loss."""
        wallet = self.wallets[account]
        exposure, equity = ZERO, wallet.of(currency).free
        for instrument in self.instruments.values():
            if instrument.settles_base or instrument.quote_currency != currency:
                continue
            balance = wallet.balances.get(base_asset(instrument), Balance())
            orders = self._open(account, instrument).values()
            longest = money.add(balance.free, *(order.remaining for order in orders if order.side == "BUY"))
            shortest = money.subtract(balance.free, money.add(*(order.remaining for order in orders if order.side == "SELL")))
            if request is not None and request.instrument.id == instrument.id:
                if request.side == "BUY":
                    longest = money.add(longest, quantity)
                else:
                    shortest = money.subtract(shortest, quantity)
            most = max(abs(longest), abs(shortest))
            if not most and not balance.free:
                continue
            mark = self._mark(instrument, balance, request)
            if mark is None:
                raise errors.rejected(errors.MARKET_CLOSED)
            exposure = money.add(exposure, instrument.notional(most, mark))
            equity = money.add(equity, instrument.notional(balance.free, mark), -balance.cost)
        return exposure, equity

    def _mark(self, instrument: Instrument, balance: Balance, request: OrderRequest | None) -> Decimal | None:
        """What a contract is worth: the middle of the quote, the last trade, what it was entered at, or what an order says."""
        top = self._books[instrument.id].top()
        if top.bid is not None and top.ask is not None:
            return money.divide(money.add(top.bid, top.ask), Decimal(2))
        if top.last is not None:
            return top.last
        if balance.free:
            return abs(money.divide(balance.cost, money.multiply(balance.free, instrument.multiplier)))
        if request is not None:
            return request.price or request.stop_price or None
        return None

    def _book_order(self, request: OrderRequest, order_id: int, quantity: Decimal) -> BookOrder:
        return BookOrder(
            id=order_id,
            owner=request.account,
            side=_platform(request.side),
            type=_BOOK_TYPES[request.type],
            time_in_force=request.time_in_force,
            quantity=quantity,
            limit_price=request.price or None,
            stop_price=request.stop_price or None,
            visible=request.iceberg_quantity if ZERO < request.iceberg_quantity < quantity else None,
        )


def book_order(order: Order) -> BookOrder:
    """A stored order as the matcher knows it."""
    return BookOrder(
        id=order.order_id,
        owner=order.account,
        side=_platform(order.side),
        type=_BOOK_TYPES[order.type],
        time_in_force=order.time_in_force,
        quantity=order.quantity,
        limit_price=order.price or None,
        stop_price=order.stop_price or None,
        visible=order.iceberg_quantity if ZERO < order.iceberg_quantity < order.quantity else None,
    )


def _platform(side: str) -> PlatformSide:
    return "buy" if side == "BUY" else "sell"
