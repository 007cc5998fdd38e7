"""nautilus_trader's side of the backtest benchmark: quotes a second with a market order every so many. Prints one JSON object.

Runs in an environment of its own (../order_path/requirements-nautilus.txt). Making the quotes is not timed.
"""

from __future__ import annotations

import argparse
import json
import time
from decimal import Decimal

import market
from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import BacktestEngineConfig, LoggingConfig, RiskEngineConfig, StrategyConfig
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.data import QuoteTick
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import TraderId, Venue
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy


class EverySoMany(Strategy):
    """Buys and sells in turn."""

    def __init__(self, instrument_id, every: int) -> None:
        super().__init__(StrategyConfig())
        self.instrument_id = instrument_id
        self.every = every
        self.seen = 0
        self.side = OrderSide.BUY

    def on_start(self) -> None:
        self.instrument = self.cache.instrument(self.instrument_id)
        self.subscribe_quote_ticks(self.instrument_id)

    def on_quote_tick(self, tick: QuoteTick) -> None:
        if self.seen and self.seen % self.every == 0:
            self.submit_order(self.order_factory.market(self.instrument_id, self.side, self.instrument.make_qty(Decimal("0.001"))))
            self.side = OrderSide.SELL if self.side is OrderSide.BUY else OrderSide.BUY
        self.seen += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quotes", type=int, required=True)
    parser.add_argument("--every", type=int, default=1_000)
    chosen = parser.parse_args()
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
    size = Quantity(100, 6)
    quotes = [
        QuoteTick(instrument.id, Price(bid / 100, 2), Price((bid + 1) / 100, 2), size, size, at, at)
        for ts, bids in market.blocks(chosen.quotes)
        for at, bid in zip(ts.tolist(), bids.tolist(), strict=True)
    ]
    engine.add_data(quotes)
    engine.add_strategy(EverySoMany(instrument.id, chosen.every))
    began = time.perf_counter()
    engine.run()
    seconds = time.perf_counter() - began
    wanted = len(range(chosen.every, chosen.quotes, chosen.every))
    filled = sum(1 for order in engine.cache.orders() if order.is_closed and order.filled_qty == order.quantity)
    assert filled == wanted, f"{filled} of {wanted} orders filled"
    print(json.dumps({"quotes_per_second": chosen.quotes / seconds, "fills": filled}))
    engine.dispose()


if __name__ == "__main__":
    main()
