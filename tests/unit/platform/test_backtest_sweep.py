"""Many runs: the same table whoever works on it, and a choice that never saw what it is judged by."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trading_platform.backtest import __main__ as command
from trading_platform.backtest import instruments, sweep
from trading_platform.backtest.progress import Progress
from trading_platform.backtest.spool import BLOCK, Spool
from trading_platform.backtest.sweep import Outcome, Span, Trial
from trading_platform.batches import TRADE
from trading_platform.market.ticks import Ticks

D = Decimal
BTC = instruments.catalogue().symbol("BTCUSDT")
ARGUMENTS = [
    "--synthetic", "2026-01-05T08:00", "2026-01-05T09:00", "--interval", "10", "--exit-channel", "4", "--trend", "8", "--notional", "300",
    "--metric", "result",
]  # fmt: skip


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert command.main(arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def trades(rows: int, every_ns: int = 10) -> Ticks:
    numbers = np.arange(rows, dtype=np.int64)
    return Ticks(
        np.full(rows, BTC.id, dtype=np.uint32), numbers // 3 * every_ns, numbers + 1, numbers + 1, np.full(rows, TRADE, dtype=np.uint8)
    )


def test_a_sweep_is_the_same_with_one_worker_and_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    swept = [*ARGUMENTS, "--sweep", "channel=5,8", "--sweep", "taker-bps=0,5"]
    one, two = (told([*swept, "--workers", workers], capsys) for workers in ("1", "2"))
    assert one == two
    runs = one["sweep"]["runs"]
    assert [D(run["result"]) for run in runs] == sorted((D(run["result"]) for run in runs), reverse=True)
    assert {(run["channel"], run["taker-bps"]) for run in runs} == {("5", "0"), ("5", "5"), ("8", "0"), ("8", "5")}
    assert one["best"]["result"] == runs[0]["result"]


def test_a_run_of_a_sweep_is_the_run_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    best = told([*ARGUMENTS, "--sweep", "channel=5,8", "--workers", "1"], capsys)["best"]
    channel = str(best["parameters"]["strategy"]["parameters"]["channel"])
    assert told([*ARGUMENTS, "--channel", channel], capsys) == best


def test_a_walk_forward_chooses_by_the_past_and_judges_by_what_comes_after(capsys: pytest.CaptureFixture[str]) -> None:
    found = told([*ARGUMENTS, "--sweep", "channel=5,8", "--walk-forward", "2", "--workers", "1"], capsys)
    folds = found["sweep"]["runs"]
    assert [(fold["chosen_from"][11:16], fold["judged_from"][11:16], fold["judged_to"][11:16]) for fold in folds] == [
        ("08:00", "08:20", "08:40"),
        ("08:20", "08:40", "08:59"),
    ]
    assert D(found["sweep"]["unseen"]["result"]) == sum(D(fold["result"]) for fold in folds)
    assert found["best"]["first"][11:16] == "08:40"
    assert found["best"]["fills"] == folds[-1]["fills"] > 0


def test_before_its_time_a_strategy_is_warmed_up_and_does_nothing(tmp_path: Path) -> None:
    chosen = command.parser().parse_args([*ARGUMENTS, "--channel", "5"])
    chosen.settings = None
    catalogue = instruments.catalogue()
    source = command._source(chosen, catalogue, command._sections(chosen))
    trial: Trial = command._trial(chosen, catalogue, source)
    spool = Spool(tmp_path)
    spool.fill(source.ticks)
    half = (spool.first_ns + spool.last_ns) // 2
    whole = sweep.run(trial, spool, Span(0, spool.last_ns + 1))
    warmed = sweep.run(trial, spool, Span(0, spool.last_ns + 1, half))
    cold = sweep.run(trial, spool, Span(half, spool.last_ns + 1))
    assert min(line.fill.ts_event_ns for line in whole.fills) < half
    firsts = [min(order.created_at for order in result.orders) for result in (warmed, cold)]
    assert warmed.first.timestamp() * 1e9 == pytest.approx(half, abs=2_000)
    assert warmed.first <= firsts[0] < firsts[1]
    assert warmed.curve[0].equity == warmed.capital
    assert all(point.at >= warmed.first for point in warmed.curve)


def test_a_spool_gives_back_what_it_was_given_and_tears_no_moment_apart(tmp_path: Path) -> None:
    given = trades(2 * BLOCK + 5)
    spool = Spool(tmp_path)
    spool.fill([given[:1_000], given[1_000:]])
    parts = list(spool.parts(0, spool.last_ns + 1))
    assert len(parts) > 1
    assert np.array_equal(Ticks.concatenate(parts).price, given.price)
    assert all(before.ts_event[-1] < after.ts_event[0] for before, after in itertools.pairwise(parts))
    middle = list(spool.parts(30, 60))
    assert sorted(set(Ticks.concatenate(middle).ts_event.tolist())) == [30, 40, 50]
    assert (len(spool), spool.first_ns) == (len(given), 0)


def outcomes(*values: str | None) -> Iterator[Outcome]:
    for number, value in enumerate(values):
        returns = {"sharpe_ratio": value, "max_drawdown": value}
        yield Outcome(number, {"returns": returns, "round_trips": {}, "result": "0"})


def test_the_best_comes_first_what_has_no_figure_last_and_equals_stay_in_order() -> None:
    found = [*outcomes("1", None, "3", "1", "2"), Outcome(5, None, "failed")]
    assert [each.trial for each in sweep.ranked(found, "sharpe_ratio")] == [2, 4, 0, 3, 1, 5]
    assert [each.trial for each in sweep.ranked(found, "max_drawdown")] == [0, 3, 4, 2, 1, 5]
    assert [each.trial for each in sweep.ranked(found[::-1], "sharpe_ratio")] == [2, 4, 0, 3, 1, 5]


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    chosen = command.parser().parse_args([*ARGUMENTS, "--channel", "5"])
    chosen.settings = None
    catalogue = instruments.catalogue()
    source = command._source(chosen, catalogue, command._sections(chosen))
    trial = command._trial(chosen, catalogue, source)
    poor = trial.setup.account.model_copy(update={"currency": "CHF"})
    spool = Spool(tmp_path)
    spool.fill(source.ticks)
    failed = sweep._work(7, replace(trial, setup=replace(trial.setup, account=poor)), tmp_path, Span(0, spool.last_ns + 1))
    assert (failed.trial, failed.found) == (7, None)
    assert "no conversion rate" in failed.failed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_terminals_only_and_leaves_nothing_behind() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    for to in (pipe, terminal):
        with Progress(200, "runs", to) as progress:
            progress.at(50)
    assert pipe.getvalue() == ""
    assert "25%" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
