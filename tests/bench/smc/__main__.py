#!/usr/bin/env python3
"""What Smart Money Concepts cost over 100,000 real candles and candle by candle, beside smartmoneyconcepts 0.0.27 in the same run.

    platform/.venv/bin/python tests/bench/smc [--short] [--market-data DIRECTORY] [--length 10]

arrays   all ten indicators over 100,000 candles, beside the package's eight; --short gives the package 10,000 and compares cost per candle
stream   all ten, one closed candle at a time, beside the package's eight over a window of 1,000 candles (what its users run per candle)
start    from `python` to the first answer of every form, with nothing compiled yet, and with the cache

One-minute candles of BTCUSD, joined end to end. Processor time, so that a busy machine does not count; medians of three rounds (the
package over 100,000 candles: one). Exits 1 when a limit is missed. The peer gets an environment of its own in .artifacts/. About 90 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PEER = ROOT / ".artifacts" / "bench-smc"
DATA = Path(os.environ.get("TRADING_MARKET_DATA") or ROOT.parent / "shared" / "market-data")
FILE = "btcusd_perp_candles_1m_2022-01.parquet"
ROWS, WINDOW, ROUNDS = 100_000, 1_000, 3
MINUTE = 60_000_000


def candles_file(data: Path, directory: Path) -> Path:
    """The market played again and again, each time from the price it ended at, a minute apart throughout."""
    table = pq.read_table(data / FILE)
    prices = np.column_stack([table[name].to_numpy() for name in ("open", "high", "low", "close")])
    volume, parts, scale = table["volume"].to_numpy(), [], 1.0
    while len(parts) * len(prices) < ROWS:
        parts.append(prices * scale)
        scale = parts[-1][-1, 3] / prices[0, 0]
    columns = dict(zip(("open", "high", "low", "close"), np.concatenate(parts)[:ROWS].T, strict=True))
    first = int(table["ts_open_ns"][0].as_py()) // 1_000
    path = directory / "candles.npz"
    np.savez(path, **columns, volume=np.tile(volume, len(parts))[:ROWS], time_us=first + np.arange(ROWS) * MINUTE)
    return path


def answer(*command: object, **environment: str) -> dict[str, Any]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prepare_peer() -> None:
    uv = ROOT / ".venv" / "bin" / "uv"
    if not (PEER / "bin" / "python").exists():
        subprocess.run([uv, "venv", "--quiet", "--python", "3.11", PEER], check=True)
    lock = HERE / "requirements-smartmoneyconcepts.txt"
    subprocess.run([uv, "pip", "sync", "--quiet", "--require-hashes", "--python", PEER / "bin" / "python", lock], check=True)


class Report:
    def __init__(self) -> None:
        self.missed: list[str] = []

    def add(self, what: str, values: list[float], digits: int, *, least: float | None = None, most: float | None = None) -> float:
        value = statistics.median(values)
        limit = f"≥ {least:,g}" if least is not None else f"≤ {most:,g}" if most is not None else ""
        if (least is not None and value < least) or (most is not None and value > most):
            self.missed.append(what)
            limit += " MISSED"
        rounds = " ".join(f"{each:,.{digits}f}" for each in values) if len(values) > 1 else ""
        print(f"{what:<74}{value:>12,.{digits}f}  {limit:<14}{rounds}", flush=True)
        return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the package over 10,000 candles only")
    parser.add_argument("--market-data", type=Path, default=DATA, metavar="DIRECTORY")
    parser.add_argument("--length", type=int, default=10, help="swing length of both (default 10)")
    arguments = parser.parse_args()
    if not (arguments.market_data / FILE).exists():
        raise SystemExit(f"no {FILE} in {arguments.market_data}; name its directory with --market-data")
    prepare_peer()
    report = Report()
    ours, peer = (sys.executable, HERE / "ours.py"), (PEER / "bin" / "python", HERE / "peer.py")
    with tempfile.TemporaryDirectory(prefix="bench-smc-") as directory:
        candles = candles_file(arguments.market_data, Path(directory))
        cache = {"NUMBA_CACHE_DIR": str(Path(directory) / "cache")}
        cold = answer(*ours, "start", candles, arguments.length, **cache)["seconds"]
        warm = [answer(*ours, "start", candles, arguments.length, **cache)["seconds"] for _ in range(ROUNDS)]
        report.add("start, nothing compiled yet, s on the clock", [cold], 1)
        report.add("start, from the cache, s on the clock", warm, 2)

        arrays = [answer(*ours, "arrays", candles, arguments.length, **cache) for _ in range(ROUNDS)]
        mine = report.add(f"arrays: all ten over {ROWS:,} candles, ms", [1e3 * sum(each["seconds"].values()) for each in arrays], 1)
        for name in arrays[0]["seconds"]:
            report.add(f"  {name}", [1e3 * each["seconds"][name] for each in arrays], 1)
        report.add("arrays: the compatible columns of the same, ms", [1e3 * each["compat_seconds"] for each in arrays], 1)

        sizes = (10_000,) if arguments.short else (10_000, ROWS)
        for size in sizes:
            found = answer(*peer, candles, arguments.length, size)
            theirs = report.add(f"smartmoneyconcepts: its eight over {size:,} candles, ms", [1e3 * sum(found["seconds"].values())], 0)
        for name, seconds in found["seconds"].items():
            report.add(f"  {name}", [1e3 * seconds], 1)
        scaled = " (its cost per candle at 10,000, which grows with their number)" if arguments.short else ""
        report.add(f"arrays: times faster in total{scaled}", [theirs * (ROWS / sizes[-1]) / mine], 0, least=100)

        stream = [answer(*ours, "stream", candles, arguments.length, **cache) for _ in range(ROUNDS)]
        each = report.add("stream: all ten, a closed candle, µs", [each["mean_us"] for each in stream], 1, most=50)
        report.add("stream: the same on the clock, p99, µs", [each["p99_us"] for each in stream], 1)
        report.add(f"stream: events still open after {ROWS:,} candles", [each["open"] for each in stream], 0)
        report.add("stream: memory that came to it, MiB", [each["grown_mib"] for each in stream], 1)
        window = [sum(answer(*peer, candles, arguments.length, WINDOW)["seconds"].values()) for _ in range(ROUNDS)]
        theirs = report.add(f"smartmoneyconcepts: its eight over a window of {WINDOW:,}, µs", [1e6 * seconds for seconds in window], 0)
        report.add("stream: times faster a candle", [theirs / each], 0)
    if report.missed:
        print(f"missed: {', '.join(report.missed)}", file=sys.stderr)
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
