"""Everything that is looked at before an index is copied; nothing is written.

`look` asks the index what it is and what it holds; `make_plan` reads a sample and decides what becomes of
it (what `plan` shows, and what a backfill stores). `IdsFile` stands for the listing of an index that
has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bridge.collection_spec import CollectionSpec, IndexKind, VectorSpec, check_name
from bridge.config_models import PineconeSettings
from bridge.errors import UsageError
from bridge.json_paths import json_path
from bridge.pinecone.client import PineconeIndex
from bridge.pinecone.errors import Missing
from bridge.pinecone.fields import FieldGuess, guess_fields, kind_of, proposed_indexes
from bridge.pinecone.index import (
    IndexFacts,
    Stats,
    complete,
    distance_of,
    facts_from_stats,
    namespace_of,
    shown,
)
from bridge.pinecone.mapping import FieldNames
from bridge.pinecone.plan import IndexPlan, Layout, PlannedVector, fingerprint
from bridge.pinecone.records import LIST_PAGE, IdPage, Record, RecordPage
from bridge.pinecone.scan import START, Endpoint, Fetcher, Pages, batches
from bridge.qdrant.target import CollectionState, Target

SAMPLE_NAMESPACES, SAMPLE_RECORDS = 10, 100
"""The largest namespaces, and records of each: enough to meet every field that matters."""
_NAMES_SHOWN = 5
_UNSAFE_LIMIT = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """An index as it is: what it is, and the namespaces that are to be copied, with their counts."""

    facts: IndexFacts
    counts: Mapping[str, int]
    layout: Layout
    collections: Mapping[str, str]

    @property
    def label(self) -> str:
        """How reports and dead letters call the source."""
        return label_of(self.facts.name, self.facts.host)


def label_of(name: str, host: str) -> str:
    """`pinecone:products`; by the host where there is no name."""
    return f"pinecone:{name or host.split('://')[-1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A plan, and what it was made from. `warnings`: what somebody should know or decide."""

    look: Look
    plan: IndexPlan
    fields: tuple[FieldGuess, ...]
    sampled: int
    warnings: tuple[str, ...] = ()


class IdsFile:
    """Pages of ids from a file, where the index has none to give (pod-based).

    A line is an id of the default namespace, or a JSON pair: ["namespace", "id"].
    """

    def __init__(self, pages: Pages, path: Path) -> None:
        self._pages = pages
        self._path = path
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(
                f"cannot read pinecone.ids_file {path}: {error.strerror}",
                hint='one id a line, or ["namespace", "id"]',
            ) from None

    def list_page(self, namespace: str, token: str | None) -> IdPage:
        """Up to 100 ids from a byte of the file on, which is the token."""
        ids: list[str] = []
        with self._path.open("rb") as file:
            file.seek(int(token or 0))
            while len(ids) < LIST_PAGE:
                line = file.readline()
                if not line:
                    return IdPage(ids=tuple(ids), following=None)
                where, identity = _parse_line(line)
                if identity and where == namespace:
                    ids.append(identity)
            return IdPage(ids=tuple(ids), following=str(file.tell()))

    def fetch(self, namespace: str, ids: Sequence[str]) -> RecordPage:
        """As the index has them."""
        return self._pages.fetch(namespace, ids)


def pages_of(index: PineconeIndex, settings: PineconeSettings) -> Pages:
    """The index's own pages, or those of the file of ids."""
    return index if settings.ids_file is None else IdsFile(index, Path(settings.ids_file))


def _parse_line(line: bytes) -> tuple[str, str]:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    if text.startswith("["):
        try:
            where, identity = json.loads(text)
            return namespace_of(str(where)), str(identity)
        except ValueError:
            pass
    return "", text


# --- what the index is -----------------------------------------------------------------------------


def look(index: PineconeIndex, settings: PineconeSettings, endpoint: Endpoint) -> Look:
    """Describe the index and its namespaces. UsageError if it cannot be copied as it is."""
    described = endpoint.call(index.describe)
    stats = endpoint.call(index.stats)
    facts = facts_from_stats(index.host, stats) if described is None else complete(described, stats)
    index.use(facts)
    if facts.kind == "pod" and settings.ids_file is None:
        raise UsageError(
            f"index {facts.name} is pod-based: Pinecone does not list the ids of such an index",
            hint="give it a file of ids, one a line: --pinecone.ids-file",
        )
    if facts.kind == "documents" and not facts.dense and not facts.sparse:
        raise UsageError(
            f"index {facts.name} has no vector that can be read: Pinecone makes those of "
            f"{', '.join(facts.embedded) or 'its text fields'} and does not give them out",
            hint="embed the texts yourself; their fields can be read with the SDK",
        )
    counts = _counts(index, facts, stats, endpoint)
    chosen = _chosen(counts, settings)
    layout = _layout(chosen, settings)
    return Look(
        facts=facts,
        counts=chosen,
        layout=layout,
        collections={
            name: collection_of(name, layout, base_collection(settings, facts)) for name in chosen
        },
    )


