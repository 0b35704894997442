"""The suite that every target must pass: edge, the test server, and a real server at `QDRANT_URL`.

It goes on in `test_target_collections.py` and `test_target_state.py`. Collections have names of their
own and are deleted afterwards, so a real server may be one that is in use. A new target needs an entry
in the fixture `place` and nothing else.
"""

from __future__ import annotations

import math
import random
import uuid
from typing import Any

import numpy as np
import pytest

from bridge.collection_spec import (
    Distance,
    VectorSpec,
)
from bridge.errors import Rejected
from bridge.plan import Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant.wire import encode_upsert
from tests.contract.places import (
    DISTANCES,
    Place,
    buffer,
    dense,
    fetch,
    ids,
    multi,
    numbers,
    scroll_all,
    servers_only,
    sparse,
)

# --- writing --------------------------------------------------------------------------------------


def test_upsert_replaces_the_whole_point(place: Place) -> None:
    name = place.create(dense("a"), dense("b"), sparse("s"))
    entries = Sparse(np.array([1], "<u4").tobytes(), buffer(1))
    place.target.upsert(
        name,
        [Point(1, {"a": buffer(1, 2, 3), "b": buffer(4, 5, 6), "s": entries}, {"x": 1, "y": 2})],
    )
    place.target.upsert(name, [Point(1, {"a": buffer(7, 8, 9)}, {"y": 3})])
    point = fetch(place.target, name, 1)
    assert list(point.vectors) == ["a"]
    assert numbers(point.vectors["a"]) == [7, 8, 9]
    assert point.payload == {"y": 3}
    assert place.target.count(name) == 1


def test_upsert_of_a_point_without_vectors_and_payload_empties_it(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})])
    place.target.upsert(name, [Point(1, {}, {})])
    assert fetch(place.target, name, 1) == Point(1, {}, {})


def test_insert_only_leaves_points_that_exist_as_they_are(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})])
    place.target.upsert(
        name,
        [Point(1, {"a": buffer(9, 9, 9)}, {"x": 9}), Point(2, {"a": buffer(2, 2, 2)}, {"x": 2})],
        mode="insert_only",
    )
    first, second = fetch(place.target, name, 1), fetch(place.target, name, 2)
    assert (numbers(first.vectors["a"]), first.payload) == ([1, 2, 3], {"x": 1})
    assert (numbers(second.vectors["a"]), second.payload) == ([2, 2, 2], {"x": 2})


def test_the_same_request_twice_changes_nothing(place: Place) -> None:
    name = place.create(dense("a"))
    points = [Point(number, {"a": buffer(number, 0, 0)}, {"n": number}) for number in range(5)]
    for _ in range(2):
        place.target.upsert(name, points)
    assert place.target.count(name) == 5
    assert [point.payload["n"] for point in scroll_all(place.target, name)] == [0, 1, 2, 3, 4]


def test_more_points_than_one_operation_takes(place: Place) -> None:
    name = place.create(dense("a"))
    points = [Point(number, {"a": buffer(number, 0, 0)}, {}) for number in range(2345)]
    place.target.upsert(name, points)
    assert place.target.count(name) == 2345
    assert numbers(fetch(place.target, name, 2344).vectors["a"]) == [2344, 0, 0]


def test_nothing_to_write_is_no_error(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {}, {})])
    place.target.upsert(name, [])
    place.target.delete(name, [])
    assert place.target.count(name) == 1


def test_several_requests_in_flight(place: Place) -> None:
    name = place.create(dense("a"))
    pending = [
        place.target.send(
            encode_upsert(
                name,
                [
                    Point(number, {"a": buffer(number, 1, 2)}, {"n": number})
                    for number in range(start, start + 50)
                ],
            )
        )
        for start in range(0, 400, 50)
    ]
    for request in pending:
        request.result()
    assert place.target.count(name) == 400
    assert [point.payload["n"] for point in scroll_all(place.target, name)] == list(range(400))


