"""Fills into books: exactly once, whatever the batches, and figures that rest on nothing else."""

from __future__ import annotations

import asyncio
import math
import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from conftest import Market, Platform, PostgresServer, RedisServer, eventually, settings_for
from psycopg.types.json import Jsonb
from trading_platform import accounts, leadership, rebuild
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.domain import positions
from trading_platform.domain.positions import Position
from trading_platform.instruments import Catalogue
from trading_platform.portfolio import projection, store
from trading_platform.portfolio.store import PortfolioStore, Snapshot

D = Decimal
START = datetime(2024, 2, 5, 12, tzinfo=UTC)  # a Monday


class Trading:
    """Writes fills as the engine records them, without an engine."""

    def __init__(self, superuser: psycopg.Connection[Any], account: str = "paper") -> None:
        self._connection = superuser
        self._account = account
        self._number = 0

    def fill(
        self, side: str, quantity: str, price: str, fee: str = "0", *, fee_currency: str = "USDT", position_side: str = "net",
        instrument_id: int = 1, at: datetime | None = None, order: str | None = None,
    ) -> int:  # fmt: skip
        self._number += 1
        row = self._connection.execute(
            "INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, position_side, quantity, price,"
            " fee, fee_currency, liquidity, executed_at, ts_event_ns)"
            " VALUES (%s, 'paper', %s, %s, %s, %s, %s, %s, %s, %s, %s, 'taker', %s, 1) RETURNING seq",
            (
                self._account, f"{instrument_id}:{self._number}", order or f"o{self._number}", instrument_id, side, position_side,
                D(quantity), D(price), D(fee), fee_currency, at or START + timedelta(minutes=self._number),
            ),
        ).fetchone()  # fmt: skip
        assert row is not None
        return int(row[0])

    def random_history(self, count: int, seed: int) -> None:
        """Both kinds of instrument, all books, all kinds of fee; books that are closed by more than they hold among them."""
        chance = random.Random(seed)
        for _ in range(count):
            instrument_id = chance.choice([1, 2, 6])
            quote, base = ("USD", "BTC") if instrument_id == 6 else ("USDT", "BTC" if instrument_id == 1 else "ETH")
            self.fill(
                chance.choice(["buy", "sell"]),
                str(D(chance.randint(1, 30_000)).scaleb(-4)),
                str(D(chance.randint(10_000, 99_999)).scaleb(-2)),
                str(D(chance.randint(-10, 999)).scaleb(-5)),
                fee_currency=chance.choice([quote, base, "BNB"]),
                position_side=chance.choice(["net", "long", "short"]),
                instrument_id=instrument_id,
            )

    async def decided_at(self, db: Database, order: str, mark: Any) -> None:
        """The event that says what price risk saw."""
        lease = await leadership.acquire(db, "engine:paper", ttl_s=10, holder="test")
        assert lease is not None
        self._connection.execute("INSERT INTO trading_state (account_id, state, reason, changed_by) VALUES ('*', 'running', 'test', 'test')"
                                 " ON CONFLICT (account_id) DO UPDATE SET state = 'running'")  # fmt: skip
        await db.execute(
            "INSERT INTO order_events (client_order_id, order_seq, account_id, type, to_status, data, actor, correlation_id, lease,"
            " fencing_token, occurred_at) VALUES (%s, 1, 'paper', 'submitting', 'PENDING_NEW', %s, 'test', 'c', %s, %s, now())",
            (order, Jsonb({"risk": {"accepted": True, "facts": {"mark": mark}}}), lease.name, lease.token),
        )
        await lease.release()


@pytest.fixture
async def opened(settings: Settings, db: Database) -> PortfolioStore:
    """A store whose account has its opening balances."""
    await accounts.ensure(db, settings)
    opening = PortfolioStore(db)
    assert await opening.open_account(settings.accounts[0])
    return opening


@pytest.fixture
def trading(opened: PortfolioStore, superuser: psycopg.Connection[Any]) -> Trading:
    return Trading(superuser)


async def drain(db: Database, catalogue: Catalogue, limit: int = projection.BATCH) -> None:
    while True:
        async with db.transaction() as cursor:
            if (await projection.project(cursor, catalogue, "paper", limit)).fills == 0:
                return


