"""One table of the stream: its mapping laid onto the columns that a relation announces. Pure.

A mapping made from the catalog says which columns become what; a Relation message says in which order
the stream sends them. `StreamTable` joins the two. Columns that only one side knows are left out: one
that was added comes with the next relation, one that was dropped goes with the row's next change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bridge.errors import StopError
from bridge.events import UNCHANGED, Field, Relation, StreamField, TupleData
from bridge.mapping import Form, PayloadField, Selected, TableMapping
from bridge.point_ids import PointId
from bridge.rows import Load, load_of
from bridge.values import ValuePolicy
from bridge.vectors_text import vector_from_text

_FORMS: dict[int, Form] = {ord("b"): "binary", ord("t"): "text"}

Row = tuple[StreamField, ...]


class StreamTable:
    """How the rows of one relation become points.

    `layout` is the mapping with the relation's own columns as selection: rows read again through it
    (`scan.read_by_key`) have the same fields as rows of the stream.
    """

    def __init__(self, mapping: TableMapping, relation: Relation, forms: Sequence[Form]) -> None:
        self.mapping = mapping
        self.relation = relation
        self.forms = tuple(forms)
        self.layout = _laid_out(mapping, relation, self.forms)
        self._key = tuple(column.index for column in self.layout.key)
        self.vector_fields = frozenset(column.index for column in self.layout.vectors)
        self.payload_fields = frozenset(field.index for field in self.layout.payload)
        self._where_loads = _where_loads(mapping, relation, self.forms)
        self.where_fields = frozenset(index for _name, index, _load in self._where_loads)

    def agrees(self, row: TupleData) -> bool:
        """Whether the server sent this row's values in the forms that are expected."""
        return all(
            _FORMS.get(kind, form) == form for kind, form in zip(row.kinds, self.forms, strict=True)
        )

    def in_forms_of(self, row: TupleData) -> StreamTable:
        """The same with the forms that this row has; NULL and unchanged values tell nothing."""
        forms = [_FORMS.get(kind, form) for kind, form in zip(row.kinds, self.forms, strict=True)]
        return StreamTable(self.mapping, self.relation, forms)

    def has_key(self, row: Row) -> bool:
        """Whether the row's key was sent whole."""
        return all(row[index] is not UNCHANGED and row[index] is not None for index in self._key)

    def key_texts(self, row: Row) -> list[str]:
        """The key as its columns' texts; it must have been sent."""
        return self.layout.key_texts(known(row))

    def id_of(self, row: Row) -> PointId:
        """The point of a row."""
        return self.layout.id_rule.of(self.key_texts(row))

    def values_for_where(self, row: Row) -> dict[str, object]:
        """The values that `where` looks at; they must have been sent."""
        values: dict[str, object] = {}
        for name, index, load in self._where_loads:
            field = row[index]
            values[name] = load(field) if isinstance(field, bytes) else None
        return values

    def unchanged(self, row: Row) -> frozenset[int]:
        """The mapped fields that the source did not send."""
        fields = self.vector_fields | self.payload_fields | self.where_fields
        return frozenset(index for index in fields if row[index] is UNCHANGED)


def _where_loads(
    mapping: TableMapping, relation: Relation, forms: tuple[Form, ...]
) -> list[tuple[str, int, Load]]:
    loads: list[tuple[str, int, Load]] = []
    for name in mapping.where:
        if name not in relation.columns:
            raise StopError(
                f"where: column {name} of {relation.label} is not in the stream",
                code="SCHEMA_CHANGED",
                table=relation.label,
                hint="was it dropped or renamed, or does the publication's column list lack it?",
            )
        index = relation.columns.index(name)
        field = PayloadField(
            column=name,
            path=(name,),
            index=index,
            form=forms[index],
            type=mapping.table.column(name).type,
            policy=ValuePolicy(),
        )
        loads.append((name, index, load_of(field)))
    return loads


def known(row: Row) -> list[Field]:
    """The row with None for what was not sent: for those who have looked at `unchanged` first."""
    return [None if field is UNCHANGED else field for field in row]


def _laid_out(mapping: TableMapping, relation: Relation, forms: tuple[Form, ...]) -> TableMapping:
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
            if f.column in places
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
