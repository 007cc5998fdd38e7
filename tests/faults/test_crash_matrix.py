"""The engine is killed at every step at which something is kept or sent, and at any moment, on a venue that misbehaves; and so are
PostgreSQL and the venue under load.

After it: no acknowledged order lost, none at the venue that we do not know, none sent twice, every trade one fill, and
all books agree within 15 s. The long form is tests/fleet/soak.py.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from harness import FAULTS, Kill, Stage
from launcher import POINTS

SEED = 20261121
RANDOM_KILLS = 10

# Come by so seldom that the first time has to do; elsewhere some orders go well before.
SELDOM = ("unknown", "replacement", "child", "recovery", "comparison", "cancel", "outbox")
# Faults that make a point likely to be come by; elsewhere any will do.
NEEDS = {"unknown_before_commit": "silence", "unknown_after_commit": "silence"}


def fault_for(point: str) -> str:
    names = sorted(FAULTS)
    return NEEDS.get(point, names[list(POINTS).index(point) % len(names)])


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_step_nothing_is_lost_or_double(stage: Stage, point: str) -> None:
    draw = random.Random(f"{SEED}:{point}")
    passes = 0 if point.startswith(SELDOM) else draw.randrange(40)
    outcome = stage.live(Kill(point=point, passes=passes), fault_for(point), SEED)
    assert not outcome.problems, "\n".join(outcome.problems)


@pytest.mark.parametrize("number", range(RANDOM_KILLS))
def test_killed_at_any_moment_nothing_is_lost_or_double(stage: Stage, number: int) -> None:
    draw = random.Random(f"{SEED}:{number}")
    early = draw.random() < 0.25
    kill = Kill(after_s=draw.uniform(0.3, 2.0), early=early)
    outcome = stage.live(kill, draw.choice(sorted(FAULTS)), SEED + number)
    assert not outcome.problems, "\n".join(outcome.problems)


@pytest.mark.parametrize("faults", ["none", "submits_unanswered"])
def test_postgresql_killed_under_load_nothing_is_lost_or_double(stage: Stage, faults: str) -> None:
    outcome = stage.live(Kill(who="postgresql", after_s=1.0), faults, SEED)
    assert not outcome.problems, "\n".join(outcome.problems)


@pytest.mark.parametrize("faults", ["none", "lose_reports"])
def test_the_venue_killed_under_load_nothing_is_lost_or_double(stage: Stage, faults: str) -> None:
    outcome = stage.live(Kill(who="paper-venue", after_s=1.0), faults, SEED)
    assert not outcome.problems, "\n".join(outcome.problems)


@pytest.mark.parametrize("point", ["intent_before_commit", "before_send", "gate_passed"])
def test_an_engine_that_wakes_after_another_took_over_sends_nothing(stage: Stage, point: str) -> None:
    """Frozen in the middle of an order; the heir has settled what it left before it wakes."""
    assert stage.wake_after_the_heir(point, 20, SEED) == []


def test_at_the_end_everything_is_closed_and_the_ledger_is_the_venues_account(stage: Stage) -> None:
    """Also what is folded again from the events and the fills is what is kept."""
    assert asyncio.run(stage.closed()) == []
