"""Single values -> Postgres' forms of them; whatever is not sure is left to the row itself.

That real messages give what Postgres holds is `tests/integration/test_debezium_captured.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import StopError, UsageError
from bridge.events import UNCHANGED
from bridge.schema import PgType
from sync.debezium import Reader, Unreadable
from sync.debezium_modes import Encoding, Modes, Unavailable
from sync.debezium_values import decoder_of
from tests.support.debezium_messages import envelope, record, rows
from tests.support.source_tables import numeric_modifier, pg_type

UNAVAILABLE = Unavailable.of("__debezium_unavailable_value")


def base(name: str, modifier: int = -1) -> PgType:
    return PgType(oid=1, schema="pg_catalog", name=name, modifier=modifier)


def field(type: PgType, value: Any, **modes: Any) -> Any:
    encoding = Encoding.of_modes(type, Modes(told=True, **modes))
    found = decoder_of(type, encoding, UNAVAILABLE)(value)
    return found if found is UNCHANGED else found.decode()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("type", "value", "modes", "expected"),
    [
        (base("numeric", numeric_modifier(12, 4)), "Opg=", {}, "1.5000"),
        (base("numeric", numeric_modifier(8, 2)), "/x8=", {}, "-2.25"),
        (base("numeric", numeric_modifier(8, 2)), "AQ==", {}, "0.01"),
        (base("numeric"), {"scale": 0, "value": "Kg=="}, {}, "42"),
        (base("numeric"), "1E+3", {"decimal": "string"}, "1000"),
        (base("numeric"), "NEGATIVE_INFINITY", {"decimal": "string"}, "-Infinity"),
        (base("numeric"), 1e21, {"decimal": "double"}, "1000000000000000000000"),
        (base("timestamp"), 1500, {"time": "nanoseconds"}, UNCHANGED),
        (base("timestamp"), 1_000, {"time": "nanoseconds"}, "1970-01-01 00:00:00.000001"),
        (base("timestamp", 3), 1, {"time": "connect"}, "1970-01-01 00:00:00.001"),
        (base("timestamp", 6), 1, {"time": "connect"}, UNCHANGED),
        (base("timestamp", 3), 1000, {"time": "microseconds"}, "1970-01-01 00:00:00.001"),
        (base("timestamp"), "-0043-03-15T12:00:00Z", {"time": "isostring"}, "0044-03-15 12:00:00 BC"),
        (base("time"), "00:00:00Z", {"time": "isostring"}, UNCHANGED),
        (base("time"), 86_400_000_000, {}, "24:00:00"),
        (base("time"), 86_400_000_001, {}, UNCHANGED),
        (base("date"), -719_163, {}, "0001-12-31 BC"),
        (base("timestamptz"), "2024-02-29T21:59:59.100000Z", {}, "2024-02-29 21:59:59.1+00"),
        (base("timestamptz"), 5, {}, UNCHANGED),
        (base("interval"), 37091106789000, {}, UNCHANGED),
        (base("interval"), "P1Y2M3DT4H5M6.789S", {"interval": "string"}, "P1Y2M3DT4H5M6.789S"),
        (base("interval"), "P0Y-1M2DT0H0M-1.5S", {"interval": "string"}, "P-1M2DT-1.5S"),
        (base("timetz"), "18:29:59.123456Z", {}, UNCHANGED),
        (base("money"), "BNI=", {}, UNCHANGED),
        (base("bytea"), "AP8Q", {}, "\\x00ff10"),
        (base("bytea"), "00ff10", {"binary": "hex"}, "\\x00ff10"),
        (base("bytea"), "_-8=", {"binary": "base64-url-safe"}, "\\xffef"),
        (base("bit", 3), "BQ==", {}, "101"),
        (base("bit", 3), "DQ==", {}, UNCHANGED),
        (base("varbit"), "BQ==", {}, UNCHANGED),
        (base("tstzrange"), '["2024-01-01 00:00:00+00",)', {}, '["2024-01-01 00:00:00+00",)'),
        (base("tstzrange"), '["2024-01-01 00:00:00+02",)', {}, UNCHANGED),
        (base("hstore"), '{"a":"1","b\\"":null}', {}, '"a"=>"1", "b\\""=>NULL'),
        (base("hstore"), {"a": "1"}, {}, '"a"=>"1"'),
        (base("point"), {"x": 1.5, "y": "NaN"}, {}, "(1.5,NaN)"),
        (base("text"), 7, {}, UNCHANGED),
        (base("jsonpath"), "$.a", {}, UNCHANGED),
        (pg_type("int4[]"), [1, None, 3], {}, "{1,NULL,3}"),
        (pg_type("int4[]"), [None, None], {}, UNCHANGED),
        (pg_type("int4[]"), [[1], [2]], {}, UNCHANGED),
        (pg_type("int4[]"), [95, 95, 100, 101, 98, 101, 122, 105, 117, 109, 95, 117, 110, 97, 118,
                             97, 105, 108, 97, 98, 108, 101, 95, 118, 97, 108, 117, 101], {}, UNCHANGED),
        (pg_type("uuid[]"), ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"], {}, UNCHANGED),
        (pg_type("text[]"), ["a b", "", "NULL", 'q"\\', None], {}, '{"a b","","NULL","q\\"\\\\",NULL}'),
        (pg_type("text[]"), ["[Ljava.lang.String;@3fec0fef"], {}, UNCHANGED),
        (pg_type("text[]"), ["__debezium_unavailable_value"], {}, UNCHANGED),
    ],
)  # fmt: skip
def test_a_value_is_postgres_own_or_left_open(
    type: PgType, value: Any, modes: dict[str, Any], expected: object
) -> None:
    assert field(type, value, **modes) == expected


def test_a_geometry_gets_its_srid() -> None:
    point = "AQEAAAAAAAAAAAD4PwAAAAAAAATA"  # a plain WKB
    found = field(base("geometry"), {"wkb": point, "srid": 4326})
    assert found == "0101000020E6100000000000000000F83F00000000000004C0"


def test_the_placeholder_is_a_value_where_rows_are_told_whole() -> None:
    reader, found = Reader(), rows()
    text = {"id": 1, "title": "__debezium_unavailable_value", "v": [1, 2, 3]}
    created = reader.read(record(envelope("c", text), {"id": 1}))
    updated = reader.read(record(envelope("u", text), {"id": 1}))
    assert created is not None and updated is not None
    assert found.row(created)[1] == b"__debezium_unavailable_value"
    assert found.row(updated)[1] is UNCHANGED


@pytest.mark.parametrize(
    ("op", "old", "full", "moved", "is_null"),
    [
        ("c", None, False, False, True),
        ("r", None, False, False, True),
        ("c", None, False, True, False),
        ("u", None, False, False, False),
        ("u", {"id": 1}, True, False, True),
        # FULL was set after the message had been written.
        ("u", None, True, False, False),
    ],
)
def test_a_null_vector_is_null_only_where_that_is_sure(
    op: str, old: dict[str, Any] | None, full: bool, moved: bool, is_null: bool
) -> None:
    headers = [("__debezium.oldkey", b"{}")] if moved else []
    after = {"id": 1, "title": "t", "v": None}
    told = Reader().read(record(envelope(op, after, old), {"id": 1}, headers=headers))
    assert told is not None
    assert rows(full=full).row(told)[2] == (None if is_null else UNCHANGED)


def test_columns_that_the_message_does_not_have_are_left_open() -> None:
    told = Reader().read(record(envelope("c", {"id": 1}), {"id": 1}))
    assert told is not None
    assert rows().row(told)[1:] == (UNCHANGED, UNCHANGED)


def test_values_from_before_a_column_was_made_again_are_not_taken() -> None:
    found = rows()
    changed = type(found).of(found.table.mapping, found.modes, untrusted={"title": 200})
    row = {"id": 1, "title": "old", "v": [1, 2, 3]}
    before = Reader().read(record(envelope("c", row, lsn=150), {"id": 1}))
    after = Reader().read(record(envelope("c", row, lsn=250), {"id": 1}))
    assert before is not None and after is not None
    assert changed.row(before)[1] is UNCHANGED
    assert changed.row(after)[1] == b"old"


def test_without_schemas_and_modes_a_decimal_is_not_guessed() -> None:
    found = rows(Modes(), id="int8", price="numeric")
    told = Reader().read(record(envelope("c", {"id": 1, "price": "AQ=="}), {"id": 1}))
    assert told is not None
    with pytest.raises(UsageError):
        found.row(told)
    # A delete needs the key only.
    gone = Reader().read(record(None, {"id": 1}))
    assert gone is not None
    assert found.key(gone)[0] is not None


def test_a_field_with_a_schema_of_its_own_needs_no_modes() -> None:
    found = rows(Modes(), id="int8", price=("numeric", numeric_modifier(8, 2)))
    price = {
        "field": "price",
        "type": "bytes",
        "name": "org.apache.kafka.connect.data.Decimal",
        "parameters": {"scale": "2"},
    }
    after = {"field": "after", "fields": [{"field": "id", "type": "int64"}, price]}
    value = {
        "schema": {"type": "struct", "fields": [after]},
        "payload": envelope("c", {"id": 1, "price": "AJY="}),
    }
    told = Reader().read(record(value, {"id": 1}))
    assert told is not None
    assert found.row(told)[1] == b"1.50"


def test_a_message_key_without_the_tables_key_stops() -> None:
    gone = Reader().read(record(envelope("d", before={"id": 1}), {"other": 1}))
    assert gone is not None
    with pytest.raises(StopError) as caught:
        rows().key(gone)
    assert caught.value.code == "REPLICA_IDENTITY"
    # Under FULL the old row is whole.
    assert rows(full=True).key(gone)[0] is not None


def test_a_null_in_the_key_is_not_a_row() -> None:
    gone = Reader().read(record(None, {"id": None}))
    assert gone is not None
    with pytest.raises(Unreadable):
        rows().key(gone)
