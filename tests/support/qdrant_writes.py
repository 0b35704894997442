"""The writes of the test server: requests made into operations of Qdrant Edge and applied.

Every write is applied before its answer, whatever `wait` says; but with `wait=false` an error that
the real server meets only while applying (a missing id, say) is swallowed as there, and the status
is Acknowledged. A collection that was told to hold such writes back applies them before the next one
that waits, and loses them if the server is killed first, as a power cut would. Checks made before the
write-ahead log (ids, payloads, dimensions of an upsert) answer either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from tests.support.qdrant_faults import Status
from tests.support.qdrant_filters import filter_from_proto, optional_filter
from tests.support.qdrant_store import PLACEHOLDER, Collection
from tests.support.qdrant_values import (
    id_from_proto,
    invalid,
    payload_from_proto,
    vectors_from_proto,
)

Operation = edge.UpdateOperation
Make = Callable[[Collection, Any], edge.UpdateOperation]

UPDATE_MODES: Final = {
    qdrant.UpdateMode.Upsert: edge.UpdateMode.Upsert,
    qdrant.UpdateMode.InsertOnly: edge.UpdateMode.InsertOnly,
    qdrant.UpdateMode.UpdateOnly: edge.UpdateMode.UpdateOnly,
}
# What the real server meets while applying, too late for a caller that does not wait.
LATE: Final = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


def apply(collection: Collection, make: Make, body: Any, wait: bool) -> qdrant.UpdateResult:
    """Check and apply one write."""
    with collection.lock:
        operation = make(collection, body)
        collection.operations += 1
        if collection.holding and not wait:
            collection.held.append(operation)
        else:
            for earlier in collection.held:
                _update(collection, earlier, wait=False)
            collection.held.clear()
            _update(collection, operation, wait)
        state = qdrant.UpdateStatus.Completed if wait else qdrant.UpdateStatus.Acknowledged
        return qdrant.UpdateResult(operation_id=collection.operations, status=state)


def _update(collection: Collection, operation: edge.UpdateOperation, wait: bool) -> None:
    try:
        collection.call(lambda shard: shard.update(operation))
    except Status as status:
        if wait or status.code not in LATE:
            raise


def upsert(collection: Collection, body: Any) -> Operation:
    points = []
    for point in body.points:
        payload = payload_from_proto(point.payload) or None
        if not point.HasField("vectors"):
            raise invalid("Expected some vectors")
        vectors = vectors_from_proto(point.vectors)
        if not point.HasField("id"):
            raise invalid("Empty ID is not allowed")
        points.append(edge.Point(id_from_proto(point.id), vectors, payload))
        _check_dimensions(collection, vectors)
    _require_some(points)
    mode = UPDATE_MODES.get(body.update_mode, edge.UpdateMode.Upsert)
    condition = optional_filter(body, collection, "update_filter")
    return Operation.upsert_points(points, condition, mode)


def _check_dimensions(collection: Collection, vectors: Any) -> None:
    known = collection.dense_params()
    named = vectors if isinstance(vectors, dict) else {"": vectors}
    suffixes = isinstance(vectors, dict)
    for name, vector in named.items():
        if name == PLACEHOLDER:
            raise invalid(f"Wrong input: Not existing vector name error: {name}")
        if isinstance(vector, edge.SparseVector) or name not in known:
            continue
        expected = known[name].size
        for row in vector if vector and isinstance(vector[0], list) else [vector]:
            if len(row) != expected:
                suffix = f" for vector '{name}'" if suffixes else ""
                raise invalid(
                    f"Wrong input: Vector dimension error: expected dim: {expected},"
                    f" got {len(row)}{suffix}"
                )


def _require_some(items: list[Any]) -> None:
    if not items:
        raise invalid("Bad request: Empty update request")


def delete(collection: Collection, body: Any) -> Operation:
    if not body.HasField("points"):
        raise invalid("PointSelector is missing")
    return _selected(
        collection, body.points, Operation.delete_points, Operation.delete_points_by_filter
    )


def update_vectors(collection: Collection, body: Any) -> Operation:
    points = []
    for point in body.points:
        if not point.HasField("id"):
            raise invalid("id is expected")
        if not point.HasField("vectors"):
            raise invalid("vectors is expected")
        vectors = vectors_from_proto(point.vectors)
        points.append(edge.PointVectors(id_from_proto(point.id), vectors))
    _require_some(points)
    return Operation.update_vectors(points, optional_filter(body, collection, "update_filter"))


def delete_vectors(collection: Collection, body: Any) -> Operation:
    if not body.HasField("points_selector"):
        raise invalid("points_selector is expected")
    if not body.HasField("vectors"):
        raise invalid("vectors is expected")
    names = list(body.vectors.names)
    return _selected(
        collection,
        body.points_selector,
        lambda ids: Operation.delete_vectors(ids, names),
        lambda condition: Operation.delete_vectors_by_filter(condition, names),
    )


def set_payload(collection: Collection, body: Any) -> Operation:
    payload = payload_from_proto(body.payload)
    key = body.key if body.HasField("key") else None
    return _on_payload(
        collection,
        body,
        lambda ids: Operation.set_payload(ids, payload, key),
        lambda condition: Operation.set_payload_by_filter(condition, payload, key),
    )


def overwrite_payload(collection: Collection, body: Any) -> Operation:
    # The server ignores `key` here.
    payload = payload_from_proto(body.payload)
    return _on_payload(
        collection,
        body,
        lambda ids: Operation.overwrite_payload(ids, payload),
        lambda condition: Operation.overwrite_payload_by_filter(condition, payload),
    )


def delete_payload(collection: Collection, body: Any) -> Operation:
    keys = list(body.keys)
    return _on_payload(
        collection,
        body,
        lambda ids: Operation.delete_payload(ids, keys),
        lambda condition: Operation.delete_payload_by_filter(condition, keys),
    )


def clear_payload(collection: Collection, body: Any) -> Operation:
    if not body.HasField("points"):
        raise invalid("PointSelector is missing")
    return _selected(
        collection, body.points, Operation.clear_payload, Operation.clear_payload_by_filter
    )


def _on_payload(
    collection: Collection,
    body: Any,
    by_ids: Callable[[list[Any]], Operation],
    by_filter: Callable[[Any], Operation],
) -> Operation:
    if not body.HasField("points_selector"):
        raise invalid("points_selector is expected")
    return _selected(collection, body.points_selector, by_ids, by_filter)


def _selected(
    collection: Collection,
    selector: Any,
    by_ids: Callable[[list[Any]], Operation],
    by_filter: Callable[[Any], Operation],
) -> Operation:
    match selector.WhichOneof("points_selector_one_of"):
        case "points":
            ids: list[Any] = [id_from_proto(each) for each in selector.points.ids]
            _require_some(ids)
            return by_ids(ids)
        case "filter":
            return by_filter(filter_from_proto(selector.filter, collection))
        case _:
            raise invalid("Malformed PointsSelector type")


def batched(kind: str, body: Any) -> tuple[Make, Any]:
    """One operation of UpdateBatch: the function that makes it, and its body."""
    if kind == "delete_deprecated":
        return delete, qdrant.DeletePoints(points=body)
    if kind == "clear_payload_deprecated":
        return clear_payload, qdrant.ClearPayloadPoints(points=body)
    makes: dict[str, Make] = {
        "upsert": upsert,
        "delete_points": delete,
        "set_payload": set_payload,
        "overwrite_payload": overwrite_payload,
        "delete_payload": delete_payload,
        "clear_payload": clear_payload,
        "update_vectors": update_vectors,
        "delete_vectors": delete_vectors,
    }
    return makes[kind], body
