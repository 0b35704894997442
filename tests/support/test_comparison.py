"""The oracle notices what it is there to notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.conftest import Database
from tests.support.comparison import Expectation, SparseVector, StoredPoint, differences, point_id

PAYLOAD: dict[str, Any] = {"id": 1, "t": "x", "f": 0.1, "j": {"a": [1, 2.0]}, "n": None}
VECTORS: dict[str, Any] = {
    "l2": np.array([1, 2], dtype=np.float32),
    "unit": np.array([0.6, 0.8], dtype=np.float32),
    "s": SparseVector(values={0: 1.5}),
}
EQUAL = StoredPoint(payload=PAYLOAD, vectors=VECTORS)
EXPECTED = Expectation(distances={"l2": "euclid", "s": "dot"})


@pytest.fixture
def table(database: Database) -> Database:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, t text, f float8, j jsonb, n int,"
        " l2 vector(2), unit vector(2), s sparsevec(3))"
    )
    database.execute(
        "INSERT INTO t VALUES (1, 'x', 0.1, '{\"a\": [1, 2.0]}', NULL, '[1,2]', '[3,4]', '{1:1.5}/3')"
    )
    return database


def test_equal_is_equal(table: Database) -> None:
    assert differences(table, "t", {1: EQUAL}, EXPECTED) == []


@pytest.mark.parametrize(
    "change",
    [
        {"t": "y"},
        {"id": 1.0},
        {"id": True},
        {"f": 0.1 + 1e-15},
        {"f": "0.1"},
        {"j": {"a": [1, 2]}},
        {"j": {"a": [1, 2.0, 3]}},
        {"j": {"a": [1, 2.0], "b": None}},
        {"n": 0},
        {"other": None},
    ],
)
def test_another_payload_is_a_difference(table: Database, change: dict[str, Any]) -> None:
    point = replace(EQUAL, payload={**PAYLOAD, **change})
    assert len(differences(table, "t", {1: point}, EXPECTED)) == 1


def test_a_missing_null_is_a_difference(table: Database) -> None:
    payload = {name: value for name, value in PAYLOAD.items() if name != "n"}
    lines = differences(table, "t", {1: replace(EQUAL, payload=payload)}, EXPECTED)
    assert lines == ["['1']: payload n: wanted None, found 'nothing'"]


@pytest.mark.parametrize(
    "change",
    [
        {"l2": np.array([1, np.nextafter(np.float32(2), np.float32(3))], dtype=np.float32)},
        {"l2": np.array([1, 2, 3], dtype=np.float32)},
        {"l2": np.array([[1, 2]], dtype=np.float32)},
        {"unit": np.array([0.60001, 0.8], dtype=np.float32)},
        {"unit": np.array([3, 4], dtype=np.float32)},
        {"s": SparseVector(values={1: 1.5})},
        {"s": SparseVector(values={0: 1.25})},
        {"s": np.array([1.5], dtype=np.float32)},
        {"more": np.array([1], dtype=np.float32)},
    ],
)
def test_another_vector_is_a_difference(table: Database, change: dict[str, Any]) -> None:
    point = replace(EQUAL, vectors={**VECTORS, **change})
    assert len(differences(table, "t", {1: point}, EXPECTED)) == 1


def test_missing_and_extra_points_and_vectors_are_differences(table: Database) -> None:
    assert differences(table, "t", {}, EXPECTED) == ["['1']: missing (point 1)"]
    assert differences(table, "t", {1: EQUAL, 2: EQUAL}, EXPECTED) == ["point 2: extra"]
    bare = replace(EQUAL, vectors={})
    assert len(differences(table, "t", {1: bare}, EXPECTED)) == 3


def test_a_row_that_was_set_aside_must_be_missing(table: Database) -> None:
    aside = replace(EXPECTED, without=[("1",)])
    assert differences(table, "t", {}, aside) == []
    assert len(differences(table, "t", {1: EQUAL}, aside)) == 1


def test_ids_follow_the_public_rule() -> None:
    assert point_id(["42"]) == 42
    assert point_id(["007"]) != 7
    spelled = "6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f"
    assert point_id([spelled]) == spelled
    assert point_id([spelled.upper()]) != spelled
    assert isinstance(point_id([str(2**64)]), str)
