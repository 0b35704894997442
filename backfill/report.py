"""What a backfill says at its end: counts from both sides, and whether they agree. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bridge.state import ChunkDone

REPORT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """One table's outcome.

    `rows_read`, `rows_written` and `dead_letters` sum up every chunk, of earlier runs too; `copied_now`
    is what this run read. Counts of source and target are exact and None while other shards are
    at work. `problems` make the command fail, `notes` do not. Times in seconds.
    """

    table: str
    collection: str
    chunks: int
    chunks_done: int
    rows_read: int
    rows_written: int
    dead_letters: int
    size_bytes: int
    copied_now: int
    copy_seconds: float
    index_seconds: float | None = None
    source_count: int | None = None
    target_count: int | None = None
    partitions: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every chunk of the table is done, by whomever."""
        return self.chunks_done == self.chunks

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**asdict(self), "complete": self.complete}


def to_json(pipeline: str, reports: Iterable[TableReport]) -> dict[str, Any]:
    """The whole report of a backfill."""
    tables = {report.table: report.to_json() for report in reports}
    return {
        "version": REPORT_VERSION,
        "pipeline": pipeline,
        "ok": not any(table["problems"] for table in tables.values()),
        "tables": tables,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Exact counts at the end.

    `source_before`: the source's when the plan was made, None where that was not counted.
    `found_points`: what the collection held before it was first filled. `letters_settled`: dead
    letters of the chunks that have been retried or dropped since; the former are points now.
    `written_to`: somebody has written to the table since the plan was made, or may have.
    """

    source: int
    target: int
    partitions: Mapping[str, int]
    found_points: int
    source_before: int | None = None
    letters_settled: int = 0
    written_to: bool = False


def sum_up(chunks: Iterable[ChunkDone]) -> tuple[int, int, int, int]:
    """(rows read, rows written, dead letters, bytes) of all chunks."""
    read = written = letters = size = 0
    for chunk in chunks:
        read += chunk.rows_read
        written += chunk.rows_written
        letters += chunk.dead_letters
        size += chunk.size_bytes
    return read, written, letters, size


def judge(
    read: int, written: int, letters: int, read_by_partition: Mapping[str, int], counts: Counts
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(problems, notes) of a table whose chunks are all done.

    A table that is written to while it is copied has other counts than were read, be it of one
    partition alone: that is reported and is no failure (the sync is there for it). Where it stood
    still, each side must add up; and nobody takes points away, so the target never holds fewer
    than were written.
    """
    problems: list[str] = []
    notes: list[str] = []
    if read != written + letters:
        problems.append(f"{read} rows were read, but {written} written and {letters} set aside")
    if letters > counts.letters_settled:
        left = letters - counts.letters_settled
        notes.append(f"{left} rows were set aside: qdrant-bridge dead-letters list")
    if counts.target < written:
        problems.append(f"{written} points were written, but the collection holds {counts.target}")
    stood_still = counts.source == counts.source_before and not counts.written_to
    if counts.source != read and stood_still:
        problems.append(f"{read} rows were read of a table that had {counts.source} all the time")
    elif counts.source != read:
        notes.append(_changed(f"{read} rows were read, it has {counts.source} now"))
        return tuple(problems), tuple(notes)
    partitions = [
        f"partition {name} has {rows} rows, of which {read_by_partition.get(name, 0)} were read"
        for name, rows in counts.partitions.items()
        if read_by_partition.get(name, 0) != rows
    ]
    if partitions and counts.written_to:
        notes.append(_changed(", ".join(partitions)))
    else:
        problems += partitions
    if counts.found_points:
        notes.append(
            f"the collection held {counts.found_points} points before it was filled, and holds "
            f"{counts.target} now; only verify can tell these apart"
        )
    elif counts.target > written + counts.letters_settled and counts.written_to:
        notes.append(_changed(f"{written} points were written, {counts.target} are there"))
    elif counts.target > written + counts.letters_settled:
        problems.append(
            f"{written} points were written, but the collection holds {counts.target}: rows deleted "
            "since an earlier run, or points of somebody else"
        )
    return tuple(problems), tuple(notes)


def _changed(how: str) -> str:
    return f"the table has changed since its copy began: {how}; a sync would follow such changes"
