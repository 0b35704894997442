"""What Postgres says of a relation and of itself: tables, columns, indexes, server facts.

External specification: "System Catalogs" (pg_class, pg_attribute, pg_type, pg_index,
pg_inherits) and "Declarative Partitioning". Everything is read with parameters, no name is ever
part of a statement's text, and nothing here reads a row of the user's. Catalogs are readable by
every role, so a table that may not be read is still described; `checks.py` judges privileges.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge.errors import UsageError
from bridge.postgres.connection import Connection, translated
from bridge.schema import Column, Index, PgType, RelationKind, Table, TypeKind, quote_identifier

MINIMUM_SERVER = 140000  # Postgres 14
MINIMUM_PGVECTOR = (0, 5)

_RELATION_KINDS: Mapping[str, RelationKind] = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}
_TYPE_KINDS: Mapping[str, TypeKind] = {
    "b": "base",
    "c": "composite",
    "e": "enum",
    "m": "multirange",
    "p": "pseudo",
    "r": "range",
}
_MOST_SUGGESTIONS = 3
_MOST_NAMES_COMPARED = 20_000  # difflib takes about 20 us a name


def read_table(connection: Connection, schema: str | None, name: str) -> Table:
    """The relation of that exact name; without a schema, the one that search_path finds.

    Raises UsageError, naming the nearest relations, if there is none.
    """
    with translated(connection=connection):
        row = None
        if "\0" not in (schema or "") + name:
            row = connection.execute(_FIND, {"schema": schema, "name": name}).fetchone()
        if row is None:
            raise _unknown_table(connection, schema, name)
        return _table(connection, row[0])


def has_table(connection: Connection, schema: str, name: str) -> bool:
    """Whether there is a relation of that exact name."""
    with translated(connection=connection):
        return connection.execute(_FIND, {"schema": schema, "name": name}).fetchone() is not None


def read_table_by_oid(connection: Connection, oid: int) -> Table | None:
    """The relation with that OID, whatever it is called by now; None if it was dropped."""
    with translated(connection=connection):
        if connection.execute(_RELATION, (oid,)).fetchone() is None:
            return None
        return _table(connection, oid)


def read_columns(connection: Connection, oid: int) -> tuple[Column, ...]:
    """The relation's columns by number; none if it was dropped."""
    with translated(connection=connection):
        return _columns(connection, oid)


def announced_columns(
    connection: Connection, announced: Sequence[tuple[str, int, int]]
) -> tuple[Column | None, ...]:
    """Columns as a stream announces them: (name, type OID, atttypmod). Their number is 0, since only
    the catalog knows it; None for a type that does not exist, not yet or not any more."""
    with translated(connection=connection):
        types = _types(connection, {oid for _name, oid, _modifier in announced})
        declared = connection.execute(
            "SELECT pg_catalog.format_type(t, m) FROM ROWS FROM ("
            " pg_catalog.unnest(%s::oid[]), pg_catalog.unnest(%s::int[])) AS a(t, m)",
            ([oid for _, oid, _ in announced], [modifier for _, _, modifier in announced]),
        ).fetchall()
    return tuple(
        Column(name=name, number=0, type=_resolve(types, oid, modifier), declared=text)
        if oid in types
        else None
        for (name, oid, modifier), (text,) in zip(announced, declared, strict=True)
    )


def list_tables(connection: Connection) -> tuple[Table, ...]:
    """The tables (partitions under their root) that `init` proposes, by schema and name.

    Those with a vector, halfvec or sparsevec column, also in an array or a domain, or with a bit
    column that a vector index covers; bit columns alone are more often flags than vectors.
    """
    with translated(connection=connection):
        found = connection.execute(_WITH_VECTORS).fetchall()
        return tuple(_table(connection, oid) for (oid,) in found)


def inherited_children(connection: Connection, table: Table) -> tuple[str, ...]:
    """Labels of tables that inherit from this one without being its partitions.

    Their rows are read with the table's, but its keys are not unique across them.
    """
    if table.kind != "table":
        return ()
    with translated(connection=connection, table=table.label):
        rows = connection.execute(_CHILDREN, (table.oid,)).fetchall()
    return tuple(f"{quote_identifier(schema)}.{quote_identifier(name)}" for schema, name in rows)


# --- relations ---------------------------------------------------------------------------------

_FIND = """
SELECT c.oid FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND CASE WHEN %(schema)s::text IS NULL THEN pg_catalog.pg_table_is_visible(c.oid)
           ELSE n.nspname = %(schema)s END
"""

