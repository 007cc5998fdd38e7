"""The lake beside real Redis: what was on the bus is on the disk once, whatever is killed, trimmed, lost or full."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import lake_process
import psycopg
import pyarrow as pa
import pytest
import yaml
from conftest import RedisServer, eventually
from lake_ticks import MONDAY, S, batch, expected, read
from trading_platform import batches, messages
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.market_data import lake_files, lake_routes, lake_writer
from trading_platform.market_data.app import create
from trading_platform.market_data.lake import Lake
from trading_platform.market_data.lake_files import Disk


def lake_settings(settings: Settings, **changes: Any) -> Settings:
    """No feed: the tests say what is on the bus."""
    lake = settings.market_data.lake.model_copy(update={"roll_s": 0.2, "min_free_mib": 0, **changes})
    return settings.model_copy(update={"market_data": settings.market_data.model_copy(update={"feed": "none", "lake": lake})})


@pytest.fixture
def own(settings: Settings) -> Settings:
    return lake_settings(settings)


@pytest.fixture
def lake(own: Settings) -> Lake:
    return Lake(Path(own.data_directory) / "lake")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    service = create(settings)
    transport = httpx.ASGITransport(app=service.app)
    async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://market-data") as client:
        yield client


async def publish(bus: Bus, number: int, *, maxlen: int = 2_000, instrument: int = 1) -> batches.TickBatch:
    """The number-th batch: five rows nobody else has."""
    sent = batch([MONDAY + (5 * number + row) * S for row in range(5)], instrument, start=5 * number)
    await bus.publish(messages.TICKS, {b"b": sent.encode()}, maxlen=maxlen)
    return sent


async def holds(lake: Lake, sent: list[batches.TickBatch]) -> None:
    async def all_there() -> bool:
        return read(lake) == expected(sent)

    await eventually(all_there, what=f"{len(sent)} batches in the lake")


async def health(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/health")).json()
    return document


async def test_what_is_on_the_bus_is_in_the_lake_once_over_restarts(own: Settings, bus: Bus, lake: Lake) -> None:
    sent = [await publish(bus, number) for number in range(3)]
    async with running(own) as client:
        await holds(lake, sent)
        sent.append(await publish(bus, 3))
        await holds(lake, sent)
        assert (await health(client))["dependencies"]["lake"]["status"] == "healthy"
    sent.append(await publish(bus, 4))
    async with running(own) as client:
        await holds(lake, sent)
        assert (await health(client))["lake"]["gaps"] == 0
    assert lake.gaps() == []


async def test_what_the_stream_no_longer_has_is_a_gap_of_so_many_batches_and_the_rest_is_there(own: Settings, bus: Bus, lake: Lake) -> None:
    sent = [await publish(bus, number) for number in range(5)]
    async with running(own):
        await holds(lake, sent)
    missed = [await publish(bus, number) for number in range(5, 15)]
    await bus.redis.xtrim(messages.TICKS, maxlen=3, approximate=False)
    async with running(own) as client:
        await holds(lake, sent + missed[-3:])
        assert [(gap["batches"], gap["reason"]) for gap in lake.gaps()] == [(7, "the stream was trimmed before it was read")]
        assert (await health(client))["lake"]["gaps"] == 1


async def test_a_stream_trimmed_up_to_what_is_on_the_disk_is_no_gap(own: Settings, bus: Bus, lake: Lake) -> None:
    sent = [await publish(bus, number) for number in range(5)]
    async with running(own):
        await holds(lake, sent)
    await bus.redis.xtrim(messages.TICKS, maxlen=0, approximate=False)
    sent.append(await publish(bus, 5))
    async with running(own):
        await holds(lake, sent)
    assert lake.gaps() == []


async def test_a_redis_that_lost_everything_is_a_gap_and_history_goes_on(own: Settings, bus: Bus, lake: Lake) -> None:
    sent = [await publish(bus, number) for number in range(3)]
    async with running(own):
        await holds(lake, sent)
        await bus.redis.flushall()
        sent += [await publish(bus, number) for number in range(3, 6)]
        await holds(lake, sent)
        sent.append(await publish(bus, 6))
        await holds(lake, sent)
    assert [(gap["batches"], gap["reason"]) for gap in lake.gaps()] == [(None, "the stream was lost and began anew")]


async def test_a_stream_that_went_back_is_followed_from_there_and_said(own: Settings, bus: Bus, lake: Lake) -> None:
    """A stand-by that had not heard everything leads, and its clock is behind."""
    sent = [await publish(bus, number) for number in range(3)]
    async with running(own) as client:
        await holds(lake, sent)
        await bus.redis.delete(messages.TICKS)
        await bus.redis.xadd(messages.TICKS, {"b": b""}, id="5-0")

        async def noticed() -> bool:
            return bool((await health(client))["lake"]["gaps"] == 1)

        await eventually(noticed, what="the gap")
        late = batch([MONDAY + 100 * S], start=100)
        await bus.redis.xadd(messages.TICKS, {"b": late.encode()}, id="6-0")
        await holds(lake, [*sent, late])
    sent += [late, await publish(bus, 7)]
    async with running(own):
        await holds(lake, sent)


async def test_bytes_that_are_no_batch_are_set_aside_as_they_came_and_the_rest_goes_on(own: Settings, bus: Bus, lake: Lake) -> None:
    identity = await bus.publish(messages.TICKS, {b"b": b"\x00 nonsense"})
    stranger = batch([MONDAY], instrument=4_000_000_000, start=50)
    await bus.publish(messages.TICKS, {b"b": stranger.encode()})
    sent = [await publish(bus, 0)]
    async with running(own) as client:
        await holds(lake, sent)
        assert (await health(client))["lake"]["quarantined"] == 2
    aside = sorted(path.read_bytes() for path in lake.quarantine_directory.iterdir())
    assert aside == sorted([b"\x00 nonsense", stranger.encode()])
    assert (lake.quarantine_directory / f"{identity.decode()}.batch").exists()


async def test_a_full_disk_degrades_health_loses_nothing_and_is_written_when_there_is_room(
    own: Settings, bus: Bus, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]

    def create(self: Disk, path: Path, write: Callable[[Any], None]) -> int:
        if full and path.suffix == ".parquet":
            path.write_bytes(b"PAR1 half a")
            raise OSError(28, "No space left on device")
        return Disk_create(self, path, write)

    Disk_create = Disk.create  # noqa: N806
    monkeypatch.setattr(Disk, "create", create)
    monkeypatch.setattr(lake_writer, "RETRY_S", 0.05)
    sent = [await publish(bus, number) for number in range(3)]
    async with running(own) as client:

        async def degraded() -> bool:
            document = await health(client)
            return bool(document["status"] == "degraded" and "No space left" in document["dependencies"]["lake"]["detail"])

        await eventually(degraded, what="degraded health")
        assert list(lake.root.glob("ticks/*/*/*")) == []
        sent.append(await publish(bus, 3))
        full.clear()
        await holds(lake, sent)
        assert (await health(client))["status"] == "healthy"
    assert list(lake.quarantine_directory.iterdir()) == []


async def test_a_disk_that_fails_in_the_middle_of_a_commit_has_it_finished(
    own: Settings, bus: Bus, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two symbols, two files; the second rename fails."""
    renames = [0]

    def rename(self: Disk, path: Path, target: Path) -> None:
        renames[0] += target.suffix == ".parquet"
        if renames[0] == 2:
            raise OSError(5, "Input/output error")
        path.replace(target)

    monkeypatch.setattr(Disk, "rename", rename)
    monkeypatch.setattr(lake_writer, "RETRY_S", 0.05)
    sent = batch([MONDAY, MONDAY + 1], [1, 2])
    await bus.publish(messages.TICKS, {b"b": sent.encode()})
    async with running(own):
        await holds(lake, [sent])

        async def other() -> bool:
            return read(lake, "ETHUSDT") == expected([sent], 2)

        await eventually(other, what="the second file")


