"""trading_state.sh's program against a risk service that is played: what it asks, says, and ends with."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from trading_platform.risk import command


class Played:
    """Answers GET /trading/state with one overview after the other, the last one for ever."""

    def __init__(self, *states: str, status: int = 200, answer: dict[str, Any] | None = None) -> None:
        self.states = list(states) or ["running"]
        self.status = status
        self.answer = answer or {"account": "*", "state": "draining", "version": 7, "changed": True}
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.asked.append((request.url.path, json.loads(request.content), request.headers.get("authorization")))
            return httpx.Response(self.status, json=self.answer)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        account = {
            "account": "paper", "state": state, "since": "2026-01-01T00:00:00Z", "by": "user:a", "reason": "x", "acknowledged": True,
            "waiting_for": [], "open_orders": 1, "positions": ["BTCUSDT 0.5"],
        }  # fmt: skip
        return httpx.Response(200, json={"mode": state, "rows": [{"account": "*", "state": state}], "accounts": [account]})


def run(played: Played, *arguments: str, waited: list[float] | None = None) -> int:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if waited is not None:
            waited.append(seconds)

    with httpx.Client(base_url="http://risk", transport=httpx.MockTransport(played)) as client:
        return command.run(command.parser().parse_args(arguments), client, lambda: now[0], sleep)


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADING_TOKEN", "secret")


def test_show_says_where_trading_stands_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Played("paused"), "show") == 0
    said = capsys.readouterr().out
    assert "platform: paused" in said
    assert "1 order(s) open, BTCUSDT 0.5" in said


@pytest.mark.parametrize(("what", "path"), [("pause", "/trading/pause"), ("start", "/trading/start"), ("safe-mode", "/trading/safe-mode")])
def test_a_change_is_asked_for_with_reason_and_token(what: str, path: str) -> None:
    played = Played()
    assert run(played, what, "--reason", "a test", "--account", "paper") == 0
    assert played.asked == [(path, {"account": "paper", "reason": "a test"}, "Bearer secret")]


def test_an_orderly_shutdown_looks_every_half_minute_until_nothing_is_left() -> None:
    """INC-12."""
    waited: list[float] = []
    played = Played("draining", "draining", "stopped")
    assert run(played, "shutdown", "--reason", "end_of_day", "--wait", waited=waited) == 0
    assert waited == [30.0, 30.0]
    assert played.asked[0][1] == {"account": "*", "reason": "end_of_day", "keep_positions": False}


def test_waiting_for_a_shutdown_is_bounded() -> None:
    waited: list[float] = []
    with pytest.raises(command.Stop, match="not ended within 70 s") as stopped:
        run(Played("draining"), "shutdown", "--reason", "end_of_day", "--wait", "--deadline", "70", waited=waited)
    assert (stopped.value.status, waited) == (1, [30.0, 30.0, 10.0])


@pytest.mark.parametrize(("status", "ends"), [(504, 1), (403, 3), (409, 3)])
def test_a_refusal_and_a_halt_not_obeyed_are_told_apart(status: int, ends: int) -> None:
    with pytest.raises(command.Stop, match="SOME_CODE: because") as stopped:
        run(Played(status=status, answer={"code": "SOME_CODE", "detail": "because"}), "pause", "--reason", "a test")
    assert stopped.value.status == ends


def test_without_a_token_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRADING_TOKEN")
    played = Played()
    with pytest.raises(command.Stop, match="TRADING_TOKEN"):
        run(played, "pause", "--reason", "a test")
    assert played.asked == []


@pytest.mark.parametrize(
    "arguments",
    [["pause"], ["pause", "--reason", "x"], ["show", "--reason", "a test"], ["pause", "--reason", "a test", "--wait"], ["dance"]],
)
def test_wrong_use_is_told(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr("sys.argv", ["trading_state.sh", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
