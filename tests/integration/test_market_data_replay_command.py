"""replay.sh against the running service, as an operator types it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import eventually
from trading_platform.config import Settings

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
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    changes: dict[str, Any] = {"history_s": 0, "replay_directory": str(tmp_path / "replay")}
    document = settings.model_dump(mode="json")
    document["market_data"] |= changes
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(document))
    return os.environ | {
        "TRADING_CONFIG": str(tmp_path / "platform.yaml"),
        "TRADING_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT / "platform"),
    }


@pytest.fixture
def service(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "trading_platform.market_data"], env=environment, stdout=subprocess.DEVNULL)
    yield process
    process.terminate()
    assert process.wait(timeout=20) == 0


async def leading(settings: Settings) -> None:
    async def leads() -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return bool((await client.get(f"{settings.url('market-data')}/health")).json()["leading"])
            except httpx.TransportError:
                return False

    await eventually(leads, within_s=30, what="the service leading")


def replay_sh(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


async def test_a_file_from_anywhere_is_copied_checked_played_and_watched(
    settings: Settings, environment: dict[str, str], service: object, tmp_path: Path
) -> None:
    await leading(settings)
    done = replay_sh(environment, candles(tmp_path / "btc.parquet"), "--speed", "max", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert "btc.parquet: 100 candles of BTCUSD-PERP, 2022-01-01 00:00 to 2022-01-01 01:40 UTC" in done.stdout
    assert "100.0%" in done.stdout
    assert [file.name for file in (tmp_path / "replay").iterdir()] == ["btc.parquet"]


async def test_a_wrong_file_is_named_by_row_and_column_and_not_even_copied(
    settings: Settings, environment: dict[str, str], service: object, tmp_path: Path
) -> None:
    await leading(settings)
    refused = replay_sh(environment, candles(tmp_path / "wrong.parquet", low=-1.0))
    assert refused.returncode == 3
    assert 'row 1, column "low": expected a positive finite number, found -1; nothing was loaded' in refused.stderr
    assert not (tmp_path / "replay").exists()


async def test_check_only_checks(settings: Settings, environment: dict[str, str], service: object, tmp_path: Path) -> None:
    await leading(settings)
    done = replay_sh(environment, candles(tmp_path / "btc.parquet"), "--check")
    assert done.returncode == 0
    assert not (tmp_path / "replay").exists()


def test_a_service_that_does_not_answer_has_its_own_exit_status(environment: dict[str, str], tmp_path: Path) -> None:
    done = replay_sh(environment, candles(tmp_path / "btc.parquet"))
    assert done.returncode == 5
    assert "journalctl --unit=trading-market-data" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["file", "--speed", "0"], ["file", "--speed", "fast"], ["file", "--loop"]])
def test_wrong_use_is_told_apart(environment: dict[str, str], arguments: list[str]) -> None:
    assert replay_sh(environment, *arguments).returncode == 2


def test_help_tells_every_exit_status(environment: dict[str, str]) -> None:
    done = replay_sh(environment, "--help")
    assert done.returncode == 0
    assert "5 the service does not answer" in " ".join(done.stdout.split())
