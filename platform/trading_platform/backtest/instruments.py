"""The instruments a backtest knows without a database: the platform's own, as its migrations write them."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, cast

from trading_platform.instruments import Catalogue, Instrument, Kind

# id, symbol, kind, base, quote, price and size scale, tick, lot, smallest and largest quantity, smallest value
_ROWS: Final = """
1 BTCUSDT     spot      BTC USDT 2 6 0.01    0.00001  0.00001  9000     5
2 ETHUSDT     spot      ETH USDT 2 5 0.01    0.0001   0.0001   9000     5
3 EURUSD      fx        EUR USD  5 2 0.00001 1        1        50000000 0
4 XAUUSD      metal     XAU USD  3 3 0.001   0.001    0.001    10000    0
5 SPY         equity    SPY USD  4 4 0.01    0.0001   0.0001   1000000  0
6 BTCUSD-PERP perpetual BTC USD  3 4 0.5     0.0001   0.0001   9000     5
"""


def _instrument(row: str) -> Instrument:
    number, symbol, kind, base, quote, price_scale, size_scale, *amounts = row.split()
    tick, lot, smallest, largest, value = (Decimal(amount) for amount in amounts)
    return Instrument(
        id=int(number),
        symbol=symbol,
        kind=cast(Kind, kind),
        base_currency=base,
        quote_currency=quote,
        price_scale=int(price_scale),
        size_scale=int(size_scale),
        tick_size=tick,
        lot_size=lot,
        min_quantity=smallest,
        max_quantity=largest,
        min_notional=value,
        multiplier=Decimal(1),
    )


def catalogue() -> Catalogue:
    return Catalogue(_instrument(row) for row in _ROWS.strip().splitlines())
