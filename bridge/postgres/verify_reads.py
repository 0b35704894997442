"""What a comparison reads of a table: key ranges or a part of them, keys alone, rows with their version.

A part is chosen by a hash of the key's texts (`hashtextextended`, PostgreSQL 11 and later), in SQL, so that
rows which are not of it cost the server no more than a look at their key. Two parts of one table, of n,
have no row in common and together all rows, whatever is written meanwhile.

A row's version is its `xmin` and `ctid`: as long as neither has changed, nor has the row, and a value
that was changed and changed back shows. What has no such columns (views, foreign tables) is told by
its content.

`place` is where the log ends for a snapshot taken before: everything that such a snapshot shows lies in front
of it, and a stream gets there even if nothing else is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from bridge.events import Field
from bridge.mapping import Selected, TableMapping
from bridge.positions import Lsn
from bridge.postgres import scan
from bridge.postgres.chunks import KeyRange, range_condition
from bridge.postgres.connection import Connection, connect, translated
from bridge.postgres.pages import PageReader
from bridge.postgres.progress import look
from bridge.schema import Table
from bridge.snapshots import Snapshot

EVERYTHING = KeyRange(lower=None, upper=None)

_VERSIONED = ("table", "partitioned table", "materialized view")
_VERSION = (
    Selected(column="xmin", form="text"),
    Selected(column="ctid", form="text"),
    Selected(column="tableoid", form="text"),
)
_HASH_LIMIT = 2**62
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which rows of a table: `fraction` of them (1: all), chosen by `seed`, of shard `index` of `count`."""

    fraction: float = 1.0
    seed: int = 0
    index: int = 0
    count: int = 1

    @property
    def whole(self) -> bool:
        """Whether it is all of the table."""
        return self.fraction >= 1.0 and self.count == 1


def part_condition(table: Table, key: Sequence[str], bounds: KeyRange, part: Part) -> sql.Composed:
    """The condition that a row lies in the range and belongs to the part."""
    conditions: list[sql.Composable] = [range_condition(table, key, bounds)]
    if part.fraction < 1.0:
        limit = sql.Literal(int(part.fraction * _HASH_LIMIT))
        hashed = _hash(key, part.seed)
        conditions.append(sql.SQL("({} & {}) < {}").format(
            hashed, sql.Literal(_HASH_LIMIT - 1), limit))  # fmt: skip
    if part.count > 1:
        # Another seed: a sample of a shard must be as large as that of any other.
        hashed = _hash(key, ~part.seed)
        conditions.append(sql.SQL("({} & {}) % {} = {}").format(
            hashed, sql.Literal(_HASH_LIMIT - 1), sql.Literal(part.count), sql.Literal(part.index)
        ))  # fmt: skip
    return sql.SQL(" AND ").join(conditions)


def _hash(key: Sequence[str], seed: int) -> sql.Composed:
    texts = sql.SQL(", ").join(
        sql.SQL("pg_catalog.format('%s', {})").format(sql.Identifier(name)) for name in key
    )
    return sql.SQL(
        "pg_catalog.hashtextextended(pg_catalog.concat_ws(E'\\x1f', {}) COLLATE pg_catalog.\"C\", {})"
    ).format(texts, sql.Literal(seed))


def read_part(
    connection: Connection,
    mapping: TableMapping,
    bounds: KeyRange,
    part: Part,
    *,
    batch_rows: int,
    batch_bytes: int = 2**62,
    keys_only: bool = False,
) -> Iterator[scan.Batch]:
    """The rows of a range and part, as selected by the mapping; with `keys_only`, the key's fields."""
    selection = key_selection(mapping) if keys_only else mapping.selection
    condition = part_condition(mapping.table, mapping.key_columns, bounds, part)
    statement = scan.condition_statement(mapping.table, selection, condition, dict(mapping.where))
    return scan.read_batches(
        connection,
        statement,
        fields=len(selection),
        table=mapping.table.label,
        batch_rows=batch_rows,
        batch_bytes=batch_bytes,
    )


def some_key(connection: Connection, mapping: TableMapping) -> tuple[str, ...] | None:
    """The key of the first row; None if there is none."""
    selection, key = key_selection(mapping), mapping.key_columns
    everything = range_condition(mapping.table, key, EVERYTHING)
    statement = scan.page_statement(
        mapping.table, selection, key, everything, dict(mapping.where), limit=1
    )
    batches = scan.read_batches(
        connection,
        statement,
        fields=len(selection),
        table=mapping.table.label,
        batch_rows=2,
        batch_bytes=2**62,
    )
    rows = [row for batch in batches for row in batch.rows if None not in row]
    return key_texts(mapping, rows[0]) if rows else None


