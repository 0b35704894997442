"""What `status` reports of a pipeline that reads Kafka: the partitions of every process together.

`checkpoint_lsn`, `source_lsn` and `slot` are null: offsets take their place, and the slot is the
connector's. `lag.bytes` is null too; `lag.seconds` is the age of what Qdrant shows of the partition that
is furthest behind, 0 if nothing is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bridge.kafka_state import KafkaState, PartitionState, read_partitions
from bridge.state import StateStore
from bridge.stream_state import TableCounts

SILENT_MS = 20_000
"""A record that was not saved for so long has no process that reads its partition."""


def kafka_phase(partitions: Sequence[PartitionState]) -> str:
    """That of the partition which is furthest behind."""
    phases = {state.phase for state in partitions}
    return next((p for p in ("stopped", "catching_up", "streaming") if p in phases), "catching_up")


def total_counts(partitions: Iterable[PartitionState]) -> dict[str, TableCounts]:
    """By table, over the partitions."""
    totals: dict[str, TableCounts] = {}
    for state in partitions:
        for label, more in state.tables.items():
            totals[label] = totals.get(label, TableCounts()).plus(
                upserts=more.upserts, patches=more.patches, deletes=more.deletes
            )
    return totals


def is_read_from_kafka(store: StateStore, *, now: Callable[[], float] = time.time) -> bool:
    """Whether a process reads one of the pipeline's partitions, as far as its records tell."""
    now_ms = int(now() * 1000)
    return any(_alive(one, now_ms) for one in read_partitions(store))


def kafka_report(
    store: StateStore, state: KafkaState, *, now: Callable[[], float] = time.time
) -> dict[str, Any]:
    """The parts of the report that a stream from Kafka has."""
    partitions = read_partitions(store)
    now_ms = int(now() * 1000)
    missing = sum(max(0, one.end - one.offset) for one in partitions)
    read = {(one.topic, one.partition) for one in partitions}
    unread = sum(
        topic.end[number] - topic.begin[number]
        for name, topic in state.topics.items()
        for number in range(topic.partitions)
        if (name, number) not in read
    )
    stopped = state.stop is not None
    return {
        "phase": _phase(state, partitions),
        "checkpoint_lsn": None,
        "source_lsn": None,
        "lag": {
            "bytes": None,
            "seconds": _age(partitions, now_ms) if missing or unread else 0.0,
            "messages": missing + unread,
        },
        "slot": None,
        "kafka": {
            "group": state.group,
            "processes": len({one.owner for one in partitions if _alive(one, now_ms)}),
            "topics": {
                name: {
                    "table": topic.table,
                    "partitions": [
                        _partition(one, now_ms) for one in partitions if one.topic == name
                    ],
                }
                for name, topic in state.topics.items()
            },
        },
        "stop": (
            {"code": state.stop.code, "message": state.stop.message, "hint": state.stop.hint}
            if stopped and state.stop is not None
            else None
        ),
    }


def _phase(state: KafkaState, partitions: Sequence[PartitionState]) -> str:
    if state.phase == "backfill":
        return "backfill"
    return "stopped" if state.stop is not None else kafka_phase(partitions)


def _age(partitions: Sequence[PartitionState], now_ms: int) -> float | None:
    behind = [one.changed_at_ms for one in partitions if one.end > one.offset]
    known = [at for at in behind if at]
    return None if not known else max(0.0, round((now_ms - min(known)) / 1000, 3))


def _alive(one: PartitionState, now_ms: int) -> bool:
    return one.phase != "stopped" and now_ms - one.saved_at_ms < SILENT_MS


def _partition(one: PartitionState, now_ms: int) -> dict[str, Any]:
    return {
        "partition": one.partition,
        "offset": one.offset,
        "end": one.end,
        "phase": one.phase,
        "owner": one.owner if _alive(one, now_ms) else None,
    }
