"""smartmoneyconcepts on the candles of a file, function by function; runs in the peer's own environment and prints one line of JSON.

python peer.py FILE.npz LENGTH [FIRST-ROWS]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

os.environ["SMC_CREDIT"] = "0"

import numpy as np
import pandas as pd
from smartmoneyconcepts import smc


def main(file: str, length: int, rows: int | None) -> None:
    with np.load(file) as columns:
        table = pd.DataFrame({name: columns[name][:rows] for name in ("open", "high", "low", "close", "volume")})
        times = pd.to_datetime(columns["time_us"][:rows], unit="us")
    every_function(table[:300], times[:300], length)
    print(json.dumps({"rows": len(table), "seconds": every_function(table, times, length)}))


def every_function(table: pd.DataFrame, times: pd.DatetimeIndex, length: int) -> dict[str, float]:
    """Seconds of processor time of each."""
    timed = table.set_index(times)
    seconds = {}

    def measured(name: str, function: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        start = time.process_time()
        found = function()
        seconds[name] = time.process_time() - start
        return found

    swings = measured("swing_highs_lows", lambda: smc.swing_highs_lows(table, length))
    measured("fvg", lambda: smc.fvg(table))
    measured("bos_choch", lambda: smc.bos_choch(table, swings))
    measured("ob", lambda: smc.ob(table, swings))
    measured("liquidity", lambda: smc.liquidity(table, swings))
    measured("previous_high_low", lambda: smc.previous_high_low(timed, "1D"))
    measured("sessions", lambda: smc.sessions(timed, "London"))
    measured("retracements", lambda: smc.retracements(table, swings))
    return seconds


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
