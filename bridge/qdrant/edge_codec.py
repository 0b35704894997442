"""What is said on the socket of an edge directory, as bytes. Pure.

A frame is two big-endian uint32 lengths, a JSON object (UTF-8) of the first length, and blobs, back to
back, of the second. A request names itself in the field `request`; an answer that is an error has the
field `error`. Points are arrays [id, vectors, payload]; of a vector the JSON says how long its buffers are,
and the blobs hold them in the order in which the JSON names them:

    {"dense": bytes}    {"sparse": [bytes of indices, bytes of values]}    {"multi": [dimension, bytes]}

Nothing but values of JSON and buffers is ever made of what was received. Whatever does not fit raises
StopError `PROTOCOL`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import orjson

from bridge import errors
from bridge.errors import BridgeError, RateLimited, Rejected, StopError
from bridge.plan import Buffer, Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant.edge_specs import vector_spec
from bridge.qdrant.target import CollectionState

VERSION = 1
"""Of the frames and of what may be asked; both sides must have the same."""

FRAME_LIMIT_BYTES = 512 * 1024 * 1024
"""A longer one is a mistake of whoever sends it: pages and requests are cut far below it."""

_HEADER = struct.Struct("!II")
HEADER_BYTES = _HEADER.size

_ERRORS: Mapping[str, type[BridgeError]] = {
    kind.__name__: kind
    for kind in (
        errors.UsageError,
        errors.CheckFailed,
        errors.StopError,
        errors.Unreachable,
        errors.RateLimited,
        errors.Rejected,
        errors.Unstorable,
    )
}
_TEXTS, _PLACES = ("message", "hint", "code"), ("table", "key", "position")


class Frame(NamedTuple):
    """A frame that was received: its JSON object, and all blobs back to back."""

    document: dict[str, Any]
    blobs: memoryview


def malformed(what: str) -> StopError:
    """The other side does not keep to the protocol."""
    return StopError(
        f"on the socket of the edge directory: {what}",
        code="PROTOCOL",
        hint="do both processes run the same version of qdrant-bridge?",
    )


# --- frames ----------------------------------------------------------------------------------------


def encode(document: Mapping[str, Any], blobs: Sequence[Buffer] = ()) -> bytes:
    """A frame. Rejected if the object holds what JSON does not."""
    try:
        text = orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        raise Rejected(f"a value cannot be sent to another process: {error}") from None
    size = sum(len(blob) for blob in blobs)
    if len(text) + size > FRAME_LIMIT_BYTES:
        raise Rejected("one point, or one request, is too large to be sent to another process")
    return b"".join((_HEADER.pack(len(text), size), text, *blobs))


def lengths(header: bytes) -> tuple[int, int]:
    """The lengths of the JSON and of the blobs that follow this header."""
    if len(header) != HEADER_BYTES:
        raise malformed("a header is cut off")
    text, blobs = _HEADER.unpack(header)
    if text + blobs > FRAME_LIMIT_BYTES:
        raise malformed(f"a frame of {text + blobs:,} bytes is announced")
    return text, blobs


def decode(text: Buffer, blobs: Buffer) -> Frame:
    """The frame of these two parts."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise malformed(f"a frame is no JSON: {error.msg}") from None
    if not isinstance(document, dict):
        raise malformed("a frame is no object")
    return Frame(document, memoryview(blobs))


def decode_whole(frame: bytes) -> Frame:
    """A frame that is here from its header to its end."""
    text, blobs = lengths(frame[:HEADER_BYTES])
    if len(frame) != HEADER_BYTES + text + blobs:
        raise malformed("a frame is not as long as it says")
    body = memoryview(frame)[HEADER_BYTES:]
    return decode(body[:text], body[text:])


# --- points ----------------------------------------------------------------------------------------


