"""A target that a process has open, in memory: what the socket of an edge directory needs of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from bridge.collection_spec import VectorSpec
from bridge.errors import StopError
from bridge.plan import Point, Vector
from bridge.point_ids import PointId
from bridge.qdrant.edge_answers import Held
from bridge.qdrant.target import STATE_COLLECTION, CollectionState, Hit


@dataclass(slots=True)
class FakeHeld:
    """Collections of points by id. `calls` logs (method, number of ids or points asked for); `before`
    is called before each call, and may block or raise."""

    points: dict[str, dict[PointId, Point]] = field(
        default_factory=lambda: {STATE_COLLECTION: {}, "docs": {}}
    )
    calls: list[tuple[str, int]] = field(default_factory=list)
    before: Callable[[str], None] = lambda method: None
    label: str = "edge:///fake"

    @property
    def held(self) -> Held:
        """Itself: the rest of the protocol is never asked for."""
        return cast(Held, self)

    def put(self, *points: Point, collection: str = "docs") -> None:
        """Have these points, without a call."""
        self.points[collection].update({point.id: point for point in points})

    def _begin(self, method: str, collection: str, number: int = 0) -> dict[PointId, Point]:
        self.before(method)
        self.calls.append((method, number))
        if collection not in self.points:
            raise StopError(f"collection {collection} is gone", code="TARGET_CHANGED", hint="why?")
        return self.points[collection]

    def collections(self) -> list[str]:
        self.before("collections")
        return sorted(self.points)

    def collection(self, name: str) -> CollectionState | None:
        if name not in self.points:
            return None
        vectors = (VectorSpec(name="v", shape="dense", distance="dot", dimension=2),)
        return CollectionState(name=name, vectors=vectors, points=len(self.points[name]))

    def count(self, collection: str) -> int:
        return len(self._begin("count", collection))

    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        return self._begin("existing", collection, len(ids)).keys() & set(ids)

    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]:
        found = self._begin("retrieve", collection, len(ids))
        return [_shown(found[one], True, with_vectors) for one in ids if one in found]

    def scroll(
        self,
        collection: str,
        *,
        after: PointId | None = None,
        limit: int = 1000,
        matching: Mapping[str, str] | None = None,
        with_payload: bool = True,
        with_vectors: bool = False,
    ) -> tuple[list[Point], PointId | None]:
        found = self._begin("scroll", collection, limit)
        first = cast(int, after or 0)
        ids = sorted(one for one in found if isinstance(one, int) and one >= first)
        page = [_shown(found[one], with_payload, with_vectors) for one in ids[:limit]]
        return page, ids[limit] if len(ids) > limit else None

    def search(
        self, collection: str, vector_name: str, query: Vector, *, limit: int = 10, exact: bool
    ) -> list[Hit]:
        found = self._begin("search", collection, limit)
        return [
            Hit(id=point.id, score=0.5, payload={**point.payload, "asked": bytes(cast(bytes, query)).hex()})
            for point in list(found.values())[:limit]
        ]  # fmt: skip

    def scores(
        self, collection: str, vector_name: str, query: Vector, ids: Sequence[PointId]
    ) -> dict[PointId, float]:
        found = self._begin("scores", collection, len(ids))
        return {one: 0.25 for one in ids if one in found}

    def upsert(self, collection: str, points: Sequence[Point], *, mode: str = "upsert") -> None:
        stored = self._begin("upsert", collection, len(points))
        for point in points:
            if mode == "upsert" or point.id not in stored:
                stored[point.id] = point

    def replace(
        self, collection: str, points: Sequence[Point], *, matching: Mapping[str, str]
    ) -> None:
        stored = self._begin("replace", collection, len(points))
        for point in points:
            old: Mapping[str, Any] = stored[point.id].payload if point.id in stored else {}
            if old and all(old.get(name) == text for name, text in matching.items()):
                stored[point.id] = point

    def delete(self, collection: str, ids: Sequence[PointId]) -> None:
        stored = self._begin("delete", collection, len(ids))
        for one in ids:
            stored.pop(one, None)

    def flush_collection(self, name: str) -> None:
        self._begin("flush", name)


def _shown(point: Point, with_payload: bool, with_vectors: bool) -> Point:
    return Point(
        point.id,
        point.vectors if with_vectors else {},
        point.payload if with_payload else {},
    )
