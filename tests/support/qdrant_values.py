"""Between Qdrant's protobuf messages and the Python values of Qdrant Edge: ids, payloads, vectors.

Follows the server's own conversions (qdrant 1.18.3, `lib/api/src/conversions/json.rs` and
`vectors.rs`): integers stay integers, floats floats, an absent kind is null, NaN and infinities in
a payload are refused, vectors go out in the `dense`/`sparse`/`multi_dense` form.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from tests.support.qdrant_faults import Status

INT64: Final = range(-(2**63), 2**63)
UUID: Final = re.compile(
    r"(urn:uuid:)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|\{[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}"
    r"|[0-9a-fA-F]{32}"
)


def invalid(message: str) -> Status:
    """INVALID_ARGUMENT with this message."""
    return Status(grpc.StatusCode.INVALID_ARGUMENT, message)


def no_inference() -> Status:
    """The status for a document, an image or an object where a vector should be."""
    return Status(
        grpc.StatusCode.INTERNAL, "Service internal error: InferenceService URL not configured"
    )


def id_from_proto(identifier: qdrant.PointId) -> int | uuid.UUID:
    """A point id as Edge takes it."""
    match identifier.WhichOneof("point_id_options"):
        case "num":
            return identifier.num
        case "uuid":
            if not UUID.fullmatch(identifier.uuid):
                raise invalid(f"Unable to parse UUID: {identifier.uuid}")
            return uuid.UUID(identifier.uuid)
    raise invalid("No ID options provided")


def id_to_proto(identifier: int | str | uuid.UUID) -> qdrant.PointId:
    """A point id of Edge as a message; UUIDs hyphenated and in lower case."""
    if isinstance(identifier, int):
        return qdrant.PointId(num=identifier)
    return qdrant.PointId(uuid=str(identifier))


def value_from_proto(value: qdrant.Value) -> Any:
    """One payload value."""
    kind = value.WhichOneof("kind")
    match kind:
        case None | "null_value":
            return None
        case "double_value":
            if not math.isfinite(value.double_value):
                raise invalid("cannot convert to json number")
            return value.double_value
        case "struct_value":
            return payload_from_proto(value.struct_value.fields)
        case "list_value":
            return [value_from_proto(item) for item in value.list_value.values]
    return getattr(value, kind)


def value_to_proto(value: Any, out: qdrant.Value) -> None:
    """Write one payload value into a message; an integer beyond int64 leaves as a double."""
    match value:
        case None:
            out.null_value = qdrant.NullValue.NULL_VALUE
        case bool():
            out.bool_value = value
        case int() if value in INT64:
            out.integer_value = value
        case int() | float():
            out.double_value = float(value)
        case str():
            out.string_value = value
        case list():
            out.list_value.SetInParent()
            for item in value:
                value_to_proto(item, out.list_value.values.add())
        case dict():
            out.struct_value.SetInParent()
            payload_to_proto(value, out.struct_value.fields)
        case _:
            raise TypeError(f"no payload value: {type(value).__name__}")


def payload_from_proto(fields: Mapping[str, qdrant.Value]) -> dict[str, Any]:
    """A payload, or a nested object of one."""
    return {key: value_from_proto(value) for key, value in fields.items()}


def payload_to_proto(payload: Mapping[str, Any] | None, out: Any) -> None:
    """Write a payload into a map field."""
    for key, value in (payload or {}).items():
        value_to_proto(value, out[key])


def vectors_from_proto(vectors: qdrant.Vectors) -> Any:
    """The vectors of a point: a bare vector for the default one, else a dict by name."""
    match vectors.WhichOneof("vectors_options"):
        case "vector":
            vector = vector_from_proto(vectors.vector)
            if isinstance(vector, edge.SparseVector):
                raise invalid("Sparse vector must be named")
            return vector
        case "vectors":
            named = vectors.vectors.vectors
            return {name: vector_from_proto(vector) for name, vector in named.items()}
    raise invalid("No Vector Provided")


def vector_from_proto(vector: qdrant.Vector) -> Any:
    """One vector, in the present form or the one before 1.13."""
    match vector.WhichOneof("vector"):
        case "dense":
            return list(vector.dense.data)
        case "sparse":
            return sparse_from_lists(vector.sparse.indices, vector.sparse.values)
        case "multi_dense":
            return multi_from_lists(row.data for row in vector.multi_dense.vectors)
        case None:
            return _old_vector(vector)
    raise no_inference()


def _old_vector(vector: qdrant.Vector) -> Any:
    data = list(vector.data)
    if vector.HasField("indices"):
        return sparse_from_lists(vector.indices.data, data)
    if vector.HasField("vectors_count"):
        count = vector.vectors_count
        if count == 0 or len(data) % count:
            raise invalid("Validation error in body: [vectors_count: invalid]")
        width = len(data) // count
        return multi_from_lists(data[start : start + width] for start in range(0, len(data), width))
    return data


def sparse_from_lists(indices: Iterable[int], values: Iterable[float]) -> edge.SparseVector:
    """A sparse vector; refused with unequal lengths or repeated indices."""
    places, weights = list(indices), list(values)
    if len(places) != len(weights):
        raise invalid("Validation error in body: [values: must be the same length as indices]")
    if len(set(places)) != len(places):
        raise invalid("Validation error in body: [indices: must be unique]")
    return edge.SparseVector(places, weights)


def multi_from_lists(rows: Iterable[Iterable[float]]) -> list[list[float]]:
    """A multivector; refused when empty or ragged."""
    matrix = [list(row) for row in rows]
    if not matrix or not matrix[0]:
        raise invalid("Validation error in body: [data: empty multi vector]")
    if any(len(row) != len(matrix[0]) for row in matrix):
        raise invalid("Validation error in body: [data: all vectors must have the same dimension]")
    return matrix


def vectors_to_proto(vectors: Any, out: qdrant.VectorsOutput) -> None:
    """Write the vectors of a point, as Edge returned them, into a message."""
    if isinstance(vectors, dict):
        out.vectors.SetInParent()
        for name, vector in vectors.items():
            _vector_to_proto(vector, out.vectors.vectors[name])
    else:
        _vector_to_proto(vectors, out.vector)


def _vector_to_proto(vector: Any, out: qdrant.VectorOutput) -> None:
    if isinstance(vector, edge.SparseVector):
        out.sparse.SetInParent()
        out.sparse.indices.extend(vector.indices)
        out.sparse.values.extend(vector.values)
    elif vector and isinstance(vector[0], list):
        for row in vector:
            out.multi_dense.vectors.add(data=row)
    else:
        out.dense.SetInParent()
        out.dense.data.extend(vector)


def with_payload_from_proto(selector: qdrant.WithPayloadSelector | None, default: bool) -> Any:
    """What of the payload to return."""
    match None if selector is None else selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable  # type: ignore[union-attr]
        case "include":
            return edge.PayloadSelector.Include(list(selector.include.fields))  # type: ignore[union-attr]
        case "exclude":
            return edge.PayloadSelector.Exclude(list(selector.exclude.fields))  # type: ignore[union-attr]
    return default


def with_vectors_from_proto(selector: qdrant.WithVectorsSelector | None) -> bool | list[str]:
    """Which vectors to return."""
    match None if selector is None else selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable  # type: ignore[union-attr]
        case "include":
            return list(selector.include.names)  # type: ignore[union-attr]
    return False
