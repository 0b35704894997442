"""What a column's values look like in the payload, in words, for `plan` (design.md section 4). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.schema import PgType
from bridge.values import ValuePolicy

_FORMS: Mapping[str, str] = {
    **dict.fromkeys(("int2", "int4", "int8"), "integer"),
    **dict.fromkeys(("float4", "float8"), "float"),
    **dict.fromkeys(("text", "varchar", "bpchar", "citext", "name", "uuid"), "text"),
    **dict.fromkeys(("timestamp", "date", "time", "timetz", "interval"), "ISO 8601 text"),
    **dict.fromkeys(("json", "jsonb"), "nested value"),
    "bool": "boolean",
    "timestamptz": "RFC 3339 text, UTC",
    "bytea": "base64 text",
    "hstore": "object",
}


def payload_form(pg_type: PgType, policy: ValuePolicy) -> str:
    """`integer`, `list of text`, `Postgres' text`: the JSON form of a type's values."""
    if pg_type.element is not None:
        return f"list of {payload_form(pg_type.element, policy)}"
    if pg_type.kind == "enum":
        return "text"
    if policy.geo:
        return "{lon, lat}"
    if pg_type.name == "numeric":
        return policy.numeric
    return _FORMS.get(pg_type.name, "Postgres' text")
