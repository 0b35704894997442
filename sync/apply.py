"""A window's row states -> writes, in the order that keeps every point right (design.md section 6).

    1. rows that left `where` are gone; rows whose `where` cannot be judged are read again
    2. rows sent whole become points; rows that only lack vectors become patches of points that exist
    3. everything else, and patches of points that do not exist, is read again from Postgres: what the
       event brought counts, only what it lacks comes from the row. If the row is gone, its delete
       follows; if its key changed, the point that it was lends its vectors until then
    4. points and patches are written, the requests of a window at once: its keys are distinct
    5. then points are removed, so that a row whose key changed is never missing in between

Whatever cannot be stored becomes a dead letter; the point stays what it was.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from bridge.errors import StopError, Unstorable
from bridge.events import UNCHANGED, Field, Read
from bridge.failpoints import failpoint
from bridge.payload_fields import fields_rule, owns_whole_points
from bridge.plan import DeadLetter, Fields, Patch, Point, Vector
from bridge.point_ids import PointId
from bridge.qdrant.wire import encode_upsert
from bridge.qdrant.wire_fields import encode_field_updates
from bridge.retry import Retry
from bridge.writer import Pending, Writer
from sync.patches import Patched, Patches, PatchWriter
from sync.tables import Row, StreamTable, binary_vectors, known
from sync.window import Changed, Gone, TableWindow, bytes_of

POINTS_A_REQUEST = 256
REQUEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Rows that were read again, laid out as the stream's, with UNCHANGED for what was not asked for.

    `lacking`: fields that cannot be read any more, since their column was dropped or changed its type.
    """

    rows: Sequence[Row]
    lacking: frozenset[int] = frozenset()


class Points(Patches, Protocol):
    """What is needed of a `target.Target`."""

    def send(self, request: bytes) -> Pending: ...
    def send_fields(self, request: bytes) -> Pending: ...
    def delete(self, collection: str, ids: Sequence[PointId]) -> None: ...
    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]: ...
    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]: ...


class Source(Protocol):
    """Where rows are read again."""

    def read(
        self,
        table: StreamTable,
        fields: Collection[int],
        keys: Sequence[Sequence[str]],
        xids: Set[int],
    ) -> Found:
        """These fields, and the key, of the rows with these keys that there are; all of these
        transactions are visible in what is read."""


@dataclass(slots=True)
class Applied:
    """What became of a window of one table. `settled`: the keys, as dead letters name them, of rows
    that are stored or gone, which supersedes a dead letter of theirs."""

    upserts: int = 0
    patches: int = 0
    deletes: int = 0
    letters: list[DeadLetter] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    collection: str
    position: str
    whole: dict[PointId, Changed] = field(default_factory=dict)
    patches: dict[PointId, Changed] = field(default_factory=dict)
    reread: dict[PointId, Changed] = field(default_factory=dict)
    inherited: dict[PointId, Mapping[str, Vector]] = field(default_factory=dict)
    rules: dict[PointId, Callable[[Point], Fields]] = field(default_factory=dict)
    removes: dict[PointId, str] = field(default_factory=dict)