async def books(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every projection, but the orders'."""
    return {table: sorted(await db.fetch_tuples(query), key=repr) for table, query in rebuild.PROJECTIONS.items() if table != "orders"}


async def holdings(store: PortfolioStore) -> dict[str, Decimal]:
    return dict(await store.balances("paper"))


# --- opening -------------------------------------------------------------------------------------------------------------------


async def test_an_account_is_opened_once_with_all_its_balances_and_a_later_configuration_does_not_change_them(
    opened: PortfolioStore, settings: Settings
) -> None:
    richer = settings.accounts[0].model_copy(update={"opening_balances": {"USD": D(1_000_000), "EUR": D(5)}})
    assert not await opened.open_account(richer)
    assert await holdings(opened) == {"USD": D(50_000), "USDT": D(50_000)}
    assert dict(await opened.balances("paper", "capital")) == {"USD": D(-50_000), "USDT": D(-50_000)}


# --- projecting ------------------------------------------------------------------------------------------------------------------


async def test_a_fee_is_booked_in_the_currency_it_was_taken_in(trading: Trading, opened: PortfolioStore) -> None:
    trading.fill("buy", "2", "100", "0.002", fee_currency="BTC")
    trading.fill("sell", "1", "110", "0.11", fee_currency="USDT")
    trading.fill("sell", "0.5", "120", "0.01", fee_currency="BNB")
    assert (await opened.project("paper")).fills == 3
    assert await holdings(opened) == {"BNB": D("-0.01"), "BTC": D("0.498"), "USD": D(50_000), "USDT": D("49969.89")}
    [(position, _)] = (await opened.positions("paper")).values()
    assert (position.quantity, position.fees, position.other_fees) == (D("0.5"), D("0.31"), (("BNB", D("0.01")),))
    assert await opened.ledger_totals() == [("BNB", 0), ("BTC", 0), ("USD", 0), ("USDT", 0)]


async def test_a_hedging_account_keeps_long_and_short_apart(trading: Trading, opened: PortfolioStore) -> None:
    trading.fill("buy", "2", "100", position_side="long")
    trading.fill("sell", "3", "110", position_side="short")
    trading.fill("sell", "1", "120", position_side="long")
    await opened.project("paper")
    found = {key[1]: position for key, (position, _) in (await opened.positions("paper")).items()}
    assert (found["long"].quantity, found["long"].average_price, found["long"].realised_pnl) == (1, 100, 20)
    assert (found["short"].quantity, found["short"].average_price, found["short"].realised_pnl) == (-3, 110, 0)


async def test_a_book_closed_by_more_than_it_held_is_reported_and_no_quantity_is_lost(trading: Trading, opened: PortfolioStore) -> None:
    trading.fill("buy", "1", "100", position_side="long")
    trading.fill("sell", "3", "110", position_side="long")
    assert (await opened.project("paper")).turned == (("BTCUSDT", "long"),)
    [(position, _)] = (await opened.positions("paper")).values()
    assert (position.quantity, position.realised_pnl) == (-2, 10)
    trading.fill("sell", "1", "110", position_side="long")
    assert (await opened.project("paper")).turned == ()


async def test_how_fills_are_batched_changes_no_row(
    trading: Trading, opened: PortfolioStore, db: Database, postgres: PostgresServer, redis_server: RedisServer, settings: Settings
) -> None:
    trading.random_history(120, seed=7)
    await db.close()
    postgres_name = settings.database.name
    with postgres.connect("postgres") as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (postgres_name,))
    copy = settings_for(postgres, redis_server, postgres.create_database(template=postgres_name))
    results = []
    for each, limit in ((settings, 1), (copy, 37)):
        database = Database(each)
        await database.open()
        catalogue = await PortfolioStore(database).catalogue()
        await drain(database, catalogue, limit)
        results.append(await books(database))
        await database.close()
    assert results[0] == results[1]
    assert len(results[0]["trade_results"]) == 120


