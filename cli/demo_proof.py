"""The demo's proof: every row as a fresh scan maps it, beside every point as Qdrant has it.

Equal means: the same keys; each payload field of the same type and value, doubles up to the 4 units in
the last place that Qdrant's own JSON parser may be off; each vector of the same direction, since under
cosine Qdrant keeps the unit vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from backfill.preflight import inspect
from bridge.config_tables import TableSettings
from bridge.events import Read
from bridge.mapping import TableMapping
from bridge.plan import Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.postgres import chunks, scan
from bridge.postgres.connection import Connection
from bridge.qdrant.target import Target

_ULPS = 4
_UNIT_TOLERANCE = 1e-6
_EVERYTHING = chunks.KeyRange(lower=None, upper=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the comparison found. `differing`: ids that are missing, too many, or not the same."""

    rows: int
    points: int
    columns: int
    differing: tuple[PointId, ...]

    @property
    def equal(self) -> bool:
        """Whether source and target are the same."""
        return not self.differing


def compare(connection: Connection, target: Target, table: str) -> Proof:
    """Compare a table of the demo with its collection, all of both."""
    inspection = inspect(connection, table, TableSettings())
    mapping = inspection.mapping
    wanted = {point.id: point for point in _source_points(connection, mapping)}
    found = {point.id: point for point in _target_points(target, mapping.collection.name)}
    differing = wanted.keys() ^ found.keys()
    differing |= {
        identity
        for identity in wanted.keys() & found.keys()
        if not _same_point(wanted[identity], found[identity])
    }
    return Proof(
        rows=len(wanted),
        points=len(found),
        columns=len(mapping.payload) + len(mapping.vectors),
        differing=tuple(sorted(differing, key=str)),
    )


def _source_points(connection: Connection, mapping: TableMapping) -> Iterator[Point]:
    statement = scan.copy_statement(
        mapping.table, mapping.selection, mapping.key_columns, _EVERYTHING, dict(mapping.where)
    )
    for batch in scan.read_batches(
        connection,
        statement,
        fields=len(mapping.selection),
        table=mapping.table.label,
        batch_rows=1000,
        batch_bytes=2**30,
    ):
        read = Read(table=mapping.table.label, rows=batch.rows, position="proof")
        yield from mapping.points(read)[0]


def _target_points(target: Target, collection: str) -> Iterator[Point]:
    following: PointId | None = None
    while True:
        points, following = target.scroll(collection, after=following, with_vectors=True)
        yield from points
        if following is None:
            return


def _same_point(wanted: Point, found: Point) -> bool:
    return (
        _same(dict(wanted.payload), dict(found.payload))
        and wanted.vectors.keys() == found.vectors.keys()
        and all(
            _same_direction(wanted.vectors[name], found.vectors[name]) for name in wanted.vectors
        )
    )


def _same(wanted: object, found: object) -> bool:
    if type(wanted) is not type(found):
        return False
    if isinstance(wanted, float) and isinstance(found, float):
        return abs(wanted - found) <= _ULPS * math.ulp(wanted)
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_same, wanted, found))
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return wanted.keys() == found.keys() and all(_same(wanted[k], found[k]) for k in wanted)
    return wanted == found


def _same_direction(wanted: Vector, found: Vector) -> bool:
    if isinstance(wanted, Sparse | Multi) or isinstance(found, Sparse | Multi):
        return wanted == found
    left, right = (np.frombuffer(vector, dtype="<f4") for vector in (wanted, found))
    if left.shape != right.shape:
        return False
    norm = float(np.linalg.norm(left.astype(np.float64))) or 1.0
    return bool(np.all(np.abs(left / norm - right) <= _UNIT_TOLERANCE))
