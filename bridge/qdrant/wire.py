"""Points -> the protobuf bytes of an Upsert request, assembled straight from the vectors' buffers.

The messages are `qdrant.UpsertPoints` and what it contains (Qdrant's points.proto, qdrant_common.proto,
json_with_int.proto); the encoding is protobuf's (protobuf.dev/programming-guides/encoding). Field
numbers stand beside each tag below. Packed floats are little-endian float32, which is what the
vectors' buffers already hold, so a vector is copied once, into the request.

What always holds: parsed by `qdrant_client.grpc`, the bytes equal the message that its classes
build (`tests/property/test_wire.py`). Fields are written in the order of their numbers, as
protobuf's own serialisers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bridge.plan import Buffer, Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant.wire_values import PAYLOAD, enclosed, encode_fields, varint

ORDERING = {"weak": 0, "medium": 1, "strong": 2}
"""WriteOrderingType; 0 is the default."""
UPDATE_MODE = {"upsert": 0, "insert_only": 1, "update_only": 2}
"""UpdateMode; 0 is the default."""


class EncodedPoint(NamedTuple):
    """`plan.Point` with its payload as the entries of PointStruct {3 payload}."""

    id: PointId
    vectors: Mapping[str, Vector]
    fields: bytes


def encode_upsert(
    collection: str,
    points: Sequence[Point] | Sequence[EncodedPoint],
    *,
    ordering: str = "weak",
    mode: str = "upsert",
    matching: Mapping[str, str] | None = None,
    timeout_seconds: int | None = None,
) -> bytes:
    """One Upsert request with `wait=true`: it is answered once the points are durable.

    `matching`: points that exist are written only if these fields of their payload equal these texts.
    """
    name = collection.encode()
    parts: list[Buffer] = [b"\x0a", varint(len(name)), name, b"\x10\x01"]  # 1 collection, 2 wait
    for point in points:
        append_point(parts, point)
    if ORDERING[ordering]:
        parts.append(b"\x22\x02\x08" + varint(ORDERING[ordering]))  # 4 ordering {1 type}
    if matching:
        parts.append(enclosed(b"\x32", _equal_fields(matching)))  # 6 update_filter
    if timeout_seconds is not None:
        parts.append(b"\x38" + varint(timeout_seconds))  # 7 timeout
    if UPDATE_MODE[mode]:
        parts.append(b"\x40" + varint(UPDATE_MODE[mode]))  # 8 update_mode
    return b"".join(parts)


def _equal_fields(matching: Mapping[str, str]) -> bytes:
    """Filter {2 must: Condition {1 field: FieldCondition {1 key, 2 match: Match {1 keyword}}}}."""
    conditions: list[bytes] = []
    for key, text in matching.items():
        match = enclosed(b"\x12", enclosed(b"\x0a", text.encode()))
        field = enclosed(b"\x0a", key.encode()) + match
        conditions.append(enclosed(b"\x12", enclosed(b"\x0a", field)))
    return b"".join(conditions)


def append_point(parts: list[Buffer], point: Point | EncodedPoint) -> int:
    """Append the point as field 3 of UpsertPoints; returns its bytes without tag and length."""
    identity = id_field(point.id)
    payload = (
        point.fields if isinstance(point, EncodedPoint) else encode_fields(PAYLOAD, point.payload)
    )
    vectors: list[Buffer] = []
    size = (
        len(identity) + len(payload) + append_vectors(vectors, b"\x22", point.vectors)
    )  # 4 vectors
    parts.append(b"\x1a" + varint(size) + identity + payload)
    parts += vectors
    return size


# --- ids and vectors ---------------------------------------------------------------------------


def id_field(identity: PointId) -> bytes:
    """A PointId as field 1 of whatever holds it."""
    if isinstance(identity, int):
        number = varint(identity)
        return b"\x0a" + varint(len(number) + 1) + b"\x08" + number  # 1 id {1 num}
    return b"\x0a\x26\x12\x24" + identity.encode()  # 1 id {2 uuid}, 36 characters


@lru_cache(maxsize=256)
def _dense_head(tag: bytes, name: str, length: int) -> bytes:
    """All that stands in front of a single dense vector: its bytes end the point's message."""
    data = b"\x0a" + varint(length)  # DenseVector {1 data}
    vector = b"\xaa\x06" + varint(len(data) + length) + data  # Vector {101 dense}
    size = len(vector) + length
    if name == "":
        head = b"\x0a" + varint(size) + vector  # Vectors {1 vector}
    else:
        key = name.encode()
        entry = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(size) + vector
        entry = b"\x0a" + varint(len(entry) + length) + entry  # NamedVectors {1 {1 key, 2 value}}
        head = b"\x12" + varint(len(entry) + length) + entry  # Vectors {2 vectors}
    return tag + varint(len(head) + length) + head