async def test_two_projections_at_once_take_each_fill_once(trading: Trading, opened: PortfolioStore, db: Database) -> None:
    trading.random_history(60, seed=3)
    catalogue = await opened.catalogue()
    await asyncio.gather(*(drain(db, catalogue, 7) for _ in range(3)))
    assert await db.fetch_value("SELECT count(*) FROM trade_results") == 60
    assert await opened.unprojected("paper") == 0


async def test_positions_and_balances_are_what_the_fills_add_up_to(trading: Trading, opened: PortfolioStore, db: Database) -> None:
    trading.random_history(200, seed=11)
    await opened.project("paper")
    catalogue = await opened.catalogue()
    held: dict[Any, Position] = {}
    fills = await db.fetch_tuples("SELECT instrument_id, position_side, side, quantity, price, fee, fee_currency FROM fills ORDER BY seq")
    for instrument_id, book, *fill in fills:
        key = (instrument_id, book)
        held[key], _ = positions.after_fill(held.get(key, Position()), catalogue.id(instrument_id), *fill)
    assert {key: position for key, (position, _) in (await opened.positions("paper")).items()} == held
    summed = await db.fetch_tuples("SELECT book, currency, sum(amount) FROM ledger_lines GROUP BY 1, 2 HAVING sum(amount) <> 0")
    kept = await db.fetch_tuples("SELECT book, currency, amount FROM ledger_balances WHERE amount <> 0")
    assert sorted(kept) == sorted(summed)
    assert all(total == 0 for _, total in await opened.ledger_totals())


async def test_an_instrument_that_is_retired_or_new_is_projected_all_the_same(
    trading: Trading, opened: PortfolioStore, superuser: psycopg.Connection[Any]
) -> None:
    await opened.catalogue()
    superuser.execute("UPDATE instruments SET active = false WHERE id = 1")
    superuser.execute("INSERT INTO instruments SELECT 99, 'NEWUSDT', kind, 'NEW', quote_currency, price_scale, size_scale, tick_size,"
                      " lot_size, min_quantity, max_quantity, min_notional FROM instruments WHERE id = 1")  # fmt: skip
    trading.fill("buy", "1", "100", instrument_id=1)
    trading.fill("buy", "1", "100", instrument_id=99)
    assert (await opened.project("paper")).fills == 2


async def test_slippage_is_measured_against_the_price_the_order_was_decided_at(
    trading: Trading, opened: PortfolioStore, db: Database
) -> None:
    for order, mark in (("a", "100"), ("b", "100"), ("c", None), ("d", "nonsense")):
        await trading.decided_at(db, order, mark)
        trading.fill("buy" if order == "a" else "sell", "2", "101", order=order)
    await opened.project("paper")
    rows = await db.fetch_tuples("SELECT decision_price, slippage FROM trade_results ORDER BY fill_seq")
    assert rows == [(100, 2), (100, -2), (None, None), (None, None)]


async def test_each_of_an_orders_fills_has_the_price_it_was_decided_at(trading: Trading, opened: PortfolioStore, db: Database) -> None:
    for order, mark in (("a", "100"), ("b", "200")):
        await trading.decided_at(db, order, mark)
    for order in ("a", "b", "a", "unknown", "a"):
        trading.fill("buy", "1", "101", order=order)
    await opened.project("paper")
    rows = await db.fetch_tuples("SELECT decision_price FROM trade_results ORDER BY fill_seq")
    assert rows == [(100,), (200,), (100,), (None,), (100,)]


