"""Payloads that are encoded by the column are those that are encoded by the row."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import Unstorable
from bridge.events import Field, Read
from bridge.plan import Point
from bridge.qdrant.wire import EncodedPoint, encode_upsert
from bridge.qdrant.wire_columns import EncodedRows
from bridge.rows import RowMapper
from tests.support.source_tables import table
from tests.support.table_mappings import mapped

TYPES: dict[str, Any] = {
    "id": "int8",
    "small": "int2",
    "body": "text",
    "mood": "mood!",
    "yes": "bool",
    "price": "numeric",
    "size": "float8",
    "at": "timestamptz",
    "day": "date",
    "meta": "jsonb",
    "raw": "json",
    "tags": "text[]",
    "blob": "bytea",
    "who": "uuid",
    "net": "inet",  # has no binary loader: comes as text
}
TABLE = table(**TYPES, v=("vector", 2))

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
any_bytes = st.binary(max_size=12)
as_text = st.one_of(texts.map(str.encode), any_bytes, st.just(b"\xc3"))
jsons = st.sampled_from(
    [b"null", b"{}", b"[]", b"1e400", b"9223372036854775808", b'"\\ud800"', b'{"a": [1, null]}',
     b'{"\\ud800": 1}', b"1.5", b"true", b'{"a": {"b": {"c": "d"}}}', b"[" * 60 + b"]" * 60, b"x"]
)  # fmt: skip
array = st.lists(texts.map(str.encode), min_size=1, max_size=3).map(
    lambda items: (
        struct.pack(">iiiii", 1, 0, 25, len(items), 1)
        + b"".join(struct.pack(">i", len(item)) + item for item in items)
    )
)


def packed(layout: str, *numbers: int | float) -> st.SearchStrategy[bytes]:
    return st.sampled_from(numbers).map(lambda number: struct.pack(layout, number))


VALUES: dict[str, st.SearchStrategy[bytes]] = {
    "small": packed(">h", 0, -1, 300, 32767),
    "body": as_text,
    "mood": as_text,
    "yes": st.sampled_from([b"\0", b"\x01"]),
    "price": st.sampled_from([(2, 0, 0, 2, 19, 9900), (0, 0, 0xC000, 0), (1, -1, 0x4000, 2, 100)]).map(
        lambda parts: struct.pack(f">HhHH{len(parts) - 4}H", *parts)
    ),
    "size": packed(">d", 0.0, -0.0, 1.5, float("nan"), float("inf")),
    "at": packed(">q", 0, -1, 757_382_400_000_000, 2**63 - 1, -(2**63), 10**18),
    "day": packed(">i", 0, -1, 2**31 - 1, -(2**31), 10**8),
    "meta": jsons.map(lambda text: b"\x01" + text),
    "raw": jsons,
    "tags": array,
    "blob": any_bytes,
    "who": st.binary(min_size=16, max_size=16),
    "net": as_text,
}  # fmt: skip
VECTOR = struct.pack(">hhff", 2, 0, 1.0, 2.0)


@st.composite
def rows(draw: st.DrawFn) -> list[list[Field]]:
    count = draw(st.integers(1, 4))
    return [
        [
            struct.pack(">q", number),
            *(draw(st.one_of(st.none(), VALUES[name], any_bytes)) for name in list(TYPES)[1:]),
            draw(st.sampled_from([VECTOR, None, b"short"])),
        ]
        for number in range(count)
    ]


def storable(points: Sequence[Point]) -> list[Point]:
    """Those that the writer would not set aside."""
    good: list[Point] = []
    for point in points:
        try:
            encode_upsert("c", [point])
        except Unstorable:
            continue
        good.append(point)
    return good


def both(
    given_rows: list[list[Field]], **settings: Any
) -> tuple[list[Point], list[EncodedPoint], set[str]]:
    mapping = mapped(TABLE, **settings)
    order = ["id", *list(TYPES)[1:], "v"]
    assert [item.column for item in mapping.selection] == order
    read = Read(table="public.docs", rows=given_rows, position="here")
    assert EncodedRows.fits(mapping)
    encoded, letters = EncodedRows(mapping).points(read)
    return (
        storable(RowMapper(mapping).points(read)[0]),
        encoded,
        {str(letter.key) for letter in letters},
    )


WHOLE: list[Field] = [
    struct.pack(">q", 0), struct.pack(">h", 7), b"text", b"good", b"\x01",
    struct.pack(">HhHHHH", 2, 0, 0, 2, 19, 9900), struct.pack(">d", 1.5), struct.pack(">q", 5),
    struct.pack(">i", 9), b'\x01{"a": [1, "b"]}', b"[1.5]", None, b"\0\x01", b"0" * 16, b"10.0.0.1", VECTOR,
]  # fmt: skip


@given(rows())
@example([WHOLE])
@example([WHOLE, [WHOLE[0], WHOLE[1], b"\xc3", *WHOLE[3:]]])
def test_a_batch_is_the_same_by_columns_and_by_rows(given_rows: list[list[Field]]) -> None:
    for settings in ({}, {"nulls": "omit"}):
        by_row, by_column, set_aside = both(given_rows, **settings)
        assert encode_upsert("c", by_column) == encode_upsert("c", by_row)
        assert len(set_aside) == len(given_rows) - len(by_row)


def test_a_whole_row_is_set_aside_by_neither() -> None:
    by_row, by_column, set_aside = both([WHOLE])
    assert (len(by_row), len(by_column), set_aside) == (1, 1, set())


def test_nested_payloads_are_not_for_columns() -> None:
    nested = mapped(TABLE, payload={"metadata.body": "body"})
    assert not EncodedRows.fits(nested)
    assert EncodedRows.fits(mapped(TABLE, payload={"title": "body"}))
