"""What travels on the bus besides tick batches, and the latest quote: one class a message, JSON inside.

A stream entry has one field, `m`, holding the JSON of one message (tick batches use `b`, see batches.py). Prices and
sizes are int64 at the instrument's scales; times are UTC nanoseconds.

    entry = encode(Candle(...))             # {b"m": b"{...}"} for Bus.publish
    candle = decode(entry_fields, Candle)   # raises InvalidMessage
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

TICKS = "md:ticks"
CANDLES = "md:candles"
SIGNALS = "signals"
ORDER_EVENTS = "orders:events"

LATEST_PREFIX = "md:latest:"

Side = Literal["buy", "sell"]


class InvalidMessage(ValueError):
    """A stream entry that is not the message expected there."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Readers ignore fields they do not know, so that writers can be updated first."""


class Candle(Message, frozen=True, kw_only=True):
    """One closed candle; it never changes afterwards. `volume` at size_scale."""

    symbol: str
    interval_s: int
    ts_open_ns: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    source: str


class Signal(Message, frozen=True, kw_only=True):
    """A strategy's decision to trade. `id` is deterministic: the same decision has the same id.

    `quantity` is decimal text in units of the base, always positive. `price` is the close the decision saw, at price_scale;
    `ts_candle_ns` is when that candle closed, `ts_ns` when the signal was sent.
    """

    id: str
    strategy: str
    version: str
    account: str
    symbol: str
    side: Side
    quantity: str
    price: int
    reason: str
    ts_candle_ns: int
    ts_ns: int


class OrderEventMessage(Message, frozen=True, kw_only=True):
    """A committed order event, from the outbox; the facts are in PostgreSQL."""

    seq: int
    account: str
    client_order_id: str
    symbol: str
    type: str
    status: str
    ts_ns: int


class OrderEventsMessage(Message, frozen=True, kw_only=True):
    """An entry of `orders:events`: what one transaction committed, in its order. It may come twice."""

    events: list[OrderEventMessage]


class Quote(Message, frozen=True, kw_only=True):
    """Newest state of one instrument: the hash md:latest:<symbol>, fields of these names as decimal text.

    A side the source does not have is absent (None), never zero. `ts_recv_ns` says how fresh it is.
    """

    symbol: str
    ts_event_ns: int
    ts_recv_ns: int
    source: str
    bid: int | None = None
    ask: int | None = None
    last: int | None = None

    @property
    def mark(self) -> int | None:
        """What a position is valued at: middle of the quote (towards zero), else the last trade; None when there is neither."""
        if self.bid is not None and self.ask is not None:
            return (self.bid + self.ask) // 2
        return self.last

    def to_hash(self) -> dict[str, str]:
        """Fields for HSET; absent sides are left out."""
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "symbol"}
        return {name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_hash(cls, symbol: str, values: Mapping[bytes, bytes]) -> Quote | None:
        """The quote, or None where there is none or it is not readable: both mean no data."""
        try:
            text = {key.decode(): value.decode() for key, value in values.items()}
            return cls(
                symbol=symbol,
                ts_event_ns=int(text["ts_event_ns"]),
                ts_recv_ns=int(text["ts_recv_ns"]),
                source=text["source"],
                bid=int(text["bid"]) if "bid" in text else None,
                ask=int(text["ask"]) if "ask" in text else None,
                last=int(text["last"]) if "last" in text else None,
            )
        except (KeyError, ValueError):
            return None


M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder()


def encode(message: Message) -> dict[bytes, bytes]:
    """Fields of the stream entry."""
    return {b"m": _encoder.encode(message)}


def decode(fields: Mapping[bytes, bytes], kind: type[M]) -> M:
    """The message of a stream entry. Raises InvalidMessage."""
    try:
        return msgspec.json.decode(fields[b"m"], type=kind)
    except (KeyError, msgspec.DecodeError) as error:
        raise InvalidMessage(f"expected {kind.__name__}: {error}") from error
