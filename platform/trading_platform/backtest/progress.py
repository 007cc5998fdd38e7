"""How far a run is, on a terminal: one line of standard error that is written over. Nothing where nobody looks."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from trading_platform.market.ticks import Ticks

EVERY_S = 0.1


class Progress:
    """From 0 to `whole`. Use as a context manager: the line goes away at the end."""

    def __init__(self, whole: float, what: str, to: TextIO | None = None) -> None:
        self._to = sys.stderr if to is None else to
        self._shown = self._to.isatty()
        self._whole = max(whole, 1e-9)
        self._what = what
        self._began = time.monotonic()
        self._next = 0.0
        self._done = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._to.write("\r\x1b[K")
            self._to.flush()

    def one_more(self) -> None:
        self.at(self._done + 1)

    def at(self, done: float) -> None:
        self._done = done
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + EVERY_S
        share = min(1.0, max(0.0, done / self._whole))
        left = (now - self._began) * (1 - share) / share if share else 0.0
        said = f" {share:4.0%}  {self._what}  {left:,.0f} s left"
        room = max(0, min(40, shutil.get_terminal_size().columns - len(said) - 4))
        bar = "#" * round(room * share)
        self._to.write(f"\r[{bar:<{room}}]{said}\x1b[K")
        self._to.flush()

    def over(self, parts: Iterable[Ticks], first_ns: int) -> Iterator[Ticks]:
        """The parts, told by the time of their ticks."""
        for part in parts:
            yield part
            if len(part):
                self.at(int(part.ts_event[-1]) - first_ns)
