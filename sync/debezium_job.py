"""One request in the hands of a process that reads Kafka: rows are read again and written beside the topics.

The rows that it writes have their changes in any partition, and so in other processes. There is no order
between the two. So of each row:

    1. it is read, and written as it is
    2. whatever was under way in Postgres then is waited for
    3. it is read once more; if it is another row by now, or gone, it begins again with that

What ends this is right. Let the row be written at w, and the same row be found after 2. A change that
was applied before w is visible by then, since whoever hears of it hears of a transaction that had ended
or was under way: so the row that was written is not older. A change that is applied after w is followed in
its partition by all that came later, up to what the row is in the end.

Points without a row go as after a truncate (`debezium_sweep.py`), which makes sure in the same way.

What a crash leaves is a request whose recorded key is that of the last row that is sure. Whatever lies
behind it is done again by the next owner.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Protocol

from bridge import requests
from bridge.config_tables import TableSettings
from bridge.events import Field
from bridge.failpoints import failpoint
from bridge.mapping import TableMapping
from bridge.point_ids import PointId
from bridge.postgres.pages import Page, Stretch
from bridge.qdrant.state import QdrantState
from bridge.requests import Key, Request
from bridge.retry import Retry
from sync.apply import Applied
from sync.debezium_rows import TableRows
from sync.debezium_sweep import Rows, Sweep
from sync.debezium_window import SEEN
from sync.tables import Row, StreamTable
from sync.window import Changed, Gone, TableWindow

WAIT_SECONDS: Final = 0.02
LONGEST_WAIT_SECONDS: Final = 1.0
PAGE_BYTES: Final = 8 * 1024 * 1024
ROWS_A_PAGE: Final = 500
KEYS_AT_ONCE: Final = 200
MOST_UNSURE: Final = 50_000
"""Rows that are written and not looked at again; beyond it no more are read."""


class Tables(Protocol):
    """The tables behind the topics."""

    def table(self, topic: str) -> TableRows:
        """The topic's table."""

    def settings(self, label: str) -> TableSettings:
        """A table's settings, by its label."""

    def mapping(self, label: str) -> TableMapping:
        """A table's mapping, by its label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What requests are executed with. `write` writes rows, stores their dead letters, and returns when
    all of it is durable; `insert` writes rows whose points are not there; `forget` drops the dead
    letters of these keys."""

    tables: Tables
    sweep: Callable[[StreamTable, Rows, bool], Sweep]
    write: Callable[[str, TableWindow, str], Applied]
    forget: Callable[[str, Sequence[str]], None]
    store: QdrantState
    retry: Retry
    open_rows: Callable[[], Rows] | None
    tell: Callable[..., None]


@dataclass(slots=True, kw_only=True)
class _Unsure:
    """Rows that were written, by point, with their key and what they were (None: they are gone).
    `awaited`: what was under way then; `counts`: what the progress becomes when all are sure; `gone`:
    the dead letters that are forgotten then."""

    rows: dict[PointId, tuple[Sequence[str], bytes | None]]
    awaited: set[int]
    counts: dict[str, Any]
    gone: dict[PointId, str]


