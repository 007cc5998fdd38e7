"""Ticks that pass a run by the thousand: what is skipped changes nothing, and nothing else is skipped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import pytest
from trading_platform.backtest import instruments
from trading_platform.backtest.columns import Screen, TickColumns, in_order, walk
from trading_platform.batches import ASK, BID, BUY_AGGRESSOR, SELL_AGGRESSOR, TRADE, TickBatch
from trading_platform.domain.matching import BookOrder, Change, Matcher
from trading_platform.domain.models import Models
from trading_platform.market.quality import Quarantine
from trading_platform.market.ticks import Ticks

SECOND = 1_000_000_000
BTC, ETH = (instruments.catalogue().symbol(symbol) for symbol in ("BTCUSDT", "ETHUSDT"))
KINDS = (TRADE, TRADE | BUY_AGGRESSOR, TRADE | SELL_AGGRESSOR, BID, BID, ASK, ASK)


def drawn(seed: int, rows: int, *, trades: bool = True) -> Ticks:
    """A narrow market in which everything touches everything: prices 995 to 1,005 ticks, sizes with zeros among them."""
    dice = random.Random(seed)
    flags = [dice.choice(KINDS if trades else KINDS[3:]) for _ in range(rows)]
    return Ticks(
        np.array([dice.choice((BTC.id, ETH.id, 999)) for _ in range(rows)], dtype=np.uint32),
        SECOND + np.arange(rows, dtype=np.int64),
        np.array([dice.randint(995, 1_003) + 2 * bool(kind & ASK) for kind in flags], dtype=np.int64),
        np.array([dice.choice((0, 100, 200, 400)) * 10 for _ in flags], dtype=np.int64),
        np.array(flags, dtype=np.uint8),
    )


def orders(seed: int, number: int) -> Iterator[BookOrder]:
    dice = random.Random(seed)
    for each in range(number):
        kind = dice.choice(("limit", "limit", "stop_loss", "take_profit", "stop_loss_limit"))
        price = Decimal(dice.randint(992, 1_008)).scaleb(-2)
        yield BookOrder(
            id=each + 1,
            owner="a",
            side=dice.choice(("buy", "sell")),
            type=kind,  # type: ignore[arg-type]
            time_in_force="GTC",
            quantity=Decimal(dice.randint(51, 90)).scaleb(-2),
            limit_price=price if kind.endswith("limit") else None,
            stop_price=price if kind != "limit" else None,
        )


@pytest.mark.parametrize("trades", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_skipping_what_is_out_of_reach_changes_nothing(seed: int, trades: bool) -> None:
    """Beside a matcher that is given row by row: the same changes, and in the end the same market and the same places in the queue."""
    market = TickColumns.of(drawn(seed, 200, trades=trades))
    mine, theirs = Matcher(BTC, Models()), Matcher(BTC, Models())
    said: list[Change] = []
    expected: list[Change] = []
    coming = {40 * number: order for number, order in enumerate(orders(seed, 4), 1)}
    skipped, at = 0, 0
    for stop in sorted({*coming, len(market)}):
        while at < stop:
            newest = np.full((1, 4), -1, dtype=np.int64)
            reach = np.array([mine.reach()], dtype=np.int64)
            ids = np.array([BTC.id], dtype=np.uint32)
            touching = walk(market.instrument, market.price, market.flags, at, stop, ids, reach, newest)
            if newest[0, 3] >= 0:
                mine.went_by(market, *newest[0].tolist())
            skipped += touching - at
            if touching < stop:
                said += mine.on_row(market, touching)
            at = min(stop, touching + 1)
        if stop in coming:
            said += mine.submit(coming[stop], SECOND + stop)
    for row in range(len(market)):
        if row in coming:
            expected += theirs.submit(coming[row], SECOND + row)
        if market.instrument[row] == BTC.id:
            part = TickBatch(*(getattr(market, name)[row : row + 1] for name in TickColumns.__dataclass_fields__))
            expected += theirs.on_ticks(part, np.array([0]))
    assert said == expected
    assert mine.snapshot() == theirs.snapshot()
    assert skipped > 30


@pytest.mark.parametrize("seed", range(20))
def test_the_quick_look_refuses_what_the_quarantine_refuses(seed: int) -> None:
    """Parts with and without wrong prices, crossed quotes and new instruments, one after the other."""
    dice = np.random.default_rng(seed)
    quick, slow = Screen(settle_rows=4), Quarantine(settle_rows=4)
    levels = {BTC.id: 100_000, ETH.id: 5_000}
    for part in range(30):
        rows = 40
        number = dice.choice(list(levels), rows).astype(np.uint32)
        flags = dice.choice([TRADE, BID, ASK], rows).astype(np.uint8)
        price = np.array([levels[each] for each in number.tolist()], dtype=np.int64) + dice.integers(-20, 20, rows)
        if part % 3 == 1:
            price[dice.integers(0, rows, 3)] *= 3
        if part % 7 == 6:
            levels[BTC.id] = levels[BTC.id] * 2
        if part % 3 == 0:
            flags[:] = TRADE
        ticks = Ticks(number, np.arange(rows, dtype=np.int64), price, price, flags)
        ours, theirs = quick.screen(ticks), slow.screen(ticks)
        assert np.array_equal(ours.ts_event, theirs.ts_event)
        assert quick.refused == slow.refused
        assert (quick._reference, quick._suspects) == (slow._reference, slow._suspects)
    assert slow.refused["crossed"] > 0
    assert slow.refused["absurd"] > 0


def test_time_that_stands_still_is_in_order_and_time_that_goes_back_is_not() -> None:
    assert in_order(np.array([1, 1, 2, 2], dtype=np.int64))
    assert not in_order(np.array([1, 3, 2, 4], dtype=np.int64))
