"""The newest prices of an instrument, as far as the market tells them. Pure.

Whoever asks with a Top vouches for its age: an old one is passed as None, which means "no market".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from trading_platform.messages import Side

TriggerBy = Literal["last", "quote"]


@dataclass(frozen=True, slots=True)
class Top:
    """Best bid and ask and the last trade in quote units; None where the source has none. `ts` is when they held."""

    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None
    ts: datetime

    def reference(self, side: Side, by: TriggerBy) -> Decimal | None:
        """The price a stop of this side looks at: the last trade or the price it would trade at, the other where one is missing."""
        quote = self.bid if side == "sell" else self.ask
        first, second = (self.last, quote) if by == "last" else (quote, self.last)
        return first if first is not None else second


def reaches_stop(side: Side, price: Decimal, trigger: Decimal) -> bool:
    """Whether a stop at `trigger` fires: a sell stop when the price has come down to it, a buy stop when it has come up."""
    return price <= trigger if side == "sell" else price >= trigger
