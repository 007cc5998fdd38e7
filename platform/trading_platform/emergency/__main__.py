"""The program behind bin/emergency_stop.sh, run on a host by root's hand and the platform's user.

Lays the latch file first; then the procedure. Exit status: 0 complete, 1 something is left (it is named), 2 wrong use,
3 nothing is known to be left, but not everything could be seen or made sure of.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from trading_platform import config, db, telemetry
from trading_platform.auth import Authenticator
from trading_platform.config import ConfigError, EngineSettings, Settings
from trading_platform.db import Database
from trading_platform.domain.trading_state import PLATFORM
from trading_platform.emergency import latch
from trading_platform.emergency.means import PlatformMeans, VenueFactory, venue_at
from trading_platform.emergency.procedure import Report, outcome, stop

COMPLETE, LEFT, WRONG_USE, CANNOT_TELL = 0, 1, 2, 3
_TOKEN_S: Final = 300
_RECORD_WITHIN_S: Final = 5.0
_RECORD_UNSEEN_WITHIN_S: Final = 1.0  # where the database has not answered until now
_DATABASE_WITHIN_S: Final = 10.0

_AWAY: Final[tuple[type[Exception], ...]] = (*db.TRANSIENT, TimeoutError)


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="emergency_stop.sh",
        description="Stops trading now: nothing more is sent, everything open is cancelled at the venue, and stays so until an admin "
        "releases it. Works without gateway, Redis, engine and database, and says what it could not do.",
        epilog="Exit status: 0 complete, 1 something is left (it is named), 2 wrong use, 3 cannot tell. Safe to repeat. "
        "The release is an admin's: POST /api/trading/state; then --clear-latch on each host this ran on.",
    )
    command.add_argument("--reason", metavar="TEXT", help="why, for the audit: 3 to 500 characters")
    command.add_argument("--flatten", action="store_true", help="close what is held, too (by the engine, at the market)")
    command.add_argument("--account", metavar="ID", help="only this account (default: all)")
    command.add_argument("--deadline", type=_seconds, default=60.0, metavar="SECONDS", help="how long to try, 1 to 900 (default 60)")
    command.add_argument("--json", action="store_true", help="one JSON document instead of text")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--clear-latch", action="store_true", help="only remove this host's latch file; refused before the release")
    return command


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 900:
        raise argparse.ArgumentTypeError(f"expected 1 to 900 seconds, found {text!r}")
    return seconds


def main(arguments: list[str] | None = None, venue_factory: VenueFactory = venue_at) -> int:
    command = parser()
    asked = command.parse_args(arguments)
    if asked.clear_latch and (asked.reason or asked.flatten or asked.account):
        command.error("--clear-latch stands alone")
    if not asked.clear_latch and not 3 <= len((asked.reason or "").strip()) <= 500:
        command.error("--reason TEXT is needed, 3 to 500 characters")
    telemetry.configure_logging("emergency", "warning")
    logging.getLogger().handlers[0].setStream(sys.stderr)  # type: ignore[attr-defined]
    operator = os.environ.get("TRADING_OPERATOR") or getpass.getuser()
    try:
        settings = config.load()
    except ConfigError as error:
        return _without_configuration(asked, operator, error)
    if asked.clear_latch:
        return asyncio.run(_clear_latch(settings))
    if asked.account and settings.account(asked.account) is None:
        command.error(f"no account {asked.account!r}; known: {', '.join(account.id for account in settings.accounts)}")
    return asyncio.run(_stop(settings, asked, f"host:{settings.host}:{operator}", venue_factory))


def _without_configuration(asked: argparse.Namespace, operator: str, error: ConfigError) -> int:
    """Nothing can be reached, but the engine of this host can be kept from sending."""
    print(f"emergency_stop.sh: {error}", file=sys.stderr)
    if not asked.clear_latch:
        path = Path(EngineSettings().halt_latch)
        trouble = _lay(path, operator, asked.reason)
        print(f"emergency_stop.sh: {trouble or f'only the latch file {path} was laid'}; stop the engine: systemctl stop trading-engine")
    return CANNOT_TELL


def _lay(path: Path, by: str, reason: str) -> str:
    """What went wrong, or nothing."""
    try:
        latch.lay(path, by, reason, datetime.now(UTC))
    except OSError as error:
        return f"the latch file {path} could not be laid ({error.strerror})"
    return ""


async def _stop(settings: Settings, asked: argparse.Namespace, actor: str, venue_factory: VenueFactory) -> int:
    path = Path(settings.engine.halt_latch)
    # The latch stops every account of this host; for one account the database's halt is asked first.
    trouble = "" if asked.account else _lay(path, actor, asked.reason)
    try:
        database = Database(settings, application="trading-emergency")
    except ConfigError as error:
        trouble = _lay(path, actor, asked.reason) if asked.account else trouble
        print(f"emergency_stop.sh: {error}\nemergency_stop.sh: {trouble or f'only the latch file {path} was laid'}", file=sys.stderr)
        return CANNOT_TELL
    await database.open()
    means = PlatformMeans(
        settings, database, scope=asked.account or PLATFORM, reason=asked.reason.strip(), actor=actor, flatten=asked.flatten,
        authorization=_authorization(), venue_factory=venue_factory,
    )  # fmt: skip

    async def let_the_engine_close() -> None:
        """The database holds the halt now and lets closing orders pass; behind the latch nobody here could send them."""
        latch.clear(path)

    try:
        held = let_the_engine_close if asked.flatten and not asked.account else None
        report = await stop(means, tuple(means.windows), flatten=asked.flatten, deadline_s=asked.deadline, held=held)
        if report.version is None and asked.account:
            trouble = _lay(path, actor, asked.reason) or f"the database did not take the halt: {path} now stops every account of this host"
        try:
            within_s = _RECORD_UNSEEN_WITHIN_S if report.version is None else _RECORD_WITHIN_S
            await asyncio.wait_for(means.record("emergency_stop", report), within_s)
        except Exception as error:
            # Whatever it is, what was done and seen must still be told.
            trouble = "; ".join(filter(None, (trouble, f"no audit event could be written ({type(error).__name__})")))
    finally:
        await means.close()
        await database.close()
    _print(report, path, trouble, as_json=asked.json)
    return outcome(report)


def _authorization() -> str | None:
    """A token of a few minutes for this host's engine, where the key to sign it was delivered."""
    try:
        return f"Bearer {Authenticator().mint('emergency-stop', 'trader', ttl_s=_TOKEN_S)}"
    except ConfigError:
        return None


