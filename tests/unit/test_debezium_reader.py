"""Messages -> what happened: envelopes, flattened rows, tombstones, and what is about no row."""

from __future__ import annotations

from typing import Any

import pytest

from sync.debezium import Reader, Unreadable
from tests.support.debezium_messages import envelope, record

READ = Reader().read
KEY = {"id": 1}


@pytest.mark.parametrize(
    ("op", "kind"), [("r", "read"), ("c", "create"), ("u", "update"), ("t", "truncate")]
)
def test_an_envelope_tells_its_operation(op: str, kind: str) -> None:
    told = READ(record(envelope(op, after=KEY), KEY))
    assert told is not None
    assert (told.kind, told.schema_name, told.table_name) == (kind, "public", "t")
    assert (told.lsn, told.xid) == (100, 7)


def test_of_a_deleted_row_the_key_counts() -> None:
    told = READ(record(envelope("d", before={"id": 1, "title": ""}), KEY))
    assert told is not None
    assert (told.kind, told.key, told.row) == ("delete", KEY, None)


def test_a_tombstone_is_a_delete_wherever_it_comes() -> None:
    told = READ(record(None, KEY))
    assert told is not None
    assert (told.kind, told.key) == ("delete", KEY)


def test_a_tombstone_of_a_table_without_a_key_says_nothing() -> None:
    assert READ(record(None, None)) is None


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"ts_ms": 1}, {"serverName": "shop"}),
        ({"op": "m", "source": {}, "message": {}}, {"prefix": "x"}),
        (
            {"status": "BEGIN", "id": "7:1", "event_count": None, "data_collections": None},
            {"id": "7:1"},
        ),
    ],
    ids=["heartbeat", "logical message", "transaction"],
)
def test_what_is_about_no_row_is_passed_over(value: Any, key: Any) -> None:
    assert READ(record(value, key)) is None


def test_a_schema_beside_it_is_taken_apart() -> None:
    fields = [{"field": "id", "type": "int64"}]
    after = {"field": "after", "type": "struct", "fields": fields}
    value = {
        "schema": {"type": "struct", "fields": [after]},
        "payload": envelope("c", after=KEY),
    }
    key = {"schema": {"type": "struct", "fields": fields}, "payload": KEY}
    told = READ(record(value, key))
    assert told is not None
    assert told.fields == {"id": fields[0]}
    assert told.key_fields == {"id": fields[0]}
    assert told.row == KEY


def test_a_flattened_row_may_tell_its_operation() -> None:
    told = READ(record({"id": 1, "__op": "c", "__lsn": 5, "__source_txId": 9}, KEY))
    assert told is not None
    assert (told.kind, told.lsn, told.xid) == ("create", 5, 9)


def test_a_flattened_row_may_tell_it_in_a_header() -> None:
    told = READ(record({"id": 1}, KEY, headers=[("__op", b"u")]))
    assert told is not None
    assert told.kind == "update"


def test_a_flattened_row_may_leave_it_open() -> None:
    told = READ(record({"id": 1}, KEY))
    assert told is not None
    assert told.kind == "row"


def test_a_rewritten_delete_is_one() -> None:
    told = READ(record({"id": 1, "title": None, "__deleted": "true"}, KEY))
    assert told is not None
    assert (told.kind, told.row) == ("delete", None)


def test_a_created_row_whose_key_was_another_is_not_told_whole() -> None:
    headers = [("__debezium.oldkey", b'{"id":2}')]
    told = READ(record(envelope("c", after=KEY), KEY, headers=headers))
    assert told is not None
    assert told.moved


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b"\xff", KEY),
        (b"{", KEY),
        ([1], KEY),
        ("text", KEY),
        (envelope("c", after=KEY), b"not JSON"),
        (envelope("c", after=KEY), 5),
        (envelope("x", after=KEY), KEY),
        (envelope("c"), KEY),
        ({**envelope("c", after=KEY), "source": 5}, KEY),
        ({**envelope("c", after=KEY), "op": {}}, KEY),
        (envelope("d"), None),
        ({"id": 1, "__op": "d"}, None),
    ],
)
def test_what_cannot_be_understood_is_not_passed_over(value: Any, key: Any) -> None:
    with pytest.raises(Unreadable) as caught:
        READ(record(value, key))
    assert "not JSON" not in str(caught.value)
