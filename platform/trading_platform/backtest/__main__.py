"""python -m trading_platform.backtest: a strategy over a recording or the synthetic market; prints what came of it as JSON.

Accounts, limits, fees and the strategy's parameters come from --config where it is given, else from the defaults of the settings.
Exit status: 0 done, 1 the run failed, 2 wrong use, 3 the file is refused, 78 the configuration cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from trading_platform import config, money
from trading_platform.backtest import instruments
from trading_platform.backtest.runner import Backtest, BacktestFailed, Setup
from trading_platform.backtest.strategies import ConfiguredStrategy, Witnessed
from trading_platform.config import (
    AccountSettings,
    ConfigError,
    LimitSettings,
    MarketDataSettings,
    PaperVenueSettings,
    RiskSettings,
    Settings,
    StrategySettings,
)
from trading_platform.domain.figures import Unknown
from trading_platform.domain.models import InvalidModel, Models, simulated
from trading_platform.domain.risk import Limits
from trading_platform.instruments import Catalogue, UnknownInstrument
from trading_platform.market import replay_file
from trading_platform.market.replay_file import ReplayRefused
from trading_platform.market.synthetic import SECOND_NS, SyntheticMarket, synthetic_instrument
from trading_platform.market.ticks import Ticks
from trading_platform.strategies.lookahead import Report, lookahead
from trading_platform.strategies.model import LookAhead
from trading_platform.strategies.parameters import MODELS

DONE, FAILED, WRONG_USE, REFUSED, CONFIG = 0, 1, 2, 3, 78

_SYNTHETIC_STEP_NS = 600 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Sections:
    """The parts of the configuration a backtest looks at."""

    account: AccountSettings
    strategy: StrategySettings
    limits: LimitSettings
    venue: PaperVenueSettings
    conversion_rates: dict[str, Decimal]
    market: MarketDataSettings


@dataclass(frozen=True, slots=True)
class Source:
    """Where ticks come from."""

    name: str
    symbols: tuple[str, ...]
    from_quotes: bool
    ticks: Iterable[Ticks]


class WrongUse(Exception):
    """What was asked for makes no sense; the text says what does."""


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python -m trading_platform.backtest",
        description="Runs a strategy over recorded or synthetic ticks with the engine's own core and the paper venue's own market.",
        epilog="Exit status: 0 done, 1 the run failed, 2 wrong use, 3 the file is refused, 78 the configuration cannot be used.",
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="FILE", type=Path, help="Parquet or CSV of quotes, trades or candles")
    source.add_argument("--synthetic", nargs=2, metavar=("FROM", "TO"), type=_time, help="the synthetic market between two UTC times")
    command.add_argument("--symbol", action="append", metavar="SYMBOL", help="trade this one (again for more); default: all of the file")
    command.add_argument("--seed", type=int, default=1, help="of the synthetic market and of jitter (default 1)")
    command.add_argument("--strategy", choices=tuple(MODELS), help="its kind (default: the configuration's, donchian without one)")
    command.add_argument(
        "--parameter", action="append", type=_parameter, default=[], metavar="NAME=VALUE", help="of the strategy; again for more"
    )
    command.add_argument("--check-lookahead", action="store_true", help="run the strategy on beginnings of the candles as well and compare")
    command.add_argument("--config", metavar="FILE", type=Path, help="a platform.yaml: account, limits, fees, strategy")
    command.add_argument("--account", metavar="ID", help="one of its accounts (default: the strategy's)")
    for name, kind, what in (
        ("interval", int, "seconds of a candle"),
        ("channel", int, "--parameter channel=N"),
        ("exit-channel", int, "--parameter exit_channel=N"),
        ("trend", int, "--parameter trend=N"),
        ("notional", _amount, "value of an entry"),
        ("maker-bps", _amount, "maker fee in basis points"),
        ("taker-bps", _amount, "taker fee in basis points"),
        ("slippage-bps", _amount, "how far behind the top what it does not hold trades"),
        ("slippage-impact", _amount, "that much further for once the shown size, growing with its square, as a share of the price"),
        ("depth", _amount, "how many times the shown size a market order finds in all"),
        ("latency-ms", _amount, "from sending to the book"),
        ("latency-jitter-ms", _amount, "at most so much more, by the seed"),
    ):
        command.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    command.add_argument("--allow-short", action="store_true", default=None, help="let the strategy sell short")
    command.add_argument("--output", metavar="FILE", type=Path, help="write the whole result there, every order and fill")
    return command


def main(arguments: list[str] | None = None) -> int:
    command = parser()
    chosen = command.parse_args(arguments)
    try:
        sections = _sections(chosen)
        catalogue = instruments.catalogue()
        source = _source(chosen, catalogue, sections)
        document = _run(chosen, sections, catalogue, source)
    except ConfigError as error:
        return _say(CONFIG, str(error))
    except (WrongUse, UnknownInstrument, InvalidModel) as error:
        return _say(WRONG_USE, str(error))
    except ReplayRefused as error:
        return _say(REFUSED, f"{chosen.data}: {error}")
    except (BacktestFailed, LookAhead, Unknown) as error:
        return _say(FAILED, str(error))
    print(json.dumps(document, indent=2))
    return DONE


def _run(chosen: argparse.Namespace, sections: Sections, catalogue: Catalogue, source: Source) -> dict[str, Any]:
    setup = Setup(
        catalogue=catalogue,
        symbols=source.symbols,
        account=sections.account,
        limits=limits_of(sections.limits),
        models=_models(chosen, sections.venue),
        conversion_rates=sections.conversion_rates,
        fee_asset=sections.venue.fee_asset,
        basis="quotes" if source.from_quotes else "trades",
        source=source.name,
    )
    strategy = sections.strategy.model_copy(update={"instruments": list(source.symbols), "account": sections.account.id})
    traded = ConfiguredStrategy(strategy, catalogue)
    witnessed = Witnessed(traded) if chosen.check_lookahead else None
    result = Backtest(setup, witnessed or traded).run(source.ticks)
    checked = {} if witnessed is None else {"lookahead": _checked(traded, witnessed)}
    if chosen.output is not None:
        try:
            chosen.output.write_text(json.dumps(result.to_document(catalogue), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise WrongUse(f"{chosen.output}: cannot be written ({error.strerror})") from error
    return result.to_document(catalogue, details=False) | checked


def _checked(strategy: ConfiguredStrategy, witnessed: Witnessed) -> dict[str, Any]:
    """The look-ahead check on the candles the run has seen. Raises LookAhead where a strategy decided otherwise than it may."""
    reports: dict[str, Report] = {}
    for symbol, candles in witnessed.candles.items():
        report = reports[symbol] = lookahead(partial(strategy.fresh, symbol), candles)
        if report.violations:
            first = report.violations[0]
            raise LookAhead(
                f"{symbol}: {len(report.violations)} of {report.beginnings} beginnings were decided otherwise than the whole; after "
                f"{first.seen} candles row {first.candle} was {first.with_beginning}, with all {report.candles} it is {first.with_all}"
            )
    return {symbol: report.to_document() for symbol, report in reports.items()}


# --- what was chosen -----------------------------------------------------------------------------------------------------


def limits_of(settings: LimitSettings) -> Limits:
    """As the first version of an account's limits; without value at risk, which a backtest does not compute."""
    chosen = {name: getattr(settings, name) for name in LimitSettings.model_fields if name in Limits.__dataclass_fields__}
    return Limits(**chosen | {"version": 0, "max_data_age_s": money.parse(str(settings.max_data_age_s)), "max_var": None})


