"""Before an index is copied: whose the collections are, and the plan that is gone on with.

A plan is made once and stored before the first record is written; of two that start together the first
one's counts. Nothing is written before the index, its sample and the collections have been found to be
in order.
"""

from __future__ import annotations

from collections.abc import Mapping

from backfill.pgvector import now
from backfill.pinecone_inspect import (
    Look,
    base_collection,
    collection_of,
    make_plan,
    settings_fingerprint,
    specs_of,
)
from backfill.pinecone_reader import Reader
from backfill.pinecone_state import NamespaceProgress
from backfill.preflight import check_target, require_fit
from bridge.config_models import PineconeSettings
from bridge.errors import StopError, UsageError
from bridge.failpoints import failpoint
from bridge.ownership import claim, require_claimable
from bridge.pinecone.plan import IndexPlan
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.state import Kind, Record


class IndexClaim:
    """Claims what one index fills. `found`: points that each collection held before."""

    def __init__(
        self,
        settings: PineconeSettings,
        *,
        target: Target,
        store: QdrantState,
        create_collection: bool,
    ) -> None:
        self._settings = settings
        self._target = target
        self._store = store
        self._create = create_collection
        self.found: dict[str, int] = {}

    def plan(self, seen: Look, reader: Reader, *, restart: bool) -> IndexPlan:
        """The plan that is stored, made now if there was none. `restart`: forget the old one."""
        store = self._store
        for name in dict.fromkeys(seen.collections.values()):
            owner = store.get("owner", name) if store.exists() else None
            require_claimable(store.pipeline, seen.label, name, owner)
        if restart and store.exists():
            self._forget(seen.label)
        record = store.get("index", seen.label) if store.exists() else None
        if record is None:
            record = self._first_plan(seen, reader)
        plan = IndexPlan.from_record(record)
        if plan.fingerprint != settings_fingerprint(self._settings):
            raise UsageError(
                f"the backfill of {seen.label} began with other settings (namespaces, numbers, "
                "collection, or names of fields)",
                hint="go on with the settings of that run, or start with --migration.restart; another "
                "selection is copied beside it by another pipeline",
            )
        plan = self._with_new_namespaces(plan, seen)
        self._prepare_collections(plan)
        return plan

    def progress(self, plan: IndexPlan) -> dict[str, NamespaceProgress]:
        """How far each namespace of the plan is."""
        stored = {
            record["namespace"]: NamespaceProgress.from_record(record)
            for _name, record in self._store.records("namespace")
            if record["label"] == plan.label
        }
        return {
            name: stored.get(name, NamespaceProgress(label=plan.label, namespace=name))
            for name in plan.collections
        }

    def _first_plan(self, seen: Look, reader: Reader) -> Record:
        proposal = make_plan(
            seen,
            self._settings,
            reader.pages,
            reader.lists,
            reader.fetches,
            now=now(),
            target=self._target,
        )
        for spec in specs_of(proposal.plan):
            require_fit(check_target(self._target, spec, create=self._create)[1])
        self._store.prepare()
        for spec in specs_of(proposal.plan):
            state = self._target.collection(spec.name)
            points = 0 if state is None else self._target.count(spec.name)
            self._own(seen.label, spec.name, points)
        stored = self._store.put_new("index", seen.label, proposal.plan.to_record())
        failpoint("backfill.after_plan")
        return stored

    def _own(self, label: str, collection: str, points: int) -> int:
        """Points that were there when the collection was first claimed."""
        owner = claim(self._store, collection, label, points)
        require_claimable(self._store.pipeline, label, collection, owner)
        return int(owner["found_points"])

    def _with_new_namespaces(self, plan: IndexPlan, seen: Look) -> IndexPlan:
        """Namespaces that came since the plan was made, where there is a place for them."""
        new = [name for name in seen.counts if name not in plan.collections]
        if not new or plan.layout == "single":
            return plan
        base = base_collection(self._settings, seen.facts)
        for name in new:
            collection = collection_of(name, plan.layout, base)
            plan = plan.with_namespace(name, collection, seen.counts[name])
        self._store.put("index", plan.label, plan.to_record())
        return plan

    def _prepare_collections(self, plan: IndexPlan) -> None:
        written = _written_by_collection(plan, self.progress(plan))
        for spec in specs_of(plan):
            state, finding = check_target(self._target, spec, create=self._create)
            require_fit(finding)
            if state is None and written[spec.name]:
                raise StopError(
                    f"collection {spec.name} is gone, though records of {plan.label} are recorded "
                    "as copied into it",
                    code="TARGET_CHANGED",
                    hint="start with --migration.restart to copy everything again",
                )
            points = 0 if state is None else self._target.count(spec.name)
            self.found[spec.name] = self._own(plan.label, spec.name, points)
            self._target.create_collection(spec)

    def _forget(self, label: str) -> None:
        store = self._store
        of_label: tuple[tuple[Kind, str], ...] = (("namespace", "label"), ("dead_letter", "table"))
        for kind, field in of_label:
            names = [name for name, record in store.records(kind) if record[field] == label]
            store.remove(kind, names)
        store.remove("index", [label])


def _written_by_collection(
    plan: IndexPlan, progress: Mapping[str, NamespaceProgress]
) -> dict[str, int]:
    written = dict.fromkeys(plan.collections.values(), 0)
    for one in progress.values():
        written[plan.collections[one.namespace]] += one.written
    return written
