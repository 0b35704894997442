"""Windows of a consumer group's process -> points. In the writing thread, one after the other.

    1. messages that could not be read become dead letters
    2. a truncate is carried out or noted (`debezium_truncate.py`)
    3. rows that were not told whole are read again (`debezium_reread.py`)
    4. `Applier` writes them; the target is flushed

When `apply` returns everything in the window is durable, or a dead letter that is stored; then, and not
before, its offsets may be committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from bridge.errors import StopError
from bridge.events import Read
from bridge.failpoints import failpoint
from bridge.mapping import TableMapping
from bridge.qdrant.collections import compare
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from bridge.retry import Retry
from bridge.stream_state import TableCounts
from bridge.writer import Writer
from sync.apply import Applied, Applier
from sync.debezium_reread import NoSource, VisibleSource, WithoutPostgres, fill
from sync.debezium_truncate import Truncates
from sync.debezium_window import KafkaWindow
from sync.letters import Letters
from sync.tables import Row, StreamTable, binary_vectors, known
from sync.window import Changed, TableWindow


class Tables(Protocol):
    """How a table maps, by its label."""

    def mapping(self, label: str) -> TableMapping:
        """As it is now."""


@dataclass(slots=True)
class Written:
    """What became of a window: counts by table, and how many rows were read again."""

    tables: dict[str, TableCounts] = field(default_factory=dict)
    read_again: int = 0


class WindowWriter:
    """`topics_of`: the topics of a table, by its label."""

    def __init__(
        self,
        *,
        target: Target,
        source: VisibleSource | NoSource,
        retry: Retry,
        letters: Letters,
        truncates: Callable[[WindowWriter], Truncates],
        tables: Tables,
        topics_of: Mapping[str, list[str]],
        ordering: str,
        without_postgres: WithoutPostgres,
    ) -> None:
        self._target = target
        self._source = source
        self._retry = retry
        self._letters = letters
        self._tables = tables
        self.topics_of = topics_of
        self._without_postgres = without_postgres
        self._ordering = ordering
        self._applier = Applier(target, source, retry=retry, ordering=ordering)
        self.truncates = truncates(self)

    def apply(self, window: KafkaWindow) -> Written:
        """Write a window."""
        written = Written()
        self._letters.refresh()
        for letter in window.letters:
            self._letters.settle(letter.table, [letter], ())
        if window.emptied is not None and self.truncates.empty(window.emptied):
            self._letters.forget_rows(window.emptied.label)
        position = _position(window)
        for label, changes in window.tables.items():
            before = self.truncates.before(label, self.topics_of[label])
            if before is not None:
                changes = _since(changes, window, label, before)
            self._write(label, changes, position, written)
        self._target.flush()
        failpoint("sync.after_flush")
        return written

    def write_rows(self, label: str, changes: TableWindow, position: str) -> Applied:
        """Write rows that were read from Postgres; durable, or dead letters, on return."""
        self._know_letters()
        applied = self._apply(label, changes, position)
        self._target.flush()
        return applied

    def forget(self, label: str, keys: Sequence[str]) -> None:
        """Drop the dead letters of rows that are gone."""
        self._know_letters()
        self._letters.settle(label, (), keys)

    def _know_letters(self) -> None:
        """Those that other processes have set aside, too."""
        self._letters.look_again()
        self._letters.refresh()

    def insert(self, table: StreamTable, rows: Sequence[Row]) -> None:
        """Write rows whose points were removed; points that somebody has written since stay."""
        mapping = table.mapping
        read = Read(
            table=mapping.table.label,
            rows=[binary_vectors(table, known(row)) for row in rows],
            position="",
        )
        points, letters = table.layout.points(read)
        encode = partial(
            encode_upsert, mapping.collection.name, ordering=self._ordering, mode="insert_only"
        )
        writer = Writer(encode=encode, send=self._target.send, retry=self._retry)
        writer.write(points)
        writer.drain()
        keys = {table.id_of(row): table.key_texts(row) for row in rows}
        for item in writer.take_refused():
            letters.append(mapping.dead_letter(keys[item.point.id], item.reason, ""))
        self._letters.settle(mapping.table.label, letters, ())
        self._target.flush()

    def require_collection(self, label: str) -> None:
        """StopError `TARGET_CHANGED` if the table's collection is gone, or does not fit any more."""
        spec = self._tables.mapping(label).collection
        state = self._target.collection(spec.name)
        if state is None:
            raise _target_changed(f"the collection {spec.name} is gone")
        differences = compare(spec, state)
        if differences:
            raise _target_changed(
                f"the collection {spec.name} was changed: {'; '.join(differences)}"
            )

    def _write(self, label: str, changes: TableWindow, position: str, written: Written) -> None:
        filled = fill(changes, self._source, self._retry, position, self._without_postgres)
        written.read_again += filled.read
        self._letters.settle(label, filled.letters, ())
        applied = self._apply(label, filled.changes, position)
        written.tables[label] = written.tables.get(label, TableCounts()).plus(
            upserts=applied.upserts, patches=applied.patches, deletes=applied.deletes
        )

    def _apply(self, label: str, changes: TableWindow, position: str) -> Applied:
        applied = self._applier.apply(changes, position, self._letters.set_aside(label))
        if applied.letters:
            # Points that are refused because the collection is another one by now are no flaws of rows.
            self._retry.call(partial(self.require_collection, label))
        self._letters.settle(label, applied.letters, applied.settled)
        return applied


def _position(window: KafkaWindow) -> str:
    """Where the window lies, for dead letters: up to which offset, of its first partition."""
    for partition, offset in window.offsets.items():
        return f"{partition}@{offset}"
    return ""


def _since(changes: TableWindow, window: KafkaWindow, label: str, lsn: int) -> TableWindow:
    """The changes without those from before a truncate; removals are right whenever they come."""
    lsns = window.lsns.get(label, {})
    states = {
        identity: state
        for identity, state in changes.states.items()
        if not isinstance(state, Changed) or lsns.get(identity, lsn) >= lsn
    }
    return replace(changes, states=states)


def _target_changed(message: str) -> StopError:
    return StopError(
        message,
        code="TARGET_CHANGED",
        hint="it is not made again by itself: make it fit, or copy the tables again under another "
        "pipeline name",
    )
