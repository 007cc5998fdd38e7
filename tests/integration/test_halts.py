"""The state of trading in a real database: who may change it, what wins a race, and when a halt is acknowledged."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from trading_platform import accounts, leadership
from trading_platform.auth import Identity
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.problems import Problem
from trading_platform.trading_states import TradingStates, Wishes, recv_windows

ADMIN = Identity("alice", "admin", "1", 0)
TRADER = Identity("bob", "trader", "2", 0)
ANALYST = Identity("eve", "analyst", "3", 0)

Superuser = psycopg.Connection[Any]


@pytest.fixture
async def states(db: Database, settings: Settings) -> TradingStates:
    await accounts.ensure(db, settings)
    return TradingStates(db)


async def _audit(db: Database) -> list[tuple[Any, ...]]:
    return await db.fetch_tuples(
        "SELECT actor, subject, detail->>'from', detail->>'to' FROM audit_events WHERE type = 'trading_state_change' ORDER BY id"
    )


# --- who may change what --------------------------------------------------------------------------------------------------


async def test_each_change_is_a_new_version_with_its_audit_event(states: TradingStates, db: Database) -> None:
    first = await states.tighten("paper", "reducing", "a loss", "risk")
    second = await states.change("paper", "running", "looked at", TRADER)
    assert (first.changed, second.changed, second.version > first.version) == (True, True, True)
    assert await _audit(db) == [("risk", "paper", "running", "reducing"), ("user:bob", "paper", "reducing", "running")]


async def test_tightening_never_loosens_and_repeating_it_changes_nothing(states: TradingStates, db: Database) -> None:
    paused = await states.tighten("paper", "paused", "somebody paused", "risk")
    again = await states.tighten("paper", "reducing", "a loss", "risk")
    assert (again.state, again.version, again.changed) == ("paused", paused.version, False)
    assert len(await _audit(db)) == 1


async def test_what_is_wished_for_with_a_looser_state_is_added_to_the_stricter_one(states: TradingStates) -> None:
    await states.tighten("*", "paused", "lunch", "user:bob")
    added = await states.tighten("*", "reducing", "safe mode", "user:bob", Wishes(safe_mode=True))
    assert (added.state, added.changed, (await states.rows())[0].safe_mode) == ("paused", True, True)


async def test_the_stricter_of_the_platforms_and_the_accounts_row_counts(states: TradingStates) -> None:
    await states.tighten("paper", "reducing", "a loss", "risk")
    assert (await states.effective("paper"), await states.effective("other")) == ("reducing", "running")
    await states.tighten("*", "stopped", "end of day", "risk")
    assert (await states.effective("paper"), await states.effective("other")) == ("stopped", "stopped")


@pytest.mark.parametrize("role", [TRADER, ANALYST], ids=["trader", "analyst"])
async def test_only_an_admin_ends_an_emergency(states: TradingStates, role: Identity) -> None:
    await states.tighten("*", "emergency_stopped", "a test", "host:test:root")
    with pytest.raises(Problem, match="FORBIDDEN"):
        await states.change("*", "stopped", "let me", role)
    assert await states.effective("paper") == "emergency_stopped"
    await states.change("*", "stopped", "the cause is gone", ADMIN)
    [row] = await states.rows()
    assert (row.state, row.released_by) == ("stopped", "user:alice")


async def test_an_emergency_ends_in_stopped_and_nowhere_else(states: TradingStates) -> None:
    await states.tighten("*", "emergency_stopped", "a test", "host:test:root")
    with pytest.raises(Problem, match="EMERGENCY_STOPPED"):
        await states.change("*", "running", "go", ADMIN)


async def test_a_role_without_the_permission_cannot_even_halt(states: TradingStates) -> None:
    with pytest.raises(Problem, match="FORBIDDEN"):
        await states.change("*", "paused", "let me", ANALYST)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trading_state SET state = 'running', changed_by = 'user:alice'",
        "UPDATE trading_state SET state = 'stopped', changed_by = 'user:alice'",
        "UPDATE trading_state SET state = 'stopped', changed_by = 'user:bob', released_by = 'user:bob', released_role = 'trader'",
        "UPDATE trading_state SET state = 'stopped', changed_by = 'engine', released_by = 'engine', released_role = 'admin'",
        "UPDATE trading_state SET state = 'stopped', changed_by = 'user:bob', released_by = 'user:alice', released_role = 'admin'",
        "UPDATE trading_state SET state = 'running', changed_by = 'user:alice', released_by = 'user:alice', released_role = 'admin'",
    ],
)
async def test_the_database_itself_refuses_an_unauthorised_release(states: TradingStates, db: Database, statement: str) -> None:
    await states.tighten("*", "emergency_stopped", "a test", "host:test:root")
    with pytest.raises(psycopg.Error, match="LATCHED"):
        await db.execute(statement)
    assert await states.effective("paper") == "emergency_stopped"


async def test_an_earlier_release_does_not_end_the_next_emergency(states: TradingStates, db: Database) -> None:
    await states.tighten("*", "emergency_stopped", "the first", "host:test:root")
    await states.change("*", "stopped", "over", ADMIN)
    await states.tighten("*", "emergency_stopped", "the second", "host:test:root")
    with pytest.raises(psycopg.Error, match="LATCHED"):
        await db.execute("UPDATE trading_state SET state = 'stopped', changed_by = 'user:alice'")


async def test_the_database_lets_machines_only_tighten(states: TradingStates, db: Database) -> None:
    await states.tighten("paper", "paused", "a test", "risk")
    with pytest.raises(psycopg.Error, match="LATCHED"):
        await db.execute("UPDATE trading_state SET state = 'running', changed_by = 'engine' WHERE account_id = 'paper'")
    await states.tighten("*", "reducing", "safe mode", "risk", Wishes(safe_mode=True))
    with pytest.raises(psycopg.Error, match="LATCHED"):
        await db.execute("UPDATE trading_state SET safe_mode = false, changed_by = 'engine' WHERE account_id = '*'")


async def test_wishes_stay_until_a_person_loosens_the_state(states: TradingStates) -> None:
    await states.tighten("*", "reducing", "safe mode", "risk", Wishes(safe_mode=True))
    await states.tighten("*", "paused", "worse", "risk")
    assert (await states.rows())[0].safe_mode
    await states.change("*", "running", "over", TRADER)
    assert not (await states.rows())[0].safe_mode


# --- races ----------------------------------------------------------------------------------------------------------------


async def test_of_two_who_tighten_at_once_the_stricter_wins(states: TradingStates) -> None:
    for account in ("paper", "*"):
        await asyncio.gather(*(states.tighten(account, state, "a race", "risk") for state in ("reducing", "stopped", "paused")))
        assert {row.account_id: row.state for row in await states.rows()}[account] == "stopped"


async def test_a_start_that_saw_an_older_state_does_not_undo_what_was_tightened_meanwhile(states: TradingStates) -> None:
    seen = (await states.change("*", "paused", "lunch", TRADER)).version
    await states.tighten("*", "stopped", "a breaker", "risk")
    with pytest.raises(Problem, match="STATE_CHANGED"):
        await states.change("*", "running", "back", TRADER, seen_version=seen)
    assert await states.effective("paper") == "stopped"


async def test_versions_are_committed_in_the_order_of_their_numbers(states: TradingStates, superuser: Superuser) -> None:
    """Whoever has seen version 7 of one row has seen version 6 of another."""
    with superuser.transaction():
        superuser.execute("UPDATE trading_state SET state = 'reducing', changed_by = 'risk' WHERE account_id = '*'")
        other = asyncio.create_task(states.tighten("paper", "paused", "a test", "risk"))
        await asyncio.sleep(0.2)
        assert not other.done()
    held = superuser.execute("SELECT version FROM trading_state WHERE account_id = '*'").fetchone()
    assert held is not None
    assert (await other).version > held[0]


async def test_a_frozen_writer_does_not_hold_up_a_halt(states: TradingStates, postgres: Any, settings: Settings) -> None:
    """An engine stopped in the middle of its transaction holds the lock; its transaction is ended."""
    frozen = psycopg.connect(host="127.0.0.1", port=postgres.port, user="trading_app", dbname=settings.database.name)
    frozen.execute("SELECT pg_advisory_xact_lock_shared(4004)")
    change = await states.tighten("*", "paused", "a halt", "risk")
    assert change.changed
    with pytest.raises(psycopg.OperationalError):
        frozen.execute("SELECT 1")


# --- acknowledged halts ---------------------------------------------------------------------------------------------------


async def _ack(db: Database, lease: leadership.Lease, version: int, in_flight: int = 0) -> None:
    await db.execute(
        "INSERT INTO trading_state_acks (account_id, version, in_flight, lease, fencing_token) VALUES ('paper', %s, %s, %s, %s)"
        " ON CONFLICT (account_id) DO UPDATE SET version = EXCLUDED.version, in_flight = EXCLUDED.in_flight,"
        " fencing_token = EXCLUDED.fencing_token, acked_at = clock_timestamp()",
        (version, in_flight, lease.name, lease.token),
    )


async def test_a_halt_is_acknowledged_at_once_where_nobody_has_led(states: TradingStates, settings: Settings) -> None:
    halt = await states.tighten("*", "paused", "a test", "risk")
    assert await states.await_halt(halt.version, recv_windows(settings), within_s=0) == []


async def test_a_halt_is_acknowledged_by_its_version_with_nothing_in_flight(states: TradingStates, db: Database) -> None:
    windows = {"paper": 0.0}
    lease = await leadership.acquire(db, "engine:paper", ttl_s=60)
    assert lease is not None
    halt = await states.tighten("*", "paused", "a test", "risk")
    await _ack(db, lease, halt.version - 1)
    [waiting] = await states.await_halt(halt.version, windows, within_s=0)
    assert "not yet" in waiting.why
    await _ack(db, lease, halt.version, in_flight=2)
    [waiting] = await states.await_halt(halt.version, windows, within_s=0)
    assert waiting.why.startswith("2 request(s)")
    await _ack(db, lease, halt.version)
    assert await states.await_halt(halt.version, windows, within_s=0) == []


async def test_a_frozen_engine_has_not_acknowledged_until_its_lease_has_run_out(states: TradingStates, db: Database) -> None:
    assert await leadership.acquire(db, "engine:paper", ttl_s=1) is not None
    halt = await states.tighten("*", "paused", "a test", "risk")
    [waiting] = await states.await_halt(halt.version, {"paper": 0.3}, within_s=0)
    assert (waiting.account_id, waiting.host) == ("paper", leadership.HOLDER.split(":")[0])
    assert await states.await_halt(halt.version, {"paper": 0.3}, within_s=5) == []
    gone = await db.fetch_value("SELECT clock_timestamp() - expires_at >= '0.3 s' FROM leases WHERE name = 'engine:paper'")
    assert gone, "what was signed under the lease could still have arrived"


async def test_an_acknowledgement_of_the_leader_before_does_not_count_for_its_successor(states: TradingStates, db: Database) -> None:
    first = await leadership.acquire(db, "engine:paper", ttl_s=60)
    assert first is not None
    halt = await states.tighten("*", "paused", "a test", "risk")
    await _ack(db, first, halt.version)
    await first.release()
    assert await leadership.acquire(db, "engine:paper", ttl_s=60) is not None
    [waiting] = await states.await_halt(halt.version, {"paper": 0.0}, within_s=0)
    assert "acknowledged nothing" in waiting.why
