"""How an index is asked by whoever reads much of it: how fast, how much at once, how patiently."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.errors import BridgeError
from bridge.pinecone.errors import Missing
from bridge.pinecone.index import Stats
from bridge.pinecone.pace import Closed, Gate, Pace
from bridge.pinecone.records import IdPage
from bridge.pinecone.scan import Endpoint, Fetcher, Pages
from bridge.retry import Retry

LIST_PER_SECOND, FETCH_PER_SECOND = 200.0, 100.0
"""Pinecone's documented limits of a serverless index (facts/pinecone.md)."""
LISTERS = 8
"""Namespaces that are listed at once."""
TOLD_SECONDS = 1.0
"""Shorter waits are not worth a line."""
PATIENCE_SECONDS = 300.0
"""How long a one-shot command waits for a service that is away before it gives up (exit 4)."""
_FIRST_LIMIT = 8
_PAGE_BYTES_IN_FLIGHT = 48 * 1024 * 1024
_DIGIT_BYTES = 20  # of one number in an answer, and what it becomes before it is a float32


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """How fast, and how patiently. `most_requests`: fetches at once; 0: what memory bears."""

    most_requests: int = 0
    list_per_second: float = LIST_PER_SECOND
    fetch_per_second: float = FETCH_PER_SECOND
    patience_seconds: float = PATIENCE_SECONDS


class Reader:
    """The index with its limits: what listers and fetchers ask through. `tell` hears why something is
    waited for, and for how many seconds."""

    def __init__(
        self,
        pages: Pages,
        limits: ReadLimits,
        tell: Callable[[str, float], None],
        *,
        record_bytes: int = 0,
        stats: Callable[[], Stats] | None = None,
    ) -> None:
        self._stop = threading.Event()
        self._tell = tell
        self._lock = threading.Lock()
        most = limits.most_requests or most_requests(record_bytes)
        self.most = most
        self.pages = pages
        self._stats = stats
        self.lists = self._endpoint(limits.list_per_second, LISTERS, limits)
        self.fetches = self._endpoint(limits.fetch_per_second, most, limits)
        self.fetcher = Fetcher(pages, self.fetches)

    def page(self, namespace: str, token: str | None) -> IdPage:
        """A page of ids, tried again while that makes sense. A namespace that was deleted is empty."""
        try:
            return self.lists.call(lambda: self.pages.list_page(namespace, token))
        except Missing:
            if self._stats is None or namespace in self.lists.call(self._stats).counts:
                raise
            return IdPage(ids=(), following=None)

    def close(self) -> None:
        """Let everybody go who waits."""
        self._stop.set()
        self.lists.gate.close()
        self.fetches.gate.close()

    def _endpoint(self, per_second: float, most: int, limits: ReadLimits) -> Endpoint:
        return Endpoint(
            pace=Pace(per_second, sleep=self._sleep),
            gate=Gate(start=_FIRST_LIMIT, most=most),
            retry=Retry(
                patience_seconds=limits.patience_seconds, sleep=self._sleep, on_wait=self._waiting
            ),
        )

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Closed

    def _waiting(self, error: BridgeError, seconds: float) -> None:
        if seconds >= TOLD_SECONDS:
            with self._lock:
                self._tell(error.message, seconds)


def most_requests(record_bytes: int) -> int:
    """Fetches at once that keep what is in flight below 48 MiB: 4 to 32."""
    return max(4, min(32, _PAGE_BYTES_IN_FLIGHT // max(1, 100 * record_bytes)))


def record_bytes(dimensions: Sequence[int]) -> int:
    """What a record of such dense vectors takes while it is read, about."""
    return 2000 + _DIGIT_BYTES * sum(dimensions)
