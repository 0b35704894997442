"""Servers and databases for the tests.

- `postgres`: an embedded Postgres, one per version and session, running when the test begins.
  Tests run on 18; to run on both:
  `@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)`.
- `own_postgres`: one for this test alone, to change its `settings`, stop it, or break it.
- `database`: a fresh database with pgvector on `postgres`, dropped after the test.
- `qdrant_server`: a fresh Qdrant test server; `place`: one as a target; `edge_directory`: an empty
  directory for `edge://`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from bridge.postgres.embedded import EmbeddedPostgres, Version
from tests.support.databases import BOTH_VERSIONS, SETTINGS, Database, fresh_database
from tests.support.places import ServerPlace, open_server
from tests.support.qdrant_server import QdrantServer

__all__ = ["BOTH_VERSIONS", "SETTINGS", "Database"]


@pytest.fixture(scope="session")
def _servers() -> Iterator[Callable[[Version], EmbeddedPostgres]]:
    """Starts each version at its first use, stops all at the session's end."""
    started: dict[Version, EmbeddedPostgres] = {}
    with ExitStack() as stack:

        def server(version: Version) -> EmbeddedPostgres:
            if version not in started:
                started[version] = stack.enter_context(
                    EmbeddedPostgres.temporary(version, SETTINGS)
                )
            return started[version]

        yield server


@pytest.fixture
def postgres_version(request: pytest.FixtureRequest) -> Version:
    """The version the test runs on; parametrise it indirectly for another."""
    return cast(Version, getattr(request, "param", "18"))


@pytest.fixture
def postgres(
    _servers: Callable[[Version], EmbeddedPostgres], postgres_version: Version
) -> EmbeddedPostgres:
    """The session's server of that version; started again if a test left it stopped."""
    server = _servers(postgres_version)
    if server.pid is None:
        server.start()
    return server


@pytest.fixture
def own_postgres(postgres_version: Version) -> Iterator[EmbeddedPostgres]:
    """A server that no other test sees."""
    with EmbeddedPostgres.temporary(postgres_version, SETTINGS) as server:
        yield server


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A fresh database with the extension vector; its replication slots go with it."""
    with fresh_database(postgres) as fresh:
        yield fresh


@pytest.fixture
def qdrant_server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A fresh server without collections or faults."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ServerPlace]:
    """A fresh test server as a target."""
    with open_server(tmp_path) as opened:
        yield opened


@pytest.fixture
def edge_directory(tmp_path: Path) -> Path:
    """An empty directory for a target `edge://`."""
    directory = tmp_path / "edge"
    directory.mkdir()
    return directory