def _print(report: Report, path: Path, trouble: str, *, as_json: bool) -> None:
    laid = path.exists()
    if as_json:
        print(json.dumps({**report.document(), "latch": str(path) if laid else None, "trouble": trouble}, ensure_ascii=False))
        return
    verdict = ("COMPLETE", "INCOMPLETE", "", "CANNOT TELL")[outcome(report)]
    cancelled = sum(account.cancelled for account in report.accounts.values())
    print(f"emergency stop {verdict} after {report.seconds:.1f} s: {', '.join(report.accounts)}")
    if report.version is not None:
        print(f"  halt: version {report.version}, {'acknowledged' if report.acknowledged else 'not acknowledged'}")
    print(f"  cancels sent to venues: {cancelled}" + (f"; latch file: {path}" if laid else ""))
    for name, account in report.accounts.items():
        for said in filter(None, (account.engine, "the venue's dead-man timer is armed" if account.dead_man_armed else "")):
            print(f"  {name}: {said}")
    for line in report.left:
        print(f"  LEFT      {line}")
    for line in report.unseen:
        print(f"  NOT SEEN  {line}")
    if trouble:
        print(f"  TROUBLE   {trouble}")
    if report.version is None:
        print("  Run it on every platform host, and again here once the database is back.")
    elif not report.complete:
        print("  Run it again; everything it did stays done.")


async def _clear_latch(settings: Settings) -> int:
    """Remove the latch once the emergency it was laid for has been released in the database."""
    path = Path(settings.engine.halt_latch)
    laid = latch.read(path)
    if laid is None:
        print(f"no latch file {path} on this host")
        return COMPLETE
    database = Database(settings, application="trading-emergency")
    await database.open()
    try:
        refusal = await asyncio.wait_for(_not_released(database, max(one.at for one in laid)), _DATABASE_WITHIN_S)
    except _AWAY as error:
        print(f"emergency_stop.sh: the database does not say whether the emergency was released ({type(error).__name__}); the latch stays")
        return CANNOT_TELL
    finally:
        await database.close()
    if refusal:
        print(f"emergency_stop.sh: {refusal}; the latch stays", file=sys.stderr)
        return LEFT
    latch.clear(path)
    print(f"{path} removed: the engine of this host may lead again, as far as the state of trading lets it")
    return COMPLETE


async def _not_released(database: Database, laid_at: datetime) -> str:
    """Why the latch must stay, or nothing."""
    latched = await database.fetch_tuples("SELECT account_id, changed_by FROM trading_state WHERE state = 'emergency_stopped' ORDER BY 1")
    if latched:
        return f"the emergency of {', '.join(f'{name} (by {by})' for name, by in latched)} was not released by an admin yet"
    released = await database.fetch_value(
        "SELECT max(at) FROM audit_events WHERE type = 'trading_state_change' AND detail ? 'released_in_role'"
    )
    if released is None or released < laid_at:
        return (
            f"the latch was laid at {laid_at:%Y-%m-%d %H:%M:%S} UTC and no emergency was released since: the database may not have "
            "taken that halt; run emergency_stop.sh again, then have an admin release it"
        )
    return ""


if __name__ == "__main__":
    sys.exit(main())