async def test_a_torn_file_is_set_aside_said_and_not_read(own: Settings, bus: Bus, lake: Lake) -> None:
    first = await publish(bus, 0)
    async with running(own):
        await holds(lake, [first])
        second = await publish(bus, 1)
        await holds(lake, [first, second])
    older, _ = sorted(lake.root.glob("ticks/*/*/*.parquet"))
    older.write_bytes(older.read_bytes()[:-20])
    async with running(own) as client:

        async def set_aside() -> bool:
            return bool((await health(client))["lake"]["quarantined"] == 1)

        await eventually(set_aside, what="the torn file in quarantine")
        await holds(lake, [second])
    assert [path.name for path in lake.quarantine_directory.iterdir()] == [f"2024-01-01_BTCUSDT_{older.name}"]
    assert [(gap["symbol"], gap["day"]) for gap in lake.gaps()] == [("BTCUSDT", "2024-01-01")]


async def test_a_torn_file_the_bus_still_has_is_written_again(own: Settings, bus: Bus, lake: Lake) -> None:
    sent = [await publish(bus, 0)]
    async with running(own):
        await holds(lake, sent)
    (file,) = lake.root.glob("ticks/*/*/*.parquet")
    file.write_bytes(b"")
    async with running(own):

        async def again() -> bool:
            return file.exists() and file.stat().st_size > 0

        await eventually(again, what="the file")
        await holds(lake, sent)
    assert lake.gaps() == []


