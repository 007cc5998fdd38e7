"""The ledger cannot be brought out of balance by a service, and money without a trade is booked once."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from conftest import Platform
from trading_platform import accounts
from trading_platform.config import Settings
from trading_platform.db import Database
from trading_platform.portfolio import transfers
from trading_platform.portfolio.store import PortfolioStore
from trading_platform.portfolio.transfers import Refused, Transfer

D = Decimal

TRANSACTION = "INSERT INTO ledger_transactions (id, kind, account_id, occurred_at) VALUES (%s, 'adjustment', %s, now())"
LINE = "INSERT INTO ledger_lines (transaction_id, line_no, account_id, book, currency, amount) VALUES "


@pytest.fixture
async def opened(settings: Settings, db: Database, superuser: psycopg.Connection[Any]) -> PortfolioStore:
    await accounts.ensure(db, settings)
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('other', 'paper', 'USD')")
    store = PortfolioStore(db)
    await store.open_account(settings.accounts[0])
    return store


async def lines(db: Database) -> list[tuple[Any, ...]]:
    return await db.fetch_tuples("SELECT * FROM ledger_lines ORDER BY 1, 2")


# --- the database refuses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "error"),
    [
        ([LINE + "('t', 1, 'paper', 'holdings', 'USD', 10)"], "UNBALANCED"),
        ([LINE + "('t', 1, 'paper', 'holdings', 'USD', 10), ('t', 2, 'paper', 'capital', 'EUR', -10)"], "UNBALANCED"),
        ([LINE + "('t', 1, 'paper', 'holdings', 'USD', 10), ('t', 2, 'paper', 'capital', 'USD', -9.999999999999999999)"], "UNBALANCED"),
        ([LINE + "('t', 1, 'paper', 'holdings', 'USD', 10), ('u', 1, 'paper', 'capital', 'USD', -10)"], "UNBALANCED"),
        (["SET CONSTRAINTS ALL DEFERRED", LINE + "('t', 1, 'paper', 'holdings', 'USD', 10)"], "UNBALANCED"),
        # Half of a pair falls to a conflict.
        (
            [
                LINE + "('t', 1, 'paper', 'holdings', 'USD', 10), ('t', 2, 'paper', 'capital', 'USD', -10)",
                LINE + "('t', 1, 'paper', 'holdings', 'USD', 5), ('t', 3, 'paper', 'capital', 'USD', -5) ON CONFLICT DO NOTHING",
            ],
            "UNBALANCED",
        ),
        # Later, to a transaction that was balanced: the opening deposit.
        ([LINE + "('deposit:paper:opening', 9, 'paper', 'holdings', 'USD', 10)"], "UNBALANCED"),
        (
            [
                "WITH first AS (" + LINE + "('t', 1, 'paper', 'holdings', 'USD', 10) RETURNING 1) "
                + LINE + "('t', 2, 'paper', 'capital', 'USD', -11)"
            ],
            "UNBALANCED",
        ),
        ([LINE + "('t', 1, 'paper', 'holdings', 'USD', 10), ('t', 2, 'other', 'capital', 'USD', -10)"], "foreign key"),
        ([LINE + "('t', 1, 'paper', 'holdings', 'USD', 'NaN'), ('t', 2, 'paper', 'capital', 'USD', 'NaN')"], "violates check"),
        ([LINE + "('t', 1, 'paper', 'holdings', 'USD', 0)"], "violates check"),
        (["UPDATE ledger_lines SET amount = amount * 2"], "permission denied"),
        (["DELETE FROM ledger_lines"], "permission denied"),
        (["TRUNCATE ledger_lines"], "permission denied"),
        (["UPDATE ledger_balances SET amount = 0"], "permission denied"),
        (["INSERT INTO ledger_balances VALUES ('paper', 'holdings', 'EUR', 1)"], "permission denied"),
        (["ALTER TABLE ledger_lines DISABLE TRIGGER ALL"], "must be owner"),
        (["SET session_replication_role = replica"], "permission denied"),
        (["DROP TRIGGER ledger_lines_booked ON ledger_lines"], "must be owner"),
    ],
)  # fmt: skip
async def test_no_statement_of_a_service_brings_the_ledger_out_of_balance(
    opened: PortfolioStore, db: Database, statements: list[str], error: str
) -> None:
    before = await lines(db)
    with pytest.raises(psycopg.Error, match=error):
        async with db.transaction() as cursor:
            for transaction, account in (("t", "paper"), ("u", "paper")):
                await cursor.execute(TRANSACTION, (transaction, account))
            for statement in statements:
                await cursor.execute(statement.encode())
    assert await lines(db) == before
    assert all(total == 0 for _, total in await opened.ledger_totals())


async def test_a_copy_is_held_against_the_same_rule(opened: PortfolioStore, db: Database) -> None:
    with pytest.raises(psycopg.Error, match="UNBALANCED"):
        async with db.transaction() as cursor:
            await cursor.execute(TRANSACTION, ("t", "paper"))
            async with cursor.copy("COPY ledger_lines (transaction_id, line_no, account_id, book, currency, amount) FROM STDIN") as copy:
                await copy.write_row(("t", 1, "paper", "holdings", "USD", D(10)))


async def test_a_unit_that_dies_between_two_halves_leaves_neither(opened: PortfolioStore, db: Database) -> None:
    before = await lines(db)
    with pytest.raises(ConnectionError):
        async with db.transaction() as cursor:
            await cursor.execute(TRANSACTION, ("t", "paper"))
            await cursor.execute((LINE + "('t', 1, 'paper', 'holdings', 'USD', 1), ('t', 2, 'paper', 'capital', 'USD', -1)").encode())
            raise ConnectionError
    assert await lines(db) == before
    assert dict(await opened.balances("paper")) == {"USD": 50_000, "USDT": 50_000}


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE ledger_lines SET amount = amount * 2", "APPEND_ONLY"),
        ("TRUNCATE ledger_transactions CASCADE", "APPEND_ONLY"),
        ("DELETE FROM ledger_transactions WHERE kind = 'deposit'", "APPEND_ONLY"),
        ("DELETE FROM ledger_lines WHERE currency = 'USD'", "APPEND_ONLY"),
        ("DELETE FROM ledger_lines WHERE currency = 'USD' AND book = 'holdings'", "UNBALANCED"),
        ("UPDATE ledger_transactions SET account_id = 'other'", "APPEND_ONLY"),
    ],
)
async def test_not_even_a_superuser_takes_back_what_was_paid_in(
    opened: PortfolioStore, superuser: psycopg.Connection[Any], statement: str, error: str
) -> None:
    with pytest.raises(psycopg.Error, match=error):
        superuser.execute(statement.encode())


# --- transfers -------------------------------------------------------------------------------------------------------------------


def a_deposit(**changes: Any) -> dict[str, Any]:
    return {"account": "paper", "kind": "deposit", "currency": "USDT", "amount": "1000.5", "key": "k1", "reason": "top-up", **changes}


@pytest.fixture
async def portfolio(platform: Platform, opened: PortfolioStore) -> Any:
    await platform.start("portfolio")
    return platform["portfolio"]


async def test_a_transfer_is_booked_once_however_often_it_is_asked_for(
    portfolio: Any, opened: PortfolioStore, db: Database, token: Any
) -> None:
    answers = await asyncio.gather(*(portfolio.post("/transfers", json=a_deposit(), headers=token("trader")) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert len({answer.text for answer in answers}) == 1
    assert dict(await opened.balances("paper"))["USDT"] == D("51000.5")
    events = await db.fetch_tuples("SELECT actor, subject, detail->>'amount' FROM audit_events WHERE type = 'portfolio_modification'")
    assert events == [("user:somebody", "paper", "1000.5")]


async def test_a_key_means_one_transfer_and_no_other(portfolio: Any, opened: PortfolioStore, token: Any) -> None:
    await portfolio.post("/transfers", json=a_deposit(), headers=token("trader"))
    for change in ({"amount": "1"}, {"kind": "withdrawal"}, {"currency": "USD"}, {"occurred_at": "2024-01-01T00:00:00Z"}):
        answer = await portfolio.post("/transfers", json=a_deposit(**change), headers=token("trader"))
        assert (answer.status_code, answer.json()["code"]) == (409, "KEY_ALREADY_USED")
    assert dict(await opened.balances("paper"))["USDT"] == D("51000.5")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"amount": "-1"}, 422, "AMOUNT_NOT_POSITIVE"),
        ({"amount": "0"}, 422, "AMOUNT_ZERO"),
        ({"amount": "NaN"}, 422, "INVALID_REQUEST"),
        ({"amount": "Infinity"}, 422, "INVALID_REQUEST"),
        ({"amount": "1e400"}, 422, "AMOUNT_TOO_PRECISE"),
        ({"amount": "0.0000000000000000001"}, 422, "AMOUNT_TOO_PRECISE"),
        ({"currency": "usdt"}, 422, "INVALID_REQUEST"),
        ({"currency": "XYZ"}, 422, "UNKNOWN_CURRENCY"),
        ({"kind": "withdrawal", "amount": "50000.000001"}, 409, "INSUFFICIENT_HOLDINGS"),
        ({"kind": "gift"}, 422, "INVALID_REQUEST"),
        ({"account": "nobody"}, 404, "UNKNOWN_ACCOUNT"),
        ({"key": "a b"}, 422, "INVALID_REQUEST"),
        ({"reason": ""}, 422, "INVALID_REQUEST"),
        ({"occurred_at": "2999-01-01T00:00:00Z"}, 422, "TIME_IN_FUTURE"),
        ({"kind": "funding", "symbol": "NOSUCH"}, 422, "UNKNOWN_INSTRUMENT"),
        ({"symbol": "BTCUSDT"}, 422, "SYMBOL_WITHOUT_FUNDING"),
        ({"extra": 1}, 422, "INVALID_REQUEST"),
    ],
)
async def test_a_transfer_that_cannot_be_booked_changes_nothing(
    portfolio: Any, db: Database, token: Any, change: dict[str, Any], status: int, code: str
) -> None:
    before = await lines(db)
    answer = await portfolio.post("/transfers", json=a_deposit(**change), headers=token("trader"))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await lines(db) == before
    assert await db.fetch_value("SELECT count(*) FROM ledger_transactions") == 1
    assert await db.fetch_value("SELECT count(*) FROM audit_events") == 0


@pytest.mark.parametrize(("role", "status"), [("readonly", 403), ("analyst", 403), ("trader", 201), ("admin", 201)])
async def test_who_may_book(portfolio: Any, token: Any, role: str, status: int) -> None:
    assert (await portfolio.post("/transfers", json=a_deposit(), headers=token(role))).status_code == status


async def test_nobody_books_without_a_token(portfolio: Any) -> None:
    assert (await portfolio.post("/transfers", json=a_deposit())).status_code == 401


async def test_two_withdrawals_at_once_do_not_take_the_same_money(opened: PortfolioStore, db: Database, settings: Settings) -> None:
    await opened.project("paper")  # the account's row is there: it is its lock that counts, not its insertion
    wanted = [Transfer("paper", "withdrawal", "USD", D(30_000), key, "both") for key in ("a", "b")]
    done = await asyncio.gather(*(transfers.book(db, settings, each, "test") for each in wanted), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Booked", "Refused"]
    assert dict(await opened.balances("paper"))["USD"] == 20_000


async def test_nothing_is_booked_before_the_account_is_opened(db: Database, settings: Settings) -> None:
    await accounts.ensure(db, settings)
    with pytest.raises(Refused, match="ACCOUNT_NOT_OPENED"):
        await transfers.book(db, settings, Transfer("paper", "deposit", "USD", D(1), "k", "too early"), "test")
    assert await lines(db) == []


@pytest.fixture
def configured(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration as the operator's command finds it."""
    file = tmp_path / "platform.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    monkeypatch.setenv("TRADING_CONFIG", str(file))


