"""A run as a document that says all about it: what it was told, what ticks it saw, which code ran, and what came of it.

The same ticks, parameters and code are the same document under the same id, so a run that is repeated is kept once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pymongo.errors import PyMongoError

import trading_platform
from trading_platform import money
from trading_platform.backtest.result import Result
from trading_platform.backtest.runner import Setup
from trading_platform.documents import Documents
from trading_platform.instruments import Catalogue
from trading_platform.market.ticks import Ticks

COLLECTION = "backtests"
# MongoDB takes documents of 16 MiB. What is too long is cut at its end, and what was left out is counted.
MOST_LINES = 5_000
_LISTS = ("trade_list", "order_list", "fill_list", "refused")


class NotStored(Exception):
    """The document is not in MongoDB; the text says why."""


class DataHash:
    """SHA-256 of the ticks that pass through, whatever parts they come in."""

    def __init__(self) -> None:
        self._columns = {field.name: hashlib.sha256() for field in fields(Ticks)}

    def of(self, parts: Iterable[Ticks]) -> Iterator[Ticks]:
        for part in parts:
            for name, digest in self._columns.items():
                column = getattr(part, name)
                digest.update(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes())
            yield part

    def hexdigest(self) -> str:
        """Of all columns, each by itself."""
        return hashlib.sha256(b"".join(digest.digest() for digest in self._columns.values())).hexdigest()


@cache
def code_hash() -> str:
    """SHA-256 of every source file of the platform: two runs of one number ran the same code."""
    root, digest = Path(trading_platform.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def parameters(setup: Setup, strategy: BaseModel) -> dict[str, Any]:
    """Everything a run was told."""
    return {
        "strategy": plain(strategy),
        "symbols": list(setup.symbols),
        "account": plain(setup.account),
        "limits": plain(setup.limits),
        "models": plain(setup.models),
        "conversion_rates": plain(setup.conversion_rates),
        "fee_asset": setup.fee_asset,
        "candles_of": setup.basis,
        "prices_every_ns": setup.prices_every_ns,
    }


def record(result: Result, catalogue: Catalogue, told: Mapping[str, Any], data_hash: str, *, details: bool = True) -> dict[str, Any]:
    """For JSON, for MongoDB, for the report."""
    return {
        **result.to_document(catalogue, details=details),
        "data_hash": data_hash,
        "code": {"version": trading_platform.__version__, "hash": code_hash()},
        "parameters": dict(told),
    }


def identity(document: Mapping[str, Any]) -> str:
    """Of a run by what it depends on."""
    known = {name: document[name] for name in ("source", "first", "last", "data_hash", "code", "parameters")}
    return hashlib.sha256(json.dumps(known, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


async def store(documents: Documents, document: Mapping[str, Any]) -> str:
    """Keep it in MongoDB; its id. Raises NotStored."""
    kept = dict(document) | {"_id": identity(document)}
    for name in _LISTS:
        if len(kept[name]) > MOST_LINES:
            kept[name], kept[f"{name}_left_out"] = kept[name][:MOST_LINES], len(kept[name]) - MOST_LINES
    try:
        await documents.database[COLLECTION].replace_one({"_id": kept["_id"]}, kept, upsert=True)
    except (PyMongoError, OSError) as error:
        raise NotStored(f"MongoDB did not take the result: {error}") from error
    return str(kept["_id"])


def plain(value: Any) -> Any:
    """As JSON has it; a replaceable part with the name of its class."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": type(value).__name__} | {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            return money.text(value)
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
        case set() | frozenset():
            return sorted(plain(each) for each in value)
        case Iterable():
            return [plain(each) for each in value]
    return str(value)
