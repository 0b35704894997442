"""Every target in turn, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bridge.qdrant.target import Target
from tests.contract.places import (
    PLACES,
    QDRANT_URL,
    Place,
    edge_place,
    edge_socket_place,
    fake_server_place,
    real_server_place,
)
from tests.support.qdrant_server import QdrantServer


@pytest.fixture(scope="module")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """One test server for all: the tests' collections keep them apart, as on a real one."""
    with QdrantServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(params=PLACES)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, fake_server: QdrantServer
) -> Iterator[Place]:
    with ExitStack() as stack:
        places = {
            "edge": lambda: edge_place(tmp_path),
            "edge-socket": lambda: edge_socket_place(tmp_path),
            "test-server": lambda: fake_server_place(fake_server),
            "qdrant": lambda: real_server_place(QDRANT_URL),
        }
        opened: Place = stack.enter_context(places[request.param]())
        try:
            yield opened
        finally:
            for name in opened.names:
                opened.target.delete_collection(name)
            opened.target.close()


@pytest.fixture
def target(place: Place) -> Target:
    return place.target