class PointsOut:
    """Points on their way out: `document` for the JSON, `blobs` behind it; `size` of both in bytes."""

    def __init__(self) -> None:
        self.document: list[orjson.Fragment] = []
        self.blobs: list[Buffer] = []
        self.size = 0

    def add(self, points: Sequence[Point]) -> None:
        """Add these. Rejected if a payload cannot be JSON."""
        for point in points:
            vectors = {name: self._describe(vector) for name, vector in point.vectors.items()}
            try:
                text = orjson.dumps([point.id, vectors, dict(point.payload)])
            except orjson.JSONEncodeError as error:
                raise Rejected(f"a payload cannot be sent to another process: {error}") from None
            self.document.append(orjson.Fragment(text))
            self.size += len(text)

    def _describe(self, vector: Vector) -> dict[str, Any]:
        if isinstance(vector, Sparse):
            return {"sparse": [self._blob(vector.indices), self._blob(vector.values)]}
        if isinstance(vector, Multi):
            return {"multi": [vector.dimension, self._blob(vector.data)]}
        return {"dense": self._blob(vector)}

    def _blob(self, buffer: Buffer) -> int:
        self.blobs.append(buffer)
        self.size += len(buffer)
        return len(buffer)


def read_points(listed: object, blobs: memoryview) -> list[Point]:
    """The inverse of `PointsOut`; every byte of the blobs must belong to a vector."""
    buffers = _Buffers(blobs)
    if not isinstance(listed, list):
        raise malformed("points are no list")
    points = [_read_point(item, buffers) for item in listed]
    buffers.require_end()
    return points


def _read_point(item: object, buffers: _Buffers) -> Point:
    match item:
        case [identity, dict(vectors), dict(payload)]:
            named = {str(name): _read_vector(one, buffers) for name, one in vectors.items()}
            return Point(read_id(identity), named, payload)
    raise malformed("a point is not [id, vectors, payload]")


def _read_vector(described: object, buffers: _Buffers) -> Vector:
    match described:
        case {"dense": size}:
            return buffers.take(size)
        case {"sparse": [indices, values]}:
            return Sparse(buffers.take(indices), buffers.take(values))
        case {"multi": [int(dimension), size]} if dimension > 0:
            return Multi(dimension, buffers.take(size))
    raise malformed("a vector is neither dense, sparse nor multi")


class _Buffers:
    """Blobs, handed out from the front."""

    def __init__(self, blobs: memoryview) -> None:
        self._blobs = blobs
        self._taken = 0

    def take(self, size: object) -> bytes:
        end = self._taken + (size if isinstance(size, int) else -1)
        if not self._taken <= end <= len(self._blobs) or (end - self._taken) % 4:
            raise malformed("a vector's length does not fit the frame")
        buffer = bytes(self._blobs[self._taken : end])
        self._taken = end
        return buffer

    def require_end(self) -> None:
        if self._taken != len(self._blobs):
            raise malformed("a frame has bytes that belong to no vector")


def read_id(value: object) -> PointId:
    """A point's id."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise malformed("an id is neither a number nor a text")
    return value


# --- collections and errors ------------------------------------------------------------------------


def collection_document(state: CollectionState | None) -> dict[str, Any] | None:
    """A collection's state as JSON."""
    return None if state is None else asdict(state)


def read_collection(document: object) -> CollectionState | None:
    """The inverse of `collection_document`."""
    if document is None:
        return None
    try:
        fields = dict(cast("Mapping[str, Any]", document))
        fields["vectors"] = tuple(vector_spec(vector) for vector in fields["vectors"])
        return CollectionState(**fields)
    except (TypeError, KeyError, ValueError):
        raise malformed("a collection's state cannot be read") from None


def error_document(error: BridgeError) -> dict[str, Any]:
    """An error as JSON: its kind, and what it says."""
    kinds = (one.__name__ for one in type(error).__mro__)
    kind = next((one for one in kinds if one in _ERRORS), StopError.__name__)
    told: dict[str, Any] = {name: getattr(error, name) for name in (*_TEXTS, *_PLACES)}
    if isinstance(error, RateLimited):
        told["retry_after_seconds"] = error.retry_after_seconds
    return {"kind": kind, **told}


def read_error(document: object) -> BridgeError:
    """The error that the other side had."""
    named = document.get("kind") if isinstance(document, dict) else None
    kind = _ERRORS.get(named) if isinstance(named, str) else None
    if kind is None or not isinstance(document, dict):
        return malformed("an error of an unknown kind has come back")
    error = kind(str(document.get("message", "")))
    for name in _TEXTS:
        setattr(error, name, str(document.get(name) or ""))
    for name in _PLACES:
        value = document.get(name)
        setattr(error, name, None if value is None else str(value))
    if isinstance(error, RateLimited):
        seconds = document.get("retry_after_seconds")
        error.retry_after_seconds = seconds if isinstance(seconds, int | float) else None
    return error