def test_a_request_of_bytes_may_be_insert_only(place: Place) -> None:
    name = place.create(dense("a"))
    for number in (1, 2):
        point = Point(1, {"a": buffer(number, 0, 0)}, {"n": number})
        place.target.send(encode_upsert(name, [point], mode="insert_only")).result()
    assert fetch(place.target, name, 1).payload == {"n": 1}


@pytest.mark.parametrize(
    "vectors",
    [
        {"a": buffer(1, 2)},
        {"a": buffer(1, 2, 3, 4)},
        {"unknown": buffer(1, 2, 3)},
        {"m": Multi(3, buffer(1, 2, 3))},
    ],
)
def test_a_vector_that_does_not_fit_is_rejected_and_the_others_can_go(
    place: Place, vectors: dict[str, Vector]
) -> None:
    name = place.create(dense("a"), multi("m", dimension=2))
    good = Point(1, {"a": buffer(1, 2, 3)}, {})
    with pytest.raises(Rejected) as caught:
        place.target.upsert(name, [good, Point(2, vectors, {})])
    assert caught.value.message
    pending = place.target.send(encode_upsert(name, [Point(2, vectors, {})]))
    with pytest.raises(Rejected):
        pending.result()
    place.target.upsert(name, [good])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == [1, 2, 3]
    assert place.target.retrieve(name, [2]) == []


def test_deleting_points_that_are_not_there_is_no_error(place: Place) -> None:
    name = place.create(dense("a"))
    uid = str(uuid.uuid4())
    place.target.upsert(name, [Point(1, {}, {}), Point(uid, {}, {}), Point(2, {}, {})])
    place.target.delete(name, [1, 99, uid, str(uuid.uuid4())])
    assert ids(scroll_all(place.target, name)) == [2]
    assert place.target.count(name) == 1


# --- payload --------------------------------------------------------------------------------------

PAYLOADS: dict[str, Any] = {
    "null": None,
    "booleans": [True, False],
    "integers": [0, 1, -1, 127, 128, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)],
    "whole floats": [0.0, 1.0, -1.0, 42.0, 1e6, 2.0**53],
    "exact floats": [0.5, -0.25, 1.5, 1e-5, 1e20, 0.1],
    "texts": [
        "",
        "plain",
        "Grüße ☕ 漢字 😀",
        "tab\tnewline\nquote\"'\\",
        "\u0001\u007f\u2028\ufeff",
    ],
    "long text": "x" * 100_000,
    "empty object": {},
    "empty list": [],
    "empty key": {"": 1},
    "nested": {"a": [{"b": [1, 2.5, None, "x", [True, {}]]}], "c": {"d": {"e": None}}},
    "mixed": [None, True, 1, 1.0, "1", [], {}],
    "dots.in.names": {"a.b": 1},
    'a "quoted" name': 1,
}


@pytest.mark.parametrize("key", PAYLOADS)
def test_payload_comes_back_as_it_went(place: Place, key: str) -> None:
    name = place.create(dense("a"))
    sent = {key: PAYLOADS[key]}
    place.target.upsert(name, [Point(1, {}, sent)])
    place.target.send(encode_upsert(name, [Point(2, {}, sent)])).result()
    for identity in (1, 2):
        stored = fetch(place.target, name, identity).payload
        assert stored == sent
        # 1 == 1.0 == True in Python, not in JSON.
        assert repr(_in_order(stored)) == repr(_in_order(sent))


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    return value


@pytest.mark.parametrize("levels", [1, 16, 32])
def test_nested_objects_as_deep_as_they_can_be_sent_come_back(place: Place, levels: int) -> None:
    name = place.create(dense("a"))
    value: Any = "deep"
    for _ in range(levels):
        value = {"x": value}
    place.target.send(encode_upsert(name, [Point(1, {}, {"top": value})])).result()
    assert fetch(place.target, name, 1).payload == {"top": value}
    assert scroll_all(place.target, name)[0].payload == {"top": value}


