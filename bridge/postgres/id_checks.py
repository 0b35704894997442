"""Whether keys that Postgres holds apart stay apart as point ids."""

from __future__ import annotations

from psycopg import sql

from bridge.findings import Finding
from bridge.postgres.chunks import relation
from bridge.postgres.connection import Connection, translated
from bridge.schema import Table

# What Go's uuid.Parse takes (point_ids.py), roughly: the digits decide.
_GO_UUID = r"^(\{.{36}.|urn:uuid:.{36}|.{36}|[0-9a-f]{32})$"


def check_equal_uuids(connection: Connection, table: Table, key: str) -> Finding:
    """Whether two keys are spellings of one UUID, which qdrant-migration's ids make one point."""
    text = sql.SQL("pg_catalog.lower(pg_catalog.format('%s', {}))").format(sql.Identifier(key))
    query = sql.SQL(
        "SELECT pg_catalog.min(k) FROM (SELECT {} AS k FROM {}) AS keys"
        " WHERE k ~ {} AND pg_catalog.regexp_replace(k, '^urn:uuid:|[^0-9a-f]', '', 'g')"
        " ~ '^[0-9a-f]{{32}}$'"
        " GROUP BY pg_catalog.regexp_replace(k, '^urn:uuid:|[^0-9a-f]', '', 'g')"
        " HAVING pg_catalog.count(*) > 1 LIMIT 1"
    ).format(text, relation(table), sql.Literal(_GO_UUID))
    with translated(connection=connection, table=table.label):
        row = connection.execute(query).fetchone()
    if row is None:
        return Finding(level="ok", check="table.ids", message=f"{table.label}: ids are distinct")
    return Finding(
        level="blocker",
        check="table.ids",
        message=f"{table.label}: several keys are spellings of the UUID {row[0]}, one point under "
        "id.scheme qdrant-migration",
        remedy="leave id.scheme out: then each spelling is a point of its own",
    )
