"""The board's report as metrics. Pure, but for what the system says of this process.

Names and help texts are in `bridge/telemetry.py`. What is not known has no sample: a gauge that shows 0
for "nobody knows" would be a lie in every alert.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bridge.telemetry import Sample

PHASES: Final = ("starting", "backfill", "catching_up", "streaming", "stopped")
WAL_STATUSES: Final = ("reserved", "extended", "unreserved", "lost", "missing")
_BEGAN: Final = time.time()
_STATM: Final = Path("/proc/self/statm")


def samples_of(report: Mapping[str, Any]) -> list[Sample]:
    """`sync.board.Board`'s report."""
    phase, stop = report["phase"], report["stop"]
    labels = (("pipeline", report["pipeline"]), ("version", report["version"]))
    samples: list[Sample] = [
        ("info", labels, 1),
        ("ready", (), float(report["ready"])),
        *(("phase", (("phase", name),), float(name == phase)) for name in PHASES),
    ]
    if stop is not None:
        samples.append(("stopped", (("code", stop["code"]),), 1))
    if report["source_reachable"] is not None:
        samples.append(("source_reachable", (), float(report["source_reachable"])))
    for name, value in (
        ("lag_bytes", (report["lag"] or {}).get("bytes")),
        ("lag_seconds", (report["lag"] or {}).get("seconds")),
        ("checkpoint_age_seconds", report["checkpoint_age_seconds"]),
        ("dead_letters", report["dead_letters"]),
        ("windows_total", report["windows"]),
    ):
        if value is not None:
            samples.append((name, (), value))
    return [
        *samples,
        *_kafka(report),
        *_slot(report["slot"]),
        *_changes(report["tables"]),
        *_process(),
    ]


def _kafka(report: Mapping[str, Any]) -> list[Sample]:
    """Of this process; those of a group add up."""
    kafka = report.get("kafka")
    if kafka is None:
        return []
    return [
        ("kafka_partitions", (), kafka["partitions"]),
        ("kafka_lag_messages", (), report["lag"]["messages"]),
        ("rows_read_again_total", (), kafka["rows_read_again"]),
    ]


def _slot(slot: Mapping[str, Any] | None) -> list[Sample]:
    if slot is None:
        return []
    samples: list[Sample] = [("slot_active", (), float(slot["active"]))]
    if slot["retained_bytes"] is not None:
        samples.append(("slot_retained_bytes", (), slot["retained_bytes"]))
    for status in WAL_STATUSES:
        label = (("status", status),)
        samples.append(("slot_wal_status", label, float(status == slot["wal_status"])))
    return samples


def _changes(tables: Mapping[str, Mapping[str, int]]) -> list[Sample]:
    kinds = (("upsert", "upserts"), ("patch", "patches"), ("delete", "deletes"))
    return [
        ("changes_total", (("table", table), ("kind", kind)), counts[name])
        for table, counts in tables.items()
        for kind, name in kinds
    ]


def _process() -> list[Sample]:
    samples: list[Sample] = [
        ("process_start_time_seconds", (), round(_BEGAN, 2)),
        ("process_cpu_seconds_total", (), round(time.process_time(), 2)),
    ]
    if _STATM.exists():  # Linux
        pages = int(_STATM.read_text().split()[1])
        samples.append(("process_resident_memory_bytes", (), pages * os.sysconf("SC_PAGE_SIZE")))
    return samples
