"""What the role postgresql computes for hosts of different sizes: never above the documented caps, never more than fits."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rendered_role import RenderedRole

CAPS = {"shared_buffers": 8192, "effective_cache_size": 24576, "work_mem": 256, "maintenance_work_mem": 1024, "wal_buffers": 64}
SECRETS = {
    f"postgresql_{role}_password": f"secret-{role}"
    for role in ("migrator", "app", "readonly", "monitor", "pgbouncer", "replication", "rewind")
}


def role(memory_mb: int = 32768, cores: int = 16, tier: str = "recommended", alone: bool = False, **stated: Any) -> RenderedRole:
    """The role on three database hosts of one size; alone: nothing else lives on them."""
    hosts = ["lab1", "lab2", "lab3"]
    facts = {
        "distribution_release": "bookworm",
        "architecture": "x86_64",
        "memtotal_mb": memory_mb,
        "processor_nproc": cores,
        "python": {"version": {"major": 3, "minor": 11}},
        "packages": {},
    }
    hostvars = {name: {"internal_address": f"10.213.0.1{number}", "ansible_facts": facts} for number, name in enumerate(hosts, start=1)}
    elsewhere: list[str] = [] if alone else hosts
    groups = {"all": hosts, "postgresql": hosts, "etcd": hosts, "platform": elsewhere, "mongodb": elsewhere, "redis": elsewhere}
    return RenderedRole(
        "postgresql",
        ansible_facts=facts,
        hostvars=hostvars,
        groups=groups,
        inventory_hostname="lab1",
        internal_address="10.213.0.11",
        ansible_check_mode=False,
        ansible_playbook_python="/usr/bin/python3",
        trading_hardware_tier=tier,
        **(SECRETS | stated),
    )


def parameters(rendered: RenderedRole) -> dict[str, Any]:
    return dict(rendered.value("_postgresql_dcs.postgresql.parameters"))


def mebibytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)MB", text)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("memory_mb", [2048, 32768, 524288])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("connections", [25, 500])
def test_no_value_exceeds_the_documented_cap(memory_mb: int, alone: bool, connections: int) -> None:
    computed = parameters(role(memory_mb, alone=alone, postgresql_max_connections=connections))
    assert {name: cap for name, cap in CAPS.items() if mebibytes(computed[name]) > cap} == {}


@pytest.mark.parametrize("memory_mb", [8192, 65536])
@pytest.mark.parametrize("alone", [True, False])
def test_the_worst_case_fits_the_share_of_the_host(memory_mb: int, alone: bool) -> None:
    rendered = role(memory_mb, alone=alone)
    assert int(rendered.value("_postgresql_memory_worst_mb")) <= int(rendered.value("_postgresql_memory_mb")) <= memory_mb


def test_a_small_host_with_many_connections_does_not_fit() -> None:
    rendered = role(1024, postgresql_max_connections=500)
    assert int(rendered.value("_postgresql_memory_worst_mb")) > int(rendered.value("_postgresql_memory_mb"))


def test_a_dedicated_host_of_the_documented_size_gets_nearly_the_documented_buffers() -> None:
    computed = parameters(role(32768, alone=True))
    assert mebibytes(computed["shared_buffers"]) > 7500
    assert mebibytes(computed["effective_cache_size"]) > 23000
    assert computed["wal_buffers"] == "64MB"


def test_the_lab_counts_on_four_gibibytes_whatever_the_machine_has() -> None:
    assert role(262144, tier="lab").value("postgresql_host_memory_mb") == 4096


def test_all_members_are_sized_for_the_smallest() -> None:
    rendered = role(65536)
    rendered.variables["hostvars"]["lab3"]["ansible_facts"] = rendered.variables["ansible_facts"] | {"memtotal_mb": 8192}
    assert int(rendered.value("_postgresql_smallest_memory_mb")) == 8192


@pytest.mark.parametrize("preset", ["fast", "normal", "safe"])
def test_a_preset_keeps_what_patroni_asks_of_timings(preset: str) -> None:
    dcs = role(postgresql_recovery_preset=preset).value("_postgresql_dcs")
    assert dcs["ttl"] >= 20
    assert dcs["loop_wait"] + 2 * dcs["retry_timeout"] <= dcs["ttl"]


def test_what_the_inventory_states_beats_what_is_computed() -> None:
    computed = parameters(role(postgresql_parameters={"work_mem": "9MB", "archive_mode": "on"}))
    assert (computed["work_mem"], computed["archive_mode"]) == ("9MB", "on")
