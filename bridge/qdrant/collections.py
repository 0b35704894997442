"""Collections: from our spec to Qdrant's messages and back, and the comparison of the two.

Messages of Qdrant's collections.proto. `compare` is strict: dimension, distance, datatype, kind and
names must match, since writing to anything else would damage or lose vectors; HNSW parameters,
quantization and on-disk settings are the operator's to change and are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridge.collection_spec import (
    CollectionSpec,
    Datatype,
    Distance,
    HnswSpec,
    IndexKind,
    QuantizationSpec,
    VectorSpec,
)
from bridge.qdrant.grpc_messages import q
from bridge.qdrant.target import CollectionState, Status

_DISTANCES: Mapping[Distance, q.Distance.ValueType] = {
    "cosine": q.Distance.Cosine,
    "euclid": q.Distance.Euclid,
    "dot": q.Distance.Dot,
    "manhattan": q.Distance.Manhattan,
}
_DATATYPES: Mapping[Datatype, q.Datatype.ValueType] = {
    "float32": q.Datatype.Float32,
    "float16": q.Datatype.Float16,
    "uint8": q.Datatype.Uint8,
}
FIELD_TYPES: Mapping[IndexKind, q.FieldType.ValueType] = {
    "keyword": q.FieldType.FieldTypeKeyword,
    "integer": q.FieldType.FieldTypeInteger,
    "float": q.FieldType.FieldTypeFloat,
    "geo": q.FieldType.FieldTypeGeo,
    "text": q.FieldType.FieldTypeText,
    "bool": q.FieldType.FieldTypeBool,
    "datetime": q.FieldType.FieldTypeDatetime,
    "uuid": q.FieldType.FieldTypeUuid,
    "tenant": q.FieldType.FieldTypeKeyword,
}
_SCHEMA_TYPES: Mapping[int, IndexKind] = {
    q.PayloadSchemaType.Keyword: "keyword",
    q.PayloadSchemaType.Integer: "integer",
    q.PayloadSchemaType.Float: "float",
    q.PayloadSchemaType.Geo: "geo",
    q.PayloadSchemaType.Text: "text",
    q.PayloadSchemaType.Bool: "bool",
    q.PayloadSchemaType.Datetime: "datetime",
    q.PayloadSchemaType.Uuid: "uuid",
}
_STATUS: Mapping[int, Status] = {
    q.CollectionStatus.Green: "green",
    q.CollectionStatus.Yellow: "yellow",
    q.CollectionStatus.Red: "red",
    q.CollectionStatus.Grey: "grey",
}
_DISTANCE_NAMES = {number: name for name, number in _DISTANCES.items()}
_DATATYPE_NAMES = {number: name for name, number in _DATATYPES.items()}


def create_request(spec: CollectionSpec, replication_factor: int) -> q.CreateCollection:
    """The request that creates the collection; its payload indexes are requests of their own."""
    dense = {vector.name: _params(vector) for vector in spec.vectors if vector.shape != "sparse"}
    sparse = {
        vector.name: q.SparseVectorParams(
            index=q.SparseIndexConfig(on_disk=vector.on_disk) if vector.on_disk else None
        )
        for vector in spec.vectors
        if vector.shape == "sparse"
    }
    if list(dense) == [""]:
        vectors = q.VectorsConfig(params=dense[""])
    else:
        vectors = q.VectorsConfig(params_map=q.VectorParamsMap(map=dense))
    return q.CreateCollection(
        collection_name=spec.name,
        vectors_config=vectors,
        sparse_vectors_config=q.SparseVectorConfig(map=sparse) if sparse else None,
        replication_factor=replication_factor if replication_factor > 1 else None,
    )


def _params(vector: VectorSpec) -> q.VectorParams:
    multi = q.MultiVectorConfig(comparator=q.MultiVectorComparator.MaxSim)
    return q.VectorParams(
        size=vector.dimension or 0,
        distance=_DISTANCES[vector.distance],
        datatype=_DATATYPES[vector.datatype] if vector.datatype != "float32" else None,
        on_disk=vector.on_disk,
        hnsw_config=_hnsw(vector.hnsw) if vector.hnsw is not None else None,
        quantization_config=_quantization(vector.quantization),
        multivector_config=multi if vector.shape == "multi" else None,
    )


def _hnsw(hnsw: HnswSpec) -> q.HnswConfigDiff:
    return q.HnswConfigDiff(
        m=hnsw.m,
        ef_construct=hnsw.ef_construct,
        full_scan_threshold=hnsw.full_scan_threshold,
        on_disk=hnsw.on_disk,
    )


def _quantization(spec: QuantizationSpec | None) -> q.QuantizationConfig | None:
    if spec is None:
        return None
    if spec.kind == "scalar":
        scalar = q.ScalarQuantization(
            type=q.QuantizationType.Int8, quantile=spec.quantile, always_ram=spec.always_ram
        )
        return q.QuantizationConfig(scalar=scalar)
    if spec.kind == "binary":
        return q.QuantizationConfig(binary=q.BinaryQuantization(always_ram=spec.always_ram))
    ratio = q.CompressionRatio.Value(spec.compression)
    product = q.ProductQuantization(compression=ratio, always_ram=spec.always_ram)
    return q.QuantizationConfig(product=product)


def read_state(name: str, info: q.CollectionInfo) -> CollectionState:
    """What the server says of a collection."""
    params = info.config.params
    optimizer = info.config.optimizer_config
    problem = info.optimizer_status.error if info.HasField("optimizer_status") else ""
    return CollectionState(
        name=name,
        vectors=_read_vectors(params),
        payload_indexes={
            path: _index_kind(field)
            for path, field in info.payload_schema.items()
            if field.data_type in _SCHEMA_TYPES
        },
        status=_read_status(info),
        indexing_threshold=(
            optimizer.indexing_threshold if optimizer.HasField("indexing_threshold") else None
        ),
        points=info.points_count,
        indexed_vectors=info.indexed_vectors_count,
        replication_factor=params.replication_factor or 1,
        shards=params.shard_number or 1,
        problem=problem,
    )


def index_params(kind: IndexKind) -> q.PayloadIndexParams | None:
    """The parameters of a payload index, where its kind has some."""
    if kind != "tenant":
        return None
    return q.PayloadIndexParams(keyword_index_params=q.KeywordIndexParams(is_tenant=True))


def _index_kind(field: q.PayloadSchemaInfo) -> IndexKind:
    if field.params.keyword_index_params.is_tenant:
        return "tenant"
    return _SCHEMA_TYPES[field.data_type]


def _read_status(info: q.CollectionInfo) -> Status:
    # Deferred points are stored but not shown until they are indexed (1.17, prevent_unoptimized).
    if info.HasField("update_queue") and info.update_queue.deferred_points:
        return "yellow"
    return _STATUS.get(info.status, "red")


def _read_vectors(params: q.CollectionParams) -> tuple[VectorSpec, ...]:
    config = params.vectors_config
    dense = dict(config.params_map.map) if config.HasField("params_map") else {}
    if config.HasField("params"):
        dense = {"": config.params}
    found = [
        VectorSpec(
            name=name,
            shape="multi" if vector.HasField("multivector_config") else "dense",
            distance=_DISTANCE_NAMES[vector.distance],
            dimension=vector.size,
            datatype=_DATATYPE_NAMES.get(vector.datatype, "float32"),
        )
        for name, vector in dense.items()
    ]
    found += [
        VectorSpec(name=name, shape="sparse", distance="dot")
        for name in params.sparse_vectors_config.map
    ]
    return tuple(sorted(found, key=lambda vector: vector.name))


def compare(spec: CollectionSpec, state: CollectionState) -> list[str]:
    """What differs, one line each with both sides; empty if the points can go there.

    A mapping without vectors only keeps payloads, so it fits every collection.
    """
    if not spec.vectors:
        return []
    wanted = {vector.name: vector for vector in spec.vectors}
    found = {vector.name: vector for vector in state.vectors}
    lines = [
        f"vector {name!r}: wanted {_describe(wanted.get(name))}, found {_describe(found.get(name))}"
        for name in sorted(wanted.keys() | found.keys())
        if _essence(wanted.get(name)) != _essence(found.get(name))
    ]
    return lines


def _essence(vector: VectorSpec | None) -> tuple[object, ...] | None:
    if vector is None:
        return None
    if vector.shape == "sparse":
        return ("sparse",)
    return (vector.shape, vector.dimension, vector.distance, vector.datatype)


def _describe(vector: VectorSpec | None) -> str:
    if vector is None:
        return "none"
    if vector.shape == "sparse":
        return "a sparse vector"
    kind = "multivector" if vector.shape == "multi" else "vector"
    return f"a {kind} of {vector.dimension} x {vector.datatype}, {vector.distance}"
