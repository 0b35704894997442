"""Points without a record: what a collection holds that no namespace of the index has.

A point's payload tells the record that it was made of, if the id that follows from it is the point's own:
that record is fetched, `LOOKS` times with a pause, and only one that is there at none of them is gone. The
other candidates, whose payload tells nothing, are looked for in the listing of all ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.retry import Retry
from verify.index_looks import LOOKS, PAUSE_SECONDS, Records, Sleep
from verify.index_subject import IndexSubject
from verify.points import Points
from verify.walk import CAPACITY, IDS_A_PAGE, Walk


class RecordExtras(Walk):
    """Looks for the extras of one collection. `all_ids` lists the points' ids of all records."""

    def __init__(
        self,
        subject: IndexSubject,
        *,
        records: Records,
        points: Points,
        all_ids: Callable[[], Iterable[Sequence[PointId]]],
        retry: Retry,
        tell: Callable[[int], None],
        sleep: Sleep,
        shard: tuple[int, int] = (0, 1),
        capacity: int = CAPACITY,
    ) -> None:
        super().__init__(points, retry=retry, tell=tell, shard=shard, capacity=capacity)
        self._subject = subject
        self._records = records
        self._all_ids = all_ids
        self._sleep = sleep

    def settle(self, candidates: set[PointId]) -> list[PointId]:
        """Those of the points that have no record, for sure."""
        left, unknown = self._without_record(candidates)
        if unknown:
            unknown = self._not_listed(unknown)
        for _ in range(LOOKS - 1):
            if not left:
                break
            self._sleep(PAUSE_SECONDS)
            left, _told_nothing = self._without_record(left)
        left |= self._existing(unknown)
        return sorted(left, key=lambda identity: (isinstance(identity, str), identity))

    def _without_record(self, ids: set[PointId]) -> tuple[set[PointId], set[PointId]]:
        """(points whose record is not there, points that tell no record), of those that exist."""
        left: set[PointId] = set()
        unknown: set[PointId] = set()
        ordered = list(ids)
        for start in range(0, len(ordered), IDS_A_PAGE):
            some = ordered[start : start + IDS_A_PAGE]
            origins: dict[str, dict[str, PointId]] = {}
            for point in self._call(partial(self._read, some)):
                origin = self._origin(point)
                if origin is None:
                    unknown.add(point.id)
                else:
                    origins.setdefault(origin[0], {})[origin[1]] = point.id
            for namespace, found in origins.items():
                missing = self._records.fetch(namespace, list(found)).missing
                left |= {found[identity] for identity in missing}
        return left, unknown

    def _origin(self, point: Point) -> tuple[str, str] | None:
        """(namespace, id) of the record that the point was made of."""
        mapping, only = self._subject.mapping, self._subject.namespaces[0]
        names = mapping.fields
        identity = point.payload.get(names.id)
        namespace = only if names.namespace is None else point.payload.get(names.namespace)
        if not isinstance(identity, str) or not isinstance(namespace, str):
            return None
        if namespace not in self._subject.namespaces:
            return None
        return (namespace, identity) if mapping.id_of(namespace, identity) == point.id else None

    def _not_listed(self, ids: set[PointId]) -> set[PointId]:
        left = set(ids)
        for some in self._all_ids():
            left.difference_update(some)
        return left
