#!/usr/bin/env python3
"""What an order costs from the wish to the venue's answer, durable all the way, beside nautilus_trader's in memory in the same run.

    platform/.venv/bin/python tests/bench/order_path [--short] [--only PART …]

engine   orders a second through an account's engine with every limit in force: intent and answer committed to a PostgreSQL that
         forces commits to disk, the venue in the same process and instant; the peer's rate; their ratio
latency  from the moment an order was due, 500 a second whatever becomes of those before it, until its answer is durable
life     what the 1,000th, 10,000th and 100,000th order of one process cost
http     orders a second through the adapter, ccxt and HTTP to the paper venue in a process of its own, its books in PostgreSQL
check    afterwards: every order placed has its events, its row and its fill, the venue got each once, a rebuild differs in nothing

Prints each figure as the median of its rounds, with the rounds, beside its limit; exits 1 when one is missed. The peer gets an
environment of its own in .artifacts/. Needs Debian's postgresql and redis-server. About six minutes, --short one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import grounds
from grounds import ROOT, Servers
from trading_platform import rebuild
from trading_platform.config import Settings

PEER = ROOT / ".artifacts" / "bench-peer"
PARTS = ("engine", "latency", "life", "http")


@dataclass(frozen=True, slots=True)
class Size:
    rounds: int
    orders: int
    paced_s: float
    life: int
    http_orders: int
    peer: tuple[int, int]


FULL = Size(rounds=3, orders=20_000, paced_s=20, life=100_000, http_orders=3_000, peer=(1_000, 10_000))
SHORT = Size(rounds=1, orders=8_000, paced_s=5, life=12_000, http_orders=1_000, peer=(1_000, 3_000))


@dataclass
class Report:
    """The table, and whether everything in it is within its limits."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, what: str, values: list[float], digits: int, *, least: float | None = None, most: float | None = None) -> float:
        value = statistics.median(values)
        limit = f"≥ {least:,g}" if least is not None else f"≤ {most:,g}" if most is not None else ""
        if (least is not None and value < least) or (most is not None and value > most):
            self.missed.append(what)
            limit += " MISSED"
        rounds = " ".join(f"{each:,.{digits}f}" for each in values) if len(values) > 1 else ""
        row = (what, f"{value:,.{digits}f}", limit, rounds)
        self.rows.append(row)
        print(_line(row), flush=True)
        return value


def _line(row: tuple[str, str, str, str]) -> str:
    return f"{row[0]:<64}{row[1]:>10}  {row[2]:<16}{row[3]}"


