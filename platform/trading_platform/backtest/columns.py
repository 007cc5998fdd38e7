"""Ticks of a run as columns, and the compiled loops over them: what is refused, and how far they may pass before an order hears of one.

Nothing here decides anything: prices in reach are the matcher's to say (domain/matching.py), what is absurd the quarantine's
(market/quality.py). Both are asked again where a loop stops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading_platform.batches import ASK, BID, TRADE
from trading_platform.market.quality import Quarantine
from trading_platform.market.ticks import Ticks
from trading_platform.smc.compiled import kernel


@dataclass(frozen=True, slots=True)
class TickColumns:
    """Columns as a tick batch has them, of any length: a run receives a tick when it happens."""

    instrument: NDArray[np.uint32]
    ts_event: NDArray[np.int64]
    ts_recv: NDArray[np.int64]
    price: NDArray[np.int64]
    size: NDArray[np.int64]
    flags: NDArray[np.uint8]

    @staticmethod
    def of(ticks: Ticks) -> TickColumns:
        return TickColumns(ticks.instrument, ticks.ts_event, ticks.ts_event, ticks.price, ticks.size, ticks.flags)

    def __len__(self) -> int:
        return len(self.ts_event)


class Screen(Quarantine):
    """The quarantine with a quick look first: of a part without a wrong row it only remembers the newest prices."""

    def screen(self, ticks: Ticks) -> Ticks:
        if not len(ticks) or not self._reference:
            return super().screen(ticks)
        known = np.fromiter(self._reference, dtype=np.uint32, count=len(self._reference))
        reference = np.fromiter(self._reference.values(), dtype=np.float64, count=len(known))
        newest = np.full(len(known), -1, dtype=np.int64)
        if not all_right(ticks.instrument, ticks.price, ticks.flags, known, reference, self._max_move, newest):
            return super().screen(ticks)
        for instrument, row in zip(known.tolist(), newest.tolist(), strict=True):
            if row >= 0:
                self._reference[instrument] = float(ticks.price[row])
                self._suspects.pop(instrument, None)
        return ticks


@kernel
def all_right(
    instrument: NDArray[np.uint32],
    price: NDArray[np.int64],
    flags: NDArray[np.uint8],
    known: NDArray[np.uint32],
    reference: NDArray[np.float64],
    max_move: float,
    newest: NDArray[np.int64],
) -> bool:
    """Whether no quote is crossed and no price far from its reference. False also for instruments that have none. Fills `newest`."""
    slot, rows = 0, len(price)
    for row in range(rows):
        if instrument[row] != known[slot]:
            slot = 0
            while slot < len(known) and instrument[row] != known[slot]:
                slot += 1
            if slot == len(known):
                return False
        if abs(price[row] - reference[slot]) > max_move * reference[slot]:
            return False
        if row + 1 < rows and flags[row] & BID and flags[row + 1] & ASK and price[row] > price[row + 1]:
            return False
        newest[slot] = row
    return True


@kernel
def in_order(ts: NDArray[np.int64]) -> bool:
    """Whether time never goes back."""
    late = 0
    for row in range(1, len(ts)):
        late += ts[row] < ts[row - 1]
    return late == 0


@kernel
def walk(
    instrument: NDArray[np.uint32],
    price: NDArray[np.int64],
    flags: NDArray[np.uint8],
    at: int,
    stop: int,
    traded: NDArray[np.uint32],
    reach: NDArray[np.int64],
    newest: NDArray[np.int64],
) -> int:
    """The first row of [at, stop) in reach of an order, or `stop`.

    `traded` are the instruments of the run, `reach` their six prices (Matcher.reach). `newest` becomes, by instrument, the newest rows
    before that one: a trade, a bid, an ask, any; -1 where there is none.
    """
    slot = 0
    for row in range(at, stop):
        if instrument[row] != traded[slot]:
            found = 0
            while found < len(traded) and instrument[row] != traded[found]:
                found += 1
            if found == len(traded):
                continue
            slot = found
        kind = 0 if flags[row] & TRADE else 1 if flags[row] & BID else 2
        if price[row] <= reach[slot, 2 * kind] or price[row] >= reach[slot, 2 * kind + 1]:
            return row
        newest[slot, kind] = row
        newest[slot, 3] = row
    return stop
