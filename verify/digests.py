"""Which ids are on one side only, found with constant memory. Pure.

Every id falls into one of 2^18 buckets by its hash. What one side has is added to the bucket, what the other
side has is taken away again: a sum of 64-bit hashes and a number of ids. A bucket that comes out as nothing
holds the same ids on both sides, but for one chance in 2^64; only the ids of the others have to be looked at
one by one. A billion ids take 3 MiB here, and 3,800 of them share a bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from bridge.point_ids import PointId

BUCKET_BITS = 18

Hashes = NDArray[np.uint64]

_U = np.uint64
# The constants of SplitMix64 (Steele, Lea, Flood 2014), a bijection of 64 bits.
_STEP, _MIX_1, _MIX_2 = _U(0x9E3779B97F4A7C15), _U(0xBF58476D1CE4E5B9), _U(0x94D049BB133111EB)
_OF_UUIDS = _U(0xD1B54A32D192ED03)


def _mixed(numbers: Hashes) -> Hashes:
    with np.errstate(over="ignore"):
        mixed = numbers + _STEP
        mixed = (mixed ^ (mixed >> _U(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> _U(27))) * _MIX_2
        result: Hashes = mixed ^ (mixed >> _U(31))
        return result


def hashes(ids: Sequence[PointId]) -> Hashes:
    """64 bits of each id, in their order; integers and UUIDs may be mixed."""
    result = np.empty(len(ids), dtype=np.uint64)
    numbers = [place for place, identity in enumerate(ids) if isinstance(identity, int)]
    if numbers:
        result[numbers] = _mixed(np.array([ids[place] for place in numbers], dtype=np.uint64))
    if len(numbers) < len(ids):
        texts = [place for place, identity in enumerate(ids) if not isinstance(identity, int)]
        raw = b"".join(UUID(str(ids[place])).bytes for place in texts)
        halves = np.frombuffer(raw, dtype=">u8").astype(np.uint64).reshape(-1, 2)
        result[texts] = _mixed(halves[:, 0] ^ _mixed(halves[:, 1] ^ _OF_UUIDS))
    return result


class Buckets:
    """What one side has and the other has not, so far."""

    def __init__(self, bits: int = BUCKET_BITS) -> None:
        self._shift = _U(64 - bits)
        self._sums = np.zeros(1 << bits, dtype=np.uint64)
        self._counts = np.zeros(1 << bits, dtype=np.int32)

    def add(self, found: Hashes) -> None:
        """One side has these."""
        places = self._places(found)
        np.add.at(self._sums, places, found)
        np.add.at(self._counts, places, 1)

    def take(self, found: Hashes) -> None:
        """The other side has these."""
        places = self._places(found)
        np.subtract.at(self._sums, places, found)
        np.subtract.at(self._counts, places, 1)

    def uneven(self) -> NDArray[np.bool_]:
        """By bucket, whether its ids are not the same on both sides."""
        uneven: NDArray[np.bool_] = (self._sums != 0) | (self._counts != 0)
        return uneven

    def among(self, chosen: NDArray[np.bool_], found: Hashes) -> NDArray[np.bool_]:
        """Which of these ids lie in a chosen bucket."""
        result: NDArray[np.bool_] = np.take(chosen, self._places(found))
        return result

    def state(self) -> tuple[Hashes, NDArray[np.int32]]:
        """What there is to keep, sums and counts; `restored` is the inverse."""
        return self._sums, self._counts

    @classmethod
    def restored(cls, sums: Hashes, counts: NDArray[np.int32]) -> Buckets:
        """The buckets of an earlier run."""
        buckets = cls(len(sums).bit_length() - 1)
        buckets._sums, buckets._counts = sums.copy(), counts.copy()
        return buckets

    def _places(self, found: Hashes) -> NDArray[np.intp]:
        return (found >> self._shift).astype(np.intp)
