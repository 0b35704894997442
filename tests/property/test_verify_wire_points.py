"""Points read from the bytes of an answer equal what Qdrant's own message classes read from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import grpc as q

from bridge.plan import Multi, Point, Sparse, Vector
from bridge.qdrant.messages import read_id, read_point
from bridge.qdrant.wire_points import (
    decode_get,
    decode_scores,
    decode_scroll,
    encode_get,
    encode_scores,
    encode_scroll,
    next_page,
)
from bridge.qdrant.wire_values import varint
from tests.property.test_verify_equality import ordered
from tests.property.test_wire import point_ids, points, value_message


def vector_output(vector: Vector) -> q.VectorOutput:
    if isinstance(vector, Sparse):
        indices = np.frombuffer(vector.indices, dtype="<u4").tolist()
        values = np.frombuffer(vector.values, dtype="<f4").tolist()
        return q.VectorOutput(sparse=q.SparseVector(indices=indices, values=values))
    if isinstance(vector, Multi):
        rows = np.frombuffer(vector.data, dtype="<f4").reshape(-1, vector.dimension)
        matrix = [q.DenseVector(data=row.tolist()) for row in rows]
        return q.VectorOutput(multi_dense=q.MultiDenseVector(vectors=matrix))
    return q.VectorOutput(dense=q.DenseVector(data=np.frombuffer(vector, dtype="<f4").tolist()))


def retrieved(point: Point) -> q.RetrievedPoint:
    identity = q.PointId(num=point.id) if isinstance(point.id, int) else q.PointId(uuid=point.id)
    message = q.RetrievedPoint(
        id=identity, payload={key: value_message(value) for key, value in point.payload.items()}
    )
    if list(point.vectors) == [""]:
        message.vectors.vector.CopyFrom(vector_output(point.vectors[""]))
    else:
        for name, vector in point.vectors.items():
            message.vectors.vectors.vectors[name].CopyFrom(vector_output(vector))
    return message


def plain(point: Point) -> tuple[Any, ...]:
    """Comparable: buffers as bytes, and floats by their bits."""
    vectors = {
        name: tuple(map(bytes, vector)) if isinstance(vector, Sparse)
        else (vector.dimension, bytes(vector.data)) if isinstance(vector, Multi)
        else bytes(vector)
        for name, vector in point.vectors.items()
    }  # fmt: skip
    return point.id, vectors, ordered(dict(point.payload))


@given(st.lists(points, max_size=4))
def test_the_points_of_an_answer(batch: list[Point]) -> None:
    messages = [retrieved(point) for point in batch]
    answer = q.GetResponse(result=messages, time=0.25).SerializeToString()
    assert list(map(plain, decode_get(answer))) == [plain(read_point(one)) for one in messages]


@given(st.lists(points, max_size=3), st.none() | point_ids)
def test_the_page_of_a_scroll_and_where_the_next_begins(batch: list[Point], after: Any) -> None:
    response = q.ScrollResponse(result=[retrieved(point) for point in batch], time=0.5)
    if after is not None:
        page = q.PointId(num=after) if isinstance(after, int) else q.PointId(uuid=after)
        response.next_page_offset.CopyFrom(page)
    answer = response.SerializeToString()
    found, following = decode_scroll(answer)
    assert [point.id for point in found] == [point.id for point in batch]
    assert following == next_page(answer) == after


@given(st.lists(point_ids, max_size=5), st.booleans(), st.booleans())
def test_a_request_for_points(ids: list[Any], payload: bool, vectors: bool) -> None:
    raw = encode_get("docs", ids, with_payload=payload, with_vectors=vectors)
    request = q.GetPoints.FromString(raw)
    assert request.collection_name == "docs"
    assert [read_id(one) for one in request.ids] == ids
    assert (request.with_payload.enable, request.with_vectors.enable) == (payload, vectors)


@given(st.none() | point_ids, st.integers(1, 100_000), st.booleans())
def test_a_request_for_a_page(after: Any, limit: int, everything: bool) -> None:
    raw = encode_scroll(
        "docs", after=after, limit=limit, with_payload=everything, with_vectors=everything
    )
    request = q.ScrollPoints.FromString(raw)
    offset = read_id(request.offset) if request.HasField("offset") else None
    assert (offset, request.limit, request.with_payload.enable, request.with_vectors.enable) == (
        after, limit, everything, everything,
    )  # fmt: skip


@given(st.lists(points, min_size=1, max_size=2), st.data())
def test_an_answer_that_is_cut_short_is_refused_or_has_fewer_points(
    batch: list[Point], data: st.DataObject
) -> None:
    answer = q.GetResponse(result=[retrieved(point) for point in batch]).SerializeToString()
    cut = answer[: data.draw(st.integers(0, len(answer) - 1))]
    try:
        found = decode_get(cut)
    except ValueError:
        return
    whole = [plain(point) for point in decode_get(answer)]
    assert [plain(point) for point in found] == whole[: len(found)]
    assert len(found) < len(batch)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for decode in (decode_get, decode_scroll):
        try:
            decode(raw)
        except ValueError:
            continue


def test_values_nested_beyond_all_messages_are_refused() -> None:
    value = b"\x08\x00"
    for _ in range(120):
        value = b"\x3a" + _length(b"\x0a" + _length(value))
    entry = b"\x0a\x01k\x12" + _length(value)
    point = b"\x0a\x02\x08\x01\x12" + _length(entry)
    with pytest.raises(ValueError, match="nested"):
        decode_get(b"\x0a" + _length(point))


def _length(body: bytes) -> bytes:
    return varint(len(body)) + body


def test_a_vector_as_servers_before_1_16_tell_it() -> None:
    message = q.RetrievedPoint(id=q.PointId(num=1))
    message.vectors.vector.data.extend([1.0, 2.0])
    (point,) = decode_get(q.GetResponse(result=[message]).SerializeToString())
    assert point.vectors == {"": np.array([1, 2], dtype="<f4").tobytes()}


@given(
    point_ids, st.floats(width=32, allow_nan=False), st.lists(point_ids, max_size=4), st.booleans()
)
def test_a_request_for_scores_and_its_answer(
    identity: Any, score: float, ids: list[Any], named: bool
) -> None:
    query = np.array([0.5, -1.5], dtype="<f4").tobytes()
    request = q.QueryPoints.FromString(encode_scores("docs", "v" if named else "", query, ids))
    assert (request.collection_name, request.using) == ("docs", "v" if named else "")
    assert list(request.query.nearest.dense.data) == [0.5, -1.5]
    assert [read_id(one) for one in request.filter.must[0].has_id.has_id] == ids
    assert (request.params.exact, request.params.quantization.ignore) == (True, True)
    assert request.limit == max(1, len(ids))
    message = q.PointId(num=identity) if isinstance(identity, int) else q.PointId(uuid=identity)
    answer = q.QueryResponse(result=[q.ScoredPoint(id=message, score=score, version=3)])
    assert decode_scores(answer.SerializeToString()) == {identity: score}
