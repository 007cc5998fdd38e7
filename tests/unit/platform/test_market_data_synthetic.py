"""The synthetic market: the same for everyone who knows the seed, whatever they ask and whenever they start."""

import numpy as np
import pytest
from trading_platform.batches import ASK, BID, TRADE
from trading_platform.market.synthetic import SECOND_NS, SyntheticInstrument, SyntheticMarket
from trading_platform.market.ticks import Ticks

NOON = 1_700_049_600 * SECOND_NS
BITCOIN = SyntheticInstrument(instrument_id=1, price=4_000_000, tick=1, lot=100, typical_size=2_000)
ETHER = SyntheticInstrument(instrument_id=2, price=250_000, tick=1, lot=100, typical_size=30_000, volatility=0.8)


def same(left: Ticks, right: Ticks) -> bool:
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in ("instrument", "ts_event", "price", "size", "flags"))


def test_two_markets_with_one_seed_are_one_market() -> None:
    span = (NOON, NOON + 60 * SECOND_NS)
    assert same(SyntheticMarket([BITCOIN, ETHER], seed=7).ticks(*span), SyntheticMarket([BITCOIN, ETHER], seed=7).ticks(*span))


def test_another_seed_is_another_market() -> None:
    span = (NOON, NOON + 60 * SECOND_NS)
    assert not same(SyntheticMarket([BITCOIN], seed=7).ticks(*span), SyntheticMarket([BITCOIN], seed=8).ticks(*span))


@pytest.mark.parametrize("step_ms", [7, 100, 333, 1500])
def test_ticks_do_not_depend_on_how_time_is_cut_into_calls(step_ms: int) -> None:
    market = SyntheticMarket([BITCOIN, ETHER], seed=7)
    step = step_ms * 1_000_000
    parts = [market.ticks(NOON + number * step, NOON + (number + 1) * step) for number in range(20)]
    assert same(Ticks.concatenate(parts), SyntheticMarket([BITCOIN, ETHER], seed=7).ticks(NOON, NOON + 20 * step))


def test_a_market_started_later_continues_the_same_path() -> None:
    early = SyntheticMarket([BITCOIN], seed=7)
    early.ticks(NOON, NOON + 600 * SECOND_NS)
    span = (NOON + 600 * SECOND_NS, NOON + 601 * SECOND_NS)
    assert same(early.ticks(*span), SyntheticMarket([BITCOIN], seed=7).ticks(*span))


def test_the_price_does_not_jump_at_midnight() -> None:
    midnight = NOON + 12 * 3600 * SECOND_NS
    market = SyntheticMarket([BITCOIN], seed=7)
    before = market.ticks(midnight - 5 * SECOND_NS, midnight).trades().price[-1]
    after = market.ticks(midnight, midnight + 5 * SECOND_NS).trades().price[0]
    assert abs(after / before - 1) < 0.005


def test_every_quote_is_a_bid_below_its_ask_and_every_price_a_multiple_of_the_tick() -> None:
    coarse = SyntheticInstrument(instrument_id=1, price=4_000_000, tick=25, lot=100, typical_size=2_000)
    ticks = SyntheticMarket([coarse], seed=3).ticks(NOON, NOON + 300 * SECOND_NS)
    bids, asks = ticks.quotes()
    assert len(bids) == np.count_nonzero(ticks.flags & BID) == np.count_nonzero(ticks.flags & ASK)
    assert (ticks.price[bids] < ticks.price[asks]).all()
    assert (ticks.price % 25 == 0).all()
    assert (ticks.size % 100 == 0).all()
    assert (ticks.size > 0).all()


def test_times_ascend_and_stay_inside_the_span() -> None:
    ticks = SyntheticMarket([BITCOIN, ETHER], seed=3).ticks(NOON + 123, NOON + 90 * SECOND_NS)
    assert (np.diff(ticks.ts_event) >= 0).all()
    assert ticks.ts_event[0] >= NOON + 123
    assert ticks.ts_event[-1] < NOON + 90 * SECOND_NS


def test_the_rate_is_about_what_was_asked_for() -> None:
    ticks = SyntheticMarket([BITCOIN], seed=3).ticks(NOON, NOON + 600 * SECOND_NS)
    quotes_per_second = np.count_nonzero(ticks.flags & BID) / 600
    trades_per_second = np.count_nonzero(ticks.flags & TRADE) / 600
    assert 3 < quotes_per_second < 15
    assert 1.5 < trades_per_second < 8


def test_the_market_wanders_but_never_runs_away() -> None:
    market = SyntheticMarket([BITCOIN], seed=11)
    prices = np.array(
        [market.ticks(NOON + day * 86_400 * SECOND_NS, NOON + (day * 86_400 + 1) * SECOND_NS).price[0] for day in range(0, 700, 7)]
    )
    assert prices.min() > 4_000_000 / 3
    assert prices.max() < 4_000_000 * 3
    assert prices.std() / prices.mean() > 0.02
