"""Tables of every make are compared as they are mapped; samples, shards and interrupted runs as well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from tests.support.command import Outcome, Running, bridge, config_file
from tests.support.databases import Database
from tests.support.places import ServerPlace
from verify.report import COUNTS

VECTOR = "ARRAY[i, 1, 2]::real[]::vector"
ROWS = 60


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A table that was copied, and its configuration."""

    place: ServerPlace
    name: str
    config: str

    def verify(self, *more: str) -> Outcome:
        alone = ("--migration.num-workers", "1")
        return bridge("verify", "--config", self.config, "--json", *alone, *more)

    def counts(self, *more: str) -> dict[str, int]:
        """The counts that are not 0."""
        table = self.verify(*more).table
        return {name: table[name] for name in COUNTS if table[name]}


def made(
    database: Database, place: ServerPlace, directory: Path, *statements: str, **settings: Any
) -> Copy:
    """Run the statements, which make `docs`; copy it."""
    for statement in statements:
        database.execute(statement)
    name = place.name("v").lower()
    config = config_file(
        directory,
        {
            "pipeline": name,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": {"public.docs": {"collection": name, **settings}},
        },
    )
    return Copy(place=place, name=name, config=config)


def copied(*arguments: Any, **settings: Any) -> Copy:
    copy = made(*arguments, **settings)
    bridge("backfill", "pgvector", "--config", copy.config).require()
    return copy


