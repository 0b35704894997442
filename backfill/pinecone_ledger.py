"""How far each namespace is, while its batches come back in any order.

`Ledger` advances over batches that are there without a gap. What always holds: its progress, once the
points of every batch that it was given are durable, may be stored.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from backfill.pinecone_state import NamespaceProgress
from bridge.pinecone.scan import Batch
from bridge.plan import DeadLetter, Point

AHEAD = 128
"""Batches that a lister may be ahead: they bound memory, and what a crash makes us fetch twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    namespace: str
    generation: int
    number: int
    batch: Batch
    present_stay: bool


@dataclass(slots=True, kw_only=True)
class Result:
    work: Work
    points: list[Point] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    made: int = 0
    size_bytes: int = 0
    missing: int = 0
    present: int = 0
    read_units: int = 0
    refused: int = 0


class Ledger:
    """How far one namespace is: `durable` after the next checkpoint, once its points are."""

    def __init__(self, progress: NamespaceProgress) -> None:
        self.progress = progress
        self.generation = 0
        self.dirty = False
        self.ahead = threading.Semaphore(AHEAD)
        self._next = 0
        self._early: dict[int, Result] = {}

    def take(self, result: Result) -> None:
        """Count a batch whose points are with the writer; in any order."""
        if result.work.generation != self.generation:
            self.ahead.release()
            return
        self._early[result.work.number] = result
        while self._next in self._early:
            self._advance(self._early.pop(self._next))
            self._next += 1
            self.ahead.release()

    def begin_again(self, generation: int, *, present_stay: bool) -> None:
        """The listing starts from the first page; batches of before are not counted any more."""
        old = self.progress
        for _ in self._early:
            self.ahead.release()
        self._early.clear()
        self._next = 0
        self.generation = generation
        self.dirty = True
        self.progress = NamespaceProgress(
            label=old.label,
            namespace=old.namespace,
            read_units=old.read_units,
            size_bytes=old.size_bytes,
            present_stay=present_stay,
        )

    def refuse(self, identity: str) -> None:
        """A point of this record was not taken: it is a dead letter."""
        for early in self._early.values():
            if identity in early.work.batch.ids:
                early.refused += 1
                return
        self.dirty = True
        self.progress = replace(
            self.progress,
            written=self.progress.written - 1,
            dead_letters=self.progress.dead_letters + 1,
        )

    def _advance(self, result: Result) -> None:
        now = self.progress
        points = result.made + result.present
        self.dirty = True
        self.progress = replace(
            now,
            records=now.records + points + len(result.letters),
            written=now.written + points - result.refused,
            dead_letters=now.dead_letters + len(result.letters) + result.refused,
            missing=now.missing + result.missing,
            read_units=now.read_units + result.read_units,
            size_bytes=now.size_bytes + result.size_bytes,
        ).at(result.work.batch.cursor)
