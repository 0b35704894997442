"""pgvector's binary formats become Qdrant's buffers, checked against pgvector's own Python classes."""

from __future__ import annotations

import importlib
import importlib.util
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Unstorable
from bridge.plan import Multi, Sparse
from bridge.vectors import Kind, Result, array_elements, dense, dimension_of, multi, sparse

# Their place differs before 0.4, below which langchain-postgres holds pgvector, and from 0.5 on.
_OLD_PLACE = importlib.util.find_spec("pgvector.utils")
_CLASSES: Any = importlib.import_module("pgvector.utils" if _OLD_PLACE else "pgvector")
Bit, HalfVector = _CLASSES.Bit, _CLASSES.HalfVector
SparseVector, Vector = _CLASSES.SparseVector, _CLASSES.Vector

VECTOR_OID = 16_000  # any: it depends on the database


def raw_vector(*numbers: float) -> bytes:
    """As vector_send writes it; pgvector's class refuses what this must test."""
    return struct.pack(f">hh{len(numbers)}f", len(numbers), 0, *numbers)


def raw_array(*elements: bytes | None, shape: Sequence[int] | None = None) -> bytes:
    """As array_send writes it; one dimension unless `shape` says otherwise."""
    sizes = [len(elements)] if shape is None else list(shape)
    if not elements:
        sizes = []
    head = struct.pack(">iii", len(sizes), int(None in elements), VECTOR_OID)
    head += b"".join(struct.pack(">ii", size, 1) for size in sizes)
    parts = [
        struct.pack(">i", -1) if element is None else struct.pack(">i", len(element)) + element
        for element in elements
    ]
    return head + b"".join(parts)


def numbers(result: Result) -> list[float]:
    """A dense vector's components; fails for anything else."""
    assert isinstance(result, bytes | memoryview)
    floats: list[float] = np.frombuffer(result, dtype="<f4").tolist()
    return floats


def reason(result: Result) -> str:
    """Why a row was set aside; fails if it was not."""
    assert isinstance(result, Unstorable)
    return result.message


def entries(result: Result) -> dict[int, float]:
    """A sparse vector's entries; fails for anything else."""
    assert isinstance(result, Sparse)
    indices = np.frombuffer(result.indices, dtype="<u4").tolist()
    return dict(zip(indices, np.frombuffer(result.values, dtype="<f4").tolist(), strict=True))


def rows(result: Result) -> list[list[float]]:
    """A multivector's rows; fails for anything else."""
    assert isinstance(result, Multi)
    matrix = np.frombuffer(result.data, dtype="<f4").reshape(-1, result.dimension)
    found: list[list[float]] = matrix.tolist()
    return found


floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
floats16 = st.floats(width=16, allow_nan=False, allow_infinity=False)


def batches(component: Any) -> Any:
    """Batches of rows of one dimension, some of them NULL."""
    return st.integers(1, 20).flatmap(
        lambda dimension: st.lists(
            st.none() | st.lists(component, min_size=dimension, max_size=dimension),
            min_size=1,
            max_size=6,
        ).map(lambda batch: (dimension, batch))
    )


# --- dense ----------------------------------------------------------------------------------------


@given(batches(floats32))
def test_vectors_arrive_bit_for_bit(given_: tuple[int, list[list[float] | None]]) -> None:
    dimension, batch = given_
    fields = [None if row is None else Vector(row).to_binary() for row in batch]
    results = dense(fields, kind="vector", dimension=dimension, cosine=False)
    for row, result in zip(batch, results, strict=True):
        if row is None:
            assert result is None
        else:
            assert isinstance(result, memoryview)
            assert bytes(result) == np.array(row, dtype="<f4").tobytes()


@given(batches(floats16))
def test_halfvecs_arrive_exactly(given_: tuple[int, list[list[float] | None]]) -> None:
    dimension, batch = given_
    fields = [None if row is None else HalfVector(row).to_binary() for row in batch]
    results = dense(fields, kind="halfvec", dimension=dimension, cosine=True)
    for row, result in zip(batch, results, strict=True):
        if row is None:
            assert result is None
        else:
            assert isinstance(result, memoryview)
            assert bytes(result) == np.array(row, dtype="<f2").astype("<f4").tobytes()


@given(batches(st.booleans()))
def test_bits_become_noughts_and_ones_in_their_order(
    given_: tuple[int, list[list[bool] | None]],
) -> None:
    dimension, batch = given_
    fields = [
        None if row is None else Bit("".join("01"[bit] for bit in row)).to_binary() for row in batch
    ]
    results = dense(fields, kind="bit", dimension=dimension, cosine=False)
    for row, result in zip(batch, results, strict=True):
        assert result is None if row is None else numbers(result) == [float(bit) for bit in row]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 64_000])
