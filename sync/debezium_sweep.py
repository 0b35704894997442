"""Points without a row in Postgres: found and removed page by page, while others write.

Of each page of points:

    1. those whose row is not there are looked up once more, and removed if it still is not
    2. whatever was under way in Postgres then is waited for, while other pages are gone through: a change
       that was applied before the removal is visible by then, and not always before
    3. those whose row is there by now are written, unless somebody has written the point meanwhile
    4. of those that were written, the rows are looked up again, after a wait as in 2: one that is gone
       by then had its delete applied before we wrote, perhaps, so it begins again with 1

What a row became later comes in the topic after that. A crash leaves nothing: whoever goes on begins
again.

An id that tells its key is looked up by it. Those that do not (hashed ones) are collected up to a
bound, and all keys of the table are gone through for each such batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bridge.errors import StopError
from bridge.events import UNCHANGED, Field
from bridge.mapping import Selected, TableMapping
from bridge.point_ids import PointId
from bridge.postgres import catalog, identities
from bridge.postgres.pages import Page, PageReader, Stretch
from bridge.qdrant.target import Target
from bridge.retry import Retry
from bridge.schema import Table
from bridge.snapshots import Snapshot
from sync.tables import Row, StreamTable

IDS_A_PAGE = 1_000
UNTOLD_AT_ONCE = 100_000
"""Hashed ids of one pass over the table's keys, about 100 bytes each."""
_KEYS_A_PAGE = 20_000
_PAGE_BYTES = 64 * 1024 * 1024
_ROWS_A_WRITE = 256
_LOCKED_SECONDS = 0.05
MOST_UNSURE = 200_000
"""Points that were removed or written and not looked at again; beyond it no more are."""

_INTEGERS = {"int2": 2**15, "int4": 2**31, "int8": 2**63}

Texts = tuple[str, ...]


class Rows(Protocol):
    """What is asked of Postgres."""

    def page(
        self,
        table: Table,
        selection: Sequence[Selected],
        key: Sequence[str],
        stretch: Stretch,
        where: dict[str, object],
        *,
        usable: Callable[[Snapshot], bool],
        rows: int,
        size_bytes: int,
    ) -> Page | None:
        """As `PageReader` has it."""

    def rows_of(
        self,
        table: Table,
        selection: Sequence[Selected],
        key: Sequence[str],
        keys: Sequence[Sequence[str]],
        where: dict[str, object],
        *,
        usable: Callable[[Snapshot], bool],
    ) -> Page | None:
        """As `PageReader` has it."""

    def in_progress(self) -> set[int]:
        """The transactions that are under way."""

    def require(self, table: Table) -> None:
        """StopError `SCHEMA_CHANGED` if the table is not the one of that name any more."""

    def close(self) -> None:
        """Close the connection."""


class SourceRows(PageReader):
    """`Rows` in Postgres."""

    def in_progress(self) -> set[int]:
        """The transactions that are under way."""
        return identities.in_progress(self.connection)

    def require(self, table: Table) -> None:
        """StopError `SCHEMA_CHANGED` if the table is not the one of that name any more."""
        now = catalog.read_table_by_oid(self.connection, table.oid)
        if now is None or (now.schema, now.name) != (table.schema, table.name):
            raise table_gone(table.label)


def table_gone(label: str) -> StopError:
    """Its rows cannot be told from rows that were deleted."""
    return StopError(
        f"{label} was dropped, or made anew: what has become of its rows cannot be told",
        code="SCHEMA_CHANGED",
        table=label,
        hint="leave the table out of the configuration, or copy it again into a new collection",
    )


@dataclass(frozen=True, slots=True)
class _Unsure:
    """Points that were written, or removed, and what was under way then."""

    ids: set[PointId]
    written: bool
    awaited: set[int]


