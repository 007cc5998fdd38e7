"""Candle partitions are there before their first row, take in what fell beside them, and go when their time is over."""

from __future__ import annotations

from datetime import date
from typing import Any, cast

import psycopg
import pytest
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.market_data import candle_partitions
from trading_platform.market_data.candle_partitions import CandlePartitions
from trading_platform.problems import Problem
from trading_platform.service import LoopContext

TODAY = date(2024, 11, 15)


class Leading:
    """A loop that leads and is not told to stop."""

    stopping = False

    @property
    def lease(self) -> Leading:
        return self

    def assert_held(self) -> None: ...

    def beat(self) -> None: ...


CONTEXT = cast(LoopContext, Leading())


def partitions(db: Database, settings: Settings, **changes: Any) -> CandlePartitions:
    return CandlePartitions(settings.market_data.model_copy(update=changes), db)


def names(superuser: psycopg.Connection[Any]) -> list[str]:
    rows = superuser.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'candles'::regclass").fetchall()
    return sorted(name for (name,) in rows if name != "candles_default")


def add(superuser: psycopg.Connection[Any], *opened: str) -> None:
    for moment in opened:
        superuser.execute("INSERT INTO candles VALUES (1, 60, %s, 1, 2, 1, 1, 1, 'test')", (moment,))


async def test_this_month_and_the_next_have_their_partition(db: Database, settings: Settings, superuser: psycopg.Connection[Any]) -> None:
    await partitions(db, settings, candle_partitions_ahead=2).maintain(CONTEXT, TODAY)
    assert names(superuser) == ["candles_2024_11", "candles_2024_12", "candles_2025_01"]


async def test_rows_of_the_default_partition_are_told_and_moved_whatever_the_zone_of_the_server(
    db: Database, settings: Settings, superuser: psycopg.Connection[Any]
) -> None:
    kept = partitions(db, settings)
    add(superuser, "2023-04-30T23:59:00Z", "2023-05-01T00:00:00Z", "2023-05-31T23:59:00Z", "2023-06-01T00:00:00Z")
    with pytest.raises(Problem, match="4 candles are in the default partition"):
        await kept.check()
    await kept.maintain(CONTEXT, TODAY)
    await kept.check()
    where = superuser.execute("SELECT tableoid::regclass::text, count(*) FROM candles GROUP BY 1 ORDER BY 1").fetchall()
    assert where == [("candles_2023_04", 1), ("candles_2023_05", 2), ("candles_2023_06", 1)]


async def test_months_past_their_time_go_whole_and_nothing_else(
    db: Database, settings: Settings, superuser: psycopg.Connection[Any]
) -> None:
    add(superuser, "2024-03-31T23:59:00Z", "2024-04-01T00:00:00Z", "2024-11-01T00:00:00Z")
    await partitions(db, settings, candle_partitions_ahead=1, candle_retention_days=(TODAY - date(2024, 4, 20)).days).maintain(
        CONTEXT, TODAY
    )
    assert names(superuser) == ["candles_2024_04", "candles_2024_11", "candles_2024_12"]
    assert superuser.execute("SELECT count(*) FROM candles").fetchone() == (2,)


async def test_without_a_retention_nothing_is_dropped(db: Database, settings: Settings, superuser: psycopg.Connection[Any]) -> None:
    add(superuser, "1999-03-31T23:59:00Z")
    await partitions(db, settings).maintain(CONTEXT, TODAY)
    assert "candles_1999_03" in names(superuser)


async def test_what_is_current_is_not_dropped_by_mistake(db: Database) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="at least 31 days"):
        await db.fetch_value("SELECT drop_candle_partition(current_date)")


async def test_a_table_in_use_is_left_for_the_next_pass(db: Database, settings: Settings, superuser: psycopg.Connection[Any]) -> None:
    add(superuser, "2023-05-01T00:00:00Z")
    kept = partitions(db, settings)
    for month in candle_partitions.months_ahead(TODAY, settings.market_data.candle_partitions_ahead):
        superuser.execute("SELECT ensure_candle_partition(%s)", (month,))
    with superuser.transaction():
        superuser.execute("SELECT count(*) FROM candles")
        superuser.execute("LOCK TABLE candles IN ROW EXCLUSIVE MODE")
        await kept.maintain(CONTEXT, TODAY)
        assert superuser.execute("SELECT count(*) FROM candles_default").fetchone() == (1,)
    await kept.maintain(CONTEXT, TODAY)
    assert superuser.execute("SELECT count(*) FROM candles_default").fetchone() == (0,)
