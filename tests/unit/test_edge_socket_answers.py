"""What the holder of an edge directory does for other processes, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.plan import Buffer, Point
from bridge.qdrant import edge_answers
from bridge.qdrant.edge_answers import SLICE_IDS, SLICE_POINTS, answer
from bridge.qdrant.edge_codec import (
    VERSION,
    Frame,
    PointsOut,
    decode_whole,
    encode,
    read_error,
    read_points,
)
from bridge.qdrant.target import STATE_COLLECTION
from tests.support.fake_held import FakeHeld

VECTOR = np.array([1, 2], dtype="<f4").tobytes()
SECRET = "a row's own value"


def asked(held: FakeHeld, request: Any, blobs: tuple[Buffer, ...] = (), **arguments: Any) -> Frame:
    return decode_whole(answer(held.held, encode({"request": request, **arguments}, blobs)))


def refused(held: FakeHeld, request: Any, **arguments: Any) -> BridgeError:
    frame = asked(held, request, **arguments)
    assert set(frame.document) == {"error"}
    return read_error(frame.document["error"])


def written(held: FakeHeld, request: str, points: list[Point], **arguments: Any) -> Frame:
    out = PointsOut()
    out.add(points)
    return asked(held, request, tuple(out.blobs), points=out.document, **arguments)


def filled(number: int) -> FakeHeld:
    held = FakeHeld()
    held.put(*(Point(i, {"v": VECTOR}, {"n": i}) for i in range(number)))
    return held


# --- reads ------------------------------------------------------------------------------------------


def test_a_scroll_is_cut_into_short_reads() -> None:
    held = filled(1000)
    frame = asked(
        held, "scroll", collection="docs", after=7, limit=250, matching={}, with_payload=True,
        with_vectors=True,
    )  # fmt: skip
    points = read_points(frame.document["points"], frame.blobs)
    assert [point.id for point in points] == list(range(7, 257))
    assert points[0] == Point(7, {"v": VECTOR}, {"n": 7})
    assert frame.document["following"] == 257
    assert held.calls == [("scroll", SLICE_POINTS), ("scroll", SLICE_POINTS), ("scroll", 50)]


def test_a_scroll_for_ids_is_cut_less() -> None:
    held = filled(2100)
    frame = asked(
        held, "scroll", collection="docs", after=None, limit=5000, matching={}, with_payload=False,
        with_vectors=False,
    )  # fmt: skip
    assert len(frame.document["points"]) == 2100 and frame.document["following"] is None
    assert [number for _name, number in held.calls] == [SLICE_IDS] * 3


def test_large_points_end_an_answer_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_answers, "ANSWER_BYTES", 2000)
    held = filled(1000)
    options: dict[str, Any] = {"collection": "docs", "with_vectors": True}
    page = asked(held, "scroll", after=None, limit=900, matching={}, with_payload=True, **options)
    assert (len(page.document["points"]), page.document["following"]) == (
        SLICE_POINTS,
        SLICE_POINTS,
    )
    some = asked(held, "retrieve", ids=list(range(900)), **options)
    assert some.document["answered"] == len(some.document["points"]) == SLICE_POINTS


def test_retrieve_says_how_many_ids_it_has_answered() -> None:
    held = filled(10)
    ids: list[Any] = [3, "2f3b0c0e-9e63-4b8e-8d56-0e5a4ab1cfb7", 11, 4]
    frame = asked(held, "retrieve", collection="docs", ids=ids, with_vectors=False)
    assert read_points(frame.document["points"], frame.blobs) == [
        Point(3, {}, {"n": 3}),
        Point(4, {}, {"n": 4}),
    ]
    assert frame.document["answered"] == 4


def test_small_questions() -> None:
    held = filled(3)
    assert asked(held, "collections").document == {"names": [STATE_COLLECTION, "docs"]}
    assert asked(held, "collection", name="other").document == {"collection": None}
    assert asked(held, "collection", name="docs").document["collection"]["points"] == 3
    assert asked(held, "count", collection="docs").document == {"count": 3}
    there = asked(held, "existing", collection="docs", ids=[1, 2, 9]).document
    assert (sorted(there["ids"]), there["answered"]) == ([1, 2], 3)
    found = asked(
        held, "search", (VECTOR,), collection="docs", vector="v", limit=1, exact=False
    ).document["hits"]
    assert found == [[0, 0.5, {"n": 0, "asked": VECTOR.hex()}]]


# --- writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("collection", ["docs", "_qdrant_bridge_", "", "other"])
def test_no_other_collection_than_the_reserved_one_is_written_to(collection: str) -> None:
    held = filled(1)
    point = Point(0, {}, {})
    for frame in (
        written(held, "upsert", [point], collection=collection, mode="upsert"),
        written(held, "replace", [point], collection=collection, matching={"n": "0"}),
    ):
        error = read_error(frame.document["error"])
        assert isinstance(error, UsageError) and "alone writes" in error.message and error.hint
    assert isinstance(refused(held, "delete", collection=collection, ids=[0]), UsageError)
    assert held.calls == []
    assert held.points["docs"][0].payload == {"n": 0}


def test_a_record_is_durable_before_it_is_answered() -> None:
    held = FakeHeld()
    state: dict[str, Any] = {"collection": STATE_COLLECTION}
    written(held, "upsert", [Point(1, {}, {"x": "a"})], mode="upsert", **state)
    written(held, "upsert", [Point(1, {}, {"x": "b"})], mode="insert_only", **state)
    assert held.points[STATE_COLLECTION][1].payload == {"x": "a"}
    written(held, "replace", [Point(1, {}, {"x": "c"})], matching={"x": "a"}, **state)
    assert held.points[STATE_COLLECTION][1].payload == {"x": "c"}
    asked(held, "delete", ids=[1], **state)
    assert held.points[STATE_COLLECTION] == {}
    assert [name for name, _number in held.calls] == [
        "upsert", "flush", "upsert", "flush", "replace", "flush", "delete", "flush",
    ]  # fmt: skip


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_name",
    ["clear", "patch", "create_collection", "delete_collection", "optimize", "send", "__class__", "",
     None, 7, ["count"]],
)  # fmt: skip
def test_an_unknown_request_is_refused(request_name: Any) -> None:
    held = filled(1)
    error = refused(held, request_name, collection="docs")
    assert isinstance(error, StopError) and error.code == "PROTOCOL"
    assert held.calls == []


@pytest.mark.parametrize(
    ("request_name", "arguments"),
    [
        ("count", {}),
        ("count", {"collection": 1}),
        ("collection", {"name": None}),
        ("existing", {"collection": "docs", "ids": 1}),
        ("existing", {"collection": "docs", "ids": [None]}),
        ("retrieve", {"collection": "docs", "ids": [1], "with_vectors": 1}),
        ("scroll", {"collection": "docs", "limit": 0}),
        ("scroll", {"collection": "docs", "limit": True}),
        ("scroll", {"collection": "docs", "limit": 1, "matching": {"a": 1}}),
        ("scroll", {"collection": "docs", "limit": 1, "after": 1.5}),
        ("upsert", {"collection": STATE_COLLECTION, "mode": "replace", "points": []}),
        ("upsert", {"collection": STATE_COLLECTION, "mode": "upsert", "points": None}),
        ("replace", {"collection": STATE_COLLECTION, "points": [], "matching": {}}),
        ("delete", {"collection": STATE_COLLECTION, "ids": {"1": 1}}),
    ],
)
def test_wrong_arguments_are_refused(request_name: str, arguments: dict[str, Any]) -> None:
    held = FakeHeld()
    error = refused(held, request_name, **arguments)
    assert error.code == "PROTOCOL", error
    assert held.calls == []


def test_another_version_is_told_so() -> None:
    assert asked(FakeHeld(), "hello", version=VERSION).document["version"] == VERSION
    for version in (VERSION + 1, None):
        error = refused(FakeHeld(), "hello", version=version)
        assert isinstance(error, UsageError) and "another version" in error.message


def test_errors_of_the_target_travel() -> None:
    error = refused(FakeHeld(), "count", collection="gone")
    assert isinstance(error, StopError)
    assert (error.code, error.hint) == ("TARGET_CHANGED", "why?")

    def fail(_method: str) -> None:
        raise Unreachable("was closed", hint="again")

    error = refused(FakeHeld(before=fail), "count", collection="docs")
    assert isinstance(error, Unreachable) and error.hint == "again"


def test_a_defect_is_told_without_a_value() -> None:
    def fail(_method: str) -> None:
        raise ValueError(SECRET)

    error = refused(FakeHeld(before=fail), "count", collection="docs")
    assert error.code == "INTERNAL" and "ValueError" in error.message
    assert SECRET not in f"{error.message}{error.hint}"


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 8, b"\xff" * 100])
def test_bytes_that_are_no_frame_are_answered_with_an_error(data: bytes) -> None:
    frame = decode_whole(answer(FakeHeld().held, data))
    assert read_error(frame.document["error"]).code == "PROTOCOL"
