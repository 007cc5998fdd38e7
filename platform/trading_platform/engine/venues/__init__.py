"""What the engine asks of a venue, whatever it is. One object an account: it carries that account's keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol

from trading_platform.domain.orders import Fill, Intent

VenueStatus = Literal["NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "REJECTED", "EXPIRED"]


class VenueRejected(Exception):
    """The venue refuses, or the request never left us; `code` is the reason code. Nothing of it is there."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class VenueUnknown(Exception):
    """No answer, or one that says nothing: the order may be there. Ask by client_order_id, never send again."""


@dataclass(frozen=True, slots=True)
class VenueTrade:
    """An execution as the venue reports it. `fill.trade_id` is unique within (venue, account) and says where to go on:
    `<symbol>:<the venue's number>`."""

    symbol: str
    client_order_id: str
    fill: Fill


@dataclass(frozen=True, slots=True)
class VenueOrder:
    """An order as the venue knows it. An answer to `submit` may bring the executions that came at once in `trades`; they are told
    again by the stream. When they add up to less than `filled_quantity`, the rest has to be asked for."""

    symbol: str
    client_order_id: str
    venue_order_id: str
    status: VenueStatus
    filled_quantity: Decimal
    reason: str | None = None
    trades: tuple[VenueTrade, ...] = ()


@dataclass(frozen=True, slots=True)
class VenueReport:
    """What the venue's stream tells without being asked; it may come twice, late, in any order or not at all."""

    order: VenueOrder
    trade: VenueTrade | None = None


class StreamGap:
    """The stream was interrupted: what happened meanwhile must be asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a limit of the venue is used, as far as it told."""

    limit: str
    used: int
    allowed: int
    interval_s: int


class Venue(Protocol):
    """One account at one venue. Symbols and ids are the platform's. Every call may raise VenueUnknown."""

    name: str
    # A request signed at t is refused by the venue when it arrives after t + recv_window_s: then it is certain not to be accepted.
    recv_window_s: float
    has_dead_man: bool
    # Asked in the moment before a new order is signed, after all waiting; raises VenueRejected to keep the order back.
    gate: Callable[[Intent], None] | None

    async def open(self) -> None:
        """Load the venue's markets and clock."""

    async def close(self) -> None: ...

    async def submit(self, intent: Intent) -> VenueOrder:
        """Send a working order. An id the venue already has is that order's acknowledgement. Raises VenueRejected."""

    async def cancel(self, symbol: str, client_order_id: str) -> VenueOrder:
        """The order after the cancel. Raises VenueRejected when it is not open there."""

    async def query(self, symbol: str, client_order_id: str) -> VenueOrder | None:
        """The order, or None when the venue does not know it."""

    async def open_orders(self) -> list[VenueOrder]:
        """Everything that works there, of all symbols."""

    async def trades(self, symbol: str, after_trade_id: str | None, limit: int) -> list[VenueTrade]:
        """Executions after the one named (`<symbol>:<number>`), oldest first."""

    async def balances(self) -> dict[str, Decimal]:
        """What the account has there by currency, free and locked together; contracts are not currencies."""

    async def cancel_all(self, symbols: Sequence[str]) -> None:
        """Cancel everything open of these symbols."""

    async def arm_dead_man(self, symbols: Sequence[str], timeout_s: float) -> None:
        """The venue cancels by itself after this long unless it is armed again; 0 disarms. Only where `has_dead_man`."""

    def reports(self) -> AsyncIterator[VenueReport | StreamGap]:
        """What happens to the account's orders, until closed; reconnects by itself and says so with StreamGap."""

    def usage(self) -> list[Usage]:
        """The venue's limits and how far they are used."""
