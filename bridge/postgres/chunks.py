"""Key ranges that cut a relation into chunks, each read by a query of its own.

A bound is a row's key in text: what the type's output function gives under the session settings of
`connection.py`. Ranges exclude their lower and include their upper bound; the first has no lower,
the last no upper bound. In the key type's own order they therefore partition *every* set of keys,
also one that has changed since: rows inserted later fall into exactly one chunk, and deleting the
row that gave a bound moves nothing. Bounds are computed once and stored by the caller (design, 5):
the estimates behind them decide only how even the chunks are.

The cut is by rank, so a skewed key gives chunks as even as any other. Nothing pages with OFFSET,
nothing orders by text. `Composed` results carry literals, not parameters: execute them without
parameters, for with them psycopg would read a `%` in a name as a placeholder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

from bridge.errors import UsageError
from bridge.postgres.connection import Connection, translated
from bridge.schema import PgType, Table, quote_identifier

# Up to here ranking every key costs seconds (an index-only scan); above, a sample is ranked.
EXACT_ROWS = 2_000_000
# 200 sampled rows a chunk keep most chunks within a factor of two of the target, also where
# neighbouring rows of a sampled page have neighbouring keys; 2 million texts fit on a disk sort.
_SAMPLES_PER_CHUNK = 200
_MOST_SAMPLES = 2_000_000

# TABLESAMPLE exists for these; on a partitioned table it samples every leaf.
_SAMPLED_KINDS = frozenset({"table", "partitioned table", "materialized view"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """Keys above `lower` (exclusive) up to `upper` (inclusive), in the key columns' order.

    None is unbounded. Values are text forms, one per key column.
    """

    lower: tuple[str, ...] | None
    upper: tuple[str, ...] | None


def key_ranges(bounds: Sequence[tuple[str, ...]]) -> list[KeyRange]:
    """The len(bounds) + 1 ranges between ascending upper bounds; together they hold every key."""
    edges = [None, *bounds, None]
    return [KeyRange(lower=a, upper=b) for a, b in pairwise(edges)]


def plan_bounds(
    connection: Connection,
    table: Table,
    key: Sequence[str],
    *,
    target_rows: int,
    max_chunks: int = 10_000,
    where: sql.Composable | None = None,
    exact_rows: int = EXACT_ROWS,
) -> list[tuple[str, ...]]:
    """Upper bounds, ascending, that cut the rows into chunks of about `target_rows`.

    Exact up to `exact_rows` estimated rows, and for views and foreign tables; sampled above. The
    key must be unique and not null (`checks.check_key`). `where` applies to the rows counted.
    Raises UsageError if a key column's type has no order.
    """
    if target_rows < 1 or max_chunks < 1:
        raise ValueError("target_rows and max_chunks must be positive")
    require_ordering(connection, table, key)
    fraction = _sampled_fraction(connection, table, target_rows, max_chunks, exact_rows)
    step = max(1, round(target_rows * fraction))
    query = _bounds_query(table, key, step, fraction, where)
    with translated(connection=connection, table=table.label):
        rows = connection.execute(query).fetchall()
    return _thinned([tuple(row) for row in rows], max_chunks - 1)


def require_ordering(connection: Connection, table: Table, key: Sequence[str]) -> None:
    """UsageError naming the first key column that cannot be ordered (json, point, xid, ...).

    Also one from Postgres if the role may not use the schema of a key's type.
    """
    for name in key:
        column = _operand(table, name)
        query = sql.SQL("EXPLAIN SELECT NULL::{} FROM {} ORDER BY {}, {}").format(
            type_name(table.column(name).type),
            relation(table),
            sql.Identifier(name),
            _compared(column, "<", column, schema=_operator_schema(table, name)),
        )
        with translated(connection=connection, table=table.label):
            try:
                connection.execute(query)
            except psycopg.errors.UndefinedFunction as error:
                declared = table.column(name).declared
                raise UsageError(
                    f"the key column {quote_identifier(name)} has type {declared}, "
                    "which Postgres cannot order",
                    hint="name another unique, not null column as the key",
                    table=table.label,
                ) from error


def range_condition(table: Table, key: Sequence[str], bounds: KeyRange) -> sql.Composed:
    """The SQL condition of one range, for WHERE; TRUE if it is unbounded on both sides.

    A composite key is compared as a row, which a btree index on it serves in one scan.
    """
    parts = [
        _beyond(table, key, bound, operator)
        for operator, bound in ((">", bounds.lower), ("<=", bounds.upper))
        if bound is not None
    ]
    return sql.SQL(" AND ").join(parts) if parts else sql.Composed([sql.SQL("TRUE")])


def from_condition(table: Table, key: Sequence[str], bound: Sequence[str]) -> sql.Composed:
    """The SQL condition of all keys from `bound` on, itself included."""
    return _beyond(table, key, bound, ">=")


def _beyond(table: Table, key: Sequence[str], bound: Sequence[str], operator: str) -> sql.Composed:
    """`key operator bound`, in the order of the types' default operator classes."""
    columns = [_operand(table, name) for name in key]
    values = _literals(table, key, bound)
    schemas = [_operator_schema(table, name) for name in key]
    if len(set(schemas)) == 1:
        return _compared(_row(columns), operator, _row(values), schema=schemas[0])
    # One operator name serves a whole row, so the row is spelled out where there must be two.
    # The first comparison says nothing new, but an index can use it.
    result = _compared(columns[-1], operator, values[-1], schema=schemas[-1])
    for column, value, schema in reversed(list(zip(columns, values, schemas, strict=True))[:-1]):
        result = sql.SQL("({} AND ({} OR {}))").format(
            _compared(column, operator[0] + "=", value, schema=schema),
            _compared(column, operator[0], value, schema=schema),
            result,
        )
    return result


