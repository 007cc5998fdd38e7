"""The strategy's loop: closed candles from the bus, one state an instrument, signals out with the reason journalled.

A signal's id is made of what was decided, so the same decision made twice (a restart, a candle delivered again) is
the same signal, and the engine makes one order of it. Candles that are old when they are read (the strategy was down) teach
the strategy and are not traded. An instrument on which the strategy knew too much is not traded any more.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from prometheus_client import Counter, Gauge

from trading_platform import instruments, messages, money
from trading_platform.bus import Bus, Entry
from trading_platform.config import Settings, StrategySettings
from trading_platform.db import Database
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.messages import Candle, InvalidMessage, Signal
from trading_platform.service import LoopContext
from trading_platform.strategies import catalogue as strategies
from trading_platform.strategies import signals
from trading_platform.strategies.model import Decision, LookAhead, Strategy, UnexpectedCandle, decide
from trading_platform.strategy.store import DecisionJournal, StrategyStore

log = logging.getLogger(__name__)

CANDLES = Counter("smc_trading_candles_seen_total", "Closed candles", ["symbol", "use"])
SIGNALS = Counter("smc_trading_signals_sent_total", "Signals sent", ["strategy", "symbol", "reason"])
VIOLATIONS = Counter("smc_trading_strategy_lookahead_total", "Decisions refused because they knew the future", ["strategy", "symbol"])
WARM = Gauge("smc_trading_strategy_warm", "1 once enough candles were seen", ["strategy", "symbol"])

# A signal whose order did not show in this time is taken for lost or refused.
ANSWER_WITHIN_S = 10.0

# A candle closes by the clock of the host with the feed, which may be this much ahead of ours.
CLOCKS_APART_NS = 1_000_000_000


@dataclass
class _Watch:
    """One instrument under watch."""

    instrument: Instrument
    model: Strategy[Any]
    source: str | None = None
    refused: str | None = None
    newest_ns: int = 0
    sent: str | None = None
    sent_at: float = 0.0


class StrategyRunner:
    """One strategy on its instruments, under a lease."""

    def __init__(self, database: Database, stream: Bus, settings: Settings, journal: DecisionJournal, strategy_id: str) -> None:
        self._db = database
        self._bus = stream
        self._settings: StrategySettings = settings.strategy
        self._store = StrategyStore(database)
        self._journal = journal
        self._strategy_id = strategy_id
        self._watches: dict[str, _Watch] = {}

    async def run(self, context: LoopContext) -> None:
        """For Service.loop with a lease."""
        catalogue = await instruments.load(self._db)
        self._watches = {symbol: self._watch(catalogue, symbol) for symbol in self._settings.instruments}
        group = self._bus.group(messages.CANDLES, f"strategy:{self._settings.name}:{self._settings.account}", exclusive=True)
        while not context.stopping:
            context.beat()
            for entry in await group.read(count=100, block_ms=500):
                context.lease.assert_held()
                await self._on_entry(entry)
                await group.ack(entry)

    def _watch(self, catalogue: Catalogue, symbol: str) -> _Watch:
        WARM.labels(self._settings.name, symbol).set(0)
        return _Watch(catalogue.symbol(symbol), self._fresh(symbol))

    def _fresh(self, symbol: str) -> Strategy[Any]:
        chosen = self._settings
        return strategies.create(chosen.checked, chosen.kind, symbol, chosen.interval_of(symbol))

    async def _on_entry(self, entry: Entry) -> None:
        try:
            candle = messages.decode(entry.fields, Candle)
        except InvalidMessage as error:
            log.error("candle refused", extra={"error": str(error), "entry": entry.id.decode()})
            return
        if candle.symbol not in self._watches or candle.interval_s != self._settings.interval_of(candle.symbol):
            return
        fresh = entry.age_s(time.time()) <= 2 * max(candle.interval_s, 5)
        try:
            await self.on_candle(candle, tradable=fresh)
        except UnexpectedCandle as error:
            log.error("candle refused", extra={"error": str(error), "entry": entry.id.decode()})
            CANDLES.labels(candle.symbol, "refused").inc()
        except LookAhead as error:
            self._refuse(self._watches[candle.symbol], str(error))

    def _refuse(self, watch: _Watch, reason: str) -> None:
        """Whoever knew the future once is not asked again before somebody has looked at it and started the service anew."""
        watch.refused = reason
        VIOLATIONS.labels(self._settings.name, watch.instrument.symbol).inc()
        log.critical(
            "strategy knew the future; instrument is not traded any more", extra={"symbol": watch.instrument.symbol, "why": reason}
        )

    async def on_candle(self, candle: Candle, *, tradable: bool) -> Signal | None:
        """Learn from a closed candle and, if `tradable`, act on it; the signal sent. Nothing is on LookAhead or UnexpectedCandle."""
        watch = self._watches[candle.symbol]
        if watch.refused is not None:
            CANDLES.labels(candle.symbol, "refused").inc()
            return None
        if watch.source != candle.source or candle.ts_open_ns < watch.newest_ns:
            await self._begin(watch, candle)
        elif candle.ts_open_ns == watch.newest_ns:
            CANDLES.labels(candle.symbol, "duplicate").inc()
            return None
        signal = await self._decide(watch, candle, tradable)
        watch.newest_ns = candle.ts_open_ns
        return signal

    async def _decide(self, watch: _Watch, candle: Candle, tradable: bool) -> Signal | None:
        held = await self._store.held(self._settings.account, watch.instrument)
        decision = decide(watch.model, candle, held, time.time_ns() + CLOCKS_APART_NS)
        WARM.labels(self._settings.name, candle.symbol).set(1 if watch.model.is_warm else 0)
        CANDLES.labels(candle.symbol, "traded" if tradable else "learned").inc()
        if decision is None or not tradable or await self._waiting(watch):
            return None
        return await self._send(watch, candle, decision, held)

    async def _begin(self, watch: _Watch, candle: Candle) -> None:
        """A new series of candles: forget the old one and learn from what the database has of this one."""
        if watch.source is not None:
            log.info("candles begin anew", extra={"symbol": candle.symbol, "source": candle.source, "before": watch.source})
        watch.source, watch.newest_ns = candle.source, 0
        watch.model = self._fresh(candle.symbol)
        before = datetime.fromtimestamp(candle.ts_open_ns // 1_000_000_000, UTC)
        wanted = watch.model.inputs
        for known in await self._store.past_candles(watch.instrument, candle.interval_s, candle.source, before, wanted.history):
            watch.model.learn(known)

    async def _waiting(self, watch: _Watch) -> bool:
        """Whether the last signal's order is still on its way."""
        if await self._store.has_working_order(self._settings.account, watch.instrument):
            return True
        if watch.sent is None or await self._store.settled(self._settings.account, watch.sent):
            return False
        return time.monotonic() - watch.sent_at < ANSWER_WITHIN_S

    async def _send(self, watch: _Watch, candle: Candle, decision: Decision, held: Decimal) -> Signal | None:
        instrument = watch.instrument
        quantity = signals.quantity(instrument, candle, decision, held, self._settings.order_notional)
        if quantity is None:
            log.warning("decision too small to trade", extra={"symbol": instrument.symbol, "held": str(held)})
            return None
        signal = Signal(
            id=signals.signal_id(self._settings.name, self._settings.version, self._settings.account, candle, decision),
            strategy=self._settings.name,
            version=self._settings.version,
            account=self._settings.account,
            symbol=instrument.symbol,
            side=decision.side,
            quantity=money.text(quantity),
            price=candle.close,
            reason=decision.reason,
            ts_candle_ns=candle.ts_open_ns + candle.interval_s * 1_000_000_000,
            ts_ns=time.time_ns(),
        )
        self._journal.add(self._document(signal, candle, decision, held))
        await self._bus.publish(messages.SIGNALS, messages.encode(signal))
        watch.sent, watch.sent_at = signal.id, time.monotonic()
        SIGNALS.labels(signal.strategy, signal.symbol, signal.reason).inc()
        log.info("signal sent", extra={"signal": signal.id, "symbol": signal.symbol, "side": signal.side, "reason": signal.reason})
        return signal

    def _document(self, signal: Signal, candle: Candle, decision: Decision, held: Decimal) -> dict[str, Any]:
        """The journal's entry: the decision, everything it saw, and when that was known."""
        return {
            "_id": signal.id,
            "kind": "signal",
            "decided_at": datetime.fromtimestamp(signal.ts_ns / 1e9, UTC),
            "known_at_ns": signal.ts_candle_ns,
            "strategy": signal.strategy,
            "version": signal.version,
            "strategy_id": self._strategy_id,
            "parameters": self._settings.parameters | {"order_notional": str(self._settings.order_notional)},
            "account": signal.account,
            "symbol": signal.symbol,
            "interval_s": candle.interval_s,
            "source": candle.source,
            "side": signal.side,
            "quantity": signal.quantity,
            "reason": signal.reason,
            "held": money.text(held),
            "saw": decision.saw(),
        }

    def state(self) -> dict[str, Any]:
        """For the service's API: what is watched and whether it is warm."""
        return {
            symbol: {
                "warm": watch.model.is_warm,
                "interval_s": watch.model.inputs.interval_s,
                "warm_up": watch.model.inputs.warm_up,
                "refused": watch.refused,
                "source": watch.source,
                "newest_candle_ns": watch.newest_ns,
                "last_signal": watch.sent,
            }
            for symbol, watch in self._watches.items()
        }
