"""Payload columns -> the entries of a point's payload map, without a dict in between.

What `rows.RowMapper` and `wire.encode_fields` do one after the other for every row is done here for a
column at a time: the key's bytes stand in front of every value of a column, texts are sent as they came,
and nothing is looked up by a key or a type that is known beforehand. It is for the backfill's inner loop
only, and only for mappings without nesting.

What always holds: the bytes are those that `encode_fields` makes of the row mapper's payload, and a row
that one of them sets aside, the other one does as well (`tests/property/test_wire_columns.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from bridge.errors import Unstorable
from bridge.events import Field, Read
from bridge.mapping import PayloadField, TableMapping
from bridge.plan import DeadLetter
from bridge.postgres.decode import is_text
from bridge.qdrant.wire import EncodedPoint
from bridge.qdrant.wire_values import PAYLOAD, Heads, value_encoder
from bridge.rows import Flaws, Load, RowMapper, load_of
from bridge.values import PayloadValue

_Encode = Callable[[Sequence[Field], Flaws], list[bytes]]


class EncodedRows:
    """Carries out one mapping, which `fits`. Made once, used for every batch."""

    def __init__(self, mapping: TableMapping) -> None:
        self._rows = RowMapper(mapping)
        self._encoders = [
            (item.index, _encoder(item, omit_null=mapping.omit_nulls)) for item in mapping.payload
        ]

    @staticmethod
    def fits(mapping: TableMapping) -> bool:
        """Whether the payload is just columns and their values."""
        return mapping.id_rule.id_field is None and all(len(i.path) == 1 for i in mapping.payload)

    def points(self, read: Read) -> tuple[list[EncodedPoint], list[DeadLetter]]:
        """As `RowMapper.points`."""
        return self._rows.put_together(read, EncodedPoint, self._fields)

    def _fields(self, columns: Sequence[Sequence[Field]], rows: int, flaws: Flaws) -> list[bytes]:
        encoded = [encode(columns[index], flaws) for index, encode in self._encoders]
        if not encoded:
            return [b""] * rows
        return list(map(b"".join, zip(*encoded, strict=True)))


def _encoder(item: PayloadField, *, omit_null: bool) -> _Encode:
    name = item.path[0]
    one_by_one = _any_encoder(
        load_of(item), value_encoder(name, omit_null=omit_null), f"column {item.column}"
    )
    if item.form == "text" or not is_text(item.type):
        return one_by_one
    return _text_encoder(PAYLOAD.heads(name), omit_null, one_by_one)


def _text_encoder(heads: Heads, omit_null: bool, one_by_one: _Encode) -> _Encode:
    """Texts go as they came, once all of them were seen to be UTF-8."""
    known, null = heads.texts, b"" if omit_null else heads.null

    def encode(fields: Sequence[Field], flaws: Flaws) -> list[bytes]:
        present = [raw for raw in fields if raw is not None]
        try:
            # What is cut short in one text is not mended by the next: NUL continues nothing.
            b"\0".join(present).decode()
        except UnicodeDecodeError:
            return one_by_one(fields, flaws)
        if len(present) == len(fields):
            return [known[len(raw)] + raw for raw in present]
        return [null if raw is None else known[len(raw)] + raw for raw in fields]

    return encode


def _any_encoder(load: Load, value: Callable[[PayloadValue], bytes], what: str) -> _Encode:
    null = value(None)

    def encode(fields: Sequence[Field], flaws: Flaws) -> list[bytes]:
        try:
            if None not in fields:
                return [value(load(raw)) for raw in cast("Sequence[bytes]", fields)]
            return [null if raw is None else value(load(raw)) for raw in fields]
        except Unstorable:
            return [one(number, raw, flaws) for number, raw in enumerate(fields)]

    def one(number: int, raw: Field, flaws: Flaws) -> bytes:
        try:
            return null if raw is None else value(load(raw))
        except Unstorable as flaw:
            flaws.setdefault(number, f"{what}: {flaw.message}")
            return null

    return encode
