"""Points without a row: ids of the target that no row of the source has.

    walk       every id of the target is taken away from the buckets that the rows' ids were added to
    collect    ids in buckets that did not come out even, at most `CAPACITY` at a time
    settle     those of them that have no row, and are still there after the stream has passed a position
               behind the moment at which they had none; again and again

What once was seen with a row, or gone, is no extra. A key that comes and goes all the time could be seen
without a row and with a point at every look only by chance; `ROUNDS` looks make that as good as impossible.

A point's id does not tell its key, unless the key is one integer or UUID. For all others the table's keys
are read through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from bridge.mapping import TableMapping
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.postgres.verify_reads import RowLooks
from bridge.retry import Retry
from verify.digests import Buckets, hashes
from verify.looks import VISIBLE_SECONDS
from verify.points import Points
from verify.stream import Follower

CAPACITY = 200_000
IDS_A_PAGE = 2_000
ROUNDS = 8
_KEYS_A_LOOK = 1_000


class ExtraSearch:
    """Looks for the extras of one table. `all_ids` reads the ids of all rows, in batches."""

    def __init__(
        self,
        mapping: TableMapping,
        *,
        points: Points,
        looks: RowLooks,
        follower: Follower,
        all_ids: Callable[[], Iterable[Sequence[PointId]]],
        retry: Retry,
        tell: Callable[[int], None],
        shard: tuple[int, int] = (0, 1),
        capacity: int = CAPACITY,
    ) -> None:
        self._mapping = mapping
        self._points = points
        self._looks = looks
        self._follower = follower
        self._all_ids = all_ids
        self._call = retry.call
        self._tell = tell
        self._shard = shard
        self._capacity = capacity
        self._rounds = ROUNDS if follower.follows else 1

    def run(self, buckets: Buckets) -> tuple[int, Iterator[list[PointId]]]:
        """(points of the collection, the extras in batches); rows' ids are in the buckets already."""
        number = 0
        for ids in self._walk():
            found = hashes(ids)
            buckets.take(found)
            number += len(ids)
            self._tell(number)
        return number, self._extras(buckets)

    def _walk(self) -> Iterator[list[PointId]]:
        after: PointId | None = None
        while True:
            points, after = self._call(partial(self._points.ids, after, IDS_A_PAGE))
            yield self._mine([point.id for point in points])
            if after is None:
                return

    def _mine(self, ids: list[PointId]) -> list[PointId]:
        """Of several shards, those of this one."""
        index, count = self._shard
        if count == 1:
            return ids
        return [
            identity
            for identity, number in zip(ids, hashes(ids).tolist(), strict=True)
            if number % count == index
        ]

    def own(self, ids: list[PointId]) -> list[PointId]:
        """Those of a row's ids that this search is about."""
        return self._mine(ids)

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

    def settle(self, candidates: set[PointId]) -> list[PointId]:
        """Those of the points that have no row, for sure."""
        left = self._without_row(candidates)
        for _ in range(self._rounds):
            if not left:
                return []
            if self._follower.follows:
                self._call(lambda: self._follower.await_passed(self._looks.place()))
            left = self._existing(left)
            if not left:
                return []
            if self._follower.follows:
                self._call(lambda: self._looks.await_visible(VISIBLE_SECONDS))
            left = self._without_row(left)
        return sorted(left, key=lambda identity: (isinstance(identity, str), identity))

    def _existing(self, ids: set[PointId]) -> set[PointId]:
        found: set[PointId] = set()
        ordered = list(ids)
        for start in range(0, len(ordered), IDS_A_PAGE):
            some = ordered[start : start + IDS_A_PAGE]
            found |= {one.id for one in self._call(partial(self._read, some))}
        return found

    def _read(self, ids: list[PointId]) -> list[Point]:
        return self._points.get(ids, with_vectors=False).result()

    def _without_row(self, ids: set[PointId]) -> set[PointId]:
        told = {identity: key for identity in ids if (key := self._key_of(identity)) is not None}
        left = ids - told.keys()
        keys = list(told.items())
        for start in range(0, len(keys), _KEYS_A_LOOK):
            some = keys[start : start + _KEYS_A_LOOK]
            asked = [(key,) for _identity, key in some]
            there = self._call(partial(self._looks.versions, self._mapping, asked))
            left |= {identity for identity, key in some if (key,) not in there}
        unknown = {identity for identity in left if identity not in told}
        if unknown:
            unknown = self._call(lambda: self._not_among_rows(unknown))
        return (left & told.keys()) | unknown

    def _not_among_rows(self, ids: set[PointId]) -> set[PointId]:
        left = set(ids)
        for batch in self._all_ids():
            left.difference_update(batch)
        return left

    def _key_of(self, identity: PointId) -> str | None:
        """The key's text where the id tells it."""
        rule = self._mapping.id_rule
        if len(self._mapping.key) != 1 or rule.template is not None or rule.scheme != "bridge":
            return None
        kind = self._mapping.key[0].type.name
        limit = {"int2": 2**15, "int4": 2**31, "int8": 2**63}.get(kind)
        if limit is not None and isinstance(identity, int):
            # One beyond the type's range has no row; the range is the pass's to look through.
            return str(identity) if identity < limit else None
        return identity if kind == "uuid" and isinstance(identity, str) else None
