"""How a table maps to a collection: plain values, made by `map_table.py`, carried out by `rows.py`.

A `TableMapping` says which columns to read and in which form (`selection`), and what becomes of each.
It holds no function, so that it can be sent to a worker process as it is. The point id of a row is
fixed by `IdRule.of`; `TableMapping.points` turns rows into points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from bridge.collection_spec import CollectionSpec, VectorSpec
from bridge.events import Field, Read
from bridge.plan import DeadLetter, Point
from bridge.point_ids import (
    PointId,
    composite_text,
    key_point_id,
    point_id,
    qdrant_migration_point_id,
)
from bridge.schema import PgType, Table
from bridge.values import PayloadValue, ValuePolicy
from bridge.vectors import Kind

if TYPE_CHECKING:
    from bridge.rows import RowMapper

Form = Literal["binary", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """One field of a row as it is read: the type's binary form, or its output function's text."""

    column: str
    form: Form


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadField:
    """A column's way into the payload.

    `path` is where it goes, `index` the field of the row that holds it in the given form, `policy`
    what becomes of values for which there is a choice.
    """

    column: str
    path: tuple[str, ...]
    index: int
    form: Form
    type: PgType
    policy: ValuePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorColumn:
    """A column's way to a named vector; `index` is its field of the row, always in binary form."""

    column: str
    kind: Kind
    index: int
    spec: VectorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyColumn:
    """A key column: the field `index` of the row holds it in the given form."""

    column: str
    index: int
    form: Form
    type: PgType


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRule:
    """Key texts -> the id's text -> point id (design.md section 3).

    `template` has `{column}` for each key column. With `namespace`, several Pinecone namespaces share
    the collection and the id is that of the pair. `writes` are payload fields that keep the Pinecone
    id and namespace.
    """

    key: tuple[str, ...]
    template: str | None = None
    namespace: str | None = None
    scheme: Literal["bridge", "qdrant-migration"] = "bridge"
    id_field: str | None = None

    def of(self, texts: Sequence[str]) -> PointId:
        """The point id of a key given by its columns' texts, in the key's order."""
        if self.scheme == "qdrant-migration":
            return qdrant_migration_point_id(texts[0])
        if self.template is None:
            return key_point_id(texts)
        text = self.text(texts)
        return point_id(text if self.namespace is None else composite_text((self.namespace, text)))

    def text(self, texts: Sequence[str]) -> str:
        """The text that Pinecone used as id: the template filled in."""
        assert self.template is not None  # noqa: S101 - callers look first
        return self.template.format_map(dict(zip(self.key, texts, strict=True)))

    def fields(self, texts: Sequence[str]) -> dict[str, PayloadValue]:
        """The payload fields that the rule itself writes."""
        if self.id_field is None:
            return {}
        fields: dict[str, PayloadValue] = {self.id_field: self.text(texts)}
        if self.namespace is not None:
            fields["namespace"] = self.namespace
        return fields


@dataclass(frozen=True, kw_only=True)
class TableMapping:
    """How one table becomes one collection.

    `partition_index`: the field of a row that holds the OID of its leaf partition, if there are any.
    """

    table: Table
    collection: CollectionSpec
    key: tuple[KeyColumn, ...]
    id_rule: IdRule
    selection: tuple[Selected, ...]
    payload: tuple[PayloadField, ...]
    vectors: tuple[VectorColumn, ...]
    partition_index: int | None = None
    omit_nulls: bool = False
    where: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @cached_property
    def _rows(self) -> RowMapper:
        from bridge.rows import RowMapper  # it is made from this module's classes

        return RowMapper(self)

    def __getstate__(self) -> dict[str, Any]:
        """Without the functions that `_rows` holds: whoever gets the copy makes them anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The key's column names, in the key's order."""
        return tuple(column.column for column in self.key)

    def points(self, read: Read) -> tuple[list[Point], list[DeadLetter]]:
        """The points of a batch of rows in their order, and the rows that cannot become one."""
        return self._rows.points(read)

    def key_texts(self, row: Sequence[Field]) -> list[str]:
        """The key of a row as its columns' texts. A NULL in it raises Unstorable: no key, no point."""
        return self._rows.key_texts(row)

    def dead_letter(self, texts: Sequence[str], reason: str, position: str) -> DeadLetter:
        """A row set aside, named by its key (`NULL` if its key has one)."""
        key = (texts[0] if len(texts) == 1 else composite_text(texts)) if texts else "NULL"
        return DeadLetter(table=self.table.label, key=key, reason=reason, position=position)
