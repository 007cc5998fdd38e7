"""Structure, order blocks, sweeps, liquidity, levels and ranges on markets that can be checked by eye; swing length 2 throughout."""

import math

import numpy as np
import pytest
from trading_platform.smc import (
    Candles,
    Kind,
    OrderBlockStream,
    Panel,
    SessionStream,
    Status,
    StructureStream,
    SwingStream,
    compat,
    liquidity,
    order_blocks,
    premium_discount,
    previous_high_low,
    retracements,
    sessions,
    structure,
    sweeps,
)

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# A high of 5 at candle 4 (known at 6), a low of 2 at candle 7 (known at 9), 6 breaks the high at 11, 7 is a high, 1.5 breaks the low at 15.
UP_AND_DOWN = (1, 2, 3, 4, 5, 4, 3, 2, 3, 4, 4.5, 6, 7, 6, 5, 1.5, 4)


def candles(*rows: float | tuple[float, float, float, float], every: int = MINUTE, start: int = 0) -> Candles:
    """Candles as (open, high, low, close), or one number for a candle without height."""
    table = np.array([row if isinstance(row, tuple) else (row,) * 4 for row in rows], dtype=np.float64)
    return Candles.of(*table.T, np.ones(len(table)), start + np.arange(len(table)) * every)


def test_the_first_break_is_of_structure_and_one_against_it_a_change_of_character() -> None:
    up, down = structure(candles(*UP_AND_DOWN), length=2).rows()
    assert (up.kind, up.direction, up.event_at, up.known_at) == (Kind.BREAK_OF_STRUCTURE, 1, 4, 11)
    assert (up.level, up.top, up.bottom, up.value) == (5, 5, 2, 6)
    assert (down.kind, down.direction, down.event_at, down.known_at) == (Kind.CHANGE_OF_CHARACTER, -1, 7, 15)
    assert (down.level, down.top, down.bottom) == (2, 7, 2)
    assert (up.status, up.failed_at) == (Status.FAILED, 15)
    assert down.status == Status.ACTIVE


def test_a_second_break_the_same_way_is_of_structure() -> None:
    breaks = structure(candles(1, 2, 3, 4, 5, 4, 3, 2, 3, 4, 4.5, 6, 7, 6, 5, 6, 6.5, 8), length=2).rows()
    assert [(event.kind, event.level, event.known_at) for event in breaks] == [
        (Kind.BREAK_OF_STRUCTURE, 5, 11),
        (Kind.BREAK_OF_STRUCTURE, 7, 17),
    ]


def test_a_wick_breaks_only_where_closes_are_not_asked_for() -> None:
    market = candles(1, 2, 3, 4, 5, 4, 3, (3, 5.5, 3, 4), 3)
    assert len(structure(market, length=2)) == 0
    (event,) = structure(market, length=2, close_break=False).rows()
    assert (event.known_at, event.value) == (7, 5.5)


def test_an_order_block_is_the_lowest_candle_before_the_break_and_lives_until_price_comes_back_through_it() -> None:
    market = candles(*((price - 0.25, price + 0.25, price - 0.25, price + 0.25) for price in (*UP_AND_DOWN[:15], 1, 4)))
    bullish, bearish = order_blocks(market, length=2).rows()
    assert (bullish.direction, bullish.event_at, bullish.known_at, bullish.level) == (1, 7, 11, 5.25)
    assert (bullish.top, bullish.bottom, bullish.value, bullish.extra) == (2.25, 1.75, 3, 50)
    assert (bullish.mitigated_at, bullish.failed_at, bullish.status) == (15, 16, Status.FAILED)
    assert (bearish.direction, bearish.event_at, bearish.known_at, bearish.top) == (-1, 12, 15, 7.25)


def test_a_body_has_to_go_through_an_order_block_where_wicks_do_not_count() -> None:
    market = candles(*UP_AND_DOWN[:15], (5, 5, 1, 4))
    assert [event.mitigated_at for event in order_blocks(market, length=2).rows()] == [15]
    assert [event.mitigated_at for event in order_blocks(market, length=2, close_mitigation=True).rows()] == [-1]


