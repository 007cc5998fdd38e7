"""PostgreSQL: one pool a process, explicit transactions, SQL in plain sight, typed rows, times in UTC.

Connections may go through PgBouncer in transaction pooling: nothing here relies on a session (no prepared statements,
no SET, no LISTEN). What needs a session (migrations, rebuilds) uses `connect_session`.

    db = Database(settings)
    async with db.transaction() as cur:                       # commits, or rolls back on any exception
        await cur.execute("INSERT …", (…,))
    rows = await db.fetch_all("SELECT a, b FROM …", (…,), as_=Row)    # Row: a dataclass with those fields
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow, class_row, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from trading_platform.config import Settings, optional_secret, secret


class _UtcLoader(Loader):
    """timestamptz as UTC, whatever time zone the server or the pooler's session happens to have."""

    def load(self, data: Buffer) -> datetime:
        return datetime.fromisoformat(bytes(data).decode()).astimezone(UTC)


psycopg.adapters.register_loader("timestamptz", _UtcLoader)

Params = Sequence[Any] | Mapping[str, Any]
R = TypeVar("R")

# The database is away or changing its leader: worth trying again. Anything else is a defect and must be seen.
TRANSIENT: tuple[type[Exception], ...] = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
)


def connection_parameters(settings: Settings, *, session: bool = False, application: str = "trading") -> dict[str, Any]:
    """libpq parameters: for the app role through the pooler, or for the migrator on a session of its own."""
    database = settings.database
    parameters: dict[str, Any] = {
        "host": database.host,
        "port": database.session_port if session else database.port,
        "dbname": database.name,
        "user": database.migrator if session else database.user,
        "application_name": application,
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    if database.hostaddr:
        parameters["hostaddr"] = database.hostaddr
    name = "postgresql-migrator-password" if session else "postgresql-app-password"
    if database.tls_ca:
        parameters |= {"sslmode": "verify-full", "sslrootcert": database.tls_ca, "password": secret(name)}
    else:
        parameters["sslmode"] = "disable"
        if password := optional_secret(name):
            parameters["password"] = password
    return parameters


# Objects belong to the owner role where there is one, so that whoever migrates next can change them.
_BECOME_OWNER = (
    b"SELECT set_config('role', rolname, false) FROM pg_roles"
    b" WHERE rolname = %s AND rolname <> current_user AND pg_has_role(current_user, oid, 'MEMBER')"
)


def connect_session(settings: Settings, application: str) -> Connection[TupleRow]:
    """A session of the migrator, acting as the owner, on the leader itself: for schema changes. Autocommit."""
    connection = psycopg.connect(**connection_parameters(settings, session=True, application=application), autocommit=True)
    connection.execute(_BECOME_OWNER, (settings.database.owner,))
    return connection


async def connect_session_async(settings: Settings, application: str) -> AsyncConnection[TupleRow]:
    """The same, for code that shares asynchronous parts with the services."""
    parameters = connection_parameters(settings, session=True, application=application)
    connection = await AsyncConnection.connect(**parameters, autocommit=True)
    await connection.execute(_BECOME_OWNER, (settings.database.owner,))
    return connection


class Database:
    """The pool of one process. `open` does not wait: a database that is away shows in `ping`, not at start."""

    def __init__(self, settings: Settings, application: str = "trading") -> None:
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            kwargs={
                **connection_parameters(settings, application=application),
                "prepare_threshold": None,
                "autocommit": True,
                "row_factory": tuple_row,
            },
            min_size=1,
            max_size=settings.database.pool_size,
            timeout=5.0,
            max_lifetime=600.0,
            reconnect_timeout=4.0,
            open=False,
            check=None,
            name=application,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=5.0)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncCursor[TupleRow]]:
        """A cursor inside one transaction."""
        async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            yield cursor

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """One statement, a transaction of its own; the number of rows it touched."""
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(sql.encode(), params)
            return cursor.rowcount

    async def fetch_all(self, sql: str, params: Params | None = None, *, as_: type[R]) -> list[R]:
        """All rows as instances of `as_`, whose fields are named like the columns."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(as_)) as cursor:
            await cursor.execute(sql.encode(), params)
            return await cursor.fetchall()

    async def fetch_one(self, sql: str, params: Params | None = None, *, as_: type[R]) -> R | None:
        """The first row as an instance of `as_`, or None."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(as_)) as cursor:
            await cursor.execute(sql.encode(), params)
            return await cursor.fetchone()

    async def fetch_tuples(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """All rows as tuples."""
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(sql.encode(), params)
            return await cursor.fetchall()

    async def fetch_value(self, sql: str, params: Params | None = None) -> Any:
        """First column of the first row, or None where there is no row."""
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(sql.encode(), params)
            row = await cursor.fetchone()
            return row[0] if row else None

    async def ping(self) -> None:
        """Raises one of TRANSIENT when the database cannot be written."""
        if await self.fetch_value("SELECT pg_is_in_recovery()"):
            raise psycopg.OperationalError("connected to a replica: the leader is changing")