def _counts(
    index: PineconeIndex, facts: IndexFacts, stats: Stats, endpoint: Endpoint
) -> dict[str, int]:
    """By namespace. The list of namespaces knows those that stats, being late, may not have yet."""
    counts = dict(stats.counts)
    if facts.kind != "pod":
        try:
            listed = endpoint.call(index.namespaces)
        except Missing:
            listed = {}  # an older host; stats have them all, a little later
        for name, count in listed.items():
            counts.setdefault(name, count)
    return counts


def _chosen(counts: Mapping[str, int], settings: PineconeSettings) -> dict[str, int]:
    if isinstance(settings.namespaces, str):
        return dict(counts) or {"": 0}
    wanted = list(dict.fromkeys(map(namespace_of, settings.namespaces)))
    unknown = [name for name in wanted if name not in counts]
    if unknown:
        there = ", ".join(sorted(map(shown, counts))[:_NAMES_SHOWN]) or "none"
        more = len(counts) - _NAMES_SHOWN
        raise UsageError(
            f"the index has no namespace {', '.join(map(shown, unknown))}",
            hint=f"it has {there}" + (f" and {more} more" if more > 0 else ""),
        )
    return {name: counts[name] for name in wanted}


def _layout(counts: Mapping[str, int], settings: PineconeSettings) -> Layout:
    if settings.namespaces == "split":
        return "split"
    return "joint" if len(counts) > 1 else "single"


def base_collection(settings: PineconeSettings, facts: IndexFacts) -> str:
    """The collection; with `split` what the collections' names begin with."""
    name = settings.collection or facts.name
    if not name:
        raise UsageError(
            "the collection has no name", hint="--qdrant.collection, or --pinecone.index-name"
        )
    check_name(name, what="collection", hint="choose another one with --qdrant.collection")
    return name


def collection_of(namespace: str, layout: Layout, base: str) -> str:
    """Where a namespace goes. With `split` each name leads to one of its own: what Qdrant refuses in
    a name is replaced, and a digest then tells two such names apart."""
    if layout != "split" or not namespace:
        return base
    name = f"{base}-{namespace}"
    try:
        check_name(name, what="collection", hint="")
    except UsageError:
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:_UNSAFE_LIMIT]
        return f"{safe}-{hashlib.sha256(namespace.encode()).hexdigest()[:12]}"
    return name


# --- what becomes of it ----------------------------------------------------------------------------


def settings_fingerprint(settings: PineconeSettings) -> str:
    """Of what decides where a record goes and what it becomes."""
    names = {"namespaces", "numbers", "collection", "id_field", "namespace_field", "sparse_vector"}
    return fingerprint(settings.model_dump(mode="json", include=names))


def make_plan(
    look: Look,
    settings: PineconeSettings,
    pages: Pages,
    lists: Endpoint,
    fetches: Endpoint,
    *,
    now: str,
    target: Target | None = None,
) -> Proposal:
    """Read a sample and plan. UsageError if a user's own key has the name of one of our fields."""
    sample = _sample(look, pages, lists, fetches)
    fields = guess_fields(record.metadata for record in sample)
    names = FieldNames(
        id=settings.id_field,
        namespace=settings.namespace_field if look.layout == "joint" else None,
    )
    _refuse_taken(names, sample, settings)
    shows_sparse = any(record.sparse for record in sample)
    found = [_found(target, name) for name in dict.fromkeys(look.collections.values())]
    vectors = _vectors(look.facts, settings, sample, shows_sparse, found)
    keep = settings.numbers == "float"
    plan = IndexPlan(
        label=look.label,
        host=look.facts.host,
        layout=look.layout,
        collections=look.collections,
        counts=look.counts,
        vectors=vectors,
        id_field=settings.id_field,
        namespace_field=settings.namespace_field,
        float_fields=tuple(sorted(one.name for one in fields if "float" in one.kinds)),
        keep_floats=keep,
        indexes=_indexes(fields, settings, names, keep),
        fingerprint=settings_fingerprint(settings),
        created_at=now,
    )
    return Proposal(
        look=look,
        plan=plan,
        fields=fields,
        sampled=len(sample),
        warnings=tuple(_warnings(look, settings, fields, sample)),
    )


