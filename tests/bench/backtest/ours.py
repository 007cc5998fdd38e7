"""Our side of the backtest benchmark, in a process of its own: one figure as JSON.

    python ours.py orders --quotes 1000000 --every 1000     a market order every so many quotes, every limit of risk in force
    python ours.py steps --quotes 20000000                  nobody trades
    python ours.py candles --quotes 5000000                 candles of one second for a strategy, an order every ten
    python ours.py memory --quotes 50000000 --every 10000   ticks made while they are read; how much memory the process ever had

Making the ticks is not timed, compiling the loops neither: a short run goes before.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "platform"), str(Path(__file__).parent)]

import market
import numpy as np
from trading_platform.backtest import instruments
from trading_platform.backtest.__main__ import limits_of
from trading_platform.backtest.result import Result
from trading_platform.backtest.runner import Backtest, Setup
from trading_platform.backtest.strategies import Desk, Script, Strategy, Wish
from trading_platform.batches import ASK, BID
from trading_platform.config import AccountSettings, LimitSettings
from trading_platform.domain.models import Models, flat_fees
from trading_platform.engine.core import OrderRequest
from trading_platform.market.ticks import Ticks
from trading_platform.messages import Candle, Side

CATALOGUE = instruments.catalogue()
BTC = CATALOGUE.symbol("BTCUSDT")
MILLION = Decimal(1_000_000)


def ticks(quotes: int) -> Iterator[Ticks]:
    for ts, bids in market.blocks(quotes):
        price = np.repeat(bids, 2)
        price[1::2] += 1
        yield Ticks(
            np.full(2 * len(ts), BTC.id, dtype=np.uint32),
            np.repeat(ts, 2),
            price,
            np.full(2 * len(ts), 100_000_000, dtype=np.int64),
            np.tile(np.array([BID, ASK], dtype=np.uint8), len(ts)),
        )


def orders(quotes: int, every: int) -> Script:
    """Buys and sells in turn, at the moment of every so many quotes."""
    wishes = [
        (
            market.START_NS + quote * market.STEP_NS,
            OrderRequest(str(quote), "BTCUSDT", "sell" if number % 2 else "buy", "market", Decimal("0.001")),
        )
        for number, quote in enumerate(range(every, quotes, every))
    ]
    return Script(wishes)


def run(strategy: Strategy, parts: Iterable[Ticks]) -> tuple[Result, float]:
    generous = {"max_order_notional": MILLION, "max_position_notional": MILLION, "max_total_exposure": MILLION}
    setup = Setup(
        catalogue=CATALOGUE,
        symbols=("BTCUSDT",),
        account=AccountSettings(id="paper", currency="USDT", opening_balances={"USDT": MILLION}),
        limits=replace(limits_of(LimitSettings()), max_orders_per_minute=1_000_000, **generous),
        models=Models(fees=flat_fees(Decimal(1), Decimal(5))),
        basis="quotes",
    )
    backtest = Backtest(setup, strategy)
    began = time.perf_counter()
    result = backtest.run(parts)
    return result, time.perf_counter() - began


class EveryTenth:
    """On candles of one second: at every tenth buys if it rose and sells if it fell."""

    name = "every-tenth"
    intervals: Mapping[str, int] = {"BTCUSDT": 1}
    moments: Sequence[int] = ()

    def __init__(self) -> None:
        self.candles = 0

    def on_candle(self, candle: Candle, desk: Desk) -> Iterable[Wish]:
        self.candles += 1
        if self.candles % 10:
            return ()
        side: Side = "buy" if candle.close > candle.open or desk.held("BTCUSDT") <= 0 else "sell"
        return (OrderRequest(str(candle.ts_open_ns), "BTCUSDT", side, "market", Decimal("0.001")),)

    def on_moment(self, ts_ns: int, desk: Desk) -> Iterable[Wish]:
        return ()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("orders", "steps", "candles", "memory"))
    parser.add_argument("--quotes", type=int, required=True)
    parser.add_argument("--every", type=int, default=1_000)
    chosen = parser.parse_args()

    def strategy(quotes: int) -> Strategy:
        made: dict[str, Any] = {"steps": lambda: Script(()), "candles": EveryTenth}
        found: Strategy = made.get(chosen.what, lambda: orders(quotes, chosen.every))()
        return found

    run(strategy(20_000), ticks(20_000))
    if chosen.what == "memory":
        run(strategy(chosen.quotes // 10), ticks(chosen.quotes // 10))
        tenth = peak_mib()
        result, seconds = run(strategy(chosen.quotes), ticks(chosen.quotes))
        extra: dict[str, Any] = {"peak_mib_tenth": tenth}
    else:
        parts: Sequence[Ticks] = list(ticks(chosen.quotes))
        result, seconds = run(strategy(chosen.quotes), parts)
        extra = {}
    wanted = {"steps": 0, "candles": len(result.fills)}.get(chosen.what, len(range(chosen.every, chosen.quotes, chosen.every)))
    assert (result.ticks, len(result.fills)) == (2 * chosen.quotes, wanted), (result.ticks, len(result.fills))
    found = {"quotes_per_second": chosen.quotes / seconds, "fills": len(result.fills), "peak_mib": peak_mib()}
    print(json.dumps(found | extra))


if __name__ == "__main__":
    main()
