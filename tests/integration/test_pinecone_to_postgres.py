"""A collection that came from Pinecone goes on from Postgres: the same points, by the same ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Database
from tests.support.command import bridge, config_file
from tests.support.comparison import point_id
from tests.support.daemons import Pipeline, wait_streaming
from tests.support.pinecone_index import Index
from tests.support.pinecone_runs import Job, standing
from tests.support.pinecone_server import KEY
from tests.support.places import ServerPlace

COUNT = 120
PAYLOAD = {"title": "title", "n": "n", "price": "price", "lang": "lang"}


def metadata_of(number: int) -> dict[str, Any]:
    return {"title": f"Doc {number}", "n": number, "price": number + 0.5, "kept": f"k{number}"}


def fill(index: Index, *namespaces: str) -> None:
    for namespace in namespaces:
        for number in range(1, COUNT + 1):
            index.put(
                f"doc-{number}", [number, len(namespace) + 1.0, 3.0], namespace=namespace,
                metadata=metadata_of(number),
            )  # fmt: skip


def fill_table(database: Database) -> None:
    """The same documents, as the application keeps them."""
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, n int, price float8, lang text)"
    )
    database.execute(
        "INSERT INTO docs SELECT i, 'Doc ' || i, i, i + 0.5, NULL"
        f" FROM generate_series(1, {COUNT}) i"
    )


def pipeline_of(
    database: Database, job: Job, directory: Path, rule: dict[str, str], **table: Any
) -> Pipeline:
    """One file for both: the copy of the index, and the table that goes on."""
    settings = {
        "pipeline": job.name,
        "postgres": {"url": database.url},
        "pinecone": {
            "index": "products", "service_host": job.server.url, "api_key": KEY,
            "collection": job.name,
        },
        "qdrant": {"url": job.place.url},
        "tables": {
            "public.docs": {
                "collection": job.name, "vectors": "none", "id": rule, "payload": PAYLOAD, **table,
            }
        },
        "sync": {"source": "postgres"},
    }  # fmt: skip
    assert isinstance(job.place, ServerPlace)
    return Pipeline(
        database=database,
        place=job.place,
        name=job.name,
        rows=COUNT,
        config=config_file(directory, settings),
    )


CHANGES = (
    "UPDATE docs SET title = 'new', lang = 'en' WHERE id = 1",
    "UPDATE docs SET price = NULL WHERE id = 2",
    "DELETE FROM docs WHERE id = 3",
    f"INSERT INTO docs VALUES ({COUNT + 1}, 'born here', 0, 1.5, 'de')",
    "UPDATE docs SET n = n + 1 WHERE id BETWEEN 50 AND 99",
)


def expected(number: int) -> dict[str, Any] | None:
    """What CHANGES make of a document's fields."""
    fields = metadata_of(number)
    if number == 1:
        fields |= {"title": "new", "lang": "en"}
    if number == 2:
        del fields["price"]
    if number == 3:
        return None
    if number == COUNT + 1:
        return {"title": "born here", "n": 0, "price": 1.5, "lang": "de"}
    if 50 <= number <= 99:
        fields["n"] += 1
    return fields


@pytest.mark.parametrize("several", [False, True])
def test_the_stream_goes_on_with_the_points_that_pinecone_made(
    database: Database, place: ServerPlace, tmp_path: Path, several: bool
) -> None:
    index = Index(dimension=3, metric="dotproduct")
    fill(index, "shop", *(["other"] if several else []))
    fill_table(database)
    rule = {"template": "doc-{id}", **({"namespace": "shop"} if several else {})}
    with standing(index, place) as job:
        pipeline = pipeline_of(database, job, tmp_path, rule)
        pipeline.command("backfill", "pinecone", "--json").require()
        before = job.points()
        with pipeline.run() as running:
            wait_streaming(running)
            for statement in CHANGES:
                database.execute(statement)
            pipeline.wait_now()
        after = job.points()
        compared = pipeline.command("verify", "--json").require(1 if several else 0).report
        table = compared["tables"]["public.docs"]
        assert (table["missing"], table["stale"], table["altered"]) == (0, 0, 0)
        # The other namespace's points are no rows of this table.
        assert table["extra"] == (COUNT if several else 0)
    left = dict(after)
    for number in range(1, COUNT + 2):
        key = ("shop", f"doc-{number}") if several else (f"doc-{number}",)
        identity = point_id(key)
        wanted = expected(number)
        point = left.pop(identity, None)
        if wanted is None:
            assert point is None, number
            continue
        wanted["__id__"] = f"doc-{number}"
        if several:
            wanted["namespace"] = "shop"
        assert point is not None, number
        assert dict(point.payload) == wanted
        if number <= COUNT:
            assert np.array_equal(point.vectors[""], before[identity].vectors[""])  # type: ignore[arg-type]
        else:
            assert point.vectors == {}
    # Those of the other namespace are nobody's but Pinecone's.
    for identity, point in left.items():
        assert point.payload["namespace"] == "other"
        assert dict(point.payload) == dict(before[identity].payload)
    assert len(left) == (COUNT if several else 0)


def test_what_pinecone_made_survives_a_truncate_of_the_table(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    index = Index(dimension=3, metric="dotproduct")
    fill(index, "")
    fill_table(database)
    with standing(index, place) as job:
        pipeline = pipeline_of(database, job, tmp_path, {"template": "doc-{id}"})
        pipeline.command("backfill", "pinecone", "--json").require()
        with pipeline.run() as running:
            wait_streaming(running)
            database.execute("TRUNCATE docs")
            assert "TRUNCATE_SHARED" in running.finish(30).require(3).err
        assert len(job.points()) == COUNT


def test_once_postgres_has_taken_over_pinecone_does_not_come_back(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    """It would overwrite what is newer."""
    index = Index(dimension=3, metric="dotproduct")
    fill(index, "")
    fill_table(database)
    with standing(index, place) as job:
        pipeline = pipeline_of(database, job, tmp_path, {"template": "doc-{id}"})
        pipeline.command("backfill", "pinecone", "--json").require()
        pipeline.command("backfill", "pgvector", "--json").require()
        again = pipeline.command("backfill", "pinecone").require(3)
        assert "COLLECTION_TAKEN" in again.err
        other = bridge(
            "backfill", "pgvector", "--pg.url", database.url, "--pg.table", "docs",
            "--qdrant.url", place.url, "--qdrant.collection", job.name,
        )  # fmt: skip
        assert other.code != 0
