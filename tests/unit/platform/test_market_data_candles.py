"""Candles: built once from ticks, closed by the watermark, never changed after they left."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trading_platform.market.candles import CandleBuilder, Candles

S = 1_000_000_000
MINUTE = 60 * S


def add(builder: CandleBuilder, *ticks: tuple[int, int, int, int]) -> None:
    """Ticks as (instrument, second, price, size)."""
    rows = np.array(ticks, dtype=np.int64).reshape(-1, 4)
    builder.add(rows[:, 0].astype(np.uint32), rows[:, 1] * S, rows[:, 2].copy(), rows[:, 3].copy())


def rows(candles: Candles) -> list[tuple[int, ...]]:
    """Candles as (instrument, interval_s, open_s, open, high, low, close, volume, ticks)."""
    columns = (
        candles.instrument,
        candles.interval // S,
        candles.ts_open // S,
        candles.open,
        candles.high,
        candles.low,
        candles.close,
        candles.volume,
        candles.ticks,
    )
    return [tuple(int(value) for value in row) for row in zip(*columns, strict=True)]


def test_a_candle_closes_when_the_watermark_reaches_its_end_and_not_before() -> None:
    builder = CandleBuilder([MINUTE])
    add(builder, (1, 0, 10, 1), (1, 30, 14, 2), (1, 59, 12, 3))
    assert len(builder.close(60 * S - 1)) == 0
    assert rows(builder.close(60 * S)) == [(1, 60, 0, 10, 14, 10, 12, 6, 3)]
    assert len(builder.close(120 * S)) == 0


def test_a_candle_spread_over_several_calls_is_one_candle() -> None:
    builder = CandleBuilder([MINUTE])
    add(builder, (1, 0, 10, 1))
    add(builder, (1, 10, 20, 1), (1, 61, 99, 1))
    add(builder, (1, 62, 98, 1))
    assert rows(builder.close(120 * S)) == [(1, 60, 0, 10, 20, 10, 20, 2, 2), (1, 60, 60, 99, 99, 98, 98, 2, 2)]


def test_a_late_tick_is_counted_and_does_not_reopen_its_candle() -> None:
    builder = CandleBuilder([MINUTE])
    add(builder, (1, 5, 10, 1))
    builder.close(60 * S)
    add(builder, (1, 6, 5, 1), (1, 61, 11, 1))
    assert builder.late_ticks == 1
    assert rows(builder.close(120 * S)) == [(1, 60, 60, 11, 11, 11, 11, 1, 1)]


def test_an_interval_without_ticks_has_no_candle() -> None:
    builder = CandleBuilder([MINUTE])
    add(builder, (1, 0, 10, 1), (1, 300, 11, 1))
    assert [row[2] for row in rows(builder.close(1000 * S))] == [0, 300]


def test_a_tick_that_is_late_for_the_minute_still_counts_in_the_hour() -> None:
    builder = CandleBuilder([MINUTE, 60 * MINUTE])
    add(builder, (1, 5, 10, 1))
    builder.close(60 * S)
    add(builder, (1, 6, 5, 1))
    assert rows(builder.close(3600 * S)) == [(1, 3600, 0, 10, 10, 5, 5, 2, 2)]


def test_no_intervals_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one positive interval"):
        CandleBuilder([])


TICKS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1000), st.integers(1, 10**15), st.integers(0, 10**9)), max_size=200)


@given(TICKS, st.integers(1, 50))
def test_candles_equal_those_of_a_plain_loop_however_the_ticks_are_batched(ticks: list[tuple[int, int, int, int]], batch: int) -> None:
    ticks.sort(key=lambda tick: tick[1])
    builder = CandleBuilder([MINUTE, 5 * MINUTE])
    closed = []
    for start in range(0, len(ticks), batch):
        part = ticks[start : start + batch]
        add(builder, *part)
        closed += rows(builder.close(part[-1][1] * S))
    closed += rows(builder.close(10_000 * S))

    expected: dict[tuple[int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for instrument, second, price, size in ticks:
        for interval in (60, 300):
            expected[instrument, interval, second - second % interval].append((price, size))
    assert sorted(closed) == sorted(
        (*key, parts[0][0], max(p for p, _ in parts), min(p for p, _ in parts), parts[-1][0], sum(s for _, s in parts), len(parts))
        for key, parts in expected.items()
    )
    assert builder.late_ticks == 0
