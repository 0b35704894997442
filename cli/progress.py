"""The progress of a backfill: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.progress import TaskID
from rich.text import Text

from backfill.indexing import Indexing
from backfill.messages import ChunkCopied, Event, Waiting
from backfill.messages import Progress as ChunkProgress
from backfill.pgvector import Planned
from bridge.workers import WorkerLost
from cli.display import LINE_SECONDS, Bars, Display, Plain, Rates, Silence, say, time_left, watched
from cli.output import counted

_WAIT_LINE_SECONDS = 10.0

RunEvent = Planned | Indexing | Event


class Tally:
    """Rows and bytes of one table as events tell them. Pure, but for the clock that is given."""

    def __init__(self, planned: Planned, clock: Callable[[], float] = time.monotonic) -> None:
        self.planned = planned
        self.rows = planned.rows_done
        self.size_bytes = planned.bytes_done
        self.chunks_done = planned.chunks - planned.chunks_left
        self.failures = 0
        self._open: dict[int, tuple[int, int]] = {}
        self._rates = Rates(self.rows, self.size_bytes, clock=clock)

    def take(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, ChunkProgress):
            self._add(event.chunk, event.rows, event.size_bytes)
        elif isinstance(event, ChunkCopied):
            self._add(event.chunk, event.rows_read, event.size_bytes)
            del self._open[event.chunk]
            self.chunks_done += 1
            self.failures += len(event.letters)
        elif isinstance(event, WorkerLost):
            for chunk in event.chunks:
                self._add(chunk, 0, 0)
        self._rates.note(self.rows, self.size_bytes)

    def _add(self, chunk: int, rows: int, size: int) -> None:
        before_rows, before_size = self._open.get(chunk, (0, 0))
        self.rows += rows - before_rows
        self.size_bytes += size - before_size
        self._open[chunk] = (rows, size)

    def rates(self) -> tuple[float, float]:
        """(rows, bytes) a second, lately."""
        rows, size_bytes = self._rates.a_second()
        return rows, size_bytes

    def total_rows(self) -> int:
        """The planner's estimate, never below what has been seen; known once all chunks are done."""
        if self.chunks_done == self.planned.chunks:
            return self.rows
        return max(self.planned.estimated_rows, self.rows)

    def line(self) -> str:
        """`12,800 of ~60,000 rows, 9,100 rows/s, 58.2 MB/s, 5 s left, 0 failed`."""
        rate, bytes_rate = self.rates()
        eta, row = time_left(self.total_rows() - self.rows, rate), self.planned.row
        return (
            f"{self.rows:,} of ~{self.total_rows():,} {row}s, {rate:,.0f} {row}s/s, "
            f"{bytes_rate / 1e6:,.1f} MB/s, {eta}, {self.failures} failed"
        )


def display(*, quiet: bool) -> Display[RunEvent]:
    """A bar where somebody watches, else plain lines; nothing at all if `quiet`."""
    if quiet:
        return Silence()
    return Bar() if watched() else Lines()


class Lines(Plain):
    """Plain lines to standard error, one every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tally: Tally | None = None
        self._said = clock()
        self._said_waiting = float("-inf")
        self._said_indexing = float("-inf")

    def __call__(self, event: RunEvent) -> None:
        now = self._clock()
        if isinstance(event, Planned):
            self._tally = Tally(event, self._clock)
            say(planned_line(event))
        elif isinstance(event, Indexing):
            if now - self._said_indexing >= LINE_SECONDS:
                self._said_indexing = now
                say(indexing_line(event))
        elif isinstance(event, Waiting):
            if now - self._said_waiting >= _WAIT_LINE_SECONDS:
                self._said_waiting = now
                say(waiting_line(event))
        elif self._tally is not None:
            self._tally.take(event)
            if isinstance(event, WorkerLost):
                say(lost_line(event))
            elif now - self._said >= LINE_SECONDS:
                self._said = now
                say(f"{self._tally.planned.table}: {self._tally.line()}")


class Bar(Bars):
    """A progress bar with rows, rates, time left and failures."""

    def __init__(self) -> None:
        super().__init__()
        self._tally: Tally | None = None
        self._task: TaskID | None = None
        self._index_task: TaskID | None = None

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, Planned):
            self._tally = Tally(event)
            self.progress.console.print(Text(planned_line(event)))
            self._task = self.progress.add_task(event.table, total=None, line="")
            self._index_task = None
        elif isinstance(event, Indexing):
            self._show_index(event)
        elif isinstance(event, Waiting):
            self.progress.console.print(Text(waiting_line(event), style="yellow"))
        elif self._tally is not None and self._task is not None:
            self._tally.take(event)
            if isinstance(event, WorkerLost):
                self.progress.console.print(Text(lost_line(event), style="yellow"))
            self.progress.update(
                self._task,
                completed=self._tally.rows,
                total=max(1, self._tally.total_rows()),
                line=self._tally.line(),
            )

    def _show_index(self, event: Indexing) -> None:
        """A bar of its own: that of the rows keeps what the copy came to."""
        if self._index_task is None:
            self._index_task = self.progress.add_task(f"{event.collection}, index", line="")
        self.progress.update(
            self._index_task,
            completed=event.indexed,
            total=max(1, event.points),
            line=f"{event.indexed:,} of {event.points:,} vectors",
        )


def planned_line(event: Planned) -> str:
    """What is about to be done."""
    going_on = f", {event.rows_done:,} {event.row}s copied before" if event.rows_done else ""
    return (
        f"{event.table} -> {event.collection}: {event.chunks_left} of {event.chunks} {event.part}s to copy, "
        f"{counted(event.workers, event.worker)}{going_on}"
    )


def indexing_line(event: Indexing) -> str:
    """How far the index is."""
    return f"{event.collection}: Qdrant indexes, {event.indexed:,} of {event.points:,} vectors"


def waiting_line(event: Waiting) -> str:
    """What is away."""
    return f"waiting {event.seconds:.1f} s: {event.reason}"


def lost_line(event: WorkerLost) -> str:
    """Which worker died."""
    return f"worker {event.pid} died; what it had is read again"