async def test_many_fills_are_projected_in_few_statements(
    trading: Trading, opened: PortfolioStore, superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute(
        "INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, quantity, price, fee, fee_currency,"
        " liquidity, executed_at, ts_event_ns) SELECT 'paper', 'paper', n::text, 'o' || n, 1, CASE WHEN n % 3 = 0 THEN 'sell' ELSE"
        " 'buy' END, 0.01, 100 + n % 7, 0.001, 'USDT', 'taker', now(), 1 FROM generate_series(1, 5000) n"
    )
    done = [(await opened.project("paper")).fills for _ in range(4)]
    assert done == [2000, 2000, 1000, 0]
    assert (await holdings(opened))["BTC"] == D("0.01") * (5000 - 2 * 1666)


async def test_a_day_that_is_over_is_answered_while_today_is_still_being_booked(trading: Trading, opened: PortfolioStore) -> None:
    yesterday, tomorrow = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
    trading.fill("buy", "1", "100", at=datetime.now(UTC))
    assert not await opened.lacks("paper", yesterday, 60)
    assert not await opened.lacks("paper", tomorrow, 60)
    assert await opened.lacks("paper", tomorrow, 0)
    trading.fill("buy", "1", "100", at=yesterday - timedelta(hours=1))
    assert await opened.lacks("paper", yesterday, 60)
    await opened.project("paper")
    assert not await opened.lacks("paper", yesterday, 60)
    assert not await opened.lacks("paper", tomorrow, 0)


# --- rebuilding ------------------------------------------------------------------------------------------------------------------


async def test_a_random_history_is_rebuilt_row_by_row(
    trading: Trading, opened: PortfolioStore, db: Database, settings: Settings, superuser: psycopg.Connection[Any]
) -> None:
    trading.random_history(150, seed=23)
    await drain(db, await opened.catalogue(), 41)
    trading.fill("buy", "1", "100")  # not projected yet: a rebuild goes no further than the projection had
    assert await rebuild.rebuild(settings) == []
    before = await books(db)
    for number, damage in enumerate(
        (
            "UPDATE positions SET residue = residue + 1 WHERE position_side = 'net'",
            "UPDATE round_trips SET fees = fees + 1",
            "UPDATE trade_results SET slippage = 1, decision_price = 1 WHERE fill_seq = 1",
            "UPDATE ledger_balances SET amount = amount + 1 WHERE book = 'holdings'",
            "DELETE FROM ledger_lines WHERE transaction_id = (SELECT min(id) FROM ledger_transactions WHERE kind = 'fill')",
        )
    ):
        superuser.execute(damage.encode())
        assert await rebuild.rebuild(settings), f"damage {number} is not seen"
        assert await rebuild.rebuild(settings, apply=True)
        assert await rebuild.rebuild(settings) == []
        assert await books(db) == before


# Who booked something without a fill, and why: facts, which no rebuild touches.
FACTS = {"ledger_transactions": {"actor", "reason", "instrument_id"}}


@pytest.mark.parametrize("table", sorted(rebuild.PROJECTIONS))
def test_a_rebuild_compares_every_column(superuser: psycopg.Connection[Any], table: str) -> None:
    columns = superuser.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s", (table,)
    ).fetchall()
    compared = set(re.findall(r"\w+", rebuild.PROJECTIONS[table].partition(" FROM ")[0]))
    assert {name for (name,) in columns} - compared == FACTS.get(table, set())


# --- the service -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def service(platform: Platform, trading: Trading, market: Market) -> Platform:
    await market.quote("BTCUSDT", "110", "110")
    await platform.start("portfolio")
    return platform


async def booked(platform: Platform, db: Database, fills: int) -> None:
    async def done() -> bool:
        return bool(await db.fetch_value("SELECT count(*) FROM trade_results") == fills)

    await eventually(done, what=f"{fills} fills booked")


async def test_positions_show_what_no_rate_values_apart(service: Platform, trading: Trading, db: Database) -> None:
    trading.fill("buy", "2", "100", "0.01", fee_currency="BNB", position_side="long")
    await booked(service, db, 1)
    [position] = (await service["portfolio"].get("/positions")).json()
    assert (position["side"], position["position_side"], position["quantity"], position["fees"]) == ("long", "long", "2", "0")
    assert position["unvalued_fees"] == {"BNB": "0.01"}
    assert position["unrealised_pnl"] == "20"
    answer = await service["portfolio"].get("/performance/daily", params={"date": "2024-02-05"})
    assert (answer.status_code, answer.json()["code"]) == (503, "FIGURES_UNKNOWN")
    assert "BNB" in answer.json()["detail"]


