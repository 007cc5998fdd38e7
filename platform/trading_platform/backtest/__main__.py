"""trading-backtest: a strategy over a recording or the synthetic market, once or with many parameters; prints what came of it as JSON.

Accounts, limits, fees and the strategy's parameters come from --config where it is given, else from the defaults of the settings.
Exit status: 0 done, 1 the run failed, 2 wrong use, 3 the file is refused, 78 the configuration cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from trading_platform import config, money
from trading_platform.backtest import instruments, record, sweep
from trading_platform.backtest.progress import Progress
from trading_platform.backtest.report import report
from trading_platform.backtest.runner import Backtest, BacktestFailed, Setup
from trading_platform.backtest.spool import Spool
from trading_platform.backtest.strategies import ConfiguredStrategy, Witnessed
from trading_platform.backtest.sweep import METRICS, Span, Trial, Workers
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
from trading_platform.documents import Documents
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

DONE, FAILED, WRONG_USE, REFUSED, CONFIG, INTERRUPTED = 0, 1, 2, 3, 78, 130

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
    """Where ticks come from; the first is not before `first_ns`, the last not much after `last_ns`."""

    name: str
    symbols: tuple[str, ...]
    from_quotes: bool
    ticks: Iterable[Ticks]
    first_ns: int
    last_ns: int


class WrongUse(Exception):
    """What was asked for makes no sense; the text says what does."""


def _numbers() -> dict[str, tuple[Callable[[str], Any], str]]:
    """Options that are numbers, and what they are read with; a sweep may vary them, too."""
    return {
        "interval": (int, "seconds of a candle"),
        "channel": (int, "--parameter channel=N"),
        "exit-channel": (int, "--parameter exit_channel=N"),
        "trend": (int, "--parameter trend=N"),
        "notional": (_amount, "value of an entry"),
        "maker-bps": (_amount, "maker fee in basis points"),
        "taker-bps": (_amount, "taker fee in basis points"),
        "slippage-bps": (_amount, "how far behind the top what it does not hold trades"),
        "slippage-impact": (_amount, "that much further for once the shown size, growing with its square, as a share of the price"),
        "depth": (_amount, "how many times the shown size a market order finds in all"),
        "latency-ms": (_amount, "from sending to the book"),
        "latency-jitter-ms": (_amount, "at most so much more, by the seed"),
    }


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="trading-backtest",
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
    for name, (kind, what) in _numbers().items():
        command.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    command.add_argument("--allow-short", action="store_true", default=None, help="let the strategy sell short")
    command.add_argument("--output", metavar="FILE", type=Path, help="write the whole result there, every order and fill")
    command.add_argument("--report", metavar="FILE", type=Path, help="write an HTML page with plots there; it needs no other file")
    command.add_argument("--store", action="store_true", help="keep the whole result in MongoDB; needs --config")
    many = command.add_argument_group("many runs", "every combination of the values, on all cores; the result of the best is told in full")
    many.add_argument(
        "--sweep",
        action="append",
        type=_swept,
        default=[],
        metavar="NAME=A,B,C",
        help="a parameter or one of the numbers above; again for more",
    )
    many.add_argument("--metric", choices=tuple(METRICS), default="sharpe_ratio", help="what is best (default sharpe_ratio)")
    many.add_argument(
        "--walk-forward", type=_count, metavar="N", help="cut time into N + 1 pieces; choose in each piece, judge the choice in the next"
    )
    many.add_argument("--workers", type=_count, metavar="N", help="processes (default: one a core)")
    return command


def main(arguments: list[str] | None = None) -> int:
    command = parser()
    chosen = command.parse_args(arguments)
    try:
        _check_use(chosen)
        chosen.settings = None if chosen.config is None else config.load(chosen.config)
        catalogue = instruments.catalogue()
        source = _source(chosen, catalogue, _sections(chosen))
        shown, whole = _many(chosen, catalogue, source) if chosen.sweep else _once(chosen, catalogue, source)
    except ConfigError as error:
        return _say(CONFIG, str(error))
    except (WrongUse, UnknownInstrument, InvalidModel) as error:
        return _say(WRONG_USE, str(error))
    except ReplayRefused as error:
        return _say(REFUSED, f"{chosen.data}: {error}")
    except (BacktestFailed, LookAhead, Unknown) as error:
        return _say(FAILED, str(error))
    except KeyboardInterrupt:
        return _say(INTERRUPTED, "interrupted")
    print(json.dumps(shown, indent=2))
    if chosen.store:
        try:
            number = asyncio.run(_stored(chosen.settings, whole))
        except record.NotStored as error:
            return _say(FAILED, str(error))
        _say(DONE, f"kept in MongoDB, {record.COLLECTION} {number}")
    return DONE


def _trial(chosen: argparse.Namespace, catalogue: Catalogue, source: Source, varied: tuple[tuple[str, str], ...] = ()) -> Trial:
    sections = _sections(chosen)
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
    return Trial(varied, setup, strategy)


def _once(chosen: argparse.Namespace, catalogue: Catalogue, source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what is printed, the whole result)"""
    trial, data = _trial(chosen, catalogue, source), record.DataHash()
    traded = ConfiguredStrategy(trial.strategy, catalogue)
    witnessed = Witnessed(traded) if chosen.check_lookahead else None
    with Progress(source.last_ns - source.first_ns, source.name) as progress:
        result = Backtest(trial.setup, witnessed or traded).run(data.of(progress.over(source.ticks, source.first_ns)))
    checked = {} if witnessed is None else {"lookahead": _checked(traded, witnessed)}
    told = record.parameters(trial.setup, trial.strategy)
    whole = record.record(result, catalogue, told, data.hexdigest()) | checked
    _write_down(chosen, whole)
    return record.record(result, catalogue, told, data.hexdigest(), details=False) | checked, whole


