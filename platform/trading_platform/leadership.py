"""Leases: what must be single is held by one process, in the table `leases`, with a fencing token that only rises.

The holder renews; when it stops, another waits until the lease runs out (or is released) and gets a higher token. Every
statement that must come from the leader carries the token, and the database refuses a token that is not the current one
(trigger on order_events), so a process that was suspended and wakes up cannot write.

    lease = await acquire(db, "engine:paper", ttl_s=10)    # Lease, or None while another holds it
    lease.assert_held()                                    # raises LeaseLost: by the local clock, without asking
    INSERT … (lease, fencing_token) VALUES (lease.name, lease.token)
    await lease.renew(); await lease.release()

Services do not call this: `Service.loop(..., lease="engine:paper")` does (see service.py).
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import dataclass, field

from trading_platform import telemetry
from trading_platform.db import Database

HOLDER = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class LeaseLost(Exception):
    """This process no longer leads; it must stop acting at once."""


@dataclass(slots=True)
class Lease:
    """A lease held. `deadline` (local monotonic seconds) lies before the moment the database would give it away."""

    db: Database
    name: str
    holder: str
    token: int
    ttl_s: float
    deadline: float
    _lost: bool = field(default=False)

    @property
    def held(self) -> bool:
        return not self._lost and time.monotonic() < self.deadline

    def assert_held(self) -> None:
        """Raises LeaseLost when the lease ran out or was lost."""
        if not self.held:
            raise LeaseLost(f"lease {self.name} (token {self.token}) is not held any more")

    async def renew(self) -> None:
        """Extend the lease. Raises LeaseLost when another took it."""
        asked = time.monotonic()
        renewed = await self.db.execute(
            "UPDATE leases SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => %s)"
            " WHERE name = %s AND holder = %s AND token = %s",
            (self.ttl_s, self.name, self.holder, self.token),
        )
        if renewed != 1:
            self._lost = True
            telemetry.LEADER.labels(self.name).set(0)
            raise LeaseLost(f"lease {self.name} (token {self.token}) was taken by another")
        self.deadline = asked + self.ttl_s * 0.9

    async def release(self) -> None:
        """Give the lease up so that another need not wait; does nothing when it is not ours any more."""
        self._lost = True
        telemetry.LEADER.labels(self.name).set(0)
        await self.db.execute(
            "UPDATE leases SET holder = NULL, expires_at = clock_timestamp() WHERE name = %s AND holder = %s AND token = %s",
            (self.name, self.holder, self.token),
        )


async def acquire(db: Database, name: str, *, ttl_s: float, holder: str = HOLDER) -> Lease | None:
    """Take the lease if nobody holds it; a new token, higher than any before."""
    asked = time.monotonic()
    async with db.transaction() as cursor:
        await cursor.execute(
            "INSERT INTO leases AS l (name, holder, token, acquired_at, renewed_at, expires_at)"
            " VALUES (%(name)s, %(holder)s, 1, clock_timestamp(), clock_timestamp(),"
            "         clock_timestamp() + make_interval(secs => %(ttl)s))"
            " ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, token = l.token + 1,"
            "   acquired_at = EXCLUDED.acquired_at, renewed_at = EXCLUDED.renewed_at, expires_at = EXCLUDED.expires_at"
            " WHERE l.holder IS NULL OR l.expires_at <= clock_timestamp()"
            " RETURNING token",
            {"name": name, "holder": holder, "ttl": ttl_s},
        )
        row = await cursor.fetchone()
    if row is None:
        telemetry.LEADER.labels(name).set(0)
        return None
    telemetry.LEADER.labels(name).set(1)
    telemetry.LEASE_TOKEN.labels(name).set(row[0])
    return Lease(db, name, holder, row[0], ttl_s, asked + ttl_s * 0.9)
