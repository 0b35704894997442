"""Rows read again by key: only what is visible counts, whatever the table is called by now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from bridge.mapping import Selected
from bridge.postgres import catalog
from bridge.postgres.connection import Connection, connect
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.postgres.reread import Reread, read_visible
from bridge.schema import Table
from tests.support.databases import BOTH_VERSIONS, Database, fresh_database

KEY = ("id",)


def selected(*columns: str) -> list[Selected]:
    return [Selected(column=name, form="text") for name in ("id", *columns)]


class Waited(Exception):
    """It would have waited."""


def refuse(seconds: float) -> None:
    raise Waited


@pytest.fixture
def reader(database: Database) -> Iterator[Connection]:
    with connect(database.url) as connection:
        yield connection


@pytest.fixture
def docs(database: Database, reader: Connection) -> Table:
    database.execute(
        "CREATE TABLE docs (id bigint PRIMARY KEY, title text, price int, v vector(3))"
    )
    database.execute("INSERT INTO docs VALUES (1, 'one', 10, '[1,2,3]'), (2, 'two', NULL, NULL)")
    return catalog.read_table(reader, "public", "docs")


def xid_of(database: Database, statement: str) -> int:
    """Run it, committed; the lower 32 bits of its transaction's id."""
    with database.connect(autocommit=False) as connection:
        connection.execute(statement)
        row = connection.execute(
            "SELECT pg_current_xact_id()::text::bigint & 4294967295"
        ).fetchone()
        assert row is not None
        return int(row[0])


def read(
    reader: Connection,
    table: Table,
    keys: list[str],
    *columns: str,
    xids: set[int] | None = None,
    wait: Callable[[float], None] = refuse,
) -> Reread:
    return read_visible(
        reader, table, selected(*columns), KEY, [[key] for key in keys], xids or (), wait=wait
    )


def test_rows_come_as_selected_and_missing_ones_are_absent(reader: Connection, docs: Table) -> None:
    found = read(reader, docs, ["1", "2", "3"], "title", "v")
    assert sorted(found.rows) == [[b"1", b"one", b"[1,2,3]"], [b"2", b"two", None]]
    assert found.lacking == frozenset()


def test_a_committed_transaction_is_visible_at_once(
    database: Database, reader: Connection, docs: Table
) -> None:
    xid = xid_of(database, "UPDATE docs SET title = 'new' WHERE id = 1")
    assert read(reader, docs, ["1"], "title", xids={xid}).rows == [[b"1", b"new"]]


def test_a_transaction_in_progress_is_waited_for(
    database: Database, reader: Connection, docs: Table
) -> None:
    with database.connect(autocommit=False) as writer:
        writer.execute("UPDATE docs SET title = 'new' WHERE id = 1")
        row = writer.execute("SELECT pg_current_xact_id()::text::bigint & 4294967295").fetchone()
        assert row is not None
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                writer.commit()

        found = read(reader, docs, ["1"], "title", xids={row[0]}, wait=wait)
    assert found.rows == [[b"1", b"new"]]
    assert waits == sorted(waits) and len(waits) == 3


