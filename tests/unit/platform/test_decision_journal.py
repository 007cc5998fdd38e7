"""The journal: the strategy's document before the decisions that refer to it, and nothing lost while MongoDB is away."""

from __future__ import annotations

from typing import Any

from pymongo.errors import BulkWriteError, DuplicateKeyError, ServerSelectionTimeoutError
from trading_platform.strategy.store import DecisionJournal


class Collection:
    """What the journal uses of a collection, in memory."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.documents: dict[str, dict[str, Any]] = {}

    async def update_one(self, query: dict[str, Any], change: dict[str, Any], upsert: bool) -> None:
        self._server.answer()
        assert upsert
        if self._server.races:
            self._server.races = False
            raise DuplicateKeyError("somebody else was first", 11000)
        self.documents.setdefault(query["_id"], dict(change["$setOnInsert"]))

    async def insert_many(self, documents: list[dict[str, Any]], ordered: bool) -> None:
        self._server.answer()
        errors = [{"code": 11000} for document in documents if document["_id"] in self.documents]
        for document in documents:
            self.documents.setdefault(document["_id"], document)
        if errors:
            raise BulkWriteError({"writeErrors": errors})


class Server:
    """MongoDB, there or away; as `documents.Documents`."""

    def __init__(self) -> None:
        self.is_away = self.races = False
        self.database = {name: Collection(self) for name in ("strategies", "decisions")}

    def answer(self) -> None:
        if self.is_away:
            raise ServerSelectionTimeoutError("away")


STRATEGY = {"_id": "s@1:abc", "name": "s"}


def journal(server: Server) -> DecisionJournal:
    return DecisionJournal(server, STRATEGY)  # type: ignore[arg-type]


async def test_the_strategy_is_written_without_waiting_for_a_decision_and_once() -> None:
    server = Server()
    kept = journal(server)
    assert await kept.flush()
    assert server.database["strategies"].documents == {"s@1:abc": STRATEGY}
    server.database["strategies"].documents.clear()
    kept.add({"_id": "1"})
    assert await kept.flush()
    assert server.database["strategies"].documents == {}


async def test_a_strategy_that_is_known_stays_as_it_was_first_written() -> None:
    server = Server()
    server.database["strategies"].documents["s@1:abc"] = {"_id": "s@1:abc", "by": "another host"}
    assert await journal(server).flush()
    assert server.database["strategies"].documents["s@1:abc"]["by"] == "another host"


async def test_two_hosts_that_write_a_strategy_at_one_moment_do_no_harm() -> None:
    server = Server()
    server.races = True
    kept = journal(server)
    kept.add({"_id": "1"})
    assert await kept.flush()
    assert list(server.database["decisions"].documents) == ["1"]


async def test_while_mongodb_is_away_everything_waits() -> None:
    server = Server()
    server.is_away = True
    kept = journal(server)
    kept.add({"_id": "1"})
    assert not await kept.flush()
    server.is_away = False
    assert await kept.flush()
    assert list(server.database["strategies"].documents) == ["s@1:abc"]
    assert list(server.database["decisions"].documents) == ["1"]


async def test_a_decision_that_is_there_already_is_left_as_it_is() -> None:
    server = Server()
    server.database["decisions"].documents["1"] = {"_id": "1", "first": True}
    kept = journal(server)
    kept.add({"_id": "1"})
    kept.add({"_id": "2"})
    assert await kept.flush()
    assert server.database["decisions"].documents == {"1": {"_id": "1", "first": True}, "2": {"_id": "2"}}