async def test_figures_of_a_day_a_week_and_a_month(service: Platform, trading: Trading, db: Database) -> None:
    await trading.decided_at(db, "first", "99")
    trading.fill("buy", "1", "100", "1", order="first")
    trading.fill("sell", "1", "110", "1")
    trading.fill("buy", "1", "100", "1", at=START + timedelta(days=7))
    trading.fill("sell", "1", "95", "1", at=START + timedelta(days=7, hours=1))
    await booked(service, db, 4)
    portfolio = service["portfolio"]
    day = (await portfolio.get("/performance/daily", params={"date": "2024-02-05"})).json()
    assert (day["total_trades"], day["closed_trades"], day["win_rate"], day["total_pnl"], day["sharpe_ratio"]) == (2, 1, 1, 8, 0)
    assert (day["round_trips"], day["expectancy"], day["average_duration_seconds"], day["slippage"]) == (1, 8, 60, 1)
    assert "profit_factor" not in day
    assert None not in day.values()

    span = {"from": "2024-02-05", "to": "2024-02-12"}
    whole = (await portfolio.get("/performance/summary", params=span)).json()
    assert (whole["round_trips"], whole["gross_profit"], whole["gross_loss"], whole["fills"]) == (2, 8, 7, 4)
    assert whole["profit_factor"] == pytest.approx(8 / 7, abs=1e-6)
    assert (whole["total_pnl"], whole["fees"], whole["volume"], whole["max_consecutive_losses"]) == (1, 4, 405, 1)

    weeks = (await portfolio.get("/performance/periods", params={"by": "week", **span})).json()
    assert [(week["from"], week["to"], week["total_pnl"]) for week in weeks] == [
        ("2024-02-05", "2024-02-11", 8), ("2024-02-12", "2024-02-18", -7),
    ]  # fmt: skip
    [month] = (await portfolio.get("/performance/periods", params={"by": "month", **span})).json()
    assert (month["total_pnl"], month["round_trips"], month["winning_round_trips"]) == (1, 2, 1)

    trips = (await portfolio.get("/round-trips", params={"limit": 1})).json()
    assert [(trip["realised_pnl"], trip["fees"], trip["direction"]) for trip in trips] == [("-5", "2", "long")]
    older = (await portfolio.get("/round-trips", params={"before": trips[0]["closed_seq"]})).json()
    assert [trip["realised_pnl"] for trip in older] == ["10"]


