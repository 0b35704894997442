"""pgvector's text forms -> its binary ones; the real server's are compared in tests/integration."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Unstorable
from bridge.plan import Multi, Sparse
from bridge.vectors import dense, multi, sparse
from bridge.vectors_text import vector_from_text

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)


def shortest(number: float) -> str:
    """As Postgres prints a float4: the shortest that identifies it."""
    return str(np.float32(number))


def test_a_dense_vector() -> None:
    expected = struct.pack(">hh3f", 3, 0, 1, 2.5, -3e-10)
    assert vector_from_text("vector", "[1,2.5,-3e-10]") == expected


def test_a_half_vector() -> None:
    assert vector_from_text("halfvec", "[1,0.33325]") == struct.pack(">hh2e", 2, 0, 1, 0.33325)


def test_a_sparse_vector_counts_from_one_in_text_and_from_zero_in_binary() -> None:
    expected = struct.pack(">iii2i2f", 9, 2, 0, 0, 6, 1.5, 2)
    assert vector_from_text("sparsevec", "{1:1.5,7:2}/9") == expected
    assert vector_from_text("sparsevec", "{}/4") == struct.pack(">iii", 4, 0, 0)


@pytest.mark.parametrize(
    ("text", "packed"), [("1", b"\x80"), ("10110011", b"\xb3"), ("000000001", b"\0\x80")]
)
def test_bits(text: str, packed: bytes) -> None:
    assert vector_from_text("bit", text) == struct.pack(">i", len(text)) + packed


def test_an_array_of_vectors() -> None:
    (rows,) = multi(
        [vector_from_text("vector", '{"[1,2]","[3,4]"}', multi=True)],
        kind="vector",
        dimension=2,
        cosine=False,
    )
    assert isinstance(rows, Multi)
    assert np.frombuffer(rows.data, dtype="<f4").tolist() == [1, 2, 3, 4]


def test_an_empty_array_has_no_elements() -> None:
    assert vector_from_text("vector", "{}", multi=True) == struct.pack(">iii", 0, 0, 0)


def test_a_null_inside_an_array_stays_one() -> None:
    field = vector_from_text("halfvec", '{"[1,2]",NULL}', multi=True)
    (result,) = multi([field], kind="halfvec", dimension=2, cosine=False)
    assert isinstance(result, Unstorable)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("vector", ""), ("vector", "1,2"), ("vector", "[1,x]"), ("vector", "[1,2"),
        ("halfvec", "(1)"), ("sparsevec", "{1:2}"), ("sparsevec", "1:2/3"),
        ("sparsevec", "{1}/3"), ("sparsevec", "{1:2}/x"), ("bit", ""), ("bit", "012"),
    ],
)  # fmt: skip
def test_what_is_written_otherwise_is_refused_without_its_value(kind: Any, text: str) -> None:
    with pytest.raises(Unstorable) as caught:
        vector_from_text(kind, text)
    assert caught.value.message == f"a {kind} is not in its text form"


@given(st.lists(FLOATS, min_size=1, max_size=20))
def test_every_float_survives_the_way_over_text(numbers: list[float]) -> None:
    text = f"[{','.join(map(shortest, numbers))}]"
    (result,) = dense(
        [vector_from_text("vector", text)], kind="vector", dimension=len(numbers), cosine=False
    )
    if isinstance(result, Unstorable):
        assert "overflow" in result.message or "norm" in result.message
        return
    assert isinstance(result, bytes | memoryview)
    assert np.frombuffer(result, dtype="<f4").tolist() == [np.float32(n) for n in numbers]


@given(st.lists(HALVES, min_size=1, max_size=20))
def test_every_half_survives_the_way_over_text(numbers: list[float]) -> None:
    text = f"[{','.join(map(shortest, numbers))}]"
    field = vector_from_text("halfvec", text)
    assert np.frombuffer(field[4:], dtype=">f2").tolist() == [float(np.float16(n)) for n in numbers]


@given(st.dictionaries(st.integers(1, 500), FLOATS.filter(bool), max_size=10))
def test_every_sparse_vector_survives_the_way_over_text(entries: dict[int, float]) -> None:
    listed = ",".join(f"{i}:{shortest(entries[i])}" for i in sorted(entries))
    field = vector_from_text("sparsevec", f"{{{listed}}}/500")
    (result,) = sparse([field], dimension=500, cosine=False)
    if not entries:
        assert result is None
        return
    assert isinstance(result, Sparse)
    assert np.frombuffer(result.indices, dtype="<u4").tolist() == [i - 1 for i in sorted(entries)]


@given(st.text(alphabet="01", min_size=1, max_size=70))
def test_every_bit_string_survives_the_way_over_text(text: str) -> None:
    field = vector_from_text("bit", text)
    (length,) = struct.unpack(">i", field[:4])
    bits = np.unpackbits(np.frombuffer(field[4:], dtype=np.uint8))[:length]
    assert "".join(map(str, bits)) == text
