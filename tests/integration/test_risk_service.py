"""The risk service on real servers: figures that only the leader publishes, breakers that latch, limits with a history (API-08, API-09)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from conftest import Market, Platform, PostgresServer, RedisServer, eventually, settings_for
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.domain.figures import PublishedFigures, period_starts
from trading_platform.leadership import LeaseLost, acquire
from trading_platform.risk.store import RiskStore

D = Decimal

LIMITS: dict[str, Any] = {
    "account": "paper",
    "reason": "a test wants them",
    "max_order_notional": "5000",
    "max_position_notional": "20000",
    "max_total_exposure": "50000",
    "max_orders_per_minute": 60,
    "price_collar": "0.05",
    "max_daily_loss": "1000",
    "max_data_age_s": "30",
}


@pytest.fixture
async def prices(market: Market) -> AsyncIterator[None]:
    """A market that goes on saying the same."""

    async def tell() -> None:
        while True:
            await market.quote("BTCUSDT", "39999", "40001")
            await asyncio.sleep(0.2)

    task = asyncio.create_task(tell())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def book(superuser: psycopg.Connection[Any], quantity: str, average: str, realised: str = "0", account: str = "paper") -> None:
    """Let the account hold BTC, as if the portfolio had projected it."""
    superuser.execute(
        "INSERT INTO positions (account_id, instrument_id, quantity, average_price, realised_pnl, fees, last_fill_seq, updated_at)"
        " VALUES (%s, 1, %s, %s, %s, 0, 0, now()) ON CONFLICT (account_id, instrument_id, position_side)"
        " DO UPDATE SET quantity = EXCLUDED.quantity, average_price = EXCLUDED.average_price, realised_pnl = EXCLUDED.realised_pnl",
        (account, quantity, average, realised),
    )


def remember(superuser: psycopg.Connection[Any], at: datetime, equity: str, capital: str = "100000", account: str = "paper") -> None:
    """An equity snapshot of before."""
    superuser.execute(
        "INSERT INTO equity_snapshots (account_id, at, equity, realised, unrealised, fees, exposure, peak_equity, max_drawdown)"
        " VALUES (%s, %s, %s, %s, 0, 0, 0, %s, 0)",
        (account, at, equity, D(equity) - D(capital), max(D(equity), D(capital))),
    )


async def figures(db: Database, account: str = "paper") -> PublishedFigures | None:
    data = await db.fetch_value("SELECT published FROM risk_figures WHERE account_id = %s", (account,))
    return None if data is None else PublishedFigures.from_data(data)


async def state(db: Database, account: str = "paper") -> str | None:
    found = await db.fetch_value("SELECT state FROM trading_state WHERE account_id = %s", (account,))
    return None if found is None else str(found)


async def known(db: Database, account: str = "paper") -> PublishedFigures:
    """The figures once nothing of them is unknown."""

    async def complete() -> PublishedFigures | None:
        found = await figures(db, account)
        return found if found and found.capital is not None and not found.reasons else None

    return await eventually(complete, what="complete figures")


@pytest.fixture
async def watched(platform: Platform, prices: None) -> Platform:
    """Risk and portfolio running, with a price."""
    await platform.start("risk", "portfolio")
    return platform


async def test_figures_of_an_account_say_where_it_began_and_what_is_elsewhere(watched: Platform, db: Database) -> None:
    found = await known(db)
    assert (found.capital, found.equity_day, found.equity_week, found.equity_month, found.peak_equity) == (D(100000),) * 5
    assert (found.consecutive_losses, found.value_at_risk) == (0, D(0))
    assert set(found.loss_rates) >= {"BTCUSDT", "SPY"}
    assert all(0 < each < 1 for each in found.loss_rates.values())
    assert found.elsewhere is not None
    assert (found.elsewhere.exposure, found.elsewhere.equity, found.elsewhere.equity_day) == (D(0), D(0), D(100000))


async def test_the_periods_begin_with_the_last_equity_seen_before_them(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await known(db)
    day, week, month = period_starts(datetime.now(UTC))
    remember(superuser, day - timedelta(seconds=1), "100300")
    for start, equity in {week: "100200", month: "100100"}.items():
        if start != day:
            remember(superuser, start - timedelta(seconds=2), equity)

    async def moved() -> bool:
        found = await known(db)
        expected = D(100300)
        week_start = D(100300) if week == day else D(100200)
        month_start = D(100300) if month == day else (D(100200) if week == month else D(100100))
        return found.equity_day == expected and found.equity_week == week_start and found.equity_month in (month_start, D(100100))

    await eventually(moved, what="starts of the periods")


async def test_a_deposit_is_no_profit(watched: Platform, db: Database, superuser: psycopg.Connection[Any]) -> None:
    await known(db)
    with superuser.transaction():
        superuser.execute("INSERT INTO ledger_transactions (id, kind, account_id, occurred_at) VALUES ('d', 'deposit', 'paper', now())")
        superuser.execute(
            "INSERT INTO ledger_lines (transaction_id, line_no, account_id, book, currency, amount)"
            " VALUES ('d', 1, 'paper', 'holdings', 'USD', 7000), ('d', 2, 'paper', 'capital', 'USD', -7000)"
        )

    async def counted() -> bool:
        found = await known(db)
        return (found.capital, found.equity_day, found.peak_equity) == (D(107000),) * 3

    await eventually(counted, what="the deposit in capital, starts and peak alike")


async def test_a_loss_crosses_its_limit_once_latches_and_survives_a_restart(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await known(db)
    assert await state(db) is None
    book(superuser, "0.1", "51000")

    async def reducing() -> bool:
        return await state(db) == "reducing"

    await eventually(reducing, what="the breaker")
    breaches = "SELECT count(*) FROM audit_events WHERE type = 'risk_limit_breached' AND subject = 'paper'"

    async def told() -> bool:
        return bool(await db.fetch_value(breaches) == 1)

    await eventually(told, what="the audit event")
    detail = await db.fetch_value("SELECT detail FROM audit_events WHERE type = 'risk_limit_breached'")
    assert (detail["limit"], detail["used"], detail["allowed"], detail["state"]) == ("max_daily_loss", "1100", "1000", "reducing")

    await watched.stop("risk")
    await watched.start("risk")
    await published_again(db)
    assert await state(db) == "reducing"
    book(superuser, "0", "0")
    await published_again(db)
    assert await state(db) == "reducing", "the loss is gone; who may release it is a person"
    assert await db.fetch_value(breaches) == 1


async def published_again(db: Database) -> None:
    """Two more rows: everything in the last one was read after this was called."""
    for _ in range(2):
        before = await figures(db)

        async def newer(before: PublishedFigures | None = before) -> bool:
            found = await figures(db)
            return found is not None and (before is None or found.computed_at > before.computed_at)

        await eventually(newer, what="newer figures")


async def test_a_released_breaker_trips_again_only_when_its_limit_is_crossed_anew(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await known(db)
    book(superuser, "0.1", "51000")

    async def reducing() -> bool:
        return await state(db) == "reducing"

    await eventually(reducing, what="the breaker")
    await published_again(db)
    release = "UPDATE trading_state SET state = 'running', changed_by = 'user:somebody' WHERE account_id = 'paper'"
    superuser.execute(release)
    await published_again(db)
    assert await state(db) == "running"
    book(superuser, "0.1", "40000")
    await published_again(db)
    book(superuser, "0.1", "51000")
    await eventually(reducing, what="the breaker again")


async def test_losses_in_a_row_count_from_the_last_change_of_state(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any], token: Any
) -> None:
    await known(db)
    answer = await watched["risk"].post("/risk/limits", json=LIMITS | {"max_consecutive_losses": 2}, headers=token("admin"))
    assert answer.status_code == 201
    await watched.stop("portfolio")
    for number, result in enumerate(("5", "-3", "-4"), start=1):
        superuser.execute(
            "WITH f AS (INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, quantity, price, fee,"
            " fee_currency, liquidity, executed_at, ts_event_ns) VALUES ('paper', 'paper', %(id)s, %(id)s, 1, 'sell', 1, 40000, 0, 'USDT',"
            " 'taker', now(), 1) RETURNING seq) INSERT INTO trade_results (fill_seq, account_id, instrument_id, closed_quantity,"
            " realised_pnl, fee, currency, executed_at, volume) SELECT seq, 'paper', 1, 1, %(result)s, 0, 'USDT', now(), 40000 FROM f",
            {"id": f"t{number}", "result": result},
        )
    superuser.execute("UPDATE portfolio_cursor SET last_fill_seq = (SELECT max(seq) FROM fills)")

    async def reducing() -> bool:
        return await state(db) == "reducing"

    await eventually(reducing, what="the breaker")
    await published_again(db)
    found = await figures(db)
    assert found is not None
    assert found.consecutive_losses == 0, "counted anew since the change"


def end_at_venue(superuser: psycopg.Connection[Any], name: str, kind: str, status: str) -> None:
    """An order that was sent and came to its end."""
    superuser.execute("INSERT INTO leases VALUES ('test', 'me', 1, now(), now(), now() + interval '1 hour') ON CONFLICT DO NOTHING")
    superuser.execute(
        "INSERT INTO order_events (client_order_id, order_seq, account_id, type, from_status, to_status, actor, correlation_id, lease,"
        " fencing_token, occurred_at) VALUES (%s, 3, 'paper', %s, 'PENDING_NEW', %s, 'venue:paper', 'x', 'test', 1, clock_timestamp())",
        (name, kind, status),
    )


async def test_a_venue_that_refuses_half_of_the_last_orders_trips_the_breaker(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await known(db)
    for number in range(5):
        end_at_venue(superuser, f"good{number}", "filled", "FILLED")
    for number in range(4):
        end_at_venue(superuser, f"bad{number}", "rejected", "REJECTED")
    for number in range(9):
        superuser.execute(
            "INSERT INTO order_events (client_order_id, order_seq, account_id, type, from_status, to_status, actor, correlation_id, lease,"
            " fencing_token, occurred_at) VALUES (%s, 2, 'paper', 'denied', 'INITIALIZED', 'REJECTED', 'engine', 'x', 'test', 1, now())",
            (f"denied{number}",),
        )
    await published_again(db)
    assert await state(db) is None, "too few have come to an end; what we denied ourselves does not count"
    end_at_venue(superuser, "bad4", "rejected", "REJECTED")

    async def reducing() -> bool:
        return await state(db) == "reducing"

    await eventually(reducing, what="the breaker")
    await published_again(db)
    row = await db.fetch_tuples("SELECT reject_share, breached FROM risk_figures WHERE account_id = 'paper'")
    assert row == [(D(0), [])], "counted anew since the change"


async def test_a_position_without_a_price_is_unknown_not_worthless(
    platform: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await platform.start("risk", "portfolio")
    await known(db)
    book(superuser, "0.1", "40000")

    async def unknown() -> bool:
        found = await figures(db)
        return found is not None and found.reasons == ("no price of BTCUSDT",) and found.value_at_risk is None

    await eventually(unknown, what="unknown figures")
    for path in ("/risk/summary", "/risk/current", "/risk/limits/usage", "/risk/var"):
        answer = await platform["risk"].get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "FIGURES_UNKNOWN"), path


async def test_only_the_leader_publishes(watched: Platform, db: Database, settings: Settings, superuser: psycopg.Connection[Any]) -> None:
    await known(db)
    await watched.stop("risk")
    lease = await acquire(db, "risk", ttl_s=30, holder="one")
    assert lease is not None
    store = RiskStore(db, watched.service("portfolio").bus, settings)
    rows = [row for row in (await store.figure_rows()).values() if row.account_id == "paper"]
    await store.publish(lease, rows, [])
    superuser.execute("UPDATE leases SET token = token + 1 WHERE name = 'risk'")
    with pytest.raises(LeaseLost, match="FENCED"):
        await store.publish(lease, rows, [])


async def test_limits_are_versions_with_who_why_and_what_changed(watched: Platform, db: Database, token: Any) -> None:
    await known(db)
    risk = watched["risk"]
    first = (await risk.get("/risk/limits")).json()
    assert (first["max_daily_loss_share"], first["max_weekly_loss"]) == ("0.05", None)
    refused = await risk.post("/risk/limits", json=LIMITS, headers=token("trader"))
    assert refused.status_code == 403
    for wrong in ({"max_daily_loss": "-1"}, {"max_var": "NaN"}, {"max_drawdown": "1.5"}, {"max_orders_per_minute": 0}, {"unknown": 1}):
        assert (await risk.post("/risk/limits", json=LIMITS | wrong, headers=token("admin"))).status_code == 422
    answer = await risk.post("/risk/limits", json=LIMITS | {"max_daily_loss": "750.50", "max_leverage": "2"}, headers=token("admin"))
    assert answer.status_code == 201
    now = (await risk.get("/risk/limits")).json()
    assert (now["version"], now["max_daily_loss"], now["max_daily_loss_share"]) == (answer.json()["version"], "750.5", None)
    history = (await risk.get("/risk/limits/history")).json()
    assert [(each["version"], each["changed_by"]) for each in history] == [
        (now["version"], "user:somebody"), (first["version"], "configuration"),
    ]  # fmt: skip
    detail = await db.fetch_value("SELECT detail FROM audit_events WHERE type = 'risk_limit_change' AND subject = 'paper'")
    assert detail["before_version"] == first["version"]
    assert detail["changes"]["max_daily_loss"] == {"before": "1000", "after": "750.5"}
    assert detail["changes"]["max_daily_loss_share"] == {"before": "0.05", "after": None}
    assert "max_order_notional" not in detail["changes"]


async def test_the_portfolio_has_limits_of_its_own(watched: Platform, db: Database, superuser: psycopg.Connection[Any], token: Any) -> None:
    await known(db)
    risk = watched["risk"]
    assert (await risk.get("/risk/limits", params={"account": "*"})).json()["code"] == "LIMITS_MISSING"
    answer = await risk.post("/risk/limits", json=LIMITS | {"account": "*", "max_daily_loss": "400"}, headers=token("admin"))
    assert answer.status_code == 201
    usage = (await risk.get("/risk/limits/usage", params={"account": "*"})).json()["usage"]
    assert {"limit": "max_daily_loss", "used": "0", "allowed": "400", "ratio": "0"} in usage
    book(superuser, "0.1", "45000")

    async def everybody_reduces() -> bool:
        return await state(db, "*") == "reducing"

    await eventually(everybody_reduces, what="the portfolio's breaker")
    assert await state(db) is None, "the account itself has lost less than its own limit"


async def test_accounts_see_what_the_others_hold(
    postgres: PostgresServer, redis_server: RedisServer, migrated: str, credentials: Any, superuser: psycopg.Connection[Any]
) -> None:
    other = settings_for(
        postgres,
        redis_server,
        postgres.create_database(template=migrated),
        accounts=[{"id": "paper"}, {"id": "second", "currency": "USDT"}],
    )
    platform, database = Platform(other), Database(other)
    await database.open()
    try:
        await platform.start("risk", "portfolio")
        found = await known(database)
        assert found.elsewhere is not None
        assert (found.elsewhere.equity, found.elsewhere.equity_day, found.elsewhere.rate) == (D(100000), D(200000), D(1))
        whole = await figures(database, "*")
        assert whole is not None
        assert whole.capital == D(200000)
    finally:
        await platform.stop_all()
        await database.close()


async def test_usage_sets_every_limit_beside_what_is_used_of_it(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await known(db)
    book(superuser, "0.1", "44000")
    await published_again(db)
    document = (await watched["risk"].get("/risk/limits/usage")).json()
    usage = {row["limit"]: row for row in document["usage"]}
    assert usage["max_daily_loss"] == {"limit": "max_daily_loss", "used": "400", "allowed": "1000", "ratio": "0.4"}
    assert usage["max_position_notional"] == {"limit": "max_position_notional", "used": "4000", "allowed": "20000", "ratio": "0.2"}
    assert usage["max_leverage"] == {"limit": "max_leverage", "used": "4000", "allowed": "298800", "ratio": "0.01338688"}
    assert usage["max_drawdown"] == {"limit": "max_drawdown", "used": "400", "allowed": "20000", "ratio": "0.02"}
    assert usage["max_orders_per_minute"]["used"] == "0"
    summary = (await watched["risk"].get("/risk/summary")).json()
    assert summary["risk_score"] == 40
    assert (summary["total_exposure"], summary["daily_pnl"], summary["equity"]) == (4000, -400, 99600)
    assert (await watched["risk"].get("/risk/current")).json()["daily_loss"] == 400


async def test_value_at_risk_grows_with_the_position_and_says_what_it_assumes(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await known(db)
    book(superuser, "0.1", "40000")
    await published_again(db)
    found = await figures(db)
    assert found is not None
    assert found.values == {"BTCUSDT": D(4000)}
    assert found.value_at_risk is not None
    assert abs(found.value_at_risk - 4000 * found.loss_rates["BTCUSDT"]) < D("0.001")
    document = (await watched["risk"].get("/risk/var")).json()
    assert D(document["var_95"]) < D(document["expected_shortfall"]) < D(document["var_99"])
    assert document["notes"] == ["BTCUSDT: too few candles, volatility of its kind assumed"]


async def test_value_at_risk_rests_on_the_candles_that_are_held(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any]
) -> None:
    await known(db)
    await watched.stop("risk")
    superuser.execute(
        "INSERT INTO candles SELECT 1, 86400, timestamptz '2026-01-01T00:00Z' + n * interval '1 day', p, p, p, p, 1, 'test'"
        " FROM (SELECT n, CASE WHEN n % 2 = 0 THEN 40000 ELSE 41000 END AS p FROM generate_series(0, 200) n) c"
    )
    book(superuser, "0.1", "40000")
    await watched.start("risk")
    await published_again(db)
    found = await figures(db)
    assert found is not None
    assert found.value_at_risk == D("97.56097561"), "4000 × (1 − 40000 / 41000)"
    assert not (await watched["risk"].get("/risk/var")).json()["notes"]


async def test_a_hypothetical_order_is_judged_and_nothing_is_reserved(
    watched: Platform, db: Database, superuser: psycopg.Connection[Any], token: Any
) -> None:
    await known(db)
    order = {"client_order_id": "a", "account": "paper", "symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.1"}
    many = [order | {"client_order_id": str(number), "quantity": "0.12"} for number in range(5)]

    async def codes(orders: list[dict[str, Any]]) -> list[str]:
        answer = await watched["risk"].post("/risk/check", json={"orders": orders})
        assert answer.status_code == 200, answer.text
        return [each["code"] for each in answer.json()["decisions"]]

    assert await codes(many) == ["ACCEPTED"] * 4 + ["POSITION_LIMIT_EXCEEDED"]
    assert await codes(many) == ["ACCEPTED"] * 4 + ["POSITION_LIMIT_EXCEEDED"]
    assert await codes([order | {"type": "stop", "trigger_price": "50000"}]) == ["PRICE_COLLAR"]
    assert await codes([order | {"reduce_only": True}]) == ["REDUCE_ONLY_WOULD_INCREASE"]
    assert await db.fetch_value("SELECT count(*) FROM risk_decisions") == 0
    unknown = await watched["risk"].post("/risk/check", json={"orders": [order | {"symbol": "NOPE"}]})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "UNKNOWN_INSTRUMENT")
    assert (await watched["risk"].post("/risk/check", json={"orders": [order | {"account": "nobody"}]})).status_code == 404


async def test_every_host_shows_the_published_figures(watched: Platform, db: Database, superuser: psycopg.Connection[Any]) -> None:
    await known(db)
    book(superuser, "0.1", "49000")

    async def shown() -> bool:
        text = (await watched["risk"].get("/metrics")).text
        wanted = (
            'smc_risk_limit_usage_ratio{account="paper",limit="max_daily_loss"} 0.9', 'smc_risk_daily_loss_ratio{account="paper"} 0.9',
            'smc_risk_position_ratio{account="paper"} 0.2', 'smc_risk_daily_pnl{account="paper"} -900.0',
            'smc_risk_stop_loss_hit_ratio{account="paper"} NaN', 'smc_risk_limit_warnings_total{account="paper",limit="max_daily_loss"}',
        )  # fmt: skip
        return all(line in text for line in wanted)

    await eventually(shown, what="metrics")


async def test_once_a_breaker_has_tripped_the_engine_only_reduces(
    platform: Platform, market: Market, prices: None, db: Database, token: Any
) -> None:
    await market.quote("BTCUSDT", "39999", "40001")
    await platform.start("risk", "portfolio", "engine")
    await platform.leads()
    await platform.judges()

    async def ends(name: str, side: Any, quantity: str) -> tuple[str, str | None]:
        await market.signal(name, side, quantity)

        async def ended() -> Any:
            rows = await db.fetch_tuples("SELECT status, reason_code FROM orders WHERE signal_id = %s", (name,))
            return rows[0] if rows and rows[0][0] in ("FILLED", "REJECTED") else None

        status, code = await eventually(ended, what=f"the end of {name}")
        return status, code

    assert await ends("in", "buy", "0.05") == ("FILLED", None)
    answer = await platform["risk"].post("/risk/limits", json=LIMITS | {"max_daily_loss": "0.5"}, headers=token("admin"))
    assert answer.status_code == 201

    async def tightened() -> bool:
        return await state(db) == "reducing"

    await eventually(tightened, what="the breaker")

    async def refuses() -> bool:
        number = await db.fetch_value("SELECT count(*) FROM orders")
        return (await ends(f"more{number}", "buy", "0.01"))[1] == "TRADING_REDUCING"

    await eventually(refuses, what="an engine that obeys")
    assert await ends("out", "sell", "0.05") == ("FILLED", None)
    codes = await db.fetch_tuples("SELECT code, facts->>'state' FROM risk_decisions ORDER BY id")
    assert codes[0] == ("ACCEPTED", "running")
    assert codes[-1] == ("ACCEPTED", "reducing")
    assert {code for code, _ in codes[1:-1]} <= {"DAILY_LOSS_LIMIT_REACHED", "TRADING_REDUCING"}
