"""One request of another command, executed in steps between the windows of the stream.

    rows     the table's rows (or a range's, or those with given keys), page by page: each is read in a
             short transaction and written at once, and the stream is told by `merge.py` what it
             need not write over it
    settle   the stream passes the last page
    extras   points whose row is not there any more: `extras.py`; then they are removed
    done

Steps and windows come from one thread, so there is one order of writes. What a step leaves when the
process dies: pages that are written and, in the request's record, the last key whose page is done. The
next process goes on behind it, and replays the stream over the pages, which ends in the same state.

Extras are removed from the whole collection, also after the resync of a range: a point without a row
has no key, so nobody can say in which range it lies. Where the collection also held points of other
origin they are only counted, unless `owns_collection` says that all of them may go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from bridge.events import Relation
from bridge.failpoints import failpoint
from bridge.mapping import Form, Selected, TableMapping
from bridge.point_ids import PointId
from bridge.positions import Lsn
from bridge.postgres.pages import Page, PageReader, Stretch
from bridge.qdrant.target import Target
from bridge.requests import Request
from bridge.retry import Retry
from bridge.snapshots import Snapshot
from sync.apply import Applied
from sync.extras import CAPACITY, KnownIds
from sync.merge import Merge
from sync.tables import StreamTable
from sync.window import Changed, TableWindow

T = TypeVar("T")

PAGE_BYTES = 8 * 1024 * 1024
MOST_ROWS = 5_000
LEAST_ROWS = 50
KEYS_A_PAGE = 20_000
IDS_A_PAGE = 2_000
MOST_HELD = 100_000
"""Points of pages that the stream has not passed; beyond it the next page waits for the stream."""
WAIT_SECONDS = 0.02
LONGEST_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a job works with. `write` writes rows and stores their dead letters; `forget` drops the
    dead letters of these keys; `save` records a request's progress."""

    target: Target
    reader: PageReader
    retry: Retry
    write: Callable[[TableWindow, str, str], Applied]
    forget: Callable[[str, Sequence[str]], None]
    save: Callable[[Request], None]
    extras_may_go: bool
    capacity: int = CAPACITY