def test_doubles_come_back_within_four_units_in_the_last_place(place: Place) -> None:
    name = place.create(dense("a"))
    randomness = random.Random(20260102)
    doubles: list[Any] = [
        randomness.uniform(-1, 1) * 10.0 ** randomness.randint(-300, 300) for _ in range(500)
    ]
    doubles += [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308]
    place.target.upsert(name, [Point(1, {}, {"x": doubles})])
    stored = fetch(place.target, name, 1).payload["x"]
    assert isinstance(stored, list)
    for sent, found in zip(doubles, stored, strict=True):
        assert isinstance(found, float)
        assert abs(found - sent) <= 4 * math.ulp(sent)


def test_explicit_nulls_are_kept_apart_from_absent_fields(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {}, {"null": None}), Point(2, {}, {})])
    assert fetch(place.target, name, 1).payload == {"null": None}
    assert fetch(place.target, name, 2).payload == {}


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["dot", "euclid", "manhattan"])
def test_vectors_are_kept_bit_for_bit_unless_cosine(place: Place, distance: Distance) -> None:
    name = place.create(dense("a", dimension=6, distance=distance))
    vector = buffer(0.1, -3.4e38, 1e-38, 0.0, 1 / 3, 7)
    place.target.upsert(name, [Point(1, {"a": vector}, {})])
    assert fetch(place.target, name, 1).vectors["a"] == vector


