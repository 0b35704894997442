"""Queries of the gRPC interface as queries of Qdrant Edge.

Nearest (dense, sparse, multi, or by id), prefetch with fusion, order-by and plain listing; the
other kinds are refused as UNIMPLEMENTED.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from tests.support.qdrant_faults import Status
from tests.support.qdrant_filters import optional_filter
from tests.support.qdrant_store import Collection
from tests.support.qdrant_values import (
    id_from_proto,
    invalid,
    multi_from_lists,
    no_inference,
    sparse_from_lists,
    with_payload_from_proto,
    with_vectors_from_proto,
)

DEFAULT_LIMIT: Final = 10
RRF_K: Final = 2


def query_request(collection: Collection, request: qdrant.QueryPoints) -> edge.QueryRequest:
    """A query with its prefetches."""
    query, excluded = _query(collection, request)
    return edge.QueryRequest(
        limit=_limit(request),
        offset=request.offset if request.HasField("offset") else None,
        query=query,
        prefetches=[_prefetch(collection, each) for each in request.prefetch] or None,
        with_vector=with_vectors_from_proto(
            request.with_vectors if request.HasField("with_vectors") else None
        ),
        with_payload=with_payload_from_proto(
            request.with_payload if request.HasField("with_payload") else None, default=False
        ),
        filter=_filter(collection, request, excluded),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        params=_params(request),
    )


def search_request(collection: Collection, request: qdrant.SearchPoints) -> edge.QueryRequest:
    """The search of before 1.10, as a query."""
    if request.limit < 1:
        raise invalid("Validation error in body: [limit: value 0 invalid, must be 1 or larger]")
    vector: Any = list(request.vector)
    if request.HasField("sparse_indices"):
        vector = sparse_from_lists(request.sparse_indices.data, vector)
    return edge.QueryRequest(
        limit=request.limit,
        offset=request.offset if request.HasField("offset") else None,
        query=edge.Query.Nearest(vector, request.vector_name or None),
        with_vector=with_vectors_from_proto(
            request.with_vectors if request.HasField("with_vectors") else None
        ),
        with_payload=with_payload_from_proto(
            request.with_payload if request.HasField("with_payload") else None, default=False
        ),
        filter=optional_filter(request, collection),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        params=_params(request),
    )


def order_by(message: qdrant.OrderBy) -> edge.OrderBy:
    """An order by a payload field."""
    start: Any = None
    if message.HasField("start_from"):
        kind = message.start_from.WhichOneof("value")
        start = None if kind is None else getattr(message.start_from, kind)
        if kind == "timestamp":
            start = start.ToJsonString()
    descending = message.direction == qdrant.Direction.Desc
    return edge.OrderBy(
        message.key,
        direction=edge.Direction.Desc if descending else edge.Direction.Asc,
        start_from=start,
    )


def _prefetch(collection: Collection, request: qdrant.PrefetchQuery) -> edge.Prefetch:
    query, excluded = _query(collection, request)
    return edge.Prefetch(
        limit=_limit(request),
        query=query,
        prefetches=[_prefetch(collection, each) for each in request.prefetch] or None,
        params=_params(request),
        filter=_filter(collection, request, excluded),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
    )


def _query(collection: Collection, request: Any) -> tuple[Any, Any]:
    """The scoring part, and the id to leave out because the query is that point's own vector."""
    if not request.HasField("query"):
        return None, None
    query = request.query
    match query.WhichOneof("variant"):
        case "nearest":
            vector, excluded = _vector(collection, query.nearest, request.using)
            return edge.Query.Nearest(vector, request.using or None), excluded
        case "order_by":
            return order_by(query.order_by), None
        case "fusion":
            if query.fusion == qdrant.Fusion.DBSF:
                return edge.Fusion.Dbsf(), None
            return edge.Fusion.Rrf(RRF_K), None
        case "rrf":
            weights = list(query.rrf.weights) or None
            return edge.Fusion.Rrf(query.rrf.k or RRF_K, weights), None
        case "sample":
            return edge.Sample.Random, None
        case kind:
            raise Status(grpc.StatusCode.UNIMPLEMENTED, f"the test server has no query {kind}")


def _vector(collection: Collection, message: qdrant.VectorInput, using: str) -> tuple[Any, Any]:
    match message.WhichOneof("variant"):
        case "dense":
            return list(message.dense.data), None
        case "sparse":
            return sparse_from_lists(message.sparse.indices, message.sparse.values), None
        case "multi_dense":
            return multi_from_lists(row.data for row in message.multi_dense.vectors), None
        case "id":
            identifier = id_from_proto(message.id)
            return _vector_of(collection, identifier, using), identifier
        case _:
            raise no_inference()


def _vector_of(collection: Collection, identifier: Any, using: str) -> Any:
    records = collection.call(lambda shard: shard.retrieve([identifier], False, [using]))
    if not records:
        raise Status(grpc.StatusCode.NOT_FOUND, f"Not found: No point with id {identifier} found")
    vectors = records[0].vector
    if isinstance(vectors, dict):
        if using not in vectors:
            raise Status(
                grpc.StatusCode.NOT_FOUND,
                f'Not found: Vector with name "{using}" for point not found',
            )
        return vectors[using]
    return vectors


def _filter(collection: Collection, request: Any, excluded: Any) -> Any:
    given = optional_filter(request, collection)
    if excluded is None:
        return given
    others = edge.Filter(must_not=[edge.HasIdCondition({excluded})])
    return others if given is None else edge.Filter(must=[given, others])


def _limit(request: Any) -> int:
    if not request.HasField("limit"):
        return DEFAULT_LIMIT
    if request.limit < 1:
        raise invalid("Validation error in body: [limit: value 0 invalid, must be 1 or larger]")
    return int(request.limit)


def _params(request: Any) -> Any:
    if not request.HasField("params"):
        return None
    params = request.params
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef if params.HasField("hnsw_ef") else None,
        exact=params.exact,
        indexed_only=params.indexed_only,
    )
