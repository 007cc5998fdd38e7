"""Our side of the bench, in a process of its own so that its start can be measured; prints one line of JSON.

python ours.py start FILE.npz LENGTH     from nothing to the first answer of every form
python ours.py arrays FILE.npz LENGTH    every indicator over all candles
python ours.py stream FILE.npz LENGTH    every indicator, candle by candle
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
sys.path[:0] = [str(Path(__file__).resolve().parents[3] / "platform")]

import numpy as np
from trading_platform import smc
from trading_platform.smc import Candles, Events, Panel, Stream, compat

Columns = tuple[Callable[..., Events], Callable[..., Stream], dict[str, Any]]


def indicators(length: int) -> dict[str, Columns]:
    on_swings = {"length": length}
    return {
        "fvg": (smc.fvg, smc.FvgStream, {}),
        "swings": (smc.swings, smc.SwingStream, on_swings),
        "structure": (smc.structure, smc.StructureStream, on_swings),
        "order_blocks": (smc.order_blocks, smc.OrderBlockStream, on_swings),
        "liquidity": (smc.liquidity, smc.LiquidityStream, on_swings),
        "sweeps": (smc.sweeps, smc.SweepStream, on_swings),
        "previous_high_low": (smc.previous_high_low, smc.PreviousHighLowStream, {}),
        "sessions": (smc.sessions, smc.SessionStream, {"session": "London"}),
        "retracements": (smc.retracements, smc.RetracementStream, on_swings),
        "premium_discount": (smc.premium_discount, smc.PremiumDiscountStream, on_swings),
    }


def panel(length: int) -> Panel:
    return Panel({name: stream(**options) for name, (_, stream, options) in indicators(length).items()})


def rows(candles: Candles) -> list[tuple[float, float, float, float, float, int]]:
    columns = (candles.open, candles.high, candles.low, candles.close, candles.volume, candles.time_us)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def start(candles: Candles, length: int) -> dict[str, Any]:
    few = candles[:300]
    for arrays, _, options in indicators(length).values():
        arrays(few, **options)
    streams = panel(length)
    for row in rows(few):
        streams.on_candle(*row)
    return {"seconds": time.perf_counter() - STARTED}


def arrays(candles: Candles, length: int) -> dict[str, Any]:
    seconds, events = {}, 0
    for name, (function, _, options) in indicators(length).items():
        function(candles[:300], **options)
        start = time.process_time()
        events += len(function(candles, **options))
        seconds[name] = time.process_time() - start
    compat.swing_highs_lows(candles[:300], length)
    start = time.process_time()
    swings = compat.swing_highs_lows(candles, length)
    compat.fvg(candles)
    compat.bos_choch(candles, swings)
    compat.ob(candles, swings)
    compat.liquidity(candles, swings)
    compat.previous_high_low(candles)
    compat.sessions(candles, "London")
    compat.retracements(candles, swings)
    return {"seconds": seconds, "compat_seconds": time.process_time() - start, "events": events}


def stream(candles: Candles, length: int) -> dict[str, Any]:
    streams, each = panel(length), rows(candles)
    for row in each[:300]:
        streams.on_candle(*row)
    took = np.ones(len(each) - 300, dtype=np.int64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    for k, row in enumerate(each[300:]):
        at = time.perf_counter_ns()
        streams.on_candle(*row)
        took[k] = time.perf_counter_ns() - at
    seconds = time.process_time() - start
    p50, p99 = np.percentile(took, (50, 99)) / 1e3
    return {
        "mean_us": seconds / len(took) * 1e6, "p50_us": p50, "p99_us": p99,
        "open": sum(len(each.open) for each in streams.streams.values()),
        "grown_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }  # fmt: skip


def main(what: str, file: str, length: int) -> None:
    with np.load(file) as columns:
        candles = Candles.of(**{name: columns[name] for name in ("open", "high", "low", "close", "volume", "time_us")})
    print(json.dumps({"start": start, "arrays": arrays, "stream": stream}[what](candles, length)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
