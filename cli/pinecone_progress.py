"""The progress of a Pinecone backfill, through the display of all backfills.

A namespace takes the place of a chunk: its records count while it is read, and it is told when it is
done, with what the index says that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backfill.messages import ChunkCopied, Progress
from backfill.pgvector import Planned
from backfill.pinecone import IndexEvent, LooksAgain, PlannedIndex
from backfill.pinecone_copy import Advanced
from bridge.pinecone.index import shown
from cli.display import Display
from cli.output import counted
from cli.progress import RunEvent


class IndexDisplay:
    """Tells the events of an index to the display of a backfill; `say` gets a line a namespace."""

    def __init__(self, display: Display[RunEvent], say: Callable[[str], None]) -> None:
        self._display = display
        self._say = say
        self._numbers: dict[str, int] = {}
        self._begun: Mapping[str, tuple[int, int]] = {}
        self._done: set[str] = set()
        self._label = ""

    def __call__(self, event: IndexEvent) -> None:
        if isinstance(event, PlannedIndex):
            self._plan(event)
        elif isinstance(event, Advanced):
            self._advance(event)
        elif isinstance(event, LooksAgain):
            self._say(f"{self._label}: namespace {shown(event.namespace)} again: {event.why}")
        else:
            self._display(event)

    def _plan(self, event: PlannedIndex) -> None:
        self._label = event.label
        self._numbers.clear()
        self._begun = dict(event.begun)
        self._done.clear()
        where = event.collections[0]
        if len(event.collections) > 1:
            where = counted(len(event.collections), "collection")
        self._display(
            Planned(
                table=event.label,
                collection=where,
                chunks=event.namespaces,
                chunks_left=event.namespaces_left,
                rows_done=event.records_done,
                bytes_done=event.bytes_done,
                estimated_rows=event.records,
                workers=event.requests,
                part="namespace",
                worker="request",
                row="record",
            )
        )

    def _advance(self, event: Advanced) -> None:
        now = event.progress
        name = now.namespace
        number = self._numbers.setdefault(name, len(self._numbers))
        # What earlier runs have read is in the plan's total already.
        records, size = self._begun.get(name, (0, 0))
        rows, size = now.records - records, now.size_bytes - size
        self._display(Progress(chunk=number, rows=rows, size_bytes=size))
        if now.done and name not in self._done:
            self._done.add(name)
            self._display(
                ChunkCopied(
                    chunk=number,
                    rows_read=rows,
                    rows_written=now.written,
                    size_bytes=size,
                    seconds=0.0,
                    letters=(),
                    partitions={},
                )
            )
            self._say(
                f"{self._label}: namespace {shown(name)}: {now.records:,} of {event.of:,} records, "
                f"{counted(now.read_units, 'read unit')}"
            )
