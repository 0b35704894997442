"""Single records of an index written anew, as they are by now: what a repair asks for.

The lease is the caller's to hold. What a crash leaves: points that are written, and dead letters that are
still told of them; the same records may be written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backfill.pgvector import now
from bridge.errors import Rejected, Unstorable
from bridge.pinecone.mapping import PineconeMapping
from bridge.pinecone.reader import Reader
from bridge.pinecone.scan import FETCH_IDS
from bridge.pipeline import checkpoint_namespaces
from bridge.plan import DeadLetter, Point
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from bridge.retry import Retry
from bridge.state import letter_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Ids of records that were written; of others that are gone by now; and what was set aside."""

    ids: tuple[str, ...]
    gone: tuple[str, ...]
    letters: tuple[DeadLetter, ...]


def write_records(
    reader: Reader,
    namespace: str,
    ids: Sequence[str],
    mapping: PineconeMapping,
    *,
    target: Target,
    store: QdrantState,
    retry: Retry,
) -> Written:
    """Fetch and write these records of one namespace; returns when they are durable."""
    written: list[str] = []
    gone: list[str] = []
    letters: list[DeadLetter] = []
    for start in range(0, len(ids), FETCH_IDS):
        fetched = reader.fetcher.fetch(namespace, ids[start : start + FETCH_IDS])
        points, bad = mapping.points(namespace, fetched.records)
        bad += [mapping.dead_letter(namespace, one.id, one.reason) for one in fetched.unread]
        refused = _write(mapping, points, target, retry)
        bad += [
            mapping.dead_letter(namespace, mapping.origin_of(namespace, point), reason)
            for point, reason in refused
        ]
        aside = {letter.key for letter in bad}
        written += [
            origin
            for origin in (mapping.origin_of(namespace, point) for point in points)
            if mapping.key_of(namespace, origin) not in aside
        ]
        gone += fetched.missing
        letters += bad
    retry.call(lambda: checkpoint_namespaces(store, target.flush, {}, letters, now=now()))
    settled = [mapping.dead_letter(namespace, one, "") for one in (*written, *gone)]
    store.remove("dead_letter", map(letter_name, settled))
    return Written(ids=tuple(written), gone=tuple(gone), letters=tuple(letters))


def _write(
    mapping: PineconeMapping, points: Sequence[Point], target: Target, retry: Retry
) -> list[tuple[Point, str]]:
    """Write them together, or one by one if one of them is refused; those that are, and why."""
    name = mapping.collection.name
    if not points:
        return []
    try:
        # An embedded target would take what the messages of Qdrant cannot carry, and a server none.
        encode_upsert(name, points)
        retry.call(lambda: target.upsert(name, points))
    except (Rejected, Unstorable) as error:
        if len(points) == 1:
            return [(points[0], error.message)]
        return [found for point in points for found in _write(mapping, [point], target, retry)]
    return []
