"""Who trades in a backtest: a strategy as the strategy service applies it, or a script of given moments. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from trading_platform.config import StrategySettings
from trading_platform.engine.core import OrderRequest
from trading_platform.instruments import Catalogue
from trading_platform.messages import Candle
from trading_platform.strategies import catalogue as strategies
from trading_platform.strategies import model, signals


class Desk(Protocol):
    """What a strategy may know of its account, and what time it is."""

    @property
    def now_ns(self) -> int: ...

    def held(self, symbol: str) -> Decimal: ...

    def is_working(self, symbol: str) -> bool:
        """Whether an order of the instrument is open."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The order of this origin is no longer wanted."""

    origin: str


Wish = OrderRequest | CancelRequest


class Strategy(Protocol):
    """`intervals` are the candles it wants, in seconds by symbol; `moments` when it wants to act by itself, in UTC nanoseconds."""

    name: str

    @property
    def intervals(self) -> Mapping[str, int]: ...

    @property
    def moments(self) -> Sequence[int]: ...

    def on_candle(self, candle: Candle, desk: Desk) -> Iterable[Wish]: ...

    def on_moment(self, ts_ns: int, desk: Desk) -> Iterable[Wish]: ...


class ConfiguredStrategy:
    """A strategy of the platform with the strategy service's sizing, signal ids and patience: one order an instrument at a time."""

    def __init__(self, settings: StrategySettings, catalogue: Catalogue) -> None:
        self.name = settings.name
        self.intervals = {symbol: settings.interval_of(symbol) for symbol in settings.instruments}
        self.moments: Sequence[int] = ()
        self._settings = settings
        self._catalogue = catalogue
        self._models = {symbol: self.fresh(symbol) for symbol in settings.instruments}

    def fresh(self, symbol: str) -> model.Strategy[Any]:
        """One that has seen nothing yet."""
        return strategies.create(self._settings.checked, self._settings.kind, symbol, self.intervals[symbol])

    def on_candle(self, candle: Candle, desk: Desk) -> Iterable[Wish]:
        held, instrument, settings = desk.held(candle.symbol), self._catalogue.symbol(candle.symbol), self._settings
        decision = model.decide(self._models[candle.symbol], candle, held, desk.now_ns)
        if decision is None or desk.is_working(candle.symbol):
            return ()
        quantity = signals.quantity(instrument, candle, decision, held, settings.order_notional)
        if quantity is None:
            return ()
        signal = signals.signal_id(settings.name, settings.version, settings.account, candle, decision)
        request = OrderRequest(
            origin=signal,
            symbol=candle.symbol,
            side=decision.side,
            type="market",
            quantity=quantity,
            strategy=f"{settings.name}@{settings.version}",
            signal_id=signal,
        )
        return (request,)

    def on_moment(self, ts_ns: int, desk: Desk) -> Iterable[Wish]:
        return ()


class Witnessed:
    """A strategy as it is, and the candles it was shown, for the look-ahead check."""

    def __init__(self, strategy: ConfiguredStrategy) -> None:
        self.name = strategy.name
        self.intervals = strategy.intervals
        self.moments = strategy.moments
        self.candles: dict[str, list[Candle]] = {symbol: [] for symbol in strategy.intervals}
        self._strategy = strategy

    def on_candle(self, candle: Candle, desk: Desk) -> Iterable[Wish]:
        self.candles[candle.symbol].append(candle)
        return self._strategy.on_candle(candle, desk)

    def on_moment(self, ts_ns: int, desk: Desk) -> Iterable[Wish]:
        return self._strategy.on_moment(ts_ns, desk)


class Script:
    """Given wishes at given moments."""

    def __init__(self, wishes: Sequence[tuple[int, Wish]], name: str = "script") -> None:
        self.name = name
        self.intervals: Mapping[str, int] = {}
        self._wishes: dict[int, list[Wish]] = {}
        for ts_ns, wish in wishes:
            self._wishes.setdefault(ts_ns, []).append(wish)
        self.moments = sorted(self._wishes)

    def on_candle(self, candle: Candle, desk: Desk) -> Iterable[Wish]:
        return ()

    def on_moment(self, ts_ns: int, desk: Desk) -> Iterable[Wish]:
        return self._wishes[ts_ns]
