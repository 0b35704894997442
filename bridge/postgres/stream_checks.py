"""What must hold before a table's changes can be followed: the checks of `doctor` and of every handoff.

Each returns Findings and changes nothing; a blocker names the statement that mends it. External
specification: PostgreSQL documentation, "Logical Replication" (29.1.1 Replica Identity, 29.5 Column
Lists, 29.6 Generated Column Replication, 29.8 Restrictions) and 53.20 "pg_replication_slots".

What always holds: a replica identity is never changed by the bridge. REPLICA IDENTITY FULL makes
users' own UPDATEs dearer, and on Postgres 18 fail if the table has a stored generated column
(facts/postgres.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.errors import BridgeError, UsageError
from bridge.findings import Finding
from bridge.mapping import TableMapping
from bridge.postgres import publications, slots
from bridge.postgres.catalog import ServerFacts, inherited_children
from bridge.postgres.connection import Connection, translated
from bridge.postgres.publications import Member, Publication
from bridge.postgres.replication_errors import no_replication, wal_level_wrong
from bridge.schema import Table, quote_identifier

_GENERATED_IN_IDENTITY = 180000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamNames:
    """What the stream of a pipeline is called.

    `made`: whether this pipeline made the slot before; None where its records could not be read, so
    that a slot of this name may be in use and must not be called a leftover.
    """

    slot: str
    publication: str
    pipeline: str
    made: bool | None = False


def check_stream(
    connection: Connection,
    facts: ServerFacts,
    names: StreamNames,
    mappings: Sequence[TableMapping],
) -> list[Finding]:
    """All checks of a stream, the tables' included."""
    findings = [*_server(facts), *_limits(connection, names), *_slot(connection, names)]
    publication = publications.inspect_publication(connection, names.publication)
    tables = [mapping.table for mapping in mappings]
    followed = [table for table in tables if _has_log(table)]
    findings += _publication(connection, names, publication, followed)
    for mapping in mappings:
        findings += check_stream_table(connection, mapping, publication)
    return findings or [_ok("stream.tables", "the changes of every table can be followed")]


def require_sound(findings: Sequence[Finding]) -> None:
    """UsageError with everything that blocks, if anything does; its code is the first one's that has one."""
    found = [finding for finding in findings if finding.level == "blocker"]
    if found:
        codes = list(dict.fromkeys(finding.code for finding in found if finding.code))
        raise UsageError(
            "; ".join(finding.message for finding in found),
            code=codes[0] if codes else "",
            hint="\n".join(finding.remedy for finding in found if finding.remedy),
        )


# --- the server --------------------------------------------------------------------------------


def _server(facts: ServerFacts) -> list[Finding]:
    findings: list[Finding] = []
    if facts.in_recovery:
        findings.append(
            _blocked(
                "stream.standby",
                "this is a standby: a slot made here would not outlive it",
                "name the primary in postgres.url",
            )
        )
    elif facts.wal_level != "logical":
        findings.append(_blocker("stream.wal_level", wal_level_wrong(facts.wal_level)))
    if not (facts.replication or facts.superuser):
        findings.append(_blocker("stream.privilege", no_replication(facts.role)))
    if facts.system_identifier is None:
        role = quote_identifier(facts.role)
        findings.append(
            _blocked(
                "stream.privilege",
                f"the role {role} may not ask which cluster this is",
                "GRANT EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() TO "
                f"{role};",
            )
        )
    return findings


_LIMITS = """
SELECT pg_catalog.current_setting('max_replication_slots')::int,
  (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int,
  pg_catalog.current_setting('max_wal_senders')::int,
  (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int
"""


def _limits(connection: Connection, names: StreamNames) -> list[Finding]:
    with translated(connection=connection):
        row = connection.execute(_LIMITS).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns one row
    most_slots, slots_used, most_senders, senders = row
    findings: list[Finding] = []
    if slots_used >= most_slots and slots.inspect_slot(connection, names.slot) is None:
        findings.append(
            _blocked(
                "stream.slots",
                f"all {most_slots} replication slots of the server are in use",
                f"ALTER SYSTEM SET max_replication_slots = {most_slots + 1}; then restart "
                "Postgres; or drop one that nobody reads (pg_replication_slots: NOT active)",
            )
        )
    # Where the stream is there, one of the senders may be its own.
    if senders >= most_senders and names.made is False:
        findings.append(
            _blocked(
                "stream.senders",
                f"all {most_senders} WAL senders of the server are in use",
                f"ALTER SYSTEM SET max_wal_senders = {most_senders + 1}; then restart Postgres",
            )
        )
    return findings


