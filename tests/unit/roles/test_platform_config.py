"""What the role platform renders: the services' configuration, judged by the services' own parser, and the unit wishes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.vars.manager import VariableManager
from plugins import prepared

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/platform"
SYSTEMD = ROOT / "systemd"


@pytest.fixture(scope="session", autouse=True)
def plugins() -> None:
    prepared()


def templar(inventory: str, host: str, **more: Any) -> Templar:
    """A templar with what the role sees on that host; undefined names are errors."""
    loader = DataLoader()
    loader.set_basedir(str(ROLE))
    inventories = InventoryManager(loader, sources=[str(ROOT / "inventory" / inventory)])
    variables = VariableManager(loader, inventories).get_vars(host=inventories.get_host(host))
    for source in (ROOT / "ansible/group_vars/all.yml", ROLE / "defaults/main.yml", ROLE / "vars/main.yml"):
        variables |= loader.load_from_file(str(source), unsafe=False, trusted_as_template=True)
    variables |= {
        "role_path": str(ROLE),
        "ansible_managed": "Written by Ansible",
        "ansible_check_mode": False,
        "ansible_playbook_python": "/venv/bin/python",
        "ansible_facts": {"memtotal_mb": 24000, "distribution_major_version": "12"},
        "ansible_search_path": [str(ROLE)],
        "__platform_build": {"stdout": json.dumps({"id": "1.0-a", "version": "1.0+a"})},
        "__platform_host": {"releases": [], "current": ""},
    }
    return Templar(loader, variables=variables | more)


def value(source: Templar, name: str) -> Any:
    return source.template(source.available_variables[name])


def rendered(source: Templar, template: str) -> str:
    return source.template(trust_as_template(f"{{{{ lookup('ansible.builtin.template', '{template}') }}}}"))


def parse_by_the_services(text: str, tmp_path: Path) -> dict[str, Any]:
    """The file as the services understand it."""
    path = tmp_path / "platform.yaml"
    path.write_text(text)
    done = subprocess.run(
        [ROOT / "platform/.venv/bin/python", "-c",
         "import sys; from trading_platform.config import load; print(load(sys.argv[1]).model_dump_json())", path],
        cwd=ROOT / "platform", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("inventory", "sentinels"), [("lab_single", 0), ("lab_ha", 3)])
def test_the_services_accept_what_is_rendered(inventory: str, sentinels: int, tmp_path: Path) -> None:
    settings = parse_by_the_services(rendered(templar(inventory, "lab1"), "platform.yaml.j2"), tmp_path)
    assert settings["host"] == "lab1"
    assert settings["database"]["host"] == "postgresql.trading.internal"
    assert settings["database"]["hostaddr"] == "127.0.0.1"
    assert len(settings["redis"]["sentinels"]) == sentinels
    assert settings["services"]["engine"] == {"host": "127.0.0.1", "port": 8010}
    assert all(settings[part]["tls_ca"] == "/etc/trading-tls/ca.pem" for part in ("database", "mongodb", "redis"))


def test_nothing_secret_is_in_the_file() -> None:
    secrets = {
        name: f"S3CRET-{name}"
        for name in yaml.safe_load((ROLE / "defaults/main.yml").read_text())
        if re.search("password|key$|secret", name)
    }
    assert len(secrets) == 8
    secrets["platform_venue_keys"] = {"binance-main": {"key": "S3CRET-key", "secret": "S3CRET-secret"}}
    assert "S3CRET" not in rendered(templar("lab_single", "lab1", **secrets), "platform.yaml.j2")


@pytest.mark.parametrize(
    ("switch", "confirmed", "live"),
    [(False, "", False), (False, "trading.lab.test", False), (True, "", False), (True, "yes", False), (True, "trading.lab.test", True)],
)
def test_live_trading_needs_both_switches(switch: bool, confirmed: str, live: bool) -> None:
    source = templar("lab_single", "lab1", trading_live_trading=switch, trading_live_trading_confirmed=confirmed)
    assert value(source, "_platform_config")["live_trading"]["enabled"] is live


@pytest.mark.parametrize(("memory", "service"), [(4000, 512), (24000, 1200), (512_000, 4096)])
def test_memory_of_a_service_follows_the_hosts_within_bounds(memory: int, service: int) -> None:
    source = templar("lab_single", "lab1", ansible_facts={"memtotal_mb": memory, "distribution_major_version": "12"})
    assert f"MemoryMax={service}M" in rendered(source, "host.conf.j2")


def test_backoff_is_written_only_where_systemd_knows_it() -> None:
    old = rendered(templar("lab_single", "lab1"), "host.conf.j2")
    new = rendered(templar("lab_single", "lab1", ansible_facts={"memtotal_mb": 24000, "distribution_major_version": "13"}), "host.conf.j2")
    assert "RestartSteps" not in old
    assert "RestartSteps=6" in new
    assert "IPAddressAllow=10.213.0.0/24" in new


def test_each_unit_restarts_for_exactly_the_credentials_it_loads() -> None:
    for wish in value(templar("lab_single", "lab1"), "_platform_wishes"):
        if wish["name"].endswith(".target"):
            continue
        unit = (SYSTEMD / f"{wish['name']}.service").read_text()
        loaded = set(re.findall(r"^LoadCredentialEncrypted=[^:]+:(.+)$", unit, re.M))
        assert loaded == {path for path in wish["restarted_by"] if path.startswith("/etc/credstore.encrypted/")}, wish["name"]


def secrets_of_the_vault() -> dict[str, str]:
    return dict.fromkeys(re.findall(r"\bvault_\w+", (ROLE / "defaults/main.yml").read_text()), "from-the-vault")


def test_every_credential_that_a_unit_loads_is_written() -> None:
    written = set(value(templar("lab_single", "lab1", **secrets_of_the_vault()), "_platform_credentials"))
    for unit in SYSTEMD.glob("trading-*.service"):
        for name, path in re.findall(r"^LoadCredentialEncrypted=([^:]+):(.+)$", unit.read_text(), re.M):
            assert name in written
            assert path == f"/etc/credstore.encrypted/trading/{name}"


def test_keys_of_a_real_venue_reach_the_services_that_speak_to_it_and_no_other() -> None:
    keys = {"binance-main": {"key": "K", "secret": "S"}}
    source = templar("lab_single", "lab1", platform_venue_keys=keys, **secrets_of_the_vault())
    assert json.loads(value(source, "_platform_credentials")["venue-binance-main"]) == keys["binance-main"]
    drop_ins = {file["path"]: file for file in value(source, "_platform_venue_files") if file.get("content")}
    assert sorted(path.split("/")[-2] for path in drop_ins) == ["trading-engine.service.d", "trading-risk.service.d"]
    assert all("LoadCredentialEncrypted=venue-binance-main:" in file["content"] for file in drop_ins.values())
    assert all(file["state"] == "absent" for file in value(templar("lab_single", "lab1"), "_platform_venue_files"))


def test_every_service_of_the_contract_has_a_unit_and_every_unit_a_service() -> None:
    services = yaml.safe_load((ROOT / "ansible/group_vars/all.yml").read_text())["trading_services"]
    assert {f"trading-{name}.service" for name in services} == {path.name for path in SYSTEMD.glob("trading-*.service")}


def test_arguments_are_specified_as_they_default() -> None:
    for role in ("platform", "health"):
        defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())
        options = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
        assert {name: option.get("default") for name, option in options.items()} == defaults
