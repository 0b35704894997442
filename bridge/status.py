"""What `status` reports (design.md section 10), from the state's records and a look at Postgres.

The report is public and stable: names and types are not changed within a `version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.errors import UsageError
from bridge.postgres.progress import SourceProgress
from bridge.postgres.slots import SlotStatus
from bridge.state import ChunkDone, StateStore, TablePlan
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
    if not plans and stream is None:
        raise UsageError(
            f"pipeline {store.pipeline} has no backfill here",
            hint="is this the pipeline's name, and the Qdrant that it writes to?",
        )
    tables = _tables(store, plans, {} if stream is None else stream.tables)
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
        "stop": None,
    }
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


def slot_report(slot: SlotStatus | None) -> dict[str, Any]:
    """The slot as Postgres has it; a missing one is lost."""
    if slot is None:
        return {"active": False, "retained_bytes": None, "wal_status": "missing"}
    return {
        "active": slot.active,
        "retained_bytes": slot.retained_bytes,
        "wal_status": "lost" if slot.lost else slot.wal_status,
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
