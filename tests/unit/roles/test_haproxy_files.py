"""What the role haproxy renders: where its ports lead, what it checks, and who may come to the gateway."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from rendered_role import ROOT, RenderedRole

TEMPLATES = ROOT / "roles/haproxy/templates"
HOSTS = ["lab1", "lab2", "lab3"]


def role(databases: list[str] | None = None, **stated: Any) -> RenderedRole:
    return RenderedRole(
        "haproxy",
        hostvars={name: {"internal_address": f"10.213.0.1{number}"} for number, name in enumerate(HOSTS, start=1)},
        groups={"all": HOSTS, "platform": HOSTS, "postgresql": databases or HOSTS, "edge": ["lab1", "lab2"]},
        inventory_hostname="lab1",
        internal_address="10.213.0.11",
        **stated,
    )


def sections(rendered: RenderedRole) -> dict[str, list[str]]:
    """Lines by section head, comments left out."""
    found: dict[str, list[str]] = {}
    for line in rendered.template(TEMPLATES / "haproxy.cfg.j2").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" "):
            found[head := line] = []
        elif not line.strip().startswith("#"):
            found[head].append(line.strip())
    return found


@pytest.mark.parametrize(
    ("backend", "port", "asks"), [("leader", 6432, "/primary"), ("replica", 6432, "/replica?lag=16MB"), ("session", 5432, "/primary")]
)
def test_each_way_leads_to_every_database_host_by_what_patroni_says(backend: str, port: int, asks: str) -> None:
    lines = sections(role())[f"backend {backend}"]
    assert [line.split()[2] for line in lines if line.startswith("server ")] == [f"10.213.0.1{n}:{port}" for n in (1, 2, 3)]
    assert any(f"uri {asks} " in line for line in lines)


def test_a_member_that_stops_leading_loses_its_sessions() -> None:
    checks = next(line for line in sections(role())["defaults databases from common"] if line.startswith("default-server"))
    assert "on-marked-down shutdown-sessions" in checks
    assert "check-ssl verify required" in checks


def test_reads_go_to_the_leader_when_no_replica_is_there() -> None:
    assert "use_backend leader if { nbsrv(replica) eq 0 }" in sections(role())["frontend replica"]


def test_databases_and_metrics_listen_on_loopback_only() -> None:
    bound = {head: [line.split()[1] for line in lines if line.startswith("bind ")] for head, lines in sections(role()).items()}
    bound = {head.removeprefix("frontend "): addresses for head, addresses in bound.items() if addresses}
    assert bound.pop("gateway") == ["10.213.0.11:8443"]
    assert bound.pop("paper_venue_peers") == ["10.213.0.11:8444"]
    assert all(address.startswith("127.0.0.1:") for addresses in bound.values() for address in addresses)


def test_only_edges_with_a_certificate_come_to_the_gateway() -> None:
    gateway = sections(role())["frontend gateway"]
    assert "verify required" in gateway[0]
    assert "acl from_an_edge ssl_c_s_dn(cn) -m str lab1 lab2" in gateway
    assert "http-request deny deny_status 403 unless from_an_edge" in gateway


def test_headers_of_the_edge_pass_and_none_is_added() -> None:
    text = role().template(TEMPLATES / "haproxy.cfg.j2")
    assert not re.search(r"^\s*(option forwardfor|http-request (set|add)-header)", text, re.MULTILINE)
    assert "del-header X-Forwarded-For" not in text


def test_the_paper_venue_is_reached_on_whichever_host_leads_it() -> None:
    lines = sections(role())
    assert lines["frontend paper_venue"][0] == "bind 127.0.0.1:8021"
    servers = [line.split()[1:4] for line in lines["backend paper_venue"] if line.startswith("server ")]
    assert servers == [["lab1", "127.0.0.1:8020"], ["lab2", "10.213.0.12:8444", "ssl"], ["lab3", "10.213.0.13:8444", "ssl"]]
    assert any("uri /health/leading " in line for line in lines["backend paper_venue"])
    peers = lines["frontend paper_venue_peers"]
    assert "verify required" in peers[0]
    assert "tcp-request session reject unless from_a_platform_host" in peers


@pytest.mark.parametrize("preset", ["fast", "normal", "safe"])
def test_a_preset_of_the_database_is_one_of_haproxy(preset: str) -> None:
    assert role(postgresql_recovery_preset=preset).value("_haproxy_preset.fall") >= 2


def test_probe_is_python_and_expects_the_replicas() -> None:
    text = role().template(TEMPLATES / "40-haproxy.j2")
    ast.parse(text)
    assert "REPLICAS_EXPECTED = 2" in text


def test_a_single_database_host_expects_no_replica() -> None:
    assert "REPLICAS_EXPECTED = 0" in role(["lab1"]).template(TEMPLATES / "40-haproxy.j2")
