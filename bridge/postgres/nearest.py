"""Exact nearest neighbours from pgvector, and vectors to ask with.

Exact: index scans are off in the transaction, so every row is looked at (pgvector README, "Exact nearest
neighbor search"). Scores are given as Qdrant gives them: cosine similarity is 1 - `<=>`, dot product is
-`<#>`, Euclid and Manhattan are the distances `<->` and `<+>` themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from psycopg import sql

from bridge.mapping import TableMapping, VectorColumn
from bridge.plan import Buffer
from bridge.postgres.chunks import key_texts, relation, type_name
from bridge.postgres.connection import Connection, translated
from bridge.postgres.predicate import where_sql

_OPERATORS = {"cosine": "<=>", "dot": "<#>", "euclid": "<->", "manhattan": "<+>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A row near a query; `score` as Qdrant would give it."""

    key: tuple[str, ...]
    score: float


def askable(vector: VectorColumn) -> bool:
    """Whether both sides can be asked with vectors of this column: plain dense ones."""
    return vector.kind in ("vector", "halfvec") and vector.spec.shape == "dense"


def nearest(
    connection: Connection,
    mapping: TableMapping,
    vector: VectorColumn,
    query: Buffer,
    *,
    limit: int,
) -> list[Neighbour]:
    """The nearest rows, best first, found without an index."""
    table = mapping.table
    pg_type = table.column(vector.column).type
    distance = sql.SQL("{}.{} OPERATOR({}.{}) {}::{}").format(
        relation(table),
        sql.Identifier(vector.column),
        sql.Identifier(pg_type.schema),
        sql.SQL(_OPERATORS[vector.spec.distance]),
        sql.Literal(vector_text(query)),
        type_name(pg_type),
    )
    condition = where_sql(table, dict(mapping.where))
    statement = sql.SQL(
        "SELECT {keys}, {distance} AS distance FROM {table} WHERE {column} IS NOT NULL{where}"
        " ORDER BY {distance} LIMIT {limit}"
    ).format(
        keys=key_texts(mapping.key_columns),
        distance=distance,
        table=relation(table),
        column=sql.Identifier(vector.column),
        where=sql.SQL("") if condition is None else sql.SQL(" AND {}").format(condition),
        limit=sql.Literal(limit),
    )
    with translated(connection=connection, table=table.label), connection.transaction():
        connection.execute("SET LOCAL enable_indexscan = off")
        rows = connection.execute(statement).fetchall()
    width = len(mapping.key_columns)
    return [
        Neighbour(key=tuple(row[:width]), score=_score(vector.spec.distance, row[width]))
        for row in rows
        # A zero vector has no cosine: pgvector says NaN, and sorts it last.
        if row[width] == row[width]
    ]


def _score(distance: str, found: float) -> float:
    if distance == "cosine":
        return 1.0 - found
    return -found if distance == "dot" else found


def vector_text(query: Buffer) -> str:
    """A vector as pgvector reads it, every component exactly."""
    numbers: Sequence[np.float32] = list(np.frombuffer(query, dtype="<f4"))
    return "[" + ",".join(format(float(number), ".9g") for number in numbers) + "]"
