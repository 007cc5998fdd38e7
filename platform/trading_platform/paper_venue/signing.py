"""Who sent a request, whether it is theirs, and whether it is still in time: keys, HMAC-SHA-256 signatures, recvWindow."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trading_platform.paper_venue.errors import VenueError, bad_request
from trading_platform.paper_venue.parameters import Parameters
from trading_platform.venue_keys import ApiKey

_KEY = re.compile(r"[A-Za-z0-9]{64}")
_SIGNATURE = re.compile(r"&?signature=[^&]*")
AHEAD_MS = 1_000
DEFAULT_WINDOW_MS = 5_000
MAX_WINDOW_MS = 60_000


@dataclass(frozen=True, slots=True)
class Window:
    """When a request was signed and for how long it counts (milliseconds)."""

    timestamp: int
    recv_window: int

    def check(self, now_ms: int) -> None:
        """Raises -1021 when the request is too old or comes from the future."""
        if self.timestamp >= now_ms + AHEAD_MS:
            raise bad_request(-1021, f"Timestamp for this request was {AHEAD_MS}ms ahead of the server's time.")
        if now_ms - self.timestamp > self.recv_window:
            raise bad_request(-1021, "Timestamp for this request is outside of the recvWindow.")


class Keys:
    """The accounts' keys."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._accounts = {key.key: account for account, key in keys.items()}
        self._secrets = {account: key.secret.encode() for account, key in keys.items()}

    def account(self, key: str | None) -> str:
        """Whose key it is. Raises -2014 and -2015."""
        if not key or _KEY.fullmatch(key) is None:
            raise VenueError(401, -2014, "API-key format invalid.")
        account = self._accounts.get(key)
        if account is None:
            raise VenueError(401, -2015, "Invalid API-key, IP, or permissions for action.")
        return account

    def known(self, key: str | None) -> str | None:
        """Whose key it is, or None."""
        return self._accounts.get(key) if key else None

    def verify(self, account: str, payload: str, signature: str | None) -> None:
        """Raises -1102 without a signature, -1022 when it is not the account's for this payload."""
        if not signature:
            raise bad_request(-1102, "Mandatory parameter 'signature' was not sent, was empty/null, or malformed.")
        expected = hmac.new(self._secrets[account], payload.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), signature.lower().encode()):
            raise bad_request(-1022, "Signature for this request is not valid.")


def unsigned(text: str) -> str:
    """A query string or body as it was before its signature was added."""
    return _SIGNATURE.sub("", text).removeprefix("&")


def window(parameters: Parameters) -> Window:
    """The request's timing. Raises -1102, -1131."""
    timestamp = parameters.integer("timestamp")
    if timestamp is None:
        raise bad_request(-1102, "Mandatory parameter 'timestamp' was not sent, was empty/null, or malformed.")
    if timestamp > 10**14:  # microseconds, which Binance takes as well
        timestamp //= 1_000
    stated = parameters.decimal("recvWindow")
    recv_window = DEFAULT_WINDOW_MS if stated is None else int(stated)
    if recv_window > MAX_WINDOW_MS:
        raise bad_request(-1131, f"'recvWindow' must be less than {MAX_WINDOW_MS}.")
    return Window(timestamp, recv_window)
