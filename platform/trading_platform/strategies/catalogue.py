"""Every strategy by its name. A class and the libraries it stands on are imported when it is asked for, not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from trading_platform.strategies.model import Strategy
from trading_platform.strategies.parameters import Kind, Parameters

_WHERE: dict[Kind, tuple[str, str]] = {
    "donchian": ("donchian", "Donchian"),
    "ma_trend": ("ma_trend", "MaTrend"),
    "mean_reversion": ("mean_reversion", "MeanReversion"),
    "smc_confluence": ("smc_confluence", "SmcConfluence"),
}


def strategy_class(kind: Kind) -> type[Strategy[Any]]:
    """The class of that name. Raises ImportError where its libraries may not run in this process."""
    module, name = _WHERE[kind]
    chosen: type[Strategy[Any]] = getattr(import_module(f"trading_platform.strategies.{module}"), name)
    return chosen


def create(parameters: Parameters, kind: Kind, symbol: str, interval_s: int) -> Strategy[Any]:
    """A strategy that has seen nothing yet, on one series of candles."""
    return strategy_class(kind)(parameters, symbol, interval_s)
