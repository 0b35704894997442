"""What a stream needs of every target: points changed in part, all removed, looked for."""

from __future__ import annotations

import uuid

import pytest

from bridge.collection_spec import VectorSpec
from bridge.errors import Rejected
from bridge.plan import Patch, Point, Sparse
from tests.contract.places import Place, buffer, dense, fetch, numbers, sparse

NOTHING: frozenset[str] = frozenset()
UUID = str(uuid.UUID(int=7))


def filled(place: Place, *vectors: VectorSpec) -> str:
    name = place.create(*(vectors or (dense("a"), dense("b"))))
    points = [
        Point(identity, {"a": buffer(1, 2, 3), "b": buffer(4, 5, 6)}, {"x": 1, "old": True})
        for identity in (1, 2, UUID)
    ]
    place.target.upsert(name, points)
    return name


def test_a_patch_replaces_the_payload_and_keeps_the_vectors(place: Place) -> None:
    name = filled(place)
    place.target.patch(name, [Patch(1, {"x": None, "deep": {"list": [1, "two"]}}, {}, NOTHING)])
    point = fetch(place.target, name, 1)
    assert point.payload == {"x": None, "deep": {"list": [1, "two"]}}
    assert numbers(point.vectors["a"]) == [1, 2, 3]
    assert numbers(point.vectors["b"]) == [4, 5, 6]
    assert fetch(place.target, name, 2).payload == {"x": 1, "old": True}


def test_a_patch_may_empty_the_payload(place: Place) -> None:
    name = filled(place)
    place.target.patch(name, [Patch(UUID, {}, {}, NOTHING)])
    assert fetch(place.target, name, UUID).payload == {}


def test_a_patch_sets_some_vectors_and_clears_others(place: Place) -> None:
    name = filled(place)
    place.target.patch(
        name,
        [
            Patch(1, {"n": 1}, {"a": buffer(7, 8, 9)}, frozenset({"b"})),
            Patch(2, {"n": 2}, {}, frozenset({"a", "b"})),
            Patch(UUID, {"n": 3}, {"b": buffer(0, 0, 1)}, NOTHING),
        ],
    )
    first, second = fetch(place.target, name, 1), fetch(place.target, name, 2)
    third = fetch(place.target, name, UUID)
    assert {n: numbers(v) for n, v in first.vectors.items()} == {"a": [7, 8, 9]}
    assert dict(second.vectors) == {}
    assert {n: numbers(v) for n, v in third.vectors.items()} == {"a": [1, 2, 3], "b": [0, 0, 1]}
    assert [p.payload for p in (first, second, third)] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_patch_sets_the_unnamed_and_sparse_vectors(place: Place) -> None:
    name = place.create(dense(""), sparse("s"))
    entries = Sparse(b"\1\0\0\0", buffer(1))
    place.target.upsert(name, [Point(1, {"": buffer(1, 2, 3), "s": entries}, {})])
    other = Sparse(b"\2\0\0\0\3\0\0\0", buffer(4, 5))
    place.target.patch(name, [Patch(1, {"n": 1}, {"": buffer(3, 2, 1), "s": other}, NOTHING)])
    point = fetch(place.target, name, 1)
    assert numbers(point.vectors[""]) == [3, 2, 1]
    assert point.vectors["s"] == other


def test_the_same_patch_twice_changes_nothing(place: Place) -> None:
    name = filled(place)
    patch = Patch(1, {"n": 1}, {"a": buffer(7, 8, 9)}, frozenset({"b"}))
    place.target.patch(name, [patch])
    once = fetch(place.target, name, 1)
    place.target.patch(name, [patch])
    assert fetch(place.target, name, 1) == once


def test_a_patch_of_a_missing_point_is_rejected(place: Place) -> None:
    name = filled(place)
    with pytest.raises(Rejected):
        place.target.patch(name, [Patch(99, {"n": 1}, {}, NOTHING)])
    assert place.target.count(name) == 3


def test_no_patches_are_no_error(place: Place) -> None:
    name = filled(place)
    place.target.patch(name, [])
    assert place.target.count(name) == 3


def test_existing_tells_which_points_there_are(place: Place) -> None:
    name = filled(place)
    assert place.target.existing(name, [1, 3, UUID, str(uuid.UUID(int=8))]) == {1, UUID}
    assert place.target.existing(name, []) == set()


def test_clear_removes_every_point_and_keeps_the_collection(place: Place) -> None:
    name = filled(place)
    place.target.clear(name)
    assert place.target.count(name) == 0
    place.target.clear(name)
    place.target.upsert(name, [Point(5, {"a": buffer(1, 2, 3)}, {})])
    assert place.target.count(name) == 1
