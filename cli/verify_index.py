"""`verify` of a Pinecone index: each of its collections compared with the records, and mended.

A repair is the second pass of a copy: records that are missing or differ are written as they are by then,
points without a record are removed. It takes the pipeline's lease. Points stay where the collection held
some before; and nothing is written to one that a table goes on with, since its rows are newer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from backfill.pinecone_inspect import (
    base_collection,
    collection_of,
    label_of,
    look,
    pages_of,
    settings_fingerprint,
)
from backfill.pinecone_mend import write_records
from bridge.config import PineconeSettings, Settings
from bridge.errors import StopError, UsageError
from bridge.lease import held
from bridge.pinecone.client import PineconeIndex
from bridge.pinecone.index import Stats
from bridge.pinecone.plan import IndexPlan
from bridge.pinecone.reader import Reader, ReadLimits
from bridge.pinecone.scan import Pages
from bridge.point_ids import PointId
from bridge.postgres.verify_reads import Part
from bridge.qdrant.guarded import GuardedTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry
from cli import verify_options as v
from cli.output import note
from cli.pinecone_places import copy_options, index_pipeline_name, open_index, pinecone_settings
from cli.pinecone_plan import names_index
from cli.places import Place, require_tables
from cli.verify_progress import display
from cli.verify_subjects import letters_of
from verify.index import IndexComparison, IndexOptions
from verify.index_subject import IndexSubject, index_subjects
from verify.mending import Repair, Repaired, mended
from verify.messages import Key
from verify.report import TableResult

IDS_A_REQUEST = 1_000
_ROUNDS = 100


def index_state(place: Place, settings: Settings) -> QdrantState | None:
    """The records of the pipeline that copied the index; None if there are none. Nothing is made."""
    store = QdrantState(place.target, index_pipeline_name(settings))
    return store if store.exists() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Whether tables are compared, and the index of the configuration."""

    tables: bool
    index: bool


def choose(settings: Settings, place: Place, named: str | None, *, index: bool) -> Chosen:
    """What is compared. `named`: a table, or the index by its label; `index`: flags ask for the index.

    Beside tables an index that was copied is compared as well, unless they go on with what came of it.
    UsageError if there is neither.
    """
    if not names_index(settings):
        require_tables(settings)
        return Chosen(tables=True, index=False)
    found = pinecone_settings(settings) if index or not settings.tables else settings.pinecone
    assert found is not None  # noqa: S101 - names_index has looked
    label = label_of(found.index or "", found.host or "")
    if index or named == label or not settings.tables:
        if named not in (None, label):
            raise UsageError(f"the index is called {label}, not {named}", hint="leave the name out")
        return Chosen(tables=False, index=True)
    if named is not None:
        return Chosen(tables=True, index=False)
    return Chosen(tables=True, index=is_continued(index_state(place, settings), label) is False)


def is_continued(store: QdrantState | None, label: str) -> bool | None:
    """Whether tables go on with what came from this index; None if it was not copied here."""
    record = None if store is None else store.get("index", label)
    if store is None or record is None:
        return None
    owners = [_owner(store, name) for name in IndexPlan.from_record(record).collections.values()]
    return any(owner.get("table") != label for owner in owners)


def _owner(store: QdrantState, collection: str) -> Mapping[str, Any]:
    return store.get("owner", collection) or {}


@contextmanager
def opened_index(
    settings: Settings, place: Place, *, sample: str | None, seed: int
) -> Iterator[IndexRun]:
    """The comparison of the configuration's index. UsageError if it was not copied here."""
    with open_index(settings) as index:
        yield IndexRun(settings, place, index, sample=sample, seed=seed)


