"""The most recent fills, read from the facts themselves: they can be seen while every other service is away."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from trading_platform import money
from trading_platform.db import Database

_RECENT: Final = """
SELECT f.seq, f.account_id, f.venue, f.venue_trade_id, f.client_order_id, i.symbol, f.side, f.position_side, f.quantity, f.price, f.fee,
       f.fee_currency, f.liquidity, f.executed_at, f.ts_event_ns, r.realised_pnl, r.slippage,
       o.strategy
  FROM fills f
  JOIN instruments i ON i.id = f.instrument_id
  LEFT JOIN orders o ON o.client_order_id = f.client_order_id
  LEFT JOIN trade_results r ON r.fill_seq = f.seq
 ORDER BY f.seq DESC
 LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class _Fill:
    seq: int
    account_id: str
    venue: str
    venue_trade_id: str
    client_order_id: str
    symbol: str
    side: str
    position_side: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    liquidity: str
    executed_at: datetime
    ts_event_ns: int
    realised_pnl: Decimal | None
    slippage: Decimal | None
    strategy: str | None


async def recent(db: Database, limit: int) -> list[dict[str, Any]]:
    """The newest `limit` fills, newest last. `realised_pnl` and `slippage` are absent until the portfolio has booked the fill."""
    fills = await db.fetch_all(_RECENT, (limit,), as_=_Fill)
    return [_document(fill) for fill in reversed(fills)]


def _document(fill: _Fill) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": f"{fill.venue}:{fill.venue_trade_id}",
        "sequence": fill.seq,
        "timestamp": int(fill.executed_at.timestamp() * 1000),
        "event_timestamp": fill.ts_event_ns // 1_000_000,
        "account": fill.account_id,
        "symbol": fill.symbol,
        "side": fill.side,
        "position_side": fill.position_side,
        "quantity": money.text(fill.quantity),
        "price": money.text(fill.price),
        "fee": money.text(fill.fee),
        "fee_currency": fill.fee_currency,
        "liquidity": fill.liquidity,
        "venue": fill.venue,
        "client_order_id": fill.client_order_id,
    }
    if fill.realised_pnl is not None:
        document["realised_pnl"] = money.text(fill.realised_pnl)
    if fill.slippage is not None:
        document["slippage"] = money.text(fill.slippage)
    if fill.strategy is not None:
        document["strategy"] = fill.strategy
    return document
