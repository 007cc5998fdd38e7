#!/usr/bin/env python3
"""How fast bare hosts become a healthy platform, how fast a second run is, and what an idle host then needs.

    .venv/bin/python tests/bench/converge.py [--topology single|ha] [--rounds N]

Boots fresh lab hosts (packages come from the lab's cache once it is warm), runs site.yml, waits for health_check.sh to
be green on every host, runs site.yml again, and sums the proportional set size of every process. Prints each figure
beside its limit, and the slowest tasks of both runs.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fleet"))

from fleet import Fleet, Run

LIMITS = {"single": {"healthy": 240, "again": 45}, "ha": {"healthy": 480, "again": 90}}
IDLE_MEMORY_MIB = 3072
PROFILE = re.compile(r"^(?P<task>\S.*?) -+ (?P<seconds>[\d.]+)s$", re.M)


def slowest(run: Run, count: int = 8) -> list[tuple[float, str]]:
    """The slowest tasks, as the profile callback printed them."""
    rows = [(float(found["seconds"]), found["task"]) for found in PROFILE.finditer(run.output)]
    return sorted(rows, reverse=True)[:count]


def memory_mib(fleet: Fleet, host: str) -> float:
    """Sum of proportional set sizes of every process of a host, in MiB."""
    text = fleet.on(host, "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ { s += $2 } END { print s }'").stdout
    return float(text) / 1024


def one_round(topology: str) -> tuple[float, float, dict[str, float], Run, Run]:
    fleet = Fleet(f"bench-{topology}", topology)
    fleet.remove()
    fleet.boot()
    try:
        began = time.monotonic()
        first = fleet.play("site.yml")
        if first.code != 0:
            raise SystemExit(first.tail())
        for host in fleet.hosts:
            fleet.healthy(host)
        healthy = time.monotonic() - began
        again = fleet.play("site.yml")
        if again.code != 0 or any(again.changed.values()):
            raise SystemExit(f"the second run changed something: {again.changed_tasks()}\n{again.tail()}")
        memory = {host: memory_mib(fleet, host) for host in fleet.hosts}
    finally:
        fleet.remove()
    return healthy, again.seconds, memory, first, again


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--topology", choices=LIMITS, default="single")
    arguments.add_argument("--rounds", type=int, default=1)
    given = arguments.parse_args()
    rounds = [one_round(given.topology) for _ in range(given.rounds)]
    limit = LIMITS[given.topology]
    print(f"{'figure':42} {'median':>10} {'limit':>10}   rounds: {given.rounds}")
    print(f"{given.topology + ': virgin host to healthy (s)':42} {statistics.median(r[0] for r in rounds):10.0f} {limit['healthy']:10}")
    print(f"{given.topology + ': second run, changed=0 (s)':42} {statistics.median(r[1] for r in rounds):10.0f} {limit['again']:10}")
    for host in rounds[0][2]:
        print(
            f"{host + ': idle memory, all processes (MiB)':42} {statistics.median(r[2][host] for r in rounds):10.0f} {IDLE_MEMORY_MIB:10}"
        )
    for title, run in (("first run", rounds[-1][3]), ("second run", rounds[-1][4])):
        print(f"\nslowest tasks, {title}")
        for seconds, task in slowest(run):
            print(f"{seconds:8.1f} s  {task}")


if __name__ == "__main__":
    main()
