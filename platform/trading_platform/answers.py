"""JSON answers without floats: amounts leave as exact decimal text, either as JSON strings or as JSON numbers.

Money is a string by default, so that no client rounds it unawares. Paths whose readers compare figures (`jq '.x > 1000'`)
answer numbers: `answer(document, numbers=True)` writes the Decimal's digits as a JSON number.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
from fastapi.responses import Response

from trading_platform import money

_encoder = msgspec.json.Encoder(decimal_format="number")


def answer(document: Any, *, numbers: bool = False, status: int = 200) -> Response:
    """The response carrying `document` (dicts and lists of texts, numbers, datetimes, Decimals)."""
    return Response(_encoder.encode(_plain(document, numbers)), status, media_type="application/json")


def _plain(value: Any, numbers: bool) -> Any:
    """Decimals as asked for, at any depth."""
    match value:
        case Decimal():
            return Decimal(money.text(value)) if numbers else money.text(value)
        case dict():
            return {key: _plain(item, numbers) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, numbers) for item in value]
        case _:
            return value
