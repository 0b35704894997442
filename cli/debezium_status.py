"""`status` of a pipeline that reads Kafka: what people are shown, and waiting for what the topics hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from bridge.config import Settings
from bridge.errors import Unreachable, UsageError
from bridge.kafka_state import read_kafka, read_partitions
from bridge.qdrant.state import QdrantState
from cli.debezium_places import kafka_settings, look_at_kafka, offsets_of
from sync.kafka_partition import Partition

POLL_SECONDS = 0.1


def kafka_lines(report: Mapping[str, Any]) -> list[str]:
    """The group, and each topic's partitions."""
    kafka, lag = report["kafka"], report["lag"]
    seconds = lag["seconds"]
    age = "" if seconds is None else f", {seconds:.1f} s"
    lines = [
        f"group      {kafka['group']}, {kafka['processes']} processes",
        f"lag        {lag['messages']:,} messages{age}",
    ]
    for name, topic in kafka["topics"].items():
        parts = topic["partitions"]
        unread = sum(part["owner"] is None for part in parts)
        idle = "" if not unread else f", {unread} read by nobody"
        lines.append(f"topic      {name}: {len(parts)} partitions{idle}")
    return lines


def ends_now(settings: Settings) -> dict[Partition, int]:
    """Where the topics end at this moment. What Debezium has not brought yet is not in them."""
    ends: dict[Partition, int] = {}
    for topic in kafka_settings(settings).topics:
        _begin, found = look_at_kafka(settings, lambda consumer, t=topic: offsets_of(consumer, t))  # type: ignore[misc]
        ends.update({Partition(topic, number): end for number, end in enumerate(found)})
    return ends


def wait_for_ends(
    store: QdrantState,
    position: str,
    settings: Settings,
    *,
    timeout_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once everything that the topics hold now is durable; Unreachable after the timeout."""
    if position != "now":
        raise UsageError(
            "a pipeline that reads Kafka has no position in Postgres' log", hint="--wait now"
        )
    began, ends = clock(), ends_now(settings)
    while True:
        offsets = {Partition(p.topic, p.partition): p.offset for p in read_partitions(store)}
        left = sum(max(0, end - offsets.get(one, 0)) for one, end in ends.items())
        if not left:
            return
        if timeout_seconds is not None and clock() - began >= timeout_seconds:
            state = read_kafka(store)
            stop = "" if state is None or state.stop is None else f" ({state.stop.code})"
            raise Unreachable(
                f"{left:,} messages were not written within {timeout_seconds:g} s{stop}",
                hint="is a process of the group running? see qdrant-bridge status",
            )
        sleep(POLL_SECONDS)
