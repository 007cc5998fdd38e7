"""Accounts: the rows that orders, fills and ledger refer to, made from the configuration."""

from __future__ import annotations

from trading_platform.config import Settings
from trading_platform.db import Database


class AccountMismatch(Exception):
    """The configuration contradicts the account's row; somebody must decide which is right."""


async def ensure(db: Database, settings: Settings) -> None:
    """Every configured account has its row. Raises AccountMismatch where venue or currency differ."""
    for account in settings.accounts:
        await db.execute(
            "INSERT INTO accounts (id, venue, currency) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING",
            (account.id, account.venue, account.currency),
        )
        found = (await db.fetch_tuples("SELECT venue, currency FROM accounts WHERE id = %s", (account.id,)))[0]
        if found != (account.venue, account.currency):
            raise AccountMismatch(
                f"accounts: {account.id} is {found[0]}/{found[1]} in the database and {account.venue}/{account.currency} in the "
                "configuration; an account keeps its venue and currency, give the new one another id"
            )
