"""Where a partition is gone on with: behind nothing that is missing, and never beyond what is durable."""

from __future__ import annotations

import pytest

from bridge.errors import StopError
from bridge.kafka_state import PartitionState, TopicState
from sync.kafka_offsets import Held, start_offset
from sync.kafka_partition import Partition

HERE = Partition("shop.public.docs", 0)


def recorded(offset: int) -> PartitionState:
    return PartitionState(
        topic=HERE.topic,
        partition=0,
        offset=offset,
        end=offset,
        phase="streaming",
        owner="somebody",
    )


def found(
    *,
    committed: int | None = None,
    record: int | None = None,
    begin: int = 0,
    end: int = 100,
    first: tuple[int, int] = (0, 0),
    copied: bool = True,
) -> int:
    topic = TopicState(table="public.docs", begin=(first[0],), end=(first[1],))
    return start_offset(
        HERE,
        Held(begin=begin, end=end),
        topic,
        committed=committed,
        recorded=None if record is None else recorded(record),
        copied=copied,
    )


def test_a_new_pipeline_reads_from_the_beginning() -> None:
    assert found(first=(3, 20), begin=3) == 3


def test_what_was_there_before_the_copy_may_be_gone_since() -> None:
    assert found(first=(3, 20), begin=20) == 20


def test_what_came_after_the_copy_began_may_not() -> None:
    with pytest.raises(StopError) as caught:
        found(first=(3, 20), begin=21)
    assert caught.value.code == "GAP"


def test_a_snapshot_must_be_there_as_a_whole() -> None:
    assert found(first=(0, 20), copied=False) == 0
    with pytest.raises(StopError):
        found(first=(0, 20), begin=1, copied=False)


def test_a_crash_between_record_and_commit_reads_the_rest_again() -> None:
    assert found(committed=40, record=50) == 40


def test_a_group_that_was_lost_is_gone_on_with_from_the_record() -> None:
    assert found(committed=None, record=50) == 50


def test_a_group_that_was_rewound_too_far_goes_on_from_the_record() -> None:
    assert found(committed=2, record=50, begin=10) == 50


@pytest.mark.parametrize(
    ("committed", "record", "begin", "end"),
    [
        (51, 50, 0, 100),  # the group was moved ahead
        (40, 50, 51, 100),  # what comes next is gone
        (None, 50, 51, 100),
        (50, 50, 0, 40),  # the topic was made anew
        (7, None, 0, 100),  # the state was lost
    ],
)
def test_missing_changes_stop(
    committed: int | None, record: int | None, begin: int, end: int
) -> None:
    with pytest.raises(StopError) as caught:
        found(committed=committed, record=record, begin=begin, end=end)
    assert caught.value.code == "GAP"
