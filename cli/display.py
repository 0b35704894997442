"""Showing the events of a run: what the progress of a copy and of a comparison have in common.

Rates are those of the last half minute, so that an outage shows and the estimate recovers from it.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cli.output import err

LINE_SECONDS = 5.0
"""Where nobody watches, a line of progress is said so often."""

_RATE_SECONDS = 30.0
_WIDE = 110

Shown = TypeVar("Shown", contravariant=True)


class Display(Protocol[Shown]):
    """Shows a run's events; a context manager around the run."""

    def __call__(self, event: Shown) -> None:
        """Show one event."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Plain:
    """What a display without anything to open begins with."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None


class Silence(Plain):
    """Shows nothing."""

    def __call__(self, event: object) -> None:
        """Take it and say nothing."""


def watched() -> bool:
    """Whether somebody sees a bar."""
    return sys.stderr.isatty()


class Bars:
    """What a display with progress bars begins with: `progress`, shown in its context."""

    def __init__(self, console: Console | None = None) -> None:
        shown = console or err()
        # Where there is no room for both, what is said counts more than what is drawn.
        bar = [BarColumn(bar_width=None)] if shown.width >= _WIDE else []
        self.progress = Progress(
            TextColumn("{task.description}"),
            *bar,
            TextColumn("{task.fields[line]}"),
            console=shown,
            expand=True,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.progress.stop()


class Rates:
    """How fast counts grow, lately. Pure, but for the clock that is given."""

    def __init__(self, *counts: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._history: deque[tuple[float, tuple[int, ...]]] = deque()
        self.note(*counts)

    def note(self, *counts: int) -> None:
        """What they are now."""
        now = self._clock()
        self._history.append((now, counts))
        while now - self._history[0][0] > _RATE_SECONDS and len(self._history) > 2:
            self._history.popleft()

    def a_second(self) -> tuple[float, ...]:
        """Their growth a second; never below 0, since a chunk may be begun again."""
        (then, before), (now, after) = self._history[0], self._history[-1]
        seconds = max(now - then, 1e-9)
        return tuple(max(0.0, (b - a) / seconds) for a, b in zip(before, after, strict=True))


def time_left(missing: int, rate: float) -> str:
    """`5 s left`, or that nobody knows."""
    return f"{duration(missing / rate)} left" if rate > 0 else "time left unknown"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def say(text: str) -> None:
    """One plain line, as it is, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
