"""The lake beside real Redis: what was on the bus is on the disk once, whatever is killed, trimmed, lost or full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import redis
from conftest import RedisServer, eventually, settings_for
from lake_ticks import MONDAY, S, batch, expected, read
from trading_platform import batches, messages
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.market_data import lake_writer
from trading_platform.market_data.app import create
from trading_platform.market_data.lake import Lake
from trading_platform.market_data.lake_files import Disk

PLATFORM = Path(__file__).parents[2] / "platform"


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