_NAMES = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%%'
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
ORDER BY n.nspname, c.relname LIMIT %s
"""

_RELATION = """
SELECT n.nspname, c.relname, c.relkind, pg_catalog.row_security_active(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""

_LEAVES = """
SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_partition_tree(%s) t
JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.isleaf ORDER BY n.nspname, c.relname
"""

_CHILDREN = """
WITH RECURSIVE child AS (
  SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = %s
  UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN child ON i.inhparent = child.inhrelid)
SELECT n.nspname, c.relname FROM child JOIN pg_catalog.pg_class c ON c.oid = child.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2
"""

# As the planner does: tuples per page when last counted, times the pages of now. A relation that
# was never counted makes the sum unknown (NULL), unless it is empty.
_ESTIMATE = """
WITH RECURSIVE part AS (
  SELECT %s::pg_catalog.oid AS oid
  UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN part ON i.inhparent = part.oid)
SELECT CASE WHEN pg_catalog.bool_or(rows IS NULL) THEN NULL ELSE pg_catalog.sum(rows) END FROM (
  SELECT CASE
    WHEN relkind = 'f' THEN nullif(reltuples, -1)
    WHEN pages = 0 THEN 0
    WHEN reltuples < 0 OR relpages = 0 THEN NULL
    ELSE reltuples::float8 / relpages * pages END AS rows
  FROM (SELECT relkind, reltuples, relpages,
      CASE WHEN relkind = 'f' THEN 0 ELSE pg_catalog.pg_relation_size(c.oid)
        / pg_catalog.current_setting('block_size')::int END AS pages
    FROM part JOIN pg_catalog.pg_class c USING (oid) WHERE relkind IN ('r', 'm', 'f')) sized
) counted
"""

_WITH_VECTORS = """
WITH RECURSIVE vectorlike AS (
  SELECT oid, typname FROM pg_catalog.pg_type
  WHERE typname IN ('vector', 'halfvec', 'sparsevec') AND typtype = 'b'
    OR oid = 'pg_catalog.bit'::pg_catalog.regtype
  UNION SELECT t.oid, v.typname FROM pg_catalog.pg_type t JOIN vectorlike v
    ON t.typbasetype = v.oid OR (t.typelem = v.oid AND t.typlen = -1))
SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
  AND EXISTS (
    SELECT FROM pg_catalog.pg_attribute a JOIN vectorlike v ON v.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (v.typname <> 'bit' OR EXISTS (
        SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ci ON ci.oid = i.indexrelid
        JOIN pg_catalog.pg_am m ON m.oid = ci.relam
        WHERE i.indrelid = c.oid AND m.amname IN ('hnsw', 'ivfflat')
          AND a.attnum = ANY (i.indkey))))
ORDER BY n.nspname, c.relname
"""


def _table(connection: Connection, oid: int) -> Table:
    relation = connection.execute(_RELATION, (oid,)).fetchone()
    if relation is None:
        raise UsageError(f"the relation with oid {oid} was dropped while it was read")
    schema, name, kind, row_security = relation
    leaves: list[tuple[int, str, str]] = []
    if kind == "p":
        leaves = [(o, s, n) for o, s, n in connection.execute(_LEAVES, (oid,)).fetchall()]
    indexes = _indexes(connection, [oid, *(leaf[0] for leaf in leaves)])
    own = indexes[oid]
    if leaves:
        own += _shared(own, [indexes[leaf[0]] for leaf in leaves])
    return Table(
        oid=oid,
        schema=schema,
        name=name,
        kind=_RELATION_KINDS[kind],
        columns=_columns(connection, oid),
        primary_key=next((index.columns for index in own if index.primary), ()),
        indexes=tuple(own),
        partitions=tuple(leaves),
        estimated_rows=-1 if kind == "v" else _estimated_rows(connection, oid),
        row_security=row_security,
    )


def _estimated_rows(connection: Connection, oid: int) -> int:
    row = connection.execute(_ESTIMATE, (oid,)).fetchone()
    return -1 if row is None or row[0] is None else round(row[0])


def _unknown_table(connection: Connection, schema: str | None, name: str) -> UsageError:
    wanted = f"{quote_identifier(schema)}." if schema else ""
    wanted += quote_identifier(name) if name else '""'
    names = connection.execute(_NAMES, (_MOST_NAMES_COMPARED,)).fetchall()
    near = _near(schema, name, [(s, n) for s, n in names])
    if near:
        hint = "did you mean " + " or ".join(near) + "?"
    elif names:
        hint = "this role sees no relation of a similar name; is this the right database?"
    else:
        hint = "this role sees no relation at all; is this the right database, may it use a schema?"
    return UsageError(f"there is no table or view {wanted}", hint=hint)


def _near(schema: str | None, name: str, names: Sequence[tuple[str, str]]) -> list[str]:
    """Labels of the most similar names: the same name elsewhere first, then by similarity."""
    folded = name.lower()
    by_name: dict[str, list[str]] = {}
    for a_schema, a_name in names:
        label = f"{quote_identifier(a_schema)}.{quote_identifier(a_name)}"
        by_name.setdefault(a_name.lower(), []).append(label)
        if schema is None and "." in name:  # "schema.table" given as one name
            by_name.setdefault(f"{a_schema}.{a_name}".lower(), []).append(label)
    close = difflib.get_close_matches(folded, by_name, n=_MOST_SUGGESTIONS, cutoff=0.6)
    alike = difflib.SequenceMatcher(b=schema or "")
    labels: list[str] = []
    for match in close:
        labels += sorted(by_name[match], key=lambda label: _unlikeness(alike, label))
    return list(dict.fromkeys(labels))[:_MOST_SUGGESTIONS]


def _unlikeness(wanted: difflib.SequenceMatcher[str], label: str) -> float:
    """How little a label's schema resembles the wanted one."""
    wanted.set_seq1(label.partition(".")[0])
    return -wanted.ratio()


# --- columns and types -------------------------------------------------------------------------

# Since Postgres 18 attnotnull is also set for a NOT NULL that was never validated.
_COLUMNS = """
SELECT a.attname, a.attnum, a.atttypid, a.atttypmod,
  pg_catalog.format_type(a.atttypid, a.atttypmod),
  a.attnotnull AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n'
      AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated),
  a.attgenerated
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

# An element is one only for the array type that its own type names: int2vector has a typelem too.
_TYPES = """
SELECT t.oid, n.nspname, t.typname, t.typtype, t.typbasetype, t.typtypmod,
  CASE WHEN e.typarray = t.oid THEN e.oid ELSE 0 END
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
WHERE t.oid = ANY (%s)
"""

_GENERATED = {"": "", "s": "stored", "v": "virtual"}


def _columns(connection: Connection, oid: int) -> tuple[Column, ...]:
    rows = connection.execute(_COLUMNS, (oid,)).fetchall()
    types = _types(connection, {row[2] for row in rows})
    return tuple(
        Column(
            name=name,
            number=number,
            type=_resolve(types, type_oid, modifier),
            declared=declared,
            not_null=not_null,
            generated=_GENERATED[generated],  # type: ignore[arg-type]
        )
        for name, number, type_oid, modifier, declared, not_null, generated in rows
    )


def _types(connection: Connection, oids: Iterable[int]) -> dict[int, tuple[Any, ...]]:
    """The pg_type rows of these types and of all that they are made of, by oid."""
    known: dict[int, tuple[Any, ...]] = {}
    missing = set(oids)
    while missing:
        rows = connection.execute(_TYPES, (sorted(missing),)).fetchall()
        known |= {row[0]: row for row in rows}
        missing = {oid for row in rows for oid in (row[4], row[6]) if oid} - known.keys()
    return known


def _resolve(types: Mapping[int, tuple[Any, ...]], oid: int, modifier: int) -> PgType:
    """The type with its domains resolved; the modifier is then that of the innermost domain."""
    _, schema, name, kind, base, domain_modifier, element = types[oid]
    if kind == "d":
        return _resolve(types, base, domain_modifier)
    return PgType(
        oid=oid,
        schema=schema,
        name=name,
        kind="array" if element else _TYPE_KINDS[kind],
        modifier=modifier,
        element=_resolve(types, element, modifier) if element else None,
    )


# --- indexes -----------------------------------------------------------------------------------

_INDEXES = """
SELECT i.indrelid, ci.relname, m.amname, i.indisprimary, i.indisunique,
  i.indpred IS NOT NULL, i.indisvalid AND i.indisready AND i.indislive,
  ARRAY(SELECT coalesce(a.attname, '') FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) g(k)
    LEFT JOIN pg_catalog.pg_attribute a
      ON a.attrelid = i.indrelid AND a.attnum = i.indkey[g.k] AND a.attnum > 0 ORDER BY g.k),
  ARRAY(SELECT o.opcname FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) g(k)
    JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[g.k] ORDER BY g.k),
  coalesce(ci.reloptions, '{}')
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ci ON ci.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = ci.relam
WHERE i.indrelid = ANY (%s) ORDER BY i.indrelid, i.indisprimary DESC, ci.relname
"""


def _indexes(connection: Connection, oids: Sequence[int]) -> dict[int, list[Index]]:
    found: dict[int, list[Index]] = {oid: [] for oid in oids}
    for row in connection.execute(_INDEXES, (list(oids),)).fetchall():
        relation, name, method, primary, unique, partial, valid, columns, opclasses, options = row
        found[relation].append(
            Index(
                name=name,
                method=method,
                columns=tuple(columns),
                opclasses=tuple(opclasses),
                options=dict(option.split("=", 1) for option in options),
                primary=primary,
                unique=unique,
                partial=partial,
                valid=valid,
            )
        )
    return found


def _shared(own: Sequence[Index], leaves: Sequence[Sequence[Index]]) -> list[Index]:
    """Plain indexes that every partition has and the root has not, with the options all share.

    They are unique within a partition only, so the result claims no uniqueness.
    """
    known = {_likeness(index) for index in own if index.plain}
    by_leaf = [{_likeness(index): index for index in leaf if index.plain} for leaf in leaves]
    common = [
        key for key in by_leaf[0] if key not in known and all(key in leaf for leaf in by_leaf)
    ]
    result = []
    for likeness in common:
        alike = [leaf[likeness] for leaf in by_leaf]
        options = set.intersection(*(set(index.options.items()) for index in alike))
        first = alike[0]
        result.append(replace(first, options=dict(options), primary=False, unique=False))
    return result


def _likeness(index: Index) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return index.method, index.columns, index.opclasses


# --- the server --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What decides whether and how a server can be read.

    `version_num` as in server_version_num (160004); `pgvector` is the extension's version in this
    database, or None; `system_identifier` and `timeline` are None where the role may not ask.
    `superuser`, `bypass_row_security` and `replication` are the current role's attributes.
    """

    version_num: int
    version: str
    pgvector: str | None
    system_identifier: int | None
    timeline: int | None
    encoding: str
    wal_level: str
    in_recovery: bool
    role: str
    superuser: bool
    bypass_row_security: bool
    replication: bool


