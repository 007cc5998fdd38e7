"""A venue in this process, for tests and benches: simple rules, books that outlive the engine, and any misbehaviour asked for.

`Exchange` is the truth; every engine gets a `ScriptedVenue` of its own to it. A market order fills at once at `price`; a limit
order rests until `fill` is called, unless it crosses `price`. What goes wrong next is put into `exchange.script`:

    accept_then_silence   the order is taken, no answer comes
    silence               the request is lost, no answer comes
    reject                refused
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.config import AccountSettings
from trading_platform.domain.orders import Fill, Intent
from trading_platform.engine.venues import (
    StreamGap,
    Usage,
    VenueOrder,
    VenueRejected,
    VenueReport,
    VenueTrade,
    VenueUnknown,
)
from trading_platform.instruments import Catalogue

Misbehaviour = Literal["accept_then_silence", "silence", "reject"]
OPEN = ("NEW", "PARTIALLY_FILLED")


@dataclass
class _Account:
    orders: dict[str, VenueOrder] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    trades: dict[str, list[VenueTrade]] = field(default_factory=dict)  # by symbol
    balances: dict[str, Decimal] = field(default_factory=dict)
    listeners: list[asyncio.Queue[VenueReport | StreamGap]] = field(default_factory=list)


class Exchange:
    """The venue's side. Shared by every connection to it."""

    def __init__(self, price: str = "40000", fee_rate: str = "0.0005") -> None:
        self.price = Decimal(price)
        self.fee_rate = Decimal(fee_rate)
        self.accounts: dict[str, _Account] = {}
        self.script: deque[Misbehaviour] = deque()
        self.cancel_script: deque[Misbehaviour] = deque()
        self.submits: list[str] = []  # every submit that arrived, by id
        self.away = False  # nothing is answered
        self.mute = False  # the stream tells nothing
        self.duplicate = 1  # how often the stream tells each thing
        self.instant = True  # answers bring their executions
        self.delay_s = 0.0
        self.rests = False  # market orders wait for `fill`
        self.answers = asyncio.Event()  # while it is not set, submits that arrived are not answered
        self.answers.set()
        self._ids = 0

    def venues(self, account: AccountSettings, catalogue: Catalogue) -> ScriptedVenue:
        """For the engine: its connection."""
        books = self.account(account.id)
        if not books.balances:
            books.balances.update(account.opening_balances)
        return ScriptedVenue(self, account, catalogue)

    def account(self, account_id: str) -> _Account:
        return self.accounts.setdefault(account_id, _Account())

    # --- what a test makes happen -------------------------------------------------------------------------------------

    def fill(self, account_id: str, order_id: str, quantity: str | None = None, catalogue: Catalogue | None = None) -> VenueTrade:
        """Somebody trades with an open order."""
        books = self.account(account_id)
        order, intent = books.orders[order_id], books.intents[order_id]
        left = intent.quantity - order.filled_quantity
        size = left if quantity is None else Decimal(quantity)
        price = intent.limit_price or self.price
        self._ids += 1
        fee = money.multiply(money.multiply(size, price), self.fee_rate)
        fill = Fill(
            trade_id=f"{intent.symbol}:{self._ids}",
            quantity=size,
            price=price,
            fee=fee,
            fee_currency="USDT",
            liquidity="taker",
            executed_at=datetime.now(UTC),
            ts_event_ns=self._ids,
        )
        trade = VenueTrade(intent.symbol, order_id, fill)
        books.trades.setdefault(intent.symbol, []).append(trade)
        filled = order.filled_quantity + size
        status: Literal["FILLED", "PARTIALLY_FILLED"] = "FILLED" if filled == intent.quantity else "PARTIALLY_FILLED"
        books.orders[order_id] = replace(order, status=status, filled_quantity=filled)
        if status == "FILLED":
            books.open.discard(order_id)
        sign = 1 if intent.side == "buy" else -1
        for currency, amount in (("BTC", sign * size), ("USDT", -sign * size * price - fee)):
            books.balances[currency] = books.balances.get(currency, Decimal(0)) + amount
        self.tell(account_id, VenueReport(books.orders[order_id], trade))
        return trade

    def end(self, account_id: str, order_id: str, status: Literal["CANCELED", "EXPIRED"] = "CANCELED") -> VenueOrder:
        books = self.account(account_id)
        ended = replace(books.orders[order_id], status=status, reason="the venue says so")
        books.orders[order_id] = ended
        books.open.discard(order_id)
        self.tell(account_id, VenueReport(ended))
        return ended

    def accept(self, intent: Intent) -> VenueOrder:
        """An order arrives. Its id makes it unique."""
        books = self.account(intent.account_id)
        if intent.client_order_id in books.orders:
            return books.orders[intent.client_order_id]
        self._ids += 1
        order = VenueOrder(intent.symbol, intent.client_order_id, str(self._ids), "NEW", Decimal(0))
        books.orders[order.client_order_id] = order
        books.intents[order.client_order_id] = intent
        books.open.add(order.client_order_id)
        crosses = intent.type == "market" or (
            intent.limit_price is not None
            and intent.type == "limit"
            and (intent.limit_price >= self.price if intent.side == "buy" else intent.limit_price <= self.price)
        )
        if crosses and not self.rests:
            trade = self.fill(intent.account_id, order.client_order_id)
            return replace(books.orders[order.client_order_id], trades=(trade,) if self.instant else ())
        self.tell(intent.account_id, VenueReport(order))
        return order

    def tell(self, account_id: str, report: VenueReport | StreamGap) -> None:
        if not self.mute:
            for queue in self.account(account_id).listeners:
                for _ in range(self.duplicate):
                    queue.put_nowait(report)

    def open_orders(self, account_id: str) -> list[VenueOrder]:
        books = self.account(account_id)
        return [books.orders[order_id] for order_id in sorted(books.open)]