def _compared(
    left: sql.Composable, operator: str, right: sql.Composable, *, schema: str
) -> sql.Composed:
    return sql.SQL("{} OPERATOR({}.{}) {}").format(
        left,
        sql.Identifier(schema),
        sql.SQL(operator),
        right,
    )


def _operand(table: Table, name: str) -> sql.Composed:
    """The column for a comparison. The operators of enums, ranges and rows take no domain."""
    pg_type = table.column(name).type
    if pg_type.kind == "base":
        return sql.Composed([sql.Identifier(name)])
    return sql.SQL("{}::{}").format(sql.Identifier(name), type_name(pg_type))


def _operator_schema(table: Table, name: str) -> str:
    """Where the comparisons of the column's type are: those that ORDER BY agrees with.

    An extension's base type has its own, beside it. Left to search_path, citext outside of it
    would silently be compared as text, in another order than that of the bounds.
    """
    pg_type = table.column(name).type
    return pg_type.schema if pg_type.kind == "base" else "pg_catalog"


def keys_condition(table: Table, key: Sequence[str], keys: Sequence[Sequence[str]]) -> sql.Composed:
    """The SQL condition that a row has one of these keys, given as text forms; FALSE if none."""
    columns = [(_operand(table, name), _operator_schema(table, name)) for name in key]
    rows = [_literals(table, key, values) for values in keys]
    if not rows:
        return sql.Composed([sql.SQL("FALSE")])
    if len(columns) == 1 and table.column(key[0]).type.kind != "array":  # ANY would flatten those
        column, schema = columns[0]
        listed = sql.SQL("ANY (ARRAY[{}])").format(sql.SQL(", ").join(row[0] for row in rows))
        return _compared(column, "=", listed, schema=schema)
    alternatives = [
        sql.SQL(" AND ").join(
            _compared(column, "=", value, schema=schema)
            for (column, schema), value in zip(columns, row, strict=True)
        )
        for row in rows
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(alternatives))


