"""The records of a collection's namespaces, read for a comparison: listed, fetched, beside their points.

Pages of ids are listed one after the other, batches are fetched and compared by several threads; what comes
back of a batch are hashes and suspects, never the records. Namespaces of a few records are a single piece
of work each, so that thousands of them are not waited for one by one. The index's limits are those of a
backfill (`bridge/pinecone/reader.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from bridge.errors import Unreachable
from bridge.pinecone.errors import TokenRefused
from bridge.pinecone.reader import Reader
from bridge.pinecone.scan import FETCH_IDS, START, Batch, Fetched, batches
from bridge.point_ids import PointId
from bridge.postgres.verify_reads import Part
from bridge.retry import Retry
from verify.digests import Hashes, hashes
from verify.index_subject import IndexSubject, is_chosen
from verify.messages import Key
from verify.points import Points

T = TypeVar("T")

SMALL_NAMESPACE = 500
"""Records of a namespace that one thread lists, fetches and compares by itself."""
_BEGINNINGS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A batch: so many ids were listed, so many records compared; `ids` are hashes of the points that
    records own, `suspects` the records that must be looked at again."""

    listed: int
    compared: int
    ids: Hashes
    suspects: tuple[Key, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeganAgain:
    """Pinecone did not take a page token any more: what came of this namespace before does not count."""


class RecordReader:
    """Reads one subject's records. `close` it after a failure, so that nobody waits any longer."""

    def __init__(
        self, subject: IndexSubject, reader: Reader, points: Points, retry: Retry, part: Part
    ) -> None:
        self._subject = subject
        self._reader = reader
        self._points = points
        self._retry = retry
        self._part = part
        self._comparer = subject.comparer
        self._pool = ThreadPoolExecutor(reader.most, thread_name_prefix="verify-fetch")

    def close(self) -> None:
        """Let everybody go; what has not begun does not begin."""
        self._reader.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    # --- some records -----------------------------------------------------------------------------

    def fetch(self, namespace: str, ids: Sequence[str]) -> Fetched:
        """These records as they are now, several fetches at a time."""
        parts = [ids[start : start + FETCH_IDS] for start in range(0, len(ids), FETCH_IDS)]
        total = Fetched()
        for one in self._pool.map(partial(self._reader.fetcher.fetch, namespace), parts):
            total.records += one.records
            total.unread += one.unread
            total.missing += one.missing
        return total

    def all_ids(self) -> Iterator[list[PointId]]:
        """The points' ids of all records, as they are listed; some twice where a token expires."""
        for namespace in self._subject.namespaces:
            for _ in range(_BEGINNINGS):
                try:
                    for batch in self._batches(namespace):
                        yield [self._subject.mapping.id_of(namespace, one) for one in batch.ids]
                    break
                except TokenRefused:
                    continue
            else:
                raise _no_end(namespace)

    # --- all of them ------------------------------------------------------------------------------

    def small(self) -> Iterator[Seen]:
        """The batches of all namespaces that are small, by what Pinecone counts."""
        names = [name for name in self._subject.namespaces if self._is_small(name)]
        for found in self._in_order(iter([partial(self._whole, name) for name in names])):
            yield from found

    def large(self) -> list[str]:
        """The other namespaces."""
        return [name for name in self._subject.namespaces if not self._is_small(name)]

    def namespace(self, name: str) -> Iterator[Seen | BeganAgain]:
        """The batches of one namespace."""
        for _ in range(_BEGINNINGS):
            try:
                work = (partial(self._seen, name, batch) for batch in self._batches(name))
                yield from self._in_order(work)
                return
            except TokenRefused:
                yield BeganAgain()
        raise _no_end(name)

    def _is_small(self, namespace: str) -> bool:
        return self._subject.counts.get(namespace, 0) <= SMALL_NAMESPACE

    def _batches(self, namespace: str) -> Iterator[Batch]:
        return batches(partial(self._reader.page, namespace), START)

    def _whole(self, namespace: str) -> list[Seen]:
        for _ in range(_BEGINNINGS):
            try:
                return [self._seen(namespace, batch) for batch in self._batches(namespace)]
            except TokenRefused:
                continue
        raise _no_end(namespace)

    def _in_order(self, work: Iterator[partial[T]]) -> Iterator[T]:
        """Their results; as many are under way as may be fetched at once, and as many wait."""
        under_way: deque[Future[T]] = deque()
        for one in work:
            under_way.append(self._pool.submit(one))
            if len(under_way) >= 2 * self._reader.most:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _seen(self, namespace: str, batch: Batch) -> Seen:
        subject, mapping = self._subject, self._subject.mapping
        listed = {mapping.id_of(namespace, one): one for one in batch.ids}
        own = self._own(list(listed))
        wanted = [listed[one] for one in own if is_chosen(self._part, namespace, listed[one])]
        fetched = self._reader.fetcher.fetch(namespace, wanted) if wanted else Fetched()
        points, letters = mapping.points(namespace, fetched.records)
        ids = [mapping.id_of(namespace, one) for one in wanted]
        stored = self._retry.call(lambda: self._points.get(ids).result()) if ids else []
        found = {point.id: point for point in stored}
        suspects = [
            subject.key(namespace, mapping.origin_of(namespace, points[number]))
            for number in self._comparer.suspects(points, found)
        ]
        bad = {letter.key for letter in letters}
        again = {*fetched.missing, *(one.id for one in fetched.unread)}
        again |= {
            record.id for record in fetched.records if mapping.key_of(namespace, record.id) in bad
        }
        suspects += [subject.key(namespace, identity) for identity in sorted(again)]
        # Of a sample all ids count, since only extras are asked of them; of all records, those whose
        # points are there, so that a bucket is even where nothing is too much.
        owned = own if self._part.fraction < 1.0 else self._owned(found, listed, fetched)
        return Seen(
            listed=len(own),
            compared=len(wanted) - len(fetched.missing),
            ids=hashes(owned) if owned else np.empty(0, dtype=np.uint64),
            suspects=tuple(suspects),
        )

    def _owned(
        self, found: Mapping[PointId, object], listed: dict[PointId, str], fetched: Fetched
    ) -> list[PointId]:
        gone = set(fetched.missing)
        return [identity for identity in found if listed[identity] not in gone]

    def _own(self, ids: list[PointId]) -> list[PointId]:
        """Of several shards, those of this one."""
        part = self._part
        if part.count == 1 or not ids:
            return ids
        numbers = hashes(ids).tolist()
        return [
            one
            for one, number in zip(ids, numbers, strict=True)
            if number % part.count == part.index
        ]


def _no_end(namespace: str) -> Unreachable:
    return Unreachable(
        f"Pinecone gave up the listing of namespace {namespace or '__default__'} "
        f"{_BEGINNINGS} times in the middle",
        hint="run it again later, or in parts: --shard",
    )
