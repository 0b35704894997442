"""docs/configuration.md against the JSON schema: every setting is there, with its type and default."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from bridge.config import json_schema
from bridge.config_environment import CONFIG_VARIABLE, PREFIX, variable_of
from tests.docs.markdown import bare, read

PAGE = read("docs/configuration.md")
TABLES = (
    "top",
    "postgres",
    "qdrant",
    "tables",
    "vectors",
    "migration",
    "pinecone",
    "kafka",
    "sync",
)
ROWS = {bare(row[0]): row for table in TABLES for row in PAGE.table(table)}
SCHEMA = json_schema()
WORDS = {
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "array": "list",
    "object": "mapping",
}


def _settings() -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(path, schema, required) of every setting; sections, which are only headings, left out."""
    yield from _below(SCHEMA, ())


def _below(
    node: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, schema in node["properties"].items():
        place = (*above, name)
        sections = list(_sections(schema))
        if not sections or place[0] == "tables":
            yield ".".join(place), schema, name in node.get("required", ())
        for step, section in sections:
            yield from _below(section, (*place, *step))


def _sections(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Sections that a setting holds: as it is, or in a mapping of names of the user's."""
    for one in _alternatives(schema):
        if "$ref" in one:
            yield (), SCHEMA["$defs"][one["$ref"].rpartition("/")[2]]
        named = one.get("additionalProperties")
        for other in _alternatives(named) if isinstance(named, dict) else ():
            if "$ref" in other:
                yield ("*",), SCHEMA["$defs"][other["$ref"].rpartition("/")[2]]


def _alternatives(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: Any = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return list(found)


SETTINGS = list(_settings())


def test_every_setting_is_on_the_page_and_no_other() -> None:
    assert set(ROWS) == {path for path, _schema, _required in SETTINGS}


@pytest.mark.parametrize(("path", "schema", "required"), SETTINGS, ids=lambda item: str(item)[:60])
def test_defaults_and_types_are_those_of_the_schema(
    path: str, schema: dict[str, Any], required: bool
) -> None:
    _name, kind, default, meaning = ROWS[path]
    assert kind
    assert meaning
    told = schema.get("default")
    if told is None:
        assert not default.startswith("`") or " and " in default
        assert (default == "required") is required
    else:
        assert yaml.safe_load(bare(default)) == told
    for one in _alternatives(schema):
        assert WORDS.get(one.get("type", ""), "") in kind
        for bound in ("minimum", "maximum"):
            if bound in one:
                assert f"{one[bound]:g}" in kind.replace("100000", "100000 1e+05")
        for word in _words(one):
            assert f"`{word}`" in kind


def _words(schema: Mapping[str, Any]) -> Iterator[str]:
    """The words that a setting takes, also as the values of a mapping."""
    yield from schema.get("enum", ())
    if "const" in schema:
        yield str(schema["const"])
    named = schema.get("additionalProperties")
    if isinstance(named, dict):
        yield from named.get("enum", ())


def test_every_variable_is_one_that_is_read() -> None:
    known = {variable_of(tuple(path.split("."))) for path, _schema, _required in SETTINGS}
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", read("docs/configuration.md").text)) - {PREFIX}
    assert named - {CONFIG_VARIABLE} <= known
    for row in PAGE.table("environment"):
        variable = row[0].split("`")[1]
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE:
            place = row[1].split("`")[1]
            assert variable_of(tuple(place.split("."))) == variable
