"""The walk over all ids of a collection that finds which are on its side only, in constant memory.

walk       every id of the target is taken away from the buckets that the source's ids were added to
collect    ids in buckets that did not come out even, at most `CAPACITY` at a time
settle     those of them that the source does not have, for sure; how that is found is the source's
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.retry import Retry
from verify.digests import Buckets, hashes
from verify.points import Points

CAPACITY = 200_000
IDS_A_PAGE = 2_000


class Walk:
    """Looks for the extras of one collection. `shard`: (I, N), of which only the part I counts."""

    def __init__(
        self,
        points: Points,
        *,
        retry: Retry,
        tell: Callable[[int], None],
        shard: tuple[int, int] = (0, 1),
        capacity: int = CAPACITY,
    ) -> None:
        self._points = points
        self._call = retry.call
        self._tell = tell
        self._shard = shard
        self._capacity = capacity

    def settle(self, candidates: set[PointId]) -> list[PointId]:
        """Those of the points that the source does not have, for sure."""
        raise NotImplementedError

    def run(self, buckets: Buckets) -> tuple[int, Iterator[list[PointId]]]:
        """(points of the collection, the extras in batches); the source's ids are in the buckets already."""
        number = 0
        for ids in self._walk():
            found = hashes(ids)
            buckets.take(found)
            number += len(ids)
            self._tell(number)
        return number, self._extras(buckets)

    def own(self, ids: list[PointId]) -> list[PointId]:
        """Those of the source's ids that this search is about: of several shards, those of this one."""
        index, count = self._shard
        if count == 1:
            return ids
        return [
            identity
            for identity, number in zip(ids, hashes(ids).tolist(), strict=True)
            if number % count == index
        ]

    def _walk(self) -> Iterator[list[PointId]]:
        after: PointId | None = None
        while True:
            points, after = self._call(partial(self._points.ids, after, IDS_A_PAGE))
            yield self.own([point.id for point in points])
            if after is None:
                return

    def _extras(self, buckets: Buckets) -> Iterator[list[PointId]]:
        uneven = buckets.uneven()
        if not uneven.any():
            return
        candidates: set[PointId] = set()
        for ids in self._walk():
            chosen = buckets.among(uneven, hashes(ids))
            candidates.update(identity for identity, one in zip(ids, chosen, strict=True) if one)
            if len(candidates) >= self._capacity:
                yield self.settle(candidates)
                candidates = set()
        if candidates:
            yield self.settle(candidates)

    def _existing(self, ids: set[PointId]) -> set[PointId]:
        found: set[PointId] = set()
        ordered = list(ids)
        for start in range(0, len(ordered), IDS_A_PAGE):
            some = ordered[start : start + IDS_A_PAGE]
            found |= {one.id for one in self._call(partial(self._read, some))}
        return found

    def _read(self, ids: list[PointId]) -> list[Point]:
        return self._points.get(ids, with_vectors=False).result()
