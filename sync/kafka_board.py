"""A Kafka process on the board: its partitions in the place of a checkpoint and a slot."""

from __future__ import annotations

from typing import Any, Protocol

from bridge.kafka_state import PartitionState
from bridge.kafka_status import kafka_phase, total_counts


class KafkaProcess(Protocol):
    """What is looked at of the daemon."""

    connected: bool
    windows: int
    read_again: int
    saved_at: float | None

    @property
    def partitions(self) -> list[PartitionState]:
        """Those that it reads."""

    @property
    def dead_letters(self) -> int:
        """Rows that are set aside."""


def process_phase(process: KafkaProcess) -> str:
    """That of this process."""
    partitions = process.partitions
    if not process.connected:
        return "catching_up"
    # A process without a partition has nothing to catch up with.
    return kafka_phase(partitions) if partitions else "streaming"


def with_kafka(
    report: dict[str, Any], process: KafkaProcess, *, wall: float, clock: float
) -> dict[str, Any]:
    """The board's report of a process that reads Kafka."""
    partitions = process.partitions
    missing = sum(max(0, one.end - one.offset) for one in partitions)
    ages = [
        max(0.0, round(wall - one.changed_at_ms / 1000, 3))
        for one in partitions
        if one.end > one.offset and one.changed_at_ms
    ]
    return {
        **report,
        "connected": process.connected,
        "lag": {
            "bytes": None,
            "messages": missing,
            "seconds": 0.0 if not missing else max(ages, default=None),
        },
        "checkpoint_age_seconds": (
            None if process.saved_at is None else round(max(0.0, clock - process.saved_at), 1)
        ),
        "tables": {
            label: {"upserts": c.upserts, "patches": c.patches, "deletes": c.deletes}
            for label, c in sorted(total_counts(partitions).items())
        },
        "dead_letters": process.dead_letters,
        "windows": process.windows,
        "kafka": {"partitions": len(partitions), "rows_read_again": process.read_again},
    }
