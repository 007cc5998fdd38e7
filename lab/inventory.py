"""The lab's copy of an inventory: the repository's, with this lab's addresses and keys.

The vault of an earlier run is kept, because the running hosts hold the secrets in it.
"""

import secrets
from pathlib import Path

from lab import certificates, state
from lab.report import LabError
from lab.state import Lab

_WRITTEN_FOR = "10.213.0."
_VAULT = "vault.yml"


def source(topology: str) -> Path:
    """The inventory of the repository for a topology."""
    return state.REPO / "inventory" / f"lab_{topology}"


def write(lab: Lab) -> None:
    """Write inventory, ssh settings, pinned host keys and the vault's password."""
    certificates.ssh_key(lab.directory / "id_ed25519", f"lab {lab.name}")
    _write_known_hosts(lab)
    _write_ssh_config(lab)
    password = lab.directory / "vault-password"
    if not password.exists():
        state.write(password, secrets.token_urlsafe(32) + "\n", 0o600)
    _write_inventory(lab)


def _write_known_hosts(lab: Lab) -> None:
    lines = []
    for host in lab.hosts:
        public = certificates.ssh_key(host.directory / "ssh_host_ed25519_key", host.fqdn)
        lines.append(f"{host.address},{host.name},{host.fqdn} {' '.join(public.split()[:2])}\n")
    state.write(lab.directory / "known_hosts", "".join(lines))


def _write_ssh_config(lab: Lab) -> None:
    lines = []
    for host in lab.hosts:
        lines += [f"Host {host.name} {host.fqdn}", f"    HostName {host.address}", f"    HostKeyAlias {host.address}"]
    lines += [
        "Host *",
        "    User operator",
        f"    IdentityFile {lab.directory}/id_ed25519",
        "    IdentitiesOnly yes",
        f"    UserKnownHostsFile {lab.directory}/known_hosts",
        "    GlobalKnownHostsFile none",
        "    StrictHostKeyChecking yes",
        "    BatchMode yes",
        "    ConnectTimeout 5",
        "    LogLevel ERROR",
    ]
    state.write(lab.directory / "ssh_config", "\n".join(lines) + "\n")


def _write_inventory(lab: Lab) -> None:
    original = source(lab.topology)
    copy = lab.directory / "inventory"
    if not original.is_dir():
        if copy.is_dir():
            return
        copy.mkdir(parents=True)
        state.write(copy / "hosts.yml", _bare(lab))
        return
    written = {path.relative_to(original) for path in original.rglob("*") if path.is_file()}
    for relative in sorted(written):
        if relative.name == _VAULT and (copy / relative).exists():
            continue
        text = (original / relative).read_text()
        state.write(copy / relative, adapt(text, lab.network_prefix), 0o600 if relative.name == _VAULT else 0o644)
    for stale in [path for path in copy.rglob("*.yml") if path.is_file()]:
        if stale.relative_to(copy) not in written and stale.name != _VAULT:
            stale.unlink()


def adapt(text: str, network_prefix: str) -> str:
    """The text of an inventory file with this lab's addresses instead of the default lab's."""
    return text.replace(_WRITTEN_FOR, network_prefix)


def _bare(lab: Lab) -> str:
    """An inventory of hosts in no group, for a lab started before the repository has one for its topology."""
    lines = ["all:", "  vars:", "    ansible_user: operator"]
    lines.append('    ansible_ssh_private_key_file: "{{ inventory_dir }}/../id_ed25519"')
    lines.append('    ansible_ssh_common_args: "-o UserKnownHostsFile={{ inventory_dir }}/../known_hosts -o StrictHostKeyChecking=yes"')
    lines.append("  hosts:")
    for host in lab.hosts:
        lines += [f"    {host.name}:", f"      ansible_host: {host.address}"]
    return "\n".join(lines) + "\n"


def check(topology: str) -> None:
    """Raises LabError when the repository has nothing to converge the topology with."""
    for needed in (source(topology) / "hosts.yml", state.REPO / "ansible" / "site.yml"):
        if not needed.exists():
            raise LabError(f"{needed} is missing, so there is nothing to converge; bare hosts: bin/lab up --hosts-only")
