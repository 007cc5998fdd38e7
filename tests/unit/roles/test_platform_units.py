"""The units below systemd/: one per service, equally hardened, tied to no database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[3] / "systemd"
UNITS = sorted(SYSTEMD.glob("trading-*.service"))
# What may differ between services.
OWN = ("Description", "After", "ExecStart", "LoadCredentialEncrypted", "StateDirectory", "StateDirectoryMode", "SyslogIdentifier")
# What a unit that compiles indicators at run time has, or lacks.
COMPILES = (("MemoryDenyWriteExecute", "yes"), ("CacheDirectory", "trading-strategy"), ("CacheDirectoryMode", "0700"))


def settings(unit: Path) -> list[tuple[str, str]]:
    return re.findall(r"^([A-Z][A-Za-z]+)=(.*)$", unit.read_text(), re.M)


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_each_service_is_run_alike(unit: Path) -> None:
    def common(path: Path) -> list[tuple[str, str]]:
        return [setting for setting in settings(path) if setting[0] not in OWN and setting not in COMPILES]

    assert common(unit) == common(UNITS[0])


def test_only_what_compiles_indicators_may_make_memory_executable(unit: Path) -> None:
    assert (("MemoryDenyWriteExecute", "yes") not in settings(unit)) == (unit.stem == "trading-strategy")
    assert (("CacheDirectory", unit.stem) in settings(unit)) == (unit.stem == "trading-strategy")


def test_no_unit_is_bound_to_another_than_the_target(unit: Path) -> None:
    names = {name for name, _ in settings(unit)}
    assert not names & {"Requires", "Requisite", "BindsTo", "Wants", "Upholds"}
    assert ("PartOf", "trading-platform.target") in settings(unit)
    assert ("WantedBy", "trading-platform.target") in settings(unit)


def test_each_runs_its_own_package_from_the_active_release(unit: Path) -> None:
    package = unit.stem.removeprefix("trading-").replace("-", "_")
    assert ("ExecStart", f"/opt/trading-platform/venv/bin/python -m trading_platform.{package}") in settings(unit)


def test_it_never_gives_up_and_never_spins(unit: Path) -> None:
    found = dict(settings(unit))
    assert found["Restart"] == "always"
    assert found["StartLimitIntervalSec"] == "0"
    assert int(found["RestartSec"]) >= 1


def test_only_the_gateway_gets_the_key_that_signs() -> None:
    holders = [path.stem for path in UNITS if "jwt-private-key" in path.read_text()]
    assert holders == ["trading-gateway"]


def test_no_service_gets_the_migrators_or_the_administrators_password(unit: Path) -> None:
    assert not re.search("migrator|admin-password", unit.read_text())


def test_no_secret_travels_in_the_environment(unit: Path) -> None:
    assert not [value for name, value in settings(unit) if name == "Environment" and re.search("(?i)password|secret|key", value)]
