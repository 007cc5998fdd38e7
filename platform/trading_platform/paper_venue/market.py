"""The market as the venue shows it to everybody: recent trades, changes of the top, candles in progress. From our ticks; kept in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from trading_platform import money
from trading_platform.batches import SELL_AGGRESSOR, TRADE, TickBatch
from trading_platform.domain.matching import Depth, Matcher
from trading_platform.instruments import Instrument
from trading_platform.paper_venue import shapes
from trading_platform.paper_venue.funds import venue_symbol
from trading_platform.paper_venue.shapes import Document, number

KEPT_TRADES = 1_000
UNKNOWN_SIZE = Decimal(0)


@dataclass(frozen=True, slots=True)
class PublicTrade:
    """A trade of the market. `id` rises but does not count: it follows from the time."""

    id: int
    price: Decimal
    quantity: Decimal
    time_ms: int
    buyer_is_maker: bool

    def document(self) -> Document:
        quote = money.multiply(self.price, self.quantity)
        return {
            "id": self.id,
            "price": number(self.price),
            "qty": number(self.quantity),
            "quoteQty": number(quote),
            "time": self.time_ms,
            "isBuyerMaker": self.buyer_is_maker,
            "isBestMatch": True,
        }

    def aggregate(self) -> Document:
        return {
            "a": self.id,
            "p": number(self.price),
            "q": number(self.quantity),
            "f": self.id,
            "l": self.id,
            "T": self.time_ms,
            "m": self.buyer_is_maker,
            "M": True,
        }


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Trades of one batch, copied out of it; their ids count on from `first_id`."""

    first_id: int
    ts_event: NDArray[np.int64]
    price: NDArray[np.int64]
    size: NDArray[np.int64]
    flags: NDArray[np.uint8]


@dataclass(slots=True)
class _Candle:
    open_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal = Decimal(0)
    quote: Decimal = Decimal(0)
    trades: int = 0

    def add(self, price: Decimal, quantity: Decimal) -> None:
        self.high, self.low, self.close = max(self.high, price), min(self.low, price), price
        if quantity:
            self.volume = money.add(self.volume, quantity)
            self.quote = money.add(self.quote, money.multiply(price, quantity))
            self.trades += 1