def key_selection(mapping: TableMapping) -> list[Selected]:
    """The key's fields, in the key's order."""
    return [mapping.selection[column.index] for column in mapping.key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned:
    """A row as selected, and what tells whether it is still the same."""

    row: list[Field]
    version: tuple[Field, ...]


class RowLooks:
    """Looks at single rows, again and again, over one connection; after a failure over a new one.

    `place` needs another, which may write.
    """

    def __init__(self, url: str, *, allow_plaintext: bool = False) -> None:
        self._url = url
        self._allow_plaintext = allow_plaintext
        self._open: Connection | None = None
        self._marks: PageReader | None = None
        self._standby: bool | None = None
        # Transactions that were waited for in vain: they go on for long, and are of others.
        self._ignored: set[int] = set()

    @property
    def _connection(self) -> Connection:
        if self._open is None or self._open.closed:
            self._open = connect(self._url, allow_plaintext=self._allow_plaintext)
            scan.prepare(self._open)
        return self._open

    def rows(self, mapping: TableMapping, keys: Sequence[Sequence[str]]) -> list[Versioned]:
        """Those of the rows that there are."""
        return self._read(mapping, mapping.selection, keys)

    def versions(
        self, mapping: TableMapping, keys: Sequence[Sequence[str]]
    ) -> dict[tuple[str, ...], tuple[Field, ...]]:
        """By key, the version of those that there are."""
        if mapping.table.kind not in _VERSIONED:
            found = self.rows(mapping, keys)
            return {tuple(mapping.key_texts(one.row)): one.version for one in found}
        read = self._read(mapping, key_selection(mapping), keys)
        return {key_texts(mapping, one.row): one.version for one in read}

    def _read(
        self, mapping: TableMapping, selection: Sequence[Selected], keys: Sequence[Sequence[str]]
    ) -> list[Versioned]:
        versioned = mapping.table.kind in _VERSIONED
        wanted = [*selection, *(_VERSION if versioned else ())]
        rows = scan.read_by_key(
            self._connection,
            mapping.table,
            wanted,
            mapping.key_columns,
            keys,
            dict(mapping.where),
        )
        width = len(selection)
        return [
            Versioned(row=row[:width], version=tuple(row[width:] if versioned else row))
            for row in rows
        ]

    def place(self) -> Lsn:
        """Where a stream is once it has passed everything that could be seen until now."""
        if self._standby is None:
            self._standby = self._on_standby()
        if self._standby:
            return look(self._connection).lsn
        if self._marks is None or self._marks.connection.closed:
            # The only thing that is ever written: an empty message in the log.
            self._marks = PageReader(
                connect(self._url, allow_plaintext=self._allow_plaintext, read_only=False)
            )
        return self._marks.mark().lsn

    def _on_standby(self) -> bool:
        row = self._one(sql.SQL("SELECT pg_catalog.pg_is_in_recovery()"))
        return bool(row[0])

    def _snapshot(self) -> Snapshot:
        row = self._one(sql.SQL("SELECT pg_catalog.pg_current_snapshot()::text"))
        return Snapshot.parse(str(row[0]))

    def _one(self, query: sql.SQL) -> tuple[Any, ...]:
        with translated(connection=self._connection):
            row = self._connection.execute(query).fetchone()
        return row if row is not None else (None,)

    def await_visible(
        self,
        patience_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Return once every transaction in progress now has ended, so that what of it was streamed can
        be seen: a transaction is streamed before others see it. One that takes longer than the patience
        is not waited for again."""
        snapshot = self._snapshot()
        open_now = set(snapshot.in_progress) - self._ignored
        until = clock() + patience_seconds
        while open_now:
            now = self._snapshot()
            open_now = {xid for xid in open_now if not now.shows(xid)}
            if open_now and clock() >= until:
                self._ignored |= open_now
                return
            if open_now:
                sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        for opened in (self._open, self._marks):
            if opened is not None:
                opened.close()
        self._open = self._marks = None


def key_texts(mapping: TableMapping, fields: Sequence[Field]) -> tuple[str, ...]:
    """The texts of a key whose fields alone were read (`key_selection`)."""
    row: list[Field] = [None] * len(mapping.selection)
    for column, value in zip(mapping.key, fields, strict=True):
        row[column.index] = value
    return tuple(mapping.key_texts(row))
