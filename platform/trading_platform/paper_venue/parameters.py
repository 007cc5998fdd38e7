"""Request parameters: text in, values out, refused with Binance's codes. Numbers are decimal text, never floats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from urllib.parse import unquote_plus

from trading_platform.paper_venue import errors
from trading_platform.paper_venue.errors import bad_request

_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_INTEGER = re.compile(r"[0-9]{1,20}")
_CLIENT_ID = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")
_SYMBOL = re.compile(r"[A-Z0-9_.-]{1,32}")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def split(text: str) -> list[tuple[str, str]]:
    """Pairs of a query string or form body, decoded. Raises -1100 on what is not text."""
    pairs = []
    for part in text.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        if _BROKEN_ESCAPE.search(part):
            raise errors.illegal(name, "percent-encoded UTF-8")
        try:
            pairs.append((unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")))
        except UnicodeDecodeError:
            raise errors.illegal(name, "percent-encoded UTF-8") from None
    return pairs


class Parameters:
    """The parameters of one request. `only` refuses what nobody would read."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            if name in self._values:
                raise bad_request(-1101, f"Duplicate values for parameter '{name}'.")
            if value == "":
                raise bad_request(-1105, f"Parameter '{name}' was empty.")
            self._values[name] = value

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Parameters:
        return cls(values.items())

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def only(self, *names: str) -> None:
        """Refuse unknown parameters (-1104): one that is silently ignored may have been meant."""
        unread = [name for name in self._values if name not in names]
        if unread:
            count = f"read '{len(self._values) - len(unread)}' parameter(s) but was sent '{len(self._values)}'"
            raise bad_request(-1104, f"Not all sent parameters were read; {count}. ({', '.join(unread)})")

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def required(self, name: str) -> str:
        value = self._values.get(name)
        if value is None:
            raise errors.missing(name)
        return value

    def symbol(self, name: str = "symbol") -> str | None:
        value = self._values.get(name)
        if value is not None and _SYMBOL.fullmatch(value) is None:
            raise errors.illegal(name, "^[A-Z0-9-_.]{1,20}$")
        return value

    def decimal(self, name: str) -> Decimal | None:
        """A number that is not negative."""
        value = self._values.get(name)
        if value is None:
            return None
        if _DECIMAL.fullmatch(value) is None:
            raise errors.illegal(name, "^([0-9]{1,20})(\\.[0-9]{1,20})?$")
        return Decimal(value)

    def integer(self, name: str, *, least: int = 0, most: int | None = None) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if _INTEGER.fullmatch(value) is None:
            raise errors.illegal(name, "^[0-9]{1,20}$")
        number = int(value)
        if number < least or number >= 1 << 63:
            raise bad_request(-1130, f"Data sent for parameter '{name}' is not valid.")
        return number if most is None else min(number, most)

    def choice(self, name: str, legal: Iterable[str], code: int, message: str) -> str | None:
        value = self._values.get(name)
        if value is not None and value not in legal:
            raise bad_request(code, message)
        return value

    def boolean(self, name: str, default: bool) -> bool:
        value = self.choice(name, ("true", "false", "TRUE", "FALSE"), -1130, f"Data sent for parameter '{name}' is not valid.")
        return default if value is None else value.lower() == "true"

    def client_id(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is not None and _CLIENT_ID.fullmatch(value) is None:
            raise errors.illegal(name, "^[\\.A-Z\\:/a-z0-9_-]{1,36}$")
        return value
