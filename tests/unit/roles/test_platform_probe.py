"""The probe 60-platform: units, what services say of themselves, their release, the age of market data."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROBE = Path(__file__).parents[3] / "roles/platform/files/60-platform"
ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0"}
HEALTHY = {"status": "healthy", "version": "1.0+a", "uptime_seconds": 75}


@pytest.fixture(scope="module")
def probe() -> ModuleType:
    loader = SourceFileLoader("probe_60_platform", str(PROBE))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("unit", "answer", "status", "words"),
    [
        (ACTIVE, (200, HEALTHY), "ok", "1.0+a, up 1 min"),
        (ACTIVE, (200, {**HEALTHY, "version": "0.9+z"}), "warn", "runs 0.9+z, the active release is 1.0+a"),
        (ACTIVE, (0, "no answer within 5 s"), "down", "no answer within 5 s"),
        (ACTIVE, (503, {"status": "unhealthy", "dependencies": {"redis": {"status": "unhealthy", "detail": "refused"}}}),
         "down", "unhealthy (HTTP 503): redis unhealthy (refused)"),
        (ACTIVE, (200, {"status": "degraded", "loops": {"feed": {"status": "retrying", "detail": ""}}}), "warn", "feed retrying"),
        (ACTIVE, (500, {"error": "x"}), "down", "None (HTTP 500)"),
        ({**ACTIVE, "ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "NRestarts": "3"}, None,
         "down", "failed (failed, result exit-code, restarted 3 times)"),
        ({**ACTIVE, "ActiveState": "activating", "SubState": "auto-restart"}, None, "down", "activating (auto-restart"),
        ({"LoadState": "not-found"}, None, "down", "its unit is not-found"),
        ({}, None, "unknown", "systemd does not answer"),
    ],
)  # fmt: skip
def test_a_service_is_judged_by_its_unit_first_then_by_what_it_says(probe, unit, answer, status, words) -> None:
    found = probe.judge("engine", unit, answer, "1.0+a")
    assert found[:2] == (status, "trading-engine")
    assert words in found[2]


def test_standing_by_is_well(probe) -> None:
    document = {**HEALTHY, "loops": {"orders": {"status": "standby", "detail": "held by another"}}}
    assert probe.judge("engine", ACTIVE, (200, document), "1.0+a")[0] == "ok"


@pytest.mark.parametrize(("age", "status"), [(0.4, "ok"), (30, "warn"), (299, "warn"), (300, "down")])
def test_market_data_by_its_age(probe, age: float, status: str) -> None:
    ((found, part, *_),) = probe.freshness((200, {"newest_age_seconds": age}), 30)
    assert (found, part) == (status, "market data")


def test_without_market_data_on_this_host_its_age_is_not_judged(probe) -> None:
    assert probe.freshness((200, {}), 30) == []
    assert probe.freshness((0, "no answer"), 30) == []


@pytest.fixture
def service() -> Iterator[tuple[int, list[Any]]]:
    """A server that answers with what is put into the list: (status, body)."""
    answer: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, answer
    server.shutdown()
    server.server_close()


def test_a_red_answer_is_read_like_a_green_one(probe, service) -> None:
    port, answer = service
    answer[:] = [503, json.dumps({"status": "unhealthy"}).encode()]
    assert probe.ask(port) == (503, {"status": "unhealthy"})


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
def test_an_answer_that_is_no_health_document_is_none(probe, service, body: bytes) -> None:
    port, answer = service
    answer[:] = [200, body]
    assert probe.ask(port)[0] == 0


def test_nobody_listening_is_said(probe, service) -> None:
    assert probe.ask(1)[0] == 0
    assert "refused" in probe.ask(1)[1]


def test_waiting_ends_when_nothing_is_down_and_shows_journals_when_time_is_over(probe, monkeypatch, capsys, tmp_path) -> None:
    (tmp_path / "config").write_text(json.dumps({"services": {"risk": 1}, "market_data_stale_seconds": 30}))
    monkeypatch.setattr(probe, "CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(probe.time, "sleep", lambda _: None)
    looks = iter([[("down", "trading-risk", "d", "c")], [("ok", "trading-risk", "d", "c")]])
    monkeypatch.setattr(probe, "look", lambda _: next(looks))
    monkeypatch.setattr(probe.sys, "argv", ["60-platform", "--await", "60"])
    assert probe.main() == 0
    shown: list[list[str]] = []
    monkeypatch.setattr(probe, "show_journals", shown.append)
    monkeypatch.setattr(probe, "look", lambda _: [("down", "trading-risk", "d", "c")])
    monkeypatch.setattr(probe.sys, "argv", ["60-platform", "--await", "0"])
    assert probe.main() == 1
    assert shown == [["trading-risk"]]
    assert "trading-risk" in capsys.readouterr().out
