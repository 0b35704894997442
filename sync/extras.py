"""Points without a row: found by comparing ids, in memory that does not grow with the table. Pure.

A point's id does not tell its key, so Postgres cannot be asked about a single point; and ids come from
Qdrant in their own order, keys from Postgres in theirs. So in each pass over the table's keys the
smallest ids are kept, at most `capacity` of them, above those that earlier passes have dealt with;
then Qdrant's ids are walked through that far, and whatever is not among them has no row. A table of up
to `capacity` rows takes one pass, others take rows / capacity passes over their keys; Qdrant's ids are
walked through once in all.

The keys of a pass are read in pages, at different moments. What makes that exact: every id that the
stream writes from the beginning of a pass on counts as known too (`add`), and the walk begins after
the stream has passed the last page (`resync.py`). Then an id that is unknown had no row when its place
in the key's order was read, and has been written by nothing that was streamed since. An id that is
known in vain was deleted later than its page, and the stream removes it.

Ids are ordered as Qdrant orders them: integers, then UUIDs by their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from bridge.point_ids import PointId

CAPACITY = 1_000_000
"""Ids of one pass: 17 bytes each, and twice that while they are collected."""

_WIDTH = 17
_START = b""


def order_key(identity: PointId) -> bytes:
    """17 bytes that sort as Qdrant sorts ids."""
    if isinstance(identity, int):
        return b"\0" + identity.to_bytes(16, "big")
    return b"\1" + UUID(identity).bytes


class KnownIds:
    """The ids of one pass: the smallest `capacity` of those added, above `above`."""

    def __init__(self, above: PointId | None = None, capacity: int = CAPACITY) -> None:
        self._above = _START if above is None else order_key(above)
        self._capacity = capacity
        self._upto: bytes | None = None
        self._sorted: NDArray[np.bytes_] = np.empty(0, dtype=f"S{_WIDTH}")
        self._added: list[bytes] = []

    def add(self, ids: Iterable[PointId]) -> None:
        """These have a row, or the stream has written them."""
        for identity in ids:
            key = order_key(identity)
            if key > self._above and (self._upto is None or key <= self._upto):
                self._added.append(key)
        if len(self._added) >= self._capacity:
            self._merge()

    @property
    def complete(self) -> bool:
        """Whether no pass is needed after this one."""
        self._merge()
        return self._upto is None

    @property
    def upto(self) -> PointId | None:
        """The last id of this pass; None if it is complete."""
        if self.complete or self._upto is None:
            return None
        if self._upto[0] == 0:
            return int.from_bytes(self._upto[1:], "big")
        return str(UUID(bytes=self._upto[1:]))

    def covers(self, identity: PointId) -> bool:
        """Whether the id belongs to this pass, not to a later one."""
        return self._upto is None or order_key(identity) <= self._upto

    def unknown(self, ids: Sequence[PointId]) -> list[PointId]:
        """Those of the ids that belong to this pass and are not known."""
        self._merge()
        found = []
        for identity in ids:
            key = order_key(identity)
            if key > self._above and self.covers(identity) and not self._has(key):
                found.append(identity)
        return found

    def _has(self, key: bytes) -> bool:
        # numpy drops zero bytes at the end, of both sides alike.
        place = int(np.searchsorted(self._sorted, np.bytes_(key)))
        return place < len(self._sorted) and bytes(self._sorted[place]) == key.rstrip(b"\0")

    def _merge(self) -> None:
        """Sort what was added into the rest; cut it at the capacity."""
        if not self._added:
            return
        new = np.array(self._added, dtype=f"S{_WIDTH}")
        self._added.clear()
        merged = np.unique(np.concatenate([self._sorted, new]))
        if len(merged) > self._capacity:
            merged = merged[: self._capacity].copy()
            self._upto = bytes(merged[-1]).ljust(_WIDTH, b"\0")
        self._sorted = merged
