"""Where a backfill goes in the tests: the test server, an edge directory, a real server.

A `Place` gives the url for the command and reads back what arrived, by the stock client or the stock
Edge library, never through `bridge`. The real server is the one in `QDRANT_URL`; what a test leaves
there (its collections, their records in `_qdrant_bridge`) goes when the place is closed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import uuid4

import numpy as np
import qdrant_edge
from qdrant_client import QdrantClient, models

from tests.support.comparison import SparseVector, Stored, StoredPoint, Vector
from tests.support.qdrant_server import QdrantServer
from tests.support.stock_client import connect

REAL: Final = os.environ.get("QDRANT_URL")
TEST_SERVER, EDGE, REAL_SERVER = "test server", "edge", "real server"
SERVERS: Final = (TEST_SERVER, REAL_SERVER) if REAL else (TEST_SERVER,)
PLACES: Final = (*SERVERS, EDGE)
STATE: Final = "_qdrant_bridge"
_PAGE: Final = 1000
_numbers = itertools.count(1)


class Place:
    """A target: `url` for the command; `points`, `records` and the rest for the test."""

    url: str

    def name(self, stem: str = "docs") -> str:
        """A collection's name that nothing else uses."""
        return f"{stem}_{uuid4().hex[:10]}_{next(_numbers)}"

    def points(self, collection: str) -> Stored:
        """Every point, with vectors."""
        raise NotImplementedError

    def count(self, collection: str) -> int:
        """The exact number of points."""
        raise NotImplementedError

    def exists(self, collection: str) -> bool:
        """Whether the collection is there."""
        raise NotImplementedError

    def records(self, pipeline: str, kind: str) -> dict[str, Any]:
        """The bridge's records of one kind, by name."""
        if not self.exists(STATE):
            return {}
        payloads = [point.payload for point in self.points(STATE).values()]
        return {
            payload["name"]: payload["record"]
            for payload in payloads
            if (payload["pipeline"], payload["kind"]) == (pipeline, kind)
        }

    def close(self) -> None:
        """Leave nothing behind."""


class ServerPlace(Place):
    """A server, read by the stock client. `server` is the test server, if it is that."""

    def __init__(self, url: str, server: QdrantServer | None = None) -> None:
        self.url = url
        self.server = server
        address = urlsplit(url)
        self.client: QdrantClient = connect(address.port or 6334, address.hostname or "127.0.0.1")
        self._named: list[str] = []

    def name(self, stem: str = "docs") -> str:
        made = super().name(stem)
        self._named.append(made)
        return made

    def points(self, collection: str) -> Stored:
        found: dict[int | str, StoredPoint] = {}
        following: Any = None
        while True:
            records, following = self.client.scroll(
                collection, limit=_PAGE, offset=following, with_vectors=True
            )
            found.update(map(_stored, records))
            if following is None:
                return found

    def some_points(self, collection: str, ids: Sequence[int]) -> Stored:
        """Those of these points that there are, with vectors."""
        found: dict[int | str, StoredPoint] = {}
        for start in range(0, len(ids), _PAGE):
            some = ids[start : start + _PAGE]
            found.update(map(_stored, self.client.retrieve(collection, some, with_vectors=True)))
        return found

    def count(self, collection: str) -> int:
        return self.client.count(collection, exact=True).count

    def exists(self, collection: str) -> bool:
        return self.client.collection_exists(collection)

    def records(self, pipeline: str, kind: str) -> dict[str, Any]:
        if not self.exists(STATE):
            return {}
        found, _ = self.client.scroll(STATE, scroll_filter=_mine(pipeline, kind), limit=10_000)
        return {
            record.payload["name"]: record.payload["record"]
            for record in found
            if record.payload is not None
        }

    def threshold(self, collection: str) -> int | None:
        """The indexing threshold in force."""
        return self.client.get_collection(collection).config.optimizer_config.indexing_threshold

    def close(self) -> None:
        if self.server is None:
            for name in self._named:
                self.client.delete_collection(name)
            if self._named and self.exists(STATE):
                self.client.delete(
                    STATE, points_selector=models.FilterSelector(filter=self._left())
                )
        self.client.close()

    def _left(self) -> models.Filter:
        """The records of everything that this place named."""
        conditions = [_keyword("pipeline", self._named), _keyword("name", self._named)]
        return models.Filter(should=list(conditions))


class EdgePlace(Place):
    """A directory, read by the Edge library while no command has it open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"edge://{directory}"

    def points(self, collection: str) -> Stored:
        found: dict[int | str, StoredPoint] = {}
        following: Any = None
        shard = self._open(collection)
        try:
            while True:
                request = qdrant_edge.ScrollRequest(
                    offset=following, limit=_PAGE, with_payload=True, with_vector=True
                )
                records, following = shard.scroll(request)
                for record in records:
                    identity = record.id if isinstance(record.id, int) else str(record.id)
                    found[identity] = StoredPoint(
                        payload=record.payload or {}, vectors=_vectors(record.vector)
                    )
                if following is None:
                    return found
        finally:
            shard.close()

    def count(self, collection: str) -> int:
        shard = self._open(collection)
        try:
            return int(shard.count(qdrant_edge.CountRequest(exact=True)))
        finally:
            shard.close()

    def exists(self, collection: str) -> bool:
        return (self._path(collection) / "edge_config.json").exists()

    def _path(self, collection: str) -> Path:
        return self.directory / "collections" / quote(collection, safe="")

    def _open(self, collection: str) -> qdrant_edge.EdgeShard:
        return qdrant_edge.EdgeShard.load(str(self._path(collection)))


@contextmanager
def open_place(kind: str, directory: Path) -> Iterator[Place]:
    """A place of one of the kinds in `PLACES`; what it needs on disk goes to `directory`."""
    if kind == EDGE:
        yield EdgePlace(directory / "edge")
    elif kind == TEST_SERVER:
        with open_server(directory) as server:
            yield server
    else:
        real = ServerPlace(REAL or "")
        try:
            yield real
        finally:
            real.close()


@contextmanager
def open_server(directory: Path) -> Iterator[ServerPlace]:
    """The test server, with `server` for faults."""
    with QdrantServer(directory / "qdrant") as server:
        place = ServerPlace(server.url, server)
        try:
            yield place
        finally:
            place.close()


def _keyword(key: str, values: list[str]) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchAny(any=values))


def _mine(pipeline: str, kind: str) -> models.Filter:
    return models.Filter(must=[_keyword("pipeline", [pipeline]), _keyword("kind", [kind])])


def _stored(record: models.Record) -> tuple[int | str, StoredPoint]:
    assert isinstance(record.id, int | str)
    return record.id, StoredPoint(payload=record.payload or {}, vectors=_vectors(record.vector))


def _vectors(stored: Any) -> dict[str, Vector]:
    if stored is None:
        return {}
    named = stored if isinstance(stored, dict) else {"": stored}
    return {name: _vector(vector) for name, vector in named.items()}


def _vector(vector: Any) -> Vector:
    if isinstance(vector, models.SparseVector | qdrant_edge.SparseVector):
        return SparseVector(values=dict(zip(vector.indices, vector.values, strict=True)))
    return np.array(vector, dtype=np.float32)
