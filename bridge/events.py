"""What a source tells: rows read, rows changed, transactions ended. One flow for all of them.

A row's columns are raw fields, in the order of the relation that announced them: `bytes` in the
source's own format, None for NULL, `UNCHANGED` for a TOASTed value that an UPDATE did not touch
(PostgreSQL documentation, section 54.9, the `u` kind of TupleData). A column that was not published
is absent from the relation. The three are never confused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from bridge.positions import Lsn


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
    numbers are the catalog's to tell."""

    oid: int
    schema: str
    name: str
    replica_identity: Literal["d", "n", "f", "i"]
    columns: tuple[str, ...]
    type_oids: tuple[int, ...]
    key: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """A new row."""

    relation: Relation
    row: Sequence[StreamField]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A changed row. `old` is the old key (`old_is_key`) or the whole old row; None if neither came."""

    relation: Relation
    row: Sequence[StreamField]
    old: Sequence[StreamField] | None
    old_is_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """A row that is gone: its old key, or the whole old row."""

    relation: Relation
    old: Sequence[StreamField]
    old_is_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Tables emptied in one statement."""

    relations: tuple[Relation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The end of a transaction: everything up to `end_lsn` has been told."""

    end_lsn: Lsn
    commit_time_microseconds: int


Event = Read | Relation | Insert | Update | Delete | Truncate | Commit