# --- many runs -----------------------------------------------------------------------------------------------------------


def _many(chosen: argparse.Namespace, catalogue: Catalogue, source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `_once`, of the best."""
    trials = _trials(chosen, catalogue, source)
    with tempfile.TemporaryDirectory(prefix="trading-backtest-") as directory:
        spool, data = Spool(Path(directory)), record.DataHash()
        with Progress(source.last_ns - source.first_ns, f"reading {source.name}") as progress:
            spool.fill(data.of(progress.over(source.ticks, source.first_ns)))
        if not len(spool):
            raise WrongUse(f"{source.name} holds no ticks to sweep over")
        everything = Span(0, spool.last_ns + 1)
        folds = chosen.walk_forward or 0
        runs = len(trials) * max(1, folds) + folds
        processes = min(chosen.workers or os.cpu_count() or 1, len(trials))
        with Progress(runs, f"{runs:,} runs") as progress, Workers(trials, spool, processes, progress.one_more) as workers:
            table, best, span = _walked(trials, workers, chosen) if folds else _swept_over(trials, workers, chosen, everything)
        result = sweep.run(trials[best], spool, span)
    told = record.parameters(trials[best].setup, trials[best].strategy)
    whole = record.record(result, catalogue, told, data.hexdigest()) | {"sweep": table}
    _write_down(chosen, whole)
    print(_text(table), file=sys.stderr)
    return {"sweep": table, "best": record.record(result, catalogue, told, data.hexdigest(), details=False)}, whole


def _trials(chosen: argparse.Namespace, catalogue: Catalogue, source: Source) -> list[Trial]:
    """All of them are judged before any runs."""
    swept, numbers = dict(chosen.sweep), _numbers()
    if len(swept) < len(chosen.sweep):
        raise WrongUse("--sweep: a name is given twice; give its values once, with commas")
    trials: list[Trial] = []
    for varied in sweep.combinations(swept):
        if len(trials) == sweep.MOST_TRIALS:
            raise WrongUse(f"--sweep: more than {sweep.MOST_TRIALS:,} combinations")
        options = argparse.Namespace(**vars(chosen))
        options.parameter = list(chosen.parameter)
        for name, value in varied:
            if name in numbers:
                try:
                    setattr(options, name.replace("-", "_"), numbers[name][0](value))
                except (ValueError, argparse.ArgumentTypeError) as error:
                    raise WrongUse(f"--sweep {name}: {error}") from None
            else:
                options.parameter.append((name, value))
        trials.append(_trial(options, catalogue, source, varied))
    return trials


def _swept_over(trials: Sequence[Trial], workers: Workers, chosen: argparse.Namespace, whole: Span) -> tuple[dict[str, Any], int, Span]:
    """(the table, the best trial, what it ran over)"""
    outcomes = sweep.ranked(workers.sweep(whole), chosen.metric)
    if outcomes[0].found is None:
        raise BacktestFailed(f"of {len(outcomes)} runs none came to its end: {outcomes[0].failed}")
    lines = [sweep.told(trials, outcome) for outcome in outcomes]
    return {"title": f"Sweep, by {chosen.metric}", "metric": chosen.metric, "runs": lines}, outcomes[0].trial, whole


def _walked(trials: Sequence[Trial], workers: Workers, chosen: argparse.Namespace) -> tuple[dict[str, Any], int, Span]:
    """As above; told in full is the last piece, with what was chosen in the one before."""
    folds = workers.walk(chosen.metric, chosen.walk_forward)
    for fold in folds:
        for outcome in (fold.in_sample, fold.out_of_sample):
            if outcome.found is None:
                raise BacktestFailed(f"a run of the walk did not come to its end: {outcome.failed}")
    table = {
        "title": f"Walk forward, chosen by {chosen.metric}",
        "metric": chosen.metric,
        "runs": [sweep.fold_told(trials, fold, chosen.metric) for fold in folds],
        "unseen": sweep.unseen_together(folds),
    }
    return table, folds[-1].chosen, folds[-1].unseen


def _text(table: Mapping[str, Any], most: int = 20) -> str:
    """The first lines of it, for people."""
    runs = table["runs"][:most]
    names = [name for name in runs[0] if name != "event_log_hash"]
    lines = [names, *([str("–" if run.get(name) is None else run[name]) for name in names] for run in runs)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    more = [f"… and {len(table['runs']) - most:,} more"] if len(table["runs"]) > most else []
    return "\n".join([table["title"], *text, *more])


# --- what is kept --------------------------------------------------------------------------------------------------------


def _check_use(chosen: argparse.Namespace) -> None:
    """What would only be noticed after hours."""
    for path in (chosen.output, chosen.report):
        if path is not None and not (path.parent.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)):
            raise WrongUse(f"{path}: cannot be written")
    if chosen.store and chosen.config is None:
        raise WrongUse("--store needs --config: it says where MongoDB is")
    if chosen.walk_forward and not chosen.sweep:
        raise WrongUse("--walk-forward needs --sweep: it says what to choose from")
    if chosen.check_lookahead and chosen.sweep:
        raise WrongUse("--check-lookahead is for one run, not for a sweep")


def _write_down(chosen: argparse.Namespace, document: Mapping[str, Any]) -> None:
    """Into the files that were asked for."""
    if chosen.output is not None:
        _write(chosen.output, json.dumps(document, indent=1) + "\n")
    if chosen.report is not None:
        _write(chosen.report, report(document))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WrongUse(f"{path}: cannot be written ({error.strerror})") from error
    _say(DONE, f"written to {path}")


async def _stored(settings: Settings, document: Mapping[str, Any]) -> str:
    documents = Documents(settings)
    try:
        return await record.store(documents, document)
    finally:
        await documents.close()


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
    settings: Settings | None = chosen.settings
    if settings is None:
        account, strategy = AccountSettings(id="paper"), StrategySettings()
        sections = Sections(
            account, strategy, RiskSettings(), PaperVenueSettings(), Settings.model_fields["conversion_rates"].default, MarketDataSettings()
        )
    else:
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
        ticks = replay_file.read(chosen.data, facts, catalogue)
        return Source(f"file:{chosen.data.name}", symbols, facts.kind == "quotes", ticks, facts.first_ns, facts.end_ns)
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
    made = (market.ticks(step, min(end, step + _SYNTHETIC_STEP_NS)) for step in steps)
    return Source(f"synthetic:{chosen.seed}", symbols, False, made, begin, end)


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


def _swept(text: str) -> tuple[str, tuple[str, ...]]:
    name, values = _parameter(text)
    each = tuple(value.strip() for value in values.split(","))
    if not all(each) or len(set(each)) < len(each):
        raise argparse.ArgumentTypeError(f"expected NAME=A,B,C with different values, found {text!r}")
    return name, each


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1,000, found {text!r}")
    return int(text)


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
