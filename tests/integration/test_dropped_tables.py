"""A followed table that is dropped: told as such, and the remedy is to take it out of the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Running
from tests.support.daemons import wait_streaming
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.impatient import IMPATIENT
from tests.support.places import open_server


@pytest.fixture
def docs(database: Database, tmp_path: Path) -> Iterator[Followed]:
    """`docs` and `notes`, of which the pipeline has both."""
    with open_server(tmp_path) as place:
        followed = Followed(
            database, place, tmp_path, columns="id int PRIMARY KEY, price int, v vector(3)"
        )
        followed.sql(
            "INSERT INTO docs SELECT i, i, '[1,2,3]' FROM generate_series(1, 9) i",
            "CREATE TABLE notes (id int PRIMARY KEY, v vector(3))",
            "INSERT INTO notes VALUES (1, '[1,2,3]')",
        )
        set_notes(followed, there=True)
        yield followed


def set_notes(docs: Followed, *, there: bool) -> None:
    file = Path(docs.pipeline.config)
    configuration = json.loads(file.read_text())
    configuration["tables"].pop("public.notes", None)
    if there:
        configuration["tables"]["public.notes"] = {"collection": f"{docs.pipeline.name}_notes"}
    file.write_text(json.dumps(configuration))


def test_a_dropped_table_is_told_and_the_others_go_on_without_it(docs: Followed) -> None:
    with Running("run", "--config", docs.pipeline.config, prefix=IMPATIENT) as running:
        wait_streaming(running)
        docs.sql("DROP TABLE notes")
        told = [docs.stopped(running, "SCHEMA_CHANGED").err]
    with docs.pipeline.run() as running:
        told.append(running.finish(30).require(3).err)
    told.append(docs.pipeline.command("resync", "--all", "--yes").require(3).err)
    told.append(docs.pipeline.command("verify").require(3).err)
    for text in told:
        assert "public.notes: the table was dropped" in text
        assert "take it out of the configuration" in text and "resync --all" not in text
    set_notes(docs, there=False)
    docs.sql("UPDATE docs SET price = 100")
    with docs.streaming():
        docs.wait()
        docs.require_equal()
        docs.pipeline.command("verify", "--json").require()


def test_a_table_that_was_made_anew_is_copied_by_the_next_start(docs: Followed) -> None:
    with Running("run", "--config", docs.pipeline.config, prefix=IMPATIENT) as running:
        wait_streaming(running)
        docs.sql_at_once(
            "DROP TABLE notes",
            "CREATE TABLE notes (id int PRIMARY KEY, v vector(3))",
            "INSERT INTO notes VALUES (2, '[1,2,3]')",
        )
        outcome = docs.stopped(running, "SCHEMA_CHANGED")
    assert "public.notes: the table was dropped" in outcome.err
    assert "a table of its name is there again: start the daemon" in outcome.err
    with docs.streaming() as running:
        running.wait_line('"request_ended"')
        docs.wait()
        assert list(docs.place.points(f"{docs.pipeline.name}_notes")) == [2]
