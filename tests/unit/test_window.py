"""What a window of changes comes down to for each point."""

from __future__ import annotations

import pytest

from bridge.errors import StopError
from bridge.events import UNCHANGED
from sync.window import Changed, Gone, size_of
from tests.support.stream_rows import COLUMNS, StreamDocs, field_of, row_of, tuple_of

V, W, TITLE = COLUMNS.index("v"), COLUMNS.index("w"), COLUMNS.index("title")


def changed(docs: StreamDocs, identity: int) -> Changed:
    state = docs.window.states[identity]
    assert isinstance(state, Changed)
    return state


def gone(docs: StreamDocs, identity: int) -> bool:
    return isinstance(docs.window.states[identity], Gone)


def test_the_last_state_of_a_row_wins() -> None:
    docs = StreamDocs()
    docs.insert(id=1, title="a", v=[1, 1, 1], w=[1, 1])
    docs.update(id=1, title="b", v=[2, 2, 2], w=[2, 2])
    assert list(docs.window.states) == [1]
    assert (
        changed(docs, 1).row == row_of({"id": 1, "title": "b", "v": [2] * 3, "w": [2] * 2}).values
    )
    assert (docs.window.inserts, docs.window.updates, docs.window.deletes) == (1, 1, 0)


def test_a_row_takes_from_its_earlier_state_what_was_not_sent_again() -> None:
    docs = StreamDocs()
    docs.update(id=1, title="a", v=[1, 2, 3])
    docs.update(id=1, title="b", w=None)
    row = changed(docs, 1).row
    assert row[TITLE] == b"b"
    assert row[V] == field_of("v", [1, 2, 3])
    assert row[W] is None


def test_a_value_that_never_came_stays_unchanged() -> None:
    docs = StreamDocs()
    docs.update(id=1, title="a")
    assert changed(docs, 1).row[V] is UNCHANGED
    assert changed(docs, 1).moved_from is None


def test_a_row_inserted_again_takes_nothing_from_the_deleted_one() -> None:
    docs = StreamDocs()
    docs.insert(id=1, title="a", v=[1, 2, 3])
    docs.delete(1)
    assert gone(docs, 1)
    docs.insert(id=1, title="b")
    assert changed(docs, 1).row[V] is None


def test_the_transaction_of_the_last_change_is_kept() -> None:
    docs = StreamDocs()
    docs.insert(id=1)
    docs.xid = 701
    docs.update(id=1)
    assert changed(docs, 1).xid == 701


def test_a_changed_key_leaves_the_old_point_and_remembers_it() -> None:
    docs = StreamDocs()
    docs.update(id=2, old=1, title="a")
    assert gone(docs, 1)
    assert changed(docs, 2).moved_from == 1
    assert changed(docs, 2).row[V] is UNCHANGED


def test_a_chain_of_keys_remembers_the_first() -> None:
    docs = StreamDocs()
    docs.update(id=2, old=1)
    docs.update(id=3, old=2)
    assert gone(docs, 1) and gone(docs, 2)
    assert changed(docs, 3).moved_from == 1


def test_a_moved_row_keeps_what_came_before_its_move() -> None:
    docs = StreamDocs()
    docs.insert(id=1, v=[1, 2, 3], w=[4, 5])
    docs.update(id=2, old=1, title="a")
    assert changed(docs, 2).row[V] == field_of("v", [1, 2, 3])


def test_a_change_after_a_move_keeps_where_the_row_came_from() -> None:
    docs = StreamDocs()
    docs.update(id=2, old=1)
    docs.update(id=2, title="later")
    assert changed(docs, 2).moved_from == 1


def test_two_rows_that_swap_keys_know_each_others_points() -> None:
    docs = StreamDocs()
    docs.update(id=99, old=1, title="one")
    docs.update(id=1, old=2, title="two")
    docs.update(id=2, old=99, title="one")
    assert (changed(docs, 1).moved_from, changed(docs, 2).moved_from) == (2, 1)
    assert gone(docs, 99)
    assert changed(docs, 2).row[TITLE] == b"one"


def test_a_row_that_comes_back_to_its_key_is_not_trusted_to_be_its_point() -> None:
    docs = StreamDocs()
    docs.update(id=2, old=1)
    docs.update(id=1, old=2)
    assert changed(docs, 1).moved_from == 1  # so it is read again: see `Changed`


def test_a_whole_old_row_supplies_what_was_not_sent() -> None:
    docs = StreamDocs(identity="f")
    docs.update(old={"id": 1, "title": "a", "v": [1, 2, 3], "w": None}, id=2, title="b")
    row = changed(docs, 2).row
    assert row[V] == field_of("v", [1, 2, 3])
    assert row[W] is None
    assert row[TITLE] == b"b"
    assert gone(docs, 1)


def test_an_old_key_supplies_a_key_that_was_not_sent_and_nothing_else() -> None:
    """A long text key is TOASTed as well: the new row says `unchanged`, the old key has it."""
    docs = StreamDocs()
    docs.update(old=1, id=UNCHANGED, title=UNCHANGED)
    assert list(docs.window.states) == [1]
    row = changed(docs, 1).row
    assert row[0] == field_of("id", 1)
    assert row[TITLE] is UNCHANGED  # NULL in the old key, whatever it was


def test_a_deleted_row_without_its_key_stops() -> None:
    docs = StreamDocs()
    with pytest.raises(StopError) as caught:
        docs.delete(None)
    assert caught.value.code == "REPLICA_IDENTITY"
    assert "REPLICA IDENTITY" in caught.value.hint


def test_a_changed_row_without_its_key_stops() -> None:
    docs = StreamDocs()
    with pytest.raises(StopError) as caught:
        docs.update(id=UNCHANGED)
    assert caught.value.code == "REPLICA_IDENTITY"


def test_a_row_with_a_null_in_its_key_is_set_aside() -> None:
    docs = StreamDocs(identity="f")
    docs.insert(id=None, title="a")
    assert docs.window.states == {}
    ((_table, reason),) = docs.window.flaws
    assert "NULL in the key" in reason


def test_a_row_whose_key_becomes_null_loses_its_point() -> None:
    docs = StreamDocs(identity="f")
    docs.update(old={"id": 1, "v": [1, 2, 3]}, id=None)
    assert gone(docs, 1)
    assert len(docs.window.flaws) == 1


def test_a_row_whose_key_was_null_gets_a_point_and_its_delete_means_nothing() -> None:
    docs = StreamDocs(identity="f")
    docs.update(old={"id": None, "v": [1, 2, 3]}, id=1)
    assert changed(docs, 1).moved_from is None
    docs.delete(None, whole=True)
    assert list(docs.window.states) == [1]


def test_the_size_counts_both_rows_of_a_change() -> None:
    row = tuple_of([b"x" * 1000, None, UNCHANGED])
    assert size_of(row) >= 1000
    assert size_of(row, row) - size_of(row) == 1000
    assert size_of(row, None) == size_of(row)
