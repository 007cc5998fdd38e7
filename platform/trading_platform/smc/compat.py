"""The columns of the `smartmoneyconcepts` package, so that its users can switch: same names, same rows, dictionaries of numpy columns.

A projection of the causal events, as of the last candle: a row stands at the candle it is about, and `KnownIndex`, which the package
lacks, says from which candle on it may be used. Where the numbers differ from the package's, docs/smc.md says why.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading_platform.smc import fair_value_gaps, levels, ranges
from trading_platform.smc.candles import Candles
from trading_platform.smc.events import Events
from trading_platform.smc.liquidity import liquidity as pools
from trading_platform.smc.order_blocks import order_blocks
from trading_platform.smc.swings import swings

Column = NDArray[np.float64]
Columns = dict[str, Column]


class SwingColumns(Columns):
    """`HighLow`, `Level`, `KnownIndex`; remembers the length, because the other functions ask for swings, not for labels."""

    def __init__(self, columns: Columns, length: int) -> None:
        super().__init__(columns)
        self.length = length


def _rows(rows: int, at: NDArray[np.int64], **columns: NDArray[Any]) -> Columns:
    """Columns that are NaN but at some rows; of several values for one row the last counts."""
    spread = {}
    for name, values in columns.items():
        spread[name] = np.full(rows, np.nan)
        spread[name][at] = values
    return spread


def _or_zero(events: Events, column: str) -> NDArray[Any]:
    """A candle of an event's life as the package writes it: 0 where it has not happened."""
    at: NDArray[Any] = np.maximum(events[column], 0)
    return at


def fvg(candles: Candles, join_consecutive: bool = False) -> Columns:
    """FVG, Top, Bottom, MitigatedIndex, KnownIndex."""
    found = fair_value_gaps.fvg(candles, join_consecutive=join_consecutive)
    kept = found["superseded_at"] < 0
    said = found.said[kept]
    return _rows(
        len(candles), said["event_at"],
        FVG=said["direction"], Top=said["top"], Bottom=said["bottom"],
        MitigatedIndex=_or_zero(found, "mitigated_at")[kept], KnownIndex=said["known_at"],
    )  # fmt: skip


def swing_highs_lows(candles: Candles, swing_length: int = 50) -> SwingColumns:
    """HighLow, Level, KnownIndex. Swings that a better one superseded are not shown; the first and last candle never are swings."""
    found = swings(candles, length=swing_length)
    said = found.said[found["superseded_at"] < 0]
    columns = _rows(len(candles), said["event_at"], HighLow=said["direction"], Level=said["level"], KnownIndex=said["known_at"])
    return SwingColumns(columns, swing_length)


def bos_choch(candles: Candles, swing_highs_lows: SwingColumns, close_break: bool = True) -> Columns:
    """BOS, CHOCH, Level, BrokenIndex, KnownIndex.

    The package's rule: four swings in a row, the fourth beyond the second, written at the second once its level is broken; a row is
    dropped when a later one was broken no later. `structure` says the break itself, at the close that breaks.
    """
    found = swings(candles, length=swing_highs_lows.length)
    kept = found["superseded_at"] < 0
    said = found.said[kept]
    broken = found["broken_at" if close_break else "swept_at"][kept]
    direction, level = said["direction"][3:], said["level"]
    one, two, three, four = (direction * level[place : len(level) - 3 + place] for place in range(4))
    bos = (one < three) & (three < two) & (two < four)
    choch = (three < one) & (one < two) & (two < four)
    rows = np.flatnonzero((bos | choch) & (broken[1:-2] >= 0))
    when = broken[1:-2][rows]
    if len(rows):
        later = np.append(np.minimum.accumulate(when[::-1])[::-1][1:], np.iinfo(np.int64).max)
        rows, when = rows[when < later], when[when < later]
    return _rows(
        len(candles), said["event_at"][rows + 1],
        BOS=np.where(bos, direction, np.nan)[rows], CHOCH=np.where(choch, direction, np.nan)[rows], Level=level[rows + 1],
        BrokenIndex=when, KnownIndex=np.maximum(when, said["known_at"][rows + 3]),
    )  # fmt: skip


