"""The protobuf bytes of a Get, Scroll or Query request, and the points or scores in those of its answer.

The messages are `qdrant.GetPoints`, `ScrollPoints`, their responses and what they contain (Qdrant's
points.proto, qdrant_common.proto, json_with_int.proto); the encoding is protobuf's
(protobuf.dev/programming-guides/encoding). A vector stays the bytes that came: packed floats are
little-endian float32, which is what `plan.Vector` holds; protobuf's own classes would make every
component a Python float first.

What always holds: the points equal those that `messages.read_point` makes of the same answer parsed by
`qdrant_client.grpc` (`tests/property/test_verify_wire_points.py`). Bytes that are no such message raise
ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from bridge.plan import Buffer, Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant.wire import id_field
from bridge.qdrant.wire_values import enclosed, varint
from bridge.values import PayloadValue

_DOUBLE = struct.Struct("<d").unpack_from
_FLOAT = struct.Struct("<f").unpack_from
_UINT64, _INT64_LIMIT = 2**64, 2**63
# As deep as protobuf's own parsers go.
_DEEPEST = 100


def encode_get(
    collection: str, ids: Sequence[PointId], *, with_payload: bool = True, with_vectors: bool = True
) -> bytes:
    """One Get request."""
    parts = [enclosed(b"\x0a", collection.encode())]  # 1 collection
    for identity in ids:
        # `id_field` is tag 1, length, PointId; here the PointId is field 2 (tag 0x12).
        parts += (b"\x12", id_field(identity)[1:])
    parts += (_selector(b"\x22", with_payload), _selector(b"\x2a", with_vectors))  # 4, 5
    return b"".join(parts)


def encode_scroll(
    collection: str,
    *,
    after: PointId | None,
    limit: int,
    with_payload: bool = False,
    with_vectors: bool = False,
) -> bytes:
    """One Scroll request for a page in the order of ids, from `after` on."""
    parts = [enclosed(b"\x0a", collection.encode())]  # 1 collection
    if after is not None:
        parts += (b"\x1a", id_field(after)[1:])  # 3 offset
    parts.append(b"\x20" + varint(limit))  # 4 limit
    parts += (_selector(b"\x32", with_payload), _selector(b"\x3a", with_vectors))  # 6, 7
    return b"".join(parts)


def encode_scores(
    collection: str, vector_name: str, query: Buffer, ids: Sequence[PointId]
) -> bytes:
    """One Query for the exact scores of these points by a named dense vector, quantization ignored."""
    dense = enclosed(b"\x12", enclosed(b"\x0a", bytes(query)))  # VectorInput {2 dense {1 data}}
    chosen = b"".join(b"\x0a" + id_field(identity)[1:] for identity in ids)  # {1 has_id}
    condition = enclosed(b"\x12", enclosed(b"\x1a", chosen))  # Filter {2 must {3 has_id}}
    parts = [
        enclosed(b"\x0a", collection.encode()),  # 1 collection
        enclosed(b"\x1a", enclosed(b"\x0a", dense)),  # 3 query {1 nearest}
        enclosed(b"\x22", vector_name.encode()) if vector_name else b"",  # 4 using
        enclosed(b"\x2a", condition),  # 5 filter
        b"\x32\x06\x10\x01\x1a\x02\x08\x01",  # 6 params {2 exact, 3 quantization {1 ignore}}
        b"\x40" + varint(max(1, len(ids))),  # 8 limit
    ]
    return b"".join(parts)


def decode_scores(response: bytes) -> dict[PointId, float]:
    """The scores of a QueryResponse {1 result: ScoredPoint {1 id, 3 score}}."""
    scores: dict[PointId, float] = {}
    position, end = 0, len(response)
    with _whole():
        while position < end:
            tag, start, position = _part(response, position, end)
            if tag == 0x0A:
                identity, score = _scored(response, start, position)
                scores[identity] = score
    return scores


def _scored(data: bytes, position: int, end: int) -> tuple[PointId, float]:
    identity: PointId | None = None
    score = 0.0  # protobuf leaves a zero out
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            identity = _identity(data, start, position)
        elif tag == 0x1D:
            score = _FLOAT(data, start)[0]
    if identity is None:
        raise ValueError("a point without an id in an answer")
    return identity, score


def _selector(tag: bytes, enable: bool) -> bytes:
    return tag + (b"\x02\x08\x01" if enable else b"\x02\x08\x00")  # {1 enable}


def decode_get(response: bytes) -> list[Point]:
    """The points of a GetResponse {1 result}, in its order."""
    points: list[Point] = []
    position, end = 0, len(response)
    with _whole():
        while position < end:
            tag, start, position = _part(response, position, end)
            if tag == 0x0A:
                points.append(_point(response, start, position))
    return points


def decode_scroll(response: bytes) -> tuple[list[Point], PointId | None]:
    """The points of a ScrollResponse {1 next_page_offset, 2 result}, and where the next page begins."""
    points: list[Point] = []
    following: PointId | None = None
    position, end = 0, len(response)
    with _whole():
        while position < end:
            tag, start, position = _part(response, position, end)
            if tag == 0x12:
                points.append(_point(response, start, position))
            elif tag == 0x0A:
                following = _identity(response, start, position)
    return points, following


def next_page(response: bytes) -> PointId | None:
    """Where the page after a ScrollResponse begins, without looking at its points; None: it was the last."""
    position, end = 0, len(response)
    with _whole():
        while position < end:
            tag, start, position = _part(response, position, end)
            if tag == 0x0A:
                return _identity(response, start, position)
    return None


@contextmanager
def _whole() -> Iterator[None]:
    """What lies beyond the end of the bytes is looked for only if they are cut short."""
    try:
        yield
    except IndexError:
        raise ValueError("an answer is cut short") from None


def _part(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """One field: (tag, where its content begins, where it ends). A number's content is its varint."""
    tag = data[position]
    if tag < 128 and tag & 7 == 2:
        length = data[position + 1]
        if length < 128:  # nearly all that there are
            start = position + 2
            if start + length > end:
                raise ValueError("an answer is cut short")
            return tag, start, start + length
    tag, position = _varint(data, position, end)
    kind = tag & 7
    start = position
    if kind == 2:
        length, start = _varint(data, position, end)
        position = start + length
    elif kind == 0:
        _number, position = _varint(data, position, end)
    elif kind == 1:
        position += 8
    elif kind == 5:
        position += 4
    else:
        raise ValueError(f"wire type {kind} in an answer")
    if position > end:
        raise ValueError("an answer is cut short")
    return tag, start, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if position >= end or shift > 63:
            raise ValueError("a varint in an answer is cut short")
        byte = data[position]
        number |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return number, position
        shift += 7