@pytest.fixture
def standbyless(own_postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A server whose commits can be held back from view: see `invisible`."""
    with fresh_database(own_postgres) as fresh:
        yield fresh
        _release(fresh)


def _hold(database: Database) -> None:
    database.execute("ALTER SYSTEM SET synchronous_standby_names = 'never'")
    database.execute("SELECT pg_reload_conf()")


def _release(database: Database) -> None:
    with database.connect(options="-c synchronous_commit=off") as admin:
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        admin.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_a_commit_that_is_in_the_log_and_not_yet_visible_is_waited_for(
    standbyless: Database,
) -> None:
    """With a synchronous standby that does not answer, a commit is streamed and stays invisible."""
    database = standbyless
    database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text)")
    database.execute("INSERT INTO docs VALUES (1, 'old')")
    _hold(database)
    with (
        database.connect(options="-c synchronous_commit=off") as probe,
        connect(database.url) as reader,
        database.connect(autocommit=False) as writer,
    ):
        docs = catalog.read_table(reader, "public", "docs")
        writer.execute("UPDATE docs SET title = 'new' WHERE id = 1")
        row = writer.execute("SELECT pg_current_xact_id()::text::bigint & 4294967295").fetchone()
        assert row is not None
        committing = threading.Thread(target=writer.commit)
        committing.start()
        _wait_for_standby(probe, writer.info.backend_pid)
        # The commit's record is in the log, so a stream has it already.
        assert probe.execute("SELECT title FROM docs").fetchone() == ("old",)
        with pytest.raises(Waited):
            read(reader, docs, ["1"], "title", xids={row[0]})
        waits: list[float] = []

        def wait(seconds: float) -> None:
            if not waits:
                _release(database)
                committing.join()
            waits.append(seconds)

        found = read(reader, docs, ["1"], "title", xids={row[0]}, wait=wait)
        assert found.rows == [[b"1", b"new"]]
        assert waits


def _wait_for_standby(probe: psycopg.Connection[tuple[object, ...]], pid: int) -> None:
    """Return once that backend waits for a standby to confirm its commit."""
    query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
    while probe.execute(query, (pid,)).fetchone() != ("SyncRep",):
        pass


# --- a catalog that is ahead of the stream --------------------------------------------------------


def test_a_renamed_table_and_column_are_found_by_their_numbers(
    database: Database, reader: Connection, docs: Table
) -> None:
    database.execute("CREATE SCHEMA other")
    database.execute("ALTER TABLE docs RENAME COLUMN title TO headline")
    database.execute("ALTER TABLE docs RENAME COLUMN id TO number")
    database.execute('ALTER TABLE docs RENAME TO "we%ird;"')
    database.execute('ALTER TABLE "we%ird;" SET SCHEMA other')
    found = read(reader, docs, ["1"], "title", "v")
    assert found == Reread(rows=[[b"1", b"one", b"[1,2,3]"]], lacking=frozenset())


def test_a_dropped_column_is_lacking_and_the_others_are_read(
    database: Database, reader: Connection, docs: Table
) -> None:
    database.execute("ALTER TABLE docs DROP COLUMN title")
    found = read(reader, docs, ["1"], "price", "title", "v")
    assert found == Reread(rows=[[b"1", b"10", None, b"[1,2,3]"]], lacking=frozenset({"title"}))


def test_a_column_that_was_dropped_and_made_again_is_another_one(
    database: Database, reader: Connection, docs: Table
) -> None:
    database.execute("ALTER TABLE docs DROP COLUMN title, ADD COLUMN title text DEFAULT 'new'")
    assert read(reader, docs, ["1"], "title").lacking == {"title"}


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ("ALTER COLUMN price TYPE bigint", {"price"}),
        ("ALTER COLUMN v TYPE vector(2) USING subvector(v, 1, 2)", {"v"}),
        ("ALTER COLUMN title TYPE varchar USING title", {"title"}),
    ],
)
def test_a_column_of_another_type_is_lacking(
    database: Database, reader: Connection, docs: Table, change: str, lacking: set[str]
) -> None:
    database.execute(f"ALTER TABLE docs {change}")
    assert read(reader, docs, ["1"], "title", "price", "v").lacking == lacking


def test_without_its_key_nothing_can_be_read(
    database: Database, reader: Connection, docs: Table
) -> None:
    database.execute("ALTER TABLE docs DROP COLUMN id")
    found = read(reader, docs, ["1"], "title")
    assert found.rows == []
    assert "id" in found.lacking


def test_a_dropped_table_has_no_rows(database: Database, reader: Connection, docs: Table) -> None:
    database.execute("DROP TABLE docs")
    assert read(reader, docs, ["1"], "title") == Reread(rows=[], lacking=frozenset())


def test_a_table_that_is_rewritten_meanwhile_does_not_look_empty(
    database: Database, reader: Connection, docs: Table
) -> None:
    """To a snapshot from before a rewrite, the table has no rows: it is locked first."""
    with database.connect(autocommit=False) as owner:
        owner.execute("ALTER TABLE docs ALTER COLUMN price TYPE bigint")
        found: list[Reread] = []
        reading = threading.Thread(
            target=lambda: found.append(read(reader, docs, ["1"], "title", wait=lambda s: None))
        )
        reading.start()
        with database.connect() as watcher:
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass::oid"
            while watcher.execute(waiting, (docs.oid,)).fetchone() is None:
                assert reading.is_alive()
        owner.commit()
    reading.join()
    assert found == [Reread(rows=[[b"1", b"one"]], lacking=frozenset())]
