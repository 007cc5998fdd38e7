"""What a run did as one number: SHA-256 over its order events, and over its fills, as canonical JSON lines.

Left out is what differs between two honest runs of one thing: wall-clock times, ids a venue gives, the wording of details, and
the facts risk saw (ages of prices). So the events of a backtest and, read from `order_events`, of a paper run can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from trading_platform import money

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_LEFT_OUT = frozenset({"venue_order_id", "trade_id", "executed_at", "detail", "risk"})


class Fingerprint:
    """A hash that grows line by line: a run of any length needs no memory for it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.lines = 0

    def event(self, client_order_id: str, order_seq: int, kind: str, data: Mapping[str, Any]) -> None:
        """One order event; `data` as kept in `order_events`."""
        kept = {key: value for key, value in data.items() if key not in _LEFT_OUT}
        self._add({"client_order_id": client_order_id, "order_seq": order_seq, "type": kind, "data": kept})

    def fill(self, symbol: str, side: str, price: Decimal, quantity: Decimal, liquidity: str, ts_event_ns: int) -> None:
        self._add(
            {
                "symbol": symbol,
                "side": side,
                "price": money.text(price),
                "quantity": money.text(quantity),
                "liquidity": liquidity,
                "ts_event_ns": ts_event_ns,
            }
        )

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _add(self, line: Mapping[str, Any]) -> None:
        self._hash.update(_ENCODER.encode(line).encode() + b"\n")
        self.lines += 1
