"""The progress of a backfill: a bar on a terminal, plain lines elsewhere.

Rates are those of the last half minute, so that an outage shows and the estimate recovers from it.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from backfill.indexing import Indexing
from backfill.messages import ChunkCopied, Event, Waiting
from backfill.messages import Progress as ChunkProgress
from backfill.pgvector import Planned
from bridge.workers import WorkerLost
from cli.output import counted, err

_RATE_WINDOW_SECONDS = 30.0
_LINE_SECONDS = 5.0
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
        self._clock = clock
        self._open: dict[int, tuple[int, int]] = {}
        self._history: deque[tuple[float, int, int]] = deque()
        self._remember()

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
        self._remember()

    def _add(self, chunk: int, rows: int, size: int) -> None:
        before_rows, before_size = self._open.get(chunk, (0, 0))
        self.rows += rows - before_rows
        self.size_bytes += size - before_size
        self._open[chunk] = (rows, size)

    def _remember(self) -> None:
        now = self._clock()
        self._history.append((now, self.rows, self.size_bytes))
        while now - self._history[0][0] > _RATE_WINDOW_SECONDS and len(self._history) > 2:
            self._history.popleft()

    def rates(self) -> tuple[float, float]:
        """(rows, bytes) a second, lately."""
        (then, rows, size), (now, rows_now, size_now) = self._history[0], self._history[-1]
        seconds = max(now - then, 1e-9)
        return max(0.0, (rows_now - rows) / seconds), max(0.0, (size_now - size) / seconds)

    def total_rows(self) -> int:
        """The planner's estimate, never below what has been seen; known once all chunks are done."""
        if self.chunks_done == self.planned.chunks:
            return self.rows
        return max(self.planned.estimated_rows, self.rows)

    def line(self) -> str:
        """`12,800 of ~60,000 rows, 9,100 rows/s, 58.2 MB/s, 5 s left, 0 failed`."""
        rate, bytes_rate = self.rates()
        left, row = self.total_rows() - self.rows, self.planned.row
        eta = f"{duration(left / rate)} left" if rate > 0 else "time left unknown"
        return (
            f"{self.rows:,} of ~{self.total_rows():,} {row}s, {rate:,.0f} {row}s/s, "
            f"{bytes_rate / 1e6:,.1f} MB/s, {eta}, {self.failures} failed"
        )


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


class Display(Protocol):
    """Shows a run's events; a context manager around the run."""

    def __call__(self, event: RunEvent) -> None:
        """Show one event."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def display(*, quiet: bool) -> Display:
    """A bar where somebody watches, else plain lines; nothing at all if `quiet`."""
    if quiet:
        return Silence()
    return Bar() if sys.stderr.isatty() else Lines()


class Silence:
    """Shows nothing."""

    def __call__(self, event: RunEvent) -> None:
        """Take it and say nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_error: object) -> None:
        return None


class Lines(Silence):
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
            if now - self._said_indexing >= _LINE_SECONDS:
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
            elif now - self._said >= _LINE_SECONDS:
                self._said = now
                say(f"{self._tally.planned.table}: {self._tally.line()}")


class Bar(Silence):
    """A progress bar with rows, rates, time left and failures."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}"),
            console=err(),
            expand=True,
        )
        self._tally: Tally | None = None
        self._task: TaskID | None = None
        self._index_task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, Planned):
            self._tally = Tally(event)
            self._progress.console.print(Text(planned_line(event)))
            self._task = self._progress.add_task(event.table, total=None, line="")
            self._index_task = None
        elif isinstance(event, Indexing):
            self._show_index(event)
        elif isinstance(event, Waiting):
            self._progress.console.print(Text(waiting_line(event), style="yellow"))
        elif self._tally is not None and self._task is not None:
            self._tally.take(event)
            if isinstance(event, WorkerLost):
                self._progress.console.print(Text(lost_line(event), style="yellow"))
            self._progress.update(
                self._task,
                completed=self._tally.rows,
                total=max(1, self._tally.total_rows()),
                line=self._tally.line(),
            )

    def _show_index(self, event: Indexing) -> None:
        """A bar of its own: that of the rows keeps what the copy came to."""
        if self._index_task is None:
            self._index_task = self._progress.add_task(f"{event.collection}, index", line="")
        self._progress.update(
            self._index_task,
            completed=event.indexed,
            total=max(1, event.points),
            line=f"{event.indexed:,} of {event.points:,} vectors",
        )


def say(text: str) -> None:
    """One plain line, as it is, at once."""
    print(text, file=sys.stderr, flush=True)


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
