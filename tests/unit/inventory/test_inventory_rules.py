"""Each mistake an inventory can have is refused with file, line, variable, what was found and what to do."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


def only(problems: list[str]) -> str:
    assert len(problems) == 1, "\n".join(problems)
    return problems[0]


def test_a_good_inventory_is_accepted(inventory: Any) -> None:
    assert inventory.check() == []


def test_a_single_host_and_a_first_run_without_vault_are_accepted(inventory: Any) -> None:
    inventory.spread(1)
    inventory.vault = None
    assert inventory.check() == []


def test_every_problem_is_reported_at_once(inventory: Any) -> None:
    inventory.variables |= {"trading_domain": "trading.example.com", "trading_environment": "prod", "nginx_request_per_second": 5}
    assert len(inventory.check()) == 3


def test_the_place_is_file_and_line(inventory: Any) -> None:
    inventory.variables["trading_environment"] = "prod"
    assert only(inventory.check()).startswith("group_vars/all/main.yml:1: trading_environment: 'prod' does not fit")


# ---- cluster sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "hosts"), [("etcd", 2), ("mongodb", 2), ("redis", 2)])
def test_a_cluster_that_cannot_decide_is_refused(inventory: Any, group: str, hosts: int) -> None:
    inventory.groups[group] = list(inventory.hosts)[:hosts]
    problem = only(inventory.check())
    assert problem.startswith("hosts.yml:")
    assert f": {group}: has {hosts} hosts" in problem
    assert "Use 1" in problem


def test_two_databases_of_postgresql_are_enough(inventory: Any) -> None:
    inventory.groups["postgresql"] = ["host1", "host2"]
    assert inventory.check() == []


@pytest.mark.parametrize("group", ["etcd", "postgresql", "mongodb", "redis", "platform", "edge"])
def test_a_group_without_hosts_is_refused(inventory: Any, group: str) -> None:
    inventory.groups[group] = []
    assert "the group has no host" in only(inventory.check())


def test_a_group_written_wrong_is_recognised(inventory: Any) -> None:
    inventory.groups["edges"] = ["host1"]
    assert "Did you mean edge?" in only(inventory.check())


def test_a_group_of_ones_own_is_allowed(inventory: Any) -> None:
    inventory.groups["frankfurt"] = ["host1"]
    assert inventory.check() == []


# ---- variables ----------------------------------------------------------------------------------


def test_an_unknown_variable_is_refused_with_the_one_that_was_meant(inventory: Any) -> None:
    inventory.variables["nginx_request_per_second"] = 5
    problem = only(inventory.check())
    assert "nginx_request_per_second: is a variable that nothing reads. Did you mean nginx_requests_per_second?" in problem


def test_an_unknown_variable_of_a_host_is_refused_where_it_stands(inventory: Any) -> None:
    inventory.hosts["host2"]["internal_adress"] = "10.1.0.2"
    assert "internal_adress: is a variable that nothing reads. Did you mean internal_address?" in only(inventory.check())


def test_a_helper_of_ones_own_begins_with_site(inventory: Any) -> None:
    inventory.variables["site_office"] = "10.9.0.0/24"
    assert inventory.check() == []


def test_a_removed_variable_says_what_replaced_it(inventory: Any) -> None:
    inventory.variables["trading_network"] = "10.1.0.0/24"
    assert "is no longer used. Use trading_internal_network" in only(inventory.check())


def test_a_derived_variable_is_not_for_the_inventory(inventory: Any) -> None:
    inventory.variables["trading_ports"] = {"redis": 6380}
    assert "is derived from the inventory" in only(inventory.check())


def test_a_variable_stated_twice_in_a_file_is_refused(inventory: Any) -> None:
    inventory.more["group_vars/redis.yml"] = "redis_maxmemory_mb: 100\nredis_maxmemory_mb: 200\n"
    assert only(inventory.check()).startswith("group_vars/redis.yml:2: redis_maxmemory_mb: is stated a second time, first at line 1")


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("nginx_requests_per_second", "many", "'many' does not fit"),
        ("trading_live_trading", "maybe", "'maybe' does not fit"),
        ("trading_domain", ["a.test"], "does not fit: it is a list"),
        ("certbot_key_type", "dsa", "Use one of ecdsa, rsa"),
        ("trading_hardware_tier", "large", "Use one of lab, minimum, recommended"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(inventory: Any, name: str, value: object, found: str) -> None:
    inventory.variables[name] = value
    assert any(f": {name}: " in problem and found in problem for problem in inventory.check())


@pytest.mark.parametrize("name", ["trading_environment", "trading_domain", "trading_internal_network", "certbot_email"])
def test_a_missing_variable_is_named(inventory: Any, name: str) -> None:
    del inventory.variables[name]
    assert f": {name}: is not stated" in only(inventory.check())


# ---- addresses and networks ---------------------------------------------------------------------


def test_a_host_without_internal_address_is_refused(inventory: Any) -> None:
    del inventory.hosts["host3"]["internal_address"]
    assert "internal_address: host host3 has none" in only(inventory.check())


@pytest.mark.parametrize("address", ["10.2.0.3", "10.1.0.300", "host3.test"])
def test_an_address_outside_the_network_or_none_at_all_is_refused(inventory: Any, address: str) -> None:
    inventory.hosts["host3"]["internal_address"] = address
    assert address in only(inventory.check())


@pytest.mark.parametrize("variable", ["internal_address", "ansible_host"])
def test_an_address_of_two_hosts_is_refused(inventory: Any, variable: str) -> None:
    inventory.hosts["host3"][variable] = "10.1.0.2"
    assert f"{variable}: 10.1.0.2 of host3 is host2's, too" in only(inventory.check())


def test_hosts_behind_one_address_are_told_apart_by_their_port(inventory: Any) -> None:
    for number, host in enumerate(inventory.hosts.values()):
        host |= {"ansible_host": "10.7.0.1", "ansible_port": 2200 + number}
    assert inventory.check() == []


@pytest.mark.parametrize(
    ("network", "hint"), [("10.1.0.5/24", "Write 10.1.0.0/24"), ("10.1.0/24", "is no network"), ("11.0.0.0/33", "is no network")]
)
def test_a_network_that_is_none_is_refused(inventory: Any, network: str, hint: str) -> None:
    inventory.variables["trading_internal_network"] = network
    assert hint in only(inventory.check())


def test_admin_networks_that_overlap_each_other_are_refused(inventory: Any) -> None:
    inventory.variables["trading_admin_networks"] = ["10.9.0.0/16", "10.9.1.0/24"]
    assert "10.9.0.0/16 and 10.9.1.0/24 overlap" in only(inventory.check())


def test_an_admin_network_that_holds_the_platforms_hosts_is_refused(inventory: Any) -> None:
    inventory.variables["trading_admin_networks"] = ["10.0.0.0/8"]
    assert "10.0.0.0/8 overlaps the platform's own hosts (host1, host2, host3)" in only(inventory.check())


def test_a_single_admin_address_within_the_network_is_a_control_node(inventory: Any) -> None:
    inventory.variables["trading_admin_networks"] = ["10.1.0.1/32"]
    assert inventory.check() == []


def test_ssh_for_the_world_is_refused(inventory: Any) -> None:
    inventory.variables["trading_admin_networks"] = ["0.0.0.0/0"]
    assert any("is the whole world" in problem for problem in inventory.check())


def test_a_public_internal_network_is_refused(inventory: Any) -> None:
    inventory.variables["trading_internal_network"] = "8.8.8.0/24"
    assert any("8.8.8.0/24 is a public network" in problem for problem in inventory.check())


# ---- live trading and memory --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "accepted"),
    [
        ({"trading_live_trading": True}, False),
        ({"trading_live_trading": True, "trading_live_trading_confirmed": "yes"}, False),
        ({"trading_live_trading": True, "trading_live_trading_confirmed": "trading.company.test"}, True),
        ({"trading_live_trading": False, "trading_live_trading_confirmed": "trading.company.test"}, True),
    ],
)
def test_live_trading_needs_both_switches(inventory: Any, stated: dict[str, object], accepted: bool) -> None:
    inventory.variables |= {"trading_environment": "production"} | stated
    problems = inventory.check()
    assert (problems == []) is accepted
    assert accepted or "the second switch is not set" in only(problems)


def test_only_production_trades_live(inventory: Any) -> None:
    inventory.variables |= {"trading_live_trading": True, "trading_live_trading_confirmed": "trading.company.test"}
    assert "Only production trades live" in only(inventory.check())


def test_caches_larger_than_the_host_are_refused(inventory: Any) -> None:
    inventory.variables |= {"redis_maxmemory_mb": 4096, "mongodb_cache_mb": 4096}
    problems = inventory.check()
    assert len(problems) == 3
    assert "host1 is asked for 8192 MiB (mongodb_cache_mb 4096, redis_maxmemory_mb 4096), more than 6553 MiB" in problems[0]


def test_what_a_host_declares_counts_before_its_tier(inventory: Any) -> None:
    inventory.variables |= {"redis_maxmemory_mb": 4096, "mongodb_cache_mb": 4096}
    for host in inventory.hosts.values():
        host["trading_memory_mb"] = 16384
    assert inventory.check() == []


def test_hosts_that_do_not_share_a_host_do_not_share_memory(inventory: Any) -> None:
    inventory.variables |= {"redis_maxmemory_mb": 4096, "mongodb_cache_mb": 4096}
    inventory.groups["redis"], inventory.groups["mongodb"] = ["host1"], ["host2"]
    assert inventory.check() == []


def test_what_tiers_promise_is_what_the_role_host_asks_for(rules: ModuleType) -> None:
    asked = yaml.safe_load((ROOT / "roles/host/vars/main.yml").read_text())["_host_tiers"]
    assert {tier: needs["memory_mb"] for tier, needs in asked.items() if tier != "lab"} == rules.TIER_MEMORY_MB


def test_the_sizes_that_are_added_up_are_variables_of_the_roles(rules: ModuleType) -> None:
    for name, role, _ in rules.MEMORY_ASKED:
        options = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
        assert name in options


# ---- placeholders and secrets -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "trading.example.com",
        "ops@example.org",
        "CHANGEME",
        "change-me-now",
        "your-domain.tld",
        "https://yourdomain.com",
        "<domain>",
        "192.0.2.7",
    ],
)
def test_placeholders_are_seen(rules: ModuleType, text: str) -> None:
    assert rules.is_placeholder(text)


@pytest.mark.parametrize(
    "text", ["trading.company.test", "ops@lab.test", "10.0.0.1", "0.0.0.0/0", "{{ site_example.com }}", "exemplary.net", "counterexample"]
)
def test_ordinary_values_are_no_placeholders(rules: ModuleType, text: str) -> None:
    assert not rules.is_placeholder(text)


def test_a_placeholder_is_refused_by_name(inventory: Any) -> None:
    inventory.variables["trading_domain"] = "trading.example.com"
    assert 'trading_domain: "trading.example.com" is a placeholder' in only(inventory.check())


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("hunter2", "fewer than 16"),
        ("aaaaaaaaaaaaaaaaaaaaaaaa", "too regular"),
        ("0123456789abcdef", "too regular"),
        ("abababababababababab", "too regular"),
        ("Password1234Password", "well-known"),
        ("trading-postgres-admin", "well-known"),
        ("correct horse battery staple", "well-known"),
    ],
)
def test_a_weak_secret_is_refused_and_never_shown(inventory: Any, secret: str, why: str) -> None:
    inventory.vault["vault_redis_app_password"] = secret
    problem = only(inventory.check())
    assert why in problem
    assert problem.startswith("group_vars/all/vault.yml:1: vault_redis_app_password: ")
    assert secret not in problem


@pytest.mark.parametrize("secret", ["f3b1c29d8e7a4056", "Zk9-wQ2_pL7xVt4Rm8Ns", "q7GmW2rTz9XbK4vNcY8sHdJ5fLpA3eUo"])
def test_a_generated_secret_is_strong(rules: ModuleType, secret: str) -> None:
    assert rules.weak(secret) == ""


def test_a_placeholder_in_the_vault_is_refused_and_never_shown(inventory: Any) -> None:
    inventory.vault["vault_redis_app_password"] = "CHANGEME-Zk9wQ2pL7xVt4Rm8Ns"
    problem = only(inventory.check())
    assert "a secret is a placeholder" in problem
    assert "CHANGEME" not in problem


def test_one_secret_for_two_purposes_is_refused(inventory: Any) -> None:
    inventory.vault["vault_mongodb_app_password"] = inventory.vault["vault_redis_app_password"]
    assert "is the same secret as vault_redis_app_password" in only(inventory.check())


def test_a_vault_that_is_not_encrypted_is_refused(inventory: Any) -> None:
    inventory.encrypted = False
    problem = only(inventory.check())
    assert problem.startswith("group_vars/all/vault.yml: the vault: is not encrypted")
    assert "ansible-vault encrypt" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_app_password", "Zk9-wQ2_pL7xVt4Rm8Ns"),
        ("ansible_password", "Zk9-wQ2_pL7xVt4Rm8Ns"),
        ("site_database_url", "postgresql://app:Zk9wQ2pL7x@10.1.0.1/db"),
        ("site_key", "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"),
    ],
)
def test_a_secret_in_plain_text_is_refused_and_never_shown(inventory: Any, name: str, value: str) -> None:
    inventory.variables[name] = value
    problem = only(inventory.check())
    assert f": {name}: is a secret in plain text" in problem
    assert value not in problem


def test_a_reference_to_the_vault_and_the_path_of_a_key_are_no_secrets(inventory: Any) -> None:
    inventory.variables |= {"redis_app_password": "{{ vault_redis_app_password }}", "ansible_ssh_private_key_file": "~/.ssh/id_ed25519"}
    assert inventory.check() == []


def test_a_value_encrypted_on_its_own_is_accepted(inventory: Any) -> None:
    inventory.write()
    text = "redis_app_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3066\n"
    found = inventory.files.Files()
    inventory.more["group_vars/all/own.yml"] = text
    inventory.write()
    found = inventory.files.read([str(inventory.root)], lambda raw, _: raw)
    value = next(d.value for d in found.definitions if d.name == "redis_app_password")
    assert isinstance(value, inventory.files.EncryptedText)


# ---- files --------------------------------------------------------------------------------------


def test_places_survive_nested_groups_and_host_variables(files: ModuleType, tmp_path: Any) -> None:
    (tmp_path / "hosts.yml").write_text(
        "all:\n  children:\n    site:\n      vars:\n        site_a: 1\n      children:\n        etcd:\n          hosts:\n"
        "            h1:\n              internal_address: 10.0.0.1\n"
    )
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/h1.yml").write_text("# about h1\n\nsite_b: 2\n")
    read = files.read([str(tmp_path)], lambda raw, _: raw, lambda path: path.removeprefix(f"{tmp_path}/"))
    found = {d.name: (str(d.place), d.scope) for d in read.definitions}
    assert found == {"site_a": ("hosts.yml:5", "site"), "internal_address": ("hosts.yml:10", "h1"), "site_b": ("host_vars/h1.yml:3", "h1")}
    assert set(read.groups) == {"all", "site", "etcd"}
    assert set(read.hosts) == {"h1"}
