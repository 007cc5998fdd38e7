"""MongoDB: documents that explain (decisions, signals, reports), never the ones that count. Losing it stops no trade.

documents = Documents(settings)
await documents.database["decisions"].insert_many([...])
"""

from __future__ import annotations

from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from trading_platform.config import Settings, optional_secret, secret


class Documents:
    """The client of one process. Writes wait for a majority; nothing blocks longer than a few seconds."""

    def __init__(self, settings: Settings) -> None:
        mongodb = settings.mongodb
        options: dict[str, Any] = {}
        if mongodb.tls_ca:
            options |= {"tls": True, "tlsCAFile": mongodb.tls_ca}
        password = secret("mongodb-app-password") if mongodb.tls_ca else optional_secret("mongodb-app-password")
        if password and mongodb.user:
            options |= {"username": mongodb.user, "password": password, "authSource": mongodb.auth_source}
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            mongodb.hosts,
            replicaSet=mongodb.replica_set,
            appname="trading-platform",
            serverSelectionTimeoutMS=2_000,
            connectTimeoutMS=2_000,
            socketTimeoutMS=5_000,
            timeoutMS=5_000,
            w="majority",
            connect=False,
            **options,
        )
        self.database: AsyncDatabase[dict[str, Any]] = self._client[mongodb.database]

    async def ping(self) -> None:
        """Raises PyMongoError when it cannot be used."""
        await self.database.command("ping")

    async def close(self) -> None:
        await self._client.close()
