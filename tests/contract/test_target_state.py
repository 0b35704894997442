"""The state's records on every target."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bridge.errors import StopError
from bridge.qdrant import edge_answers, edge_client
from bridge.qdrant import state as state_module
from bridge.qdrant.state import QdrantState
from tests.contract.places import Place


@pytest.fixture
def records_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reserved collection of our own: the real one may be in use."""
    name = place.name("_qdrant_bridge")
    for module in (state_module, edge_client, edge_answers):
        monkeypatch.setattr(module, "STATE_COLLECTION", name)
    monkeypatch.setattr(state_module, "_SPEC", dataclasses.replace(state_module._SPEC, name=name))
    return name


@pytest.fixture
def store(place: Place, records_name: str) -> QdrantState:
    state = QdrantState(place.target, "shop")
    state.prepare()
    return state


def test_the_reserved_collection_is_made_once(place: Place, records_name: str) -> None:
    state = QdrantState(place.target, "shop")
    assert not state.exists()
    state.prepare()
    state.put("chunk", "a", {"n": 1})
    state.prepare()
    assert state.exists()
    assert state.get("chunk", "a") == {"n": 1}


def test_a_record_comes_back_whole(store: QdrantState) -> None:
    record = {
        "text": "Grüße",
        "numbers": (1, 2.5, -(2**63)),
        "null": None,
        "nested": {"bounds": [("a", "1"), ("b", "2")], "empty": {}, "list": []},
    }
    store.put("plan", "public.docs", record)
    assert store.get("plan", "public.docs") == {
        "text": "Grüße",
        "numbers": [1, 2.5, -(2**63)],
        "null": None,
        "nested": {"bounds": [["a", "1"], ["b", "2"]], "empty": {}, "list": []},
    }


def test_put_replaces_the_whole_record(store: QdrantState) -> None:
    store.put("chunk", "a", {"x": 1, "y": 2})
    store.put("chunk", "a", {"y": 3})
    assert store.get("chunk", "a") == {"y": 3}


def test_a_record_that_is_not_there_is_none(store: QdrantState) -> None:
    store.put("chunk", "a", {"n": 1})
    assert store.get("chunk", "b") is None
    assert store.get("plan", "a") is None


def test_of_new_records_the_first_wins(place: Place, store: QdrantState) -> None:
    assert store.put_new("plan", "a", {"by": "first"}) == {"by": "first"}
    other = QdrantState(place.target, "shop")
    assert other.put_new("plan", "a", {"by": "second"}) == {"by": "first"}
    assert store.get("plan", "a") == {"by": "first"}


def test_a_record_is_replaced_only_where_its_fields_are_as_expected(store: QdrantState) -> None:
    store.put("lease", "a", {"holder": "x", "n": 1})
    kept = store.put_if("lease", "a", {"holder": "y", "n": 2}, matching={"holder": "z"})
    assert kept == {"holder": "x", "n": 1}
    replaced = store.put_if("lease", "a", {"holder": "y", "n": 2}, matching={"holder": "x"})
    assert replaced == {"holder": "y", "n": 2}
    assert store.get("lease", "a") == {"holder": "y", "n": 2}


def test_all_the_fields_must_be_as_expected(store: QdrantState) -> None:
    store.put("lease", "a", {"holder": "x", "stamp": "1"})
    both = {"holder": "x", "stamp": "2"}
    assert store.put_if("lease", "a", {"holder": "y"}, matching=both) == {
        "holder": "x",
        "stamp": "1",
    }


def test_a_record_that_is_missing_is_not_made_by_replacing(store: QdrantState) -> None:
    assert store.put_if("lease", "a", {"holder": "x"}, matching={"holder": ""}) is None
    assert store.get("lease", "a") is None


def test_of_two_that_replace_at_once_one_wins(store: QdrantState) -> None:
    store.put("lease", "a", {"stamp": "old"})

    def attempt(number: int) -> bool:
        record = {"stamp": f"new {number}"}
        return store.put_if("lease", "a", record, matching={"stamp": "old"}) == record

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_records_of_one_kind_over_several_pages(
    store: QdrantState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_PAGE", 5)
    for number in range(7):
        store.put("plan", f"p{number}", {"n": number})
    many = {f"public.docs/{number}": {"n": number} for number in range(20)}
    for name, record in many.items():
        store.put("chunk", name, record)
    assert dict(store.records("chunk")) == many
    assert len(list(store.records("plan"))) == 7
    assert list(store.records("dead_letter")) == []
    store.remove("chunk", many)
    assert list(store.records("chunk")) == []
    assert len(list(store.records("plan"))) == 7


def test_records_are_removed_and_missing_ones_are_no_error(store: QdrantState) -> None:
    for name in "abc":
        store.put("chunk", name, {})
    store.put("plan", "a", {})
    store.remove("chunk", ["a", "c", "never there"])
    store.remove("chunk", [])
    assert [name for name, _ in store.records("chunk")] == ["b"]
    assert store.get("plan", "a") == {}


def test_two_pipelines_do_not_see_each_other(place: Place, store: QdrantState) -> None:
    other = QdrantState(place.target, "library")
    store.put("chunk", "a", {"of": "shop"})
    other.put("chunk", "a", {"of": "library"})
    assert store.get("chunk", "a") == {"of": "shop"}
    assert dict(other.records("chunk")) == {"a": {"of": "library"}}
    store.remove("chunk", ["a"])
    assert other.get("chunk", "a") == {"of": "library"}


@pytest.mark.parametrize("kind", ["owner", "indexing"])
def test_what_concerns_a_collection_is_seen_by_every_pipeline(
    place: Place, store: QdrantState, kind: Any
) -> None:
    other = QdrantState(place.target, "library")
    assert store.put_new(kind, "docs", {"pipeline": "shop"}) == {"pipeline": "shop"}
    assert other.put_new(kind, "docs", {"pipeline": "library"}) == {"pipeline": "shop"}
    assert dict(other.records(kind)) == {"docs": {"pipeline": "shop"}}
    assert list(other.records("chunk")) == []


def test_records_outlive_the_process(place: Place, store: QdrantState) -> None:
    store.put("plan", "a", {"n": 1})
    again = QdrantState(place.reopen(), "shop")
    assert again.get("plan", "a") == {"n": 1}
    assert dict(again.records("plan")) == {"a": {"n": 1}}


def test_a_reserved_collection_that_was_deleted_stops(
    place: Place, store: QdrantState, records_name: str
) -> None:
    place.target.delete_collection(records_name)
    with pytest.raises(StopError) as caught:
        store.put("chunk", "a", {})
    assert caught.value.code == "TARGET_CHANGED"
