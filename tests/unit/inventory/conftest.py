"""A good inventory in a directory, to be spoilt by one mistake at a time."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from plugins import prepared

ROOT = Path(__file__).parents[3]
PLUGINS = "ansible_collections.trading.platform.plugins"
GROUPS = ("etcd", "postgresql", "mongodb", "redis", "platform", "edge")
KEY = "s7Jq2Lx9-VwR4tZ8m"
VAULT = {"vault_redis_app_password": f"{KEY}aB", "vault_mongodb_app_password": f"{KEY}cD"}


@pytest.fixture(scope="session")
def rules() -> ModuleType:
    prepared()
    return importlib.import_module(f"{PLUGINS}.plugin_utils.inventory_rules")


@pytest.fixture(scope="session")
def files() -> ModuleType:
    prepared()
    return importlib.import_module(f"{PLUGINS}.plugin_utils.inventory_files")


class Inventory:
    """Files of an inventory; `check` says what the rules refuse."""

    def __init__(self, root: Path, rules: ModuleType, files: ModuleType) -> None:
        self.root, self.rules, self.files = root, rules, files
        self.hosts: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, list[str]] = {}
        self.spread(3)
        self.variables: dict[str, Any] = {
            "trading_environment": "staging",
            "trading_domain": "trading.company.test",
            "trading_internal_domain": "trading.internal",
            "trading_internal_network": "10.1.0.0/24",
            "trading_admin_networks": ["10.9.0.0/24"],
            "trading_hardware_tier": "minimum",
            "trading_live_trading": False,
            "certbot_email": "operator@company.test",
        }
        self.vault: dict[str, Any] | None = dict(VAULT)
        self.encrypted = True
        self.more: dict[str, str] = {}

    def spread(self, count: int) -> None:
        """So many hosts, each in every group."""
        self.hosts = {f"host{n}": {"ansible_host": f"10.1.0.{n}", "internal_address": f"10.1.0.{n}"} for n in range(1, count + 1)}
        self.groups = {group: list(self.hosts) for group in GROUPS}

    def write(self) -> None:
        children = {group: {"hosts": dict.fromkeys(hosts)} for group, hosts in self.groups.items()}
        self._put("hosts.yml", yaml.safe_dump({"all": {"hosts": self.hosts, "children": children}}, sort_keys=False))
        self._put("group_vars/all/main.yml", yaml.safe_dump(self.variables, sort_keys=False))
        for path, text in self.more.items():
            self._put(path, text)

    def _put(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def check(self) -> list[str]:
        """Every problem, as an operator reads it."""
        self.write()
        loader = DataLoader()
        merged = InventoryManager(loader, sources=[str(self.root)])
        manager = VariableManager(loader, merged)
        hosts = {h.name: Merged(manager.get_vars(host=h)) for h in merged.get_hosts()}
        if self.vault is not None:
            # Ansible would need the password; the rules see the decrypted text.
            text = yaml.safe_dump(self.vault, sort_keys=False)
            self._put("group_vars/all/vault.yml", ("$ANSIBLE_VAULT;1.1;AES256\n" if self.encrypted else "") + text)

        def decrypt(raw: bytes, _: str) -> bytes:
            return raw.split(b"\n", 1)[1]

        known = {
            "certbot_email": {"type": "str", "required": True},
            "certbot_acme_ca_file": {"type": "str"},
            "nginx_requests_per_second": {"type": "int"},
            "nginx_inside_networks": {"type": "list", "elements": "str"},
            "redis_app_password": {"type": "str"},
            "redis_maxmemory_mb": {"type": "int"},
            "mongodb_cache_mb": {"type": "int"},
            "certbot_key_type": {"type": "str", "choices": ["ecdsa", "rsa"]},
        }
        inventory = self.rules.Inventory(
            name="inventory/test",
            files=self.files.read([str(self.root)], decrypt, lambda path: str(Path(path).relative_to(self.root))),
            groups={name: [h.name for h in group.get_hosts()] for name, group in merged.groups.items()},
            hosts=hosts,
            roles={name: self.rules.RoleVariable(name, name.split("_")[0], spec) for name, spec in known.items()},
            ansible=frozenset({"ansible_host", "ansible_user", "ansible_port", "ansible_ssh_private_key_file", "ansible_password"}),
            derived=frozenset({"trading_ports"}),
        )
        return [str(problem) for problem in self.rules.check(inventory)]


class Merged(dict[str, Any]):
    """Merged variables; what still is a template counts as not known yet."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        super().__init__({k: v for k, v in variables.items() if not (isinstance(v, str) and "{{" in v)})


@pytest.fixture
def inventory(tmp_path: Path, rules: ModuleType, files: ModuleType) -> Inventory:
    return Inventory(tmp_path / "inventory", rules, files)
