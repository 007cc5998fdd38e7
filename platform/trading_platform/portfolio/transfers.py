"""Money that comes or goes without a trade, booked once: `python -m trading_platform.portfolio.transfers VERB …`.

    transfers deposit    --account paper --currency USDT --amount 1000 --key 2026-01-31-topup --reason "monthly top-up"
    transfers withdraw   …      transfers fee …
    transfers funding    --amount -1.25 --symbol BTCUSD-PERP …      (signed: positive is received; adjustment likewise)

It keeps the books; it moves nothing at the venue: do that first. The key makes it once: the same request again answers what was
booked, another one under the same key is refused. Each is an audit event `portfolio_modification` (CMP-05).
Exit status: 0 booked (or already so), 2 wrong use, 3 refused, 5 the database does not answer, 78 wrong configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from psycopg.types.json import Jsonb

from trading_platform import accounts, config, db, instruments, money
from trading_platform.accounts import AccountMismatch
from trading_platform.config import ConfigError, Settings
from trading_platform.db import Database
from trading_platform.domain import ledger
from trading_platform.domain.ledger import InvalidTransfer, TransferKind
from trading_platform.instruments import UnknownInstrument
from trading_platform.portfolio.store import write_lines

DONE, WRONG_USE, REFUSED, NO_ANSWER, BAD_CONFIG = 0, 2, 3, 5, 78

MAX_PLACES: Final = 18
MAX_DIGITS: Final = 36
KEY_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"

_VERBS: Final[dict[str, TransferKind]] = {
    "deposit": "deposit", "withdraw": "withdrawal", "funding": "funding", "fee": "fee", "adjust": "adjustment",
}  # fmt: skip


class Refused(Exception):
    """Nothing was booked; `code` is the reason code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Transfer:
    """What is to be booked. `key` is unique within the account; `at` is when it happened, now where it is not said."""

    account_id: str
    kind: TransferKind
    currency: str
    amount: Decimal
    key: str
    reason: str
    symbol: str | None = None
    at: datetime | None = None

    @property
    def identity(self) -> str:
        return f"transfer:{self.account_id}:{self.key}"


@dataclass(frozen=True, slots=True)
class Booked:
    """A transfer in the books; `created` is false when it was there already."""

    id: str
    kind: str
    account: str
    currency: str
    amount: Decimal
    reason: str
    actor: str
    occurred_at: datetime
    created: bool


async def book(database: Database, settings: Settings, transfer: Transfer, actor: str) -> Booked:
    """Book a transfer, exactly once. Raises Refused or InvalidTransfer, with nothing booked."""
    lines = ledger.transfer(transfer.kind, transfer.currency, transfer.amount)
    _check(settings, transfer)
    instrument_id = await _instrument_of(database, transfer)
    now = datetime.now(UTC)
    async with database.transaction() as cursor:
        await cursor.execute("SELECT 1 FROM ledger_transactions WHERE id = %s", (f"deposit:{transfer.account_id}:opening",))
        if await cursor.fetchone() is None:
            raise Refused("ACCOUNT_NOT_OPENED", f"account {transfer.account_id} has no opening balances yet: start the portfolio service")
        # Who takes money out of the same account waits here, and so does the projection.
        await cursor.execute(
            "INSERT INTO portfolio_cursor (account_id, last_fill_seq) VALUES (%s, 0) ON CONFLICT (account_id) DO NOTHING",
            (transfer.account_id,),
        )
        await cursor.execute("SELECT 1 FROM portfolio_cursor WHERE account_id = %s FOR UPDATE", (transfer.account_id,))
        await cursor.execute(
            "INSERT INTO ledger_transactions (id, kind, account_id, occurred_at, actor, reason, instrument_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
            (transfer.identity, transfer.kind, transfer.account_id, transfer.at or now, actor, transfer.reason, instrument_id),
        )
        if cursor.rowcount == 0:
            return _same(transfer, instrument_id, await _found(cursor, transfer.identity))
        if transfer.kind in ("withdrawal", "fee"):
            await cursor.execute(
                "SELECT amount FROM ledger_balances WHERE account_id = %s AND book = 'holdings' AND currency = %s",
                (transfer.account_id, transfer.currency),
            )
            row = await cursor.fetchone()
            held = row[0] if row else Decimal(0)
            if held < transfer.amount:
                raise Refused(
                    "INSUFFICIENT_HOLDINGS", f"{transfer.amount} {transfer.currency} is more than the {money.text(held)} the account has"
                )
        await write_lines(cursor, transfer.identity, transfer.account_id, lines)
        detail = {
            "kind": transfer.kind, "currency": transfer.currency, "amount": money.text(transfer.amount), "reason": transfer.reason,
            "transaction": transfer.identity, "symbol": transfer.symbol,
        }  # fmt: skip
        await cursor.execute(
            "INSERT INTO audit_events (type, actor, subject, detail) VALUES ('portfolio_modification', %s, %s, %s)",
            (actor, transfer.account_id, Jsonb(detail)),
        )
    return Booked(
        transfer.identity, transfer.kind, transfer.account_id, transfer.currency, transfer.amount, transfer.reason, actor,
        transfer.at or now, True,
    )  # fmt: skip


