"""Quarantine: what is refused, what is believed in the end, and that every refused row is counted."""

import numpy as np
from trading_platform.batches import ASK, BID, TRADE
from trading_platform.market.quality import ABSURD, CROSSED, Quarantine
from trading_platform.market.ticks import Ticks


def quotes(*pairs: tuple[int, int]) -> Ticks:
    count = len(pairs)
    return Ticks(
        instrument=np.full(2 * count, 1, dtype=np.uint32),
        ts_event=np.repeat(np.arange(count, dtype=np.int64), 2),
        price=np.array(pairs, dtype=np.int64).reshape(-1),
        size=np.ones(2 * count, dtype=np.int64),
        flags=np.tile(np.array([BID, ASK], dtype=np.uint8), count),
    )


def trades(*prices: int, instrument: int = 1) -> Ticks:
    count = len(prices)
    return Ticks(
        instrument=np.full(count, instrument, dtype=np.uint32),
        ts_event=np.arange(count, dtype=np.int64),
        price=np.array(prices, dtype=np.int64),
        size=np.ones(count, dtype=np.int64),
        flags=np.full(count, TRADE, dtype=np.uint8),
    )


def test_a_crossed_quote_is_refused_with_both_sides_and_its_neighbours_pass() -> None:
    quarantine = Quarantine()
    passed = quarantine.screen(quotes((100, 101), (102, 101), (100, 101)))
    assert passed.price.tolist() == [100, 101, 100, 101]
    assert quarantine.refused == {CROSSED: 2, ABSURD: 0}


def test_a_locked_quote_passes() -> None:
    assert len(Quarantine().screen(quotes((100, 100)))) == 2


def test_a_price_far_from_the_last_accepted_one_is_refused() -> None:
    quarantine = Quarantine(max_move=0.25)
    quarantine.screen(trades(100))
    assert quarantine.screen(trades(101, 1000, 102, 1)).price.tolist() == [101, 102]
    assert quarantine.refused[ABSURD] == 2


def test_an_absurd_side_takes_its_whole_quote_along() -> None:
    quarantine = Quarantine()
    quarantine.screen(quotes((100, 101)))
    assert quarantine.screen(quotes((100, 500), (100, 102))).price.tolist() == [100, 102]


def test_a_level_that_lasts_is_believed() -> None:
    quarantine = Quarantine(max_move=0.25, settle_rows=5)
    quarantine.screen(trades(100))
    passed = [len(quarantine.screen(trades(200))) for _ in range(7)]
    assert passed == [0, 0, 0, 0, 1, 1, 1]


def test_wild_prices_that_do_not_agree_are_never_believed() -> None:
    quarantine = Quarantine(max_move=0.25, settle_rows=3)
    quarantine.screen(trades(100))
    assert [len(quarantine.screen(trades(price))) for price in (200, 900, 10, 500, 2000, 40)] == [0] * 6
    assert len(quarantine.screen(trades(101))) == 1


def test_instruments_are_judged_apart() -> None:
    quarantine = Quarantine()
    quarantine.screen(trades(100, instrument=1))
    assert len(quarantine.screen(trades(50_000, instrument=2))) == 1
