"""What a strategy is: candles in, a decision out, and every fact the decision saw with the time it was known.

`decide` is how everybody asks one, live and in a backtest: it lets nothing pass that could not be known. Prices are int64 at the
instrument's price_scale, figures made of them floats of the same scale; times are UTC nanoseconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar

from trading_platform.messages import Candle, Side
from trading_platform.strategies.parameters import Kind, Parameters

SECOND_NS = 1_000_000_000

P = TypeVar("P", bound=Parameters)

Value = int | float | str | bool


class LookAhead(Exception):
    """A strategy knew something before it could be known. Nothing it says may be traded."""


class UnexpectedCandle(ValueError):
    """A candle of another series, not later than the last one, or not possible. Nothing was learned from it."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a strategy asks for: one instrument's closed candles.

    After `warm_up` candles it decides; after `history` candles what came before them has no say any more, or one too small to matter.
    """

    symbol: str
    interval_s: int
    warm_up: int
    history: int


@dataclass(frozen=True, slots=True)
class Fact:
    """Something a decision saw, and since when it could be seen."""

    name: str
    value: Value
    known_at_ns: int


@dataclass(frozen=True, slots=True)
class Decision:
    """To enter (the size is for the caller to find) or to leave what is held."""

    side: Side
    reason: str
    is_exit: bool
    facts: tuple[Fact, ...]

    def fact(self, name: str) -> Value:
        """Raises KeyError."""
        for fact in self.facts:
            if fact.name == name:
                return fact.value
        raise KeyError(name)

    def saw(self) -> dict[str, dict[str, Any]]:
        """For the journal."""
        return {fact.name: {"value": fact.value, "known_at_ns": fact.known_at_ns} for fact in self.facts}


class Strategy(ABC, Generic[P]):
    """One strategy on one series of candles.

    A subclass learns from candles (`_learn`) and answers for a position (`_decide`), which changes nothing: what is remembered is a
    function of the candles, so a restart that has seen the same candles decides the same, whatever was held in between.
    """

    kind: ClassVar[Kind]
    version: ClassVar[str]

    def __init__(self, parameters: P, symbol: str, interval_s: int) -> None:
        self.parameters = parameters
        self.inputs = Inputs(symbol, interval_s, *self._needs(parameters))
        self.candles_seen = 0
        self.end_ns = 0
        """When the last candle closed: the now of a decision."""
        self.previous_end_ns = 0
        """When the one before it closed."""

    @staticmethod
    @abstractmethod
    def _needs(parameters: P) -> tuple[int, int]:
        """Candles before the first decision, and candles that make everything before them meaningless."""

    @abstractmethod
    def _learn(self, candle: Candle) -> None: ...

    @abstractmethod
    def _decide(self, held: Decimal) -> Decision | None: ...

    @property
    def is_warm(self) -> bool:
        return self.candles_seen >= self.inputs.warm_up

    def learn(self, candle: Candle) -> None:
        """Take the series' next closed candle; gaps are allowed. Raises UnexpectedCandle."""
        wanted = self.inputs
        if (candle.symbol, candle.interval_s) != (wanted.symbol, wanted.interval_s):
            raise UnexpectedCandle(f"expected {wanted.symbol}/{wanted.interval_s}s, found {candle.symbol}/{candle.interval_s}s")
        if self.candles_seen and candle.ts_open_ns < self.end_ns:
            raise UnexpectedCandle(f"candle opens at {candle.ts_open_ns}, before the last one's end {self.end_ns}")
        inside = candle.low <= min(candle.open, candle.close) and max(candle.open, candle.close) <= candle.high
        if not inside or candle.volume < 0:
            raise UnexpectedCandle(f"a candle cannot be {candle}")
        self._learn(candle)
        self.previous_end_ns, self.end_ns = self.end_ns, candle.ts_open_ns + candle.interval_s * SECOND_NS
        self.candles_seen += 1

    def decide(self, held: Decimal) -> Decision | None:
        """The decision on the last candle, given the signed position held; None to do nothing, and before the warm-up is over."""
        return self._decide(held) if self.is_warm else None


def decide(strategy: Strategy[Any], candle: Candle, held: Decimal, now_ns: int) -> Decision | None:
    """Learn from a candle and decide. Raises LookAhead, and decides nothing, when the candle or any fact was not known yet."""
    end_ns = candle.ts_open_ns + candle.interval_s * SECOND_NS
    if end_ns > now_ns:
        raise LookAhead(f"{candle.symbol}: the candle closes at {end_ns}, it is {now_ns}")
    strategy.learn(candle)
    return judged(strategy, held)


def judged(strategy: Strategy[Any], held: Decimal) -> Decision | None:
    """The decision on the last candle. Facts are judged by that candle's end, not by any clock: raises LookAhead."""
    decision = strategy.decide(held)
    if decision is None:
        return None
    if not decision.facts:
        raise LookAhead(f"{strategy.kind}: a decision ({decision.reason}) without facts cannot be judged")
    for fact in decision.facts:
        if fact.known_at_ns > strategy.end_ns:
            raise LookAhead(
                f"{strategy.kind} on {strategy.inputs.symbol}: {decision.reason} saw {fact.name}, known at {fact.known_at_ns}, "
                f"when it was {strategy.end_ns}"
            )
    return decision
