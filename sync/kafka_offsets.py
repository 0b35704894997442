"""Where a partition is gone on with: what the group says against what the pipeline knows. Pure.

The group's offset may be behind the record (a crash between the two, or somebody rewound it): that is
read again. It may be missing (it expired, or the group was deleted): the record tells. It may never be
ahead, nor may Kafka have dropped what comes next: changes would be missing, and that is `GAP`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.errors import StopError
from bridge.kafka_state import PartitionState, TopicState
from sync.kafka_partition import Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What Kafka holds of a partition: offsets from `begin` to before `end`."""

    begin: int
    end: int


def start_offset(
    partition: Partition,
    held: Held,
    topic: TopicState,
    *,
    committed: int | None,
    recorded: PartitionState | None,
    copied: bool,
) -> int:
    """The offset to read from. StopError `GAP` if changes are missing."""
    if recorded is None:
        offset = _first(partition, held, topic, committed, copied)
    elif committed is None:
        offset = recorded.offset
    elif committed > recorded.offset:
        raise gap(
            f"the group is at {partition}@{committed}, but the pipeline has written only what comes "
            f"before {recorded.offset}: was the group moved, or the state restored?"
        )
    else:
        # Rewound farther than Kafka holds, the record is as good.
        offset = committed if committed >= held.begin else recorded.offset
    if offset < held.begin:
        raise gap(f"{partition} begins at {held.begin} by now; {offset} would be next")
    if offset > held.end:
        raise gap(
            f"{partition} ends at {held.end}; {offset} would be next: was the topic made anew?"
        )
    return offset


def _first(
    partition: Partition, held: Held, topic: TopicState, committed: int | None, copied: bool
) -> int:
    """A partition that the pipeline has not read yet: from its beginning."""
    begin, end = topic.begin[partition.number], topic.end[partition.number]
    if committed is not None and committed > begin:
        raise gap(
            f"the group is at {partition}@{committed}, and the pipeline has no record of having read it"
        )
    # What was there before the copy began is part of it, and may be gone.
    needed = end if copied else begin
    if held.begin > needed:
        raise gap(f"{partition} begins at {held.begin} by now, not before {needed} as it must")
    return max(begin, held.begin)


def gap(message: str) -> StopError:
    """Changes are missing for good."""
    return StopError(
        message,
        code="GAP",
        hint="changes are missing: copy the tables again under another pipeline name, and keep the "
        "topics' retention longer than the longest outage",
    )
