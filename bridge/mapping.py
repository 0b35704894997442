"""Rows -> points: the one place where a source row becomes what Qdrant stores. Pure.

A `TableMapping` is made by `map_table.py` from the catalog and the configuration. It says which
columns to read and in which form (`selection`), and turns rows read in that form into points
(`points`). The point id is fixed in `TableMapping.points` through `IdRule.of`.

A row that cannot become a point (a value that no payload can hold, a vector that Qdrant would
damage) is returned as a dead letter; the other rows of the batch are not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bridge.collection_spec import CollectionSpec, VectorSpec
from bridge.errors import Unstorable
from bridge.events import Field, Read
from bridge.plan import DeadLetter, Point, Vector
from bridge.point_ids import (
    PointId,
    composite_text,
    key_point_id,
    point_id,
    qdrant_migration_point_id,
)
from bridge.schema import Table
from bridge.values import PayloadValue
from bridge.vectors import Kind, Result, dense, multi, sparse

Load = Callable[[bytes], PayloadValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """One field of a row as it is read: the type's binary form, or its output function's text."""

    column: str
    form: Literal["binary", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadField:
    """A column's way into the payload: `path` is where, `index` which field of the row, `load` how."""

    column: str
    path: tuple[str, ...]
    index: int
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorColumn:
    """A column's way to a named vector; `index` is its field of the row, always in binary form."""

    column: str
    kind: Kind
    index: int
    spec: VectorSpec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyColumn:
    """A key column: `text` gives its output function's text from the field `index` of the row."""

    column: str
    index: int
    text: Callable[[bytes], str]


@dataclass(frozen=True, slots=True, kw_only=True)
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

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The key's column names, in the key's order."""
        return tuple(column.column for column in self.key)

    def points(self, read: Read) -> tuple[list[Point], list[DeadLetter]]:
        """The points of a batch of rows in their order, and the rows that cannot become one."""
        columns = [self._vector_column(column, read.rows) for column in self.vectors]
        points: list[Point] = []
        letters: list[DeadLetter] = []
        for number, row in enumerate(read.rows):
            texts: list[str] = []
            try:
                texts = self.key_texts(row)
                payload = self._payload(row)
                named: dict[str, Vector] = {}
                for column, results in zip(self.vectors, columns, strict=True):
                    vector = results[number]
                    if isinstance(vector, Unstorable):
                        raise Unstorable(f"column {column.column}: {vector.message}")
                    if vector is not None:
                        named[column.spec.name] = vector
            except Unstorable as flaw:
                letters.append(self.dead_letter(texts, flaw.message, read.position))
                continue
            if self.id_rule.id_field is not None:
                payload.update(self.id_rule.fields(texts))
            points.append(Point(self.id_rule.of(texts), named, payload))
        return points, letters

    def key_texts(self, row: Sequence[Field]) -> list[str]:
        """The key of a row as its columns' texts. A NULL in it raises Unstorable: no key, no point."""
        texts: list[str] = []
        for column in self.key:
            raw = row[column.index]
            if raw is None:
                raise Unstorable(f"column {column.column}: a NULL in the key")
            texts.append(column.text(raw))
        return texts

    def dead_letter(self, texts: Sequence[str], reason: str, position: str) -> DeadLetter:
        """A row set aside, named by its key (`NULL` if its key has one)."""
        key = (texts[0] if len(texts) == 1 else composite_text(texts)) if texts else "NULL"
        return DeadLetter(table=self.table.label, key=key, reason=reason, position=position)

    def _payload(self, row: Sequence[Field]) -> dict[str, PayloadValue]:
        payload: dict[str, PayloadValue] = {}
        omit_nulls = self.omit_nulls
        for item in self.payload:
            raw = row[item.index]
            if raw is None:
                if omit_nulls:
                    continue
                value: PayloadValue = None
            else:
                try:
                    value = item.load(raw)
                except Unstorable as flaw:
                    raise Unstorable(f"column {item.column}: {flaw.message}") from None
            path = item.path
            if len(path) == 1:
                payload[path[0]] = value
            else:
                _nest(payload, path, value)
        return payload

    def _vector_column(self, column: VectorColumn, rows: Sequence[Sequence[Field]]) -> list[Result]:
        index, spec = column.index, column.spec
        fields = [row[index] for row in rows]
        cosine = spec.distance == "cosine"
        if spec.shape == "sparse":
            return sparse(fields, dimension=spec.dimension, cosine=cosine)
        assert spec.dimension is not None  # noqa: S101 - map_table gives each dense vector one
        convert = dense if spec.shape == "dense" else multi
        return convert(fields, kind=column.kind, dimension=spec.dimension, cosine=cosine)


def _nest(payload: dict[str, PayloadValue], path: tuple[str, ...], value: PayloadValue) -> None:
    """Put `value` at a dotted path; `map_table` has made sure that no two paths collide."""
    level = payload
    for step in path[:-1]:
        inner = level.setdefault(step, {})
        assert isinstance(inner, dict)  # noqa: S101 - paths never collide
        level = inner
    level[path[-1]] = value
