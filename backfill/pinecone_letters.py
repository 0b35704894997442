"""Dead letters of an index once more: records fetched again, written, and forgotten where that worked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from backfill.pinecone_reader import Reader
from backfill.retry_letters import Outcome
from bridge.errors import Rejected, Unstorable, UsageError
from bridge.pinecone.mapping import PineconeMapping
from bridge.pinecone.plan import IndexPlan
from bridge.pinecone.scan import FETCH_IDS
from bridge.plan import Point
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from bridge.state import Record, letter_from_record, letter_name


def retry_index_letters(
    reader: Reader, records: Iterable[Record], *, target: Target, store: QdrantState
) -> Outcome:
    """Write the records of these dead letters as they are now. A letter goes once its point is durable."""
    by_index: dict[str, list[Record]] = {}
    for record in records:
        by_index.setdefault(record["table"], []).append(record)
    outcome = Outcome()
    for label, letters in by_index.items():
        stored = store.get("index", label)
        if stored is None:
            raise UsageError(
                f"{label} has no backfill here", hint="is this the pipeline that set them aside?"
            )
        plan = IndexPlan.from_record(stored)
        mappings = plan.mappings()
        by_namespace: dict[str, dict[str, Record]] = {}
        for record in letters:
            namespace, identity = _key_of(plan, str(record["key"]))
            by_namespace.setdefault(namespace, {})[identity] = record
        for namespace, some in by_namespace.items():
            ids = list(some)
            for start in range(0, len(ids), FETCH_IDS):
                part = {one: some[one] for one in ids[start : start + FETCH_IDS]}
                outcome += _retry_some(reader, namespace, part, mappings[namespace], target, store)
    return outcome


def _key_of(plan: IndexPlan, key: str) -> tuple[str, str]:
    """(namespace, id) of a letter's key: the inverse of `PineconeMapping.key_of`."""
    if plan.layout == "single":
        return next(iter(plan.collections)), key
    namespace, identity = json.loads(key)
    return str(namespace), str(identity)


def _retry_some(
    reader: Reader,
    namespace: str,
    letters: dict[str, Record],
    mapping: PineconeMapping,
    target: Target,
    store: QdrantState,
) -> Outcome:
    fetched = reader.fetcher.fetch(namespace, list(letters))
    points, bad = mapping.points(namespace, fetched.records)
    refused = {letter.key for letter in bad}
    refused |= {mapping.key_of(namespace, one.id) for one in fetched.unread}
    for point in points:
        if not _write(target, mapping.collection.name, [point]):
            refused.add(mapping.key_of(namespace, mapping.origin_of(namespace, point)))
    target.flush()
    settled = [one for one in letters.values() if one["key"] not in refused]
    store.remove("dead_letter", [letter_name(letter_from_record(one)) for one in settled])
    gone = len(fetched.missing)
    return Outcome(written=len(settled) - gone, gone=gone, kept=len(letters) - len(settled))


def _write(target: Target, collection: str, points: Sequence[Point]) -> bool:
    try:
        # An embedded target would take what the messages of Qdrant cannot carry, and a server none.
        encode_upsert(collection, points)
        target.upsert(collection, points)
    except (Rejected, Unstorable):
        return False
    return True
