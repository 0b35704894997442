"""Points without a row, found by ids in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Iterable
from uuid import UUID

import pytest

from bridge.point_ids import PointId
from sync.extras import KnownIds, order_key


def uuid(number: int) -> str:
    return str(UUID(int=number))


def sweep(rows: list[PointId], points: list[PointId], capacity: int) -> tuple[list[PointId], int]:
    """Every pass, as a resync does them: what has no row, and the number of passes."""
    stored = sorted(points, key=order_key)
    extras: list[PointId] = []
    above: PointId | None = None
    passes = 0
    while True:
        passes += 1
        known = KnownIds(above, capacity)
        known.add(rows)
        extras += known.unknown(stored)
        above = known.upto
        if above is None:
            return extras, passes


def test_ids_are_ordered_as_qdrant_orders_them() -> None:
    ordered: list[PointId] = [0, 1, 256, 2**63, 2**64 - 1, uuid(0), uuid(255), uuid(2**128 - 1)]
    assert sorted(reversed(ordered), key=order_key) == ordered


@pytest.mark.parametrize("capacity", [1, 3, 7, 50, 1000])
def test_exactly_the_points_without_a_row_are_found_whatever_fits(capacity: int) -> None:
    numbers = random.Random(11)
    pool: list[PointId] = [*range(0, 2**64, 2**59), *(n * 256 for n in range(20))]
    pool += [uuid(numbers.getrandbits(128) & ~0xFFFF) for _ in range(60)]
    pool = list(dict.fromkeys(pool))
    rows = numbers.sample(pool, 70)
    points = numbers.sample(pool, 80)
    extras, passes = sweep(rows, points, capacity)
    assert set(extras) == set(points) - set(rows)
    assert len(extras) == len(set(extras))
    assert passes == max(1, -(-len(rows) // capacity))


def test_an_empty_table_leaves_no_point() -> None:
    assert sweep([], [1, uuid(1)], 10) == ([1, uuid(1)], 1)


def test_what_the_stream_writes_during_the_walk_is_known_too() -> None:
    known = KnownIds(None, 3)
    known.add([1, 2, 3])
    assert known.unknown([1, 4]) == [4]
    known.add([4])
    assert known.unknown([2, 3]) == []
    # Four ids do not fit any more: the last of them is left to the next pass.
    assert known.upto == 3
    assert not known.covers(4)
    assert known.unknown([4, 5]) == []


def test_a_later_pass_says_nothing_of_what_was_before_it() -> None:
    known = KnownIds(5, 10)
    known.add(ids([1, 6]))
    assert known.unknown([1, 2, 5, 6, 7]) == [7]


def ids(numbers: Iterable[int]) -> Iterable[PointId]:
    return numbers
