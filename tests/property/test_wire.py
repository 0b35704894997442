"""The bytes of an Upsert equal what Qdrant's own message classes build, on points of every kind."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from qdrant_client import grpc as q

from bridge.errors import Unstorable
from bridge.plan import Multi, Point, Sparse, Vector
from bridge.qdrant.wire import UPDATE_COMPLETED, append_point, decode_update_status, encode_upsert
from bridge.qdrant.wire_values import STRUCT, encode_fields, varint

# --- points, and the messages they must become ----------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
long_texts = st.sampled_from([127, 128, 16_383, 16_384]).map(lambda length: "x" * length)
integers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 127, 128, 2**31, 2**53 + 1, 2**63 - 1, -1, -128, -(2**63)]),
)
doubles = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 0.0, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308, 0.1]),
)
scalars = st.one_of(st.none(), st.booleans(), integers, doubles, texts, long_texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
payloads = st.dictionaries(texts, values, max_size=5)

point_ids = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 127, 128, 2**63, 2**64 - 1]),
    st.uuids().map(str),
)
floats32 = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0])
)


def _buffer(numbers: list[float]) -> bytes:
    return np.array(numbers, dtype="<f4").tobytes()


def _as_view(data: bytes) -> memoryview:
    return memoryview(data)


dense = st.lists(floats32, min_size=1, max_size=40).map(_buffer)
sparse = st.dictionaries(st.integers(0, 2**32 - 1), floats32, max_size=8).map(
    lambda entries: Sparse(
        np.array(sorted(entries), dtype="<u4").tobytes(),
        _buffer([entries[index] for index in sorted(entries)]),
    )
)
multi = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(floats32, min_size=width, max_size=width), min_size=1, max_size=4
    ).map(lambda rows: Multi(width, b"".join(map(_buffer, rows))))
)
vectors = st.one_of(dense, dense.map(_as_view), sparse, multi)
named_vectors: st.SearchStrategy[dict[str, Vector]] = st.one_of(
    st.just({}),
    dense.map(lambda vector: dict[str, Vector]({"": vector})),
    multi.map(lambda vector: dict[str, Vector]({"": vector})),
    st.dictionaries(texts, vectors, max_size=4),
)
points = st.builds(Point, point_ids, named_vectors, payloads)


def vector_message(vector: Vector) -> q.Vector:
    if isinstance(vector, Sparse):
        indices = np.frombuffer(vector.indices, dtype="<u4").tolist()
        numbers = np.frombuffer(vector.values, dtype="<f4").tolist()
        return q.Vector(sparse=q.SparseVector(indices=indices, values=numbers))
    if isinstance(vector, Multi):
        rows = np.frombuffer(vector.data, dtype="<f4").reshape(-1, vector.dimension)
        matrix = [q.DenseVector(data=row.tolist()) for row in rows]
        return q.Vector(multi_dense=q.MultiDenseVector(vectors=matrix))
    return q.Vector(dense=q.DenseVector(data=np.frombuffer(vector, dtype="<f4").tolist()))


def value_message(value: Any) -> q.Value:
    if value is None:
        return q.Value(null_value=q.NullValue.NULL_VALUE)
    if isinstance(value, bool):
        return q.Value(bool_value=value)
    if isinstance(value, int):
        return q.Value(integer_value=value)
    if isinstance(value, float):
        return q.Value(double_value=value)
    if isinstance(value, str):
        return q.Value(string_value=value)
    if isinstance(value, list):
        return q.Value(list_value=q.ListValue(values=[value_message(item) for item in value]))
    fields = {key: value_message(item) for key, item in value.items()}
    return q.Value(struct_value=q.Struct(fields=fields))


def vectors_message(named: Mapping[str, Vector]) -> q.Vectors:
    if list(named) == [""]:
        return q.Vectors(vector=vector_message(named[""]))
    messages = {name: vector_message(vector) for name, vector in named.items()}
    return q.Vectors(vectors=q.NamedVectors(vectors=messages))


def point_message(point: Point) -> q.PointStruct:
    identity = q.PointId(num=point.id) if isinstance(point.id, int) else q.PointId(uuid=point.id)
    return q.PointStruct(
        id=identity,
        vectors=vectors_message(point.vectors),
        payload={key: value_message(value) for key, value in point.payload.items()},
    )


def upsert_message(collection: str, batch: list[Point]) -> q.UpsertPoints:
    messages = [point_message(point) for point in batch]
    return q.UpsertPoints(collection_name=collection, wait=True, points=messages)


def _sorted(value: Any) -> Any:
    """With every mapping in the order of its keys, as protobuf's deterministic serialiser writes.

    upb sorts a key behind those that it is the beginning of; hence the highest byte at its end.
    """
    if isinstance(value, dict):
        order = sorted(value, key=lambda key: key.encode() + b"\xff")
        return {key: _sorted(value[key]) for key in order}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


# --- what always holds ----------------------------------------------------------------------------


@given(texts.filter(bool), st.lists(points, max_size=4))
def test_the_bytes_parse_to_the_message_that_the_client_builds(
    collection: str, batch: list[Point]
) -> None:
    parsed = q.UpsertPoints.FromString(encode_upsert(collection, batch))
    assert parsed == upsert_message(collection, batch)


@given(points)
@example(Point(0, {}, {}))
@example(Point(2**64 - 1, {"": b"\0\0\x80?"}, {"": ""}))
def test_the_bytes_are_those_of_the_deterministic_serialiser(point: Point) -> None:
    ordered = Point(point.id, _sorted(dict(point.vectors)), _sorted(dict(point.payload)))
    expected = upsert_message("c", [ordered]).SerializeToString(deterministic=True)
    assert encode_upsert("c", [ordered]) == expected


@given(points)
def test_the_size_of_a_point_is_that_of_its_message(point: Point) -> None:
    parts: list[bytes | memoryview] = []
    size = append_point(parts, point)
    assert size == point_message(point).ByteSize()
    assert b"".join(parts) == b"\x1a" + varint(size) + b"".join(parts)[-size:]


@given(st.integers(0, 2**64 - 1))
@example(127)
@example(128)
def test_varints_are_protobufs(number: int) -> None:
    expected = q.PointId(num=number).SerializeToString() or b"\x08\x00"
    assert b"\x08" + varint(number) == expected


@given(doubles)
def test_doubles_keep_every_bit(number: float) -> None:
    parsed = q.UpsertPoints.FromString(encode_upsert("c", [Point(1, {}, {"x": number})]))
    stored = parsed.points[0].payload["x"].double_value
    assert struct.pack("<d", stored) == struct.pack("<d", number)


def test_booleans_are_not_integers() -> None:
    parsed = q.UpsertPoints.FromString(encode_upsert("c", [Point(1, {}, {"t": True, "one": 1})]))
    kinds = {key: value.WhichOneof("kind") for key, value in parsed.points[0].payload.items()}
    assert kinds == {"t": "bool_value", "one": "integer_value"}


def test_every_kind_of_vector_says_which_it_is() -> None:
    named: dict[str, Vector] = {
        "dense": _buffer([1.0, 2.0]),
        "sparse": Sparse(np.array([0, 2**32 - 1], "<u4").tobytes(), _buffer([0.5, -0.0])),
        "multi": Multi(2, _buffer([1.0, 2.0, 3.0, 4.0])),
    }
    parsed = q.UpsertPoints.FromString(encode_upsert("c", [Point(1, named, {})]))
    stored = parsed.points[0].vectors.vectors.vectors
    kinds = {name: vector.WhichOneof("vector") for name, vector in stored.items()}
    assert kinds == {"dense": "dense", "sparse": "sparse", "multi": "multi_dense"}
    assert list(stored["sparse"].sparse.indices) == [0, 2**32 - 1]
    assert [list(row.data) for row in stored["multi"].multi_dense.vectors] == [[1, 2], [3, 4]]


def test_a_point_without_vectors_says_so() -> None:
    parsed = q.UpsertPoints.FromString(encode_upsert("c", [Point(1, {}, {})])).points[0]
    assert parsed.HasField("vectors")
    assert parsed.vectors.WhichOneof("vectors_options") == "vectors"
    assert not parsed.vectors.vectors.vectors


@pytest.mark.parametrize("kept", [4095, 4096, 5000])
def test_more_payload_keys_than_are_remembered(kept: int) -> None:
    payload = {f"key {number} of {kept}": number for number in range(kept)}
    for _ in range(2):
        parsed = q.UpsertPoints.FromString(encode_upsert("c", [Point(1, {}, payload)]))
        found = {key: value.integer_value for key, value in parsed.points[0].payload.items()}
        assert found == payload


# --- the request's own fields ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ordering", "expected"),
    [
        ("weak", None),
        ("medium", q.WriteOrderingType.Medium),
        ("strong", q.WriteOrderingType.Strong),
    ],
)
def test_ordering(ordering: str, expected: int | None) -> None:
    parsed = q.UpsertPoints.FromString(encode_upsert("c", [], ordering=ordering))
    assert (parsed.ordering.type if parsed.HasField("ordering") else None) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("upsert", q.UpdateMode.Upsert),
        ("insert_only", q.UpdateMode.InsertOnly),
        ("update_only", q.UpdateMode.UpdateOnly),
    ],
)
def test_mode(mode: str, expected: int) -> None:
    assert q.UpsertPoints.FromString(encode_upsert("c", [], mode=mode)).update_mode == expected


def test_a_condition_is_the_filter_that_the_client_builds() -> None:
    matching = {"record.holder": "Grüße", "kind": "x" * 200}
    encoded = encode_upsert("c", [Point(1, {}, {})], mode="update_only", matching=matching)
    expected = q.Filter(
        must=[
            q.Condition(field=q.FieldCondition(key=key, match=q.Match(keyword=text)))
            for key, text in matching.items()
        ]
    )
    assert q.UpsertPoints.FromString(encoded).update_filter == expected


@pytest.mark.parametrize("seconds", [None, 1, 127, 128, 86_400])
def test_timeout(seconds: int | None) -> None:
    parsed = q.UpsertPoints.FromString(encode_upsert("c", [], timeout_seconds=seconds))
    assert (parsed.timeout if parsed.HasField("timeout") else None) == seconds


def test_all_options_together_are_in_the_order_of_their_numbers() -> None:
    batch = [Point(1, {}, {"a": 1})]
    expected = upsert_message("c", batch)
    expected.ordering.type = q.WriteOrderingType.Strong
    expected.timeout = 300
    expected.update_mode = q.UpdateMode.InsertOnly
    encoded = encode_upsert("c", batch, ordering="strong", mode="insert_only", timeout_seconds=300)
    assert encoded == expected.SerializeToString(deterministic=True)


def test_every_request_waits() -> None:
    assert q.UpsertPoints.FromString(encode_upsert("c", [])).wait is True


@pytest.mark.parametrize("option", [{"ordering": "loose"}, {"mode": "replace"}])
def test_an_unknown_option_raises(option: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        encode_upsert("c", [], **option)  # type: ignore[arg-type]


# --- what cannot be stored ------------------------------------------------------------------------

WRAPPINGS: list[Any] = [
    lambda value: {"a": value},
    lambda value: {"a": [1, value]},
    lambda value: {"a": {"b": value}},
    lambda value: {"a": [[{"b": [value]}]]},
]


@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**63,
        -(2**63) - 1,
        10**400,
        "\ud800",
        "end \udfff",
        b"bytes",
        (1, 2),
        {1, 2},
        iter(()),
        np.float32(1.0),
        np.int64(1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_without_a_payload_form_are_refused(wrap: Any, value: Any) -> None:
    with pytest.raises(Unstorable):
        encode_upsert("c", [Point(1, {}, wrap(value))])


@pytest.mark.parametrize("payload", [{"\ud800": 1}, {"a": {"\udc00": 1}}, {"a": [{"\udc00": 1}]}])
def test_keys_with_a_lone_surrogate_are_refused(payload: dict[str, Any]) -> None:
    for _ in range(2):  # the second time no earlier encoding of the key may be at hand
        with pytest.raises(Unstorable):
            encode_upsert("c", [Point(1, {}, payload)])


def test_a_refusal_does_not_tell_the_value() -> None:
    with pytest.raises(Unstorable) as caught:
        encode_upsert("c", [Point(1, {}, {"a": "secret\ud800"})])
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_refused_point_leaves_no_bytes_behind() -> None:
    parts: list[bytes | memoryview] = []
    with pytest.raises(Unstorable):
        append_point(parts, Point(1, {}, {"good": 1, "bad": math.nan}))
    assert parts == []


def _nested(depth: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("wrap", "deepest"), [(lambda value: {"a": value}, 32), (lambda value: [value], 48)]
)
def test_nesting_ends_where_protobufs_parsers_end(wrap: Any, deepest: int) -> None:
    """Every parser but Qdrant's stops at 100 levels: what is deeper could never be read back."""
    whole = Point(1, {}, {"x": _nested(deepest, wrap)})
    assert q.UpsertPoints.FromString(encode_upsert("c", [whole])) == upsert_message("c", [whole])
    with pytest.raises(Unstorable, match="deep"):
        encode_upsert("c", [Point(1, {}, {"x": _nested(deepest + 1, wrap)})])


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value]])
def test_nesting_beyond_pythons_stack_is_refused_all_the_same(wrap: Any) -> None:
    with pytest.raises(Unstorable, match="deep"):
        encode_upsert("c", [Point(1, {}, {"x": _nested(1024, wrap)})])


