"""`python -m trading_platform.smc`: compile every indicator into the cache, so that whoever needs it next starts at once.

For a unit's ExecStartPre= or a release's installation; without a cache that can be written it exits with 1, it would be for nothing.
"""

import sys
import time

from trading_platform import smc
from trading_platform.smc.compiled import CACHE


def main() -> int:
    """Run every form over one candle."""
    started = time.perf_counter()
    if CACHE is None:
        print("no directory that compiled code can be kept in; set NUMBA_CACHE_DIR", file=sys.stderr)
        return 1
    candles = smc.Candles.of([1], [1], [1], [1], [0], [0])
    for function in (smc.fvg, smc.swings, smc.structure, smc.order_blocks, smc.liquidity, smc.sweeps, smc.previous_high_low,
                     smc.retracements, smc.premium_discount):  # fmt: skip
        function(candles)
    smc.sessions(candles, session="London")
    streams: tuple[smc.Stream, ...] = (
        smc.FvgStream(), smc.SwingStream(), smc.StructureStream(), smc.OrderBlockStream(), smc.LiquidityStream(), smc.SweepStream(),
        smc.PreviousHighLowStream(), smc.SessionStream(session="London"), smc.RetracementStream(), smc.PremiumDiscountStream(),
    )  # fmt: skip
    for stream in streams:
        stream.on_candle(1, 1, 1, 1, 0, 0)
    print(f"compiled into {CACHE} in {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