class Job:
    """A request in the hands of one session. `request` is its state; it ends when `step` says None."""

    def __init__(self, request: Request, mapping: TableMapping, desk: Desk) -> None:
        self.request = request
        self._mapping = mapping
        self._desk = desk
        self._table = catalog_table(mapping)
        self._rows_a_page = LEAST_ROWS * 10
        self._wait_seconds = WAIT_SECONDS
        self._unusable: Snapshot | None = None
        self._settle_at: Lsn | None = None
        self._settled: Callable[[], float | None] = self._after_rows
        self._known: KnownIds | None = None
        self._keys_after: tuple[str, ...] | None = None
        self._walked: PointId | None = None
        # Every transaction older than this must have ended before the first page counts.
        mark = desk.reader.mark()
        self.merge = Merge(mark.xid)
        if request.progress.stage == "asked":
            self._note(stage="rows", estimated_rows=mapping.table.estimated_rows)
        self._next = self._extras if request.progress.stage == "extras" else self._rows

    @property
    def oid(self) -> int:
        """The table's."""
        return self._mapping.table.oid

    @property
    def awaited(self) -> Lsn | None:
        """The position that the stream must come to before the job goes on."""
        if self._settle_at is None and self.merge.held >= MOST_HELD:
            return self.merge.oldest
        return self._settle_at

    def streamed(self, ids: Sequence[PointId]) -> None:
        """The stream is about to write these points."""
        if self._known is not None:
            self._known.add(ids)

    def step(self, position: Lsn) -> float | None:
        """Do a bounded piece of work; the stream has been applied up to `position`.

        The seconds after which the next one makes sense, or None when the job is done.
        """
        if self._settle_at is None:
            return self._next()
        if position < self._settle_at:
            return WAIT_SECONDS
        self._settle_at = None
        return self._settled()

    def _note(self, **changes: Any) -> None:
        self.request = self.request.at(**changes)
        self._desk.save(self.request)

    def _call(self, action: Callable[[], T]) -> T:
        return self._desk.retry.call(action)

    def _settle(self, then: Callable[[], float | None]) -> float:
        """Let the stream pass everything that has been read; then go on."""
        self._settle_at, self._settled = self._desk.reader.mark().lsn, then
        return 0.0

    # --- rows ----------------------------------------------------------------------------------

    def _rows(self) -> float | None:
        if self.merge.held >= MOST_HELD:
            return WAIT_SECONDS
        if self.request.action == "retry":
            return self._keyed_rows()
        progress = self.request.progress
        stretch = Stretch(first=self.request.first, after=progress.after, last=self.request.last)
        page = self._page(
            self._table.layout.selection, stretch, self._rows_a_page, size_bytes=PAGE_BYTES
        )
        if page is None:
            return self._waiting()
        if page.rows:
            applied = self._write(page)
            self._adapt(page)
            self._note(
                after=self._last_key(page) or progress.after,
                rows=progress.rows + len(page.rows),
                written=progress.written + applied.upserts + applied.patches,
                letters=progress.letters + len(applied.letters),
                waiting="",
            )
            failpoint("resync.after_page")
        if page.ended or self._last_key(page) is None:
            return self._settle(self._after_rows)
        return 0.0

    def _keyed_rows(self) -> float | None:
        progress = self.request.progress
        begin = progress.rows + progress.gone
        named = self.request.keys[begin : begin + LEAST_ROWS]
        if not named:
            return self._settle(self._after_rows)
        keys = [self._key(name) for name in named]
        page = self._desk.reader.rows_of(
            self._mapping.table,
            self._table.layout.selection,
            self._mapping.key_columns,
            keys,
            dict(self._mapping.where),
            usable=self._usable,
        )
        if page is None:
            return self._waiting()
        applied = self._write(page)
        found = {self._table.letter_key(tuple(row)) for row in page.rows}
        gone = [name for name in named if name not in found]
        self._desk.forget(self._mapping.table.label, gone)
        self._note(
            rows=progress.rows + len(keys) - len(gone),
            gone=progress.gone + len(gone),
            written=progress.written + applied.upserts + applied.patches,
            letters=progress.letters + len(applied.letters),
            waiting="",
        )
        return 0.0

    def _key(self, name: str) -> tuple[str, ...]:
        """A dead letter's key as its columns' texts."""
        return (name,) if len(self._mapping.key) == 1 else tuple(json.loads(name))

    def _page(
        self,
        selection: Sequence[Selected],
        stretch: Stretch,
        rows: int,
        size_bytes: int,
    ) -> Page | None:
        return self._desk.reader.page(
            self._mapping.table,
            selection,
            self._mapping.key_columns,
            stretch,
            dict(self._mapping.where),
            usable=self._usable,
            rows=rows,
            size_bytes=size_bytes,
        )

    def _usable(self, snapshot: Snapshot) -> bool:
        if self.merge.usable(snapshot):
            self._wait_seconds = WAIT_SECONDS
            return True
        self._unusable = snapshot
        return False

    def _write(self, page: Page) -> Applied:
        """Write a page's rows; from then on the stream goes around what the page shows."""
        table, changes = self._table, TableWindow()
        for row in map(tuple, page.rows):
            if table.has_key(row):
                changes.states[table.id_of(row)] = Changed(table, row, 0)
            else:
                changes.flaws.append((table, "a NULL in the key"))
        failpoint("resync.before_write")
        applied = self._desk.write(changes, self._mapping.table.label, self.request.action)
        failpoint("resync.after_write")
        if changes.states:
            self.merge.wrote(page.snapshot, self._desk.reader.mark().lsn, changes.states)
        return applied

    def _adapt(self, page: Page) -> None:
        """As many rows for the next page as will have about `PAGE_BYTES`."""
        size = sum(len(field) for row in page.rows for field in row if field is not None)
        fitting = PAGE_BYTES * len(page.rows) // max(1, size)
        self._rows_a_page = max(LEAST_ROWS, min(MOST_ROWS, fitting))

    def _last_key(self, page: Page) -> tuple[str, ...] | None:
        """The key to go on behind. A NULL in a key sorts last and is equal to nothing."""
        for row in map(tuple, reversed(page.rows)):
            if self._table.has_key(row):
                return tuple(self._table.key_texts(row))
        return None

    def _waiting(self) -> float:
        """The next page cannot be read yet; say for whom, once it takes long."""
        self._wait_seconds = min(LONGEST_WAIT_SECONDS, 2 * self._wait_seconds)
        if self._wait_seconds == LONGEST_WAIT_SECONDS:
            blockers = [] if self._unusable is None else self._desk.reader.blockers(self._unusable)
            waiting = ", ".join(map(str, blockers)) or "a lock on the table"
            if waiting != self.request.progress.waiting:
                self._note(waiting=waiting)
        return self._wait_seconds

    def _after_rows(self) -> float | None:
        if self.request.action == "retry":
            return None
        self._note(stage="extras", extras_kept=not self._desk.extras_may_go)
        self._next = self._extras
        return 0.0

    # --- extras --------------------------------------------------------------------------------

    def _extras(self) -> float | None:
        """The next page of the table's keys; the first one begins a pass."""
        if self._known is None:
            self._known = KnownIds(self.request.progress.swept, self._desk.capacity)
            self._keys_after, self._walked = None, self.request.progress.swept
        selection = [self._table.layout.selection[index] for index in self._table.key_fields]
        page = self._page(
            selection, Stretch(after=self._keys_after), KEYS_A_PAGE, size_bytes=PAGE_BYTES
        )
        if page is None:
            return self._waiting()
        if page.rows:
            texts = [self._texts(row) for row in page.rows if None not in row]
            self._known.add(map(self._mapping.id_rule.of, texts))
            self._keys_after = tuple(texts[-1]) if texts else None
        return 0.0 if not page.ended else self._settle(self._begin_walk)

    def _texts(self, keys: Sequence[bytes | None]) -> list[str]:
        row: list[bytes | None] = [None] * len(self._table.relation.columns)
        for index, value in zip(self._table.key_fields, keys, strict=True):
            row[index] = value
        return self._table.key_texts(tuple(row))

    def _begin_walk(self) -> float | None:
        failpoint("resync.before_extras")
        self._next = self._walk
        return 0.0

    def _walk(self) -> float | None:
        """A page of the collection's ids: those without a row go."""
        assert self._known is not None  # noqa: S101 - a walk follows a pass
        target, collection = self._desk.target, self._mapping.collection.name
        points, following = self._call(
            lambda: target.scroll(
                collection, after=self._walked, limit=IDS_A_PAGE, with_payload=False
            )
        )
        ids = [point.id for point in points]
        extras = self._known.unknown(ids)
        if extras:
            if self._desk.extras_may_go:
                self._call(partial(target.delete, collection, extras))
            self._note(extras=self.request.progress.extras + len(extras))
        if following is not None and self._known.covers(following):
            self._walked = following
            return 0.0
        return self._end_pass()

    def _end_pass(self) -> float | None:
        assert self._known is not None  # noqa: S101 - a walk follows a pass
        swept = self._known.upto
        self._known = None
        if swept is None:
            return None
        self._note(swept=swept)
        self._next = self._extras
        return 0.0


