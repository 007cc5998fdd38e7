"""The strategy: closed candles in, one signal a decision out, MongoDB present or not."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from conftest import Market, Platform, RedisServer, eventually, settings_for
from msgspec import structs
from trading_platform import instruments, messages
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.messages import Candle, Signal
from trading_platform.strategies.donchian import Donchian
from trading_platform.strategies.model import Decision, Fact
from trading_platform.strategy.store import StrategyStore

QUICK = {"interval_s": 60, "channel": 3, "exit_channel": 2, "trend": 3, "order_notional": "1000", "instruments": ["BTCUSDT"]}

# History: 17 candles.
MOVING_AVERAGES = {
    "kind": "ma_trend", "interval_s": 60, "instruments": ["BTCUSDT"],
    "parameters": {"fast": 2, "slow": 3, "atr": 2, "stop_channel": 2, "stop_atr": 1},
}  # fmt: skip


@pytest.fixture
def section() -> dict[str, Any]:
    return QUICK


@pytest.fixture
def settings(postgres: Any, redis_server: RedisServer, migrated: str, section: dict[str, Any]) -> Settings:
    redis_server.client().flushall()
    return settings_for(postgres, redis_server, postgres.create_database(template=migrated), strategy=section)


def candle(number: int, close: int, source: str = "test") -> Candle:
    price = close * 100
    return Candle(
        symbol="BTCUSDT", interval_s=60, ts_open_ns=number * 60_000_000_000, open=price, high=price, low=price, close=price, volume=1,
        source=source,
    )  # fmt: skip


async def publish(bus: Any, *candles: Candle, entry_id: str = "*") -> None:
    for each in candles:
        await bus.redis.xadd(messages.CANDLES, messages.encode(each), id=entry_id)


async def signals(bus: Any) -> list[Signal]:
    return [messages.decode(fields, Signal) for _, fields in await bus.redis.xrange(messages.SIGNALS)]


async def seen(platform: Platform, number: int) -> None:
    async def reached() -> bool:
        watches = (await platform["strategy"].get("/strategies")).json()[0]["watches"]
        return bool(watches and watches["BTCUSDT"]["newest_candle_ns"] == number * 60_000_000_000)

    await eventually(reached, what=f"candle {number} seen by the strategy")


BREAKOUT = [candle(number, close) for number, close in enumerate([100, 101, 100, 102])]


async def test_a_breakout_becomes_one_signal_sized_by_value(platform: Platform, bus: Any, market: Market) -> None:
    await platform.start("strategy")
    await publish(bus, *BREAKOUT)
    await seen(platform, 3)
    (signal,) = await signals(bus)
    assert (signal.side, signal.reason, signal.quantity, signal.price) == ("buy", "breakout_up", "9.80392", 10200)


async def test_a_candle_delivered_again_is_not_decided_again(platform: Platform, bus: Any, market: Market) -> None:
    await platform.start("strategy")
    await publish(bus, *BREAKOUT, BREAKOUT[-1], candle(4, 101))
    await seen(platform, 4)
    assert len(await signals(bus)) == 1


async def test_the_same_decision_after_a_restart_has_the_same_id(platform: Platform, bus: Any, market: Market) -> None:
    await platform.start("strategy")
    await publish(bus, *BREAKOUT)
    await seen(platform, 3)
    await platform.stop("strategy")
    await bus.redis.delete(messages.CANDLES)
    await platform.start("strategy")
    await publish(bus, *BREAKOUT)
    await seen(platform, 3)
    first, second = await signals(bus)
    assert first.id == second.id


async def test_candles_that_waited_teach_and_are_not_traded(platform: Platform, bus: Any, market: Market) -> None:
    for number, each in enumerate(BREAKOUT):
        await publish(bus, each, entry_id=f"{1_000_000 + number}-0")
    await platform.start("strategy")
    await seen(platform, 3)
    assert await signals(bus) == []


async def test_what_the_database_knows_of_a_series_is_the_warm_up(platform: Platform, bus: Any, market: Market, db: Database) -> None:
    for number, close in enumerate([100, 101, 100]):
        await db.execute(
            "INSERT INTO candles VALUES (1, 60, to_timestamp(%s), %s, %s, %s, %s, 1, 'test')", (number * 60, close, close, close, close)
        )
    await platform.start("strategy")
    await publish(bus, BREAKOUT[-1])
    await seen(platform, 3)
    assert [signal.reason for signal in await signals(bus)] == ["breakout_up"]


async def test_another_source_begins_a_series_of_its_own(platform: Platform, bus: Any, market: Market) -> None:
    await platform.start("strategy")
    await publish(bus, *BREAKOUT[:3], candle(3, 500, source="another"))
    await seen(platform, 3)
    assert await signals(bus) == []


async def test_without_mongodb_the_strategy_is_degraded_and_decides_all_the_same(platform: Platform, bus: Any, market: Market) -> None:
    await platform.start("strategy")
    await publish(bus, *BREAKOUT)
    await seen(platform, 3)
    health = await platform["strategy"].get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert len(await signals(bus)) == 1


@pytest.mark.parametrize("section", [MOVING_AVERAGES])
async def test_moving_averages_enter_at_their_cross_and_leave_at_their_stop(
    platform: Platform, bus: Any, market: Market, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    for number in range(15):
        await db.execute("INSERT INTO candles VALUES (1, 60, to_timestamp(%s), 100, 100, 100, 100, 1, 'test')", (number * 60,))
    await platform.start("strategy")
    await publish(bus, candle(15, 100), candle(16, 110))
    await seen(platform, 16)
    (entry,) = await signals(bus)
    assert (entry.strategy, entry.side, entry.reason, entry.price) == ("ma-trend", "buy", "cross_up", 11000)

    # What the engine and the portfolio make of it: the entry is filled and held.
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD') ON CONFLICT DO NOTHING")
    superuser.execute(
        "INSERT INTO positions (account_id, instrument_id, position_side, quantity, average_price, realised_pnl, fees, last_fill_seq,"
        " updated_at) VALUES ('paper', 1, 'net', 2.5, 110, 0, 0, 0, now())"
    )
    await platform.stop("strategy")
    await platform.start("strategy")
    await publish(bus, candle(15, 100), candle(16, 110), candle(17, 104))
    await seen(platform, 17)
    leave = (await signals(bus))[-1]
    assert (leave.side, leave.reason, leave.quantity) == ("sell", "atr_stop", "2.5")
    (listed,) = (await platform["strategy"].get("/strategies")).json()
    assert (listed["kind"], listed["class_version"], listed["parameters"]["slow"]) == ("ma_trend", "1", 3)
    assert (listed["watches"]["BTCUSDT"]["warm"], listed["watches"]["BTCUSDT"]["warm_up"]) == (True, 17)


async def test_an_instrument_whose_strategy_knew_the_future_is_not_traded_any_more(
    platform: Platform, bus: Any, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Donchian._decide

    def cheating(strategy: Donchian, held: Decimal) -> Decision | None:
        decision = honest(strategy, held)
        return decision and replace(decision, facts=(Fact("close", 1, strategy.end_ns + 1),))

    monkeypatch.setattr(Donchian, "_decide", cheating)
    await platform.start("strategy")
    await publish(bus, *BREAKOUT)

    async def refused() -> Any:
        watches = (await platform["strategy"].get("/strategies")).json()[0]["watches"]
        return watches and watches["BTCUSDT"]["refused"]

    assert "breakout_up saw close" in await eventually(refused, what="the strategy refused")
    monkeypatch.undo()
    await publish(bus, candle(4, 103), candle(5, 104))

    async def taken() -> bool:
        (group,) = await bus.redis.xinfo_groups(messages.CANDLES)
        return (group["lag"], group["pending"]) == (0, 0)

    await eventually(taken, what="the candles after it taken")
    assert await signals(bus) == []


async def test_an_impossible_candle_is_refused_and_the_next_one_is_taken(platform: Platform, bus: Any, market: Market) -> None:
    await platform.start("strategy")
    await publish(bus, *BREAKOUT[:3], structs.replace(BREAKOUT[3], high=1), structs.replace(BREAKOUT[3], ts_open_ns=4 * 60_000_000_000))
    await seen(platform, 4)
    assert [signal.ts_candle_ns for signal in await signals(bus)] == [5 * 60_000_000_000]


async def test_both_sides_of_a_hedging_account_make_one_position(db: Database, superuser: psycopg.Connection[Any]) -> None:
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('both', 'paper', 'USD')")
    for side, quantity in (("long", "1.5"), ("short", "-0.4")):
        superuser.execute(
            "INSERT INTO positions (account_id, instrument_id, position_side, quantity, average_price, realised_pnl, fees, last_fill_seq,"
            " updated_at) VALUES ('both', 1, %s, %s, 100, 0, 0, 0, now())",
            (side, quantity),
        )
    store, catalogue = StrategyStore(db), await instruments.load(db)
    assert await store.held("both", catalogue.id(1)) == Decimal("1.1")
    assert await store.held("both", catalogue.id(2)) == 0
