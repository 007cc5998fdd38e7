"""The package's columns beside the package's own answers, on real candles: equal where it is right, explained row by row where not.

The answers were written by `smc_golden/make.py` from smartmoneyconcepts 0.0.27. Some of its columns are float32: ours are rounded to
that before they are compared. docs/smc.md describes each difference.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from smc_candles import real_candles
from trading_platform.smc import Candles, compat, order_blocks, swings

MARKETS = ("eurusd", "btcusd")
MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Market:
    """Real candles, our swings on them, and what the package said."""

    candles: Candles
    length: int
    swings: compat.SwingColumns
    said: dict[str, NDArray[np.generic]]

    def theirs(self, table: str) -> dict[str, Column]:
        """A table of the package's as it was, row for row."""
        columns = {name.partition(":")[2]: values for name, values in self.said.items() if name.partition(":")[0] == table}
        rows = columns.pop("row", None)
        if rows is None:
            return columns
        spread = {name: np.full(len(self.candles), np.nan) for name in columns}
        for name, values in columns.items():
            spread[name][rows] = values
        return spread

    @property
    def minute(self) -> NDArray[np.int64]:
        return self.candles.time_us % DAY // MINUTE


@cache
def of(name: str) -> Market:
    with np.load(Path(__file__).parent / "smc_golden" / f"{name}.npz") as file:
        said = dict(file)
    candles = real_candles(name)[: int(said["rows"])]
    length = int(said["length"])
    return Market(candles, length, compat.swing_highs_lows(candles, length), said)


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest) -> Market:
    return of(request.param)


def differing(ours: Column, theirs: Column) -> NDArray[np.int64]:
    """Rows on which two columns are not equal as float32."""
    ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
    return np.flatnonzero(~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs))))


@pytest.mark.parametrize(("table", "joined"), [("fvg", False), ("fvg_joined", True)])
def test_fair_value_gaps_agree_in_every_row_and_column(market: Market, table: str, joined: bool) -> None:
    ours, theirs = compat.fvg(market.candles, join_consecutive=joined), market.theirs(table)
    assert np.isfinite(theirs["FVG"]).sum() > 900
    for name, column in theirs.items():
        np.testing.assert_array_equal(ours[name], column, err_msg=name)


def test_swings_agree_in_every_row_but_its_bookends(market: Market) -> None:
    theirs = market.theirs("swings")
    assert np.isfinite(theirs["HighLow"]).sum() > 600
    for name in ("HighLow", "Level"):
        np.testing.assert_array_equal(market.swings[name][1:-1], theirs[name][1:-1])
        assert np.isnan(market.swings[name][[0, -1]]).all()
        assert np.isfinite(theirs[name][[0, -1]]).all()


@pytest.mark.parametrize(("table", "by_close"), [("bos", True), ("bos_wick", False)])
def test_structure_agrees_but_where_float32_moved_the_level_it_compared_with(market: Market, table: str, by_close: bool) -> None:
    candles = market.candles
    ours, theirs = compat.bos_choch(candles, market.swings, close_break=by_close), market.theirs(table)
    shown = np.isfinite(theirs["BOS"]) | np.isfinite(theirs["CHOCH"])
    differ = np.unique(np.concatenate([differing(ours[name], theirs[name]) for name in ("BOS", "CHOCH", "Level")]))
    moved = []
    for row in np.flatnonzero(np.isfinite(theirs["BrokenIndex"])):
        price, sign = (candles.high, 1) if market.swings["HighLow"][row] == 1 else (candles.low, -1)
        price = candles.close if by_close else price
        level = market.swings["Level"][row]
        broken = int(theirs["BrokenIndex"][row])
        truly = row + 2 + int(np.argmax(sign * price[row + 2 :] > sign * level))
        if truly != broken:
            assert sign * price[broken] > sign * np.float64(np.float32(level)) or sign * price[truly] <= sign * np.float64(
                np.float32(level)
            )
            moved.append(row)
        elif shown[row] and row not in differ:
            assert ours["BrokenIndex"][row] == broken
    # What is shown differs only around a level that float32 moved: it, or a row that its removal rule kept or dropped for it.
    assert len(differ) <= len(moved)
    assert np.isfinite(ours["BOS"]).sum() > 150
    if np.array_equal(candles.close, candles.close.astype(np.float32)):
        assert not len(differ)
        assert not moved