def _slot(connection: Connection, names: StreamNames) -> list[Finding]:
    found = slots.inspect_slot(connection, names.slot)
    try:
        if found is None:
            return []
        if names.made:
            slots.require_readable(connection, names.slot, found, own_pid=found.active_pid)
            return []
        if names.made is None:
            return [
                Finding(
                    level="warning",
                    check="stream.slot",
                    message=f"the replication slot {names.slot} exists; not checked whether this "
                    "pipeline made it, since Qdrant could not be asked",
                    remedy="leave it as it is; run doctor again when target.reachable is mended",
                )
            ]
        slots.require_readable(connection, names.slot, found)
        raise slots.slot_exists(names.slot)
    except BridgeError as error:
        return [_blocker("stream.slot", error)]


# --- the publication ---------------------------------------------------------------------------


def _publication(
    connection: Connection,
    names: StreamNames,
    publication: Publication | None,
    tables: Sequence[Table],
) -> list[Finding]:
    if publication is None:
        return _may_publish(connection, names, tables)
    if names.made and publication.pipeline == names.pipeline:
        # A table that is new joins it at the start; whether one was taken out, the record tells.
        joining = [table for table in tables if publication.member(table.oid) is None]
        if joining and not _may_add(connection, publication, joining):
            return [
                _blocker("stream.publication", publications.may_not_add(publication.name, joining))
            ]
        tables = [table for table in tables if table not in joining]
    try:
        publications.require_fitting(publication, tables, pipeline=names.pipeline)
    except UsageError as error:
        return [_blocker("stream.publication", error)]
    return []


def _may_publish(
    connection: Connection, names: StreamNames, tables: Sequence[Table]
) -> list[Finding]:
    """Whether this role may create the publication: CREATE on the database, and every table its own."""
    query = """
        SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)
            AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))
    """
    with translated(connection=connection):
        row = connection.execute(query, ([table.oid for table in tables],)).fetchone()
    if row is not None and row[0]:
        return []
    return [
        _blocked(
            "stream.publication",
            f"this role may not create the publication {quote_identifier(names.publication)}",
            "as the tables' owner: " + publications.creating_statement(names.publication, tables),
        )
    ]


def _may_add(connection: Connection, publication: Publication, tables: Sequence[Table]) -> bool:
    """Whether this role may add the tables: the publication and every one of them its own."""
    query = """
        SELECT pg_catalog.pg_has_role(p.pubowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)
            AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))
        FROM pg_catalog.pg_publication p WHERE p.oid = %s
    """
    with translated(connection=connection):
        row = connection.execute(
            query, ([table.oid for table in tables], publication.oid)
        ).fetchone()
    return row is not None and bool(row[0])


# --- tables ------------------------------------------------------------------------------------


def check_stream_table(
    connection: Connection, mapping: TableMapping, publication: Publication | None
) -> list[Finding]:
    """Whether every change of this table is told, with the key of its row."""
    table = mapping.table
    if not _has_log(table):
        return [
            _blocked(
                "stream.table",
                f"{table.label} is a {table.kind}: it has no changes of its own to follow",
                "name the tables behind it, or copy it without sync: in a pipeline of its own",
            )
        ]
    member = None if publication is None else publication.member(table.oid)
    findings = [
        *_inheritance(connection, table),
        *_relations(connection, mapping, publication, member),
        *_column_list(mapping, publication, member),
        *_row_filter(table, publication, member),
    ]
    text = sorted({i.column for i in mapping.selection if i.form == "text"})
    if text:
        findings.append(
            _ok(
                "stream.format",
                f"{table.label}: {', '.join(text)} cannot be read in binary form, so the stream "
                "comes as text, which is slower",
            )
        )
    return findings


def _has_log(table: Table) -> bool:
    return table.kind in ("table", "partitioned table")


def _inheritance(connection: Connection, table: Table) -> list[Finding]:
    children = inherited_children(connection, table)
    if not children:
        return []
    return [
        _blocked(
            "stream.inheritance",
            f"{table.label} has inheriting tables ({', '.join(children)}), whose changes are told "
            "under their own names",
            f"use declarative partitioning, or end the inheritance: ALTER TABLE {children[0]} NO "
            f"INHERIT {table.label};",
        )
    ]


# A partitioned table has no storage and no log of its own: its leaves' persistence counts.
_RELATIONS = """
SELECT c.oid, n.nspname, c.relname, c.relreplident::text, c.relpersistence::text,
  ARRAY(SELECT a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a
    ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = c.oid AND i.indisvalid AND CASE c.relreplident
      WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)::text[]
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%s) ORDER BY c.oid = %s DESC, 2, 3
"""


def _relations(
    connection: Connection,
    mapping: TableMapping,
    publication: Publication | None,
    member: Member | None,
) -> list[Finding]:
    """Replica identity and persistence, of the table and of its partitions."""
    table = mapping.table
    oids = [table.oid, *(oid for oid, _schema, _name in table.partitions)]
    with translated(connection=connection, table=table.label):
        rows = connection.execute(_RELATIONS, (oids, table.oid)).fetchall()
    findings: list[Finding] = []
    for _oid, schema, name, identity, persistence, covered in rows:
        label = f"{quote_identifier(schema)}.{quote_identifier(name)}"
        if persistence != "p":
            findings.append(
                _blocked(
                    "stream.unlogged",
                    f"{label} is {'unlogged' if persistence == 'u' else 'temporary'}: its changes "
                    "are not in the log",
                    f"ALTER TABLE {label} SET LOGGED;",
                )
            )
        finding = _identity(table, label, identity, set(covered), mapping.key_columns)
        if finding is None and identity == "f":
            finding = _full(connection, table, label, publication, member)
        if finding is not None:
            findings.append(finding)
    return findings


