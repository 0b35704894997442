"""The words of logs and metrics, each in one place, and the counters behind `/metrics`.

A log line is a constant event name and fields; a metric has a name, a help text and few labels. Neither
ever holds a row's value, a key or a secret. The text is Prometheus' exposition format 0.0.4
(prometheus.io/docs/instrumenting/exposition_formats).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

EVENTS: Final = {
    "starting": "the daemon begins; pipeline, checkpoint",
    "listening": "health and metrics can be asked for; address",
    "waiting_for_transactions": "open transactions have to end before the copy; blockers",
    "waiting_for_lease": "another machine's lease is waited out; holder",
    "lease_taken": "this process is the one that writes",
    "lease_lost": "another process writes now; this one ends",
    "connected": "a session with Postgres has begun; checkpoint, binary",
    "schema_changed": "columns are others than at the copy; table, columns, hint",
    "vectors_left_out": "vector columns came that the collection cannot take; table, columns, hint",
    "partitions_changed": "partitions came or went with rows; table, attached, detached, hint",
    "streaming": "the checkpoint has passed where Postgres was when the session began",
    "waiting": "something does not answer and is tried again; reason, seconds",
    "dead_letter": "a row was set aside; table, reason",
    "request_began": "what another command asked for is being done; action, table",
    "request_ended": "what another command asked for is done, or failed; action, table",
    "request_waiting": "what another command asked for cannot go on just now; table, reason",
    "socket_unavailable": "other commands cannot reach an Edge directory through this one; reason",
    "source_unseen": "Postgres' position cannot be looked up for status and metrics; reason",
    "assigned": "partitions of Kafka are read by this process from now on; partitions",
    "given_up": "they are read by another process, or by nobody; partitions",
    "abandoned": "what was read of them could not be written in time and is read again; partitions",
    "not_committed": "the group could not be told the last offsets; reason",
    "not_left": "the group could not be told that this process ends; reason",
    "rewound": "the group's offset is behind what is written: messages are read again; partition",
    "columns_passed_over": "a message has columns that the table has no more; table, columns",
    "truncate_noted": "a table was truncated, and waits until every partition has come so far; table",
    "truncate_settled": "points without a row were removed after it; table, removed",
    "waiting_for_copy": "another process copies the tables; holder",
    "stopped": "going on would lose or corrupt data; code, reason",
    "stop_not_recorded": "why the daemon stopped could not be stored; reason",
    "holding": "stopped, and answering on http.listen until SIGTERM; code",
    "drain_timeout": "what was under way did not end in time and is repeated after the next start",
    "ended": "told to stop, and everything read is durable; checkpoint",
}
"""Every event that is logged, and its fields."""

PREFIX: Final = "qdrant_bridge_"
METRICS: Final = {
    "info": ("gauge", "always 1; pipeline and version are its labels"),
    "ready": ("gauge", "1 while a session streams, as /readyz tells"),
    "phase": ("gauge", "1 for the phase that the pipeline is in"),
    "stopped": ("gauge", "1 for the code that the daemon has stopped with"),
    "source_reachable": ("gauge", "1 while Postgres tells where it is"),
    "lag_bytes": ("gauge", "log between the checkpoint and where Postgres writes"),
    "lag_seconds": (
        "gauge",
        "age of the state that Qdrant shows at the most; 0 if nothing is missing",
    ),
    "checkpoint_age_seconds": ("gauge", "since a checkpoint was last stored"),
    "changes_total": ("counter", "points written, patched and removed, by table and kind"),
    "windows_total": ("counter", "windows of changes applied by this process"),
    "window_changes": ("histogram", "changes in an applied window"),
    "write_seconds": ("histogram", "time of a write to Qdrant, by kind"),
    "retries_total": ("counter", "waits before something was tried again"),
    "sessions_total": ("counter", "sessions with Postgres begun by this process"),
    "dead_letters": ("gauge", "rows that are set aside"),
    "kafka_partitions": ("gauge", "partitions that this process reads"),
    "kafka_lag_messages": ("gauge", "messages of these that are not written yet"),
    "rows_read_again_total": ("counter", "rows of messages that did not tell all of them"),
    "slot_retained_bytes": ("gauge", "log that Postgres keeps for the slot"),
    "slot_active": ("gauge", "1 while somebody reads from the slot"),
    "slot_wal_status": ("gauge", "1 for what Postgres says of the slot's log"),
    "backfill_rows": ("gauge", "rows that the copy has read, by table"),
    "backfill_estimated_rows": ("gauge", "rows of the table; known once all are copied"),
    "backfill_chunks": ("gauge", "parts that the table is cut into"),
    "backfill_chunks_done": ("gauge", "parts that are copied"),
    "backfill_dead_letters": ("gauge", "rows that this copy has set aside"),
    "process_start_time_seconds": ("gauge", "when this process began, since 1970"),
    "process_cpu_seconds_total": ("counter", "processor time of this process"),
    "process_resident_memory_bytes": ("gauge", "memory of this process"),
}
"""Without the prefix: type and help. Those of the process are named as everybody names them."""

# From a fast local write to the patience of a request.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# From a single change to windows that somebody has configured larger than they are by default.
CHANGES_BUCKETS: Final = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0, 5000.0, 20000.0)

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]
"""Metric without the prefix (a histogram's with its suffix), labels, value."""


class Histogram:
    """Observations in cumulative buckets. Not for several threads without a lock."""

    def __init__(self, bounds: Sequence[float] = BUCKETS) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, name: str, labels: Labels) -> list[Sample]:
        """As Prometheus wants them: each bucket counts all below it as well."""
        samples: list[Sample] = []
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._buckets, strict=True):
            total += count
            samples.append((f"{name}_bucket", (*labels, ("le", bound)), total))
        samples += [(f"{name}_sum", labels, self._sum), (f"{name}_count", labels, total)]
        return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """How far the copy of a table is. `estimated_rows` is the planner's until all chunks are done."""

    table: str
    collection: str
    rows: int
    estimated_rows: int
    chunks: int
    chunks_done: int
    dead_letters: int = 0


