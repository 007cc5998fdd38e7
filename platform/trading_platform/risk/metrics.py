"""What risk shows of itself (MON-05, MON-06): every host shows the figures the leader published, NaN where one is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from prometheus_client import Counter, Gauge

from trading_platform.domain.risk import Measure, ratio
from trading_platform.risk.store import FigureRow

EXPOSURE = Gauge("smc_risk_total_exposure", "Value of all positions, were everything filled that works; NaN while unknown", ["account"])
EXPOSURE_RATIO = Gauge("smc_risk_exposure_ratio", "Exposure as a share of its limit", ["account"])
EQUITY = Gauge("smc_risk_equity", "Capital with realised and unrealised result", ["account"])
DAILY_PNL = Gauge("smc_risk_daily_pnl", "Result since 00:00 UTC, NaN while unknown", ["account"])
DAILY_LOSS_RATIO = Gauge("smc_risk_daily_loss_ratio", "Loss since 00:00 UTC as a share of its limit", ["account"])
POSITION_RATIO = Gauge("smc_risk_position_ratio", "Largest position as a share of its limit", ["account"])
DRAWDOWN = Gauge("smc_risk_drawdown_ratio", "Fall from the highest equity", ["account"])
LEVERAGE = Gauge("smc_risk_leverage_ratio", "Exposure by equity: the margin used", ["account"])
VAR_95 = Gauge("smc_risk_var_95", "One-day value at risk at 95 %", ["account"])
VAR_99 = Gauge("smc_risk_var_99", "One-day value at risk at 99 %", ["account"])
SHORTFALL = Gauge("smc_risk_expected_shortfall", "Mean one-day loss beyond the value at risk at 95 %", ["account"])
USAGE = Gauge("smc_risk_limit_usage_ratio", "Each limit that is set: used as a share of allowed", ["account", "limit"])
WARNINGS = Counter("smc_risk_limit_warnings_total", "Times a limit's usage rose to the warning level", ["account", "limit"])
BREACHES = Counter("smc_risk_limit_breaches_total", "Times a breaker's limit was crossed", ["account", "limit"])
FIGURES_AGE = Gauge("smc_risk_figures_age_seconds", "Age of the published figures", ["account"])
STOP_HITS = Gauge(
    "smc_risk_stop_loss_hit_ratio", "Share of stop losses among protective orders filled in 24 h, NaN without any", ["account"]
)
UNKNOWN = Counter("smc_risk_unknown_total", "Times the figures could not be computed", ["account"])

_NAN = float("nan")
_OF_LIMIT = {"max_total_exposure": EXPOSURE_RATIO, "max_daily_loss": DAILY_LOSS_RATIO, "max_position_notional": POSITION_RATIO}


def show(row: FigureRow, age_s: float) -> None:
    """The published figures."""
    account = row.account_id
    FIGURES_AGE.labels(account).set(age_s)
    for gauge, value in ((EXPOSURE, row.exposure), (EQUITY, row.equity), (VAR_95, row.var_95), (VAR_99, row.var_99)):
        gauge.labels(account).set(_number(value))
    SHORTFALL.labels(account).set(_number(row.expected_shortfall))
    daily = None if row.equity is None or row.equity_day is None else row.equity - row.equity_day
    DAILY_PNL.labels(account).set(_number(daily))
    peak = row.peak_equity
    fallen = None if row.equity is None or peak is None or peak <= 0 else (peak - row.equity) / peak
    DRAWDOWN.labels(account).set(_number(fallen))
    geared = None if row.equity is None or row.exposure is None or row.equity <= 0 else row.exposure / row.equity
    LEVERAGE.labels(account).set(_number(geared))


def show_usage(account: str, found: Iterable[Measure]) -> None:
    for measure in found:
        value = _NAN if measure.used is None else float(ratio(measure))
        USAGE.labels(account, measure.limit).set(value)
        if measure.limit in _OF_LIMIT:
            _OF_LIMIT[measure.limit].labels(account).set(value)


def show_stops(account: str, stopped: int, taken: int) -> None:
    STOP_HITS.labels(account).set(stopped / (stopped + taken) if stopped + taken else _NAN)


def _number(value: Decimal | None) -> float:
    return _NAN if value is None else float(value)
