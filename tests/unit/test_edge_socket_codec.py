"""The frames of an edge directory's socket: nothing is lost, nothing is believed."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.collection_spec import HnswSpec, QuantizationSpec, VectorSpec
from bridge.errors import (
    BridgeError,
    CheckFailed,
    RateLimited,
    Rejected,
    StopError,
    Unreachable,
    Unstorable,
    UsageError,
)
from bridge.plan import Multi, Point, Sparse
from bridge.qdrant.edge_claim import DirectoryInUse
from bridge.qdrant.edge_codec import (
    FRAME_LIMIT_BYTES,
    PointsOut,
    collection_document,
    decode_whole,
    encode,
    error_document,
    lengths,
    read_collection,
    read_error,
    read_points,
)
from bridge.qdrant.target import CollectionState

FLOATS = st.binary(max_size=40).map(lambda data: data[: len(data) // 4 * 4])
VECTORS = st.one_of(
    FLOATS,
    st.builds(Sparse, FLOATS, FLOATS),
    st.builds(Multi, st.integers(1, 65_536), FLOATS),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
IDS = st.one_of(st.integers(0, 2**64 - 1), st.uuids().map(str))
POINTS = st.builds(
    Point,
    IDS,
    st.dictionaries(NAMES, VECTORS, max_size=3),
    st.dictionaries(NAMES, VALUES, max_size=3),
)


def sent(points: list[Point]) -> list[Point]:
    out = PointsOut()
    out.add(points)
    frame = decode_whole(encode({"points": out.document}, out.blobs))
    assert out.size >= len(frame.blobs)
    return read_points(frame.document["points"], frame.blobs)


@given(st.lists(POINTS, max_size=5))
def test_points_arrive_as_they_were_sent(points: list[Point]) -> None:
    arrived = sent(points)
    assert arrived == points
    assert repr(arrived) == repr(points), "-0.0 is not 0.0, and 1 is neither True nor 1.0"


def test_buffers_may_be_views() -> None:
    data = memoryview(bytearray(8))
    [point] = sent([Point(1, {"a": data, "b": Sparse(data[:4], data[4:])}, {})])
    assert point.vectors == {"a": bytes(8), "b": Sparse(bytes(4), bytes(4))}


@pytest.mark.parametrize("payload", [{"a": {1, 2}}, {"a": 2**64}, {"a": "\ud800"}, {1: 2}])
def test_what_json_cannot_hold_is_rejected(payload: Any) -> None:
    with pytest.raises(Rejected, match="cannot be sent"):
        PointsOut().add([Point(1, {}, payload)])
    with pytest.raises(Rejected, match="cannot be sent"):
        encode(payload)


# --- frames that lie ------------------------------------------------------------------------------


def refused(data: bytes) -> str:
    with pytest.raises(StopError) as caught:
        frame = decode_whole(data)
        read_points(frame.document.get("points"), frame.blobs)
    assert caught.value.code == "PROTOCOL" and caught.value.hint
    return caught.value.message


def frame_of(text: bytes, blobs: bytes = b"") -> bytes:
    return struct.pack("!II", len(text), len(blobs)) + text + blobs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b'{"points": "\xff"}', "no JSON"),
        (b'{"points": NaN}', "no JSON"),
        (b"[1]", "no object"),
        (b"{}", "no list"),
        (b'{"points": {}}', "no list"),
        (b'{"points": [1]}', "not [id, vectors, payload]"),
        (b'{"points": [[1, {}]]}', "not [id, vectors, payload]"),
        (b'{"points": [[1, {}, []]]}', "not [id, vectors, payload]"),
        (b'{"points": [[1.5, {}, {}]]}', "an id"),
        (b'{"points": [[true, {}, {}]]}', "an id"),
        (b'{"points": [[1, {"v": 4}, {}]]}', "neither dense"),
        (b'{"points": [[1, {"v": {"sparse": 4}}, {}]]}', "neither dense"),
        (b'{"points": [[1, {"v": {"multi": [0, 4]}}, {}]]}', "neither dense"),
        (b'{"points": [[1, {"v": {"dense": 8}}, {}]]}', "length"),
        (b'{"points": [[1, {"v": {"dense": -4}}, {}]]}', "length"),
        (b'{"points": [[1, {"v": {"dense": 3}}, {}]]}', "length"),
        (b'{"points": [[1, {"v": {"dense": "4"}}, {}]]}', "length"),
        (b'{"points": [[1, {"v": {"dense": 4}}, {}], [2, {"v": {"dense": 4}}, {}]]}', "length"),
        (b'{"points": [[1, {}, {}]]}', "belong to no vector"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(text: bytes, words: str) -> None:
    assert words in refused(frame_of(text, b"1234"))


def test_a_frame_is_as_long_as_it_says() -> None:
    whole = frame_of(b'{"points": []}')
    for data in (whole[:-1], whole + b" "):
        assert "as long as it says" in refused(data)


def test_a_length_beyond_the_limit_is_not_believed() -> None:
    assert lengths(struct.pack("!II", FRAME_LIMIT_BYTES, 0)) == (FRAME_LIMIT_BYTES, 0)
    for parts in ((FRAME_LIMIT_BYTES, 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(StopError, match="announced"):
            lengths(struct.pack("!II", *parts))


# --- errors and collections -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [UsageError, CheckFailed, StopError, Unreachable, Rejected, Unstorable]
)
def test_an_error_arrives_with_all_that_it_says(kind: type[BridgeError]) -> None:
    error = kind("what", hint="how", code="CODE", table="t", key="k", position="0/1")
    arrived = read_error(decode_whole(encode({"error": error_document(error)})).document["error"])
    assert type(arrived) is kind
    assert str(arrived) == "what" and arrived.exit_code == error.exit_code
    for name in ("message", "hint", "code", "table", "key", "position"):
        assert getattr(arrived, name) == getattr(error, name)


@pytest.mark.parametrize("seconds", [None, 2.5])
def test_how_long_to_wait_arrives(seconds: float | None) -> None:
    arrived = read_error(error_document(RateLimited("slowly", retry_after_seconds=seconds)))
    assert isinstance(arrived, RateLimited) and arrived.retry_after_seconds == seconds


def test_an_error_of_a_special_kind_arrives_as_its_general_one() -> None:
    assert type(read_error(error_document(DirectoryInUse("in use")))) is UsageError
    assert type(read_error(error_document(BridgeError("some")))) is StopError


@pytest.mark.parametrize("document", [None, [], {}, {"kind": "OSError"}, {"kind": ["StopError"]}])
def test_an_unknown_error_is_none_of_ours(document: Any) -> None:
    assert read_error(document).code == "PROTOCOL"


def test_a_collection_arrives_whole() -> None:
    state = CollectionState(
        name="docs",
        vectors=(
            VectorSpec(
                name="v",
                shape="dense",
                distance="cosine",
                dimension=3,
                hnsw=HnswSpec(m=8),
                quantization=QuantizationSpec(kind="scalar", quantile=0.9),
            ),
            VectorSpec(name="s", shape="sparse", distance="dot"),
        ),
        payload_indexes={"a.b": "keyword"},
        points=3,
    )
    told = decode_whole(encode({"collection": collection_document(state)})).document["collection"]
    assert read_collection(told) == state
    assert read_collection(None) is None


@pytest.mark.parametrize("document", [1, [], {}, {"vectors": [{}]}, {"vectors": [], "more": 1}])
def test_a_collection_that_cannot_be_read_is_refused(document: Any) -> None:
    with pytest.raises(StopError, match="collection"):
        read_collection(document)
