"""What the role redis renders: who may do what, what is evicted, how much memory and how many threads it takes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from rendered_role import BOOKWORM, ROOT, RenderedRole

TEMPLATES = ROOT / "roles/redis/templates"
PASSWORDS = {f"vault_redis_{user}_password": f"{user}-password-of-a-test" for user in ("admin", "app", "replica", "sentinel", "monitor")}


def role(inventory: str = "lab_ha", memory_mb: int = 24000, cores: int = 8, **stated: Any) -> RenderedRole:
    facts = {**BOOKWORM, "memtotal_mb": memory_mb, "processor_vcpus": cores}
    return RenderedRole("redis", inventory, inventory_hostname="lab1", ansible_facts=facts, **PASSWORDS, **stated)


def configuration(template: str = "redis.conf.j2", **stated: Any) -> list[str]:
    return [line for line in role(**stated).template(TEMPLATES / template).splitlines() if line and line[0] != "#"]


def users(template: str, **stated: Any) -> dict[str, list[str]]:
    return {words[1]: words[2:] for words in (line.split() for line in configuration(template, **stated))}


@pytest.mark.parametrize(("template", "port"), [("redis.conf.j2", 6379), ("sentinel.conf.j2", 26379)])
def test_only_tls_is_spoken_on_loopback_and_the_internal_address(template: str, port: int) -> None:
    conf = configuration(template)
    assert {"port 0", f"tls-port {port}", "tls-replication yes", "protected-mode yes"} <= set(conf)
    assert "bind 127.0.0.1 10.213.0.11" in conf


def test_state_is_never_evicted() -> None:
    assert "maxmemory-policy volatile-lru" in configuration()


def test_snapshots_are_those_asked_for_and_none_that_redis_kept() -> None:
    saves = [line for line in configuration() if line.startswith("save")]
    assert saves == ['save ""', "save 900 1", "save 300 10", "save 60 10000"]


@pytest.mark.parametrize(("inventory", "replicas"), [("lab_single", 0), ("lab_ha", 1)])
def test_a_primary_with_replicas_waits_for_one_of_them(inventory: str, replicas: int) -> None:
    assert f"min-replicas-to-write {replicas}" in configuration(inventory=inventory)


@pytest.mark.parametrize(("memory_mb", "expected"), [(4096, 512), (32768, 4096), (65536, 8192), (524288, 8192)])
def test_memory_follows_the_host_and_is_capped(memory_mb: int, expected: int) -> None:
    assert int(role(memory_mb=memory_mb).value("_redis_computed_maxmemory_mb")) == expected


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 2), (6, 3), (8, 4), (64, 4)])
def test_threads_follow_the_cores(cores: int, threads: int) -> None:
    assert int(role(cores=cores).value("_redis_computed_io_threads")) == threads


@pytest.mark.parametrize("template", ["users.acl.j2", "sentinel_users.acl.j2"])
def test_strangers_are_off_and_passwords_are_written_as_hashes(template: str) -> None:
    rendered = users(template)
    assert rendered["default"][0] == "off"
    text = "\n".join(configuration(template))
    assert not [password for password in PASSWORDS.values() if password in text]
    assert "#" + hashlib.sha256(PASSWORDS["vault_redis_app_password"].encode()).hexdigest() in rendered["trading_app"]


def test_the_application_is_kept_from_what_is_dangerous() -> None:
    rules = users("users.acl.j2")["trading_app"]
    assert rules.index("+@all") < rules.index("-@admin") < rules.index("-@dangerous")
    assert rules[rules.index("-@dangerous") + 1 :] == ["+info", "+role"]


def test_the_monitor_cannot_write_or_read_passwords() -> None:
    rules = users("users.acl.j2")["monitor"]
    assert "-@all" in rules
    assert not [rule for rule in rules if "config" in rule or rule.startswith(("~", "%W"))]


@pytest.mark.parametrize(("count", "quorum", "sentinel"), [(1, 1, False), (3, 2, True), (4, 3, True), (5, 3, True)])
def test_sentinel_runs_with_three_and_a_majority_decides(count: int, quorum: int, sentinel: bool) -> None:
    rendered = role(groups={"redis": [f"lab{n}" for n in range(count)]})
    assert int(rendered.value("_redis_quorum")) == quorum
    assert rendered.value("_redis_with_sentinel | bool") is sentinel
    assert ("redis-sentinel" in rendered.value("_redis_packages")) is sentinel


@pytest.mark.parametrize(("primary", "content"), [("10.213.0.11", ""), ("10.213.0.12", "replicaof 10.213.0.12 6379\n")])
def test_a_new_server_follows_who_leads_now(primary: str, content: str) -> None:
    first = role(__redis_node={"primary": primary}).value("_redis_first_topology")
    assert first[0]["content"] == content
    assert first[0]["path"] == "/var/lib/redis/topology.conf"


def test_sentinel_is_started_with_who_leads_and_the_quorum() -> None:
    first = role(__redis_node={"primary": "10.213.0.13"}).value("_redis_first_sentinel")
    assert first[0]["content"] == "sentinel monitor trading_redis 10.213.0.13 6379 2\n"


def test_files_that_redis_rewrites_never_restart_it() -> None:
    rendered = role()
    assert rendered.value("_redis_topology_file") not in rendered.value("_redis_restarted_by")
    assert rendered.value("_redis_sentinel_file") not in rendered.value("_redis_sentinel_restarted_by")
