"""The scripts the role postgresql runs on hosts: which order restarts take, who succeeds, what a password's verifier is."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
from rendered_role import ROOT


def script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / f"roles/postgresql/files/{name}.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


restart = script("restart_pending")
databases = script("converge_databases")
inspect = script("inspect_member")


def member(name: str, position: str, state: str = "streaming", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": position, "state": state} | more


def cluster(*members: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in members}


class FakePatroni:
    """A cluster in memory that does what it is told and remembers the order."""

    def __init__(self, *members: dict[str, Any]) -> None:
        self.state = cluster(*members)
        self.told: list[str] = []

    def members(self) -> dict[str, dict[str, Any]]:
        return self.state

    def restart(self, one: dict[str, Any]) -> None:
        self.told.append(f"restart {one['name']}")
        one["pending_restart"] = False

    def switch_over(self, leader: str, candidate: str) -> None:
        self.told.append(f"{leader} hands over to {candidate}")
        self.state[leader] |= {"role": "replica", "state": "streaming"}
        self.state[candidate] |= {"role": "leader", "state": "running"}


def test_replicas_are_restarted_before_the_leader_who_hands_over_first() -> None:
    patroni = FakePatroni(
        member("a", "leader", "running", pending_restart=True),
        member("b", "quorum_standby", pending_restart=True),
        member("c", "quorum_standby", pending_restart=True),
    )
    restart.restart_pending(patroni)
    assert patroni.told == ["restart b", "restart c", "a hands over to b", "restart a"]


def test_a_leader_that_is_alone_is_restarted_in_place() -> None:
    patroni = FakePatroni(member("a", "leader", "running", pending_restart=True))
    restart.restart_pending(patroni)
    assert patroni.told == ["restart a"]


def test_nothing_is_restarted_where_nothing_waits() -> None:
    patroni = FakePatroni(member("a", "leader", "running"), member("b", "replica"))
    assert restart.restart_pending(patroni) == []
    assert patroni.told == []


def test_a_member_that_still_waits_in_the_end_is_named() -> None:
    patroni = FakePatroni(member("a", "leader", "running", pending_restart=True))
    patroni.restart = lambda one: None  # type: ignore[method-assign]
    with pytest.raises(SystemExit, match="still waiting for a restart: a"):
        restart.restart_pending(patroni)


def test_a_synchronous_replica_succeeds_before_an_asynchronous_one_with_less_lag() -> None:
    members = cluster(member("a", "leader", "running"), member("b", "replica", lag=0), member("c", "sync_standby", lag=10))
    assert restart.successor(members) == "c"


@pytest.mark.parametrize("unfit", [{"state": "starting"}, {"tags": {"nofailover": True}}])
def test_a_replica_that_is_not_fit_does_not_succeed(unfit: dict[str, Any]) -> None:
    assert restart.successor(cluster(member("a", "leader", "running"), member("b", "replica") | unfit)) is None


def test_a_verifier_is_of_its_password_and_of_no_other() -> None:
    kept = databases.verifier("correct horse")
    assert kept.startswith("SCRAM-SHA-256$4096:")
    assert databases.matches("correct horse", kept)
    assert not databases.matches("battery staple", kept)


@pytest.mark.parametrize("kept", [None, "", "md5d41d8cd98f00b204e9800998ecf8427e"])
def test_what_is_no_verifier_matches_no_password(kept: str | None) -> None:
    assert not databases.matches("correct horse", kept)


def seen(*members: dict[str, Any], name: str = "a") -> dict[str, Any]:
    leader = next((each["name"] for each in members if each["role"] == "leader"), None)
    return {"name": name, "leader": leader, "members": cluster(*members)}


def test_a_leader_that_runs_is_well() -> None:
    assert inspect.complaint(seen(member("a", "leader", "running"))) == ""


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (seen(member("a", "replica", "running")), "no leader"),
        (seen(member("b", "leader", "running")), "has not joined"),
        (seen(member("b", "leader", "stopping"), member("a", "replica")), "b is stopping"),
        (seen(member("b", "leader", "running"), member("a", "replica", "running")), "not streaming from b"),
    ],
)
def test_what_is_not_well_is_said(state: dict[str, Any], words: str) -> None:
    assert words in inspect.complaint(state)


def test_a_member_that_is_about_to_be_restarted_need_not_be_well() -> None:
    state = seen(member("b", "leader", "running"), member("a", "replica", "running"))
    assert inspect.complaint(state, leader_only=True) == ""
