"""pgvector's binary formats -> buffers of little-endian float32, a batch of rows at a time.

Formats (pgvector, src/vector.c, halfvec.c, sparsevec.c, `*_send`; PostgreSQL varbit.c, `bit_send`;
arrayfuncs.c, `array_send`), all big-endian:

    vector     int16 dimension, int16 unused, float4 x dimension
    halfvec    int16 dimension, int16 unused, float2 x dimension
    sparsevec  int32 dimension, int32 nnz, int32 unused, int32 index x nnz (0-based), float4 x nnz
    bit        int32 length in bits, then the bits, first bit in the highest position
    array      int32 ndim, int32 has_null, int32 element oid, per dimension int32 size and int32
               lower bound; then per element int32 length and that many bytes

Every function takes one column's fields of a batch (None for NULL) and gives as many results: a
vector, None (the point has no such vector: NULL, empty sparsevec, empty array), or an `Unstorable`
saying why this row must be set aside: NaN or infinite components, a float32 norm that overflows
under cosine (the server would store zeros), a wrong dimension, NULL inside an array. Other rows of
the batch are not affected.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bridge.errors import Unstorable
from bridge.plan import Buffer, Multi, Sparse, Vector

Kind = Literal["vector", "halfvec", "bit", "sparsevec"]
Result = Vector | None | Unstorable
Floats = NDArray[np.float32]

_DENSE_HEADER_BYTES = 4
_SPARSE_HEADER = struct.Struct(">iii")
_ARRAY_HEADER = struct.Struct(">iii")
_INT32 = struct.Struct(">i")
_COMPONENT: dict[str, np.dtype[Any]] = {"vector": np.dtype(">f4"), "halfvec": np.dtype(">f2")}


def dense(
    fields: Sequence[bytes | None], *, kind: Kind, dimension: int, cosine: bool
) -> list[Result]:
    """A `vector`, `halfvec` or `bit` column: float32 buffers of 4 x `dimension` bytes."""
    size = _field_bytes(kind, dimension)
    results: list[Result] = [None] * len(fields)
    good: list[int] = []
    for number, field in enumerate(fields):
        if field is None:
            continue
        if len(field) != size or not _has_dimension(field, kind, dimension):
            results[number] = _wrong_dimension(kind, field, dimension)
        else:
            good.append(number)
    if not good:
        return results
    matrix = _matrix([fields[number] or b"" for number in good], kind, dimension)
    flaws = _flaws(matrix, cosine)
    # One cast for the batch; each row is then a slice without a copy.
    data = matrix.data.cast("B")
    width = 4 * dimension
    for row, number in enumerate(good):
        results[number] = flaws.get(row) or data[row * width : (row + 1) * width]
    return results


def sparse(fields: Sequence[bytes | None], *, dimension: int | None, cosine: bool) -> list[Result]:
    """A `sparsevec` column. Under cosine the unit vector, since Qdrant compares sparse by dot only."""
    return [
        None if field is None else _guarded(_one_sparse, field, dimension, cosine)
        for field in fields
    ]


def multi(
    fields: Sequence[bytes | None], *, kind: Kind, dimension: int, cosine: bool
) -> list[Result]:
    """A `vector[]` or `halfvec[]` column: its elements in order, also of a nested array."""
    return [
        None if field is None else _guarded(_one_multi, field, kind, dimension, cosine)
        for field in fields
    ]


def dimension_of(field: bytes, kind: Kind) -> int:
    """The dimension that one non-NULL field states."""
    if kind in ("bit", "sparsevec"):
        return int(_INT32.unpack_from(field)[0])
    return int.from_bytes(field[:2], "big", signed=True)


def array_elements(field: bytes) -> list[bytes | None]:
    """The elements of an array in binary form, in storage order."""
    dimensions, _has_null, _oid = _ARRAY_HEADER.unpack_from(field)
    position = _ARRAY_HEADER.size + 8 * dimensions
    elements: list[bytes | None] = []
    while position < len(field):
        (length,) = _INT32.unpack_from(field, position)
        position += 4
        if length < 0:
            elements.append(None)
            continue
        elements.append(field[position : position + length])
        position += length
    return elements


def _guarded(build: Callable[..., Result], *arguments: object) -> Result:
    try:
        return build(*arguments)
    except Unstorable as flaw:
        return flaw


def _field_bytes(kind: Kind, dimension: int) -> int:
    if kind == "bit":
        return _DENSE_HEADER_BYTES + (dimension + 7) // 8
    return _DENSE_HEADER_BYTES + _COMPONENT[kind].itemsize * dimension


def _has_dimension(field: bytes, kind: Kind, dimension: int) -> bool:
    # The length says it already, except for bit, where eight lengths share a number of bytes.
    return kind != "bit" or dimension_of(field, kind) == dimension


def _wrong_dimension(kind: Kind, field: bytes, dimension: int) -> Unstorable:
    return Unstorable(f"the vector has {dimension_of(field, kind)} dimensions, not {dimension}")


def _matrix(fields: Sequence[bytes], kind: Kind, dimension: int) -> Floats:
    """(rows, dimension) float32, contiguous, little-endian on every machine."""
    count = len(fields)
    if kind == "bit":
        packed = np.frombuffer(b"".join(fields), dtype=np.uint8)
        packed = packed.reshape(count, -1)[:, _DENSE_HEADER_BYTES:]
        return np.unpackbits(packed, axis=1)[:, :dimension].astype("<f4", order="C")
    component = _COMPONENT[kind]
    header = _DENSE_HEADER_BYTES // component.itemsize
    block = np.frombuffer(b"".join(fields), dtype=component)
    return block.reshape(count, header + dimension)[:, header:].astype("<f4", order="C")


def _flaws(matrix: Floats, cosine: bool) -> dict[int, Unstorable]:
    """Row number -> why it cannot be stored. One pass: a finite sum of squares has finite terms."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", matrix, matrix)
    suspects = np.flatnonzero(~np.isfinite(squares))
    flaws: dict[int, Unstorable] = {}
    for row in suspects.tolist():
        if not np.isfinite(matrix[row]).all():
            flaws[row] = Unstorable("the vector has a component that is NaN or infinite")
        elif cosine:
            flaws[row] = Unstorable(
                "the vector's norm overflows float32, so that Qdrant would store zeros under cosine"
            )
    return flaws


