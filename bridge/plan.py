"""What is to be written: points and operations on them, independent of any target.

`Point` and its vectors are the hand-over between mapping and writing. Vectors stay buffers of
little-endian float32, so that they travel from Postgres' wire to Qdrant's without becoming Python
floats; `wire.py` writes these buffers as they are.

A window of a stream's changes comes down to one operation for each point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bridge.point_ids import PointId
from bridge.values import PayloadValue

Buffer = bytes | memoryview


class Sparse(NamedTuple):
    """A sparse vector: n little-endian uint32 indices (0-based, ascending), n float32 values."""

    indices: Buffer
    values: Buffer


class Multi(NamedTuple):
    """A multivector: rows of `dimension` little-endian float32, one after the other."""

    dimension: int
    data: Buffer


Vector = Buffer | Sparse | Multi
"""A dense vector is the bare buffer: 4 bytes a component."""


class Point(NamedTuple):
    """One whole point. A vector that is NULL in the source is absent from `vectors`.

    A NamedTuple rather than a dataclass: one is made for every row of a backfill, and making a
    frozen dataclass costs three times as much.
    """

    id: PointId
    vectors: Mapping[str, Vector]
    payload: Mapping[str, PayloadValue]


class Patch(NamedTuple):
    """A change to a point that exists: its payload is replaced, and the vectors named here.

    What is in neither `vectors` nor `cleared` stays as it is: those are the vectors that the source
    did not send, because they did not change.
    """

    id: PointId
    payload: Mapping[str, PayloadValue]
    vectors: Mapping[str, Vector]
    cleared: frozenset[str]


class Fields(NamedTuple):
    """Fields of a point's payload that are set, and nothing else of it: the point may be anybody's.

    `groups`: by the path of the object that they lie in (empty: the payload itself), name -> value.
    None deletes the field. A point that does not exist is made of them, without a vector.
    """

    id: PointId
    groups: Mapping[tuple[str, ...], Mapping[str, PayloadValue]]


class Remove(NamedTuple):
    """A point that is gone; removing one that is not there is no error."""

    id: PointId


Operation = Point | Patch | Remove
"""What a window of changes comes down to for one point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A row set aside. `reason` never holds a value; `key` is the key's text form."""

    table: str
    key: str
    reason: str
    position: str
