"""A table that is written to while it is copied: told, counted, and no failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.integration.test_backfill import ONE_WORKER, add_docs, arguments, make_docs
from tests.support.command import Background
from tests.support.comparison import differences
from tests.support.places import ServerPlace, open_server
from tests.support.qdrant_server import delay


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerPlace]:
    with open_server(tmp_path) as opened:
        yield opened


def test_writes_during_the_copy_are_told_and_no_failure(
    database: Database, server: ServerPlace
) -> None:
    make_docs(database, 1500)
    assert server.server is not None
    release = threading.Event()
    rule = server.server.faults.add(method="Upsert", collection="docs", action=delay(release))
    more = ("--json", *ONE_WORKER, "--migration.batch-size", "50")
    running = Background(*arguments(database, server, "docs", *more))
    server.server.faults.wait_fired(rule)
    # In the first chunk, which is being copied, and in the last, which is not yet read.
    database.execute("DELETE FROM docs WHERE id IN (1, 2, 3, 1499)")
    add_docs(database, 2001, 2020)
    release.set()
    table = running.finish().require().table
    assert table["source_count"] == 1516
    assert table["rows_read"] == table["target_count"] == 1519
    (note,) = table["notes"]
    assert "has changed since its copy began" in note
    left = differences(database, "docs", server.points("docs"))
    assert left == ["point 1: extra", "point 2: extra", "point 3: extra"]


@pytest.mark.parametrize(
    "statement",
    [
        # A row that has been read is read again under its new key.
        "UPDATE events SET id = 9000 WHERE id = 1",
        # As many come as go, but where the copy has been, or has not yet been.
        "WITH gone AS (DELETE FROM events WHERE id = 1490)"
        " INSERT INTO events VALUES (0, 'a', '[1]')",
        # The total stays, the partitions do not.
        "WITH gone AS (DELETE FROM events WHERE id = 1 AND kind = 'b')"
        " INSERT INTO events VALUES (0, 'a', '[1]')",
    ],
)
def test_writes_that_leave_the_count_as_it_was_are_no_failure(
    database: Database, server: ServerPlace, statement: str
) -> None:
    database.execute(
        "CREATE TABLE events (id int, kind text, v vector(1), PRIMARY KEY (id, kind))"
        " PARTITION BY LIST (kind)"
    )
    for kind in ("a", "b"):
        database.execute(f"CREATE TABLE events_{kind} PARTITION OF events FOR VALUES IN ('{kind}')")
    database.execute(
        "INSERT INTO events SELECT i, (ARRAY['a', 'b'])[i % 2 + 1], '[1]'"
        " FROM generate_series(1, 1500) i"
    )
    database.execute("ANALYZE events")
    assert server.server is not None
    release = threading.Event()
    rule = server.server.faults.add(
        method="Upsert", collection="events", action=delay(release), nth=3
    )
    more = ("--json", *ONE_WORKER, "--migration.batch-size", "50")
    running = Background(*arguments(database, server, "events", *more))
    server.server.faults.wait_fired(rule)
    database.execute(statement)
    release.set()
    table = running.finish().require().table
    assert table["source_count"] == 1500
    assert any("has changed since its copy began" in note for note in table["notes"])
