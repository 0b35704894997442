"""What a pipeline that reads Kafka remembers: its topics, and how far each partition has come.

One record for the pipeline (`kafka`), and one for each partition (`partition/TOPIC/N`), which stands in
for the lease: a partition belongs to one process of the consumer group at a time, and `owner` names it.
A record is written when everything before its offset is durable, and before Kafka is told, so the
group's offset is never ahead of it; where it is, the group was moved and changes would be missing.

What a crash leaves: a record that is ahead of the group's offset, by a second's work. That is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from bridge.state import Kind, Record
from bridge.stream_state import StopNote, TableCounts

RECORD_NAME = "kafka"
_PARTITION = "partition/"

Phase = Literal["backfill", "reading"]
PartitionPhase = Literal["catching_up", "streaming", "stopped"]


class Records(Protocol):
    """What is needed of `state.StateStore`."""

    def get(self, kind: Kind, name: str) -> Record | None:
        """The record, or None."""

    def records(self, kind: Kind) -> Any:
        """All records of a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """One topic. `begin` and `end` are the offsets of its partitions when the pipeline began: what lies
    before `end` is part of the copy, if there was one."""

    table: str
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def partitions(self) -> int:
        """Their number, which must stay."""
        return len(self.begin)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaState:
    """The pipeline's record. `copied`: whether the rows that were there came directly from Postgres.
    `system_id`: which cluster rows are read from; None until one has been asked."""

    group: str
    topics: Mapping[str, TopicState]
    copied: bool
    phase: Phase
    stop: StopNote | None = None
    system_id: str | None = None

    def to_record(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Record) -> KafkaState:
        """The inverse of `to_record`."""
        stop = record["stop"]
        return cls(
            group=record["group"],
            topics={
                name: TopicState(
                    table=topic["table"], begin=tuple(topic["begin"]), end=tuple(topic["end"])
                )
                for name, topic in record["topics"].items()
            },
            copied=record["copied"],
            phase=record["phase"],
            stop=None if stop is None else StopNote(**stop),
            system_id=record.get("system_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """How far a partition has come: everything before `offset` is durable.

    `end`: what the topic held when it was looked at last. `changed_at_ms`: when the last change before
    the offset happened in Postgres; since 1970, 0 if unknown.
    """

    topic: str
    partition: int
    offset: int
    end: int
    phase: PartitionPhase
    owner: str
    changed_at_ms: int = 0
    saved_at_ms: int = 0
    tables: Mapping[str, TableCounts] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The record's."""
        return f"{_PARTITION}{self.topic}/{self.partition}"

    def to_record(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Record) -> PartitionState:
        """The inverse of `to_record`."""
        tables = {name: TableCounts(**counts) for name, counts in record["tables"].items()}
        return cls(**{**record, "tables": tables})


def partition_name(topic: str, partition: int) -> str:
    """The name of a partition's record."""
    return f"{_PARTITION}{topic}/{partition}"


def read_kafka(store: Records) -> KafkaState | None:
    """The pipeline's record; None if it does not read Kafka."""
    record = store.get("stream", RECORD_NAME)
    return None if record is None else KafkaState.from_record(record)


def read_partitions(store: Records) -> list[PartitionState]:
    """Every partition that has been read, in order."""
    found = [
        PartitionState.from_record(record)
        for name, record in store.records("stream")
        if name.startswith(_PARTITION)
    ]
    return sorted(found, key=lambda state: (state.topic, state.partition))
