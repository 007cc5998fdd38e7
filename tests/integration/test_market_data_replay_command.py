"""replay.sh against the running service, as an operator types it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
import yaml
from conftest import eventually
from trading_platform.config import Settings
from trading_platform.market_data.app import create

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "platform" / "bin" / "replay.sh"
S = 1_000_000_000


def candles(path: Path, minutes: int = 100, low: float = 99.0) -> Path:
    pq.write_table(
        pa.table(
            {
                "ts_open_ns": 1_640_995_200 * S + np.arange(minutes, dtype=np.int64) * 60 * S,
                "symbol": ["BTCUSD-PERP"] * minutes,
                "open": np.full(minutes, 100.0),
                "high": np.full(minutes, 103.0),
                "low": np.full(minutes, low),
                "close": np.full(minutes, 101.5),
                "volume": np.full(minutes, 4.0),
            }
        ),
        path,
    )
    return path


@pytest.fixture
def configured(settings: Settings, tmp_path: Path) -> Settings:
    changes = {"history_s": 0, "replay_directory": str(tmp_path / "replay")}
    return settings.model_copy(update={"market_data": settings.market_data.model_copy(update=changes)})


@pytest.fixture
def environment(configured: Settings, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(configured.model_dump(mode="json")))
    return os.environ | {
        "TRADING_CONFIG": str(tmp_path / "platform.yaml"),
        "TRADING_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT / "platform"),
    }


@pytest.fixture
async def service(configured: Settings) -> AsyncIterator[None]:
    """Market data, listening where replay.sh looks for it, and leading."""
    port = configured.service("market-data").port
    server = uvicorn.Server(uvicorn.Config(create(configured).app, port=port, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server.serve())

    async def leads() -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return bool((await client.get(f"{configured.url('market-data')}/health")).json()["leading"])
            except httpx.TransportError:
                return False

    await eventually(leads, within_s=60, what="the service leading")
    yield
    server.should_exit = True
    await serving


async def replay_sh(environment: dict[str, str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        str(SCRIPT), *map(str, arguments), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, output.decode(), errors.decode()


async def test_a_file_is_copied_checked_played_and_watched(environment: dict[str, str], service: None, tmp_path: Path) -> None:
    status, output, errors = await replay_sh(environment, candles(tmp_path / "btc.parquet"), "--speed", "max", "--wait")
    assert (status, errors) == (0, "")
    assert "btc.parquet: 100 candles of BTCUSD-PERP, 2022-01-01 00:00 to 2022-01-01 01:40 UTC" in output
    assert "100.0%" in output
    assert [file.name for file in (tmp_path / "replay").iterdir()] == ["btc.parquet"]


async def test_a_wrong_file_is_named_by_row_and_column_and_not_even_copied(
    environment: dict[str, str], service: None, tmp_path: Path
) -> None:
    status, _, errors = await replay_sh(environment, candles(tmp_path / "wrong.parquet", low=-1.0))
    assert status == 3
    assert 'row 1, column "low": expected a positive finite number, found -1; nothing was loaded' in errors
    assert not (tmp_path / "replay").exists()


async def test_check_only_checks(environment: dict[str, str], service: None, tmp_path: Path) -> None:
    status, _, _ = await replay_sh(environment, candles(tmp_path / "btc.parquet"), "--check")
    assert status == 0
    assert not (tmp_path / "replay").exists()


async def test_a_service_that_does_not_answer_has_its_own_exit_status(environment: dict[str, str], tmp_path: Path) -> None:
    status, _, errors = await replay_sh(environment, candles(tmp_path / "btc.parquet"))
    assert status == 5
    assert "journalctl --unit=trading-market-data" in errors


@pytest.mark.parametrize("arguments", [[], ["file", "--speed", "0"], ["file", "--speed", "fast"], ["file", "--stop", "x"]])
async def test_wrong_use_is_told_apart(environment: dict[str, str], arguments: list[str]) -> None:
    status, _, _ = await replay_sh(environment, *arguments)
    assert status == 2


async def test_help_tells_every_exit_status(environment: dict[str, str]) -> None:
    status, output, _ = await replay_sh(environment, "--help")
    assert status == 0
    assert "5 the service does not answer" in " ".join(output.split())
