"""How fast a backtest runs, beside the peers in the same run, and how much memory a long one needs.

    platform/.venv/bin/python tests/bench/backtest [--short] [--only PART …]

orders   quotes a second with a market order every 1,000, every limit of risk in force; nautilus_trader's; their ratio
steps    events a second when nobody trades (a quote is two: its bid, its ask); hftbacktest's; their ratio
candles  quotes a second with candles of one second for a strategy, an order every ten
memory   the most memory of a process that runs over 100 million ticks made while they are read, 10,000 orders; and over a tenth

Prints each figure as the median of its rounds, with the rounds, beside its limit; exits 1 when one is missed. Rounds of ours and
the peer's take turns. The peers get environments of their own in .artifacts/. About two minutes, --short half of one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
NAUTILUS = ROOT / ".artifacts" / "bench-peer"
HFTBACKTEST = ROOT / ".artifacts" / "bench-peer-hftbacktest"
EVERY = 1_000
MOST_MIB = 1_024


@dataclass(frozen=True, slots=True)
class Size:
    """Quotes of each part."""

    rounds: int
    orders: int
    nautilus: int
    steps: int
    hftbacktest: int
    memory: int


FULL = Size(rounds=5, orders=5_000_000, nautilus=500_000, steps=10_000_000, hftbacktest=10_000_000, memory=50_000_000)
SHORT = Size(rounds=1, orders=1_000_000, nautilus=200_000, steps=5_000_000, hftbacktest=2_000_000, memory=10_000_000)


@dataclass
class Table:
    """What is printed, and what missed its limit."""

    missed: list[str] = field(default_factory=list)

    def add(self, what: str, values: list[float], digits: int = 0, *, least: float | None = None, most: float | None = None) -> float:
        value = statistics.median(values)
        limit = f"≥ {least:,g}" if least is not None else f"≤ {most:,g}" if most is not None else ""
        if (least is not None and value < least) or (most is not None and value > most):
            self.missed.append(what)
            limit += " MISSED"
        rounds = " ".join(f"{each:,.{digits}f}" for each in values) if len(values) > 1 else ""
        self.line(what, f"{value:,.{digits}f}", limit, rounds)
        return value

    @staticmethod
    def line(what: str, value: str, limit: str, rounds: str) -> None:
        print(f"{what:<66}{value:>12}  {limit:<16}{rounds}", flush=True)


def orders(size: Size, table: Table) -> None:
    ours, theirs = [], []
    for _ in range(size.rounds):
        ours.append(_ours("orders", size.orders, EVERY)["quotes_per_second"])
        theirs.append(_run(NAUTILUS, "peer_nautilus.py", "--quotes", size.nautilus, "--every", EVERY)["quotes_per_second"])
    mine = table.add(f"quotes/s with an order every {EVERY:,}", ours)
    peer = table.add("nautilus_trader 1.221.0: the same", theirs)
    table.add("ours / nautilus_trader", [mine / peer], 1, least=10)


def steps(size: Size, table: Table) -> None:
    ours, theirs = [], []
    for _ in range(size.rounds):
        ours.append(2 * _ours("steps", size.steps)["quotes_per_second"])
        theirs.append(_run(HFTBACKTEST, "peer_hftbacktest.py", "--quotes", size.hftbacktest)["events_per_second"])
    mine = table.add("events/s without orders", ours)
    peer = table.add("hftbacktest 2.4.4: the same, stepping by a second", theirs)
    table.add("ours / hftbacktest", [mine / peer], 1, least=1)


def candles(size: Size, table: Table) -> None:
    table.add("quotes/s with candles of 1 s", [_ours("candles", size.orders)["quotes_per_second"] for _ in range(size.rounds)])


def memory(size: Size, table: Table) -> None:
    found = _ours("memory", size.memory, size.memory // 10_000)
    millions = 2 * size.memory / 1e6
    table.add(f"peak memory over {millions / 10:,.0f} million ticks, 1,000 orders, MiB", [found["peak_mib_tenth"]])
    table.add(f"peak memory over {millions:,.0f} million ticks, {found['fills']:,} orders, MiB", [found["peak_mib"]], most=MOST_MIB)
    table.add("  of these, by an order, KiB", [(found["peak_mib"] - found["peak_mib_tenth"]) * 1024 / (found["fills"] * 0.9)], 1)
    table.add("  its speed, quotes/s, making the ticks included", [found["quotes_per_second"]])


PARTS: dict[str, Callable[[Size, Table], None]] = {"orders": orders, "steps": steps, "candles": candles, "memory": memory}


def _ours(what: str, quotes: int, every: int = EVERY) -> dict[str, Any]:
    return _run(Path(sys.prefix), "ours.py", what, "--quotes", quotes, "--every", every)


def _run(environment: Path, script: str, *options: object) -> dict[str, Any]:
    command = [str(environment / "bin" / "python"), str(HERE / script), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _prepare(environment: Path, requirements: Path) -> None:
    uv = ROOT / ".venv" / "bin" / "uv"
    if not (environment / "bin" / "python").exists():
        subprocess.run([uv, "venv", "--quiet", "--python", "3.11", environment], check=True)
    subprocess.run([uv, "pip", "sync", "--quiet", "--require-hashes", "--python", environment / "bin" / "python", requirements], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one round of each, smaller")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args()
    if "orders" in chosen.only:
        _prepare(NAUTILUS, HERE.parent / "order_path" / "requirements-nautilus.txt")
    if "steps" in chosen.only:
        _prepare(HFTBACKTEST, HERE / "requirements-hftbacktest.txt")
    table = Table()
    table.line("figure", "median", "limit", "rounds")
    for name in chosen.only:
        PARTS[name](SHORT if chosen.short else FULL, table)
    if table.missed:
        print(f"missed: {', '.join(table.missed)}", file=sys.stderr)
    return 1 if table.missed else 0


if __name__ == "__main__":
    sys.exit(main())