def _one_sparse(field: bytes, dimension: int | None, cosine: bool) -> Result:
    stated, count, _unused = _SPARSE_HEADER.unpack_from(field)
    if dimension is not None and stated != dimension:
        return _wrong_dimension("sparsevec", field, dimension)
    if count == 0:
        return None
    start = _SPARSE_HEADER.size
    indices = np.frombuffer(field, dtype=">i4", count=count, offset=start).astype("<u4")
    values = np.frombuffer(field, dtype=">f4", count=count, offset=start + 4 * count).astype("<f4")
    if not np.isfinite(values).all():
        return Unstorable("the vector has a component that is NaN or infinite")
    if cosine:
        # In double: a float32 norm could overflow where the unit vector is an ordinary one.
        wide = values.astype(np.float64)
        values = (wide / np.sqrt(np.dot(wide, wide))).astype("<f4")
    return Sparse(indices.tobytes(), values.tobytes())


def _one_multi(field: bytes, kind: Kind, dimension: int, cosine: bool) -> Result:
    elements = array_elements(field)
    if not elements:
        return None
    rows: list[Buffer] = []
    for row in dense(elements, kind=kind, dimension=dimension, cosine=cosine):
        if row is None:
            return Unstorable("the array of vectors has a NULL in it")
        if isinstance(row, Unstorable):
            return row
        assert isinstance(row, bytes | memoryview)  # noqa: S101 - dense makes no other vector
        rows.append(row)
    return Multi(dimension, b"".join(rows))
