"""The progress of a comparison: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.progress import TaskID
from rich.text import Text

from bridge.workers import WorkerLost
from cli.display import LINE_SECONDS, Bars, Display, Plain, Rates, Silence, say, time_left, watched
from cli.output import counted
from verify.messages import ChunkCompared, Event, Planned, Step, Waiting
from verify.messages import Progress as ChunkProgress


class Tally:
    """Rows of one table as events tell them. Pure, but for the clock that is given."""

    def __init__(self, planned: Planned, clock: Callable[[], float] = time.monotonic) -> None:
        self.planned = planned
        self.rows = planned.rows_done
        self.suspects = 0
        self._open: dict[int, int] = {}
        self._rates = Rates(self.rows, clock=clock)

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
        self._rates.note(self.rows)

    def _add(self, chunk: int, rows: int) -> None:
        self.rows += rows - self._open.get(chunk, 0)
        self._open[chunk] = rows

    def line(self) -> str:
        """`12,800 of 60,000 rows, 15,100 rows/s, 5 s left, 3 to look at again`."""
        (rate,) = self._rates.a_second()
        total = max(self.planned.rows, self.rows)
        return (
            f"{self.rows:,} of {total:,} rows, {rate:,.0f} rows/s, {time_left(total - self.rows, rate)}, "
            f"{self.suspects:,} looked at again"
        )


def display(*, quiet: bool) -> Display[Event]:
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

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._tally = Tally(event, self._clock)
            say(planned_line(event))
            return
        if self._tally is not None:
            self._tally.take(event)
        line = line_of(event, self._tally)
        now = self._clock()
        if line is not None and (isinstance(event, WorkerLost) or now - self._said >= LINE_SECONDS):
            self._said = now
            say(line)


class Bar(Bars):
    """A progress bar with rows, rate and time left."""

    def __init__(self) -> None:
        super().__init__()
        self._tally: Tally | None = None
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._tally = Tally(event)
            self.progress.console.print(Text(planned_line(event)))
            self._task = self.progress.add_task(event.table, total=None, line="")
            return
        if self._tally is None or self._task is None:
            return
        self._tally.take(event)
        if isinstance(event, Waiting | WorkerLost):
            self.progress.console.print(Text(line_of(event, None) or "", style="yellow"))
            return
        self.progress.update(
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
