"""Databases on an embedded Postgres, for fixtures and for tests that want more than one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from bridge.postgres.embedded import EmbeddedPostgres

BOTH_VERSIONS: Final = ("16", "18")

# Commits stay synchronous: a test that stops the server at once counts on what was committed.
SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "max_replication_slots": "50",
    "max_wal_senders": "50",
    "max_prepared_transactions": "10",
}

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One database of an embedded server."""

    name: str
    url: str
    server: EmbeddedPostgres

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection, autocommit unless said otherwise; the caller closes it."""
        return psycopg.connect(self.url, **{"autocommit": True, **options})

    def execute(
        self, statement: Any, parameters: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement, committed; its rows, if it returns any."""
        with self.connect() as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def fresh_database(server: EmbeddedPostgres) -> Iterator[Database]:
    """A new database with the extension vector; afterwards it and its slots are dropped."""
    name = f"test_{next(_numbers)}"
    admin = Database(name="postgres", url=server.url(), server=server)
    admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    database = Database(name=name, url=server.url(name), server=server)
    database.execute("CREATE EXTENSION vector")
    try:
        yield database
    finally:
        if server.pid is None:
            server.start()
        _drop(admin, name)


def _drop(admin: Database, name: str) -> None:
    with admin.connect() as connection:
        # A walsender sits in its database too, and holds its slot until it has ended.
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s",
            (name,),
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = %s",
            (name,),
        )
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