class Bench:
    def __init__(self, at: Servers, size: Size, report: Report) -> None:
        self._at = at
        self._size = size
        self._report = report

    # --- parts ----------------------------------------------------------------------------------------------------------

    def engine(self) -> None:
        ours, theirs = [], []
        for _ in range(self._size.rounds):
            settings, path = self._at.fresh()
            found = _ours(path, "burst", "--orders", self._size.orders)
            self._check(settings, found)
            ours.append(found["orders_per_second"])
            theirs.append(_peer(5_000)["orders_per_second"])
        mine = self._report.add("engine: durable orders/s", ours, 0, least=3_500)
        peer = self._report.add("nautilus_trader 1.221.0: orders/s, in memory, nothing kept", theirs, 0)
        self._report.add("engine, durable / nautilus_trader, in memory", [mine / peer], 2, least=1)

    def latency(self) -> None:
        found = []
        for _ in range(self._size.rounds):
            settings, path = self._at.fresh()
            found.append(_ours(path, "paced", "--rate", 500, "--seconds", self._size.paced_s))
            self._check(settings, found[-1])
        self._report.add("submit → answer durable at 500 orders/s, p50, ms", [each["p50"] for each in found], 2)
        self._report.add("submit → answer durable at 500 orders/s, p99, ms", [each["p99"] for each in found], 2, most=10)

    def life(self) -> None:
        settings, path = self._at.fresh()
        found = _ours(path, "burst", "--orders", self._size.life)
        self._check(settings, found)
        for name, title in (("cost_us", "on the clock"), ("own_cost_us", "of the engine's own time")):
            costs = list(found[name].items())
            for orders, cost in costs:
                self._report.add(f"engine: an order when there were {int(orders):,}, {title}, µs", [cost], 0)
            self._report.add(f"engine: the last of these / the first, {title}", [costs[-1][1] / costs[0][1]], 2, most=1.25)
        self._report.add(f"engine: memory at the end of {self._size.life:,} orders, MiB", [found["memory_mib"]], 0)
        few, many = (_peer(orders) for orders in self._size.peer)
        cost_few = few["seconds"] / few["orders"] * 1e6
        cost_rest = (many["seconds"] - few["seconds"]) / (many["orders"] - few["orders"]) * 1e6
        self._report.add(f"nautilus_trader: cost of an order up to {few['orders']:,}, µs", [cost_few], 0)
        self._report.add(f"nautilus_trader: cost of an order from there to {many['orders']:,}, µs", [cost_rest], 0)

    def http(self) -> None:
        rates = []
        for _ in range(self._size.rounds):
            settings, path = self._at.fresh()
            with grounds.paper_venue(settings, path):
                found = _ours(path, "burst", "--venue", "paper", "--orders", self._size.http_orders, "--at-once", 64)
            self._check(settings, found, paper=True)
            rates.append(found["orders_per_second"])
        self._report.add("through ccxt and HTTP to the paper venue: durable orders/s", rates, 0, least=200)

    # --- afterwards -----------------------------------------------------------------------------------------------------

    def _check(self, settings: Settings, found: dict[str, Any], *, paper: bool = False) -> None:
        """Nothing lost, doubled or made up; and the orders are what their events say."""
        placed = found["placed"]
        with self._at.postgres.connect(settings.database.name) as connection:

            def count(query: str) -> int:
                row = connection.execute(query.encode()).fetchone()
                assert row is not None
                return int(row[0])

            numbers = {
                "refused": (sum(found["refused"].values()), 0),
                "orders": (count("SELECT count(*) FROM orders"), placed),
                "orders filled": (count("SELECT count(*) FROM orders WHERE status = 'FILLED'"), placed),
                "events": (count("SELECT count(*) FROM order_events"), 4 * placed),
                "intents": (count("SELECT count(DISTINCT client_order_id) FROM order_events WHERE type = 'submitting'"), placed),
                "orders with fills": (count("SELECT count(DISTINCT client_order_id) FROM fills"), placed),
                "quantity filled × 1000": (count("SELECT coalesce(sum(quantity), 0) * 1000 FROM fills"), placed),
                "outbox left": (count("SELECT count(*) FROM outbox"), 0),
            }
            if paper:
                numbers["orders at the venue"] = (count("SELECT count(*) FROM paper_venue.orders"), placed)
                numbers["fills the venue made"] = (
                    count("SELECT count(*) FROM fills"), count("SELECT count(*) FROM paper_venue.trades")
                )  # fmt: skip
            else:
                numbers["orders the venue got"] = (found["reached_venue"], placed)
        wrong = [f"{name}: {is_} where {should} were expected" for name, (is_, should) in numbers.items() if is_ != should]
        wrong += asyncio.run(rebuild.rebuild(settings))[:5]
        if wrong:
            raise SystemExit("the books are wrong after the run:\n  " + "\n  ".join([*wrong, *found["refused"]]))


def _ours(config: Path, *arguments: object) -> dict[str, Any]:
    what, *options = map(str, arguments)
    return _json(sys.executable, str(HERE / "ours.py"), what, str(config), *options)


def _peer(orders: int) -> dict[str, Any]:
    return _json(str(PEER / "bin" / "python"), str(HERE / "peer_nautilus.py"), "--orders", str(orders))


def _json(*command: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _prepare_peer() -> None:
    uv = ROOT / ".venv" / "bin" / "uv"
    if not (PEER / "bin" / "python").exists():
        subprocess.run([uv, "venv", "--quiet", "--python", "3.11", PEER], check=True)
    command = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", PEER / "bin" / "python", HERE / "requirements-nautilus.txt"]
    subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one round of each, smaller")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, metavar="PART", help=", ".join(PARTS))
    arguments = parser.parse_args()
    report = Report()
    _prepare_peer()
    print(_line(("figure", "median", "limit", "rounds")))
    with grounds.running() as at:
        bench = Bench(at, SHORT if arguments.short else FULL, report)
        parts: dict[str, Callable[[], None]] = {name: getattr(bench, name) for name in PARTS}
        for name in arguments.only:
            parts[name]()
    print("check: every order has its events, its row, its fill; the venue got each once; a rebuild differs in nothing")
    if report.missed:
        print(f"missed: {', '.join(report.missed)}", file=sys.stderr)
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
