"""Every indicator, on candles nobody would draw: the stream says exactly what the arrays say, and no prefix is ever rewritten.

Prices lie on a coarse grid, so that flat markets, equal highs, dojis, gaps and inside candles are the rule.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smc_candles import FORMS, fold, parameters, rows, same
from trading_platform.smc import Candles, Event

MINUTE = 60_000_000
MOST = settings(max_examples=25, deadline=None)

# Moves of the open against the last close, of the close against the open, wicks up and down, volume, minutes since the last candle.
STEP = st.tuples(
    st.sampled_from((0, 0, 0, 1, -1, 4, -4)),
    st.sampled_from((0, 0, 1, -1, 2, -2, 5, -5)),
    st.sampled_from((0, 0, 1, 3)),
    st.sampled_from((0, 0, 1, 3)),
    st.sampled_from((0, 1, 7)),
    st.sampled_from((1, 1, 1, 180, 4000)),
)
# A few long shapes find more than many short ones: what comes is repeated.
SHAPES = st.tuples(st.lists(STEP, min_size=0, max_size=14), st.integers(1, 8))


@st.composite
def markets(draw: st.DrawFn) -> Candles:
    steps, times = draw(SHAPES)
    table, close, time = [], 100, draw(st.integers(-5000, 30_000_000)) * MINUTE
    for gap, body, up, down, volume, minutes in steps * times:
        open_ = close + gap
        close = open_ + body
        time += minutes * MINUTE
        table.append((open_, max(open_, close) + up, min(open_, close) - down, close, volume, time))
    columns = np.array(table, dtype=np.int64).reshape(-1, 6).T
    return Candles.of(*columns)


@pytest.mark.parametrize("name", FORMS)
@MOST
@given(candles=markets(), length=st.integers(1, 4), expire_after=st.sampled_from((0, 0, 3, 20)))
def test_the_stream_says_what_the_arrays_say_and_never_takes_it_back(name: str, candles: Candles, length: int, expire_after: int) -> None:
    options = parameters(name, length)
    if name not in ("previous_high_low", "sessions", "retracements", "premium_discount"):
        options["expire_after"] = expire_after
    arrays, stream = FORMS[name]
    whole = arrays(candles, **options)
    streamed, said = stream(**options), dict[int, Event]()
    for k, row in enumerate(rows(candles)):
        fold(said, streamed.on_candle(*row))
        assert np.array_equal(list(streamed.values.values()), whole.values[k], equal_nan=True)
        assert all(event.known_at <= k for event in said.values())
    assert repr(list(said.values())) == repr(whole.rows())
    assert set(streamed.open) <= set(said)
    # An event of which more could be said is still remembered, one that is over is not.
    over = {event for event, final in zip(whole.life["event"].tolist(), whole.life["final"].tolist(), strict=True) if final}
    assert not over & set(streamed.open)
    assert over | set(streamed.open) == set(said)


@pytest.mark.parametrize("name", FORMS)
@MOST
@given(candles=markets(), length=st.integers(1, 4), data=st.data())
def test_a_prefix_says_what_the_whole_had_said_by_then(name: str, candles: Candles, length: int, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(candles)))
    arrays, _ = FORMS[name]
    options = parameters(name, length)
    assert same(arrays(candles[:end], **options), arrays(candles, **options).as_of(end - 1))


@pytest.mark.parametrize("name", FORMS)
@MOST
@given(candles=markets(), length=st.integers(1, 4))
def test_events_are_about_candles_that_were_there_and_prices_that_were_paid(name: str, candles: Candles, length: int) -> None:
    found = FORMS[name][0](candles, **parameters(name, length)).rows()
    for event in found:
        assert 0 <= event.event_at <= event.known_at < len(candles)
        assert event.event_time == candles.time_us[event.event_at]
        assert event.known_time == candles.time_us[event.known_at]
        assert event.direction in (1, -1)
        assert event.bottom <= event.top
        assert candles.low.min() <= event.level <= candles.high.max()
        if name != "liquidity":
            assert event.bottom <= event.level <= event.top or name == "order_blocks"


@pytest.mark.parametrize("name", FORMS)
@MOST
@given(candles=markets(), length=st.integers(1, 4))
def test_a_market_upside_down_says_the_same_upside_down(name: str, candles: Candles, length: int) -> None:
    """Highs and lows are treated alike, but where a candle is both a swing high and a swing low: it is a high."""
    arrays, _ = FORMS[name]
    options = parameters(name, length)
    over = Candles.of(-candles.open, -candles.low, -candles.high, -candles.close, candles.volume, candles.time_us)
    if "length" in options and _has_a_candle_that_is_both(candles, length):
        return

    def told(side: int) -> set[tuple[object, ...]]:
        found = arrays((candles, over)[side], **options).rows()
        sign = 1 if side == 0 else -1
        return {(e.kind, sign * e.direction, e.event_at, e.known_at, sign * e.level, e.status, *e[13:]) for e in found}

    assert told(0) == told(1)


def _has_a_candle_that_is_both(candles: Candles, length: int) -> bool:
    for i in range(2 * length - 1, len(candles) - length):
        window = slice(i - length + 1, i + length + 1)
        if candles.high[i] == candles.high[window].max() and candles.low[i] == candles.low[window].min():
            return True
    return False


@given(candles=markets(), length=st.integers(1, 4))
@MOST
def test_swings_are_those_a_look_at_every_window_finds(candles: Candles, length: int) -> None:
    """The definition, written down again the slow way."""
    expected: list[list[float]] = []
    for i in range(2 * length - 1, len(candles) - length):
        window = slice(i - length + 1, i + length + 1)
        if candles.high[i] == candles.high[window].max():
            direction, level = 1, candles.high[i]
        elif candles.low[i] == candles.low[window].min():
            direction, level = -1, candles.low[i]
        else:
            continue
        if expected and expected[-1][0] == direction:
            if direction * level <= direction * expected[-1][1]:
                continue
            expected[-1][3] = i + length
        expected.append([direction, level, i, -1])
    found = FORMS["swings"][0](candles, length=length).rows()
    assert [[event.direction, event.level, event.event_at, event.superseded_at] for event in found] == expected


@given(candles=markets(), join=st.booleans())
@MOST
def test_gaps_are_mitigated_by_the_first_candle_a_look_at_all_of_them_finds(candles: Candles, join: bool) -> None:
    for event in FORMS["fvg"][0](candles, join_consecutive=join).rows():
        if event.superseded_at < 0:
            later = range(event.known_at + 1, len(candles))
            back = (k for k in later if (candles.low[k] <= event.top if event.direction == 1 else candles.high[k] >= event.bottom))
            assert event.mitigated_at == next(back, -1)


@pytest.mark.parametrize("name", FORMS)
def test_a_number_that_is_none_is_refused_by_every_stream(name: str) -> None:
    stream = FORMS[name][1](**parameters(name))
    for place in range(5):
        candle = [1.0, 1.0, 1.0, 1.0, 1.0, 0]
        for bad in (math.nan, math.inf, -math.inf):
            candle[place] = bad
            with pytest.raises(ValueError, match="candle 0: "):
                stream.on_candle(*candle)  # type: ignore[arg-type]
    assert stream.index == 0