_FACTS = """
SELECT pg_catalog.current_setting('server_version'),
  (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector'),
  pg_catalog.current_setting('server_encoding'), pg_catalog.current_setting('wal_level'),
  pg_catalog.pg_is_in_recovery(), r.rolname, r.rolsuper, r.rolbypassrls, r.rolreplication,
  pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
    AND pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')
FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER
"""
_IDENTITY = """
SELECT s.system_identifier, CASE WHEN pg_catalog.pg_is_in_recovery() THEN c.timeline_id
  ELSE ('x' || pg_catalog.substr(
    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END
FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c
"""


def server_facts(connection: Connection) -> ServerFacts:
    """The facts of the server, the database and the current role."""
    with translated(connection=connection):
        row = connection.execute(_FACTS).fetchone()
        if row is None:
            raise UsageError("the current role is not in pg_roles", hint="was it dropped?")
        version, pgvector, encoding, wal_level, recovering, role, *attributes, may_ask = row
        superuser, bypass, replication = attributes
        identity = connection.execute(_IDENTITY).fetchone() if may_ask else None
    return ServerFacts(
        version_num=connection.info.server_version,
        version=version,
        pgvector=pgvector,
        system_identifier=identity[0] if identity else None,
        timeline=identity[1] if identity else None,
        encoding=encoding,
        wal_level=wal_level,
        in_recovery=recovering,
        role=role,
        superuser=superuser,
        bypass_row_security=bypass,
        replication=replication,
    )


