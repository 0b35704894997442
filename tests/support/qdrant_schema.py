"""Changes of a collection's schema on the test server: payload indexes and named vectors.

Each change is applied to the shard first and then recorded in the collection's description.
"""

from __future__ import annotations

from typing import Any, Final

import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from tests.support.qdrant_store import (
    Collection,
    check_vector_name,
    edge_datatype,
    edge_distance,
    edge_modifier,
    edge_multivector,
)
from tests.support.qdrant_values import invalid
from tests.support.qdrant_writes import apply

# Field types of the request: the name both sides give it, and the field of its parameters.
INDEX_TYPES: Final = {
    qdrant.FieldType.FieldTypeKeyword: ("Keyword", "keyword_index_params"),
    qdrant.FieldType.FieldTypeInteger: ("Integer", "integer_index_params"),
    qdrant.FieldType.FieldTypeFloat: ("Float", "float_index_params"),
    qdrant.FieldType.FieldTypeGeo: ("Geo", "geo_index_params"),
    qdrant.FieldType.FieldTypeText: ("Text", "text_index_params"),
    qdrant.FieldType.FieldTypeBool: ("Bool", "bool_index_params"),
    qdrant.FieldType.FieldTypeDatetime: ("Datetime", "datetime_index_params"),
    qdrant.FieldType.FieldTypeUuid: ("Uuid", "uuid_index_params"),
}


def create_field_index(collection: Collection, request: Any) -> qdrant.UpdateResult:
    """Build an index on a payload field."""
    _check_field(request.field_name)
    if not request.HasField("field_type") or request.field_type not in INDEX_TYPES:
        raise invalid("cannot convert field_type")
    name, params_field = INDEX_TYPES[request.field_type]
    given = request.field_index_params.WhichOneof("index_params")
    if given not in (None, params_field):
        raise invalid(f"field_type ({name}) and field_index_params do not match")
    described = qdrant.PayloadSchemaInfo(data_type=getattr(qdrant.PayloadSchemaType, name))
    wanted: Any = getattr(edge.PayloadSchemaType, name)
    if given is not None:
        described.params.CopyFrom(request.field_index_params)
        params = getattr(request.field_index_params, given)
        if name == "Integer" and not (params.lookup or params.range):
            raise invalid(
                "Validation error in body: [field_index_params.index_params.lookup:"
                " the 'lookup' and 'range' capabilities can't be both disabled]"
            )
        wanted = _index_params(name, params)
    operation = edge.UpdateOperation.create_field_index(request.field_name, wanted)
    with collection.lock:
        result = apply(collection, lambda *_: operation, request, request.wait)
        collection.info.payload_schema[request.field_name].CopyFrom(described)
        collection.save()
    return result


def delete_field_index(collection: Collection, request: Any) -> qdrant.UpdateResult:
    """Drop the index of a payload field; nothing to do if there is none."""
    _check_field(request.field_name)
    operation = edge.UpdateOperation.delete_field_index(request.field_name)
    with collection.lock:
        result = apply(collection, lambda *_: operation, request, request.wait)
        collection.info.payload_schema.pop(request.field_name, None)
        collection.save()
    return result


def create_vector_name(collection: Collection, request: Any) -> qdrant.UpdateResult:
    """Add a named vector; one that is there already must be the same."""
    check_vector_name(request.vector_name)
    kind = request.WhichOneof("vector_config")
    if kind is None:
        raise invalid("vector_config is required (dense_config or sparse_config)")
    with collection.lock:
        if kind == "sparse_config":
            operation, params = _new_sparse(request.vector_name, request.sparse_config)
            own, other = _sparse_map(collection), _dense_map(collection)
        else:
            operation, params = _new_dense(request.vector_name, request.dense_config)
            own, other = _dense_map(collection), _sparse_map(collection)
        name = request.vector_name
        if name in other or (name in own and not _same_schema(own[name], params)):
            raise invalid(
                f"Wrong input: Vector `{name}` already exists with a different configuration"
            )
        result = apply(collection, lambda *_: operation, request, request.wait)
        if name not in own:
            own[name].CopyFrom(params)
        collection.save()
    return result


def delete_vector_name(collection: Collection, request: Any) -> qdrant.UpdateResult:
    """Drop a named vector from the collection and all its points; nothing to do if there is none."""
    name = request.vector_name
    with collection.lock:
        operation = edge.UpdateOperation.delete_vector_name(name)
        result = apply(collection, lambda *_: operation, request, request.wait)
        for vectors in (_dense_map(collection), _sparse_map(collection)):
            if name in vectors:
                del vectors[name]
        collection.save()
    return result


def _check_field(name: str) -> None:
    if not name:
        raise invalid(
            'Validation error in body: [field_name: value "" invalid,'
            " must be at least 1 characters]"
        )


def _index_params(name: str, message: Any) -> Any:
    """Index parameters as Edge takes them; a text index's tokenizer, stemmer, stopwords apart."""
    simple = {
        descriptor.name: value
        for descriptor, value in message.ListFields()
        if descriptor.name not in ("tokenizer", "stemmer", "stopwords")
    }
    return getattr(edge, f"{name}IndexParams")(**simple)


def _new_sparse(name: str, config: Any) -> tuple[Any, Any]:
    operation = edge.UpdateOperation.create_sparse_vector(
        name, edge_modifier(config), edge_datatype(config)
    )
    params = qdrant.SparseVectorParams()
    if config.HasField("modifier"):
        params.modifier = config.modifier
    if config.HasField("datatype"):
        params.index.datatype = config.datatype
    return operation, params


def _new_dense(name: str, config: Any) -> tuple[Any, Any]:
    operation = edge.UpdateOperation.create_dense_vector(
        name, config.size, edge_distance(config), edge_multivector(config), edge_datatype(config)
    )
    fields = {descriptor.name: value for descriptor, value in config.ListFields()}
    return operation, qdrant.VectorParams(**fields)


def _same_schema(existing: Any, wanted: Any) -> bool:
    """Whether two vectors' parameters agree in all that is not tuning."""
    if isinstance(existing, qdrant.SparseVectorParams):
        return bool(
            existing.modifier == wanted.modifier
            and existing.index.datatype == wanted.index.datatype
        )
    fields = ("size", "distance", "datatype", "multivector_config")
    return all(getattr(existing, field) == getattr(wanted, field) for field in fields)


def _sparse_map(collection: Collection) -> Any:
    return collection.info.config.params.sparse_vectors_config.map


def _dense_map(collection: Collection) -> Any:
    """The map of dense vectors; a sole default vector moves into it."""
    config = collection.info.config.params.vectors_config
    if config.WhichOneof("config") == "params":
        alone = qdrant.VectorParams()
        alone.CopyFrom(config.params)
        config.params_map.map[""].CopyFrom(alone)
    return config.params_map.map
