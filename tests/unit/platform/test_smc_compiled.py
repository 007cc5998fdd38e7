"""Machine code on hardened hosts: kept where it may be, made again where it may not, refused with the remedy where there can be none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trading_platform.smc.compiled import CACHE, cache_directory

ROOT = Path(__file__).parents[3]
PLACES = ("NUMBA_CACHE_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME")

# One indicator over three candles: enough to need compiled code.
GAP = (
    "from trading_platform.smc import Candles, fvg; "
    "print(len(fvg(Candles.of([1, 2, 4], [2, 5, 6], [1, 2, 4], [2, 5, 6], [1] * 3, [0, 1, 2]))))"
)

# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN): what MemoryDenyWriteExecute= means, asked of the kernel for this process alone.
DENY = "import ctypes, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0 or sys.exit(99); "


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in PLACES}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT / "platform"), **environment},
    )  # fmt: skip


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME"])
def test_compiled_code_is_kept_where_the_unit_says_and_for_its_user_alone(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    directory = cache_directory()
    assert directory is not None
    assert directory.parent == tmp_path / "cache" / "trading-smc"
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["", ".."])
def test_a_cache_that_others_can_write_is_not_run(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    directory = cache_directory()
    assert directory is not None
    (directory / place).chmod(0o777)
    assert cache_directory() is None
    assert "has mode 777" in caplog.text


def test_a_cache_that_cannot_be_written_is_said_and_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = python("import logging; logging.basicConfig(); " + GAP, NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert done.stdout == "1\n", done.stderr
    assert "every start compiles them again; set NUMBA_CACHE_DIR" in done.stderr


def test_a_process_that_may_not_make_memory_executable_is_told_what_to_change(tmp_path: Path) -> None:
    done = python(DENY + GAP, NUMBA_CACHE_DIR=str(tmp_path))
    if done.returncode == 99:
        pytest.skip("this kernel knows no PR_SET_MDWE")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: numba cannot make machine code")
    assert "MemoryDenyWriteExecute=no" in done.stderr


def test_everything_can_be_compiled_ahead_and_then_nothing_is_compiled_any_more(tmp_path: Path) -> None:
    assert CACHE is not None
    place = {"NUMBA_CACHE_DIR": str(CACHE.parents[1])}  # where the other tests' code is, so that it is compiled once
    ahead = "import runpy; runpy.run_module('trading_platform.smc', run_name='__main__')"
    done = python(ahead, **place)
    assert done.returncode == 0, done.stderr
    before = sorted(CACHE.rglob("*.nb?"))
    assert len(before) > 2 * 9
    use = (
        "import sys; sys.path[:0] = ['tests/unit']; from smc_candles import FORMS, parameters; from trading_platform.smc import Candles\n"
        "candles = Candles.of([1, 2], [1, 2], [1, 2], [1, 2], [1, 1], [0, 1])\n"
        "for name, (arrays, stream) in FORMS.items():\n"
        "    arrays(candles, **parameters(name)); stream(**parameters(name)).on_candle(1, 1, 1, 1, 1, 0)\n"
    )
    again = python(use, **place)
    assert again.returncode == 0, again.stderr
    assert sorted(CACHE.rglob("*.nb?")) == before
    (tmp_path / "file").touch()
    refused = python(ahead, NUMBA_CACHE_DIR=str(tmp_path / "file"))
    assert refused.returncode == 1
    assert "set NUMBA_CACHE_DIR" in refused.stderr
