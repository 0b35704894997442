"""Rows become points, or dead letters that leave the other rows of their batch alone."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config_tables import TableSettings
from bridge.errors import Unstorable
from bridge.events import Field, Read
from bridge.map_table import map_table
from bridge.mapping import IdRule, TableMapping
from bridge.plan import DeadLetter, Multi, Point, Sparse
from bridge.point_ids import composite_text, key_point_id, point_id, qdrant_migration_point_id
from bridge.schema import Table
from tests.support.source_tables import columns, table

POSITION = "chunk 3 of public.docs"
UUID_TEXT = "6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f"


def mapping_of(source: Table, **given: Any) -> TableMapping:
    return map_table(source, TableSettings.model_validate(given))


def int8(number: int) -> bytes:
    return struct.pack(">q", number)


def vector(*numbers: float) -> bytes:
    return struct.pack(f">hh{len(numbers)}f", len(numbers), 0, *numbers)


def jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


def buffer(*numbers: float) -> bytes:
    return np.array(numbers, dtype="<f4").tobytes()


def row(mapping: TableMapping, **values: Field) -> list[Field]:
    """A row as the mapping's selection reads it; a column that is not given is NULL."""
    return [values.get(item.column) for item in mapping.selection]


def convert(mapping: TableMapping, *rows: Sequence[Field]) -> tuple[list[Point], list[DeadLetter]]:
    """The points, vectors as bytes, and the dead letters."""
    points, letters = mapping.points(Read(table="public.docs", rows=rows, position=POSITION))
    plain = [
        Point(
            point.id,
            {
                name: bytes(vector) if isinstance(vector, memoryview) else vector
                for name, vector in point.vectors.items()
            },
            point.payload,
        )
        for point in points
    ]
    return plain, letters


DOCS = table(id="int8", title="text", v=("vector", 2))


# --- points ---------------------------------------------------------------------------------------


def test_a_row_becomes_a_point() -> None:
    mapping = mapping_of(DOCS)
    points, letters = convert(mapping, row(mapping, id=int8(7), title=b"seven", v=vector(1, 2)))
    assert points == [Point(7, {"v": buffer(1, 2)}, {"id": 7, "title": "seven"})]
    assert letters == []


def test_no_rows_become_no_points() -> None:
    assert convert(mapping_of(DOCS)) == ([], [])


def test_points_keep_the_order_of_their_rows() -> None:
    mapping = mapping_of(DOCS)
    ids = [5, 3, -1, 9, 0]
    points, _ = convert(mapping, *(row(mapping, id=int8(number)) for number in ids))
    assert [point.payload["id"] for point in points] == ids
    assert [point.id for point in points] == [5, 3, point_id("-1"), 9, 0]


def test_a_null_vector_is_left_out_of_the_point() -> None:
    mapping = mapping_of(table(id="int8", v=("vector", 2), w=("vector", 1)))
    points, letters = convert(
        mapping,
        row(mapping, id=int8(1), w=vector(9)),
        row(mapping, id=int8(2)),
    )
    assert [point.vectors for point in points] == [{"w": buffer(9)}, {}]
    assert letters == []


def test_every_kind_of_vector() -> None:
    source = table(
        id="int8",
        v=("vector", 2),
        h=("halfvec", 2),
        b=("bit", 3),
        s=("sparsevec", 9),
        m=("vector[]", 2),
    )
    mapping = mapping_of(source, vectors={"v": {"name": ""}, "s": {"distance": "dot"}})
    points, letters = convert(
        mapping,
        row(
            mapping,
            id=int8(1),
            v=vector(1, 2),
            h=struct.pack(">hh2e", 2, 0, 0.5, -1.5),
            b=struct.pack(">iB", 3, 0b10100000),
            s=struct.pack(">iii1i1f", 9, 1, 0, 4, 2.5),
            m=struct.pack(">iiiii", 1, 0, 16_400, 1, 1) + struct.pack(">i", 12) + vector(3, 4),
        ),
    )
    assert letters == []
    assert points[0].vectors == {
        "": buffer(1, 2),
        "h": buffer(0.5, -1.5),
        "b": buffer(1, 0, 1),
        "s": Sparse(np.array([4], "<u4").tobytes(), buffer(2.5)),
        "m": Multi(2, buffer(3, 4)),
    }


def test_columns_read_as_text() -> None:
    mapping = mapping_of(table(id="int8", host="inet", v=("vector", 1)))
    points, _ = convert(mapping, row(mapping, id=int8(1), host=b"10.0.0.1"))
    assert points[0].payload == {"id": 1, "host": "10.0.0.1"}


