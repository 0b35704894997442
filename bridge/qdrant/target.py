"""The protocol of a place that points are written to, and read back from.

`server.py` (gRPC) and `edge.py` (embedded) implement it; `tests/contract` is the suite that both, and
any further target, must pass. What every target promises:

- a method that returns has done its work durably: the target has confirmed it (`flush` first, for
  the embedded engine, before anything is recorded as done);
- errors are those of `bridge.errors`: `Unreachable` and `RateLimited` may be tried again and change
  nothing if they already happened, `Rejected` is about the points themselves, `StopError` with
  `TARGET_CHANGED` means that the collection is not there any more;
- points of one request have distinct ids; requests in flight at once have disjoint ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bridge.collection_spec import CollectionSpec, IndexKind, VectorSpec
from bridge.plan import Patch, Point, Vector
from bridge.point_ids import PointId

STATE_COLLECTION = "_qdrant_bridge"
"""Reserved for the bridge's own records; never a table's collection."""

WriteMode = Literal["upsert", "insert_only"]
Status = Literal["green", "yellow", "grey", "red"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionState:
    """A collection as the target has it.

    `indexing_threshold` in kilobytes, 0 when indexing is off; `points` is the target's own estimate,
    `count` is exact.
    """

    name: str
    vectors: tuple[VectorSpec, ...]
    payload_indexes: Mapping[str, IndexKind] = field(default_factory=dict)
    status: Status = "green"
    indexing_threshold: int | None = None
    points: int = 0
    indexed_vectors: int = 0
    replication_factor: int = 1
    shards: int = 1
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer of a search, best first."""

    id: PointId
    score: float
    payload: Mapping[str, object]


class Pending(Protocol):
    """A write in flight."""

    def result(self) -> None:
        """Wait until it is durable; raises what it failed with."""


class PatchGroup(Protocol):
    """Patches that are confirmed together, which is many times as fast. After `confirm` has returned
    they are durable; if anything was raised, nothing is known, `abandon` must be called, and they
    are to be sent again by `patch`."""

    def add(self, patches: Sequence[Patch]) -> None:
        """Begin to write some; their points exist, and are in no other patch of the group."""

    def confirm(self) -> None:
        """Wait until all of them are durable."""

    def abandon(self) -> None:
        """Wait until none of them is under way."""


class Target(Protocol):
    """See the module's docstring for what holds of every method."""

    @property
    def label(self) -> str:
        """Where it is, for messages: a URL without secrets."""

    def check(self) -> str:
        """The target's version. UsageError if it is not usable as it is, Unreachable if not there."""

    def collection(self, name: str) -> CollectionState | None:
        """The collection, or None."""

    def collections(self) -> list[str]:
        """Names of all collections, the reserved one included."""

    def create_collection(self, spec: CollectionSpec, *, replication_factor: int = 1) -> None:
        """Create it with its payload indexes; nothing happens if it is there already."""

    def create_payload_index(self, collection: str, path: str, kind: IndexKind) -> None:
        """Create the index; nothing happens if it is there already."""

    def delete_collection(self, name: str) -> None:
        """Delete it; nothing happens if it is not there."""

    def set_indexing_threshold(self, collection: str, kilobytes: int) -> None:
        """Set it; 0 switches indexing off."""

    def optimize(self, collection: str) -> bool:
        """Whether nothing is left to be indexed; an embedded target does the work now."""

    def upsert(
        self, collection: str, points: Sequence[Point], *, mode: WriteMode = "upsert"
    ) -> None:
        """Write whole points; with `insert_only`, those that exist stay as they are."""

    def replace(
        self, collection: str, points: Sequence[Point], *, matching: Mapping[str, str]
    ) -> None:
        """Write those points that exist and whose payload fields equal these texts; compared and
        written in one step. The others stay as they are, and none is made."""

    def send(self, request: bytes) -> Pending:
        """Begin an Upsert that `wire.encode_upsert` has made."""

    def send_fields(self, request: bytes) -> Pending:
        """Begin an UpdateBatch that `wire_fields.encode_field_updates` has made: fields of points
        are set, and missing points made of them."""

    def patch(self, collection: str, patches: Sequence[Patch]) -> None:
        """Change points that exist, each at most once. `Rejected` if one is missing: some of the
        others may be changed by then, and to try again does no harm."""

    def patch_group(self, collection: str) -> PatchGroup | None:
        """A new group; None if this target or collection cannot confirm one."""

    def delete(self, collection: str, ids: Sequence[PointId]) -> None:
        """Remove points; missing ones are no error."""

    def clear(self, collection: str) -> None:
        """Remove every point; the collection stays."""

    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        """Those of the ids that have a point."""

    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]:
        """Those of the points that exist, in any order, payload included."""

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
        """A page in the order of ids, and where the next one begins (None: this was the last).

        `matching`: only points whose payload fields equal these texts.
        """

    def count(self, collection: str) -> int:
        """The exact number of points."""

    def search(
        self,
        collection: str,
        vector_name: str,
        query: Vector,
        *,
        limit: int = 10,
        exact: bool = False,
    ) -> list[Hit]:
        """The nearest points by the named vector, with payload; `exact`: without the index."""

    def scores(
        self, collection: str, vector_name: str, query: Vector, ids: Sequence[PointId]
    ) -> dict[PointId, float]:
        """The exact scores of these points by the named vector; those that lack it are absent.

        Of the vectors themselves, not of what quantization made of them.
        """

    def flush(self) -> None:
        """Make everything written so far survive a power loss."""

    def close(self) -> None:
        """Let go of connections and files. The target cannot be used afterwards."""
