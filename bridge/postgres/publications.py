"""A publication as it is in the catalog, and what may not change in it while a stream depends on it.

External specification: PostgreSQL documentation, "Logical Replication" (29.1 Publication, 29.4 Row
Filters, 29.5 Column Lists, 29.6 Generated Column Replication) and the catalogs pg_publication,
pg_publication_rel (15+: prqual, prattrs) and pg_publication_namespace (15+).

What always holds: identity is by OID. A publication that was dropped and made again, or a table that
was taken out and put back, looks the same but for that OID, and its changes in between are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import ClientCursor, sql

from bridge.errors import StopError, UsageError
from bridge.postgres.connection import Connection, translated
from bridge.schema import Table, quote_identifier

ALL_OPERATIONS = ("insert", "update", "delete", "truncate")
_MARK = "made by qdrant-bridge for pipeline "


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One table of a publication. `member_oid` is that of its pg_publication_rel entry, or of the
    pg_publication_namespace entry that brings it; None under FOR ALL TABLES.

    `columns`: attribute numbers of the column list, None without one. `row_filter`: its SQL.
    """

    table_oid: int
    label: str
    member_oid: int | None
    columns: tuple[int, ...] | None = None
    row_filter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A publication. `generated` is pubgencols (`n` none, `s` stored). `comment` tells who made it."""

    oid: int
    name: str
    operations: tuple[str, ...]
    via_root: bool
    all_tables: bool
    generated: str
    comment: str
    members: tuple[Member, ...]

    def member(self, table_oid: int) -> Member | None:
        """The table's entry, or None if it is not published."""
        for member in self.members:
            if member.table_oid == table_oid:
                return member
        return None

    @property
    def pipeline(self) -> str | None:
        """The pipeline it was made for by `create_publication`; None if by anybody else."""
        return self.comment.removeprefix(_MARK) if self.comment.startswith(_MARK) else None

    def to_record(self) -> dict[str, Any]:
        """As it is stored with the pipeline."""
        return {
            "oid": self.oid,
            "name": self.name,
            "operations": list(self.operations),
            "via_root": self.via_root,
            "all_tables": self.all_tables,
            "generated": self.generated,
            "comment": self.comment,
            "members": [
                {
                    "table_oid": member.table_oid,
                    "label": member.label,
                    "member_oid": member.member_oid,
                    "columns": None if member.columns is None else list(member.columns),
                    "row_filter": member.row_filter,
                }
                for member in self.members
            ],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Publication:
        """The inverse of `to_record`."""
        members = tuple(
            Member(
                **{
                    **member,
                    "columns": None if member["columns"] is None else tuple(member["columns"]),
                }
            )
            for member in record["members"]
        )
        return cls(
            **{**record, "operations": tuple(record["operations"]), "members": members},
        )


_PUBLICATION = """
SELECT oid, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables,
  {generated} AS generated,
  coalesce(pg_catalog.obj_description(oid, 'pg_publication'), '')
FROM pg_catalog.pg_publication WHERE pubname = %s
"""
_MEMBERS = """
SELECT c.oid, n.nspname, c.relname, r.oid, {columns}, {row_filter}
FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE r.prpubid = %(oid)s ORDER BY n.nspname, c.relname
"""
_SCHEMA_MEMBERS = """
SELECT c.oid, n.nspname, c.relname, s.oid, NULL::int2[], NULL::text
FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
WHERE s.pnpubid = %(oid)s AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
ORDER BY n.nspname, c.relname
"""
# Ordinary tables are those behind the first user OID; information_schema's are the exception.
_ALL_MEMBERS = """
SELECT c.oid, n.nspname, c.relname, NULL::oid, NULL::int2[], NULL::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
  AND n.nspname <> 'information_schema' AND %(oid)s IS NOT NULL
ORDER BY n.nspname, c.relname
"""


def inspect_publication(connection: Connection, name: str) -> Publication | None:
    """The publication of that name in this database, or None. Every role may look.

    Works on a replication connection too: parameters are put in by the client.
    """
    version = connection.info.server_version
    generated = "pubgencols::text" if version >= 180000 else "'n'"
    with translated(connection=connection):
        cursor = ClientCursor(connection)
        row = cursor.execute(_PUBLICATION.format(generated=generated).encode(), (name,)).fetchone()
        if row is None:
            return None
        oid, *published, via_root, all_tables, generated_columns, comment = row
        members = _members(cursor, oid, all_tables=all_tables, version=version)
    return Publication(
        oid=oid,
        name=name,
        operations=tuple(
            operation for operation, on in zip(ALL_OPERATIONS, published, strict=True) if on
        ),
        via_root=via_root,
        all_tables=all_tables,
        generated=generated_columns,
        comment=comment,
        members=members,
    )


def create_publication(
    connection: Connection, name: str, tables: Sequence[Table], *, pipeline: str
) -> Publication:
    """CREATE PUBLICATION ... FOR TABLE, all operations, partitions under their root.

    UsageError with the statement for the tables' owner if this role may not.
    """
    listed = sql.SQL(", ").join(sql.Identifier(table.schema, table.name) for table in tables)
    statement = sql.SQL(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)"
    ).format(sql.Identifier(name), listed)
    with translated(connection=connection), connection.transaction():
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(
                f"this role may not create the publication {quote_identifier(name)}",
                code="PRIVILEGE",
                hint=f"as the tables' owner: {creating_statement(name, tables)}",
            ) from error
        connection.execute(
            sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(
                sql.Identifier(name), sql.Literal(_MARK + pipeline)
            )
        )
    created = inspect_publication(connection, name)
    if created is None:
        raise StopError(
            f"the publication {quote_identifier(name)} was dropped as it was made",
            code="PUBLICATION_CHANGED",
        )
    return created