def test_order_blocks_are_those_the_package_shows_live_no_more_and_no_less(market: Market) -> None:
    start, end = market.said["live_range"]
    theirs = {(int(row[0]), int(row[1]), int(row[2]), *row[3:].astype(np.float32).tolist()) for row in market.said["live"]}
    found = order_blocks(market.candles, length=market.length).said
    columns = [found[name].astype(np.float32).tolist() for name in ("top", "bottom", "value", "extra")]
    ours = set(zip(found["known_at"].tolist(), found["event_at"].tolist(), found["direction"].tolist(), *columns, strict=True))
    ours = {row for row in ours if start <= row[0] < end}
    assert len(theirs) >= 60
    assert {row[:6] for row in ours} == {row[:6] for row in theirs}
    percent = {row[:3]: row[6] for row in theirs}
    assert all(percent[row[:3]] == pytest.approx(row[6], rel=1e-6) for row in ours)


def test_order_blocks_of_its_final_table_are_ours_but_for_those_it_erased_and_those_it_added_afterwards(market: Market) -> None:
    ours, theirs = compat.ob(market.candles, market.swings), market.theirs("ob")
    found, volume = swings(market.candles, length=market.length), market.candles.volume
    both = np.isfinite(theirs["OB"]) & np.isfinite(ours["OB"])
    for name in ("OB", "Top", "Bottom", "OBVolume"):
        assert not len(differing(ours[name][both], theirs[name][both])), name
    np.testing.assert_allclose(ours["Percentage"][both], theirs["Percentage"][both], rtol=1e-6)
    # Its bullish blocks are mitigated a candle before the one that mitigates.
    early = (theirs["OB"] == 1) & (theirs["MitigatedIndex"] > 0)
    np.testing.assert_array_equal(ours["MitigatedIndex"][both], (theirs["MitigatedIndex"] + early)[both])
    # What it lacks it has erased, and beyond that the two differ only where its final swings are not those that were known at the
    # candle that made the block: one not known yet hides the one that was broken, one superseded later is not there any more.
    lacking = np.isfinite(ours["OB"]) & ~both
    erased = lacking & (ours["FailedIndex"] > 0)
    assert erased.sum() > 5 * both.sum()
    added = np.isfinite(theirs["OB"]) & ~both
    assert added.sum() < 0.1 * both.sum()
    sums = (volume[2:] + volume[1:-1] + volume[:-2]).astype(np.float32)
    final = found["superseded_at"] < 0
    for row in np.flatnonzero((lacking & ~erased) | added):
        direction = theirs["OB"][row] if added[row] else ours["OB"][row]
        made = row + 1 + int(np.argmax(sums[row - 1 :] == theirs["OBVolume"][row])) if added[row] else int(ours["KnownIndex"][row])
        side = found["direction"] == direction
        stood = found["event_at"][side & (found["known_at"] <= made)][-1]
        stands = found["event_at"][side & final & (found["event_at"] < made)][-1]
        assert stood != stands, row


def test_liquidity_agrees_in_every_row_when_its_tolerance_is_given(market: Market) -> None:
    candles = market.candles
    tolerance = float((candles.high.max() - candles.low.min()) * 0.01)
    ours, theirs = compat.liquidity(candles, market.swings, tolerance=tolerance), market.theirs("liquidity")
    assert np.isfinite(theirs["Liquidity"]).sum() > 150
    for name, column in theirs.items():
        assert not len(differing(ours[name], column)), name


def test_liquidity_by_share_differs_because_the_package_knows_the_range_of_the_future(market: Market) -> None:
    theirs, half = market.theirs("liquidity")["Liquidity"], len(market.candles) // 2
    ours = compat.liquidity(market.candles, market.swings)
    early = compat.liquidity(market.candles[:half], market.swings)
    settled = np.flatnonzero(ours["KnownIndex"][:half] < half)
    assert len(differing(ours["Liquidity"], theirs))
    np.testing.assert_array_equal(early["Liquidity"][settled], ours["Liquidity"][settled])


@pytest.mark.parametrize(("time_frame", "minutes"), [("1D", 1440), ("4H", 240)])
def test_previous_levels_agree_but_on_the_first_candle_of_a_period_where_it_shows_the_one_before_the_last(
    market: Market, time_frame: str, minutes: int
) -> None:
    candles = market.candles
    ours, theirs = compat.previous_high_low(candles, time_frame), market.theirs(f"previous_{time_frame}")
    at_start = candles.time_us % (minutes * MINUTE) == 0
    for name in ("PreviousHigh", "PreviousLow"):
        assert set(differing(ours[name], theirs[name])) <= set(np.flatnonzero(at_start))
        assert len(differing(ours[name], theirs[name])) > 0.9 * at_start[1:].sum() - 3
    # It also counts a period's first candle to the period before, so that what that candle breaks is forgotten.
    period = candles.time_us // (minutes * MINUTE)
    for name, level, price, sign in (
        ("BrokenHigh", "PreviousHigh", candles.high, 1), ("BrokenLow", "PreviousLow", candles.low, -1),
    ):  # fmt: skip
        broke_at_start = set(period[at_start & (sign * price > sign * ours[level])].tolist())
        for row in differing(ours[name], theirs[name]):
            rounded = sign * np.float32(ours[level][row]) != sign * ours[level][row]
            assert at_start[row] or int(period[row]) in broke_at_start or rounded