def _check(settings: Settings, transfer: Transfer) -> None:
    account = settings.account(transfer.account_id)
    if account is None:
        raise Refused("UNKNOWN_ACCOUNT", f"no account {transfer.account_id!r}; known: {', '.join(each.id for each in settings.accounts)}")
    if settings.conversion_rate(transfer.currency, account.currency) is None:
        raise Refused(
            "UNKNOWN_CURRENCY",
            f"conversion_rates has no {transfer.currency}:{account.currency}: the account's equity would be unknown; add the rate first",
        )
    _, digits, exponent = transfer.amount.as_tuple()
    if len(digits) > MAX_DIGITS or (isinstance(exponent, int) and (exponent < -MAX_PLACES or len(digits) + exponent > MAX_DIGITS)):
        raise Refused("AMOUNT_TOO_PRECISE", f"an amount has at most {MAX_DIGITS} digits, {MAX_PLACES} of them after the point")
    if transfer.at is not None and transfer.at > datetime.now(UTC) + timedelta(seconds=5):
        raise Refused("TIME_IN_FUTURE", f"{transfer.at.isoformat()} has not been yet")
    if transfer.symbol is not None and transfer.kind != "funding":
        raise Refused("SYMBOL_WITHOUT_FUNDING", f"a {transfer.kind} belongs to the account, not to an instrument")


async def _instrument_of(database: Database, transfer: Transfer) -> int | None:
    if transfer.symbol is None:
        return None
    try:
        return (await instruments.load(database)).symbol(transfer.symbol).id
    except UnknownInstrument as error:
        raise Refused("UNKNOWN_INSTRUMENT", str(error)) from None


async def _found(cursor: Any, identity: str) -> tuple[Any, ...]:
    """A transfer in the books, with the amount as it was stated: signed where its kind is, else without sign."""
    await cursor.execute(
        "SELECT t.kind, t.account_id, l.currency, l.amount, t.reason, t.actor, t.occurred_at, t.instrument_id FROM ledger_transactions t"
        " JOIN ledger_lines l ON l.transaction_id = t.id AND l.book = 'holdings' WHERE t.id = %s",
        (identity,),
    )
    row: tuple[Any, ...] = await cursor.fetchone()
    return row


def _same(transfer: Transfer, instrument_id: int | None, found: tuple[Any, ...]) -> Booked:
    kind, account, currency, amount, reason, actor, at, instrument = found
    stated = amount if kind in ledger.SIGNED_KINDS else amount.copy_abs()
    wanted = (transfer.kind, transfer.currency, transfer.amount, instrument_id, transfer.at or at)
    if wanted != (kind, currency, stated, instrument, at):
        raise Refused(
            "KEY_ALREADY_USED", f"{transfer.key!r} is a {kind} of {money.text(stated)} {currency} at {at.isoformat()}; use another key"
        )
    return Booked(transfer.identity, kind, account, currency, stated, reason, actor, at, False)


# --- the operator's command -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python -m trading_platform.portfolio.transfers",
        description="Books money that came or went without a trade. It moves nothing at the venue.",
    )
    command.add_argument("verb", choices=sorted(_VERBS))
    command.add_argument("--account", required=True)
    command.add_argument("--currency", required=True)
    command.add_argument("--amount", required=True, help="decimal; funding and adjust: signed, positive is received")
    command.add_argument("--key", required=True, help="makes it once: the same key again books nothing")
    command.add_argument("--reason", required=True)
    command.add_argument("--by", metavar="NAME", default=getpass.getuser(), help="who books it, for the audit (default: %(default)s)")
    command.add_argument("--symbol", help="funding: the instrument it was for")
    command.add_argument("--at", metavar="TIME", help="when it happened, ISO 8601 with offset (default: now)")
    return command


async def _run(settings: Settings, transfer: Transfer, by: str) -> Booked:
    database = Database(settings, "trading-transfers")
    await database.open()
    try:
        await accounts.ensure(database, settings)
        return await book(database, settings, transfer, f"operator:{by}")
    finally:
        await database.close()


def main(arguments: list[str] | None = None) -> int:
    command = parser()
    asked = command.parse_args(arguments)
    try:
        transfer = Transfer(
            asked.account, _VERBS[asked.verb], asked.currency, money.parse(asked.amount), asked.key, asked.reason, asked.symbol,
            _parse_time(asked.at) if asked.at else None,
        )  # fmt: skip
        _check_text(transfer)
        booked = asyncio.run(_run(config.load(), transfer, asked.by))
    except ValueError as error:
        print(f"transfers: {error}", file=sys.stderr)
        return REFUSED if isinstance(error, InvalidTransfer) else WRONG_USE
    except (Refused, AccountMismatch) as error:
        print(f"transfers: {error}", file=sys.stderr)
        return REFUSED
    except ConfigError as error:
        print(f"transfers: {error}", file=sys.stderr)
        return BAD_CONFIG
    except db.TRANSIENT as error:
        print(f"transfers: the database does not answer ({error}); repeat with the same key: it is booked once", file=sys.stderr)
        return NO_ANSWER
    said = "booked" if booked.created else "was booked already"
    print(f"{booked.id}: {booked.kind} of {money.text(booked.amount)} {booked.currency} {said}, {booked.occurred_at.isoformat()}")
    return DONE


def _check_text(transfer: Transfer) -> None:
    """Raises ValueError where key, currency or reason are not what the books can keep."""
    if not re.fullmatch(KEY_PATTERN, transfer.key):
        raise ValueError(f"--key {transfer.key!r}: 1 to 64 of letters, digits, '.', '_', ':' and '-'")
    if not 3 <= len(transfer.reason) <= 500:
        raise ValueError("--reason: 3 to 500 characters")


def _parse_time(text: str) -> datetime:
    """Raises ValueError without an offset: a local time would be a guess."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no offset; add Z or +00:00")
    return at.astimezone(UTC)


if __name__ == "__main__":
    sys.exit(main())
