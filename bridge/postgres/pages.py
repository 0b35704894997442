"""Pages of a table, each read in one short transaction whose snapshot is known: what a resync reads.

A page holds the first rows behind a key, in the key's order, and ends after so many rows or bytes.
Ranges that were planned beforehand would not do here: the last of them is open at its end and grows
with the table, while all of a page's rows are held in memory.

The table is locked (ACCESS SHARE) before the snapshot is taken. To an older snapshot, a table that is
rewritten or truncated in between looks empty (PostgreSQL documentation, section 13.6 "Caveats"), and an
empty page means that its points are removed.

`mark` says how far the stream must come: everything that a snapshot taken before it shows has been
committed before the mark's LSN. It is a transaction of its own, an empty logical message, since the
ends of transactions that somebody else committed asynchronously may not be flushed, and what is not
flushed is not streamed; the mark's own commit flushes all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import errors, sql

from bridge.errors import StopError
from bridge.mapping import Selected
from bridge.positions import Lsn
from bridge.postgres import scan
from bridge.postgres.chunks import KeyRange, from_condition, keys_condition, range_condition
from bridge.postgres.connection import Connection, translated
from bridge.postgres.slots import Blocker, in_progress
from bridge.schema import Table
from bridge.snapshots import Snapshot

_LOCK_MILLISECONDS = 100
_PREFIX = "qdrant-bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows as a snapshot shows them. `ended`: nothing lies behind them."""

    snapshot: Snapshot
    rows: list[scan.Row]
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Which rows: from `first` on (included) or behind `after`, up to `last` (included); None: no bound.

    Keys are text forms, one a key column.
    """

    first: tuple[str, ...] | None = None
    after: tuple[str, ...] | None = None
    last: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in the log, and the 64-bit id of the transaction that set it."""

    xid: int
    lsn: Lsn


class PageReader:
    """Reads pages over one connection, opened with `read_only=False` for the marks."""

    def __init__(self, connection: Connection) -> None:
        scan.prepare(connection)
        self._connection = connection

    @property
    def connection(self) -> Connection:
        """The connection, for other reads between pages."""
        return self._connection

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
        """The next page; None if the snapshot is not `usable` now, or the table is locked."""
        statement = scan.page_statement(
            table, selection, key, _condition(table, key, stretch), where, limit=rows
        )
        return self._read(table, len(selection), statement, usable, rows, size_bytes)

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
        """The rows with these keys that there are, as `page` would give them."""
        statement = scan.page_statement(
            table, selection, key, keys_condition(table, key, keys), where, limit=len(keys)
        )
        return self._read(table, len(selection), statement, usable, len(keys) + 1, 2**62)

    def _read(
        self,
        table: Table,
        fields: int,
        statement: sql.Composed,
        usable: Callable[[Snapshot], bool],
        rows: int,
        size_bytes: int,
    ) -> Page | None:
        with translated(table=table.label, connection=self._connection):
            try:
                with self._connection.transaction():
                    snapshot = self._snapshot(table)
                    if not usable(snapshot):
                        return None
                    batches = scan.read_batches(
                        self._connection,
                        statement,
                        fields=fields,
                        table=table.label,
                        batch_rows=rows,
                        batch_bytes=size_bytes,
                    )
                    first = next(batches, None)
                    # What is left, if bytes ended the page, is read and thrown away: bounded by
                    # the rows that were asked for, never held.
                    more = sum(len(batch.rows) for batch in batches)
            except errors.LockNotAvailable:
                return None
        found = [] if first is None else first.rows
        return Page(snapshot=snapshot, rows=found, ended=len(found) + more < rows and not more)

    def _snapshot(self, table: Table) -> Snapshot:
        """Lock the table, then take the transaction's snapshot."""
        execute = self._connection.execute
        execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        execute(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")
        # A LOCK takes no snapshot of its own; with the leaves of a partitioned table.
        execute(
            sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(
                sql.Identifier(table.schema, table.name)
            )
        )
        row = execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
        return Snapshot.parse(str(row[0]) if row is not None else "")

    def mark(self) -> Mark:
        """Set a mark; it is in the stream when this returns."""
        with translated(connection=self._connection), self._connection.transaction():
            # Flushed here, whatever the default; a standby is not waited for.
            self._connection.execute("SET LOCAL synchronous_commit TO local")
            row = self._connection.execute(
                "SELECT pg_catalog.pg_current_xact_id()::text,"
                " pg_catalog.pg_logical_emit_message(true, %s, '')::text",
                (_PREFIX,),
            ).fetchone()
        if row is None:
            raise StopError("Postgres set a mark and did not say where", code="PROTOCOL")
        return Mark(xid=int(row[0]), lsn=Lsn.parse(row[1]))

    def blockers(self, snapshot: Snapshot) -> list[Blocker]:
        """Who keeps the transactions open that the snapshot shows in progress."""
        return in_progress(self._connection, str(snapshot))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _condition(table: Table, key: Sequence[str], stretch: Stretch) -> sql.Composed:
    bounds = range_condition(table, key, KeyRange(lower=stretch.after, upper=stretch.last))
    if stretch.first is None or stretch.after is not None:
        return bounds
    return sql.SQL("{} AND {}").format(from_condition(table, key, stretch.first), bounds)
