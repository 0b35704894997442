"""Patches that are not waited for one by one, and the proof that none of them was lost.

An operation that waits costs a server about a quarter of a millisecond of its log's flushing, and
patches are one operation a point. So a group of them goes out with `wait=false`, and then, in this order:

    1. every answer is awaited: each operation was accepted, under a number of the shard's log
    2. a fence: an operation that waits, and reaches the shard whatever its filter finds (nothing). A
       shard applies its log in order, and a wait flushes it: when the fence is answered, all before
       it were applied and lie on disk (facts/qdrant.md, Costs)
    3. the fence's number follows the group's highest at once. A server that lost the end of its log
       in between (a power cut) numbers on from what it has left, whatever became of the connection
    4. the collection is not in a failed state, and has one shard and one replica as before
    5. an exact count finds each of the points: an operation on a missing one fails without a word

Anything else, and any error, means that nothing is known, and the patches are sent again, each waited
for. By then nothing of the group is under way any more, so it cannot overtake what comes after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from bridge.errors import BridgeError, Unreachable
from bridge.failpoints import failpoint
from bridge.plan import Patch
from bridge.point_ids import PointId
from bridge.qdrant.target import CollectionState
from bridge.qdrant.wire_updates import encode_patches

REQUESTS_IN_FLIGHT = 4


class Accepted(Protocol):
    """A batch in flight."""

    def result(self) -> list[int]:
        """The numbers of its operations."""


class Server(Protocol):
    """What a group needs of the server."""

    def send_unwaited(self, request: bytes) -> Accepted:
        """Begin an UpdateBatch that does not wait."""

    def fence(self, collection: str) -> int:
        """An operation that waits and changes nothing; its number."""

    def count_of(self, collection: str, ids: Sequence[PointId]) -> int:
        """How many of the points there are, exactly."""

    def collection(self, name: str) -> CollectionState | None:
        """The collection as it is now."""


def has_one_log(state: CollectionState | None) -> bool:
    """Whether all operations of a collection lie in one log, which is what the proof rests on."""
    return state is not None and state.shards == 1 and state.replication_factor == 1


class ServerPatchGroup:
    """See the module. Patches of one group have distinct points."""

    def __init__(
        self,
        server: Server,
        collection: str,
        *,
        ordering: str,
        doubted: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = server
        self._collection = collection
        self._ordering = ordering
        self._doubted = doubted
        self._flying: deque[Accepted] = deque()
        self._ids: list[PointId] = []
        self._operations: list[int] = []

    def add(self, patches: Sequence[Patch]) -> None:
        """Begin to write some patches; waits for an earlier request when enough are in flight."""
        request = encode_patches(self._collection, patches, ordering=self._ordering, wait=False)
        while len(self._flying) >= REQUESTS_IN_FLIGHT:
            self._settle(self._flying.popleft())
        self._ids += [patch.id for patch in patches]
        self._flying.append(self._server.send_unwaited(request))

    def settle(self) -> None:
        """Wait until everything that was sent is accepted: step 1."""
        while self._flying:
            self._settle(self._flying.popleft())

    def confirm(self) -> None:
        """Return once every patch is durable; raises if that cannot be shown."""
        self.settle()
        if not self._ids:
            return
        failpoint("sync.before_fence")
        number = self._server.fence(self._collection)
        if number != max(self._operations) + 1:
            raise _unproven("the log was numbered anew in between")
        state = self._server.collection(self._collection)
        if not has_one_log(state) or state is None or state.status == "red":
            self._doubted()
            raise _unproven("the collection is not as it was")
        if self._server.count_of(self._collection, self._ids) != len(self._ids):
            raise _unproven("some of the points are missing")

    def abandon(self) -> None:
        """Wait until nothing is under way; what became of it does not matter any more."""
        while self._flying:
            try:
                self._flying.popleft().result()
            except BridgeError:
                continue  # the patches are sent again whatever this one met

    def _settle(self, accepted: Accepted) -> None:
        numbers = accepted.result()
        if not numbers:
            raise _unproven("the server told no numbers of its log")
        self._operations += numbers


def _unproven(reason: str) -> Unreachable:
    return Unreachable(f"it is not known whether Qdrant has applied some patches: {reason}")
