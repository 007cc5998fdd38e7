"""No strategy knows the future: on real and invented candles, what the whole decided every beginning had decided."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pytest
from strategy_candles import QUICK, flat, fresh, recorded_candles, synthetic_candles
from trading_platform.backtest import __main__ as command
from trading_platform.messages import Candle
from trading_platform.strategies import catalogue
from trading_platform.strategies.lookahead import lookahead
from trading_platform.strategies.model import Decision, Fact, Strategy
from trading_platform.strategies.parameters import MODELS, Kind, Parameters


@pytest.mark.parametrize("kind", MODELS)
def test_on_the_synthetic_market_nothing_decided_is_changed_by_what_comes(kind: Kind) -> None:
    report = lookahead(lambda: fresh(kind, **QUICK[kind]), synthetic_candles(), beginnings=12)
    assert report.violations == ()
    assert (report.candles, report.beginnings) == (480, 12)
    assert report.decisions > 30


@pytest.mark.parametrize("market", ["eurusd", "btcusd"])
@pytest.mark.parametrize("kind", MODELS)
def test_on_recorded_markets_nothing_decided_is_changed_by_what_comes(kind: Kind, market: str) -> None:
    candles = recorded_candles(market, 3_000)
    report = lookahead(lambda: fresh(kind, candles[0].interval_s, **QUICK[kind]), candles, beginnings=5)
    assert report.violations == ()
    assert report.decisions > 100


@pytest.mark.parametrize("kind", MODELS)
def test_whoever_saw_only_the_history_a_strategy_asks_for_decides_the_same(kind: Kind) -> None:
    """A restart, or another host taking over. Donchian's average and the structure of SMC go further back, but not in what they do here."""
    candles = recorded_candles("btcusd", 3_000)
    whole = fresh(kind, **QUICK[kind])
    for each in candles[:2_400]:
        whole.learn(each)
    late = fresh(kind, **QUICK[kind])
    for each in candles[2_400 - late.inputs.history : 2_400]:
        late.learn(each)
    positions = (Decimal(0), Decimal(1), Decimal(-1))
    told = 0
    for each in candles[2_400:]:
        whole.learn(each)
        late.learn(each)
        for held in positions:
            ours, theirs = whole.decide(held), late.decide(held)
            assert (ours and (ours.side, ours.reason)) == (theirs and (theirs.side, theirs.reason))
            told += ours is not None
            if kind in ("ma_trend", "mean_reversion"):
                assert ours == theirs, "a window has no other past"
    assert told > 20


class Cheat(Strategy[Parameters]):
    """Buys on what `_opinion` says."""

    kind = "donchian"
    version = "cheat"

    @staticmethod
    def _needs(parameters: Parameters) -> tuple[int, int]:
        return 2, 2

    def _learn(self, candle: Candle) -> None:
        self._last = candle

    def _decide(self, held: Decimal) -> Decision | None:
        return Decision("buy", "cheating", False, (Fact("close", self._last.close, self._known()),)) if self._opinion() else None

    def _known(self) -> int:
        return self._last.ts_open_ns + self._last.interval_s * 1_000_000_000

    def _opinion(self) -> bool:
        return True


class Remembers(Cheat):
    """Keeps the highest close anybody of its class has ever seen."""

    highest = 0

    def _opinion(self) -> bool:
        Remembers.highest = max(Remembers.highest, self._last.close)
        return self._last.close < Remembers.highest


class Guesses(Cheat):
    """Is not the same twice."""

    dice = random.Random(7)

    def _opinion(self) -> bool:
        return self.dice.random() < 0.5


class KnowsLater(Cheat):
    """Says itself that it knew too early."""

    def _known(self) -> int:
        return super()._known() + (1 if self.candles_seen == 30 else 0)


@pytest.mark.parametrize("cheat", [Remembers, Guesses, KnowsLater])
def test_a_strategy_that_cheats_is_found(cheat: type[Cheat]) -> None:
    candles = flat(range(100, 140))
    assert lookahead(lambda: Cheat(Parameters(), "X", 60), candles).violations == ()
    report = lookahead(lambda: cheat(Parameters(), "X", 60), candles)
    assert report.violations
    json.dumps(report.to_document())


def test_an_empty_or_cold_series_is_no_violation() -> None:
    assert lookahead(lambda: fresh("ma_trend"), []).violations == ()
    assert lookahead(lambda: fresh("ma_trend"), flat([100, 101, 102])).decisions == 0


# --- from the command line -----------------------------------------------------------------------------------------------

HOUR = ["--synthetic", "2026-01-05T08:00", "2026-01-05T08:40", "--interval", "10", "--symbol", "BTCUSD-PERP"]
MA = ["--strategy", "ma_trend", *(f"--parameter={each}" for each in ("fast=3", "slow=6", "atr=3", "stop_channel=4", "allow_short=true"))]


def test_a_backtest_of_a_chosen_strategy_checks_it_for_look_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*HOUR, *MA, "--check-lookahead"]) == 0
    document = json.loads(capsys.readouterr().out)
    checked = document["lookahead"]["BTCUSD-PERP"]
    assert document["strategy"] == "ma-trend"
    assert document["fills"] > 4
    assert (checked["candles"] > 200, checked["beginnings"], checked["violations"]) == (True, 20, [])


def test_a_backtest_of_a_strategy_that_cheats_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def cheating(parameters: Any, kind: Kind, symbol: str, interval_s: int) -> Strategy[Any]:
        return Guesses(Parameters(), symbol, interval_s)

    monkeypatch.setattr(catalogue, "create", cheating)
    assert command.main([*HOUR, "--check-lookahead"]) == 1
    assert "decided otherwise than the whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--strategy", "ma_trend", "--parameter", "fast=60"], "expected fast below slow"),
        (["--parameter", "fast=60"], "donchian has no such parameter"),
        (["--strategy", "smc_confluence", "--channel", "5"], "smc_confluence has no such parameter"),
    ],
)
def test_parameters_that_make_no_sense_are_wrong_use(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*HOUR, *arguments]) == 2
    assert says in capsys.readouterr().err
