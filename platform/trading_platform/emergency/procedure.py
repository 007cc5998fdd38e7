"""The procedure of an emergency stop: nothing more is sent, everything open is cancelled at the venue, positions are closed if
asked for. It reaches nothing by itself: `Means` does, the risk service's (means.py) as well as the host's own. What must
not wait does not: cancelling at the venue begins at once and goes on while the halt is being committed and acknowledged. It is
complete when the venue, asked after the halt held, shows nothing open. Safe to repeat; what it could not do or see it says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar

from trading_platform.trading_states import Waiting

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_S: Final = 0.25
CALL_WITHIN_S: Final = 5.0
DEAD_MAN_S: Final = 10.0


class OpenOrder(Protocol):
    @property
    def symbol(self) -> str: ...
    @property
    def client_order_id(self) -> str: ...


class VenueAccount(Protocol):
    """What is asked of a venue here; engine/venues is the whole of it."""

    has_dead_man: bool

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def open_orders(self) -> Sequence[OpenOrder]: ...
    async def cancel_all(self, symbols: Sequence[str]) -> None: ...
    async def arm_dead_man(self, symbols: Sequence[str], timeout_s: float) -> None: ...


class Means(Protocol):
    """How this process reaches what must be stopped. Everything may raise; nothing may be assumed to answer."""

    async def halt(self) -> int:
        """Commit the halt, for good; its version."""

    async def waiting(self, version: int) -> list[Waiting]:
        """Whose orders may still reach a venue."""

    async def venue(self, account_id: str) -> VenueAccount:
        """The account's venue, not opened yet."""

    def symbols(self) -> Sequence[str]:
        """Everything that can be traded, as far as it is known."""

    async def cancel_by_engine(self, account_id: str) -> None:
        """Have the engine of this host cancel everything: the orders it holds itself, too, which no venue knows."""

    async def positions(self, account_id: str) -> list[str]:
        """What the account's fills leave it holding."""


@dataclass(slots=True)
class AccountReport:
    """What became of one account. None: it could not be seen."""

    open_orders: list[str] | None = None
    positions: list[str] | None = None
    cancelled: int = 0
    dead_man_armed: bool = False
    engine: str = ""
    trouble: str = ""


@dataclass(slots=True)
class Report:
    """What was done and what is left. `left` is known to be there; `unseen` could not be looked at or made sure of."""

    version: int | None = None
    acknowledged: bool = False
    waiting: list[Waiting] = field(default_factory=list)
    trouble: str = ""
    accounts: dict[str, AccountReport] = field(default_factory=dict)
    flatten: bool = False
    halts: bool = True
    seconds: float = 0.0

    @property
    def left(self) -> list[str]:
        found = [f"{one.account_id}: not acknowledged on {one.host or 'any host'}: {one.why}" for one in self.waiting]
        for account_id, account in self.accounts.items():
            found += [f"{account_id}: open at the venue: {order}" for order in account.open_orders or ()]
            found += [f"{account_id}: position: {position}" for position in (account.positions or ()) if self.flatten]
        return found

    @property
    def unseen(self) -> list[str]:
        found = []
        if not self.halts:
            pass
        elif self.version is None:
            found.append(f"the halt is not in the database ({self.trouble or 'no answer'}): engines of other hosts may not know of it")
        elif not self.acknowledged and not self.waiting:
            found.append(f"whether every engine obeys the halt ({self.trouble or 'no answer'})")
        for account_id, account in self.accounts.items():
            if account.open_orders is None:
                found.append(f"{account_id}: what is open at the venue ({account.trouble or 'no answer'})")
            if self.flatten and account.positions is None:
                found.append(f"{account_id}: what is held ({account.trouble or 'no answer'})")
        return found

    @property
    def complete(self) -> bool:
        return (self.acknowledged or not self.halts) and not self.left and not self.unseen

    def document(self) -> dict[str, Any]:
        """For JSON and for the audit event."""
        return {
            "complete": self.complete,
            "acknowledged": self.acknowledged,
            "flatten": self.flatten,
            "left": self.left,
            "unseen": self.unseen,
            "seconds": round(self.seconds, 3),
            "accounts": {
                name: _known(
                    open_orders=account.open_orders,
                    positions=account.positions,
                    cancelled=account.cancelled,
                    dead_man_armed=account.dead_man_armed,
                    engine=account.engine,
                    trouble=account.trouble,
                )
                for name, account in self.accounts.items()
            },
        } | _known(version=self.version)


async def stop(
    means: Means,
    accounts: Sequence[str],
    *,
    flatten: bool,
    deadline_s: float,
    held: Callable[[], Awaitable[None]] | None = None,
) -> Report:
    """Stop trading of these accounts; returns when it is complete or time is up. `held` is called once the halt is acknowledged."""
    run = _Run.begin(means, accounts, flatten=flatten, deadline_s=deadline_s)
    return await run.ended(run.halt(held), *(run.clear(account) for account in accounts))


async def cancel(means: Means, accounts: Sequence[str], *, deadline_s: float) -> Report:
    """Cancel what is open, without a halt: complete when each venue has shown nothing open once."""
    run = _Run.begin(means, accounts, flatten=False, deadline_s=deadline_s)
    run.report.halts = False
    run.holds.set()
    return await run.ended(*(run.clear(account) for account in accounts))


