"""Catalog and configuration -> `TableMapping`: every decision about a table, before a row is read. Pure.

Whatever cannot work is a `UsageError` that names the setting which mends it; whatever works but might
surprise is a warning, shown by `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from string import Formatter

from bridge.collection_spec import CollectionSpec, IndexKind, check_name
from bridge.config_tables import TableSettings
from bridge.errors import UsageError
from bridge.json_paths import json_path
from bridge.map_vectors import map_vectors, vector_kind
from bridge.mapping import (
    Form,
    IdRule,
    KeyColumn,
    PayloadField,
    Selected,
    TableMapping,
    VectorColumn,
)
from bridge.postgres.decode import binary_loader, key_text_loader
from bridge.schema import Column, Table
from bridge.values import ValuePolicy

_EXACT_DIGITS = 15  # what every double holds: IEEE 754, DBL_DIG
_INTEGERS = ("int2", "int4", "int8")
_TEXTS = ("text", "varchar", "bpchar", "citext", "name")
_TIMES = ("timestamptz", "timestamp", "date")


def map_table(
    table: Table, settings: TableSettings, dimensions: Mapping[str, int] | None = None
) -> TableMapping:
    """The mapping of a table. `dimensions`: of the vector columns that do not declare theirs."""
    collection = settings.collection or table.name
    check_name(collection, what="the collection name", hint="set collection (--qdrant.collection)")
    key = _key(table, settings)
    fields = _payload_columns(table, settings)
    mapped = map_vectors(table, settings, dimensions or {})
    warnings = [warning for vector in mapped for warning in vector.warnings]
    selection = _Selection()
    payload = tuple(
        _payload_field(table.column(name), path, settings, selection, warnings)
        for path, name in fields
    )
    rule = _id_rule(table, key, settings)
    _refuse_collisions(table, [path for path, _name in fields], rule)
    indexes = _payload_indexes(table, key, fields, settings, warnings)
    if not mapped:
        _require_addressable(table, [path for path, _name in fields])
        warnings.append(
            "no vectors: existing points keep theirs and all fields that are not mapped; "
            "new rows become points without a vector"
        )
    return TableMapping(
        table=table,
        collection=CollectionSpec(
            name=collection,
            vectors=tuple(vector.spec for vector in mapped),
            payload_indexes=indexes,
        ),
        key=tuple(_key_column(table.column(name), selection) for name in key),
        id_rule=rule,
        payload=payload,
        vectors=tuple(
            VectorColumn(
                column=vector.column,
                kind=vector.kind,
                index=selection.add(vector.column, "binary"),
                spec=vector.spec,
            )
            for vector in mapped
        ),
        partition_index=(
            selection.add("tableoid", "binary") if table.kind == "partitioned table" else None
        ),
        selection=selection.frozen(),
        omit_nulls=settings.nulls == "omit",
        where=dict(settings.where),
        warnings=tuple(warnings),
    )


class _Selection:
    """Collects what to read, each column and form once."""

    def __init__(self) -> None:
        self._index: dict[tuple[str, Form], int] = {}

    def add(self, column: str, form: Form) -> int:
        return self._index.setdefault((column, form), len(self._index))

    def frozen(self) -> tuple[Selected, ...]:
        return tuple(Selected(column=column, form=form) for column, form in self._index)


def known_column(table: Table, name: str, setting: str) -> Column:
    """The column of that name; a UsageError that suggests near ones if there is none."""
    try:
        return table.column(name)
    except KeyError:
        names = [column.name for column in table.columns]
        near = get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(names)}"
        raise UsageError(
            f"{setting}: table {table.label} has no column {name!r}", hint=hint, table=table.label
        ) from None


def _key(table: Table, settings: TableSettings) -> tuple[str, ...]:
    if settings.key:
        for name in settings.key:
            column = known_column(table, name, "key")
            if vector_kind(column) is not None:
                raise UsageError(
                    f"key: column {name} is a vector",
                    hint="name the columns that identify a row",
                    table=table.label,
                )
        return tuple(settings.key)
    if table.primary_key:
        return table.primary_key
    unique = [
        index.columns
        for index in table.indexes
        if index.unique and index.plain and all(table.column(c).not_null for c in index.columns)
    ]
    hint = "name the columns that identify a row: --pg.key-column (or key: in the configuration)"
    if unique:
        hint += f"; {', '.join(unique[0])} has a unique index and no NULLs"
    raise UsageError(f"{table.kind} {table.label} has no primary key", hint=hint, table=table.label)


def _payload_columns(table: Table, settings: TableSettings) -> list[tuple[tuple[str, ...], str]]:
    """(path, column) of every payload field, in the order in which they are written."""
    skip = {column.name for column in table.columns if vector_kind(column) is not None}
    generated = {column.name for column in table.columns if column.generated}
    for name in settings.columns or ():
        known_column(table, name, "columns")
        if name in generated:
            raise UsageError(
                f"columns: {name} of {table.label} is a generated column, which logical replication "
                "does not carry",
                hint="leave it out, or copy it into an ordinary column",
                table=table.label,
            )
    wanted = settings.columns
    names = [
        column.name
        for column in table.columns
        if column.name not in skip
        and column.name not in generated
        and (wanted is None or column.name in wanted)
    ]
    if settings.payload is None:
        return [((name,), name) for name in names]
    return _renamed(table, settings, names)


def _renamed(
    table: Table, settings: TableSettings, names: list[str]
) -> list[tuple[tuple[str, ...], str]]:
    fields: list[tuple[tuple[str, ...], str]] = []
    used: set[str] = set()
    rest = False
    for target, source in (settings.payload or {}).items():
        if target == "*":
            rest = source is True
            continue
        name = target if source is True else str(source)
        if name not in names:
            column = known_column(table, name, f"payload.{target}")
            what = "a vector" if vector_kind(column) is not None else "not among the columns read"
            raise UsageError(
                f"payload.{target}: column {name} is {what}",
                hint=f"columns that can be named here: {', '.join(names) or 'none'}",
                table=table.label,
            )
        path = tuple(target.split("."))
        if not all(path):
            raise UsageError(
                f"payload.{target}: a field name between dots is empty",
                hint="dots nest: metadata.source",
                table=table.label,
            )
        fields.append((path, name))
        used.add(name)
    if rest:
        fields += [((name,), name) for name in names if name not in used]
    return fields


def _refuse_collisions(table: Table, paths: list[tuple[str, ...]], rule: IdRule) -> None:
    reserved = [] if rule.id_field is None else [(rule.id_field,)]
    if rule.id_field is not None and rule.namespace is not None:
        reserved.append(("namespace",))
    seen: set[tuple[str, ...]] = set()
    for path in [*reserved, *paths]:
        prefixes = {path[:length] for length in range(1, len(path) + 1)}
        inside = any(other[: len(path)] == path for other in seen)
        if prefixes & seen or inside:
            raise UsageError(
                f"two values would be stored under the payload field {'.'.join(path)!r}",
                hint="rename one of them: payload: {other_name: column}"
                + (" or id.field" if reserved else ""),
                table=table.label,
            )
        seen.add(path)


def _require_addressable(table: Table, paths: list[tuple[str, ...]]) -> None:
    """Fields inside of objects are set by their path, which Qdrant's grammar must be able to tell."""
    for path in paths:
        if len(path) > 1:
            try:
                json_path(path)
            except ValueError:
                raise UsageError(
                    f"payload.{'.'.join(path)}: Qdrant cannot address a field of that name",
                    hint="leave quotes and backslashes out of it",
                    table=table.label,
                ) from None


