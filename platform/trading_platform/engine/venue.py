"""What the engine asks of a venue, paper or real. Implementations own their connection; the engine owns the orders.

The three answers to a submit must never be confused: an acknowledgement, a rejection (VenueRejected: certainly not
working there) and not knowing (VenueUnknown: it may or may not have arrived). A second submit of the same
client_order_id is answered like the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from trading_platform.domain.orders import Fill, Intent


class VenueRejected(Exception):
    """The venue refuses; `code` is the reason code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class VenueUnknown(Exception):
    """No answer: the order may be there. Ask by client_order_id, never send again."""


@dataclass(frozen=True, slots=True)
class VenueOrder:
    """An order as the venue knows it. Status: NEW, PARTIALLY_FILLED, FILLED, CANCELED, REJECTED, EXPIRED."""

    client_order_id: str
    venue_order_id: str
    status: str
    filled_quantity: Decimal
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class VenueTrade:
    """An execution as the venue reports it."""

    client_order_id: str
    fill: Fill


class Venue(Protocol):
    """One venue."""

    name: str

    async def submit(self, intent: Intent) -> VenueOrder:
        """Raises VenueRejected or VenueUnknown."""

    async def cancel(self, account_id: str, client_order_id: str) -> VenueOrder:
        """The order after the cancel. Raises VenueRejected when it is not open there, VenueUnknown without an answer."""

    async def query(self, account_id: str, client_order_id: str) -> VenueOrder | None:
        """The order, or None when the venue never received it. Raises VenueUnknown."""

    async def open_orders(self, account_id: str) -> list[VenueOrder]:
        """Everything that still works there. Raises VenueUnknown."""

    async def trades(self, account_id: str, after_trade_id: str | None, limit: int) -> list[VenueTrade]:
        """Executions after the one named, oldest first. Raises VenueUnknown."""

    async def changed(self, timeout_s: float) -> None:
        """Returns when there may be new executions, at the latest after the time-out."""
