"""Catalog and configuration become a mapping, or a refusal that names the setting which mends it."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from bridge.json_paths import json_path
from bridge.mapping import Selected, TableMapping
from bridge.schema import Table
from tests.support.source_tables import columns, index, numeric_modifier, table
from tests.support.table_mappings import docs, mapped, refusal, vector

# --- names ----------------------------------------------------------------------------------------


def test_a_vector_may_be_renamed_or_be_the_unnamed_one() -> None:
    mapping = mapped(docs(w=("vector", 2)), vectors={"v": {"name": ""}, "w": {"name": "other"}})
    assert [(v.column, v.spec.name) for v in mapping.vectors] == [("v", ""), ("w", "other")]


def test_two_vectors_of_one_name_stop() -> None:
    error = refusal(docs(w=("vector", 2)), vectors={"w": {"name": "v"}})
    assert "would both be the vector 'v'" in error.message
    assert "vectors.w.name" in error.hint


@pytest.mark.parametrize(
    "name", ["a/b", "a:b", "a|b", 'a"b', "a\\b", "a?b", "a*b", "<a>", "a\x1fb"]
)
def test_names_that_qdrant_refuses_stop_and_name_the_setting(name: str) -> None:
    source = table(id="int8", name=name)
    error = refusal(source)
    assert "collection" in error.message
    assert "--qdrant.collection" in error.hint
    assert mapped(source, collection="fine").collection.name == "fine"

    source = table(id="int8", extra=columns(**{name: ("vector", 2)}))
    error = refusal(source)
    assert "the vector name" in error.message
    assert error.hint == f"set vectors.{name}.name"
    assert vector(mapped(source, vectors={name: {"name": "fine"}}), "fine").dimension == 2


def test_names_above_200_bytes_stop() -> None:
    assert "200 bytes" in refusal(table(id="int8", name="é" * 101)).message
    assert mapped(table(id="int8", name="é" * 100)).collection.name == "é" * 100


def test_a_vector_setting_for_no_vector_stops() -> None:
    error = refusal(docs(), vectors={"title": {"name": "x"}})
    assert "no vector column of that name" in error.message
    assert error.hint == "its vector columns: v"


# --- payload --------------------------------------------------------------------------------------


def paths(mapping: TableMapping) -> dict[str, str]:
    return {".".join(field.path): field.column for field in mapping.payload}


def test_every_column_but_the_vectors_is_payload_under_its_own_name() -> None:
    assert paths(mapped(docs(w=("halfvec[]", 2), n="int4"))) == {
        "id": "id",
        "title": "title",
        "n": "n",
    }


def test_a_name_with_dots_is_one_field() -> None:
    mapping = mapped(table(id="int8", extra=columns(**{"a.b": "text"})))
    assert mapping.payload[1].path == ("a.b",)


def test_only_the_columns_asked_for() -> None:
    mapping = mapped(docs(w=("vector", 2), n="int4"), columns=["n", "w"])
    assert paths(mapping) == {"n": "n"}
    assert [v.column for v in mapping.vectors] == ["w"]
    assert mapping.key_columns == ("id",)


def test_vectors_none_keeps_the_payload_only_and_is_told() -> None:
    mapping = mapped(docs(), vectors="none")
    assert mapping.collection.vectors == ()
    assert paths(mapping) == {"id": "id", "title": "title"}
    assert any("no vectors" in warning for warning in mapping.warnings)


def test_a_table_without_any_vector_is_told_as_well() -> None:
    assert any("no vectors" in warning for warning in mapped(table(id="int8")).warnings)
    assert not any("no vectors" in warning for warning in mapped(docs()).warnings)


def test_generated_columns_are_left_out() -> None:
    (generated, embedded) = columns(g="int8", e=("vector", 2))
    extra = [
        dataclasses.replace(generated, generated="stored"),
        dataclasses.replace(embedded, generated="stored"),
    ]
    source = docs(extra=extra)
    mapping = mapped(source)
    assert "g" not in paths(mapping)
    assert [v.column for v in mapping.vectors] == ["v"]
    for name in ("g", "e"):
        error = refusal(source, columns=["id", name])
        assert "generated column" in error.message


def test_renamed_fields_nest_at_dots_and_the_rest_goes() -> None:
    mapping = mapped(
        docs(meta="jsonb", n="int4"), payload={"page_content": "title", "metadata.source": "meta"}
    )
    assert [field.path for field in mapping.payload] == [("page_content",), ("metadata", "source")]


def test_a_star_keeps_the_other_columns() -> None:
    mapping = mapped(docs(n="int4"), payload={"page_content": "title", "*": True})
    assert paths(mapping) == {"page_content": "title", "id": "id", "n": "n"}


def test_one_column_may_be_several_fields() -> None:
    mapping = mapped(docs(), payload={"a": "title", "b": "title"})
    assert paths(mapping) == {"a": "title", "b": "title"}
    assert mapping.payload[0].index == mapping.payload[1].index


@pytest.mark.parametrize(
    "payload",
    [
        {"title": "id", "*": True},
        {"title.x": "id", "*": True},
    ],
)
def test_two_values_under_one_field_stop(payload: dict[str, Any]) -> None:
    error = refusal(docs(), payload=payload)
    assert "two values" in error.message
    assert error.hint


def test_a_dotted_column_does_not_collide_with_a_path() -> None:
    source = table(id="int8", extra=columns(**{"a.b": "text", "c": "text"}))
    mapping = mapped(source, payload={"a.b": "c", "*": True})
    assert [field.path for field in mapping.payload] == [("a", "b"), ("id",), ("a.b",)]


def test_a_payload_of_an_unknown_column_stops_with_near_names() -> None:
    error = refusal(docs(), payload={"text": "titel"})
    assert "no column 'titel'" in error.message
    assert "title" in error.hint


def test_a_payload_of_a_vector_or_of_a_column_left_out_stops() -> None:
    assert "is a vector" in refusal(docs(), payload={"x": "v"}).message
    error = refusal(docs(n="int4"), columns=["id", "v"], payload={"x": "n"})
    assert "not among the columns read" in error.message


@pytest.mark.parametrize("setting", ["columns", "key"])
def test_an_unknown_column_stops_with_near_names(setting: str) -> None:
    given: dict[str, Any] = {setting: ["titel"]}
    error = refusal(docs(), **given)
    assert error.message == f"{setting}: table public.docs has no column 'titel'"
    assert "title" in error.hint


def test_an_unknown_column_like_none_lists_what_there_is() -> None:
    assert refusal(docs(), columns=["zzz"]).hint == "it has: id, title, v"


# --- numeric --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modifier", "given", "warned"),
    [
        (-1, {}, True),
        (numeric_modifier(15, 4), {}, False),
        (numeric_modifier(16, 4), {}, True),
        (numeric_modifier(1000, 0), {}, True),
        (-1, {"numeric": "string"}, False),
        (-1, {"numeric": "integer"}, False),
        (-1, {"numeric": {"price": "string"}}, False),
        (-1, {"numeric": {"other": "string"}}, True),
    ],
)
def test_a_numeric_that_a_double_may_not_hold_is_told(
    modifier: int, given: dict[str, Any], warned: bool
) -> None:
    mapping = mapped(docs(price=("numeric", modifier)), **given)
    assert any(warning.startswith("price: numeric") for warning in mapping.warnings) == warned


# --- keys -----------------------------------------------------------------------------------------


def test_the_primary_key_in_the_order_of_its_index() -> None:
    source = table(a="int8", b="text", v=("vector", 2), key=("b", "a"))
    assert mapped(source).key_columns == ("b", "a")


def test_a_key_may_be_named() -> None:
    mapping = mapped(docs(), key=["title"])
    assert mapping.key_columns == ("title",)


@pytest.mark.parametrize("kind", ["table", "view", "materialized view", "foreign table"])
def test_no_key_stops_and_names_the_flag(kind: Any) -> None:
    error = refusal(table(id="int8", v=("vector", 2), key=(), kind=kind))
    assert error.message == f"{kind} public.docs has no primary key"
    assert "--pg.key-column" in error.hint


def test_a_unique_index_without_nulls_is_suggested() -> None:
    unique = index("code", "text_ops", "btree", unique=True)
    source = table(id="int8", code="text", key=(), indexes=[unique])
    assert "code" not in refusal(source).hint  # it may hold NULLs
    not_null = tuple(
        dataclasses.replace(column, not_null=column.name == "code") for column in source.columns
    )
    assert "code has a unique index" in refusal(dataclasses.replace(source, columns=not_null)).hint


def test_a_vector_is_no_key() -> None:
    assert "is a vector" in refusal(docs(), key=["v"]).message


# --- ids ------------------------------------------------------------------------------------------


def test_a_template_names_every_key_column() -> None:
    source = table(a="int8", b="text", v=("vector", 2), key=("a", "b"))
    rule = mapped(source, id={"template": "{b}-{a}"}).id_rule
    assert (rule.template, rule.id_field) == ("{b}-{a}", "__id__")
    assert "'b' is missing" in refusal(source, id={"template": "{a}"}).message
    assert "'v' is no key column" in refusal(source, id={"template": "{a}{b}{v}"}).message


def test_the_id_field_may_not_hide_a_column() -> None:
    source = table(id="int8", extra=columns(__id__="text"))
    error = refusal(source, id={"template": "{id}"})
    assert "'__id__'" in error.message
    assert "id.field" in error.hint
    assert (
        mapped(source, id={"template": "{id}", "field": "pinecone"}).id_rule.id_field == "pinecone"
    )


def test_the_namespace_field_may_not_hide_a_column() -> None:
    source = docs(namespace="text")
    assert "'namespace'" in refusal(source, id={"template": "{id}", "namespace": "a"}).message
    assert mapped(source, id={"template": "{id}"}).id_rule.namespace is None


def test_the_key_may_be_called_as_the_id_field_when_no_field_is_written() -> None:
    assert mapped(table(key=("__id__",), extra=columns(__id__="text"))).id_rule.id_field is None


def test_ids_of_qdrant_migration_are_for_keys_of_one_column() -> None:
    assert mapped(docs(), id={"scheme": "qdrant-migration"}).id_rule.scheme == "qdrant-migration"
    source = table(a="int8", b="text", key=("a", "b"))
    assert "several columns" in refusal(source, id={"scheme": "qdrant-migration"}).message


# --- payload indexes ------------------------------------------------------------------------------


def payload_indexes(source: Table, **given: Any) -> dict[str, str]:
    return dict(mapped(source, **given).collection.payload_indexes)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("int2", "integer"),
        ("int4", "integer"),
        ("int8", "integer"),
        ("float4", "float"),
        ("float8", "float"),
        ("numeric", "float"),
        ("bool", "bool"),
        ("text", "keyword"),
        ("varchar", "keyword"),
        ("bpchar", "keyword"),
        ("mood!", "keyword"),
        ("uuid", "uuid"),
        ("timestamptz", "datetime"),
        ("timestamp", "datetime"),
        ("date", "datetime"),
        ("text[]", "keyword"),
        ("int4[]", "integer"),
        ("time", None),
        ("interval", None),
        ("jsonb", None),
        ("bytea", None),
        ("inet", None),
    ],
)
def test_an_indexed_column_has_the_payload_index_of_its_type(
    kind: str, expected: str | None
) -> None:
    source = table(id="int8", c=kind, indexes=[index("c", "any_ops", "btree")])
    assert payload_indexes(source).get("c") == expected


@pytest.mark.parametrize(
    ("numeric", "expected"), [("float", "float"), ("integer", "integer"), ("string", "keyword")]
)
def test_the_index_of_a_numeric_follows_its_form(numeric: str, expected: str) -> None:
    source = table(id="int8", c="numeric", indexes=[index("c", "numeric_ops", "btree")])
    assert payload_indexes(source, numeric=numeric)["c"] == expected


def test_key_columns_and_indexed_columns_are_indexed_and_no_others() -> None:
    source = table(
        id="int8",
        a="text",
        b="text",
        c="text",
        d="text",
        e="text",
        f="text",
        indexes=[
            index(("a", "b"), ("text_ops", "text_ops"), "btree"),
            index("c", "text_ops", "btree", partial=True),
            index("d", "text_ops", "btree", valid=False),
            index("e", "text_ops", "brin"),
            index("", "text_ops", "btree"),
        ],
    )
    assert payload_indexes(source) == {"id": "integer", "a": "keyword", "b": "keyword"}


def test_gin_indexes_count_and_trigrams_become_text() -> None:
    source = table(
        id="int8",
        tags="text[]",
        prose="text",
        indexes=[index("tags", "array_ops", "gin"), index("prose", "gin_trgm_ops", "gin")],
    )
    assert payload_indexes(source) == {"id": "integer", "tags": "keyword", "prose": "text"}


def test_payload_indexes_none() -> None:
    assert payload_indexes(docs(), payload_indexes="none") == {}


def test_payload_indexes_as_configured() -> None:
    given = {"meta.lang": "keyword"}
    assert payload_indexes(docs(meta="jsonb"), payload_indexes=given) == given


def test_payload_indexes_follow_renamed_fields_and_leave_out_dropped_ones() -> None:
    source = table(id="int8", c="text", indexes=[index("c", "text_ops", "btree")])
    assert payload_indexes(source, payload={"metadata.category": "c"}) == {
        "metadata.category": "keyword"
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("plain",), "plain"),
        (("a", "b"), "a.b"),
        (("a.b",), '"a.b"'),
        (("two words",), '"two words"'),
        (("with-hyphen",), "with-hyphen"),
        (("2nd",), '"2nd"'),
        (("größe",), '"größe"'),
        (("x·y",), '"x·y"'),
        (("a[0]",), '"a[0]"'),
        (("",), '""'),
    ],
)
def test_paths_are_written_as_qdrant_reads_them(path: tuple[str, ...], expected: str) -> None:
    assert json_path(path) == expected


@pytest.mark.parametrize("odd", ['a "quoted" name', "back\\slash"])
def test_a_field_whose_name_no_path_can_spell_is_not_indexed_and_told(odd: str) -> None:
    source = table(
        id="int8", extra=columns(**{odd: "text"}), indexes=[index(odd, "text_ops", "btree")]
    )
    mapping = mapped(source)
    assert dict(mapping.collection.payload_indexes) == {"id": "integer"}
    assert any(odd in warning and "index" in warning for warning in mapping.warnings)


# --- what is read ---------------------------------------------------------------------------------


def test_each_column_and_form_is_read_once() -> None:
    source = docs(host="inet")
    mapping = mapped(source, payload={"a": "title", "b": "title", "host": "host", "id": "id"})
    assert mapping.selection == (
        Selected(column="title", form="binary"),
        Selected(column="host", form="text"),
        Selected(column="id", form="binary"),
        Selected(column="v", form="binary"),
    )
    assert mapping.key[0].index == 2
    assert mapping.vectors[0].index == 3


def test_a_key_outside_the_payload_is_read_all_the_same() -> None:
    mapping = mapped(docs(), columns=["v"])
    assert {item.column for item in mapping.selection} == {"id", "v"}


def test_a_partitioned_tables_rows_say_where_they_lie() -> None:
    mapping = mapped(docs(kind="partitioned table"))
    assert mapping.partition_index is not None
    assert mapping.selection[mapping.partition_index].column == "tableoid"
    assert mapped(docs()).partition_index is None


def test_settings_are_carried() -> None:
    mapping = mapped(docs(), nulls="omit", where={"title": None}, collection="other")
    assert (mapping.omit_nulls, mapping.where) == (True, {"title": None})
    assert mapping.collection.name == "other"


def test_a_mapping_can_be_sent_to_a_worker() -> None:
    mapping = mapped(docs(price="numeric", host="inet"))
    mapping.key_texts([b"\0" * 8] * len(mapping.selection))  # makes what must not travel
    assert pickle.loads(pickle.dumps(mapping)) == mapping


@pytest.mark.parametrize("path", [('a"b',), ("a\\b",), ("fine", 'not"so')])
def test_a_path_that_cannot_be_spelled_raises(path: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="no JSON path"):
        json_path(path)
