"""Users in PostgreSQL, their passwords as argon2id hashes. Also the deployment's command for the first administrator:

    python -m trading_platform.gateway.users ensure-admin [--name admin] [--reset]

The password is the credential `admin-password`. An administrator who exists is left alone, unless --reset. Prints what it did;
exit status 0, or 2 when the database cannot be reached (worth another try).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any, Final

import argon2

from trading_platform import config, db
from trading_platform.auth import Role
from trading_platform.config import ConfigError
from trading_platform.db import Database

SHORTEST_PASSWORD: Final = 12
LONGEST_PASSWORD: Final = 256
# RFC 9106's second recommendation (64 MiB), one lane: a login costs tens of milliseconds of one core.
_HASHER: Final = argon2.PasswordHasher(time_cost=3, memory_cost=64 << 10, parallelism=1)
# Verified when there is no such user, so that the answer takes as long.
_NOBODYS_HASH: Final = "$argon2id$v=19$m=65536,t=3,p=1$qnU/Go+HuHBdPwMMIFJe2g$2yRxSFlqcM2vFjnFML1hA20oaaEGmzZkx8nsnMYBa4A"
# Two at a time: each holds 64 MiB.
_HASHING: Final = asyncio.Semaphore(2)


class WeakPassword(ValueError):
    """The text says what is asked of a password."""


@dataclass(frozen=True, slots=True)
class User:
    id: int
    name: str
    password_hash: str
    role: Role
    disabled: bool


def check_strength(password: str) -> None:
    """Raises WeakPassword."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise WeakPassword(f"expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, found {len(password)}")
    if len(set(password)) < 5:
        raise WeakPassword("expected at least 5 different characters")


async def hash_password(password: str) -> str:
    async with _HASHING:
        return await asyncio.to_thread(_HASHER.hash, password)


async def verify_password(user: User | None, password: str) -> bool:
    """Whether it is the user's; takes as long for a user who is not there or disabled."""
    known = user is not None and not user.disabled
    async with _HASHING:
        right = await asyncio.to_thread(_verify, user.password_hash if user is not None else _NOBODYS_HASH, password)
    return right and known


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (argon2.exceptions.VerifyMismatchError, argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


class Users:
    """The table, and what happened to whom in the audit trail."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def find(self, name: str) -> User | None:
        return await self._db.fetch_one("SELECT id, name, password_hash, role, disabled FROM users WHERE name = %s", (name,), as_=User)

    async def create(self, name: str, password: str, role: Role, actor: str) -> bool:
        """False when there is one of that name. Raises WeakPassword."""
        check_strength(password)
        hashed = await hash_password(password)
        async with self._db.transaction() as cursor:
            await cursor.execute(
                "INSERT INTO users (name, password_hash, role) VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING",
                (name, hashed, role),
            )
            if cursor.rowcount == 0:
                return False
            await cursor.execute(_AUDIT, _event("user.created", actor, name, role=role))
        return True

    async def set_password(self, name: str, password: str, actor: str) -> None:
        """Raises WeakPassword."""
        check_strength(password)
        hashed = await hash_password(password)
        async with self._db.transaction() as cursor:
            await cursor.execute("UPDATE users SET password_hash = %s, updated_at = now() WHERE name = %s", (hashed, name))
            await cursor.execute(_AUDIT, _event("user.password_changed", actor, name))

    async def record(self, event: str, actor: str, subject: str, request_id: str | None = None, **detail: Any) -> None:
        await self._db.execute(_AUDIT, _event(event, actor, subject, request_id, **detail))


_AUDIT: Final = "INSERT INTO audit_events (type, actor, subject, request_id, detail) VALUES (%s, %s, %s, %s, %s::jsonb)"


def _event(event: str, actor: str, subject: str, request_id: str | None = None, **detail: Any) -> tuple[Any, ...]:
    return event, actor, subject, request_id, json.dumps(detail)


async def ensure_admin(database: Database, name: str, password: str, *, reset: bool) -> str:
    """What was done, as a line to print. Raises WeakPassword."""
    users = Users(database)
    if await users.create(name, password, "admin", actor="deployment"):
        return f"created administrator {name}"
    if reset:
        await users.set_password(name, password, actor="deployment")
        return f"changed the password of administrator {name}"
    return f"administrator {name} exists"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trading_platform.gateway.users", description="Users of the platform.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("ensure-admin", help="make the first administrator; the password is the credential admin-password")
    verb.add_argument("--name", default="admin")
    verb.add_argument("--reset", action="store_true", help="also when there is one: give it that password")
    arguments = parser.parse_args()
    try:
        print(asyncio.run(_ensure_admin(arguments.name, reset=arguments.reset)))
    except (ConfigError, WeakPassword) as error:
        print(f"users: {error}", file=sys.stderr)
        return 1
    except db.TRANSIENT as error:
        print(f"users: the database cannot be used: {error}", file=sys.stderr)
        return 2
    return 0


async def _ensure_admin(name: str, *, reset: bool) -> str:
    settings = config.load()
    password = config.secret("admin-password")
    database = Database(settings, application="trading-users")
    await database.open()
    try:
        return await ensure_admin(database, name, password, reset=reset)
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(main())
