"""Small looks at Postgres that a stream through Kafka needs, since its messages do not tell."""

from __future__ import annotations

from bridge.positions import Lsn
from bridge.postgres.connection import Connection, translated
from bridge.snapshots import Snapshot

_XID_BITS = 0xFFFFFFFF


def replica_identity(connection: Connection, oid: int) -> str:
    """pg_class.relreplident: d, n, f or i; empty if there is no such table."""
    with translated(connection=connection):
        row = connection.execute(
            "SELECT relreplident::text FROM pg_catalog.pg_class WHERE oid = %s", (oid,)
        ).fetchone()
    return "" if row is None else str(row[0])


def insert_position(connection: Connection) -> Lsn:
    """The end of the log: what is written from now on lies behind it."""
    with translated(connection=connection):
        row = connection.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").fetchone()
    return Lsn.parse(str(row[0]) if row is not None else "")


def in_progress(connection: Connection) -> set[int]:
    """The (32-bit) transactions that are under way: any other that has begun is visible by now.

    A snapshot lists none of those that are younger than the last one that has ended. So one of our own
    begins and ends before it is taken: every older one is listed then.
    """
    with translated(connection=connection):
        connection.execute("SELECT pg_catalog.pg_current_xact_id()")
        row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
    snapshot = Snapshot.parse(str(row[0]) if row is not None else "")
    return {xid & _XID_BITS for xid in snapshot.in_progress}


def table_names(connection: Connection) -> list[tuple[str, str]]:
    """Schema and name of every table of the database that is not the system's."""
    with translated(connection=connection):
        rows = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
    return [(str(schema), str(name)) for schema, name in rows]