def test_a_sweep_trades_beyond_a_swing_and_closes_inside_and_fails_when_a_close_goes_beyond_it() -> None:
    market = candles(1, 2, 3, 4, 5, 4, 3, (3, 5.5, 3, 4), (4, 5.4, 4, 4), 6)
    (event,) = sweeps(market, length=2).rows()
    assert (event.direction, event.event_at, event.known_at) == (1, 4, 7)
    assert (event.level, event.top, event.bottom, event.value) == (5, 5.5, 5, 4)
    assert event.failed_at == 9
    assert len(sweeps(candles(1, 2, 3, 4, 5, 4, 3, (3, 5.5, 3, 5.2), (4, 5.4, 4, 4)), length=2)) == 0


EQUAL_HIGHS = (1, 2, 3, 4, 5, 4, 3, 2, 3, 4, 5.05, 4, 3, 2.5, 3, 4, 5, 5.1)


def test_a_pool_is_known_when_its_second_swing_is_final_and_swept_at_its_far_edge() -> None:
    (pool,) = (event for event in liquidity(candles(*EQUAL_HIGHS), length=2, tolerance=0.1).rows() if event.direction == 1)
    assert (pool.event_at, pool.known_at, pool.value, pool.extra) == (4, 15, 2, 10)
    assert (pool.level, pool.top, pool.bottom) == (pytest.approx(5.025), pytest.approx(5.1), pytest.approx(4.9))
    assert pool.swept_at == 17


def test_a_third_swing_makes_a_new_event_and_leaves_the_first_as_it_was() -> None:
    market = candles(*EQUAL_HIGHS[:16], 4.97, 4, 3, 2.8, 3.5, 4)
    first, second = (event for event in liquidity(market, length=2, tolerance=0.1).rows() if event.direction == 1)
    assert (first.level, first.extra, first.superseded_at) == (pytest.approx(5.025), 10, second.known_at)
    assert (second.event_at, second.value, second.extra) == (4, 3, 16)
    assert second.level == pytest.approx((5 + 5.05 + 4.97) / 3)


def test_a_tolerance_that_is_none_is_refused() -> None:
    for wrong in ({"tolerance": -1.0}, {"tolerance": math.nan}, {"range_percent": 1.5}, {"range_percent": math.nan}):
        with pytest.raises(ValueError, match="expected"):
            liquidity(candles(1), **wrong)  # type: ignore[arg-type]


def test_yesterdays_levels_are_there_from_the_first_candle_of_today_on() -> None:
    market = candles(3, 5, 1, 2, 2, 6, 6, 4, 2, every=6 * HOUR)
    found = previous_high_low(market)
    high, low, next_high, next_low = found.rows()
    assert (high.level, high.event_at, high.known_at, low.level, low.event_at, low.known_at) == (5, 1, 4, 1, 2, 4)
    assert (high.swept_at, high.broken_at, high.superseded_at, low.swept_at) == (5, 5, 8, -1)
    assert (next_high.level, next_low.level, next_high.known_at) == (6, 2, 8)
    np.testing.assert_array_equal(found["previous_high"], [math.nan] * 4 + [5] * 4 + [6])
    np.testing.assert_array_equal(found["broken_high"], [0, 0, 0, 0, 0, 1, 1, 1, 0])


def test_weeks_start_on_monday_months_on_the_first_and_empty_days_do_not_count() -> None:
    sunday = int(np.datetime64("2024-03-31T12:00", "us").astype(np.int64))
    for time_frame in ("1W", "1M"):
        levels = previous_high_low(candles(5, 7, 1, every=12 * HOUR, start=sunday), time_frame=time_frame)["previous_high"]
        np.testing.assert_array_equal(levels, [math.nan, 5, 5])
    leap = int(np.datetime64("2024-02-28", "us").astype(np.int64))
    np.testing.assert_array_equal(
        previous_high_low(candles(1, 9, 2, every=DAY, start=leap), time_frame="1M")["previous_high"], [math.nan, math.nan, 9]
    )
    friday = int(np.datetime64("2024-03-29", "us").astype(np.int64))
    np.testing.assert_array_equal(previous_high_low(candles(4, 1, 1, every=3 * DAY, start=friday))["previous_high"], [math.nan, 4, 1])
    with pytest.raises(ValueError, match="no time frame '1Y'"):
        previous_high_low(candles(1), time_frame="1Y")


def test_a_session_ends_before_its_last_minute_and_leaves_its_high_and_low() -> None:
    found = sessions(candles(*range(1, 13), every=HOUR, start=6 * HOUR), session="London")
    np.testing.assert_array_equal(found["active"], [0, *[1] * 9, 0, 0])
    np.testing.assert_array_equal(found["high"][:4], [math.nan, 2, 3, 4])
    high, low = found.rows()
    assert (high.level, high.event_at, high.known_at, low.level, low.event_at) == (10, 9, 10, 2, 1)
    assert (high.swept_at, low.swept_at) == (10, -1)