class Sweep:
    """One, of one table. `insert` writes rows whose points are not there. `removed` counts; where
    nothing `may_go`, what would have been."""

    def __init__(
        self,
        table: StreamTable,
        rows: Rows,
        target: Target,
        *,
        retry: Retry,
        insert: Callable[[StreamTable, Sequence[Row]], None],
        untold_at_once: int = UNTOLD_AT_ONCE,
        may_go: bool = True,
    ) -> None:
        self._table = table
        self._rows = rows
        self._target = target
        self._retry = retry
        self._insert = insert
        self._untold_at_once = untold_at_once
        self._may_go = may_go
        self._collection = table.mapping.collection.name
        self._unsure: deque[_Unsure] = deque()
        self.removed = 0

    def steps(self) -> Iterator[bool]:
        """Go through the collection, piece by piece. Each time: whether the next piece can be done at
        once, or something that is under way has to end first. Unreachable leaves it to be done again."""
        untold: list[PointId] = []
        for ids in self._pages():
            told = {identity: texts for identity in ids if (texts := self._told(identity))}
            self._compare(set(told))
            untold += [identity for identity in ids if identity not in told]
            if len(untold) >= self._untold_at_once:
                self._compare(set(untold))
                untold = []
            self._make_sure()
            yield True
            while sum(len(one.ids) for one in self._unsure) > MOST_UNSURE:
                yield self._make_sure()
        self._compare(set(untold))
        while self._unsure:
            yield self._make_sure()
        self._target.flush()

    def _pages(self) -> Iterator[list[PointId]]:
        following: PointId | None = None
        while True:
            scroll = partial(
                self._target.scroll,
                self._collection,
                after=following,
                limit=IDS_A_PAGE,
                with_payload=False,
            )
            points, following = self._retry.call(scroll)
            yield [point.id for point in points]
            if following is None:
                return

    def _compare(self, ids: set[PointId]) -> None:
        absent = ids - self._present(ids).keys()
        if absent:
            absent -= self._present(absent).keys()  # the look that counts, right before
        if absent:
            self._remove(sorted(absent, key=str))

    def _make_sure(self) -> bool:
        """Look again at what was removed or written first; whether it was time to."""
        if not self._unsure:
            return True
        oldest = self._unsure[0]
        if oldest.awaited and oldest.awaited & self._rows.in_progress():
            return False
        self._unsure.popleft()
        if oldest.written:
            self._compare(oldest.ids)
            return True
        back = self._present(oldest.ids)
        if back:
            self._write(list(back.values()))
            self._unsure.append(_Unsure(set(back), True, self._rows.in_progress()))
        return True

    def _remove(self, ids: Sequence[PointId]) -> None:
        self.removed += len(ids)
        if not self._may_go:
            return
        for start in range(0, len(ids), IDS_A_PAGE):
            part = ids[start : start + IDS_A_PAGE]
            self._retry.call(partial(self._target.delete, self._collection, part))
        self._unsure.append(_Unsure(set(ids), False, self._rows.in_progress()))

    def _write(self, keys: Sequence[Texts]) -> None:
        selection = self._table.layout.selection
        for start in range(0, len(keys), _ROWS_A_WRITE):
            found = self._rows_of(selection, keys[start : start + _ROWS_A_WRITE])
            self._insert(self._table, [tuple(row) for row in found])

    # --- which rows there are ------------------------------------------------------------------

    def _told(self, identity: PointId) -> Texts | None:
        """The only key that has this id; None if the id does not tell it."""
        mapping = self._table.mapping
        rule = mapping.id_rule
        if len(mapping.key_columns) != 1 or rule.scheme != "bridge" or rule.template is not None:
            return None
        kind = mapping.table.column(mapping.key_columns[0]).type.name
        if isinstance(identity, int):
            told = kind in ("text", "varchar") or identity < _INTEGERS.get(kind, 0)
        else:
            # A text's UUID may as well be another text's hash.
            told = kind == "uuid"
        return (str(identity),) if told else None

    def _present(self, ids: Iterable[PointId]) -> Mapping[PointId, Texts]:
        """Those whose row is there, with its key."""
        wanted = set(ids)
        told = [texts for identity in wanted if (texts := self._told(identity))]
        found: dict[PointId, Texts] = {}
        if told:
            for row in self._rows_of(self._key_selection(), told):
                self._add(row, wanted, found)
        if len(told) < len(wanted):
            for row in self._keys():
                self._add(row, wanted, found)
        return found

    def _add(self, key: Sequence[Field], wanted: set[PointId], found: dict[PointId, Texts]) -> None:
        wide = self._wide(key)
        identity = self._table.id_of(wide)
        if identity in wanted:
            found[identity] = tuple(self._table.key_texts(wide))

    def _rows_of(
        self, selection: Sequence[Selected], keys: Sequence[Texts]
    ) -> list[Sequence[Field]]:
        mapping = self._table.mapping
        found: list[Sequence[Field]] = []
        for start in range(0, len(keys), IDS_A_PAGE):
            part = keys[start : start + IDS_A_PAGE]
            page = self._patiently(
                lambda part=part: self._rows.rows_of(  # type: ignore[misc]
                    mapping.table,
                    selection,
                    mapping.key_columns,
                    part,
                    dict(mapping.where),
                    usable=lambda snapshot: True,
                )
            )
            found += page.rows
        return found

    def _keys(self) -> Iterator[Sequence[Field]]:
        """The keys of every row that counts, in the layout's forms."""
        after: Texts | None = None
        while True:
            page = self._patiently(partial(self._key_page, self._table.mapping, after))
            yield from (row for row in page.rows if None not in row)
            if page.ended or not page.rows:
                return
            after = tuple(self._table.key_texts(self._wide(page.rows[-1])))

    def _key_page(self, mapping: TableMapping, after: Texts | None) -> Page | None:
        return self._rows.page(
            mapping.table,
            self._key_selection(),
            mapping.key_columns,
            Stretch(after=after),
            dict(mapping.where),
            usable=lambda snapshot: True,
            rows=_KEYS_A_PAGE,
            size_bytes=_PAGE_BYTES,
        )

    def _patiently(self, read: Callable[[], Page | None]) -> Page:
        """A page, once the table is not locked; given up between pages, if we are told to."""
        self._retry.sleep(0.0)
        while (page := read()) is None:
            self._retry.sleep(_LOCKED_SECONDS)
        return page

    def _key_selection(self) -> list[Selected]:
        return [self._table.layout.selection[index] for index in self._table.key_fields]

    def _wide(self, key: Sequence[Field]) -> tuple[Any, ...]:
        """A key in the layout of rows; the rest is UNCHANGED."""
        row: list[Any] = [UNCHANGED] * len(self._table.relation.columns)
        for index, value in zip(self._table.key_fields, key, strict=True):
            row[index] = value
        return tuple(row)
