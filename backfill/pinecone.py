"""The backfill of one Pinecone index: looked at, planned, copied, looked at again, counted.

    1. look       what the index is, and its namespaces; a sample decides the plan; nothing is written
    2. claim      the collections are this pipeline's; the plan is stored once, and the stored one wins
    3. copy       indexing deferred; every namespace is read from where it is (`pinecone_copy.py`)
    4. reconcile  namespaces whose counts differ are listed again (`pinecone_reconcile.py`)
    5. finish     indexing restored, also after a failure; counts of both sides compared

One process copies an index: the limits that bound it are the index's, and a lease of the pipeline keeps
a second one out. What a crash leaves: the progress of the last checkpoint, at most a second old.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TypeVar

from backfill import indexing
from backfill.indexing import Indexing
from backfill.messages import Waiting
from backfill.pgvector import now
from backfill.pinecone_claim import IndexClaim
from backfill.pinecone_copy import Advanced, NamespaceCopy
from backfill.pinecone_inspect import (
    Look,
    look,
    pages_of,
    specs_of,
)
from backfill.pinecone_reader import CopyOptions, Reader
from backfill.pinecone_reconcile import Reconciled, SecondLook
from backfill.pinecone_report import (
    EndCounts,
    IndexReport,
    NamespaceReport,
    SecondPass,
    judge,
)
from backfill.pinecone_state import NamespaceProgress
from bridge.config_models import PineconeSettings
from bridge.errors import BridgeError
from bridge.pinecone.client import PineconeIndex
from bridge.pinecone.index import shown
from bridge.pinecone.mapping import PineconeMapping
from bridge.pinecone.plan import IndexPlan
from bridge.pinecone.reader import record_bytes
from bridge.pipeline import checkpoint_namespaces
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry
from bridge.state import letter_name

T = TypeVar("T")

_SETTLE_TRIES, _SETTLE_SECONDS = 3, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedIndex:
    """The copy of an index is about to begin, or to go on. `begun`: records and bytes of namespaces
    that an earlier run has read in part."""

    label: str
    collections: tuple[str, ...]
    namespaces: int
    namespaces_left: int
    records_done: int
    bytes_done: int
    records: int
    requests: int
    begun: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LooksAgain:
    """The second pass of a namespace."""

    namespace: str
    why: str


IndexEvent = PlannedIndex | LooksAgain | Advanced | Waiting | Indexing
Tell = Callable[[IndexEvent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """How to copy."""

    copy: CopyOptions = field(default_factory=CopyOptions)
    restart: bool = False
    create_collection: bool = True
    wait_for_index: bool = True
    embedded: bool = False


class IndexBackfill:
    """Copies one index. The lease is the caller's to hold."""

    def __init__(
        self,
        index: PineconeIndex,
        settings: PineconeSettings,
        *,
        target: Target,
        store: QdrantState,
        options: IndexOptions,
        tell: Tell,
    ) -> None:
        self._index = index
        self._settings = settings
        self._target = target
        self._store = store
        self._options = options
        self._tell = tell
        self._claim = IndexClaim(
            settings, target=target, store=store, create_collection=options.create_collection
        )
        self._pages = pages_of(index, settings)

    def look(self) -> Look:
        """The first step. UsageError if the index cannot be copied as it is."""
        reader = self._reader(0)
        try:
            return look(self._index, self._settings, reader.lists)
        finally:
            reader.close()

    def run(self, seen: Look) -> IndexReport:
        """The other four. Raises what stops it; the report says how it ended otherwise."""
        reader = self._reader(0)
        try:
            plan = self._claim.plan(seen, reader, restart=self._options.restart)
        finally:
            reader.close()
        progress = self._claim.progress(plan)
        started = time.monotonic()
        before = sum(one.records for one in progress.values())
        mappings = plan.mappings()
        try:
            progress = self._copy(plan, mappings, progress)
            copied = sum(one.records for one in progress.values()) - before
            if self._settings.reconcile == "full":
                progress = self._read_again(plan, mappings, progress)
                copied += sum(one.records for one in progress.values())
            again = self._reconcile(plan, mappings, progress)
        except BaseException:
            for spec in specs_of(plan):
                indexing.restore_quietly(self._target, self._store, spec.name, self._tell)
            raise
        seconds = time.monotonic() - started
        return self._finish(plan, mappings, progress, again, copied, seconds)

    def _reader(self, bytes_of_a_record: int) -> Reader:
        return Reader(
            self._pages,
            self._options.copy,
            self._tell,
            record_bytes=bytes_of_a_record,
            stats=self._index.stats,
        )

    def _patiently(self, action: Callable[[], T]) -> T:
        return self._retry().call(action)

    def _retry(self) -> Retry:
        def tell(error: BridgeError, seconds: float) -> None:
            self._tell(Waiting(reason=error.message, seconds=seconds))

        return Retry(patience_seconds=self._options.copy.patience_seconds, on_wait=tell)

    # --- copy --------------------------------------------------------------------------------------

    def _copy(
        self,
        plan: IndexPlan,
        mappings: Mapping[str, PineconeMapping],
        progress: Mapping[str, NamespaceProgress],
        *,
        again: bool = False,
    ) -> dict[str, NamespaceProgress]:
        left = [one for one in progress.values() if not one.done]
        reader = self._reader(_record_bytes(plan))
        self._tell(
            PlannedIndex(
                label=plan.label,
                collections=tuple(dict.fromkeys(plan.collections.values())),
                namespaces=len(progress),
                namespaces_left=len(left),
                records_done=sum(one.records for one in progress.values()),
                bytes_done=sum(one.size_bytes for one in progress.values()),
                records=sum(plan.counts.values()),
                requests=reader.most,
                begun={one.namespace: (one.records, one.size_bytes) for one in left},
            )
        )
        if not left:
            return dict(progress)
        for spec in specs_of(plan):
            self._patiently(partial(indexing.defer, self._target, self._store, spec.name))
        copy = NamespaceCopy(
            reader,
            mappings,
            list(progress.values()),
            target=self._target,
            store=self._store,
            options=self._options.copy,
            tell=self._tell,
            counts=plan.counts,
            present_may_stay=not again and not any(self._claim.found.values()),
            now=now,
        )
        return copy.run()

    def _read_again(
        self,
        plan: IndexPlan,
        mappings: Mapping[str, PineconeMapping],
        progress: Mapping[str, NamespaceProgress],
    ) -> dict[str, NamespaceProgress]:
        """Every record once more, over what is there."""
        anew = {
            name: NamespaceProgress(label=plan.label, namespace=name, read_units=one.read_units)
            for name, one in progress.items()
        }
        return self._copy(plan, mappings, anew, again=True)

    # --- reconcile ---------------------------------------------------------------------------------

    def _reconcile(
        self,
        plan: IndexPlan,
        mappings: Mapping[str, PineconeMapping],
        progress: dict[str, NamespaceProgress],
    ) -> SecondPass | None:
        """Look again where that is asked for, or where the counts say so; `progress` is changed."""
        mode = self._settings.reconcile
        if mode == "none":
            return None
        reader = self._reader(_record_bytes(plan))
        try:
            counts = reader.lists.call(self._index.stats).counts
            wanted = [
                one
                for one in progress.values()
                if mode == "full"
                or (one.missing and not one.looked_again)
                or counts.get(one.namespace, 0) != one.records
            ]
            if not wanted:
                return None
            looking = SecondLook(reader, self._target, self._options.copy, self._retry())
            done: list[Reconciled] = []
            for one in wanted:
                count = counts.get(one.namespace, 0)
                why = "as asked" if mode == "full" else f"{one.records:,} read, {count:,} there"
                self._tell(LooksAgain(namespace=one.namespace, why=why))
                remove = not self._claim.found[plan.collections[one.namespace]]
                found = looking.reconcile(one, mappings[one.namespace], remove_extras=remove)
                self._save(plan, found)
                progress[one.namespace] = found.progress
                done.append(found)
        finally:
            reader.close()
        return SecondPass(
            namespaces=len(done),
            added=sum(one.added for one in done),
            removed=sum(one.removed for one in done),
            kept_extras=sum(one.kept_extras for one in done),
            read_again=sum(one.progress.records for one in done) if mode == "full" else None,
        )

    def _save(self, plan: IndexPlan, found: Reconciled) -> None:
        """The namespace's progress and its dead letters as they are now: those of before may have
        been mended in the source."""
        old = {
            name
            for name, record in self._store.records("dead_letter")
            if record["table"] == plan.label
            and record["position"] == f"namespace {shown(found.progress.namespace)}"
        }
        self._patiently(
            lambda: checkpoint_namespaces(
                self._store,
                self._target.flush,
                {found.progress.name: asdict(found.progress)},
                found.letters,
                now=now(),
            )
        )
        self._store.remove("dead_letter", old - set(map(letter_name, found.letters)))

    # --- finish ------------------------------------------------------------------------------------

    def _finish(
        self,
        plan: IndexPlan,
        mappings: Mapping[str, PineconeMapping],
        progress: Mapping[str, NamespaceProgress],
        again: SecondPass | None,
        copied: int,
        seconds: float,
    ) -> IndexReport:
        names = list(dict.fromkeys(plan.collections.values()))
        built = [self._build_index(name) for name in names]
        known = [one for one in built if one is not None]
        counts = self._end_counts(plan, progress, names)
        late = sorted({name for one in mappings.values() for name in one.numbers.late})
        problems, notes = judge(list(progress.values()), plan.collections, counts, late)
        return IndexReport(
            label=plan.label,
            layout=plan.layout,
            namespaces={
                name: NamespaceReport(
                    collection=plan.collections[name],
                    records=one.records,
                    written=one.written,
                    dead_letters=one.dead_letters,
                    missing=one.missing,
                    read_units=one.read_units,
                    source_count=counts.source.get(name, 0),
                )
                for name, one in progress.items()
            },
            collections=dict(counts.target),
            copied_now=copied,
            copy_seconds=seconds,
            index_seconds=sum(known) if known else None,
            second_pass=again,
            problems=problems,
            notes=(*self._unplanned(plan, counts), *notes),
        )

    def _build_index(self, collection: str) -> float | None:
        return indexing.build(
            self._target,
            self._store,
            collection,
            patiently=self._patiently,
            tell=self._tell,
            wait=self._options.wait_for_index,
            poll_seconds=0.0 if self._options.embedded else indexing.POLL_SECONDS,
        )

    def _end_counts(
        self, plan: IndexPlan, progress: Mapping[str, NamespaceProgress], names: list[str]
    ) -> EndCounts:
        source: Mapping[str, int] = {}
        for left in reversed(range(_SETTLE_TRIES)):
            source = self._patiently(self._index.stats).counts
            if all(source.get(name, 0) == one.records for name, one in progress.items()):
                break
            if left:
                time.sleep(_SETTLE_SECONDS)  # stats are eventually consistent
        stored = sum(
            record["table"] == plan.label for _name, record in self._store.records("dead_letter")
        )
        set_aside = sum(one.dead_letters for one in progress.values())
        return EndCounts(
            source=source,
            target={name: self._patiently(partial(self._target.count, name)) for name in names},
            found=self._claim.found,
            letters_settled=max(0, set_aside - stored),
        )

    def _unplanned(self, plan: IndexPlan, counts: EndCounts) -> list[str]:
        """Namespaces that came too late for a plan with one."""
        if isinstance(self._settings.namespaces, tuple) or plan.layout != "single":
            return []
        new = [shown(name) for name in counts.source if name not in plan.collections]
        if not new:
            return []
        return [
            f"namespaces that came after the start are not copied: {', '.join(new[:5])}; "
            "--migration.restart copies all of them"
        ]


def _record_bytes(plan: IndexPlan) -> int:
    return record_bytes([one.spec.dimension or 0 for one in plan.vectors])
