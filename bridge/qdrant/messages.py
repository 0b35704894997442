"""Points as Qdrant's messages give them back -> our `Point`, and ids both ways.

A server answers with the `dense`, `sparse` and `multi_dense` variants of VectorOutput (points.proto,
1.16 and later). Vectors come back as buffers again, so that comparing them needs no Python floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bridge.plan import Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant.grpc_messages import q
from bridge.values import PayloadValue


def id_message(identity: PointId) -> q.PointId:
    """Our id as a message."""
    if isinstance(identity, int):
        return q.PointId(num=identity)
    return q.PointId(uuid=identity)


def read_id(message: q.PointId) -> PointId:
    """A message's id as ours."""
    return message.num if message.HasField("num") else message.uuid


def read_point(record: q.RetrievedPoint) -> Point:
    """A point that was read back."""
    vectors = read_vectors(record.vectors) if record.HasField("vectors") else {}
    return Point(read_id(record.id), vectors, read_payload(record.payload))


def read_payload(fields: Mapping[str, q.Value]) -> dict[str, PayloadValue]:
    """A payload message as plain values; integers and floats stay apart."""
    return {key: read_value(value) for key, value in fields.items()}


def read_value(value: q.Value) -> PayloadValue:
    """One payload value."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return read_payload(value.struct_value.fields)
    if kind == "list_value":
        return [read_value(item) for item in value.list_value.values]
    if kind is None or kind == "null_value":
        return None
    result: PayloadValue = getattr(value, kind)
    return result


def read_vectors(message: q.VectorsOutput) -> dict[str, Vector]:
    """Named vectors; the unnamed one is `""`."""
    if message.HasField("vector"):
        return {"": read_vector(message.vector)}
    return {name: read_vector(vector) for name, vector in message.vectors.vectors.items()}


def read_vector(message: Any) -> Vector:
    """A vector of a request (Vector) or of an answer (VectorOutput): the same variants."""
    kind = message.WhichOneof("vector")
    if kind == "sparse":
        sparse = message.sparse
        return Sparse(_buffer(sparse.indices, "<u4"), _buffer(sparse.values, "<f4"))
    if kind == "multi_dense":
        rows = [_buffer(row.data, "<f4") for row in message.multi_dense.vectors]
        return Multi(len(rows[0]) // 4 if rows else 0, b"".join(rows))
    if kind == "dense":
        return _buffer(message.dense.data, "<f4")
    return _buffer(message.data, "<f4")  # servers before 1.16


def _buffer(numbers: Sequence[float], dtype: str) -> bytes:
    return np.array(numbers, dtype=dtype).tobytes()


def floats(vector: Vector) -> list[float]:
    """A dense vector as Python floats, for requests that carry a single one."""
    assert not isinstance(vector, Sparse | Multi)  # noqa: S101 - the caller's type says so
    numbers: list[float] = np.frombuffer(vector, dtype="<f4").tolist()
    return numbers


def ids_selector(ids: Iterable[PointId]) -> q.PointsSelector:
    """A selector of exactly these points."""
    return q.PointsSelector(points=q.PointsIdsList(ids=[id_message(identity) for identity in ids]))
