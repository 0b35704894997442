"""A mapping laid onto the columns that a relation announces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bridge.errors import StopError, Unstorable
from bridge.events import UNCHANGED, Relation
from sync.tables import StreamTable, binary_vectors
from tests.support.source_tables import table
from tests.support.stream_rows import COLUMNS, docs_mapping, relation_of, row_of, tuple_of
from tests.support.table_mappings import mapped

MAPPING = docs_mapping()
DOCS = relation_of(MAPPING)


def laid_out(relation: Relation = DOCS, **settings: Any) -> StreamTable:
    return StreamTable(docs_mapping(**settings), relation, ["binary"] * len(relation.columns))


def reordered(*columns: str) -> Relation:
    at = [COLUMNS.index(name) for name in columns]
    return replace(
        DOCS,
        columns=columns,
        type_oids=tuple(DOCS.type_oids[i] for i in at),
        type_modifiers=tuple(DOCS.type_modifiers[i] for i in at),
        key=tuple(DOCS.key[i] for i in at),
    )


def test_fields_lie_where_the_relation_has_its_columns() -> None:
    order = ("w", "v", "lang", "id", "title", "price")
    docs = laid_out(reordered(*order))
    values = row_of({"id": 5, "title": "x", "v": [1, 2, 3], "w": [1, 2]}).values
    row = tuple(values[COLUMNS.index(name)] for name in order)
    assert docs.id_of(row) == 5
    assert docs.vector_fields == {0, 1}
    assert docs.payload_fields == {2, 3, 4, 5}
    assert [item.column for item in docs.layout.selection] == list(order)


def test_a_column_that_only_the_mapping_knows_is_left_out() -> None:
    docs = laid_out(reordered("id", "title", "v", "w"))
    assert {field.column for field in docs.layout.payload} == {"id", "title"}


@pytest.mark.parametrize("missing", ["id", "v"])
def test_a_key_or_vector_column_that_is_missing_stops(missing: str) -> None:
    rest = [name for name in COLUMNS if name != missing]
    with pytest.raises(StopError) as caught:
        laid_out(reordered(*rest))
    assert caught.value.code == "SCHEMA_CHANGED"
    assert missing in caught.value.message


def test_a_where_column_that_is_missing_stops() -> None:
    rest = [name for name in COLUMNS if name != "lang"]
    with pytest.raises(StopError) as caught:
        laid_out(reordered(*rest), where={"lang": "en"})
    assert caught.value.code == "SCHEMA_CHANGED"


def test_a_replica_identity_that_does_not_cover_the_key_stops() -> None:
    nothing = replace(DOCS, replica_identity="n", key=(False,) * len(COLUMNS))
    with pytest.raises(StopError) as caught:
        laid_out(nothing)
    assert caught.value.code == "REPLICA_IDENTITY"
    assert "ALTER TABLE public.docs REPLICA IDENTITY" in caught.value.hint


def test_unchanged_names_the_mapped_fields_that_were_not_sent() -> None:
    docs = laid_out(payload={"title": "title"}, where={"lang": "en"})
    row = row_of({"id": 1}, absent=UNCHANGED).values
    assert {COLUMNS[i] for i in docs.unchanged(row)} == {"title", "lang", "v", "w"}
    assert docs.unchanged(row_of({"id": 1}).values) == frozenset()


def test_a_key_is_there_lacking_or_null() -> None:
    docs = laid_out()
    there, lacking, null = (row_of({"id": value}).values for value in (1, UNCHANGED, None))
    assert (docs.has_key(there), docs.has_key(lacking), docs.has_key(null)) == (True, False, False)
    assert (docs.lacks_key(there), docs.lacks_key(lacking), docs.lacks_key(null)) == (
        False, True, False,
    )  # fmt: skip
    with pytest.raises(Unstorable):
        docs.id_of(null)


def test_keys_of_several_columns_are_named_as_dead_letters_name_them() -> None:
    source = table(key=("b", "a"), a="int8", b="text", v=("vector", 3))
    mapping = mapped(source)
    docs = StreamTable(mapping, relation_of(mapping), ["text"] * 3)
    row = tuple_of([b"7", b"x y", None], "t").values
    assert docs.key_texts(row) == ["x y", "7"]
    assert docs.letter_key(row) == '["x y","7"]'


def test_omitted_fields_are_left_out_of_the_payload() -> None:
    docs = laid_out()
    title = COLUMNS.index("title")
    without = docs.without(frozenset({title}))
    assert title not in without.payload_fields
    assert without.payload_fields == docs.payload_fields - {title}
    assert docs.without(frozenset({title})) is without


def test_rows_tell_in_which_form_values_come() -> None:
    docs = laid_out()
    assert docs.agrees(row_of({"id": 1}))
    text = tuple_of([b"1", None, b"1.5", UNCHANGED, b"[1,2,3]", None], "t")
    assert not docs.agrees(text)
    forms = dict(zip(COLUMNS, docs.in_forms_of(text).forms, strict=True))
    assert forms == {
        "id": "text", "title": "binary", "price": "text", "lang": "binary", "v": "text",
        "w": "binary",
    }  # fmt: skip


def test_vectors_that_came_as_text_become_binary() -> None:
    docs = StreamTable(MAPPING, DOCS, ["text"] * len(COLUMNS))
    row = [b"1", None, None, None, b"[1,2.5,3]", None]
    assert binary_vectors(docs, row) == [
        b"1", None, None, None, row_of({"v": [1, 2.5, 3]}).values[4], None,
    ]  # fmt: skip
