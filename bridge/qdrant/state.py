"""Records in the reserved collection `_qdrant_bridge` of any target.

One point a record, without a vector: id = UUIDv5 of pipeline, kind and name; payload =
{pipeline, kind, name, record}. Collection metadata would not do: it is not atomic with other writes
(facts/qdrant.md, Schema). The collection is replicated at least as the data is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from bridge.collection_spec import CollectionSpec
from bridge.errors import StopError
from bridge.plan import Point
from bridge.point_ids import NAMESPACE, composite_text, hashed
from bridge.qdrant.target import STATE_COLLECTION, Target, WriteMode
from bridge.state import Kind, Record

_SPEC = CollectionSpec(
    name=STATE_COLLECTION,
    vectors=(),
    payload_indexes={"pipeline": "keyword", "kind": "keyword"},
)
_PAGE = 500


class QdrantState:
    """`state.StateStore` over a target."""

    def __init__(self, target: Target, pipeline: str) -> None:
        self._target = target
        self._pipeline = pipeline

    @property
    def pipeline(self) -> str:
        return self._pipeline

    def prepare(self, *, replication_factor: int = 1) -> None:
        """Create the collection if it is missing."""
        if self._target.collection(STATE_COLLECTION) is None:
            self._target.create_collection(_SPEC, replication_factor=replication_factor)

    def exists(self) -> bool:
        """Whether the collection is there: `status` must not create it."""
        return self._target.collection(STATE_COLLECTION) is not None

    def get(self, kind: Kind, name: str) -> Record | None:
        points = self._target.retrieve(STATE_COLLECTION, [self._id(kind, name)])
        return _record(points[0]) if points else None

    def put(self, kind: Kind, name: str, record: Record) -> None:
        self._write(kind, name, record, "upsert")

    def put_all(self, kind: Kind, records: Mapping[str, Record]) -> None:
        """Store or replace many, by name; all of them durable on return."""
        points = [self._point(kind, name, record) for name, record in records.items()]
        for start in range(0, len(points), _PAGE):
            self._target.upsert(STATE_COLLECTION, points[start : start + _PAGE])
        self._target.flush()

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        self._write(kind, name, record, "insert_only")
        stored = self.get(kind, name)
        if stored is None:
            raise StopError(
                f"a record that was just stored in {STATE_COLLECTION} is not there",
                code="TARGET_CHANGED",
                hint="is somebody deleting that collection?",
            )
        return stored

    def put_if(
        self, kind: Kind, name: str, record: Record, *, matching: Mapping[str, str]
    ) -> Record | None:
        """Replace the record if these fields of it equal these texts, compared and written in one
        step; the record that is stored afterwards, whichever it is, or None if there is none."""
        point = self._point(kind, name, record)
        fields = {f"record.{key}": text for key, text in matching.items()}
        self._target.replace(STATE_COLLECTION, [point], matching=fields)
        self._target.flush()
        return self.get(kind, name)

    def records(self, kind: Kind) -> Iterator[tuple[str, Record]]:
        following: Any = None
        matching = {"pipeline": self._owner(kind), "kind": kind}
        while True:
            points, following = self._target.scroll(
                STATE_COLLECTION, after=following, limit=_PAGE, matching=matching
            )
            for point in points:
                yield cast(str, point.payload["name"]), _record(point)
            if following is None:
                return

    def remove(self, kind: Kind, names: Iterable[str]) -> None:
        ids = [self._id(kind, name) for name in names]
        for start in range(0, len(ids), _PAGE):
            self._target.delete(STATE_COLLECTION, ids[start : start + _PAGE])

    def _write(self, kind: Kind, name: str, record: Record, mode: WriteMode) -> None:
        self._target.upsert(STATE_COLLECTION, [self._point(kind, name, record)], mode=mode)
        self._target.flush()

    def _point(self, kind: Kind, name: str, record: Record) -> Point:
        payload = {
            "pipeline": self._owner(kind),
            "kind": kind,
            "name": name,
            "record": _plain(record),
        }
        return Point(self._id(kind, name), {}, payload)

    def _owner(self, kind: Kind) -> str:
        # Who owns a collection, and what its indexing was, is asked across pipelines.
        return "" if kind in ("owner", "indexing") else self._pipeline

    def _id(self, kind: Kind, name: str) -> str:
        return hashed(NAMESPACE, composite_text(("state", self._owner(kind), kind, name)))


def _record(point: Point) -> Record:
    return cast(Record, point.payload["record"])


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down: payloads know no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