def test_bits_of_any_length(length: int) -> None:
    text = ("110" * length)[:length]
    field = Bit(text).to_binary()
    (result,) = dense([field], kind="bit", dimension=length, cosine=False)
    assert numbers(result) == [float(bit) for bit in text]


def test_bits_of_another_length_are_set_aside_though_the_bytes_are_as_many() -> None:
    results = dense(
        [Bit("1010101").to_binary(), Bit("10101010").to_binary()],
        kind="bit",
        dimension=8,
        cosine=False,
    )
    assert reason(results[0]) == "the vector has 7 dimensions, not 8"
    assert numbers(results[1]) == [1, 0, 1, 0, 1, 0, 1, 0]


def test_a_batch_of_nothing_but_nulls() -> None:
    assert dense([None, None], kind="vector", dimension=3, cosine=True) == [None, None]
    assert dense([], kind="vector", dimension=3, cosine=True) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("cosine", [True, False])
def test_a_component_that_is_no_number_sets_its_row_aside_and_no_other(
    bad: float, cosine: bool
) -> None:
    fields = [raw_vector(1, 2), raw_vector(1, bad), None, raw_vector(3, 4)]
    results = dense(fields, kind="vector", dimension=2, cosine=cosine)
    assert numbers(results[0]) == [1, 2]
    assert reason(results[1]) == "the vector has a component that is NaN or infinite"
    assert results[2] is None
    assert numbers(results[3]) == [3, 4]


def test_a_halfvec_component_that_is_no_number() -> None:
    field = struct.pack(">hh2e", 2, 0, 1.0, math.inf)
    (result,) = dense([field], kind="halfvec", dimension=2, cosine=False)
    assert "NaN or infinite" in reason(result)


def test_a_norm_beyond_float32_is_set_aside_under_cosine_only() -> None:
    field = Vector([3e38, 3e38]).to_binary()
    (kept,) = dense([field], kind="vector", dimension=2, cosine=False)
    (refused,) = dense([field], kind="vector", dimension=2, cosine=True)
    assert numbers(kept) == [float(np.float32(3e38))] * 2
    assert "norm overflows float32" in reason(refused)


def test_a_norm_just_within_float32_is_kept_under_cosine() -> None:
    (result,) = dense([raw_vector(1.8e19)], kind="vector", dimension=1, cosine=True)
    assert numbers(result) == [float(np.float32(1.8e19))]


def test_a_zero_vector_is_kept_under_cosine() -> None:
    (result,) = dense([raw_vector(0, 0, -0.0)], kind="vector", dimension=3, cosine=True)
    assert bytes(result) == np.array([0, 0, -0.0], dtype="<f4").tobytes()  # type: ignore[arg-type]


def test_subnormal_components_are_kept() -> None:
    (result,) = dense([raw_vector(1e-45, 1e-40)], kind="vector", dimension=2, cosine=True)
    assert numbers(result) == np.array([1e-45, 1e-40], "<f4").tolist()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_wrong_dimension_sets_its_row_aside_and_no_other(size: int) -> None:
    fields = [raw_vector(*range(size)), raw_vector(7, 8, 9)]
    results = dense(fields, kind="vector", dimension=3, cosine=True)
    assert reason(results[0]) == f"the vector has {size} dimensions, not 3"
    assert numbers(results[1]) == [7, 8, 9]


def test_vectors_of_a_batch_are_whole_buffers_of_their_own_bytes() -> None:
    results = dense([raw_vector(1, 2), raw_vector(3, 4)], kind="vector", dimension=2, cosine=False)
    assert [len(result) for result in results if isinstance(result, memoryview)] == [8, 8]


@pytest.mark.parametrize(
    ("field", "kind", "expected"),
    [
        (raw_vector(1, 2, 3), "vector", 3),
        (Vector([0.0] * 16_000).to_binary(), "vector", 16_000),
        (HalfVector([1, 2]).to_binary(), "halfvec", 2),
        (Bit("1" * 9).to_binary(), "bit", 9),
        (SparseVector({0: 1.0}, 1_000_000_000).to_binary(), "sparsevec", 1_000_000_000),
    ],
)
def test_a_field_states_its_dimension(field: bytes, kind: Kind, expected: int) -> None:
    assert dimension_of(field, kind) == expected


# --- sparse ---------------------------------------------------------------------------------------

sparse_entries = st.dictionaries(
    st.integers(0, 999), floats32.filter(lambda number: number != 0.0), min_size=1, max_size=10
)


@given(sparse_entries)
def test_sparsevecs_arrive_bit_for_bit_under_dot(given_: dict[int, float]) -> None:
    field = SparseVector(given_, 1000).to_binary()
    (result,) = sparse([field], dimension=1000, cosine=False)
    assert entries(result) == given_


