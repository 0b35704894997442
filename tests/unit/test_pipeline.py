"""The order of a checkpoint: flushed, then the dead letters, then the chunk; and what a crash leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bridge.errors import Unreachable
from bridge.pipeline import checkpoint_chunk
from bridge.plan import DeadLetter
from bridge.state import ChunkDone, Kind, Record, letter_name

NOW = "2026-01-02T03:04:05.000006Z"
LETTERS = [
    DeadLetter(table="public.docs", key=key, reason="no", position="chunk 0") for key in ("1", "2")
]
DONE = ChunkDone(
    table="public.docs", number=0, rows_read=5, rows_written=3, dead_letters=2, size_bytes=9
)


@dataclass(slots=True)
class FakeStore:
    """Records in memory, and the order of what happened. `fail_at`: the step that fails."""

    fail_at: int | None = None
    events: list[str] = field(default_factory=list)
    kept: dict[tuple[str, str], Record] = field(default_factory=dict)
    pipeline: str = "shop"

    def _step(self, event: str) -> None:
        if len(self.events) == self.fail_at:
            raise Unreachable("gone")
        self.events.append(event)

    def flush(self) -> None:
        self._step("flush")

    def put(self, kind: Kind, name: str, record: Record) -> None:
        self._step(f"put {kind} {name}")
        self.kept[kind, name] = dict(record)

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        return self.kept.setdefault((kind, name), record)

    def get(self, kind: Kind, name: str) -> Record | None:
        return self.kept.get((kind, name))

    def records(self, kind: Kind) -> Iterator[tuple[str, Record]]:
        return ((name, record) for (stored, name), record in self.kept.items() if stored == kind)

    def remove(self, kind: Kind, names: Iterable[str]) -> None:
        for name in names:
            self.kept.pop((kind, name), None)


def checkpoint(store: FakeStore, letters: list[DeadLetter] | None = None) -> None:
    checkpoint_chunk(store, store.flush, DONE, LETTERS if letters is None else letters, now=NOW)


def test_the_chunk_is_recorded_last() -> None:
    store = FakeStore()
    checkpoint(store)
    assert store.events == [
        "flush",
        "put dead_letter public.docs/1",
        "put dead_letter public.docs/2",
        "put chunk public.docs/0",
    ]


def test_without_dead_letters_the_chunk_follows_the_flush() -> None:
    store = FakeStore()
    checkpoint(store, [])
    assert store.events == ["flush", "put chunk public.docs/0"]


def test_the_records_say_what_happened_and_when() -> None:
    store = FakeStore()
    checkpoint(store)
    stored: Any = store.get("chunk", DONE.name)
    assert ChunkDone.from_record(stored) == DONE
    letter = store.get("dead_letter", letter_name(LETTERS[0]))
    assert letter == {
        "table": "public.docs",
        "key": "1",
        "reason": "no",
        "position": "chunk 0",
        "at": NOW,
    }


@pytest.mark.parametrize("step", range(4))
def test_whatever_fails_the_chunk_is_not_done_and_a_repetition_ends_as_if_nothing_had(
    step: int,
) -> None:
    store = FakeStore(fail_at=step)
    with pytest.raises(Unreachable):
        checkpoint(store)
    assert store.get("chunk", DONE.name) is None
    store.fail_at = None
    checkpoint(store)
    whole = FakeStore()
    checkpoint(whole)
    assert store.kept == whole.kept
