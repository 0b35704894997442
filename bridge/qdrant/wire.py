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
from functools import lru_cache
from typing import Any

import numpy as np

from bridge.errors import Unstorable
from bridge.plan import Buffer, Multi, Point, Sparse, Vector
from bridge.point_ids import PointId

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_UINT64 = 2**64
_DOUBLE = struct.Struct("<d").pack
# Messages may nest 100 deep (protobuf's default for parsers, which all clients keep). Qdrant itself takes
# more, but then nobody could read the point back, nor the page of a scroll that it lies on.
_DEEPEST = 100
_PAYLOAD_DEPTH = 4  # UpsertPoints > PointStruct > entry > Value; answers nest no deeper

ORDERING = {"weak": 0, "medium": 1, "strong": 2}
"""WriteOrderingType; 0 is the default."""
UPDATE_MODE = {"upsert": 0, "insert_only": 1, "update_only": 2}
"""UpdateMode; 0 is the default."""

# Lengths and small integers are the bulk of all varints: those of one and two bytes are looked up,
# and longer ones are put together from pairs of groups that are known to go on.
_PAIR = 1 << 14
_VARINTS = tuple(bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_PAIR))
_PAIRS = tuple(bytes((n & 127 | 128, n >> 7 | 128)) for n in range(_PAIR))


def varint(number: int) -> bytes:
    """An unsigned LEB128 number."""
    if number < _PAIR:
        return _VARINTS[number]
    return _PAIRS[number & _PAIR - 1] + varint(number >> 14)


