"""What a table of a stream looked like when its copy began: what may change since, and what may not.

Kept beside the stream's record, one record a table. Column numbers (pg_attribute.attnum) tell a column
that was dropped and made again under its old name from the one that was there; names and types cannot.
Distances are kept since they came from the indexes of that day, which users drop once Qdrant serves
their searches. Pure, but for `save` and `load`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bridge.config_tables import TableSettings, VectorSettings
from bridge.errors import StopError
from bridge.map_vectors import vector_columns, vector_kind
from bridge.mapping import TableMapping
from bridge.schema import Column, Table, quote_identifier
from bridge.state import Record

_PREFIX = "schema/"
_CHANGED = "changed/"
_VECTOR_INDEXES = ("hnsw", "ivfflat")


class Records(Protocol):
    """Where records are kept (`QdrantState`)."""

    def put(self, kind: Any, name: str, record: Record) -> None:
        """Store it, over the one that is there."""

    def records(self, kind: Any) -> Iterable[tuple[str, Record]]:
        """All of that kind, by name."""


class RemovableRecords(Records, Protocol):
    """Those that can be removed."""

    def remove(self, kind: Any, names: Sequence[str]) -> None:
        """Remove records; missing ones are no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedColumn:
    """A column's attnum, and the OID and atttypmod of its type, domains resolved."""

    number: int
    type_oid: int
    modifier: int

    @classmethod
    def of(cls, column: Column) -> RecordedColumn:
        """The column as it is."""
        element = column.type.element
        modifier = max(column.type.modifier, element.modifier if element is not None else -1)
        return cls(number=column.number, type_oid=column.type.oid, modifier=modifier)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSchema:
    """`schema` and `name` are those at the copy, and stay what the table is called here."""

    oid: int
    schema: str
    name: str
    collection: str
    key: tuple[str, ...]
    columns: Mapping[str, RecordedColumn]
    distances: Mapping[str, str]

    @classmethod
    def of(cls, mapping: TableMapping) -> RecordedSchema:
        """The table as it is now."""
        table = mapping.table
        return cls(
            oid=table.oid,
            schema=table.schema,
            name=table.name,
            collection=mapping.collection.name,
            key=mapping.key_columns,
            columns={column.name: RecordedColumn.of(column) for column in table.columns},
            distances={vector.column: vector.spec.distance for vector in mapping.vectors},
        )

    @property
    def label(self) -> str:
        """The table's name as at the copy, as a user writes it."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    def to_record(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "oid": self.oid,
            "schema": self.schema,
            "name": self.name,
            "collection": self.collection,
            "key": list(self.key),
            "columns": {
                name: [column.number, column.type_oid, column.modifier]
                for name, column in self.columns.items()
            },
            "distances": dict(self.distances),
        }

    @classmethod
    def from_record(cls, record: Record) -> RecordedSchema:
        """The inverse of `to_record`."""
        columns = {
            name: RecordedColumn(number=number, type_oid=type_oid, modifier=modifier)
            for name, (number, type_oid, modifier) in record["columns"].items()
        }
        return cls(**{**record, "key": tuple(record["key"]), "columns": columns})

    def is_called(self, schema: str | None, name: str) -> bool:
        """Whether the configuration means this table by that name."""
        return name == self.name and schema in (None, self.schema)

    # --- what may not change -------------------------------------------------------------------

    def essential_change(self, columns: Iterable[Column], *, numbered: bool) -> str | None:
        """What became of a key or vector column that cannot be followed, in words; None if nothing.

        `numbered`: the columns come from the catalog; else from the stream, which knows no numbers.
        """
        now = {column.name: column for column in columns}
        for name in (*self.key, *self.distances):
            before = self.columns[name]
            what = "key" if name in self.key else "vector"
            column = now.get(name)
            if column is None:
                return f"the {what} column {name} was dropped or renamed"
            if numbered and column.number != before.number:
                return f"the {what} column {name} was dropped and made again"
            if _other_type(before, column):
                return f"the {what} column {name} is {column.declared} now"
        return None

    def changed_columns(self, columns: Iterable[Column]) -> list[str]:
        """Columns that came, went, or are others than at the copy, by name; later vector columns, which
        change no payload, are not among them."""
        now = {
            c.name: RecordedColumn.of(c)
            for c in columns
            if not c.generated and not self._is_later_vector(c)
        }
        names = {*now, *self.columns}
        return sorted(name for name in names if now.get(name) != self.columns.get(name))

    def unplaced_vectors(self, table: Table, settings: TableSettings) -> list[str]:
        """Vector columns that came after the copy and that the configuration does not leave out: the
        collection has no place for them, and cannot be given one."""
        wanted = vector_columns(table, settings)
        return [column.name for column in wanted if self._is_later_vector(column)]

    def _is_later_vector(self, column: Column) -> bool:
        known = column.name in self.distances or column.name in self.columns
        return vector_kind(column) is not None and not known

    # --- the mapping of later days --------------------------------------------------------------

    def settings_for(self, table: Table, settings: TableSettings) -> TableSettings:
        """The table's settings, for a table that may have lost columns which they name.

        A name that the table never had is left in: `map_table` refuses it.
        """
        lost = self.columns.keys() - {column.name for column in table.columns}
        update: dict[str, Any] = {"collection": settings.collection or self.collection}
        update["key"] = settings.key or self.key
        if settings.columns is not None:
            update["columns"] = tuple(c for c in settings.columns if c not in lost)
        if settings.payload is not None:
            update["payload"] = {
                target: source for target, source in settings.payload.items() if source not in lost
            }
        if settings.vectors != "none":
            vectors = dict(settings.vectors)
            for name, distance in self.distances.items():
                chosen = vectors.get(name, VectorSettings())
                if chosen.distance is None:
                    vectors[name] = chosen.model_copy(update={"distance": distance})
            update["vectors"] = vectors
        return settings.model_copy(update=update)

    def table_for(self, table: Table) -> Table:
        """The table without its vector indexes, and without vector columns that came later: the
        collection has no place for them."""
        return replace(
            table,
            indexes=tuple(i for i in table.indexes if i.method not in _VECTOR_INDEXES),
            columns=tuple(c for c in table.columns if not self._is_later_vector(c)),
        )


def unplaced(columns: Sequence[str]) -> str:
    """What is said of later vector columns."""
    several = len(columns) > 1
    return (
        f"the vector column{'s' if several else ''} {', '.join(columns)} came after the copy, and the "
        f"collection has no place for {'them' if several else 'it'}"
    )


UNPLACED_HINT = (
    "Qdrant adds no vector to a collection: stop the daemon, give the table another `collection` and run "
    "qdrant-bridge resync --all; or leave the column out by the table's `columns`"
)


def moved(copied: RecordedSchema, collection: str) -> StopError:
    """The stop of a stream whose table is to go into another collection, which does not exist yet."""
    return StopError(
        f"{copied.label} is to go into the collection {collection} now, which is not there; so far it went "
        f"into {copied.collection}",
        code="TARGET_CHANGED",
        table=copied.label,
        hint="qdrant-bridge resync --all makes and fills the new one; the old one stays until you delete it",
    )


def dropped(copied: RecordedSchema, *, made_again: bool) -> StopError:
    """The stop of a stream whose table is gone. `made_again`: another one has its name."""
    hint = (
        "a table of its name is there again: start the daemon, which copies it as a new one; through "
        "Kafka, give it another `collection` and copy it again"
        if made_again
        else "take it out of the configuration and start the daemon again; its collection stays as it is"
    )
    return StopError(
        f"{copied.label}: the table was dropped",
        code="SCHEMA_CHANGED",
        table=copied.label,
        hint=hint,
    )


def _other_type(before: RecordedColumn, column: Column) -> bool:
    now = RecordedColumn.of(column)
    if now.type_oid != before.type_oid:
        return True
    if column.type.name == "varchar":
        return False  # a limit changes no text
    return now.modifier != before.modifier


def save(store: Records, schema: RecordedSchema) -> None:
    """Keep it, over what was kept of a table of that name before."""
    store.put("stream", f"{_PREFIX}{schema.label}", schema.to_record())


def note_changes(store: Records, label: str, columns: Iterable[str]) -> None:
    """Keep which columns are others than at the copy: rows from before may differ in them."""
    store.put("stream", f"{_CHANGED}{label}", {"columns": sorted(columns)})


def forget_changes(store: RemovableRecords, label: str) -> None:
    """The table is as it was when its rows were last read."""
    store.remove("stream", [f"{_CHANGED}{label}"])


def noted_changes(store: Records) -> dict[str, list[str]]:
    """The columns of `note_changes`, by the tables' labels."""
    return {
        name.removeprefix(_CHANGED): list(record["columns"])
        for name, record in store.records("stream")
        if name.startswith(_CHANGED)
    }


def load(store: Records) -> dict[int, RecordedSchema]:
    """What is kept, by the tables' OIDs."""
    found = (
        RecordedSchema.from_record(record)
        for name, record in store.records("stream")
        if name.startswith(_PREFIX)
    )
    return {schema.oid: schema for schema in found}
