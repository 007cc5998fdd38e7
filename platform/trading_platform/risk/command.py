"""The operator's command behind bin/trading_state.sh: where trading stands, and pause, start, safe mode and shutdown from a host.

Speaks to the risk service of this host only (loopback); what changes something needs a token (TRADING_TOKEN, as /api/auth/login
gives it). Exit status: 0 done, 1 in force but not obeyed or not ended in time, 2 wrong use, 3 refused, 5 the service does not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import httpx

from trading_platform import config
from trading_platform.config import ConfigError
from trading_platform.domain.trading_state import PLATFORM

DONE, NOT_YET, WRONG_USE, REFUSED, NO_ANSWER = 0, 1, 2, 3, 5
ANSWERED_WITHIN_S: Final = 60.0

_PATHS: Final = {"pause": "/trading/pause", "start": "/trading/start", "shutdown": "/trading/shutdown", "safe-mode": "/trading/safe-mode"}


class Stop(Exception):
    """Say this and end with that status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="trading_state.sh",
        description="Shows where trading stands, pauses it, starts it, puts it in safe mode or shuts it down in order.",
        epilog="What changes something needs TRADING_TOKEN in the environment. Exit status: 0 done, 1 in force but not obeyed by "
        "everybody, or not ended in time, 2 wrong use, 3 refused, 5 the risk service of this host does not answer. "
        "In an emergency: emergency_stop.sh.",
    )
    command.add_argument("what", choices=["show", *_PATHS], nargs="?", default="show")
    command.add_argument("--reason", metavar="TEXT", help="why, for the audit: 3 to 500 characters; needed for every change")
    command.add_argument("--account", metavar="ID", default=PLATFORM, help="only this account (default: all)")
    command.add_argument("--keep-positions", action="store_true", help="shutdown: end with what is held")
    command.add_argument("--wait", action="store_true", help="shutdown: until it has ended, looking every --every seconds")
    command.add_argument("--every", type=_seconds, default=30.0, metavar="SECONDS", help="default 30")
    command.add_argument("--deadline", type=_seconds, default=3600.0, metavar="SECONDS", help="give up waiting after this (default 3600)")
    command.add_argument("--json", action="store_true", help="the service's document instead of text")
    return command


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"expected up to 86400 seconds, found {text!r}")
    return seconds


def main() -> int:
    command = parser()
    asked = command.parse_args()
    if asked.what == "show" and asked.reason:
        command.error("show changes nothing and takes no --reason")
    if asked.what != "show" and not 3 <= len((asked.reason or "").strip()) <= 500:
        command.error("--reason TEXT is needed, 3 to 500 characters")
    if asked.what != "shutdown" and (asked.wait or asked.keep_positions):
        command.error("--wait and --keep-positions belong to shutdown")
    try:
        settings = config.load()
        with httpx.Client(base_url=settings.url("risk"), timeout=httpx.Timeout(ANSWERED_WITHIN_S, connect=2.0), trust_env=False) as risk:
            return run(asked, risk)
    except ConfigError as error:
        return _say(WRONG_USE, str(error))
    except Stop as stop:
        return _say(stop.status, str(stop))
    except httpx.TransportError as error:
        return _say(NO_ANSWER, f"trading-risk does not answer ({error}); look: journalctl --unit=trading-risk")


def run(
    asked: argparse.Namespace, risk: httpx.Client, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> int:
    if asked.what == "show":
        return _show(_document(risk.get("/trading/state")), as_json=asked.json)
    token = os.environ.get("TRADING_TOKEN")
    if not token:
        raise Stop(WRONG_USE, "TRADING_TOKEN is not set; POST /api/auth/login gives a token")
    body: dict[str, Any] = {"account": asked.account, "reason": asked.reason.strip()}
    if asked.what == "shutdown":
        body["keep_positions"] = asked.keep_positions
    done = _document(risk.post(_PATHS[asked.what], json=body, headers={"Authorization": f"Bearer {token}"}))
    print(json.dumps(done) if asked.json else f"{done['account']}: {done['state']} (version {done['version']})", flush=True)
    for account, state in done.get("stricter", {}).items():
        print(f"{account} stays {state}; start it by itself")
    return _until_ended(asked, risk, clock, sleep) if asked.wait else DONE


def _until_ended(asked: argparse.Namespace, risk: httpx.Client, clock: Callable[[], float], sleep: Callable[[float], None]) -> int:
    """Wait until draining has ended; a bounded time."""
    deadline = clock() + asked.deadline
    while True:
        document = _document(risk.get("/trading/state"))
        rows = {row["account"]: row["state"] for row in document["rows"]}
        if rows.get(asked.account) != "draining":
            state = rows.get(asked.account, "running")
            print(f"{asked.account}: {state}")
            return DONE if state in ("stopped", "emergency_stopped") else NOT_YET
        left = [_left(account) for account in document["accounts"] if account["open_orders"] or account["positions"]]
        print(f"{asked.account}: draining; {'; '.join(left) or 'nothing is left'}", flush=True)
        if clock() >= deadline:
            raise Stop(NOT_YET, f"not ended within {asked.deadline:g} s; it goes on draining")
        sleep(min(asked.every, max(0.0, deadline - clock())))


def _show(document: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(document))
        return DONE
    print(f"platform: {document['mode']}")
    for account in document["accounts"]:
        obeyed = "obeyed" if account["acknowledged"] else f"NOT OBEYED: {'; '.join(account['waiting_for'])}"
        print(f"{account['account']}: {account['state']} since {account['since']} by {account['by']} ({account['reason']}); {obeyed}")
        if account["open_orders"] or account["positions"]:
            print(f"  {_left(account)}")
    return DONE


def _left(account: dict[str, Any]) -> str:
    held = ", ".join(account["positions"]) or "no position"
    return f"{account['account']}: {account['open_orders']} order(s) open, {held}"


def _document(response: httpx.Response) -> dict[str, Any]:
    """The answer. Raises Stop for a problem."""
    try:
        document = response.json()
    except ValueError:
        document = {}
    if response.status_code == httpx.codes.OK:
        found: dict[str, Any] = document
        return found
    status = NOT_YET if response.status_code == httpx.codes.GATEWAY_TIMEOUT else REFUSED
    raise Stop(status, f"{document.get('code', response.status_code)}: {document.get('detail', 'no detail given')}")


def _say(status: int, text: str) -> int:
    print(f"trading_state.sh: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
