"""What is known of an index: kind, vectors, namespaces. Values and pure rules.

External specification: Pinecone's API 2026-07, `describe_index` (a schema of typed fields) and
`describe_index_stats`. An index made by dimension and metric has the fields `_values` and
`_sparse_values`; one with fields of the user's naming is a document index; a `semantic_text` field is
an integrated embedding, of which describe tells no dimension, and stats do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bridge.collection_spec import Distance
from bridge.errors import UsageError

DENSE_FIELD, SPARSE_FIELD = "_values", "_sparse_values"
DEFAULT_NAMESPACE = "__default__"
"""How stats and the list of namespaces call the one that requests address by an empty name."""

Kind = Literal["vectors", "documents", "pod"]

_DISTANCES: Mapping[str, Distance] = {
    "cosine": "cosine",
    "dotproduct": "dot",
    "euclidean": "euclid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseField:
    """A dense vector of the index; `name` is empty for the one of a record. None: not known yet."""

    name: str
    dimension: int | None
    metric: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """An index. `sparse`: names of sparse vectors, empty for the one of a record.

    `model`: an integrated embedding's. `embedded`: fields of a document index that Pinecone embeds
    by itself, whose vectors it does not give out.
    """

    name: str
    host: str
    kind: Kind
    dense: tuple[DenseField, ...]
    sparse: tuple[str, ...] = ()
    model: str = ""
    embedded: tuple[str, ...] = ()

    @property
    def may_have_sparse(self) -> bool:
        """Whether records may carry sparse values though describe does not tell: dotproduct only."""
        return self.kind != "documents" and any(one.metric == "dotproduct" for one in self.dense)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts by namespace (the default one as `""`), and what stats tell of the vectors."""

    counts: Mapping[str, int]
    dimension: int | None = None
    metric: str | None = None
    vector_type: str | None = None


def namespace_of(name: str) -> str:
    """The name as requests take it."""
    return "" if name == DEFAULT_NAMESPACE else name


def shown(namespace: str) -> str:
    """The name for people."""
    return namespace or DEFAULT_NAMESPACE


def complete(facts: IndexFacts, stats: Stats) -> IndexFacts:
    """The facts with what only stats know: dimension and metric of an integrated index."""
    if facts.kind == "documents":
        return facts
    return replace(
        facts,
        dense=tuple(
            DenseField(
                name=one.name,
                dimension=one.dimension or stats.dimension,
                metric=one.metric or stats.metric,
            )
            for one in facts.dense
        ),
    )


def facts_from_stats(host: str, stats: Stats) -> IndexFacts:
    """An index of which only the host is known."""
    if stats.vector_type == "sparse":
        return IndexFacts(name="", host=host, kind="vectors", dense=(), sparse=("",))
    one = DenseField(name="", dimension=stats.dimension, metric=stats.metric)
    return IndexFacts(name="", host=host, kind="vectors", dense=(one,))


def distance_of(one: DenseField) -> Distance:
    """Qdrant's distance. UsageError for a metric that is not known."""
    if one.metric is None:
        raise UsageError(
            "the index does not tell its metric",
            hint="name it with --pinecone.index-name, so that it can be described",
        )
    distance = _DISTANCES.get(one.metric.lower())
    if distance is None:
        raise UsageError(
            f"the index's metric {one.metric!r} has no counterpart in Qdrant",
            hint="cosine, dotproduct and euclidean have one",
        )
    return distance
