"""Whether a vector that was read back is what the target makes of the one that was sent. Pure.

Qdrant keeps vectors under dot, Euclid and Manhattan as they came, halves and bytes too (what the bridge
sends of these is exact in them). Under cosine it keeps the unit vector, so the sent one is brought to
length 1 and each component may be `UNIT_TOLERANCE` off, plus half a unit in the last place of a half where
halves are kept. It leaves vectors alone whose squared norm is below float32's epsilon (Qdrant,
lib/segment/src/spaces/simple_cosine.rs): these are taken as they came too.

A batch is compared as two matrices: a row of 1536 components costs some microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.collection_spec import VectorSpec
from bridge.plan import Buffer, Multi, Sparse, Vector

UNIT_TOLERANCE: Final = 1e-6
_SHORT_SQUARED: Final = 1.2e-7  # float32's epsilon, and a little for its rounding
_BLOCK: Final = 64  # vectors at a time: what is made of them stays in the processor's cache
_HALF_RELATIVE, _HALF_SMALLEST = 2.0**-11, 2.0**-25

Floats = NDArray[np.float32]


def differing_rows(
    spec: VectorSpec, wanted: Sequence[Buffer], found: Sequence[Buffer]
) -> list[int]:
    """Which of these pairs of dense vectors differ. The found ones may be of any length."""
    width = 4 * (spec.dimension or 0)
    odd = [
        row
        for row, (one, other) in enumerate(zip(wanted, found, strict=True))
        if len(one) != width or len(other) != width
    ]
    if odd:
        kept = [row for row in range(len(wanted)) if row not in set(odd)]
        rest = differing_rows(spec, [wanted[r] for r in kept], [found[r] for r in kept])
        return sorted(odd + [kept[row] for row in rest])
    starts = range(0, len(wanted), _BLOCK)
    return [
        start + row
        for start in starts
        for row in _differing(spec, wanted[start : start + _BLOCK], found[start : start + _BLOCK])
    ]


def _differing(spec: VectorSpec, wanted: Sequence[Buffer], found: Sequence[Buffer]) -> list[int]:
    """The same of a few, all of the right length."""
    sent, stored = b"".join(wanted), b"".join(found)
    if spec.distance != "cosine" and sent == stored:
        return []
    shape = (len(wanted), -1)
    left = np.frombuffer(sent, dtype="<f4").reshape(shape)
    right = np.frombuffer(stored, dtype="<f4").reshape(shape)
    if spec.distance != "cosine":
        return [int(row) for row in np.flatnonzero((left != right).any(axis=1))]
    suspects = _not_parallel(left, right)
    return [
        int(row)
        for row in suspects
        if not _same_direction(left[row], right[row], halves=spec.datatype == "float16")
    ]


def _not_parallel(left: Floats, right: Floats) -> NDArray[np.intp]:
    """A first look in float32: rows that may differ, and all rows that are too short to tell."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        squares = np.einsum("ij,ij->i", left, left)
        off = left * (1.0 / np.sqrt(squares))[:, np.newaxis]
        off -= right
        np.abs(off, out=off)
        close = off.max(axis=1) <= UNIT_TOLERANCE * 0.9
    return np.flatnonzero(~(close & (squares > 2 * _SHORT_SQUARED)))


def _same_direction(sent: Floats, stored: Floats, *, halves: bool) -> bool:
    wide = sent.astype(np.float64)
    squared = float(np.dot(wide, wide))
    room = np.abs(wide) * _HALF_RELATIVE + _HALF_SMALLEST if halves else 0.0
    if squared <= _SHORT_SQUARED and bool(np.all(np.abs(wide - stored) <= room)):
        return True
    if squared == 0.0:
        return False  # it is kept as it came, and it was not
    unit = wide / np.sqrt(squared)
    room = np.abs(unit) * _HALF_RELATIVE + _HALF_SMALLEST if halves else 0.0
    return bool(np.all(np.abs(unit - stored) <= UNIT_TOLERANCE + room))


def same_vector(spec: VectorSpec, wanted: Vector, found: Vector) -> bool:
    """Whether one vector of any shape is kept as it should be."""
    if isinstance(wanted, Sparse) or isinstance(found, Sparse):
        return (
            isinstance(wanted, Sparse) and isinstance(found, Sparse) and _same_sparse(wanted, found)
        )
    if isinstance(wanted, Multi) or isinstance(found, Multi):
        if not (isinstance(wanted, Multi) and isinstance(found, Multi)):
            return False
        if wanted.dimension != found.dimension or len(wanted.data) != len(found.data):
            return False
        width = 4 * wanted.dimension
        starts = range(0, len(wanted.data), width)
        left = [wanted.data[start : start + width] for start in starts]
        right = [found.data[start : start + width] for start in starts]
        return not differing_rows(spec, left, right)
    return not differing_rows(spec, [wanted], [found])


def _same_sparse(wanted: Sparse, found: Sparse) -> bool:
    """The same values at the same indices, in whatever order they are told."""
    (left, sent), (right, stored) = map(_ordered, (wanted, found))
    return np.array_equal(left, right) and np.array_equal(sent, stored)


def _ordered(vector: Sparse) -> tuple[NDArray[np.uint32], Floats]:
    indices = np.frombuffer(vector.indices, dtype="<u4")
    values = np.frombuffer(vector.values, dtype="<f4")
    order = np.argsort(indices, kind="stable")
    return indices[order], values[order]
