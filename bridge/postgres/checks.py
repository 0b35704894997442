"""What must hold before rows are read: the checks of `doctor` and of every backfill.

Each check returns Findings and changes nothing. Those that read rows say so; the others cost a
catalog query. External specification: "System Information Functions" (privileges),
"Row Security Policies", pgvector's README (vector_dims).

What always holds: a message names tables, columns, statements and at most one offending key,
never another value.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from bridge.errors import UsageError
from bridge.findings import Finding
from bridge.postgres.catalog import (
    MINIMUM_SERVER,
    ServerFacts,
    inherited_children,
    pgvector_is_supported,
)
from bridge.postgres.chunks import key_texts, relation, require_ordering, type_name
from bridge.postgres.connection import Connection, is_local_host, translated, uses_gss
from bridge.schema import VECTOR_TYPES, PgType, Table, quote_identifier

_LONG_TRANSACTION_SECONDS = 3600


def check_table(
    connection: Connection,
    table: Table,
    *,
    key: Sequence[str],
    columns: Sequence[str] | None = None,
    where: sql.Composable | None = None,
) -> list[Finding]:
    """All checks of one table. Rows are read only where no index vouches for the key.

    `columns` are those to be read (None: all), `where` the SQL of the configuration's predicate.
    """
    findings = [
        *check_privileges(connection, table, columns=columns),
        check_row_security(table, role=connection.info.user),
    ]
    if any(finding.level == "blocker" for finding in findings):
        return findings  # the rest would only fail for the same reason
    findings += check_readable(connection, table, columns=columns, where=where)
    if any(finding.level == "blocker" for finding in findings):
        return findings
    return findings + check_key(connection, table, key, where=where)


# --- server and connection ---------------------------------------------------------------------


def check_server(facts: ServerFacts, *, vectors: bool = True) -> list[Finding]:
    """Versions, encoding, and whether it is a standby. `vectors`: pgvector is needed."""
    findings = [_server_version(facts)]
    if vectors:
        findings.append(_pgvector(facts))
    if facts.encoding == "SQL_ASCII":
        findings.append(
            Finding(
                level="warning",
                check="server.encoding",
                message="the database's encoding is SQL_ASCII: texts may be no valid UTF-8",
                remedy="rows with such texts become dead letters; a UTF8 database avoids it",
            )
        )
    if facts.in_recovery:
        findings.append(
            Finding(
                level="warning",
                check="server.standby",
                message="this is a standby: it may cancel long reads, and lags its primary",
                remedy="read the primary, or set max_standby_streaming_delay = -1 meanwhile; "
                "a backfill that a stream continues must use the stream's primary",
            )
        )
    return findings


def check_connection(connection: Connection) -> list[Finding]:
    """Encryption, and whether a pooler that swaps sessions may stand in between."""
    with translated(connection=connection):
        findings = [_encryption(connection)]
        row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    if row is not None and row[0] != connection.info.backend_pid:
        findings.append(
            Finding(
                level="warning",
                check="connection.pooler",
                message="a connection pooler answers in place of the server",
                remedy="use the server's own port, or pool_mode = session: session settings get "
                "lost otherwise",
            )
        )
    return findings


def check_long_transactions(connection: Connection) -> list[Finding]:
    """Transactions that are open for long, prepared ones included: a new slot waits for them.

    Another role's are seen with pg_read_all_stats only.
    """
    query = """
        SELECT 'backend ' || pid, extract(epoch FROM pg_catalog.now() - xact_start)::int
        FROM pg_catalog.pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
          AND xact_start < pg_catalog.now() - pg_catalog.make_interval(secs => %(seconds)s)
        UNION ALL
        SELECT 'prepared transaction ' || pg_catalog.quote_literal(gid),
          extract(epoch FROM pg_catalog.now() - prepared)::int
        FROM pg_catalog.pg_prepared_xacts
        WHERE prepared < pg_catalog.now() - pg_catalog.make_interval(secs => %(seconds)s)
    """
    with translated(connection=connection):
        rows = connection.execute(query, {"seconds": _LONG_TRANSACTION_SECONDS}).fetchall()
    return [
        Finding(
            level="warning",
            check="server.long_transaction",
            message=f"{what} has been in a transaction for {seconds} seconds",
            remedy="a replication slot cannot be made before it ends",
        )
        for what, seconds in rows
    ]


def _server_version(facts: ServerFacts) -> Finding:
    if facts.version_num >= MINIMUM_SERVER:
        return _ok("server.version", f"Postgres {facts.version}")
    message = f"Postgres {facts.version} is too old"
    return _blocked("server.version", message, "Postgres 14 or newer is needed")


def _pgvector(facts: ServerFacts) -> Finding:
    if facts.pgvector is None:
        message, remedy = "the extension vector is not installed", "CREATE EXTENSION vector;"
    elif not pgvector_is_supported(facts.pgvector):
        message = f"pgvector {facts.pgvector} is too old, 0.5 or newer is needed"
        remedy = "ALTER EXTENSION vector UPDATE;"
    else:
        return _ok("server.pgvector", f"pgvector {facts.pgvector}")
    return _blocked("server.pgvector", message, remedy)


def _encryption(connection: Connection) -> Finding:
    advice = ""
    if connection.pgconn.ssl_in_use:
        mode = connection.info.get_parameters().get("sslmode", "prefer")
        message = f"encrypted (sslmode={mode})"
        if mode != "verify-full":
            message += ", but the server's identity is not checked"
            advice = "set sslmode=verify-full and sslrootcert"
    elif is_local_host(connection.info.hostaddr):
        message = "local, not encrypted"
    elif uses_gss(connection):
        message = "encrypted by GSSAPI"
    else:
        message, advice = "not encrypted", "set sslmode=verify-full and sslrootcert"
    return Finding(
        level="warning" if advice else "ok",
        check="connection.encryption",
        message=message,
        remedy=advice,
    )


# --- privileges --------------------------------------------------------------------------------


def check_privileges(
    connection: Connection, table: Table, *, columns: Sequence[str] | None = None
) -> list[Finding]:
    """USAGE on the schemas and SELECT on the table or its columns.

    A type's schema matters only where the type is named (a key's literal, vector_dims): a warning.
    """
    names = list(columns) if columns is not None else [column.name for column in table.columns]
    numbers = [table.column(name).number for name in names]
    schemas = {table.schema} | {table.column(name).type.schema for name in names}
    query = """
        SELECT CURRENT_USER::text,
          ARRAY(SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY (%s)
            AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') ORDER BY 1)::text[],
          ARRAY(SELECT g.n FROM pg_catalog.unnest(%s::int[]) WITH ORDINALITY g(number, n)
            WHERE NOT pg_catalog.has_column_privilege(%s::oid, g.number::int2, 'SELECT')
            ORDER BY g.n)
    """
    with translated(connection=connection, table=table.label):
        row = connection.execute(query, (sorted(schemas), numbers, table.oid)).fetchone()
    if row is None:
        raise AssertionError("a SELECT without FROM returns one row")
    role, closed_schemas, unreadable = quote_identifier(row[0]), row[1], row[2]
    findings = [
        Finding(
            level="blocker" if schema == table.schema else "warning",
            check="table.schema_privilege",
            message=f"{role} may not use the schema {quote_identifier(schema)}",
            remedy=f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {role};",
        )
        for schema in closed_schemas
    ]
    if unreadable:
        missing = [quote_identifier(names[ordinal - 1]) for ordinal in unreadable]
        # All of them: most likely there is no privilege at all, and one on the table is wanted.
        what = "" if len(missing) == len(names) else f" ({', '.join(missing)})"
        message = f"{role} may not read {table.label}{what}"
        remedy = f"GRANT SELECT{what} ON {table.label} TO {role};"
        findings.append(_blocked("table.privilege", message, remedy))
    return findings or [_ok("table.privilege", f"{role} may read {table.label}")]


def check_row_security(table: Table, *, role: str) -> Finding:
    """Whether policies would hide rows from this role. For what a view reads, `check_readable`."""
    if not table.row_security:
        return _ok("table.row_security", f"{table.label}: no policy hides rows from this role")
    return _blocked(
        "table.row_security",
        f"{table.label} has row-level security: rows would be missing without a sign",
        f"ALTER ROLE {quote_identifier(role)} BYPASSRLS; or read as the table's owner",
    )


def check_readable(
    connection: Connection,
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    where: sql.Composable | None = None,
) -> list[Finding]:
    """Plans the read without running it: finds what only Postgres can judge.

    Such are row-level security and privileges behind a view, an unpopulated materialized view, a
    `where` with an unknown enum label.
    """
    names = columns if columns is not None else [column.name for column in table.columns]
    selected = sql.SQL(", ").join(map(sql.Identifier, names))
    query = sql.SQL("EXPLAIN SELECT {} FROM {}").format(selected, relation(table))
    attempts = [("the read", query)]
    if where is not None:
        attempts.append(("`where`", query + _where(where)))
    for what, statement in attempts:
        try:
            with translated(connection=connection, table=table.label):
                connection.execute(statement)
        except UsageError as error:
            message = f"{table.label}: Postgres refuses {what}: {error.message}"
            return [_blocked("table.readable", message, error.hint)]
    return []


# --- keys --------------------------------------------------------------------------------------


def check_key(
    connection: Connection,
    table: Table,
    key: Sequence[str],
    *,
    where: sql.Composable | None = None,
) -> list[Finding]:
    """The key exists, can be ordered, and is unique and not null over the rows of `where`.

    A primary key or a unique index on not-null columns is believed; otherwise every row's key is
    read (a sort or hash over the relation).
    """
    if not key:
        return [_no_key(table)]
    unknown = [name for name in key if name not in {column.name for column in table.columns}]
    if unknown:
        names = ", ".join(map(quote_identifier, unknown))
        return [
            _blocked("table.key", f"{table.label} has no column {names}", "name existing columns")
        ]
    try:
        require_ordering(connection, table, key)
    except UsageError as error:
        return [_blocked("table.key", error.message, error.hint)]
    findings = _inheritance(connection, table)
    shown = ", ".join(map(quote_identifier, key))
    if not findings and _vouched(table, key):
        return [_ok("table.key", f"{table.label}: the key ({shown}) is unique and not null")]
    return findings + _key_from_rows(connection, table, key, shown, where)


def _no_key(table: Table) -> Finding:
    usable = sorted(
        {
            ",".join(index.columns)
            for index in table.indexes
            if index.unique and _vouched(table, index.columns)
        }
    )
    remedy = "name one with --pg.key-column or `key:`"
    if usable:
        remedy += "; unique and not null: " + "; ".join(usable)
    elif table.kind in ("table", "partitioned table"):
        remedy += f", or ALTER TABLE {table.label} ADD PRIMARY KEY (...);"
    return _blocked("table.key", f"{table.label} has no primary key", remedy)


def _vouched(table: Table, key: Sequence[str]) -> bool:
    """Whether an index guarantees the key: unique on some of its columns, none of them nullable."""
    if not all(table.column(name).not_null for name in key):
        return False
    return any(
        index.unique and index.plain and set(index.columns) <= set(key) for index in table.indexes
    )


def _inheritance(connection: Connection, table: Table) -> list[Finding]:
    children = inherited_children(connection, table)
    if not children:
        return []
    return [
        Finding(
            level="warning",
            check="table.inheritance",
            message=f"{table.label} has inheriting tables ({', '.join(children)}): their rows are "
            "copied with it, but no index keeps keys unique across them",
            remedy="declarative partitioning has keys that hold for the whole table",
        )
    ]


def _key_from_rows(
    connection: Connection,
    table: Table,
    key: Sequence[str],
    shown: str,
    where: sql.Composable | None,
) -> list[Finding]:
    columns = sql.SQL(", ").join(map(sql.Identifier, key))
    nulls = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(sql.Identifier(k)) for k in key)
    null_query = sql.SQL("SELECT 1 FROM {}{} LIMIT 1").format(relation(table), _where(where, nulls))
    twice_query = sql.SQL(
        "SELECT {} FROM {}{} GROUP BY {} HAVING pg_catalog.count(*) > 1 LIMIT 1"
    ).format(key_texts(key), relation(table), _where(where), columns)
    findings = []
    with translated(connection=connection, table=table.label):
        if connection.execute(null_query).fetchone():
            findings.append(
                _blocked(
                    "table.key_null",
                    f"{table.label}: the key ({shown}) is NULL in some rows",
                    f"exclude them with `where: {{{key[0]}: not null}}`, or name another key",
                )
            )
        twice = connection.execute(twice_query).fetchone()
    if twice:
        findings.append(
            _blocked(
                "table.key_duplicate",
                f"{table.label}: several rows have the key ({shown}) = ({', '.join(twice)})",
                "they would overwrite each other in one point; name a key that is unique",
            )
        )
    if findings:
        return findings
    message = f"{table.label}: the key ({shown}) is unique and not null now"
    if table.kind not in ("table", "partitioned table"):
        return [_ok("table.key", message)]
    return [
        Finding(
            level="warning",
            check="table.key",
            message=message + ", but nothing keeps it so",
            remedy=f"CREATE UNIQUE INDEX ON {table.label} ({shown}); and SET NOT NULL",
        )
    ]


# --- reading rows ------------------------------------------------------------------------------


def exact_count(connection: Connection, table: Table, where: sql.Composable | None = None) -> int:
    """count(*) of the rows; reads the relation, or an index of it."""
    query = sql.SQL("SELECT pg_catalog.count(*) FROM {}{}").format(relation(table), _where(where))
    with translated(connection=connection, table=table.label):
        row = connection.execute(query).fetchone()
    return int(row[0]) if row is not None else 0


def partition_counts(
    connection: Connection, table: Table, where: sql.Composable | None = None
) -> dict[str, int]:
    """Rows of each leaf partition by its label, in one snapshot; zero for the empty ones.

    Read through the root, so that privileges on the root suffice. A partition attached since
    the table was described counts under its own label too. A table that is not partitioned
    counts under its own label.
    """
    if table.kind != "partitioned table":
        return {table.label: exact_count(connection, table, where)}
    query = sql.SQL(
        "SELECT n.nspname, c.relname, counted.rows FROM"
        " (SELECT tableoid AS leaf, pg_catalog.count(*) AS rows FROM {}{} GROUP BY 1) counted"
        " JOIN pg_catalog.pg_class c ON c.oid = counted.leaf"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    ).format(relation(table), _where(where))
    with translated(connection=connection, table=table.label):
        rows = connection.execute(query).fetchall()
    counts = {_label(schema, name): 0 for _, schema, name in table.partitions}
    return counts | {_label(schema, name): count for schema, name, count in rows}


def check_partitions(connection: Connection, table: Table) -> list[Finding]:
    """Each partition's own count(*) against what the root shows of it, in one snapshot.

    Reads every row twice and needs SELECT on each partition: for `doctor` when asked.
    """
    if table.kind != "partitioned table":
        return []
    findings = []
    with translated(connection=connection, table=table.label), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        through_root = partition_counts(connection, table)
        for _, schema, name in table.partitions:
            label = _label(schema, name)
            query = sql.SQL("SELECT pg_catalog.count(*) FROM {}")
            row = connection.execute(query.format(sql.Identifier(schema, name))).fetchone()
            alone = row[0] if row is not None else 0
            if alone != through_root.get(label, 0):
                findings.append(
                    _blocked(
                        "table.partition",
                        f"{label} has {alone} rows, the root {table.label} shows "
                        f"{through_root.get(label, 0)} of them",
                        "was it detached, or has a partition children of its own?",
                    )
                )
    if findings:
        return findings
    message = f"{table.label}: {sum(through_root.values())} rows in {len(through_root)} partitions"
    return [_ok("table.partition", message)]


def vector_dimensions(
    connection: Connection, table: Table, column: str, where: sql.Composable | None = None
) -> dict[int, int]:
    """How many vectors there are of each dimension; NULLs are left out, array elements count.

    Exact, and as dear as reading the vectors: pgvector's functions fetch the whole value out of
    TOAST for its dimension. Only for columns without a declared dimension.
    """
    pg_type = table.column(column).type
    value: sql.Composable = sql.Identifier(column)
    source: sql.Composable = sql.Composed([relation(table), _where(where)])
    if pg_type.element is not None:
        source = sql.SQL("(SELECT pg_catalog.unnest({}) AS element FROM {}) AS elements").format(
            value, source
        )
        value, pg_type = sql.Identifier("element"), pg_type.element
    query = sql.SQL(
        "SELECT dimension, pg_catalog.count(*) FROM (SELECT {} AS dimension FROM {}) AS measured"
        " WHERE dimension IS NOT NULL GROUP BY dimension ORDER BY dimension"
    ).format(_dimension(value, pg_type), source)
    with translated(connection=connection, table=table.label):
        rows = connection.execute(query).fetchall()
    return {int(dimension): int(count) for dimension, count in rows}


def _dimension(value: sql.Composable, pg_type: PgType) -> sql.Composed:
    if pg_type.name == "bit" and pg_type.schema == "pg_catalog":
        return sql.SQL("pg_catalog.length({})").format(value)
    if pg_type.name == "sparsevec":  # pgvector has no function for it; its text ends in /dimension
        return sql.SQL("pg_catalog.split_part({}::pg_catalog.text, '/', 2)::int").format(value)
    if pg_type.name not in VECTOR_TYPES:
        raise ValueError(f"{pg_type.name} is no vector type")
    # Beside the type, wherever the extension was installed.
    function = sql.Identifier(pg_type.schema, "vector_dims")
    return sql.SQL("{}({}::{})").format(function, value, type_name(pg_type))


def _ok(check: str, message: str) -> Finding:
    return Finding(level="ok", check=check, message=message)


def _blocked(check: str, message: str, remedy: str) -> Finding:
    return Finding(level="blocker", check=check, message=message, remedy=remedy)


def _label(schema: str, name: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def _where(*conditions: sql.Composable | None) -> sql.Composed:
    """` WHERE ...` of those given, or nothing."""
    given = [sql.SQL("({})").format(condition) for condition in conditions if condition is not None]
    if not given:
        return sql.Composed([])
    return sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(given))
