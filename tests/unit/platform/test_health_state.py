"""What a row of looks makes of a part, and the parts of the whole."""

from __future__ import annotations

import pytest
from trading_platform.health.state import Look, Part, Status, verdict

GOOD, BAD, HALF = Look(ok=True), Look(ok=False, detail="away"), Look(ok=True, degraded=True, detail="slow")


def after(*looks: Look) -> list[Part]:
    part, history = Part("redis", critical=True), []
    for number, look in enumerate(looks):
        part = part.after(look, now=100.0 + 10 * number, failures=3)
        history.append(part)
    return history


def test_three_failed_looks_in_a_row_are_down_and_fewer_are_not() -> None:
    assert [part.status for part in after(GOOD, BAD, BAD, BAD, BAD)] == ["up", "suspect", "suspect", "down", "down"]


def test_a_good_look_between_starts_the_count_again() -> None:
    assert [part.status for part in after(BAD, BAD, GOOD, BAD, BAD)] == ["suspect", "suspect", "up", "suspect", "suspect"]


def test_one_good_look_brings_a_part_back() -> None:
    assert after(BAD, BAD, BAD, GOOD)[-1].status == "up"


def test_since_is_when_the_status_last_changed() -> None:
    assert [part.since for part in after(GOOD, GOOD, BAD, BAD, BAD, BAD)] == [100, 100, 120, 120, 140, 140]


def test_the_newest_detail_is_kept() -> None:
    assert [part.detail for part in after(BAD, HALF, GOOD)] == ["away", "slow", ""]


def _part(status: Status, *, critical: bool = True) -> Part:
    return Part("x", critical=critical, status=status)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([_part("up"), _part("up")], "healthy"),
        ([_part("up"), _part("suspect")], "degraded"),
        ([_part("up"), _part("degraded")], "degraded"),
        ([_part("up"), _part("down")], "unhealthy"),
        ([_part("up"), _part("unknown")], "unhealthy"),
        ([_part("up"), _part("down", critical=False)], "degraded"),
        ([_part("down", critical=False), _part("down")], "unhealthy"),
    ],
)
def test_the_whole_is_as_its_worst_critical_part(parts: list[Part], expected: str) -> None:
    assert verdict(parts) == expected
