"""Records -> points: where a record of Pinecone becomes what Qdrant stores. Pure.

    id          `point_id` of the id, or of the pair [namespace, id] where several share a collection
    payload     the metadata, numbers by `fields.NumberRule`, and the original id in a field of its own;
                with several namespaces the namespace in another
    vectors     dense and sparse ones as float32 buffers

A record that cannot become a point becomes a dead letter: a user's own key of the name of one of our
fields, a vector that Qdrant would damage, sparse values where the collection has no place for them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bridge.collection_spec import CollectionSpec, VectorSpec
from bridge.errors import Unstorable
from bridge.pinecone.fields import NumberRule
from bridge.pinecone.index import shown
from bridge.pinecone.records import Record, SparseValues
from bridge.plan import DeadLetter, Point, Sparse, Vector
from bridge.point_ids import PointId, composite_text, point_id

_UINT32 = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """Payload fields that are ours: of the id, and of the namespace where there are several."""

    id: str
    namespace: str | None = None

    def taken(self, metadata: Mapping[str, object]) -> str | None:
        """Which of them a record has already, if any."""
        if self.id in metadata:
            return self.id
        if self.namespace is not None and self.namespace in metadata:
            return self.namespace
        return None


@dataclass(frozen=True, kw_only=True)
class PineconeMapping:
    """How records become points of one collection.

    `dense` and `sparse`: the index's name of a vector -> the collection's vector. `several`: keys of
    dead letters name the namespace as well. `label` stands for the source in dead letters.
    """

    label: str
    collection: CollectionSpec
    fields: FieldNames
    dense: Mapping[str, VectorSpec]
    sparse: Mapping[str, VectorSpec]
    several: bool = False
    numbers: NumberRule = field(default_factory=NumberRule)

    def id_of(self, namespace: str, identity: str) -> PointId:
        """The point of a record."""
        if self.fields.namespace is None:
            return point_id(identity)
        return point_id(composite_text((namespace, identity)))

    def key_of(self, namespace: str, identity: str) -> str:
        """How a dead letter names a record."""
        return composite_text((namespace, identity)) if self.several else identity

    def dead_letter(self, namespace: str, identity: str, reason: str) -> DeadLetter:
        """A record set aside."""
        return DeadLetter(
            table=self.label,
            key=self.key_of(namespace, identity),
            reason=reason,
            position=f"namespace {shown(namespace)}",
        )

    def origin_of(self, namespace: str, point: Point) -> str:
        """The id of the record that a point was made of."""
        return str(point.payload[self.fields.id])

    def points(
        self, namespace: str, records: Sequence[Record]
    ) -> tuple[list[Point], list[DeadLetter]]:
        """The points of a batch in its order, and the records that cannot become one."""
        points: list[Point] = []
        letters: list[DeadLetter] = []
        for record in records:
            try:
                points.append(self._point(namespace, record))
            except Unstorable as flaw:
                letters.append(self.dead_letter(namespace, record.id, flaw.message))
        return points, letters

    def _point(self, namespace: str, record: Record) -> Point:
        names = self.fields
        taken = names.taken(record.metadata)
        if taken is not None:
            raise Unstorable(f"the metadata has a key {taken!r} of its own")
        payload = self.numbers.payload(record.metadata)
        payload[names.id] = record.id
        if names.namespace is not None:
            payload[names.namespace] = namespace
        vectors: dict[str, Vector] = {}
        for name, values in record.dense.items():
            spec = self.dense.get(name)
            if spec is None:
                raise Unstorable(
                    "the record has dense values, and the collection no place for them"
                )
            vectors[spec.name] = dense_vector(values, spec)
        for name, sparse in record.sparse.items():
            spec = self.sparse.get(name)
            made = sparse_vector(sparse)
            if made is None:
                continue
            if spec is None:
                raise Unstorable(
                    "the record has sparse values, and the collection no sparse vector for them"
                )
            vectors[spec.name] = made
        return Point(self.id_of(namespace, record.id), vectors, payload)


def dense_vector(values: Sequence[float], spec: VectorSpec) -> bytes:
    """float32, little-endian. Unstorable for another dimension, or for what Qdrant would damage."""
    if len(values) != spec.dimension:
        raise Unstorable(f"the vector has {len(values)} dimensions, not {spec.dimension}")
    try:
        data = struct.pack(f"<{len(values)}f", *values)
    except (OverflowError, struct.error):
        raise Unstorable("the vector has a component that no float32 holds") from None
    row = np.frombuffer(data, dtype="<f4")
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(np.dot(row, row))
    if square - square != 0.0:
        if not np.isfinite(row).all():
            raise Unstorable("the vector has a component that is NaN or infinite")
        if spec.distance == "cosine":
            raise Unstorable(
                "the vector's norm overflows float32, so that Qdrant would store zeros under cosine"
            )
    return data


def sparse_vector(sparse: SparseValues) -> Sparse | None:
    """Indices ascending; None for an empty one. Unstorable if it is no sparse vector of Qdrant's."""
    if len(sparse.indices) != len(sparse.values):
        raise Unstorable("the sparse vector has more indices than values, or fewer")
    if not sparse.indices:
        return None
    pairs = sorted(zip(sparse.indices, sparse.values, strict=True))
    indices = [index for index, _value in pairs]
    if indices[0] < 0 or indices[-1] >= _UINT32:
        raise Unstorable("the sparse vector has an index beyond 32 bits")
    if len(set(indices)) < len(indices):
        raise Unstorable("the sparse vector has an index twice")
    try:
        values = struct.pack(f"<{len(pairs)}f", *(value for _index, value in pairs))
    except (OverflowError, struct.error):
        raise Unstorable("the sparse vector has a value that no float32 holds") from None
    if not np.isfinite(np.frombuffer(values, dtype="<f4")).all():
        raise Unstorable("the vector has a component that is NaN or infinite")
    return Sparse(struct.pack(f"<{len(indices)}I", *indices), values)
