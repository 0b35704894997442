"""The targets under test, and what the tests of the suite write and read."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from bridge.collection_spec import (
    CollectionSpec,
    Datatype,
    Distance,
    IndexKind,
    VectorSpec,
)
from bridge.plan import Point, Vector
from bridge.point_ids import PointId
from bridge.qdrant.channel import endpoint
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.edge_client import EdgeClient
from bridge.qdrant.edge_socket import EdgeSocket
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.target import STATE_COLLECTION, Target
from tests.support.qdrant_server import QdrantServer

# --- the targets ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Place:
    """A target under test. `reopen` ends it and opens it again, as another process would."""

    target: Target
    open: Callable[[], Target]
    restart: Callable[[], None] = lambda: None
    names: list[str] = field(default_factory=list)

    def name(self, text: str = "docs") -> str:
        """A collection name that nobody else has; deleted at the end."""
        self.names.append(f"{text}_{uuid.uuid4().hex[:12]}")
        return self.names[-1]

    def create(self, *vectors: VectorSpec, name: str | None = None, **indexes: IndexKind) -> str:
        """A new collection of these vectors and payload indexes; its name."""
        spec = CollectionSpec(
            name=name or self.name(), vectors=vectors, payload_indexes=dict(indexes)
        )
        self.target.create_collection(spec)
        return spec.name

    def reopen(self) -> Target:
        self.target.close()
        self.restart()
        self.target = self.open()
        return self.target


def _server(url: str) -> Target:
    return ServerTarget(endpoint(url, api_key=os.environ.get("QDRANT_API_KEY")))


@contextmanager
def edge_place(directory: Path) -> Iterator[Place]:
    def opened() -> Target:
        return EdgeTarget(directory / "edge")

    yield Place(opened(), opened)


class _Beside:
    """An edge directory as the processes beside its holder see it: reads, and records, go through the
    socket; the rest is the holder's."""

    _READS = ("label", "check", "collection", "collections", "existing", "retrieve", "scroll", "count",
              "search", "scores")  # fmt: skip
    _RECORDS = ("upsert", "replace", "delete")

    def __init__(self, directory: Path) -> None:
        self._holder = EdgeTarget(directory)
        self._socket = EdgeSocket(directory, self._holder)
        self._socket.__enter__()
        self._client = EdgeClient(directory)

    def __getattr__(self, name: str) -> Any:
        if name in self._READS:
            return getattr(self._client, name)
        if name not in self._RECORDS:
            return getattr(self._holder, name)

        def write(collection: str, *arguments: Any, **options: Any) -> None:
            target = self._client if collection.startswith(STATE_COLLECTION) else self._holder
            getattr(target, name)(collection, *arguments, **options)

        return write

    def close(self) -> None:
        self._client.close()
        self._socket.close()
        self._holder.close()


@contextmanager
def edge_socket_place(directory: Path) -> Iterator[Place]:
    def opened() -> Target:
        return cast(Target, _Beside(directory / "edge"))

    yield Place(opened(), opened)


@contextmanager
def fake_server_place(server: QdrantServer) -> Iterator[Place]:
    def restart() -> None:
        server.stop()
        server.start()

    yield Place(_server(server.url), lambda: _server(server.url), restart)


@contextmanager
def real_server_place(url: str) -> Iterator[Place]:
    yield Place(_server(url), lambda: _server(url))


QDRANT_URL = os.environ.get("QDRANT_URL", "")
SERVERS = ["test-server", "qdrant"] if QDRANT_URL else ["test-server"]
PLACES = ["edge", "edge-socket", *SERVERS]

servers_only = pytest.mark.parametrize("place", SERVERS, indirect=True)


# --- values ---------------------------------------------------------------------------------------


DISTANCES: list[Distance] = ["cosine", "dot", "euclid", "manhattan"]


def buffer(*numbers: float) -> bytes:
    return np.array(numbers, dtype="<f4").tobytes()


def numbers(vector: Vector) -> list[float]:
    assert isinstance(vector, bytes | memoryview)
    found: list[float] = np.frombuffer(vector, dtype="<f4").tolist()
    return found


def dense(
    name: str = "v",
    *,
    dimension: int = 3,
    distance: Distance = "dot",
    datatype: Datatype = "float32",
    **more: Any,
) -> VectorSpec:
    return VectorSpec(
        name=name,
        shape="dense",
        distance=distance,
        dimension=dimension,
        datatype=datatype,
        **more,
    )


def sparse(name: str = "s") -> VectorSpec:
    return VectorSpec(name=name, shape="sparse", distance="dot")


def multi(name: str = "m", *, dimension: int = 2, distance: Distance = "dot") -> VectorSpec:
    return VectorSpec(name=name, shape="multi", distance=distance, dimension=dimension)


def fetch(target: Target, collection: str, identity: PointId) -> Point:
    """The point with its vectors; fails if it is not there."""
    (point,) = target.retrieve(collection, [identity], with_vectors=True)
    return point


def ids(points: list[Point]) -> list[PointId]:
    return [point.id for point in points]


def scroll_all(target: Target, collection: str, **options: Any) -> list[Point]:
    points: list[Point] = []
    following: PointId | None = None
    while True:
        page, following = target.scroll(collection, after=following, **options)
        points += page
        if following is None:
            return points
