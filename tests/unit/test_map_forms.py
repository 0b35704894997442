"""The words with which `plan` says what a column becomes."""

from __future__ import annotations

import pytest

from bridge.map_forms import payload_form
from bridge.schema import PgType
from bridge.values import ValuePolicy


def base(name: str) -> PgType:
    return PgType(oid=1, schema="pg_catalog", name=name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("int2", "integer"),
        ("int8", "integer"),
        ("float4", "float"),
        ("numeric", "float"),
        ("bool", "boolean"),
        ("text", "text"),
        ("uuid", "text"),
        ("timestamptz", "RFC 3339 text, UTC"),
        ("timestamp", "ISO 8601 text"),
        ("interval", "ISO 8601 text"),
        ("jsonb", "nested value"),
        ("bytea", "base64 text"),
        ("hstore", "object"),
        ("inet", "Postgres' text"),
        ("point", "Postgres' text"),
        ("some_extensions_type", "Postgres' text"),
    ],
)
def test_a_type_has_one_form(name: str, words: str) -> None:
    assert payload_form(base(name), ValuePolicy()) == words
    array = PgType(oid=2, schema="pg_catalog", name=f"_{name}", kind="array", element=base(name))
    assert payload_form(array, ValuePolicy()) == f"list of {words}"


def test_an_enum_is_text_whatever_it_is_called() -> None:
    enum = PgType(oid=1, schema="public", name="int8", kind="enum")
    assert payload_form(enum, ValuePolicy()) == "text"


def test_settings_change_the_form() -> None:
    assert payload_form(base("numeric"), ValuePolicy(numeric="string")) == "string"
    assert payload_form(base("numeric"), ValuePolicy(numeric="integer")) == "integer"
    assert payload_form(base("point"), ValuePolicy(geo=True)) == "{lon, lat}"