SERIES = f"FROM generate_series(1, {ROWS}) i"
MAKES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "composite key, partitions": (
        (
            "CREATE TABLE docs (a text, b int, v vector(3), PRIMARY KEY (b, a)) PARTITION BY RANGE (b)",
            "CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (30)",
            "CREATE TABLE docs_2 PARTITION OF docs FOR VALUES FROM (30) TO (1000)",
            f"INSERT INTO docs SELECT 'k\"' || i, i, {VECTOR} {SERIES}",
        ),
        {},
    ),
    "uuid key, NULL vectors": (
        (
            "CREATE TABLE docs (id uuid PRIMARY KEY, v vector(3), h halfvec(3))",
            f"INSERT INTO docs SELECT md5(i::text)::uuid, CASE WHEN i % 2 = 0 THEN {VECTOR} END,"
            f" CASE WHEN i % 3 = 0 THEN '[1,2,3]'::halfvec END {SERIES}",
        ),
        {},
    ),
    "text keys of all kinds, short and zero vectors": (
        (
            "CREATE TABLE docs (id text PRIMARY KEY, v vector(3))",
            "INSERT INTO docs SELECT CASE i % 3 WHEN 0 THEN i::text WHEN 1 THEN '-' || i"
            " ELSE md5(i::text)::uuid::text END, ARRAY[i * 1e-6, 0, i % 2 * 1e-7]::real[]::vector"
            f" FROM generate_series(0, {ROWS - 1}) i",
        ),
        {},
    ),
    "where, nulls omitted, fields renamed and nested": (
        (
            "CREATE TABLE docs (id int PRIMARY KEY, title text, source text, lang text, v vector(3))",
            "INSERT INTO docs SELECT i, nullif('t' || i % 4, 't2'), 's' || i,"
            f" CASE WHEN i % 2 = 0 THEN 'en' END, {VECTOR} {SERIES}",
        ),
        {
            "where": {"lang": ["en"]},
            "nulls": "omit",
            "payload": {"name": "title", "metadata.source": "source"},
        },
    ),
    "a view, ids of a template": (
        (
            "CREATE TABLE below (id int PRIMARY KEY, v vector(3))",
            f"INSERT INTO below SELECT i, {VECTOR} {SERIES}",
            "CREATE VIEW docs AS SELECT id, v FROM below",
        ),
        {"key": ["id"], "id": {"template": "doc-{id}", "field": "__id__"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", MAKES)
def test_a_table_is_compared_as_it_is_mapped(
    make: str, database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    statements, settings = MAKES[make]
    copy = copied(database, place, tmp_path, *statements, **settings)
    assert copy.verify().require(0).report["equal"] is True
    points = sorted(place.points(copy.name), key=str)
    first, second = points[0], points[1]
    place.client.delete(copy.name, models.PointIdsList(points=[first]), wait=True)
    place.client.set_payload(copy.name, {"more": 1}, points=[second], wait=True)
    extra = models.PointStruct(id=10**15, vector={}, payload={})
    place.client.upsert(copy.name, [extra], wait=True)
    assert copy.counts() == {"missing": 1, "altered": 1, "extra": 1}
    assert copy.verify("--repair").require(0).report["equal"] is True


def test_of_a_table_without_vectors_only_its_fields_are_compared(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    copy = made(
        database,
        place,
        tmp_path,
        "CREATE TABLE docs (id int PRIMARY KEY, title text, source text)",
        f"INSERT INTO docs SELECT i, 'row ' || i, nullif('s' || i, 's3') {SERIES}",
        vectors="none",
        payload={"title": "title", "meta.source": "source"},
        owns_collection=True,
    )
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    place.client.create_collection(copy.name, params)
    theirs = [
        models.PointStruct(id=i, vector=[i, 1.0], payload={"own": i, "meta": {"other": 1}})
        for i in range(1, 4)
    ]
    place.client.upsert(copy.name, theirs, wait=True)
    bridge("backfill", "pgvector", "--config", copy.config).require()
    copy.verify().require(0)
    place.client.set_payload(copy.name, {"own": "another", "meta.more": 1}, points=[1], wait=True)
    copy.verify().require(0)
    place.client.set_payload(copy.name, {"source": "x"}, key="meta", points=[3], wait=True)
    place.client.delete_payload(copy.name, ["title"], points=[2], wait=True)
    assert copy.counts() == {"altered": 2}
    copy.verify("--repair").require(0)
    assert place.points(copy.name)[1].payload["own"] == "another"


# --- parts ---------------------------------------------------------------------------------------


@pytest.fixture
def large(database: Database, place: ServerPlace, tmp_path: Path) -> Copy:
    """3,000 rows, of which point 17 is lost; a point is too many."""
    copy = copied(
        database,
        place,
        tmp_path,
        "CREATE TABLE docs (id int PRIMARY KEY, v vector(3))",
        f"INSERT INTO docs SELECT i, {VECTOR} FROM generate_series(1, 3000) i",
        "ANALYZE docs",
    )
    place.client.delete(copy.name, models.PointIdsList(points=[17]), wait=True)
    point = models.PointStruct(id=9_999, vector={"v": [1.0, 2.0, 3.0]}, payload={"id": 9_999})
    place.client.upsert(copy.name, [point], wait=True)
    return copy


def test_shards_have_no_row_in_common_and_together_all(large: Copy) -> None:
    tables = [large.verify("--shard", f"{shard}/3").table for shard in range(3)]
    assert sum(table["compared"] for table in tables) == 3000
    assert all(900 < table["compared"] < 1100 for table in tables)
    assert sum(table["missing"] for table in tables) == 1
    assert sum(table["extra"] for table in tables) == 1


def test_a_sample_is_of_the_size_asked_for_and_the_same_for_a_seed(large: Copy) -> None:
    compared = [
        large.verify("--sample", asked, "--seed", seed).table["compared"]
        for asked, seed in (("10%", "5"), ("300", "5"), ("10%", "6"), ("10%", "7"))
    ]
    assert all(220 < rows < 380 for rows in compared)
    assert compared[0] == compared[1]
    assert len(set(compared)) > 1
    large.verify("--sample", "0").require(2)
    large.verify("--sample", "a few").require(2)


def test_a_sample_looks_for_extras_only_if_there_are_more_points_than_rows(large: Copy) -> None:
    table = large.verify("--sample", "1%").table
    assert (table["source"], table["target"]) == (3000, 3000)
    assert (table["extra"], table["extras_searched"], len(table["notes"])) == (0, False, 1)
    point = models.PointStruct(id=9_998, vector={}, payload={})
    large.place.client.upsert(large.name, [point], wait=True)
    table = large.verify("--sample", "1%").require(1).table
    assert (table["extra"], table["extras_searched"]) == (2, True)


def test_a_run_that_was_killed_is_gone_on_with(large: Copy, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    arguments = ("verify", "--config", large.config, "--json", "--resume", str(progress))
    with Running(*arguments, failpoints="verify.after_save:kill@1") as running:
        assert running.finish().code == -9
    assert len(list(progress.iterdir())) == 1
    outcome = bridge(*arguments[:-3], *arguments[-2:]).require(1)
    assert "rows compared before" in outcome.err
    assert "missing: key 17" in outcome.out and "extra: point 9999" in outcome.out
    assert list(progress.iterdir()) == []  # it has ended: the next one begins anew
    assert "rows compared before" not in bridge(*arguments[:-3], *arguments[-2:]).err


def test_a_worker_that_dies_is_replaced(large: Copy) -> None:
    arguments = ("verify", "--config", large.config, "--json")
    with Running(*arguments, failpoints="verify.after_chunk:kill@2") as running:
        table = running.finish().require(1).table
    assert (table["compared"], table["missing"], table["extra"]) == (3000, 1, 1)
