"""One table of the stream: its mapping laid onto the columns that a relation announces. Pure.

A mapping made from the catalog says which columns become what; a Relation message says in which order
the stream sends them. `StreamTable` joins the two. Columns that only one side knows are left out: one
that was added comes with the next relation, one that was dropped goes with the row's next change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bridge.errors import StopError
from bridge.events import UNCHANGED, Field, Relation, StreamField, TupleData
from bridge.mapping import Form, PayloadField, Selected, TableMapping
from bridge.point_ids import PointId
from bridge.postgres.predicate import Condition, row_filter
from bridge.rows import integer_key, load_of
from bridge.values import ValuePolicy
from bridge.vectors_text import vector_from_text

_FORMS: dict[int, Form] = {ord("b"): "binary", ord("t"): "text"}

Row = tuple[StreamField, ...]

# Rows of a table come in few combinations of NULL, unchanged and sent; what is remembered is bounded.
_KINDS_KEPT = 1024


class StreamTable:
    """How the rows of one relation become points.

    `layout` is the mapping with the relation's own columns as selection: rows read again through it
    (`Source.read`) have the same fields as rows of the stream. `omitted` are mapped columns that rows
    of this layout cannot tell any more: their fields are left out of the payload.
    """

    def __init__(
        self,
        mapping: TableMapping,
        relation: Relation,
        forms: Sequence[Form],
        omitted: frozenset[int] = frozenset(),
    ) -> None:
        self.mapping = mapping
        self.relation = relation
        self.forms = tuple(forms)
        self.layout = _laid_out(mapping, relation, self.forms, omitted)
        self.key_fields = tuple(column.index for column in self.layout.key)
        self.vector_fields = frozenset(column.index for column in self.layout.vectors)
        self.payload_fields = frozenset(field.index for field in self.layout.payload)
        self._filter = row_filter(mapping.table, mapping.where)
        self._where = [
            _where_load(mapping, relation, self.forms, condition)
            for condition in (self._filter.conditions if self._filter else ())
        ]
        self.where_fields = frozenset(index for _name, index, _load in self._where)
        self._mapped_fields = self.vector_fields | self.payload_fields | self.where_fields
        self._without: dict[frozenset[int], StreamTable] = {}
        self._integer_key = integer_key(self.layout)
        self._agreed: set[bytes] = set()

    def agrees(self, row: TupleData) -> bool:
        """Whether the server sent this row's values in the forms that are expected."""
        if row.kinds in self._agreed:
            return True
        agreed = all(
            _FORMS.get(kind, form) == form for kind, form in zip(row.kinds, self.forms, strict=True)
        )
        if agreed and len(self._agreed) < _KINDS_KEPT:
            self._agreed.add(row.kinds)
        return agreed

    def in_forms_of(self, row: TupleData) -> StreamTable:
        """The same with the forms that this row has; NULL and unchanged values tell nothing."""
        forms = [_FORMS.get(kind, form) for kind, form in zip(row.kinds, self.forms, strict=True)]
        return StreamTable(self.mapping, self.relation, forms)

    def without(self, fields: frozenset[int]) -> StreamTable:
        """The same for rows that cannot tell these payload fields."""
        if fields not in self._without:
            self._without[fields] = StreamTable(self.mapping, self.relation, self.forms, fields)
        return self._without[fields]

    # --- keys ----------------------------------------------------------------------------------

    def has_key(self, row: Row) -> bool:
        """Whether the row's key is there, and no part of it NULL."""
        return all(isinstance(row[index], bytes) for index in self.key_fields)

    def lacks_key(self, row: Row) -> bool:
        """Whether a part of the key was not sent."""
        return any(row[index] is UNCHANGED for index in self.key_fields)

    def key_texts(self, row: Row) -> list[str]:
        """The key as its columns' texts; it must have been sent. Unstorable if a part is NULL."""
        return self.layout.key_texts(known(row))

    def id_of(self, row: Row) -> PointId:
        """The point of a row."""
        number = self._integer_of(row)
        if number is not None and number >= 0:
            return number  # what `point_id` makes of its text
        return self.layout.id_rule.of(self.key_texts(row))

    def letter_key(self, row: Row) -> str:
        """The row's key as dead letters name it."""
        number = self._integer_of(row)
        if number is not None:
            return str(number)
        return self.mapping.dead_letter(self.key_texts(row), "", "").key

    def _integer_of(self, row: Row) -> int | None:
        """A key that is one integer, under the default rule for ids; None if it is anything else."""
        if self._integer_key is None:
            return None
        index, load = self._integer_key
        raw = row[index]
        return load(raw) if isinstance(raw, bytes) else None

    # --- values --------------------------------------------------------------------------------

    def matches(self, row: Row) -> bool:
        """Whether `where` keeps the row; what it looks at must have been sent."""
        if self._filter is None:
            return True
        values: dict[str, object] = {}
        for name, index, load in self._where:
            field = row[index]
            values[name] = load(field) if isinstance(field, bytes) else None
        return self._filter.matches(values)

    def unchanged(self, row: Row) -> frozenset[int]:
        """The mapped fields that the source did not send."""
        if UNCHANGED not in row:
            return frozenset()
        return frozenset(index for index in self._mapped_fields if row[index] is UNCHANGED)


