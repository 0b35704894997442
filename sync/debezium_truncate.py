"""A TRUNCATE in a topic: in order where there is one partition, settled with Postgres where there are more.

The message lies in one partition and says nothing of the order against rows in the others. So:

    1. its position in Postgres' log is recorded, and where every partition ends at that moment
    2. from then on, changes from before that position are dropped wherever they still come from; every
       process looks at the record before each window
    3. once every partition has been applied up to where it ended, all points without a row in Postgres
       are removed
    4. those of them whose row is there by now are written again: it was inserted in between

Between 3 and 4 nothing is lost for good: a row that was inserted before the second look is found by it,
one that was inserted later comes in the topic after the removal. What a crash leaves is the record; the
owner of the message's partition goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bridge.errors import StopError
from bridge.events import UNCHANGED, Field
from bridge.kafka_state import PartitionState
from bridge.point_ids import PointId
from bridge.postgres.connection import connect
from bridge.postgres.pages import PageReader, Stretch
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry
from sync.debezium_tables import TopicTables
from sync.debezium_window import SEEN, Emptied
from sync.kafka_partition import Partition
from sync.tables import StreamTable
from sync.window import Changed, TableWindow

_PREFIX = "truncate/"
_KEYS_A_PAGE = 20_000
_IDS_A_PAGE = 2_000
_PAGE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncateNote:
    """The record. `ends`: where each partition of the topic ended when the message was seen."""

    label: str
    lsn: int
    topic: str
    partition: int
    ends: tuple[int, ...]
    done: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TruncateNote:
        """The inverse of `asdict`."""
        return cls(**{**record, "ends": tuple(record["ends"])})


class Truncates:
    """Those of one process. `ends_of` asks Kafka where the partitions of a topic end; `write` applies
    rows. All of it belongs to the writing thread."""

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
        write: Callable[[str, TableWindow], None],
        tell: Callable[..., None],
    ) -> None:
        self._tables = tables
        self._target = target
        self._store = store
        self._retry = retry
        self._postgres_url = postgres_url
        self._allow_plaintext = allow_plaintext
        self._ends_of = ends_of
        self._partitions = partitions
        self._write = write
        self._tell = tell

    def empty(self, emptied: Emptied) -> None:
        """Carry it out, or note that it is to be settled."""
        mapping = self._tables.mapping(emptied.label)
        self._require_owned(emptied.label, mapping.collection.name)
        topic = emptied.partition.topic
        if self._partitions[topic] == 1:
            self._retry.call(partial(self._target.clear, mapping.collection.name))
            return
        if self._postgres_url is None or emptied.lsn is None:
            raise StopError(
                f"{emptied.label} was truncated, and its topic has {self._partitions[topic]} partitions: "
                "there is no order between the truncate and rows in the others",
                code="TRUNCATE_UNORDERED",
                table=emptied.label,
                hint="give the bridge a postgres.url, so that it can look which rows there are; or let "
                "the topic have one partition",
            )
        note = TruncateNote(
            label=emptied.label,
            lsn=emptied.lsn,
            topic=topic,
            partition=emptied.partition.number,
            ends=(),
        )
        known = self._note(emptied.label)
        if known is not None and known.lsn >= note.lsn:
            return  # it came twice
        self._save(note)
        # Whatever comes behind these ends is read by somebody who sees the note.
        ends = self._retry.call(lambda: tuple(self._ends_of(topic)))
        self._save(TruncateNote(**{**asdict(note), "ends": ends}))
        self._tell("truncate_noted", table=emptied.label)

    def before(self, label: str, topics: Sequence[str]) -> int | None:
        """Changes of the table from before this position do not count; None if all do."""
        if all(self._partitions[topic] == 1 for topic in topics):
            return None
        note = self._note(label)
        return None if note is None else note.lsn

    def settle(self, owned: set[Partition], partitions: Sequence[PartitionState]) -> None:
        """Carry out what is due of those whose partition is ours."""
        for name, record in list(self._store.records("stream")):
            if not name.startswith(_PREFIX):
                continue
            note = TruncateNote.from_record(record)
            if note.done or Partition(note.topic, note.partition) not in owned:
                continue
            if not note.ends:
                ends = tuple(self._ends_of(note.topic))
                note = TruncateNote(**{**asdict(note), "ends": ends})
                self._save(note)
            if _passed(note, partitions):
                self._sweep(note)

    def _note(self, label: str) -> TruncateNote | None:
        record = self._retry.call(partial(self._store.get, "stream", f"{_PREFIX}{label}"))
        return None if record is None else TruncateNote.from_record(record)

    def _save(self, note: TruncateNote) -> None:
        put = partial(self._store.put, "stream", f"{_PREFIX}{note.label}", asdict(note))
        self._retry.call(put)

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

    def _sweep(self, note: TruncateNote) -> None:
        table = self._tables.table(note.topic).table
        collection = table.mapping.collection.name
        assert self._postgres_url is not None  # noqa: S101 - there is no note without it
        reader = PageReader(
            connect(self._postgres_url, allow_plaintext=self._allow_plaintext, read_only=False)
        )
        try:
            there = {table.id_of(_wide(table, row)) for row in self._keys(reader, table)}
            removed: set[PointId] = set()
            for ids in self._points(collection):
                extra = [identity for identity in ids if identity not in there]
                if extra:
                    self._retry.call(partial(self._target.delete, collection, extra))
                    removed.update(extra)
            self._restore(reader, table, removed)
        finally:
            reader.close()
        self._save(TruncateNote(**{**asdict(note), "done": True}))
        self._tell("truncate_settled", table=note.label, removed=len(removed))

    def _points(self, collection: str) -> Iterator[list[PointId]]:
        following: PointId | None = None
        while True:
            scroll = partial(
                self._target.scroll,
                collection,
                after=following,
                limit=_IDS_A_PAGE,
                with_payload=False,
            )
            points, following = self._retry.call(scroll)
            yield [point.id for point in points]
            if following is None:
                return

    def _restore(self, reader: PageReader, table: StreamTable, removed: set[PointId]) -> None:
        """The second look: rows of points that were just removed."""
        if not removed:
            return
        changes = TableWindow()
        for row in self._keys(reader, table):
            wide = _wide(table, row)
            identity = table.id_of(wide)
            if identity in removed:
                changes.states[identity] = Changed(table, wide, SEEN)
        if changes.states:
            self._write(table.relation.label, changes)

    def _keys(self, reader: PageReader, table: StreamTable) -> Iterator[Sequence[Field]]:
        """The keys of every row that counts, in the layout's forms."""
        mapping = table.mapping
        selection = [table.layout.selection[index] for index in table.key_fields]
        after: tuple[str, ...] | None = None
        while True:
            page = reader.page(
                mapping.table,
                selection,
                mapping.key_columns,
                Stretch(after=after),
                dict(mapping.where),
                usable=lambda snapshot: True,
                rows=_KEYS_A_PAGE,
                size_bytes=_PAGE_BYTES,
            )
            if page is None:
                continue  # locked for a moment
            yield from page.rows
            if page.ended or not page.rows:
                return
            after = tuple(table.key_texts(_wide(table, page.rows[-1])))


def _wide(table: StreamTable, key: Sequence[Field]) -> tuple[Any, ...]:
    """A key in the layout of rows; the rest is UNCHANGED."""
    row: list[Any] = [UNCHANGED] * len(table.relation.columns)
    for index, value in zip(table.key_fields, key, strict=True):
        row[index] = value
    return tuple(row)


def _passed(note: TruncateNote, partitions: Sequence[PartitionState]) -> bool:
    """Whether everything that was there has been applied, by whomever."""
    offsets = {state.partition: state.offset for state in partitions if state.topic == note.topic}
    return all(offsets.get(number, 0) >= end for number, end in enumerate(note.ends))
