"""What trading.platform.mongodb_replica_set decides from a set's configuration, without a server."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from rendered_role import ROOT

MODULE = ROOT / "ansible/collections/ansible_collections/trading/platform/plugins/modules/mongodb_replica_set.py"


@pytest.fixture(scope="module")
def decide() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mongodb_replica_set", MODULE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def member(number: int, votes: int = 1, priority: float = 1) -> dict:
    return {"_id": number, "host": f"h{number}:27017", "votes": votes, "priority": priority}


def config(*members: dict) -> dict:
    return {"_id": "trading_rs", "version": 4, "members": list(members), "settings": {"electionTimeoutMillis": 2000}}


def asked(*numbers: int) -> list[dict]:
    return [{"host": f"h{number}:27017", "priority": 1} for number in numbers]


def test_new_members_come_without_a_vote_and_with_numbers_never_used_before(decide: ModuleType) -> None:
    changed, new = decide.with_new_members(config(member(0), member(5)), asked(0, 5, 6, 7))
    assert new == ["h6:27017", "h7:27017"]
    assert [(m["_id"], m["votes"], m["priority"]) for m in changed["members"][2:]] == [(6, 0, 0.0), (7, 0, 0.0)]


def test_votes_are_given_one_member_at_a_time(decide: ModuleType) -> None:
    start = config(member(0), member(1, 0, 0), member(2, 0, 0))
    once, first = decide.with_vote(start, asked(0, 1, 2))
    twice, second = decide.with_vote(once, asked(0, 1, 2))
    assert (first, second) == ("h1:27017", "h2:27017")
    assert decide.with_vote(twice, asked(0, 1, 2)) == (twice, "")


def test_the_eighth_member_has_no_vote(decide: ModuleType) -> None:
    everybody = config(*[member(n) for n in range(7)], member(7, 0, 0))
    assert decide.with_vote(everybody, asked(*range(8)))[1] == ""


def test_a_converged_set_is_left_alone(decide: ModuleType) -> None:
    found = config(member(0), member(1), member(2))
    assert decide.with_new_members(found, asked(0, 1, 2)) == (found, [])
    assert decide.with_vote(found, asked(2, 1, 0))[1] == ""
    assert decide.with_settings(found, {"electionTimeoutMillis": 2000})[1] == []


def test_settings_nobody_asked_for_are_kept(decide: ModuleType) -> None:
    found = config(member(0)) | {"settings": {"chainingAllowed": False, "electionTimeoutMillis": 10000}}
    changed, differing = decide.with_settings(found, {"electionTimeoutMillis": 2000})
    assert differing == ["electionTimeoutMillis"]
    assert changed["settings"] == {"chainingAllowed": False, "electionTimeoutMillis": 2000}


def test_a_member_the_inventory_does_not_name_is_reported(decide: ModuleType) -> None:
    assert decide.unexpected_members(config(member(0), member(1)), asked(0)) == ["h1:27017"]


@pytest.mark.parametrize(
    ("states", "may_go"),
    [
        ({"h0:27017": "PRIMARY", "h1:27017": "SECONDARY", "h2:27017": "SECONDARY"}, True),
        ({"h0:27017": "PRIMARY", "h1:27017": "SECONDARY", "h2:27017": "(not reachable/healthy)"}, False),
    ],
)
def test_a_member_goes_only_while_the_rest_is_a_healthy_majority(decide: ModuleType, states: dict, may_go: bool) -> None:
    found = config(member(0), member(1), member(2))
    assert decide.majority_remains(found, states, "h1:27017") is may_go


def test_a_dead_member_may_go_when_the_rest_is_healthy(decide: ModuleType) -> None:
    states = {"h0:27017": "PRIMARY", "h1:27017": "SECONDARY", "h2:27017": "(not reachable/healthy)"}
    assert decide.majority_remains(config(member(0), member(1), member(2)), states, "h2:27017")


def test_roles_are_compared_without_their_order(decide: ModuleType) -> None:
    one, two = {"role": "readWrite", "db": "a"}, {"role": "dbAdmin", "db": "a"}
    assert decide.same_roles([one, two], [two, one])
    assert not decide.same_roles([one], [one, two])
