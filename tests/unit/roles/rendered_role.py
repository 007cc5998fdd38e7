"""Renders a role's files as Ansible does, without a host; an undefined name is an error.

Variables come from where they come in a run, in that order: the role's defaults, the derived group_vars, a real
inventory, the role's vars, what the test states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.vars.manager import VariableManager
from plugins import prepared

ROOT = Path(__file__).parents[3]
BOOKWORM = {"distribution_major_version": "12", "packages": {}}
TRIXIE = {"distribution_major_version": "13", "packages": {}}


class RenderedRole:
    """One role on one host of one inventory."""

    def __init__(self, role: str, inventory: str = "lab_ha", host: str = "lab1", **stated: Any) -> None:
        prepared()
        directory = ROOT / "roles" / role
        loader = DataLoader()
        loader.set_basedir(str(directory))
        hosts = InventoryManager(loader, sources=[str(ROOT / "inventory" / inventory)])
        manager = VariableManager(loader, hosts)
        everybody = {h.name: manager.get_vars(host=h) for h in hosts.get_hosts()}

        def file(path: Path) -> dict[str, Any]:
            return loader.load_from_file(str(path), unsafe=False, trusted_as_template=True) or {}

        variables = file(directory / "defaults/main.yml") | file(ROOT / "ansible/group_vars/all.yml")
        variables |= everybody[host] | file(directory / "vars/main.yml") | {"hostvars": everybody}
        stated.setdefault("ansible_facts", BOOKWORM)
        self.variables = variables | {"role_path": str(directory)} | stated
        self.directory = directory
        self.templar = Templar(loader, variables=self.variables)

    def value(self, expression: str) -> Any:
        """An expression's value: `value("nginx_server_names")`."""
        return self.templar.template(trust_as_template("{{ " + expression + " }}"))

    def template(self, path: Path) -> str:
        """A template file, as the role's task renders it."""
        return str(self.value(f"lookup('ansible.builtin.template', '{path}')"))