@given(st.lists(st.sampled_from(["list", "dict"]), min_size=28, max_size=52))
def test_nesting_that_is_accepted_can_be_read(kinds: list[str]) -> None:
    value: Any = 1
    for kind in kinds:
        value = [value] if kind == "list" else {"a": value}
    try:
        encoded = encode_upsert("c", [Point(1, {}, {"x": value})])
    except Unstorable:
        # Some parsers look at a message's depth only where one follows: one level is theirs to give.
        assert 4 + sum(2 if kind == "list" else 3 for kind in kinds) > 100
    else:
        assert q.UpsertPoints.FromString(encoded).points[0].payload["x"] == value_message(value)


# --- fields alone ---------------------------------------------------------------------------------


@given(payloads)
def test_fields_parse_as_a_map(payload: dict[str, Any]) -> None:
    parsed = q.Struct.FromString(encode_fields(STRUCT, payload))
    assert parsed == q.Struct(fields={key: value_message(item) for key, item in payload.items()})


# --- answers --------------------------------------------------------------------------------------

responses = st.builds(
    lambda status, operation, seconds: q.PointsOperationResponse(
        result=q.UpdateResult(operation_id=operation, status=status), time=seconds
    ),
    st.sampled_from(
        [
            q.UpdateStatus.UnknownUpdateStatus,
            q.UpdateStatus.Acknowledged,
            q.UpdateStatus.Completed,
            q.UpdateStatus.ClockRejected,
            q.UpdateStatus.WaitTimeout,
        ]
    ),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    st.floats(0, 1e6),
)


