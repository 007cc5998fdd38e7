"""A run told in full: the record, the page, and what both leave out."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from trading_platform.backtest import __main__ as command
from trading_platform.backtest import record
from trading_platform.backtest.report import report
from trading_platform.backtest.result import monthly_returns, thinned
from trading_platform.domain.performance import Equity
from trading_platform.market.ticks import Ticks

D = Decimal
PLATFORM = Path(__file__).parents[3] / "platform"
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
ARGUMENTS = [
    "--synthetic", "2026-01-05T08:00", "2026-01-05T08:30", "--interval", "10", "--channel", "6", "--exit-channel", "4", "--trend", "8",
    "--notional", "300",
]  # fmt: skip
VOID = {"meta", "line", "rect", "polyline", "polygon"}


class Page(HTMLParser):
    """Tags in their order, closed as they were opened; the text; everything that could load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "xlink:href", "action", "data") or name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """(the whole result, the page)"""
    directory = tmp_path_factory.mktemp("run")
    output, page = directory / "run.json", directory / "run.html"
    assert command.main([*ARGUMENTS, "--output", str(output), "--report", str(page)]) == 0
    return json.loads(output.read_text()), page.read_text()


def test_the_page_needs_no_other_file_and_runs_nothing(run: tuple[dict[str, Any], str]) -> None:
    page = Page(run[1])
    assert page.open == []
    assert page.loads == []
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert "default-src 'none'" in run[1]
    assert not re.search(r"url\(|@import|https?:", run[1])


def test_the_page_tells_equity_drawdown_months_trades_parameters_and_hashes(run: tuple[dict[str, Any], str]) -> None:
    document, html = run
    page = Page(html)
    assert page.tags.count("svg") == 2
    for name in ("data_hash", "event_log_hash", "fills_hash"):
        assert document[name] in page.words
    assert document["trade_list"]
    assert html.count('<td class="text">long</td>') == sum(trade["direction"] == "long" for trade in document["trade_list"])
    assert "strategy.parameters.channel" in page.words
    assert "2026" in page.words


def test_what_is_written_into_the_page_is_text_whatever_it_looks_like(run: tuple[dict[str, Any], str]) -> None:
    evil = "</title><script>alert(1)</script><b onclick='x'>&"
    document = run[0] | {"strategy": evil, "source": evil, "denied_by_reason": {evil: 1}, "data_hash": evil}
    document["trade_list"] = [document["trade_list"][0] | {"symbol": evil}]
    document["parameters"] = document["parameters"] | {evil: evil}
    document["sweep"] = {"title": evil, "runs": [{evil: evil}], "unseen": {evil: evil}}
    page = Page(report(document))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.loads == []
    assert page.words.count(evil) >= 8