def pgvector_is_supported(version: str) -> bool:
    """Whether an extension version such as `0.8.5` is new enough."""
    parts = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return tuple(parts) >= MINIMUM_PGVECTOR


def require_supported(facts: ServerFacts, *, vectors: bool = True) -> None:
    """UsageError for a Postgres or, if there are vectors to read, a pgvector that is too old."""
    if facts.version_num < MINIMUM_SERVER:
        raise UsageError(
            f"Postgres {facts.version} is too old",
            hint="Postgres 14 or newer is needed, for the catalogs and the replication protocol",
        )
    if vectors and facts.pgvector is None:
        raise UsageError(
            "the extension vector is not installed in this database",
            hint="is this the right database? CREATE EXTENSION vector",
        )
    if vectors and facts.pgvector is not None and not pgvector_is_supported(facts.pgvector):
        raise UsageError(
            f"pgvector {facts.pgvector} is too old",
            hint="pgvector 0.5 or newer is needed; ALTER EXTENSION vector UPDATE",
        )


def relation_bytes(connection: Connection, table: Table) -> int:
    """Bytes on disk with TOAST and without indexes, partitions included; 0 for a view."""
    oids = [oid for oid, _schema, _name in table.partitions] or [table.oid]
    query = (
        "SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(c.oid)), 0)::bigint"
        " FROM pg_catalog.pg_class c WHERE c.oid = ANY(%s) AND c.relkind IN ('r', 'm')"
    )
    with translated(connection=connection, table=table.label):
        row = connection.execute(query, (oids,)).fetchone()
    return int(row[0]) if row is not None else 0
