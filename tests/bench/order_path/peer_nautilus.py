"""The peer's side of the order path: how many orders a second nautilus_trader's backtest engine takes from a strategy, in memory.

Runs in an environment of its own (requirements-nautilus.txt). Every quote tick the strategy submits `--burst` market orders of the
smallest size, alternating sides; each is filled at once by the simulated exchange. Nothing is kept durably. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from decimal import Decimal

from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import BacktestEngineConfig, LoggingConfig, RiskEngineConfig, StrategyConfig
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.data import QuoteTick
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import TraderId, Venue
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy


class Submitter(Strategy):
    """Market orders, one side after the other."""

    def __init__(self, instrument_id, orders: int, burst: int) -> None:
        super().__init__(StrategyConfig())
        self.instrument_id = instrument_id
        self.left = orders
        self.burst = burst
        self.side = OrderSide.BUY

    def on_start(self) -> None:
        self.instrument = self.cache.instrument(self.instrument_id)
        self.subscribe_quote_ticks(self.instrument_id)

    def on_quote_tick(self, tick: QuoteTick) -> None:
        for _ in range(min(self.burst, self.left)):
            self.submit_order(self.order_factory.market(self.instrument_id, self.side, self.instrument.make_qty(Decimal("0.001"))))
            self.side = OrderSide.SELL if self.side is OrderSide.BUY else OrderSide.BUY
            self.left -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=5_000)
    parser.add_argument("--burst", type=int, default=1)
    arguments = parser.parse_args()
    instrument = TestInstrumentProvider.btcusdt_binance()
    engine = BacktestEngine(
        BacktestEngineConfig(
            trader_id=TraderId("BENCH-001"),
            logging=LoggingConfig(bypass_logging=True),
            risk_engine=RiskEngineConfig(max_order_submit_rate="1000000/00:00:01"),
        )
    )
    engine.add_venue(
        venue=Venue("BINANCE"),
        oms_type=OmsType.NETTING,
        account_type=AccountType.CASH,
        base_currency=None,
        starting_balances=[Money(100_000_000, USDT)],
    )
    engine.add_instrument(instrument)
    ticks = [
        QuoteTick(
            instrument.id, Price(50_000, 2), Price(50_000.01, 2), Quantity(100, 6), Quantity(100, 6), 1_000_000_000 + n * 1_000_000,
            1_000_000_000 + n * 1_000_000,
        )
        for n in range(arguments.orders // arguments.burst + 10)
    ]  # fmt: skip
    engine.add_data(ticks)
    engine.add_strategy(Submitter(instrument.id, arguments.orders, arguments.burst))
    began = time.perf_counter()
    engine.run()
    elapsed = time.perf_counter() - began
    filled = sum(1 for order in engine.cache.orders() if order.is_closed and order.filled_qty == order.quantity)
    assert filled == arguments.orders, f"{filled} of {arguments.orders} orders filled"
    print(json.dumps({"orders": arguments.orders, "seconds": elapsed, "orders_per_second": arguments.orders / elapsed}))
    engine.dispose()


if __name__ == "__main__":
    main()