def encode_upsert(
    collection: str,
    points: Sequence[Point],
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


def enclosed(tag: bytes, body: bytes) -> bytes:
    """A field that holds bytes: its tag, their length, and they."""
    return tag + varint(len(body)) + body


def append_point(parts: list[Buffer], point: Point) -> int:
    """Append the point as field 3 of UpsertPoints; returns its bytes without tag and length."""
    identity = id_field(point.id)
    payload = encode_fields(PAYLOAD, point.payload)
    vectors: list[Buffer] = []
    size = (
        len(identity) + len(payload) + append_vectors(vectors, b"\x22", point.vectors)
    )  # 4 vectors
    parts.append(b"\x1a" + varint(size) + identity + payload)
    parts += vectors
    return size


# --- payload -----------------------------------------------------------------------------------

# What is remembered of each: keys inside JSON, and the lengths of values, may be without bound.
_KEYS_KEPT = 4096
_LENGTHS_KEPT = 4096

_NULL, _TRUE, _FALSE = b"\x08\x00", b"\x28\x01", b"\x28\x00"  # Value {1 null, 5 bool}


class _Heads(dict[int, bytes]):
    """What stands in front of a value's bytes, by their number; made at the first use of each.

    `before` is what encloses a Value of a given length, `tag` the field of Value that holds the bytes:
    4 string, 6 struct or 7 list; without it they are the Value itself.
    """

    def __init__(self, before: Callable[[int], bytes], tag: bytes) -> None:
        super().__init__()
        self._before = before
        self._tag = tag

    def __missing__(self, length: int) -> bytes:
        inner = self._tag + varint(length) if self._tag else b""
        head = self._before(len(inner) + length) + inner
        if len(self) < _LENGTHS_KEPT:
            self[length] = head
        return head


class _Key:
    """The heads under one key of a map, whose entries are {1 key, 2 value}."""

    __slots__ = ("_name", "_tag", "double", "false", "integer", "lists", "null", "structs", "texts",
                 "true")  # fmt: skip

    def __init__(self, tag: bytes, key: str) -> None:
        raw = key.encode()
        self._tag = tag
        self._name = b"\x0a" + varint(len(raw)) + raw + b"\x12"
        self.texts = _Heads(self._entry, b"\x22")
        self.structs = _Heads(self._entry, b"\x32")
        self.lists = _Heads(self._entry, b"\x3a")
        self.integer = [self._entry(length + 1) + b"\x18" for length in range(11)]
        self.double = self._entry(9) + b"\x11"
        self.null = self._entry(2) + _NULL
        self.true = self._entry(2) + _TRUE
        self.false = self._entry(2) + _FALSE

    def _entry(self, length: int) -> bytes:
        size = varint(length)
        return self._tag + varint(len(self._name) + len(size) + length) + self._name + size


class _Map:
    """One kind of `map<string, Value>`, told by its tag; remembers the keys it has met."""

    __slots__ = ("keys", "tag")

    def __init__(self, tag: bytes) -> None:
        self.tag = tag
        self.keys: dict[str, _Key] = {}

    def remember(self, key: str) -> _Key:
        """The heads of a key that is new."""
        made = _Key(self.tag, key)
        if len(self.keys) < _KEYS_KEPT:
            self.keys[key] = made
        return made


PAYLOAD = _Map(b"\x1a")  # PointStruct {3 payload}
STRUCT = _Map(b"\x0a")  # Struct {1 fields}


def encode_fields(kind: _Map, fields: Mapping[str, Any], depth: int = _PAYLOAD_DEPTH) -> bytes:
    """A `map<string, Value>`, one entry a field; `depth`: how many messages deep the values lie.

    The loop is hot: with a function for each kind of value it takes twice as long.
    """
    parts: list[bytes] = []
    append, known = parts.append, kind.keys.get
    for key, value in fields.items():
        heads = known(key) or _new_key(kind, key)
        type_ = type(value)
        if type_ is str:
            raw = _utf8(value)
            append(heads.texts[len(raw)])
            append(raw)
        elif type_ is int:
            number = _integer(value)
            append(heads.integer[len(number)])
            append(number)
        elif type_ is float:
            append(heads.double)
            append(_double(value))
        elif value is None:
            append(heads.null)
        elif type_ is bool:
            append(heads.true if value else heads.false)
        elif type_ is dict:
            inner = encode_fields(STRUCT, value, _deeper(depth, 3))  # Struct > entry > Value
            append(heads.structs[len(inner)])
            append(inner)
        elif type_ is list:
            inner = _encode_items(value, _deeper(depth, 2))  # ListValue > Value
            append(heads.lists[len(inner)])
            append(inner)
        else:
            raise Unstorable(f"a {type_.__name__} cannot be a payload value")
    return b"".join(parts)


def _item(length: int) -> bytes:
    return b"\x0a" + varint(length)  # ListValue {1 values}


_ITEM_TEXTS = _Heads(_item, b"\x22")
_ITEM_STRUCTS = _Heads(_item, b"\x32")
_ITEM_LISTS = _Heads(_item, b"\x3a")
_ITEM_INTEGER = [_item(length + 1) + b"\x18" for length in range(11)]
_ITEM_DOUBLE = _item(9) + b"\x11"
_ITEM_NULL, _ITEM_TRUE, _ITEM_FALSE = (_item(2) + value for value in (_NULL, _TRUE, _FALSE))


def _encode_items(items: list[Any], depth: int) -> bytes:
    """The values of a ListValue; the same kinds as in `encode_fields`, without keys."""
    parts: list[bytes] = []
    for value in items:
        type_ = type(value)
        if type_ is str:
            raw = _utf8(value)
            parts += (_ITEM_TEXTS[len(raw)], raw)
        elif type_ is int:
            number = _integer(value)
            parts += (_ITEM_INTEGER[len(number)], number)
        elif type_ is float:
            parts += (_ITEM_DOUBLE, _double(value))
        elif value is None:
            parts.append(_ITEM_NULL)
        elif type_ is bool:
            parts.append(_ITEM_TRUE if value else _ITEM_FALSE)
        elif type_ is dict:
            inner = encode_fields(STRUCT, value, _deeper(depth, 3))
            parts += (_ITEM_STRUCTS[len(inner)], inner)
        elif type_ is list:
            inner = _encode_items(value, _deeper(depth, 2))
            parts += (_ITEM_LISTS[len(inner)], inner)
        else:
            raise Unstorable(f"a {type_.__name__} cannot be a payload value")
    return b"".join(parts)


def _new_key(kind: _Map, key: str) -> _Key:
    _utf8(key)
    return kind.remember(key)


def _deeper(depth: int, levels: int) -> int:
    if depth + levels > _DEEPEST:
        raise Unstorable("a value is nested too deeply for Qdrant's messages")
    return depth + levels


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Not chained: the error carries the text.
        raise Unstorable("a text has a lone surrogate, which is no valid UTF-8") from None


def _integer(number: int) -> bytes:
    if 0 <= number < _PAIR:
        return _VARINTS[number]
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise Unstorable("an integer is beyond 64 bits")
    return varint(number % _UINT64)


def _double(number: float) -> bytes:
    # Qdrant rejects a whole request for one of these, so they must not get this far.
    if number - number != 0.0:
        raise Unstorable("NaN or an infinity cannot be a payload number")
    return _DOUBLE(number)


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
