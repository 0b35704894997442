"""Points read from a server as they are stored, several requests at a time.

Made of `channel.py` and `wire_points.py` alone, so that a worker process need not load `qdrant_client`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc

from bridge.errors import StopError
from bridge.plan import Buffer, Point
from bridge.point_ids import PointId
from bridge.qdrant.channel import Endpoint, metadata, open_channel, translate
from bridge.qdrant.wire_points import (
    decode_get,
    decode_scores,
    decode_scroll,
    encode_get,
    encode_scores,
    encode_scroll,
)

T = TypeVar("T")

GET = "/qdrant.Points/Get"
SCROLL = "/qdrant.Points/Scroll"
QUERY = "/qdrant.Points/Query"


class PendingRead(Generic[T]):
    """An answer on its way; `result` waits for it."""

    __slots__ = ("_call", "_decode", "_endpoint")

    def __init__(self, call: Any, place: Endpoint, decode: Callable[[bytes], T]) -> None:
        self._call = call
        self._endpoint = place
        self._decode = decode

    def result(self) -> T:
        """What was asked for; raises what the request failed with."""
        try:
            answer = self._call.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            raise translate(error, self._endpoint) from error
        try:
            return self._decode(answer)
        except ValueError as error:
            raise StopError(
                f"Qdrant at {self._endpoint.label} sent an answer that cannot be read: {error}",
                code="PROTOCOL",
                hint="is there a proxy in between that rewrites answers?",
            ) from None


class Reader:
    """One connection to a server."""

    def __init__(self, place: Endpoint) -> None:
        self._endpoint = place
        self._channel = open_channel(place)
        self._get = self._method(GET)
        self._scroll = self._method(SCROLL)
        self._query = self._method(QUERY)
        self._metadata = metadata(place)

    def _method(self, name: str) -> Any:
        return self._channel.unary_unary(name, request_serializer=None, response_deserializer=None)

    def get(
        self, collection: str, ids: Sequence[PointId], *, with_vectors: bool = True
    ) -> PendingRead[list[Point]]:
        """Begin to read those of the points that exist, payload included."""
        request = encode_get(collection, ids, with_vectors=with_vectors)
        return self._begin(self._get, request, decode_get)

    def scores(
        self, collection: str, vector_name: str, query: Buffer, ids: Sequence[PointId]
    ) -> PendingRead[dict[PointId, float]]:
        """Begin to score points, exactly; those without that vector will be absent."""
        request = encode_scores(collection, vector_name, query, ids)
        return self._begin(self._query, request, decode_scores)

    def scroll_ids(
        self, collection: str, *, after: PointId | None, limit: int
    ) -> PendingRead[tuple[list[Point], PointId | None]]:
        """Begin to read a page of points without payload and vectors, in the order of ids."""
        request = encode_scroll(collection, after=after, limit=limit)
        return self._begin(self._scroll, request, decode_scroll)

    def _begin(self, method: Any, request: bytes, decode: Callable[[bytes], T]) -> PendingRead[T]:
        timeout = self._endpoint.timeout_seconds
        call = method.future(request, metadata=self._metadata, timeout=timeout)
        return PendingRead(call, self._endpoint, decode)

    def close(self) -> None:
        """Close the connection; what is under way is cancelled."""
        self._channel.close()
