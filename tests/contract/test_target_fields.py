"""Fields of points that may be anybody's: set, deleted, and everything else left as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bridge.errors import StopError, Unstorable
from bridge.plan import Fields, Point
from bridge.qdrant.wire_fields import encode_field_updates
from tests.contract.places import Place, buffer, dense, fetch, numbers

UUID = "00000000-0000-0000-0000-000000000007"
Groups = Mapping[tuple[str, ...], Mapping[str, Any]]


def filled(place: Place) -> str:
    """Two points that somebody else made."""
    name = place.create(dense("a"))
    payload: dict[str, Any] = {"text": "theirs", "n": 1, "meta": {"a": 1, "b": [1, 2]}}
    points = [Point(identity, {"a": buffer(1, 2, 3)}, payload) for identity in (1, UUID)]
    place.target.upsert(name, points)
    return name


def set_fields(place: Place, name: str, *updates: Fields, ordering: str = "weak") -> None:
    place.target.send_fields(encode_field_updates(name, updates, ordering=ordering)).result()


def test_fields_are_set_and_everything_else_stays(place: Place) -> None:
    name = filled(place)
    set_fields(place, name, Fields(1, {(): {"n": 2, "new": {"x": [None, "y"]}}}))
    point = fetch(place.target, name, 1)
    assert point.payload == {
        "text": "theirs", "n": 2, "meta": {"a": 1, "b": [1, 2]}, "new": {"x": [None, "y"]},
    }  # fmt: skip
    assert numbers(point.vectors["a"]) == [1, 2, 3]
    assert fetch(place.target, name, UUID).payload["n"] == 1


def test_a_null_deletes_its_field(place: Place) -> None:
    name = filled(place)
    set_fields(place, name, Fields(UUID, {(): {"n": None, "never": None}}))
    payload = fetch(place.target, name, UUID).payload
    assert payload == {"text": "theirs", "meta": {"a": 1, "b": [1, 2]}}


def test_fields_inside_an_object_are_set_without_the_object_being_replaced(place: Place) -> None:
    name = filled(place)
    groups: Groups = {(): {"n": 3}, ("meta",): {"a": None, "c": 7}, ("deep", "er"): {"z": "new"}}
    set_fields(place, name, Fields(1, groups))
    assert fetch(place.target, name, 1).payload == {
        "text": "theirs", "n": 3, "meta": {"b": [1, 2], "c": 7}, "deep": {"er": {"z": "new"}},
    }  # fmt: skip


def test_nothing_but_nulls_inside_an_object_makes_no_object(place: Place) -> None:
    name = filled(place)
    set_fields(place, name, Fields(1, {("gone",): {"x": None}, ("meta",): {"a": None}}))
    assert fetch(place.target, name, 1).payload == {
        "text": "theirs", "n": 1, "meta": {"b": [1, 2]},
    }  # fmt: skip


def test_names_that_are_no_plain_words_are_addressed(place: Place) -> None:
    name = filled(place)
    groups: Groups = {("my key", "a.b"): {"x y": 1, "z": None}, (): {'q"uo\\te': 2}}
    set_fields(place, name, Fields(1, groups))
    payload = fetch(place.target, name, 1).payload
    assert payload["my key"] == {"a.b": {"x y": 1}}
    assert payload['q"uo\\te'] == 2
    set_fields(place, name, Fields(1, {("my key", "a.b"): {"x y": None}}))
    assert fetch(place.target, name, 1).payload["my key"] == {"a.b": {}}


def test_a_missing_point_is_made_of_its_fields_without_a_vector(place: Place) -> None:
    name = filled(place)
    groups: Groups = {(): {"n": 5, "no": None}, ("meta",): {"a": 1, "b": None}, ("x",): {"y": None}}
    set_fields(place, name, Fields(9, groups), Fields(1, {(): {"n": 6}}))
    made = fetch(place.target, name, 9)
    assert (made.payload, dict(made.vectors)) == ({"n": 5, "meta": {"a": 1}}, {})
    assert fetch(place.target, name, 1).payload["n"] == 6
    assert place.target.count(name) == 3


def test_the_same_update_twice_changes_nothing(place: Place) -> None:
    name = filled(place)
    update = Fields(1, {(): {"n": 2, "text": None}, ("meta",): {"a": None, "z": 1}})
    set_fields(place, name, update, ordering="strong")
    once = fetch(place.target, name, 1)
    set_fields(place, name, update, ordering="strong")
    assert fetch(place.target, name, 1) == once


def test_a_collection_without_vectors_takes_fields(place: Place) -> None:
    name = place.create()
    set_fields(place, name, *(Fields(i, {(): {"n": i}}) for i in range(1, 301)))
    assert place.target.count(name) == 300
    assert fetch(place.target, name, 300).payload == {"n": 300}


def test_a_collection_that_is_gone_is_told(place: Place) -> None:
    request = encode_field_updates(place.name(), [Fields(1, {(): {"n": 1}})])
    with pytest.raises(StopError) as caught:
        place.target.send_fields(request).result()
    assert caught.value.code == "TARGET_CHANGED"


def test_a_value_that_cannot_be_stored_is_found_before_sending() -> None:
    with pytest.raises(Unstorable):
        encode_field_updates("docs", [Fields(1, {(): {"n": float("nan")}})])
