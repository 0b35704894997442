"""A table's catalog entry as a record: for a daemon that has no Postgres to ask.

Stored whenever the catalog is read, so that messages without schemas can still be understood where the
database cannot be reached from. Indexes and statistics are left out: nothing that is applied needs them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bridge.schema import Column, PgType, Table
from bridge.state import Record

PREFIX = "catalog/"


def to_record(table: Table, *, full: bool) -> dict[str, Any]:
    """As it is stored. `full`: the replica identity is FULL."""
    return {
        "oid": table.oid,
        "schema": table.schema,
        "name": table.name,
        "kind": table.kind,
        "primary_key": list(table.primary_key),
        "partitions": [list(partition) for partition in table.partitions],
        "columns": [asdict(column) for column in table.columns],
        "full": full,
    }


def from_record(record: Record) -> tuple[Table, bool]:
    """The inverse of `to_record`."""
    table = Table(
        oid=record["oid"],
        schema=record["schema"],
        name=record["name"],
        kind=record["kind"],
        columns=tuple(
            Column(**{**column, "type": _type(column["type"])}) for column in record["columns"]
        ),
        primary_key=tuple(record["primary_key"]),
        partitions=tuple((oid, schema, name) for oid, schema, name in record["partitions"]),
    )
    return table, record["full"]


def _type(record: Record) -> PgType:
    element = record["element"]
    return PgType(**{**record, "element": None if element is None else _type(element)})
