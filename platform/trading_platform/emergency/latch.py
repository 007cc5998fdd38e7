"""The latch file of a host: while it is there, the engine of this host sends nothing and does not lead. It needs no database.

One JSON line for each time somebody laid it: when, who, why.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Laid:
    at: datetime
    by: str
    reason: str


def lay(path: Path, by: str, reason: str, at: datetime) -> None:
    """Create the file, or add a line to it; on disk when this returns. Raises OSError."""
    line = json.dumps({"at": at.astimezone(UTC).isoformat(), "by": by, "reason": reason}, ensure_ascii=False)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(file, f"{line}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(path: Path) -> list[Laid] | None:
    """Who laid it, oldest first; None where there is none. A line that is no record still is a latch."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    laid = []
    for line in lines:
        try:
            record = json.loads(line)
            laid.append(Laid(datetime.fromisoformat(record["at"]), str(record["by"]), str(record["reason"])))
        except (ValueError, KeyError, TypeError):
            laid.append(Laid(datetime.fromtimestamp(path.stat().st_mtime, UTC), "unknown", line[:200]))
    return laid


def clear(path: Path) -> None:
    """Remove it; nothing where there is none. Raises OSError."""
    path.unlink(missing_ok=True)
