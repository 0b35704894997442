"""A daemon whose log is followed, and a watcher that sees every point's version all the time.

From the moment that the daemon says `streaming` no point may go back. A connection that is made again is
replayed from the checkpoint, so older versions may pass until it says so again: what was seen before counts
no more then (`epoch`).
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any

import grpc
from qdrant_client import QdrantClient

from tests.support.command import Running
from tests.support.impatient import IMPATIENT

_PAGE = 500
_SETTLE_SECONDS = 1.0
_NO_LONGER_STREAMING = ("starting", "connected", "waiting", "stopped", "ended")


class Followed(Running):
    """A daemon as a process. `events` counts what it has logged, by name."""

    def __init__(self, watcher: Watcher, *arguments: str, environment: Mapping[str, str]) -> None:
        self._watcher = watcher
        self.events: Counter[str] = Counter()
        self._streams = False
        watcher.unsettle()
        # What it checks every minute it checks all the time here: a minute is long for a soak.
        super().__init__(*arguments, environment=environment, prefix=IMPATIENT)

    def _read(self, stream: IO[str], lines: list[str], last: bool) -> None:
        for line in stream:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
            if last and line.startswith("{"):
                self._hear(str(json.loads(line)["event"]))
        with self._changed:
            self._ended = self._ended or last
            self._changed.notify_all()

    def await_streaming(self, timeout_seconds: float) -> None:
        """Return while it streams, or after that time."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._streams, timeout_seconds)

    def _hear(self, event: str) -> None:
        self.events[event] += 1
        if event == "streaming":
            self._watcher.settle()
        elif event in _NO_LONGER_STREAMING:
            self._watcher.unsettle()
        else:
            return
        with self._changed:
            self._streams = event == "streaming"
            self._changed.notify_all()

    def kill(self) -> None:
        self._watcher.unsettle()
        super().kill()


class Watcher:
    """Scrolls the collections in a thread of its own; `problems` tells of points that went back."""

    def __init__(self, client: QdrantClient, collections: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self.looks = 0
        self._client = client
        self._collections = collections
        self._lock = threading.Lock()
        self._epoch = 0
        self._streaming = False
        self._seen: dict[tuple[str, Any], int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(60)

    def settle(self) -> None:
        """The daemon streams: from here on nothing goes back."""
        with self._lock:
            self._epoch += 1
            self._streaming = True
            self._seen = {}

    def unsettle(self) -> None:
        """What was applied may be applied again."""
        with self._lock:
            self._epoch += 1
            self._streaming = False

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for table, collection in self._collections.items():
                    self._look(table, collection)
            except grpc.RpcError:
                self._stop.wait(0.2)  # the server is away, which is part of it

    def _look(self, table: str, collection: str) -> None:
        following: Any = None
        while not self._stop.is_set():
            with self._lock:
                epoch, streaming = self._epoch, self._streaming
            if not streaming:
                self._stop.wait(0.05)
                return
            points, following = self._client.scroll(
                collection, limit=_PAGE, offset=following, with_payload=["version"]
            )
            versions = {p.id: p.payload["version"] for p in points if p.payload}
            self._compare(table, epoch, versions)
            if following is None:
                self.looks += 1
                return

    def _compare(self, table: str, epoch: int, versions: Mapping[Any, int]) -> None:
        with self._lock:
            if epoch != self._epoch:
                return
            fell = {
                key: (self._seen[table, key], version)
                for key, version in versions.items()
                if version < self._seen.get((table, key), 0)
            }
            self._seen.update({(table, key): version for key, version in versions.items()})
        if fell and not self._stop.wait(_SETTLE_SECONDS):
            # Unless the log, which comes a little later, says that it began anew.
            with self._lock:
                if epoch == self._epoch:
                    self.problems += [
                        f"{table} {key} went back from version {before} to {after}"
                        for key, (before, after) in fell.items()
                    ]
