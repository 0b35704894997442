"""Events of one connection -> windows, each ready to be applied. Pure; the clock is given.

A window closes when it holds enough operations or bytes, or is old enough; before a truncate and after
it; and where a table of ours is announced again. That it then looks the same says nothing: a column may
have been dropped and another one of that name added, whose values must not mix. A window may close in
the middle of a transaction: its rows are written then, but its checkpoint is the end of the last
transaction that it holds whole, if any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.errors import StopError
from bridge.events import Begin, Commit, Delete, Insert, Relation, Truncate, Update
from bridge.mapping import Form, TableMapping
from bridge.positions import Lsn
from sync.tables import StreamTable
from sync.window import TableWindow, size_of

_NOWHERE = Lsn(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a window closes: at the first of them."""

    operations: int
    size_bytes: int
    seconds: float


@dataclass(slots=True)
class Window:
    """What is applied at once. `truncated`: tables to be emptied by transaction `truncating_xid`, and
    then nothing else is in it.

    `checkpoint` is None if no transaction ends in it. `bound`: a log that ends before it lacks a
    transaction whose changes are in the window.
    """

    opened_at: float
    tables: dict[int, TableWindow] = field(default_factory=dict)
    truncated: tuple[int, ...] = ()
    truncating_xid: int = 0
    checkpoint: Lsn | None = None
    bound: Lsn = _NOWHERE
    commit_time_microseconds: int = 0
    operations: int = 0
    size_bytes: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is neither a change in it nor an end of a transaction."""
        return not self.tables and not self.truncated and self.checkpoint is None


class WindowBuilder:
    """Takes events in order and hands out windows.

    `mapping_of` gives the mapping of a relation that was just announced (it may look into the
    catalog, and stops if the change cannot be followed), or None for a table that is not ours.
    """

    def __init__(
        self,
        limits: Limits,
        mapping_of: Callable[[Relation], TableMapping | None],
        *,
        binary: bool,
        clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._mapping_of = mapping_of
        self._form: Form = "binary" if binary else "text"
        self._clock = clock
        self._tables: dict[int, StreamTable | None] = {}
        self._xid = 0
        self._bound = _NOWHERE
        self._window = Window(clock())
        self._closed: list[Window] = []
        self.in_transaction = False

    def add(self, event: object) -> None:
        """Take one event."""
        if isinstance(event, Insert | Update | Delete):
            self._change(event)
        elif isinstance(event, Begin):
            self._xid, self.in_transaction = event.xid, True
            self._bound = Lsn(event.final_lsn.value + 1)  # its commit's record begins before that
        elif isinstance(event, Commit):
            self.in_transaction = False
            self._open()
            self._window.checkpoint = event.end_lsn
            self._window.commit_time_microseconds = event.commit_time_microseconds
        elif isinstance(event, Relation):
            self._announce(event)
        elif isinstance(event, Truncate):
            self._truncate(event)
        if self._full():
            self._close()

    def take(self) -> list[Window]:
        """Windows that are full, oldest first."""
        closed, self._closed = self._closed, []
        return closed

    def due_in(self) -> float | None:
        """Seconds until what has been collected should be written; None if there is nothing."""
        if self._window.empty:
            return None
        return max(0.0, self._window.opened_at + self._limits.seconds - self._clock())

    def flush(self) -> list[Window]:
        """All that has been collected, whatever the limits."""
        if not self._window.empty:
            self._close()
        return self.take()

    @property
    def bound(self) -> Lsn:
        """`Window.bound` of the last transaction that has begun."""
        return self._bound

    @property
    def idle(self) -> bool:
        """Whether nothing is collected and no transaction is under way."""
        return self._window.empty and not self._closed and not self.in_transaction

    def _full(self) -> bool:
        window, limits = self._window, self._limits
        return window.operations >= limits.operations or window.size_bytes >= limits.size_bytes

    def _open(self) -> None:
        """Something comes into the window: its time begins if it is the first."""
        if self._window.empty:
            self._window.opened_at = self._clock()

    def _close(self) -> None:
        self._closed.append(self._window)
        self._window = Window(self._clock())

    def _announce(self, relation: Relation) -> None:
        known = self._tables.get(relation.oid)
        if relation.oid in self._window.tables:
            self._close()
        mapping = self._mapping_of(relation)
        if mapping is None:
            self._tables[relation.oid] = None
            return
        forms = [self._form] * len(relation.columns)
        if known is not None and known.relation == relation:
            forms = list(known.forms)
        self._tables[relation.oid] = StreamTable(mapping, relation, forms)

    def _change(self, event: Insert | Update | Delete) -> None:
        oid = event.relation.oid
        if oid not in self._tables:
            raise StopError(
                f"a change of {event.relation.label} came before its columns",
                code="PROTOCOL",
            )
        table = self._tables[oid]
        if table is None:
            return
        row = event.old if isinstance(event, Delete) else event.row
        old = event.old if isinstance(event, Update) else None
        for sent in (row, old):
            if sent is not None and not table.agrees(sent):
                if oid in self._window.tables:
                    self._close()  # what is taken over from earlier rows must have one form
                table = self._tables[oid] = table.in_forms_of(sent)
        self._open()
        changes = self._window.tables.setdefault(oid, TableWindow())
        if isinstance(event, Insert):
            changes.insert(table, event, self._xid)
        elif isinstance(event, Update):
            changes.update(table, event, self._xid)
        else:
            changes.delete(table, event, self._xid)
        self._window.bound = self._bound
        self._window.operations += 1
        self._window.size_bytes += size_of(row, old)

    def _truncate(self, event: Truncate) -> None:
        oids = tuple(r.oid for r in event.relations if self._tables.get(r.oid) is not None)
        if not oids:
            return
        if not self._window.empty:
            self._close()
        self._open()
        self._window.truncated = oids
        self._window.truncating_xid = self._xid
        self._window.bound = self._bound
        self._window.operations += 1
        self._close()

    def table(self, oid: int) -> StreamTable:
        """The table of a window's changes, as it is now."""
        table = self._tables[oid]
        assert table is not None  # noqa: S101 - only tables of ours get into a window
        return table
