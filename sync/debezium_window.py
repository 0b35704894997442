"""Messages of several partitions -> windows, each ready to be applied. Pure; the clock is given.

A message has all of its row, so within a window the last one about a key counts, and nothing is taken
over from the ones before it: what it does not tell was not told by them for sure either. A key is always
in one partition, so its messages come in order; a window may hold any number of partitions.

A truncate is a barrier: it ends the window before it and is alone in its own. A message that cannot be
read becomes a dead letter, under its row's key if that much can be read, else under its own place. A
window's dead letters lie before its changes, so one about a row that the window has ends the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bridge.errors import Unstorable
from bridge.plan import DeadLetter
from bridge.point_ids import PointId
from bridge.positions import KafkaPosition
from bridge.schema import Table
from sync.debezium import Happened, Reader, Record, Unreadable
from sync.debezium_rows import TableRows
from sync.kafka_partition import Partition
from sync.tables import Row, StreamTable
from sync.window import Changed, Gone, TableWindow
from sync.windows import Limits

SEEN = -1
"""In place of a transaction: rows of a snapshot are visible to everybody."""
UNKNOWN = 0
"""The message does not tell its transaction."""

_OVERHEAD_BYTES = 300


class Tables(Protocol):
    """Which table a message is about."""

    def rows(self, topic: str, told: Happened) -> TableRows:
        """How to read this message's row."""

    def table(self, topic: str) -> TableRows:
        """The topic's table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptied:
    """A table was truncated, by the message at this place; `whole`: not just one of its partitions."""

    label: str
    partition: Partition
    lsn: int | None
    whole: bool = True


@dataclass(slots=True)
class KafkaWindow:
    """What is applied at once. `offsets`: the next one of each partition that it has messages of.

    `lsns`: of changed rows, by table and point, as far as they are known. `changed_at_ms`: by
    partition, when its last change happened in Postgres.
    """

    opened_at: float
    tables: dict[str, TableWindow] = field(default_factory=dict)
    lsns: dict[str, dict[PointId, int]] = field(default_factory=dict)
    offsets: dict[Partition, int] = field(default_factory=dict)
    changed_at_ms: dict[Partition, int] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    emptied: Emptied | None = None
    operations: int = 0
    size_bytes: int = 0

    @property
    def empty(self) -> bool:
        """Whether no message is in it."""
        return not self.offsets


class Collector:
    """Takes messages in the order of their partitions and hands out windows."""

    def __init__(
        self,
        limits: Limits,
        tables: Tables,
        *,
        reader: Reader | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._tables = tables
        self._reader = reader or Reader()
        self._clock = clock
        self._window = KafkaWindow(clock())
        self._closed: list[KafkaWindow] = []

    def add(self, record: Record) -> None:
        """Take one message. StopError if it cannot be gone on."""
        partition = Partition(record.topic, record.partition)
        if self._window.empty:
            self._window.opened_at = self._clock()
        told: Happened | None = None
        try:
            told = self._reader.read(record)
            if told is not None and told.kind == "truncate":
                self._truncate(record, partition, told)
                return
            if told is not None:
                self._change(record, told)
        except Unreadable as flaw:
            self._set_aside(record, told, str(flaw))
        window = self._window
        window.offsets[partition] = record.offset + 1
        window.changed_at_ms[partition] = told.changed_at_ms if told else record.timestamp_ms
        window.operations += 1
        window.size_bytes += _OVERHEAD_BYTES + len(record.value or b"")
        limits = self._limits
        if window.operations >= limits.operations or window.size_bytes >= limits.size_bytes:
            self._close()

    def take(self) -> list[KafkaWindow]:
        """Windows that are full, oldest first."""
        closed, self._closed = self._closed, []
        return closed

    def due_in(self) -> float | None:
        """Seconds until what has been collected should be written; None if there is nothing."""
        if self._window.empty:
            return None
        return max(0.0, self._window.opened_at + self._limits.seconds - self._clock())

    def flush(self) -> list[KafkaWindow]:
        """All that has been collected, whatever the limits."""
        self._close()
        return self.take()

    def drop(self) -> None:
        """Forget what has been collected: it is read again, here or elsewhere."""
        self._window, self._closed = KafkaWindow(self._clock()), []

    def _close(self) -> None:
        if not self._window.empty:
            self._closed.append(self._window)
            self._window = KafkaWindow(self._clock())

    def _truncate(self, record: Record, partition: Partition, told: Happened) -> None:
        table = self._tables.rows(record.topic, told).table
        self._close()
        window = self._window
        window.opened_at = self._clock()
        window.emptied = Emptied(
            label=table.relation.label,
            partition=partition,
            lsn=told.lsn,
            whole=_is_whole(table.mapping.table, told),
        )
        window.offsets[partition] = record.offset + 1
        window.changed_at_ms[partition] = told.changed_at_ms
        self._close()

    def _change(self, record: Record, told: Happened) -> None:
        rows = self._tables.rows(record.topic, told)
        table = rows.table
        label = table.relation.label
        row = rows.key(told) if told.kind == "delete" else rows.row(told)
        changes = self._window.tables.get(label)
        if changes is not None and not _same_layout(changes, table):
            # The table has changed; what it was and what it is are not mixed.
            offsets = dict(self._window.offsets)
            self._close()
            self._window.offsets, changes = offsets, None
        if changes is None:
            changes = self._window.tables[label] = TableWindow()
        try:
            identity = table.id_of(row)
        except Unstorable as flaw:
            raise Unreadable(flaw.message) from flaw
        xid = _xid(told)
        if told.kind == "delete":
            changes.states[identity] = Gone(table, table.letter_key(row), xid)
            self._window.lsns.get(label, {}).pop(identity, None)
            return
        changes.states[identity] = Changed(table, row, xid)
        if told.lsn is not None:
            self._window.lsns.setdefault(label, {})[identity] = told.lsn

    def _set_aside(self, record: Record, told: Happened | None, reason: str) -> None:
        """A letter named by its row if the key can be read, so that the row's next change supersedes
        it, and not an earlier one."""
        place = KafkaPosition(topic=record.topic, partition=record.partition, offset=record.offset)
        table = self._tables.table(record.topic).table
        label, key = table.relation.label, str(place)
        row = self._key_row(record, told)
        if row is not None:
            try:
                key, identity = table.letter_key(row), table.id_of(row)
            except Unstorable:
                pass
            else:
                changes = self._window.tables.get(label)
                if changes is not None and identity in changes.states:
                    self._close()
        self._window.letters.append(
            DeadLetter(table=label, key=key, reason=reason, position=str(place))
        )

    def _key_row(self, record: Record, told: Happened | None) -> Row | None:
        found = told or self._key_alone(record)
        if found is None:
            return None
        try:
            return self._tables.table(record.topic).key(found)
        except (Unreadable, Unstorable):
            return None

    def _key_alone(self, record: Record) -> Happened | None:
        try:
            return self._reader.read_key(record)
        except Unreadable:
            return None


def _same_layout(changes: TableWindow, table: StreamTable) -> bool:
    state = next(iter(changes.states.values()), None)
    return state is None or state.table is table


def _is_whole(table: Table, told: Happened) -> bool:
    """Whether all of the table was emptied. Of a partitioned one, only its own name says so."""
    if not table.partitions or told.table_name is None:
        return not table.partitions
    return (told.schema_name or table.schema, told.table_name) == (table.schema, table.name)


def _xid(told: Happened) -> int:
    if told.kind == "read":
        return SEEN
    return UNKNOWN if told.xid is None else told.xid & 0xFFFFFFFF