@given(sparse_entries)
def test_sparsevecs_become_unit_vectors_under_cosine(given_: dict[int, float]) -> None:
    field = SparseVector(given_, 1000).to_binary()
    (result,) = sparse([field], dimension=1000, cosine=True)
    found = entries(result)
    assert set(found) == set(given_)
    norm = math.sqrt(math.fsum(number**2 for number in given_.values()))
    for index, number in given_.items():
        assert found[index] == pytest.approx(number / norm, rel=1e-6, abs=1e-37)
    assert math.fsum(number**2 for number in found.values()) == pytest.approx(1.0, abs=1e-6)


def test_a_sparse_norm_beyond_float32_is_still_a_unit_vector() -> None:
    (result,) = sparse([SparseVector({1: 3e38, 4: 3e38}, 9).to_binary()], dimension=9, cosine=True)
    assert entries(result) == pytest.approx({1: math.sqrt(0.5), 4: math.sqrt(0.5)})


@pytest.mark.parametrize("cosine", [True, False])
def test_an_empty_sparsevec_is_no_vector(cosine: bool) -> None:
    fields = [SparseVector({}, 5).to_binary(), None]
    assert sparse(fields, dimension=5, cosine=cosine) == [None, None]


def test_a_sparsevec_of_the_largest_dimension() -> None:
    last = 999_999_999
    (result,) = sparse(
        [SparseVector({last: 2.0}, last + 1).to_binary()], dimension=None, cosine=False
    )
    assert entries(result) == {last: 2.0}


def test_a_sparsevec_of_another_dimension_is_set_aside_and_no_other() -> None:
    fields = [SparseVector({0: 1.0}, 4).to_binary(), SparseVector({0: 1.0}, 5).to_binary()]
    results = sparse(fields, dimension=5, cosine=False)
    assert reason(results[0]) == "the vector has 4 dimensions, not 5"
    assert entries(results[1]) == {0: 1.0}


def test_an_undeclared_dimension_takes_every_sparsevec() -> None:
    fields = [SparseVector({0: 1.0}, 4).to_binary(), SparseVector({8: 1.0}, 9).to_binary()]
    assert [entries(result) for result in sparse(fields, dimension=None, cosine=False)] == [
        {0: 1.0},
        {8: 1.0},
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("cosine", [True, False])
def test_a_sparse_component_that_is_no_number_is_set_aside(bad: float, cosine: bool) -> None:
    field = struct.pack(">iii2i2f", 9, 2, 0, 1, 3, 1.0, bad)
    (result,) = sparse([field], dimension=9, cosine=cosine)
    assert "NaN or infinite" in reason(result)


# --- arrays ---------------------------------------------------------------------------------------


def test_an_array_of_vectors_is_a_multivector() -> None:
    field = raw_array(raw_vector(1, 2), raw_vector(3, 4), raw_vector(5, 6))
    (result,) = multi([field], kind="vector", dimension=2, cosine=False)
    assert rows(result) == [[1, 2], [3, 4], [5, 6]]


def test_an_array_of_halfvecs_is_a_multivector() -> None:
    field = raw_array(HalfVector([0.5, 2]).to_binary(), HalfVector([3, -4]).to_binary())
    (result,) = multi([field], kind="halfvec", dimension=2, cosine=False)
    assert rows(result) == [[0.5, 2], [3, -4]]


def test_a_nested_array_keeps_its_elements_in_storage_order() -> None:
    elements = [raw_vector(number) for number in range(4)]
    (result,) = multi(
        [raw_array(*elements, shape=[2, 2])], kind="vector", dimension=1, cosine=False
    )
    assert rows(result) == [[0], [1], [2], [3]]


def test_an_empty_array_and_null_are_no_vector() -> None:
    assert multi([raw_array(), None], kind="vector", dimension=2, cosine=True) == [None, None]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (None, "the array of vectors has a NULL in it"),
        (raw_vector(1, 2, 3), "the vector has 3 dimensions, not 2"),
        (raw_vector(1, math.nan), "the vector has a component that is NaN or infinite"),
        (raw_vector(3e38, 3e38), "norm overflows float32"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_element_sets_the_whole_row_aside_and_no_other(
    bad: bytes | None, why: str, place: int
) -> None:
    elements: list[bytes | None] = [raw_vector(1, 2), raw_vector(3, 4)]
    elements.insert(place, bad)
    fields = [raw_array(raw_vector(9, 9)), raw_array(*elements), raw_array(raw_vector(8, 8))]
    results = multi(fields, kind="vector", dimension=2, cosine=True)
    assert rows(results[0]) == [[9, 9]]
    assert why in reason(results[1])
    assert rows(results[2]) == [[8, 8]]


@given(st.lists(st.none() | st.binary(max_size=20), max_size=6))
def test_array_elements_come_apart_again(elements: list[bytes | None]) -> None:
    assert array_elements(raw_array(*elements)) == elements