def _where_load(
    mapping: TableMapping, relation: Relation, forms: tuple[Form, ...], condition: Condition
) -> tuple[str, int, Callable[[bytes], object]]:
    """The name and field of a column that `where` looks at, and how its value is got."""
    name = condition.column.name
    if name not in relation.columns:
        raise StopError(
            f"where: column {name} of {relation.label} is not in the stream",
            code="SCHEMA_CHANGED",
            table=relation.label,
            hint="was it dropped or renamed, or does the publication's column list lack it?",
        )
    index = relation.columns.index(name)
    if not condition.literals:
        return name, index, _there  # NULL or not is all that counts, whatever the type
    item = PayloadField(
        column=name,
        path=(name,),
        index=index,
        form=forms[index],
        type=mapping.table.column(name).type,
        policy=ValuePolicy(),
    )
    return name, index, load_of(item)


def _there(raw: bytes) -> object:
    return True


def known(row: Row) -> list[Field]:
    """The row with None for what was not sent: for those who have looked at `unchanged` first."""
    return [None if field is UNCHANGED else field for field in row]


def _laid_out(
    mapping: TableMapping,
    relation: Relation,
    forms: tuple[Form, ...],
    omitted: frozenset[int],
) -> TableMapping:
    places = {name: index for index, name in enumerate(relation.columns)}
    needed = [column.column for column in mapping.key]
    needed += [column.column for column in mapping.vectors]
    for name in needed:
        if name not in places:
            raise StopError(
                f"column {name} of {relation.label} is not in the stream",
                code="SCHEMA_CHANGED",
                table=relation.label,
                hint="was it dropped or renamed, or does the publication's column list lack it? Key "
                "and vector columns must stay; after a change: qdrant-bridge resync",
            )
    for column in mapping.key:
        if not relation.key[places[column.column]]:
            raise StopError(
                f"the replica identity of {relation.label} does not cover the key column "
                f"{column.column}: changes would not tell which row they are about",
                code="REPLICA_IDENTITY",
                table=relation.label,
                hint=f"ALTER TABLE {relation.label} REPLICA IDENTITY DEFAULT (or USING INDEX with a "
                "unique index on the key), then qdrant-bridge resync",
            )
    return dataclasses.replace(
        mapping,
        selection=tuple(
            Selected(column=name, form=form)
            for name, form in zip(relation.columns, forms, strict=True)
        ),
        key=tuple(
            dataclasses.replace(c, index=places[c.column], form=forms[places[c.column]])
            for c in mapping.key
        ),
        payload=tuple(
            dataclasses.replace(f, index=places[f.column], form=forms[places[f.column]])
            for f in mapping.payload
            if f.column in places and places[f.column] not in omitted
        ),
        vectors=tuple(dataclasses.replace(v, index=places[v.column]) for v in mapping.vectors),
        partition_index=None,
    )


def binary_vectors(table: StreamTable, row: Sequence[Field]) -> list[Field]:
    """The row with vectors that came as text in their binary form, which is what is converted."""
    result = list(row)
    for column in table.layout.vectors:
        field = result[column.index]
        if field is not None and table.forms[column.index] == "text":
            multi = column.spec.shape == "multi"
            result[column.index] = vector_from_text(column.kind, field.decode(), multi=multi)
    return result