def test_cosine_stores_unit_vectors(place: Place) -> None:
    name = place.create(dense("a", dimension=2, distance="cosine"))
    place.target.upsert(name, [Point(1, {"a": buffer(3, 4)}, {})])
    stored = numbers(fetch(place.target, name, 1).vectors["a"])
    assert stored == pytest.approx([0.6, 0.8], abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_zero_vector_is_kept_under_every_distance(place: Place, distance: Distance) -> None:
    name = place.create(dense("a", distance=distance))
    place.target.upsert(name, [Point(1, {"a": buffer(0, 0, 0)}, {})])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == [0, 0, 0]


def test_float16_keeps_what_a_halfvec_can_hold(place: Place) -> None:
    name = place.create(dense("a", dimension=5, datatype="float16", distance="euclid"))
    halves = [0.5, -1.25, 65504.0, 6e-8, float(np.float16(0.1))]
    exact = np.array(halves, dtype="<f2").astype("<f4").tolist()
    place.target.upsert(name, [Point(1, {"a": buffer(*exact)}, {})])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == exact


def test_uint8_keeps_bits(place: Place) -> None:
    name = place.create(dense("a", dimension=9, datatype="uint8", distance="manhattan"))
    bits = [1, 0, 1, 1, 0, 0, 0, 1, 1]
    place.target.upsert(name, [Point(1, {"a": buffer(*bits)}, {})])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == bits


def test_sparse_vectors_are_kept(place: Place) -> None:
    name = place.create(sparse("s"))
    entries = Sparse(
        np.array([0, 7, 999_999_999, 2**32 - 1], "<u4").tobytes(), buffer(1, -2, 0.1, 4)
    )
    place.target.upsert(name, [Point(1, {"s": entries}, {})])
    place.target.send(encode_upsert(name, [Point(2, {"s": entries}, {})])).result()
    assert fetch(place.target, name, 1).vectors == {"s": entries}
    assert fetch(place.target, name, 2).vectors == {"s": entries}


def test_multivectors_are_kept(place: Place) -> None:
    name = place.create(multi("m", dimension=2))
    one, many = Multi(2, buffer(1, 2)), Multi(2, buffer(1, 2, 3, 4, 5, 6))
    place.target.upsert(name, [Point(1, {"m": one}, {}), Point(2, {"m": many}, {})])
    place.target.send(encode_upsert(name, [Point(3, {"m": many}, {})])).result()
    assert fetch(place.target, name, 1).vectors == {"m": one}
    assert fetch(place.target, name, 2).vectors == {"m": many}
    assert fetch(place.target, name, 3).vectors == {"m": many}


@pytest.mark.parametrize("others", [(), (sparse(),), (dense("other"),)])
def test_the_unnamed_vector_beside_others(place: Place, others: tuple[VectorSpec, ...]) -> None:
    name = place.create(dense(""), *others)
    vectors: dict[str, Vector] = {"": buffer(1, 2, 3)}
    if others:
        entries = Sparse(np.array([5], "<u4").tobytes(), buffer(1))
        vectors[others[0].name] = entries if others[0].shape == "sparse" else buffer(4, 5, 6)
    place.target.upsert(name, [Point(1, vectors, {})])
    place.target.send(encode_upsert(name, [Point(2, vectors, {})])).result()
    for identity in (1, 2):
        assert fetch(place.target, name, identity).vectors == vectors
    assert place.target.search(name, "", buffer(1, 2, 3))[0].score == pytest.approx(14.0)


def test_scores_are_of_the_points_asked_for_that_have_the_vector(place: Place) -> None:
    name = place.create(dense("a"), dense(""))
    place.target.upsert(
        name,
        [
            Point(1, {"a": buffer(1, 2, 3)}, {}),
            Point(2, {}, {}),
            Point(3, {"a": buffer(1, 0, 0)}, {}),
        ],
    )
    scores = place.target.scores(name, "a", buffer(2, 1, 0), [1, 2, 4])
    assert scores == {1: pytest.approx(4.0)}
    assert place.target.scores(name, "", buffer(2, 1, 0), [1, 2]) == {}
    hits = place.target.search(name, "a", buffer(2, 1, 0), limit=2, exact=True)
    assert [hit.id for hit in hits] == [1, 3]


def test_a_point_may_lack_any_of_the_vectors(place: Place) -> None:
    name = place.create(dense("a"), dense("b"), multi("m"), sparse("s"))
    place.target.upsert(name, [Point(1, {}, {}), Point(2, {"b": buffer(1, 2, 3)}, {})])
    assert fetch(place.target, name, 1).vectors == {}
    assert fetch(place.target, name, 2).vectors == {"b": buffer(1, 2, 3)}


def test_a_point_may_lack_the_unnamed_vector(place: Place) -> None:
    name = place.create(dense(""))
    place.target.upsert(name, [Point(1, {}, {"x": 1}), Point(2, {"": buffer(1, 2, 3)}, {})])
    assert fetch(place.target, name, 1) == Point(1, {}, {"x": 1})
    assert [hit.id for hit in place.target.search(name, "", buffer(1, 1, 1))] == [2]


# --- reading --------------------------------------------------------------------------------------

UUIDS = [str(uuid.UUID(int=number)) for number in (1, 2**64, 2**100, 2**127, 2**128 - 1)]
ORDERED: list[PointId] = [0, 1, 2, 41, 2**32, 2**63, 2**64 - 1, *UUIDS]


def test_ids_of_every_size_are_kept_and_scrolled_in_order(place: Place) -> None:
    name = place.create(dense("a"))
    shuffled = list(ORDERED)
    random.Random(7).shuffle(shuffled)
    place.target.upsert(name, [Point(identity, {}, {}) for identity in shuffled])
    assert ids(scroll_all(place.target, name)) == ORDERED
    assert place.target.count(name) == len(ORDERED)


@pytest.mark.parametrize("limit", [1, 3, 11, 12, 13])
def test_pages_follow_each_other_without_gap_or_overlap(place: Place, limit: int) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(identity, {}, {}) for identity in ORDERED])
    page, following = place.target.scroll(name, limit=limit)
    assert ids(page) == ORDERED[:limit]
    assert following == (ORDERED[limit] if limit < len(ORDERED) else None)
    assert ids(scroll_all(place.target, name, limit=limit)) == ORDERED


def test_an_empty_collection_has_one_empty_page(place: Place) -> None:
    assert place.target.scroll(place.create(dense("a"))) == ([], None)


def test_scroll_gives_what_is_asked_for(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})])

    def only(**options: Any) -> Point:
        (point,), _ = place.target.scroll(name, **options)
        return point

    assert only() == Point(1, {}, {"x": 1})
    assert only(with_payload=False) == Point(1, {}, {})
    assert only(with_vectors=True) == Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})


