"""A window's row states -> writes, in the order that keeps every point right (design.md section 6).

    1. rows that left `where` are gone; rows whose `where` cannot be judged are read again
    2. rows sent whole become points; rows that only lack vectors become patches of points that exist
    3. everything else, and patches of points that do not exist, is read again from Postgres: what the
       event brought counts, only what it lacks comes from the row
    4. points and patches are written, the requests of a window at once: its keys are distinct
    5. then points are removed, so that a row whose key changed is never missing in between

Whatever cannot be stored becomes a dead letter; the point stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from bridge.errors import RateLimited, Rejected, Unstorable
from bridge.events import UNCHANGED, Field, Read
from bridge.failpoints import failpoint
from bridge.plan import DeadLetter, Patch, Point
from bridge.point_ids import PointId
from bridge.postgres.predicate import RowFilter
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from bridge.retry import Retry
from bridge.writer import Writer
from sync.tables import Row, StreamTable, binary_vectors, known
from sync.window import Changed, Gone, TableWindow

POINTS_A_REQUEST = 256
PATCHES_A_REQUEST = 250
PATCH_REQUESTS_AT_ONCE = 4
REQUEST_BYTES = 4 * 1024 * 1024


class Source(Protocol):
    """Where rows are read again."""

    def read(self, table: StreamTable, keys: Sequence[Sequence[str]], xids: set[int]) -> list[Row]:
        """The rows with these keys that there are, all of these transactions visible."""


@dataclass(slots=True)
class Applied:
    """What became of a window of one table."""

    upserts: int = 0
    patches: int = 0
    deletes: int = 0
    letters: list[DeadLetter] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    whole: dict[PointId, Changed] = field(default_factory=dict)
    patches: dict[PointId, Changed] = field(default_factory=dict)
    reread: dict[PointId, Changed] = field(default_factory=dict)
    removes: list[PointId] = field(default_factory=list)


class Applier:
    """Applies windows to one target. Runs in a thread of its own, one window at a time."""

    def __init__(
        self,
        target: Target,
        source: Source,
        *,
        retry: Retry,
        ordering: str = "weak",
        refused_limit: int = 1000,
    ) -> None:
        self._target = target
        self._source = source
        self._retry = retry
        self._ordering = ordering
        self._refused_limit = refused_limit

    def apply(self, window: TableWindow, row_filter: RowFilter | None, position: str) -> Applied:
        """Write one table's changes; returns when all of them are durable or dead letters."""
        applied = Applied()
        plan = _classify(window, row_filter)
        self._demote_missing(plan)
        self._read_again(plan, row_filter)
        failpoint("sync.before_write")
        collection = _collection(window)
        self._write_points(collection, plan.whole, position, applied)
        self._write_patches(collection, plan.patches, position, applied)
        if plan.removes:
            self._retry.call(lambda: self._remove(collection, plan.removes))
            applied.deletes += len(plan.removes)
        failpoint("sync.after_write")
        return applied

    def _remove(self, collection: str, ids: Sequence[PointId]) -> None:
        for start in range(0, len(ids), 1000):
            self._target.delete(collection, ids[start : start + 1000])

    # --- reading -------------------------------------------------------------------------------

    def _demote_missing(self, plan: _Plan) -> None:
        """Patches of points that are not there: their rows are read again, vectors included."""
        if not plan.patches:
            return
        collection = next(iter(plan.patches.values())).table.mapping.collection.name
        ids = list(plan.patches)
        there = self._retry.call(lambda: self._target.existing(collection, ids))
        for identity in ids:
            if identity not in there:
                plan.reread[identity] = plan.patches.pop(identity)

    def _read_again(self, plan: _Plan, row_filter: RowFilter | None) -> None:
        by_table: dict[int, dict[PointId, Changed]] = {}
        tables: dict[int, StreamTable] = {}
        for identity, changed in plan.reread.items():
            by_table.setdefault(id(changed.table), {})[identity] = changed
            tables[id(changed.table)] = changed.table
        for number, states in by_table.items():
            table = tables[number]
            keys = [table.key_texts(changed.row) for changed in states.values()]
            xids = {changed.xid for changed in states.values()}
            read = partial(self._source.read, table, keys, xids)
            found = {table.id_of(row): row for row in self._retry.call(read)}
            for identity, changed in states.items():
                row = found.get(identity)
                if row is None:
                    continue  # it is gone and visible so: its delete follows
                filled = tuple(
                    old if new is UNCHANGED else new
                    for new, old in zip(changed.row, row, strict=True)
                )
                whole = Changed(table, filled, changed.xid)
                if row_filter is not None and not _matches(row_filter, whole):
                    plan.removes.append(identity)
                else:
                    plan.whole[identity] = whole

    # --- writing -------------------------------------------------------------------------------

    def _write_points(
        self,
        collection: str,
        states: Mapping[PointId, Changed],
        position: str,
        applied: Applied,
    ) -> None:
        if not states:
            return
        keys: dict[PointId, tuple[StreamTable, list[str]]] = {}
        writer = Writer(
            encode=lambda points: encode_upsert(collection, points, ordering=self._ordering),
            send=self._target.send,
            retry=self._retry,
            refused_limit=self._refused_limit,
        )
        for table, rows in _by_layout(states.values()):
            for batch in _batches(rows):
                points, letters = _points(table, batch, position)
                applied.letters += letters
                for point, row in zip(points, _kept(table, batch, letters), strict=True):
                    keys[point.id] = (table, table.key_texts(row))
                writer.write(points)
        writer.drain()
        refused = {}
        for item in writer.take_refused():
            table, texts = keys[item.point.id]
            applied.letters.append(table.mapping.dead_letter(texts, item.reason, position))
            refused[item.point.id] = True
        applied.upserts += writer.written
        applied.written += [
            table.mapping.dead_letter(texts, "", "").key
            for identity, (table, texts) in keys.items()
            if identity not in refused
        ]

    def _write_patches(
        self,
        collection: str,
        states: Mapping[PointId, Changed],
        position: str,
        applied: Applied,
    ) -> None:
        if not states:
            return
        todo: list[tuple[Patch, StreamTable, Row]] = []
        for table, rows in _by_layout(states.values()):
            for batch in _batches(rows):
                points, letters = _points(table, batch, position)
                applied.letters += letters
                for point, row in zip(points, _kept(table, batch, letters), strict=True):
                    todo.append((_patch(table, row, point), table, row))
        parts = [
            todo[start : start + PATCHES_A_REQUEST]
            for start in range(0, len(todo), PATCHES_A_REQUEST)
        ]
        with ThreadPoolExecutor(PATCH_REQUESTS_AT_ONCE, "patch") as pool:
            for outcome in pool.map(
                lambda part: self._patch_some(collection, part, position), parts
            ):
                applied.patches += outcome.patches
                applied.letters += outcome.letters
                applied.written += outcome.written

    def _patch_some(
        self,
        collection: str,
        part: Sequence[tuple[Patch, StreamTable, Row]],
        position: str,
    ) -> Applied:
        patches = [patch for patch, _table, _row in part]
        keys = [t.mapping.dead_letter(t.key_texts(row), "", "").key for _p, t, row in part]
        try:
            self._retry.call(lambda: self._patch_once(collection, patches))
        except (Rejected, Unstorable, _TooLarge) as error:
            if len(part) > 1:
                half = len(part) // 2
                left = self._patch_some(collection, part[:half], position)
                right = self._patch_some(collection, part[half:], position)
                return Applied(
                    patches=left.patches + right.patches,
                    letters=left.letters + right.letters,
                    written=left.written + right.written,
                )
            _, table, row = part[0]
            reason = str(error)
            letter = table.mapping.dead_letter(table.key_texts(row), reason, position)
            return Applied(letters=[letter])
        return Applied(patches=len(part), written=keys)

    def _patch_once(self, collection: str, patches: Sequence[Patch]) -> None:
        try:
            self._target.patch(collection, patches)
        except RateLimited as error:
            if len(patches) > 1:
                raise _TooLarge(str(error)) from None
            raise