def test_sessions_agree_but_on_the_minute_they_end_and_where_it_glues_two_together(market: Market) -> None:
    for name, end in (("London", 16 * 60), ("Sydney", 6 * 60)):
        ours, theirs = compat.sessions(market.candles, name), market.theirs(name.lower())
        at_end = market.minute == end
        assert at_end.any()
        assert set(differing(ours["Active"], theirs["Active"])) == set(np.flatnonzero(at_end))
        # Its running extremes go on while rows follow each other that are active, whatever lies between them in time.
        first = np.flatnonzero((theirs["Active"] == 1) & (np.roll(theirs["Active"], 1) == 0))
        started = market.candles.time_us[first[np.searchsorted(first, np.arange(len(market.candles)), side="right") - 1]]
        glued = market.candles.time_us - started > 9 * 60 * MINUTE
        for column in ("High", "Low"):
            assert set(differing(ours[column], theirs[column])) <= set(np.flatnonzero(at_end | glued))


def test_retracements_agree_wherever_the_swing_it_measures_from_was_known(market: Market) -> None:
    candles, theirs = market.candles, market.theirs("retracements")
    ours = compat.retracements(candles, market.swings)
    found = swings(candles, length=market.length)
    final = found["superseded_at"] < 0
    at, known, direction = found["event_at"], found["known_at"], found["direction"]
    rows = np.arange(1, len(candles))
    newest = np.searchsorted(known, rows - 1, side="right") - 1
    finals = at[final]
    last_final = finals[np.maximum(np.searchsorted(finals, rows - 1, side="right") - 1, 0)]
    same = (newest >= 1) & final[newest] & (at[newest] == last_final) & (theirs["Direction"][1:] != 0)
    assert same.mean() > 0.4
    for name in ("Direction", "CurrentRetracement%"):
        np.testing.assert_array_equal(ours[name][rows[same]], theirs[name][rows[same]])
    # From a low it also counts the candle of the low itself, whose high may have been before it.
    deepest = "DeepestRetracement%"
    from_high = rows[same & (direction[newest] == 1)]
    np.testing.assert_array_equal(ours[deepest][from_high], theirs[deepest][from_high])
    from_low = rows[same & (direction[newest] == -1)]
    assert (ours[deepest][from_low] <= theirs[deepest][from_low]).all()
    assert (ours[deepest][from_low] == theirs[deepest][from_low]).mean() > 0.8


def test_a_row_is_there_from_its_known_index_on_and_not_a_candle_before(market: Market) -> None:
    """One in eleven rows: the table of the candles up to then has the row as it is in the end, the table before has not."""
    candles = market.candles

    def tables(end: int) -> dict[str, compat.Columns]:
        prefix = candles[:end]
        labels = compat.swing_highs_lows(prefix, market.length)
        return {
            "FVG": compat.fvg(prefix), "HighLow": labels, "OB": compat.ob(prefix, labels),
            "Liquidity": compat.liquidity(prefix, labels), "BOS": compat.bos_choch(prefix, labels),
        }  # fmt: skip

    for name, table in tables(len(candles)).items():
        level = "Top" if "Top" in table else "Level"
        for row in np.flatnonzero(np.isfinite(table[name]))[::11]:
            known = int(table["KnownIndex"][row])
            then, before = tables(known + 1)[name], tables(known)[name]
            assert (then[name][row], then[level][row]) == (table[name][row], table[level][row])
            assert row >= len(before[name]) or before["KnownIndex"][row] != known


def test_a_time_zone_east_of_greenwich_is_ahead_of_it() -> None:
    times = np.array([10 * 60, 13 * 60]) * MINUTE  # 10:00 and 13:00 on clocks that are three hours ahead: 07:00 and 10:00 UTC
    candles = Candles.of([1, 1], [1, 1], [1, 1], [1, 1], [0, 0], times)
    assert compat.sessions(candles, "London", time_zone="UTC+3")["Active"].tolist() == [1, 1]
    assert compat.sessions(candles, "Asian kill zone", time_zone="UTC+9:30")["Active"].tolist() == [1, 1]
    assert compat.sessions(candles, "London", time_zone="GMT-5")["Active"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="expected a time zone as UTC, UTC"):
        compat.sessions(candles, "London", time_zone="Europe/Paris")
