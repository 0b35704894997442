"""Whether a table is written to, as the server's cumulative statistics have it.

External specification: PostgreSQL documentation, "The Cumulative Statistics System". They are no proof:
sessions report late, and a crash or a reset sets them back. That is enough to tell a table at rest
from one in use.
"""

from __future__ import annotations

from bridge.postgres.connection import Connection, translated
from bridge.schema import Table


def write_count(connection: Connection, table: Table) -> int | None:
    """How many rows were inserted, updated and deleted since the server's statistics began.

    Two equal counts: nobody has written in between, save in the last seconds, since sessions report
    late. None for a view and the like, which have no such count.
    """
    if table.kind not in ("table", "partitioned table"):
        return None
    oids = [oid for oid, _schema, _name in table.partitions] or [table.oid]
    query = (
        "SELECT pg_catalog.sum(n_tup_ins + n_tup_upd + n_tup_del)"
        " FROM pg_catalog.pg_stat_all_tables WHERE relid = ANY(%s)"
    )
    with translated(connection=connection, table=table.label):
        row = connection.execute(query, (oids,)).fetchone()
    return None if row is None or row[0] is None else int(row[0])