def test_a_mapping_that_was_sent_to_a_worker_gives_the_same_points() -> None:
    mapping = mapping_of(DOCS)
    first = convert(mapping, row(mapping, id=int8(7), title=b"seven", v=vector(1, 2)))
    copy = pickle.loads(pickle.dumps(mapping))
    assert convert(copy, row(copy, id=int8(7), title=b"seven", v=vector(1, 2))) == first


# --- payload --------------------------------------------------------------------------------------


def test_nulls_are_explicit() -> None:
    mapping = mapping_of(DOCS)
    points, _ = convert(mapping, row(mapping, id=int8(1)), row(mapping, id=int8(2), title=b"t"))
    assert [point.payload for point in points] == [
        {"id": 1, "title": None},
        {"id": 2, "title": "t"},
    ]


def test_nulls_may_be_left_out() -> None:
    mapping = mapping_of(DOCS, nulls="omit")
    points, _ = convert(mapping, row(mapping, id=int8(1)), row(mapping, id=int8(2), title=b""))
    assert [point.payload for point in points] == [{"id": 1}, {"id": 2, "title": ""}]


def test_a_json_null_is_a_null_as_well() -> None:
    mapping = mapping_of(table(id="int8", doc="jsonb"))
    points, _ = convert(mapping, row(mapping, id=int8(1), doc=jsonb("null")))
    assert points[0].payload == {"id": 1, "doc": None}


def test_renamed_fields_nest() -> None:
    mapping = mapping_of(
        table(id="int8", title="text", url="text", lang="text"),
        payload={"page_content": "title", "metadata.source.url": "url", "metadata.lang": "lang"},
    )
    points, _ = convert(
        mapping,
        row(mapping, id=int8(1), title=b"t", url=b"u", lang=b"en"),
        row(mapping, id=int8(2), title=b"t"),
    )
    assert [point.payload for point in points] == [
        {"page_content": "t", "metadata": {"source": {"url": "u"}, "lang": "en"}},
        {"page_content": "t", "metadata": {"source": {"url": None}, "lang": None}},
    ]


def test_nested_fields_of_nulls_that_are_left_out_leave_nothing() -> None:
    mapping = mapping_of(
        table(id="int8", url="text"), payload={"metadata.url": "url"}, nulls="omit"
    )
    points, _ = convert(mapping, row(mapping, id=int8(1)))
    assert points[0].payload == {}


def test_payloads_of_two_rows_share_nothing() -> None:
    mapping = mapping_of(table(id="int8", url="text"), payload={"metadata.url": "url"})
    points, _ = convert(
        mapping, row(mapping, id=int8(1), url=b"a"), row(mapping, id=int8(2), url=b"b")
    )
    assert [point.payload for point in points] == [
        {"metadata": {"url": "a"}},
        {"metadata": {"url": "b"}},
    ]


def test_a_column_with_dots_in_its_name_is_one_field() -> None:
    mapping = mapping_of(table(id="int8", extra=columns(**{"a.b": "text"})))
    points, _ = convert(mapping, row(mapping, id=int8(1), **{"a.b": b"x"}))
    assert points[0].payload == {"id": 1, "a.b": "x"}


def test_a_mapping_without_payload_has_empty_ones() -> None:
    mapping = mapping_of(DOCS, columns=["v"])
    points, _ = convert(mapping, row(mapping, id=int8(3), v=vector(1, 2)))
    assert points == [Point(3, {"v": buffer(1, 2)}, {})]


# --- dead letters ---------------------------------------------------------------------------------


def bad_rows(mapping: TableMapping) -> dict[str, tuple[list[Field], str]]:
    """Why a row is set aside -> the row (with id 99), and what the reason says."""
    return {
        "NaN": (row(mapping, id=int8(99), v=vector(1, float("nan"))), "column v: the vector has"),
        "dimension": (row(mapping, id=int8(99), v=vector(1)), "column v: the vector has 1 dim"),
        "JSON": (row(mapping, id=int8(99), doc=jsonb('"\\ud800"')), "column doc: JSON with a lone"),
        "UTF-8": (row(mapping, id=int8(99), title=b"\xff"), "column title: "),
        "format": (row(mapping, id=int8(99), n=b"\0"), "column n: the field does not have"),
    }


SOURCE = table(id="int8", title="text", doc="jsonb", n="int4", v=("vector", 2))


