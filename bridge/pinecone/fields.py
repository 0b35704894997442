"""Metadata: what a sample says of each field, and the rule for numbers that it leads to. Pure.

Pinecone keeps every number as float64 and gives 3 back as 3.0. Whole numbers become integers again,
except in fields that have fractions: those keep floats throughout. Whether a field has fractions is
decided by the sample that is read before the first record is written; the decision is stored with
the plan and does not change when a run is resumed. A fraction that turns up later in a field of
integers is kept as it is, and reported.

Only numbers within 2**53 are made integers: beyond that a float64 does not tell which integer it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.collection_spec import IndexKind
from bridge.json_paths import json_path
from bridge.values import PayloadValue

EXACT = 2**53
INDEXES_AT_MOST = 32
"""Payload indexes that are proposed: more would be a memory bill that nobody asked for."""

_INDEX_KINDS: Mapping[str, IndexKind] = {
    "text": "keyword",
    "texts": "keyword",
    "integer": "integer",
    "float": "float",
    "boolean": "bool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldGuess:
    """A field of the sample: its kinds of values, and in how many records it is."""

    name: str
    kinds: tuple[str, ...]
    records: int

    @property
    def index(self) -> IndexKind | None:
        """The payload index that serves its filters; None for a mixture of kinds."""
        kinds = set(self.kinds)
        if kinds == {"integer", "float"}:
            return "float"
        if kinds <= {"text", "texts"} and kinds:
            return "keyword"
        return _INDEX_KINDS.get(self.kinds[0]) if len(self.kinds) == 1 else None


def guess_fields(metadata: Iterable[Mapping[str, Any]]) -> tuple[FieldGuess, ...]:
    """The fields of a sample, the most frequent first."""
    kinds: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for one in metadata:
        for name, value in one.items():
            kinds.setdefault(name, set()).add(kind_of(value))
            counts[name] = counts.get(name, 0) + 1
    found = [
        FieldGuess(name=name, kinds=tuple(sorted(kinds[name])), records=counts[name])
        for name in kinds
    ]
    return tuple(sorted(found, key=lambda one: (-one.records, one.name)))


def kind_of(value: Any) -> str:
    """`text`, `texts`, `boolean`, `integer`, `float`, or `other`."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() and -EXACT <= value <= EXACT else "float"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "texts"
    return "other"


def proposed_indexes(fields: Iterable[FieldGuess]) -> dict[str, IndexKind]:
    """JSON path -> index, for the most frequent fields."""
    proposed: dict[str, IndexKind] = {}
    for one in fields:
        kind = one.index
        if kind is None or not one.name or '"' in one.name or "\\" in one.name:
            continue
        if len(proposed) == INDEXES_AT_MOST:
            break
        proposed[json_path((one.name,))] = kind
    return proposed


@dataclass(slots=True, kw_only=True)
class NumberRule:
    """Whole numbers -> integers, but for `float_fields`; `keep`: all stay floats.

    `late` collects fields in which a fraction was met that the sample did not have.
    """

    float_fields: frozenset[str] = frozenset()
    keep: bool = False
    late: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, fields: Iterable[FieldGuess], *, keep: bool = False) -> NumberRule:
        """The rule that a sample leads to."""
        return cls(
            float_fields=frozenset(one.name for one in fields if "float" in one.kinds), keep=keep
        )

    def payload(self, metadata: Mapping[str, Any]) -> dict[str, PayloadValue]:
        """The metadata as payload."""
        payload: dict[str, PayloadValue] = {}
        for name, value in metadata.items():
            type_ = type(value)
            if type_ is float:
                if not self.keep and name not in self.float_fields:
                    if value.is_integer() and -EXACT <= value <= EXACT:
                        value = int(value)
                    else:
                        self.late.add(name)
            elif type_ is int and (self.keep or name in self.float_fields):
                value = float(value)
            payload[name] = value
        return payload
