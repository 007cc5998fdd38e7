"""What the role host decides and renders: on a machine of its own, in a container, and on too little hardware."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rendered_role import ROOT, RenderedRole

KEYS = ["net.core.rmem_max", "net.core.somaxconn", "net.ipv4.tcp_rmem", "vm.overcommit_memory"]


def host(container: str = "", may_set_clock: bool = True, writable: bool = True, **values: str) -> dict[str, Any]:
    """Facts as host_facts measures them; `values` are current kernel settings (dots as __)."""
    current = {key.replace("__", "."): value for key, value in values.items()}
    return {
        "packages": {},
        "trading_host": {
            "container": container,
            "may_set_clock": may_set_clock,
            "users": {},
            "sysctl": {
                key: {"exists": True, "writable": writable or key.startswith("net.ipv4"), "value": current.get(key, "0")} for key in KEYS
            },
        },
    }


def rendered(name: str, **stated: Any) -> str:
    stated.setdefault("ansible_facts", host())
    return RenderedRole("host", **stated).template(ROOT / f"roles/host/templates/{name}.j2")


def test_kernel_settings_are_those_of_the_requirements() -> None:
    text = rendered("sysctl")
    assert "net.core.rmem_max = 134217728" in text
    assert "vm.overcommit_memory = 1" in text


def test_settings_of_the_outer_kernel_are_named_and_not_set() -> None:
    text = rendered("sysctl", ansible_facts=host(container="systemd-nspawn", writable=False))
    active = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert active == ["net.ipv4.tcp_rmem = 4096 131072 134217728"]
    assert re.search(r"^# Not this host's to set .*: vm\.overcommit_memory = 1$", text, re.MULTILINE)


def test_the_inventory_may_give_other_kernel_settings() -> None:
    assert "net.core.somaxconn = 16384" in rendered("sysctl", host_sysctl={"net.core.somaxconn": 16384})


def test_settings_in_force_are_not_put_into_force_again() -> None:
    in_force = {
        "net__core__rmem_max": "134217728",
        "net__core__somaxconn": "8192",
        "net__ipv4__tcp_rmem": "4096 131072 134217728",
        "vm__overcommit_memory": "0",
    }
    assert RenderedRole("host", ansible_facts=host(**in_force)).value("_host_sysctl_differing") == ["vm.overcommit_memory"]


def test_ephemeral_ports_stay_clear_of_the_platforms_own() -> None:
    assert "ip_local_port_range" not in rendered("sysctl")


@pytest.mark.parametrize(("may_set_clock", "options"), [(True, '"-F 1"'), (False, '"-F 1 -x"')])
def test_chronyd_sets_the_clock_only_where_it_may(may_set_clock: bool, options: str) -> None:
    assert f"DAEMON_OPTS={options}" in rendered("chrony-options", ansible_facts=host(may_set_clock=may_set_clock))


def test_chronyd_asks_pools_and_servers_and_serves_nobody() -> None:
    text = rendered("chrony.conf", host_ntp_pools=["pool.example"], host_ntp_servers=["10.0.0.1"])
    assert "pool pool.example iburst" in text
    assert "server 10.0.0.1 iburst" in text
    assert "port 0" in text.splitlines()


def test_only_security_updates_are_unattended_and_never_of_databases() -> None:
    text = rendered("apt-upgrades")
    assert re.findall(r'"(origin=[^"]*)"', text) == ["origin=Debian,codename=${distro_codename}-security,label=Debian-Security"]
    assert '"^postgresql";' in text
    assert 'Automatic-Reboot "false"' in text


def test_unattended_updates_can_be_off() -> None:
    assert 'APT::Periodic::Unattended-Upgrade "0";' in rendered("apt-upgrades", host_upgrades_unattended=False)


def test_every_host_knows_every_other_by_its_internal_name() -> None:
    lines = rendered("hosts", inventory="lab_ha", groups={"all": ["lab2", "lab1", "lab3"]}).split("\n")
    assert [line.split()[1] for line in lines if line] == [f"lab{number}.trading.internal" for number in (1, 2, 3)]


def test_sshd_takes_keys_only() -> None:
    options = dict(line.split(" ", 1) for line in rendered("sshd").splitlines() if line and not line.startswith("#"))
    assert (options["PasswordAuthentication"], options["PermitRootLogin"]) == ("no", "prohibit-password")


def test_tiers_ask_for_more_in_their_order() -> None:
    tiers = RenderedRole("host", ansible_facts=host()).value("_host_tiers")
    assert list(tiers) == ["lab", "minimum", "recommended"]
    for smaller, larger in zip(list(tiers.values()), list(tiers.values())[1:], strict=False):
        assert all(larger[what] >= smaller[what] for what in smaller)


def test_packages_that_are_there_are_not_asked_for_again() -> None:
    role = RenderedRole("host", ansible_facts=host())
    everything = {name: [{}] for name in role.value("_host_packages")}
    facts = {**host(), "packages": everything}
    assert RenderedRole("host", ansible_facts=facts).value("_host_packages_missing") == []
    assert RenderedRole("host", ansible_facts=facts, host_packages_extra=["htop"]).value("_host_packages_missing") == ["htop"]
