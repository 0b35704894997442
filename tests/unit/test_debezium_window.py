"""Messages of several partitions -> windows: the last one about a key counts, offsets follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bridge.errors import StopError
from bridge.events import UNCHANGED
from sync.debezium_rows import TableRows
from sync.debezium_window import SEEN, UNKNOWN, Collector, KafkaWindow
from sync.kafka_partition import Partition
from sync.window import Changed, Gone
from sync.windows import Limits
from tests.support.debezium_messages import TOPIC, OneTable, envelope, record, rows

LABEL = "public.docs"


def collector(operations: int = 100, size_bytes: int = 10**9) -> Collector:
    limits = Limits(operations=operations, size_bytes=size_bytes, seconds=1.0)
    return Collector(limits, OneTable(rows()), clock=lambda: 0.0)


def row(identity: int, **more: Any) -> dict[str, Any]:
    return {"id": identity, "title": "t", "v": [1.0, 2.0, 3.0], **more}


def one(found: list[KafkaWindow]) -> KafkaWindow:
    (window,) = found
    return window


def test_the_last_message_about_a_key_counts_and_nothing_is_taken_over() -> None:
    taking = collector()
    taking.add(record(envelope("c", row(1)), {"id": 1}, offset=0))
    taking.add(record(envelope("u", row(1, title="new", v=None)), {"id": 1}, offset=1))
    window = one(taking.flush())
    state = window.tables[LABEL].states[1]
    assert isinstance(state, Changed)
    # An earlier vector may not be what the row has: the null may be NULL.
    assert state.row[1:] == (b"new", UNCHANGED)
    assert window.offsets == {Partition(TOPIC, 0): 2}


def test_a_null_vector_of_a_new_row_is_null() -> None:
    taking = collector()
    taking.add(record(envelope("c", row(1, v=None)), {"id": 1}))
    state = one(taking.flush()).tables[LABEL].states[1]
    assert isinstance(state, Changed)
    assert state.row[2] is None


def test_deletes_and_tombstones_leave_a_gone_row() -> None:
    taking = collector()
    taking.add(record(envelope("c", row(1)), {"id": 1}, offset=0))
    taking.add(record(envelope("d", before={"id": 1}), {"id": 1}, offset=1))
    taking.add(record(None, {"id": 1}, offset=2))
    window = one(taking.flush())
    assert isinstance(window.tables[LABEL].states[1], Gone)
    assert window.lsns[LABEL] == {}


def test_both_orders_of_a_key_change_end_alike() -> None:
    gone = record(envelope("d", before={"id": 1}), {"id": 1}, partition=0)
    came = record(envelope("c", row(2)), {"id": 2}, partition=1)
    ends = []
    for order in ((gone, came), (came, gone)):
        taking = collector()
        for message in order:
            taking.add(message)
        window = one(taking.flush())
        ends.append({key: type(state) for key, state in window.tables[LABEL].states.items()})
        assert window.offsets == {Partition(TOPIC, 0): 1, Partition(TOPIC, 1): 1}
    assert ends[0] == ends[1] == {1: Gone, 2: Changed}


def test_a_truncate_is_alone_in_its_window() -> None:
    taking = collector()
    taking.add(record(envelope("c", row(1)), {"id": 1}, offset=0))
    taking.add(record(envelope("t"), None, offset=1))
    taking.add(record(envelope("c", row(2)), {"id": 2}, offset=2))
    before, emptied, after = taking.flush()
    assert list(before.tables[LABEL].states) == [1]
    assert emptied.emptied is not None
    assert emptied.emptied.lsn == 100
    assert emptied.offsets == {Partition(TOPIC, 0): 2}
    assert not emptied.tables
    assert list(after.tables[LABEL].states) == [2]


def test_a_window_closes_at_its_limits() -> None:
    taking = collector(operations=2)
    for number in range(5):
        taking.add(record(envelope("c", row(number)), {"id": number}, offset=number))
    assert [window.operations for window in taking.take()] == [2, 2]
    assert one(taking.flush()).operations == 1


def test_bytes_close_a_window_too() -> None:
    taking = collector(size_bytes=1000)
    taking.add(record(envelope("c", row(1, title="x" * 2000)), {"id": 1}))
    assert one(taking.take()).size_bytes > 2000


def test_what_was_dropped_is_not_handed_out() -> None:
    taking = collector()
    taking.add(record(envelope("c", row(1)), {"id": 1}))
    taking.drop()
    assert taking.flush() == []
    assert taking.due_in() is None


def test_an_unreadable_message_is_a_letter_under_its_rows_key() -> None:
    taking = collector()
    taking.add(record(b"{", {"id": 5}, offset=3))
    window = one(taking.flush())
    (letter,) = window.letters
    assert (letter.table, letter.key, letter.position) == (LABEL, "5", f"{TOPIC}[0]@3")
    assert window.offsets == {Partition(TOPIC, 0): 4}


def test_without_a_key_it_is_a_letter_under_its_own_place() -> None:
    taking = collector()
    taking.add(record(b"{", b"\x00", offset=3))
    (letter,) = one(taking.flush()).letters
    assert letter.key == f"{TOPIC}[0]@3"


def test_a_key_that_cannot_be_read_sets_the_message_aside() -> None:
    taking = collector()
    taking.add(record(envelope("c", {"id": "seven", "title": "t", "v": None}), {"id": "seven"}))
    window = one(taking.flush())
    assert len(window.letters) == 1
    assert not window.tables or not window.tables[LABEL].states


def test_transactions_are_told_as_far_as_they_are_known() -> None:
    taking = collector()
    taking.add(record(envelope("u", row(1)), {"id": 1}))
    taking.add(record(envelope("u", row(2), txId=None), {"id": 2}))
    taking.add(record(envelope("r", row(3)), {"id": 3}))
    states = one(taking.flush()).tables[LABEL].states
    assert [states[key].xid for key in (1, 2, 3)] == [7, UNKNOWN, SEEN]


def test_a_vector_of_another_dimension_stops_before_its_row() -> None:
    taking = collector()
    with pytest.raises(StopError) as caught:
        taking.add(record(envelope("c", row(1, v=[1.0, 2.0])), {"id": 1}))
    assert caught.value.code == "SCHEMA_CHANGED"
    assert taking.flush() == []


def test_a_letter_about_a_row_of_the_window_ends_it() -> None:
    taking = collector()
    taking.add(record(envelope("c", row(1)), {"id": 1}, offset=0))
    taking.add(record(b"{", {"id": 1}, offset=1))
    before, after = taking.flush()
    assert list(before.tables[LABEL].states) == [1]
    assert not before.letters
    assert before.offsets == {Partition(TOPIC, 0): 1}
    assert [letter.key for letter in after.letters] == ["1"]
    assert after.offsets == {Partition(TOPIC, 0): 2}


def test_a_letter_about_another_row_does_not_end_the_window() -> None:
    taking = collector()
    taking.add(record(envelope("c", row(1)), {"id": 1}, offset=0))
    taking.add(record(b"{", {"id": 2}, offset=1))
    taking.add(record(envelope("c", row(2)), {"id": 2}, offset=2))
    window = one(taking.flush())
    assert [letter.key for letter in window.letters] == ["2"]
    assert list(window.tables[LABEL].states) == [1, 2]


@pytest.mark.parametrize(("name", "whole"), [("docs_2023", False), ("docs", True)])
def test_only_the_tables_own_name_says_that_all_of_it_was_truncated(name: str, whole: bool) -> None:
    found = rows()
    mapping = found.table.mapping
    table = replace(mapping.table, partitions=((11, "public", "docs_2023"),))
    leafy = TableRows.of(replace(mapping, table=table), found.modes)
    limits = Limits(operations=9, size_bytes=10**6, seconds=1.0)
    taking = Collector(limits, OneTable(leafy), clock=lambda: 0.0)
    taking.add(record(envelope("t", table=name), None))
    emptied = one(taking.flush()).emptied
    assert emptied is not None
    assert emptied.whole is whole
