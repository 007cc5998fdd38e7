"""Recorded market data in a Parquet or CSV file: judged as a whole, then read as ticks. Memory is bounded for any size of file.

Three shapes, told apart by their columns (times are UTC nanoseconds, non-decreasing):

    quotes    ts_event_ns, symbol, bid, ask                         optional bid_size, ask_size
    trades    ts_event_ns, symbol, price, size                      optional aggressor (buy, sell), venue, trade_id
    candles   ts_open_ns, symbol, open, high, low, close, volume

A candle becomes four trades, flagged DERIVED: open at its start, then low and high (high and low when it closed lower than it
opened) at one and two thirds, close in its last nanosecond; a quarter of the volume each, the remainder in the close.

    facts = inspect(path, catalogue)                # raises ReplayRefused naming row and column; loads nothing
    for ticks in read(path, facts, catalogue): ...  # raises ReplayRefused when the file changed since
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from trading_platform.batches import ASK, BID, BUY_AGGRESSOR, DERIVED, REPLAYED, SELL_AGGRESSOR, TRADE
from trading_platform.instruments import Catalogue
from trading_platform.market.ticks import Ticks

Kind = Literal["quotes", "trades", "candles"]

NOTHING_LOADED: Final = "nothing was loaded"
BLOCK_ROWS: Final = 65_536
BLOCK_BYTES: Final = 4 << 20
# Outside these years a stamp is in another unit, not in nanoseconds.
EARLIEST_NS: Final = 315_532_800 * 1_000_000_000  # 1980
LATEST_NS: Final = 4_102_444_800 * 1_000_000_000  # 2100
# Beyond 2**53 a float64 no longer holds every integer, so the file itself is no longer exact.
LARGEST_EXACT: Final = float(1 << 53)


@dataclass(frozen=True, slots=True)
class _Shape:
    kind: Kind
    time: str
    prices: tuple[str, ...]
    sizes: tuple[str, ...]
    optional_sizes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        return (self.time, "symbol", *self.prices, *self.sizes)

    @property
    def known(self) -> tuple[str, ...]:
        return (*self.required, *self.optional_sizes, *self.ignored)


SHAPES: Final = (
    _Shape("quotes", "ts_event_ns", ("bid", "ask"), (), ("bid_size", "ask_size")),
    _Shape("trades", "ts_event_ns", ("price",), ("size",), ignored=("aggressor", "venue", "trade_id")),
    _Shape("candles", "ts_open_ns", ("open", "high", "low", "close"), ("volume",)),
)
SHAPES_TEXT: Final = "; ".join(f"{shape.kind}: {', '.join(shape.required)}" for shape in SHAPES)


class ReplayRefused(ValueError):
    """The file cannot be replayed; the text names the place and what was expected there."""


@dataclass(frozen=True, slots=True)
class ReplayFacts:
    """What an inspected file holds. `interval_ns` is 0 unless it holds candles; `crossed` quotes will be quarantined."""

    kind: Kind
    rows: int
    symbols: tuple[str, ...]
    first_ns: int
    last_ns: int
    interval_ns: int
    crossed: int
    file_size: int
    modified_ns: int

    @property
    def end_ns(self) -> int:
        """The instant the recording covers up to: after a file of candles, the last one's end."""
        return self.last_ns + self.interval_ns


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows of the file as arrays. `row` is the number of the first one, counted from 1."""

    row: int
    ts: NDArray[np.int64]
    instrument: NDArray[np.int64]  # position in the catalogue
    values: dict[str, NDArray[np.float64]]
    aggressor: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Finding:
    """The first wrong cell of one column of a block."""

    row: int
    column: str
    expected: str
    found: str

    def refused(self) -> ReplayRefused:
        return ReplayRefused(f'row {self.row:,}, column "{self.column}": expected {self.expected}, found {self.found}; {NOTHING_LOADED}')


def inspect(path: Path, catalogue: Catalogue) -> ReplayFacts:
    """Judge every row of the file. Raises ReplayRefused at the first wrong row."""
    with _opened(path) as file:
        before = _identity(file)
        shape, blocks = _blocks(path, file, catalogue)
        judge = _Judge(shape, catalogue)
        for block in blocks:
            judge.block(block)
        facts = judge.facts(*before)
        if _identity(file) != before:
            raise ReplayRefused(f"{path.name} changed while it was read; {NOTHING_LOADED}")
        return facts


def read(path: Path, facts: ReplayFacts, catalogue: Catalogue) -> Iterator[Ticks]:
    """The file's ticks in time order, some ten thousand a time. Raises ReplayRefused when it is no longer the inspected file."""
    with _opened(path) as file:
        _assert_unchanged(path, file, facts)
        shape, blocks = _blocks(path, file, catalogue)
        scales = _Scales(catalogue)
        held = Ticks.empty()
        for block in blocks:
            _assert_unchanged(path, file, facts)
            match shape.kind:
                case "quotes":
                    yield _ticks_of_quotes(block, scales)
                case "trades":
                    yield _ticks_of_trades(block, scales)
                case "candles":
                    # The next block may open other symbols' candles at this block's last open time; what lies after waits.
                    ticks = Ticks.concatenate([held, _ticks_of_candles(block, scales, facts.interval_ns)])
                    ticks = ticks[np.argsort(ticks.ts_event, kind="stable")]
                    ready = int(np.searchsorted(ticks.ts_event, block.ts[-1], side="left"))
                    held = ticks[ready:]
                    yield ticks[:ready]
        yield held


