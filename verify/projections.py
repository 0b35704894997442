"""Vectors compared by their scores against random vectors: a hundredth of the bytes and of the server's time.

A server takes some 200 us to tell a vector of 1536 dimensions, and 4 us to score it. So for most tables
every vector is scored against `COUNT` vectors that are drawn anew for each run, without an index and without
quantization, and the scores are compared with those of the vectors that should be there. Vectors whose scores
are off by more than a server's own rounding are then read and compared component by component
(`looks.py`), so this decides only what is looked at.

What it finds: a score is linear in the vector, and every component of a random vector is between 1/2 and
3/2 in size before it is brought to length 1. One component that is off by e moves each score by at least
e / (2.1 sqrt(d)); at 1536 dimensions that is seen from 1e-5 on, every time. Vectors that differ in many
components are missed only if the difference is all but perpendicular to every random vector: for two
unrelated unit vectors, less than once in a billion. It serves cosine and dot product over float32 from 64
dimensions on; everything else is read as it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.collection_spec import VectorSpec
from bridge.mapping import TableMapping
from bridge.plan import Buffer
from bridge.point_ids import PointId

COUNT: Final = 2
SMALLEST: Final = 64
"""Below it a vector is told as soon as its scores are, and structure could hide a difference."""
ROUNDING: Final = 1.2e-7
"""Of a score, in lengths of the two vectors; 2e-8 was seen at 1536 dimensions."""
_SHORT_SQUARED: Final = 1.2e-7

Projections = Mapping[str, tuple[bytes, ...]]
"""By a vector's name, the random vectors; without any, vectors are read."""


def drawn(mapping: TableMapping, seed: int | None = None) -> dict[str, tuple[bytes, ...]]:
    """Random vectors for a table; none if one of its vectors cannot be compared so."""
    specs = [vector.spec for vector in mapping.vectors]
    if not specs or not all(map(comparable, specs)):
        return {}
    random = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    return {
        spec.name: tuple(_one(random, spec.dimension or 0) for _ in range(COUNT)) for spec in specs
    }


def comparable(spec: VectorSpec) -> bool:
    """Whether vectors of this kind can be told by their scores."""
    return (
        spec.shape == "dense"
        and spec.datatype == "float32"
        and spec.distance in ("cosine", "dot")
        and (spec.dimension or 0) >= SMALLEST
    )


def _one(random: np.random.Generator, dimension: int) -> bytes:
    # Sizes differ, so that two components which change places do not cancel each other.
    drawn_ = random.uniform(0.5, 1.5, dimension) * random.choice((-1.0, 1.0), dimension)
    unit: NDArray[np.float32] = (drawn_ / np.linalg.norm(drawn_)).astype("<f4")
    return unit.tobytes()


def differing_scores(
    spec: VectorSpec,
    wanted: Sequence[tuple[PointId, Buffer]],
    scored: Sequence[tuple[bytes, Mapping[PointId, float]]],
) -> list[int]:
    """Which of the wanted vectors do not score as they should against each of these random vectors, or
    have no score. `scored`: random vectors, and the scores by id."""
    missing = float("nan")
    ids = [identity for identity, _vector in wanted]
    found = np.array([[scores.get(one, missing) for one in ids] for _query, scores in scored])
    queries = np.array([np.frombuffer(query, dtype="<f4") for query, _scores in scored])
    expected, room, unsure = _expected(spec, [vector for _id, vector in wanted], queries)
    # NaN is not close to anything.
    close = (np.abs(expected.T - found) <= room).all(axis=0)
    return [int(row) for row in np.flatnonzero(~close | unsure)]


def _expected(
    spec: VectorSpec, vectors: Sequence[Buffer], queries: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(a row of scores for each vector, how far off they may be, vectors of which that cannot be said)."""
    across = queries.astype(np.float64).T
    lengths = np.linalg.norm(across, axis=0)
    matrix = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1)
    products = np.empty((len(vectors), across.shape[1]))
    squares = np.empty(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        wide = matrix[start : start + _BLOCK].astype(np.float64)
        products[start : start + _BLOCK] = wide @ across
        squares[start : start + _BLOCK] = np.einsum("ij,ij->i", wide, wide)
    if spec.distance == "dot":
        room = ROUNDING * np.sqrt(squares) * lengths.max()
        return products, room, np.zeros(len(vectors), dtype=bool)
    # Vectors that short are kept as they came (stored_vectors.py), and say little by a score.
    short = squares <= 2 * _SHORT_SQUARED
    own = np.sqrt(np.where(short, 1.0, squares))
    return products / own[:, np.newaxis] / lengths, np.full(len(vectors), ROUNDING), short


_BLOCK = 64
