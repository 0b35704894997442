"""Changes of a table that no database holds, as a stream tells them; and its rows, for reading again.

The table is `docs (id, title, price, lang, v, w)`; a row is written by its columns' names:

    docs = StreamDocs(where={"lang": ["en"]})
    docs.insert(id=1, title="one", v=[1, 2, 3])
    docs.update(id=1, title="two")         # v and w: unchanged
    docs.update(id=2, old=1)               # the key was changed
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bridge.events import (
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    StreamField,
    TupleData,
    Update,
)
from bridge.mapping import TableMapping
from sync.apply import Found
from sync.tables import StreamTable
from sync.window import TableWindow
from tests.support.source_tables import table
from tests.support.table_mappings import mapped

COLUMNS: Final = ("id", "title", "price", "lang", "v", "w")
TYPES: Final[Mapping[str, Any]] = {
    "id": "int8", "title": "text", "price": "float8", "lang": "text",
    "v": ("vector", 3), "w": ("vector", 2),
}  # fmt: skip
EUCLID: Final = {"v": {"distance": "euclid"}, "w": {"distance": "euclid"}}


def relation_of(mapping: TableMapping, **changes: Any) -> Relation:
    """The relation that announces a mapping's table, DEFAULT as replica identity."""
    source = mapping.table
    given: dict[str, Any] = {
        "oid": source.oid,
        "schema": source.schema,
        "name": source.name,
        "replica_identity": "d",
        "columns": tuple(column.name for column in source.columns),
        "type_oids": tuple(column.type.oid for column in source.columns),
        "type_modifiers": tuple(column.type.modifier for column in source.columns),
        "key": tuple(column.name in mapping.key_columns for column in source.columns),
    }
    return Relation(**{**given, **changes})


def docs_mapping(**settings: Any) -> TableMapping:
    """The mapping of `docs`; distances that keep every bit."""
    return mapped(table(**TYPES), **{"vectors": EUCLID, **settings})


def field_of(column: str, value: Any) -> StreamField:
    """A value in its type's binary form."""
    if value is None or value is UNCHANGED:
        return value
    if column == "id":
        return struct.pack(">q", value)
    if column == "price":
        return struct.pack(">d", value)
    if column in ("v", "w"):
        return struct.pack(">hh", len(value), 0) + np.array(value, dtype=">f4").tobytes()
    return str(value).encode()


def row_of(values: Mapping[str, Any], absent: Any = None) -> TupleData:
    """A row; columns that are not named are `absent`."""
    fields = tuple(field_of(name, values.get(name, absent)) for name in COLUMNS)
    return tuple_of(fields)


def tuple_of(fields: Sequence[StreamField], form: str = "b") -> TupleData:
    """A row of raw fields."""
    kinds = "".join("n" if f is None else "u" if f is UNCHANGED else form for f in fields)
    return TupleData(tuple(fields), kinds.encode())


@dataclass(slots=True)
class FakeSource:
    """Rows that can be read again, by key. `asked` logs the columns, keys and transactions."""

    rows: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()
    asked: list[tuple[set[str], list[str], set[int]]] = field(default_factory=list)

    def read(
        self,
        table: StreamTable,
        fields: Collection[int],
        keys: Sequence[Sequence[str]],
        xids: Set[int],
    ) -> Found:
        wanted = {COLUMNS[index] for index in fields} | {"id"}
        self.asked.append((wanted, [key for (key,) in keys], set(xids)))
        found = []
        for (key,) in keys:
            row = self.rows.get(int(key))
            if row is not None:
                known = {name: row.get(name) for name in wanted - self.lacking} | {"id": int(key)}
                found.append(row_of(known, UNCHANGED).values)
        lacking = frozenset(COLUMNS.index(name) for name in self.lacking & wanted)
        return Found(rows=found, lacking=lacking)


class StreamDocs:
    """A window of changes of `docs`, and what happens next."""

    def __init__(self, *, identity: str = "d", **settings: Any) -> None:
        mapping = docs_mapping(**settings)
        flags = tuple(True if identity == "f" else name == "id" for name in COLUMNS)
        self.relation = relation_of(mapping, replica_identity=identity, key=flags)
        self.table = StreamTable(mapping, self.relation, ["binary"] * len(COLUMNS))
        self.window = TableWindow()
        self.xid = 700

    def next_window(self) -> TableWindow:
        """What has been collected; a new window begins."""
        done, self.window = self.window, TableWindow()
        return done

    def insert(self, **values: Any) -> None:
        self.window.insert(self.table, Insert(relation=self.relation, row=row_of(values)), self.xid)

    def update(self, *, old: Any = None, **values: Any) -> None:
        """Columns that are not named: unchanged if they are vectors, else NULL. `old`: the old key,
        or the whole old row."""
        absent = {"v": UNCHANGED, "w": UNCHANGED}
        whole = isinstance(old, Mapping)
        before = None if old is None else row_of(old if whole else {"id": old})
        event = Update(
            relation=self.relation,
            row=row_of({**absent, **values}),
            old=before,
            old_is_key=not whole,
        )
        self.window.update(self.table, event, self.xid)

    def delete(self, identity: int | None, *, whole: bool = False) -> None:
        event = Delete(relation=self.relation, old=row_of({"id": identity}), old_is_key=not whole)
        self.window.delete(self.table, event, self.xid)
