"""Snapshots: which transactions they show, also across the wrap of 32-bit ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.snapshots import Snapshot


def test_ids_below_xmin_have_ended_and_those_from_xmax_on_have_not_begun() -> None:
    snapshot = Snapshot.parse("10:20:10,14")
    assert [xid for xid in range(8, 23) if snapshot.shows(xid)] == [
        8,
        9,
        11,
        12,
        13,
        *range(15, 20),
    ]


def test_nothing_in_progress() -> None:
    snapshot = Snapshot.parse("10:10:")
    assert snapshot.shows(9)
    assert not snapshot.shows(10)


@pytest.mark.parametrize("text", ["", "1:2", "1:2:3,", "1:2:,3", "a:b:", " 1:2:", "1:2:3 "])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a snapshot"):
        Snapshot.parse(text)


@given(xmin=st.integers(3, 2**40), distance=st.integers(-(2**31) + 1, 2**31 - 1))
def test_an_id_within_half_the_range_of_xmin_is_widened_to_itself(xmin: int, distance: int) -> None:
    xid = xmin + distance
    if xid < 0:
        return
    assert Snapshot(xmin, xmin, frozenset()).widen(xid % 2**32) == xid
