"""Equal is what is equal in value and type; anything else is found, in whatever it is nested."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.collection_spec import VectorSpec
from tests.property.test_wire import payloads, values
from verify.digests import Buckets, hashes
from verify.payloads import differing, same, same_fields
from verify.projections import differing_scores
from verify.stored_vectors import differing_rows

DIMENSION = 6
COSINE = VectorSpec(name="v", shape="dense", distance="cosine", dimension=DIMENSION)
DOT = VectorSpec(name="v", shape="dense", distance="dot", dimension=DIMENSION)
components = st.floats(-1e3, 1e3, width=32)
vectors = st.lists(components, min_size=DIMENSION, max_size=DIMENSION).map(
    lambda numbers: np.array(numbers, dtype="<f4")
)


@given(payloads)
def test_a_payload_is_the_same_as_itself(payload: dict[str, Any]) -> None:
    other = copy.deepcopy(payload)
    assert same_fields(payload, other)
    assert list(differing(payload, other)) == []


@given(values, values)
def test_same_is_told_by_the_text_of_the_values(one: Any, other: Any) -> None:
    # `repr` tells 1, 1.0 and True apart; doubles some units in the last place apart are left out.
    assume(not _has_close_doubles(one, other))
    assert same(one, other) == (ordered(one) == ordered(other))


def ordered(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{ordered(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(ordered, value)) + "]"
    return repr(value)


def _has_close_doubles(one: Any, other: Any) -> bool:
    left, right = _doubles(one), _doubles(other)
    return any(a != b and abs(a - b) <= 8 * math.ulp(a) for a in left for b in right)


def _doubles(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    if isinstance(value, dict):
        return [one for item in value.values() for one in _doubles(item)]
    return [one for item in value for one in _doubles(item)] if isinstance(value, list) else []


@given(payloads, payloads)
def test_what_differs_is_told_exactly_if_something_does(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    found = list(differing(one, other))
    assert bool(found) == (not same_fields(one, other))
    for path, _wanted, _found in found:
        assert path[0] in one or path[0] in other


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-4, 4))
def test_doubles_may_be_four_units_in_the_last_place_off(number: float, steps: int) -> None:
    moved = number
    for _ in range(abs(steps)):
        moved = math.nextafter(moved, math.copysign(math.inf, steps))
    assume(math.isfinite(moved) and math.copysign(1, moved) == math.copysign(1, number))
    assume(math.ulp(moved) <= math.ulp(number))  # below a power of two the units are smaller
    assert same(number, moved)


@given(st.floats(1e-3, 1e3))
def test_doubles_that_are_more_off_are_others(number: float) -> None:
    assert not same(number, number + 16 * math.ulp(number))


@given(st.lists(vectors, min_size=1, max_size=200))
def test_what_qdrant_stores_of_vectors_is_taken_for_them(batch: list[Any]) -> None:
    sent = [vector.tobytes() for vector in batch]
    assert differing_rows(DOT, sent, sent) == []
    stored = [_stored(vector).tobytes() for vector in batch]
    assert differing_rows(COSINE, sent, stored) == []


def _stored(vector: Any) -> Any:
    """As `cosine_preprocess` does it, in float32."""
    squared = np.float32(np.sum(np.square(vector, dtype=np.float32), dtype=np.float32))
    if squared < np.finfo(np.float32).eps or abs(squared - 1.0) <= 1e-6:
        return vector
    return (vector / np.sqrt(squared)).astype("<f4")


@given(
    st.lists(vectors, min_size=1, max_size=100),
    st.integers(0, DIMENSION - 1),
    st.sampled_from([1e-4, -1e-4, 1.0]),
    st.data(),
)
def test_a_component_that_was_changed_is_found(
    batch: list[Any], place: int, by: float, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(batch) - 1))
    assume(float(np.linalg.norm(batch[row])) > 1e-2)
    sent = [vector.tobytes() for vector in batch]
    stored = [_stored(vector) for vector in batch]
    changed = stored[row].copy()
    changed[place] += by
    stored[row] = changed
    assert differing_rows(COSINE, sent, [vector.tobytes() for vector in stored]) == [row]


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.uuids().map(str), unique=True, max_size=60),
    st.data(),
)
def test_buckets_come_out_even_only_if_both_sides_have_the_same_ids(
    ids: list[int | str], data: st.DataObject
) -> None:
    other = data.draw(st.permutations(ids))
    left = data.draw(st.integers(0, len(ids)))
    buckets = Buckets(bits=4)
    buckets.add(hashes(ids))
    buckets.take(hashes(other[left:]))
    uneven = buckets.uneven()
    assert bool(uneven.any()) == (left > 0)
    if left:
        assert buckets.among(uneven, hashes(other[:left])).all()
    buckets.take(hashes(other[:left]))
    assert not buckets.uneven().any()


def test_an_integer_and_the_text_of_a_uuid_with_the_same_bits_are_two_ids() -> None:
    one = hashes([1, "00000000-0000-0000-0000-000000000001"])
    assert one[0] != one[1]


# --- vectors told by their scores ------------------------------------------------------------------

LONG = 384
SPECS = [
    VectorSpec(name="v", shape="dense", distance="cosine", dimension=LONG),
    VectorSpec(name="v", shape="dense", distance="dot", dimension=LONG),
]


@given(st.integers(0, 2**32), st.sampled_from(SPECS), st.sampled_from([1e-2, 1.0, 50.0]))
def test_scores_tell_a_changed_component_and_two_that_changed_places(
    seed: int, spec: VectorSpec, size: float
) -> None:
    random = np.random.default_rng(seed)
    vectors = (size * random.standard_normal((8, LONG))).astype("<f4")
    cosine = spec.distance == "cosine"
    kept = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if cosine else vectors
    kept = kept.astype("<f4")
    projections = [_projection(random), _projection(random)]
    place = int(random.integers(LONG))
    changed = kept.copy()
    changed[2, place] += np.float32((1.0 if cosine else size) * 1e-4)
    changed[5, [0, 1]] = changed[5, [1, 0]]
    changed[6] = kept[7]
    wanted = [(number, vector.tobytes()) for number, vector in enumerate(vectors)]
    assert _differing(spec, wanted, projections, kept) == []
    found = _differing(spec, wanted, projections, changed)
    # A component of 50 changed by 0.005 is near float32's own rounding of the score.
    assert set(found) >= ({2, 5, 6} if cosine else {5, 6})
    assert set(found) <= {2, 5, 6}
    some = [
        (query, {n: s for n, s in _scores(kept, query, cosine).items() if n})
        for query in projections
    ]
    assert differing_scores(spec, wanted, some) == [0]


def _differing(spec: VectorSpec, wanted: Any, projections: Any, kept: Any) -> list[int]:
    scored = [(query, _scores(kept, query, spec.distance == "cosine")) for query in projections]
    return differing_scores(spec, wanted, scored)


def _projection(random: np.random.Generator) -> bytes:
    sizes = random.uniform(0.5, 1.5, LONG) * random.choice((-1.0, 1.0), LONG)
    return bytes((sizes / np.linalg.norm(sizes)).astype("<f4").tobytes())


def _scores(kept: Any, projection: bytes, cosine: bool) -> dict[int | str, float]:
    """As a server has them: in float32, under cosine against the unit vector."""
    query = np.frombuffer(projection, dtype="<f4")
    query = (query / np.linalg.norm(query)).astype("<f4") if cosine else query
    return {number: float(np.dot(vector, query)) for number, vector in enumerate(kept)}