def test_scroll_of_matching_points(place: Place) -> None:
    name = place.create(dense("a"), lang="keyword")
    points = [
        Point(number, {}, {"lang": ("en", "de", "")[number % 3], "kind": "ab"[number % 2]})
        for number in range(30)
    ]
    place.target.upsert(name, points)
    german = scroll_all(place.target, name, matching={"lang": "de"}, limit=4)
    assert ids(german) == list(range(1, 30, 3))
    both = scroll_all(place.target, name, matching={"lang": "en", "kind": "b"})
    assert ids(both) == [number for number in range(30) if number % 3 == 0 and number % 2]
    assert ids(scroll_all(place.target, name, matching={"lang": ""})) == list(range(2, 30, 3))
    assert scroll_all(place.target, name, matching={"lang": "fr"}) == []


def test_retrieve_gives_those_that_exist(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(
        name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1}), Point(UUIDS[2], {}, {"x": 2})]
    )
    found = place.target.retrieve(name, [1, 2, UUIDS[2], UUIDS[3]])
    assert {point.id: dict(point.payload) for point in found} == {1: {"x": 1}, UUIDS[2]: {"x": 2}}
    assert all(point.vectors == {} for point in found)
    assert place.target.retrieve(name, []) == []


NEAREST: dict[Distance, tuple[bytes, list[int]]] = {
    "cosine": (buffer(1, 0), [3, 2, 1]),
    "dot": (buffer(1, 0), [2, 3, 1]),
    "euclid": (buffer(2, 0), [3, 1, 2]),
    "manhattan": (buffer(2, 0), [3, 1, 2]),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("optimized", [False, True])
def test_search_gives_the_nearest_first(place: Place, distance: Distance, optimized: bool) -> None:
    name = place.create(dense("a", dimension=2, distance=distance))
    vectors = {1: buffer(0, 1), 2: buffer(9, 9), 3: buffer(2, 0)}
    place.target.upsert(
        name, [Point(number, {"a": vector}, {"n": number}) for number, vector in vectors.items()]
    )
    if optimized:
        place.target.optimize(name)
    query, expected = NEAREST[distance]
    hits = place.target.search(name, "a", query, limit=3)
    assert [hit.id for hit in hits] == expected
    assert [hit.payload["n"] for hit in hits] == expected
    assert [hit.id for hit in place.target.search(name, "a", query, limit=1)] == expected[:1]


def test_a_search_takes_a_dense_vector_only(place: Place) -> None:
    name = place.create(sparse("s"))
    with pytest.raises(TypeError):
        place.target.search(name, "s", Sparse(b"", b""))


# --- indexing, durability -------------------------------------------------------------------------


@servers_only
def test_the_indexing_threshold_is_set_and_read_back(place: Place) -> None:
    name = place.create(dense("a"))
    for kilobytes in (0, 20_000, 0, 7):
        place.target.set_indexing_threshold(name, kilobytes)
        state = place.target.collection(name)
        assert state is not None
        assert state.indexing_threshold == kilobytes


def test_optimize_keeps_every_point(place: Place) -> None:
    name = place.create(dense("a", dimension=16))
    randomness = np.random.default_rng(3)
    matrix = randomness.standard_normal((1500, 16)).astype("<f4")
    place.target.upsert(
        name, [Point(number, {"a": row.tobytes()}, {}) for number, row in enumerate(matrix)]
    )
    place.target.optimize(name)
    assert place.target.count(name) == 1500
    assert fetch(place.target, name, 1499).vectors["a"] == matrix[1499].tobytes()


def test_what_was_flushed_is_there_after_a_restart(place: Place) -> None:
    name = place.create(dense("a"), sparse("s"), word="keyword")
    entries = Sparse(np.array([3], "<u4").tobytes(), buffer(1))
    points = [
        Point(number, {"a": buffer(number, 1, 2), "s": entries}, {"word": "x", "n": number})
        for number in range(200)
    ]
    place.target.upsert(name, points)
    place.target.delete(name, [7])
    place.target.flush()
    before = place.target.collection(name)
    target = place.reopen()
    assert target.count(name) == 199
    assert scroll_all(target, name, with_vectors=True) == [p for p in points if p.id != 7]
    after = target.collection(name)
    assert before is not None
    assert after is not None
    assert (after.vectors, dict(after.payload_indexes)) == (
        before.vectors,
        dict(before.payload_indexes),
    )