def ob(candles: Candles, swing_highs_lows: SwingColumns, close_mitigation: bool = False) -> Columns:
    """OB, Top, Bottom, OBVolume, MitigatedIndex, Percentage, KnownIndex, and FailedIndex: blocks that failed stay in the table."""
    found = order_blocks(candles, length=swing_highs_lows.length, close_mitigation=close_mitigation)
    said = found.said
    return _rows(
        len(candles), said["event_at"],
        OB=said["direction"], Top=said["top"], Bottom=said["bottom"], OBVolume=said["value"],
        MitigatedIndex=_or_zero(found, "mitigated_at"), Percentage=said["extra"], KnownIndex=said["known_at"],
        FailedIndex=_or_zero(found, "failed_at"),
    )  # fmt: skip


def liquidity(candles: Candles, swing_highs_lows: SwingColumns, range_percent: float = 0.01, tolerance: float | None = None) -> Columns:
    """Liquidity, Level, End, Swept, KnownIndex; `tolerance` as a distance in price in place of a share of the range seen so far."""
    found = pools(candles, length=swing_highs_lows.length, range_percent=range_percent, tolerance=tolerance)
    said = found.said
    return _rows(
        len(candles), said["event_at"],
        Liquidity=said["direction"], Level=said["level"], End=said["extra"], Swept=_or_zero(found, "swept_at"),
        KnownIndex=said["known_at"],
    )  # fmt: skip


def previous_high_low(candles: Candles, time_frame: str = "1D") -> Columns:
    """PreviousHigh, PreviousLow, BrokenHigh, BrokenLow; all known at their own row."""
    names = ("PreviousHigh", "PreviousLow", "BrokenHigh", "BrokenLow")
    return dict(zip(names, levels.previous_high_low(candles, time_frame=time_frame).values.T.copy(), strict=True))


def sessions(candles: Candles, session: str, start_time: str = "", end_time: str = "", time_zone: str = "UTC") -> Columns:
    """Active, High, Low; all known at their own row, 0 outside the session.

    `time_zone` is that of the candles' times, `UTC+3` or `GMT-5` (east is plus); session times are UTC.
    """
    zone = re.fullmatch(r"(?:UTC|GMT)(?:([+-])(\d{1,2})(?::?([0-5]\d))?)?", time_zone)
    if zone is None:
        raise ValueError(f"expected a time zone as UTC, UTC+3 or GMT-5, found {time_zone!r}")
    sign, hours, minutes = zone.groups(default="0")
    ahead = (int(hours) * 60 + int(minutes)) * levels.MINUTE * (-1 if sign == "-" else 1)
    if ahead:
        candles = Candles(candles.open, candles.high, candles.low, candles.close, candles.volume, candles.time_us - ahead)
    values = levels.sessions(candles, session=session, start=start_time, end=end_time).values
    return dict(zip(("Active", "High", "Low"), np.nan_to_num(values).T.copy(), strict=True))


def retracements(candles: Candles, swing_highs_lows: SwingColumns) -> Columns:
    """Direction, CurrentRetracement%, DeepestRetracement%, to one decimal. As in the package a row says how the candle before closed."""
    values = ranges.retracements(candles, length=swing_highs_lows.length).values
    shown = np.nan_to_num(np.where(np.isnan(values[:, 1:2]), 0.0, values))
    shown = np.vstack([np.zeros((1, 3)), shown])[: len(candles)]
    return {
        "Direction": shown[:, 0].copy(),
        "CurrentRetracement%": np.round(shown[:, 1], 1),
        "DeepestRetracement%": np.round(shown[:, 2], 1),
    }
