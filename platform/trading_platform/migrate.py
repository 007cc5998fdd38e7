"""Bring the database's schema to this release: `python -m trading_platform.migrate [--check]`.

Runs as the migrator on a session of its own on the leader, one at a time (advisory lock), each revision in a transaction.
Safe to run again: prints what it did, or that there was nothing to do. `--check` changes nothing and exits 1 when a revision
is pending, 0 when none is. A database that is newer than this release (a rollback) is left as it is.

Revisions expand first and contract in a later release: the release before must run on the schema of this one, so a
column is added nullable, filled, and required or dropped only when no running release needs it otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from trading_platform import config, db
from trading_platform.config import ConfigError, Settings

LOCK = 7_402_615_183_001
LOCK_TIMEOUT = "10s"


def migrations_directory() -> Path:
    """Beside the modules in an installed release, beside the package in the repository."""
    here = Path(__file__).parent
    for candidate in (here / "migrations", here.parent / "migrations"):
        if (candidate / "env.py").exists():
            return candidate
    raise ConfigError(f"no migrations beside {here}; the release is incomplete, build it again")


def migrate(settings: Settings, *, check: bool = False) -> tuple[int, list[str]]:
    """Exit status and the lines to print. Raises psycopg.Error when the database refuses."""
    connection = db.connect_session(settings, "trading-migrate")
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    try:
        script_config = Config()
        script_config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
        script = ScriptDirectory.from_config(script_config)
        if not check:
            connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            connection.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
        connection.autocommit = False
        with engine.connect() as alchemy:
            current = MigrationContext.configure(alchemy).get_current_revision()
            known = [revision.revision for revision in script.walk_revisions("base", "heads")][::-1]
            if current is not None and current not in known:
                return 0, [f"schema is at {current}, newer than this release ({known[-1]}); left as it is"]
            pending = known[known.index(current) + 1 :] if current else known
            if check:
                return (1, [f"pending: {', '.join(pending)}"]) if pending else (0, [f"schema is at {current}; nothing pending"])
            alchemy.rollback()
            script_config.attributes["connection"] = alchemy
            if pending:
                command.upgrade(script_config, "head")
            alchemy.commit()
            connection.execute((migrations_directory() / "grants.sql").read_bytes())
            connection.commit()
        if pending:
            return 0, [f"applied {revision}" for revision in pending] + [f"schema is at {known[-1]}"]
        return 0, [f"schema is at {current}; nothing to do"]
    finally:
        connection.close()
        engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="trading_platform.migrate", description="Bring the schema to this release.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a revision is pending")
    arguments = parser.parse_args()
    try:
        status, lines = migrate(config.load(), check=arguments.check)
    except ConfigError as error:
        print(f"trading-migrate: {error}", file=sys.stderr)
        sys.exit(78)
    except psycopg.Error as error:
        print(f"trading-migrate: the database refused: {error}".strip(), file=sys.stderr)
        sys.exit(2)
    print("\n".join(lines))
    sys.exit(status)


if __name__ == "__main__":
    main()
