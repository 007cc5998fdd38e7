"""Highs and lows of the period before (day, week, hours …) and of sessions, each from the first candle after its period on.

A level is swept by the first candle that trades beyond it, broken by the first that closes beyond it, superseded by the next period's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trading_platform.smc import drive
from trading_platform.smc.candles import Candles
from trading_platform.smc.compiled import kernel
from trading_platform.smc.drive import Indicator, Stream
from trading_platform.smc.events import Events, Kind, Status
from trading_platform.smc.memory import AT, CROSSED, EVENT_ID, INDEX, LEVEL, OWN, TIME, Memory, has_room, memory, remember, say, tell

MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE

# The period (0 is a calendar month) and where it starts; how long a session is; the period that is running, -1 before the first and
# between sessions.
PERIOD, OFFSET, DURATION, RUNNING, SESSION = range(OWN, OWN + 5)
NO_PERIOD = -(2**62)

# A side's level: reals LEVEL is the running extreme, KEPT the finished one; CROSSED counts what happened to the kept one.
KEPT = 1
UNTOUCHED, IS_SWEPT, IS_BROKEN = range(3)

TIME_FRAMES = {
    "1m": MINUTE, "5m": 5 * MINUTE, "15m": 15 * MINUTE, "30m": 30 * MINUTE, "1H": 60 * MINUTE, "4H": 240 * MINUTE,
    "1D": DAY, "1W": 7 * DAY, "1M": 0,
}  # fmt: skip

# Opening and closing minute of the day, UTC.
SESSIONS = {
    "Sydney": ("21:00", "06:00"),
    "Tokyo": ("00:00", "09:00"),
    "London": ("07:00", "16:00"),
    "New York": ("13:00", "22:00"),
    "Asian kill zone": ("00:00", "04:00"),
    "London open kill zone": ("06:00", "09:00"),
    "New York kill zone": ("11:00", "14:00"),
    "london close kill zone": ("14:00", "16:00"),
}


@kernel
def _period(m: Any, t: int) -> int:
    """The number of the period a time lies in; NO_PERIOD between sessions."""
    n = m.numbers
    if n[PERIOD] > 0:
        since = t - n[OFFSET]
        if since % n[PERIOD] >= n[DURATION]:
            return NO_PERIOD
        return int(since // n[PERIOD])
    # Days since 0000-03-01 to years and months that begin in March, so that February's end is the year's.
    days = t // DAY + 719468
    era = days // 146097
    day = days - era * 146097
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    month = (5 * (day - (365 * year + year // 4 - year // 100)) + 2) // 153
    return int((era * 400 + year) * 12 + month)


@kernel
def _finish(m: Any, k: int, t: int) -> None:
    """The running period is over: its extremes are levels from this candle on."""
    kind = Kind.SESSION_LEVEL.value if m.numbers[SESSION] == 1 else Kind.PREVIOUS_LEVEL.value
    for side in range(2):
        numbers, reals = m.side_numbers[side], m.side_reals[side]
        if numbers[EVENT_ID] >= 0:
            tell(m, numbers[EVENT_ID], Status.SUPERSEDED.value, k, t, True)
        level = reals[LEVEL]
        direction = 1 if side == 0 else -1
        numbers[EVENT_ID] = say(m, kind, direction, numbers[AT], numbers[TIME], k, t, level, level, level, np.nan, np.nan)
        numbers[CROSSED] = UNTOUCHED
        reals[KEPT] = level


@kernel
def _watch(m: Any, h: float, lo: float, c: float, k: int, t: int) -> None:
    """What the candle does to the levels of the period before."""
    for side in range(2):
        numbers = m.side_numbers[side]
        if numbers[EVENT_ID] < 0:
            continue
        sign = 1 if side == 0 else -1
        level = sign * m.side_reals[side, KEPT]
        if numbers[CROSSED] == UNTOUCHED and (h if side == 0 else -lo) > level:
            numbers[CROSSED] = IS_SWEPT
            tell(m, numbers[EVENT_ID], Status.SWEPT.value, k, t, False)
        if numbers[CROSSED] == IS_SWEPT and sign * c > level:
            numbers[CROSSED] = IS_BROKEN
            tell(m, numbers[EVENT_ID], Status.BROKEN.value, k, t, False)


@kernel
def _step(m: Any, row: int, o: float, h: float, lo: float, c: float, v: float, t: int) -> bool:
    if not has_room(m):
        return False
    k = remember(m, o, h, lo, c, v, t)
    n = m.numbers
    period = _period(m, t)
    starts = period != n[RUNNING]
    if starts and n[RUNNING] != NO_PERIOD:
        _finish(m, k, t)
    n[RUNNING] = period
    _watch(m, h, lo, c, k, t)
    for side in range(2):
        numbers, reals = m.side_numbers[side], m.side_reals[side]
        sign = 1 if side == 0 else -1
        x = h if side == 0 else lo
        if period != NO_PERIOD and (starts or sign * x > sign * reals[LEVEL]):
            reals[LEVEL], numbers[AT], numbers[TIME] = x, k, t
        if n[SESSION] == 1:
            m.values[row, 1 + side] = reals[LEVEL] if period != NO_PERIOD else np.nan
        else:
            m.values[row, side] = reals[KEPT]
            m.values[row, 2 + side] = 1.0 if numbers[EVENT_ID] >= 0 and numbers[CROSSED] != UNTOUCHED else 0.0
    if n[SESSION] == 1:
        m.values[row, 0] = 1.0 if period != NO_PERIOD else 0.0
    return True


@kernel
def step(row: int, o: float, h: float, lo: float, c: float, v: float, t: int, *arrays: Any) -> bool:
    """One candle."""
    return _step(Memory(*arrays), row, o, h, lo, c, v, t)


@kernel
def run(o: Any, h: Any, lo: Any, c: Any, v: Any, t: Any, *arrays: Any) -> int:
    """Candles, from the next one on, while there is room."""
    m = Memory(*arrays)
    k = m.numbers[INDEX]
    while k < len(t) and _step(m, k, o[k], h[k], lo[k], c[k], v[k], t[k]):
        k += 1
    return int(k)


PREVIOUS = Indicator(step, run, ("previous_high", "previous_low", "broken_high", "broken_low"))
SESSION_LEVELS = Indicator(step, run, ("active", "high", "low"))


def _previous_memory(time_frame: str) -> Memory:
    if time_frame not in TIME_FRAMES:
        raise ValueError(f"no time frame {time_frame!r}: there are {', '.join(TIME_FRAMES)}")
    m = memory(window=0, books=0, columns=len(PREVIOUS.columns))
    period = TIME_FRAMES[time_frame]
    # The epoch was a Thursday; weeks start on Monday.
    m.numbers[PERIOD], m.numbers[DURATION], m.numbers[OFFSET] = period, period, -3 * DAY if period == 7 * DAY else 0
    m.numbers[RUNNING], m.numbers[SESSION] = NO_PERIOD, 0
    return m


def _session_memory(session: str, start: str, end: str) -> Memory:
    if session == "Custom":
        opens, closes = minute_of_day(start), minute_of_day(end)
    elif session in SESSIONS:
        opens, closes = map(minute_of_day, SESSIONS[session])
    else:
        raise ValueError(f"no session {session!r}: there are {', '.join(SESSIONS)} and Custom")
    m = memory(window=0, books=0, columns=len(SESSION_LEVELS.columns))
    duration = (closes - opens) * MINUTE % DAY or DAY
    m.numbers[PERIOD], m.numbers[DURATION], m.numbers[OFFSET] = DAY, duration, opens * MINUTE
    m.numbers[RUNNING], m.numbers[SESSION] = NO_PERIOD, 1
    return m


def minute_of_day(text: str) -> int:
    """Minutes since midnight of `HH:MM`."""
    hours, _, minutes = text.partition(":")
    if not (hours.isascii() and hours.isdigit() and minutes.isascii() and minutes.isdigit() and int(hours) < 24 and int(minutes) < 60):
        raise ValueError(f"expected a time of day as HH:MM, found {text!r}")
    return int(hours) * 60 + int(minutes)


def previous_high_low(candles: Candles, *, time_frame: str = "1D") -> Events:
    """High and low of the period before: `level`, made by candle `event_at`, known from the first candle of the next period on.

    Values: `previous_high`, `previous_low` (NaN before there are any), `broken_high`, `broken_low` (1 since price traded beyond, in this
    period). Periods are UTC; weeks start on Monday, months are the calendar's; periods without a candle do not count.
    """
    return drive.over(PREVIOUS, _previous_memory(time_frame), candles)


class PreviousHighLowStream(Stream):
    """`previous_high_low`, candle by candle."""

    def __init__(self, *, time_frame: str = "1D") -> None:
        super().__init__(PREVIOUS, _previous_memory(time_frame))


def sessions(candles: Candles, *, session: str, start: str = "", end: str = "") -> Events:
    """High and low of each session, known from the first candle after it on. A candle belongs where it opens: start ≤ time < end, UTC.

    Values: `active`, and `high` and `low` of the session so far (NaN outside). `session` is a name of SESSIONS, or Custom with `start`
    and `end`; one that ends before it starts runs over midnight. Its times do not move with anybody's summer time.
    """
    return drive.over(SESSION_LEVELS, _session_memory(session, start, end), candles)


class SessionStream(Stream):
    """`sessions`, candle by candle."""

    def __init__(self, *, session: str, start: str = "", end: str = "") -> None:
        super().__init__(SESSION_LEVELS, _session_memory(session, start, end))
