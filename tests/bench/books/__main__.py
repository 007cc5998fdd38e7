"""How fast the books are written: fills into the portfolio's projections, and a commit of the paper venue beside what stands in its books.

    platform/.venv/bin/python tests/bench/books fills --count 20000
    platform/.venv/bin/python tests/bench/books venue --open 200 2000

Real PostgreSQL whose commits are on the disk before they are confirmed; nothing else of the platform runs.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "tests"), str(ROOT / "tests/bench/order_path")]

import numpy as np
from grounds import Servers
from trading_platform import accounts, batches, instruments, leadership
from trading_platform.batches import TickBatch
from trading_platform.db import Database
from trading_platform.paper_venue import filters
from trading_platform.paper_venue.exchange import Exchange
from trading_platform.paper_venue.parameters import Parameters
from trading_platform.paper_venue.store import Store
from trading_platform.portfolio import projection

_EVENTS = """
INSERT INTO order_events (client_order_id, order_seq, account_id, type, to_status, data, actor, correlation_id, lease, fencing_token,
                          occurred_at)
SELECT 'o' || n, s, 'paper', (ARRAY['initialized', 'submitting', 'accepted', 'filled'])[s], 'NEW',
       CASE s WHEN 2 THEN jsonb_build_object('risk', jsonb_build_object('accepted', true, 'facts', jsonb_build_object(
           'mark', '60000.5', 'equity', '50000.0', 'exposure', '1000', 'reserved', '12', 'padding', repeat('x', 600))))
       ELSE '{}'::jsonb END, 'bench', 'c', 'engine:paper', 1, now()
  FROM generate_series(1, %s) AS n, generate_series(1, 4) AS s
"""
_FILLS = """
INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, position_side, quantity, price, fee,
                   fee_currency, liquidity, executed_at, ts_event_ns)
SELECT 'paper', 'paper', 'BTCUSDT:' || n, 'o' || n, 1, CASE WHEN n %% 3 = 0 THEN 'sell' ELSE 'buy' END, 'net', 0.001 * (1 + n %% 7),
       60000 + n %% 100, 0.03, 'USDT', 'taker', now(), 1
  FROM generate_series(1, %s) AS n
"""


async def fills(servers: Servers, count: int) -> None:
    """Fills a second from the engine's tables into ledger, positions and figures, each batch durable."""
    settings, _ = servers.fresh()
    database = Database(settings)
    await database.open()
    await accounts.ensure(database, settings)
    with servers.postgres.connect(settings.database.name) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(_EVENTS, (count,))
        connection.execute(_FILLS, (count,))
        connection.execute("ANALYZE")
    catalogue = await instruments.load(database)
    began, done = time.perf_counter(), 0
    while True:
        async with database.transaction() as cursor:
            projected = await projection.project(cursor, catalogue, "paper")
        if not projected.fills:
            break
        done += projected.fills
    took = time.perf_counter() - began
    await database.close()
    print(f"{done} fills in {took:.2f} s: {done / took:.0f} a second")


async def venue(servers: Servers, standing: int, rounds: int) -> None:
    """A commit of one order that trades at once, and one of a tick that only moves the market, with `standing` orders in the book."""
    settings, _ = servers.fresh()
    room = settings.paper_venue.model_copy(update={"max_open_orders": standing + 10})
    settings = settings.model_copy(update={"paper_venue": room})
    database = Database(settings)
    await database.open()
    store, lease = Store(database), await leadership.acquire(database, "paper-venue", ttl_s=60)
    assert lease is not None
    loaded = await store.load(lease, settings.accounts)
    exchange = Exchange(loaded.catalogue, settings.paper_venue, loaded.state)
    instrument = exchange.instrument("BTCUSDT")
    number = 0

    async def commit() -> float:
        began = time.perf_counter()
        await store.commit(lease, exchange, exchange.take_changes(), "1-1", 0)
        return (time.perf_counter() - began) * 1_000

    def place(price: str, force: str) -> None:
        nonlocal number
        number += 1
        words = {
            "side": "BUY",
            "type": "LIMIT",
            "timeInForce": force,
            "quantity": "0.001",
            "price": price,
            "newClientOrderId": f"b{number}",
        }
        exchange.place(filters.order_request("paper", instrument, Parameters.of(words)), time.time_ns() // 1_000_000)

    def quote(size: int) -> None:
        now = time.time_ns()
        columns = ([instrument.id] * 2, [now] * 2, [now] * 2, [6_000_000, 6_000_100], [size] * 2, [batches.BID, batches.ASK])
        kinds = (np.uint32, np.int64, np.int64, np.int64, np.int64, np.uint8)
        exchange.on_ticks(TickBatch(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True))), now // 1_000_000)

    quote(10**9)
    for step in range(standing):
        place(str(Decimal(50_000) - step), "GTC")
    await commit()
    trading, moving = [], []
    for step in range(rounds):
        place("60001", "IOC")
        trading.append(await commit())
        quote(10**9 + step)
        moving.append(await commit())
    await database.close()
    print(
        f"{standing} orders standing: an order that trades {statistics.median(trading):.2f} ms, a tick {statistics.median(moving):.2f} ms"
        f" to commit (medians of {rounds})"
    )


def main() -> None:
    command = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = command.add_subparsers(dest="part", required=True)
    counted = parts.add_parser("fills")
    counted.add_argument("--count", type=int, default=20_000)
    stood = parts.add_parser("venue")
    stood.add_argument("--open", type=int, nargs="+", default=[200, 2_000])
    stood.add_argument("--rounds", type=int, default=300)
    chosen = command.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="trading-bench-", dir="/tmp"))
    directory.chmod(0o755)
    servers = Servers(directory)
    try:
        if chosen.part == "fills":
            asyncio.run(fills(servers, chosen.count))
        else:
            for standing in chosen.open:
                asyncio.run(venue(servers, standing, chosen.rounds))
    finally:
        servers.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
