"""A market data service in a process of its own, for the test that kills it: quick to start, because it is forked from one that is warm."""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from trading_platform import config
from trading_platform.market_data import lake_writer
from trading_platform.market_data.app import create

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lake_process"])


def start(configuration: Path) -> ForkServerProcess:
    process = _CONTEXT.Process(target=serve, args=(configuration,))
    process.start()
    return process


def serve(configuration: Path) -> None:
    lake_writer.POLL_S = 0.005  # type: ignore[misc]
    asyncio.run(_serve(configuration))


async def _serve(configuration: Path) -> None:
    service = create(config.load(configuration))
    async with service.running():
        await service.stopping.wait()