class Applier:
    """Applies windows to one target. Runs in a thread of its own, one window at a time."""

    def __init__(
        self,
        target: Points,
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
        self._patches = PatchWriter(target, retry=retry)

    def apply(
        self, window: TableWindow, position: str, set_aside: Container[str] = frozenset()
    ) -> Applied:
        """Write one table's changes; returns when all of them are durable or dead letters.

        `set_aside`: keys of rows that are dead letters. Their points are not what the rows were, so
        a change of such a row is never a patch.
        """
        applied = Applied()
        for table, reason in window.flaws:
            applied.letters.append(table.mapping.dead_letter([], reason, position))
        if not window.states:
            return applied
        first = next(iter(window.states.values()))
        plan = _Plan(first.table.mapping.collection.name, position)
        self._classify(window, plan, set_aside, applied)
        self._demote_missing(plan)
        self._read_again(plan, applied)
        failpoint("sync.before_write")
        self._write_points(plan, applied)
        self._write_patches(plan, applied)
        if plan.removes:
            ids = list(plan.removes)
            self._retry.call(lambda: self._remove(plan.collection, ids))
            applied.deletes += len(ids)
            applied.settled += plan.removes.values()
        failpoint("sync.after_write")
        return applied

    def _remove(self, collection: str, ids: Sequence[PointId]) -> None:
        for start in range(0, len(ids), 1000):
            self._target.delete(collection, ids[start : start + 1000])

    # --- reading -------------------------------------------------------------------------------

    def _classify(
        self, window: TableWindow, plan: _Plan, set_aside: Container[str], applied: Applied
    ) -> None:
        for identity, state in window.states.items():
            if isinstance(state, Gone):
                plan.removes[identity] = state.key
                continue
            table = state.table
            unsent = table.unchanged(state.row)
            if unsent & table.where_fields:
                plan.reread[identity] = state
            elif not self._kept(plan, identity, state, applied):
                continue
            elif not unsent:
                plan.whole[identity] = state
            elif (
                unsent <= table.vector_fields
                and state.moved_from is None
                and table.letter_key(state.row) not in set_aside
            ):
                plan.patches[identity] = state
            else:
                plan.reread[identity] = state

    def _kept(self, plan: _Plan, identity: PointId, state: Changed, applied: Applied) -> bool:
        """Whether `where` keeps the row; else its point goes, or it becomes a dead letter."""
        table = state.table
        try:
            if table.matches(state.row):
                return True
        except Unstorable as flaw:
            texts = table.key_texts(state.row)
            reason = f"where: {flaw.message}"
            applied.letters.append(table.mapping.dead_letter(texts, reason, plan.position))
            return False
        plan.removes[identity] = table.letter_key(state.row)
        return False

    def _demote_missing(self, plan: _Plan) -> None:
        """Patches of points that are not there: their rows are read again, vectors included."""
        if not plan.patches:
            return
        ids = list(plan.patches)
        there = self._retry.call(lambda: self._target.existing(plan.collection, ids))
        for identity in ids:
            if identity not in there:
                plan.reread[identity] = plan.patches.pop(identity)

    def _read_again(self, plan: _Plan, applied: Applied) -> None:
        by_table: dict[int, dict[PointId, Changed]] = {}
        for identity, changed in plan.reread.items():
            by_table.setdefault(id(changed.table), {})[identity] = changed
        for states in by_table.values():
            self._read_again_of(next(iter(states.values())).table, states, plan, applied)

    def _read_again_of(
        self, table: StreamTable, states: Mapping[PointId, Changed], plan: _Plan, applied: Applied
    ) -> None:
        keys = [table.key_texts(changed.row) for changed in states.values()]
        fields = frozenset[int]().union(*(table.unchanged(c.row) for c in states.values()))
        xids = {changed.xid for changed in states.values()}
        read = partial(self._source.read, table, fields, keys, xids)
        found = self._retry.call(read)
        rows = {table.id_of(row): row for row in found.rows}
        _require_readable(table, found.lacking)
        gone: dict[PointId, Changed] = {}
        for identity, changed in states.items():
            row = rows.get(identity)
            if row is None:
                gone[identity] = changed
                continue
            filled = tuple(
                old if new is UNCHANGED else new for new, old in zip(changed.row, row, strict=True)
            )
            omitted = table.unchanged(filled)
            layout = table.without(omitted) if omitted else table
            state = Changed(layout, filled, changed.xid, changed.moved_from)
            if not table.unchanged(changed.row) & table.where_fields or self._kept(
                plan, identity, state, applied
            ):
                plan.whole[identity] = state
        self._take_from_old_points(gone, plan)

    def _take_from_old_points(self, gone: Mapping[PointId, Changed], plan: _Plan) -> None:
        """Rows that are not there any more: their delete, or their next key, follows in the stream.

        One whose key changed is given a point until then, if its old point has the vectors that were
        not sent; so the row is never missing in between.
        """
        moved = {
            identity: changed.moved_from
            for identity, changed in gone.items()
            if changed.moved_from is not None
            and changed.moved_from != identity
            and changed.table.unchanged(changed.row) <= changed.table.vector_fields
        }
        if not moved:
            return
        origins = list(set(moved.values()))
        retrieve = partial(self._target.retrieve, plan.collection, origins, with_vectors=True)
        points = {point.id: point for point in self._retry.call(retrieve)}
        for identity, origin in moved.items():
            old, changed = points.get(origin), gone[identity]
            if old is not None:
                unsent = changed.table.unchanged(changed.row)
                names = {c.spec.name for c in changed.table.layout.vectors if c.index in unsent}
                plan.whole[identity] = changed
                plan.inherited[identity] = {
                    name: vector for name, vector in old.vectors.items() if name in names
                }

    # --- writing -------------------------------------------------------------------------------

    def _write_points(self, plan: _Plan, applied: Applied) -> None:
        if not plan.whole:
            return
        rows_of: dict[PointId, tuple[StreamTable, Row]] = {}
        writer = self._writer(plan)
        try:
            for table, rows in _by_layout(plan.whole.values()):
                for batch in _batches(rows):
                    points, letters = _points(table, batch, plan.position)
                    applied.letters += letters
                    for point, row in zip(points, _kept(table, batch, letters), strict=True):
                        rows_of[point.id] = (table, row)
                    writer.write([_with_inherited(plan, point) for point in points])
            writer.drain()
        except BaseException:
            writer.abandon()
            raise
        for item in writer.take_refused():
            table, row = rows_of.pop(item.point.id)
            texts = table.key_texts(row)
            applied.letters.append(table.mapping.dead_letter(texts, item.reason, plan.position))
        applied.upserts += writer.written
        applied.settled += [table.letter_key(row) for table, row in rows_of.values()]

    def _writer(self, plan: _Plan) -> Writer[Point]:
        """Writes whole points; or, where those are not the table's own, the fields that are."""
        mapping = next(iter(plan.whole.values())).table.mapping
        whole = owns_whole_points(mapping)
        if not whole:
            self._carry_over(plan)
            plan.rules.update(_field_rules(plan.whole))

        def encode(points: Sequence[Point]) -> bytes:
            if whole:
                return encode_upsert(plan.collection, points, ordering=self._ordering)
            updates = [plan.rules[point.id](point) for point in points]
            return encode_field_updates(plan.collection, updates, ordering=self._ordering)

        return Writer(
            encode=encode,
            send=self._target.send if whole else self._target.send_fields,
            retry=self._retry,
            refused_limit=self._refused_limit,
        )

    def _carry_over(self, plan: _Plan) -> None:
        """What others keep in a point goes with its row to another key, unless there is a point."""
        moved = {
            identity: state.moved_from
            for identity, state in plan.whole.items()
            if state.moved_from is not None and state.moved_from != identity
        }
        if not moved:
            return
        origins = list(set(moved.values()))
        retrieve = partial(self._target.retrieve, plan.collection, origins, with_vectors=True)
        old = {point.id: point for point in self._retry.call(retrieve)}
        points = [old[origin]._replace(id=new) for new, origin in moved.items() if origin in old]
        for start in range(0, len(points), POINTS_A_REQUEST):
            request = encode_upsert(
                plan.collection,
                points[start : start + POINTS_A_REQUEST],
                ordering=self._ordering,
                mode="insert_only",
            )
            self._retry.call(lambda request=request: self._target.send(request).result())  # type: ignore[misc]

    def _write_patches(self, plan: _Plan, applied: Applied) -> None:
        if not plan.patches:
            return
        written = self._patches.write(
            plan.collection, self._patch_parts(plan, applied), expected=len(plan.patches)
        )
        applied.patches += len(written.written)
        applied.settled += [one.table.letter_key(one.row) for one in written.written]
        for one, reason in written.refused:
            texts = one.table.key_texts(one.row)
            applied.letters.append(one.table.mapping.dead_letter(texts, reason, plan.position))

    def _patch_parts(self, plan: _Plan, applied: Applied) -> Iterator[list[Patched]]:
        """The patches of one request each, converted as they are asked for."""
        for table, rows in _by_layout(plan.patches.values()):
            for batch in _batches(rows):
                points, letters = _points(table, batch, plan.position)
                applied.letters += letters
                part = [
                    Patched(_patch(table, row, point), table, row)
                    for point, row in zip(points, _kept(table, batch, letters), strict=True)
                ]
                if part:
                    yield part


def _field_rules(
    states: Mapping[PointId, Changed],
) -> dict[PointId, Callable[[Point], Fields]]:
    """For each point, how its fields are told: by the layout that its row has."""
    rules: dict[int, Callable[[Point], Fields]] = {}
    for state in states.values():
        rules.setdefault(id(state.table), fields_rule(state.table.layout))
    return {identity: rules[id(state.table)] for identity, state in states.items()}


def _require_readable(table: StreamTable, lacking: frozenset[int]) -> None:
    """StopError unless what is lacking may be left out of the payload."""
    needed = lacking & (table.vector_fields | table.where_fields | set(table.key_fields))
    if needed:
        names = ", ".join(table.relation.columns[index] for index in sorted(needed))
        raise StopError(
            f"{names} of {table.relation.label} was dropped, or changed its type, since a change "
            "that is being applied",
            code="SCHEMA_CHANGED",
            table=table.relation.label,
            hint="key, vector and `where` columns must stay; after a change: qdrant-bridge resync",
        )


def _with_inherited(plan: _Plan, point: Point) -> Point:
    inherited = plan.inherited.get(point.id)
    return point._replace(vectors={**inherited, **point.vectors}) if inherited else point


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
        size += bytes_of(row)
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
    text = "text" in {table.forms[index] for index in table.vector_fields}
    for row in rows:
        if not text:
            converted.append(known(row))
            continue
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
    return [row for row in rows if table.letter_key(row) not in bad]


def _patch(table: StreamTable, row: Row, point: Point) -> Patch:
    cleared = frozenset(
        column.spec.name
        for column in table.layout.vectors
        if row[column.index] is not UNCHANGED and column.spec.name not in point.vectors
    )
    return Patch(point.id, point.payload, point.vectors, cleared)
