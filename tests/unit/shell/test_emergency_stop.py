"""emergency_stop.sh: what it refuses, what it runs and how, and what it does when it cannot run anything."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "platform/bin/emergency_stop.sh"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[list[str]]]:
    """What systemd-run was called with, one list a call."""

    def read() -> list[list[str]]:
        file = tmp_path / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return read


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the script with a systemd-run that notes its arguments and ends with `status` (its next calls with `then`)."""
    fake = tmp_path / "systemd-run"
    fake.write_text(
        "#!/usr/bin/env python3\n"
        "import json, os, sys\n"
        f"file = {str(tmp_path / 'calls')!r}\n"
        "again = os.path.exists(file)\n"
        "print(json.dumps(sys.argv[1:]), file=open(file, 'a'))\n"
        "sys.exit(int(os.environ['THEN' if again else 'STATUS']))\n"
    )
    fake.chmod(0o755)
    store = tmp_path / "credstore"
    store.mkdir()

    def start(
        *arguments: str, status: int = 0, then: int = 0, credentials: tuple[str, ...] = (), stdin: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        for name in credentials:
            (store / name).write_text("sealed")
        environment = {
            "PATH": os.environ["PATH"], "TRADING_SYSTEMD_RUN": str(fake), "TRADING_CREDSTORE": str(store),
            "TRADING_HALT_LATCH": str(tmp_path / "halt"), "STATUS": str(status), "THEN": str(then), "SUDO_USER": "alice",
        }  # fmt: skip
        return subprocess.run(
            [SCRIPT, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
            stdin=stdin or subprocess.DEVNULL,
        )

    return start


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--reason TEXT is needed"),
        (["--reason"], "--reason needs a value"),
        (["--reason", "x", "--yes"], "--reason TEXT is needed"),
        (["--reason=" + "x" * 501, "--yes"], "--reason TEXT is needed"),
        (["--reason", "a test", "--deadline", "0", "--yes"], "--deadline takes whole seconds from 1 to 900"),
        (["--reason", "a test", "--deadline", "soon", "--yes"], "--deadline takes whole seconds from 1 to 900"),
        (["--reason", "a test", "--account", "A B", "--yes"], "is not an account's id"),
        (["--reason", "a test", "--release", "--yes"], "unknown argument: --release"),
        (["--clear-latch", "--flatten"], "--clear-latch stands alone"),
        (["--clear-latch", "--reason", "a test"], "--clear-latch stands alone"),
        (["--reason", "a test"], "say --yes"),
    ],
)
def test_wrong_use_is_told_and_runs_nothing(run: Run, calls: Callable[[], list[list[str]]], arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert (done.returncode, calls()) == (2, [])
    assert says in done.stderr


def test_help_explains_and_runs_nothing(run: Run, calls: Callable[[], list[list[str]]]) -> None:
    done = run("--help")
    assert (done.returncode, calls()) == (0, [])
    assert "--clear-latch" in done.stdout


def test_it_runs_the_releases_program_under_the_platforms_user(run: Run, calls: Callable[[], list[list[str]]]) -> None:
    """INC-07."""
    assert run("--reason", "a runaway; strategy", "--flatten", "--account=paper", "--json", "--deadline", "20", "--yes").returncode == 0
    [call] = calls()
    assert {"--wait", "--pipe", "--collect", "--uid=trading", "--property=StateDirectoryMode=0750", "--property=RuntimeMaxSec=80"} <= set(
        call
    )
    assert "--setenv=TRADING_OPERATOR=alice" in call
    program = call[call.index("--") + 1 :]
    assert program[0].endswith("/venv/bin/python")
    assert program[1:] == [
        "-m", "trading_platform.emergency", "--reason=a runaway; strategy", "--flatten", "--account=paper", "--json", "--deadline=20"
    ]  # fmt: skip


def test_it_takes_the_credentials_this_host_has_and_no_others(run: Run, calls: Callable[[], list[list[str]]]) -> None:
    run("--reason", "a test", "--yes", credentials=("postgresql-app-password", "venue-binance-main", "mongodb-app-password"))
    [call] = calls()
    names = [word.removeprefix("--property=LoadCredentialEncrypted=").split(":")[0] for word in call if "LoadCredentialEncrypted" in word]
    assert names == ["postgresql-app-password", "venue-binance-main"]


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_the_programs_verdict_is_the_scripts(run: Run, status: int) -> None:
    assert run("--reason", "a test", "--yes", status=status).returncode == status


def test_a_credential_that_cannot_be_decrypted_does_not_end_it(run: Run, calls: Callable[[], list[list[str]]]) -> None:
    done = run("--reason", "a test", "--yes", status=243, then=3, credentials=("venue-binance-main",))
    assert done.returncode == 3
    assert [sum("LoadCredentialEncrypted" in word for word in call) for call in calls()] == [1, 0]


def test_where_nothing_can_be_run_it_lays_the_latch_itself(run: Run, tmp_path: Path) -> None:
    done = run("--reason", "a test", "--yes", status=127)
    assert done.returncode == 3
    assert "still open" in done.stderr
    assert json.loads((tmp_path / "halt").read_text())["by"].startswith("host:")


def test_clearing_the_latch_asks_nobody_and_lays_none(run: Run, calls: Callable[[], list[list[str]]], tmp_path: Path) -> None:
    assert run("--clear-latch", status=127).returncode == 3
    assert calls()[0][-1] == "--clear-latch"
    assert not (tmp_path / "halt").exists()


@pytest.mark.parametrize(("said", "runs"), [("STOP\n", 1), ("yes\n", 0)])
def test_at_a_terminal_it_asks_first(run: Run, calls: Callable[[], list[list[str]]], said: str, runs: int) -> None:
    controller, terminal = pty.openpty()
    try:
        os.write(controller, said.encode())
        done = run("--reason", "a test", stdin=terminal)
    finally:
        os.close(terminal)
        os.close(controller)
    assert len(calls()) == runs
    assert done.returncode == (0 if runs else 2)
