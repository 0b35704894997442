"""Threads of a Pinecone backfill, and the queues between them: bounded, and closed all at once.

Python's own queues cannot be closed before 3.13, and a run that has failed must let everybody go.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from bridge.pinecone.pace import Closed

T = TypeVar("T")


class Line(Generic[T]):
    """A bounded queue. After `close` every waiting and every later call raises `Closed`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Append it, once there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def take(self, timeout_seconds: float | None = None) -> T | None:
        """The oldest item; None if none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items), timeout_seconds)
            if self._closed:
                raise Closed
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Let everybody go."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


class Crew:
    """Threads that end when the run does; what one of them fails with is handed on."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._threads: list[threading.Thread] = []

    def start(self, name: str, count: int, work: Callable[[], None]) -> None:
        """So many threads that do this work."""
        for number in range(count):
            thread = threading.Thread(
                target=self._run, args=(work,), name=f"{name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def join(self, timeout_seconds: float) -> None:
        """Wait for them; one that hangs in a request is left behind, and does nothing afterwards."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Closed:
            return
        except Exception as error:
            self._failed(error)
