"""The lake's files and what becomes of them: names, order, ranges, merging, retention, memory, and following the stream."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from lake_ticks import CATALOGUE, DAY, MONDAY, S, batch, expected, read, roll
from trading_platform.batches import TickBatch
from trading_platform.instruments import Catalogue
from trading_platform.market_data import lake_files, lake_upkeep
from trading_platform.market_data.lake import Lake, LakeBusy, Roll, parts_of
from trading_platform.market_data.lake_files import BEGINNING, Disk, LakeDamaged, Span, StreamId
from trading_platform.market_data.lake_writer import Glance, Place, follow

TODAY = datetime.fromtimestamp(MONDAY / S, UTC) + timedelta(days=2, hours=3)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path / "lake")
    with made.exclusive():
        made.recover()
    return made


def write(lake: Lake, *batches: TickBatch, start: int = 1) -> list[TickBatch]:
    """Each as a roll of its own."""
    for number, each in enumerate(batches, start):
        lake.append(roll([(number, each)]))
    return list(batches)


def merge(lake: Lake, now: datetime = TODAY) -> None:
    for directory in lake.directories():
        lake_upkeep.compact(lake, directory, now, threading.Event())


# --- files ------------------------------------------------------------------------------------------------------------------


def test_a_file_lies_below_its_day_and_symbol_and_is_called_after_its_span(lake: Lake) -> None:
    write(lake, batch([MONDAY + DAY - 1, MONDAY + DAY], [1, 2]))
    assert sorted(str(path.relative_to(lake.ticks)) for path in lake.ticks.glob("*/*/*")) == [
        "date=2024-01-01/symbol=BTCUSDT/1-0-1-0.parquet",
        "date=2024-01-02/symbol=ETHUSDT/1-0-1-0.parquet",
    ]


def test_a_symbol_that_is_a_way_out_of_the_lake_is_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match="is no symbol"):
        lake.read("../../etc", 0, 1)


def test_a_lake_has_one_writer(lake: Lake) -> None:
    with lake.exclusive(), pytest.raises(LakeBusy, match="another process"), Lake(lake.root).exclusive():
        pass


def test_what_others_need_of_the_disk_is_left_to_them(tmp_path: Path) -> None:
    greedy = Lake(tmp_path / "lake", min_free_bytes=1 << 60)
    with greedy.exclusive(), pytest.raises(OSError, match="make room"):
        write(greedy, batch([MONDAY]))
    assert read(greedy) == []


def test_a_write_that_fails_leaves_nothing_behind(lake: Lake) -> None:
    real = Disk.create

    def create(self: Disk, path: Path, write: object) -> int:
        if "ETHUSDT" in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return real(self, path, write)  # type: ignore[arg-type]

    with patch.object(Disk, "create", create), pytest.raises(OSError, match="No space"):
        write(lake, batch([MONDAY, MONDAY], [1, 2]))
    assert list(lake.ticks.glob("*/*/*")) == list(lake.ticks.glob("*/*/.*")) == []


# --- reading ----------------------------------------------------------------------------------------------------------------


def test_late_rows_and_days_played_again_come_in_time_order_and_of_one_instant_as_they_came(lake: Lake) -> None:
    times = [[5, 5, 9], [7, 5, 12], [1, 5, 20], [13]]
    sent = write(lake, *(batch([MONDAY + at for at in each], start=10 * number) for number, each in enumerate(times)))
    assert read(lake) == expected(sent)


def test_only_the_row_groups_of_the_range_are_read(lake: Lake) -> None:
    with patch("trading_platform.market_data.lake.ROW_GROUP", 10):
        write(lake, batch(list(range(MONDAY, MONDAY + 100))))
    read_groups: list[int] = []
    import pyarrow.parquet as pq

    real = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, *rest: object, **more: object) -> object:
        read_groups.append(group)
        return real(self, group, *rest, **more)  # type: ignore[arg-type]

    with patch.object(pq.ParquetFile, "read_row_group", counted):
        rows = read(lake, from_ns=MONDAY + 35, to_ns=MONDAY + 41, columns=["price"])
    assert rows == [(35,), (36,), (37,), (38,), (39,), (40,)]
    assert read_groups == [3, 4]


def test_memory_does_not_grow_with_the_range(lake: Lake) -> None:
    """A day of 40 files is read; at no time are more than three row groups alive."""
    import pyarrow as pa

    write(lake, *(batch(list(range(MONDAY + 1_000 * n, MONDAY + 1_000 * n + 1_000))) for n in range(40)))
    before, most = pa.total_allocated_bytes(), 0
    for _ in lake.read("BTCUSDT", 0, 1 << 62):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 3 * 1_000 * 33 + 65_536


def test_scales_that_changed_are_brought_to_the_finest(lake: Lake) -> None:
    coarse = CATALOGUE.symbol("BTCUSDT")
    fine = Catalogue([replace(coarse, price_scale=coarse.price_scale + 1)])
    lake.append(roll([(1, batch([MONDAY], start=7))]))
    lake.append(Roll(Span(StreamId(2, 0), StreamId(2, 0)), 2, parts_of([batch([MONDAY + 1], start=8)], fine)))
    assert [row[2] for row in read(lake)] == [70, 8]
    assert lake.scales("BTCUSDT", 0, 1 << 62) == (coarse.price_scale + 1, coarse.size_scale)
    merge(lake)
    assert len(list(lake.ticks.glob("*/*/*"))) == 2, "files of different scales stay apart"


@pytest.mark.parametrize("wrong", [{"kind": "orders"}, {"columns": ["secret"]}, {"columns": []}, {"to_ns": 0}])
def test_a_wrong_question_is_refused_before_anything_is_read(lake: Lake, wrong: dict[str, object]) -> None:
    asked = {"symbol": "BTCUSDT", "from_ns": 0, "to_ns": 1, **wrong}
    with pytest.raises(ValueError, match=r"expected|is not before"):
        lake.read(**asked)  # type: ignore[arg-type]


def test_a_bit_that_turned_is_found_when_it_is_read(lake: Lake) -> None:
    write(lake, batch(list(range(MONDAY, MONDAY + 1_000))))
    (path,) = lake.ticks.glob("*/*/*")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(LakeDamaged, match=path.name):
        read(lake)


# --- upkeep -----------------------------------------------------------------------------------------------------------------


def test_a_day_that_is_over_becomes_one_file_that_says_what_it_replaces(lake: Lake) -> None:
    sent = write(lake, *(batch([MONDAY + 10 - number], start=number) for number in range(4)))
    merge(lake)
    (path,) = lake.ticks.glob("*/*/*")
    assert path.name == "1-0-4-0.parquet"
    assert lake.info(path).replaces == tuple(f"{number}-0-{number}-0.parquet" for number in (1, 2, 3, 4))
    assert read(lake) == expected(sent)
    sent += write(lake, batch([MONDAY + 3], start=50), start=5)
    assert read(lake) == expected(sent), "what comes later for that day is read beside it"
    merge(lake)
    assert [path.name for path in lake.ticks.glob("*/*/*")] == ["1-0-5-0.parquet"]
    assert read(lake) == expected(sent)


def test_the_day_in_progress_is_merged_only_when_it_has_many_files(lake: Lake) -> None:
    today = datetime.fromtimestamp(MONDAY / S, UTC) + timedelta(hours=1)
    sent = write(lake, *(batch([MONDAY + number], start=number) for number in range(5)))
    merge(lake, today)
    assert len(list(lake.ticks.glob("*/*/*"))) == 5
    with patch.object(lake_upkeep, "UNMERGED", 5):
        merge(lake, today)
        sent += write(lake, *(batch([MONDAY + number], start=number) for number in range(5, 10)), start=6)
        merge(lake, today)
    assert sorted(path.name for path in lake.ticks.glob("*/*/*")) == ["1-0-5-0.parquet", "6-0-10-0.parquet"]
    assert read(lake) == expected(sent)


def test_files_somebody_reads_stay_until_he_is_done(lake: Lake) -> None:
    sent = write(lake, batch([MONDAY]), batch([MONDAY + 1], start=1))
    reading = lake.read("BTCUSDT", 0, 1 << 62)
    rows = next(reading).num_rows
    merge(lake)
    assert len(list(lake.ticks.glob("*/*/*"))) == 3
    assert rows + sum(each.num_rows for each in reading) == 2
    for directory in lake.directories():
        lake_upkeep.remove_replaced(lake, directory)
    assert len(list(lake.ticks.glob("*/*/*"))) == 1
    assert read(lake) == expected(sent)


def arrived(lake: Lake, when: datetime, sent: TickBatch) -> None:
    """A roll that came at that time."""
    place = StreamId(int(when.timestamp() * 1_000), 0)
    lake.append(Roll(Span(place, place), 1, parts_of([sent], CATALOGUE)))


def test_days_past_their_time_go_but_not_what_was_replayed_lately_nor_the_newest(lake: Lake) -> None:
    now = TODAY + timedelta(days=100)
    arrived(lake, TODAY, batch([MONDAY]))
    arrived(lake, TODAY + timedelta(hours=1), batch([MONDAY + DAY]))
    arrived(lake, now, batch([MONDAY - 365 * DAY]))
    assert lake_upkeep.expire(lake, 30, now) == 2
    assert [day.name for day in lake.days()] == ["date=2023-01-01"]
    assert lake_upkeep.expire(lake, 30, now + timedelta(days=1_000)) == 0, "where the newest ends is where the lake goes on"


def test_today_and_days_within_their_time_stay(lake: Lake) -> None:
    write(lake, batch([MONDAY, MONDAY + DAY, MONDAY + 2 * DAY]))
    assert lake_upkeep.expire(lake, 2, TODAY) == 0
    assert len(lake.days()) == 3


# --- after a crash ----------------------------------------------------------------------------------------------------------


def test_a_hidden_file_of_no_commit_goes_to_quarantine_and_a_half_merged_one_goes(lake: Lake) -> None:
    sent = write(lake, batch([MONDAY]))
    directory = lake.directories()[0]
    (directory / ".roll-2-0-2-0.parquet").write_bytes(b"PAR1 half a file")
    (directory / ".merge-1-0-2-0.parquet").write_bytes(b"PAR1")
    recovered = lake.recover()
    assert recovered.quarantined == ("2024-01-01_BTCUSDT_roll-2-0-2-0.parquet",)
    assert (recovered.position, recovered.ordinal) == (StreamId(1, 0), 1)
    assert os.listdir(directory) == ["1-0-1-0.parquet"]
    assert read(lake) == expected(sent)


def test_an_empty_lake_begins_at_the_beginning(lake: Lake) -> None:
    assert lake.recover().position == BEGINNING


def test_names_that_are_not_the_lakes_are_left_alone(lake: Lake) -> None:
    sent = write(lake, batch([MONDAY]))
    directory = lake.directories()[0]
    (directory / "notes.parquet").write_bytes(b"mine")
    lake.recover()
    merge(lake)
    assert read(lake) == expected(sent)
    assert (directory / "notes.parquet").read_bytes() == b"mine"
    assert list(lake_files.replaced(directory)) == []


# --- the stream -------------------------------------------------------------------------------------------------------------


def glance(*, added: int, ids: list[int], newest: int | None = None) -> Glance:
    """A stream of entries `<n>-0` of which `added` were ever added."""
    places = [StreamId(number, 0) for number in ids]
    return Glance(added, len(ids), StreamId(newest or ids[-1], 0), places[0] if places else None, [])


@pytest.mark.parametrize(
    ("place", "seen", "batches", "ordinal"),
    [
        (Place(), glance(added=9, ids=[7, 8, 9]), "no gap", 6),  # the first time: history begins here
        (Place(StreamId(8, 0), 8), glance(added=9, ids=[7, 8, 9]), "no gap", 8),
        (Place(StreamId(6, 0), 6), glance(added=9, ids=[7, 8, 9]), "no gap", 6),  # trimmed exactly up to us
        (Place(StreamId(4, 0), 4), glance(added=9, ids=[7, 8, 9]), 2, 6),
        (Place(StreamId(400, 0), 400), glance(added=2, ids=[507, 508]), None, 0),  # another stream of that name
        (Place(StreamId(4, 0), 4), glance(added=4, ids=[], newest=4), "no gap", 4),
    ],
)
def test_what_lies_between_our_place_and_the_stream_is_counted(place: Place, seen: Glance, batches: object, ordinal: int) -> None:
    gap = follow(place, seen)
    assert ("no gap" if gap is None else gap.batches) == batches
    assert place.ordinal == ordinal


def test_a_stream_that_went_back_is_a_gap_and_followed_from_its_end() -> None:
    place = Place(StreamId(9, 0), 9)
    gap = follow(place, glance(added=5, ids=[4, 5]))
    assert gap is not None
    assert (place.position, place.ordinal) == (StreamId(5, 0), 5)


def test_prices_and_times_keep_every_bit(lake: Lake) -> None:
    extreme = np.array([-(2**63), 2**63 - 1, 0], np.int64)
    sent = TickBatch(
        np.full(3, 1, np.uint32), np.full(3, MONDAY, np.int64), np.full(3, MONDAY, np.int64), extreme, extreme[::-1].copy(),
        np.array([255, 0, 1], np.uint8),
    )  # fmt: skip
    write(lake, sent)
    assert read(lake) == expected([sent])
