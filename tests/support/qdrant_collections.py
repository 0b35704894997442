"""The Collections and Qdrant services of the test server (`collections_service.proto`).

Defaults are those of the server's `config/config.yaml` at 1.18.3. What only shows in speed (HNSW,
optimizers, quantization, WAL) is kept and reported, not acted upon: Edge searches exactly, and the
status is always green.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from qdrant_client import grpc as qdrant
from qdrant_client.grpc import collections_service_pb2_grpc as collections_grpc
from qdrant_client.grpc import qdrant_pb2_grpc as qdrant_grpc

from tests.support.qdrant_faults import Status
from tests.support.qdrant_store import (
    FORBIDDEN,
    Store,
    check_name,
    check_vector_name,
    dense_params,
    edge_datatype,
)
from tests.support.qdrant_values import invalid, payload_from_proto

VERSION: Final = "1.18.3"
MAX_DIMENSION: Final = 65_536
MAX_FILE_NAME_BYTES: Final = 255


class QdrantService(qdrant_grpc.QdrantServicer):
    """Health and version."""

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return qdrant.HealthCheckReply(title="qdrant - vector search engine", version=VERSION)


class CollectionsService(collections_grpc.CollectionsServicer):
    """Create, change, describe, list and delete collections."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def Create(self, request: Any, context: Any) -> Any:
        _check_new_name(request.collection_name)
        info = qdrant.CollectionInfo(config=_configuration(request))
        self._store.create(request.collection_name, info)
        return qdrant.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        with collection.lock:
            _change(collection.info.config, request)
            collection.save()
        return qdrant.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Any) -> Any:
        return qdrant.CollectionOperationResponse(
            result=self._store.delete(request.collection_name)
        )

    def Get(self, request: Any, context: Any) -> Any:
        collection = self._store.get(request.collection_name)
        return qdrant.GetCollectionInfoResponse(result=collection.described())

    def List(self, request: Any, context: Any) -> Any:
        return qdrant.ListCollectionsResponse(
            collections=[qdrant.CollectionDescription(name=name) for name in self._store.names()]
        )

    def CollectionExists(self, request: Any, context: Any) -> Any:
        check_name(request.collection_name)
        exists = request.collection_name in self._store.names()
        return qdrant.CollectionExistsResponse(result=qdrant.CollectionExists(exists=exists))

    def ListAliases(self, request: Any, context: Any) -> Any:
        return qdrant.ListAliasesResponse()

    def ListCollectionAliases(self, request: Any, context: Any) -> Any:
        self._store.get(request.collection_name)
        return qdrant.ListAliasesResponse()


def _check_new_name(name: str) -> None:
    """As at creation: more characters are forbidden, and the file system has its own limits."""
    check_name(name, FORBIDDEN)
    if name in (".", "..") or len(name.encode()) > MAX_FILE_NAME_BYTES:
        raise Status(
            grpc.StatusCode.INTERNAL,
            f"Service internal error: Can't create directory for collection {name}",
        )


def _configuration(request: Any) -> Any:
    """The full configuration of a new collection: the request over the server's defaults."""
    config = qdrant.CollectionConfig(
        params=qdrant.CollectionParams(
            shard_number=1,
            on_disk_payload=True,
            replication_factor=1,
            write_consistency_factor=1,
            vectors_config=qdrant.VectorsConfig(params_map=qdrant.VectorParamsMap()),
        ),
        hnsw_config=qdrant.HnswConfigDiff(
            m=16,
            ef_construct=100,
            full_scan_threshold=10_000,
            max_indexing_threads=0,
            on_disk=False,
        ),
        optimizer_config=qdrant.OptimizersConfigDiff(
            deleted_threshold=0.2,
            vacuum_min_vector_number=1_000,
            default_segment_number=0,
            indexing_threshold=10_000,
            flush_interval_sec=5,
            max_optimization_threads=qdrant.MaxOptimizationThreads(
                setting=qdrant.MaxOptimizationThreads.Setting.Auto
            ),
        ),
        wal_config=qdrant.WalConfigDiff(
            wal_capacity_mb=32, wal_segments_ahead=0, wal_retain_closed=1
        ),
    )
    params = config.params
    for name in ("shard_number", "replication_factor", "write_consistency_factor"):
        if request.HasField(name):
            if getattr(request, name) < 1:
                raise invalid(
                    f"Validation error in body: [{name}: value 0 invalid, must be 1 or larger]"
                )
            setattr(params, name, getattr(request, name))
    for name in ("on_disk_payload", "sharding_method"):
        if request.HasField(name):
            setattr(params, name, getattr(request, name))
    if request.HasField("vectors_config"):
        params.vectors_config.CopyFrom(request.vectors_config)
    if request.HasField("sparse_vectors_config"):
        params.sparse_vectors_config.CopyFrom(request.sparse_vectors_config)
    _check_vectors(params)
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.wal_config.MergeFrom(request.wal_config)
    _change_optimizers(config.optimizer_config, request.optimizers_config)
    for name in ("quantization_config", "strict_mode_config"):
        if request.HasField(name):
            getattr(config, name).CopyFrom(getattr(request, name))
    _merge_metadata(config, request)
    return config


