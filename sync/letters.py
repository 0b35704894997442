"""The dead letters of a stream: stored as they come, forgotten when their row has been written or is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from bridge.errors import StopError
from bridge.plan import DeadLetter
from bridge.retry import Retry
from bridge.state import StateStore, letter_name


class Letters:
    """Those of one pipeline, above `limit` of which the stream stops."""

    def __init__(
        self,
        store: StateStore,
        retry: Retry,
        *,
        limit: int,
        tell: Callable[..., None],
    ) -> None:
        self._store = store
        self._retry = retry
        self._limit = limit
        self._tell = tell
        self._stale = threading.Event()
        self._names = self._load()

    def _load(self) -> set[str]:
        return {name for name, _record in self._store.records("dead_letter")}

    def look_again(self) -> None:
        """Others may have set rows aside that are ours from now on; may be called from any thread."""
        self._stale.set()

    def refresh(self) -> None:
        """Load the names again, if they were to be looked at again."""
        if self._stale.is_set():
            self._stale.clear()
            try:
                self._names = self._retry.call(self._load)
            except BaseException:
                self._stale.set()
                raise

    def __len__(self) -> int:
        return len(self._names)

    def set_aside(self, label: str) -> set[str]:
        """The keys of a table's rows that are dead letters."""
        prefix = f"{label}/"
        return {name.removeprefix(prefix) for name in self._names if name.startswith(prefix)}

    def settle(self, label: str, letters: Iterable[DeadLetter], settled: Iterable[str]) -> None:
        """Store new ones; forget those whose row has been written since, by key. StopError
        `DEAD_LETTERS` above the limit."""
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for letter in letters:
            name = letter_name(letter)
            record = {**asdict(letter), "at": at}
            self._retry.call(partial(self._store.put, "dead_letter", name, record))
            self._names.add(name)
            self._tell("dead_letter", table=letter.table, reason=letter.reason)
        if self._names:
            self._forget({f"{label}/{key}" for key in settled})
        if len(self._names) > self._limit:
            raise StopError(
                f"more than {self._limit} rows are set aside",
                code="DEAD_LETTERS",
                hint="see why with qdrant-bridge dead-letters list",
            )

    def forget_rows(self, label: str) -> None:
        """The table was emptied."""
        self._forget({f"{label}/{key}" for key in self.set_aside(label)})

    def _forget(self, names: set[str]) -> None:
        superseded = sorted(names & self._names)
        if superseded:
            self._retry.call(lambda: self._store.remove("dead_letter", superseded))
            self._names -= set(superseded)
