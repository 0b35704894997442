"""What is known of a source table: types, columns, indexes. Values only, read by `postgres/catalog.py`.

Domains are resolved to their base type when the catalog is read, so nothing behind it meets one;
`Column.declared` keeps the text a user would recognise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TypeKind = Literal["base", "enum", "array", "range", "multirange", "composite", "pseudo"]
RelationKind = Literal["table", "partitioned table", "view", "materialized view", "foreign table"]

VECTOR_TYPES = frozenset({"vector", "halfvec", "sparsevec"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PgType:
    """A type, domains resolved. `modifier` is atttypmod, -1 if none; `element` is an array's."""

    oid: int
    schema: str
    name: str
    kind: TypeKind = "base"
    modifier: int = -1
    element: PgType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `number` is attnum; `declared` is format_type()'s text, e.g. `numeric(12,4)`."""

    name: str
    number: int
    type: PgType
    declared: str
    not_null: bool = False
    generated: Literal["", "stored", "virtual"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One index. `columns` and `opclasses` run in index order; an expression's column is ''."""

    name: str
    method: str
    columns: tuple[str, ...]
    opclasses: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    primary: bool = False
    unique: bool = False
    partial: bool = False
    valid: bool = True

    @property
    def plain(self) -> bool:
        """A valid, full index on columns themselves: the only kind that says something of all rows."""
        return self.valid and not self.partial and all(self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One relation. `primary_key` is in the order of the key's index; empty if there is none.

    `estimated_rows` comes from the planner's statistics and serves progress bars only; -1 if the
    table was never analysed. `partitions` lists the leaves as (oid, schema, name).
    """

    oid: int
    schema: str
    name: str
    kind: RelationKind
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    partitions: tuple[tuple[int, str, str], ...] = ()
    estimated_rows: int = -1
    row_security: bool = False

    def column(self, name: str) -> Column:
        """The column of that exact name; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def label(self) -> str:
        """The name as a user writes it: `public.docs`, `app."Weird.Table"`."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"


def quote_identifier(name: str) -> str:
    """A name for display, quoted only where SQL needs it. SQL itself is built with psycopg.sql."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
    if plain and name == name.lower():
        return name
    return '"' + name.replace('"', '""') + '"'