def _identity(
    table: Table, label: str, identity: str, covered: set[str], key: tuple[str, ...]
) -> Finding | None:
    if identity == "f" or (covered and set(key) <= covered):
        return None
    shown = ", ".join(map(quote_identifier, key))
    if identity == "n":
        what = "is NOTHING: once published, its own UPDATEs and DELETEs fail"
    elif not covered:
        what = (
            "is the primary key, which it does not have: once published, its own UPDATEs and "
            "DELETEs fail"
            if identity == "d"
            else "is an index that is gone"
        )
    else:
        what = f"has {', '.join(sorted(covered))} and does not cover the key ({shown})"
    return _blocked(
        "stream.replica_identity",
        f"the replica identity of {label} {what}",
        _identity_remedy(table, label, key, shown),
    )


def _identity_remedy(table: Table, label: str, key: tuple[str, ...], shown: str) -> str:
    if table.primary_key and set(key) <= set(table.primary_key):
        return f"ALTER TABLE {label} REPLICA IDENTITY DEFAULT;"
    for index in table.indexes:
        not_null = all(index.columns) and all(table.column(c).not_null for c in index.columns)
        if index.unique and index.plain and not_null and set(key) <= set(index.columns):
            name = quote_identifier(index.name)
            return f"ALTER TABLE {label} REPLICA IDENTITY USING INDEX {name};"
    return f"ALTER TABLE {label} ADD PRIMARY KEY ({shown}); or REPLICA IDENTITY FULL, at its price"


def _full(
    connection: Connection,
    table: Table,
    label: str,
    publication: Publication | None,
    member: Member | None,
) -> Finding | None:
    """What makes a table's own UPDATEs fail under FULL."""
    stored = [column.name for column in table.columns if column.generated == "stored"]
    told = publication is not None and publication.generated == "s"
    version = connection.info.server_version
    if stored and not told and version >= _GENERATED_IN_IDENTITY:
        return _blocked(
            "stream.replica_identity",
            f"{label} has REPLICA IDENTITY FULL and the stored generated column {stored[0]}: once "
            "published, its own UPDATEs and DELETEs fail",
            f"ALTER TABLE {label} REPLICA IDENTITY DEFAULT; or a publication WITH "
            "(publish_generated_columns = stored)",
        )
    if member is not None and member.columns is not None:
        return _blocked(
            "stream.replica_identity",
            f"{label} has REPLICA IDENTITY FULL and a column list in its publication: its own "
            "UPDATEs and DELETEs fail",
            f"ALTER TABLE {label} REPLICA IDENTITY DEFAULT;",
        )
    return None


def _column_list(
    mapping: TableMapping, publication: Publication | None, member: Member | None
) -> list[Finding]:
    if publication is None or member is None or member.columns is None:
        return []
    table = mapping.table
    used = {item.column for item in mapping.selection if item.column != "tableoid"}
    used |= set(mapping.where)
    missing = [c.name for c in table.columns if c.name in used and c.number not in member.columns]
    if not missing:
        return []
    listed = [c.name for c in table.columns if c.number in member.columns or c.name in used]
    columns = ", ".join(map(quote_identifier, listed))
    name = quote_identifier(publication.name)
    return [
        _blocked(
            "stream.columns",
            f"the publication {name} leaves out columns of {table.label} that are mapped: "
            f"{', '.join(missing)}",
            f"ALTER PUBLICATION {name} SET TABLE {table.label} ({columns}); with its other tables "
            "behind; or leave them out with `columns`",
        )
    ]


def _row_filter(
    table: Table, publication: Publication | None, member: Member | None
) -> list[Finding]:
    if publication is None or member is None or member.row_filter is None:
        return []
    return [
        Finding(
            level="warning",
            check="stream.row_filter",
            message=f"the publication {quote_identifier(publication.name)} has a row filter for "
            f"{table.label}: rows that it hides are copied and then never change",
            remedy="give the table the same rows with `where`",
        )
    ]


def _ok(check: str, message: str) -> Finding:
    return Finding(level="ok", check=check, message=message)


def _blocked(check: str, message: str, remedy: str) -> Finding:
    return Finding(level="blocker", check=check, message=message, remedy=remedy)


def _blocker(check: str, error: BridgeError) -> Finding:
    return Finding(
        level="blocker", check=check, message=error.message, remedy=error.hint, code=error.code
    )
