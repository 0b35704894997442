"""Searches on both sides: the exact nearest neighbours from pgvector beside Qdrant's answers.

Queries are rows of the table, chosen by a hash of their keys, or vectors of a file. A row that asks is taken
out of the answers of both sides. Qdrant is asked twice: as a user would ask it (its HNSW index) and with
`exact`; what the second one misses is not the index's fault, but a difference of the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge.errors import UsageError
from bridge.mapping import TableMapping, VectorColumn
from bridge.plan import Buffer, Multi, Sparse
from bridge.point_ids import PointId
from bridge.postgres import checks
from bridge.postgres.connection import Connection
from bridge.postgres.nearest import Neighbour, askable, nearest
from bridge.postgres.predicate import where_sql
from bridge.postgres.verify_reads import EVERYTHING, Part, read_part
from bridge.qdrant.target import Target
from verify.ranking import THRESHOLDS, Measures, measure, missed, summary, tied
from verify.rows import as_points

QUERIES = 100
_SPARE = 5
"""Exact neighbours beyond k, to see where the list was cut between equals."""
MOST_EQUALS = 2_000
"""Where it was, so many are asked for; beyond them an answer's own score tells whether it is one."""
_MARGIN = 1.5

Scores = Mapping[PointId, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A vector to ask with; `id`: of the row that it comes from."""

    name: str
    vector: Buffer
    id: PointId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One query's answers, id -> score in their order, and what they are worth."""

    query: str
    wanted: Scores
    index: Scores
    exact: Scores
    index_measures: Measures
    exact_measures: Measures


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRecall:
    """One vector column's. `key_of` tells the keys of the rows that were found."""

    table: str
    vector: str
    distance: str
    k: int
    answers: tuple[Answer, ...]
    keys: Mapping[PointId, str]

    @property
    def index(self) -> dict[str, float | None]:
        """Over all queries, as a user asks."""
        return summary([one.index_measures for one in self.answers])

    @property
    def exact(self) -> dict[str, float | None]:
        """Over all queries, with `exact`."""
        return summary([one.exact_measures for one in self.answers])

    @property
    def missed(self) -> list[str]:
        """The thresholds that are not reached."""
        return missed(self.index)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "distance": self.distance,
            "k": self.k,
            "queries": len(self.answers),
            "index": self.index,
            "exact": self.exact,
            "thresholds": dict(THRESHOLDS),
            "missed": self.missed,
            "passed": not self.missed,
        }


