"""Our side of the order path: an account's engine at work on real servers. Run by the bench, each time in a process of its own.

    ours.py burst CONFIG --orders N --at-once K       as fast as it goes, K orders in progress
    ours.py paced CONFIG --seconds S --rate R         an order every 1/R s whatever became of those before it

CONFIG is a platform configuration. Orders are market orders of the smallest useful size, one side after the other, through
AccountEngine.place: judged by every limit, committed, sent, the venue's answer committed. `--venue instant` fills them in this
process at once; `--venue paper` is the adapter with ccxt and HTTP. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "tests")]

import uvloop
from prometheus_client import REGISTRY
from servers import Market
from trading_platform import config, money
from trading_platform.config import AccountSettings, Settings
from trading_platform.domain.orders import Fill, Intent
from trading_platform.engine import app as engine_app
from trading_platform.engine.core import OrderRequest
from trading_platform.engine.outbox import OutboxPublisher
from trading_platform.engine.service import AccountEngine
from trading_platform.engine.venues import StreamGap, Usage, VenueOrder, VenueRejected, VenueReport, VenueTrade
from trading_platform.instruments import Catalogue
from trading_platform.service import Service

SYMBOL = "BTCUSDT"
BID, ASK = Decimal("39999.00"), Decimal("40001.00")
DEPTH = "100000"
KEPT = 5_000
QUANTITY = Decimal("0.001")
FEE_RATE = Decimal("0.0005")
QUOTE_EVERY_S = 0.2
WARM_UP = 1_000
# The orders whose cost is looked at, by how many came before.
WINDOWS = ((500, 1_500), (9_000, 11_000), (90_000, 100_000))


@dataclass
class InstantVenue:
    """A venue that fills every market order in the moment it arrives, answers with the execution and tells it again by its stream."""

    account: AccountSettings
    catalogue: Catalogue
    name: str = "paper"
    recv_window_s: float = 2.0
    has_dead_man: bool = False
    gate: Callable[[Intent], None] | None = None
    submitted: int = 0
    _orders: dict[str, VenueOrder] = field(default_factory=dict)  # the newest
    _trades: list[VenueTrade] = field(default_factory=list)  # those nobody has asked for yet
    _told: asyncio.Queue[VenueReport | StreamGap] = field(default_factory=asyncio.Queue)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def submit(self, intent: Intent) -> VenueOrder:
        if self.gate is not None:
            self.gate(intent)
        self.submitted += 1
        number = self.submitted
        price = ASK if intent.side == "buy" else BID
        fee = money.multiply(money.multiply(intent.quantity, price), FEE_RATE)
        fill = Fill(f"{SYMBOL}:{number}", intent.quantity, price, fee, "USDT", "taker", datetime.now(UTC), time.time_ns())
        trade = VenueTrade(SYMBOL, intent.client_order_id, fill)
        order = VenueOrder(SYMBOL, intent.client_order_id, str(number), "FILLED", intent.quantity, trades=(trade,))
        self._trades.append(trade)
        self._orders[intent.client_order_id] = order
        if len(self._orders) > KEPT:
            del self._orders[next(iter(self._orders))]
        self._told.put_nowait(VenueReport(order, trade))
        return order

    async def cancel(self, symbol: str, client_order_id: str) -> VenueOrder:
        raise VenueRejected("VENUE_ORDER_UNKNOWN", "everything here is filled")

    async def query(self, symbol: str, client_order_id: str) -> VenueOrder | None:
        return self._orders.get(client_order_id)

    async def open_orders(self) -> list[VenueOrder]:
        return []

    async def trades(self, symbol: str, after_trade_id: str | None, limit: int) -> list[VenueTrade]:
        """It forgets what was asked for, so that what grows here is not taken for the engine's."""
        after = 0 if after_trade_id is None else int(after_trade_id.rpartition(":")[2])
        del self._trades[: max(0, after - (self.submitted - len(self._trades)))]
        return self._trades[:limit]

    async def balances(self) -> dict[str, Decimal]:
        """Compared with nothing: no portfolio has opened the account's books."""
        return {}

    async def cancel_all(self, symbols: object) -> None: ...

    async def arm_dead_man(self, symbols: object, timeout_s: float) -> None: ...

    async def reports(self) -> AsyncIterator[VenueReport | StreamGap]:
        while True:
            yield await self._told.get()

    def usage(self) -> list[Usage]:
        return []


