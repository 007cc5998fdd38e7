"""What came of a run: orders, fills, trades, positions, balances, the equity's curve, figures, and its fingerprints; as a JSON document
with money as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from trading_platform import money
from trading_platform.domain.orders import Fill, Order, PositionSide
from trading_platform.domain.performance import Direction, Equity, ReturnFigures, TripFigures
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue
from trading_platform.messages import Side

MOST_POINTS = 2_000


@dataclass(frozen=True, slots=True)
class FillLine:
    client_order_id: str
    symbol: str
    side: Side
    fill: Fill


@dataclass(frozen=True, slots=True)
class TradeLine:
    """From flat to flat. `result` in the account's currency, less fees; `volume` the value of all its fills in the quote currency."""

    symbol: str
    direction: Direction
    opened_at: datetime
    closed_at: datetime
    quantity: Decimal
    volume: Decimal
    fills: int
    result: Decimal

    def to_data(self) -> dict[str, Any]:
        times = {"opened_at": self.opened_at.isoformat(), "closed_at": self.closed_at.isoformat()}
        return _texts(asdict(self)) | times


@dataclass(frozen=True, slots=True)
class Refusal:
    """A wish that was no order at all."""

    origin: str
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """Money figures are in the account's currency; `capital` is what it began with, `equity` what it had in the end. `curve` has the equity
    at every candle's and day's end, `closings` at every midnight and the end."""

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
    trades: Sequence[TradeLine]
    curve: Sequence[Equity]
    closings: Sequence[Equity]
    trips: TripFigures
    returns: ReturnFigures
    event_log_hash: str
    events: int
    fills_hash: str

    def to_document(self, catalogue: Catalogue, *, details: bool = True) -> dict[str, Any]:
        """For JSON; without `details`, orders, fills and trades are only counted, and there is no curve."""
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
            document["equity_curve"] = [[point.at.isoformat(), money.text(point.equity)] for point in thinned(self.curve)]
            document["monthly_returns"] = [[month, money.text(share)] for month, share in monthly_returns(self.closings)]
            document["trade_list"] = [trade.to_data() for trade in self.trades]
            document["order_list"] = [_order(order) for order in self.orders]
            document["fill_list"] = [
                {"client_order_id": line.client_order_id, "symbol": line.symbol, "side": line.side, **line.fill.to_data()}
                for line in self.fills
            ]
        return document

    def _reasons(self) -> dict[str, int]:
        codes = Counter(order.reason_code or "" for order in self.orders if order.status == "REJECTED")
        return dict(sorted(codes.items()))


def monthly_returns(closings: Sequence[Equity]) -> list[tuple[str, Decimal]]:
    """The equity's change of every month that has a day's end, as a share; the first from what the account began with."""
    ends: dict[str, Decimal] = {}
    for closing in closings[1:]:
        # What midnight sees belongs to the day before it.
        ends[(closing.at - timedelta(microseconds=1)).strftime("%Y-%m")] = closing.equity
    months, before = [], closings[0].equity if closings else Decimal(0)
    for month, equity in ends.items():
        if before > 0:
            months.append((month, money.divide(money.subtract(equity, before), before, 8)))
        before = equity
    return months


def thinned(curve: Sequence[Equity], most: int = MOST_POINTS) -> list[Equity]:
    """At most about so many points, among them the first, the last, and of every stretch between the lowest and the highest."""
    if len(curve) <= most:
        return list(curve)
    chosen = {0, len(curve) - 1}
    stretches = most // 2
    for number in range(stretches):
        stretch = range(len(curve) * number // stretches, len(curve) * (number + 1) // stretches)
        chosen |= {min(stretch, key=lambda row: curve[row].equity), max(stretch, key=lambda row: curve[row].equity)}
    return [curve[row] for row in sorted(chosen)]


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
