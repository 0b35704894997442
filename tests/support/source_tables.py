"""Source tables as the catalog would describe them, for tests that need no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.schema import Column, Index, PgType, RelationKind, Table

# Numbers of the real catalog where it has fixed ones; vectors' depend on the database.
OIDS = {
    "bool": 16, "bytea": 17, "int8": 20, "int2": 21, "int4": 23, "text": 25, "json": 114,
    "float4": 700, "float8": 701, "inet": 869, "bpchar": 1042, "varchar": 1043, "date": 1082,
    "time": 1083, "timestamp": 1114, "timestamptz": 1184, "interval": 1186, "numeric": 1700,
    "uuid": 2950, "jsonb": 3802, "bit": 1560, "varbit": 1562,
    "vector": 16_400, "halfvec": 16_401, "sparsevec": 16_402,
}  # fmt: skip


def pg_type(name: str, modifier: int = -1) -> PgType:
    """A type by its internal name; `name[]` is an array of it, `name!` an enum."""
    if name.endswith("[]"):
        element = pg_type(name[:-2], modifier)
        return PgType(
            oid=element.oid + 100_000,
            schema=element.schema,
            name="_" + element.name,
            kind="array",
            modifier=modifier,
            element=element,
        )
    if name.endswith("!"):
        return PgType(oid=20_000, schema="public", name=name[:-1], kind="enum")
    schema = "public" if name in ("vector", "halfvec", "sparsevec") else "pg_catalog"
    return PgType(oid=OIDS[name], schema=schema, name=name, modifier=modifier)


def numeric_modifier(precision: int, scale: int) -> int:
    """atttypmod of `numeric(precision, scale)`."""
    return (precision << 16 | scale) + 4


def columns(**types: str | tuple[str, int] | PgType) -> tuple[Column, ...]:
    """Columns by name, in order; a type is its name, name and modifier, or a whole `PgType`."""
    found: list[Column] = []
    for number, (name, given) in enumerate(types.items(), start=1):
        if isinstance(given, PgType):
            kind = given
        elif isinstance(given, tuple):
            kind = pg_type(*given)
        else:
            kind = pg_type(given)
        declared = kind.name if kind.modifier < 0 else f"{kind.name}({kind.modifier})"
        found.append(Column(name=name, number=number, type=kind, declared=declared))
    return tuple(found)


def table(
    *,
    key: Sequence[str] = ("id",),
    indexes: Sequence[Index] = (),
    kind: RelationKind = "table",
    schema: str = "public",
    name: str = "docs",
    extra: Sequence[Column] = (),
    **types: Any,
) -> Table:
    """A table of these columns; its primary key is `id` unless said otherwise."""
    return Table(
        oid=16_500,
        schema=schema,
        name=name,
        kind=kind,
        columns=(*columns(**types), *extra),
        primary_key=tuple(key),
        indexes=tuple(indexes),
    )


def index(
    column: str | Sequence[str],
    opclass: str | Sequence[str],
    method: str = "hnsw",
    options: Mapping[str, str] | None = None,
    **more: Any,
) -> Index:
    """An index; `column` and `opclass` may be several."""
    names = (column,) if isinstance(column, str) else tuple(column)
    classes = (opclass,) if isinstance(opclass, str) else tuple(opclass)
    return Index(
        name="_".join(("idx", *names, method)),
        method=method,
        columns=names,
        opclasses=classes,
        options=dict(options or {}),
        **more,
    )