def _sample(look: Look, pages: Pages, lists: Endpoint, fetches: Endpoint) -> list[Record]:
    fetcher = Fetcher(pages, fetches)
    records: list[Record] = []
    largest = sorted(look.counts, key=lambda name: (-look.counts[name], name))
    for namespace in largest[:SAMPLE_NAMESPACES]:
        listed = batches(partial(_page, pages, lists, namespace), START)
        batch = next(iter(listed), None)
        if batch is not None and batch.ids:
            records += fetcher.fetch(namespace, batch.ids[:SAMPLE_RECORDS]).records
    return records


def _page(pages: Pages, lists: Endpoint, namespace: str, token: str | None) -> IdPage:
    return lists.call(lambda: pages.list_page(namespace, token))


def _refuse_taken(names: FieldNames, sample: Sequence[Record], settings: PineconeSettings) -> None:
    for record in sample:
        taken = names.taken(record.metadata)
        if taken is None:
            continue
        flag = "--qdrant.id-field" if taken == settings.id_field else "--pinecone.namespace-field"
        raise UsageError(
            f"records have a metadata key {taken!r} of their own, where "
            f"{'the id' if taken == settings.id_field else 'the namespace'} would go",
            hint=f"choose another field with {flag}",
        )


def _vectors(
    facts: IndexFacts,
    settings: PineconeSettings,
    sample: Sequence[Record],
    shows_sparse: bool,
    found: Sequence[CollectionState | None],
) -> tuple[PlannedVector, ...]:
    vectors = [
        PlannedVector(
            source=one.name,
            spec=VectorSpec(
                name=one.name,
                shape="dense",
                distance=distance_of(one),
                dimension=one.dimension or _sampled_dimension(one.name, sample),
            ),
        )
        for one in facts.dense
    ]
    sparse = list(facts.sparse)
    if not sparse and (shows_sparse or _wants_sparse(facts, settings, found)):
        sparse = [""]
    for name in sparse:
        called = name or settings.sparse_vector
        check_name(called, what="vector", hint="choose another name with --qdrant.sparse-vector")
        spec = VectorSpec(name=called, shape="sparse", distance="dot")
        vectors.append(PlannedVector(source=name, spec=spec))
    return tuple(vectors)


def _wants_sparse(
    facts: IndexFacts, settings: PineconeSettings, found: Sequence[CollectionState | None]
) -> bool:
    """Whether to make room for sparse values that nobody has seen: an existing collection decides,
    else the metric does, since only dotproduct takes them."""
    for state in found:
        if state is not None:
            return any(
                v.shape == "sparse" and v.name == settings.sparse_vector for v in state.vectors
            )
    return facts.may_have_sparse


def _sampled_dimension(name: str, sample: Sequence[Record]) -> int:
    for record in sample:
        if name in record.dense:
            return len(record.dense[name])
    raise UsageError(
        "the index does not tell its dimension, and holds no record to tell it by",
        hint="there is nothing to copy yet",
    )


def _found(target: Target | None, name: str) -> CollectionState | None:
    return None if target is None else target.collection(name)


def _indexes(
    fields: Sequence[FieldGuess], settings: PineconeSettings, names: FieldNames, keep: bool
) -> dict[str, IndexKind]:
    indexes: dict[str, IndexKind] = {}
    if names.namespace is not None:
        indexes[json_path((names.namespace,))] = "tenant"
    if settings.payload_indexes == "auto":
        for path, kind in proposed_indexes(fields).items():
            indexes[path] = "float" if keep and kind == "integer" else kind
    return indexes


def _warnings(
    look: Look,
    settings: PineconeSettings,
    fields: Sequence[FieldGuess],
    sample: Sequence[Record],
) -> list[str]:
    warnings: list[str] = []
    if look.layout == "joint" and settings.namespaces == "all":
        warnings.append(
            f"{len(look.counts)} namespaces go into one collection, their names into the field "
            f"{settings.namespace_field!r}; a collection each: --namespaces split"
        )
    if look.layout == "split" and len(look.counts) > 100:
        warnings.append(
            f"{len(look.counts)} collections are many for one Qdrant; one with a tenant index "
            "serves most uses better"
        )
    if look.facts.embedded:
        warnings.append(
            f"Pinecone makes the vectors of {', '.join(look.facts.embedded)} by itself and does not "
            "give them out: the points are without them"
        )
    mixed = [one.name for one in fields if len(one.kinds) > 1 and one.index is None]
    if mixed:
        warnings.append(f"fields with values of several kinds get no index: {', '.join(mixed)}")
    if any(kind_of(v) == "other" for record in sample for v in record.metadata.values()):
        warnings.append("some metadata is neither text, number, boolean nor a list of texts")
    if not sample and any(look.counts.values()):
        warnings.append("no record could be sampled: fields, numbers and sparse values are guesses")
    return warnings


def specs_of(plan: IndexPlan) -> list[CollectionSpec]:
    """What each collection of a plan must be like."""
    return [plan.spec_of(name) for name in dict.fromkeys(plan.collections.values())]
