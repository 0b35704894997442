"""The events of a copy, as metrics and for the status page of the process that copies."""

from __future__ import annotations

from backfill.messages import ChunkCopied, Progress, Waiting
from backfill.pgvector import Planned
from bridge.telemetry import Copied, Telemetry
from bridge.workers import WorkerLost
from cli.progress import RunEvent, Tally


class CopyMetrics:
    """Takes the events of a run, as a display does."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._tally: Tally | None = None

    def __call__(self, event: RunEvent) -> None:
        """Count one event."""
        if isinstance(event, Waiting):
            self._telemetry.count_event("waiting", reason=event.reason)
            return
        if isinstance(event, Planned):
            self._tally = Tally(event)
        elif self._tally is None or not isinstance(event, ChunkCopied | Progress | WorkerLost):
            return
        else:
            self._tally.take(event)
        tally = self._tally
        self._telemetry.tell_copy(
            Copied(
                table=tally.planned.table,
                collection=tally.planned.collection,
                rows=tally.rows,
                estimated_rows=tally.total_rows(),
                chunks=tally.planned.chunks,
                chunks_done=tally.chunks_done,
                dead_letters=tally.failures,
            )
        )
