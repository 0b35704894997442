"""What a source tells: rows read, rows changed, transactions ended. One flow for all of them.

A row's columns are raw fields, in the order of the relation that announced them: `bytes` in the
source's own format, None for NULL, `UNCHANGED` for a TOASTed value that an UPDATE did not touch
(PostgreSQL documentation, section 54.9, the `u` kind of TupleData). A column that was not published
is absent from the relation. The three are never confused.

A stream is `Begin`, changes, `Commit`, again and again. Every transaction is told whole and after it
committed; the relation that a change refers to was told before it, in the same or an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from bridge.positions import Lsn
from bridge.schema import quote_identifier


class _Unchanged(Enum):
    UNCHANGED = "unchanged"


UNCHANGED: Final = _Unchanged.UNCHANGED
"""The value exists but was not sent: the point keeps what it has."""

Field = bytes | None
StreamField = bytes | None | Literal[_Unchanged.UNCHANGED]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Rows read from a table in bulk: one event for a batch, since a row of its own costs too much.

    `position` says where they were read, for dead letters: `chunk 3 of public.docs`.
    """

    table: str
    rows: Sequence[Sequence[Field]]
    position: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """The columns that the following changes of this table carry. Names and types only: attribute
    numbers are the catalog's to tell. `type_modifiers` are atttypmod (a vector's dimension), -1 if
    none; `key` tells the columns of the replica identity."""

    oid: int
    schema: str
    name: str
    replica_identity: Literal["d", "n", "f", "i"]
    columns: tuple[str, ...]
    type_oids: tuple[int, ...]
    type_modifiers: tuple[int, ...]
    key: tuple[bool, ...]

    @property
    def label(self) -> str:
        """The name as a user writes it."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"


@dataclass(frozen=True, slots=True)
class TupleData:
    """A row in a stream, its columns in the relation's order.

    `kinds` has one byte a column, as on the wire: `n` NULL, `u` unchanged, `t` text, `b` the type's
    binary form. Rows of one relation mostly have the same kinds, so that whoever decodes them may
    remember how by `kinds`.
    """

    values: tuple[StreamField, ...]
    kinds: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A transaction that has committed begins. `xid` is its 32-bit id, without the epoch;
    `final_lsn` that of its commit record; the time in microseconds since 1970-01-01 UTC."""

    xid: int
    final_lsn: Lsn
    commit_time_microseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """A new row."""

    relation: Relation
    row: TupleData


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A changed row. `old` is the old key (`old_is_key`: the other columns are NULL, whatever they
    were) or the whole old row; None if neither came."""

    relation: Relation
    row: TupleData
    old: TupleData | None
    old_is_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """A row that is gone: its old key (the other columns are NULL), or the whole old row."""

    relation: Relation
    old: TupleData
    old_is_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Tables emptied in one statement."""

    relations: tuple[Relation, ...]
    cascade: bool = False
    restart_identity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalMessage:
    """What somebody wrote with pg_logical_emit_message. Outside of a transaction unless
    `transactional`."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The end of a transaction: everything up to `end_lsn` has been told. The time in microseconds
    since 1970-01-01 UTC."""

    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time_microseconds: int


Event = Read | Relation | Begin | Insert | Update | Delete | Truncate | LogicalMessage | Commit
