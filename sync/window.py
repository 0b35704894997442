"""A window of changes: what it comes down to for each point. Pure.

Changes are coalesced by point, in their order, as rows: a later row replaces an earlier one, and takes
from it what the source did not send again (unchanged TOAST). So each point of a window is mapped,
read again and written once, and its requests may run at once.

    Insert            the row
    Update            the row; what it lacks from the old tuple or from the window, if they have it
    Update of a key   the old point goes; the row under its new id, as above
    Delete            the point goes
    Truncate          a barrier: it ends the window before it and is alone in its own

What is left unsent after that is in `Changed.row` as UNCHANGED, and `sync/resolve.py` decides what
becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.errors import StopError
from bridge.events import UNCHANGED, Delete, Insert, StreamField, TupleData, Update
from bridge.point_ids import PointId
from sync.tables import Row, StreamTable


@dataclass(frozen=True, slots=True)
class Changed:
    """The last state of a row. `xid` is its transaction's; `moved_from` the point it was before."""

    table: StreamTable
    row: Row
    xid: int
    moved_from: PointId | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The row is not there any more."""

    table: StreamTable


State = Changed | Gone


@dataclass(slots=True)
class TableWindow:
    """The changes of one table, coalesced. Counts are of changes as they came."""

    states: dict[PointId, State] = field(default_factory=dict)
    inserts: int = 0
    updates: int = 0
    deletes: int = 0

    def insert(self, table: StreamTable, event: Insert, xid: int) -> None:
        """A new row."""
        self.inserts += 1
        row = event.row.values
        self.states[table.id_of(row)] = Changed(table, row, xid)

    def update(self, table: StreamTable, event: Update, xid: int) -> None:
        """A changed row, perhaps under another key."""
        self.updates += 1
        row = event.row.values
        if event.old is not None and not event.old_is_key:
            row = _filled(row, event.old.values)
        before = _old_id(table, row, event.old)
        if before is None:
            row = self._with_earlier(table, table.id_of(row), row)
            identity = table.id_of(row)
            earlier = self.states.get(identity)
            moved = earlier.moved_from if isinstance(earlier, Changed) else None
            self.states[identity] = Changed(table, row, xid, moved)
            return
        earlier = self.states.get(before)
        row = self._with_earlier(table, before, row)
        identity = table.id_of(row)
        origin = earlier.moved_from if isinstance(earlier, Changed) else None
        self.states[before] = Gone(table)
        self.states[identity] = Changed(table, row, xid, before if origin is None else origin)

    def delete(self, table: StreamTable, event: Delete) -> None:
        """A row that is gone."""
        self.deletes += 1
        row = event.old.values
        if not table.has_key(row):
            raise StopError(
                f"a deleted row of {table.relation.label} came without its key",
                code="REPLICA_IDENTITY",
                table=table.relation.label,
                hint="the replica identity must cover the key: "
                f"ALTER TABLE {table.relation.label} REPLICA IDENTITY DEFAULT",
            )
        self.states[table.id_of(row)] = Gone(table)

    def _with_earlier(self, table: StreamTable, identity: PointId, row: Row) -> Row:
        earlier = self.states.get(identity)
        if isinstance(earlier, Changed) and earlier.table is table:
            return _filled(row, earlier.row)
        return row


def _filled(row: Row, earlier: Row) -> Row:
    """The row with what it lacks taken from an earlier state of it."""
    if UNCHANGED not in row:
        return row
    return tuple(old if new is UNCHANGED else new for new, old in zip(row, earlier, strict=True))


def _old_id(table: StreamTable, row: Row, old: TupleData | None) -> PointId | None:
    """The id under which the row was before, if it was another one."""
    if old is None or not table.has_key(old.values):
        return None
    before = table.id_of(old.values)
    if not table.has_key(row):
        return None
    return None if before == table.id_of(row) else before


def size_of(row: TupleData) -> int:
    """About what a row holds in memory, in bytes."""
    return 200 + sum(_length(value) for value in row.values)


def _length(value: StreamField) -> int:
    return len(value) if isinstance(value, bytes) else 0
