"""The operator's command behind bin/replay.sh: check a file, put it where the service looks, start it, watch it.

Speaks to the market data service of this host only (loopback). Exit status: 0 done, 1 the replay failed or was
interrupted, 2 wrong use, 3 the file is refused, 4 this host does not lead, 5 the service does not answer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx

from trading_platform import config
from trading_platform.config import ConfigError, Settings
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.market.replay_file import ReplayFacts, ReplayRefused, inspect

DONE, FAILED, WRONG_USE, REFUSED, NOT_LEADER, NO_ANSWER = 0, 1, 2, 3, 4, 5
POLL_S: Final = 1.0
SILENT_S: Final = 60.0
FINAL: Final = ("done", "failed", "interrupted")

_EXIT_OF_CODE: Final = {"NOT_THE_LEADER": NOT_LEADER, "REPLAY_REFUSED": REFUSED}


class Stop(Exception):
    """Say this and end with that status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="replay.sh",
        description="Replays recorded market data (Parquet or CSV: quotes, trades or candles) into the running platform.",
        epilog="The whole file is checked first; a wrong row is named and nothing is loaded. Exit status: 0 done, "
        "1 the replay failed or was interrupted, 2 wrong use, 3 the file is refused, 4 this host does not lead "
        "market data (the leader is named), 5 the service does not answer.",
    )
    command.add_argument("file", metavar="FILE", type=Path, nargs="?")
    command.add_argument(
        "--speed", type=_speed, default=1.0, metavar="N|max", help="multiple of real time, or as fast as it goes (default 1)"
    )
    command.add_argument("--wait", action="store_true", help="show progress until the replay ends")
    command.add_argument("--check", action="store_true", help="only check the file")
    command.add_argument("--stop", metavar="ID", help="stop a running replay instead of starting one")
    return command


def _speed(text: str) -> float | str:
    if text == "max":
        return text
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected a number above 0 (at most 1000000) or max, found {text!r}")
    return speed


def main() -> int:
    command = parser()
    arguments = command.parse_args()
    if (arguments.file is None) == (arguments.stop is None):
        command.error("give a FILE to replay, or --stop ID")
    try:
        settings = config.load()
        with httpx.Client(base_url=settings.url("market-data"), timeout=httpx.Timeout(10.0, read=300.0)) as service:
            return run(arguments, settings, service)
    except ConfigError as error:
        return _say(WRONG_USE, str(error))
    except Stop as stop:
        return _say(stop.status, str(stop))
    except httpx.TransportError as error:
        return _say(NO_ANSWER, f"trading-market-data does not answer ({error}); look: journalctl --unit=trading-market-data")
    except KeyboardInterrupt:
        return _say(FAILED, "no longer watching; the replay goes on")


def _say(status: int, text: str) -> int:
    print(f"replay.sh: {text}", file=sys.stderr)
    return status


def run(arguments: argparse.Namespace, settings: Settings, service: httpx.Client) -> int:
    if arguments.stop is not None:
        _ask(service, "DELETE", f"/replays/{arguments.stop}")
        print(f"replay {arguments.stop} stops")
        return DONE
    facts = _check(arguments.file, service)
    print(_describe(arguments.file, facts))
    if arguments.check:
        return DONE
    directory = Path(settings.market_data.replay_directory or Path(settings.data_directory) / "replay")
    placed = _place(arguments.file, directory)
    replay = _ask(service, "POST", "/replays", json={"path": placed.name, "speed": arguments.speed})
    pace = "as fast as it goes" if arguments.speed == "max" else f"at {arguments.speed:g} times real time"
    print(f"replay {replay['id']} started {pace}; candles of {_intervals(replay['candle_intervals_s'])}", flush=True)
    if not arguments.wait:
        print(f"progress: curl -s {service.base_url}/replays/{replay['id']}")
        return DONE
    return _watch(service, replay["id"])


def _check(file: Path, service: httpx.Client) -> ReplayFacts:
    """Judged here, before anything is copied; the service judges again what it plays."""
    catalogue = Catalogue([_instrument(row) for row in _ask(service, "GET", "/instruments")])
    try:
        return inspect(file, catalogue)
    except ReplayRefused as error:
        raise Stop(REFUSED, f"{file}: {error}") from None


def _instrument(row: dict[str, Any]) -> Instrument:
    decimals = ("tick_size", "lot_size", "min_quantity", "max_quantity", "min_notional", "multiplier")
    known: dict[str, Any] = {field.name: row[field.name] for field in fields(Instrument)}
    known |= {name: Decimal(known[name]) for name in decimals}
    return Instrument(**known)


def _describe(file: Path, facts: ReplayFacts) -> str:
    first, last = (datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M") for ns in (facts.first_ns, facts.end_ns))
    crossed = f", {facts.crossed:,} of them crossed (they will be quarantined)" if facts.crossed else ""
    return f"{file.name}: {facts.rows:,} {facts.kind} of {', '.join(facts.symbols)}{crossed}, {first} to {last} UTC"


def _place(file: Path, directory: Path) -> Path:
    """The file inside the replay directory, whole or not at all, readable by the service."""
    if file.resolve().parent == directory.resolve():
        return file
    try:
        directory.mkdir(mode=0o750, exist_ok=True)
        owner = directory.parent.stat()
        if os.geteuid() == 0:
            os.chown(directory, 0, owner.st_gid)
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=".incoming-")
        try:
            with os.fdopen(handle, "wb") as target, file.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
                os.fchmod(target.fileno(), 0o640)
                if os.geteuid() == 0:
                    os.fchown(target.fileno(), 0, owner.st_gid)
            placed = directory / file.name
            os.replace(temporary, placed)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise Stop(FAILED, f"cannot copy {file} to {directory}: {error.strerror}; run as root, with room on that disk") from error
    return placed


def _ask(service: httpx.Client, method: str, path: str, **options: Any) -> Any:
    """The answer's document. Raises Stop with what a problem document says."""
    answer = service.request(method, path, **options)
    if answer.is_success:
        return answer.json()
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    detail = problem.get("detail", answer.text[:300])
    raise Stop(_EXIT_OF_CODE.get(problem.get("code"), NO_ANSWER if answer.status_code >= 500 else FAILED), detail)


def _intervals(seconds: list[int]) -> str:
    return ", ".join(f"{value} s" for value in seconds) or "no configured interval (the file's own is coarser)"


def _watch(service: httpx.Client, replay_id: str) -> int:
    """Progress, a line a time; a terminal's line is written over."""
    over = "\r" if sys.stdout.isatty() else "\n"
    answered = time.monotonic()
    while True:
        try:
            replay = _ask(service, "GET", f"/replays/{replay_id}")
            answered = time.monotonic()
        except (httpx.TransportError, Stop) as error:
            if time.monotonic() - answered > SILENT_S:
                raise Stop(NO_ANSWER, f"no answer about replay {replay_id} for {SILENT_S:g} s: {error}") from None
            time.sleep(POLL_S)
            continue
        state = replay["state"]
        line = f"{replay['progress']:7.1%}  {replay['ticks']:>12,} ticks  at {replay['event_time']}  {state}"
        print(line, end="\n" if state in FINAL else over, flush=True)
        if state in FINAL:
            if replay["detail"]:
                print(replay["detail"])
            return DONE if state == "done" else FAILED
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