def _point(data: bytes, position: int, end: int) -> Point:
    """RetrievedPoint {1 id, 2 payload, 4 vectors}."""
    identity: PointId | None = None
    payload: dict[str, PayloadValue] = {}
    vectors: dict[str, Vector] = {}
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x12:
            _entry(data, start, position, payload, 4)
        elif tag == 0x0A:
            identity = _identity(data, start, position)
        elif tag == 0x22:
            _vectors(data, start, position, vectors)
    if identity is None:
        raise ValueError("a point without an id in an answer")
    return Point(identity, vectors, payload)


def _identity(data: bytes, position: int, end: int) -> PointId:
    """PointId {1 num, 2 uuid}."""
    identity: PointId | None = None
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x08:
            identity = _varint(data, start, end)[0]
        elif tag == 0x12:
            identity = data[start:position].decode()
    if identity is None:
        raise ValueError("an empty id in an answer")
    return identity


# --- payload -----------------------------------------------------------------------------------


def _entry(data: bytes, position: int, end: int, into: dict[str, PayloadValue], depth: int) -> None:
    """One entry of a map: {1 key, 2 value}.

    Written out, as is `_value`: every field of every payload comes by here.
    """
    key = ""
    value: PayloadValue = None
    while position < end:
        tag, length = data[position], data[position + 1]
        position += 2
        if length > 127:
            length, position = _varint(data, position - 1, end)
        stop = position + length
        if stop > end:
            raise ValueError("an answer is cut short")
        if tag == 0x0A:
            key = data[position:stop].decode()
        elif tag == 0x12:
            value = _value(data, position, stop, depth)
        else:
            raise ValueError("a map of an answer has a field of no meaning")
        position = stop
    into[key] = value


