"""A Qdrant server over gRPC as a target.

Every write has `wait=true`: the server answers after the write is in its write-ahead log and applied.
The one exception is proven afterwards (`patch_group.py`).
The client of qdrant-client is not used, only its messages and stubs: its upload functions do not
wait, do not order and retry on their own (facts/qdrant.md, Client).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from bridge.collection_spec import CollectionSpec, IndexKind
from bridge.errors import StopError, UsageError
from bridge.plan import Multi, Patch, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant import collections
from bridge.qdrant.channel import (
    Accepted,
    Endpoint,
    Sender,
    SentRequest,
    metadata,
    open_channel,
    require_completed,
    translate,
)
from bridge.qdrant.grpc_messages import q
from bridge.qdrant.messages import (
    floats,
    id_message,
    ids_selector,
    read_id,
    read_payload,
    read_point,
)
from bridge.qdrant.patch_group import ServerPatchGroup, has_one_log
from bridge.qdrant.target import CollectionState, Hit, WriteMode
from bridge.qdrant.wire import encode_upsert
from bridge.qdrant.wire_updates import encode_patches

T = TypeVar("T")

MINIMUM_VERSION = (1, 17, 0)
"""The first version with `update_mode`, by which plans are stored insert-only."""


class ServerTarget:
    """See `target.Target`."""

    def __init__(self, place: Endpoint, *, write_ordering: str = "weak") -> None:
        self._endpoint = place
        self._ordering = write_ordering
        self._channel = open_channel(place)
        self._sender = Sender(place)
        self._metadata = metadata(place)
        self._points = q.PointsStub(self._channel)
        self._collections = q.CollectionsStub(self._channel)
        self._service = q.QdrantStub(self._channel)
        self._one_log: dict[str, bool] = {}

    @property
    def label(self) -> str:
        return self._endpoint.label

    def _call(self, method: Callable[..., T], request: Any) -> T:
        try:
            return method(request, metadata=self._metadata, timeout=self._endpoint.timeout_seconds)
        except grpc.RpcError as error:
            raise translate(error, self._endpoint) from error

    def check(self) -> str:
        # The health check needs no key; listing collections tells whether the key is good.
        version: str = self._call(self._service.HealthCheck, q.HealthCheckRequest()).version
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:3])
        if numbers < MINIMUM_VERSION:
            needed = ".".join(map(str, MINIMUM_VERSION))
            raise UsageError(
                f"Qdrant at {self.label} is version {version}; {needed} or newer is needed",
                hint="conditional writes (update_mode), which keep plans safe, came with it",
            )
        self._call(self._collections.List, q.ListCollectionsRequest())
        return version

    def collection(self, name: str) -> CollectionState | None:
        request = q.GetCollectionInfoRequest(collection_name=name)
        try:
            answer = self._call(self._collections.Get, request)
        except StopError:
            return None
        return collections.read_state(name, answer.result)

    def collections(self) -> list[str]:
        answer = self._call(self._collections.List, q.ListCollectionsRequest())
        return sorted(item.name for item in answer.collections)

    def create_collection(self, spec: CollectionSpec, *, replication_factor: int = 1) -> None:
        request = collections.create_request(spec, replication_factor)
        try:
            self._collections.Create(request, metadata=self._metadata, timeout=60)
        except grpc.RpcError as error:
            # Somebody else's (another shard's) creation came first, or ours did and its answer
            # was lost: whether it is the right collection is for the comparison to say.
            if self.collection(spec.name) is None:
                raise translate(error, self._endpoint) from error
        for path, kind in spec.payload_indexes.items():
            self.create_payload_index(spec.name, path, kind)

    def create_payload_index(self, collection: str, path: str, kind: IndexKind) -> None:
        request = q.CreateFieldIndexCollection(
            collection_name=collection,
            wait=True,
            field_name=path,
            field_type=collections.FIELD_TYPES[kind],
            field_index_params=collections.index_params(kind),
        )
        require_completed(self._call(self._points.CreateFieldIndex, request).result.status)

    def delete_collection(self, name: str) -> None:
        self._call(self._collections.Delete, q.DeleteCollection(collection_name=name))

    def set_indexing_threshold(self, collection: str, kilobytes: int) -> None:
        diff = q.OptimizersConfigDiff(indexing_threshold=kilobytes)
        request = q.UpdateCollection(collection_name=collection, optimizers_config=diff)
        self._call(self._collections.Update, request)

    def optimize(self, collection: str) -> bool:
        state = self.collection(collection)
        return state is None or state.status in ("green", "red")

    def upsert(
        self, collection: str, points: Sequence[Point], *, mode: WriteMode = "upsert"
    ) -> None:
        if not points:  # the server refuses an empty request
            return
        self.send(encode_upsert(collection, points, ordering=self._ordering, mode=mode)).result()

    def replace(
        self, collection: str, points: Sequence[Point], *, matching: Mapping[str, str]
    ) -> None:
        # Strong: of two that compare at once, every replica must see the same one first.
        request = encode_upsert(
            collection, points, ordering="strong", mode="update_only", matching=matching
        )
        self.send(request).result()

    def send(self, request: bytes) -> SentRequest:
        return self._sender.send(request)

    def send_fields(self, request: bytes) -> SentRequest:
        return self._sender.send_batch(request)

    def patch(self, collection: str, patches: Sequence[Patch]) -> None:
        if patches:
            request = encode_patches(collection, patches, ordering=self._ordering)
            self._sender.send_batch(request).result()

    def patch_group(self, collection: str) -> ServerPatchGroup | None:
        if collection not in self._one_log:
            self._one_log[collection] = has_one_log(self.collection(collection))
        if not self._one_log[collection]:
            return None
        return ServerPatchGroup(
            self,
            collection,
            ordering=self._ordering,
            doubted=lambda: self._forget_log(collection),
        )

    def _forget_log(self, collection: str) -> None:
        self._one_log.pop(collection, None)

    def send_unwaited(self, request: bytes) -> Accepted:
        """Begin an UpdateBatch that does not wait (`patch_group.py`)."""
        return self._sender.send_unwaited(request)

    def fence(self, collection: str) -> int:
        """Wait for everything before it in every shard's log; its own number there."""
        nothing = q.Filter(must=[q.Condition(has_id=q.HasIdCondition())])
        request = q.DeletePayloadPoints(
            collection_name=collection,
            wait=True,
            keys=["fence"],
            points_selector=q.PointsSelector(filter=nothing),
        )
        result = self._call(self._points.DeletePayload, request).result
        require_completed(result.status)
        number: int = result.operation_id
        return number

    def count_of(self, collection: str, ids: Sequence[PointId]) -> int:
        """How many of these points there are, exactly."""
        wanted = q.HasIdCondition(has_id=[id_message(identity) for identity in ids])
        request = q.CountPoints(
            collection_name=collection,
            filter=q.Filter(must=[q.Condition(has_id=wanted)]),
            exact=True,
        )
        count: int = self._call(self._points.Count, request).result.count
        return count

    def clear(self, collection: str) -> None:
        # A filter without conditions is fulfilled by every point.
        self._delete(collection, q.PointsSelector(filter=q.Filter()))

    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        request = q.GetPoints(
            collection_name=collection,
            ids=[id_message(identity) for identity in ids],
            with_payload=q.WithPayloadSelector(enable=False),
            with_vectors=q.WithVectorsSelector(enable=False),
        )
        return {read_id(record.id) for record in self._call(self._points.Get, request).result}

    def delete(self, collection: str, ids: Sequence[PointId]) -> None:
        if ids:
            self._delete(collection, ids_selector(ids))

    def _delete(self, collection: str, points: q.PointsSelector) -> None:
        request = q.DeletePoints(
            collection_name=collection,
            wait=True,
            points=points,
            ordering=q.WriteOrdering(type=q.WriteOrderingType.Value(self._ordering.capitalize())),
        )
        require_completed(self._call(self._points.Delete, request).result.status)

    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]:
        request = q.GetPoints(
            collection_name=collection,
            ids=[id_message(identity) for identity in ids],
            with_payload=q.WithPayloadSelector(enable=True),
            with_vectors=q.WithVectorsSelector(enable=with_vectors),
        )
        return [read_point(record) for record in self._call(self._points.Get, request).result]

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
        request = q.ScrollPoints(
            collection_name=collection,
            filter=_filter(matching) if matching else None,
            offset=None if after is None else id_message(after),
            limit=limit,
            with_payload=q.WithPayloadSelector(enable=with_payload),
            with_vectors=q.WithVectorsSelector(enable=with_vectors),
        )
        answer = self._call(self._points.Scroll, request)
        following = (
            read_id(answer.next_page_offset) if answer.HasField("next_page_offset") else None
        )
        return [read_point(record) for record in answer.result], following

    def count(self, collection: str) -> int:
        request = q.CountPoints(collection_name=collection, exact=True)
        count: int = self._call(self._points.Count, request).result.count
        return count

    def search(
        self,
        collection: str,
        vector_name: str,
        query: Vector,
        *,
        limit: int = 10,
        exact: bool = False,
    ) -> list[Hit]:
        if isinstance(query, Sparse | Multi):
            raise TypeError("a search takes a dense vector")
        nearest = q.VectorInput(dense=q.DenseVector(data=floats(query)))
        request = q.QueryPoints(
            collection_name=collection,
            query=q.Query(nearest=nearest),
            using=vector_name or None,
            params=q.SearchParams(exact=exact),
            limit=limit,
            with_payload=q.WithPayloadSelector(enable=True),
        )
        return [
            Hit(id=read_id(hit.id), score=hit.score, payload=read_payload(hit.payload))
            for hit in self._call(self._points.Query, request).result
        ]

    def scores(
        self, collection: str, vector_name: str, query: Vector, ids: Sequence[PointId]
    ) -> dict[PointId, float]:
        if isinstance(query, Sparse | Multi):
            raise TypeError("scores are of a dense vector")
        wanted = q.HasIdCondition(has_id=[id_message(identity) for identity in ids])
        request = q.QueryPoints(
            collection_name=collection,
            query=q.Query(nearest=q.VectorInput(dense=q.DenseVector(data=floats(query)))),
            using=vector_name or None,
            filter=q.Filter(must=[q.Condition(has_id=wanted)]),
            params=q.SearchParams(exact=True, quantization=q.QuantizationSearchParams(ignore=True)),
            limit=max(1, len(ids)),
        )
        answer = self._call(self._points.Query, request).result
        return {read_id(hit.id): hit.score for hit in answer}

    def flush(self) -> None:
        """Nothing to do: `wait=true` has done it for every request."""

    def close(self) -> None:
        self._sender.close()
        self._channel.close()


def _filter(matching: Mapping[str, str]) -> q.Filter:
    conditions = [
        q.Condition(field=q.FieldCondition(key=key, match=q.Match(keyword=value)))
        for key, value in matching.items()
    ]
    return q.Filter(must=conditions)
