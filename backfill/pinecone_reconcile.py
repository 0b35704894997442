"""The second pass: what came or went while the first was reading.

A read of Pinecone is no snapshot, and there is no change feed. So a namespace whose count is not what
was read is listed again (`auto`); or every one is, after all of its records have been fetched once more
(`full`, which alone sees updates):

    records without a point       are fetched and written
    points without a record       are removed, once a fetch has confirmed that the record is gone, and
                                  only where the collection held nothing before

Which points exist is compared by 64 bits of a digest of each id: 8 bytes a record, whatever its id.
Two ids that share them would hide a record that is gone; the counts at the end would show it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from backfill.pinecone_reader import CopyOptions, Reader
from backfill.pinecone_sink import Sink
from backfill.pinecone_state import NamespaceProgress
from bridge.pinecone.mapping import PineconeMapping
from bridge.pinecone.scan import START, batches
from bridge.plan import DeadLetter, Point
from bridge.point_ids import PointId
from bridge.qdrant.target import Target
from bridge.retry import Retry

_SCROLL_PAGE = 1000
_REMOVE_A_TIME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """A namespace after its second pass. `letters`: records that cannot become points."""

    progress: NamespaceProgress
    added: int
    removed: int
    kept_extras: int
    letters: tuple[DeadLetter, ...]


class SecondLook:
    """Looks at namespaces once more. `remove_extras`: the collection is ours alone."""

    def __init__(
        self,
        reader: Reader,
        target: Target,
        options: CopyOptions,
        retry: Retry,
    ) -> None:
        self._reader = reader
        self._target = target
        self._options = options
        self._retry = retry

    def reconcile(
        self, progress: NamespaceProgress, mapping: PineconeMapping, *, remove_extras: bool
    ) -> Reconciled:
        """The namespace listed again, and made equal."""
        namespace = progress.namespace
        sink = Sink(mapping, self._target, self._options, self._retry)
        digests = array("Q")
        letters: list[DeadLetter] = []
        added = units = 0
        for batch in batches(partial(self._reader.page, namespace), START):
            points = {mapping.id_of(namespace, one): one for one in batch.ids}
            digests.extend(map(digest, points))
            there = self._existing(mapping, list(points))
            wanted = [one for point, one in points.items() if point not in there]
            units += batch.read_units
            if wanted:
                fetched = self._reader.fetcher.fetch(namespace, wanted)
                units += fetched.read_units
                made, bad = mapping.points(namespace, fetched.records)
                bad += [mapping.dead_letter(namespace, o.id, o.reason) for o in fetched.unread]
                letters += bad
                added += sum(point.id not in there for point in made)
                sink.add(namespace, made)
        letters += [
            mapping.dead_letter(namespace, identity, reason)
            for _namespace, identity, reason in sink.drain()
        ]
        listed = np.unique(np.frombuffer(digests, dtype=np.uint64)) if digests else _NONE
        removed, kept = self._extras(mapping, namespace, listed, remove=remove_extras)
        set_aside = len(letters)
        return Reconciled(
            progress=replace(
                progress,
                records=len(listed),
                written=len(listed) - set_aside,
                dead_letters=set_aside,
                read_units=progress.read_units + units,
                looked_again=True,
            ),
            added=added,
            removed=removed,
            kept_extras=kept,
            letters=tuple(letters),
        )

    def _existing(self, mapping: PineconeMapping, ids: Sequence[PointId]) -> set[PointId]:
        return self._retry.call(lambda: self._target.existing(mapping.collection.name, ids))

    def _extras(
        self, mapping: PineconeMapping, namespace: str, listed: NDArray[np.uint64], *, remove: bool
    ) -> tuple[int, int]:
        """(removed, kept): points of this namespace whose records are not listed any more."""
        removed = kept = 0
        suspects: list[Point] = []

        def settle() -> None:
            nonlocal removed, kept
            gone = self._gone(mapping, namespace, suspects)
            if remove and gone:
                name = mapping.collection.name
                self._retry.call(lambda: self._target.delete(name, gone))
                removed += len(gone)
            else:
                kept += len(gone)
            suspects.clear()

        for point in self._points(mapping, namespace):
            value = np.uint64(digest(point.id))
            place = int(np.searchsorted(listed, value))
            if place < len(listed) and listed[place] == value:
                continue
            suspects.append(point)
            if len(suspects) == _REMOVE_A_TIME:
                settle()
        if suspects:
            settle()
        return removed, kept

    def _points(self, mapping: PineconeMapping, namespace: str) -> Iterator[Point]:
        field = mapping.fields.namespace
        matching = None if field is None else {field: namespace}
        after: PointId | None = None
        while True:
            scroll: Callable[[], tuple[list[Point], PointId | None]] = partial(
                self._target.scroll,
                mapping.collection.name,
                after=after,
                limit=_SCROLL_PAGE,
                matching=matching,
            )
            points, after = self._retry.call(scroll)
            yield from points
            if after is None:
                return

    def _gone(
        self, mapping: PineconeMapping, namespace: str, suspects: Sequence[Point]
    ) -> list[PointId]:
        """Those that are of this source, and whose records a fetch does not find."""
        origins = {
            str(point.payload[mapping.fields.id]): point.id
            for point in suspects
            if isinstance(point.payload.get(mapping.fields.id), str)
        }
        ours = {o: p for o, p in origins.items() if mapping.id_of(namespace, o) == p}
        if not ours:
            return []
        fetched = self._reader.fetcher.fetch(namespace, list(ours))
        return [ours[identity] for identity in fetched.missing]


_NONE: NDArray[np.uint64] = np.array([], dtype=np.uint64)


def digest(identity: PointId) -> int:
    """64 bits that stand for a point's id."""
    return int.from_bytes(blake2b(str(identity).encode(), digest_size=8).digest(), "little")
