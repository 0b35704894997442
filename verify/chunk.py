"""Compares one chunk: rows in batches, each beside the points of its ids; the next is under way meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.retry import Retry
from verify.comparison import Comparer, Scored
from verify.digests import Hashes, hashes
from verify.messages import Chunk, ChunkCompared, SetAside, Suspect
from verify.points import PendingPoints, PendingScores, Points
from verify.projections import Projections
from verify.rows import Batch, Rows

_AHEAD = 2
"""Requests under way while a batch is compared; each holds the rows of one batch."""


class ChunkComparer:
    """Compares chunks of one table. `tell` hears how many rows of a chunk were looked at."""

    def __init__(
        self,
        rows: Rows,
        points: Points,
        comparer: Comparer,
        *,
        with_vectors: bool,
        projections: Projections,
        retry: Retry,
        tell: Callable[[int, int], None],
    ) -> None:
        self._rows = rows
        self._points = points
        self._comparer = comparer
        self._with_vectors = with_vectors and not projections
        self._projections = projections
        self._retry = retry
        self._tell = tell

    def compare(self, chunk: Chunk) -> ChunkCompared:
        """Look at every row of the chunk. If a service fails in the middle, all of it is read again."""
        return self._retry.call(lambda: self._attempt(chunk))

    def _attempt(self, chunk: Chunk) -> ChunkCompared:
        open_chunk = _OpenChunk(self._comparer)
        under_way: deque[tuple[Batch, _Asked]] = deque()
        for batch in self._rows.batches(chunk):
            under_way.append((batch, self._ask(batch)))
            if len(under_way) > _AHEAD:
                self._take(open_chunk, *under_way.popleft(), chunk.number)
        while under_way:
            self._take(open_chunk, *under_way.popleft(), chunk.number)
        return open_chunk.result(chunk.number)

    def _ask(self, batch: Batch) -> _Asked:
        ids = [point.id for point in batch.points] + batch.set_aside_ids
        points = self._points.get(ids, with_vectors=self._with_vectors)
        scores = {
            name: [(query, self._points.scores(name, query, ids)) for query in projections]
            for name, projections in self._projections.items()
        }
        return _Asked(points=points, scores=scores)

    def _take(self, open_chunk: _OpenChunk, batch: Batch, asked: _Asked, number: int) -> None:
        scored = [
            (name, [(query, pending.result()) for query, pending in lists])
            for name, lists in asked.scores.items()
        ]
        open_chunk.take(batch, asked.points.result(), scored)
        self._tell(number, open_chunk.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What was asked of the target about a batch."""

    points: PendingPoints
    scores: dict[str, list[tuple[bytes, PendingScores]]]


class _OpenChunk:
    """What was found of a chunk so far."""

    def __init__(self, comparer: Comparer) -> None:
        self._comparer = comparer
        self.rows = 0
        self._suspects: list[Suspect] = []
        self._set_aside: list[SetAside] = []
        self._ids: list[Hashes] = []

    def take(self, batch: Batch, stored: list[Point], scored: Sequence[Scored]) -> None:
        """A batch, and those of its points that there are; their scores, if they came without vectors."""
        found: dict[PointId, Point] = {point.id: point for point in stored}
        for number in self._comparer.suspects(batch.points, found, scored):
            identity = batch.points[number].id
            self._suspects.append(Suspect(key=batch.key_of(number), id=identity))
        self._set_aside += batch.set_aside
        self._ids.append(hashes(list(found)))
        self.rows += len(batch.points) + len(batch.set_aside)

    def result(self, number: int) -> ChunkCompared:
        """All of it."""
        empty: Hashes = np.empty(0, dtype=np.uint64)
        return ChunkCompared(
            chunk=number,
            rows=self.rows,
            suspects=tuple(self._suspects),
            set_aside=tuple(self._set_aside),
            ids=np.concatenate([empty, *self._ids]),
        )
