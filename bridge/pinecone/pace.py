"""How fast Pinecone is asked: so many requests a second, and so many at once.

Two bounds for each endpoint. `Pace` keeps to the documented rate (facts/pinecone.md: list 200/s, fetch
100/s). `Gate` bounds what is in flight and learns from the answers: one more for every round that went
well, half as many after a 429 (additive increase, multiplicative decrease), and nobody passes before
the `retry-after` is over. Of several 429s of one round only the first halves.

Waiting ends at once when the run does (`close`). Clock and sleep are injected.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bridge.errors import RateLimited

_CATCH_UP_SECONDS = 0.05


class Closed(Exception):
    """The run is over; whoever waits goes home."""


class Pace:
    """At most `per_second` calls of `wait` return a second; 0: no bound."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval = 1.0 / per_second if per_second > 0 else 0.0
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when it is this caller's turn."""
        if not self._interval:
            return
        with self._lock:
            now = self._clock()
            # A thread that woke late may be followed at once, or the rate would never be reached.
            turn = max(self._next, now - _CATCH_UP_SECONDS)
            self._next = turn + self._interval
        if turn > now:
            self._sleep(turn - now)


class Gate:
    """At most `limit` inside at once; `limit` moves between 1 and `most`."""

    def __init__(
        self, *, start: int, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = float(min(start, most))
        self._most = most
        self._clock = clock
        self._inside = 0
        self._round = 0
        self._held_until = 0.0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many may be inside now."""
        return max(1, int(self._limit))

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A request's time in flight; what it raises is learned from."""
        entered = self._enter()
        try:
            yield
        except RateLimited as limited:
            self._slow_down(entered, limited.retry_after_seconds)
            raise
        except BaseException:
            self._leave()
            raise
        else:
            self._speed_up()

    def close(self) -> None:
        """Let everybody who waits go, with `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _enter(self) -> int:
        with self._changed:
            while True:
                if self._closed:
                    raise Closed
                held = self._held_until - self._clock()
                if held <= 0 and self._inside < self.limit:
                    break
                self._changed.wait(held if held > 0 else None)
            self._inside += 1
            return self._round

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify()

    def _speed_up(self) -> None:
        with self._changed:
            self._limit = min(float(self._most), self._limit + 1.0 / self._limit)
            self._inside -= 1
            self._changed.notify(2)

    def _slow_down(self, entered: int, seconds: float | None) -> None:
        with self._changed:
            if entered == self._round:
                self._round += 1
                self._limit = max(1.0, self._limit / 2)
            if seconds is not None:
                self._held_until = max(self._held_until, self._clock() + seconds)
            self._inside -= 1
            self._changed.notify_all()