def add_tables(connection: Connection, name: str, tables: Sequence[Table]) -> None:
    """ALTER PUBLICATION ... ADD TABLE. UsageError with the statement if this role may not."""
    statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(
        sql.Identifier(name),
        sql.SQL(", ").join(sql.Identifier(table.schema, table.name) for table in tables),
    )
    with translated(connection=connection):
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            raise may_not_add(name, tables) from error


def may_not_add(name: str, tables: Iterable[Table]) -> UsageError:
    """Adding tables needs what this role has not; with the statement."""
    return UsageError(
        f"this role may not add tables to the publication {quote_identifier(name)}",
        code="PRIVILEGE",
        hint=f"as the tables' owner: ALTER PUBLICATION {quote_identifier(name)} ADD TABLE "
        f"{', '.join(table.label for table in tables)};",
    )


def creating_statement(name: str, tables: Iterable[Table]) -> str:
    """The statement that makes a fitting publication, for people."""
    return (
        f"CREATE PUBLICATION {quote_identifier(name)}"
        f" FOR TABLE {', '.join(table.label for table in tables)}"
        " WITH (publish_via_partition_root = true);"
    )


def require_fitting(publication: Publication, tables: Sequence[Table], *, pipeline: str) -> None:
    """UsageError, with the statement that mends it, unless it tells every change of these tables.

    Tables beyond these are allowed: a stream passes over them. A column list or a row filter is
    the user's choice and allowed; `where` and `columns` of the configuration are for us.
    """
    name = quote_identifier(publication.name)
    if publication.pipeline not in (None, pipeline):
        raise UsageError(
            f"the publication {name} belongs to the pipeline {publication.pipeline!r}",
            hint="name another one in `sync.publication`",
        )
    missing_operations = [o for o in ALL_OPERATIONS if o not in publication.operations]
    if missing_operations:
        raise UsageError(
            f"the publication {name} omits {', '.join(missing_operations)}",
            hint=f"ALTER PUBLICATION {name} SET (publish = '{', '.join(ALL_OPERATIONS)}');",
        )
    missing = [table.label for table in tables if publication.member(table.oid) is None]
    if missing:
        raise UsageError(
            f"the publication {name} lacks {', '.join(missing)}",
            hint=f"ALTER PUBLICATION {name} ADD TABLE {', '.join(missing)};",
        )
    if not publication.via_root and any(table.partitions for table in tables):
        raise UsageError(
            f"the publication {name} tells changes under the partitions' names",
            hint=f"ALTER PUBLICATION {name} SET (publish_via_partition_root = true);",
        )


def require_unchanged(
    recorded: Publication, found: Publication | None, table_oids: Iterable[int]
) -> None:
    """StopError `PUBLICATION_CHANGED`, saying what, unless all that these tables' stream depends on
    is as recorded. What concerns other tables only may change."""
    difference = _difference(recorded, found, table_oids)
    if difference is not None:
        raise StopError(
            f"the publication {quote_identifier(recorded.name)} was changed: {difference}",
            code="PUBLICATION_CHANGED",
            hint="changes may be missing: run `qdrant-bridge resync --all`",
        )


def _difference(
    recorded: Publication, found: Publication | None, table_oids: Iterable[int]
) -> str | None:
    if found is None:
        return "it does not exist any more"
    if found.oid != recorded.oid:
        return "it was dropped and made again"
    if found.operations != recorded.operations:
        return f"it publishes {', '.join(found.operations) or 'nothing'}"
    if found.via_root != recorded.via_root:
        return "publish_via_partition_root is another"
    if found.generated != recorded.generated:
        return "publish_generated_columns is another"
    for oid in table_oids:
        before, now = recorded.member(oid), found.member(oid)
        if before is None:
            continue  # it was never in it: `require_fitting` says so
        if now is None:
            return f"{before.label} was taken out of it"
        if now.member_oid != before.member_oid:
            return f"{before.label} was taken out of it and put back"
        if now.columns != before.columns:
            return f"the column list of {before.label} is another"
        if now.row_filter != before.row_filter:
            return f"the row filter of {before.label} is another"
    return None


def _members(
    cursor: ClientCursor[tuple[Any, ...]], oid: int, *, all_tables: bool, version: int
) -> tuple[Member, ...]:
    since_15 = version >= 150000
    if all_tables:
        queries = [_ALL_MEMBERS]
    else:
        listed = _MEMBERS.format(
            columns="r.prattrs::int2[]" if since_15 else "NULL::int2[]",
            row_filter="pg_catalog.pg_get_expr(r.prqual, r.prrelid)" if since_15 else "NULL::text",
        )
        queries = [listed, _SCHEMA_MEMBERS] if since_15 else [listed]
    members: dict[int, Member] = {}
    for query in queries:
        for table_oid, schema, name, member_oid, columns, row_filter in cursor.execute(
            query.encode(), {"oid": oid}
        ).fetchall():
            member = Member(
                table_oid=table_oid,
                label=f"{quote_identifier(schema)}.{quote_identifier(name)}",
                member_oid=member_oid,
                columns=None if columns is None else tuple(columns),
                row_filter=row_filter,
            )
            members.setdefault(table_oid, member)
    return tuple(members.values())
