"""Loaders where no server of the tests can be asked: extensions, malformed fields, hot-path edges.

The hstore and citext bytes were taken from PostgreSQL 15 with contrib; the EWKB is built here by
its published layout. Everything else is held against real servers in tests/integration.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Unstorable
from bridge.postgres.decode import binary_loader, key_text_loader
from bridge.postgres.decode_text import parse_array, parse_hstore, text_loader
from bridge.schema import PgType
from bridge.values import PayloadValue, ValuePolicy

DEFAULT = ValuePolicy()
GEO = ValuePolicy(geo=True)
steady = settings(derandomize=True, database=None, deadline=None)


def base(name: str) -> PgType:
    return PgType(oid=1, schema="pg_catalog", name=name)


def array_of(name: str) -> PgType:
    return PgType(oid=2, schema="pg_catalog", name=f"_{name}", kind="array", element=base(name))


def from_binary(type: PgType, data: bytes, policy: ValuePolicy = DEFAULT) -> PayloadValue:
    load = binary_loader(type, policy)
    assert load is not None
    return load(data)


# --- extensions ---------------------------------------------------------------------------------

HSTORE_BINARY = bytes.fromhex(
    "00000003000000016100000001310000000162ffffffff0000000363226400000003785c79"
)
HSTORE_TEXT = r'"a"=>"1", "b"=>NULL, "c\"d"=>"x\\y"'


def test_hstore_is_an_object_in_both_formats() -> None:
    expected = {"a": "1", "b": None, 'c"d': "x\\y"}
    assert from_binary(base("hstore"), HSTORE_BINARY) == expected
    assert text_loader(base("hstore"), DEFAULT)(HSTORE_TEXT) == expected
    assert from_binary(base("hstore"), bytes(4)) == {}
    assert text_loader(base("hstore"), DEFAULT)("") == {}


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@steady
@given(st.dictionaries(texts, st.none() | texts))
def test_hstore_literals_of_any_text(pairs: dict[str, str | None]) -> None:
    literal = ", ".join(
        f"{quoted(key)}=>{'NULL' if value is None else quoted(value)}"
        for key, value in pairs.items()
    )
    assert parse_hstore(literal) == pairs


def test_citext_is_text() -> None:
    assert from_binary(base("citext"), "Ünï".encode()) == "Ünï"
    assert text_loader(base("citext"), DEFAULT)("Ünï") == "Ünï"


def ewkb(kind: int, *coordinates: float, order: str = "<", srid: int | None = 4326) -> bytes:
    code = kind | (0 if srid is None else 0x20000000)
    head = struct.pack(f"{order}BI", 1 if order == "<" else 0, code)
    middle = b"" if srid is None else struct.pack(f"{order}I", srid)
    return head + middle + struct.pack(f"{order}{len(coordinates)}d", *coordinates)


@pytest.mark.parametrize("name", ["geometry", "geography"])
@pytest.mark.parametrize(
    "data",
    [
        ewkb(1, 13.4, 52.5),
        ewkb(1, 13.4, 52.5, srid=None),
        ewkb(1, 13.4, 52.5, order=">"),
        ewkb(1 | 0x80000000, 13.4, 52.5, 7.0),
        ewkb(1 | 0x40000000, 13.4, 52.5, 7.0, srid=None),
    ],
)
def test_postgis_points_become_longitude_and_latitude(name: str, data: bytes) -> None:
    expected = {"lon": 13.4, "lat": 52.5}
    assert from_binary(base(name), data, GEO) == expected
    assert text_loader(base(name), GEO)(data.hex().upper()) == expected
    assert from_binary(base(name), data) == data.hex().upper()
    assert text_loader(base(name), DEFAULT)(data.hex().upper()) == data.hex().upper()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ewkb(1, float("nan"), float("nan")), "empty"),
        (ewkb(2, 1.0, 2.0), "not a point"),
        (ewkb(1, 1.0), "format"),
        (b"", "format"),
    ],
)
def test_geometries_without_a_place_are_unstorable_under_geo(data: bytes, reason: str) -> None:
    with pytest.raises(Unstorable, match=reason):
        from_binary(base("geometry"), data, GEO)
    with pytest.raises(Unstorable, match=reason):
        text_loader(base("geometry"), GEO)(data.hex())


def test_arrays_of_geometries_are_separated_by_colons() -> None:
    here, there = ewkb(1, 1.0, 2.0).hex(), ewkb(1, 3.0, 4.0).hex()
    load = text_loader(array_of("geometry"), GEO)
    expected = [{"lon": 1.0, "lat": 2.0}, None, {"lon": 3.0, "lat": 4.0}]
    assert load(f"{{{here}:NULL:{there}}}") == expected


# --- array literals -----------------------------------------------------------------------------


@steady
@given(st.lists(st.none() | texts))
def test_array_literals_of_any_text(items: list[str | None]) -> None:
    literal = ",".join("NULL" if item is None else quoted(item) for item in items)
    assert parse_array(f"{{{literal}}}", ",", str) == items
    assert parse_array(f"[5:9]={{{literal}}}", ",", str) == items
    assert parse_array(f"{{{{{literal}}},{{{literal}}}}}", ",", str) == [items, items]


@pytest.mark.parametrize("literal", ["", "{", "}", "{}}", "{}{}", '{"a}', "a", "[1:2]", "{1}2"])
def test_malformed_array_literals_are_refused(literal: str) -> None:
    with pytest.raises(Unstorable, match="_text"):
        text_loader(array_of("text"), DEFAULT)(literal)


# --- malformed fields ---------------------------------------------------------------------------

BINARY_TYPES = [
    "int2", "int4", "int8", "bool", "float4", "float8", "numeric", "jsonb", "uuid", "timestamp",
    "timestamptz", "date", "time", "timetz", "interval", "point", "hstore", "char",
]  # fmt: skip


@pytest.mark.parametrize("name", BINARY_TYPES)
@pytest.mark.parametrize("data", [b"", b"\x02\x03\x04"])
def test_fields_of_another_size_are_unstorable(name: str, data: bytes) -> None:
    with pytest.raises(Unstorable, match=f"type {name}"):
        from_binary(base(name), data)


@steady
@given(st.sampled_from(BINARY_TYPES), st.binary(max_size=40), st.booleans())
def test_any_bytes_give_a_value_or_unstorable(name: str, data: bytes, in_array: bool) -> None:
    try:
        from_binary(array_of(name) if in_array else base(name), data)
    except Unstorable as error:
        # Nothing of the field travels with the error.
        assert not isinstance(error.__context__, UnicodeDecodeError)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("int4", "secret"),
        ("bool", "true"),
        ("float8", "secret"),
        ("numeric", "secret"),
        ("bytea", "\\001"),
        ("timestamptz", "2024-01-02 03:04:05+02"),
        ("timestamptz", "2024-01-02 03:04:05"),
        ("timestamp", "2024-01-02 03:04:05+00"),
        ("timestamptz", "02.01.2024 03:04:05 UTC"),
        ("date", "02/01/2024"),
        ("interval", "1 day"),
        ("time", "1 pm"),
        ("timetz", "12:00"),
        ("hstore", "secret"),
        ("jsonb", "secret"),
    ],
)
def test_text_in_another_style_is_refused_without_naming_it(name: str, text: str) -> None:
    with pytest.raises(Unstorable) as caught:
        text_loader(base(name), DEFAULT)(text)
    assert text not in caught.value.message
    assert caught.value.__context__ is None


def test_text_that_is_not_utf_8_is_unstorable_without_naming_it() -> None:
    for type in (base("text"), base("citext"), array_of("text")):
        data = b"secret\xff"
        if type.kind == "array":
            data = struct.pack(">5i", 1, 0, 25, 1, 1) + struct.pack(">i", len(data)) + data
        with pytest.raises(Unstorable, match="UTF-8") as caught:
            from_binary(type, data)
        assert caught.value.__context__ is None


# --- which types have which loader --------------------------------------------------------------


def test_an_array_too_long_for_its_dimensions_is_refused() -> None:
    one = struct.pack(">i", 4) + struct.pack(">i", 7)
    header = struct.pack(">5i", 1, 0, 23, 1, 1)
    assert from_binary(array_of("int4"), header + one) == [7]
    with pytest.raises(Unstorable, match="array"):
        from_binary(array_of("int4"), header + one + one)


def test_intervals_beyond_all_bounds_are_infinite() -> None:
    fields = struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1)
    assert from_binary(base("interval"), fields) == "infinity"
    fields = struct.pack(">qii", -(2**63), -(2**31), -(2**31))
    assert from_binary(base("interval"), fields) == "-infinity"


@pytest.mark.parametrize("kind", ["range", "multirange", "composite", "pseudo"])
def test_types_of_other_kinds_are_read_as_text_whatever_their_name(kind: str) -> None:
    type = PgType(oid=3, schema="app", name="text", kind=kind)  # type: ignore[arg-type]
    assert binary_loader(type, DEFAULT) is None
    assert key_text_loader(type) is None
    assert text_loader(type, DEFAULT)("(1,2)") == "(1,2)"


def test_an_enum_is_text_whatever_its_name() -> None:
    type = PgType(oid=3, schema="app", name="date", kind="enum")
    assert from_binary(type, b"2024") == "2024"
    assert text_loader(type, DEFAULT)("2024") == "2024"
    assert key_text_loader(type) is not None


def test_keys_are_the_output_functions_text() -> None:
    load = key_text_loader(base("bool"))
    assert load is not None
    assert load(b"\x01") == "t"
    load = key_text_loader(base("timestamptz"))
    assert load is not None
    assert load(struct.pack(">q", 757_479_845_500_000)) == "2024-01-02 03:04:05.5+00"
    for name in ("float8", "inet", "interval"):
        assert key_text_loader(base(name)) is None