@given(responses)
def test_the_status_is_read_from_real_answers(response: q.PointsOperationResponse) -> None:
    assert decode_update_status(response.SerializeToString()) == response.result.status


def test_completed_is_the_status_that_counts() -> None:
    assert q.UpdateStatus.Completed == UPDATE_COMPLETED


def test_an_answer_without_a_result_has_no_status() -> None:
    assert decode_update_status(b"") == 0
    assert decode_update_status(q.PointsOperationResponse(time=1.0).SerializeToString()) == 0


@given(responses, st.integers(16, 2**29 - 1), st.sampled_from([0, 1, 2, 5]), st.binary(max_size=9))
def test_unknown_fields_are_passed_over(
    response: q.PointsOperationResponse, number: int, kind: int, content: bytes
) -> None:
    fixed = content.ljust(9, b"\0")
    body = {0: b"\x96\x01", 1: fixed[:8], 2: varint(len(content)) + content, 5: fixed[:4]}[kind]
    unknown = varint(number << 3 | kind) + body
    inner = unknown + response.result.SerializeToString() + unknown
    message = unknown + b"\x0a" + varint(len(inner)) + inner + unknown
    assert q.PointsOperationResponse.FromString(message).result.status == response.result.status
    assert decode_update_status(message) == response.result.status


@given(responses)
def test_an_answer_cut_short_is_never_taken_for_another(
    response: q.PointsOperationResponse,
) -> None:
    whole = response.SerializeToString()
    for length in range(len(whole)):
        cut = whole[:length]
        try:
            expected = q.PointsOperationResponse.FromString(cut).result.status
        except DecodeError:
            with pytest.raises(ValueError, match="cut short"):
                decode_update_status(cut)
        else:
            assert decode_update_status(cut) == expected


@pytest.mark.parametrize("garbage", [b"\xff" * 12, b"\x0b\x0c", b"\x0e", b"\x0a\x05\x10"])
def test_garbage_raises(garbage: bytes) -> None:
    with pytest.raises(ValueError, match=r"in a response|cut short"):
        decode_update_status(garbage)
