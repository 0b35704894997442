"""Rows -> points: the one place where a source row becomes what Qdrant stores. Pure.

A batch is turned over column by column, since a loop over one column's values costs a fraction of one
that changes from type to type. What the steps do, in `RowMapper.points`:

    1. each payload column's fields are loaded            -> payload values, one list a column
    2. each vector column's fields are converted          -> buffers (`vectors.py`)
    3. each row's key texts become its point id           (`IdRule.of`)
    4. row by row, these are put together to a `Point`

A row that cannot become a point (a value that no payload can hold, a vector that Qdrant would damage,
a NULL in its key) becomes a dead letter; the other rows of the batch are not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import TypeVar, cast

from bridge.errors import Unstorable
from bridge.events import Field, Read
from bridge.mapping import KeyColumn, PayloadField, TableMapping, VectorColumn
from bridge.plan import DeadLetter, Point, Vector
from bridge.point_ids import PointId, point_id
from bridge.postgres.decode import binary_loader, key_text_loader
from bridge.postgres.decode_text import text_loader
from bridge.values import PayloadValue
from bridge.vectors import Result, dense, multi, sparse

Load = Callable[[bytes], PayloadValue]
Flaws = dict[int, str]
"""Row number -> why it is set aside; the first reason found counts."""

Payload = TypeVar("Payload")
Made = TypeVar("Made")

_INTEGERS = ("int2", "int4", "int8")


class RowMapper:
    """Carries out one mapping. Made once, used for every batch."""

    def __init__(self, mapping: TableMapping) -> None:
        self._mapping = mapping
        self._loads = [load_of(item) for item in mapping.payload]
        self._key_texts = [_key_text_of(column) for column in mapping.key]
        self._names = [item.path[0] for item in mapping.payload]
        # Without renaming and omission a payload is just the columns' names and values.
        self._flat = not mapping.omit_nulls and all(len(i.path) == 1 for i in mapping.payload)
        self._integer_key = integer_key(mapping)

    def points(self, read: Read) -> tuple[list[Point], list[DeadLetter]]:
        """The points of a batch in its rows' order, and the dead letters."""
        return self.put_together(read, Point, self._payloads)

    def put_together(
        self,
        read: Read,
        make: Callable[[PointId, Mapping[str, Vector], Payload], Made],
        payloads_of: Callable[[Sequence[Sequence[Field]], int, Flaws], list[Payload]],
    ) -> tuple[list[Made], list[DeadLetter]]:
        """What `make` makes of each row's id, vectors and payload, in whatever form that is."""
        if not read.rows:
            return [], []
        columns = list(zip(*read.rows, strict=True))
        flaws: Flaws = {}
        ids = self._ids(columns, flaws)
        payloads = payloads_of(columns, len(read.rows), flaws)
        vectors = self._vectors(columns, len(read.rows), flaws)
        points = list(map(make, ids, vectors, payloads))
        if not flaws:
            return points, []
        good = [number not in flaws for number in range(len(points))]
        return list(compress(points, good)), [
            self._letter(read, number, flaws[number]) for number in sorted(flaws)
        ]

    def key_texts(self, row: Sequence[Field]) -> list[str]:
        """The key's columns as texts; Unstorable if one is NULL."""
        texts: list[str] = []
        for column, text in zip(self._mapping.key, self._key_texts, strict=True):
            raw = row[column.index]
            if raw is None:
                raise Unstorable(f"column {column.column}: a NULL in the key")
            texts.append(text(raw))
        return texts

    def _letter(self, read: Read, number: int, reason: str) -> DeadLetter:
        try:
            texts = self.key_texts(read.rows[number])
        except Unstorable:
            texts = []
        return self._mapping.dead_letter(texts, reason, read.position)

    # --- ids -----------------------------------------------------------------------------------

    def _ids(self, columns: Sequence[Sequence[Field]], flaws: Flaws) -> list[PointId]:
        if self._integer_key is not None:
            index, load = self._integer_key
            numbers = cast("list[int]", _loaded(load, columns[index], "the key", flaws))
            if not flaws and None not in numbers:
                # What `point_id` makes of an integer's text, without the text.
                return [n if n >= 0 else point_id(str(n)) for n in numbers]
            flaws.clear()
        of = self._mapping.id_rule.of
        keys = [columns[column.index] for column in self._mapping.key]
        ids: list[PointId] = []
        for number, raws in enumerate(zip(*keys, strict=True)):
            try:
                ids.append(of(self._texts(raws)))
            except Unstorable as flaw:
                flaws[number] = flaw.message
                ids.append(0)
        return ids

    def _texts(self, raws: Sequence[Field]) -> list[str]:
        texts: list[str] = []
        for column, text, raw in zip(self._mapping.key, self._key_texts, raws, strict=True):
            if raw is None:
                raise Unstorable(f"column {column.column}: a NULL in the key")
            texts.append(text(raw))
        return texts

    def _write_ids(
        self,
        payloads: list[dict[str, PayloadValue]],
        columns: Sequence[Sequence[Field]],
        flaws: Flaws,
    ) -> None:
        keys = [columns[column.index] for column in self._mapping.key]
        for number, raws in enumerate(zip(*keys, strict=True)):
            if number not in flaws:
                payloads[number].update(self._mapping.id_rule.fields(self._texts(raws)))

    # --- payloads ------------------------------------------------------------------------------

    def _payloads(
        self, columns: Sequence[Sequence[Field]], rows: int, flaws: Flaws
    ) -> list[dict[str, PayloadValue]]:
        items = self._mapping.payload
        loaded = [
            _loaded(load, columns[item.index], f"column {item.column}", flaws)
            for item, load in zip(items, self._loads, strict=True)
        ]
        names = self._names
        payloads: list[dict[str, PayloadValue]]
        if not items:
            payloads = [{} for _ in range(rows)]
        elif self._flat:
            payloads = [
                dict(zip(names, values, strict=True)) for values in zip(*loaded, strict=True)
            ]
        else:
            payloads = [self._nested(values) for values in zip(*loaded, strict=True)]
        if self._mapping.id_rule.id_field is not None:
            self._write_ids(payloads, columns, flaws)
        return payloads

    def _nested(self, values: Sequence[PayloadValue]) -> dict[str, PayloadValue]:
        payload: dict[str, PayloadValue] = {}
        for item, value in zip(self._mapping.payload, values, strict=True):
            if value is None and self._mapping.omit_nulls:
                continue
            level = payload
            for step in item.path[:-1]:
                # `map_table` has made sure that no two paths collide.
                level = cast("dict[str, PayloadValue]", level.setdefault(step, {}))
            level[item.path[-1]] = value
        return payload

    # --- vectors -------------------------------------------------------------------------------

    def _vectors(
        self, columns: Sequence[Sequence[Field]], rows: int, flaws: Flaws
    ) -> list[dict[str, Vector]]:
        named: list[dict[str, Vector]] = [{} for _ in range(rows)]
        for column in self._mapping.vectors:
            name = column.spec.name
            for number, vector in enumerate(_converted(column, columns[column.index])):
                if isinstance(vector, Unstorable):
                    flaws.setdefault(number, f"column {column.column}: {vector.message}")
                elif vector is not None:
                    named[number][name] = vector
        return named


