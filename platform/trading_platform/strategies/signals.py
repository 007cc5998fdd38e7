"""From a decision to a signal: how much, and which id. The same decision always has the same id."""

from __future__ import annotations

import hashlib
from decimal import Decimal

from trading_platform import money
from trading_platform.instruments import Instrument
from trading_platform.messages import Candle
from trading_platform.strategies.model import Decision


def quantity(instrument: Instrument, candle: Candle, decision: Decision, held: Decimal, notional: Decimal) -> Decimal | None:
    """All that is held to leave, what so much money buys at the close to enter; None where that is too little to trade."""
    wanted = held.copy_abs() if decision.is_exit else size(instrument, candle.close, notional)
    return wanted if wanted >= instrument.min_quantity else None


def size(instrument: Instrument, close: int, notional: Decimal) -> Decimal:
    """What so much money buys at the close, down to the lot."""
    value_of_one = instrument.notional(Decimal(1), instrument.price(close))
    return instrument.round_quantity(money.divide(notional, value_of_one))


def signal_id(strategy: str, version: str, account: str, candle: Candle, decision: Decision) -> str:
    """Deterministic: strategy, version, account, series, candle, direction."""
    parts = (
        strategy, version, account, candle.symbol, candle.interval_s, candle.source, candle.ts_open_ns, decision.side, decision.reason,
    )  # fmt: skip
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
