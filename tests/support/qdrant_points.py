"""The Points service of the test server (`points_service.proto`).

Counts are exact always. What 1.18 leaves to defaults is as there: `Get` and `Query` return no
payload unless asked, `Scroll` does, ten points unless a limit is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import qdrant_edge as edge
from qdrant_client import grpc as qdrant
from qdrant_client.grpc import points_service_pb2_grpc as points_grpc

from tests.support import qdrant_schema, qdrant_writes
from tests.support.qdrant_filters import optional_filter
from tests.support.qdrant_queries import order_by, query_request, search_request
from tests.support.qdrant_store import Collection, Store
from tests.support.qdrant_values import (
    id_from_proto,
    id_to_proto,
    invalid,
    payload_to_proto,
    vectors_to_proto,
    with_payload_from_proto,
    with_vectors_from_proto,
)

DEFAULT_LIMIT: Final = 10
FACET_KINDS: Final = {bool: "bool_value", int: "integer_value", str: "string_value"}


class PointsService(points_grpc.PointsServicer):
    """Points of the collections in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def Upsert(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.upsert)

    def Delete(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.delete)

    def UpdateVectors(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.update_vectors)

    def DeleteVectors(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.delete_vectors)

    def SetPayload(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.set_payload)

    def OverwritePayload(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.overwrite_payload)

    def DeletePayload(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.delete_payload)

    def ClearPayload(self, request: Any, context: Any) -> Any:
        return self._write(request, qdrant_writes.clear_payload)

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return self._change(request, qdrant_schema.create_field_index)

    def DeleteFieldIndex(self, request: Any, context: Any) -> Any:
        return self._change(request, qdrant_schema.delete_field_index)

    def CreateVectorName(self, request: Any, context: Any) -> Any:
        return self._change(request, qdrant_schema.create_vector_name)

    def DeleteVectorName(self, request: Any, context: Any) -> Any:
        return self._change(request, qdrant_schema.delete_vector_name)

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        """Strictly in order; the first error ends it, and what went before stays."""
        collection = self._store.get(request.collection_name)
        if not request.operations:
            raise invalid(
                "Validation error in body:"
                " [operations: value [] invalid, must be at least 1 characters]"
            )
        response = qdrant.UpdateBatchResponse()
        with collection.lock:
            for operation in request.operations:
                kind = operation.WhichOneof("operation")
                if kind is None:
                    raise invalid("Operation is missing")
                make, body = qdrant_writes.batched(kind, getattr(operation, kind))
                response.result.append(qdrant_writes.apply(collection, make, body, request.wait))
        return response

    def Get(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        ids: list[Any] = list(dict.fromkeys(id_from_proto(each) for each in request.ids))
        payload = with_payload_from_proto(_field(request, "with_payload"), default=False)
        vectors = with_vectors_from_proto(_field(request, "with_vectors"))
        records = collection.call(lambda shard: shard.retrieve(ids, payload, vectors))
        response = qdrant.GetResponse()
        for record in records:
            _record_to_proto(record, response.result.add())
        return response

    def Scroll(self, request: Any, context: Any) -> Any:
        """In the order of ids, numbers before UUIDs, from `offset` on; or by a payload field."""
        collection = self._store.get(request.collection_name)
        limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
        if limit < 1:
            raise invalid("Validation error in body: [limit: value 0 invalid, must be 1 or larger]")
        ordered = request.HasField("order_by")
        scroll = edge.ScrollRequest(
            offset=id_from_proto(request.offset) if request.HasField("offset") else None,
            limit=limit,
            filter=optional_filter(request, collection),
            with_payload=with_payload_from_proto(_field(request, "with_payload"), default=True),
            with_vector=with_vectors_from_proto(_field(request, "with_vectors")),
            order_by=order_by(request.order_by) if ordered else None,
        )
        records, following = collection.call(lambda shard: shard.scroll(scroll))
        response = qdrant.ScrollResponse()
        for record in records:
            _record_to_proto(record, response.result.add())
        if following is not None and not ordered:
            response.next_page_offset.CopyFrom(id_to_proto(following))
        return response

    def Count(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        count = edge.CountRequest(exact=True, filter=optional_filter(request, collection))
        result = collection.call(lambda shard: shard.count(count))
        return qdrant.CountResponse(result=qdrant.CountResult(count=result))

    def Facet(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        facet = edge.FacetRequest(
            request.key,
            limit=request.limit if request.HasField("limit") else DEFAULT_LIMIT,
            exact=True,
            filter=optional_filter(request, collection),
        )
        response = qdrant.FacetResponse()
        for hit in collection.call(lambda shard: shard.facet(facet)).hits:
            value = qdrant.FacetValue(**{FACET_KINDS[type(hit.value)]: hit.value})
            response.hits.add(value=value, count=hit.count)
        return response

    def Query(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        response = qdrant.QueryResponse()
        self._query(collection, request, response.result)
        return response

    def QueryBatch(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        response = qdrant.QueryBatchResponse()
        for query in request.query_points:
            self._query(collection, query, response.result.add().result)
        return response

    def Search(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        search = search_request(collection, request)
        response = qdrant.SearchResponse()
        for point in collection.call(lambda shard: shard.query(search)):
            _scored_to_proto(point, response.result.add())
        return response

    def _query(self, collection: Collection, request: Any, out: Any) -> None:
        query = query_request(collection, request)
        for point in collection.call(lambda shard: shard.query(query)):
            _scored_to_proto(point, out.add())

    def _write(self, request: Any, make: qdrant_writes.Make) -> Any:
        collection = self._store.get(request.collection_name)
        result = qdrant_writes.apply(collection, make, request, request.wait)
        return qdrant.PointsOperationResponse(result=result)

    def _change(
        self, request: Any, change: Callable[[Collection, Any], qdrant.UpdateResult]
    ) -> Any:
        collection = self._store.get(request.collection_name)
        return qdrant.PointsOperationResponse(result=change(collection, request))


def _field(request: Any, name: str) -> Any:
    return getattr(request, name) if request.HasField(name) else None


def _record_to_proto(record: Any, out: Any) -> None:
    out.id.CopyFrom(id_to_proto(record.id))
    payload_to_proto(record.payload, out.payload)
    if record.vector is not None:
        vectors_to_proto(record.vector, out.vectors)
    _order_value(record, out)


def _scored_to_proto(point: Any, out: Any) -> None:
    out.id.CopyFrom(id_to_proto(point.id))
    out.score = point.score
    out.version = point.version
    payload_to_proto(point.payload, out.payload)
    if point.vector is not None:
        vectors_to_proto(point.vector, out.vectors)
    _order_value(point, out)


def _order_value(point: Any, out: Any) -> None:
    value = point.order_value
    if value is not None:
        setattr(out.order_value, "int" if isinstance(value, int) else "float", value)
