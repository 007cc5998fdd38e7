"""Binance's errors: HTTP status, code and message, as its documentation lists them."""

from __future__ import annotations

from collections.abc import Mapping


class VenueError(Exception):
    """An answer that is an error. Nothing of the request was accepted unless `status` is 5xx."""

    def __init__(self, status: int, code: int, message: str, headers: Mapping[str, str] | None = None, data: object = None) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}
        self.data = data


def bad_request(code: int, message: str) -> VenueError:
    return VenueError(400, code, message)


def rejected(message: str) -> VenueError:
    """The order is refused by the books or the market (-2010)."""
    return bad_request(-2010, message)


def filter_failure(name: str) -> VenueError:
    """The order does not pass one of the symbol's filters (-1013)."""
    return bad_request(-1013, f"Filter failure: {name}")


def missing(name: str) -> VenueError:
    return bad_request(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def illegal(name: str, legal: str) -> VenueError:
    return bad_request(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def busy(message: str = "Server is currently overloaded with other requests. Please try again in a few minutes.") -> VenueError:
    """Not processed: this process does not lead, or is not ready yet."""
    return VenueError(503, -1008, message, {"Retry-After": "1"})


def unknown_outcome() -> VenueError:
    """The request may or may not have been processed."""
    return VenueError(503, -1007, "Timeout waiting for response from backend server. Send status unknown; execution status unknown.")


INVALID_SYMBOL = (-1121, "Invalid symbol.")
DUPLICATE_ORDER = "Duplicate order sent."
INSUFFICIENT_FUNDS = "Account has insufficient balance for requested action."
MARKET_CLOSED = "Market is closed."
WOULD_TAKE = "Order would immediately match and take."
WOULD_TRIGGER = "Stop price would trigger immediately."


def unknown_order() -> VenueError:
    """A cancel for what is not open."""
    return bad_request(-2011, "Unknown order sent.")


def no_such_order() -> VenueError:
    return bad_request(-2013, "Order does not exist.")


def invalid_symbol() -> VenueError:
    return bad_request(*INVALID_SYMBOL)
