"""What a pipeline remembers: plans, finished chunks, dead letters, who owns a collection.

The records lie in the target (`qdrant/state.py`), so that a process needs no disk of its own and a
run goes on from another machine. `StateStore` is the protocol; the records below are what it holds.

What a crash leaves: a record is written whole or not at all. A plan is written once (`put_new`): of
two shards that start together, both go on with the plan that was stored first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from bridge.plan import DeadLetter

Kind = Literal[
    "owner",
    "indexing",
    "plan",
    "chunk",
    "index",
    "namespace",
    "dead_letter",
    "stream",
    "lease",
    "request",
]
Record = Mapping[str, Any]


class StateStore(Protocol):
    """Records of one pipeline by kind and name."""

    @property
    def pipeline(self) -> str:
        """The pipeline whose records these are."""

    def get(self, kind: Kind, name: str) -> Record | None:
        """The record, or None."""

    def put(self, kind: Kind, name: str, record: Record) -> None:
        """Store or replace it; durable on return."""

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        """Store it unless there is one; the record that is stored afterwards."""

    def records(self, kind: Kind) -> Iterator[tuple[str, Record]]:
        """All records of a kind, in no order."""

    def remove(self, kind: Kind, names: Iterable[str]) -> None:
        """Remove records; missing ones are no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a table's rows come from: enough to notice that it is not the same place any more."""

    system_id: str
    database: str
    table: str
    table_oid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """How a table is cut into chunks. `bounds` are the upper bounds of all chunks but the last.

    `fingerprint` sums up what decides where a row goes (key, ids, columns, conditions): a plan made
    under another one must not be gone on with. `points_before` and `rows_before` are what the
    collection and the table held when the plan was made; None if that was too much to count.
    `writes_before`: how many writes the table had seen by then, None where nobody counts them.
    """

    source: Source
    collection: str
    key: tuple[str, ...]
    bounds: tuple[tuple[str, ...], ...]
    fingerprint: str
    points_before: int
    rows_before: int | None
    created_at: str
    writes_before: int | None = None

    @property
    def chunks(self) -> int:
        """Their number, at least 1."""
        return len(self.bounds) + 1

    def to_record(self) -> dict[str, Any]:
        """As it is stored."""
        return {**asdict(self), "bounds": [list(bound) for bound in self.bounds]}

    @classmethod
    def from_record(cls, record: Record) -> TablePlan:
        """The inverse of `to_record`."""
        return cls(
            source=Source(**record["source"]),
            collection=record["collection"],
            key=tuple(record["key"]),
            bounds=tuple(tuple(bound) for bound in record["bounds"]),
            fingerprint=record["fingerprint"],
            points_before=record["points_before"],
            rows_before=record["rows_before"],
            created_at=record["created_at"],
            writes_before=record.get("writes_before"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDone:
    """A chunk whose every row is durable in the target or a dead letter.

    `partitions`: rows read of each leaf partition, by its OID as text.
    """

    table: str
    number: int
    rows_read: int
    rows_written: int
    dead_letters: int
    size_bytes: int
    seconds: float = 0.0
    partitions: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{self.table}/{self.number}"

    @classmethod
    def from_record(cls, record: Record) -> ChunkDone:
        """The inverse of `asdict`."""
        return cls(**record)


def letter_name(letter: DeadLetter) -> str:
    """One record for a row, however often it fails."""
    return f"{letter.table}/{letter.key}"


def letter_from_record(record: Record) -> DeadLetter:
    """The inverse of `asdict`; `at` is when it was stored."""
    return DeadLetter(
        table=record["table"],
        key=record["key"],
        reason=record["reason"],
        position=record["position"],
    )
