"""An edge directory that another process has open, as a target: it is asked on the socket there.

What a client can do is what `edge_answers.py` gives: read, and write the bridge's own records. A write
to any other collection is refused here already, since one process writes. Reads come in pieces of which
each is asked for by a request of its own; a page of `scroll` may be shorter than its limit.

    EdgeTarget(directory)                 this process has it open
    EdgeClient(directory)                 another one has, and is asked; Unreachable if none does (any more)
    EdgeClient(directory, visits=True)    as that; where nobody has it open, this process opens it for
                                          the time of one request, so that whoever wants to hold it can
    hold(directory)                       the first, once visitors have gone
    hold_or_join(directory)               the first if that can be, else the second

How it is asked, and what becomes of it if the other process ends: `edge_line.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bridge.collection_spec import CollectionSpec, IndexKind
from bridge.errors import UsageError
from bridge.plan import Buffer, Multi, Patch, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant.edge import DoneUpsert, EdgeTarget
from bridge.qdrant.edge_answers import SLICE_IDS, only_its_holder
from bridge.qdrant.edge_claim import DirectoryInUse
from bridge.qdrant.edge_codec import (
    VERSION,
    Frame,
    PointsOut,
    decode_whole,
    encode,
    malformed,
    read_collection,
    read_error,
    read_id,
    read_points,
)
from bridge.qdrant.edge_line import PATIENCE_SECONDS, POLL_SECONDS, Line, NotServed, is_served
from bridge.qdrant.target import STATE_COLLECTION, CollectionState, Hit, WriteMode

TIMEOUT_SECONDS = 60.0

_PAGE_IDS = 10_000


def hold(directory: Path) -> EdgeTarget:
    """Open the directory for this process. DirectoryInUse if another one keeps it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return EdgeTarget(directory)
        except DirectoryInUse:
            if is_served(directory) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def hold_or_join(
    directory: Path, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> EdgeTarget | EdgeClient:
    """Open the directory, or be a client of the process that has it open."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return EdgeTarget(directory)
        except DirectoryInUse as error:
            in_use = error
        client = EdgeClient(directory, timeout_seconds=timeout_seconds)
        try:
            client.check()
            return client
        except NotServed:
            if time.monotonic() > deadline:
                raise in_use from None
        time.sleep(POLL_SECONDS)


class EdgeClient:
    """See the module. Safe for threads: one request at a time."""

    def __init__(
        self, directory: Path, *, timeout_seconds: float = TIMEOUT_SECONDS, visits: bool = False
    ) -> None:
        self._directory = directory
        self._line = Line(directory, timeout_seconds=timeout_seconds, visits=visits)

    @property
    def label(self) -> str:
        return f"edge://{self._directory}"

    def check(self) -> str:
        self._ask("hello", version=VERSION)
        return "edge"

    # --- reads ---------------------------------------------------------------------------------

    def collection(self, name: str) -> CollectionState | None:
        return read_collection(self._ask("collection", name=name).document.get("collection"))

    def collections(self) -> list[str]:
        return [str(name) for name in _list(self._ask("collections"), "names")]

    def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        found: set[PointId] = set()
        for start in range(0, len(ids), SLICE_IDS):
            some = list(ids[start : start + SLICE_IDS])
            answered = self._ask("existing", collection=collection, ids=some)
            found.update(read_id(identity) for identity in _list(answered, "ids"))
        return found

    def retrieve(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = False
    ) -> list[Point]:
        points: list[Point] = []
        done = 0
        while done < len(ids):
            some = list(ids[done : done + _PAGE_IDS])
            answered = self._ask(
                "retrieve", collection=collection, ids=some, with_vectors=with_vectors
            )
            points += read_points(answered.document.get("points"), answered.blobs)
            done += _number(answered, "answered")
        return points

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
        answered = self._ask(
            "scroll",
            collection=collection,
            after=after,
            limit=limit,
            matching=dict(matching or {}),
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        following = answered.document.get("following")
        points = read_points(answered.document.get("points"), answered.blobs)
        return points, None if following is None else read_id(following)

    def count(self, collection: str) -> int:
        found = self._ask("count", collection=collection).document.get("count")
        if not isinstance(found, int):
            raise malformed("a count is no number")
        return found

    def search(
        self,
        collection: str,
        vector_name: str,
        query: Vector,
        *,
        limit: int = 10,
        exact: bool = False,
    ) -> list[Hit]:
        if isinstance(query, Sparse | Multi):
            raise TypeError("a search takes a dense vector")
        answered = self._ask(
            "search", [query], collection=collection, vector=vector_name, limit=limit, exact=exact
        )
        return [_hit(item) for item in _list(answered, "hits")]

    def scores(
        self, collection: str, vector_name: str, query: Vector, ids: Sequence[PointId]
    ) -> dict[PointId, float]:
        if isinstance(query, Sparse | Multi):
            raise TypeError("scores are of a dense vector")
        found: dict[PointId, float] = {}
        for start in range(0, len(ids), SLICE_IDS):
            some = list(ids[start : start + SLICE_IDS])
            answered = self._ask(
                "scores", [query], collection=collection, vector=vector_name, ids=some
            )
            found.update(_score(pair) for pair in _list(answered, "scores"))
        return found

    # --- writes of records ---------------------------------------------------------------------

    def upsert(
        self, collection: str, points: Sequence[Point], *, mode: WriteMode = "upsert"
    ) -> None:
        self._write("upsert", collection, points, mode=mode)

    def replace(
        self, collection: str, points: Sequence[Point], *, matching: Mapping[str, str]
    ) -> None:
        self._write("replace", collection, points, matching=dict(matching))

    def _write(
        self, request: str, collection: str, points: Sequence[Point], **arguments: Any
    ) -> None:
        self._require_records(collection)
        out = PointsOut()
        out.add(points)
        self._ask(request, out.blobs, collection=collection, points=out.document, **arguments)

    def delete(self, collection: str, ids: Sequence[PointId]) -> None:
        self._require_records(collection)
        self._ask("delete", collection=collection, ids=list(ids))

    def flush(self) -> None:
        """Nothing to do: the holder flushes what it writes for others before it answers."""

    def set_indexing_threshold(self, collection: str, kilobytes: int) -> None:
        """Nothing to do, as for the holder."""

    # --- writes that are the holder's alone ----------------------------------------------------

    def _require_records(self, collection: str) -> None:
        if collection != STATE_COLLECTION:
            raise self._only_its_holder()

    def _only_its_holder(self) -> UsageError:
        return only_its_holder(self.label, self._line.holder)

    def create_collection(self, spec: CollectionSpec, *, replication_factor: int = 1) -> None:
        raise self._only_its_holder()

    def create_payload_index(self, collection: str, path: str, kind: IndexKind) -> None:
        raise self._only_its_holder()

    def delete_collection(self, name: str) -> None:
        raise self._only_its_holder()

    def optimize(self, collection: str) -> bool:
        raise self._only_its_holder()

    def send(self, request: bytes) -> DoneUpsert:
        return DoneUpsert(self._only_its_holder())

    def send_fields(self, request: bytes) -> DoneUpsert:
        return DoneUpsert(self._only_its_holder())

    def patch(self, collection: str, patches: Sequence[Patch]) -> None:
        raise self._only_its_holder()

    def patch_group(self, collection: str) -> None:
        """None, as for the holder."""

    def clear(self, collection: str) -> None:
        raise self._only_its_holder()

    # --- asking --------------------------------------------------------------------------------

    def close(self) -> None:
        self._line.close()

    def _ask(self, request: str, blobs: Sequence[Buffer] = (), **arguments: Any) -> Frame:
        """The answer, once it is here; raises the error that it is."""
        answered = decode_whole(self._line.ask(encode({"request": request, **arguments}, blobs)))
        if "error" in answered.document:
            raise read_error(answered.document["error"])
        return answered


def _list(frame: Frame, name: str) -> list[Any]:
    value = frame.document.get(name)
    if not isinstance(value, list):
        raise malformed(f"{name} are no list")
    return value


def _number(frame: Frame, name: str) -> int:
    """Above 0: a loop counts on it."""
    value = frame.document.get(name)
    if not isinstance(value, int) or value < 1:
        raise malformed(f"{name} is no number above 0")
    return value


def _score(pair: object) -> tuple[PointId, float]:
    match pair:
        case [identity, int() | float() as score]:
            return read_id(identity), float(score)
    raise malformed("a score is not [id, score]")


def _hit(item: object) -> Hit:
    match item:
        case [identity, int() | float() as score, dict(payload)]:
            return Hit(
                id=read_id(identity), score=float(score), payload=cast("dict[str, object]", payload)
            )
    raise malformed("a hit is not [id, score, payload]")