class IndexRun:
    """One run of the command: the collections of one index."""

    def __init__(
        self,
        settings: Settings,
        place: Place,
        index: PineconeIndex,
        *,
        sample: str | None,
        seed: int,
    ) -> None:
        found = pinecone_settings(settings)
        self.place = place
        self.stats: Callable[[], Stats] = index.stats
        self.pages: Pages = pages_of(index, found)
        self.limits = copy_options(settings, found)
        self.store, plan, counts = self._copied(settings, found, index)
        unplaced: list[str] = []
        for name in counts:
            if name in plan.collections:
                continue
            if plan.layout == "single":
                unplaced.append(name)
                continue
            base = base_collection(found, self._facts)
            plan = plan.with_namespace(name, collection_of(name, plan.layout, base), counts[name])
        letters = partial(letters_of, self.store, plan.label)
        self.subjects = index_subjects(plan, counts, letters, unplaced)
        self.options = _options(settings, place, self.limits, sample, seed)

    def _copied(
        self, settings: Settings, found: PineconeSettings, index: PineconeIndex
    ) -> tuple[QdrantState, IndexPlan, Mapping[str, int]]:
        """(records, the plan that was stored, counts of the namespaces there are now)."""
        reader = self._reader()
        try:
            seen = look(index, found, reader.lists)
        finally:
            reader.close()
        self._facts = seen.facts
        store = index_state(self.place, settings)
        record = None if store is None else store.get("index", seen.label)
        if store is None or record is None:
            raise UsageError(
                f"{seen.label} was not copied by pipeline {index_pipeline_name(settings)}",
                hint="qdrant-bridge backfill pinecone copies it; or is this another Qdrant, or pipeline?",
            )
        plan = IndexPlan.from_record(record)
        if plan.fingerprint != settings_fingerprint(found):
            raise UsageError(
                f"{seen.label} was copied with other settings (namespaces, numbers, collection, or "
                "names of fields)",
                hint="compare it with the settings of that run",
            )
        return store, plan, seen.counts

    def _reader(self) -> Reader:
        return Reader(self.pages, self.limits, lambda reason, seconds: None, stats=self.stats)

    def compare(self, *, quiet: bool) -> list[TableResult]:
        """Compare all of them."""
        with display(quiet=quiet) as shown:
            return [self._comparison(subject, shown).run() for subject in self.subjects]

    def mend(
        self, results: Sequence[TableResult], *, dry_run: bool
    ) -> tuple[list[TableResult], dict[str, dict[str, Any]]]:
        """Repair what differs; the results afterwards, and by table what was done."""
        after: list[TableResult] = []
        told: dict[str, dict[str, Any]] = {}
        for subject, result in zip(self.subjects, results, strict=True):
            repair = Repair.of(result)
            if repair is None:
                after.append(result)
                continue
            if dry_run:
                done = Repaired(repair=repair, extras_kept=not self._extras_may_go(subject))
                after.append(result)
            else:
                left, done = self._mended(subject, result)
                after.append(left)
            told[result.table] = {"dry_run": dry_run, **done.to_json(result.findings.counts)}
        return after, told

    def _comparison(self, subject: IndexSubject, tell: Any) -> IndexComparison:
        return IndexComparison(
            subject,
            self.pages,
            stats=self.stats,
            target=self.place.target,
            options=self.options,
            tell=tell,
        )

    # --- repair --------------------------------------------------------------------------------

    def _mended(self, subject: IndexSubject, result: TableResult) -> tuple[TableResult, Repaired]:
        """Write and remove until nothing is left that can be mended; at most 100,000 records a round."""
        self._require_ours(subject)
        comparison = self._comparison(subject, lambda event: None)
        may_go = self._extras_may_go(subject)
        total = Repaired(repair=Repair.of(result) or _nothing(result), extras_kept=not may_go)
        written: list[Key] = []
        removed: list[PointId] = []
        problems: list[str] = []
        with held(self.store, on_wait=_tell_holder) as lease:
            target = GuardedTarget(self.place.target, before=lease.require)
            for _ in range(_ROUNDS):
                repair = Repair.of(result)
                if repair is None:
                    break
                wrote, problems = self._write(subject, repair.keys, target)
                gone = self._remove(subject, repair.extras, comparison, target) if may_go else []
                written += wrote
                removed += gone
                if not repair.whole:
                    result = self._looked_again(result, repair, comparison)
                    break
                result = comparison.run()
                if not wrote and not gone:
                    break
        repair = replace(total.repair, keys=tuple(dict.fromkeys(written)), extras=tuple(removed))
        return result, replace(total, repair=repair, problems=tuple(problems))

    def _write(
        self, subject: IndexSubject, keys: Sequence[Key], target: Target
    ) -> tuple[list[Key], list[str]]:
        """(keys of the records that were written, what was not)."""
        written: list[Key] = []
        aside = 0
        reader = self._reader()
        try:
            for namespace, ids in subject.by_namespace(keys).items():
                done = write_records(
                    reader,
                    namespace,
                    ids,
                    subject.mapping,
                    target=target,
                    store=self.store,
                    retry=Retry(patience_seconds=self.limits.patience_seconds),
                )
                written += [subject.key(namespace, identity) for identity in done.ids]
                aside += len(done.letters)
        finally:
            reader.close()
        return written, [f"{aside:,} records were set aside"] if aside else []

    def _remove(
        self,
        subject: IndexSubject,
        extras: Sequence[PointId],
        comparison: IndexComparison,
        target: Target,
    ) -> list[PointId]:
        """Remove those that still have no record."""
        if not extras:
            return []
        _verdicts, gone = comparison.recheck([], extras)
        for start in range(0, len(gone), IDS_A_REQUEST):
            target.delete(subject.collection, gone[start : start + IDS_A_REQUEST])
        target.flush()
        return gone

    def _looked_again(
        self, result: TableResult, repair: Repair, comparison: IndexComparison
    ) -> TableResult:
        verdicts, extras = comparison.recheck(repair.keys, repair.extras)
        target = self.place.target.count(result.collection)
        return mended(result, verdicts, extras, target)

    def _extras_may_go(self, subject: IndexSubject) -> bool:
        owner = _owner(self.store, subject.collection)
        ours = (owner.get("pipeline"), owner.get("table")) == (self.store.pipeline, subject.label)
        return ours and not int(owner.get("found_points", 0))

    def _require_ours(self, subject: IndexSubject) -> None:
        owner = _owner(self.store, subject.collection).get("table")
        if owner != subject.label:
            raise StopError(
                f"collection {subject.collection} is continued by {owner}, whose rows are newer than "
                "the records",
                code="COLLECTION_TAKEN",
                hint=f"qdrant-bridge verify {owner} --repair mends it by its table",
                table=subject.label,
            )


def _nothing(result: TableResult) -> Repair:
    return Repair(table=result.table, keys=(), extras=(), whole=False)


def _tell_holder(who: str) -> None:
    note(f"waiting whether {who} is still alive")


def _options(
    settings: Settings, place: Place, limits: ReadLimits, sample: str | None, seed: int
) -> IndexOptions:
    records, fraction = v.parse_sample(sample)
    index, count = settings.migration.shard_index_and_count
    return IndexOptions(
        limits=limits,
        endpoint=place.endpoint,
        sample_records=records,
        part=Part(fraction=fraction, seed=seed, index=index, count=count),
    )