class _TooLarge(Exception):
    """The server's limiter takes no batch of this size; smaller ones wait as it says."""


def _collection(window: TableWindow) -> str:
    state = next(iter(window.states.values()))
    return state.table.mapping.collection.name


def _classify(window: TableWindow, row_filter: RowFilter | None) -> _Plan:
    plan = _Plan()
    for identity, state in window.states.items():
        if isinstance(state, Gone):
            plan.removes.append(identity)
            continue
        table = state.table
        unsent = table.unchanged(state.row)
        judged = row_filter is not None and not unsent & table.where_fields
        if judged and row_filter is not None and not _matches(row_filter, state):
            plan.removes.append(identity)
            continue
        if not unsent:
            plan.whole[identity] = state
        elif unsent <= table.vector_fields and state.moved_from is None:
            plan.patches[identity] = state
        else:
            plan.reread[identity] = state
    return plan


def _matches(row_filter: RowFilter, state: Changed) -> bool:
    return row_filter.matches(state.table.values_for_where(state.row))


def _by_layout(states: Iterable[Changed]) -> list[tuple[StreamTable, list[Row]]]:
    groups: dict[int, tuple[StreamTable, list[Row]]] = {}
    for state in states:
        groups.setdefault(id(state.table), (state.table, []))[1].append(state.row)
    return list(groups.values())


def _batches(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in requests bounded by number and bytes."""
    batches: list[list[Row]] = []
    current: list[Row] = []
    size = 0
    for row in rows:
        current.append(row)
        size += sum(len(field) for field in row if isinstance(field, bytes))
        if len(current) >= POINTS_A_REQUEST or size >= REQUEST_BYTES:
            batches.append(current)
            current, size = [], 0
    if current:
        batches.append(current)
    return batches


def _points(
    table: StreamTable, rows: Sequence[Row], position: str
) -> tuple[list[Point], list[DeadLetter]]:
    converted: list[Sequence[Field]] = []
    letters: list[DeadLetter] = []
    for row in rows:
        try:
            converted.append(binary_vectors(table, known(row)))
        except Unstorable as flaw:
            letters.append(table.mapping.dead_letter(table.key_texts(row), flaw.message, position))
    read = Read(table=table.mapping.table.label, rows=converted, position=position)
    points, more = table.layout.points(read)
    return points, letters + more


def _kept(table: StreamTable, rows: Sequence[Row], letters: Sequence[DeadLetter]) -> list[Row]:
    """The rows that became points: those that are no dead letters."""
    if not letters:
        return list(rows)
    bad = {letter.key for letter in letters}
    return [
        row
        for row in rows
        if table.mapping.dead_letter(table.key_texts(row), "", "").key not in bad
    ]


def _patch(table: StreamTable, row: Row, point: Point) -> Patch:
    cleared = frozenset(
        column.spec.name
        for column in table.layout.vectors
        if row[column.index] is not UNCHANGED and column.spec.name not in point.vectors
    )
    return Patch(point.id, point.payload, point.vectors, cleared)
