"""Smart Money Concepts: with the structure, at a zone price has come back to, where enough else agrees.

Long (short is its mirror): the last break of structure was upwards, price came back into an order block or fair value gap that was
known before this candle, the candle closed upwards and not through the zone, and of (order block, gap, lows swept, discount) at least
`confluence` are so. Left when the structure breaks the other way, when highs are swept, or high up in the dealing range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from trading_platform.messages import Candle, Side
from trading_platform.smc import Event, FvgStream, OrderBlockStream, Panel, PremiumDiscountStream, StructureStream, SweepStream
from trading_platform.strategies.model import SECOND_NS, Decision, Fact, Strategy, Value
from trading_platform.strategies.parameters import SmcConfluenceParameters

# What the zones, sweeps and breaks of so many candles ago have to do with now is bounded; this much more lets swings alternate.
_SWINGS_TO_SETTLE = 20


@dataclass(frozen=True, slots=True)
class _Side:
    """One direction's half of the question."""

    direction: int
    enter: Side
    leave: Side


_LONG, _SHORT = _Side(1, "buy", "sell"), _Side(-1, "sell", "buy")


class SmcConfluence(Strategy[SmcConfluenceParameters]):
    """Everything it sees is an event of `trading_platform.smc`, known when that says so."""

    kind = "smc_confluence"
    version = "1"

    def __init__(self, parameters: SmcConfluenceParameters, symbol: str, interval_s: int) -> None:
        super().__init__(parameters, symbol, interval_s)
        length, kept = parameters.length, parameters.zone_candles
        self._blocks = OrderBlockStream(length=length, expire_after=kept)
        self._gaps = FvgStream(expire_after=kept)
        self._place = PremiumDiscountStream(length=length)
        self._panel = Panel(
            {
                "structure": StructureStream(length=length, expire_after=kept),
                "order_blocks": self._blocks,
                "gaps": self._gaps,
                "sweeps": SweepStream(length=length, expire_after=max(kept, parameters.sweep_candles)),
                "place": self._place,
            }
        )
        self._index = -1
        self._candle: Candle | None = None
        self._break: Event | None = None
        self._range: Event | None = None
        self._sweeps: dict[int, Event] = {}
        self._reached: list[Event] = []
        """Zones of either direction that were known before the last candle and that it came back to."""

    @staticmethod
    def _needs(parameters: SmcConfluenceParameters) -> tuple[int, int]:
        swings = 2 * parameters.length + 1
        return 4 * swings, max(parameters.zone_candles, parameters.sweep_candles) + _SWINGS_TO_SETTLE * swings

    def _learn(self, candle: Candle) -> None:
        known = list(self._blocks.open)
        said = self._panel.on_candle(candle.open, candle.high, candle.low, candle.close, candle.volume, candle.ts_open_ns // 1_000)
        self._index += 1
        self._candle = candle
        for event in said.get("structure", ()):
            if event.known_at == self._index:
                self._break = event
        for event in said.get("place", ()):
            if event.known_at == self._index:
                self._range = event
        for event in said.get("sweeps", ()):
            if event.known_at == self._index:
                self._sweeps[event.direction] = event
            elif event.failed_at == self._index and self._sweeps.get(event.direction, event).id == event.id:
                self._sweeps.pop(event.direction, None)
        # An order block stays until price trades through it; a gap is over when price is back at its edge, which is when it is used.
        blocks = (self._blocks.open[number] for number in known if number in self._blocks.open)
        self._reached = [block for block in blocks if block.mitigated_at < 0 and self._touches(candle, block)]
        self._reached += [gap for gap in said.get("gaps", ()) if gap.mitigated_at == self._index]

    @staticmethod
    def _touches(candle: Candle, zone: Event) -> bool:
        return candle.low <= zone.top if zone.direction == 1 else candle.high >= zone.bottom

    def _decide(self, held: Decimal) -> Decision | None:
        if held > 0:
            return self._exit(_LONG)
        if held < 0:
            return self._exit(_SHORT)
        return self._entry(_LONG) or (self._entry(_SHORT) if self.parameters.allow_short else None)

    def _position(self, direction: int) -> float:
        """Where in the dealing range the close is: 0 the end it would be entered at, 1 the other; NaN while there is no range."""
        position = self._place.values["position"]
        return position if direction == 1 else 1 - position

    def _entry(self, side: _Side) -> Decision | None:
        candle, chosen, direction = self._candle, self.parameters, side.direction
        if candle is None or self._break is None or self._break.direction != direction:
            return None
        if direction * (candle.close - candle.open) <= 0:
            return None
        zones = [zone for zone in self._reached if zone.direction == direction and self._holds(candle, zone)]
        if not zones:
            return None
        sweep = self._sweeps.get(-direction)
        swept = sweep is not None and self._index - sweep.known_at <= chosen.sweep_candles
        position = self._position(direction)
        discounted = position <= chosen.discount
        agreeing = len({zone.kind for zone in zones}) + swept + discounted
        if agreeing < chosen.confluence:
            return None
        facts = self._about([self._break, *zones, *([sweep] if sweep is not None and swept else [])])
        return self._decision(side.enter, "confluence_long" if direction == 1 else "confluence_short", False, facts, agreeing)

    @staticmethod
    def _holds(candle: Candle, zone: Event) -> bool:
        """Whether the candle closed before the zone's far edge."""
        return candle.close > zone.bottom if zone.direction == 1 else candle.close < zone.top

    def _exit(self, side: _Side) -> Decision | None:
        direction = side.direction
        if self._break is not None and self._break.direction == -direction:
            return self._decision(side.leave, "structure_against", True, self._about([self._break]))
        sweep = self._sweeps.get(direction)
        if sweep is not None and sweep.known_at == self._index:
            return self._decision(side.leave, "liquidity_taken", True, self._about([sweep]))
        if self._position(direction) >= self.parameters.target:
            return self._decision(side.leave, "target_reached", True, [])
        return None

    def _decision(self, side: Side, reason: str, is_exit: bool, facts: Iterable[Fact], agreeing: int | None = None) -> Decision:
        assert self._candle is not None, "a decision is made on a candle"
        now: dict[str, Value] = {"close": self._candle.close}
        if agreeing is not None:
            now["confluence"] = agreeing
        position = self._place.values["position"]
        if self._range is not None and not math.isnan(position):
            now["position"] = position
            facts = [*facts, *self._about([self._range])]
        return Decision(side, reason, is_exit, (*(Fact(name, value, self.end_ns) for name, value in now.items()), *facts))

    def _about(self, events: Iterable[Event]) -> list[Fact]:
        """What is said of events; the candle that made one known opened at `known_time` and was over an interval later."""
        facts = []
        for event in events:
            known_ns = event.known_time * 1_000 + self.inputs.interval_s * SECOND_NS
            name = f"{event.kind.name.lower()}_{event.id}"
            for part, value in (("direction", event.direction), ("top", event.top), ("bottom", event.bottom)):
                facts.append(Fact(f"{name}_{part}", value, known_ns))
        return facts
