"""Debezium's vectors -> pgvector's binary forms (`bridge/vectors.py`). Pure.

    vector, halfvec     a list of numbers: the shortest texts of the float32s (DoubleVector, FloatVector)
    sparsevec           {"dimensions": n, "vector": [[index, value], ...]}, indices from 1, in no order
    bit                 base64 of the bits' number, lowest byte first; bit(1) a boolean
    vector[], halfvec[] a list of lists

The list of a dense vector is the inner loop: it becomes float32 in one step, without numpy's overhead.
A dimension other than the column's means that the column was changed, which stops; anything else that
is no vector is UNCHANGED.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable

import numpy as np

from bridge.events import UNCHANGED, StreamField
from bridge.mapping import VectorColumn
from bridge.schema import PgType
from bridge.vectors_text import vector_from_text
from sync.debezium_values import Decode, bits

_SWAP = sys.byteorder == "little"
_DENSE_HEADER = struct.Struct(">hh")
_SPARSE_HEADER = struct.Struct(">iii")
_INT32 = struct.Struct(">i")


class WrongDimension(ValueError):
    """The vector has another dimension than its column is declared with."""

    def __init__(self, found: int) -> None:
        super().__init__(f"{found} dimensions")
        self.found = found


def vector_decoder(column: VectorColumn, type: PgType) -> Decode:
    """How values of a vector column become fields. The decoder may raise WrongDimension."""
    element = type.element if type.kind == "array" and type.element is not None else type
    declared = element.modifier if element.modifier > 0 else type.modifier
    if column.spec.shape == "sparse":
        return _guarded(lambda value: _sparse(value, declared))
    if column.kind == "bit":
        length = column.spec.dimension or 1
        return _guarded(lambda value: vector_from_text("bit", bits(value, length)))
    pack = _halves if column.kind == "halfvec" else _singles
    if column.spec.shape == "multi":
        return _guarded(lambda value: _multi(value, pack, declared))
    return _guarded(lambda value: _dense(value, pack, declared))


def _guarded(encode: Callable[[object], bytes]) -> Decode:
    def decode(value: object) -> StreamField:
        try:
            return encode(value)
        except WrongDimension:
            raise
        except (ValueError, TypeError, LookupError, OverflowError, struct.error):
            return UNCHANGED

    return decode


def _singles(numbers: list[float]) -> bytes:
    block = array("f", numbers)
    if _SWAP:
        block.byteswap()
    return block.tobytes()


def _halves(numbers: list[float]) -> bytes:
    return np.array(numbers, dtype=np.float64).astype(">f2").tobytes()


def _dense(value: object, pack: Callable[[list[float]], bytes], declared: int) -> bytes:
    if not isinstance(value, list):
        raise ValueError("not a list")
    if declared > 0 and len(value) != declared:
        raise WrongDimension(len(value))
    return _DENSE_HEADER.pack(len(value), 0) + pack(value)


def _sparse(value: object, declared: int) -> bytes:
    if not isinstance(value, dict):
        raise ValueError("not a sparse vector")
    dimension, pairs = int(value["dimensions"]), value["vector"]
    if declared > 0 and dimension != declared:
        raise WrongDimension(dimension)
    if isinstance(pairs, dict):
        # A map with text keys is an object under JsonConverter.
        pairs = [(int(index), number) for index, number in pairs.items()]
    ordered = sorted((index - 1, number) for index, number in pairs)
    indices = np.array([index for index, _ in ordered], dtype=">i4")
    values = np.array([number for _, number in ordered], dtype=np.float64).astype(">f4")
    return _SPARSE_HEADER.pack(dimension, len(ordered), 0) + indices.tobytes() + values.tobytes()


def _multi(value: object, pack: Callable[[list[float]], bytes], declared: int) -> bytes:
    """One dimension is enough: whoever reads it takes the elements in storage order."""
    if not isinstance(value, list):
        raise ValueError("not a list")
    if not value:
        return struct.pack(">iii", 0, 0, 0)
    elements = [None if item is None else _dense(item, pack, declared) for item in value]
    parts = [struct.pack(">iiiii", 1, int(None in elements), 0, len(elements), 1)]
    for element in elements:
        parts.append(_INT32.pack(-1 if element is None else len(element)))
        parts.append(element or b"")
    return b"".join(parts)