@pytest.mark.parametrize("flaw", bad_rows(mapping_of(SOURCE)))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_that_cannot_be_a_point_is_set_aside_and_no_other(flaw: str, place: int) -> None:
    mapping = mapping_of(SOURCE)
    bad, reason = bad_rows(mapping)[flaw]
    rows = [row(mapping, id=int8(number), title=b"t", v=vector(1, 2)) for number in (1, 2)]
    rows.insert(place, bad)
    points, (letter,) = convert(mapping, *rows)
    assert [point.id for point in points] == [1, 2]
    assert all(point.vectors == {"v": buffer(1, 2)} for point in points)
    assert letter.reason.startswith(reason)
    assert (letter.table, letter.key, letter.position) == ("public.docs", "99", POSITION)


def test_a_row_with_several_flaws_is_one_dead_letter() -> None:
    mapping = mapping_of(SOURCE)
    bad = row(mapping, id=int8(99), title=b"\xff", n=b"\0", v=vector(1))
    points, letters = convert(mapping, bad)
    assert points == []
    assert [letter.key for letter in letters] == ["99"]


def test_dead_letters_are_in_the_order_of_their_rows() -> None:
    mapping = mapping_of(SOURCE)
    points, letters = convert(
        mapping,
        row(mapping, id=int8(1), v=vector(1)),
        row(mapping, id=int8(2), title=b"\xff"),
        row(mapping, id=int8(3)),
        row(mapping, id=int8(4), n=b"\0"),
    )
    assert [point.id for point in points] == [3]
    assert [letter.key for letter in letters] == ["1", "2", "4"]


def test_a_dead_letter_does_not_tell_the_value() -> None:
    mapping = mapping_of(SOURCE)
    _, (letter,) = convert(mapping, row(mapping, id=int8(1), doc=jsonb('"secret \\ud800"')))
    assert "secret" not in letter.reason


# --- keys -----------------------------------------------------------------------------------------


def test_a_null_in_the_key_is_a_dead_letter() -> None:
    mapping = mapping_of(DOCS)
    points, (letter,) = convert(
        mapping,
        row(mapping, id=int8(1)),
        row(mapping, title=b"no key"),
        row(mapping, id=int8(3)),
    )
    assert [point.id for point in points] == [1, 3]
    assert (letter.key, letter.reason) == ("NULL", "column id: a NULL in the key")


@pytest.mark.parametrize("kind", ["int8", "text", "inet"])
def test_keys_of_nothing_but_nulls(kind: str) -> None:
    mapping = mapping_of(table(id=kind, v=("vector", 2)))
    points, letters = convert(mapping, row(mapping), row(mapping, v=vector(1, 2)))
    assert points == []
    assert [letter.reason for letter in letters] == ["column id: a NULL in the key"] * 2


def test_a_null_in_a_composite_key_is_a_dead_letter() -> None:
    mapping = mapping_of(table(a="int8", b="text", key=("a", "b")))
    points, (letter,) = convert(mapping, row(mapping, a=int8(1), b=b"x"), row(mapping, a=int8(1)))
    assert [point.id for point in points] == [key_point_id(["1", "x"])]
    assert (letter.key, letter.reason) == ("NULL", "column b: a NULL in the key")


def test_a_damaged_key_is_a_dead_letter() -> None:
    mapping = mapping_of(DOCS)
    points, (letter,) = convert(mapping, row(mapping, id=b"\0"), row(mapping, id=int8(2)))
    assert [point.id for point in points] == [2]
    assert "format of type int8" in letter.reason


def test_a_composite_key_is_hashed_in_the_order_of_its_index() -> None:
    mapping = mapping_of(table(a="int8", b="text", key=("b", "a")))
    points, _ = convert(mapping, row(mapping, a=int8(-1), b="é".encode()))
    assert points[0].id == key_point_id(["é", "-1"])
    assert mapping.key_texts(row(mapping, a=int8(-1), b=b"x")) == ["x", "-1"]


def test_a_dead_letter_of_a_composite_key_names_all_of_it() -> None:
    mapping = mapping_of(table(a="int8", b="text", v=("vector", 2), key=("a", "b")))
    _, (letter,) = convert(mapping, row(mapping, a=int8(1), b=b"x", v=vector(1)))
    assert letter.key == composite_text(["1", "x"])


def test_the_texts_of_a_key_with_a_null_raise() -> None:
    mapping = mapping_of(DOCS)
    with pytest.raises(Unstorable, match="column id: a NULL in the key"):
        mapping.key_texts(row(mapping))


KEYS: list[tuple[str, bytes, str]] = [
    ("int2", struct.pack(">h", -5), "-5"),
    ("int4", struct.pack(">i", 5), "5"),
    ("int8", int8(2**63 - 1), str(2**63 - 1)),
    ("text", b"007", "007"),
    ("varchar", "Grüße".encode(), "Grüße"),
    ("uuid", bytes.fromhex(UUID_TEXT.replace("-", "")), UUID_TEXT),
    ("bool", b"\x01", "t"),
    ("mood!", b"happy", "happy"),
]


