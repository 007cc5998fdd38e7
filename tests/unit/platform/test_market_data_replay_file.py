"""Replay files: what is refused, in which words, and that what is accepted is read exactly."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trading_platform.batches import ASK, BID, BUY_AGGRESSOR, DERIVED, REPLAYED, SELL_AGGRESSOR, TRADE
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.market import replay_file
from trading_platform.market.replay_file import ReplayRefused, inspect, read
from trading_platform.market.ticks import Ticks

S = 1_000_000_000
START = 1_640_995_200 * S
REAL = Path(os.environ.get("TRADING_MARKET_DATA") or Path(__file__).parents[4] / "shared" / "market-data")


def instrument(number: int, symbol: str, price_scale: int, size_scale: int) -> Instrument:
    one = Decimal(1)
    return Instrument(number, symbol, "spot", "A", "B", price_scale, size_scale, one, one, one, one, one, one)


CATALOGUE = Catalogue(
    [
        instrument(1, "BTCUSDT", 2, 6),
        instrument(3, "EURUSD", 5, 2),
        instrument(4, "XAUUSD", 3, 3),
        instrument(5, "SPY", 4, 4),
        instrument(6, "BTCUSD-PERP", 3, 4),
    ]
)

Columns = dict[str, Any]


def quotes(rows: int = 10) -> Columns:
    return {
        "ts_event_ns": START + np.arange(rows, dtype=np.int64) * S,
        "symbol": ["EURUSD"] * rows,
        "bid": np.full(rows, 1.08501),
        "ask": np.full(rows, 1.08503),
    }


def trades(rows: int = 10) -> Columns:
    return {
        "ts_event_ns": START + np.arange(rows, dtype=np.int64) * S,
        "symbol": ["BTCUSDT"] * rows,
        "price": np.full(rows, 46_000.25),
        "size": np.full(rows, 0.000263),
        "aggressor": ["buy", "sell"] * (rows // 2),
    }


def candles(rows: int = 10) -> Columns:
    return {
        "ts_open_ns": START + np.arange(rows, dtype=np.int64) * 60 * S,
        "symbol": ["BTCUSD-PERP"] * rows,
        "open": np.full(rows, 100.0),
        "high": np.full(rows, 103.0),
        "low": np.full(rows, 99.0),
        "close": np.full(rows, 101.5),
        "volume": np.full(rows, 4.0002),
    }


def parquet(path: Path, columns: Columns) -> Path:
    pq.write_table(pa.table(columns), path / "file.parquet", row_group_size=4)
    return path / "file.parquet"


def csv(path: Path, columns: Columns) -> Path:
    pyarrow.csv.write_csv(pa.table(columns), path / "file.csv")
    return path / "file.csv"


def with_value(columns: Columns, name: str, row: int, value: Any) -> Columns:
    columns[name] = list(columns[name])
    columns[name][row - 1] = value
    return columns


def refusal(path: Path) -> str:
    with pytest.raises(ReplayRefused) as refused:
        inspect(path, CATALOGUE)
    return str(refused.value)


def everything(path: Path) -> Ticks:
    return Ticks.concatenate(list(read(path, inspect(path, CATALOGUE), CATALOGUE)))


# --- what is refused ------------------------------------------------------------------------------------------------------

NUMBER = "a positive finite number"


@pytest.mark.parametrize("write", [parquet, csv])
@pytest.mark.parametrize(
    ("columns", "name", "row", "value", "expected", "found"),
    [
        (quotes, "ask", 7, float("nan"), NUMBER, "NaN"),
        (quotes, "bid", 5, float("inf"), NUMBER, "infinity"),
        (quotes, "bid", 2, -1.5, NUMBER, "-1.5"),
        (quotes, "bid", 10, 0.0, NUMBER, "0"),
        (quotes, "bid", 3, 1.0850123, "at most 5 decimals for this instrument", "1.0850123"),
        (quotes, "symbol", 6, "GBPUSD", "a known symbol (BTCUSD-PERP, BTCUSDT, EURUSD, SPY, XAUUSD)", "'GBPUSD'"),
        (trades, "price", 1, -0.01, NUMBER, "-0.01"),
        (trades, "size", 4, 0.0, NUMBER, "0"),
        (trades, "size", 4, 1e13, "at most 9007199254.74099", "10000000000000"),
        (candles, "high", 8, 98.0, "at least the low (99)", "98"),
        (candles, "high", 8, 101.0, "at least open and close (101.5)", "101"),
        (candles, "low", 9, 100.5, "at most open and close (100)", "100.5"),
        (candles, "volume", 2, -1.0, "a finite number, zero or more", "-1"),
        (candles, "close", 10, float("nan"), NUMBER, "NaN"),
    ],
)
def test_a_wrong_value_is_named_by_row_and_column(
    tmp_path: Path,
    write: Callable[[Path, Columns], Path],
    columns: Callable[[], Columns],
    name: str,
    row: int,
    value: Any,
    expected: str,
    found: str,
) -> None:
    file = write(tmp_path, with_value(columns(), name, row, value))
    assert refusal(file) == f'row {row}, column "{name}": expected {expected}, found {found}; nothing was loaded'


@pytest.mark.parametrize("write", [parquet, csv])
def test_unsorted_times_are_named_at_the_row_that_goes_back(tmp_path: Path, write: Callable[[Path, Columns], Path]) -> None:
    file = write(tmp_path, with_value(quotes(), "ts_event_ns", 5, START))
    assert refusal(file) == (
        'row 5, column "ts_event_ns": expected times in ascending order '
        f"(the row before has {START + 3 * S}), found {START}; nothing was loaded"
    )


def test_times_in_milliseconds_are_told_from_nanoseconds(tmp_path: Path) -> None:
    columns = quotes()
    columns["ts_event_ns"] = columns["ts_event_ns"] // 1_000_000
    assert "expected UTC nanoseconds since 1970 between the years 1980 and 2100, found 1640995200000" in refusal(parquet(tmp_path, columns))


def test_the_first_wrong_row_is_named_whichever_column_it_is_in(tmp_path: Path) -> None:
    columns = with_value(with_value(quotes(), "ask", 3, -1.0), "bid", 6, -1.0)
    assert refusal(parquet(tmp_path, columns)).startswith('row 3, column "ask"')


def test_a_wrong_row_beyond_the_first_block_keeps_its_number(tmp_path: Path) -> None:
    rows = replay_file.BLOCK_ROWS + 10
    file = tmp_path / "file.parquet"
    pq.write_table(pa.table(with_value(quotes(rows), "bid", rows, float("nan"))), file)
    assert refusal(file).startswith(f'row {rows:,}, column "bid": expected a positive finite number, found NaN')


def test_times_that_go_back_between_two_blocks_are_seen(tmp_path: Path) -> None:
    rows = replay_file.BLOCK_ROWS + 10
    columns = quotes(rows)
    columns["ts_event_ns"][replay_file.BLOCK_ROWS :] -= 5 * S
    file = tmp_path / "file.parquet"
    pq.write_table(pa.table(columns), file)
    assert refusal(file).startswith(f'row {replay_file.BLOCK_ROWS + 1:,}, column "ts_event_ns": expected times in ascending')


@pytest.mark.parametrize("write", [parquet, csv])
def test_a_missing_column_is_named_with_what_was_found(tmp_path: Path, write: Callable[[Path, Columns], Path]) -> None:
    columns = quotes()
    del columns["ask"]
    assert refusal(write(tmp_path, columns)).startswith(
        'column "ask": missing for a file of quotes (found: ts_event_ns, symbol, bid); expected one of quotes:'
    )


@pytest.mark.parametrize("write", [parquet, csv])
def test_an_unknown_column_is_refused(tmp_path: Path, write: Callable[[Path, Columns], Path]) -> None:
    assert refusal(write(tmp_path, quotes() | {"bidsize": [1.0] * 10})).startswith('column "bidsize": not known')


def test_a_null_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path, with_value(quotes(), "bid", 4, None))
    assert refusal(file) == 'row 4, column "bid": expected a positive finite number, found nothing (null); nothing was loaded'


def test_a_column_of_text_is_refused(tmp_path: Path) -> None:
    columns = quotes()
    columns["bid"] = pa.array([True] * 10)
    assert 'row 1, column "bid": expected a positive finite number, found a column of bool' in refusal(parquet(tmp_path, columns))


def test_a_candle_twice_is_refused(tmp_path: Path) -> None:
    columns = with_value(candles(), "ts_open_ns", 4, START + 2 * 60 * S)
    assert refusal(parquet(tmp_path, columns)).startswith('row 4, column "ts_open_ns": expected each candle of a symbol once')


def test_candles_off_their_grid_are_refused(tmp_path: Path) -> None:
    columns = with_value(candles(), "ts_open_ns", 4, START + 3 * 60 * S + 1)
    assert 'row 4, column "ts_open_ns": expected candles on a grid of 60 seconds' in refusal(parquet(tmp_path, columns))


HEADER = b"ts_event_ns,symbol,bid,ask\n"
ROW = b"1640995200000000000,EURUSD,1.1,1.2\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"PAR1 and then nothing of the kind", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "neither Parquet nor CSV"),
        (b"hello world", 'column "ts_event_ns": missing'),
        (HEADER, "holds no rows"),
        (b"ts_event_ns,symbol,bid,bid\n", 'column "bid": expected once, found 2 times'),
        (HEADER + ROW + b"1640995200000000000,EURUSD,1.1\n", "row 2: expected 4 values, found 3"),
        (HEADER + ROW + b"\xff\xfe\n" + ROW, "row 2: expected 4 values, found 1"),
        (
            HEADER + ROW + b"1640995200000000000,EURUSD,1.1,abc\n",
            "row 2, column \"ask\": expected a positive finite number, found 'abc'",
        ),
        (HEADER + b"1640995200000000000,EURUSD,1.1,\n", "row 1, column \"ask\": expected a positive finite number, found ''"),
        (HEADER + b"2022-01-01,EURUSD,1.1,1.2\n", 'row 1, column "ts_event_ns": expected UTC nanoseconds'),
        (HEADER + b"9999999999999999999,EURUSD,1.1,1.2\n", "cannot be read"),
        (HEADER + b"1640995200000000000,\xff\xfe,1.1,1.2\n", "cannot be read"),
    ],
)
def test_what_is_no_recording_is_refused_with_a_reason(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    said = refusal(file)
    assert expected in said
    assert said.endswith("nothing was loaded")


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path, quotes(1000))
    file.write_bytes(file.read_bytes()[:-20])
    assert "cannot be read" in refusal(file)


def test_a_torn_page_inside_a_parquet_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.parquet"
    table = pa.table({**quotes(50_000), "bid": np.round(1 + np.random.default_rng(1).random(50_000), 5)})
    pq.write_table(table, file, compression="zstd", use_dictionary=False)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = b"\xaa" * 3000
    file.write_bytes(content)
    assert "nothing was loaded" in refusal(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.parquet")


def test_a_file_that_changed_after_it_was_checked_is_not_played(tmp_path: Path) -> None:
    file = parquet(tmp_path, quotes())
    facts = inspect(file, CATALOGUE)
    parquet(tmp_path, quotes(12))
    with pytest.raises(ReplayRefused, match="changed after it was checked"):
        list(read(file, facts, CATALOGUE))


@given(st.binary(max_size=300))
def test_no_bytes_make_anything_but_a_refusal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("noise") / "file"
    for noise in (content, b"PAR1" + content + b"PAR1", b"ts_event_ns,symbol,bid,ask\n" + content):
        file.write_bytes(noise)
        with pytest.raises(ReplayRefused):
            inspect(file, CATALOGUE)


# --- what is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [parquet, csv])
def test_quotes_become_a_bid_and_an_ask_row_each(tmp_path: Path, write: Callable[[Path, Columns], Path]) -> None:
    ticks = everything(write(tmp_path, quotes() | {"bid_size": [1_000_000.0] * 10, "ask_size": [0.0] * 10}))
    assert ticks.price[:4].tolist() == [108501, 108503, 108501, 108503]
    assert ticks.size[:2].tolist() == [100_000_000, 0]
    assert ticks.flags[:2].tolist() == [BID | REPLAYED, ASK | REPLAYED]
    assert ticks.ts_event[:4].tolist() == [START, START, START + S, START + S]
    assert set(ticks.instrument.tolist()) == {3}


@pytest.mark.parametrize("write", [parquet, csv])
def test_trades_keep_price_size_and_aggressor_exactly(tmp_path: Path, write: Callable[[Path, Columns], Path]) -> None:
    ticks = everything(write(tmp_path, trades()))
    assert ticks.price[:2].tolist() == [4_600_025, 4_600_025]
    assert ticks.size[:2].tolist() == [263, 263]
    assert ticks.flags[:2].tolist() == [TRADE | BUY_AGGRESSOR | REPLAYED, TRADE | SELL_AGGRESSOR | REPLAYED]


def test_a_rising_candle_goes_low_then_high_and_says_it_is_derived(tmp_path: Path) -> None:
    ticks = everything(parquet(tmp_path, candles()))
    assert ticks.price[:4].tolist() == [100_000, 99_000, 103_000, 101_500]
    assert (ticks.ts_event[:4] - START).tolist() == [0, 20 * S, 40 * S, 60 * S - 1]
    assert ticks.size[:4].tolist() == [10_000, 10_000, 10_000, 10_002]
    assert set(ticks.flags.tolist()) == {TRADE | REPLAYED | DERIVED}


def test_a_falling_candle_goes_high_then_low(tmp_path: Path) -> None:
    ticks = everything(parquet(tmp_path, candles() | {"close": np.full(10, 99.5)}))
    assert ticks.price[:4].tolist() == [100_000, 103_000, 99_000, 99_500]


def test_candles_of_several_symbols_come_out_in_time_order_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_file, "BLOCK_ROWS", 3)
    rows = 20
    columns = candles(rows)
    columns["ts_open_ns"] = START + np.repeat(np.arange(rows // 2, dtype=np.int64), 2) * 60 * S
    columns["symbol"] = ["BTCUSD-PERP", "SPY"] * (rows // 2)
    ticks = everything(parquet(tmp_path, columns))
    assert len(ticks) == 4 * rows
    assert (np.diff(ticks.ts_event) >= 0).all()


def test_integers_decimals_and_arrow_timestamps_are_taken_as_well(tmp_path: Path) -> None:
    columns = quotes()
    columns["ts_event_ns"] = pa.array(columns["ts_event_ns"] // 1000, pa.timestamp("us", tz="UTC"))
    columns["bid"] = pa.array([Decimal("1.08501")] * 10)
    columns["ask"] = pa.array([2] * 10)
    ticks = everything(parquet(tmp_path, columns))
    assert ticks.price[:2].tolist() == [108501, 200000]
    assert ticks.ts_event[2] == START + S


def test_crossed_quotes_are_counted_not_refused(tmp_path: Path) -> None:
    assert inspect(parquet(tmp_path, with_value(quotes(), "bid", 4, 1.09)), CATALOGUE).crossed == 1


@pytest.mark.parametrize(
    ("name", "rows", "kind", "interval_s"),
    [
        ("btcusdt_binance_trades_2021-01-08", 2_001, "trades", 0),
        ("btcusd_perp_candles_1m_2022-01", 45_031, "candles", 60),
        ("eurusd_candles_15m_2022-10_2023-09", 24_424, "candles", 900),
        ("eurusd_fxcm_quotes_2014-05-08", 167_466, "quotes", 0),
        ("xauusd_oanda_quotes_2014-05-02", 265_015, "quotes", 0),
        ("spy_trades_2013-10-08", 451_545, "trades", 0),
    ],
)
def test_real_recordings_are_accepted_whole(name: str, rows: int, kind: str, interval_s: int) -> None:
    file = REAL / f"{name}.parquet"
    if not file.exists():
        pytest.skip(f"no {file.name} in {REAL} (TRADING_MARKET_DATA names another directory)")
    facts = inspect(file, CATALOGUE)
    assert (facts.rows, facts.kind, facts.interval_ns) == (rows, kind, interval_s * S)
    parts = list(read(file, facts, CATALOGUE))
    assert sum(len(part) for part in parts) == rows * {"quotes": 2, "trades": 1, "candles": 4}[kind]
    times = np.concatenate([part.ts_event for part in parts])
    assert (np.diff(times) >= 0).all()
