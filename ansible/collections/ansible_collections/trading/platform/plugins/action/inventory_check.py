"""Hands the inventory of this run to the rules and refuses it with everything they say.

Reads files and Ansible's merged variables on the control node; opens no connection, changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import become_loader, connection_loader, shell_loader

from ansible import constants

from ..plugin_utils import inventory_files, inventory_rules


class ActionModule(ActionBase):
    """trading.platform.inventory_check"""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "roles": {"type": "path", "required": True},
                "group_vars": {"type": "list", "elements": "path", "default": []},
            }
        )
        sources = [source for source in task_vars.get("ansible_inventory_sources") or [] if os.path.exists(source)]
        if not sources:
            return {**result, "failed": True, "msg": "No inventory. Type: ansible-playbook -i inventory/<yours> …"}
        problems = inventory_rules.check(self._inventory(sources, arguments, task_vars))
        result.update(changed=False, problems=[str(problem) for problem in problems])
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            lines = "\n".join(f"  {problem}" for problem in problems)
            result.update(
                failed=True, msg=f"The inventory has {count}; no host was touched.\n{lines}\nWhat each means: docs/operations/validate.md"
            )
        return result

    def _inventory(self, sources: list[str], arguments: Mapping, task_vars: Mapping) -> inventory_rules.Inventory:
        hostvars = task_vars["hostvars"]
        groups = {name: [str(h) for h in hosts] for name, hosts in task_vars["groups"].items()}
        first = sources[0] if os.path.isdir(sources[0]) else os.path.dirname(sources[0])
        roles, derived = role_variables(arguments["roles"]), set[str]()
        for path in arguments["group_vars"]:
            derived |= set(load(path))
        return inventory_rules.Inventory(
            name=inventory_files.near(first),
            files=inventory_files.read(sources, self._decrypt),
            groups=groups,
            hosts={host: _Host(hostvars, host) for host in groups.get("all", []) if host != "localhost"},
            roles=roles,
            ansible=ansible_variables(),
            derived=frozenset(derived),
        )

    def _decrypt(self, raw: bytes, path: str) -> bytes:
        secrets = getattr(self._loader, "_vault", None)
        vault = secrets if isinstance(secrets, VaultLib) else VaultLib()
        try:
            return vault.decrypt(raw)
        except AnsibleError as error:
            raise AnsibleError(
                f"{path}: cannot be decrypted: {error}. State the vault's password: --vault-password-file or ANSIBLE_VAULT_PASSWORD_FILE"
            ) from error


class _Host(Mapping[str, object]):
    """One host's variables; what cannot be templated yet (a secret that is not made, a fact) is not there."""

    def __init__(self, hostvars: Mapping, host: str) -> None:
        self._variables = hostvars[host]

    def __getitem__(self, name: str) -> object:
        try:
            return self._variables[name]
        except KeyError:
            raise
        except Exception as error:  # whatever a template may raise
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def load(path: str) -> dict:
    with open(path, encoding="utf-8") as source:
        return yaml.safe_load(source) or {}


def role_variables(directory: str) -> dict[str, inventory_rules.RoleVariable]:
    """Every variable that a role specifies, or at least has a default for."""
    found: dict[str, inventory_rules.RoleVariable] = {}
    for role in sorted(os.listdir(directory)):
        defaults = os.path.join(directory, role, "defaults", "main.yml")
        if os.path.exists(defaults):
            for name in load(defaults):
                found[name] = inventory_rules.RoleVariable(name, role, {})
        specification = os.path.join(directory, role, "meta", "argument_specs.yml")
        if os.path.exists(specification):
            for point in (load(specification).get("argument_specs") or {}).values():
                for name, spec in ((point or {}).get("options") or {}).items():
                    found[name] = inventory_rules.RoleVariable(name, role, spec)
    return found


def ansible_variables() -> frozenset[str]:
    """The variables by which Ansible itself is told how to connect, from its own documentation of them."""
    found = {name for names in constants.MAGIC_VARIABLE_MAPPING.values() for name in names}
    for kind, loader, plugins in (
        ("connection", connection_loader, ("ssh", "local")),
        ("become", become_loader, ("sudo", "su")),
        ("shell", shell_loader, ("sh",)),
    ):
        for plugin in plugins:
            loader.get(plugin, class_only=True)
            for definition in constants.config.get_configuration_definitions(kind, plugin).values():
                found |= {variable["name"] for variable in definition.get("vars", [])}
    for definition in constants.config.get_configuration_definitions().values():
        found |= {variable["name"] for variable in definition.get("vars", [])}
    return frozenset(found)
