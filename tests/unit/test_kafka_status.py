"""What is told of a pipeline that reads Kafka: by `status` of all processes, by the board of one."""

from __future__ import annotations

from typing import Any

from bridge.kafka_state import (
    RECORD_NAME,
    KafkaState,
    PartitionState,
    TopicState,
    partition_name,
    read_kafka,
    read_partitions,
)
from bridge.kafka_status import is_read_from_kafka, kafka_report
from bridge.status import status_report
from bridge.stream_state import StopNote, TableCounts
from cli.debezium_status import kafka_lines
from sync.kafka_board import process_phase, with_kafka
from tests.support.kafka_fake import MemoryRecords

TOPIC = "shop.public.docs"
NOW = 1_700_000_100.0
NOW_MS = int(NOW * 1000)


def partition(number: int, **changes: Any) -> PartitionState:
    values: dict[str, Any] = {
        "topic": TOPIC,
        "partition": number,
        "offset": 10,
        "end": 10,
        "phase": "streaming",
        "owner": f"process {number}",
        "changed_at_ms": NOW_MS - 5000,
        "saved_at_ms": NOW_MS - 1000,
        "tables": {"public.docs": TableCounts(upserts=3, patches=0, deletes=1)},
    }
    return PartitionState(**{**values, **changes})


def stored(*partitions: PartitionState, stop: StopNote | None = None) -> Any:
    records = MemoryRecords()
    zeros = (0,) * 2
    state = KafkaState(
        group="bridge_shop",
        topics={TOPIC: TopicState(table="public.docs", begin=zeros, end=zeros)},
        copied=False,
        phase="reading",
        stop=stop,
    )
    records.put("stream", RECORD_NAME, state.to_record())
    for one in partitions:
        records.put("stream", partition_name(TOPIC, one.partition), one.to_record())
    return records


def report(*partitions: PartitionState, stop: StopNote | None = None) -> dict[str, Any]:
    records = stored(*partitions, stop=stop)
    state = read_kafka(records)
    assert state is not None
    return kafka_report(records, state, now=lambda: NOW)


def test_records_are_what_was_stored() -> None:
    found = read_partitions(stored(partition(1), partition(0)))
    assert found == [partition(0), partition(1)]


def test_all_processes_are_told_together() -> None:
    found = report(partition(0), partition(1))
    assert found["phase"] == "streaming"
    assert found["lag"] == {"bytes": None, "seconds": 0.0, "messages": 0}
    assert found["kafka"]["processes"] == 2
    tables = status_report(stored(partition(0), partition(1)))["tables"]
    assert tables["public.docs"]["upserts"] == 6
    assert tables["public.docs"]["deletes"] == 2


def test_the_partition_that_is_furthest_behind_counts() -> None:
    found = report(partition(0), partition(1, offset=4, phase="catching_up"))
    assert found["phase"] == "catching_up"
    assert found["lag"] == {"bytes": None, "seconds": 5.0, "messages": 6}


def test_a_process_that_is_silent_is_none() -> None:
    found = report(partition(0), partition(1, saved_at_ms=NOW_MS - 60_000))
    assert found["kafka"]["processes"] == 1
    owners = [p["owner"] for p in found["kafka"]["topics"][TOPIC]["partitions"]]
    assert owners == ["process 0", None]
    assert is_read_from_kafka(stored(partition(0)), now=lambda: NOW)
    assert not is_read_from_kafka(stored(partition(0, phase="stopped")), now=lambda: NOW)


def test_a_stop_is_told_with_its_reason() -> None:
    found = report(partition(0), stop=StopNote(code="GAP", message="m", hint="h"))
    assert found["phase"] == "stopped"
    assert found["stop"] == {"code": "GAP", "message": "m", "hint": "h"}


def test_people_are_shown_the_group() -> None:
    lines = kafka_lines(report(partition(0), partition(1, saved_at_ms=0, offset=4)))
    assert "bridge_shop, 1 processes" in lines[0]
    assert "6 messages, 5.0 s" in lines[1]
    assert "2 partitions, 1 read by nobody" in lines[2]


class OneProcess:
    """What the board looks at."""

    connected = True
    windows = 7
    read_again = 2
    saved_at: float | None = 90.0
    dead_letters = 1

    def __init__(self, *partitions: PartitionState) -> None:
        self.partitions = list(partitions)


def test_the_board_tells_of_its_own_partitions() -> None:
    process = OneProcess(partition(0, offset=4))
    found = with_kafka({"pipeline": "shop"}, process, wall=NOW, clock=100.0)
    assert found["lag"] == {"bytes": None, "messages": 6, "seconds": 5.0}
    assert found["checkpoint_age_seconds"] == 10.0
    assert found["tables"] == {"public.docs": {"upserts": 3, "patches": 0, "deletes": 1}}
    assert (found["windows"], found["dead_letters"]) == (7, 1)
    assert found["kafka"] == {"partitions": 1, "rows_read_again": 2}


def test_a_process_without_a_partition_lacks_nothing() -> None:
    assert process_phase(OneProcess()) == "streaming"
    away = OneProcess(partition(0))
    away.connected = False
    assert process_phase(away) == "catching_up"