def _check_vectors(params: Any) -> None:
    dense = dense_params(params.vectors_config)
    for name, vector in dense.items():
        check_vector_name(name, "dense ")
        if not 1 <= vector.size <= MAX_DIMENSION:
            raise invalid(
                "Validation error in body: [vectors_config.config.size:"
                f" value {vector.size} invalid, must be from 1 to {MAX_DIMENSION}]"
            )
        edge_datatype(vector)
        if vector.datatype == qdrant.Datatype.Default:
            vector.ClearField("datatype")
    for name in params.sparse_vectors_config.map:
        check_vector_name(name, "sparse ")
        if not name:
            raise invalid("Wrong input: Sparse vector name cannot be empty")
        if name in dense:
            raise invalid(
                "Wrong input: Dense and sparse vector names must be unique"
                f" - duplicate found with '{name}'"
            )


def _change(config: Any, request: Any) -> None:
    """Lay a request's differences over a configuration."""
    _change_optimizers(config.optimizer_config, request.optimizers_config)
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.params.MergeFrom(
        qdrant.CollectionParams(
            **{descriptor.name: value for descriptor, value in request.params.ListFields()}
        )
    )
    _change_vectors(config.params, request)
    if request.HasField("quantization_config"):
        _change_quantization(config, request.quantization_config)
    if request.HasField("strict_mode_config"):
        config.strict_mode_config.MergeFrom(request.strict_mode_config)
    _merge_metadata(config, request)


def _change_optimizers(config: Any, diff: Any) -> None:
    """Lay the set fields over; the limit on threads is reported under its old number as well."""
    config.MergeFrom(diff)
    threads = config.max_optimization_threads
    config.ClearField("deprecated_max_optimization_threads")
    if threads.WhichOneof("variant") == "value":
        config.deprecated_max_optimization_threads = threads.value


def _merge_metadata(config: Any, request: Any) -> None:
    """Set the given keys; a null removes its key, as in a payload."""
    for key, value in payload_from_proto(request.metadata).items():
        if value is None:
            config.metadata.pop(key, None)
        else:
            config.metadata[key].CopyFrom(request.metadata[key])


def _change_vectors(params: Any, request: Any) -> None:
    if request.HasField("vectors_config"):
        diff = request.vectors_config
        changes = (
            {"": diff.params} if diff.WhichOneof("config") == "params" else diff.params_map.map
        )
        known = dense_params(params.vectors_config)
        for name, change in changes.items():
            if name not in known:
                raise invalid(f"Wrong input: Not existing vector name error: {name}")
            if change.HasField("hnsw_config"):
                known[name].hnsw_config.MergeFrom(change.hnsw_config)
            if change.HasField("quantization_config"):
                _change_quantization(known[name], change.quantization_config)
            if change.HasField("on_disk"):
                known[name].on_disk = change.on_disk
    for name, sparse in request.sparse_vectors_config.map.items():
        if name not in params.sparse_vectors_config.map:
            raise invalid(f"Wrong input: Not existing vector name error: {name}")
        params.sparse_vectors_config.map[name].MergeFrom(sparse)


def _change_quantization(owner: Any, diff: Any) -> None:
    """Replace the quantization of a collection or a vector; `disabled` removes it."""
    kind = diff.WhichOneof("quantization")
    owner.ClearField("quantization_config")
    if kind not in (None, "disabled"):
        getattr(owner.quantization_config, kind).CopyFrom(getattr(diff, kind))
