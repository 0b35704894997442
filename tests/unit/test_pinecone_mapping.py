"""Records -> points; what a sample says of fields; the rule for numbers."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from bridge.collection_spec import CollectionSpec, VectorSpec
from bridge.config_tables import IdSettings
from bridge.errors import Unstorable
from bridge.pinecone.fields import FieldGuess, NumberRule, guess_fields, proposed_indexes
from bridge.pinecone.mapping import FieldNames, PineconeMapping, dense_vector, sparse_vector
from bridge.pinecone.records import Record, SparseValues
from bridge.plan import Sparse
from bridge.point_ids import NAMESPACE, hashed

DENSE = VectorSpec(name="", shape="dense", distance="cosine", dimension=2)
WORDS = VectorSpec(name="words", shape="sparse", distance="dot")


def mapping(**changes: Any) -> PineconeMapping:
    given: dict[str, Any] = {
        "label": "pinecone:i",
        "collection": CollectionSpec(name="c", vectors=(DENSE, WORDS)),
        "fields": FieldNames(id="__id__"),
        "dense": {"": DENSE},
        "sparse": {"": WORDS},
        **changes,
    }
    return PineconeMapping(**given)


def record(identity: str = "7", **changes: Any) -> Record:
    given: dict[str, Any] = {"dense": {"": [1.0, 2.0]}, "sparse": {}, "metadata": {}, **changes}
    return Record(identity, given["dense"], given["sparse"], given["metadata"])


def test_a_record_is_a_point() -> None:
    sparse = {"": SparseValues([9, 3], [0.5, 1.5])}
    (point,), letters = mapping().points("", [record(sparse=sparse, metadata={"n": 3.0})])
    assert letters == []
    assert point.id == 7
    assert point.payload == {"n": 3, "__id__": "7"}
    assert point.vectors[""] == struct.pack("<2f", 1, 2)
    assert point.vectors["words"] == Sparse(struct.pack("<2I", 3, 9), struct.pack("<2f", 1.5, 0.5))


def test_with_several_namespaces_the_pair_is_the_id() -> None:
    several = mapping(fields=FieldNames(id="__id__", namespace="ns"), several=True)
    (one,), _ = several.points("b", [record()])
    (other,), _ = several.points("", [record()])
    assert one.id == hashed(NAMESPACE, '["b","7"]')
    assert other.id == hashed(NAMESPACE, '["","7"]')
    assert one.payload == {"__id__": "7", "ns": "b"}
    assert several.dead_letter("b", "7", "why").key == '["b","7"]'


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ({"metadata": {"__id__": "mine"}}, "'__id__' of its own"),
        ({"dense": {"": [1.0]}}, "1 dimensions, not 2"),
        ({"dense": {"": [1e300, 0.0]}}, "no float32 holds"),
        ({"dense": {"": [3e38, 3e38]}}, "norm overflows"),
        ({"dense": {"other": [1.0]}}, "no place"),
        ({"sparse": {"": SparseValues([1, 1], [1.0, 2.0])}}, "index twice"),
        ({"sparse": {"": SparseValues([1], [1.0, 2.0])}}, "more indices"),
        ({"sparse": {"": SparseValues([2**32], [1.0])}}, "beyond 32 bits"),
        ({"sparse": {"": SparseValues([-1], [1.0])}}, "beyond 32 bits"),
        ({"sparse": {"": SparseValues([1], [1e300])}}, "no float32 holds"),
    ],
)
def test_what_cannot_become_a_point_is_set_aside_alone(flaw: dict[str, Any], reason: str) -> None:
    points, (letter,) = mapping().points("", [record("a"), record("b", **flaw), record("c")])
    assert [point.payload["__id__"] for point in points] == ["a", "c"]
    assert reason in letter.reason
    assert (letter.table, letter.key, letter.position) == (
        "pinecone:i",
        "b",
        "namespace __default__",
    )


def test_sparse_values_without_a_place_are_not_dropped() -> None:
    _, (letter,) = mapping(sparse={}).points("", [record(sparse={"": SparseValues([1], [1.0])})])
    assert "no sparse vector" in letter.reason
    points, _ = mapping(sparse={}).points("", [record(sparse={"": SparseValues([], [])})])
    assert len(points) == 1


def test_a_norm_that_overflows_matters_under_cosine_alone() -> None:
    dot = VectorSpec(name="", shape="dense", distance="dot", dimension=2)
    assert dense_vector([3e38, 3e38], dot) == struct.pack("<2f", 3e38, 3e38)
    with pytest.raises(Unstorable):
        dense_vector([float("nan"), 0.0], dot)


def test_an_empty_sparse_vector_is_none() -> None:
    assert sparse_vector(SparseValues([], [])) is None


# --- fields ---------------------------------------------------------------------------------------


def test_a_sample_tells_the_kinds_of_each_field() -> None:
    fields = guess_fields(
        [
            {"a": 1.0, "b": "x", "c": True, "d": ["x"]},
            {"a": 2.5, "b": "y", "e": 3.0, "f": 1e300},
            {"a": 1.0, "b": 2.0, "e": 2.0**53},
        ]
    )
    assert {one.name: (one.kinds, one.records) for one in fields} == {
        "a": (("float", "integer"), 3),
        "b": (("integer", "text"), 3),
        "c": (("boolean",), 1),
        "d": (("texts",), 1),
        "e": (("integer",), 2),
        "f": (("float",), 1),
    }
    assert proposed_indexes(fields) == {
        "a": "float", "c": "bool", "d": "keyword", "e": "integer", "f": "float",
    }  # fmt: skip


def test_indexes_are_addressed_by_paths_and_bounded() -> None:
    fields = [
        FieldGuess(name=name, kinds=("text",), records=9) for name in ("a.b", 'q"', "", "größe")
    ]
    assert proposed_indexes(fields) == {'"a.b"': "keyword", '"größe"': "keyword"}
    many = [FieldGuess(name=f"f{n}", kinds=("text",), records=1) for n in range(50)]
    assert len(proposed_indexes(many)) == 32


def test_whole_numbers_are_integers_unless_the_field_has_fractions() -> None:
    rule = NumberRule(float_fields=frozenset({"price"}))
    given = {"n": 3.0, "price": 4.0, "int": 5, "flag": True, "big": 2.0**53, "bigger": 2.0**60}
    made = rule.payload(given)
    assert made == {"n": 3, "price": 4.0, "int": 5, "flag": True, "big": 2**53, "bigger": 2.0**60}
    kinds = {name: type(value) for name, value in made.items()}
    assert kinds == {
        "n": int,
        "price": float,
        "int": int,
        "flag": bool,
        "big": int,
        "bigger": float,
    }
    assert rule.late == {"bigger"}


def test_numbers_that_came_as_integers_become_floats_in_such_a_field() -> None:
    rule = NumberRule(float_fields=frozenset({"price"}))
    assert type(rule.payload({"price": 3})["price"]) is float


def test_all_numbers_can_stay_floats() -> None:
    made = NumberRule(keep=True).payload({"n": 3.0, "m": 3, "flag": False})
    assert {name: type(value) for name, value in made.items()} == {
        "n": float, "m": float, "flag": bool,
    }  # fmt: skip


def test_a_late_fraction_stays_and_is_remembered() -> None:
    rule = NumberRule()
    assert rule.payload({"n": 2.5, "m": 1.0}) == {"n": 2.5, "m": 1}
    assert rule.late == {"n"}


def test_a_table_may_name_the_default_namespace_as_pinecone_shows_it() -> None:
    for name in ("", "__default__"):
        assert IdSettings(template="doc-{id}", namespace=name).namespace == ""
    assert IdSettings(template="doc-{id}").namespace is None
