"""How far a Pinecone backfill is: one record a namespace, replaced at each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bridge.pinecone.scan import Cursor
from bridge.state import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceProgress:
    """How far a namespace is; every record before the cursor is durable, or a dead letter, or gone.

    `records` were found, `written` of them are points and `dead_letters` are set aside; `missing` were
    listed and gone when they were fetched. `present_stay`: the listing began again after a token had
    expired, and points that exist are not fetched again. `looked_again`: it has had its second pass.
    """

    label: str
    namespace: str
    token: str | None = None
    after: str | None = None
    done: bool = False
    records: int = 0
    written: int = 0
    dead_letters: int = 0
    missing: int = 0
    read_units: int = 0
    size_bytes: int = 0
    present_stay: bool = False
    looked_again: bool = False

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{self.label}/{self.namespace}"

    @property
    def cursor(self) -> Cursor:
        """Where the listing goes on."""
        return Cursor(token=self.token, after=self.after, done=self.done)

    def at(self, cursor: Cursor) -> NamespaceProgress:
        """With this cursor."""
        return replace(self, token=cursor.token, after=cursor.after, done=cursor.done)

    @classmethod
    def from_record(cls, record: Record) -> NamespaceProgress:
        """The inverse of `asdict`."""
        return cls(**record)
