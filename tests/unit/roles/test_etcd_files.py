"""What the role etcd renders: a member's permanent and first configuration, and what it decides from what it finds."""

from __future__ import annotations

from typing import Any

import pytest
from rendered_role import ROOT, RenderedRole

TEMPLATES = ROOT / "roles/etcd/templates"
HOSTS = ["lab1", "lab2", "lab3"]


def role(members: list[str] | None = None, with_data: tuple[str, ...] = (), **stated: Any) -> RenderedRole:
    """The role on lab1; `with_data` are the members that have etcd data."""
    members = members or HOSTS
    hostvars = {
        name: {"internal_address": f"10.213.0.1{number}", "__etcd_data": {"stat": {"exists": name in with_data}}}
        for number, name in enumerate(HOSTS, start=1)
    }
    return RenderedRole(
        "etcd",
        hostvars=hostvars,
        groups={"all": HOSTS, "etcd": members, "postgresql": HOSTS},
        ansible_play_hosts=members,
        inventory_hostname="lab1",
        internal_address="10.213.0.11",
        **stated,
    )


def environment(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def test_every_hop_asks_for_a_certificate() -> None:
    settings = environment(role().template(TEMPLATES / "etcd.env.j2"))
    assert settings["ETCD_CLIENT_CERT_AUTH"] == settings["ETCD_PEER_CLIENT_CERT_AUTH"] == "true"
    urls = [value for name, value in settings.items() if name.endswith("_URLS")]
    assert len(urls) == 4
    assert all(url.startswith("https://") for value in urls for url in value.split(","))


def test_nothing_listens_to_the_world() -> None:
    settings = environment(role().template(TEMPLATES / "etcd.env.j2"))
    listening = settings["ETCD_LISTEN_CLIENT_URLS"] + settings["ETCD_LISTEN_PEER_URLS"]
    assert "0.0.0.0" not in listening
    assert "[::]" not in listening


def test_a_member_without_data_cannot_form_a_cluster_by_its_permanent_configuration() -> None:
    settings = environment(role().template(TEMPLATES / "etcd.env.j2"))
    assert settings["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    assert settings["ETCD_INITIAL_CLUSTER"] == "lab1=https://10.213.0.11:2380"


def test_permanent_configuration_does_not_change_when_a_member_is_added() -> None:
    assert role(["lab1"]).template(TEMPLATES / "etcd.env.j2") == role(HOSTS).template(TEMPLATES / "etcd.env.j2")


def test_a_first_start_names_every_member() -> None:
    assert role().value("_etcd_initial_cluster") == (
        "lab1=https://10.213.0.11:2380,lab2=https://10.213.0.12:2380,lab3=https://10.213.0.13:2380"
    )


@pytest.mark.parametrize(
    ("with_data", "exists", "joining"),
    [((), False, []), (("lab1",), True, ["lab2", "lab3"]), (("lab1", "lab3"), True, ["lab2"]), (tuple(HOSTS), True, [])],
)
def test_members_without_data_join_where_a_cluster_exists(with_data: tuple[str, ...], exists: bool, joining: list[str]) -> None:
    rendered = role(with_data=with_data)
    assert rendered.value("_etcd_cluster_exists") is exists
    assert rendered.value("_etcd_joining_members") == joining


def test_members_reach_each_other_and_databases_reach_members() -> None:
    clients, members = role().value("_etcd_firewall_rules")
    assert (clients["from"], members["from"]) == (["10.213.0.12", "10.213.0.13"], ["10.213.0.12", "10.213.0.13"])


def test_a_single_member_opens_no_port() -> None:
    rendered = role(["lab1"])
    rendered.variables["groups"]["postgresql"] = ["lab1"]
    assert [rule["from"] for rule in rendered.value("_etcd_firewall_rules")] == [[], []]


def test_probe_expects_every_member() -> None:
    assert "expected=3\n" in role().template(TEMPLATES / "20-etcd.j2")
