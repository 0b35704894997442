"""A vector column that comes after the copy: its collection has no place for it, and everybody says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Running
from tests.support.daemons import wait_streaming
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.impatient import IMPATIENT
from tests.support.places import open_server

TOLD = "the vector column v2 came after the copy, and the collection has no place for it"


@pytest.fixture
def docs(database: Database, tmp_path: Path) -> Iterator[Followed]:
    with open_server(tmp_path) as place:
        followed = Followed(
            database, place, tmp_path, columns="id int PRIMARY KEY, price int, v vector(3)"
        )
        followed.sql("INSERT INTO docs SELECT i, i, '[1,2,3]' FROM generate_series(1, 9) i")
        yield followed


def configure(docs: Followed, **settings: Any) -> None:
    """Change the table's settings."""
    file = Path(docs.pipeline.config)
    configuration = json.loads(file.read_text())
    configuration["tables"]["public.docs"] |= settings
    file.write_text(json.dumps(configuration))


def test_the_daemon_verify_and_resync_say_that_it_has_no_place(docs: Followed) -> None:
    with Running("run", "--config", docs.pipeline.config, prefix=IMPATIENT) as running:
        wait_streaming(running)
        docs.sql("ALTER TABLE docs ADD COLUMN v2 vector(2)", "UPDATE docs SET v2 = '[1,2]'")
        line = json.loads(running.wait_line('"vectors_left_out"', 30))
        assert (line["table"], line["columns"]) == ("public.docs", "v2")
        assert "resync --all" in line["hint"] and "`columns`" in line["hint"]
        assert not any("schema_changed" in text for text in running._lines)
        # The stream goes on, with all that has a place.
        docs.sql("UPDATE docs SET price = 7 WHERE id = 1")
        docs.wait()
        outcome = docs.pipeline.command("resync", "public.docs", "--json").require()
        (request,) = outcome.report["requests"]
        assert (request["outcome"], request["vectors_left_out"]) == ("done", ["v2"])
        assert f"public.docs: {TOLD}" in outcome.err and "no resync brings that" in outcome.err
        found = docs.pipeline.command("verify", "--json").require(1)
        assert "another `collection`" in found.err and "--repair" not in found.err
    table = found.table
    assert (table["equal"], table["schema"]) == (False, [TOLD])
    assert (table["compared"], table["altered"], table["stale"], table["missing"]) == (9, 0, 0, 0)


def test_it_may_be_left_out_or_get_another_collection(docs: Followed) -> None:
    docs.prepare()
    docs.sql("ALTER TABLE docs ADD COLUMN v2 vector(2)", "UPDATE docs SET v2 = '[1,2]'")
    configure(docs, columns=["id", "price", "v"])
    with docs.streaming():
        docs.wait()
        docs.pipeline.command("verify", "--json").require()
        outcome = docs.pipeline.command("resync", "public.docs", "--json").require()
    assert outcome.report["requests"][0]["vectors_left_out"] == []

    named = {"v": {"distance": "euclid"}, "v2": {"distance": "dot"}}
    configure(docs, columns=["id", "price", "v", "v2"], vectors=named)
    outcome = docs.pipeline.command("verify").require(2)
    assert f"vectors.v2: {TOLD}" in outcome.err and "resync --all" in outcome.err

    configure(docs, collection=f"{docs.pipeline.name}_2")
    begun = docs.pipeline.command("resync", "--all", "--yes", "--json").require()
    assert f"is to go into the collection {docs.pipeline.name}_2 now" in begun.err
    assert f"so far it went into {docs.pipeline.name}" in begun.err and "is gone" not in begun.err
    assert docs.place.points(docs.pipeline.name)  # the old one stays
    docs.pipeline.command("verify", "--json").require()
    point = docs.place.points(f"{docs.pipeline.name}_2")[1]
    assert set(point.vectors) == {"v", "v2"}
