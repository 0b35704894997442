"""Rows of Debezium's messages -> rows of the stream, laid out as the table is now. Pure.

The layout is that of Postgres' catalog; a message gives values by name. So a column that was added,
dropped or renamed since the message was written does not matter: what the message does not tell is
UNCHANGED, and the row is read again. `Untrusted` columns were others before some position of the log:
of older messages their values are not taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.errors import StopError, UsageError
from bridge.events import UNCHANGED, Relation, StreamField
from bridge.mapping import Form, TableMapping
from sync.debezium import MARK, Happened, Unreadable
from sync.debezium_modes import Encoding, Modes, depends_on_modes
from sync.debezium_values import Decode, Nulls, decoder_of, form_of, nulls_of
from sync.debezium_vectors import WrongDimension, vector_decoder
from sync.tables import Row, StreamTable

_ABSENT = object()
_PLANS_KEPT = 256


@dataclass(frozen=True, slots=True)
class _Column:
    """`whole` is for rows that are told whole, where what looks like the placeholder is a value."""

    name: str
    decode: Decode
    whole: Decode
    nulls: Nulls


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """One table: how its messages become rows of `table`.

    `full`: its replica identity is FULL, so that an update that tells the old row tells all of the
    new one. `untrusted`: columns by name, with the position from which on they are what they are now.
    `names`: all columns; `undecided`: those whose values depend on modes that nobody has told.
    """

    table: StreamTable
    modes: Modes
    full: bool = False
    untrusted: Mapping[str, int] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    undecided: frozenset[str] = frozenset()
    _plans: dict[object, tuple[_Column, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        mapping: TableMapping,
        modes: Modes,
        *,
        full: bool = False,
        untrusted: Mapping[str, int] | None = None,
    ) -> TableRows:
        """For a table that is mapped in this way."""
        table = stream_table(mapping)
        return cls(
            table=table,
            modes=modes,
            undecided=frozenset(
                name
                for name in table.relation.columns
                if not modes.told and depends_on_modes(mapping.table.column(name).type)
            ),
            full=full,
            untrusted=dict(untrusted or {}),
            names=frozenset(column.name for column in mapping.table.columns),
        )

    def row(self, told: Happened) -> Row:
        """The row of a change, UNCHANGED where the message does not tell.

        Unreadable if its key cannot be read. StopError if a vector has another dimension than the
        column.
        """
        assert told.row is not None  # noqa: S101 - callers look at the kind first
        source = told.row
        if told.fields is None and self.undecided:
            raise self._unknown_modes(self.undecided)
        row = [
            self._field(column, source.get(column.name, _ABSENT), told)
            for column in self._plan(told.fields)
        ]
        self._require_key(row)
        return tuple(row)

    def key(self, told: Happened) -> Row:
        """The key of a row that is gone; the other columns are UNCHANGED."""
        relation = self.table.relation
        row: list[StreamField] = [UNCHANGED] * len(relation.columns)
        source, fields = told.key, told.key_fields
        names = [relation.columns[index] for index in self.table.key_fields]
        if source is None or any(name not in source for name in names):
            # A key of the user's own choice: the old row has it, if its replica identity is FULL.
            source, fields = told.old, told.fields
            if source is None or not (self.full or told.key is None):
                raise self._keyless()
        if fields is None and self.undecided.intersection(names):
            raise self._unknown_modes(self.undecided.intersection(names))
        plan = self._plan(fields)
        for index in self.table.key_fields:
            value = source.get(plan[index].name)
            if value is None:
                raise Unreadable("a NULL in the key")
            row[index] = plan[index].decode(value)
        self._require_key(row)
        return tuple(row)

    def unknown_fields(self, told: Happened) -> set[str]:
        """Fields of the row that the table has no column for."""
        if told.row is None or told.row.keys() <= self.names:
            return set()
        return {name for name in told.row.keys() - self.names if not name.startswith(MARK)}

    # --- fields --------------------------------------------------------------------------------

    def _field(self, column: _Column, value: object, told: Happened) -> StreamField:
        if value is _ABSENT or (self.untrusted and self._distrusts(column.name, told)):
            return UNCHANGED
        if value is None:
            return None if self._is_null(column.nulls, told) else UNCHANGED
        whole = told.kind == "read" or (told.kind == "create" and not told.moved)
        try:
            return column.whole(value) if whole else column.decode(value)
        except WrongDimension as error:
            raise self._changed_dimension(column.name, error) from error

    def _is_null(self, nulls: Nulls, told: Happened) -> bool:
        if nulls is Nulls.CERTAIN:
            return True
        if nulls is Nulls.NEVER:
            return False
        if told.kind == "read":
            return True
        if nulls is Nulls.IN_SNAPSHOT:
            return False
        if told.kind == "create":
            return not told.moved
        return told.kind == "update" and self.full and told.old is not None

    def _distrusts(self, name: str, told: Happened) -> bool:
        since = self.untrusted.get(name)
        return since is not None and (told.lsn is None or told.lsn < since)

    def _plan(self, fields: Mapping[str, Mapping[str, Any]] | None) -> tuple[_Column, ...]:
        """How each column of the table is read from messages with these schemas."""
        told = None if fields is None else _fingerprint(fields)
        plan = self._plans.get(told)
        if plan is None:
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[told] = tuple(self._columns(fields or {}))
        return plan

    def _columns(self, fields: Mapping[str, Mapping[str, Any]]) -> list[_Column]:
        mapping, unavailable = self.table.mapping, self.modes.unavailable
        vectors = {column.column: column for column in mapping.vectors}
        columns: list[_Column] = []
        for name in self.table.relation.columns:
            type = mapping.table.column(name).type
            if name in vectors:
                decode = vector_decoder(vectors[name], type)
                columns.append(_Column(name, decode, decode, Nulls.UNLESS_UNCHANGED))
                continue
            encoding = Encoding.of_modes(type, self.modes)
            if name in fields:
                encoding = encoding.of_schema(fields[name])
            decode = decoder_of(type, encoding, unavailable)
            whole = decoder_of(type, encoding, None)
            if type.name == "numeric" and encoding.decimal == "double" and self._exact(name):
                decode = whole = _unchanged
            columns.append(_Column(name, decode, whole, nulls_of(type, encoding)))
        return columns

    def _exact(self, name: str) -> bool:
        """Whether a numeric is wanted with all its digits."""
        mapping = self.table.mapping
        return name in mapping.key_columns or any(
            item.column == name and item.policy.numeric != "float" for item in mapping.payload
        )

    # --- what may not be -----------------------------------------------------------------------

    def _require_key(self, row: Sequence[StreamField]) -> None:
        for index in self.table.key_fields:
            if row[index] is UNCHANGED:
                column = self.table.relation.columns[index]
                raise Unreadable(f"the key column {column} cannot be read")

    def _keyless(self) -> StopError:
        label = self.table.relation.label
        return StopError(
            f"a deleted row of {label} came without its key",
            code="REPLICA_IDENTITY",
            table=label,
            hint="the message key must have the table's key columns: leave message.key.columns unset, "
            f"or ALTER TABLE {label} REPLICA IDENTITY FULL",
        )

    def _unknown_modes(self, columns: Iterable[str]) -> UsageError:
        return UsageError(
            f"{self.table.relation.label}: without schemas, {', '.join(sorted(columns))} can only be "
            "understood with the modes of the connector",
            hint="kafka.connect_url and kafka.connector, or kafka.modes: {decimal: precise, time: "
            "adaptive}",
        )

    def _changed_dimension(self, name: str, error: WrongDimension) -> StopError:
        label = self.table.relation.label
        return StopError(
            f"{label}: the vector {name} has {error.found} dimensions in the topic, another number in "
            "its column",
            code="SCHEMA_CHANGED",
            table=label,
            hint="change it back, or give the table another `collection` and copy everything again",
        )


def _unchanged(_value: object) -> StreamField:
    return UNCHANGED


def _fingerprint(fields: Mapping[str, Mapping[str, Any]]) -> tuple[object, ...]:
    """What the encodings of these fields depend on."""
    return tuple(
        (name, schema.get("name"), schema.get("type"), _scale(schema), _items(schema))
        for name, schema in fields.items()
    )


def _scale(schema: Mapping[str, Any]) -> object:
    return (schema.get("parameters") or {}).get("scale")


def _items(schema: Mapping[str, Any]) -> object:
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return None
    return (items.get("name"), items.get("type"), _scale(items))


def stream_table(mapping: TableMapping) -> StreamTable:
    """The mapping laid onto the columns that it needs, in the forms that values are given."""
    needed = dict.fromkeys(
        [
            *(column.column for column in mapping.key),
            *(item.column for item in mapping.payload),
            *(column.column for column in mapping.vectors),
            *mapping.where,
        ]
    )
    columns = [mapping.table.column(name) for name in needed]
    vectors = {column.column for column in mapping.vectors}
    relation = Relation(
        oid=mapping.table.oid,
        schema=mapping.table.schema,
        name=mapping.table.name,
        replica_identity="d",
        columns=tuple(column.name for column in columns),
        type_oids=tuple(column.type.oid for column in columns),
        type_modifiers=tuple(column.type.modifier for column in columns),
        key=tuple(column.name in mapping.key_columns for column in columns),
    )
    forms: list[Form] = [
        "binary" if column.name in vectors else form_of(column.type) for column in columns
    ]
    return StreamTable(mapping, relation, forms)
