"""Our specs and points <-> Qdrant Edge's own types (qdrant-edge-py 0.9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import qdrant_edge as edge

from bridge.collection_spec import (
    CollectionSpec,
    HnswSpec,
    IndexKind,
    QuantizationSpec,
    VectorSpec,
)
from bridge.plan import Multi, Patch, Point, Sparse, Vector

_DISTANCES = {
    "cosine": edge.Distance.Cosine,
    "euclid": edge.Distance.Euclid,
    "dot": edge.Distance.Dot,
    "manhattan": edge.Distance.Manhattan,
}
_DATATYPES = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
_SCHEMA_TYPES: dict[IndexKind, edge.PayloadSchemaType] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "geo": edge.PayloadSchemaType.Geo,
    "text": edge.PayloadSchemaType.Text,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
    "uuid": edge.PayloadSchemaType.Uuid,
}
# Qdrant's own defaults (config/config.yaml, storage.hnsw_index), since Edge takes no partial config.
_HNSW_M, _HNSW_EF_CONSTRUCT, _HNSW_FULL_SCAN_THRESHOLD = 16, 100, 10_000
# Edge refuses a shard without any vector; records that have none live in one with this.
_NO_VECTORS = "none"


def equal_fields(matching: Mapping[str, str]) -> list[Any]:
    """The conditions that these fields of the payload equal these texts."""
    return [
        edge.FieldCondition(key=key, match=edge.MatchValue(value))
        for key, value in matching.items()
    ]


def parameters(spec: CollectionSpec) -> edge.EdgeConfig:
    """The configuration of a new shard."""
    dense = {v.name: _dense(v) for v in spec.vectors if v.shape != "sparse"}
    sparse = {
        v.name: edge.EdgeSparseVectorParams(on_disk=v.on_disk)
        for v in spec.vectors
        if v.shape == "sparse"
    }
    if not dense and not sparse:
        sparse = {_NO_VECTORS: edge.EdgeSparseVectorParams()}
    return edge.EdgeConfig(vectors=dense or None, sparse_vectors=sparse or None)


def _dense(vector: VectorSpec) -> edge.EdgeVectorParams:
    multi = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    return edge.EdgeVectorParams(
        size=vector.dimension or 0,
        distance=_DISTANCES[vector.distance],
        datatype=_DATATYPES[vector.datatype],
        on_disk=vector.on_disk,
        multivector_config=multi if vector.shape == "multi" else None,
        hnsw_config=_hnsw(vector.hnsw) if vector.hnsw is not None else None,
        quantization_config=_quantization(vector.quantization),
    )


def _hnsw(hnsw: HnswSpec) -> edge.HnswIndexConfig:
    threshold = hnsw.full_scan_threshold
    return edge.HnswIndexConfig(
        m=_HNSW_M if hnsw.m is None else hnsw.m,
        ef_construct=_HNSW_EF_CONSTRUCT if hnsw.ef_construct is None else hnsw.ef_construct,
        full_scan_threshold=_HNSW_FULL_SCAN_THRESHOLD if threshold is None else threshold,
        on_disk=hnsw.on_disk,
    )


def _quantization(spec: QuantizationSpec | None) -> Any:
    if spec is None:
        return None
    if spec.kind == "scalar":
        return edge.ScalarQuantizationConfig(
            edge.ScalarType.Int8, quantile=spec.quantile, always_ram=spec.always_ram
        )
    if spec.kind == "binary":
        return edge.BinaryQuantizationConfig(always_ram=spec.always_ram)
    ratio = getattr(edge.CompressionRatio, spec.compression.upper())
    return edge.ProductQuantizationConfig(ratio, always_ram=spec.always_ram)


def schema_type(kind: IndexKind) -> edge.PayloadSchemaType | edge.KeywordIndexParams:
    """The payload index of that kind."""
    if kind == "tenant":
        return edge.KeywordIndexParams(is_tenant=True)
    return _SCHEMA_TYPES[kind]


def schema_types(schema: Mapping[str, Any]) -> dict[str, IndexKind]:
    """The payload indexes that a shard has."""
    kinds: dict[str, IndexKind] = {}
    for path, info in schema.items():
        for kind, value in _SCHEMA_TYPES.items():
            if info.data_type == value:
                kinds[path] = "tenant" if _is_tenant(info) else kind
    return kinds


def _is_tenant(info: Any) -> bool:
    return bool(getattr(getattr(info, "params", None), "is_tenant", False))


def edge_point(point: Point) -> edge.Point:
    """A point as Edge takes it. Edge knows no buffers: the floats become Python's here."""
    vectors = {name: _edge_vector(vector) for name, vector in point.vectors.items()}
    return edge.Point(point.id, vectors, dict(point.payload))


def overwrite(patch: Patch) -> edge.UpdateOperation:
    """The operation that replaces a point's payload."""
    return edge.UpdateOperation.overwrite_payload([patch.id], dict(patch.payload))


def edge_vectors(patch: Patch) -> edge.PointVectors:
    """The vectors of a point that are set."""
    vectors = {name: _edge_vector(vector) for name, vector in patch.vectors.items()}
    return edge.PointVectors(patch.id, vectors)


def _edge_vector(vector: Vector) -> Any:
    if isinstance(vector, Sparse):
        indices = np.frombuffer(vector.indices, dtype="<u4").tolist()
        return edge.SparseVector(indices, np.frombuffer(vector.values, dtype="<f4").tolist())
    if isinstance(vector, Multi):
        rows = np.frombuffer(vector.data, dtype="<f4").reshape(-1, vector.dimension)
        return rows.tolist()
    return np.frombuffer(vector, dtype="<f4").tolist()


def read_record(record: edge.Record) -> Point:
    """A record that was read back."""
    identity: Any = record.id
    stored: Any = record.vector
    if stored is None:
        stored = {}
    if not isinstance(stored, dict):
        stored = {"": stored}
    return Point(
        identity if isinstance(identity, int) else str(identity),
        {name: _read_vector(vector) for name, vector in stored.items()},
        record.payload or {},
    )


def _read_vector(vector: Any) -> Vector:
    if isinstance(vector, edge.SparseVector):
        return Sparse(
            np.array(vector.indices, dtype="<u4").tobytes(),
            np.array(vector.values, dtype="<f4").tobytes(),
        )
    numbers = np.array(vector, dtype="<f4")
    if numbers.ndim == 2:
        return Multi(numbers.shape[1], numbers.tobytes())
    return numbers.tobytes()
