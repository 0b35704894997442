"""Patches of a window, with a target whose groups fail in every way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bridge.errors import BridgeError, RateLimited, Rejected, StopError, Unreachable
from bridge.plan import Patch, Point
from bridge.point_ids import PointId
from bridge.retry import Retry
from sync.patches import PATCHES_IN_GROUP, Outcome, Patched, PatchWriter
from tests.support.fake_target import FakeTarget

COUNT = 3 * PATCHES_IN_GROUP
NOWHERE: Any = None  # the table and row of a patch are passed through


def patches(count: int = COUNT) -> list[list[Patched]]:
    made = [Patched(Patch(n, {"x": n}, {}, frozenset()), NOWHERE, NOWHERE) for n in range(count)]
    return [made[start : start + 20] for start in range(0, count, 20)]


def target_with(count: int = COUNT) -> FakeTarget:
    target = FakeTarget()
    target.put(*(Point(n, {"v": b"\0\0\0\0"}, {"x": -1}) for n in range(count)))
    return target


def write(target: FakeTarget, count: int = COUNT) -> Outcome:
    retry = Retry(sleep=lambda seconds: None)
    return PatchWriter(target, retry=retry).write("docs", iter(patches(count)), expected=count)


def applied(target: FakeTarget) -> list[object]:
    return [point.payload["x"] for point in target.points.values()]


def test_many_go_as_one_group() -> None:
    target = target_with()
    outcome = write(target)
    assert (len(outcome.written), outcome.refused) == (COUNT, [])
    assert [len(ids) for _method, ids in target.calls] == [COUNT]
    assert applied(target) == list(range(COUNT))


def test_few_go_one_request_at_a_time() -> None:
    few = PATCHES_IN_GROUP - 1
    target = target_with(few)
    assert len(write(target, few).written) == few
    assert [len(ids) for _method, ids in target.calls] == [20, few - 20]


def test_a_target_without_groups_gets_requests_that_are_waited_for() -> None:
    target = target_with()
    target.groups = False
    assert len(write(target).written) == COUNT
    assert len(target.calls) == len(patches())


@pytest.mark.parametrize("step", ["group", "confirm"])
@pytest.mark.parametrize(
    "error", [Unreachable("away"), RateLimited("slow down"), Rejected("bad")], ids=type
)
def test_what_a_group_cannot_show_is_sent_again(step: str, error: BridgeError) -> None:
    target = target_with()

    def fault(method: str, ids: Sequence[PointId]) -> None:
        if method == step:
            raise error

    target.fault = fault
    outcome = write(target)
    assert len(outcome.written) == COUNT
    assert sorted(int(one.patch.id) for one in outcome.written) == list(range(COUNT))
    assert applied(target) == list(range(COUNT))


def test_a_missing_point_is_refused_alone() -> None:
    target = target_with()
    del target.points[7]
    outcome = write(target)
    assert [one.patch.id for one, _reason in outcome.refused] == [7]
    assert len(outcome.written) == COUNT - 1


def test_a_lost_lease_ends_it_there_and_then() -> None:
    target = target_with()

    def fault(method: str, ids: Sequence[PointId]) -> None:
        if method == "confirm":
            raise StopError("gone", code="LEASE_LOST")

    target.fault = fault
    with pytest.raises(StopError, match="gone"):
        write(target)
    assert target.calls == []
