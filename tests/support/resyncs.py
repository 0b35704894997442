"""Tables that are resynced: filled, damaged, written to at random, compared.

Vectors have 600 dimensions, so that an update of another column does not send them: a point that was
damaged is only whole again if its row has been read.
"""

from __future__ import annotations

import random
from pathlib import Path

from qdrant_client import models

from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from tests.support.command import Running, config_file
from tests.support.comparison import Expectation, differences
from tests.support.daemons import Pipeline, wait_streaming
from tests.support.databases import Database
from tests.support.places import ServerPlace
from tests.support.writers import Statement

ROWS = 1500
EXTRAS = range(90_000_000, 90_000_300)
EXPECTED = Expectation(distances={"v": "euclid"})
TABLE = {"vectors": {"v": {"distance": "euclid"}}}
NAMES = {"public.docs": "docs", "public.notes": "notes"}


def fill(database: Database, table: str = "docs", rows: int = ROWS) -> None:
    """Make the table with so many rows."""
    database.execute(
        f"CREATE TABLE {table} (id int PRIMARY KEY, body text, n int NOT NULL, v vector(600))"
    )
    database.execute(
        f"INSERT INTO {table} SELECT i, 'row ' || i, 0, (SELECT array_agg((i * k) % 97 - 40)"
        f" FROM generate_series(1, 600) k)::real[]::vector FROM generate_series(1, {rows}) i"
    )


def configure(
    directory: Path, database: Database, place: ServerPlace, name: str, *tables: str
) -> str:
    """The path of a configuration for these tables."""
    settings = {
        "pipeline": name,
        "postgres": {"url": database.url},
        "qdrant": {"url": place.url},
        "tables": {table: {"collection": f"{name}_{NAMES[table]}", **TABLE} for table in tables},
        "sync": {"source": "postgres"},
        "http": {"listen": "127.0.0.1:0"},
    }
    return config_file(directory, settings)


def made(database: Database, place: ServerPlace, directory: Path) -> Pipeline:
    """Table `docs`, filled; nothing has been copied."""
    fill(database)
    name = place.name("p").lower()
    config = configure(directory, database, place, name, "public.docs")
    return Pipeline(database=database, place=place, name=name, rows=ROWS, config=config)


def run(pipeline: Pipeline, failpoints: str = "") -> Running:
    """The daemon."""
    return Running("run", "--config", pipeline.config, failpoints=failpoints)


def copy(pipeline: Pipeline) -> None:
    """Copy the table and leave the stream to whoever comes."""
    with run(pipeline) as running:
        wait_streaming(running)
        running.process.terminate()
        running.finish().require()


def damage(pipeline: Pipeline, rows: int = ROWS) -> None:
    """Points missing, points without a row, points with another payload and vector."""
    client, name = pipeline.place.client, f"{pipeline.name}_docs"
    vector = {"v": [1.5] * 600}
    for ids in (EXTRAS, range(rows // 2, rows // 2 + 300)):
        points = [models.PointStruct(id=i, vector=vector, payload={"body": "?"}) for i in ids]
        client.upsert(name, points, wait=True)
    client.delete(name, models.PointIdsList(points=list(range(1, rows // 4))), wait=True)


def require_equal(pipeline: Pipeline, table: str = "docs") -> None:
    """The collection is the table."""
    found = differences(
        pipeline.database, table, pipeline.place.points(f"{pipeline.name}_{table}"), EXPECTED
    )
    assert found == [], found[:10]


def anything(numbers: random.Random, connection: int) -> Statement:
    """Updates without the vector, deletes, rows that come back, keys that change to and fro."""
    key, far = numbers.randrange(1, ROWS + 1), (connection + 1) * 1_000_000 + numbers.randrange(500)
    return numbers.choice(
        [
            ("UPDATE docs SET n = n + 1 WHERE id = %s", (key,)),
            ("UPDATE docs SET n = n + 1 WHERE id BETWEEN %s AND %s", (key, key + 20)),
            ("DELETE FROM docs WHERE id = %s", (key,)),
            (
                "INSERT INTO docs SELECT %s, 'back', n, v FROM docs LIMIT 1 ON CONFLICT DO NOTHING",
                (key,),
            ),
            ("UPDATE docs SET id = %s WHERE id = %s", (far, key)),
            (
                "UPDATE docs SET id = %s WHERE id ="
                " (SELECT id FROM docs WHERE id BETWEEN 1000000 AND 80000000 LIMIT 1)",
                (key,),
            ),
        ]
    )


def open_state(pipeline: Pipeline) -> tuple[ServerTarget, QdrantState]:
    """The target, to be closed, and the pipeline's records in it."""
    target = ServerTarget(endpoint(pipeline.place.url, api_key=None))
    return target, QdrantState(target, pipeline.name)
