"""The progress of a comparison: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from bridge.workers import WorkerLost
from cli.output import counted, err
from cli.progress import duration, say
from verify.messages import ChunkCompared, Event, Planned, Step, Waiting
from verify.messages import Progress as ChunkProgress

_RATE_WINDOW_SECONDS = 30.0
_LINE_SECONDS = 5.0


class Tally:
    """Rows of one table as events tell them. Pure, but for the clock that is given."""

    def __init__(self, planned: Planned, clock: Callable[[], float] = time.monotonic) -> None:
        self.planned = planned
        self.rows = planned.rows_done
        self.suspects = 0
        self._clock = clock
        self._open: dict[int, int] = {}
        self._history: deque[tuple[float, int]] = deque([(clock(), self.rows)])

    def take(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, ChunkProgress):
            self._add(event.chunk, event.rows)
        elif isinstance(event, ChunkCompared):
            self._add(event.chunk, event.rows)
            self._open.pop(event.chunk, None)
            self.suspects += len(event.suspects)
        elif isinstance(event, WorkerLost):
            for chunk in event.chunks:
                self._add(chunk, 0)
        now = self._clock()
        self._history.append((now, self.rows))
        while now - self._history[0][0] > _RATE_WINDOW_SECONDS and len(self._history) > 2:
            self._history.popleft()

    def _add(self, chunk: int, rows: int) -> None:
        self.rows += rows - self._open.get(chunk, 0)
        self._open[chunk] = rows

    def line(self) -> str:
        """`12,800 of 60,000 rows, 15,100 rows/s, 5 s left, 3 to look at again`."""
        (then, before), (now, rows) = self._history[0], self._history[-1]
        rate = max(0.0, rows - before) / max(now - then, 1e-9)
        total = max(self.planned.rows, self.rows)
        left = f"{duration((total - self.rows) / rate)} left" if rate > 0 else "time left unknown"
        return (
            f"{self.rows:,} of {total:,} rows, {rate:,.0f} rows/s, {left}, "
            f"{self.suspects:,} looked at again"
        )


class Display(Protocol):
    """Shows a run's events; a context manager around the run."""

    def __call__(self, event: Event) -> None:
        """Show one event."""

    def __enter__(self) -> Self: ...

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

    def __call__(self, event: Event) -> None:
        """Take it and say nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None


class Lines(Silence):
    """Plain lines to standard error, one every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tally: Tally | None = None
        self._said = clock()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._tally = Tally(event, self._clock)
            say(planned_line(event))
            return
        if self._tally is not None:
            self._tally.take(event)
        line = line_of(event, self._tally)
        now = self._clock()
        if line is not None and (
            isinstance(event, WorkerLost) or now - self._said >= _LINE_SECONDS
        ):
            self._said = now
            say(line)


class Bar(Silence):
    """A progress bar with rows, rate and time left."""

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

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._tally = Tally(event)
            self._progress.console.print(Text(planned_line(event)))
            self._task = self._progress.add_task(event.table, total=None, line="")
            return
        if self._tally is None or self._task is None:
            return
        self._tally.take(event)
        if isinstance(event, Waiting | WorkerLost):
            self._progress.console.print(Text(line_of(event, None) or "", style="yellow"))
            return
        self._progress.update(
            self._task,
            completed=self._tally.rows,
            total=max(1, self._tally.planned.rows, self._tally.rows),
            line=line_of(event, self._tally) or "",
        )


def planned_line(event: Planned) -> str:
    """What is about to be compared."""
    going_on = f", {event.rows_done:,} rows compared before" if event.rows_done else ""
    return (
        f"{event.table} beside {event.collection}: {event.chunks_left} of {event.chunks} chunks to "
        f"compare, {counted(event.workers, 'worker')}{going_on}"
    )


def line_of(event: Event, tally: Tally | None) -> str | None:
    """One line for an event; None if it says nothing by itself."""
    if isinstance(event, Waiting):
        return f"waiting {event.seconds:.1f} s: {event.reason}"
    if isinstance(event, WorkerLost):
        return f"worker {event.pid} died; what it had is compared again"
    if isinstance(event, Step):
        if event.what == "points":
            return f"{event.table}: {event.done:,} points looked through"
        return f"{event.table}: {counted(event.of, 'row')} looked at again"
    return None if tally is None else f"{tally.planned.table}: {tally.line()}"