def key_texts(key: Sequence[str]) -> sql.Composed:
    """Select list of the key columns' text forms.

    `format('%s')` calls the output function; a cast to text does not for boolean (`true`) and
    char(n) (padding lost).
    """
    texts = [sql.SQL("pg_catalog.format('%s', {})").format(sql.Identifier(name)) for name in key]
    return sql.SQL(", ").join(texts)


def relation(table: Table) -> sql.Identifier:
    """The table's name in SQL, always with its schema."""
    return sql.Identifier(table.schema, table.name)


def type_name(pg_type: PgType) -> sql.Identifier:
    """The type's catalog name for a cast.

    Never format_type() or regtype: their `character` and `bit` would mean one character, one bit.
    By its catalog name a type has no modifier, so a cast neither pads, cuts nor rounds.
    """
    return sql.Identifier(pg_type.schema, pg_type.name)


def _literals(table: Table, key: Sequence[str], values: Sequence[str]) -> list[sql.Composed]:
    return [
        sql.SQL("{}::{}").format(sql.Literal(value), type_name(table.column(name).type))
        for name, value in zip(key, values, strict=True)
    ]


def _row(parts: Sequence[sql.Composable]) -> sql.Composed:
    if len(parts) == 1:
        return sql.Composed(parts)
    return sql.SQL("({})").format(sql.SQL(", ").join(parts))


def _bounds_query(
    table: Table, key: Sequence[str], step: int, fraction: float, where: sql.Composable | None
) -> sql.Composed:
    """Every step-th key of the rows, or of a sample of `fraction` of their pages."""
    columns = sql.SQL(", ").join(map(sql.Identifier, key))
    # Names of our own inside, so that no key column can be called like the rank.
    names = [f"k{number}" for number in range(len(key))]
    percent = sql.Literal(round(fraction * 100, 9))
    sample = sql.SQL("TABLESAMPLE SYSTEM ({})").format(percent) if fraction < 1 else sql.SQL("")
    return sql.SQL(
        "SELECT {texts} FROM"
        " (SELECT {columns}, pg_catalog.row_number() OVER (ORDER BY {columns})"
        " FROM {table} {sample} {where}) AS ranked ({names}, n)"
        " WHERE n % {step} = 0 ORDER BY n"
    ).format(
        texts=key_texts(names),
        columns=columns,
        table=relation(table),
        sample=sample,
        where=sql.SQL("WHERE {}").format(where) if where is not None else sql.SQL(""),
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        step=sql.Literal(step),
    )


def _sampled_fraction(
    connection: Connection, table: Table, target_rows: int, max_chunks: int, exact_rows: int
) -> float:
    """Which part of the pages to sample; 1 means that every key is ranked."""
    if table.kind not in _SAMPLED_KINDS:
        return 1.0
    rows = table.estimated_rows
    if rows < 0:
        rows = _planner_rows(connection, table)
    if rows <= exact_rows:
        return 1.0
    chunks = min(max_chunks, -(-rows // target_rows))
    return min(1.0, min(_MOST_SAMPLES, chunks * _SAMPLES_PER_CHUNK) / rows)


def _planner_rows(connection: Connection, table: Table) -> int:
    """The planner's guess from the size on disk, for a table that was never analysed."""
    with translated(connection=connection, table=table.label):
        row = connection.execute(
            sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {}").format(relation(table))
        ).fetchone()
    plan: Any = row[0] if row is not None else None
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return int(plan[0]["Plan"]["Plan Rows"])


def _thinned(bounds: list[tuple[str, ...]], most: int) -> list[tuple[str, ...]]:
    """At most `most` of the bounds, evenly spread, without repetitions."""
    bounds = list(dict.fromkeys(bounds))
    if len(bounds) <= most:
        return bounds
    return [bounds[(i + 1) * len(bounds) // (most + 1)] for i in range(most)]
