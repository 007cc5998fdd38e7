"""Smart Money Concepts, causal: nothing is said before it can be known, and nothing that was said is ever changed.

Every indicator is a function over columns and a stream over candles that run the same compiled code (docs/smc.md). Pure: no I/O but
the cache of compiled code, no clock.
"""

from trading_platform.smc.candles import Candles
from trading_platform.smc.drive import Panel, Stream
from trading_platform.smc.events import Event, Events, Kind, Status
from trading_platform.smc.fair_value_gaps import FvgStream, fvg
from trading_platform.smc.levels import PreviousHighLowStream, SessionStream, previous_high_low, sessions
from trading_platform.smc.liquidity import LiquidityStream, liquidity
from trading_platform.smc.order_blocks import OrderBlockStream, order_blocks
from trading_platform.smc.ranges import PremiumDiscountStream, RetracementStream, premium_discount, retracements
from trading_platform.smc.structure import StructureStream, structure
from trading_platform.smc.sweeps import SweepStream, sweeps
from trading_platform.smc.swings import SwingStream, swings

__all__ = [
    "Candles",
    "Event",
    "Events",
    "FvgStream",
    "Kind",
    "LiquidityStream",
    "OrderBlockStream",
    "Panel",
    "PremiumDiscountStream",
    "PreviousHighLowStream",
    "RetracementStream",
    "SessionStream",
    "Status",
    "Stream",
    "StructureStream",
    "SweepStream",
    "SwingStream",
    "fvg",
    "liquidity",
    "order_blocks",
    "premium_discount",
    "previous_high_low",
    "retracements",
    "sessions",
    "structure",
    "sweeps",
    "swings",
]
