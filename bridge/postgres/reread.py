"""Rows read again by key, because a streamed change did not carry all of them.

A change is streamed before other sessions see it: the WAL is written first, and with a synchronous
standby it may take long (facts/postgres.md). A row counts here only if the snapshot that it was read
in shows the transactions that made it be read; until then it is read again.

The stream may lag behind the catalog. The table is found by its OID and its columns by their numbers,
whatever they are called by now; a column that was dropped, or has another type now, cannot be read
and is told in `Reread.lacking`. The table is locked (ACCESS SHARE) before the snapshot is taken: to an
older one, a table that a DDL command rewrites in between would look empty (PostgreSQL documentation,
section 13.6 "Caveats").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from psycopg import errors, sql

from bridge.events import Field
from bridge.mapping import Selected
from bridge.postgres import catalog, scan
from bridge.postgres.connection import Connection, translated
from bridge.schema import Column, Table
from bridge.snapshots import Snapshot

FIRST_WAIT_SECONDS = 0.005
LONGEST_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """`rows` as selected, NULL for what is `lacking`: columns that cannot be read any more."""

    rows: list[list[Field]]
    lacking: frozenset[str]


def read_visible(
    connection: Connection,
    table: Table,
    selection: Sequence[Selected],
    key: Sequence[str],
    keys: Sequence[Sequence[str]],
    xids: Iterable[int],
    *,
    wait: Callable[[float], None],
) -> Reread:
    """The rows with these keys as of a snapshot that shows all of these (32-bit) transactions.

    `table` and the names in `selection` and `key` are those of the stream. Rows that are gone are
    absent: their delete follows in the stream; so are all rows of a table that was dropped, and
    everything is if a key column is lacking. `wait` sleeps so many seconds; it may raise to give up.
    """
    wanted = set(xids)
    seconds = FIRST_WAIT_SECONDS
    with translated(table=table.label, connection=connection):
        while True:
            name = _name(connection, table.oid)
            if name is None:
                return Reread(rows=[], lacking=frozenset())
            try:
                with connection.transaction():
                    if _locked(connection, table.oid, name) and _shows(connection, wanted):
                        return _read(connection, table, name, selection, key, keys)
            except (errors.UndefinedTable, errors.InvalidSchemaName):
                pass  # it was renamed this very moment
            wait(seconds)
            seconds = min(LONGEST_WAIT_SECONDS, seconds * 2)


def _name(connection: Connection, oid: int) -> tuple[str, str] | None:
    row = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        (oid,),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def _locked(connection: Connection, oid: int, name: tuple[str, str]) -> bool:
    """Lock the table of that name, as the transaction's first statement; whether it is the one."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    # A LOCK takes no snapshot of its own; the next statement's is the transaction's.
    connection.execute(
        sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(sql.Identifier(*name))
    )
    return _name(connection, oid) == name


def _shows(connection: Connection, xids: Iterable[int]) -> bool:
    """Whether the transaction's snapshot shows all of these."""
    row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
    snapshot = Snapshot.parse(str(row[0]) if row is not None else "")
    return all(snapshot.shows(snapshot.widen(xid)) for xid in xids)


def _read(
    connection: Connection,
    table: Table,
    name: tuple[str, str],
    selection: Sequence[Selected],
    key: Sequence[str],
    keys: Sequence[Sequence[str]],
) -> Reread:
    by_number = {column.number: column for column in catalog.read_columns(connection, table.oid)}
    now: dict[str, Column] = {}
    for column in table.columns:
        found = by_number.get(column.number)
        if found is not None and _same_values(found, column):
            now[column.name] = found
    lacking = frozenset(item.column for item in selection if item.column not in now)
    if any(column not in now for column in key):
        return Reread(rows=[], lacking=lacking | set(key) - now.keys())
    current = replace(table, schema=name[0], name=name[1], columns=tuple(now.values()))
    readable = [item for item in selection if item.column in now]
    rows = scan.read_by_key(
        connection,
        current,
        [Selected(column=now[item.column].name, form=item.form) for item in readable],
        [now[column].name for column in key],
        keys,
        {},
    )
    if not lacking:
        return Reread(rows=rows, lacking=lacking)
    places = [None if i.column in lacking else readable.index(i) for i in selection]
    widened = [[None if place is None else row[place] for place in places] for row in rows]
    return Reread(rows=widened, lacking=lacking)


def _same_values(now: Column, then: Column) -> bool:
    """Whether values of the column as it is now can be taken for those of then."""
    if then.type.name in ("vector", "halfvec", "sparsevec", "bit"):
        return now.type == then.type  # a vector of another dimension is another vector
    return now.type.oid == then.type.oid
