"""Many runs over the same ticks: every combination of some parameters, on all cores; and the walk forward, which chooses by the past only.

A run depends on its setup and the ticks alone, and results are kept in the order of the trials: how many processes work on them
changes nothing.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from trading_platform import money
from trading_platform.backtest.result import Result
from trading_platform.backtest.runner import Backtest, BacktestFailed, Setup
from trading_platform.backtest.spool import Spool
from trading_platform.backtest.strategies import ConfiguredStrategy
from trading_platform.backtest.venue import moment
from trading_platform.config import StrategySettings
from trading_platform.domain.figures import Unknown

MOST_TRIALS: Final = 10_000
# What a sweep may be sorted by: where it stands in a result, and whether less is better.
METRICS: Final[Mapping[str, tuple[str, bool]]] = {
    "result": ("", False),
    "sharpe_ratio": ("returns", False),
    "sortino_ratio": ("returns", False),
    "calmar_ratio": ("returns", False),
    "total_return": ("returns", False),
    "max_drawdown": ("returns", True),
    "profit_factor": ("round_trips", False),
    "expectancy": ("round_trips", False),
}
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: what was varied, and all it depends on besides ticks."""

    varied: tuple[tuple[str, str], ...]
    setup: Setup
    strategy: StrategySettings


@dataclass(frozen=True, slots=True)
class Span:
    """Ticks of [begin, end) in UTC nanoseconds; those before `trade_from` only warm the strategy up."""

    begin_ns: int
    end_ns: int
    trade_from_ns: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial; `failed` says why nothing did."""

    trial: int
    found: Mapping[str, Any] | None
    failed: str = ""

    def metric(self, name: str) -> Decimal | None:
        if self.found is None:
            return None
        inside, _ = METRICS[name]
        text = (self.found[inside] if inside else self.found)[name]
        return None if text is None else Decimal(text)


@dataclass(frozen=True, slots=True)
class Fold:
    """A step of the walk: chosen by `seen`, judged by `unseen`, which comes after it."""

    chosen: int
    seen: Span
    unseen: Span
    in_sample: Outcome
    out_of_sample: Outcome


def combinations(swept: Mapping[str, Sequence[str]]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Every choice of one value each, the last name turning fastest."""
    for values in itertools.product(*swept.values()):
        yield tuple(zip(swept, values, strict=True))


def ranked(outcomes: Sequence[Outcome], metric: str) -> list[Outcome]:
    """The best first; those the metric says nothing about last; equal ones in the order of their trials."""
    _, less = METRICS[metric]

    def place(outcome: Outcome) -> tuple[bool, Decimal, int]:
        value = outcome.metric(metric)
        return value is None, Decimal(0) if value is None else value if less else -value, outcome.trial

    return sorted(outcomes, key=place)


def run(trial: Trial, spool: Spool, span: Span) -> Result:
    setup = replace(trial.setup, trade_from_ns=span.trade_from_ns)
    return Backtest(setup, ConfiguredStrategy(trial.strategy, setup.catalogue)).run(spool.parts(span.begin_ns, span.end_ns))


def _work(number: int, trial: Trial, directory: Path, span: Span) -> Outcome:
    """In a process of its own."""
    try:
        return Outcome(number, run(trial, Spool(directory), span).to_document(trial.setup.catalogue, details=False))
    except (BacktestFailed, Unknown) as error:
        return Outcome(number, None, str(error))


class Workers:
    """So many processes; they live as long as the context."""

    def __init__(self, trials: Sequence[Trial], spool: Spool, processes: int, on_done: Callable[[], None]) -> None:
        self._trials = trials
        self._spool = spool
        self._on_done = on_done
        # Spawned: a fork would copy the locks of threads that numerical libraries keep.
        self._pool = ProcessPoolExecutor(max_workers=processes, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def sweep(self, span: Span) -> list[Outcome]:
        """All trials over one span, in their order."""
        return self._all([(number, span) for number in range(len(self._trials))])

    def walk(self, metric: str, folds: int) -> list[Fold]:
        """Time is cut into one more piece than folds. In each fold every trial runs over a piece, and the best of them over the next,
        warmed up by the piece before, so that it has indicators from the first candle on."""
        first, last = self._spool.first_ns, self._spool.last_ns + 1
        edges = [first + (last - first) * number // (folds + 1) for number in range(folds + 2)]
        seen = [Span(begin, end) for begin, end in itertools.pairwise(edges[:-1])]
        unseen = [Span(begin, end, middle) for begin, middle, end in zip(edges, edges[1:], edges[2:], strict=False)]
        outcomes = self._all([(number, span) for span in seen for number in range(len(self._trials))])
        many = len(self._trials)
        best = [ranked(outcomes[at : at + many], metric)[0] for at in range(0, len(outcomes), many)]
        judged = self._all([(each.trial, span) for each, span in zip(best, unseen, strict=True)])
        return [Fold(each.trial, span, after, each, out) for each, span, after, out in zip(best, seen, unseen, judged, strict=True)]

    def _all(self, wanted: Sequence[tuple[int, Span]]) -> list[Outcome]:
        futures = [self._pool.submit(_work, number, self._trials[number], self._spool.directory, span) for number, span in wanted]
        for _ in as_completed(futures):
            self._on_done()
        return [future.result() for future in futures]


def told(trials: Sequence[Trial], outcome: Outcome) -> dict[str, Any]:
    """A line of the table: what was varied, what came of it."""
    line: dict[str, Any] = dict(trials[outcome.trial].varied)
    if outcome.found is None:
        return line | {"failed": outcome.failed}
    figures = {name: _text(outcome.metric(name)) for name in METRICS}
    return line | figures | {"fills": outcome.found["fills"], "event_log_hash": outcome.found["event_log_hash"]}


def fold_told(trials: Sequence[Trial], fold: Fold, metric: str) -> dict[str, Any]:
    """A line of the table of a walk: what was chosen, how good it was, and what came of it afterwards."""
    return {
        "chosen_from": moment(fold.seen.begin_ns).isoformat(timespec="seconds"),
        "judged_from": moment(fold.unseen.trade_from_ns).isoformat(timespec="seconds"),
        "judged_to": moment(fold.unseen.end_ns).isoformat(timespec="seconds"),
        **dict(trials[fold.chosen].varied),
        f"{metric}_before": _text(fold.in_sample.metric(metric)),
        **{name: _text(fold.out_of_sample.metric(name)) for name in METRICS},
        "fills": (fold.out_of_sample.found or {})["fills"],
    }


def unseen_together(folds: Sequence[Fold]) -> dict[str, str]:
    """What all choices came to in the pieces they had not seen: the results added up, the returns one after the other."""
    results = [fold.out_of_sample.metric("result") or ZERO for fold in folds]
    grown = Decimal(1)
    for fold in folds:
        grown = money.round_money(money.multiply(grown, money.add(Decimal(1), fold.out_of_sample.metric("total_return") or ZERO)), 12)
    return {"result": money.text(money.add(*results)), "total_return": money.text(money.subtract(grown, Decimal(1)))}


def _text(value: Decimal | None) -> str | None:
    return None if value is None else money.text(value)
