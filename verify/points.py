"""Reading points back: from a server by raw requests, or from a target that is embedded in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.qdrant.channel import Endpoint
from bridge.qdrant.reader import PendingRead, Reader
from bridge.qdrant.target import Target

T = TypeVar("T")

Page = tuple[list[Point], PointId | None]


class PendingPoints(Protocol):
    """Points on their way."""

    def result(self) -> list[Point]:
        """Those of them that exist; raises what the request failed with."""


class PendingScores(Protocol):
    """Scores on their way."""

    def result(self) -> dict[PointId, float]:
        """By id; raises what the request failed with."""


class Points(Protocol):
    """A collection's points, read only."""

    def get(self, ids: Sequence[PointId], *, with_vectors: bool = True) -> PendingPoints:
        """Begin to read those of the points that exist."""

    def scores(self, vector_name: str, query: bytes, ids: Sequence[PointId]) -> PendingScores:
        """Begin to score points exactly; those without that vector are absent."""

    def ids(self, after: PointId | None, limit: int) -> Page:
        """A page of ids (points without anything else) in their order, and where the next begins."""

    def close(self) -> None:
        """Let go of the connection."""


class ServerPoints:
    """A server's, over a connection of its own."""

    def __init__(self, place: Endpoint, collection: str) -> None:
        self._reader = Reader(place)
        self._collection = collection

    def get(self, ids: Sequence[PointId], *, with_vectors: bool = True) -> PendingRead[list[Point]]:
        return self._reader.get(self._collection, ids, with_vectors=with_vectors)

    def scores(
        self, vector_name: str, query: bytes, ids: Sequence[PointId]
    ) -> PendingRead[dict[PointId, float]]:
        return self._reader.scores(self._collection, vector_name, query, ids)

    def ids(self, after: PointId | None, limit: int) -> Page:
        return self._reader.scroll_ids(self._collection, after=after, limit=limit).result()

    def close(self) -> None:
        self._reader.close()


class TargetPoints:
    """Those of an open target, which stays its opener's to close."""

    def __init__(self, target: Target, collection: str) -> None:
        self._target = target
        self._collection = collection

    def get(self, ids: Sequence[PointId], *, with_vectors: bool = True) -> _Here[list[Point]]:
        return _Here(self._target.retrieve(self._collection, ids, with_vectors=with_vectors))

    def scores(
        self, vector_name: str, query: bytes, ids: Sequence[PointId]
    ) -> _Here[dict[PointId, float]]:
        return _Here(self._target.scores(self._collection, vector_name, query, ids))

    def ids(self, after: PointId | None, limit: int) -> Page:
        return self._target.scroll(self._collection, after=after, limit=limit, with_payload=False)

    def close(self) -> None:
        """Nothing to do."""


class _Here(Generic[T]):
    """An answer that is here already."""

    __slots__ = ("_answer",)

    def __init__(self, answer: T) -> None:
        self._answer = answer

    def result(self) -> T:
        return self._answer
