"""What the role mongodb renders, and how much memory it takes of a host."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from rendered_role import BOOKWORM, ROOT, TRIXIE, RenderedRole

TEMPLATES = ROOT / "roles/mongodb/templates"
SECRETS = {
    "vault_mongodb_keyfile": "a" * 64,
    **{f"vault_mongodb_{user}_password": f"{user}-password-of-a-test" for user in ("admin", "app", "migrator", "monitor")},
}


def role(inventory: str = "lab_ha", memory_mb: int = 24000, facts: dict[str, Any] = BOOKWORM, **stated: Any) -> RenderedRole:
    stated.setdefault("group_names", ["mongodb", "postgresql", "redis", "platform"])
    return RenderedRole(
        "mongodb",
        inventory,
        inventory_hostname="lab1",
        ansible_facts={**facts, "memtotal_mb": memory_mb, "architecture": "x86_64"},
        **SECRETS,
        **stated,
    )


def configuration(**stated: Any) -> dict[str, Any]:
    return yaml.safe_load(role(**stated).template(TEMPLATES / "mongod.conf.j2"))


def test_nothing_is_answered_without_tls_and_a_login() -> None:
    conf = configuration()
    assert conf["net"]["tls"]["mode"] == "requireTLS"
    assert conf["net"]["tls"]["allowConnectionsWithoutCertificates"] is True
    assert conf["security"]["authorization"] == "enabled"
    assert conf["security"]["keyFile"] == "/etc/trading-mongodb/keyfile"
    assert conf["net"]["bindIp"] == "127.0.0.1,10.213.0.11"


@pytest.mark.parametrize("inventory", ["lab_single", "lab_ha"])
def test_it_is_a_replica_set_with_one_host_and_with_three(inventory: str) -> None:
    assert configuration(inventory=inventory)["replication"] == {"replSetName": "trading_rs", "oplogSizeMB": 990}


def test_members_are_named_by_internal_name_in_the_order_of_the_inventory() -> None:
    members = role().value("_mongodb_members")
    assert [member["host"] for member in members] == [f"lab{n}.trading.internal:27017" for n in (1, 2, 3)]
    assert {member["priority"] for member in members} == {1}


@pytest.mark.parametrize(
    ("memory_mb", "groups", "cache_mb"),
    [
        (1000, ["mongodb", "platform"], 256),
        (64000, ["mongodb", "platform"], 6400),
        (512000, ["mongodb", "platform"], 16384),
        (16000, ["mongodb"], 8000),
        (16000, ["mongodb", "monitoring", "backup"], 8000),
        (512000, ["mongodb"], 16384),
    ],
)
def test_the_cache_follows_the_memory_and_the_neighbours(memory_mb: int, groups: list[str], cache_mb: int) -> None:
    rendered = role(memory_mb=memory_mb, group_names=groups)
    assert int(rendered.value("_mongodb_computed_cache_mb")) == cache_mb


def test_the_cache_is_written_in_gigabytes() -> None:
    conf = configuration(mongodb_cache_mb=1536)
    assert conf["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"] == 1.5


def test_the_unit_may_use_more_than_the_cache_and_talks_to_the_internal_network_only() -> None:
    dropin = role(mongodb_cache_mb=1024).template(TEMPLATES / "host.conf.j2")
    assert "MemoryMax=3072M\n" in dropin
    assert "IPAddressAllow=localhost 10.213.0.0/24\nIPAddressDeny=any\n" in dropin


def test_the_application_may_read_and_write_and_no_more() -> None:
    roles = {user["name"]: user["roles"] for user in role().value("_mongodb_users")}
    assert roles["trading_user"] == [{"role": "readWrite", "db": "trading_platform"}]
    assert {"role": "dbAdmin", "db": "trading_platform"} in roles["trading_migrator"]
    assert roles["monitor"] == [{"role": "clusterMonitor", "db": "admin"}]


def test_only_other_hosts_that_use_it_are_let_in() -> None:
    assert role().value("_mongodb_client_addresses") == ["10.213.0.12", "10.213.0.13"]
    assert role(inventory="lab_single").value("_mongodb_client_addresses") == []


@pytest.mark.parametrize(("facts", "library"), [(BOOKWORM, "libcurl4"), (TRIXIE, "libcurl4t64")])
def test_the_programs_libraries_are_named_as_the_release_names_them(facts: dict[str, Any], library: str) -> None:
    assert role(facts=facts).value("_mongodb_packages") == ["python3-pymongo", library]
    assert role(facts=facts, mongodb_source="vendor_repository").value("_mongodb_packages") == ["python3-pymongo"]


def test_the_election_is_shorter_than_the_heartbeats_allow() -> None:
    settings = role().value("_mongodb_settings")
    assert settings["heartbeatIntervalMillis"] * 2 < settings["electionTimeoutMillis"]
