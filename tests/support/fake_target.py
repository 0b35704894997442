"""A target in memory, for tests of what is written and in which order; and faults at a chosen call.

It keeps what `target.Target` promises of the methods that a stream uses, and no more. It decodes the
bytes of an Upsert with the client's own messages, apart from the code that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qdrant_client import grpc as q

from bridge.errors import BridgeError, Rejected, Unreachable
from bridge.plan import Patch, Point, Sparse, Vector
from bridge.point_ids import PointId


class Crash(Exception):
    """The process dies here."""


@dataclass(slots=True)
class Done:
    """A write that was applied, or failed, when it was sent."""

    error: BridgeError | None = None

    def result(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass(slots=True)
class FakeTarget:
    """`calls` logs (method, ids). `fault` is asked before each write and may raise; `refuse` tells
    which points no request may hold. `groups`: whether it can confirm patches together."""

    points: dict[PointId, Point] = field(default_factory=dict)
    calls: list[tuple[str, tuple[PointId, ...]]] = field(default_factory=list)
    fault: Callable[[str, Sequence[PointId]], None] = lambda method, ids: None
    refuse: Callable[[Point | Patch], bool] = lambda point: False
    groups: bool = True

    def _begin(self, method: str, ids: Iterable[PointId]) -> None:
        listed = tuple(ids)
        self.fault(method, listed)
        self.calls.append((method, listed))

    def put(self, *points: Point) -> None:
        """Have these points, without a call."""
        self.points.update({point.id: point for point in points})

    # --- what the applier calls -----------------------------------------------------------------

    def send(self, request: bytes) -> Done:
        message = q.UpsertPoints.FromString(request)
        assert message.wait, "a write that does not wait is not durable"
        points = [_point(point) for point in message.points]
        assert len({point.id for point in points}) == len(points), "ids of a request are distinct"
        try:
            self._begin("upsert", [point.id for point in points])
        except BridgeError as error:
            return Done(error)
        if any(map(self.refuse, points)):
            return Done(Rejected("refused"))
        only_new = message.update_mode == q.UpdateMode.InsertOnly
        self.put(*(p for p in points if not (only_new and p.id in self.points)))
        return Done()

    def send_fields(self, request: bytes) -> Done:
        batch = q.UpdateBatchPoints.FromString(request)
        assert batch.wait, "a write that does not wait is not durable"
        first, *others = batch.operations
        assert first.upsert.update_mode == q.UpdateMode.InsertOnly
        points = [_point(point) for point in first.upsert.points]
        try:
            self._begin("fields", [point.id for point in points])
        except BridgeError as error:
            return Done(error)
        if any(map(self.refuse, points)):
            return Done(Rejected("refused"))
        self.put(*(point for point in points if point.id not in self.points))
        for operation in others:
            body = operation.set_payload
            assert operation.HasField("set_payload") and not body.key, "nested: contract suite"
            for one in body.points_selector.points.ids:
                identity = one.num if one.HasField("num") else one.uuid
                old = self.points[identity]
                fields = {name: _value(value) for name, value in body.payload.items()}
                merged = {**old.payload, **fields}
                kept = {n: v for n, v in merged.items() if not (n in fields and v is None)}
                self.points[identity] = old._replace(payload=kept)
        return Done()

    def patch(self, collection: str, patches: Sequence[Patch]) -> None:
        self._begin("patch", [patch.id for patch in patches])
        if any(map(self.refuse, patches)):
            raise Rejected("refused")
        for patch in patches:
            old = self.points.get(patch.id)
            if old is None:
                raise Rejected("no point with id")
            vectors = {n: v for n, v in old.vectors.items() if n not in patch.cleared}
            self.points[patch.id] = Point(
                patch.id, {**vectors, **patch.vectors}, dict(patch.payload)
            )

    def patch_group(self, collection: str) -> FakeGroup | None:
        return FakeGroup(self) if self.groups else None

    def delete(self, collection: str, ids: Sequence[PointId]) -> None:
        self._begin("delete", ids)
        for identity in ids:
            self.points.pop(identity, None)

    def clear(self, collection: str) -> None:
        self._begin("clear", ())
        self.points.clear()

    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        return {identity for identity in ids if identity in self.points}

    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]:
        found = [self.points[identity] for identity in ids if identity in self.points]
        return found if with_vectors else [point._replace(vectors={}) for point in found]

    # --- what tests look at ---------------------------------------------------------------------

    def numbers(self, identity: PointId, vector: str = "v") -> list[float] | None:
        """A dense vector's components; None if the point has none of that name."""
        found = self.points[identity].vectors.get(vector)
        assert found is None or isinstance(found, bytes | memoryview)
        return None if found is None else np.frombuffer(found, dtype="<f4").tolist()

    def payload(self, identity: PointId) -> Mapping[str, Any]:
        """A point's payload."""
        return self.points[identity].payload

    def methods(self) -> list[str]:
        """The writes so far, by method."""
        return [method for method, _ids in self.calls]


class FakeGroup:
    """Patches are accepted, and applied when they are confirmed: `fault` may lose them before."""

    def __init__(self, target: FakeTarget) -> None:
        self._target = target
        self._accepted: list[Patch] = []
        self.abandoned = False

    def add(self, patches: Sequence[Patch]) -> None:
        self._target.fault("group", [patch.id for patch in patches])
        self._accepted += patches

    def confirm(self) -> None:
        ids = [patch.id for patch in self._accepted]
        self._target.fault("confirm", ids)
        try:
            self._target.patch("", self._accepted)
        except Rejected:
            raise Unreachable("not all of them were applied") from None

    def abandon(self) -> None:
        self.abandoned = True


def _point(message: Any) -> Point:
    identity = message.id.num if message.id.HasField("num") else message.id.uuid
    return Point(
        identity,
        _vectors(message.vectors),
        {name: _value(value) for name, value in message.payload.items()},
    )


def _vectors(message: Any) -> dict[str, Vector]:
    kind = message.WhichOneof("vectors_options")
    if kind is None:
        return {}
    if kind == "vector":
        return {"": _vector(message.vector)}
    return {name: _vector(vector) for name, vector in message.vectors.vectors.items()}


def _vector(message: Any) -> Vector:
    kind = message.WhichOneof("vector")
    if kind == "sparse":
        return Sparse(
            np.array(message.sparse.indices, dtype="<u4").tobytes(),
            np.array(message.sparse.values, dtype="<f4").tobytes(),
        )
    data = message.dense.data if kind == "dense" else message.data
    return np.array(data, dtype="<f4").tobytes()


def _value(message: Any) -> Any:
    kind = message.WhichOneof("kind")
    if kind == "null_value":
        return None
    if kind == "struct_value":
        return {name: _value(value) for name, value in message.struct_value.fields.items()}
    if kind == "list_value":
        return [_value(value) for value in message.list_value.values]
    return getattr(message, kind)
