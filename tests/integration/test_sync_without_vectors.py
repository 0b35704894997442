"""Tables that keep the payload of points up to date whose vectors came from elsewhere: copied, followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qdrant_client import models

from tests.support.command import bridge, config_file
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.places import EdgePlace, ServerPlace

COLUMNS = "id int PRIMARY KEY, title text, price int, source text"
PAYLOAD = {"title": "title", "price": "price", "meta.source": "source"}


def shared(
    database: Database, place: ServerPlace, directory: Path, **settings: Any
) -> tuple[Followed, Any]:
    """Rows 1 to 4, and a collection that somebody filled with the points 1 and 2."""
    docs = Followed(
        database, place, directory, columns=COLUMNS,
        **{"vectors": "none", "payload": PAYLOAD, **settings},
    )  # fmt: skip
    docs.sql(
        "INSERT INTO docs SELECT i, 'row ' || i, nullif(i, 2), 's' || i FROM generate_series(1, 4) i"
    )
    name = docs.pipeline.name
    place.client.create_collection(
        name, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
    )
    place.client.upsert(
        name,
        [
            models.PointStruct(
                id=i, vector=[i, 1], payload={"price": 99, "theirs": i, "meta": {"kept": True}}
            )
            for i in (1, 2)
        ],
    )
    return docs, place.client


def payloads(docs: Followed) -> dict[Any, Any]:
    return {identity: point.payload for identity, point in docs.points().items()}


def vectors(docs: Followed) -> dict[Any, Any]:
    return {i: [v.tolist() for v in p.vectors.values()] for i, p in docs.points().items()}


def test_the_copy_and_the_stream_keep_what_others_have_written(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs, _client = shared(database, place, tmp_path)
    with docs.streaming():
        assert payloads(docs) == {
            1: {"title": "row 1", "price": 1, "meta": {"source": "s1", "kept": True}, "theirs": 1},
            2: {"title": "row 2", "meta": {"source": "s2", "kept": True}, "theirs": 2},
            3: {"title": "row 3", "price": 3, "meta": {"source": "s3"}},
            4: {"title": "row 4", "price": 4, "meta": {"source": "s4"}},
        }
        assert vectors(docs) == {1: [[1, 1]], 2: [[2, 1]], 3: [], 4: []}
        docs.sql(
            "UPDATE docs SET price = NULL, source = NULL WHERE id = 1",
            "UPDATE docs SET title = 'new' WHERE id = 3",
            "DELETE FROM docs WHERE id = 2",
            "INSERT INTO docs VALUES (5, 'five', 5, NULL)",
            "UPDATE docs SET id = 40 WHERE id = 4",
        )
        docs.wait()
        assert payloads(docs) == {
            1: {"title": "row 1", "meta": {"kept": True}, "theirs": 1},
            3: {"title": "new", "price": 3, "meta": {"source": "s3"}},
            40: {"title": "row 4", "price": 4, "meta": {"source": "s4"}},
            5: {"title": "five", "price": 5},
        }
        assert vectors(docs)[1] == [[1, 1]]


def test_rows_that_exchange_their_keys_exchange_their_fields_only(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    """What others keep is told by nothing but the point: after a crash nobody could say whether it has
    changed places already."""
    docs, _client = shared(database, place, tmp_path)
    with docs.streaming():
        docs.sql_at_once(
            "UPDATE docs SET id = -1 WHERE id = 1",
            "UPDATE docs SET id = 1 WHERE id = 2",
            "UPDATE docs SET id = 2 WHERE id = -1",
        )
        docs.wait()
        found = payloads(docs)
        assert (found[1]["title"], found[2]["title"]) == ("row 2", "row 1")
        assert (found[1]["theirs"], found[2]["theirs"]) == (1, 2)
        assert (vectors(docs)[1], vectors(docs)[2]) == ([[1, 1]], [[2, 1]])


def test_a_truncate_of_a_shared_collection_stops(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs, _client = shared(database, place, tmp_path)
    with docs.streaming() as running:
        docs.sql("TRUNCATE docs")
        outcome = docs.stopped(running, "TRUNCATE_SHARED")
    assert "owns_collection: true" in outcome.err
    assert set(docs.points()) == {1, 2, 3, 4}


def test_a_truncate_empties_a_collection_that_the_table_owns(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs, _client = shared(database, place, tmp_path, owns_collection=True)
    with docs.streaming():
        docs.sql("TRUNCATE docs", "INSERT INTO docs VALUES (9, 'after', 9, 's')")
        docs.wait()
        assert set(docs.points()) == {9}


def test_pinecones_id_and_namespace_are_written(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    rule = {"template": "doc-{id}", "namespace": "ns"}
    docs, _client = shared(database, place, tmp_path, id=rule)
    with docs.streaming():
        docs.sql("UPDATE docs SET title = 'new' WHERE id = 3")
        docs.wait()
    found = {p["__id__"]: p for p in payloads(docs).values() if "__id__" in p}
    assert set(found) == {"doc-1", "doc-2", "doc-3", "doc-4"}
    assert {p["namespace"] for p in found.values()} == {"ns"}
    assert found["doc-3"]["title"] == "new"


def test_plan_says_what_is_owned(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs, _client = shared(database, place, tmp_path)
    outcome = docs.pipeline.command("plan", "--json").require()
    assert "without a vector" in json.dumps(outcome.report)


def test_an_embedded_target_keeps_what_others_have_written_too(
    database: Database, edge_directory: Path, tmp_path: Path
) -> None:
    """The workers hand their requests to the parent, which has the directory open."""
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, n int)")
    database.execute("INSERT INTO docs SELECT i, 'row ' || i, i FROM generate_series(1, 700) i")

    def copy(payload: dict[str, str]) -> None:
        config = config_file(
            tmp_path,
            {
                "pipeline": f"p{len(payload)}{next(iter(payload))}",
                "postgres": {"url": database.url},
                "qdrant": {"url": f"edge://{edge_directory}"},
                "tables": {"public.docs": {"vectors": "none", "payload": payload}},
            },
        )
        bridge("backfill", "pgvector", "--config", config, "--migration.restart").require()

    copy({"title": "title"})
    database.execute("UPDATE docs SET title = NULL WHERE id = 7")
    copy({"title": "title"})
    points = EdgePlace(edge_directory).points("docs")
    assert len(points) == 700
    assert points[7].payload == {}
    assert points[700].payload == {"title": "row 700"}