# --- opening -------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, with everything the readers may raise told as a refusal."""
    try:
        with path.open("rb") as file:
            yield file
    except (pa.ArrowException, EOFError, UnicodeDecodeError, OverflowError) as error:
        raise ReplayRefused(f"{path.name} cannot be read: {_first_line(error)}; {NOTHING_LOADED}") from error
    except OSError as error:
        raise ReplayRefused(f"{path.name} cannot be read: {error.strerror or _first_line(error)}; {NOTHING_LOADED}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


def _identity(file: IO[bytes]) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def _assert_unchanged(path: Path, file: IO[bytes], facts: ReplayFacts) -> None:
    if _identity(file) != (facts.file_size, facts.modified_ns):
        raise ReplayRefused(f"{path.name} changed after it was checked; start the replay again")


def _blocks(path: Path, file: IO[bytes], catalogue: Catalogue) -> tuple[_Shape, Iterator[_Block]]:
    """The file's shape and its rows; the format is told by content, not by name."""
    parquet = file.read(4) == b"PAR1"
    file.seek(0)
    source = _ParquetSource(file) if parquet else _CsvSource(path, file)
    shape = _shape_of(source.columns)
    return shape, _typed(source, shape, catalogue)


def _shape_of(columns: Sequence[str]) -> _Shape:
    repeated = sorted({name for name in columns if list(columns).count(name) > 1})
    if repeated:
        raise ReplayRefused(f'column "{repeated[0]}": expected once, found {list(columns).count(repeated[0])} times; {NOTHING_LOADED}')
    nearest = max(SHAPES, key=lambda shape: len(set(shape.required) & set(columns)))
    missing = [name for name in nearest.required if name not in columns]
    if missing:
        found = ", ".join(str(name)[:40] for name in list(columns)[:20]) or "none"
        raise ReplayRefused(
            f'column "{missing[0]}": missing for a file of {nearest.kind} (found: {found}); expected one of {SHAPES_TEXT}; {NOTHING_LOADED}'
        )
    unknown = [name for name in columns if name not in nearest.known]
    if unknown:
        raise ReplayRefused(
            f'column "{unknown[0][:40]}": not known in a file of {nearest.kind} (known: {", ".join(nearest.known)}); '
            f"remove or rename it; {NOTHING_LOADED}"
        )
    return nearest


# --- sources: record batches of bounded size, whatever the file's own layout ------------------------------------------------


class _ParquetSource:
    def __init__(self, file: IO[bytes]) -> None:
        # Buffered, not pre-fetched: a row group of any size passes through a window of BLOCK_BYTES a column.
        self._file = pa.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BLOCK_BYTES // 4)
        self.columns: list[str] = self._file.schema_arrow.names

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for number in range(self._file.num_row_groups):
            try:
                yield from self._file.iter_batches(batch_size=BLOCK_ROWS, row_groups=[number], columns=list(columns), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise ReplayRefused(f"row group {number + 1} cannot be read: {_first_line(error)}; {NOTHING_LOADED}") from error


class _CsvSource:
    """Every column as text; numbers are converted by us, so that a wrong one can be named by row and column."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        head = file.read(1 << 16)
        file.seek(0)
        if not head.strip():
            raise ReplayRefused(f"{path.name} is empty; expected a header and rows ({SHAPES_TEXT}); {NOTHING_LOADED}")
        if b"\0" in head:
            raise ReplayRefused(f"{path.name} is neither Parquet nor CSV text; {NOTHING_LOADED}")
        line = head.decode("utf-8-sig", errors="replace").splitlines()[0]
        self.columns = [name.strip().strip('"') for name in line.split(",")]
        self._file = file

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from pa.csv.open_csv(
                self._file,
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=self.columns, skip_rows=1),
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: pa.string() for name in self.columns},
                    include_columns=list(columns),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if torn := _TORN.search(str(error)):
                line, wanted, got = (int(number) for number in torn.groups())
                raise ReplayRefused(f"row {line - 1:,}: expected {wanted} values, found {got}; {NOTHING_LOADED}") from None
            raise


_TORN: Final = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


def _typed(source: _ParquetSource | _CsvSource, shape: _Shape, catalogue: Catalogue) -> Iterator[_Block]:
    numbers = [*shape.prices, *shape.sizes, *(name for name in shape.optional_sizes if name in source.columns)]
    wanted = [shape.time, "symbol", *numbers]
    if "aggressor" in source.columns and "aggressor" in shape.ignored:
        wanted.append("aggressor")
    index = {instrument.symbol: number for number, instrument in enumerate(catalogue)}
    row = 1
    for batch in source.batches(wanted):
        if not batch.num_rows:
            continue
        column = dict(zip(batch.schema.names, batch.columns, strict=True))
        findings: list[_Finding] = []
        ts = _whole_numbers(column[shape.time], shape.time, row, findings)
        instrument = _instruments(column["symbol"], index, row, findings)
        values = {name: _numbers(column[name], name, row, findings) for name in numbers}
        if findings:
            raise min(findings, key=lambda finding: finding.row).refused()
        aggressor = _aggressor(column["aggressor"]) if "aggressor" in column else np.zeros(batch.num_rows, dtype=np.uint8)
        yield _Block(row=row, ts=ts, instrument=instrument, values=values, aggressor=aggressor)
        row += batch.num_rows


# --- cells ---------------------------------------------------------------------------------------------------------------

_WHOLE: Final = re.compile(r"^-?[0-9]{1,19}$")
_NUMBER: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$|^[+-]?([nN][aA][nN]|[iI][nN][fF](inity)?)$"


def _refuse_nulls(array: Any, name: str, expected: str, row: int, findings: list[_Finding]) -> bool:
    if not array.null_count:
        return False
    first = int(np.argmax(pc.is_null(array).to_numpy(zero_copy_only=False)))
    findings.append(_Finding(row + first, name, expected, "nothing (null)"))
    return True


def _whole_numbers(array: Any, name: str, row: int, findings: list[_Finding]) -> NDArray[np.int64]:
    expected = "UTC nanoseconds since 1970 as a whole number"
    blank = np.zeros(len(array), dtype=np.int64)
    if _refuse_nulls(array, name, expected, row, findings):
        return blank
    if pa.types.is_string(array.type):
        if not _all_match(array, _WHOLE.pattern, name, expected, row, findings):
            return blank
        array = pc.cast(array, pa.int64())
    elif pa.types.is_timestamp(array.type):
        array = pc.cast(pc.cast(array, pa.timestamp("ns", tz=array.type.tz)), pa.int64())
    elif pa.types.is_integer(array.type):
        array = pc.cast(array, pa.int64())
    else:
        findings.append(_Finding(row, name, expected, f"a column of {array.type}"))
        return blank
    whole: NDArray[np.int64] = array.to_numpy(zero_copy_only=False)
    return whole


def _numbers(array: Any, name: str, row: int, findings: list[_Finding]) -> NDArray[np.float64]:
    expected = "a positive finite number"
    blank = np.ones(len(array), dtype=np.float64)
    if _refuse_nulls(array, name, expected, row, findings):
        return blank
    if pa.types.is_string(array.type):
        if not _all_match(array, _NUMBER, name, expected, row, findings):
            return blank
    elif not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_decimal(array.type)):
        findings.append(_Finding(row, name, expected, f"a column of {array.type}"))
        return blank
    values: NDArray[np.float64] = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def _all_match(array: Any, pattern: str, name: str, expected: str, row: int, findings: list[_Finding]) -> bool:
    matches = pc.match_substring_regex(array, pattern=pattern).to_numpy(zero_copy_only=False)
    if matches.all():
        return True
    first = int(np.argmin(matches))
    findings.append(_Finding(row + first, name, expected, repr(array[first].as_py()[:60])))
    return False


def _instruments(array: Any, index: dict[str, int], row: int, findings: list[_Finding]) -> NDArray[np.int64]:
    expected = f"a known symbol ({', '.join(sorted(index)) or 'there are none'})"
    blank = np.zeros(len(array), dtype=np.int64)
    if _refuse_nulls(array, "symbol", expected, row, findings):
        return blank
    if not pa.types.is_dictionary(array.type):
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            findings.append(_Finding(row, "symbol", expected, f"a column of {array.type}"))
            return blank
        array = pc.dictionary_encode(array)
    symbols = [str(symbol) for symbol in array.dictionary.to_pylist()]
    table = np.array([index.get(symbol, -1) for symbol in symbols] or [-1], dtype=np.int64)
    codes = array.indices.to_numpy(zero_copy_only=False)
    known: NDArray[np.int64] = table[codes]
    if (known < 0).any():
        first = int(np.argmax(known < 0))
        findings.append(_Finding(row + first, "symbol", expected, repr(symbols[int(codes[first])][:60])))
    return known


def _aggressor(array: Any) -> NDArray[np.uint8]:
    """Flag bits; a venue that does not say who was the aggressor leaves them clear."""
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array)
    bits = {"buy": BUY_AGGRESSOR, "sell": SELL_AGGRESSOR}
    table = np.array([bits.get(str(value).lower(), 0) for value in array.dictionary.to_pylist()] + [0], dtype=np.uint8)
    codes = array.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)
    flags: NDArray[np.uint8] = table[codes]
    return flags


# --- judging -------------------------------------------------------------------------------------------------------------


class _Scales:
    """Per instrument, in the catalogue's order: id and powers of ten."""

    def __init__(self, catalogue: Catalogue) -> None:
        instruments = list(catalogue)
        self.symbols = [instrument.symbol for instrument in instruments]
        self.ids = np.array([instrument.id for instrument in instruments], dtype=np.uint32)
        self.price = np.array([10.0**instrument.price_scale for instrument in instruments])
        self.size = np.array([10.0**instrument.size_scale for instrument in instruments])


class _Judge:
    """Walks the file's blocks; keeps only what the next block needs to be judged."""

    def __init__(self, shape: _Shape, catalogue: Catalogue) -> None:
        self._shape = shape
        self._scales = _Scales(catalogue)
        self._rows = 0
        self._first: int | None = None
        self._last = 0
        self._seen = np.zeros(len(self._scales.ids), dtype=bool)
        self._last_open = np.full(len(self._scales.ids), np.iinfo(np.int64).min, dtype=np.int64)
        self._interval = 0
        self._crossed = 0

    def block(self, block: _Block) -> None:
        findings = [finding for finding in self._findings(block) if finding is not None]
        if findings:
            raise min(findings, key=lambda finding: finding.row).refused()
        self._first = int(block.ts[0]) if self._first is None else self._first
        self._last = int(block.ts[-1])
        self._rows += len(block.ts)
        self._seen[np.unique(block.instrument)] = True
        if self._shape.kind == "quotes":
            self._crossed += int(np.count_nonzero(block.values["bid"] > block.values["ask"]))

    def facts(self, file_size: int, modified_ns: int) -> ReplayFacts:
        if self._first is None:
            raise ReplayRefused(f"the file holds no rows; {NOTHING_LOADED}")
        if self._shape.kind == "candles" and not self._interval:
            raise ReplayRefused(
                f'row 1, column "ts_open_ns": expected at least two candles of a symbol to tell their interval; {NOTHING_LOADED}'
            )
        return ReplayFacts(
            kind=self._shape.kind,
            rows=self._rows,
            symbols=tuple(np.array(self._scales.symbols)[self._seen].tolist()),
            first_ns=self._first,
            last_ns=self._last,
            interval_ns=self._interval,
            crossed=self._crossed,
            file_size=file_size,
            modified_ns=modified_ns,
        )

    def _findings(self, block: _Block) -> Iterator[_Finding | None]:
        shape, values = self._shape, block.values
        yield self._times(block)
        for name in shape.prices:
            yield from self._positive(block, name, self._scales.price[block.instrument], exact=True)
        for name in shape.sizes + shape.optional_sizes:
            if name in values:
                zero_allowed = name != "size"
                yield from self._positive(block, name, self._scales.size[block.instrument], exact=name == "size", zero_allowed=zero_allowed)
        if shape.kind == "candles":
            top = np.maximum(values["open"], values["close"])
            bottom = np.minimum(values["open"], values["close"])
            yield _first(
                block,
                "high",
                values["high"] < values["low"],
                lambda row: f"at least the low ({values['low'][row]:.15g})",
            )
            yield _first(block, "high", values["high"] < top, lambda row: f"at least open and close ({top[row]:.15g})")
            yield _first(block, "low", values["low"] > bottom, lambda row: f"at most open and close ({bottom[row]:.15g})")
            yield self._candle_times(block)

    def _times(self, block: _Block) -> _Finding | None:
        """Stamps are nanoseconds and never go back, across blocks too."""
        ts, name = block.ts, self._shape.time
        strange = (ts < EARLIEST_NS) | (ts > LATEST_NS)
        before = np.concatenate([[self._last if self._first is not None else ts[0]], ts[:-1]])
        unit = _first(block, name, strange, lambda _: "UTC nanoseconds since 1970 between the years 1980 and 2100", ts)
        order = _first(block, name, ts < before, lambda row: f"times in ascending order (the row before has {before[row]})", ts)
        return min((finding for finding in (unit, order) if finding), key=lambda finding: finding.row, default=None)

    def _candle_times(self, block: _Block) -> _Finding | None:
        """A symbol's candles follow each other at multiples of one interval: the most common step of the file's beginning."""
        order = np.lexsort((block.ts, block.instrument))
        instrument, ts = block.instrument[order], block.ts[order]
        before = np.empty_like(ts)
        before[1:] = ts[:-1]
        firsts = np.concatenate([[True], instrument[1:] != instrument[:-1]])
        before[firsts] = self._last_open[instrument[firsts]]
        known = before != np.iinfo(np.int64).min
        step = np.where(known, ts - np.where(known, before, ts), 1)
        if (step <= 0).any():
            row = int(order[step <= 0].min())
            return _Finding(block.row + row, self._shape.time, "each candle of a symbol once", f"{block.ts[row]} again")
        self._last_open[instrument] = ts
        if known.any():
            if not self._interval:
                steps, counts = np.unique(step[known], return_counts=True)
                self._interval = int(steps[np.argmax(counts)])
            uneven = np.zeros(len(ts), dtype=bool)
            uneven[order] = known & (step % self._interval != 0)
            every = self._interval / 1e9
            return _first(block, self._shape.time, uneven, lambda _: f"candles on a grid of {every:g} seconds", block.ts)
        return None

    @staticmethod
    def _positive(
        block: _Block, name: str, scale: NDArray[np.float64], *, exact: bool, zero_allowed: bool = False
    ) -> Iterator[_Finding | None]:
        values = block.values[name]
        finite = np.isfinite(values)
        right = finite & ((values >= 0) if zero_allowed else (values > 0))
        expected = "a finite number, zero or more" if zero_allowed else "a positive finite number"
        yield _first(block, name, ~right, lambda _: expected)
        scaled = np.where(finite, values, 0.0) * scale
        yield _first(block, name, np.abs(scaled) > LARGEST_EXACT, lambda row: f"at most {LARGEST_EXACT / scale[row]:.15g}")
        if exact:
            off = np.abs(scaled - np.rint(scaled)) > np.maximum(1e-3, np.abs(scaled) * 1e-15)
            yield _first(block, name, off, lambda row: f"at most {round(np.log10(scale[row]))} decimals for this instrument")


def _first(
    block: _Block,
    name: str,
    wrong: NDArray[np.bool_],
    expected: Callable[[int], str],
    values: NDArray[Any] | None = None,
) -> _Finding | None:
    if not wrong.any():
        return None
    row = int(np.argmax(wrong))
    value = (block.values[name] if values is None else values)[row]
    if isinstance(value, np.floating):
        found = "NaN" if np.isnan(value) else "infinity" if value == np.inf else "-infinity" if value == -np.inf else f"{value:.15g}"
    else:
        found = str(value)
    return _Finding(block.row + row, name, expected(row), found)


# --- ticks ---------------------------------------------------------------------------------------------------------------


def _scaled(values: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.int64]:
    integers: NDArray[np.int64] = np.rint(values * scale).astype(np.int64)
    return integers


def _ticks_of_quotes(block: _Block, scales: _Scales) -> Ticks:
    rows = len(block.ts)
    price = np.empty(2 * rows, dtype=np.int64)
    price[0::2] = _scaled(block.values["bid"], scales.price[block.instrument])
    price[1::2] = _scaled(block.values["ask"], scales.price[block.instrument])
    size = np.zeros(2 * rows, dtype=np.int64)
    for start, name in enumerate(("bid_size", "ask_size")):
        if name in block.values:
            size[start::2] = _scaled(block.values[name], scales.size[block.instrument])
    return Ticks(
        instrument=np.repeat(scales.ids[block.instrument], 2),
        ts_event=np.repeat(block.ts, 2),
        price=price,
        size=size,
        flags=np.tile(np.array([BID | REPLAYED, ASK | REPLAYED], dtype=np.uint8), rows),
    )


def _ticks_of_trades(block: _Block, scales: _Scales) -> Ticks:
    return Ticks(
        instrument=scales.ids[block.instrument],
        ts_event=block.ts,
        price=_scaled(block.values["price"], scales.price[block.instrument]),
        size=_scaled(block.values["size"], scales.size[block.instrument]),
        flags=block.aggressor | np.uint8(TRADE | REPLAYED),
    )


def _ticks_of_candles(block: _Block, scales: _Scales, interval_ns: int) -> Ticks:
    values, rows = block.values, len(block.ts)
    scale = scales.price[block.instrument]
    falling = values["close"] < values["open"]
    path = (
        values["open"],
        np.where(falling, values["high"], values["low"]),
        np.where(falling, values["low"], values["high"]),
        values["close"],
    )
    price = np.stack([_scaled(leg, scale) for leg in path], axis=1)
    volume = _scaled(values["volume"], scales.size[block.instrument])
    size = np.repeat((volume // 4)[:, None], 4, axis=1)
    size[:, 3] += volume % 4
    ts = block.ts[:, None] + np.array([0, interval_ns // 3, 2 * interval_ns // 3, interval_ns - 1], dtype=np.int64)
    return Ticks(
        instrument=np.repeat(scales.ids[block.instrument], 4),
        ts_event=ts.reshape(4 * rows),
        price=price.reshape(4 * rows),
        size=size.reshape(4 * rows),
        flags=np.full(4 * rows, TRADE | REPLAYED | DERIVED, dtype=np.uint8),
    )