class ScriptedVenue:
    """One engine's connection to the exchange."""

    recv_window_s = 0.2
    has_dead_man = True

    def __init__(self, exchange: Exchange, account: AccountSettings, catalogue: Catalogue) -> None:
        self.name = account.venue
        self.gate: Callable[[Intent], None] | None = None
        self._exchange = exchange
        self._account_id = account.id
        self._catalogue = catalogue
        self._books = exchange.account(account.id)
        self._queue: asyncio.Queue[VenueReport | StreamGap] = asyncio.Queue()

    async def open(self) -> None:
        await self._answer()
        self._books.listeners.append(self._queue)

    async def close(self) -> None:
        if self._queue in self._books.listeners:
            self._books.listeners.remove(self._queue)

    async def submit(self, intent: Intent) -> VenueOrder:
        await self._answer()
        what = self._exchange.script.popleft() if self._exchange.script else None
        if what == "reject":
            raise VenueRejected("VENUE_FILTER", "refused as scripted")
        if what == "silence":
            raise VenueUnknown("no answer, as scripted")
        if self.gate is not None:
            self.gate(intent)
        self._exchange.submits.append(intent.client_order_id)
        order = self._exchange.accept(intent)
        await self._exchange.answers.wait()
        if what == "accept_then_silence":
            raise VenueUnknown("no answer, as scripted")
        return order

    async def cancel(self, symbol: str, client_order_id: str) -> VenueOrder:
        await self._answer()
        what = self._exchange.cancel_script.popleft() if self._exchange.cancel_script else None
        if what == "silence":
            raise VenueUnknown("no answer, as scripted")
        if client_order_id not in self._books.open or what == "reject":
            raise VenueRejected("VENUE_ORDER_UNKNOWN", "not open here")
        ended = self._exchange.end(self._account_id, client_order_id)
        if what == "accept_then_silence":
            raise VenueUnknown("no answer, as scripted")
        return ended

    async def query(self, symbol: str, client_order_id: str) -> VenueOrder | None:
        await self._answer()
        return self._books.orders.get(client_order_id)

    async def open_orders(self) -> list[VenueOrder]:
        await self._answer()
        return self._exchange.open_orders(self._account_id)

    async def trades(self, symbol: str, after_trade_id: str | None, limit: int) -> list[VenueTrade]:
        await self._answer()
        made = self._books.trades.get(symbol, [])
        after = 0 if after_trade_id is None else int(after_trade_id.rpartition(":")[2])
        return [trade for trade in made if int(trade.fill.trade_id.rpartition(":")[2]) > after][:limit]

    async def balances(self) -> dict[str, Decimal]:
        await self._answer()
        return dict(self._books.balances)

    async def cancel_all(self, symbols: Sequence[str]) -> None:
        await self._answer()
        for order_id in [order_id for order_id in self._books.open if self._books.orders[order_id].symbol in symbols]:
            self._exchange.end(self._account_id, order_id)

    async def arm_dead_man(self, symbols: Sequence[str], timeout_s: float) -> None:
        await self._answer()

    async def reports(self) -> AsyncIterator[VenueReport | StreamGap]:
        while True:
            yield await self._queue.get()

    def usage(self) -> list[Usage]:
        return [Usage("REQUEST_WEIGHT", 1, 6000, 60)]

    async def _answer(self) -> None:
        if self._exchange.delay_s:
            await asyncio.sleep(self._exchange.delay_s)
        if self._exchange.away:
            raise VenueUnknown("the venue is away")
