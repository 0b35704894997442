"""A window of changes: what it comes down to for each point. Pure.

Changes are coalesced by point, in their order, as rows: a later row replaces an earlier one, and takes
from it what the source did not send again (unchanged TOAST). So each point of a window is mapped,
read again and written once, and its requests may run at once.

    Insert            the row
    Update            the row; what it lacks from the old tuple or from the window, if they have it
    Update of a key   the old point goes; the row under its new id, as above
    Delete            the point goes
    Truncate          a barrier: it ends the window before it and is alone in its own

What is left unsent after that is in `Changed.row` as UNCHANGED, and `apply.py` decides what becomes of
it. All rows of a window have one shape: `windows.py` ends a window where a table's columns or their
forms change, so a value is never taken over into a column that only has the old one's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.errors import StopError, Unstorable
from bridge.events import UNCHANGED, Delete, Insert, TupleData, Update
from bridge.point_ids import PointId
from sync.tables import Row, StreamTable


@dataclass(frozen=True, slots=True)
class Changed:
    """The last state of a row. `xid` is its transaction's; `moved_from` the point that it was when the
    window began, if its key changed since. It may be the same one again: after a crash another row
    may have been written there in between, so that point's vectors are not to be relied on."""

    table: StreamTable
    row: Row
    xid: int
    moved_from: PointId | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The row is not there any more. `key`: as dead letters name it. `xid` is its transaction's."""

    table: StreamTable
    key: str
    xid: int


State = Changed | Gone


@dataclass(slots=True)
class TableWindow:
    """The changes of one table, coalesced. Counts are of changes as they came.

    `flaws`: why rows have no id (a NULL in their key), which makes them dead letters.
    """

    states: dict[PointId, State] = field(default_factory=dict)
    flaws: list[tuple[StreamTable, str]] = field(default_factory=list)
    inserts: int = 0
    updates: int = 0
    deletes: int = 0

    def insert(self, table: StreamTable, event: Insert, xid: int) -> None:
        """A new row."""
        self.inserts += 1
        self._put(table, event.row.values, xid)

    def update(self, table: StreamTable, event: Update, xid: int) -> None:
        """A changed row, perhaps under another key."""
        self.updates += 1
        row = event.row.values
        before: PointId | None = None
        if event.old is not None:
            old = event.old.values
            row = _filled(row, _trusted(table, old) if event.old_is_key else old)
            before = table.id_of(old) if table.has_key(old) else None
        identity = table.id_of(row) if table.has_key(row) else None
        origin = identity if before is None else before
        earlier = None if origin is None else self.states.get(origin)
        moved: PointId | None = None
        if isinstance(earlier, Changed):
            row, moved = _filled(row, earlier.row), earlier.moved_from
        if before is not None and before != identity:
            assert event.old is not None  # noqa: S101 - `before` came from it
            self.states[before] = Gone(table, table.letter_key(event.old.values), xid)
            moved = before if moved is None else moved
        self._put(table, row, xid, moved)

    def delete(self, table: StreamTable, event: Delete, xid: int) -> None:
        """A row that is gone."""
        self.deletes += 1
        row = event.old.values
        if table.has_key(row):
            self.states[table.id_of(row)] = Gone(table, table.letter_key(row), xid)
        elif event.old_is_key:
            raise _without_key(table, "a deleted row")
        # Else the row's key was NULL: there never was a point.

    def _put(
        self, table: StreamTable, row: Row, xid: int, moved_from: PointId | None = None
    ) -> None:
        if table.lacks_key(row):
            raise _without_key(table, "a changed row")
        try:
            identity = table.id_of(row)
        except Unstorable as flaw:
            self.flaws.append((table, flaw.message))
            return
        self.states[identity] = Changed(table, row, xid, moved_from)


def _filled(row: Row, earlier: Row) -> Row:
    """The row with what it lacks taken from an earlier state of it."""
    if UNCHANGED not in row:
        return row
    return tuple(old if new is UNCHANGED else new for new, old in zip(row, earlier, strict=True))


def _trusted(table: StreamTable, old: Row) -> Row:
    """An old key without the columns that are no part of it: they are NULL, whatever they were."""
    return tuple(
        value if is_key else UNCHANGED
        for value, is_key in zip(old, table.relation.key, strict=True)
    )


def _without_key(table: StreamTable, what: str) -> StopError:
    return StopError(
        f"{what} of {table.relation.label} came without its key",
        code="REPLICA_IDENTITY",
        table=table.relation.label,
        hint="the replica identity must cover the key: "
        f"ALTER TABLE {table.relation.label} REPLICA IDENTITY DEFAULT",
    )


def size_of(*rows: TupleData | None) -> int:
    """About what a change's rows hold in memory, in bytes."""
    return 200 + sum(bytes_of(row.values) for row in rows if row is not None)


def bytes_of(row: Row) -> int:
    """The bytes of the values that were sent."""
    size = 0
    for value in row:
        if isinstance(value, bytes):
            size += len(value)
    return size
