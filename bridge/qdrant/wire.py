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

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bridge.errors import Unstorable
from bridge.plan import Buffer, Multi, Point, Sparse, Vector
from bridge.point_ids import PointId

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_UINT64 = 2**64
# Messages may nest 100 deep (protobuf's default for parsers, which all clients keep). Qdrant itself takes
# more, but then nobody could read the point back, nor the page of a scroll that it lies on.
_DEEPEST = 100
_PAYLOAD_DEPTH = 4  # UpsertPoints > PointStruct > entry > Value; answers nest no deeper
_SMALL = tuple(bytes((number,)) for number in range(128))
_DOUBLE = struct.Struct("<d").pack

ORDERING = {"weak": 0, "medium": 1, "strong": 2}
"""WriteOrderingType; 0 is the default."""
UPDATE_MODE = {"upsert": 0, "insert_only": 1, "update_only": 2}
"""UpdateMode; 0 is the default."""


def varint(number: int) -> bytes:
    """An unsigned LEB128 number."""
    if number < 128:
        return _SMALL[number]
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_upsert(
    collection: str,
    points: Sequence[Point],
    *,
    ordering: str = "weak",
    mode: str = "upsert",
    timeout_seconds: int | None = None,
) -> bytes:
    """One Upsert request with `wait=true`: it is answered once the points are durable."""
    name = collection.encode()
    parts: list[Buffer] = [b"\x0a", varint(len(name)), name, b"\x10\x01"]  # 1 collection, 2 wait
    for point in points:
        append_point(parts, point)
    if ORDERING[ordering]:
        parts.append(b"\x22\x02\x08" + _SMALL[ORDERING[ordering]])  # 4 ordering {1 type}
    if timeout_seconds is not None:
        parts.append(b"\x38" + varint(timeout_seconds))  # 7 timeout
    if UPDATE_MODE[mode]:
        parts.append(b"\x40" + _SMALL[UPDATE_MODE[mode]])  # 8 update_mode
    return b"".join(parts)


def append_point(parts: list[Buffer], point: Point) -> int:
    """Append the point as field 3 of UpsertPoints; returns its bytes without tag and length."""
    identity = _point_id(point.id)
    payload = encode_fields(b"\x1a", point.payload)  # 3 payload
    vectors: list[Buffer] = []
    vectors_bytes = _append_vectors(vectors, point.vectors)
    size = len(identity) + len(payload) + vectors_bytes
    parts.append(b"\x1a" + varint(size) + identity + payload)
    parts += vectors
    return size


def encode_fields(tag: bytes, fields: Mapping[str, Any], depth: int = _PAYLOAD_DEPTH) -> bytes:
    """A `map<string, Value>`: one entry {1 key, 2 value} for each field, behind `tag`.

    `depth`: how many messages deep the values lie.
    """
    parts: list[bytes] = []
    for key, value in fields.items():
        name = _KEYS.get(key)
        if name is None:
            name = _remember_key(key)
        body = _encode_value(value, depth)
        length = len(body)
        body = name + (_SMALL[length] if length < 128 else varint(length)) + body
        length = len(body)
        parts.append(tag + (_SMALL[length] if length < 128 else varint(length)) + body)
    return b"".join(parts)


# Top-level keys recur in every row, keys inside JSON may be unbounded: hence the bound.
_KEYS: dict[str, bytes] = {}
_KEYS_KEPT = 4096


def _remember_key(key: str) -> bytes:
    raw = _utf8(key)
    encoded = b"\x0a" + varint(len(raw)) + raw + b"\x12"
    if len(_KEYS) < _KEYS_KEPT:
        _KEYS[key] = encoded
    return encoded


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Unstorable("a text has a lone surrogate, which is no valid UTF-8") from None


def _encode_value(value: Any, depth: int) -> bytes:
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, dict):
        return _encode_dict(value, depth + 3)  # Struct > entry > Value
    if isinstance(value, list):
        return _encode_list(value, depth + 2)  # ListValue > Value
    raise Unstorable(f"a {type(value).__name__} cannot be a payload value")


def _encode_str(text: str) -> bytes:
    raw = _utf8(text)
    length = len(raw)
    return b"\x22" + (_SMALL[length] if length < 128 else varint(length)) + raw  # 4 string_value


def _encode_int(number: int) -> bytes:
    if 0 <= number < 128:
        return b"\x18" + _SMALL[number]  # 3 integer_value
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise Unstorable("an integer is beyond 64 bits")
    return b"\x18" + varint(number % _UINT64)


def _encode_float(number: float) -> bytes:
    # Qdrant rejects a whole request for one of these, so they must not get this far.
    if number - number != 0.0:
        raise Unstorable("NaN or an infinity cannot be a payload number")
    return b"\x11" + _DOUBLE(number)  # 2 double_value


def _encode_bool(value: bool) -> bytes:
    return b"\x28\x01" if value else b"\x28\x00"  # 5 bool_value


def _encode_none(_value: None) -> bytes:
    return b"\x08\x00"  # 1 null_value


def _encode_dict(value: dict[str, Any], depth: int) -> bytes:
    _check_depth(depth)
    fields = encode_fields(b"\x0a", value, depth)  # Struct {1 fields}
    return b"\x32" + varint(len(fields)) + fields  # 6 struct_value


def _encode_list(value: list[Any], depth: int) -> bytes:
    _check_depth(depth)
    parts: list[bytes] = []
    for item in value:
        body = _encode_value(item, depth)
        parts.append(b"\x0a" + varint(len(body)) + body)  # ListValue {1 values}
    items = b"".join(parts)
    return b"\x3a" + varint(len(items)) + items  # 7 list_value


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise Unstorable("a value is nested too deeply for Qdrant's messages")


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    str: _encode_str,
    int: _encode_int,
    float: _encode_float,
    bool: _encode_bool,
    type(None): _encode_none,
}


def _point_id(identity: PointId) -> bytes:
    if isinstance(identity, int):
        number = varint(identity)
        return b"\x0a" + _SMALL[len(number) + 1] + b"\x08" + number  # 1 id {1 num}
    return b"\x0a\x26\x12\x24" + identity.encode()  # 1 id {2 uuid}, 36 characters


def _append_vectors(parts: list[Buffer], vectors: Mapping[str, Vector]) -> int:
    """Append field 4 of PointStruct; returns its bytes, tag and length included."""
    if not vectors:
        # A named map without entries: the point has no vector, and says so.
        parts.append(b"\x22\x02\x12\x00")
        return 4
    if len(vectors) == 1 and "" in vectors:
        body: list[Buffer] = []
        size = _append_vector(body, b"\x0a", vectors[""])  # Vectors {1 vector}
    else:
        named: list[Buffer] = []
        inner = sum(_append_named(named, name, vector) for name, vector in vectors.items())
        head = b"\x12" + varint(inner)  # Vectors {2 vectors}
        body = [head, *named]
        size = len(head) + inner
    head = b"\x22" + varint(size)  # 4 vectors
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


def _field(message: bytes, wanted: int) -> bytes | int | None:
    """The last occurrence of a varint or length-delimited field, as protobuf has it."""
    found: bytes | int | None = None
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
            found = value
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
