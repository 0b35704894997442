"""A target with something before and after each write: the lease looked at, the time measured.

Reads pass. `before` may raise: of a write that is only begun (`send`) the error comes with its result,
where errors of requests are expected, so that an outage is retried and not a reason to give up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from bridge.collection_spec import CollectionSpec, IndexKind
from bridge.errors import BridgeError
from bridge.plan import Patch, Point, Vector
from bridge.point_ids import PointId
from bridge.qdrant.target import (
    CollectionState,
    Hit,
    PatchGroup,
    Pending,
    Target,
    WriteMode,
)

T = TypeVar("T")


class GuardedTarget:
    """`target.Target` over another one. `after` hears each write's kind and seconds, if it succeeded."""

    def __init__(
        self,
        inner: Target,
        *,
        before: Callable[[], None] = lambda: None,
        held_until: int | None = None,
        after: Callable[[str, float], None] = lambda kind, seconds: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._inner = inner
        self._before = before
        self._after = after
        self._clock = clock
        # The descriptor by which processes that write for this one look whether they may.
        self.held_until = held_until

    def observed_by(self, after: Callable[[str, float], None]) -> GuardedTarget:
        """The same target under the same guard, its writes told to somebody else."""
        return GuardedTarget(
            self._inner,
            before=self._before,
            held_until=self.held_until,
            after=after,
            clock=self._clock,
        )

    def _write(self, kind: str, action: Callable[[], T]) -> T:
        self._before()
        began = self._clock()
        result = action()
        self._after(kind, self._clock() - began)
        return result

    # --- writes --------------------------------------------------------------------------------

    def upsert(
        self, collection: str, points: Sequence[Point], *, mode: WriteMode = "upsert"
    ) -> None:
        self._write("upsert", lambda: self._inner.upsert(collection, points, mode=mode))

    def replace(
        self, collection: str, points: Sequence[Point], *, matching: Mapping[str, str]
    ) -> None:
        self._write("upsert", lambda: self._inner.replace(collection, points, matching=matching))

    def send(self, request: bytes) -> Pending:
        return self._begin("upsert", self._inner.send, request)

    def send_fields(self, request: bytes) -> Pending:
        return self._begin("fields", self._inner.send_fields, request)

    def _begin(self, kind: str, send: Callable[[bytes], Pending], request: bytes) -> Pending:
        try:
            self._before()
        except BridgeError as error:
            return _Failed(error)
        began = self._clock()
        pending = send(request)
        return _Timed(pending, lambda: self._after(kind, self._clock() - began))

    def patch(self, collection: str, patches: Sequence[Patch]) -> None:
        self._write("patch", lambda: self._inner.patch(collection, patches))

    def patch_group(self, collection: str) -> PatchGroup | None:
        group = self._inner.patch_group(collection)
        if group is None:
            return None
        return _GuardedGroup(group, self._before, self._after, self._clock)

    def delete(self, collection: str, ids: Sequence[PointId]) -> None:
        self._write("delete", lambda: self._inner.delete(collection, ids))

    def clear(self, collection: str) -> None:
        self._write("clear", lambda: self._inner.clear(collection))

    def create_collection(self, spec: CollectionSpec, *, replication_factor: int = 1) -> None:
        self._write(
            "collection",
            lambda: self._inner.create_collection(spec, replication_factor=replication_factor),
        )

    def create_payload_index(self, collection: str, path: str, kind: IndexKind) -> None:
        self._write("collection", lambda: self._inner.create_payload_index(collection, path, kind))

    def delete_collection(self, name: str) -> None:
        self._write("collection", lambda: self._inner.delete_collection(name))

    def set_indexing_threshold(self, collection: str, kilobytes: int) -> None:
        self._write("collection", lambda: self._inner.set_indexing_threshold(collection, kilobytes))

    # --- reads ---------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        return self._inner.label

    def check(self) -> str:
        return self._inner.check()

    def collection(self, name: str) -> CollectionState | None:
        return self._inner.collection(name)

    def collections(self) -> list[str]:
        return self._inner.collections()

    def optimize(self, collection: str) -> bool:
        return self._inner.optimize(collection)

    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        return self._inner.existing(collection, ids)

    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]:
        return self._inner.retrieve(collection, ids, with_vectors=with_vectors)

    def scroll(
        self,
        collection: str,
        *,
        after: PointId | None = None,
        limit: int = 1000,
        matching: Mapping[str, str] | None = None,
        with_payload: bool = True,
        with_vectors: bool = False,
    ) -> tuple[list[Point], PointId | None]:
        return self._inner.scroll(
            collection,
            after=after,
            limit=limit,
            matching=matching,
            with_payload=with_payload,
            with_vectors=with_vectors,
        )

    def count(self, collection: str) -> int:
        return self._inner.count(collection)

    def search(
        self,
        collection: str,
        vector_name: str,
        query: Vector,
        *,
        limit: int = 10,
        exact: bool = False,
    ) -> list[Hit]:
        return self._inner.search(collection, vector_name, query, limit=limit, exact=exact)

    def scores(
        self, collection: str, vector_name: str, query: Vector, ids: Sequence[PointId]
    ) -> dict[PointId, float]:
        return self._inner.scores(collection, vector_name, query, ids)

    def flush(self) -> None:
        self._inner.flush()

    def close(self) -> None:
        self._inner.close()


class _GuardedGroup:
    """A group whose requests are guarded one by one, and timed as one write."""

    def __init__(
        self,
        inner: PatchGroup,
        before: Callable[[], None],
        after: Callable[[str, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._before = before
        self._after = after
        self._clock = clock
        self._began = clock()

    def add(self, patches: Sequence[Patch]) -> None:
        self._before()
        self._inner.add(patches)

    def confirm(self) -> None:
        self._before()
        self._inner.confirm()
        self._after("patches", self._clock() - self._began)

    def abandon(self) -> None:
        self._inner.abandon()


class _Failed:
    """A write that was not begun."""

    __slots__ = ("_error",)

    def __init__(self, error: BridgeError) -> None:
        self._error = error

    def result(self) -> None:
        raise self._error


class _Timed:
    """A write in flight whose end is told."""

    __slots__ = ("_done", "_pending")

    def __init__(self, pending: Pending, done: Callable[[], None]) -> None:
        self._pending = pending
        self._done = done

    def result(self) -> None:
        self._pending.result()
        self._done()