class Job:
    """A request in the hands of its executor. `request` is its state, as it is recorded."""

    def __init__(
        self, request: Request, topic: str, rows: Rows, desk: Desk, extras_may_go: bool
    ) -> None:
        self.request = request
        self._topic = topic
        self._rows = rows
        self._desk = desk
        self._extras_may_go = extras_may_go
        self._unsure: deque[_Unsure] = deque()
        self._after: Key | None = request.progress.after
        self._named = request.progress.rows + request.progress.gone
        self._counts = {
            name: getattr(request.progress, name) for name in ("rows", "written", "letters", "gone")
        }
        self._read_all = False
        self._wait_seconds = WAIT_SECONDS
        self._sweep: Iterator[bool] | None = None
        self._swept: Sweep | None = None

    @property
    def begun(self) -> bool:
        """Whether rows may have been written that are not sure."""
        return self.request.progress.stage != "asked"

    @property
    def _table(self) -> StreamTable:
        """As it is now: columns come and go meanwhile."""
        return self._desk.tables.table(self._topic).table

    def step(self) -> float | None:
        """Do a bounded piece of work: the seconds after which the next one makes sense, or None when
        the job is done."""
        if self.request.progress.stage == "extras":
            return self._extras()
        if self._unsure and self._make_sure():
            self._wait_seconds = WAIT_SECONDS
            return 0.0
        if not self._read_all and sum(len(one.rows) for one in self._unsure) < MOST_UNSURE:
            return self._keyed_rows() if self.request.action == "retry" else self._page()
        if self._unsure:
            return self._wait("transactions that are under way")
        if self.request.action == "retry":
            return None
        self.note(stage="extras", extras_kept=not self._extras_may_go, waiting="")
        return 0.0

    def note(self, **changes: Any) -> None:
        """Record the progress."""
        self.request = self.request.at(**changes)
        request, store = self.request, self._desk.store
        self._desk.retry.call(lambda: requests.save(store, request))

    def _wait(self, what: str) -> float:
        """Say for what, once it takes long."""
        self._wait_seconds = min(LONGEST_WAIT_SECONDS, 2 * self._wait_seconds)
        if self._wait_seconds == LONGEST_WAIT_SECONDS and self.request.progress.waiting != what:
            self.note(waiting=what)
        return self._wait_seconds

    # --- rows ----------------------------------------------------------------------------------

    def _page(self) -> float:
        table = self._table
        mapping = table.mapping
        self._rows.require(mapping.table)
        page = self._rows.page(
            mapping.table,
            table.layout.selection,
            mapping.key_columns,
            Stretch(first=self.request.first, after=self._after, last=self.request.last),
            dict(mapping.where),
            usable=lambda snapshot: True,
            rows=ROWS_A_PAGE,
            size_bytes=PAGE_BYTES,
        )
        self._rows.require(mapping.table)
        if page is None:
            return self._wait("a lock on the table")
        found = [tuple(row) for row in page.rows]
        last = next((row for row in reversed(found) if table.has_key(row)), None)
        if last is not None:
            self._after = tuple(table.key_texts(last))
        self._read_all = page.ended or last is None
        self._counts["rows"] += len(found)
        self._write(table, found, {}, {}, self._after)
        return 0.0

    def _keyed_rows(self) -> float:
        names = self.request.keys[self._named : self._named + KEYS_AT_ONCE]
        if not names:
            self._read_all = True
            return 0.0
        table = self._table
        single = len(table.mapping.key) == 1
        keys = [(name,) if single else tuple(json.loads(name)) for name in names]
        found = self._look(table, keys)
        if found is None:
            return self._wait("a lock on the table")
        self._named += len(names)
        gone: dict[PointId, str] = {}
        absent: dict[PointId, Sequence[str]] = {}
        for name, key in zip(names, keys, strict=True):
            identity = table.mapping.id_rule.of(list(key))
            if identity not in found:
                gone[identity], absent[identity] = name, key
        self._counts["rows"] += len(names) - len(gone)
        self._counts["gone"] += len(gone)
        self._write(table, list(found.values()), absent, gone)
        return 0.0

    def _write(
        self,
        table: StreamTable,
        rows: Sequence[Row],
        absent: Mapping[PointId, Sequence[str]],
        gone: dict[PointId, str],
        after: Key | None = None,
    ) -> None:
        """Write rows as they are; neither they are sure yet, nor that others are `absent`."""
        if not self.begun:
            self.note(stage="rows", estimated_rows=table.mapping.table.estimated_rows)
        changes = TableWindow()
        unsure: dict[PointId, tuple[Sequence[str], bytes | None]] = {
            identity: (key, None) for identity, key in absent.items()
        }
        for row in rows:
            if not table.has_key(row):
                changes.flaws.append((table, "a NULL in the key"))
                continue
            identity = table.id_of(row)
            changes.states[identity] = Changed(table, row, SEEN)
            unsure[identity] = (table.key_texts(row), _digest(row))
        failpoint("resync.before_write")
        applied = self._desk.write(self.request.table, changes, self.request.action)
        failpoint("resync.after_write")
        self._counts["written"] += applied.upserts + applied.patches
        self._counts["letters"] += len(applied.letters)
        self._unsure.append(
            _Unsure(
                rows=unsure,
                awaited=self._rows.in_progress(),
                counts={**self._counts, **({} if after is None else {"after": after})},
                gone=gone,
            )
        )

    # --- making sure ---------------------------------------------------------------------------

    def _make_sure(self) -> bool:
        """Look at the oldest rows again, if what was under way has ended."""
        oldest = self._unsure[0]
        if oldest.awaited and oldest.awaited & self._rows.in_progress():
            return False
        table = self._table
        changed = self._changed(table, oldest)
        if changed is None:
            return False
        if changed:
            self._write_again(table, oldest, changed)
            return True
        self._unsure.popleft()
        if oldest.gone:
            self._desk.forget(self.request.table, list(oldest.gone.values()))
        failpoint("resync.after_page")
        self.note(**oldest.counts, waiting="")
        return True

    def _changed(self, table: StreamTable, unsure: _Unsure) -> dict[PointId, Row | None] | None:
        """Those that are not what was written; None for a row that is gone. None: locked."""
        changed: dict[PointId, Row | None] = {}
        items = list(unsure.rows.items())
        for start in range(0, len(items), KEYS_AT_ONCE):
            part = items[start : start + KEYS_AT_ONCE]
            found = self._look(table, [key for _identity, (key, _was) in part])
            if found is None:
                return None
            for identity, (_key, was) in part:
                row = found.get(identity)
                if (None if row is None else _digest(row)) != was:
                    changed[identity] = row
        return changed

    def _write_again(
        self, table: StreamTable, unsure: _Unsure, changed: Mapping[PointId, Row | None]
    ) -> None:
        changes = TableWindow()
        for identity, row in changed.items():
            key = unsure.rows[identity][0]
            if row is None:
                name = table.mapping.dead_letter(list(key), "", "").key
                changes.states[identity] = Gone(table, name, SEEN)
            else:
                changes.states[identity] = Changed(table, row, SEEN)
                unsure.gone.pop(identity, None)
        self._desk.write(self.request.table, changes, self.request.action)
        unsure.rows = {
            identity: (unsure.rows[identity][0], None if row is None else _digest(row))
            for identity, row in changed.items()
        }
        unsure.awaited = self._rows.in_progress()

    def _look(self, table: StreamTable, keys: Sequence[Sequence[str]]) -> dict[PointId, Row] | None:
        """The rows with these keys that there are, by point; None if the table is locked."""
        mapping = table.mapping
        page: Page | None = self._rows.rows_of(
            mapping.table,
            table.layout.selection,
            mapping.key_columns,
            keys,
            dict(mapping.where),
            usable=lambda snapshot: True,
        )
        self._rows.require(mapping.table)  # a table that was made anew says nothing of these rows
        if page is None:
            return None
        rows = [tuple(row) for row in page.rows]
        return {table.id_of(row): row for row in rows if table.has_key(row)}

    # --- extras --------------------------------------------------------------------------------

    def _extras(self) -> float | None:
        if self._sweep is None:
            failpoint("resync.before_extras")
            self._rows.require(self._table.mapping.table)
            self._swept = self._desk.sweep(self._table, self._rows, self._extras_may_go)
            self._sweep = self._swept.steps()
        assert self._swept is not None  # noqa: S101 - made with it
        at_once = next(self._sweep, None)
        if self._swept.removed != self.request.progress.extras or at_once is None:
            self.note(extras=self._swept.removed)
        if at_once is None:
            return None
        return 0.0 if at_once else self._wait("transactions that are under way")


def _digest(row: Sequence[Field | object]) -> bytes:
    """Of what was read; two rows with one digest are the same."""
    digest = blake2b(digest_size=16)
    for value in row:
        if isinstance(value, bytes):
            digest.update(len(value).to_bytes(8, "big") + value)
        else:
            digest.update(b"\xff" * 8)
    return digest.digest()
