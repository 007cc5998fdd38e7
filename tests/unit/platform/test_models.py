"""Fees, slippage, latency: by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from trading_platform.domain.models import (
    BasisPoints,
    ConstantLatency,
    InvalidModel,
    JitterLatency,
    Models,
    NoSlippage,
    Tier,
    TieredFees,
    VolumeShare,
    flat_fees,
    simulated,
)

D = Decimal


def test_maker_and_taker_pay_their_own_rate() -> None:
    fees = flat_fees(D(1), D(5))
    assert fees.fee(D("1234.5"), "maker") == D("0.12345")
    assert fees.fee(D("1234.5"), "taker") == D("0.61725")


def test_a_fee_does_not_depend_on_the_side_of_the_trade() -> None:
    assert flat_fees(D(1), D(5)).fee(D(-1000), "taker") == D("0.5")


def test_a_fee_is_rounded_half_even_to_eight_places() -> None:
    fees = flat_fees(D(0), D(1))
    assert fees.fee(D("0.00005"), "taker") == D("0E-8")
    assert fees.fee(D("0.00015"), "taker") == D("0.00000002")


def test_a_tier_begins_at_its_volume() -> None:
    fees = TieredFees((Tier(D(0), D(10), D(10)), Tier(D(1_000_000), D(9), D("9.5")), Tier(D(5_000_000), D(-1), D(4))))
    assert fees.rate("taker", D("999999.99")) == D("0.0010")
    assert fees.rate("taker", D(1_000_000)) == D("0.00095")
    assert fees.fee(D(10_000), "maker", D(9_000_000)) == D(-1)


@pytest.mark.parametrize("volumes", [[], [1], [0, 0], [0, 5, 3]])
def test_tiers_begin_at_nothing_and_rise(volumes: list[int]) -> None:
    with pytest.raises(InvalidModel, match="expected 0 first, then rising"):
        TieredFees(tuple(Tier(D(volume), D(1), D(1)) for volume in volumes))


def test_slippage_is_none_constant_or_by_the_square_of_the_share() -> None:
    assert NoSlippage().distance(D(9), D(3)) == 0
    assert BasisPoints(D("2.5")).distance(D(9), None) == D("0.00025")
    assert VolumeShare(D("0.1")).distance(D(1), D(1)) == D("0.1")
    assert VolumeShare(D("0.1")).distance(D(1), D(2)) == D("0.025")
    assert VolumeShare(D("0.1")).distance(D(9), None) == 0


def test_jitter_follows_from_seed_and_id_alone_and_stays_in_its_bounds() -> None:
    model = JitterLatency(1_000, 500, seed=3)
    delays = [model.delay_ns(number) for number in range(200)]
    assert delays == [JitterLatency(1_000, 500, seed=3).delay_ns(number) for number in range(200)]
    assert delays != [JitterLatency(1_000, 500, seed=4).delay_ns(number) for number in range(200)]
    assert 1_000 <= min(delays) < 1_050
    assert 1_450 < max(delays) <= 1_500
    assert ConstantLatency(7).delay_ns(1) == 7


@pytest.mark.parametrize(
    "make",
    [
        lambda: BasisPoints(D(-1)),
        lambda: BasisPoints(D("NaN")),
        lambda: VolumeShare(D(-1)),
        lambda: ConstantLatency(-1),
        lambda: JitterLatency(0, -1, 0),
        lambda: Models(depth=D("0.5")),
        lambda: Models(max_data_age_ns=0),
    ],
)
def test_a_model_that_cannot_be_is_refused(make: object) -> None:
    with pytest.raises(InvalidModel):
        make()  # type: ignore[operator]


def settings(**changes: Any) -> Models:
    plain: dict[str, Any] = {
        "maker_fee_bps": D(1), "taker_fee_bps": D(5), "slippage_bps": D(0), "slippage_impact": D(0), "depth": D(10), "latency_ms": D(0),
        "latency_jitter_ms": D(0), "max_data_age_s": D(30), "seed": 1,
    }  # fmt: skip
    return simulated(**plain | changes)


def test_settings_become_the_models_they_name() -> None:
    chosen = settings(depth=D("2.5"), slippage_bps=D(3), latency_ms=D("0.25"), max_data_age_s=D("1.5"))
    assert (chosen.depth, chosen.max_data_age_ns) == (D("2.5"), 1_500_000_000)
    assert (chosen.fees.rate("maker"), chosen.fees.rate("taker")) == (D("0.0001"), D("0.0005"))
    assert (chosen.slippage, chosen.latency) == (BasisPoints(D(3)), ConstantLatency(250_000))
    assert settings(latency_ms=D(2), latency_jitter_ms=D(3), seed=7).latency == JitterLatency(2_000_000, 3_000_000, 7)


def test_impact_comes_on_top_of_basis_points() -> None:
    both = settings(slippage_bps=D(100), slippage_impact=D("0.1")).slippage
    assert (both.distance(D(1), D(2)), both.distance(D(2), D(2)), both.distance(D(1), None)) == (D("0.035"), D("0.11"), D("0.01"))


def test_a_depth_below_what_is_shown_is_refused() -> None:
    with pytest.raises(InvalidModel, match=r"depth is 0\.5"):
        settings(depth=D("0.5"))
