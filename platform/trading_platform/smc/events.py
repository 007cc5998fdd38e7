"""What an indicator says: events, and what became of them later. Both are only ever appended.

An event's own values are facts of the candle that made it known. Its later life is a second list of facts (`LIFE`), each said
once at a later candle; the columns `mitigated_at`, `swept_at` … are that list spread out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Kind(IntEnum):
    """What an event is."""

    FAIR_VALUE_GAP = 1
    SWING = 2
    BREAK_OF_STRUCTURE = 3
    CHANGE_OF_CHARACTER = 4
    ORDER_BLOCK = 5
    LIQUIDITY = 6
    SWEEP = 7
    PREVIOUS_LEVEL = 8
    SESSION_LEVEL = 9
    LEG = 10
    DEALING_RANGE = 11


class Status(IntEnum):
    """Where an event stands: the last thing that was said of it."""

    ACTIVE = 0
    CONFIRMED = 1
    MITIGATED = 2
    SWEPT = 3
    BROKEN = 4
    FAILED = 5
    SUPERSEDED = 6
    EXPIRED = 7


# By number; calling an enum costs more than an event.
KINDS = {int(kind): kind for kind in Kind}
STATUSES = tuple(Status)

LIFE_COLUMNS = tuple(f"{status.name.lower()}_at" for status in Status if status)

# `value` and `extra` are the kind's own: an order block's volume and strength in percent, a pool's number of swings and its last one.
EVENT = np.dtype(
    [
        ("id", np.int64), ("kind", np.int64), ("direction", np.int64),
        ("event_at", np.int64), ("event_time", np.int64), ("known_at", np.int64), ("known_time", np.int64),
        ("top", np.float64), ("bottom", np.float64), ("level", np.float64), ("value", np.float64), ("extra", np.float64),
    ]
)  # fmt: skip

# `final`: nothing more will ever be said of this event.
LIFE = np.dtype([("event", np.int64), ("status", np.int64), ("at", np.int64), ("time", np.int64), ("final", np.int64)])


class Event(NamedTuple):
    """One event as of now. Indices are candles, times UTC microseconds; a life field is -1 until it happens, then set once."""

    id: int
    kind: Kind
    direction: int
    event_at: int
    event_time: int
    known_at: int
    known_time: int
    top: float
    bottom: float
    level: float
    value: float
    extra: float
    status: Status = Status.ACTIVE
    confirmed_at: int = -1
    mitigated_at: int = -1
    swept_at: int = -1
    broken_at: int = -1
    failed_at: int = -1
    superseded_at: int = -1
    expired_at: int = -1


@dataclass(frozen=True, slots=True)
class Events:
    """Everything an indicator said about some candles.

    `said`: one row an event (dtype EVENT), in the order it became known, `id` is the row. `life`: dtype LIFE, in the order it was
    said. `values`: one row a candle, what the indicator's `columns` were at its close; no columns, no values.
    """

    said: NDArray[np.void]
    life: NDArray[np.void]
    values: NDArray[np.float64]
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.said)

    def __getitem__(self, column: str) -> NDArray[Any]:
        """A column of the events, of their life (`swept_at`, -1 where it has not happened; `status`), or of the values."""
        if column in EVENT.names:  # type: ignore[operator]
            return self.said[column]
        if column in self.columns:
            return self.values[:, self.columns.index(column)]
        if column == "status":
            status = np.zeros(len(self.said), dtype=np.int64)
            status[self.life["event"]] = self.life["status"]
            return status
        if column not in LIFE_COLUMNS:
            raise KeyError(f"no column {column}: there are {', '.join((*EVENT.names, 'status', *LIFE_COLUMNS, *self.columns))}")  # type: ignore[misc]
        happened = self.life[self.life["status"] == Status[column.removesuffix("_at").upper()]]
        at = np.full(len(self.said), -1, dtype=np.int64)
        at[happened["event"]] = happened["at"]
        return at

    def as_of(self, index: int) -> Events:
        """What had been said when candle `index` closed: later events, and later life of earlier ones, are not there."""
        said = self.said[: np.searchsorted(self.said["known_at"], index, side="right")]
        spoken = np.maximum(self.life["at"], self.said["known_at"][self.life["event"]])
        return Events(said, self.life[spoken <= index], self.values[: index + 1], self.columns)

    def rows(self) -> list[Event]:
        """The events one by one, with their life."""
        life = [self[name].tolist() for name in LIFE_COLUMNS]
        found = []
        for said, status, *at in zip(self.said.tolist(), self["status"].tolist(), *life, strict=True):
            found.append(Event._make((said[0], KINDS[said[1]], *said[2:], STATUSES[status], *at)))
        return found
