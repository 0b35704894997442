"""Whatever a topic holds: a message is understood, or set aside; nothing else is raised."""

from __future__ import annotations

import struct
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import StopError
from bridge.events import UNCHANGED
from bridge.vectors_text import vector_from_text
from sync.debezium import Reader, Unreadable
from sync.debezium_modes import Modes
from sync.debezium_window import Collector
from sync.windows import Limits
from tests.support.debezium_messages import OneTable, envelope, record, rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
COLUMNS: dict[str, Any] = {
    "id": "int8", "title": "text", "price": "numeric", "at": "timestamp", "day": "date",
    "span": "interval", "doc": "jsonb", "raw": "bytea", "ids": "int4[]", "ok": "bool",
    "v": ("vector", 3), "s": ("sparsevec", 100),
}  # fmt: skip
ROWS = rows(Modes(told=True), **COLUMNS)
NAMES = st.sampled_from(sorted(COLUMNS))


@given(value=st.binary(max_size=60) | st.builds(orjson.dumps, JSON), key=st.binary(max_size=20))
def test_any_bytes_are_read_or_set_aside(value: bytes, key: bytes) -> None:
    try:
        Reader().read(record(value, key))
    except Unreadable as flaw:
        assert flaw.__str__()


@given(op=JSON, after=JSON, before=JSON, source=JSON, key=JSON)
def test_any_envelope_is_read_or_set_aside(
    op: Any, after: Any, before: Any, source: Any, key: Any
) -> None:
    value = {"op": op, "after": after, "before": before, "source": source}
    limits = Limits(operations=10, size_bytes=10**6, seconds=1.0)
    collector = Collector(limits, OneTable(ROWS), clock=lambda: 0.0)
    try:
        collector.add(record(value, key))
    except StopError as error:
        assert error.code in ("SCHEMA_CHANGED", "REPLICA_IDENTITY")


@given(values=st.dictionaries(NAMES, JSON), op=st.sampled_from("rcu"))
def test_any_value_becomes_a_field_or_is_left_open(values: dict[str, Any], op: str) -> None:
    told = Reader().read(record(envelope(op, {**values, "id": 1}), {"id": 1}))
    assert told is not None
    try:
        row = ROWS.row(told)
    except StopError as error:
        assert error.code == "SCHEMA_CHANGED"
        return
    assert all(field is None or field is UNCHANGED or isinstance(field, bytes) for field in row)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_a_vector_is_the_one_that_postgres_would_send(numbers: list[float]) -> None:
    told = Reader().read(record(envelope("c", {"id": 1, "v": numbers}), {"id": 1}))
    assert told is not None
    field = ROWS.row(told)[ROWS.table.relation.columns.index("v")]
    text = "[" + ",".join(map(repr, numbers)) + "]"
    assert field == vector_from_text("vector", text)
    assert isinstance(field, bytes)
    assert struct.unpack(">3f", field[4:]) == tuple(numbers)