def _sections(chosen: argparse.Namespace) -> Sections:
    if chosen.config is None:
        account, strategy = AccountSettings(id="paper"), StrategySettings()
        sections = Sections(
            account, strategy, RiskSettings(), PaperVenueSettings(), Settings.model_fields["conversion_rates"].default, MarketDataSettings()
        )
    else:
        settings = config.load(chosen.config)
        known = settings.account(chosen.account or settings.strategy.account)
        if known is None:
            raise WrongUse(f"--account {chosen.account}: not in {chosen.config} ({', '.join(each.id for each in settings.accounts)})")
        sections = Sections(known, settings.strategy, settings.risk, settings.paper_venue, settings.conversion_rates, settings.market_data)
    flags = {"channel": chosen.channel, "exit_channel": chosen.exit_channel, "trend": chosen.trend, "allow_short": chosen.allow_short}
    parameters = {name: value for name, value in flags.items() if value is not None} | dict(chosen.parameter)
    document = sections.strategy.model_dump()
    if chosen.strategy is not None and chosen.strategy != sections.strategy.kind:
        document = {key: value for key, value in document.items() if key not in ("name", "version", "parameters")}
        document |= {"kind": chosen.strategy, "parameters": parameters}
    else:
        document["parameters"] |= parameters
    if chosen.notional is not None:
        document["order_notional"] = chosen.notional
    if chosen.interval is not None:
        document |= {"interval_s": chosen.interval, "intervals_s": {}}
    try:
        strategy = StrategySettings.model_validate(document)
    except ValueError as error:
        raise WrongUse(str(error)) from None
    return Sections(sections.account, strategy, sections.limits, sections.venue, sections.conversion_rates, sections.market)


