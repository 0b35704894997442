"""What `status` reports (design.md section 10), from the state's records and a look at Postgres.

The report is public and stable: names and types are not changed within a `version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge import requests
from bridge.errors import UsageError
from bridge.kafka_state import read_kafka, read_partitions
from bridge.kafka_status import kafka_report, total_counts
from bridge.lease import look_for_holder
from bridge.postgres.progress import SourceProgress
from bridge.postgres.slots import SlotStatus
from bridge.requests import Request
from bridge.state import ChunkDone, Record, StateStore, TablePlan
from bridge.stream_state import RECORD_NAME, StreamState, TableCounts

REPORT_VERSION = 1


def read_stream(store: StateStore) -> StreamState | None:
    """The pipeline's stream, if it has one."""
    record = store.get("stream", RECORD_NAME)
    return None if record is None else StreamState.from_record(record)


def status_report(
    store: StateStore, source: SourceProgress | None = None, *, source_note: str = ""
) -> dict[str, Any]:
    """`status --json`. Without `source` what Postgres would tell is null, and `source_note` says why.

    The parts of a stream are null where there is none: a backfill alone has no slot and no lag.
    UsageError if the pipeline has not begun.
    """
    stream = read_stream(store)
    plans = {name: TablePlan.from_record(record) for name, record in store.records("plan")}
    indexes = dict(store.records("index"))
    kafka = read_kafka(store)
    if not plans and not indexes and stream is None and kafka is None:
        raise UsageError(
            f"pipeline {store.pipeline} has no backfill here",
            hint="is this the pipeline's name, and the Qdrant that it writes to?",
        )
    tables = _tables(store, plans, {} if stream is None else stream.tables)
    tables |= _indexes(store, indexes)
    report: dict[str, Any] = {
        "version": REPORT_VERSION,
        "pipeline": store.pipeline,
        "phase": "backfill" if stream is None else stream.phase,
        "complete": all(table["chunks"] == table["chunks_done"] for table in tables.values()),
        "checkpoint_lsn": None if stream is None else str(stream.checkpoint),
        "source_lsn": None if stream is None or source is None else str(source.lsn),
        "lag": None if stream is None or source is None else lag(stream, source),
        "slot": None if stream is None or source is None else slot_report(source.slot),
        "tables": tables,
        "dead_letters": sum(1 for _ in store.records("dead_letter")),
        "requests": [request_report(request) for request in requests.waiting(store)],
        "stop": None,
    }
    if kafka is not None:
        counts = total_counts(read_partitions(store))
        report["tables"] = _tables(store, plans, counts) | _unplanned(plans, counts, store)
        return report | kafka_report(store, kafka)
    if stream is not None:
        who, alive = look_for_holder(store)
        report["holder"] = {"process": who or None, "alive": alive}
    if stream is not None and stream.stop is not None:
        stop = stream.stop
        report["stop"] = {"code": stop.code, "message": stop.message, "hint": stop.hint}
    if stream is not None and source is None:
        report["source_note"] = source_note
    return report


def lag(stream: StreamState, source: SourceProgress) -> dict[str, Any]:
    """How far Qdrant is behind. `seconds`: the age at the most of the state that it shows; 0 if it
    lacks nothing, null if no transaction has been seen yet."""
    missing = max(0, source.lsn - stream.checkpoint)
    seconds: float | None = None
    if missing == 0:
        seconds = 0.0
    elif stream.commit_time_microseconds:
        age = source.now_microseconds - stream.commit_time_microseconds
        seconds = max(0.0, round(age / 1e6, 3))
    return {"bytes": missing, "seconds": seconds}


def request_report(request: Request) -> dict[str, Any]:
    """What another command has asked of the daemon, and how far that has come."""
    progress = request.progress
    return {
        "action": request.action,
        "table": request.table,
        "asked_at": request.asked_at,
        "stage": progress.stage,
        "rows": progress.rows,
        "estimated_rows": progress.estimated_rows,
        "waiting": progress.waiting,
    }


def slot_report(slot: SlotStatus | None) -> dict[str, Any]:
    """The slot as Postgres has it; a missing one is lost."""
    if slot is None:
        return {"active": False, "retained_bytes": None, "wal_status": "missing"}
    return {
        "active": slot.active,
        "retained_bytes": slot.retained_bytes,
        "wal_status": "lost" if slot.lost else slot.wal_status,
    }


def _indexes(store: StateStore, indexes: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """Indexes of Pinecone as tables: a namespace is a chunk. `rows_read` are records."""
    read: dict[str, list[Record]] = {label: [] for label in indexes}
    for _name, record in store.records("namespace"):
        read.setdefault(record["label"], []).append(record)
    return {
        label: {
            "collection": ", ".join(dict.fromkeys(name for _, name in index["collections"])),
            "rows_read": sum(one["records"] for one in read[label]),
            "upserts": sum(one["written"] for one in read[label]),
            "patches": 0,
            "deletes": 0,
            "chunks": len(index["collections"]),
            "chunks_done": sum(one["done"] for one in read[label]),
        }
        for label, index in indexes.items()
    }


def _unplanned(
    plans: Mapping[str, TablePlan], streamed: Mapping[str, TableCounts], store: StateStore
) -> dict[str, dict[str, Any]]:
    """Tables that were never copied: their rows came through Kafka."""
    collections = {record["table"]: name for name, record in store.records("owner")}
    return {
        label: {
            "collection": collections.get(label, ""),
            "rows_read": 0,
            "upserts": counts.upserts,
            "patches": counts.patches,
            "deletes": counts.deletes,
            "chunks": 0,
            "chunks_done": 0,
        }
        for label, counts in streamed.items()
        if label not in plans
    }


def _tables(
    store: StateStore, plans: Mapping[str, TablePlan], streamed: Mapping[str, TableCounts]
) -> dict[str, dict[str, Any]]:
    """Counts of the copy and of the stream together, by table."""
    done: dict[str, list[ChunkDone]] = {name: [] for name in plans}
    for _name, record in store.records("chunk"):
        chunk = ChunkDone.from_record(record)
        done.setdefault(chunk.table, []).append(chunk)
    tables: dict[str, dict[str, Any]] = {}
    for name, plan in plans.items():
        counts = streamed.get(name, TableCounts())
        tables[name] = {
            "collection": plan.collection,
            "rows_read": sum(chunk.rows_read for chunk in done[name]),
            "upserts": sum(chunk.rows_written for chunk in done[name]) + counts.upserts,
            "patches": counts.patches,
            "deletes": counts.deletes,
            "chunks": plan.chunks,
            "chunks_done": len(done[name]),
        }
    return tables
