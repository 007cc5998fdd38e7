"""health_check.sh against fake probes: what it prints, how it aggregates, and that nothing holds it up."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

BIN = Path(__file__).parents[3] / "platform/bin"
HEALTH_CHECK = BIN / "health_check.sh"

Probe = Callable[[str, str], Path]
Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "health.d"
    made.mkdir()
    return made


@pytest.fixture
def probe(directory: Path) -> Probe:
    """Writes one probe: a body of shell with `report` at hand."""

    def write(name: str, body: str) -> Path:
        path = directory / name
        path.write_text(f"#!/usr/bin/env bash\n. {BIN}/probe.sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def check(directory: Path) -> Check:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "TRADING_HEALTH_DIRECTORY": str(directory), **variables}
        return subprocess.run([HEALTH_CHECK, *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False)

    return run


def parts(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {part["part"]: part["status"] for part in json.loads(done.stdout)["parts"]}


@pytest.mark.parametrize(
    ("statuses", "verdict", "code"),
    [
        (["ok"], "healthy", 0),
        (["ok", "warn"], "degraded", 1),
        (["ok", "warn", "down"], "down", 2),
        (["ok", "warn", "unknown"], "unknown", 3),
        (["down", "unknown", "warn", "ok"], "down", 2),
    ],
)
def test_the_worst_part_decides_and_down_beats_unknown_beats_degraded(
    probe: Probe, check: Check, statuses: list[str], verdict: str, code: int
) -> None:
    for status in statuses:
        probe(f"10-{status}", f"report {status} 'part {status}' detail 'look'")
    done = check("--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (code, verdict)


def test_the_worst_comes_first_and_names_the_command(probe: Probe, check: Check) -> None:
    probe("10-a", "report ok alpha fine 'status alpha'; report warn beta slow 'status beta'")
    probe("20-b", "report down gamma gone 'status gamma'")
    done = check()
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("down", "warn", "ok"))] == ["gamma", "beta", "alpha"]
    assert "look closer: status gamma" in done.stdout
    assert "look closer: status alpha" not in done.stdout
    assert done.stdout.splitlines()[-1].endswith("down (1 down, 0 unknown, 1 degraded, 1 ok)")


def test_json_is_valid_whatever_a_probe_says(probe: Probe, check: Check) -> None:
    probe("10-odd", r"""report warn 'a "quoted" part' $'back\\slash, tab\t, newline\n, bell\a, snowman ☃' 'x | y'""")
    probe("20-raw", r"printf 'ok\tbytes \xff\xfe\tdetail\tcommand\n'")
    document = json.loads(check("--json").stdout)
    assert set(document) == {"status", "host", "checked_at", "parts"}
    odd = document["parts"][0]
    assert set(odd) == {"part", "status", "detail", "command", "seconds"}
    assert odd["part"] == 'a "quoted" part'
    assert "back\\slash, tab , newline , bell , snowman ☃" in odd["detail"]
    assert isinstance(odd["seconds"], float)


def test_an_empty_command_does_not_shift_the_fields(probe: Probe, check: Check) -> None:
    probe("10-short", "report warn part detail")
    assert json.loads(check("--json").stdout)["parts"][0] | {"seconds": 0} == {
        "part": "part", "status": "warn", "detail": "detail", "command": "", "seconds": 0,
    }  # fmt: skip


def test_a_probe_that_hangs_is_unknown_by_name_and_keeps_what_it_said(probe: Probe, check: Check) -> None:
    probe("10-hangs", "report ok 'said before' fine; sleep 40")
    probe("20-quick", "report ok quick fine")
    done = check("--json", "--timeout", "1")
    assert done.returncode == 3
    assert parts(done) == {"10-hangs": "unknown", "said before": "ok", "quick": "ok"}
    assert "did not finish in 1 s" in done.stdout


def test_a_probe_that_ignores_the_polite_signal_is_killed(probe: Probe, check: Check) -> None:
    probe("10-stubborn", "trap '' TERM; while :; do sleep 1; done")
    done = check("--json", "--timeout", "1")
    assert parts(done) == {"10-stubborn": "unknown"}
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 7", "failed with exit status 7"),
        ("echo the cause >&2; exit 1", "the cause"),
        (":", "reported nothing"),
        ("echo hello", "no report: hello"),
        ("report fine part detail", "status is ok, warn, down or unknown"),
        ("report ok", "expected STATUS PART DETAIL"),
    ],
)
def test_a_broken_probe_is_unknown_and_says_why(probe: Probe, check: Check, body: str, words: str) -> None:
    probe("10-broken", body)
    done = check("--json")
    assert done.returncode == 3
    assert words in json.loads(done.stdout)["parts"][0]["detail"]


def test_what_a_probe_reported_before_it_crashed_still_counts(probe: Probe, check: Check) -> None:
    probe("10-crash", "report down database gone; exit 1")
    done = check("--json")
    assert done.returncode == 2
    assert parts(done) == {"database": "down", "10-crash": "unknown"}


def test_a_flood_of_output_is_cut(probe: Probe, check: Check) -> None:
    probe("10-flood", 'yes "$(report ok part detail)" | head -n 100000')
    done = check("--json")
    assert len(json.loads(done.stdout)["parts"]) == 200


def test_no_probes_is_cannot_tell(check: Check, directory: Path) -> None:
    done = check()
    assert done.returncode == 3
    assert f"no probes in {directory}" in done.stderr


def test_files_that_cannot_be_run_are_no_probes(check: Check, directory: Path) -> None:
    (directory / "README").write_text("not a probe")
    assert check().returncode == 3


def test_only_runs_the_probes_that_are_named_so(probe: Probe, check: Check) -> None:
    probe("10-redis", "report ok redis fine")
    probe("20-postgresql", "report down postgresql gone")
    assert parts(check("--json", "--only", "redis")) == {"redis": "ok"}
    nothing = check("--json", "--only", "mongodb")
    assert (nothing.returncode, json.loads(nothing.stdout)["status"]) == (3, "unknown")


def test_quiet_says_nothing_when_all_is_well_and_only_the_bad_otherwise(probe: Probe, check: Check) -> None:
    probe("10-good", "report ok alpha fine")
    assert check("--quiet").stdout == ""
    probe("20-bad", "report warn beta slow")
    noisy = check("--quiet").stdout
    assert "beta" in noisy
    assert "alpha" not in noisy


def test_no_colour_unless_on_a_terminal(probe: Probe, check: Check) -> None:
    probe("10-bad", "report down part gone")
    assert "\x1b" not in check(TERM="xterm").stdout


def test_colour_on_a_terminal(probe: Probe, directory: Path) -> None:
    probe("10-bad", "report down part gone")
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", str(HEALTH_CHECK), "/dev/null"],
        capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "TRADING_HEALTH_DIRECTORY": str(directory)},
    )  # fmt: skip
    assert "\x1b[1;31mdown" in done.stdout


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--timeout", "0"], ["--timeout", "x"], ["--timeout"], ["--only"]])
def test_wrong_use_is_cannot_tell_never_healthy(probe: Probe, check: Check, arguments: list[str]) -> None:
    probe("10-good", "report ok part fine")
    done = check(*arguments)
    assert done.returncode == 3
    assert "Try: health_check.sh --help" in done.stderr


def test_help_needs_neither_root_nor_probes(check: Check) -> None:
    done = check("--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose")
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_root_runs_no_probe_that_others_may_write(probe: Probe, check: Check, mode: int, tmp_path: Path) -> None:
    probe("10-loose", f"touch {tmp_path}/ran; report ok part fine").chmod(mode)
    done = check("--json")
    assert parts(done) == {"10-loose": "unknown"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_without_root_and_sudo_it_says_who_may() -> None:
    with open(HEALTH_CHECK, encoding="utf-8") as script:  # the tree may be unreadable for others
        done = subprocess.run(
            ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/bin/bash", "-s", "--", "--json"],
            stdin=script, capture_output=True, text=True, env={}, timeout=30, check=False,
        )  # fmt: skip
    document = json.loads(done.stdout)
    assert (done.returncode, document["status"]) == (3, "unknown")
    assert "trading-operators" in document["parts"][0]["detail"]


def test_it_leaves_no_files_behind(probe: Probe, check: Check) -> None:
    probe("10-good", "report ok part fine")
    check()
    assert not [path for place in ("/run", "/dev/shm") for path in Path(place).glob("health-check.*")]