class Bench:
    """An engine wired as the service wires it, the orders given to it, and when each was acknowledged."""

    def __init__(self, settings: Settings, venue: str) -> None:
        self.settings = settings
        self.made: list[InstantVenue] = []
        self.service = Service("engine", settings)
        self.engine = AccountEngine(
            settings.accounts[0],
            settings,
            self.service.db,
            self.service.bus,
            self._instant if venue == "instant" else engine_app.binance_venues(settings),
        )
        self.service.loop("account:paper", self.engine.run, lease="engine:paper")
        self.service.loop("outbox", OutboxPublisher(self.service.db, self.service.bus).run, lease="outbox")
        self.service.on_start(engine_app._calm_collector)
        self.acknowledged: list[tuple[float, float]] = []  # when, and this process's time by then
        self.refused: dict[str, int] = {}

    def _instant(self, account: AccountSettings, catalogue: Catalogue) -> InstantVenue:
        self.made.append(InstantVenue(account, catalogue))
        return self.made[-1]

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        async with self.service.running():
            quoting = asyncio.create_task(self._quote())
            try:
                async with asyncio.timeout(60):
                    while not (self.engine.leading and (self.engine.standing() or {}).get("limits_version")):
                        await asyncio.sleep(0.02)
                await asyncio.sleep(3 * QUOTE_EVERY_S)  # the first prices
                if quoting.done():
                    quoting.result()
                yield
            finally:
                quoting.cancel()

    async def _quote(self) -> None:
        """A market, as market-data tells it; without prices every order would be refused."""
        market = Market(self.service.bus)
        await market.open(self.service.db)
        while True:
            await market.quote(SYMBOL, str(BID), str(ASK), bid_size=DEPTH, ask_size=DEPTH)
            await asyncio.sleep(QUOTE_EVERY_S)

    async def one(self, run: str, number: int) -> None:
        request = OrderRequest(f"bench:{run}:{number}", SYMBOL, "buy" if number % 2 else "sell", "market", QUANTITY)
        order, _ = await self.engine.place(request, "user:bench")
        self.acknowledged.append((time.perf_counter(), time.process_time()))
        if order.status != "FILLED":
            reason = f"{order.status} {order.reason_code}: {order.reason}"
            self.refused[reason] = self.refused.get(reason, 0) + 1


async def burst(bench: Bench, run: str, orders: int, at_once: int) -> dict[str, Any]:
    left = iter(range(orders))

    async def submitter() -> None:
        for number in left:
            await bench.one(run, number)

    marks = [(time.perf_counter(), time.process_time())]
    await asyncio.gather(*(submitter() for _ in range(at_once)))
    marks += bench.acknowledged
    seconds, busy = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    windows = {str(end): _cost(marks, start, end) for start, end in WINDOWS if end <= orders}
    return {
        "orders": orders,
        "seconds": seconds,
        "orders_per_second": orders / seconds,
        "busy": busy / seconds,
        "cost_us": {end: cost[0] for end, cost in windows.items()},
        "own_cost_us": {end: cost[1] for end, cost in windows.items()},
    }


def _cost(marks: list[tuple[float, float]], start: int, end: int) -> tuple[float, float]:
    """Of one order, from the start-th to the end-th: microseconds on the clock, and of this process's own."""
    wall, own = (last - first for first, last in zip(marks[start], marks[end], strict=True))
    return wall / (end - start) * 1e6, own / (end - start) * 1e6


async def paced(bench: Bench, run: str, rate: float, seconds: float) -> dict[str, Any]:
    """Latencies count from the moment an order was due, so that a pause is felt by every order that it held up."""
    latencies: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    began = time.perf_counter() + 0.05

    async def one(number: int, due: float) -> None:
        await bench.one(run, number)
        latencies.append(time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    latencies.sort()
    at = {name: latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1e3 for name, share in (("p50", 0.5), ("p99", 0.99))}
    return {"orders": len(latencies), **at, "max": latencies[-1] * 1e3}


async def work(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    bench = Bench(settings, arguments.venue)
    run = f"{arguments.what}-{os.getpid()}"
    async with bench.at_work():
        if arguments.warm_up:
            await burst(bench, f"warm-{run}", arguments.warm_up, min(arguments.at_once, arguments.warm_up))
            bench.acknowledged.clear()
            await asyncio.sleep(1)  # until what the burst left, as the outbox, is worked off
        if arguments.what == "burst":
            found = await burst(bench, run, arguments.orders, arguments.at_once)
        else:
            found = await paced(bench, run, arguments.rate, arguments.seconds)
        await asyncio.sleep(0.3)  # the outbox's last entries
    commits, writing_s, events = (
        REGISTRY.get_sample_value(f"smc_trading_commit_{name}") or 0.0 for name in ("seconds_count", "seconds_sum", "events_sum")
    )
    found["commits"] = {"number": commits, "events_each": events / commits, "ms_each": writing_s / commits * 1e3, "share": writing_s}
    found["placed"] = found["orders"] + arguments.warm_up
    found["reached_venue"] = sum(venue.submitted for venue in bench.made) if bench.made else None
    found["refused"] = bench.refused
    found["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if bench.service.crashed is not None:
        raise SystemExit(f"the engine crashed: {bench.service.crashed!r}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("burst", "paced"))
    parser.add_argument("config", type=Path)
    parser.add_argument("--venue", choices=("instant", "paper"), default="instant")
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=400)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    parser.add_argument("--profile", type=Path, help="write cProfile's statistics there; the figures are then worth nothing")
    arguments = parser.parse_args()
    os.environ["TRADING_CONFIG"] = str(arguments.config)
    settings = config.load()
    if arguments.profile:
        import cProfile

        with cProfile.Profile() as profile:
            found = uvloop.run(work(arguments, settings))
        profile.dump_stats(arguments.profile)
    else:
        found = uvloop.run(work(arguments, settings))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
