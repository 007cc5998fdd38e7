"""What came of a run: orders, fills, positions, balances, figures, and its fingerprints; as a JSON document with money as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from trading_platform import money
from trading_platform.domain.orders import Fill, Order, PositionSide
from trading_platform.domain.performance import ReturnFigures, TripFigures
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue
from trading_platform.messages import Side


@dataclass(frozen=True, slots=True)
class FillLine:
    client_order_id: str
    symbol: str
    side: Side
    fill: Fill


@dataclass(frozen=True, slots=True)
class Refusal:
    """A wish that was no order at all."""

    origin: str
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """Money figures are in the account's currency; `capital` is what it began with, `equity` what it had in the end."""

    strategy: str
    source: str
    ticks: int
    quarantined: int
    first: datetime
    last: datetime
    orders: Sequence[Order]
    fills: Sequence[FillLine]
    refused: Sequence[Refusal]
    positions: Mapping[tuple[int, PositionSide], Position]
    balances: Mapping[str, Decimal]
    fees: Mapping[str, Decimal]
    capital: Decimal
    equity: Decimal
    trips: TripFigures
    returns: ReturnFigures
    event_log_hash: str
    events: int
    fills_hash: str

    def to_document(self, catalogue: Catalogue, *, details: bool = True) -> dict[str, Any]:
        """For JSON; without `details`, orders and fills are only counted."""
        document: dict[str, Any] = {
            "strategy": self.strategy,
            "source": self.source,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "ticks": self.ticks,
            "ticks_quarantined": self.quarantined,
            "orders_by_status": dict(sorted(Counter(order.status.value for order in self.orders).items())),
            "denied_by_reason": self._reasons(),
            "fills": len(self.fills),
            "refused": [asdict(refusal) | {"at": refusal.at.isoformat()} for refusal in self.refused],
            "positions": [
                {
                    "symbol": catalogue.id(instrument_id).symbol,
                    "position_side": side,
                    "quantity": money.text(position.quantity),
                    "average_price": money.text(position.average_price),
                    "realised_pnl": money.text(position.realised_pnl),
                }
                for (instrument_id, side), position in sorted(self.positions.items())
            ],
            "balances": _texts(self.balances),
            "fees": _texts(dict(sorted(self.fees.items()))),
            "capital": money.text(self.capital),
            "equity": money.text(self.equity),
            "result": money.text(money.subtract(self.equity, self.capital)),
            "round_trips": _texts(asdict(self.trips)),
            "returns": _texts(asdict(self.returns)),
            "events": self.events,
            "event_log_hash": self.event_log_hash,
            "fills_hash": self.fills_hash,
        }
        if details:
            document["order_list"] = [_order(order) for order in self.orders]
            document["fill_list"] = [
                {"client_order_id": line.client_order_id, "symbol": line.symbol, "side": line.side, **line.fill.to_data()}
                for line in self.fills
            ]
        return document

    def _reasons(self) -> dict[str, int]:
        codes = Counter(order.reason_code or "" for order in self.orders if order.status == "REJECTED")
        return dict(sorted(codes.items()))


def _order(order: Order) -> dict[str, Any]:
    return {
        "client_order_id": order.id,
        **order.intent.to_data(),
        "status": order.status.value,
        "filled_quantity": money.text(order.filled_quantity),
        "filled_notional": money.text(order.filled_notional),
        "reason_code": order.reason_code,
        "created_at": order.created_at.isoformat(),
        "updated_at": order.updated_at.isoformat(),
    }


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: money.text(value) if isinstance(value, Decimal) else value for name, value in values.items()}
