"""The journal of decisions while MongoDB is away; with it there, see tests/integration/test_strategy_service.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from pymongo.errors import ServerSelectionTimeoutError
from trading_platform.documents import Documents
from trading_platform.strategy.store import DecisionJournal


class Collection:
    """Fails as often as it has failures, then takes what comes."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.taken: list[dict[str, Any]] = []

    async def insert_many(self, documents: list[dict[str, Any]], *, ordered: bool) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.taken += documents


@pytest.mark.parametrize("failure", [ServerSelectionTimeoutError("nobody"), RuntimeError("cannot wait on un-acquired lock")])
async def test_whatever_the_driver_raises_while_its_server_is_away_decisions_wait(failure: Exception) -> None:
    collection = Collection(failure)
    journal = DecisionJournal(cast(Documents, SimpleNamespace(database={"decisions": collection})))
    journal.add({"_id": "one"})
    assert not await journal.flush()
    journal.add({"_id": "two"})
    assert await journal.flush()
    assert [document["_id"] for document in collection.taken] == ["one", "two"]