def measure_recall(
    connection: Connection,
    mapping: TableMapping,
    target: Target,
    *,
    k: int,
    queries: int = QUERIES,
    seed: int = 0,
    file: Path | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> list[VectorRecall]:
    """Each dense vector column's; a table that has none has no recall. `tell`: queries done, of all."""
    found: list[VectorRecall] = []
    for vector in mapping.vectors:
        if not askable(vector):
            continue
        asked = (
            _sampled(connection, mapping, vector, queries, seed)
            if file is None
            else read_queries(file, vector)
        )
        if not asked:
            continue
        keys: dict[PointId, str] = {}
        answers: list[Answer] = []
        for query in asked:
            answers.append(_answer(connection, mapping, vector, target, query, k, keys))
            tell(len(answers), len(asked))
        found.append(
            VectorRecall(
                table=mapping.table.label,
                vector=vector.spec.name or vector.column,
                distance=vector.spec.distance,
                k=k,
                answers=tuple(answers),
                keys=keys,
            )
        )
    return found


def _answer(
    connection: Connection,
    mapping: TableMapping,
    vector: VectorColumn,
    target: Target,
    query: Query,
    k: int,
    keys: dict[PointId, str],
) -> Answer:
    limit = k if query.id is None else k + 1
    found, complete = _nearest(connection, mapping, vector, query.vector, k, limit)
    named = {mapping.id_rule.of(one.key): one for one in found}
    wanted = {identity: one.score for identity, one in named.items() if identity != query.id}
    lists: list[dict[PointId, float]] = []
    for exact in (False, True):
        hits = target.search(
            mapping.collection.name, vector.spec.name, query.vector, limit=limit, exact=exact
        )
        answered = {hit.id: hit.score for hit in hits if hit.id != query.id}
        lists.append(dict(list(answered.items())[:k]))
    first = dict(list(wanted.items())[:k])
    for identity in {*first, *lists[0], *lists[1]} & named.keys():
        keys[identity] = mapping.dead_letter(named[identity].key, "", "").key
    return Answer(
        query=query.name,
        wanted=first,
        index=lists[0],
        exact=lists[1],
        index_measures=measure(wanted, lists[0], k, complete=complete),
        exact_measures=measure(wanted, lists[1], k, complete=complete),
    )


def _nearest(
    connection: Connection,
    mapping: TableMapping,
    vector: VectorColumn,
    query: Buffer,
    k: int,
    limit: int,
) -> tuple[list[Neighbour], bool]:
    """The exact neighbours, with the equals of the last that counts; whether these are all there."""
    found: list[Neighbour] = []
    for most in (limit + _SPARE, limit + MOST_EQUALS):
        found = nearest(connection, mapping, vector, query, limit=most)
        # The row that asks may be among the first k, or not: the one behind it is the later of both.
        if len(found) < most or not any(
            tied(found[-1].score, one.score) for one in found[k - 1 : limit]
        ):
            return found, True
    return found, False


# --- queries -------------------------------------------------------------------------------------


def _sampled(
    connection: Connection, mapping: TableMapping, vector: VectorColumn, queries: int, seed: int
) -> list[Query]:
    """Rows chosen by a hash of their keys; twice the seed, twice the same rows."""
    rows = checks.exact_count(
        connection, mapping.table, where_sql(mapping.table, dict(mapping.where))
    )
    fraction = 1.0 if rows <= 2 * queries else _MARGIN * queries / rows
    found: list[Query] = []
    for query in _row_queries(connection, mapping, vector, Part(fraction=fraction, seed=seed)):
        if len(found) < queries:
            found.append(query)
    return found


def _row_queries(
    connection: Connection, mapping: TableMapping, vector: VectorColumn, part: Part
) -> Iterator[Query]:
    for batch in read_part(connection, mapping, EVERYTHING, part, batch_rows=256):
        points = as_points(mapping, batch.rows)
        for number, point in enumerate(points.points):
            buffer = point.vectors.get(vector.spec.name)
            if buffer is None or isinstance(buffer, Sparse | Multi) or not any(bytes(buffer)):
                continue  # NULL, or all zeros: it is near to nothing
            key = mapping.dead_letter(points.key_of(number), "", "").key
            yield Query(name=f"key {key}", vector=buffer, id=point.id)


def read_queries(file: Path, vector: VectorColumn) -> list[Query]:
    """JSON lines: a vector each, `[0.1, ...]` or `{"vector": [...]}`, of the column's dimension."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {type(error).__name__}", hint=_FILE_HINT) from None
    found: list[Query] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found.append(Query(name=f"line {number}", vector=_vector(file, number, line, vector)))
    return found


_FILE_HINT = 'one JSON array of numbers a line, or {"vector": [...]}'


def _vector(file: Path, number: int, line: str, vector: VectorColumn) -> bytes:
    try:
        value = json.loads(line)
        if isinstance(value, dict):
            value = value.get(vector.column, value.get("vector"))
        numbers: Sequence[float] = value
        buffer = np.array(numbers, dtype="<f4")
    except (ValueError, TypeError):
        raise UsageError(f"{file}, line {number}: no vector", hint=_FILE_HINT) from None
    if buffer.shape != (vector.spec.dimension,) or not np.isfinite(buffer).all():
        raise UsageError(
            f"{file}, line {number}: not {vector.spec.dimension} finite numbers, as the column "
            f"{vector.column} has",
            hint=_FILE_HINT,
        )
    return buffer.tobytes()