async def test_a_day_of_more_round_trips_than_can_be_looked_at_has_its_other_figures(
    service: Platform, trading: Trading, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("buy", "sell") * 2:
        trading.fill(side, "1", "100", "1")
    await booked(service, db, 4)
    monkeypatch.setattr(store, "MAX_ROUND_TRIPS", 1)
    day = (await service["portfolio"].get("/performance/daily", params={"date": "2024-02-05"})).json()
    assert (day["total_trades"], day["total_pnl"], "round_trips" in day) == (4, -4, False)
    span = await service["portfolio"].get("/performance/summary", params={"from": "2024-02-05", "to": "2024-02-05"})
    assert (span.status_code, span.json()["code"]) == (422, "SPAN_TOO_LONG")


async def test_the_equity_curve_is_the_last_value_of_each_step_and_bounded(service: Platform, db: Database) -> None:
    kept = PortfolioStore(db)
    for minute, equity in enumerate(("100000", "100010", "100004", "99990")):
        await kept.save_snapshot("paper", Snapshot(START + timedelta(minutes=minute), D(equity), *[D(0)] * 6, D(0)))
    span = {"from": START.isoformat(), "to": (START + timedelta(minutes=4)).isoformat()}
    curve = (await service["portfolio"].get("/equity", params={**span, "step": 120})).json()
    assert [(point["timestamp"], point["equity"]) for point in curve["points"]] == [
        (int((START + timedelta(minutes=1)).timestamp() * 1000), 100010), (int((START + timedelta(minutes=3)).timestamp() * 1000), 99990),
    ]  # fmt: skip
    year = {"from": "2023-01-01T00:00:00Z", "to": "2024-01-01T00:00:00Z", "step": 60}
    answer = await service["portfolio"].get("/equity", params=year)
    assert (answer.status_code, answer.json()["code"]) == (422, "STEP_TOO_SMALL")


async def test_a_snapshot_is_what_the_books_are_worth_and_payments_are_no_profit(
    service: Platform, trading: Trading, db: Database, token: Any, superuser: Any
) -> None:
    trading.fill("buy", "2", "100", "1")
    await booked(service, db, 1)
    transfer = {"account": "paper", "currency": "USDT", "reason": "for a test"}
    portfolio = service["portfolio"]
    for kind, amount in (("deposit", "500"), ("funding", "-3"), ("fee", "2")):
        body = {**transfer, "kind": kind, "amount": amount, "key": kind}
        assert (await portfolio.post("/transfers", json=body, headers=token("trader"))).status_code == 201
    await service.stop("portfolio")
    superuser.execute("DELETE FROM equity_snapshots")
    await service.start("portfolio")

    async def taken() -> Any:
        return await PortfolioStore(db).newest_snapshot("paper")

    snapshot = await eventually(taken, what="a snapshot")
    # 100,000 were there, 500 came; 20 are not realised; 1 was a fee, 5 went otherwise.
    assert (snapshot.equity, snapshot.capital, snapshot.carry, snapshot.unrealised) == (100_514, 100_500, -5, 20)
    assert await db.fetch_value("SELECT capital FROM equity_snapshots") == 100_500
    assert (await service["portfolio"].get("/ledger/totals")).json()["balanced"] is True


async def test_figures_of_today_are_metrics(service: Platform, trading: Trading, db: Database) -> None:
    now = datetime.now(UTC)
    await trading.decided_at(db, "first", "100")
    trading.fill("buy", "2", "101", "1", at=now, order="first")
    trading.fill("sell", "1", "111", "1", at=now)
    trading.fill("sell", "1", "101", "1", at=now + timedelta(seconds=30))
    await booked(service, db, 3)
    await service.stop("portfolio")
    await service.start("portfolio")
    expected = {
        "smc_trading_volume": 414.0, "smc_trading_trade_duration_seconds": 30.0, "smc_trading_win_rate_ratio": 0.5,
        "smc_trading_slippage_bps": round(2 / 202 * 10_000, 6), "smc_trading_projection_lag_fills": 0.0,
        "smc_trading_ledger_imbalance_currencies": 0.0, "smc_trading_pnl": 7.0,
    }  # fmt: skip

    async def shown() -> bool:
        found = metrics((await service["portfolio"].get("/metrics")).text)
        return {name: found.get(name) for name in expected} == expected

    await eventually(shown, what="the figures among the metrics")
    found = metrics((await service["portfolio"].get("/metrics")).text)
    assert math.isnan(found["smc_trading_profit_factor"])  # no round trip has lost anything
    assert math.isnan(found["smc_trading_sortino_ratio"])
    assert found["smc_trading_projection_lag_seconds"] >= 0


def metrics(text: str) -> dict[str, float]:
    """Gauges of the account, and those without labels."""
    lines = (line.split(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name.replace('{account="paper"}', ""): float(value) for name, value in (line for line in lines if len(line) == 2)}


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("/performance/daily", {"date": "2999-01-01"}, "DATE_IN_FUTURE"),
        ("/performance/summary", {"from": "2024-02-02", "to": "2024-02-01"}, "SPAN_EMPTY"),
        ("/performance/summary", {"from": "2001-01-01", "to": "2024-02-01"}, "SPAN_TOO_LONG"),
        ("/performance/periods", {"from": "2021-01-01", "to": "2024-02-01", "by": "day"}, "SPAN_TOO_LONG"),
        ("/performance/periods", {"by": "year"}, "INVALID_REQUEST"),
        ("/equity", {"from": "2024-02-02T00:00:00Z", "to": "2024-02-01T00:00:00Z"}, "SPAN_EMPTY"),
        ("/equity", {"from": "2024-02-02T00:00:00"}, "INVALID_REQUEST"),
        ("/round-trips", {"account": "nobody"}, "UNKNOWN_ACCOUNT"),
        ("/positions", {"account": "nobody"}, "UNKNOWN_ACCOUNT"),
    ],
)
async def test_questions_that_make_no_sense_are_refused(service: Platform, path: str, params: dict[str, str], code: str) -> None:
    answer = await service["portfolio"].get(path, params=params)
    assert (answer.status_code in (404, 422), answer.json()["code"]) == (True, code)