async def command(*arguments: str) -> int:
    """The operator's command, which has an event loop of its own."""
    return await asyncio.to_thread(transfers.main, list(arguments))


DEPOSIT = ("deposit", "--account", "paper", "--currency", "USD", "--amount", "100", "--key", "k", "--reason", "top-up")


async def test_the_command_books_once_and_says_so(opened: PortfolioStore, configured: None, capsys: Any) -> None:
    assert [await command(*DEPOSIT), await command(*DEPOSIT)] == [0, 0]
    said = capsys.readouterr().out.splitlines()
    assert ["booked," in said[0], "was booked already," in said[1]] == [True, True]
    assert dict(await opened.balances("paper"))["USD"] == 50_100


async def test_the_command_takes_signs_for_what_is_signed(opened: PortfolioStore, configured: None) -> None:
    paid = ("funding", "--account", "paper", "--currency", "USD", "--amount=-1.25", "--key", "f", "--reason", "funding", "--symbol",
            "BTCUSD-PERP", "--at", "2024-02-05T08:00:00Z")  # fmt: skip
    assert await command(*paid) == 0
    assert dict(await opened.balances("paper"))["USD"] == D("49998.75")
    assert dict(await opened.balances("paper", "carry")) == {"USD": D("1.25")}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("--amount", "much"), 2), (("--amount", "NaN"), 2), (("--amount", "0"), 3), (("--amount", "-5"), 3), (("--key", "a b"), 2),
        (("--account", "nobody"), 3), (("--currency", "XYZ"), 3), (("--at", "2024-02-05T08:00:00"), 2), (("--reason", "x"), 2),
    ],
)  # fmt: skip
async def test_the_command_refuses_what_makes_no_sense(
    opened: PortfolioStore, configured: None, db: Database, change: tuple[str, str], status: int
) -> None:
    before = await lines(db)
    assert await command(*DEPOSIT, f"{change[0]}={change[1]}") == status
    assert await lines(db) == before
