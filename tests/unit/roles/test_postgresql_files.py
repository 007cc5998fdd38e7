"""What the role postgresql renders: Patroni's configuration, who may log in, and the roles of the database."""

from __future__ import annotations

import ast

import pytest
import yaml
from rendered_role import ROOT
from test_postgresql_tuning import SECRETS, role

TEMPLATES = ROOT / "roles/postgresql/templates"


def test_patroni_configuration_is_yaml_and_holds_no_password() -> None:
    text = role().template(TEMPLATES / "patroni.yml.j2")
    assert yaml.safe_load(text)["name"] == "lab1"
    assert not [secret for secret in SECRETS.values() if secret in text]


def test_every_member_starts_a_cluster_with_the_same_settings() -> None:
    config = yaml.safe_load(role().template(TEMPLATES / "patroni.yml.j2"))
    assert config["bootstrap"]["dcs"] == role().value("_postgresql_dcs")
    assert "data-checksums" in config["bootstrap"]["initdb"]


def test_patroni_and_etcd_speak_tls_with_certificates() -> None:
    config = yaml.safe_load(role().template(TEMPLATES / "patroni.yml.j2"))
    assert config["etcd3"]["protocol"] == "https"
    assert {"cacert", "cert", "key"} <= set(config["etcd3"])
    assert config["restapi"]["verify_client"] == "optional"
    assert config["restapi"]["allowlist"] == ["10.213.0.11", "10.213.0.12", "10.213.0.13"]


def test_only_encrypted_scram_logins_come_from_the_network() -> None:
    lines = [line.split() for line in role().value("_postgresql_hba")]
    remote = [line for line in lines if line[0] != "local"]
    assert remote
    assert all(line[0] == "hostssl" and line[4] == "scram-sha-256" for line in remote)
    assert all(line[3].endswith("/32") for line in remote)


def test_replication_comes_from_peers_with_a_certificate() -> None:
    lines = [line for line in role().value("_postgresql_hba") if line.startswith("hostssl replication")]
    assert lines == [
        f"hostssl replication trading_replication {address}/32 scram-sha-256 clientcert=verify-ca"
        for address in ("10.213.0.12", "10.213.0.13")
    ]


def test_the_superuser_is_only_the_system_user_on_the_local_socket() -> None:
    lines = [line.split() for line in role().value("_postgresql_hba")]
    assert [line for line in lines if "postgres" in line[2].split(",") or line[2] == "all"] == [["local", "all", "postgres", "peer"]]


@pytest.mark.parametrize("members", [["lab1"], ["lab1", "lab2", "lab3"]])
def test_commits_wait_for_a_replica_where_there_are_several_members(members: list[str]) -> None:
    rendered = role()
    rendered.variables["groups"]["postgresql"] = members
    assert rendered.value("_postgresql_dcs.synchronous_mode") == ("quorum" if len(members) > 1 else False)


def test_an_operators_pause_survives_a_run() -> None:
    rendered = role(_postgresql_state={"config": {"pause": True, "ttl": 99, "postgresql": {}}})
    merged = rendered.value("_postgresql_dcs_merged")
    assert merged["pause"] is True
    assert merged["ttl"] == 20


def test_the_order_of_members_does_not_change_from_run_to_run() -> None:
    assert role().template(TEMPLATES / "patroni.yml.j2") == role().template(TEMPLATES / "patroni.yml.j2")
    assert role().value("_postgresql_peers") == ["10.213.0.12", "10.213.0.13"]


def test_sql_holds_no_password() -> None:
    text = role().template(TEMPLATES / "databases.sql.j2")
    assert not [secret for secret in SECRETS.values() if secret in text]
    assert "alter role trading_user nologin" in text


def test_verification_expects_the_other_members_as_replicas() -> None:
    text = role().template(TEMPLATES / "verify.sql.j2")
    assert "of 2'" in text
    assert "no replica confirms commits" in text


def test_probe_is_python_and_knows_every_member() -> None:
    text = role().template(TEMPLATES / "30-postgresql.j2")
    ast.parse(text)
    assert '["lab1", "lab2", "lab3"]' in text


def test_members_that_have_to_be_restarted_come_replicas_first() -> None:
    stale = {"__postgresql_unit": {"active": True, "stale": True}}
    rendered = role(_postgresql_state={"leader": "lab1"}, ansible_play_hosts=["lab1", "lab2", "lab3"])
    for name in ("lab1", "lab3"):
        rendered.variables["hostvars"][name] |= stale
    rendered.variables["hostvars"]["lab2"] |= {"__postgresql_unit": {"active": True, "stale": False}}
    assert rendered.value("_postgresql_stale_members") == ["lab3", "lab1"]