def _payload_field(
    column: Column,
    path: tuple[str, ...],
    settings: TableSettings,
    selection: _Selection,
    warnings: list[str],
) -> PayloadField:
    policy = value_policy(column, settings)
    _warn_about_numeric(column, policy, warnings)
    form: Form = "text" if binary_loader(column.type, policy) is None else "binary"
    return PayloadField(
        column=column.name,
        path=path,
        index=selection.add(column.name, form),
        form=form,
        type=column.type,
        policy=policy,
    )


def value_policy(column: Column, settings: TableSettings) -> ValuePolicy:
    """How this column's values become payload values."""
    chosen = settings.numeric
    numeric = chosen if isinstance(chosen, str) else chosen.get(column.name, "float")
    return ValuePolicy(numeric=numeric, geo=column.name in settings.geo)


def _warn_about_numeric(column: Column, policy: ValuePolicy, warnings: list[str]) -> None:
    if column.type.name != "numeric" or policy.numeric != "float":
        return
    # numeric's typmod: ((precision << 16) | scale) + 4 (PostgreSQL, numeric.c, make_numeric_typmod)
    modifier = column.type.modifier
    precision = (modifier - 4) >> 16 if modifier >= 4 else None
    if precision is None or precision > _EXACT_DIGITS:
        what = "has no declared precision" if precision is None else f"has {precision} digits"
        warnings.append(
            f"{column.name}: numeric {what}; as a float only the first {_EXACT_DIGITS} digits are sure "
            f"(numeric: {{{column.name}: string}} keeps all)"
        )


