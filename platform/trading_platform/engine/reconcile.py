"""Our books against the venue's: at the start before anything new is taken, and again and again while trading.

What differs and can be told apart is settled: missed fills are recorded, orders brought to where the venue has them. What cannot
be explained is an alarm. While running, a difference counts when it is there at two looks in a row with nothing on its way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from trading_platform import money
from trading_platform.domain.orders import Order
from trading_platform.engine import metrics
from trading_platform.engine.core import Alert
from trading_platform.engine.store import Books
from trading_platform.engine.venues import VenueOrder, VenueRejected, VenueTrade, VenueUnknown
from trading_platform.service import LoopContext

if TYPE_CHECKING:
    from trading_platform.engine.session import Session

log = logging.getLogger(__name__)

PAGE = 500
AT_ONCE = 8
LOOKS = 20
ZERO = Decimal(0)
# Venues keep eight decimals; what lies below is rounding, not a difference.
DUST = Decimal("0.00000001")


@dataclass(slots=True)
class Comparison:
    """What one look found. `differences` as texts by kind, each true for the moment it was looked at."""

    kind: Literal["start", "running", "on_demand"]
    orders: int = 0
    fills: int = 0
    differences: set[tuple[str, str]] = field(default_factory=set)
    balances: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)  # by currency that differs: ours, theirs
    cursors: dict[str, str] = field(default_factory=dict)

    def detail(self) -> dict[str, Any]:
        return {
            "open_orders": self.orders,
            "fills_found": self.fills,
            "differences": [{"kind": kind, "detail": detail} for kind, detail in sorted(self.differences)],
            "cursors": self.cursors,
        }


class Reconciler:
    """Of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cursors: dict[str, str] = {}
        self._fetching: dict[str, asyncio.Lock] = {}
        self._before: set[tuple[str, str]] = set()
        self._wanted = asyncio.Event()

    def now(self) -> None:
        """Look as soon as possible: something may have been missed."""
        self._wanted.set()

    # --- start --------------------------------------------------------------------------------------------------------

    async def recover(self, context: LoopContext, books: Books) -> None:
        """Until every order has been asked for and nothing is uncertain. Raises ConnectionError when the venue does not answer."""
        session = self._session
        self._cursors = dict(books.cursors)
        try:
            comparison = await self._compare("start", every=True)
            while session.core.unsettled and not context.stopping:
                context.beat()
                session.lease.assert_held()
                session.apply(session.core.on_time(datetime.now(UTC)))
                for symbol in sorted(session.heard_of()):
                    comparison.fills += await self.fetch(symbol)
                await context.sleep(0.05)
            comparison.balances = await self._lasting_balances(context, comparison)
        except (VenueUnknown, VenueRejected) as error:
            raise ConnectionError(f"the venue does not answer: {error}") from error
        self._judge_balances(comparison)
        await self._conclude(comparison, comparison.differences)

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, context: LoopContext) -> None:
        """Compare now and then."""
        due = time.monotonic() + self._session.controls.reconcile_every_s
        while not context.stopping:
            context.beat()
            await context.sleep(0.2)
            if time.monotonic() < due and not self._wanted.is_set():
                continue
            self._wanted.clear()
            try:
                await self.look("running")
            except (VenueUnknown, VenueRejected) as error:
                log.warning("reconciliation waits for the venue", extra={"account": self._session.account.id, "error": str(error)})
            due = time.monotonic() + self._session.controls.reconcile_every_s

    async def look(self, kind: Literal["running", "on_demand"]) -> Comparison:
        """Compare once; what was different at the look before, too, is an alarm."""
        comparison = await self._compare(kind, every=False)
        comparison.balances = await self._balances()
        self._judge_balances(comparison)
        stays = comparison.differences & self._before
        self._before = comparison.differences
        await self._conclude(comparison, stays)
        return comparison

    # --- comparing ----------------------------------------------------------------------------------------------------

    async def _compare(self, kind: Literal["start", "running", "on_demand"], *, every: bool) -> Comparison:
        session = self._session
        comparison = Comparison(kind)
        asked_at = datetime.now(UTC)
        theirs = {order.client_order_id: order for order in await session.venue.open_orders()}
        ours = {order.id: order for order in session.core.open_orders if not order.intent.is_held}
        comparison.orders = len(theirs)
        symbols = session.core.watched | set(self._cursors) | {order.symbol for order in theirs.values()}
        for symbol in sorted(symbols):
            comparison.fills += await self.fetch(symbol)
        for order_id, found in theirs.items():
            if session.core.get(order_id) is not None:
                session.apply(session.core.on_query(order_id, found, asked_at, datetime.now(UTC)))
        await self._strangers(comparison, theirs)
        gone = [order for order_id, order in ours.items() if order_id not in theirs and (every or order.updated_at < asked_at)]
        await self._ask(gone)
        return comparison

    async def _ask(self, orders: Sequence[Order]) -> None:
        """What became of orders that the venue does not list as open."""
        session = self._session
        limit = asyncio.Semaphore(AT_ONCE)

        async def ask(order: Order) -> None:
            async with limit:
                asked_at = datetime.now(UTC)
                found = await session.venue.query(order.intent.symbol, order.id)
            session.apply(session.core.on_query(order.id, found, asked_at, datetime.now(UTC)))

        current = [order for order in orders if (known := session.core.get(order.id)) is not None and known.is_open]
        await asyncio.gather(*(ask(order) for order in current))

    async def _strangers(self, comparison: Comparison, theirs: Mapping[str, VenueOrder]) -> None:
        """Orders the venue works and we do not."""
        session = self._session
        strange = [order_id for order_id in theirs if (known := session.core.get(order_id)) is None or not known.is_open]
        ours = {order.id: order for order in await session.store.find(strange)}
        for order_id in strange:
            known = session.core.get(order_id) or ours.get(order_id)
            if known is None or known.intent.account_id != session.account.id:
                comparison.differences.add(("foreign_order", f"the venue works {order_id or 'an order'}, which we never made"))
                continue
            current = await session.venue.query(theirs[order_id].symbol, order_id)
            if current is not None and current.status in ("NEW", "PARTIALLY_FILLED"):
                comparison.differences.add(("zombie_order", f"the venue works {order_id}, which ended here as {known.status}"))

    async def fetch(self, symbol: str) -> int:
        """Have every execution of this symbol that the venue made after the last one asked for; how many were new to the core."""
        session, count = self._session, 0
        async with self._fetching.setdefault(symbol, asyncio.Lock()):
            while trades := await session.venue.trades(symbol, self._cursors.get(symbol), PAGE):
                strange: list[VenueTrade] = []
                for trade in trades:
                    batch = session.core.on_trade(trade, datetime.now(UTC))
                    count += any(step.event.fill is not None for step in batch.steps)
                    strange += batch.unmatched
                    batch.unmatched = []
                    session.apply(batch)
                if strange:
                    await session.match(strange)
                self._cursors[symbol] = trades[-1].fill.trade_id
        return count

    async def _balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Currencies of which the venue has another amount than our books. Empty while anything is on its way."""
        session = self._session
        if session.core.busy:
            return {}
        before = await self._holdings()
        theirs = await session.venue.balances()
        ours = await self._holdings()
        if ours is None or before != ours or session.core.busy:
            return {}
        differing = _differing(ours, theirs)
        if not differing:
            return {}
        beyond = await session.store.settled_otherwise(session.account.id, session.catalogue)
        if before != await self._holdings() or session.core.busy:
            return {}
        return _differing({name: money.add(ours.get(name, ZERO), beyond.get(name, ZERO)) for name in {*ours, *beyond}}, theirs)

    async def _lasting_balances(self, context: LoopContext, comparison: Comparison) -> dict[str, tuple[Decimal, Decimal]]:
        """What differs at two looks with no execution between them: the market goes on while we start, and nobody listens yet."""
        found = await self._balances()
        for _ in range(LOOKS):
            if not found:
                break
            context.beat()
            before, fills = found, 0
            for symbol in sorted(self._session.core.watched | set(self._cursors)):
                fills += await self.fetch(symbol)
            comparison.fills += fills
            found = await self._balances()
            if found == before and not fills:
                break
        return found

    async def _holdings(self) -> dict[str, Decimal] | None:
        session = self._session
        await session.journal.settled()
        return await session.store.holdings(session.account.id, session.catalogue)

    def _judge_balances(self, comparison: Comparison) -> None:
        for currency, (ours, theirs) in comparison.balances.items():
            detail = f"{currency}: our books have {money.text(ours)}, the venue {money.text(theirs)}"
            comparison.differences.add(("balance", detail))

    async def _conclude(self, comparison: Comparison, alarming: set[tuple[str, str]]) -> None:
        """Keep the row, tell the metrics, raise the alarms."""
        session = self._session
        await session.journal.settled()
        comparison.cursors = dict(self._cursors)
        identical = not comparison.differences
        await session.store.record_reconciliation(session.account.id, comparison.kind, identical, comparison.detail())
        metrics.RECONCILED.labels(session.account.id).set(time.time())
        metrics.IDENTICAL.labels(session.account.id).set(1 if identical else 0)
        for kind, detail in sorted(alarming):
            await session.alarm(Alert(kind, detail))


def _differing(ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]) -> dict[str, tuple[Decimal, Decimal]]:
    pairs = {currency: (ours.get(currency, ZERO), theirs.get(currency, ZERO)) for currency in sorted({*ours, *theirs})}
    return {currency: (mine, yours) for currency, (mine, yours) in pairs.items() if abs(mine - yours) > DUST}
