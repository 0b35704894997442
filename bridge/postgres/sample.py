"""The packages data set as a table, and exact search in it: for the demo and the tests.

3,000 Debian packages with sentence embeddings of 384 dimensions (see the README beside the data).
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import sql

from bridge.postgres.connection import Connection, translated

TABLE = "packages"
DIMENSION = 384
COLUMNS = {
    "id": "bigint PRIMARY KEY",
    "package": "text NOT NULL UNIQUE",
    "source": "text",
    "version": "text",
    "section": "text",
    "priority": "text",
    "architecture": "text",
    "multi_arch": "text",
    "essential": "boolean",
    "maintainer_team": "text",
    "homepage": "text",
    "summary": "text",
    "description": "text",
    "installed_kib": "integer",
    "archive_bytes": "bigint",
    "expansion_ratio": "numeric(12,4)",
    "depends": "text[]",
    "tags": "text[]",
    "facets": "jsonb",
    "relations": "jsonb",
    "appstream": "jsonb",
    "version_date": "date",
    "released_at": "timestamptz",
    "dependants": "integer",
    "embedding": f"vector({DIMENSION})",
}
_JSON = ("facets", "relations", "appstream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question that a person would type, with its embedding: little-endian float32."""

    text: str
    embedding: bytes


def load(connection: Connection, directory: Path) -> int:
    """Create the table with its indexes and fill it; the number of rows."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(declared))
        for name, declared in COLUMNS.items()
    )
    count = 0
    with translated(table=TABLE, connection=connection):
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(TABLE), columns))
        statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(TABLE))
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in read_rows(directory):
                copy.write_row([_field(name, row[name]) for name in COLUMNS])
                count += 1
        connection.execute("CREATE INDEX ON packages (section)")
        connection.execute("CREATE INDEX ON packages USING hnsw (embedding vector_cosine_ops)")
        connection.execute("ANALYZE packages")
    return count


def read_rows(directory: Path) -> Iterator[dict[str, Any]]:
    """The rows as the data set has them."""
    with gzip.open(directory / "packages-3000.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_queries(directory: Path) -> list[Query]:
    """The questions."""
    with gzip.open(directory / "queries-100.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [
            Query(text=row["query"], embedding=_floats(row["embedding"]).tobytes())
            for row in map(json.loads, lines)
        ]


def nearest(connection: Connection, query: Query, limit: int) -> list[tuple[int, str, str, float]]:
    """(id, package, summary, cosine similarity) of the nearest packages, exactly, best first."""
    vector = _text(np.frombuffer(query.embedding, dtype="<f4"))
    with translated(table=TABLE, connection=connection), connection.transaction():
        connection.execute("SET LOCAL enable_indexscan = off")
        rows = connection.execute(
            "SELECT id, package, summary, 1 - (embedding <=> %s::vector)"
            " FROM packages ORDER BY embedding <=> %s::vector LIMIT %s",
            (vector, vector, limit),
        ).fetchall()
    return [(int(row[0]), str(row[1]), str(row[2]), float(row[3])) for row in rows]


def _field(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _JSON:
        return json.dumps(value, ensure_ascii=False)
    if name == "embedding":
        return _text(_floats(value))
    return value


def _floats(encoded: str) -> Any:
    return np.frombuffer(base64.b64decode(encoded), dtype="<f2").astype("<f4")


def _text(vector: Any) -> str:
    return "[" + ",".join(repr(float(number)) for number in vector) + "]"
