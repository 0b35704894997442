"""When a window of the stream closes, and where its checkpoint lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from bridge.errors import StopError
from bridge.events import Begin, Commit, Delete, Insert, Relation, Truncate, Update
from bridge.mapping import TableMapping
from bridge.positions import Lsn
from sync.window import Changed
from sync.windows import Limits, Window, WindowBuilder
from tests.support.stream_rows import COLUMNS, docs_mapping, relation_of, row_of, tuple_of

FOREIGN = 999
MAPPING = docs_mapping()
DOCS = relation_of(MAPPING)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stream:
    """A builder and what it is told; `mapped` logs the relations that a mapping was asked for."""

    def __init__(self, *, operations: int = 100, size_bytes: int = 10**9, binary: bool = True):
        self.clock = Clock()
        self.mapped: list[Relation] = []
        self.builder = WindowBuilder(
            Limits(operations=operations, size_bytes=size_bytes, seconds=0.05),
            self._mapping_of,
            binary=binary,
            clock=self.clock,
        )
        self.lsn = 100

    def _mapping_of(self, relation: Relation) -> TableMapping | None:
        self.mapped.append(relation)
        return None if relation.oid == FOREIGN else MAPPING

    def begin(self, xid: int = 7) -> None:
        self.lsn += 10
        self.builder.add(
            Begin(xid=xid, final_lsn=Lsn(self.lsn), commit_time_microseconds=self.lsn * 1000)
        )

    def commit(self) -> Lsn:
        end = Lsn(self.lsn + 5)
        self.builder.add(
            Commit(commit_lsn=Lsn(self.lsn), end_lsn=end, commit_time_microseconds=self.lsn * 1000)
        )
        return end

    def announce(self, relation: Relation = DOCS) -> None:
        self.builder.add(relation)

    def insert(self, *ids: int, relation: Relation = DOCS) -> None:
        for identity in ids:
            self.builder.add(Insert(relation=relation, row=row_of({"id": identity})))

    def truncate(self, *relations: Relation) -> None:
        self.builder.add(Truncate(relations=relations or (DOCS,)))


def begun(**options: int) -> Stream:
    """A stream inside of a transaction, with `docs` announced."""
    stream = Stream(**options)  # type: ignore[arg-type]
    stream.begin()
    stream.announce()
    return stream


def ids(window: Window) -> list[object]:
    return [identity for table in window.tables.values() for identity in table.states]


def checkpoints(windows: Iterable[Window]) -> list[Lsn | None]:
    return [window.checkpoint for window in windows]


# --- limits ---------------------------------------------------------------------------------------


def test_a_window_closes_when_it_holds_enough_operations() -> None:
    stream = begun(operations=2)
    stream.insert(1, 2, 3)
    (window,) = stream.builder.take()
    assert ids(window) == [1, 2]
    assert [ids(w) for w in stream.builder.flush()] == [[3]]


def test_operations_count_as_they_came_not_as_they_are_coalesced() -> None:
    """Else one row changed a million times would never be written."""
    stream = begun(operations=2)
    stream.insert(1, 1)
    assert len(stream.builder.take()) == 1


def test_a_window_closes_when_it_holds_enough_bytes() -> None:
    stream = begun(size_bytes=500)
    stream.insert(1)
    assert stream.builder.take() == []
    stream.insert(2, 3)
    assert len(stream.builder.take()) == 1


def test_old_rows_count_as_bytes_too() -> None:
    stream = Stream(size_bytes=1000)
    stream.begin()
    full = replace(DOCS, replica_identity="f", key=(True,) * len(COLUMNS))
    stream.announce(full)
    old = row_of({"id": 1, "title": "x" * 900})
    update = Update(relation=full, row=row_of({"id": 1}), old=old, old_is_key=False)
    stream.builder.add(update)
    assert len(stream.builder.take()) == 1


def test_a_window_is_due_once_it_is_old_enough() -> None:
    stream = begun()
    assert stream.builder.due_in() is None
    stream.clock.now += 60  # idle for long: the window's time begins with its first change
    stream.insert(1)
    assert stream.builder.due_in() == pytest.approx(0.05)
    stream.clock.now += 0.04
    stream.insert(2)
    assert stream.builder.due_in() == pytest.approx(0.01)
    stream.clock.now += 1
    assert stream.builder.due_in() == 0.0
    assert len(stream.builder.flush()) == 1
    assert stream.builder.due_in() is None


def test_an_end_without_changes_is_not_due_at_once() -> None:
    """Transactions of other tables come by the thousand; each saved alone would cost more than it."""
    stream = Stream()
    stream.clock.now += 60
    stream.begin()
    stream.commit()
    assert stream.builder.due_in() == pytest.approx(0.05)


# --- checkpoints ----------------------------------------------------------------------------------


def test_the_checkpoint_is_the_end_of_the_last_whole_transaction() -> None:
    stream = begun()
    stream.insert(1)
    stream.commit()
    stream.begin()
    stream.insert(2)
    end = stream.commit()
    (window,) = stream.builder.flush()
    assert window.checkpoint == end
    assert window.commit_time_microseconds == stream.lsn * 1000


def test_a_transaction_that_goes_on_has_no_checkpoint_of_its_own() -> None:
    stream = begun(operations=2)
    stream.insert(1, 2, 3, 4, 5)
    end = stream.commit()
    assert checkpoints(stream.builder.take()) == [None, None]
    assert checkpoints(stream.builder.flush()) == [end]


def test_a_window_with_half_a_transaction_keeps_the_checkpoint_before_it() -> None:
    stream = begun(operations=3)
    stream.insert(1)
    first = stream.commit()
    stream.begin()
    stream.insert(2, 3, 4)
    second = stream.commit()
    (window,) = stream.builder.take()
    assert (ids(window), window.checkpoint) == ([1, 2, 3], first)
    assert checkpoints(stream.builder.flush()) == [second]


def test_a_window_may_hold_nothing_but_an_end() -> None:
    stream = begun(operations=1)
    stream.insert(1)
    end = stream.commit()
    assert checkpoints(stream.builder.take()) == [None]
    (window,) = stream.builder.flush()
    assert (window.checkpoint, window.tables) == (end, {})


def test_changes_carry_the_transaction_that_they_belong_to() -> None:
    stream = begun()
    stream.insert(1)
    stream.commit()
    stream.begin(xid=8)
    stream.insert(2)
    (window,) = stream.builder.flush()
    states = window.tables[DOCS.oid].states
    assert [s.xid for s in states.values() if isinstance(s, Changed)] == [7, 8]


# --- barriers -------------------------------------------------------------------------------------


def test_a_truncate_is_alone_in_its_window() -> None:
    stream = begun()
    stream.insert(1)
    stream.truncate()
    stream.insert(2)
    end = stream.commit()
    before, truncate, after = stream.builder.flush()
    assert (ids(before), before.truncated, before.checkpoint) == ([1], (), None)
    assert (ids(truncate), truncate.truncated, truncate.checkpoint) == ([], (DOCS.oid,), None)
    assert (ids(after), after.truncated, after.checkpoint) == ([2], (), end)


def test_a_truncate_of_tables_that_are_not_ours_is_nothing() -> None:
    stream = begun()
    foreign = replace(DOCS, oid=FOREIGN, name="foreign")
    stream.announce(foreign)
    stream.insert(1)
    stream.truncate(foreign)
    stream.insert(2)
    assert [ids(w) for w in stream.builder.flush()] == [[1, 2]]


def test_of_several_truncated_tables_ours_count() -> None:
    stream = begun()
    foreign = replace(DOCS, oid=FOREIGN, name="foreign")
    stream.announce(foreign)
    stream.truncate(foreign, DOCS)
    (window,) = stream.builder.flush()
    assert window.truncated == (DOCS.oid,)


def test_a_table_that_is_announced_again_ends_the_window_even_if_it_looks_the_same() -> None:
    """A column was dropped and one of the same name added: the old value must not come back."""
    stream = begun()
    big = {"id": 1, "title": "the dropped column's"}
    stream.builder.add(Insert(relation=DOCS, row=row_of(big)))
    stream.announce()
    unsent = row_of({"id": 1}, absent=None)
    stream.builder.add(Update(relation=DOCS, row=unsent, old=None, old_is_key=False))
    before, after = stream.builder.flush()
    assert ids(before) == ids(after) == [1]
    assert stream.mapped == [DOCS, DOCS]


def test_a_changed_table_ends_the_window_and_is_laid_out_anew() -> None:
    stream = begun()
    stream.insert(1)
    shorter = replace(
        DOCS,
        columns=DOCS.columns[:3] + DOCS.columns[4:],
        type_oids=DOCS.type_oids[:3] + DOCS.type_oids[4:],
        type_modifiers=DOCS.type_modifiers[:3] + DOCS.type_modifiers[4:],
        key=DOCS.key[:3] + DOCS.key[4:],
    )
    stream.announce(shorter)
    fields = row_of({"id": 2}).values
    row = tuple_of(fields[:3] + fields[4:])
    stream.builder.add(Insert(relation=shorter, row=row))
    before, after = stream.builder.flush()
    assert (ids(before), ids(after)) == ([1], [2])
    (state,) = after.tables[DOCS.oid].states.values()
    assert "lang" not in {f.column for f in state.table.layout.payload}


def test_a_table_that_is_announced_before_its_first_change_ends_nothing() -> None:
    stream = begun()
    stream.insert(1)
    other = replace(DOCS, oid=FOREIGN, name="foreign")
    stream.announce(other)
    stream.insert(7, relation=other)
    stream.insert(2)
    assert [ids(w) for w in stream.builder.flush()] == [[1, 2]]


def test_values_of_one_column_in_two_forms_do_not_mix() -> None:
    stream = begun()
    stream.insert(1)
    fields = row_of({"id": 2, "title": "x"}).values
    kinds = "".join("t" if name == "title" else "b" for name in COLUMNS)
    stream.builder.add(Insert(relation=DOCS, row=replace(tuple_of(fields), kinds=kinds.encode())))
    before, after = stream.builder.flush()
    assert (ids(before), ids(after)) == ([1], [2])
    (state,) = after.tables[DOCS.oid].states.values()
    assert dict(zip(COLUMNS, state.table.forms, strict=True))["title"] == "text"
    # What the forms are is remembered when the same table is announced again.
    stream.announce()
    stream.builder.add(Insert(relation=DOCS, row=replace(tuple_of(fields), kinds=kinds.encode())))
    stream.builder.add(Delete(relation=DOCS, old=row_of({"id": 2}), old_is_key=True))
    assert len(stream.builder.flush()) == 1


def test_a_change_without_a_relation_stops() -> None:
    stream = Stream()
    stream.begin()
    with pytest.raises(StopError) as caught:
        stream.insert(1)
    assert caught.value.code == "PROTOCOL"


# --- idle -----------------------------------------------------------------------------------------


def test_idle_means_that_nothing_is_pending_and_no_transaction_under_way() -> None:
    stream = Stream()
    builder = stream.builder
    assert builder.idle
    stream.begin()
    assert not builder.idle
    stream.announce()
    stream.insert(1)
    assert not builder.idle
    stream.commit()
    assert not builder.idle  # its end is not saved yet
    assert len(builder.flush()) == 1
    assert builder.idle


def test_a_closed_window_that_was_not_taken_is_pending() -> None:
    stream = begun(operations=1)
    stream.insert(1)
    stream.builder.add(Commit(commit_lsn=Lsn(1), end_lsn=Lsn(2), commit_time_microseconds=0))
    assert not stream.builder.idle
    stream.builder.take()
    assert not stream.builder.idle
    stream.builder.flush()
    assert stream.builder.idle


# --- what may have been written -------------------------------------------------------------------


def test_a_log_without_the_commit_of_a_windows_changes_ends_before_its_bound() -> None:
    """Half a transaction counts as its commit: a log that ends in between has aborted it."""
    stream = begun(operations=2)
    stream.insert(1, 2, 3)
    (half,) = stream.builder.take()
    commit_begins = stream.lsn
    end = stream.commit()
    (rest,) = stream.builder.flush()
    assert half.bound == rest.bound
    assert Lsn(commit_begins) < half.bound <= end


def test_a_window_without_changes_of_ours_bounds_nothing() -> None:
    stream = Stream()
    stream.begin()
    stream.commit()
    (window,) = stream.builder.flush()
    assert window.bound == Lsn(0)


def test_a_truncate_counts_as_a_change() -> None:
    stream = begun()
    stream.truncate()
    (window,) = [w for w in stream.builder.take() if w.truncated]
    assert window.bound > Lsn(stream.lsn)
