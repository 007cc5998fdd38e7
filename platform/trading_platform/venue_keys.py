"""API keys of accounts at venues. The paper venue's follow from one secret, so that engine and venue agree without a table;
a real venue's are a credential of their own, `venue-<venue>-<account>`, JSON with `key` and `secret`."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

import msgspec

from trading_platform.config import AccountSettings, ConfigError, Settings, secret


@dataclass(frozen=True, slots=True)
class ApiKey:
    key: str
    secret: str

    def __repr__(self) -> str:
        return f"ApiKey({self.key[:6]}…)"


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    secret: str


def of_account(settings: Settings, account: AccountSettings) -> ApiKey:
    """The account's key at its venue. Raises ConfigError when the credential lacks or is not what it should be."""
    if settings.venues[account.venue].paper:
        return paper(account.id, secret("paper-venue-secret"))
    name = f"venue-{account.venue}-{account.id}"
    try:
        document = msgspec.json.decode(secret(name), type=_Document)
    except msgspec.DecodeError as error:
        raise ConfigError(f'credential {name}: expected {{"key": …, "secret": …}}: {error}') from None
    return ApiKey(document.key, document.secret)


def paper(account_id: str, master: str) -> ApiKey:
    """Key and secret of an account at the paper venue, 64 hexadecimal digits each: HMAC-SHA-256 of what and whose they are."""

    def derived(what: str) -> str:
        return hmac.new(master.encode(), f"{what}:{account_id}".encode(), hashlib.sha256).hexdigest()

    return ApiKey(derived("key"), derived("secret"))