class Board:
    """One instrument, as shown. `publish(stream, event)` is called for streams somebody `wants`."""

    def __init__(
        self, instrument: Instrument, book: Matcher, wants: Callable[[str], bool], publish: Callable[[str, Document], None]
    ) -> None:
        self.instrument = instrument
        self.symbol = venue_symbol(instrument.symbol)
        self.update_id = 0
        self._book = book
        self._wants = wants
        self._publish = publish
        self._chunks: deque[_Chunk] = deque()
        self._kept = 0
        self._last_trade_id = 0
        self._shown: dict[str, dict[Decimal, Decimal]] = {"b": {}, "a": {}}
        self._ticker: tuple[str, ...] | None = None
        self._candles: dict[str, _Candle] = {}

    # --- asked for --------------------------------------------------------------------------------------------------------

    def depth(self, limit: int) -> Depth:
        return self._book.depth(limit)

    def depth_document(self, limit: int) -> Document:
        depth = self.depth(limit)
        return {
            "lastUpdateId": self.update_id,
            "bids": [[number(level.price), _size(level.quantity)] for level in depth.bids],
            "asks": [[number(level.price), _size(level.quantity)] for level in depth.asks],
        }

    def last(self) -> Decimal | None:
        """The last trade; the middle of the quote where the market tells no trades."""
        top = self._book.top()
        if top.last is not None:
            return top.last
        if top.bid is not None and top.ask is not None:
            return money.floor_to_step(money.divide(money.add(top.bid, top.ask), Decimal(2)), self.instrument.tick_size)
        return None

    def book_ticker(self) -> Document:
        depth = self.depth(1)
        bid = (number(depth.bids[0].price), _size(depth.bids[0].quantity)) if depth.bids else ("0.00000000", "0.00000000")
        ask = (number(depth.asks[0].price), _size(depth.asks[0].quantity)) if depth.asks else ("0.00000000", "0.00000000")
        return {"symbol": self.symbol, "bidPrice": bid[0], "bidQty": bid[1], "askPrice": ask[0], "askQty": ask[1]}

    def trades(self, limit: int) -> list[PublicTrade]:
        """The newest, oldest first."""
        found: list[PublicTrade] = []
        for chunk in reversed(self._chunks):
            if len(found) >= limit:
                break
            found = [*self._expand(chunk), *found]
        return found[-limit:]

    # --- told -------------------------------------------------------------------------------------------------------------

    def on_batch(self, entry_id: bytes, batch: TickBatch, rows: NDArray[np.intp]) -> None:
        """Rows of this instrument, after they were matched. `entry_id` is their place in the stream."""
        milliseconds, _, sequence = entry_id.partition(b"-")
        self.update_id = max(self.update_id + 1, int(milliseconds) * 1_000 + int(sequence or 0))
        traded = rows[(batch.flags[rows] & TRADE) != 0]
        if len(traded):
            first_id = max(self._last_trade_id + 1, int(milliseconds) * 1_000)
            self._last_trade_id = first_id + len(traded) - 1
            chunk = _Chunk(first_id, batch.ts_event[traded], batch.price[traded], batch.size[traded], batch.flags[traded])
            self._chunks.append(chunk)
            self._kept += len(traded)
            while self._kept - len(self._chunks[0].price) >= KEPT_TRADES:
                self._kept -= len(self._chunks.popleft().price)
            self._tell_trades(chunk)
        self.on_book(int(batch.ts_recv[rows[-1]]) // 1_000_000)
        self._tell_candles(batch, traded)

    def on_book(self, now_ms: int) -> None:
        """The book may look different: tell who follows it."""
        self._tell_ticker()
        self._tell_depth(now_ms)

    def _expand(self, chunk: _Chunk) -> list[PublicTrade]:
        price, size = self.instrument.price, self.instrument.size
        columns = zip(chunk.ts_event.tolist(), chunk.price.tolist(), chunk.size.tolist(), chunk.flags.tolist(), strict=True)
        return [
            PublicTrade(chunk.first_id + place, price(at), size(of), ts_event // 1_000_000, bool(flags & SELL_AGGRESSOR))
            for place, (ts_event, at, of, flags) in enumerate(columns)
        ]

    def _tell_trades(self, chunk: _Chunk) -> None:
        name = self.symbol.lower()
        plain, aggregated = self._wants(f"{name}@trade"), self._wants(f"{name}@aggTrade")
        if not plain and not aggregated:
            return
        for trade in self._expand(chunk):
            if plain:
                self._publish(
                    f"{name}@trade",
                    {
                        "e": "trade", "E": trade.time_ms, "s": self.symbol, "t": trade.id, "p": number(trade.price),
                        "q": number(trade.quantity), "T": trade.time_ms, "m": trade.buyer_is_maker, "M": True,
                    },
                )  # fmt: skip
            if aggregated:
                self._publish(f"{name}@aggTrade", {"e": "aggTrade", "E": trade.time_ms, "s": self.symbol} | trade.aggregate())

    def _tell_ticker(self) -> None:
        name = f"{self.symbol.lower()}@bookTicker"
        if not self._wants(name):
            return
        ticker = self.book_ticker()
        shown = (ticker["bidPrice"], ticker["bidQty"], ticker["askPrice"], ticker["askQty"])
        if shown != self._ticker:
            self._ticker = shown
            self._publish(name, {"u": self.update_id, "s": self.symbol, "b": shown[0], "B": shown[1], "a": shown[2], "A": shown[3]})

    def _tell_depth(self, now_ms: int) -> None:
        name = self.symbol.lower()
        for shown in (5, 10, 20):
            for suffix in ("", "@100ms", "@1000ms"):
                if self._wants(stream := f"{name}@depth{shown}{suffix}"):
                    self._publish(stream, self.depth_document(shown))
        streams = [stream for suffix in ("", "@100ms", "@1000ms") if self._wants(stream := f"{name}@depth{suffix}")]
        if not streams:
            return
        depth = self.depth(1_000)
        changed: dict[str, list[list[str]]] = {}
        for side, levels in (("b", depth.bids), ("a", depth.asks)):
            now = {level.price: level.quantity if level.quantity is not None else UNKNOWN_SIZE for level in levels}
            was, self._shown[side] = self._shown[side], now
            gone = [[number(price), "0.00000000"] for price in was if price not in now]
            changed[side] = gone + [
                [number(level.price), _size(level.quantity)] for level in levels if was.get(level.price) != now[level.price]
            ]
        if not changed["b"] and not changed["a"]:
            return
        self.update_id += 1
        for stream in streams:
            self._publish(
                stream,
                {
                    "e": "depthUpdate", "E": now_ms, "s": self.symbol, "U": self.update_id, "u": self.update_id, "b": changed["b"],
                    "a": changed["a"],
                },
            )  # fmt: skip

    def _tell_candles(self, batch: TickBatch, traded: NDArray[np.intp]) -> None:
        name = self.symbol.lower()
        for interval, seconds in shapes.INTERVALS.items():
            stream = f"{name}@kline_{interval}"
            if not self._wants(stream):
                self._candles.pop(interval, None)
                continue
            for row in traded:
                at_ms = int(batch.ts_event[row]) // 1_000_000
                price, quantity = self.instrument.price(int(batch.price[row])), self.instrument.size(int(batch.size[row]))
                open_ms = at_ms // (seconds * 1_000) * seconds * 1_000
                candle = self._candles.get(interval)
                if candle is not None and candle.open_ms < open_ms:
                    self._publish(stream, self._kline(interval, seconds, candle, at_ms, closed=True))
                    candle = None
                if candle is None:
                    candle = self._candles[interval] = _Candle(open_ms, price, price, price, price)
                candle.add(price, quantity)
            if len(traded):
                self._publish(stream, self._kline(interval, seconds, self._candles[interval], int(batch.ts_event[traded[-1]]) // 1_000_000))

    def _kline(self, interval: str, seconds: int, candle: _Candle, at_ms: int, *, closed: bool = False) -> Document:
        return {
            "e": "kline",
            "E": at_ms,
            "s": self.symbol,
            "k": {
                "t": candle.open_ms,
                "T": candle.open_ms + seconds * 1_000 - 1,
                "s": self.symbol,
                "i": interval,
                "f": -1,
                "L": -1,
                "o": number(candle.open),
                "c": number(candle.close),
                "h": number(candle.high),
                "l": number(candle.low),
                "v": number(candle.volume),
                "n": candle.trades,
                "x": closed,
                "q": number(candle.quote),
                "V": "0.00000000",
                "Q": "0.00000000",
                "B": "0",
            },
        }


def _size(quantity: Decimal | None) -> str:
    """A size the market does not tell is shown as the smallest there can be, never as an empty level."""
    return "0.00000001" if quantity is None else number(quantity)