def _converted(column: VectorColumn, fields: Sequence[Field]) -> list[Result]:
    spec = column.spec
    cosine = spec.distance == "cosine"
    if spec.shape == "sparse":
        return sparse(fields, dimension=spec.dimension, cosine=cosine)
    assert spec.dimension is not None  # noqa: S101 - map_table gives each dense vector one
    convert = dense if spec.shape == "dense" else multi
    return convert(fields, kind=column.kind, dimension=spec.dimension, cosine=cosine)


def _loaded(load: Load, fields: Sequence[Field], what: str, flaws: Flaws) -> list[PayloadValue]:
    """A column's values; a row whose value cannot be loaded gets None here and a flaw."""
    try:
        if None not in fields:
            return list(map(load, cast("Sequence[bytes]", fields)))
        return [None if raw is None else load(raw) for raw in fields]
    except Unstorable:
        return [
            _loaded_or_flawed(load, raw, what, number, flaws) for number, raw in enumerate(fields)
        ]


def _loaded_or_flawed(load: Load, raw: Field, what: str, number: int, flaws: Flaws) -> PayloadValue:
    try:
        return None if raw is None else load(raw)
    except Unstorable as flaw:
        flaws.setdefault(number, f"{what}: {flaw.message}")
        return None


def load_of(item: PayloadField) -> Load:
    """The function from a field's bytes to its payload value."""
    if item.form == "binary":
        load = binary_loader(item.type, item.policy)
        assert load is not None  # noqa: S101 - map_table asks for text otherwise
        return load
    from_text = text_loader(item.type, item.policy)
    return lambda raw: from_text(utf8(raw))


def _key_text_of(column: KeyColumn) -> Callable[[bytes], str]:
    if column.form == "text":
        return utf8
    text = key_text_loader(column.type)
    assert text is not None  # noqa: S101 - map_table asks for text otherwise
    return text


def integer_key(mapping: TableMapping) -> tuple[int, Callable[[bytes], int]] | None:
    """The field and loader of a key that is one integer under the default id rule; else None."""
    rule = mapping.id_rule
    if len(mapping.key) != 1 or rule.template is not None or rule.scheme != "bridge":
        return None
    column = mapping.key[0]
    if column.form != "binary" or column.type.name not in _INTEGERS:
        return None
    load = binary_loader(column.type, mapping.payload[0].policy) if mapping.payload else None
    return None if load is None else (column.index, cast("Callable[[bytes], int]", load))


def utf8(raw: bytes) -> str:
    """Text fields are UTF-8, as the session's client_encoding has it; Unstorable if one is not."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Not chained: the error carries the bytes.
        raise Unstorable("the text is not valid UTF-8") from None
