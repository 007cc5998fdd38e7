"""Fair value gaps and swings on candles that can be checked by eye; what candles are refused."""

import math

import numpy as np
import pytest
from trading_platform.smc.candles import Candles
from trading_platform.smc.events import Events, Kind, Status
from trading_platform.smc.fair_value_gaps import FvgStream, fvg
from trading_platform.smc.swings import SwingStream, swings

MINUTE = 60_000_000


def candles(*rows: tuple[float, float, float, float]) -> Candles:
    """Candles as (open, high, low, close), a minute apart, volume 1."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return Candles.of(*table.T, np.ones(len(table)), np.arange(len(table)) * MINUTE)


def lows_and_highs(*rows: tuple[float, float]) -> Candles:
    """Candles that open at their low and close at their high."""
    return candles(*((low, high, low, high) for low, high in rows))


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("close", math.nan, "row 2: close is nan"),
        ("high", math.inf, "row 2: high is inf"),
        ("volume", math.nan, "row 2: volume is nan"),
        ("volume", -1.0, "row 2: volume -1.0 is negative"),
        ("high", 0.5, "row 2: high 0.5 is below low 1.0"),
        ("open", 9.0, "row 2: open 9.0 is outside low 1.0 to high 2.0"),
        ("time_us", MINUTE, "row 2: time 60000000 is not after 60000000"),
        ("time_us", 0, "row 2: time 0 is not after 60000000"),
    ],
)
def test_a_candle_that_cannot_be_is_refused_with_its_row_and_what_is_wrong(column: str, value: float, words: str) -> None:
    good = lows_and_highs(*[(1, 2)] * 4)
    columns = {name: getattr(good, name).copy() for name in ("open", "high", "low", "close", "volume", "time_us")}
    columns[column][2] = value
    with pytest.raises(ValueError, match=words):
        Candles.of(**columns)


def test_columns_of_different_lengths_and_float_times_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of open and 1 of close"):
        Candles.of([1, 1], [1, 1], [1, 1], [1], [0, 0], [0, 1])
    with pytest.raises(ValueError, match="expected time_us as integers"):
        Candles.of([1], [1], [1], [1], [0], [0.5])


def test_a_stream_that_refuses_a_candle_goes_on_as_if_it_had_not_come() -> None:
    stream = FvgStream()
    stream.on_candle(1, 2, 1, 2, 1, 0)
    for o, h, low, c, t in ((math.nan, 4, 2, 4, 1), (2, 1, 4, 2, 1), (2, 4, 2, 4, 0)):
        with pytest.raises(ValueError, match="candle 1: "):
            stream.on_candle(o, h, low, c, 1, t)
    stream.on_candle(2, 4, 2, 4, 1, 1)
    (gap,) = stream.on_candle(4, 5, 3, 5, 1, 2)
    assert (gap.event_at, gap.top, gap.bottom) == (1, 3, 2)


# --- fair value gaps ------------------------------------------------------------------------------------------------------------


def test_a_gap_is_known_at_the_third_candle_and_mitigated_by_the_first_that_trades_back_to_it() -> None:
    gaps = fvg(lows_and_highs((1, 2), (2, 5), (4, 6), (5, 7), (4, 6), (1, 9)))
    (gap,) = [row for row in gaps.rows() if row.direction == 1 and row.event_at == 1]
    assert (gap.kind, gap.bottom, gap.top, gap.level) == (Kind.FAIR_VALUE_GAP, 2, 4, 3)
    assert (gap.known_at, gap.known_time, gap.event_time) == (2, 2 * MINUTE, MINUTE)
    assert (gap.mitigated_at, gap.status) == (4, Status.MITIGATED)


def test_candles_that_touch_leave_no_gap_and_neither_does_a_doji() -> None:
    assert len(fvg(lows_and_highs((1, 2), (2, 5), (2, 6)))) == 0
    assert len(fvg(candles((1, 2, 1, 2), (3, 5, 2, 3), (4, 6, 4, 6)))) == 0


def test_a_joined_gap_takes_over_the_one_before_and_spans_both() -> None:
    rows = lows_and_highs((1, 2), (2, 5), (4, 7), (6, 9))
    apart, joined = fvg(rows), fvg(rows, join_consecutive=True)
    assert [row.superseded_at for row in apart.rows()] == [-1, -1]
    first, second = joined.rows()
    assert (first.known_at, first.top, first.bottom, first.superseded_at) == (2, 4, 2, 3)
    assert (second.known_at, second.event_at, second.top, second.bottom) == (3, 2, 6, 2)


def test_a_gap_nobody_comes_back_to_expires_when_asked_to() -> None:
    rows = lows_and_highs((1, 2), (2, 5), (4, 6), *[(4.5, 6)] * 9)
    assert [row.expired_at for row in fvg(rows).rows()] == [-1]
    assert [row.expired_at for row in fvg(rows, expire_after=5).rows()] == [2 + 6]
    with pytest.raises(ValueError, match="expire_after is -1"):
        fvg(rows, expire_after=-1)


# --- swings ---------------------------------------------------------------------------------------------------------------------


def path(*prices: float) -> Candles:
    """Candles of no height."""
    return candles(*((price,) * 4 for price in prices))


def test_a_swing_is_known_its_length_later_and_the_ends_of_the_data_are_none() -> None:
    found = swings(path(1, 2, 3, 4, 5, 6, 9, 8, 7, 6, 3, 4, 5), length=2)
    assert [(row.direction, row.level, row.event_at, row.known_at) for row in found.rows()] == [(1, 9, 6, 8), (-1, 3, 10, 12)]
    assert [row.confirmed_at for row in found.rows()] == [12, -1]


def test_a_swing_is_swept_by_a_wick_and_broken_by_a_close() -> None:
    rows = [*((p,) * 4 for p in (1, 2, 3, 4, 5, 6, 9, 8, 7)), (7, 9.5, 7, 8), (8, 10, 8, 9), (9, 11, 9, 11)]
    (swing, *_) = swings(candles(*rows), length=2).rows()
    assert (swing.level, swing.swept_at, swing.broken_at, swing.status) == (9, 9, 11, Status.BROKEN)


def test_a_better_swing_on_the_same_side_supersedes_and_does_not_erase() -> None:
    highs = (20, 21, 22, 23, 25, 24, 23, 22, 27, 24, 23)  # two peaks while the lows only rise: no low between them
    found = swings(lows_and_highs(*enumerate(highs)), length=2).rows()
    assert [(row.level, row.known_at, row.superseded_at) for row in found] == [(25, 6, 10), (27, 10, -1)]


def test_equal_highs_are_one_swing_and_it_is_the_first() -> None:
    found = swings(path(1, 2, 3, 4, 5, 9, 9, 9, 5, 4), length=2).rows()
    assert [(row.level, row.event_at) for row in found if row.direction == 1] == [(9, 5)]


def test_a_swing_length_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="swing length is 0"):
        swings(path(1), length=0)
    with pytest.raises(ValueError, match="swing length is -3"):
        SwingStream(length=-3)


def test_no_candles_say_nothing() -> None:
    nothing = swings(candles(), length=5)
    assert isinstance(nothing, Events)
    assert len(nothing) == 0
    assert nothing["status"].tolist() == []
    with pytest.raises(KeyError, match="no column colour"):
        nothing["colour"]