async def test_a_second_process_leaves_the_lake_to_the_first(own: Settings, bus: Bus, lake: Lake) -> None:
    sent = [await publish(bus, 0)]
    async with running(own) as first:
        await holds(lake, sent)
        async with running(own) as second:

            async def told() -> bool:
                return "written by another process" in (await health(second))["dependencies"]["lake"]["detail"]

            await eventually(told, what="the second one saying why")
            sent.append(await publish(bus, 1))
            await holds(lake, sent)
            assert (await health(first))["dependencies"]["lake"]["status"] == "healthy"


def test_a_process_killed_at_random_moments_tears_nothing_and_writes_each_tick_once(
    own: Settings, redis_server: RedisServer, lake: Lake, tmp_path: Path
) -> None:
    """Ten kills in the middle of writing two symbols as fast as it goes; then all the bus ever carried is there, once."""
    configuration = tmp_path / "platform.yaml"
    configuration.write_text(yaml.safe_dump(lake_settings(own, roll_s=0.01).model_dump(mode="json")))
    bus = redis_server.client()
    chance, sent = random.Random(20), []

    def send() -> None:
        number = len(sent)
        sent.append(batch([MONDAY + number * S, MONDAY + number * S], [1, 2], start=2 * number))
        bus.xadd(messages.TICKS, {"b": sent[-1].encode()})

    def files() -> list[Path]:
        return list(lake.root.glob("ticks/*/*/[!.]*"))

    for _ in range(10):
        before, killed_at, deadline = len(files()), None, time.monotonic() + 30
        process = lake_process.start(configuration)
        while killed_at is None or time.monotonic() < killed_at:
            assert time.monotonic() < deadline, "the process does not write"
            send()
            if killed_at is None and len(files()) > before:
                killed_at = time.monotonic() + chance.uniform(0, 0.2)
            time.sleep(0.002)
        process.kill()
        process.join()
        for path in files():
            lake_files.read_info(path)
    process = lake_process.start(configuration)
    try:
        deadline = time.monotonic() + 30
        while len(read(lake)) < len(sent):
            assert time.monotonic() < deadline, f"{len(read(lake))} of {len(sent)} rows"
            time.sleep(0.1)
    finally:
        process.kill()
        process.join()
    for symbol, instrument in (("BTCUSDT", 1), ("ETHUSDT", 2)):
        assert read(lake, symbol) == expected(sent, instrument)
    assert lake.gaps() == []


