"""Candles for the tests of Smart Money Concepts: real ones, and every indicator with the stream that must say the same."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from trading_platform import smc
from trading_platform.smc import Candles, Event, Events, Stream

REAL = Path(os.environ.get("TRADING_MARKET_DATA") or Path(__file__).parents[3] / "shared" / "market-data")
FILES = {"eurusd": "eurusd_candles_15m_2022-10_2023-09.parquet", "btcusd": "btcusd_perp_candles_1m_2022-01.parquet"}

Form = tuple[Callable[..., Events], Callable[..., Stream]]

FORMS: dict[str, Form] = {
    "fvg": (smc.fvg, smc.FvgStream),
    "swings": (smc.swings, smc.SwingStream),
    "structure": (smc.structure, smc.StructureStream),
    "order_blocks": (smc.order_blocks, smc.OrderBlockStream),
    "liquidity": (smc.liquidity, smc.LiquidityStream),
    "sweeps": (smc.sweeps, smc.SweepStream),
    "previous_high_low": (smc.previous_high_low, smc.PreviousHighLowStream),
    "sessions": (smc.sessions, smc.SessionStream),
    "retracements": (smc.retracements, smc.RetracementStream),
    "premium_discount": (smc.premium_discount, smc.PremiumDiscountStream),
}


def parameters(name: str, length: int = 5) -> dict[str, Any]:
    """Parameters an indicator cannot do without, and the swing length of those that stand on swings."""
    if name == "sessions":
        return {"session": "London"}
    return {} if name in ("fvg", "previous_high_low") else {"length": length}


@cache
def real_candles(market: str) -> Candles:
    """The whole file; the test is skipped where it is absent."""
    path = REAL / FILES[market]
    if not path.exists():
        pytest.skip(f"no {path.name} in {REAL} (TRADING_MARKET_DATA names another directory)")
    table = pq.read_table(path)
    prices = (table[name].to_numpy() for name in ("open", "high", "low", "close", "volume"))
    return Candles.of(*prices, table["ts_open_ns"].to_numpy().astype("int64") // 1_000)


def rows(candles: Candles) -> list[tuple[float, float, float, float, float, int]]:
    """Candles one by one."""
    columns = (candles.open, candles.high, candles.low, candles.close, candles.volume, candles.time_us)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def fold(said: dict[int, Event], news: list[Event]) -> None:
    """Keep what a stream said; fail when it takes back or changes anything."""
    for event in news:
        before = said.get(event.id)
        if before is None:
            assert event.id == len(said)
        else:
            facts = event._fields.index("status")
            assert repr(before[:facts]) == repr(event[:facts]), "a fact was changed"
            for name, old, new in zip(event._fields[facts + 1 :], before[facts + 1 :], event[facts + 1 :], strict=True):
                assert old in (-1, new), f"{name} was said twice"
        said[event.id] = event


def same(ours: Events, other: Events) -> bool:
    """Bit for bit; a value that is not a number is itself."""
    return (
        repr(ours.said.tolist()) == repr(other.said.tolist())
        and ours.life.tolist() == other.life.tolist()
        and np.array_equal(ours.values, other.values, equal_nan=True)
    )