@dataclass(slots=True)
class _Run:
    means: Means
    report: Report
    began: float
    deadline: float
    holds: asyncio.Event

    @classmethod
    def begin(cls, means: Means, accounts: Sequence[str], *, flatten: bool, deadline_s: float) -> _Run:
        report = Report(accounts={account: AccountReport() for account in accounts}, flatten=flatten)
        began = time.monotonic()
        return cls(means, report, began, began + deadline_s, asyncio.Event())

    async def ended(self, *parts: Awaitable[None]) -> Report:
        await asyncio.gather(*parts)
        self.report.seconds = time.monotonic() - self.began
        return self.report

    # --- the halt -----------------------------------------------------------------------------------------------------

    async def halt(self, held: Callable[[], Awaitable[None]] | None) -> None:
        """Commit the halt and wait until everybody obeys it."""
        report = self.report
        while self._time_left():
            try:
                if report.version is None:
                    report.version = await self._bounded(self.means.halt())
                report.waiting = await self._bounded(self.means.waiting(report.version))
                report.trouble = ""
                if not report.waiting:
                    break
            except Exception as error:
                report.trouble = _worse(report.trouble, error)
                report.waiting = []
            await self._pause()
        else:
            return
        if held is not None:
            await held()
        report.acknowledged = True
        self.holds.set()

    # --- the venue ----------------------------------------------------------------------------------------------------

    async def clear(self, account_id: str) -> None:
        """Cancel until the venue shows nothing, by a look that began when the halt held; then see to the positions."""
        asking = asyncio.create_task(self._cancel_by_engine(account_id))
        venue: VenueAccount | None = None
        try:
            while self._time_left():
                try:
                    if venue is None:
                        venue = await self._opened(account_id)
                    await self._arm(account_id, venue)
                    if await self._cleared(account_id, venue) and await self._flat(account_id):
                        await self._disarm(account_id, venue)
                        break
                except Exception as error:
                    # Never ends the attempts: whatever it is, the orders are still there.
                    account = self.report.accounts[account_id]
                    account.trouble = _worse(account.trouble, error)
                    log.warning("emergency stop: trying again", extra={"account": account_id, "error": _said(error)})
                await self._pause()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if venue is not None:
                await asyncio.gather(asyncio.wait_for(venue.close(), CALL_WITHIN_S), return_exceptions=True)

    async def _opened(self, account_id: str) -> VenueAccount:
        venue = await self._bounded(self.means.venue(account_id))
        try:
            await self._bounded(venue.open())
        except BaseException:
            await asyncio.gather(asyncio.wait_for(venue.close(), CALL_WITHIN_S), return_exceptions=True)
            raise
        return venue

    async def _arm(self, account_id: str, venue: VenueAccount) -> None:
        """Should this process die now, the venue cancels by itself. Not without a halt: new orders are none of its business."""
        account = self.report.accounts[account_id]
        if not venue.has_dead_man or account.dead_man_armed or not self.report.halts:
            return
        try:
            await self._bounded(venue.arm_dead_man(self.means.symbols(), DEAD_MAN_S))
            account.dead_man_armed = True
        except Exception as error:
            log.warning("emergency stop: dead-man timer not armed", extra={"account": account_id, "error": _said(error)})

    async def _disarm(self, account_id: str, venue: VenueAccount) -> None:
        """Nothing is open: left armed, it would cancel what is placed after a release within its time."""
        account = self.report.accounts[account_id]
        if not account.dead_man_armed:
            return
        try:
            await self._bounded(venue.arm_dead_man(self.means.symbols(), 0))
            account.dead_man_armed = False
        except Exception as error:
            log.warning("emergency stop: dead-man timer not disarmed", extra={"account": account_id, "error": _said(error)})

    async def _cleared(self, account_id: str, venue: VenueAccount) -> bool:
        """One look, and a cancel of what it saw. True for an empty look that began while the halt held."""
        account = self.report.accounts[account_id]
        held_before = self.holds.is_set()
        account.open_orders = None  # until this look has an answer, nothing is known
        found = await self._bounded(venue.open_orders())
        account.open_orders = [f"{order.symbol} {order.client_order_id}" for order in found]
        account.trouble = ""
        if found:
            account.cancelled += len(found)
            await self._bounded(venue.cancel_all(sorted({order.symbol for order in found})))
        return not found and held_before

    async def _flat(self, account_id: str) -> bool:
        """Whether nothing is held, where that was asked for. Whoever leads closes it: the halt's row says so."""
        if not self.report.flatten:
            return True
        account = self.report.accounts[account_id]
        account.positions = None
        account.positions = await self._bounded(self.means.positions(account_id))
        return not account.positions

    async def _cancel_by_engine(self, account_id: str) -> None:
        account = self.report.accounts[account_id]
        account.engine = "the engine of this host has not answered"
        try:
            await self._bounded(self.means.cancel_by_engine(account_id))
        except Exception as error:
            account.engine = f"the engine of this host did not cancel: {_said(error)}"
        else:
            account.engine = "the engine of this host cancelled its orders"

    # --- time ---------------------------------------------------------------------------------------------------------

    def _time_left(self) -> bool:
        return time.monotonic() < self.deadline

    async def _bounded(self, work: Awaitable[T]) -> T:
        return await asyncio.wait_for(work, max(0.05, min(CALL_WITHIN_S, self.deadline - time.monotonic())))

    async def _pause(self) -> None:
        await asyncio.sleep(max(0.0, min(PAUSE_S, self.deadline - time.monotonic())))


def _known(**members: Any) -> dict[str, Any]:
    """What is not known is left out, not null."""
    return {name: value for name, value in members.items() if value is not None}


def outcome(report: Report) -> Literal[0, 1, 3]:
    """Exit status: 0 complete, 1 something is left, 3 nothing is known to be left but not everything could be seen."""
    if report.complete:
        return 0
    return 1 if report.left else 3


def _worse(known: str, error: Exception) -> str:
    """What to say of a failed attempt: that time ran out explains less than what failed before."""
    return known if known and isinstance(error, TimeoutError) else _said(error)


def _said(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else f"{type(error).__name__}"
    return text.splitlines()[0][:300]