@pytest.mark.parametrize(("kind", "raw", "text"), KEYS)
@pytest.mark.parametrize("with_payload", [True, False])
def test_the_id_is_that_of_the_keys_text(
    kind: str, raw: bytes, text: str, with_payload: bool
) -> None:
    given_ = {} if with_payload else {"columns": ["v"]}
    mapping = mapping_of(table(id=kind, v=("vector", 2)), **given_)
    points, _ = convert(mapping, row(mapping, id=raw))
    assert points[0].id == point_id(text)
    assert type(points[0].id) is type(point_id(text))
    assert mapping.key_texts(row(mapping, id=raw)) == [text]


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=8))
def test_integer_keys_have_the_ids_of_their_texts(keys: list[int | None]) -> None:
    mapping = mapping_of(DOCS)
    rows = [row(mapping, id=None if key is None else int8(key)) for key in keys]
    points, letters = convert(mapping, *rows)
    assert [point.id for point in points] == [point_id(str(k)) for k in keys if k is not None]
    assert len(letters) == keys.count(None)


# --- id rules -------------------------------------------------------------------------------------


def test_a_template_makes_pinecones_id_and_keeps_it() -> None:
    mapping = mapping_of(DOCS, id={"template": "doc-{id}"})
    points, _ = convert(mapping, row(mapping, id=int8(7), title=b"t"))
    assert points == [Point(point_id("doc-7"), {}, {"id": 7, "title": "t", "__id__": "doc-7"})]


def test_a_bare_template_gives_the_keys_own_id() -> None:
    mapping = mapping_of(DOCS, id={"template": "{id}", "field": "pinecone"})
    points, _ = convert(mapping, row(mapping, id=int8(7)))
    assert points[0].id == 7
    assert points[0].payload == {"id": 7, "title": None, "pinecone": "7"}


def test_a_namespace_is_part_of_the_id_and_kept() -> None:
    mapping = mapping_of(DOCS, id={"template": "{id}", "namespace": "docs"})
    points, _ = convert(mapping, row(mapping, id=int8(42)))
    assert points[0].id == key_point_id(["docs", "42"]) == "6e89365e-e3af-5f84-af20-686e1dba00f1"
    assert points[0].payload["__id__"] == "42"
    assert points[0].payload["namespace"] == "docs"


def test_the_default_namespace_is_a_namespace_too() -> None:
    mapping = mapping_of(DOCS, id={"template": "{id}", "namespace": ""})
    points, _ = convert(mapping, row(mapping, id=int8(42)))
    assert points[0].id == key_point_id(["", "42"])
    assert points[0].payload["namespace"] == ""


def test_a_template_of_several_columns_and_braces() -> None:
    mapping = mapping_of(table(a="int8", b="text", key=("a", "b")), id={"template": "{{{b}}}#{a}"})
    points, _ = convert(mapping, row(mapping, a=int8(1), b=b"{x}"))
    assert points[0].payload["__id__"] == "{{x}}#1"
    assert points[0].id == point_id("{{x}}#1")


def test_ids_written_beside_dead_letters_belong_to_their_rows() -> None:
    mapping = mapping_of(DOCS, id={"template": "doc-{id}"})
    points, letters = convert(
        mapping,
        row(mapping, id=int8(1)),
        row(mapping, title=b"no key"),
        row(mapping, id=int8(3), v=vector(1)),
        row(mapping, id=int8(4)),
    )
    assert [point.payload["__id__"] for point in points] == ["doc-1", "doc-4"]
    assert [letter.key for letter in letters] == ["NULL", "3"]


@pytest.mark.parametrize(
    ("kind", "raw", "text"),
    [("int8", int8(42), "42"), ("text", UUID_TEXT.upper().encode(), UUID_TEXT.upper())],
)
def test_ids_of_qdrant_migration(kind: str, raw: bytes, text: str) -> None:
    mapping = mapping_of(table(id=kind), id={"scheme": "qdrant-migration"})
    points, _ = convert(mapping, row(mapping, id=raw))
    assert points[0].id == qdrant_migration_point_id(text)
    assert "__id__" not in points[0].payload


def test_a_rule_says_what_it_is() -> None:
    rule = IdRule(key=("a",), template="x-{a}", namespace="ns", id_field="pid")
    assert rule.text(["1"]) == "x-1"
    assert rule.fields(["1"]) == {"pid": "x-1", "namespace": "ns"}
    assert IdRule(key=("a",)).fields(["1"]) == {}
