"""The plan of an index: which namespaces go where, which vectors there are, which fields keep fractions.

It is made from a sample and stored once, before the first record is written, and wins over whatever a
later start would find. What reads the records again (a second pass, a comparison) goes by it too, so that
a record becomes the same point at any time. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from bridge.collection_spec import CollectionSpec, IndexKind, VectorSpec
from bridge.pinecone.fields import NumberRule
from bridge.pinecone.mapping import FieldNames, PineconeMapping
from bridge.state import Record

Layout = Literal["single", "joint", "split"]
"""One namespace in one collection; several in one collection; a collection for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVector:
    """A vector of the index (`source`, empty for a record's only one) and the collection's."""

    source: str
    spec: VectorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """How an index is copied. `collections`: namespace -> collection. `counts`: of the source when
    the plan was made. `fingerprint` sums up the settings that decide where a record goes."""

    label: str
    host: str
    layout: Layout
    collections: Mapping[str, str]
    counts: Mapping[str, int]
    vectors: tuple[PlannedVector, ...]
    id_field: str
    namespace_field: str
    float_fields: tuple[str, ...] = ()
    keep_floats: bool = False
    indexes: Mapping[str, IndexKind] = field(default_factory=dict)
    fingerprint: str = ""
    created_at: str = ""

    def to_record(self) -> dict[str, Any]:
        """As it is stored. Names may be empty, so that mappings are lists of pairs."""
        record = asdict(self)
        for name in ("collections", "counts", "indexes"):
            record[name] = [[key, value] for key, value in record[name].items()]
        return record

    @classmethod
    def from_record(cls, record: Record) -> IndexPlan:
        """The inverse of `to_record`."""
        values = dict(record)
        for name in ("collections", "counts", "indexes"):
            values[name] = {key: value for key, value in record[name]}
        values["vectors"] = tuple(
            PlannedVector(source=one["source"], spec=_spec_of(one["spec"]))
            for one in record["vectors"]
        )
        values["float_fields"] = tuple(record["float_fields"])
        return cls(**values)

    def spec_of(self, collection: str) -> CollectionSpec:
        """What a collection of this plan must be like."""
        return CollectionSpec(
            name=collection,
            vectors=tuple(one.spec for one in self.vectors),
            payload_indexes=dict(self.indexes),
        )

    def mappings(self) -> dict[str, PineconeMapping]:
        """The mapping of each namespace. All of them share one rule for numbers."""
        numbers = NumberRule(float_fields=frozenset(self.float_fields), keep=self.keep_floats)
        joint = self.layout == "joint"
        made: dict[str, PineconeMapping] = {}
        for collection in dict.fromkeys(self.collections.values()):
            made[collection] = PineconeMapping(
                label=self.label,
                collection=self.spec_of(collection),
                fields=FieldNames(
                    id=self.id_field, namespace=self.namespace_field if joint else None
                ),
                dense={v.source: v.spec for v in self.vectors if v.spec.shape == "dense"},
                sparse={v.source: v.spec for v in self.vectors if v.spec.shape == "sparse"},
                several=self.layout != "single",
                numbers=numbers,
            )
        return {namespace: made[name] for namespace, name in self.collections.items()}

    def with_namespace(self, namespace: str, collection: str, count: int) -> IndexPlan:
        """The plan with a namespace that came later."""
        return replace(
            self,
            collections={**self.collections, namespace: collection},
            counts={**self.counts, namespace: count},
        )


def _spec_of(record: Mapping[str, Any]) -> VectorSpec:
    return VectorSpec(**{**record, "hnsw": None, "quantization": None})


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A digest of settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
