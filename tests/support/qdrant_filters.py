"""Filters of the gRPC interface as filters of Qdrant Edge.

Edge's Python binding (0.9.0) takes `MatchValue(True)` for `MatchValue(1)`, so it matches no boolean
at all; a boolean condition is therefore resolved here, by a look at every payload, into the ids it
holds for. Inside a nested condition it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import qdrant_edge as edge
from google.protobuf.timestamp_pb2 import Timestamp
from qdrant_client import grpc as qdrant

from tests.support.qdrant_store import Collection
from tests.support.qdrant_values import id_from_proto, invalid

PATH_STEP: Final = re.compile(r'"([^"]*)"|([^.\[\]"]+)|\[(\d*)\]')


def filter_from_proto(message: qdrant.Filter, collection: Collection | None) -> edge.Filter:
    """A filter; an empty one matches every point. `collection`: None inside a nested condition."""
    minimum = None
    if message.HasField("min_should"):
        conditions = [
            condition_from_proto(each, collection) for each in message.min_should.conditions
        ]
        minimum = edge.MinShould(conditions, message.min_should.min_count)
    return edge.Filter(
        must=_conditions(message.must, collection) or None,
        should=_conditions(message.should, collection) or None,
        must_not=_conditions(message.must_not, collection) or None,
        min_should=minimum,
    )


def optional_filter(
    message: Any, collection: Collection, field: str = "filter"
) -> edge.Filter | None:
    """The filter in this field of a request, None if the field is not set."""
    if not message.HasField(field):
        return None
    return filter_from_proto(getattr(message, field), collection)


def _conditions(messages: Iterable[Any], collection: Collection | None) -> list[Any]:
    """Conditions; the server passes over those that are not set."""
    return [
        condition_from_proto(each, collection)
        for each in messages
        if each.WhichOneof("condition_one_of") is not None
    ]


def condition_from_proto(condition: qdrant.Condition, collection: Collection | None) -> Any:
    """One condition."""
    match condition.WhichOneof("condition_one_of"):
        case "field" if condition.field.match.WhichOneof("match_value") == "boolean":
            return _boolean_condition(condition.field, collection)
        case "field":
            return _field_condition(condition.field)
        case "is_empty":
            return edge.IsEmptyCondition(condition.is_empty.key)
        case "is_null":
            return edge.IsNullCondition(condition.is_null.key)
        case "has_id":
            return edge.HasIdCondition({id_from_proto(each) for each in condition.has_id.has_id})
        case "has_vector":
            return edge.HasVectorCondition(condition.has_vector.has_vector)
        case "filter":
            return filter_from_proto(condition.filter, collection)
        case "nested":
            return edge.NestedCondition(
                condition.nested.key, filter_from_proto(condition.nested.filter, None)
            )
    raise invalid("Malformed Condition type")


def _boolean_condition(condition: Any, collection: Collection | None) -> edge.HasIdCondition:
    if collection is None:
        raise invalid("the test server matches no boolean inside a nested condition")
    edge.IsNullCondition(condition.key)  # raises for what is no path
    every = edge.ScrollRequest(limit=2**32, with_payload=True)
    records, _ = collection.call(lambda shard: shard.scroll(every))
    steps = PATH_STEP.findall(condition.key)
    wanted = condition.match.boolean
    return edge.HasIdCondition(
        {
            record.id
            for record in records
            if any(value is wanted for value in _values_at(record.payload, steps))
        }
    )


def _values_at(value: Any, steps: list[tuple[str, str, str]]) -> Iterator[Any]:
    """The values at a JSON path; those of a list at its end one by one."""
    if not steps:
        yield from value if isinstance(value, list) else [value]
        return
    (quoted, plain, index), *rest = steps
    key = quoted or plain
    if key:
        if isinstance(value, dict) and key in value:
            yield from _values_at(value[key], rest)
    elif isinstance(value, list):
        for each in value if index == "" else value[int(index) : int(index) + 1]:
            yield from _values_at(each, rest)


def _field_condition(condition: Any) -> edge.FieldCondition:
    arguments: dict[str, Any] = {}
    if condition.HasField("match"):
        arguments["match"] = _match(condition.match)
    if condition.HasField("range"):
        arguments["range"] = edge.RangeFloat(**_set_fields(condition.range))
    if condition.HasField("datetime_range"):
        bounds = {
            name: _rfc3339(value) for name, value in _set_fields(condition.datetime_range).items()
        }
        arguments["range"] = edge.RangeDateTime(**bounds)
    if condition.HasField("values_count"):
        arguments["values_count"] = edge.ValuesCount(**_set_fields(condition.values_count))
    for name in ("is_empty", "is_null"):
        if condition.HasField(name):
            arguments[name] = getattr(condition, name)
    for name in ("geo_bounding_box", "geo_radius", "geo_polygon"):
        if condition.HasField(name):
            raise invalid(f"the test server has no {name}")
    if not arguments:
        raise invalid(
            "Validation error in body: [match: At least one field condition must be specified]"
        )
    return edge.FieldCondition(condition.key, **arguments)


def _match(message: qdrant.Match) -> Any:
    kind = message.WhichOneof("match_value")
    match kind:
        case "keyword" | "integer":
            return edge.MatchValue(getattr(message, kind))
        case "text":
            return edge.MatchText(message.text)
        case "text_any":
            return edge.MatchTextAny(message.text_any)
        case "phrase":
            return edge.MatchPhrase(message.phrase)
        case "keywords":
            return edge.MatchAny(list(message.keywords.strings))
        case "integers":
            return edge.MatchAny(list(message.integers.integers))
        case "except_keywords":
            return edge.MatchExcept(list(message.except_keywords.strings))
        case "except_integers":
            return edge.MatchExcept(list(message.except_integers.integers))
    raise invalid("Malformed Match condition")


def _set_fields(message: Any) -> dict[str, Any]:
    return {descriptor.name: value for descriptor, value in message.ListFields()}


def _rfc3339(moment: Timestamp) -> str:
    return str(moment.ToJsonString())