class Telemetry:
    """What this process counts. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._writes: dict[str, Histogram] = {}
        self._windows = Histogram(CHANGES_BUCKETS)
        self._copies: dict[str, Copied] = {}
        self._reason = ""

    def count_event(self, event: str, *, reason: str = "") -> None:
        """A line was logged; `reason` is kept of what is waited for."""
        with self._lock:
            self._events[event] += 1
            if event == "waiting":
                self._reason = reason

    def count_of(self, event: str) -> int:
        """How often it was logged."""
        return self._events[event]

    @property
    def last_reason(self) -> str:
        """Why something was waited for, the last time."""
        return self._reason

    def observe_write(self, kind: str, seconds: float) -> None:
        """A write to the target has succeeded."""
        with self._lock:
            self._writes.setdefault(kind, Histogram()).observe(seconds)

    def observe_window(self, changes: int) -> None:
        """A window has been applied."""
        with self._lock:
            self._windows.observe(changes)

    def tell_copy(self, copied: Copied) -> None:
        """The copy of a table has come so far."""
        with self._lock:
            self._copies[copied.table] = copied

    @property
    def copies(self) -> list[Copied]:
        """The tables that this process copies or has copied."""
        with self._lock:
            return list(self._copies.values())

    def samples(self) -> list[Sample]:
        """Those of this process."""
        with self._lock:
            samples: list[Sample] = [
                ("retries_total", (), self._events["waiting"]),
                ("sessions_total", (), self._events["connected"]),
            ]
            for kind, histogram in sorted(self._writes.items()):
                samples += histogram.samples("write_seconds", (("kind", kind),))
            samples += self._windows.samples("window_changes", ())
            for copied in self._copies.values():
                label = (("table", copied.table),)
                samples += [
                    ("backfill_rows", label, copied.rows),
                    ("backfill_estimated_rows", label, copied.estimated_rows),
                    ("backfill_chunks", label, copied.chunks),
                    ("backfill_chunks_done", label, copied.chunks_done),
                    ("backfill_dead_letters", label, copied.dead_letters),
                ]
        return samples


def exposition(samples: Iterable[Sample]) -> str:
    """The samples as text; those of one metric stand together, under its help and type."""
    by_metric: dict[str, list[str]] = {}
    for name, labels, value in samples:
        metric = _metric_of(name)
        by_metric.setdefault(metric, []).append(
            f"{full_name(name)}{_labels(labels)} {_number(value)}"
        )
    lines: list[str] = []
    for metric, rows in by_metric.items():
        kind, told = METRICS[metric]
        full = full_name(metric)
        lines += [f"# HELP {full} {told}", f"# TYPE {full} {kind}", *rows]
    return "\n".join(lines) + "\n"


def full_name(name: str) -> str:
    """As Prometheus sees it."""
    return name if name.startswith("process_") else f"{PREFIX}{name}"


def _metric_of(name: str) -> str:
    if name in METRICS:
        return name
    return name.rpartition("_")[0]  # _bucket, _sum, _count


def _labels(labels: Labels | Mapping[str, str]) -> str:
    if not labels:
        return ""
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in dict(labels).items())
    return f"{{{told}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
