"""The account's place in the service: one session for each lead of its lease, and the requests that reach it.

A request that meets a halt the engine had not seen yet is judged again under it; one that meets a stand-by is told so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from trading_platform import accounts, instruments
from trading_platform.bus import Bus
from trading_platform.config import AccountSettings, Settings
from trading_platform.db import Database
from trading_platform.domain.orders import Order
from trading_platform.engine.core import Changes, OrderRequest
from trading_platform.engine.journal import Halted
from trading_platform.engine.reconcile import Comparison
from trading_platform.engine.session import NotLeading, Session, refuse_latched
from trading_platform.engine.venues import Usage, Venue, VenueRejected, VenueUnknown
from trading_platform.instruments import Catalogue
from trading_platform.service import LoopContext

log = logging.getLogger(__name__)

RECOVERY_WAIT_S = 10.0

VenueFactory = Callable[[AccountSettings, Catalogue], Venue]
T = TypeVar("T")


class AccountEngine:
    """Orders of one account, while its lease is held."""

    def __init__(self, account: AccountSettings, settings: Settings, database: Database, stream: Bus, venues: VenueFactory) -> None:
        self.account = account
        self._settings = settings
        self._db = database
        self._bus = stream
        self._venues = venues
        self._session: Session | None = None
        self._venue: Venue | None = None

    def admit(self) -> None:
        """Raises Latched where this host must not lead: the lease is for others, who would wait while it is taken and given back."""
        refuse_latched(self._settings.engine.halt_latch)

    async def run(self, context: LoopContext) -> None:
        """Recover, then trade until stopped. For Service.loop with a lease."""
        self.admit()
        await accounts.ensure(self._db, self._settings)
        catalogue = await instruments.load(self._db)
        self._venue = self._venues(self.account, catalogue)
        try:
            await self._open(self._venue)
            in_flight = 0
            while not context.stopping:
                in_flight = await self._lead(context, self._venue, catalogue, in_flight)
        finally:
            venue, self._venue = self._venue, None
            await venue.close()

    async def _open(self, venue: Venue) -> None:
        try:
            await venue.open()
        except (VenueUnknown, VenueRejected) as error:
            raise ConnectionError(f"venue {venue.name} cannot be used: {error}") from error

    async def _lead(self, context: LoopContext, venue: Venue, catalogue: Catalogue, in_flight: int) -> int:
        """One session; how many of its submits may still reach the venue. A halt the database knew of first ends it without giving the
        lease away: nothing of it was written."""
        session = Session(self.account, self._settings, self._db, self._bus, context.lease, venue, catalogue, in_flight)
        self._session = session
        try:
            await session.run(context)
        except Halted as halt:
            log.warning("a halt came first; starting again under it", extra={"account": self.account.id, "error": str(halt)})
        finally:
            self._session = None
        return session.in_flight

    # --- requests -----------------------------------------------------------------------------------------------------

    async def place(self, request: OrderRequest, actor: str) -> tuple[Order, bool]:
        """See Session.place. Raises NotLeading on a stand-by."""
        return await self._through_halts(lambda session: session.place(request, actor))

    async def cancel(self, order_id: str, actor: str) -> Order:
        return await self._through_halts(lambda session: session.cancel(order_id, actor))

    async def cancel_all(self, actor: str, symbol: str | None) -> list[Order]:
        return await self._through_halts(lambda session: session.cancel_all(actor, symbol))

    async def replace(self, order_id: str, changes: Changes, actor: str) -> tuple[Order, Order | None]:
        return await self._through_halts(lambda session: session.replace(order_id, changes, actor))

    async def flatten(self, origin: str, actor: str, symbol: str | None) -> None:
        await self._through_halts(lambda session: session.flatten(origin, actor, symbol))

    async def reconcile(self) -> Comparison:
        """Compare the books now."""
        return await self._through_halts(lambda session: session.reconciler.look("on_demand"))

    async def _through_halts(self, ask: Callable[[Session], Awaitable[T]]) -> T:
        """Ask the session; after a halt ask the one that follows it, which knows of the halt."""
        deadline = time.monotonic() + RECOVERY_WAIT_S
        session = self._ready()
        while True:
            try:
                return await ask(session)
            except Halted:
                session = await self._next(session, deadline)

    async def _next(self, ended: Session, deadline: float) -> Session:
        while self._session is None or self._session is ended or not self._session.recovered:
            if time.monotonic() >= deadline:
                raise NotLeading(f"account {self.account.id} is still recovering")
            await asyncio.sleep(0.01)
        return self._session

    def _ready(self) -> Session:
        if self._session is None or not self._session.recovered or not self._session.lease.held:
            raise NotLeading(f"account {self.account.id} is led elsewhere or still recovering")
        return self._session

    @property
    def leading(self) -> bool:
        return self._session is not None and self._session.recovered and self._session.lease.held

    def standing(self) -> dict[str, Any] | None:
        """Of the session; None where this host does not lead the account."""
        return self._session.standing() if self._session is not None and self.leading else None

    def usage(self) -> list[Usage]:
        """The venue's limits as this host's connection knows them; empty on a stand-by."""
        return [] if self._venue is None else self._venue.usage()
