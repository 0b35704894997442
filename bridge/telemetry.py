"""The words of logs and metrics, each in one place, and the counters behind `/metrics`.

A log line is a constant event name and fields; a metric has a name, a help text and few labels. Neither
ever holds a row's value, a key or a secret. The text is Prometheus' exposition format 0.0.4
(prometheus.io/docs/instrumenting/exposition_formats).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
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
    "streaming": "the checkpoint has passed where Postgres was when the session began",
    "waiting": "something does not answer and is tried again; reason, seconds",
    "dead_letter": "a row was set aside; table, reason",
    "request_began": "what another command asked for is being done; action, table",
    "request_ended": "what another command asked for is done, or failed; action, table",
    "source_unseen": "Postgres' position cannot be looked up for status and metrics; reason",
    "stopped": "going on would lose or corrupt data; code, reason",
    "stop_not_recorded": "why the daemon stopped could not be stored; reason",
    "holding": "stopped, and answering on http.listen until SIGTERM; code",
    "drain_timeout": "what was under way did not end in time and is repeated after the next start",
    "ended": "told to stop, and everything read is durable; checkpoint",
}
"""Every event that is logged, and its fields."""

PREFIX: Final = "qdrant_bridge_"
METRICS: Final = {
    "ready": ("gauge", "1 while a session streams, as /readyz tells"),
    "phase": ("gauge", "1 for the phase that the pipeline is in"),
    "lag_bytes": ("gauge", "log between the checkpoint and where Postgres writes"),
    "lag_seconds": (
        "gauge",
        "age of the state that Qdrant shows at the most; 0 if nothing is missing",
    ),
    "checkpoint_age_seconds": ("gauge", "since a checkpoint was last stored"),
    "changes_total": ("counter", "points written, patched and removed, by table and kind"),
    "windows_total": ("counter", "windows of changes applied by this process"),
    "write_seconds": ("histogram", "time of a write to Qdrant, by kind"),
    "retries_total": ("counter", "waits before something was tried again"),
    "sessions_total": ("counter", "sessions with Postgres begun by this process"),
    "dead_letters": ("gauge", "rows that are set aside"),
    "slot_retained_bytes": ("gauge", "log that Postgres keeps for the slot"),
    "slot_active": ("gauge", "1 while somebody reads from the slot"),
}
"""Without the prefix: type and help."""

# From a fast local write to the patience of a request.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]
"""Metric without the prefix (a histogram's with its suffix), labels, value."""


class Histogram:
    """Observations in cumulative buckets. Not for several threads without a lock."""

    def __init__(self) -> None:
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._buckets[bisect_left(BUCKETS, value)] += 1
        self._sum += value

    def samples(self, name: str, labels: Labels) -> list[Sample]:
        """As Prometheus wants them: each bucket counts all below it as well."""
        samples: list[Sample] = []
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._buckets, strict=True):
            total += count
            samples.append((f"{name}_bucket", (*labels, ("le", bound)), total))
        samples += [(f"{name}_sum", labels, self._sum), (f"{name}_count", labels, total)]
        return samples


class Telemetry:
    """What this process counts. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._writes: dict[str, Histogram] = {}

    def count_event(self, event: str) -> None:
        """A line was logged."""
        with self._lock:
            self._events[event] += 1

    def observe_write(self, kind: str, seconds: float) -> None:
        """A write to the target has succeeded."""
        with self._lock:
            self._writes.setdefault(kind, Histogram()).observe(seconds)

    def samples(self) -> list[Sample]:
        """Those of this process."""
        with self._lock:
            samples: list[Sample] = [
                ("retries_total", (), self._events["waiting"]),
                ("sessions_total", (), self._events["connected"]),
            ]
            for kind, histogram in sorted(self._writes.items()):
                samples += histogram.samples("write_seconds", (("kind", kind),))
        return samples


def exposition(samples: Iterable[Sample]) -> str:
    """The samples as text; those of one metric stand together, under its help and type."""
    by_metric: dict[str, list[str]] = {}
    for name, labels, value in samples:
        metric = _metric_of(name)
        by_metric.setdefault(metric, []).append(f"{PREFIX}{name}{_labels(labels)} {_number(value)}")
    lines: list[str] = []
    for metric, rows in by_metric.items():
        kind, told = METRICS[metric]
        lines += [f"# HELP {PREFIX}{metric} {told}", f"# TYPE {PREFIX}{metric} {kind}", *rows]
    return "\n".join(lines) + "\n"


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
