"""The stock client and what tests of a Qdrant server say with it again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import pytest
from qdrant_client import QdrantClient, models

# The collections that `plain`, `all_kinds` and the tests themselves make.
COLLECTIONS: Final = ("plain", "kinds", "bare", "a", "b")


def connect(port: int, host: str = "127.0.0.1") -> QdrantClient:
    """The stock client, over gRPC."""
    return QdrantClient(
        url=f"http://{host}:{port}",
        grpc_port=port,
        prefer_grpc=True,
        check_compatibility=False,
        timeout=30,
    )


def raw(channel: grpc.Channel, method: str) -> Any:
    """A call with bytes in and bytes out."""
    anything: Any = channel
    return anything.unary_unary(method)


@contextmanager
def refused(code: grpc.StatusCode, text: str = "") -> Iterator[None]:
    """The block must end in this gRPC status, with this text in its message."""
    with pytest.raises(grpc.RpcError) as raised:
        yield
    error: Any = raised.value
    assert error.code() == code, error.details()
    assert text in error.details()


def plain(client: QdrantClient, name: str = "plain", size: int = 2) -> None:
    """A collection with the default vector alone."""
    client.create_collection(
        name, vectors_config=models.VectorParams(size=size, distance=models.Distance.DOT)
    )


def all_kinds(client: QdrantClient) -> None:
    """The collection `kinds`, with a vector of every kind that the bridge writes."""
    client.create_collection(
        "kinds",
        vectors_config={
            "dense": models.VectorParams(size=2, distance=models.Distance.COSINE),
            "half": models.VectorParams(
                size=2, distance=models.Distance.EUCLID, datatype=models.Datatype.FLOAT16
            ),
            "bits": models.VectorParams(
                size=3, distance=models.Distance.MANHATTAN, datatype=models.Datatype.UINT8
            ),
            "many": models.VectorParams(
                size=2,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
            ),
        },
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )


def point(identifier: int | str, **payload: Any) -> models.PointStruct:
    """A point for `plain`."""
    return models.PointStruct(id=identifier, vector=[1.0, 2.0], payload=payload)


def payloads(client: QdrantClient, name: str = "plain") -> dict[Any, Any]:
    """Every payload by id, in the order of ids."""
    records, _ = client.scroll(name, limit=1000)
    return {record.id: record.payload for record in records}
