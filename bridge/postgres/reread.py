"""Rows read again by key, because a streamed change did not carry all of them.

A change is streamed before other sessions see it: the WAL is written first, and with a synchronous
standby it may take long (facts/postgres.md). A row counts here only if the snapshot that it was read
in shows the transactions that made it be read; until then it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bridge.mapping import Selected
from bridge.postgres import scan
from bridge.postgres.connection import Connection, translated
from bridge.schema import Table
from bridge.snapshots import Snapshot

FIRST_WAIT_SECONDS = 0.005
LONGEST_WAIT_SECONDS = 1.0


def read_visible(
    connection: Connection,
    table: Table,
    selection: Sequence[Selected],
    key: Sequence[str],
    keys: Sequence[Sequence[str]],
    xids: Iterable[int],
    *,
    wait: Callable[[float], None],
) -> list[scan.Row]:
    """The rows with these keys as of a snapshot that shows all of these (32-bit) transactions.

    Rows that are gone are absent: their delete follows in the stream. `wait` sleeps so many seconds;
    it may raise to give up.
    """
    wanted = set(xids)
    seconds = FIRST_WAIT_SECONDS
    while True:
        with translated(table=table.label, connection=connection), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
            snapshot = Snapshot.parse(str(row[0]) if row is not None else "")
            if all(snapshot.shows(snapshot.widen(xid)) for xid in wanted):
                return scan.read_by_key(connection, table, selection, key, keys, {})
        wait(seconds)
        seconds = min(LONGEST_WAIT_SECONDS, seconds * 2)
