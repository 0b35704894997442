"""Reads what `bridge.silent_changes` compares: the labels of a table's enum columns, its partitions.

External specification: PostgreSQL documentation, 53.20 "pg_enum" and 9.28.12 (pg_partition_tree).
"""

from __future__ import annotations

from bridge.postgres.connection import Connection, translated
from bridge.silent_changes import Beneath

# Arrays of an enum, and domains over one, show its labels too.
_ENUMS = """
SELECT a.attname, array_agg(e.enumlabel ORDER BY e.enumsortorder)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_enum e ON e.enumtypid IN (t.oid, t.typelem, t.typbasetype)
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped GROUP BY a.attname
"""
_PARTITIONS = """
SELECT c.oid::text, pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_partition_tree(%s) t JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.isleaf AND t.parentrelid IS NOT NULL
"""


def look(connection: Connection, table_oid: int) -> Beneath:
    """As it is now; of a table that is gone nothing."""
    with translated(connection=connection):
        enums = connection.execute(_ENUMS, (table_oid,)).fetchall()
        partitions = connection.execute(_PARTITIONS, (table_oid,)).fetchall()
    return Beneath(
        enums={column: tuple(labels) for column, labels in enums}, partitions=dict(partitions)
    )
