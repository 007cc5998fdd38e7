"""What each strategy can be told, with bounds: judged when the configuration is read, before anything starts.

Only these models are here, so that whoever checks a configuration needs none of the strategies' libraries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Kind = Literal["donchian", "ma_trend", "mean_reversion", "smc_confluence"]

Candles = Annotated[int, Field(ge=2, le=2_000)]
Multiple = Annotated[float, Field(gt=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class InvalidParameters(ValueError):
    """A strategy cannot be told that; the text names each parameter, what was found and what is allowed."""


class Parameters(BaseModel):
    """Lengths are in candles. Unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    allow_short: bool = False


class DonchianParameters(Parameters):
    """Breakout of the last candles' channel, in the direction of an exponential average."""

    channel: Annotated[int, Field(ge=2, le=10_000)] = 20
    exit_channel: Annotated[int, Field(ge=2, le=10_000)] = 10
    trend: Annotated[int, Field(ge=2, le=10_000)] = 50


class MaTrendParameters(Parameters):
    """A fast exponential average crossing a slow one; the stop trails the extreme of `stop_channel` candles by so many average ranges."""

    fast: Candles = 20
    slow: Candles = 50
    atr: Candles = 14
    stop_channel: Candles = 20
    stop_atr: Multiple = 3.0

    @model_validator(mode="after")
    def _crossing(self) -> MaTrendParameters:
        if self.fast >= self.slow:
            raise ValueError(f"fast is {self.fast} and slow {self.slow}; expected fast below slow")
        return self


class MeanReversionParameters(Parameters):
    """Entered `entry_width` deviations away from the mean with an exhausted RSI, left at the mean or `stop_width` deviations away."""

    period: Annotated[int, Field(ge=5, le=2_000)] = 20
    entry_width: Multiple = 2.0
    stop_width: Multiple = 3.5
    rsi: Candles = 14
    oversold: Annotated[float, Field(gt=0, lt=50)] = 30.0
    overbought: Annotated[float, Field(gt=50, lt=100)] = 70.0

    @model_validator(mode="after")
    def _widths(self) -> MeanReversionParameters:
        if self.entry_width >= self.stop_width:
            raise ValueError(f"entry_width is {self.entry_width} and stop_width {self.stop_width}; expected entry_width below stop_width")
        # The last of n numbers cannot be farther than √(n − 1) of their deviations from their mean.
        farthest = math.sqrt(self.period - 1)
        if self.stop_width >= farthest:
            raise ValueError(
                f"stop_width is {self.stop_width}, but no close is ever {farthest:.2f} deviations from the mean of {self.period} closes; "
                "choose a smaller stop_width or a longer period"
            )
        return self


class SmcConfluenceParameters(Parameters):
    """With the structure, from an order block or fair value gap, where at least `confluence` of zone kinds, sweep and discount agree."""

    length: Annotated[int, Field(ge=1, le=500)] = 10
    zone_candles: Annotated[int, Field(ge=1, le=10_000)] = 200
    sweep_candles: Annotated[int, Field(ge=1, le=1_000)] = 20
    discount: Share = 0.5
    target: Share = 0.9
    confluence: Annotated[int, Field(ge=1, le=4)] = 3

    @model_validator(mode="after")
    def _range(self) -> SmcConfluenceParameters:
        if self.discount >= self.target:
            raise ValueError(f"discount is {self.discount} and target {self.target}; expected discount below target")
        return self


MODELS: Mapping[Kind, type[Parameters]] = {
    "donchian": DonchianParameters,
    "ma_trend": MaTrendParameters,
    "mean_reversion": MeanReversionParameters,
    "smc_confluence": SmcConfluenceParameters,
}


def check(kind: Kind, given: Mapping[str, Any]) -> Parameters:
    """The strategy's parameters, defaults filled in. Raises InvalidParameters naming every wrong one at once."""
    model = MODELS[kind]
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise InvalidParameters("; ".join(_explain(kind, model, problem) for problem in error.errors())) from None


def _explain(kind: Kind, model: type[Parameters], problem: Any) -> str:
    name = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "extra_forbidden":
            return f"{name}: {kind} has no such parameter; it has {', '.join(sorted(model.model_fields))}"
        case "value_error":
            return str(problem["msg"]).removeprefix("Value error, ")
        case _:
            return f"{name}: found {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"
