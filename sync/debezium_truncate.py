"""A TRUNCATE in a topic: in order where there is one partition, settled with Postgres where there are more.

The message lies in one partition and says nothing of the order against rows in the others. So:

    1. its position in Postgres' log is recorded, and where every partition of the table's topics ends at
       that moment
    2. from then on, changes from before that position are dropped wherever they still come from; every
       process looks at the record before each window
    3. once every partition has been applied up to where it ended, all points without a row in Postgres
       are removed (`debezium_sweep.py`)

Where only a part of the table was emptied (one of its partitions), or its rows come in several topics,
nothing is cleared and nothing is dropped by position, since other rows are as they were: 1 and 3 only.
Such a truncate is settled once more whenever a partition is read again from before its end (after a
crash, or a rewind): rows that were removed come back with it. Whoever takes the partition says so in
the record (`reopen`) before he reads, and a sweep that began before that does not count (`token`).

What a crash leaves is the record; the owner of the message's partition goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

from bridge.errors import StopError
from bridge.kafka_state import PartitionState, Records
from bridge.postgres.connection import Connection, connect
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry
from sync.debezium_sweep import Rows, SourceRows, Sweep
from sync.debezium_tables import TopicTables
from sync.debezium_window import Emptied
from sync.kafka_partition import Partition
from sync.tables import Row, StreamTable

_PREFIX = "truncate/"
WAIT_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncateNote:
    """The record. `ends`: where each partition of the table's topics ended when the message was seen.
    `whole`: whether changes from before it do not count."""

    label: str
    lsn: int
    topic: str
    partition: int
    ends: Mapping[str, tuple[int, ...]]
    whole: bool = True
    done: bool = False
    token: str = ""

    @property
    def name(self) -> str:
        """The record's. Of a part each place has its own, so that nobody writes over another's."""
        place = "" if self.whole else f"/{self.topic}/{self.partition}"
        return f"{_PREFIX}{self.label}{place}"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TruncateNote:
        """The inverse of `asdict`."""
        ends = record["ends"]
        if not isinstance(ends, Mapping):  # of the message's topic alone, as it once was
            ends = {record["topic"]: ends} if ends else {}
        return cls(**{**record, "ends": {topic: tuple(found) for topic, found in ends.items()}})

    def concerns(self, partition: Partition, offset: int) -> bool:
        """Whether reading this partition from here may bring rows back that it had removed."""
        if self.whole:
            return False  # dropped by their position
        ends = self.ends.get(partition.topic, ())
        return not self.ends or (partition.number < len(ends) and ends[partition.number] > offset)


def concerned(store: Records, partition: Partition, offset: int) -> list[TruncateNote]:
    """The truncates that have to be settled once more if this partition is read from here."""
    found = [
        TruncateNote.from_record(record)
        for name, record in store.records("stream")
        if name.startswith(_PREFIX)
    ]
    return [note for note in found if note.concerns(partition, offset)]


def reopen(store: QdrantState, notes: Sequence[TruncateNote]) -> None:
    """They are not settled, whatever is under way. The partition's record must tell already that
    it is read from there."""
    for note in notes:
        store.put("stream", note.name, asdict(replace(note, done=False, token=_token())))


def _token() -> str:
    return uuid4().hex


@dataclass(frozen=True, slots=True)
class _Sweeping:
    notes: Sequence[TruncateNote]
    rows: Rows
    sweep: Sweep
    steps: Iterator[bool]


class Truncates:
    """Those of one process. `ends_of` asks Kafka where the partitions of a topic end; `insert` writes
    rows whose points are not there. All of it belongs to the writing thread."""

    def __init__(
        self,
        tables: TopicTables,
        *,
        target: Target,
        store: QdrantState,
        retry: Retry,
        postgres_url: str | None,
        allow_plaintext: bool,
        ends_of: Callable[[str], Sequence[int]],
        partitions: Mapping[str, int],
        topics_of: Mapping[str, Sequence[str]],
        insert: Callable[[StreamTable, Sequence[Row]], None],
        tell: Callable[..., None],
        check: Callable[[Connection], None] = lambda connection: None,
        open_rows: Callable[[], Rows] | None = None,
    ) -> None:
        self._tables = tables
        self._target = target
        self._store = store
        self._retry = retry
        self._ends_of = ends_of
        self._partitions = partitions
        self._topics_of = topics_of
        self._insert = insert
        self._tell = tell
        self._open_rows = open_rows
        self._awaited: dict[str, set[int]] = {}
        self._sweeping: _Sweeping | None = None
        if postgres_url is not None:

            def open_source() -> Rows:
                # Writable, as `PageReader` has it.
                connection = connect(postgres_url, allow_plaintext=allow_plaintext, read_only=False)
                try:
                    check(connection)
                    return SourceRows(connection)
                except BaseException:
                    connection.close()
                    raise

            self._open_rows = open_source

    def empty(self, emptied: Emptied) -> bool:
        """Carry it out, or note that it is to be settled; whether the table's points are gone now."""
        mapping, label = self._tables.mapping(emptied.label), emptied.label
        self._require_owned(label, mapping.collection.name)
        topics = self._topics_of[label]
        whole = emptied.whole and len(topics) == 1
        if whole and self._partitions[emptied.partition.topic] == 1:
            self._retry.call(partial(self._target.clear, mapping.collection.name))
            return True
        if self._open_rows is None or (whole and emptied.lsn is None):
            raise _unordered(label)
        note = TruncateNote(
            label=label,
            lsn=emptied.lsn or 0,
            topic=emptied.partition.topic,
            partition=emptied.partition.number,
            ends={},
            whole=whole,
            token=_token(),
        )
        known = self._note(note.name)
        if whole and known is not None and known.lsn >= note.lsn:
            return False  # it came twice
        self._save(note)
        # Whatever comes behind these ends is read by somebody who sees the note.
        self._save(replace(note, ends=self._retry.call(lambda: self._ends(label))))
        self._tell("truncate_noted", table=label)
        return False

    @property
    def open_rows(self) -> Callable[[], Rows] | None:
        """How Postgres is asked; None without its url."""
        return self._open_rows

    def before(self, label: str, topics: Sequence[str]) -> int | None:
        """Changes of the table from before this position do not count; None if all do."""
        if len(topics) > 1 or self._partitions[topics[0]] == 1:
            return None
        note = self._note(f"{_PREFIX}{label}")
        return None if note is None else note.lsn

    def may_wait(self) -> bool:
        """Whether there can be any that are to be settled."""
        return self._open_rows is not None and any(
            len(topics) > 1
            or any(self._partitions[topic] > 1 for topic in topics)
            or bool(self._tables.mapping(label).table.partitions)
            for label, topics in self._topics_of.items()
        )

    def settle(
        self, owned: set[Partition], partitions: Callable[[], Sequence[PartitionState]]
    ) -> float | None:
        """A bounded piece of carrying out what is due of those whose partition is ours: the seconds
        after which the next piece makes sense, None if nothing is due."""
        sweeping = self._sweeping
        if sweeping is not None:
            if all(Partition(note.topic, note.partition) in owned for note in sweeping.notes):
                return self._advance(sweeping)
            self.give_up()
        due: dict[str, list[TruncateNote]] = {}
        for name, record in list(self._store.records("stream")):
            if not name.startswith(_PREFIX):
                continue
            note = TruncateNote.from_record(record)
            if note.done or Partition(note.topic, note.partition) not in owned:
                continue
            if not (note.ends and note.token):
                ends = note.ends or self._ends(note.label)
                note = replace(note, ends=ends, token=_token())
                self._save(note)
            # Read behind the note: who reopens it says before where he reads.
            if _passed(note, partitions()):
                due.setdefault(note.label, []).append(note)
        for notes in due.values():
            if self._begin_sweep(notes):
                return 0.0
        return None

    def _ends(self, label: str) -> dict[str, tuple[int, ...]]:
        return {topic: tuple(self._ends_of(topic)) for topic in self._topics_of[label]}

    def _note(self, name: str) -> TruncateNote | None:
        record = self._retry.call(partial(self._store.get, "stream", name))
        return None if record is None else TruncateNote.from_record(record)

    def _save(self, note: TruncateNote) -> None:
        self._retry.call(partial(self._store.put, "stream", note.name, asdict(note)))

    def _require_owned(self, label: str, collection: str) -> None:
        owner = self._retry.call(partial(self._store.get, "owner", collection)) or {}
        if int(owner.get("found_points", 0)) and not self._tables.settings(label).owns_collection:
            raise StopError(
                f"{label} was truncated, but the collection {collection} also holds points of other "
                "origin",
                code="TRUNCATE_SHARED",
                table=label,
                hint="set owns_collection: true for the table if all of them may go",
            )

    # --- points without a row ------------------------------------------------------------------

    def _begin_sweep(self, notes: Sequence[TruncateNote]) -> bool:
        """One goes for all that are due of a table; whether it has begun."""
        table = self._tables.table(notes[0].topic).table
        assert self._open_rows is not None  # noqa: S101 - there is no note without it
        rows = self._open_rows()
        try:
            rows.require(table.mapping.table)
            if not self._visible(notes, rows):
                rows.close()
                return False
        except BaseException:
            rows.close()
            raise
        sweep = self.sweep(table, rows)
        self._sweeping = _Sweeping(notes, rows, sweep, sweep.steps())
        return True

    def sweep(self, table: StreamTable, rows: Rows, may_go: bool = True) -> Sweep:
        """One of a table, not begun."""
        return Sweep(
            table, rows, self._target, retry=self._retry, insert=self._insert, may_go=may_go
        )

    def _advance(self, sweeping: _Sweeping) -> float:
        try:
            at_once = next(sweeping.steps, None)
        except BaseException:
            self.give_up()
            raise
        if at_once is not None:
            return 0.0 if at_once else WAIT_SECONDS
        self.give_up()
        if all([self._mark_done(note) for note in sweeping.notes]):
            label = sweeping.notes[0].label
            self._tell("truncate_settled", table=label, removed=sweeping.sweep.removed)
        return 0.0

    def _mark_done(self, note: TruncateNote) -> bool:
        """Unless somebody has reopened it meanwhile; then it is gone through again."""
        self._awaited.pop(f"{note.name}@{note.lsn}", None)
        done = asdict(replace(note, done=True))
        put = partial(self._store.put_if, "stream", note.name, done, matching={"token": note.token})
        stored = self._retry.call(put)
        return stored is not None and stored["token"] == note.token

    def give_up(self) -> None:
        """A sweep that is under way is begun again by whoever has the partition."""
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.rows.close()

    def _visible(self, notes: Sequence[TruncateNote], rows: Rows) -> bool:
        """Whether others see the truncates: whatever was under way when they were due has ended."""
        now = rows.in_progress()
        return not any(
            now & self._awaited.setdefault(f"{note.name}@{note.lsn}", set(now)) for note in notes
        )


def _passed(note: TruncateNote, partitions: Sequence[PartitionState]) -> bool:
    """Whether everything that was there has been applied, by whomever."""
    offsets = {(state.topic, state.partition): state.offset for state in partitions}
    return all(
        offsets.get((topic, number), 0) >= end
        for topic, ends in note.ends.items()
        for number, end in enumerate(ends)
    )


def _unordered(label: str) -> StopError:
    return StopError(
        f"{label} was truncated, and its rows lie in several partitions or topics, or only a part of it "
        "was: there is no order between the truncate and the other rows",
        code="TRUNCATE_UNORDERED",
        table=label,
        hint="give the bridge a postgres.url, so that it can look which rows there are; or let the table "
        "have one topic with one partition",
    )