def append_vectors(parts: list[Buffer], tag: bytes, vectors: Mapping[str, Vector]) -> int:
    """Append a Vectors message behind `tag`; returns its bytes, tag and length included."""
    if not vectors:
        # A named map without entries: the point has no vector, and says so.
        parts.append(tag + b"\x02\x12\x00")
        return 4
    if len(vectors) == 1:
        [(name, vector)] = vectors.items()
        if isinstance(vector, bytes | memoryview):
            head = _dense_head(tag, name, len(vector))
            parts += (head, vector)
            return len(head) + len(vector)
    body: list[Buffer] = []
    if len(vectors) == 1 and "" in vectors:
        size = _append_vector(body, b"\x0a", vectors[""])  # Vectors {1 vector}
    else:
        inner = sum(_append_named(body, name, vector) for name, vector in vectors.items())
        head = b"\x12" + varint(inner)  # Vectors {2 vectors}
        body.insert(0, head)
        size = len(head) + inner
    head = tag + varint(size)
    parts.append(head)
    parts += body
    return len(head) + size


def _append_named(parts: list[Buffer], name: str, vector: Vector) -> int:
    key = name.encode()
    body: list[Buffer] = []
    size = _append_vector(body, b"\x12", vector)  # entry {2 value}
    # An empty key is the field's default, which serialisers of maps write all the same.
    head = b"\x0a" + varint(len(key)) + key  # entry {1 key}
    size += len(head)
    outer = b"\x0a" + varint(size)  # NamedVectors {1 vectors}
    parts.append(outer + head)
    parts += body
    return len(outer) + size


def _append_vector(parts: list[Buffer], tag: bytes, vector: Vector) -> int:
    """Append a Vector message behind `tag`; returns its bytes, tag and length included."""
    if isinstance(vector, Sparse):
        values = _length_delimited(b"\x0a", vector.values)  # SparseVector {1 values}
        body = values + _length_delimited(b"\x12", _packed(vector.indices))  # {2 indices}
        message = b"\xb2\x06" + varint(len(body)) + body  # 102 sparse
        content: list[Buffer] = [message]
        size = len(message)
    elif isinstance(vector, Multi):
        width = 4 * vector.dimension
        row_head = b"\x0a" + varint(width)
        row_head = b"\x0a" + varint(len(row_head) + width) + row_head  # {1 vectors {1 data}}
        rows: list[Buffer] = []
        for start in range(0, len(vector.data), width):
            rows += (row_head, vector.data[start : start + width])
        inner = sum(map(len, rows))
        head = b"\xba\x06" + varint(inner)  # 103 multi_dense
        content = [head, *rows]
        size = len(head) + inner
    else:
        length = len(vector)
        data_head = b"\x0a" + varint(length)  # DenseVector {1 data}
        head = b"\xaa\x06" + varint(len(data_head) + length) + data_head  # 101 dense
        content = [head, vector]
        size = len(head) + length
    outer = tag + varint(size)
    parts.append(outer)
    parts += content
    return len(outer) + size


def _length_delimited(tag: bytes, data: Buffer) -> bytes:
    return b"".join((tag, varint(len(data)), data)) if len(data) else b""


def _packed(indices: Buffer) -> bytes:
    return b"".join(map(varint, np.frombuffer(indices, dtype="<u4").tolist()))


UPDATE_COMPLETED = 2
"""UpdateStatus: applied. 1 (Acknowledged) and 4 (WaitTimeout) are not."""
UPDATE_ACCEPTED = (1, UPDATE_COMPLETED)
"""What an operation that is not waited for is answered with."""


def decode_update_status(response: bytes) -> int:
    """The UpdateStatus of a PointsOperationResponse {1 result {2 status}}; 0 if it is absent.

    Written by hand so that a worker, which needs nothing else of the client, does not load it.
    ValueError if the bytes are no such message.
    """
    result = _field(response, 1)
    if not isinstance(result, bytes):
        return 0
    status = _field(result, 2)
    return status if isinstance(status, int) else 0


def decode_batch_statuses(response: bytes) -> list[int]:
    """The UpdateStatus of each operation in an UpdateBatchResponse {1 result {2 status}}."""
    statuses: list[int] = []
    for result in _fields(response, 1):
        status = _field(result, 2) if isinstance(result, bytes) else None
        statuses.append(status if isinstance(status, int) else 0)
    return statuses


def decode_operation_ids(response: bytes) -> list[int]:
    """The operation ids in an UpdateBatchResponse {1 result {1 operation_id, 2 status}}, if all of its
    operations were accepted; else none. An id is the operation's number in its shard's log."""
    found: list[int] = []
    for result in _fields(response, 1):
        if not isinstance(result, bytes) or _field(result, 2) not in UPDATE_ACCEPTED:
            return []
        number = _field(result, 1)
        if not isinstance(number, int):
            return []
        found.append(number)
    return found


def _field(message: bytes, wanted: int) -> bytes | int | None:
    """The last occurrence of a field, which is the one that counts in protobuf."""
    found = _fields(message, wanted)
    return found[-1] if found else None


def _fields(message: bytes, wanted: int) -> list[bytes | int]:
    """All occurrences of a field."""
    found: list[bytes | int] = []
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        value: bytes | int
        if kind == 0:
            value, position = _read_varint(message, position)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, position = message[position : position + width], position + width
        elif kind == 2:
            length, position = _read_varint(message, position)
            value, position = message[position : position + length], position + length
        else:
            raise ValueError(f"wire type {kind} in a response")
        if position > len(message):
            raise ValueError("a response is cut short")
        if number == wanted:
            found.append(value)
    return found


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("a varint in a response is cut short")
        byte = message[position]
        number |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return number, position
        shift += 7
