"""What a pipeline remembers of its stream: where it reads from, how far it has come, what it did.

One record, written whole: when the slot is made (before the first row is read), and at every
checkpoint. Of the `facts` only the timeline changes afterwards, when a promoted standby is followed; a
source that does not fit them any more is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bridge.errors import StopError
from bridge.positions import Lsn
from bridge.state import Record

Phase = Literal["backfill", "catching_up", "streaming", "stopped"]

RECORD_NAME = "stream"

_NOWHERE = Lsn(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCounts:
    """What the stream did to a table's points since it began."""

    upserts: int = 0
    patches: int = 0
    deletes: int = 0

    def plus(self, *, upserts: int, patches: int, deletes: int) -> TableCounts:
        """The sums."""
        return TableCounts(
            upserts=self.upserts + upserts,
            patches=self.patches + patches,
            deletes=self.deletes + deletes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StopNote:
    """Why the daemon stopped: shown by `status` until it starts again."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The record. `facts` is `slots.SlotFacts.to_record()`; `checkpoint` never exceeds what is durable.

    `written` is stored before what it tells of is written: a log that ends before it may lack changes
    which are in Qdrant already. It tells a promoted standby that is followed from one that is not.
    `commit_time_microseconds`: of the last transaction before the checkpoint, or when the server said
    that nothing of ours came before it; since 1970, 0 if unknown. Qdrant shows this moment or a later one.
    """

    facts: Mapping[str, Any]
    checkpoint: Lsn
    phase: Phase
    tables: Mapping[str, TableCounts] = field(default_factory=dict)
    commit_time_microseconds: int = 0
    stop: StopNote | None = None
    written: Lsn = _NOWHERE

    def to_record(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "facts": dict(self.facts),
            "checkpoint": str(self.checkpoint),
            "phase": self.phase,
            "tables": {
                name: {"upserts": c.upserts, "patches": c.patches, "deletes": c.deletes}
                for name, c in self.tables.items()
            },
            "commit_time_microseconds": self.commit_time_microseconds,
            "stop": (
                None
                if self.stop is None
                else {"code": self.stop.code, "message": self.stop.message, "hint": self.stop.hint}
            ),
            "written": str(self.written),
        }

    @classmethod
    def from_record(cls, record: Record) -> StreamState:
        """The inverse of `to_record`."""
        stop = record["stop"]
        return cls(
            facts=record["facts"],
            checkpoint=Lsn.parse(record["checkpoint"]),
            phase=record["phase"],
            tables={name: TableCounts(**counts) for name, counts in record["tables"].items()},
            commit_time_microseconds=record["commit_time_microseconds"],
            stop=None if stop is None else StopNote(**stop),
            written=Lsn.parse(record.get("written", "0/0")),
        )

    def stopped_by(self, error: StopError) -> StreamState:
        """The same with why nobody goes on."""
        note = StopNote(code=error.code, message=error.message, hint=error.hint)
        return replace(self, phase="stopped", stop=note)

    @property
    def reached(self) -> Lsn:
        """A log that ends before it is not the one that Qdrant was filled from."""
        return max(self.checkpoint, self.written)

    def at(self, checkpoint: Lsn, **changes: Any) -> StreamState:
        """The same with a later checkpoint. ValueError if it goes back."""
        if checkpoint < self.checkpoint:
            raise ValueError("a checkpoint does not go back")
        return replace(self, checkpoint=checkpoint, **changes)
