"""trading.platform.host_facts: what is read from files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[3] / "ansible/collections/ansible_collections/trading/platform/plugins/modules/host_facts.py"

STATUS = """Package: ufw
Status: install ok installed
Architecture: all
Version: 0.36.2-1
Description: a firewall
 Version: of the description, not of the package

Package: removed
Status: deinstall ok config-files
Version: 1

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36
"""


@pytest.fixture(scope="module")
def host_facts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trading_platform_module_host_facts", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_installed_packages_only(host_facts: ModuleType) -> None:
    packages = host_facts.parse_dpkg_status(STATUS)
    assert sorted(packages) == ["libc6", "ufw"]
    assert packages["ufw"][0]["version"] == "0.36.2-1"


@pytest.mark.parametrize(
    ("status", "journal", "expected"),
    [
        (STATUS, [], False),
        (STATUS.replace("install ok installed", "install ok half-configured", 1), [], True),
        (STATUS.replace("install ok installed", "install reinstreq half-installed", 1), [], True),
        (STATUS, ["0000"], True),
        (STATUS, ["tmp.i"], False),
    ],
)
def test_interrupted_installation_is_seen(host_facts: ModuleType, status: str, journal: list[str], expected: bool) -> None:
    assert host_facts.half_installed(status, journal) is expected


def test_assignments_with_and_without_quotes(host_facts: ModuleType) -> None:
    assert host_facts.parse_assignments('ID=debian\nVERSION_ID="12"\n# X=1\n') == {"ID": "debian", "VERSION_ID": "12"}


def test_setting_that_this_kernel_has_not_is_neither_there_nor_writable(host_facts: ModuleType) -> None:
    found = host_facts.settings(["net.no.such.setting"])["net.no.such.setting"]
    assert found == {"exists": False, "value": "", "writable": False}


@pytest.mark.parametrize(("text", "expected"), [("ssh-ed25519 AAAA me\n", True), ("# none yet\n\n", False), ("", False)])
def test_user_with_a_key_is_told_from_one_without(host_facts, tmp_path, monkeypatch, text, expected) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "authorized_keys").write_text(text)
    monkeypatch.setattr(host_facts.pwd, "getpwnam", lambda _: type("Entry", (), {"pw_dir": str(tmp_path)}))
    assert host_facts.has_keys("operator") is expected
