#!/usr/bin/env python3
"""What smartmoneyconcepts 0.0.27 says about real candles, written once to the files beside this one.

    .artifacts/bench-smc/bin/python tests/unit/platform/smc_golden/make.py DIRECTORY-OF-MARKET-DATA

The interpreter is the peer's own environment, which `tests/bench/smc` makes. Its bookend swings are taken off before swings are given
to the other functions (the last swing too for liquidity: nothing confirms it), so that each function is compared on its own.
`live_*` are order blocks as it shows them in each of many prefixes, at the candle that makes them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["SMC_CREDIT"] = "0"

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from smartmoneyconcepts import smc

HERE = Path(__file__).resolve().parent
FILES = {"eurusd": "eurusd_candles_15m_2022-10_2023-09.parquet", "btcusd": "btcusd_perp_candles_1m_2022-01.parquet"}
ROWS, LENGTH, LIVE = 6_000, 5, (400, 1_600)


def swings_without_ends(candles: pd.DataFrame) -> pd.DataFrame:
    found = smc.swing_highs_lows(candles, LENGTH)
    found.loc[[0, len(found) - 1]] = np.nan
    return found


def sparse(table: pd.DataFrame, name: str) -> dict[str, np.ndarray]:
    """The rows that say something."""
    rows = np.flatnonzero(table.notna().any(axis=1).to_numpy())
    columns = {f"{name}:{column}": table[column].to_numpy()[rows] for column in table.columns}
    return {f"{name}:row": rows.astype(np.int32), **columns}


def dense(table: pd.DataFrame, name: str) -> dict[str, np.ndarray]:
    return {f"{name}:{column}": table[column].to_numpy() for column in table.columns}


def live_blocks(candles: pd.DataFrame) -> dict[str, np.ndarray]:
    found, before = [], set()
    volume = candles["volume"].to_numpy()
    for i in range(*LIVE):
        prefix = candles[: i + 1]
        table = smc.ob(prefix, swings_without_ends(prefix))
        table = table[table["OB"].notna()]
        now = {(int(at), int(row.OB)) for at, row in table.iterrows()}
        made = np.float32(volume[i] + volume[i - 1] + volume[i - 2])
        for at, direction in sorted(now - before):
            row = table.loc[at]
            if np.float32(row.OBVolume) == made:
                found.append((i, at, direction, row.Top, row.Bottom, row.OBVolume, row.Percentage))
        before = now
    return {"live": np.array(found, dtype=np.float64), "live_range": np.array(LIVE)}


def main(data: Path) -> None:
    for name, file in FILES.items():
        table = pq.read_table(data / file).slice(0, ROWS).to_pandas()
        candles = table[["open", "high", "low", "close", "volume"]].astype(np.float64)
        timed = candles.set_index(pd.to_datetime(table["ts_open_ns"]))
        swings = swings_without_ends(candles)
        confirmed = swings.copy()
        confirmed.loc[swings["HighLow"].last_valid_index()] = np.nan
        golden = {
            **sparse(smc.fvg(candles), "fvg"),
            **sparse(smc.fvg(candles, join_consecutive=True), "fvg_joined"),
            **sparse(smc.swing_highs_lows(candles, LENGTH), "swings"),
            **sparse(smc.bos_choch(candles, swings), "bos"),
            **sparse(smc.bos_choch(candles, swings, close_break=False), "bos_wick"),
            **sparse(smc.ob(candles, swings), "ob"),
            **sparse(smc.liquidity(candles, confirmed), "liquidity"),
            **dense(smc.previous_high_low(timed, "1D"), "previous_1D"),
            **dense(smc.previous_high_low(timed, "4h"), "previous_4H"),
            **dense(smc.sessions(timed.copy(), "London"), "london"),
            **dense(smc.sessions(timed.copy(), "Sydney"), "sydney"),
            **dense(smc.retracements(candles, swings), "retracements"),
            **live_blocks(candles),
        }
        np.savez_compressed(HERE / f"{name}.npz", rows=ROWS, length=LENGTH, **golden)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
