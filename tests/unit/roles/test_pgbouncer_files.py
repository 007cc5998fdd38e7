"""What the role pgbouncer renders, and that its pools fit PostgreSQL's connections."""

from __future__ import annotations

import configparser
from typing import Any

import pytest
from rendered_role import ROOT, RenderedRole

TEMPLATES = ROOT / "roles/pgbouncer/templates"
HOSTS = ["lab1", "lab2", "lab3"]


def role(release: str = "bookworm", tier: str = "recommended", **stated: Any) -> RenderedRole:
    return RenderedRole(
        "pgbouncer",
        ansible_facts={"distribution_release": release, "packages": {}},
        hostvars={name: {"internal_address": f"10.213.0.1{number}"} for number, name in enumerate(HOSTS, start=1)},
        groups={"all": HOSTS, "platform": HOSTS, "postgresql": HOSTS},
        inventory_hostname="lab1",
        internal_address="10.213.0.11",
        trading_hardware_tier=tier,
        pgbouncer_auth_password="secret-auth",
        pgbouncer_monitor_password="secret-monitor",
        **stated,
    )


def settings(rendered: RenderedRole) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(comment_prefixes=(";",), interpolation=None, default_section="")
    parser.read_string(rendered.template(TEMPLATES / "pgbouncer.ini.j2"))
    return parser["pgbouncer"]


@pytest.mark.parametrize("connections", [25, 100, 200, 500])
def test_pools_and_direct_sessions_stay_within_four_fifths_of_the_server(connections: int) -> None:
    found = settings(role(postgresql_max_connections=connections))
    assert int(found["max_db_connections"]) + 10 <= connections * 0.8
    assert int(found["default_pool_size"]) + int(found["reserve_pool_size"]) <= int(found["max_db_connections"])


def test_the_services_of_three_hosts_fit_its_clients() -> None:
    rendered = role()
    assert int(rendered.value("_pgbouncer_clients_of_services")) <= int(rendered.value("pgbouncer_max_client_conn"))


def test_more_workers_than_clients_are_counted() -> None:
    assert int(role(pgbouncer_service_workers=8).value("_pgbouncer_clients_of_services")) > 2000


def test_both_sides_are_encrypted_and_the_server_is_verified() -> None:
    found = settings(role())
    assert (found["client_tls_sslmode"], found["server_tls_sslmode"]) == ("require", "verify-full")
    assert found["auth_type"] == "scram-sha-256"


def test_it_talks_to_its_own_host_only() -> None:
    parser = configparser.ConfigParser(comment_prefixes=(";",), interpolation=None)
    parser.read_string(role().template(TEMPLATES / "pgbouncer.ini.j2"))
    assert parser["databases"]["trading_platform"] == "host=127.0.0.1 port=5432 dbname=trading_platform"


@pytest.mark.parametrize(("release", "prepares"), [("bookworm", False), ("trixie", True)])
def test_prepared_statements_are_kept_where_the_version_can(release: str, prepares: bool) -> None:
    assert ("max_prepared_statements" in settings(role(release))) is prepares


def test_files_hold_no_password() -> None:
    text = "".join(role().template(TEMPLATES / name) for name in ("pgbouncer.ini.j2", "31-pgbouncer.j2"))
    assert "secret-" not in text


def test_other_platform_hosts_are_let_in() -> None:
    assert [rule["from"] for rule in role().value("_pgbouncer_firewall_rules")] == [["10.213.0.12", "10.213.0.13"]]
