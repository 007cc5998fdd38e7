"""A service as systemd runs it: a process that says when it is ready, keeps the watchdog fed and stops when told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from trading_platform.config import Settings

PLATFORM = Path(__file__).parents[2] / "platform"
TIMEOUT_S = 90.0


@pytest.fixture
def configuration(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "platform.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return path


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TIMEOUT_S)
        yield systemd


def start(name: str, configuration: Path, credentials: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(PLATFORM),
        "TRADING_CONFIG": str(configuration),
        "CREDENTIALS_DIRECTORY": str(credentials),
        "NOTIFY_SOCKET": str(configuration.parent / "notify"),
        "WATCHDOG_USEC": "4000000",
    }
    command = [sys.executable, "-m", f"trading_platform.{name}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("name", ["engine", "risk", "portfolio", "strategy"])
def test_a_service_is_ready_feeds_its_watchdog_and_stops_cleanly(
    name: str, configuration: Path, credentials: Path, notifications: socket.socket
) -> None:
    process = start(name, configuration, credentials)
    try:
        said: list[bytes] = []
        while not {b"READY=1", b"WATCHDOG=1"} <= set(said):
            said.append(notifications.recv(100))
        process.send_signal(signal.SIGTERM)
        while said[-1] != b"STOPPING=1":
            said.append(notifications.recv(100))
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert '"level": "critical"' not in output


def test_a_wrong_configuration_ends_the_process_with_its_own_status(
    configuration: Path, credentials: Path, notifications: socket.socket
) -> None:
    document: dict[str, Any] = yaml.safe_load(configuration.read_text())
    document["risk"]["max_daily_loss"] = "-1"
    configuration.write_text(yaml.safe_dump(document))
    process = start("risk", configuration, credentials)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 78
    assert "risk.max_daily_loss: found '-1'" in output