def test_a_run_that_did_nothing_has_a_page_too(tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    assert command.main(["--synthetic", "2026-01-05T08:00", "2026-01-05T08:01", "--report", str(page)]) == 0
    assert "None was closed." in Page(page.read_text()).words


def test_a_curve_that_never_moves_can_be_drawn(run: tuple[dict[str, Any], str]) -> None:
    flat = run[0] | {"equity_curve": [["2026-01-05T08:00:00+00:00", "100"], ["2026-01-05T09:00:00+00:00", "100"]]}
    assert Page(report(flat)).open == []
    assert "nan" not in report(flat).lower().replace("finance", "")


@pytest.mark.parametrize(
    ("equities", "labels"),
    [
        (["100000", "99999.9"], ["99,999.900", "99,999.925", "99,999.950", "99,999.975", "100,000.000"]),
        (["1000", "5000"], ["1,000", "2,000", "3,000", "4,000", "5,000"]),
        (["-3", "7"], ["-5.0", "-2.5", "0.0", "2.5", "5.0", "7.5"]),
    ],
)
def test_marks_of_a_plot_can_be_told_apart(run: tuple[dict[str, Any], str], equities: list[str], labels: list[str]) -> None:
    curve = [[f"2026-01-05T0{number}:00:00+00:00", equity] for number, equity in enumerate(equities)]
    html = report(run[0] | {"equity_curve": curve})
    first = html[html.index("<svg") : html.index("</svg>")]
    assert re.findall(r'text-anchor="end">([^<]*)</text>', first)[: len(labels)] == labels


# --- the record ----------------------------------------------------------------------------------------------------------


def test_the_record_says_what_a_run_depends_on(run: tuple[dict[str, Any], str]) -> None:
    document = run[0]
    assert document["parameters"]["strategy"]["parameters"]["channel"] == 6
    assert document["parameters"]["models"]["fees"]["is"] == "TieredFees"
    assert len(document["code"]["hash"]) == len(document["data_hash"]) == 64
    assert document["equity_curve"][0][1] == document["capital"]
    assert document["equity_curve"][-1][1] == document["equity"]
    assert sum(D(trade["result"]) for trade in document["trade_list"]) == D(document["round_trips"]["gross_profit"]) - D(
        document["round_trips"]["gross_loss"]
    )


def test_the_same_run_has_the_same_id_and_another_seed_another(run: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    found = []
    for number, more in enumerate(([], ["--seed", "2"], ["--taker-bps", "7"])):
        output = tmp_path / f"{number}.json"
        assert command.main([*ARGUMENTS, *more, "--output", str(output)]) == 0
        found.append(json.loads(output.read_text()))
    assert record.identity(found[0]) == record.identity(run[0])
    assert len({record.identity(each) for each in found}) == 3
    assert found[0]["data_hash"] != found[1]["data_hash"]
    assert found[0]["data_hash"] == found[2]["data_hash"]


def test_the_hash_of_ticks_does_not_see_how_they_are_cut_and_sees_every_value() -> None:
    def ticks(rows: slice, changed: int = 0) -> Ticks:
        numbers = np.arange(100, dtype=np.int64)
        price = numbers + 7
        price[50] += changed
        return Ticks(numbers.astype(np.uint32), numbers, price, numbers, numbers.astype(np.uint8))[rows]

    def of(*parts: Ticks) -> str:
        data = record.DataHash()
        assert sum(len(part) for part in data.of(parts)) == 100
        return data.hexdigest()

    whole = of(ticks(slice(None)))
    assert of(ticks(slice(0, 33)), ticks(slice(33, 34)), ticks(slice(34, None))) == whole
    assert of(ticks(slice(None), changed=1)) != whole


def test_a_thinned_curve_keeps_its_ends_its_highest_and_its_lowest() -> None:
    dice = np.random.default_rng(3)
    curve = [
        Equity(NEW_YEAR + timedelta(minutes=n), D(int(value)), D(0)) for n, value in enumerate(np.cumsum(dice.integers(-9, 10, 5_000)))
    ]
    thin = thinned(curve, 200)
    assert len(thin) <= 202
    assert (thin[0], thin[-1]) == (curve[0], curve[-1])
    assert max(point.equity for point in thin) == max(point.equity for point in curve)
    assert min(point.equity for point in thin) == min(point.equity for point in curve)
    assert [point.at for point in thin] == sorted(point.at for point in thin)
    assert thinned(curve[:50], 200) == curve[:50]


def test_a_months_return_is_from_the_last_months_end_to_its_own() -> None:
    ends = [(0, "1000"), (31, "1100"), (40, "900"), (59, "990"), (61, "1089")]
    closings = [Equity(NEW_YEAR + timedelta(days=day), D(equity), D(1000)) for day, equity in ends]
    assert monthly_returns(closings) == [("2026-01", D("0.1")), ("2026-02", D("-0.1")), ("2026-03", D("0.1"))]


class Collection:
    """What `store` asks of MongoDB."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    async def replace_one(self, chosen: dict[str, Any], document: dict[str, Any], *, upsert: bool) -> None:
        assert upsert
        self.kept[chosen["_id"]] = document


def test_a_run_is_stored_once_and_what_is_too_long_is_cut_and_counted(run: tuple[dict[str, Any], str]) -> None:
    collection = Collection()
    documents: Any = SimpleNamespace(database={record.COLLECTION: collection})
    long = run[0] | {"trade_list": [{}] * (record.MOST_LINES + 3)}
    first, again = asyncio.run(record.store(documents, run[0])), asyncio.run(record.store(documents, long))
    assert first == again == record.identity(run[0])
    assert len(collection.kept) == 1
    assert len(collection.kept[first]["trade_list"]) == record.MOST_LINES
    assert collection.kept[first]["trade_list_left_out"] == 3
    assert "trade_list_left_out" not in long


def test_without_mongodb_the_result_is_told_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load((PLATFORM / "platform.example.yaml").read_text())
    document["mongodb"] = {"hosts": ["127.0.0.1:1"], "replica_set": None}
    settings = tmp_path / "platform.yaml"
    settings.write_text(yaml.safe_dump(document))
    assert command.main([*ARGUMENTS, "--config", str(settings), "--store"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["fills"] > 0
    assert "MongoDB did not take the result" in told.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--report", "/nowhere/run.html"], "cannot be written"),
        (["--store"], "--store needs --config"),
        (["--walk-forward", "3"], "--walk-forward needs --sweep"),
        (["--sweep", "channel=5,6", "--sweep", "channel=7"], "given twice"),
        (["--sweep", "channel=5,1"], "greater than or equal to 2"),
        (["--sweep", "interval=5,x"], "--sweep interval"),
        (["--sweep", "nonsense=5,6"], "nonsense"),
        (["--sweep", "channel=5,6", "--check-lookahead"], "not for a sweep"),
    ],
)
def test_wrong_use_is_told_before_anything_runs(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*ARGUMENTS, *arguments]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""
