"""Three hosts, every group on all three: the same site.yml makes three-member clusters."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from conftest import Life
from fleet import Fleet


@pytest.fixture(scope="module")
def fleet(ha: Life) -> Fleet:
    assert ha.converge is not None
    assert ha.converge.code == 0, ha.converge.tail()
    return ha.fleet


def test_bin_lab_up_ends_with_health_an_address_and_a_token_that_works(ha: Life, fleet: Fleet) -> None:
    assert ha.converge is not None
    told = ha.converge.output
    assert "lab1: healthy" in told
    assert re.search(r"^url: https://\S+/$", told, re.M)
    copied = told[told.index("TOKEN=") :].split("\n\n")[0]
    answer = subprocess.run(["bash", "-c", copied], capture_output=True, text=True, check=True, timeout=60)
    assert isinstance(json.loads(answer.stdout), list), answer.stdout


def test_the_second_run_changes_nothing_on_any_host(ha: Life, fleet: Fleet) -> None:
    assert ha.again is not None
    assert ha.again.code == 0, ha.again.tail()
    assert set(ha.again.changed.items()) >= {("lab1", 0), ("lab2", 0), ("lab3", 0)}, ha.again.changed_tasks()


@pytest.mark.parametrize("host", ["lab1", "lab2", "lab3"])
def test_every_host_is_healthy(fleet: Fleet, host: str) -> None:
    fleet.healthy(host)


def test_postgresql_has_a_leader_and_two_members_that_stream(fleet: Fleet) -> None:
    listed = json.loads(fleet.on("lab1", "patronictl -c /etc/patroni/patroni.yml list --format json").stdout)
    roles = sorted(member["Role"] for member in listed)
    assert roles.count("Leader") == 1, listed
    assert len(roles) == 3, listed
    assert {member["State"] for member in listed if member["Role"] != "Leader"} == {"streaming"}, listed
    assert any("Quorum" in role or "Sync" in role for role in roles), listed


def test_three_members_of_everything_are_reported_by_the_health_check(fleet: Fleet) -> None:
    _, parts = fleet.health("lab1")
    for service in ("postgresql", "mongodb", "redis", "etcd", "sentinel"):
        assert any(service in part for part in parts), (service, sorted(parts))
