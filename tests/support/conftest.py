"""Servers for the tests of the test server.

Its behaviour is tested on a real Qdrant as well if `QDRANT_URL` names one (`http://host:6334`, the
gRPC port; the collections in `stock_client.COLLECTIONS` are deleted there).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client.grpc import points_service_pb2_grpc

from tests.support.qdrant_server import QdrantServer
from tests.support.stock_client import COLLECTIONS, connect

REAL = os.environ.get("QDRANT_URL")


@pytest.fixture(params=["test server", "real server"] if REAL else ["test server"])
def address(request: pytest.FixtureRequest) -> tuple[str, int]:
    """Host and gRPC port of a server that behaves as Qdrant does."""
    if request.param == "test server":
        server: QdrantServer = request.getfixturevalue("qdrant_server")
        return "127.0.0.1", server.port
    url = urlsplit(REAL or "")
    return url.hostname or "127.0.0.1", url.port or 6334


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[QdrantClient]:
    """The stock client on an `address` without the tests' collections."""
    host, port = address
    stock = connect(port, host)
    for name in COLLECTIONS:
        stock.delete_collection(name)
    yield stock
    for name in COLLECTIONS:
        stock.delete_collection(name)
    stock.close()


@pytest.fixture
def channel(address: tuple[str, int]) -> Iterator[grpc.Channel]:
    """The bare channel: nothing between the test and the wire."""
    host, port = address
    with grpc.insecure_channel(f"{host}:{port}") as bare:
        yield bare


@pytest.fixture
def points(channel: grpc.Channel) -> Any:
    """The bare stub of the Points service."""
    stub: Any = points_service_pb2_grpc
    return stub.PointsStub(channel)
