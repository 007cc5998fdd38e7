"""hftbacktest's side of the backtest benchmark: how fast it steps through quotes when nobody trades. Prints one JSON object.

Runs in an environment of its own (requirements-hftbacktest.txt). A quote is two events, the depth at its bid and at its ask; the
loop is compiled and steps by one second, which is faster for it than waiting for every event. Not timed: making the events, compiling.
"""

from __future__ import annotations

import argparse
import json
import time

import market
import numpy as np
from hftbacktest import BacktestAsset, HashMapMarketDepthBacktest
from hftbacktest.types import BUY_EVENT, DEPTH_EVENT, EXCH_EVENT, LOCAL_EVENT, SELL_EVENT, event_dtype
from numba import njit


def events(quotes: int) -> np.ndarray:
    made = np.zeros(2 * quotes, dtype=event_dtype)
    at = 0
    for ts, bids in market.blocks(quotes):
        for side, price, flag in ((0, bids, BUY_EVENT), (1, bids + 1, SELL_EVENT)):
            rows = made[at + side : at + 2 * len(ts) : 2]
            rows["ev"] = DEPTH_EVENT | EXCH_EVENT | LOCAL_EVENT | flag
            rows["exch_ts"] = rows["local_ts"] = ts
            rows["px"], rows["qty"] = price / 100, 100.0
        at += 2 * len(ts)
    return made


@njit
def step(backtest) -> int:
    steps = 0
    while backtest.elapse(1_000_000_000) == 0:
        steps += 1
    return steps


def run(made: np.ndarray) -> tuple[float, float]:
    asset = (
        BacktestAsset()
        .data([made])
        .linear_asset(1.0)
        .constant_order_latency(0, 0)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(0.0001, 0.0005)
        .tick_size(0.01)
        .lot_size(0.00001)
    )
    backtest = HashMapMarketDepthBacktest([asset])
    began = time.perf_counter()
    step(backtest)
    seconds = time.perf_counter() - began
    best = backtest.depth(0).best_bid
    backtest.close()
    return seconds, best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quotes", type=int, required=True)
    chosen = parser.parse_args()
    run(events(20_000))
    made = events(chosen.quotes)
    seconds, best = run(made)
    assert abs(best - made["px"][-2]) < 0.005, f"it did not get to the end: {best}"
    print(json.dumps({"quotes_per_second": chosen.quotes / seconds, "events_per_second": 2 * chosen.quotes / seconds}))


if __name__ == "__main__":
    main()