def _models(chosen: argparse.Namespace, venue: PaperVenueSettings) -> Models:
    """The paper venue's, but for what was chosen."""
    return simulated(
        maker_fee_bps=_either(chosen.maker_bps, venue.maker_fee_bps),
        taker_fee_bps=_either(chosen.taker_bps, venue.taker_fee_bps),
        slippage_bps=_either(chosen.slippage_bps, venue.slippage_bps),
        slippage_impact=_either(chosen.slippage_impact, venue.slippage_impact),
        depth=_either(chosen.depth, venue.depth),
        latency_ms=_either(chosen.latency_ms, money.parse(str(venue.latency_ms))),
        latency_jitter_ms=_either(chosen.latency_jitter_ms, money.parse(str(venue.latency_jitter_ms))),
        max_data_age_s=money.parse(str(venue.max_data_age_s)),
        seed=chosen.seed,
    )


def _either(chosen: Decimal | None, configured: Decimal) -> Decimal:
    return configured if chosen is None else chosen


def _source(chosen: argparse.Namespace, catalogue: Catalogue, sections: Sections) -> Source:
    if chosen.data is not None:
        facts = replay_file.inspect(chosen.data, catalogue)
        symbols = tuple(chosen.symbol or facts.symbols)
        absent = [symbol for symbol in symbols if symbol not in facts.symbols]
        if absent:
            raise WrongUse(f"--symbol {absent[0]}: {chosen.data} holds {', '.join(facts.symbols)}")
        return Source(f"file:{chosen.data.name}", symbols, facts.kind == "quotes", replay_file.read(chosen.data, facts, catalogue))
    first, last = chosen.synthetic
    if last <= first:
        raise WrongUse(f"--synthetic: {last} is not after {first}")
    symbols = tuple(chosen.symbol or ("BTCUSDT",))
    rates = sections.market
    market = SyntheticMarket(
        [
            synthetic_instrument(catalogue.symbol(symbol), rates.prices.get(symbol), rates.quotes_per_second, rates.trades_per_second)
            for symbol in symbols
        ],
        chosen.seed,
    )
    begin, end = (int(at.timestamp()) * SECOND_NS for at in (first, last))
    steps = range(begin, end, _SYNTHETIC_STEP_NS)
    return Source(f"synthetic:{chosen.seed}", symbols, False, (market.ticks(step, min(end, step + _SYNTHETIC_STEP_NS)) for step in steps))


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time like 2026-01-31T00:00, found {text!r}") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, value


def _amount(text: str) -> Decimal:
    try:
        amount = money.parse(text)
    except money.MoneyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if amount < 0:
        raise argparse.ArgumentTypeError(f"expected zero or more, found {text}")
    return amount


def _say(status: int, text: str) -> int:
    print(f"backtest: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
