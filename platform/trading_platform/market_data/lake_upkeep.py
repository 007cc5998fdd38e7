"""What keeps the lake small: files of a day become one, days past their time go. Runs beside the writer, and gives way to it.

A merged file holds the spans of those it replaces, so from its rename on readers see it instead of them, whatever is removed when.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

from trading_platform.market_data import lake_files, lake_metrics
from trading_platform.market_data.lake import COLUMNS, Lake, merged_info, write_tables
from trading_platform.market_data.lake_files import BEGINNING, MERGE_PREFIX, SUFFIX, LakeDamaged, Span, StreamId
from trading_platform.market_data.lake_merge import Source, merged

log = logging.getLogger(__name__)

# A day that is over is merged once nothing has come for it so long: replays write days that were over long ago.
SETTLED_S: Final = 600
# Files of a day that is not over are merged when there are so many.
UNMERGED: Final = 240
_NICENESS: Final = 15
_FOREVER: Final = 1 << 62
DAY: Final = timedelta(days=1)


def upkeep(lake: Lake, retention_days: int | None, now: datetime, stop: threading.Event) -> None:
    """One pass, in a thread. What fails is logged, counted and tried in the next pass; a full disk still loses its old days."""
    with suppress(OSError):  # units may not be allowed to
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    if retention_days is not None:
        expire(lake, retention_days, now)
    for directory in lake.directories():
        if stop.is_set():
            return
        try:
            remove_replaced(lake, directory)
            compact(lake, directory, now, stop)
        except (OSError, LakeDamaged) as error:
            lake_metrics.FAILURES.inc()
            log.error("files of the lake are not merged", extra={"directory": str(directory), "error": str(error)[:300]})


def compact(lake: Lake, directory: Path, now: datetime, stop: threading.Event | None = None) -> bool:
    """Merge what is due there, or say that nothing is. Raises OSError, LakeDamaged; nothing is lost or double then."""
    files = lake_files.visible(directory)
    if not files:
        return False
    day = date.fromisoformat(directory.parent.name.removeprefix("date="))
    over = day < now.date() and files[-1][0].last.ms / 1000 < now.timestamp() - SETTLED_S
    if not over:
        while files and lake.info(files[0][1]).merged:
            files.pop(0)
        if len(files) < UNMERGED:
            return False
    due = False
    for _, alike in groupby(files, key=lambda file: (lake.info(file[1]).price_scale, lake.info(file[1]).size_scale)):
        neighbours = list(alike)
        if len(neighbours) > 1:
            merge(lake, directory, neighbours, stop)
            due = True
    return due


def merge(lake: Lake, directory: Path, files: list[tuple[Span, Path]], stop: threading.Event | None = None) -> None:
    """These, neighbours in the stream, become one."""
    sources = [Source(path, lake.info(path)) for _, path in files]
    info = merged_info([source.info for source in sources], tuple(path.name for _, path in files))
    name = f"{Span(files[0][0].first, files[-1][0].last)}{SUFFIX}"
    temporary = directory / f"{MERGE_PREFIX}{name}"
    tables = merged(sources, -_FOREVER, _FOREVER, list(COLUMNS))
    try:
        size = lake.disk.create(temporary, lambda file: write_tables(tables, info, file, partial(_give_way, stop)))
        lake.disk.sync(directory)
    except (OSError, LakeDamaged):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    lake.disk.rename(temporary, directory / name)
    lake.disk.sync(directory)
    lake_metrics.FILES.labels("merge").inc()
    lake_metrics.BYTES.labels("merge").inc(size)
    remove_replaced(lake, directory)


def _give_way(stop: threading.Event | None, worked_s: float) -> None:
    """Half of one processor at most; nothing more once the service stops."""
    if stop is None:
        return
    stop.wait(worked_s)
    if stop.is_set():
        raise OSError("the service stops")


def remove_replaced(lake: Lake, directory: Path) -> int:
    """How many files a merged one has replaced and nobody reads any more: they are gone now."""
    gone = lake_files.replaced(directory)
    if not gone:
        return 0
    with lake_files.holding(directory, exclusive=True) as alone:
        if not alone:
            return 0
        for path in gone:
            lake.disk.remove(path)
            lake.forget(path)
        lake.disk.sync(directory)
    lake_metrics.REMOVED.labels("merged").inc(len(gone))
    return len(gone)


def expire(lake: Lake, retention_days: int, now: datetime) -> int:
    """Drop whole days that are older and got nothing since, and what has been as long in quarantine; how many days went."""
    keep_from = now.date() - timedelta(days=retention_days)
    dropped = 0
    # The newest ticks stay however old: where they end is where the lake goes on, and what it misses since.
    newest = max(lake.directories(), key=_newest_id, default=None)
    for day in lake.days():
        old = date.fromisoformat(day.name.removeprefix("date=")) < min(keep_from, now.date())
        if old and (newest is None or day != newest.parent):
            try:
                dropped += _drop(lake, day, keep_from)
            except OSError as error:
                lake_metrics.FAILURES.inc()
                log.error("a day of the lake is not dropped", extra={"day": day.name, "error": str(error)[:300]})
    for path in lake.quarantine_directory.glob("*"):
        with suppress(OSError):
            if datetime.fromtimestamp(path.stat().st_mtime, UTC).date() < keep_from:
                lake.disk.remove(path)
    return dropped


def _drop(lake: Lake, day: Path, keep_from: date) -> int:
    """0 where somebody reads it, or a replay wrote it lately: it is history as long as a day of that age would be."""
    with lake.changing:
        directories = sorted(day.glob("symbol=*"))
        if any(_newest(directory) >= keep_from for directory in directories):
            return 0
        for directory in directories:
            with lake_files.holding(directory, exclusive=True) as alone:
                if not alone:
                    return 0
                for path in sorted(directory.iterdir()):
                    lake.disk.remove(path)
                    lake.forget(path)
                    lake_metrics.REMOVED.labels("retention").inc()
                directory.rmdir()
        day.rmdir()
        lake.disk.sync(lake.ticks)
    log.info("dropped a day of the lake", extra={"day": day.name})
    return 1


def _newest(directory: Path) -> date:
    """When the newest of its ticks came."""
    return datetime.fromtimestamp(_newest_id(directory).ms / 1000, UTC).date()


def _newest_id(directory: Path) -> StreamId:
    return max((span.last for span, _ in lake_files.spans(directory)), default=BEGINNING)


def today() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