def _key_column(column: Column, selection: _Selection) -> KeyColumn:
    form: Form = "text" if key_text_loader(column.type) is None else "binary"
    index = selection.add(column.name, form)
    return KeyColumn(column=column.name, index=index, form=form, type=column.type)


def _id_rule(table: Table, key: tuple[str, ...], settings: TableSettings) -> IdRule:
    chosen = settings.id
    if chosen is None:
        return IdRule(key=key)
    if chosen.scheme == "qdrant-migration" and len(key) > 1:
        raise UsageError(
            "id.scheme: qdrant-migration has no ids for keys of several columns",
            hint="leave id.scheme out",
            table=table.label,
        )
    if chosen.template is not None:
        _check_template(table, key, chosen.template)
    elif chosen.namespace is not None:
        raise UsageError("id.namespace needs id.template", hint='id: {template: "{id}", ...}')
    return IdRule(
        key=key,
        template=chosen.template,
        namespace=chosen.namespace,
        scheme=chosen.scheme,
        id_field=chosen.field if chosen.template is not None else None,
    )


def _check_template(table: Table, key: tuple[str, ...], template: str) -> None:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UsageError(
            f"id.template: {error}", hint="a brace as such is written twice", table=table.label
        ) from None
    named = [name for _text, name, spec, conversion in parts if name is not None]
    if any(spec or conversion for _text, _name, spec, conversion in parts):
        raise UsageError(
            "id.template takes {column} and nothing else in braces",
            hint=f"the key columns: {', '.join(key)}",
            table=table.label,
        )
    unknown = [name for name in named if name not in key]
    missing = [name for name in key if name not in named]
    if unknown or missing:
        what = f"{unknown[0]!r} is no key column" if unknown else f"{missing[0]!r} is missing"
        raise UsageError(
            f"id.template {template!r}: {what}",
            hint=f"it must name every key column and no other: {', '.join(key)}",
            table=table.label,
        )


def _payload_indexes(
    table: Table,
    key: tuple[str, ...],
    fields: list[tuple[tuple[str, ...], str]],
    settings: TableSettings,
    warnings: list[str],
) -> dict[str, IndexKind]:
    chosen = settings.payload_indexes
    if chosen == "none":
        return {}
    if not isinstance(chosen, str):
        return dict(chosen)
    indexed = set(key)
    trigram: set[str] = set()
    for index in table.indexes:
        if index.plain and index.method in ("btree", "gin"):
            indexed.update(index.columns)
            for column, operator_class in zip(index.columns, index.opclasses, strict=False):
                if index.method == "gin" and operator_class.endswith("trgm_ops"):
                    trigram.add(column)
    result: dict[str, IndexKind] = {}
    for path, name in fields:
        if name in indexed:
            kind = "text" if name in trigram else _index_kind(table.column(name), settings)
            if kind is None:
                continue
            try:
                result[json_path(path)] = kind
            except ValueError:
                warnings.append(f"{name}: no payload index, since Qdrant cannot address that name")
    return result


def _index_kind(column: Column, settings: TableSettings) -> IndexKind | None:
    """The payload index that serves this column's filters; None if Qdrant has none for it."""
    kind = column.type.element or column.type
    if kind.kind == "enum" or kind.name in _TEXTS:
        return "keyword"
    if kind.name in _INTEGERS:
        return "integer"
    if kind.name in ("float4", "float8"):
        return "float"
    if kind.name == "numeric":
        numeric = value_policy(column, settings).numeric
        return {"float": "float", "integer": "integer", "string": "keyword"}[numeric]  # type: ignore[return-value]
    if kind.name in _TIMES:
        return "datetime"
    return {"bool": "bool", "uuid": "uuid"}.get(kind.name)  # type: ignore[return-value]