def test_a_session_over_midnight_is_one_and_two_on_days_that_follow_are_two() -> None:
    sydney = sessions(candles(1, 2, 3, 9, every=4 * HOUR, start=20 * HOUR), session="Sydney")
    np.testing.assert_array_equal(sydney["active"], [0, 1, 1, 0])
    assert [event.level for event in sydney.rows()] == [3, 2]
    friday_and_monday = sessions(candles(9, 3, every=3 * DAY, start=8 * HOUR), session="London")
    np.testing.assert_array_equal(friday_and_monday["high"], [9, 3])
    all_day = sessions(candles(1, 2, 3, every=12 * HOUR), session="Custom", start="00:00", end="00:00")
    np.testing.assert_array_equal(all_day["low"], [1, 1, 3])


@pytest.mark.parametrize(
    ("session", "start", "words"), [("Paris", "", "no session 'Paris'"), ("Custom", "25:00", "HH:MM"), ("Custom", "", "HH:MM")]
)
def test_a_session_nobody_knows_is_refused(session: str, start: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SessionStream(session=session, start=start, end="09:00")


def test_retracements_are_measured_from_the_newest_known_swing() -> None:
    market = candles(*EQUAL_HIGHS)
    found = retracements(market, length=2)
    assert found["leg_direction"][:9].tolist() == [0] * 9
    assert found["leg_direction"][9:].tolist() == [-1, -1, -1, 1, 1, 1, -1, -1, -1]
    assert found["current"][9] == pytest.approx(200 / 3)
    assert found["current"][12] == pytest.approx(100 - 100 / 3.05)
    assert found["deepest"][14] == pytest.approx(100 - 50 / 3.05)
    assert [(event.level, event.top, event.bottom) for event in found.rows()] == [(2, 5, 2), (5.05, 5.05, 2), (2.5, 5.05, 2.5)]
    assert [event.superseded_at for event in found.rows()] == [12, 15, -1]
    # 5.05 is beyond the origin of the leg down from 5, 5.1 beyond that of the leg down from 5.05.
    assert [event.failed_at for event in found.rows()] == [10, -1, 17]


def test_premium_is_above_the_middle_of_the_range_and_discount_below() -> None:
    market = candles(*EQUAL_HIGHS[:12], (4, 4, 3, 3))
    found = premium_discount(market, length=2)
    assert np.isnan(found["position"][:9]).all()
    assert found["zone"].tolist() == [0] * 9 + [1, 1, 1, -1]
    assert found["position"][9] == pytest.approx(2 / 3)
    first, second = found.rows()
    assert (first.level, first.known_at, first.superseded_at, first.mitigated_at) == (3.5, 9, 12, -1)
    assert (second.level, second.known_at, second.mitigated_at) == (pytest.approx(3.525), 12, 12)


def test_a_panel_checks_a_candle_once_and_tells_who_said_what() -> None:
    panel = Panel({"swings": SwingStream(length=2), "structure": StructureStream(length=2), "blocks": OrderBlockStream(length=2)})
    market = candles(*UP_AND_DOWN)
    said = [panel.on_candle(price, price, price, price, 1, int(t)) for price, t in zip(UP_AND_DOWN, market.time_us, strict=True)]
    assert [sorted(news) for news in said][9:12] == [["swings"], [], ["blocks", "structure", "swings"]]
    with pytest.raises(ValueError, match=r"candle 17: time 0 is not after"):
        panel.on_candle(1, 1, 1, 1, 1, 0)
    assert {stream.index for stream in panel.streams.values()} == {17}
    with pytest.raises(ValueError, match="at least one stream"):
        Panel({})
    with pytest.raises(ValueError, match="equally many"):
        Panel({**panel.streams, "late": SwingStream()})


def test_the_compatible_columns_say_from_when_on_a_row_may_be_used() -> None:
    market = candles(*UP_AND_DOWN)
    swings = compat.swing_highs_lows(market, swing_length=2)
    assert swings["KnownIndex"][[4, 7]].tolist() == [6, 9]
    assert np.isnan(swings["HighLow"][[0, -1]]).all()
    assert compat.ob(market, swings)["KnownIndex"][7] == 11
    assert len(compat.bos_choch(candles(1), compat.swing_highs_lows(candles(1)))["BOS"]) == 1