async def test_ticks_are_told_as_csv_and_as_arrow_by_range_and_kind(own: Settings, bus: Bus, lake: Lake) -> None:
    sent = [await publish(bus, number) for number in range(3)]
    async with running(own) as client:
        await holds(lake, sent)
        path = "/market-data/BTCUSDT/ticks"
        answer = await client.get(path, params={"from": "2024-01-01T00:00:02Z", "to": "2024-01-01T00:00:06", "kind": "trades"})
        assert answer.headers["content-type"].startswith("text/csv")
        lines = ["ts_event_ns,ts_recv_ns,kind,price,size,aggressor,flags"]
        lines += [f"{MONDAY + 3 * S},{MONDAY + 3 * S + 7},trade,0.03,0.000000,,1"]
        assert answer.text.splitlines() == lines
        answer = await client.get(path, params={"from": MONDAY, "to": MONDAY + 60 * S}, headers={"Accept": lake_routes.ARROW})
        told = pa.ipc.open_stream(answer.content).read_all()
        assert list(zip(*(column.to_pylist() for column in told.columns), strict=True)) == expected(sent)
        assert told.schema.metadata[b"price_scale"] == b"2"
        answer = await client.get(path, params={"from": MONDAY, "to": MONDAY + 60 * S, "limit": 4})
        assert len(answer.text.splitlines()) == 1 + 4
        assert answer.headers["lake-gaps"] == "0"


@pytest.mark.parametrize(
    ("symbol", "params", "status", "code"),
    [
        ("BTCUSDT", {"from": "2024-01-02", "to": "2024-01-01"}, 422, "INVALID_REQUEST"),
        ("BTCUSDT", {"from": "yesterday", "to": "2024-01-01"}, 422, "INVALID_REQUEST"),
        ("BTCUSDT", {"from": "1704067200000", "to": "2024-01-02"}, 422, "INVALID_REQUEST"),
        ("BTCUSDT", {"from": "2024-01-01"}, 422, "INVALID_REQUEST"),
        ("BTCUSDT", {"from": "2024-01-01", "to": "2024-03-01"}, 422, "RANGE_TOO_LONG"),
        ("BTCUSDT", {"from": "2024-01-01", "to": "2024-01-02", "limit": 0}, 422, "INVALID_REQUEST"),
        ("BTCUSDT", {"from": "2024-01-01", "to": "2024-01-02", "kind": "orders"}, 422, "INVALID_REQUEST"),
        ("NOSUCH", {"from": "2024-01-01", "to": "2024-01-02"}, 404, "UNKNOWN_SYMBOL"),
    ],
)
async def test_a_question_that_has_no_answer_is_a_problem(
    own: Settings, symbol: str, params: dict[str, Any], status: int, code: str
) -> None:
    async with running(own) as client:
        answer = await client.get(f"/market-data/{symbol}/ticks", params=params)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_more_rows_than_one_answer_may_have_and_a_strange_format_are_refused(
    own: Settings, bus: Bus, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_routes, "MAX_ROWS", 4)
    sent = [await publish(bus, 0)]
    async with running(own) as client:
        await holds(lake, sent)
        asked = {"from": MONDAY, "to": MONDAY + 60 * S}
        answer = await client.get("/market-data/BTCUSDT/ticks", params=asked)
        assert (answer.status_code, answer.json()["code"], answer.json()["rows"]) == (422, "TOO_MANY_ROWS", 5)
        answer = await client.get("/market-data/BTCUSDT/ticks", params=asked, headers={"Accept": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (406, "NOT_ACCEPTABLE")


async def test_all_candles_of_a_range_are_streamed_whatever_their_number(
    own: Settings, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_routes, "CANDLES_AT_ONCE", 10)
    superuser.execute(
        "INSERT INTO candles SELECT 1, 60, to_timestamp(1704067200 + 60 * n), 1.5, 2, 1, 1.5, n, 'test' FROM generate_series(0, 29) AS n"
    )
    async with running(own) as client:
        asked = {"from": "2024-01-01", "to": "2024-01-01T00:25", "interval": 60}
        lines = (await client.get("/candles/BTCUSDT/history", params=asked)).text.splitlines()
    assert lines[0] == "timestamp,open,high,low,close,volume,source"
    assert lines[1:] == [f"{(1704067200 + 60 * n) * 1000},1.5,2,1,1.5,{n},test" for n in range(25)]