def catalog_table(mapping: TableMapping) -> StreamTable:
    """The table laid out as a relation of the stream would be, for rows that a resync reads.

    It has the mapped columns only, each in the one form that everything which reads it takes.
    """
    forms: dict[str, Form] = {column.column: "binary" for column in mapping.vectors}
    chosen = [(item.column, item.form) for item in mapping.payload]
    chosen += [(column.column, column.form) for column in mapping.key]
    for name, form in chosen:
        if forms.get(name) != "text":
            forms[name] = form
    for name in mapping.where:
        forms.setdefault(name, "text")
    columns = [mapping.table.column(name) for name in forms]
    relation = Relation(
        oid=mapping.table.oid,
        schema=mapping.table.schema,
        name=mapping.table.name,
        replica_identity="d",
        columns=tuple(column.name for column in columns),
        type_oids=tuple(column.type.oid for column in columns),
        type_modifiers=tuple(column.type.modifier for column in columns),
        key=tuple(column.name in mapping.key_columns for column in columns),
    )
    return StreamTable(mapping, relation, list(forms.values()))


def clear_except(target: Target, collection: str, kept: set[PointId]) -> None:
    """Remove every point but these."""
    following: PointId | None = None
    while True:
        points, following = target.scroll(
            collection, after=following, limit=IDS_A_PAGE, with_payload=False
        )
        ids = [point.id for point in points if point.id not in kept]
        if ids:
            target.delete(collection, ids)
        if following is None:
            return


def changed_ids(changes: TableWindow) -> list[PointId]:
    """The points that a window may write."""
    return [identity for identity, state in changes.states.items() if isinstance(state, Changed)]


def xids_of(changes: TableWindow) -> set[int]:
    """The transactions of a window's last states."""
    return {state.xid for state in changes.states.values()}