def _value(data: bytes, position: int, end: int, depth: int) -> PayloadValue:
    """Value {1 null, 2 double, 3 integer, 4 string, 5 bool, 6 struct, 7 list}."""
    if position == end:
        return None
    tag = data[position]
    position += 1
    if tag == 0x22:
        length = data[position]
        position += 1
        if length > 127:
            length, position = _varint(data, position - 1, end)
        if position + length != end:
            raise _other_length()
        return data[position:end].decode()
    if tag == 0x18:
        number = data[position]
        position += 1
        if number > 127:
            number, position = _varint(data, position - 1, end)
        if position != end:
            raise _other_length()
        return number if number < _INT64_LIMIT else number - _UINT64
    if tag == 0x11:
        _require_end(position + 8, end)
        double: float = _DOUBLE(data, position)[0]
        return double
    if tag in (0x08, 0x28):
        flag, position = _varint(data, position, end)
        _require_end(position, end)
        return None if tag == 0x08 else bool(flag)
    if tag in (0x32, 0x3A):
        length, position = _varint(data, position, end)
        _require_end(position + length, end)
        if depth >= _DEEPEST:
            raise ValueError("an answer is nested too deeply")
        return (_struct if tag == 0x32 else _list)(data, position, end, depth)
    raise ValueError("a payload value of an answer is of no known kind")


def _require_end(position: int, end: int) -> None:
    if position != end:
        raise _other_length()


def _other_length() -> ValueError:
    return ValueError("a payload value of an answer has another length than it says")


def _struct(data: bytes, position: int, end: int, depth: int) -> PayloadValue:
    """Struct {1 fields}."""
    fields: dict[str, PayloadValue] = {}
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            _entry(data, start, position, fields, depth + 3)
    return fields


def _list(data: bytes, position: int, end: int, depth: int) -> PayloadValue:
    """ListValue {1 values}."""
    items: list[PayloadValue] = []
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            items.append(_value(data, start, position, depth + 2))
    return items


# --- vectors -----------------------------------------------------------------------------------


def _vectors(data: bytes, position: int, end: int, into: dict[str, Vector]) -> None:
    """VectorsOutput {1 vector, 2 vectors: NamedVectorsOutput {1 vectors: {1 key, 2 value}}}."""
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            into[""] = _vector(data, start, position)
        elif tag == 0x12:
            while start < position:
                inner, begin, start = _part(data, start, position)
                if inner == 0x0A:
                    _named(data, begin, start, into)


def _named(data: bytes, position: int, end: int, into: dict[str, Vector]) -> None:
    name = ""
    vector: Vector = b""
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            name = data[start:position].decode()
        elif tag == 0x12:
            vector = _vector(data, start, position)
    into[name] = vector


def _vector(data: bytes, position: int, end: int) -> Vector:
    """VectorOutput {1 data (before 1.16), 101 dense, 102 sparse, 103 multi_dense}."""
    vector: Vector = b""
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 101 << 3 | 2:
            vector = _floats(data, start, position)
        elif tag == 102 << 3 | 2:
            vector = _sparse(data, start, position)
        elif tag == 103 << 3 | 2:
            vector = _multi(data, start, position)
        elif tag == 0x0A and not vector:
            vector = data[start:position]
    return vector


def _floats(data: bytes, position: int, end: int) -> bytes:
    """DenseVector {1 data}."""
    floats = b""
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            floats = data[start:position]
    return floats


def _sparse(data: bytes, position: int, end: int) -> Sparse:
    """SparseVector {1 values, 2 indices}."""
    values = indices = b""
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            values = data[start:position]
        elif tag == 0x12:
            numbers: list[int] = []
            while start < position:
                number, start = _varint(data, start, position)
                numbers.append(number)
            indices = np.array(numbers, dtype="<u4").tobytes()
    return Sparse(indices, values)


def _multi(data: bytes, position: int, end: int) -> Multi:
    """MultiDenseVector {1 vectors: DenseVector}."""
    rows: list[bytes] = []
    while position < end:
        tag, start, position = _part(data, position, end)
        if tag == 0x0A:
            rows.append(_floats(data, start, position))
    return Multi(len(rows[0]) // 4 if rows else 0, b"".join(rows))
