"""Lab hosts for the fleet tests: each is taken through its life once, the tests judge what was seen, and it is gone before the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from fleet import Fleet, Run


@dataclass
class Life:
    """What happened to a fleet from its first boot on."""

    fleet: Fleet
    virgin_check: Run | None = None
    virgin_leftovers: str = ""
    interrupted: dict[str, str] = field(default_factory=dict)
    converge: Run | None = None
    again: Run | None = None
    check: Run | None = None


# Points at which a run is killed: between a database's files and its start, between a release and its switch, …
INTERRUPTIONS = ("firewall : ", "postgresql : ", "platform : ", "nginx : ")


@pytest.fixture(scope="session")
def single() -> Iterator[Life]:
    """One host: checked while virgin, converged through interruptions, converged again, checked again."""
    fleet = Fleet("fleet-single", "single")
    fleet.remove()
    fleet.boot()
    try:
        life = Life(fleet)
        before = fleet.on("lab1", "dpkg-query -W | sort; ls /etc /opt /usr/local/bin /var/lib").stdout
        life.virgin_check = fleet.play("site.yml", "--check", "--diff")
        after = fleet.on("lab1", "dpkg-query -W | sort; ls /etc /opt /usr/local/bin /var/lib").stdout
        life.virgin_leftovers = "\n".join(sorted(set(after.splitlines()) ^ set(before.splitlines())))
        for marker in INTERRUPTIONS:
            life.interrupted[marker] = fleet.play_until("site.yml", marker)
        life.converge = fleet.play("site.yml", "--diff")
        life.again = fleet.play("site.yml")
        life.check = fleet.play("site.yml", "--check", "--diff")
        yield life
    finally:
        fleet.remove()


@pytest.fixture(scope="module")
def ha() -> Iterator[Life]:
    """Three hosts with every group on all three, by the newcomer's command."""
    fleet = Fleet("fleet-ha", "ha")
    fleet.remove()
    try:
        life = Life(fleet)
        life.converge = fleet.up()
        life.again = fleet.play("site.yml")
        yield life
    finally:
        fleet.remove()
