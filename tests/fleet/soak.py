#!/usr/bin/env python3
"""The crash matrix in its long form: an engine killed again and again, at named steps and at any moment, on a venue that misbehaves.

    platform/.venv/bin/python tests/fleet/soak.py --kills 2000 --minutes 600 --seed 1 --log soak.jsonl

Ends after so many kills or minutes, whichever comes first; then everything held is closed and the ledger must equal the venue's
account to the last digit. One line of JSON a life goes to the log; a table and the verdict to the standard output. Exit: 0 nothing
was lost, double or invented; 1 something was (it is named); 2 wrong use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("platform", "tests", "tests/faults")]

from harness import FAULTS, Kill, Launcher, NotReached, Outcome, Stage, scene, staged
from launcher import POINTS

OUTAGES = 0.08  # share of the kills that are not the engine's
AT_STEPS = 0.6  # share of the engine's that are at named steps


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--kills", type=int, default=1000, metavar="N")
    command.add_argument("--minutes", type=float, default=120.0, metavar="M")
    command.add_argument("--seed", type=int, default=1, metavar="S")
    command.add_argument("--log", type=Path, default=Path("soak.jsonl"), metavar="FILE")
    return command


def choose(draw: random.Random) -> tuple[Kill, str]:
    faults = draw.choice(sorted(FAULTS))
    if draw.random() < OUTAGES:
        return Kill(who=draw.choice(("postgresql", "paper-venue")), after_s=draw.uniform(0.2, 3.0)), faults
    if draw.random() < AT_STEPS:
        point = draw.choice(list(POINTS))
        if point.startswith("unknown"):
            faults = "silence"
        return Kill(point=point, passes=draw.randrange(3)), faults
    if draw.random() < 0.3:
        return Kill(after_s=draw.uniform(0.0, 2.5), early=True), faults
    return Kill(after_s=draw.uniform(0.1, 4.0)), faults


def run(stage: Stage, kills: int, until: float, seed: int, log: Path) -> list[Outcome]:
    draw, outcomes = random.Random(seed), []
    with log.open("a") as raw:
        for number in range(1, kills + 1):
            if time.monotonic() >= until:
                break
            kill, faults = choose(draw)
            try:
                outcome = stage.live(kill, faults, seed)
            except NotReached as missed:
                raw.write(json.dumps({"life": number, "not_reached": str(missed)}) + "\n")
                continue
            outcomes.append(outcome)
            raw.write(json.dumps({"life": number, **asdict(outcome)}) + "\n")
            raw.flush()
            if outcome.problems:
                print(f"life {number}: {kill} under {faults}:", *outcome.problems, sep="\n  ", file=sys.stderr)
                break
            if number % 50 == 0:
                print(f"{number} lives, {sum(one.orders for one in outcomes)} orders", file=sys.stderr)
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    counts = Counter(outcome.kill.name for outcome in outcomes)
    lines = [f"{'killed at':<30} {'kills':>6} {'orders':>8} {'ready s':>9} {'agreed s':>9} {'wrong':>6}"]
    for name in sorted(counts):
        group = [one for one in outcomes if one.kill.name == name]
        worst = max(one.ready_s for one in group), max(one.agreed_s for one in group)
        bad = sum(bool(one.problems) for one in group)
        lines.append(f"{name:<30} {counts[name]:>6} {sum(one.orders for one in group):>8} {worst[0]:>9.2f} {worst[1]:>9.2f} {bad:>6}")
    return "\n".join(lines)


def main() -> int:
    asked = parser().parse_args()
    until = time.monotonic() + asked.minutes * 60
    with (
        scene() as (postgres, redis_server, directory),
        Launcher() as launcher,
        staged(launcher, postgres, redis_server, directory / "soak") as stage,
    ):
        outcomes = run(stage, asked.kills, until, asked.seed, asked.log)
        bad = [problem for outcome in outcomes for problem in outcome.problems]
        if not bad:
            bad = asyncio.run(stage.closed())
        counts = stage.counts()
    print(table(outcomes))
    print(f"{len(outcomes)} kills; at the end {', '.join(f'{number} {name}' for name, number in counts.items())}")
    print("\n".join(bad) if bad else "nothing lost, nothing double, nothing invented; the ledger is the venue's account")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
