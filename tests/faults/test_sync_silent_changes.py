"""What changes rows without an event (design.md section 6): the daemon says so at its next look, and a resync
of the table settles it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Running
from tests.support.daemons import wait_streaming
from tests.support.databases import BOTH_VERSIONS, Database
from tests.support.followed import Followed
from tests.support.impatient import IMPATIENT
from tests.support.places import ServerPlace

pytestmark = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)


def run(docs: Followed) -> Running:
    """The daemon, looking every moment."""
    return Running("run", "--config", docs.pipeline.config, prefix=IMPATIENT)


def changed(docs: Followed) -> dict[str, Any]:
    """What `verify` is told of."""
    records = docs.place.records(docs.pipeline.name, "stream")
    return {name: record for name, record in records.items() if name.startswith("changed/")}


def test_a_renamed_enum_value_is_told_and_a_resync_settles_it(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    database.execute("CREATE TYPE mood AS ENUM ('good', 'bad')")
    columns = "id int PRIMARY KEY, m mood, more mood[], v vector(3)"
    docs = Followed(database, place, tmp_path, columns=columns)
    docs.sql("INSERT INTO docs VALUES (1, 'good', '{bad}', '[1,2,3]')")
    with run(docs) as running:
        wait_streaming(running)
        docs.sql("ALTER TYPE mood ADD VALUE 'new'", "INSERT INTO docs VALUES (2, 'new')")
        docs.wait()
        docs.sql("ALTER TYPE mood RENAME VALUE 'good' TO 'fine'")
        line = json.loads(running.wait_line('"schema_changed"', 30))
        # A value that was added changes no row.
        assert (line["table"], line["columns"]) == ("public.docs", "m, more")
        assert changed(docs) == {"changed/public.docs": {"columns": ["m", "more"]}}
        assert docs.payload(1)["m"] == "good"
        docs.pipeline.command("resync", "public.docs").require()
        docs.require_equal()
        running.process.terminate()
        running.finish(30).require()
    with docs.streaming() as running:
        assert changed(docs) == {}
        assert not any("schema_changed" in text for text in running._lines)


def test_columns_that_a_resync_has_read_are_not_told_of_any_more(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = Followed(database, place, tmp_path)
    docs.sql("INSERT INTO docs SELECT i, 'x', i, vec(i) FROM generate_series(1, 9) i")
    with run(docs) as running:
        wait_streaming(running)
        docs.sql("ALTER TABLE docs ADD COLUMN extra int DEFAULT 5")
        running.wait_line('"schema_changed"', 30)
        docs.pipeline.command("resync", "public.docs").require()
        docs.require_equal()
        docs.sql("ALTER TABLE docs ALTER COLUMN price TYPE bigint")
        line = running.wait_line('"price"', 30)
        assert json.loads(line)["columns"] == "price"


def test_partitions_that_come_and_go_are_told_and_a_resync_settles_it(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = Followed(database, place, tmp_path)
    docs.sql(
        "DROP TABLE docs",
        "CREATE TABLE docs (id int PRIMARY KEY, price int, v vector(3)) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE high (id int PRIMARY KEY, price int, v vector(3))",
        "INSERT INTO docs SELECT i, i, '[1,2,3]' FROM generate_series(1, 5) i",
        "INSERT INTO high SELECT i, i, '[1,2,3]' FROM generate_series(11, 15) i",
    )
    with run(docs) as running:
        wait_streaming(running)
        docs.sql("ALTER TABLE docs ATTACH PARTITION high FOR VALUES FROM (10) TO (20)")
        line = json.loads(running.wait_line('"partitions_changed"', 30))
        assert (line["table"], line["attached"]) == ("public.docs", "public.high")
        docs.pipeline.command("resync", "public.docs").require()
        docs.require_equal()
        docs.sql("ALTER TABLE docs DETACH PARTITION low")
        line = json.loads(running.wait_line('"detached": "public.low"', 30))
        assert line["attached"] == ""
        docs.pipeline.command("resync", "public.docs").require()
        docs.require_equal()
        docs.sql("UPDATE docs SET price = 7", "UPDATE low SET price = 8")
        docs.wait()
        docs.require_equal()
