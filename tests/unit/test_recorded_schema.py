"""What may change of a table that is followed, and what may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bridge.map_table import map_table
from bridge.recorded_schema import (
    RecordedSchema,
    load,
    note_changes,
    noted_changes,
    save,
    unplaced,
)
from bridge.schema import Column, Table
from bridge.state import Record
from tests.support.source_tables import index, pg_type, table
from tests.support.table_mappings import mapped, settings

DOCS = table(id="int8", title="text", code=("varchar", 14), v=("vector", 3))
COPIED = RecordedSchema.of(mapped(DOCS, vectors={"v": {"distance": "dot"}}))


def changed(name: str, **more: Any) -> Table:
    """`docs` with one column changed."""
    return replace(
        DOCS,
        columns=tuple(
            replace(column, **more) if column.name == name else column for column in DOCS.columns
        ),
    )


def without(name: str) -> Table:
    return replace(DOCS, columns=tuple(c for c in DOCS.columns if c.name != name))


class Memory:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Record] = {}

    def put(self, kind: str, name: str, record: Record) -> None:
        self.kept[kind, name] = record

    def records(self, kind: str) -> list[tuple[str, Record]]:
        return [(name, record) for (k, name), record in self.kept.items() if k == kind]


def test_a_record_is_read_back_by_its_oid() -> None:
    store = Memory()
    save(store, COPIED)
    store.put("stream", "stream", {"other": True})
    assert load(store) == {DOCS.oid: COPIED}


def test_a_table_made_again_takes_the_place_of_the_old_one() -> None:
    store = Memory()
    save(store, COPIED)
    save(store, replace(COPIED, oid=77))
    assert list(load(store)) == [77]


def test_changes_are_kept_beside_it() -> None:
    store = Memory()
    save(store, COPIED)
    note_changes(store, COPIED.label, ["b", "a"])
    assert noted_changes(store) == {"public.docs": ["a", "b"]}
    assert list(load(store)) == [DOCS.oid]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (DOCS, None),
        (without("title"), None),
        (changed("title", number=9), None),
        (changed("title", type=pg_type("int4")), None),
        (without("id"), "the key column id was dropped or renamed"),
        (without("v"), "the vector column v was dropped or renamed"),
        (changed("v", number=9), "the vector column v was dropped and made again"),
        (changed("id", number=9), "the key column id was dropped and made again"),
        (changed("v", type=pg_type("vector", 4), declared="vector(4)"), "v is vector(4) now"),
        (changed("v", type=pg_type("halfvec", 3), declared="halfvec(3)"), "v is halfvec(3) now"),
        (changed("id", type=pg_type("int4"), declared="integer"), "id is integer now"),
    ],
)
def test_keys_and_vectors_must_stay(now: Table, told: str | None) -> None:
    found = COPIED.essential_change(now.columns, numbered=True)
    assert found is None if told is None else told in str(found)


def test_a_stream_knows_no_numbers() -> None:
    assert COPIED.essential_change(changed("v", number=0).columns, numbered=False) is None


def test_a_longer_varchar_changes_no_key_and_another_char_does() -> None:
    by_code = RecordedSchema.of(mapped(DOCS, key=["code"]))
    longer = changed("code", type=pg_type("varchar", 24))
    assert by_code.essential_change(longer.columns, numbered=True) is None
    padded = table(id="int8", code=("bpchar", 14), v=("vector", 3))
    copied = RecordedSchema.of(mapped(padded, key=["code"]))
    wider = replace(
        padded,
        columns=tuple(
            replace(c, type=pg_type("bpchar", 24)) if c.name == "code" else c
            for c in padded.columns
        ),
    )
    assert copied.essential_change(wider.columns, numbered=True) is not None


def test_changed_columns_are_those_that_came_went_or_are_others() -> None:
    extra = Column(name="extra", number=9, type=pg_type("int4"), declared="integer")
    generated = replace(extra, name="made", generated="stored")
    now = replace(
        changed("code", number=8), columns=(*changed("code", number=8).columns, extra, generated)
    )
    gone = replace(now, columns=tuple(c for c in now.columns if c.name != "title"))
    assert COPIED.changed_columns(gone.columns) == ["code", "extra", "title"]
    assert COPIED.changed_columns(DOCS.columns) == []


def test_distances_stay_when_the_index_that_told_them_goes() -> None:
    indexed = table(id="int8", v=("vector", 3), indexes=[index("v", "vector_l2_ops")])
    copied = RecordedSchema.of(mapped(indexed))
    bare = copied.table_for(replace(indexed, indexes=()))
    (vector,) = map_table(bare, copied.settings_for(bare, settings())).vectors
    assert vector.spec.distance == "euclid"


def test_indexes_that_disagree_by_now_are_not_looked_at() -> None:
    later = [index("v", "vector_ip_ops"), index("v", "vector_l1_ops", method="ivfflat")]
    now = COPIED.table_for(replace(DOCS, indexes=tuple(later)))
    (vector,) = map_table(now, COPIED.settings_for(now, settings())).vectors
    assert vector.spec.distance == "dot"


def test_settings_lose_the_columns_that_the_table_lost_and_no_others() -> None:
    chosen = settings(
        columns=["id", "title", "code", "v"], payload={"headline": "title", "code": "code"}
    )
    now = without("title")
    fitting = COPIED.settings_for(now, chosen)
    assert fitting.columns == ("id", "code", "v")
    assert fitting.payload == {"code": "code"}
    wrong = settings(columns=["id", "titel", "v"])
    assert COPIED.settings_for(now, wrong).columns == ("id", "titel", "v")


def test_a_renamed_table_keeps_its_collection_and_its_key() -> None:
    now = replace(DOCS, name="papers", primary_key=())
    mapping = map_table(now, COPIED.settings_for(now, settings()))
    assert mapping.collection.name == "docs"
    assert mapping.key_columns == ("id",)


def test_a_vector_column_that_came_later_has_no_place() -> None:
    later = Column(name="w", number=9, type=pg_type("vector", 2), declared="vector(2)")
    now = COPIED.table_for(replace(DOCS, columns=(*DOCS.columns, later)))
    assert "w" not in {column.name for column in now.columns}


# --- vectors that come later ------------------------------------------------------------------------

LATER = table(id="int8", title="text", code=("varchar", 14), v=("vector", 3), v2=("vector", 2))


def test_a_vector_column_that_came_later_has_no_place_unless_it_is_left_out() -> None:
    assert COPIED.unplaced_vectors(DOCS, settings()) == []
    assert COPIED.unplaced_vectors(LATER, settings()) == ["v2"]
    assert COPIED.unplaced_vectors(LATER, settings(columns=["id", "v", "v2"])) == ["v2"]
    assert COPIED.unplaced_vectors(LATER, settings(columns=["id", "v"])) == []
    assert COPIED.unplaced_vectors(LATER, settings(vectors="none")) == []


def test_a_vector_column_that_came_later_changes_no_payload() -> None:
    assert COPIED.changed_columns(LATER.columns) == []
    assert COPIED.table_for(LATER).columns == DOCS.columns


@pytest.mark.parametrize(
    ("columns", "told"),
    [(["a"], "column a came after the copy, and the collection has no place for it"),
     (["a", "b"], "columns a, b came after the copy, and the collection has no place for them")],
)  # fmt: skip
def test_one_and_several_are_told(columns: list[str], told: str) -> None:
    assert unplaced(columns) == f"the vector {told}"
