"""The rows of `trading_state`: reading them, making them stricter, changing them on a person's word, and waiting until a halt holds.

Every change is a row with a new version and an audit event, in one transaction. The rules are domain/trading_state.py's; the
database enforces them again. What stands in the way of a change (a transaction whose client has gone silent) is ended.

    states = TradingStates(db)
    change = await states.tighten("paper", "reducing", "LOSS_LIMIT: …", actor="risk")      # never looser, safe to repeat
    change = await states.change("*", "running", "after the fix", who)                     # raises Problem 403 or 409
    waiting = await states.await_halt(change.version, {"paper": 2.0}, within_s=15)          # [] once no order can reach a venue
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import AsyncCursor
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from trading_platform import telemetry
from trading_platform.auth import Identity
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.domain import trading_state
from trading_platform.domain.trading_state import PLATFORM, NotPossible, State
from trading_platform.problems import Problem

log = logging.getLogger(__name__)

_LOCK: Final = 4004  # the advisory lock of migration 0002: changes one at a time, intents meanwhile none
_LOCK_WAIT_S: Final = 2
_ATTEMPTS: Final = 3
_POLL_S: Final = 0.1

_COLUMNS: Final = "account_id, state, reason, changed_by, changed_at, version, safe_mode, keep_positions, flatten, released_by"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what was decided for an account, or with "*" for all. `flatten`: whoever leads closes what is held."""

    account_id: str
    state: State
    reason: str
    changed_by: str
    changed_at: datetime
    version: int
    safe_mode: bool
    keep_positions: bool
    flatten: bool
    released_by: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What came of a change. `changed` is False where the row already said so; `version` is what must be obeyed either way."""

    account_id: str
    before: State
    state: State
    version: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Wishes:
    """What goes with a state. Kept until a person loosens the row."""

    safe_mode: bool = False
    keep_positions: bool = False
    flatten: bool = False


@dataclass(frozen=True, slots=True)
class Lead:
    """Who leads an account, and what its leader acknowledged, as of `now` of the database. None where there is no row."""

    account_id: str
    holder: str | None
    token: int | None
    acquired_at: datetime | None
    expires_at: datetime | None
    acked_version: int | None
    in_flight: int | None
    acked_token: int | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """An account whose orders may still reach the venue, on which host, and why."""

    account_id: str
    host: str
    why: str


def waiting_for(lead: Lead, version: int, recv_window_s: float) -> Waiting | None:
    """Why the version is not acknowledged yet, or None: from here on no order of before can reach the venue.

    A request counts until `recv_window_s` after the last moment its sender can have signed it: a leader that was cut off, or has
    handed over, may have one on its way.
    """
    if lead.acquired_at is None or lead.expires_at is None:
        return None
    host = (lead.holder or "").split(":")[0]
    arriving = timedelta(seconds=recv_window_s)
    if lead.holder is None or lead.expires_at <= lead.now:
        until = lead.expires_at + arriving
        why = f"its lease has ended; what was signed before may arrive until {until:%H:%M:%S} UTC" if lead.now < until else None
    elif lead.acked_version is None or lead.in_flight is None or lead.acked_token != lead.token:
        why = f"its engine has acknowledged nothing since it leads; its lease runs out at {lead.expires_at:%H:%M:%S} UTC unless renewed"
    elif lead.acked_version < version:
        why = f"its engine obeys version {lead.acked_version}, not yet {version}"
    elif lead.in_flight > 0:
        why = f"{lead.in_flight} request(s) of its engine are on their way"
    elif lead.now < lead.acquired_at + arriving:
        why = f"its engine took over at {lead.acquired_at:%H:%M:%S} UTC; what the one before signed may still arrive"
    else:
        why = None
    return None if why is None else Waiting(lead.account_id, host, why)


class TradingStates:
    """Whoever needs the state of trading has one of these. Errors of the database pass through (db.TRANSIENT)."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # --- reading ------------------------------------------------------------------------------------------------------

    async def rows(self) -> list[Row]:
        """All rows; "*" first."""
        return await self._db.fetch_all(f'SELECT {_COLUMNS} FROM trading_state ORDER BY account_id COLLATE "C"', as_=Row)

    async def effective(self, account_id: str) -> State:
        """The stricter of the platform's and the account's; `stopped` where nothing is known."""
        found = await self._db.fetch_tuples("SELECT state FROM trading_state WHERE account_id IN ('*', %s)", (account_id,))
        return trading_state.effective(row[0] for row in found)

    # --- changing -----------------------------------------------------------------------------------------------------

    async def tighten(self, account_id: str, state: State, reason: str, actor: str, wishes: Wishes | None = None) -> Change:
        """Make an account ("*": all) at least that strict. Where it already is, nothing changes and the version in force answers."""
        async with self._alone() as cursor:
            before = await _row(cursor, account_id)
            wanted = wishes or Wishes()
            added = _joined(before, wanted)
            if before is not None and trading_state.strictness(before.state) >= trading_state.strictness(state) and added == _of(before):
                return Change(account_id, before.state, before.state, before.version, False)
            strictest = trading_state.effective([before.state if before else "running", state])
            return await _write(cursor, before, account_id, strictest, reason, actor, added, None)

    async def change(
        self,
        account_id: str,
        state: State,
        reason: str,
        who: Identity,
        wishes: Wishes | None = None,
        *,
        seen_version: int | None = None,
    ) -> Change:
        """Change a row on a person's word. Raises Problem: 403 without the permission, 409 where it is not possible.

        With `seen_version` the change is made only while that version is in force: what was tightened meanwhile stays.
        """
        async with self._alone() as cursor:
            before = await _row(cursor, account_id)
            current: State = before.state if before else "running"
            try:
                permission = trading_state.permission_needed(current, state)
            except NotPossible as refusal:
                raise Problem(409, refusal.code, refusal.detail) from None
            if not who.may(permission):
                raise Problem(403, "FORBIDDEN", f"role {who.role} lacks {permission}: {current} to {state}")
            if seen_version is not None and (before.version if before else 0) != seen_version:
                raise Problem(409, "STATE_CHANGED", f"trading of {account_id} was changed meanwhile: {current}; look, then ask again")
            wanted = wishes or Wishes()
            if before is not None and not trading_state.loosens(current, state):
                wanted = _joined(before, wanted)
            if before is not None and before.state == state and wanted == _of(before):
                return Change(account_id, current, state, before.version, False)
            role = who.role if permission == trading_state.RELEASE else None
            return await _write(cursor, before, account_id, state, reason, f"user:{who.subject}", wanted, role)

    # --- acknowledged halts -------------------------------------------------------------------------------------------

    async def await_halt(self, version: int, recv_windows_s: Mapping[str, float], *, within_s: float) -> list[Waiting]:
        """Wait until that version is obeyed for every account named (with its venue's window); who does not yet when time is up."""
        deadline = time.monotonic() + within_s
        while True:
            waiting = await self.waiting(version, recv_windows_s)
            if not waiting or time.monotonic() >= deadline:
                return waiting
            await asyncio.sleep(_POLL_S)

    async def waiting(self, version: int, recv_windows_s: Mapping[str, float]) -> list[Waiting]:
        """Who does not obey that version yet."""
        leads = await self._db.fetch_all(
            "SELECT a.id AS account_id, l.holder, l.token, l.acquired_at, l.expires_at,"
            " k.version AS acked_version, k.in_flight, k.fencing_token AS acked_token, clock_timestamp() AS now"
            " FROM unnest(%s::text[]) AS a (id)"
            " LEFT JOIN leases l ON l.name = 'engine:' || a.id LEFT JOIN trading_state_acks k ON k.account_id = a.id ORDER BY a.id",
            (list(recv_windows_s),),
            as_=Lead,
        )
        judged = (waiting_for(lead, version, recv_windows_s[lead.account_id]) for lead in leads)
        return [one for one in judged if one is not None]

    # --- the one transaction of a change ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[AsyncCursor[TupleRow]]:
        """A transaction that nobody else changes the state beside, and no intent is committed beside."""
        for attempt in range(1, _ATTEMPTS + 1):
            async with self._db.transaction() as cursor:
                await cursor.execute(b"SELECT set_config('lock_timeout', %s, true)", (f"{_LOCK_WAIT_S}s",))
                try:
                    await cursor.execute(b"SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                except psycopg.errors.LockNotAvailable:
                    if attempt == _ATTEMPTS:
                        raise
                else:
                    yield cursor
                    return
                raise psycopg.Rollback
            await self._end_silent()

    async def _end_silent(self) -> None:
        """End transactions that hold the lock while their client says nothing: a frozen process must not hold up a halt."""
        ended = await self._db.fetch_tuples(
            "SELECT a.pid, a.application_name, pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = %s AND l.objsubid = 1 AND l.granted"
            "   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            "   AND a.usename = current_user AND a.state LIKE 'idle in transaction%%'"
            "   AND a.state_change < clock_timestamp() - make_interval(secs => %s / 2.0)",
            (_LOCK, _LOCK_WAIT_S),
        )
        for pid, application, _ in ended:
            log.error("a silent transaction held up a change of the trading state; ended", extra={"pid": pid, "application": application})


async def _row(cursor: AsyncCursor[TupleRow], account_id: str) -> Row | None:
    await cursor.execute(f"SELECT {_COLUMNS} FROM trading_state WHERE account_id = %s".encode(), (account_id,))
    found = await cursor.fetchone()
    return None if found is None else Row(*found)


def _of(row: Row) -> Wishes:
    return Wishes(row.safe_mode, row.keep_positions, row.flatten)


def _joined(row: Row | None, wanted: Wishes) -> Wishes:
    """What is wished for stays wished for while the state does not loosen."""
    if row is None:
        return wanted
    return Wishes(row.safe_mode or wanted.safe_mode, row.keep_positions or wanted.keep_positions, row.flatten or wanted.flatten)


async def _write(
    cursor: AsyncCursor[TupleRow],
    before: Row | None,
    account_id: str,
    state: State,
    reason: str,
    actor: str,
    wishes: Wishes,
    released_role: str | None,
) -> Change:
    """The row and its audit event."""
    await cursor.execute(
        b"INSERT INTO trading_state AS t (account_id, state, reason, changed_by, safe_mode, keep_positions, flatten,"
        b" released_by, released_role) VALUES (%(account)s, %(state)s, %(reason)s, %(actor)s, %(safe_mode)s, %(keep_positions)s,"
        b" %(flatten)s, %(released_by)s, %(released_role)s)"
        b" ON CONFLICT (account_id) DO UPDATE SET state = EXCLUDED.state, reason = EXCLUDED.reason, changed_by = EXCLUDED.changed_by,"
        b" safe_mode = EXCLUDED.safe_mode, keep_positions = EXCLUDED.keep_positions, flatten = EXCLUDED.flatten,"
        b" released_by = coalesce(EXCLUDED.released_by, t.released_by), released_role = coalesce(EXCLUDED.released_role, t.released_role)"
        b" RETURNING version",
        {
            "account": account_id, "state": state, "reason": reason, "actor": actor, "safe_mode": wishes.safe_mode,
            "keep_positions": wishes.keep_positions, "flatten": wishes.flatten,
            "released_by": actor if released_role else None, "released_role": released_role,
        },
    )  # fmt: skip
    written = await cursor.fetchone()
    assert written is not None, "INSERT … RETURNING answers a row"
    was: State = before.state if before else "running"
    detail: dict[str, Any] = {"from": was, "to": state, "reason": reason, "version": written[0]}
    detail |= {name: True for name in ("safe_mode", "keep_positions", "flatten") if getattr(wishes, name)}
    if released_role:
        detail["released_in_role"] = released_role
    await cursor.execute(
        b"INSERT INTO audit_events (type, actor, subject, detail, request_id) VALUES ('trading_state_change', %s, %s, %s, %s)",
        (actor, account_id, Jsonb(detail), telemetry.request_id.get()),
    )
    level = logging.WARNING if trading_state.strictness(state) > trading_state.strictness(was) else logging.INFO
    log.log(level, "trading state changed", extra={"account": account_id, "actor": actor, **detail})
    return Change(account_id, was, state, int(written[0]), True)


def mode(rows: Iterable[Row]) -> str:
    """The platform's row in a word: its state, or `safe_mode`."""
    row = next((row for row in rows if row.account_id == PLATFORM), None)
    if row is None:
        return "stopped"
    return "safe_mode" if row.safe_mode and row.state == "reducing" else row.state


def recv_windows(settings: Settings, account_id: str = PLATFORM) -> dict[str, float]:
    """The accounts a row of that name counts for, each with how long its venue accepts a signed request."""
    return {
        account.id: settings.venues[account.venue].recv_window_s for account in settings.accounts if account_id in (PLATFORM, account.id)
    }
