"""ansible/validate.yml as an operator runs it, on the inventories that we ship."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Not what the caller's shell says about some other inventory.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}


def validate(inventory: Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, ROOT / "ansible/validate.yml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**ENVIRONMENT, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **environment},
    )


def problems(output: str) -> set[str]:
    return set(re.findall(r"^ {2,}(\S+:\d+: .*)$", output, re.M))


@pytest.mark.parametrize("name", ["lab_single", "lab_ha"])
def test_the_labs_are_accepted(name: str) -> None:
    done = validate(ROOT / "inventory" / name)
    assert done.returncode == 0, done.stdout


def test_the_example_is_refused_for_its_placeholders_only() -> None:
    done = validate(ROOT / "inventory/production.example")
    assert done.returncode != 0
    found = problems(done.stdout)
    assert [line for line in found if not line.endswith("is a placeholder. Put your own value there")] == []
    variables = {line.split(": ")[1] for line in found}
    assert variables == {"ansible_host", "trading_domain", "certbot_email"}


def test_the_example_is_accepted_once_they_are_replaced(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "inventory/production.example", tmp_path / "production")
    for path in (tmp_path / "production").rglob("*.yml"):
        path.write_text(path.read_text().replace("example.com", "company.test").replace("192.0.2.", "10.30.0."))
    done = validate(tmp_path / "production")
    assert done.returncode == 0, done.stdout


def test_it_refuses_a_vault_in_plain_text_and_shows_nothing_of_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "inventory/lab_single", tmp_path / "lab")
    (tmp_path / "lab/group_vars/all/vault.yml").write_text("vault_redis_app_password: hunter2\n")
    done = validate(tmp_path / "lab")
    assert done.returncode != 0
    assert "is not encrypted" in done.stdout
    assert "fewer than 16" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_it_reads_an_encrypted_vault(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "inventory/lab_single", tmp_path / "lab")
    vault, password = tmp_path / "lab/group_vars/all/vault.yml", tmp_path / "password"
    vault.write_text("vault_redis_app_password: hunter2\n")
    password.write_text("the lab's own word\n")
    environment = {"ANSIBLE_VAULT_PASSWORD_FILE": str(password)}
    encrypt = [Path(sys.executable).with_name("ansible-vault"), "encrypt", vault]
    subprocess.run(encrypt, check=True, capture_output=True, env={**ENVIRONMENT, **environment})
    done = validate(tmp_path / "lab", **environment)
    assert "vault.yml:1: vault_redis_app_password: has 7 characters" in done.stdout
    assert "not encrypted" not in done.stdout
    assert "hunter2" not in done.stdout
