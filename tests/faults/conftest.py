"""Servers, launcher and stages of the matrices: one PostgreSQL, one Redis and one launcher a session, a database for each matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Launcher, Stage, scene, staged
from servers import PostgresServer, RedisServer


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[PostgresServer, RedisServer, Path]]:
    with scene() as running:
        yield running


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with Launcher() as running:
        yield running


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, servers: tuple[PostgresServer, RedisServer, Path], launcher: Launcher) -> Iterator[Stage]:
    postgres, redis_server, directory = servers
    with staged(launcher, postgres, redis_server, directory / request.module.__name__) as running:
        yield running
