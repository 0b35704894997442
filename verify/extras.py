"""Points without a row: ids of the target that no row of the source has.

What a walk (`walk.py`) collects is settled: those that have no row, and are still there after the stream
has passed a position behind the moment at which they had none; again and again.

What once was seen with a row, or gone, is no extra. A key that comes and goes all the time could be seen
without a row and with a point at every look only by chance; `ROUNDS` looks make that as good as impossible.

A point's id does not tell its key, unless the key is one integer or UUID. For all others the table's keys
are read through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from bridge.mapping import TableMapping
from bridge.point_ids import PointId
from bridge.postgres.verify_reads import RowLooks
from bridge.retry import Retry
from verify.looks import VISIBLE_SECONDS
from verify.points import Points
from verify.stream import Follower
from verify.walk import CAPACITY, Walk

ROUNDS = 8
_KEYS_A_LOOK = 1_000


class ExtraSearch(Walk):
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
        super().__init__(points, retry=retry, tell=tell, shard=shard, capacity=capacity)
        self._mapping = mapping
        self._looks = looks
        self._follower = follower
        self._all_ids = all_ids
        self._rounds = ROUNDS if follower.follows else 1

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
