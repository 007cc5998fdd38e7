"""The market data service against real PostgreSQL and Redis: ticks, latest quotes, candles, replays, leadership."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import RedisServer, eventually, settings_for
from trading_platform import messages
from trading_platform.batches import TickBatch
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.market_data.app import create
from trading_platform.messages import Candle
from trading_platform.service import Service

S = 1_000_000_000
JANUARY = 1_640_995_200 * S
Start = Callable[..., Any]


def changed(settings: Settings, **market_data: Any) -> Settings:
    return settings.model_copy(update={"market_data": settings.market_data.model_copy(update=market_data)})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "replay"
    directory.mkdir()
    return directory


@pytest.fixture
def quick(settings: Settings, files: Path) -> Settings:
    """Little history, candles every second: what takes minutes in life shows within a test."""
    return changed(settings, history_s=0, intervals_s=[1, 60], replay_directory=str(files))


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    service = create(settings)
    transport = httpx.ASGITransport(app=service.app)
    async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://market-data") as client:
        yield service, client


def candle_file(path: Path, minutes: int = 30, symbol: str = "BTCUSD-PERP", **wrong: tuple[int, float]) -> Path:
    close = 46_000.0 + np.arange(minutes) % 7
    columns: dict[str, Any] = {
        "ts_open_ns": JANUARY + np.arange(minutes, dtype=np.int64) * 60 * S,
        "symbol": [symbol] * minutes,
        "open": close - 0.5,
        "high": close + 2.0,
        "low": close - 3.0,
        "close": close,
        "volume": np.full(minutes, 10.0),
    }
    for name, (row, value) in wrong.items():
        columns[name][row - 1] = value
    pq.write_table(pa.table(columns), path)
    return path


async def healthy(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health")).status_code == 200


async def quote(client: httpx.AsyncClient, symbol: str) -> dict[str, Any] | None:
    answer = await client.get(f"/market-data/{symbol}")
    return answer.json() if answer.status_code == 200 else None


async def replay_state(client: httpx.AsyncClient, replay_id: str) -> str:
    return str((await client.get(f"/replays/{replay_id}")).json()["state"])


async def replay(client: httpx.AsyncClient, path: Path, speed: float | str = "max") -> dict[str, Any]:
    async def leads() -> bool:
        return bool((await client.get("/health")).json()["leading"])

    await eventually(leads, what="leadership")
    answer = await client.post("/replays", json={"path": path.name, "speed": speed})
    assert answer.status_code == 202, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def done(client: httpx.AsyncClient, replay_id: str) -> None:
    async def is_done() -> bool:
        return await replay_state(client, replay_id) == "done"

    await eventually(is_done, within_s=20, what="end of the replay")


async def test_the_synthetic_market_becomes_ticks_on_the_bus_and_a_fresh_quote(quick: Settings, bus: Bus) -> None:
    async with running(quick) as (_, client):
        found = await eventually(lambda: quote(client, "BTCUSDT"), what="a quote of BTCUSDT")
        assert float(found["bid"]) < float(found["ask"])
        assert found["age_seconds"] < 5
        assert found["source"] == "synthetic"
        entries = await bus.tail(messages.TICKS, start="0").read()
        batch = TickBatch.decode(entries[0].fields[b"b"])
        assert set(batch.instrument.tolist()) <= {1, 2}
        assert await healthy(client)


async def test_closed_candles_reach_strategies_and_the_table_once(quick: Settings, bus: Bus, db: Database) -> None:
    async with running(quick) as (_, client):

        async def stored() -> int:
            return int(await db.fetch_value("SELECT count(*) FROM candles WHERE interval_s = 1 AND instrument_id = 1"))

        await eventually(lambda: _at_least(stored, 3), what="three candles of a second")
        entries = await bus.tail(messages.CANDLES, start="0").read(count=1000)
        candles = [messages.decode(entry.fields, Candle) for entry in entries]
        opened = [candle.ts_open_ns for candle in candles if candle.symbol == "BTCUSDT" and candle.interval_s == 1]
        assert opened == sorted(set(opened))
        assert all(candle.low <= min(candle.open, candle.close) <= candle.high for candle in candles)
        answer = await client.get("/candles/BTCUSDT", params={"interval": 1, "limit": 2})
        assert [set(candle) for candle in answer.json()] == [
            {"symbol", "interval", "timestamp", "open", "high", "low", "close", "volume", "source"}
        ] * 2


async def _at_least(count: Callable[[], Any], wanted: int) -> bool:
    return bool(await count() >= wanted)


async def test_a_first_start_makes_up_the_history_strategies_warm_up_on(settings: Settings, db: Database) -> None:
    async with running(changed(settings, history_s=1800)):

        async def stored() -> int:
            return int(await db.fetch_value("SELECT count(*) FROM candles WHERE interval_s = 60 AND instrument_id = 1"))

        await eventually(lambda: _at_least(stored, 30), what="half an hour of candles")


async def test_a_stand_by_takes_over_and_continues_the_same_market(quick: Settings, db: Database) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        _, leader = await first.enter_async_context(running(quick))
        await eventually(lambda: quote(leader, "BTCUSDT"))
        _, stand_by = await stack.enter_async_context(running(quick))
        before = await eventually(lambda: quote(stand_by, "BTCUSDT"))
        refused = await stand_by.post("/replays", json={"path": "x.parquet"})
        assert refused.status_code == 409
        assert refused.json()["code"] == "NOT_THE_LEADER"
        assert refused.json()["leader"]
        await first.aclose()

        async def leads() -> bool:
            return bool((await stand_by.get("/health")).json()["leading"])

        await eventually(leads, what="the stand-by leading")
        after = await eventually(lambda: _newer(stand_by, before["timestamp"]))
        assert abs(float(after["mark"]) / float(before["mark"]) - 1) < 0.02


async def _newer(client: httpx.AsyncClient, timestamp: int) -> dict[str, Any] | None:
    found = await quote(client, "BTCUSDT")
    return found if found and found["timestamp"] > timestamp else None


async def test_a_replayed_candle_file_gives_back_its_own_candles(quick: Settings, files: Path, db: Database) -> None:
    async with running(quick) as (_, client):
        started = await replay(client, candle_file(files / "btc.parquet", minutes=30))
        assert started["kind"] == "candles"
        assert started["candle_intervals_s"] == [60]
        await done(client, started["id"])

        async def stored() -> int:
            return int(await db.fetch_value("SELECT count(*) FROM candles WHERE instrument_id = 6"))

        await eventually(lambda: _at_least(stored, 30), what="thirty candles")
        rows = await db.fetch_tuples(
            "SELECT extract(epoch FROM ts_open)::bigint, open::text, high::text, low::text, close::text, volume::text"
            " FROM candles WHERE instrument_id = 6 ORDER BY ts_open LIMIT 2"
        )
        assert rows == [
            (1640995200, "45999.5", "46002", "45997", "46000", "10"),
            (1640995260, "46000.5", "46003", "45998", "46001", "10"),
        ]
        found = await quote(client, "BTCUSD-PERP")
        assert found is not None
        assert "bid" not in found
        assert found["last"] == found["mark"] == "46001"
        assert found["event_timestamp"] < found["timestamp"]


async def test_a_replay_plays_at_the_speed_asked_for(quick: Settings, files: Path) -> None:
    async with running(quick) as (_, client):
        started = await replay(client, candle_file(files / "btc.parquet", minutes=600), speed=60)
        await eventually(lambda: quote(client, "BTCUSD-PERP"))
        answer = (await client.get(f"/replays/{started['id']}")).json()
        assert answer["state"] == "running"
        assert answer["progress"] < 0.5


async def test_a_replay_is_stopped_and_its_symbol_is_free_again(quick: Settings, files: Path) -> None:
    async with running(quick) as (_, client):
        file = candle_file(files / "btc.parquet", minutes=600)
        started = await replay(client, file, speed=1)
        taken = await client.post("/replays", json={"path": file.name})
        assert (taken.status_code, taken.json()["code"]) == (409, "SYMBOL_IS_REPLAYED")
        assert (await client.delete(f"/replays/{started['id']}")).status_code == 202

        async def interrupted() -> bool:
            return await replay_state(client, started["id"]) == "interrupted"

        await eventually(interrupted)
        assert (await client.delete(f"/replays/{started['id']}")).status_code == 404
        await done(client, (await replay(client, file))["id"])


async def test_the_same_replay_twice_stores_each_candle_once(quick: Settings, files: Path, db: Database) -> None:
    async with running(quick) as (_, client):
        for _ in range(2):
            started = await replay(client, candle_file(files / "btc.parquet", minutes=5))
            await done(client, started["id"])

        async def stored() -> int:
            return int(await db.fetch_value("SELECT count(*) FROM candles WHERE instrument_id = 6"))

        await eventually(lambda: _at_least(stored, 5))
        assert await stored() == 5


async def test_a_wrong_file_is_refused_by_row_and_column_and_nothing_is_loaded(
    quick: Settings, files: Path, db: Database, bus: Bus
) -> None:
    async with running(quick) as (_, client):
        await eventually(lambda: healthy(client))
        candle_file(files / "wrong.parquet", minutes=30, close=(17, float("nan")))

        async def leads() -> bool:
            return bool((await client.get("/health")).json()["leading"])

        await eventually(leads)
        answer = await client.post("/replays", json={"path": "wrong.parquet", "speed": "max"})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert (
            answer.json()["detail"]
            == 'wrong.parquet: row 17, column "close": expected a positive finite number, found NaN; nothing was loaded'
        )
        assert await db.fetch_value("SELECT count(*) FROM candles WHERE instrument_id = 6") == 0
        assert "BTCUSD-PERP" not in await bus.quotes(["BTCUSD-PERP"])


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("missing.parquet", 404, "REPLAY_FILE_MISSING"),
        ("../outside.parquet", 422, "REPLAY_FILE_OUTSIDE"),
        ("link.parquet", 422, "REPLAY_FILE_OUTSIDE"),
        ("/etc/passwd", 422, "REPLAY_FILE_OUTSIDE"),
        ("a\u0000b", 404, "REPLAY_FILE_MISSING"),
        (".", 422, "REPLAY_FILE_OUTSIDE"),
    ],
)
async def test_only_files_inside_the_replay_directory_are_replayed(quick: Settings, files: Path, path: str, status: int, code: str) -> None:
    candle_file(files.parent / "outside.parquet")
    (files / "link.parquet").symlink_to(files.parent / "outside.parquet")
    async with running(quick) as (_, client):

        async def leads() -> bool:
            return bool((await client.get("/health")).json()["leading"])

        await eventually(leads)
        answer = await client.post("/replays", json={"path": path})
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_symbol_of_the_live_feed_cannot_be_replayed(quick: Settings, files: Path) -> None:
    async with running(quick) as (_, client):
        await eventually(lambda: healthy(client))
        candle_file(files / "live.parquet", symbol="BTCUSDT")

        async def leads() -> bool:
            return bool((await client.get("/health")).json()["leading"])

        await eventually(leads)
        answer = await client.post("/replays", json={"path": "live.parquet"})
        assert (answer.status_code, answer.json()["code"]) == (409, "SYMBOL_HAS_A_LIVE_FEED")


async def test_an_unknown_symbol_and_one_without_data_are_problems_not_prices(quick: Settings) -> None:
    async with running(quick) as (_, client):
        unknown = await client.get("/market-data/NOPE")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "UNKNOWN_SYMBOL")
        silent = await client.get("/market-data/SPY")
        assert (silent.status_code, silent.json()["code"]) == (503, "NO_MARKET_DATA")


async def test_stale_data_is_a_problem_and_turns_health_red(quick: Settings, bus: Bus) -> None:
    old = messages.Quote(symbol="BTCUSDT", ts_event_ns=JANUARY, ts_recv_ns=JANUARY, source="synthetic", bid=1, ask=2)
    async with running(changed(quick, feed="none")) as (_, client):
        await bus.set_quotes([old])
        answer = await client.get("/market-data/BTCUSDT")
        assert (answer.status_code, answer.json()["code"]) == (503, "STALE_MARKET_DATA")
        assert answer.json()["age_seconds"] > 60
        assert await healthy(client)  # without a live feed nothing is expected to be fresh


async def test_redis_away_turns_health_red_and_data_flows_again_when_it_is_back(
    quick: Settings, postgres: Any, tmp_path: Path, db: Database
) -> None:
    own = RedisServer(tmp_path)
    own.start()
    settings = settings_for(postgres, own, quick.database.name, market_data=quick.market_data.model_dump())
    try:
        async with running(settings) as (_, client):
            before = await eventually(lambda: quote(client, "BTCUSDT"))
            own.stop()

            async def red() -> bool:
                return not await healthy(client)

            await eventually(red, what="red health")

            async def stored() -> int:
                return int(await db.fetch_value("SELECT count(*) FROM candles WHERE interval_s = 1 AND instrument_id = 1"))

            count = await stored()
            await eventually(lambda: _at_least(stored, count + 2), within_s=20, what="candles built without Redis")
            own.start()
            await eventually(lambda: _newer(client, before["timestamp"]), within_s=30, what="a newer quote")
            await eventually(lambda: healthy(client), within_s=20, what="green health")
    finally:
        own.stop()


async def test_stopping_writes_the_candles_that_wait(quick: Settings, files: Path, db: Database) -> None:
    async with running(quick) as (_, client):
        started = await replay(client, candle_file(files / "btc.parquet", minutes=500))
        await done(client, started["id"])
    assert await db.fetch_value("SELECT count(*) FROM candles WHERE instrument_id = 6") == 500


async def test_a_replay_that_ends_with_its_leader_says_so(quick: Settings, files: Path) -> None:
    async with running(quick) as (_, client):
        started = await replay(client, candle_file(files / "btc.parquet", minutes=600), speed=1)
    async with running(quick) as (_, client):
        assert await replay_state(client, started["id"]) == "interrupted"
