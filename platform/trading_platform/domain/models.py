"""What trading costs: fees, slippage, latency, as small classes that replace one another. Pure: Decimal, int, no clock.

Paper venue and backtest use the same ones, so a run on one is judged like a run on the other.

    models = Models(fees=FlatFees(Decimal(1), Decimal(5)), slippage=BasisPoints(Decimal(2)))
    models.fees.fee(Decimal(1000), "taker") == Decimal("0.5")
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol

from trading_platform import money

Liquidity = Literal["maker", "taker"]

FEE_PLACES = 8
SLIPPAGE_PLACES = 18


class InvalidModel(ValueError):
    """A model that cannot be: what was found and what is allowed."""


def _not_negative(name: str, value: Decimal | int) -> None:
    if (isinstance(value, Decimal) and not value.is_finite()) or value < 0:
        raise InvalidModel(f"{name} is {value}; expected zero or more")


# --- fees ----------------------------------------------------------------------------------------------------------------


class FeeModel(Protocol):
    def rate(self, liquidity: Liquidity, volume: Decimal = Decimal(0)) -> Decimal:
        """Share of the traded value (0.0005 = 5 basis points), given what the account traded in the last 30 days."""

    def fee(self, notional: Decimal, liquidity: Liquidity, volume: Decimal = Decimal(0)) -> Decimal:
        """What a trade of this value costs, in the same currency; negative is a rebate."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates in basis points from a 30-day volume on; a negative maker rate is a rebate."""

    volume: Decimal
    maker_bps: Decimal
    taker_bps: Decimal


@dataclass(frozen=True, slots=True)
class TieredFees:
    """Rates that fall with the volume of the last 30 days. Tiers begin at 0 and rise."""

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        volumes = [tier.volume for tier in self.tiers]
        if not volumes or volumes[0] != 0 or volumes != sorted(set(volumes)):
            raise InvalidModel(f"tiers begin at volumes {[money.text(volume) for volume in volumes]}; expected 0 first, then rising")

    def rate(self, liquidity: Liquidity, volume: Decimal = Decimal(0)) -> Decimal:
        tier = next(tier for tier in reversed(self.tiers) if volume >= tier.volume or tier.volume == 0)
        return (tier.maker_bps if liquidity == "maker" else tier.taker_bps).scaleb(-4)

    def fee(self, notional: Decimal, liquidity: Liquidity, volume: Decimal = Decimal(0)) -> Decimal:
        return money.round_money(money.multiply(notional.copy_abs(), self.rate(liquidity, volume)), FEE_PLACES)


def flat_fees(maker_bps: Decimal, taker_bps: Decimal) -> TieredFees:
    """The same rates whatever the volume."""
    return TieredFees((Tier(Decimal(0), maker_bps, taker_bps),))


NO_FEES = flat_fees(Decimal(0), Decimal(0))


# --- slippage ------------------------------------------------------------------------------------------------------------


class SlippageModel(Protocol):
    def distance(self, quantity: Decimal, shown: Decimal | None) -> Decimal:
        """How far behind the top, as a share of its price, a market order trades what the top does not hold.

        `quantity` is how much was taken from behind the top with this, `shown` what the top showed (None: unknown).
        """


@dataclass(frozen=True, slots=True)
class NoSlippage:
    def distance(self, quantity: Decimal, shown: Decimal | None) -> Decimal:
        return Decimal(0)


@dataclass(frozen=True, slots=True)
class BasisPoints:
    """Always the same distance."""

    bps: Decimal

    def __post_init__(self) -> None:
        _not_negative("slippage in basis points", self.bps)

    def distance(self, quantity: Decimal, shown: Decimal | None) -> Decimal:
        return self.bps.scaleb(-4)


@dataclass(frozen=True, slots=True)
class VolumeShare:
    """Grows with the square of how many times the shown size is wanted: `impact` at once the size. Nothing where no size is known."""

    impact: Decimal

    def __post_init__(self) -> None:
        _not_negative("impact", self.impact)

    def distance(self, quantity: Decimal, shown: Decimal | None) -> Decimal:
        if shown is None:
            return Decimal(0)
        share = money.divide(quantity, shown, SLIPPAGE_PLACES)
        return money.round_money(money.multiply(self.impact, money.multiply(share, share)), SLIPPAGE_PLACES)


@dataclass(frozen=True, slots=True)
class Sum:
    """Several distances on top of one another."""

    models: tuple[SlippageModel, ...]

    def distance(self, quantity: Decimal, shown: Decimal | None) -> Decimal:
        return money.add(*(model.distance(quantity, shown) for model in self.models))


# --- latency -------------------------------------------------------------------------------------------------------------


class LatencyModel(Protocol):
    def delay_ns(self, order_id: int) -> int:
        """Nanoseconds from sending until the order (or its cancel) reaches the book."""


@dataclass(frozen=True, slots=True)
class ConstantLatency:
    ns: int = 0

    def __post_init__(self) -> None:
        _not_negative("latency", self.ns)

    def delay_ns(self, order_id: int) -> int:
        return self.ns


NO_LATENCY = ConstantLatency(0)


@dataclass(frozen=True, slots=True)
class JitterLatency:
    """Between `ns` and `ns + jitter_ns`, evenly; what an order gets follows from the seed and its id alone."""

    ns: int
    jitter_ns: int
    seed: int

    def __post_init__(self) -> None:
        _not_negative("latency", self.ns)
        _not_negative("jitter", self.jitter_ns)

    def delay_ns(self, order_id: int) -> int:
        digest = hashlib.sha256(f"{self.seed}:{order_id}".encode()).digest()
        return self.ns + int.from_bytes(digest[:8], "big") % (self.jitter_ns + 1)


# --- together ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Models:
    """`depth` is how many times the shown size a market order finds in all; `max_data_age_ns` None trusts any age."""

    fees: FeeModel = NO_FEES
    slippage: SlippageModel = NoSlippage()
    latency: LatencyModel = NO_LATENCY
    depth: Decimal = Decimal(10)
    max_data_age_ns: int | None = None

    def __post_init__(self) -> None:
        if not self.depth.is_finite() or self.depth < 1:
            raise InvalidModel(f"depth is {self.depth}; expected 1 (nothing behind the top) or more")
        if self.max_data_age_ns is not None and self.max_data_age_ns <= 0:
            raise InvalidModel(f"max_data_age_ns is {self.max_data_age_ns}; expected a positive number of nanoseconds, or None")


def simulated(
    *,
    maker_fee_bps: Decimal,
    taker_fee_bps: Decimal,
    slippage_bps: Decimal,
    slippage_impact: Decimal,
    depth: Decimal,
    latency_ms: Decimal,
    latency_jitter_ms: Decimal,
    max_data_age_s: Decimal,
    seed: int,
) -> Models:
    """The models that settings of these names stand for, in the paper venue and in a backtest. Raises InvalidModel."""
    steady, growing = BasisPoints(slippage_bps), VolumeShare(slippage_impact)
    latency_ns, jitter_ns = (int(money.multiply(each, Decimal(1_000_000))) for each in (latency_ms, latency_jitter_ms))
    return Models(
        fees=flat_fees(maker_fee_bps, taker_fee_bps),
        slippage=Sum((steady, growing)) if slippage_impact else steady,
        latency=JitterLatency(latency_ns, jitter_ns, seed) if jitter_ns else ConstantLatency(latency_ns),
        depth=depth,
        max_data_age_ns=int(money.multiply(max_data_age_s, Decimal(1_000_000_000))),
    )
