"""Every role is built alike: the same phases, the same names, arguments that are specified, defaulted and explained."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PHASES = ["preflight", "install", "configure", "service", "verify"]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())


class Loader(yaml.SafeLoader):
    """Safe YAML that passes over Ansible's own tags."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: getattr(node, "value", None))


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=Loader) if path.exists() else None


def tasks_of(role: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every task of a role, those within blocks included."""

    def flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in tasks or []:
            yield task
            for part in ("block", "rescue", "always"):
                yield from flat(task.get(part, []))

    for path in sorted((ROOT / "roles" / role / "tasks").glob("*.yml")):
        for task in flat(load(path)):
            yield path, task


def specified(role: str) -> dict[str, dict[str, Any]]:
    specs = load(ROOT / "roles" / role / "meta/argument_specs.yml") or {}
    return ((specs.get("argument_specs") or {}).get("main") or {}).get("options") or {}


def defaults(role: str) -> dict[str, Any]:
    return load(ROOT / "roles" / role / "defaults/main.yml") or {}


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return request.param


def test_main_imports_the_five_phases_in_order_with_their_tags(role: str) -> None:
    tasks = load(ROOT / "roles" / role / "tasks/main.yml")
    imported = [task.get("ansible.builtin.import_tasks") for task in tasks]
    assert imported == [f"{phase}.yml" for phase in PHASES]
    for phase, task in zip(PHASES, tasks, strict=True):
        assert {phase, role} <= set(task["tags"])


def test_there_are_no_handlers(role: str) -> None:
    assert not (ROOT / "roles" / role / "handlers").exists()
    assert not [str(path) for path, task in tasks_of(role) if "notify" in task or "listen" in task]


def test_no_error_is_swallowed(role: str) -> None:
    swallowed = [
        f"{path.name}: {task.get('name')}"
        for path, task in tasks_of(role)
        if task.get("ignore_errors") or task.get("ignore_unreachable") or task.get("failed_when") is False
    ]
    assert not swallowed


def test_arguments_are_specified_and_defaults_are_what_the_specification_says(role: str) -> None:
    options, stated = specified(role), defaults(role)
    assert (ROOT / "roles" / role / "meta/argument_specs.yml").exists()
    assert set(stated) <= set(options), "defaults that are not specified"
    for name, option in options.items():
        assert option.get("description"), name
        if name in stated:
            assert not option.get("required"), f"{name} is required and has a default"
            assert flat(option.get("default", stated[name])) == flat(stated[name]), name
        else:
            assert "default" not in option, f"{name}: the specification states a default that defaults/main.yml has not"


def flat(value: object) -> object:
    """A text without the line breaks of its notation."""
    return " ".join(value.split()) if isinstance(value, str) else value


def test_names_say_whose_they_are(role: str) -> None:
    prefix = role.replace("-", "_")
    assert [name for name in defaults(role) if not name.startswith(f"{prefix}_")] == []
    assert [name for name in load(ROOT / "roles" / role / "vars/main.yml") or {} if not name.startswith(f"_{prefix}_")] == []
    registered = [task["register"] for _, task in tasks_of(role) if "register" in task]
    assert [name for name in registered if not name.startswith(f"__{prefix}_")] == []


def test_the_readme_explains_every_variable(role: str) -> None:
    readme = ROOT / "roles" / role / "README.md"
    assert readme.exists()
    text = readme.read_text()
    assert [name for name in specified(role) if not re.search(rf"\b{name}\b", text)] == []


def test_secrets_stay_out_of_the_output(role: str) -> None:
    """A task that names a secret of the vault is silent."""
    loud = [
        f"{path.name}: {task.get('name')}"
        for path, task in tasks_of(role)
        if re.search(
            r"\bvault_\w+|(?<!update)_password\b|_private_key\b", str({k: v for k, v in task.items() if k not in ("name", "block", "when")})
        )
        and not task.get("no_log")
        and not {"block", "ansible.builtin.assert", "ansible.builtin.import_tasks", "ansible.builtin.include_tasks"} & set(task)
    ]
    assert not loud


def test_its_probes_can_be_run(role: str) -> None:
    probes = list((ROOT / "roles" / role / "files").glob("[0-9][0-9]-*"))
    for probe in probes:
        text = probe.read_text()
        assert text.startswith("#!"), probe.name
        assert "/usr/local/lib/trading-platform/probe.sh" in text or "python" in text.splitlines()[0] or probe.name.startswith("50-edge")


def test_readme_says_what_the_arguments_say(role: str) -> None:
    tables = runpy.run_path(str(ROOT / "tests/static/role_tables.py"))
    text = (ROOT / "roles" / role / "README.md").read_text()
    wanted = tables["written"](text, specified(role)) if specified(role) else text
    assert text == wanted, f"run: .venv/bin/python tests/static/role_tables.py {role}"
