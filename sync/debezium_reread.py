"""Rows that a message does not tell whole: read again from Postgres, before they are applied.

A null vector is NULL, or unchanged TOAST, and only Postgres knows which (facts in docs/debezium.md); so
whatever a message leaves open comes from the row, in batches by key. The row is read when the message's
transaction is visible; where the message does not tell its transaction, when every one that was under
way has ended. A row that is gone is passed over: its delete, or the change of its key, follows; but a
table that was dropped stops, since nothing follows for its rows.

Without Postgres such a change is a dead letter, or the end, by choice: never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

from bridge.errors import StopError
from bridge.events import UNCHANGED
from bridge.plan import DeadLetter
from bridge.point_ids import PointId
from bridge.postgres import identities
from bridge.postgres.connection import Connection, connect
from bridge.retry import Retry
from sync.apply import Found, Source
from sync.debezium_sweep import table_gone
from sync.debezium_window import SEEN, UNKNOWN
from sync.source import RereadSource
from sync.tables import StreamTable
from sync.window import Changed, TableWindow

T = TypeVar("T")

KEYS_AT_ONCE = 1000
WithoutPostgres = Literal["stop", "dead_letter"]


class VisibleSource:
    """`RereadSource` for transactions that may be unknown."""

    def __init__(
        self,
        url: str,
        *,
        allow_plaintext: bool,
        wait: Callable[[float], None],
        check: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        self._url = url
        self._allow_plaintext = allow_plaintext
        self._check = check
        self._rows = RereadSource(url, allow_plaintext=allow_plaintext, wait=wait, check=check)
        self._looks: Connection | None = None

    def read(
        self,
        table: StreamTable,
        fields: Collection[int],
        keys: Sequence[Sequence[str]],
        xids: Set[int],
    ) -> Found:
        """As `apply.Source` has it."""
        awaited = {xid for xid in xids if xid not in (SEEN, UNKNOWN)}
        if UNKNOWN in xids:
            awaited |= self._look(identities.in_progress)
        found = self._rows.read(table, fields, keys, awaited)
        if not found.rows and self._look(partial(_dropped, oid=table.relation.oid)):
            raise table_gone(table.relation.label)
        return found

    def _look(self, look: Callable[[Connection], T]) -> T:
        try:
            if self._looks is None:
                self._looks = connect(self._url, allow_plaintext=self._allow_plaintext)
                self._check(self._looks)
            return look(self._looks)
        except BaseException:
            self._close_looks()
            raise

    def _close_looks(self) -> None:
        if self._looks is not None:
            self._looks.close()
            self._looks = None

    def close(self) -> None:
        """Close the connections."""
        self._rows.close()
        self._close_looks()


def _dropped(connection: Connection, oid: int) -> bool:
    return identities.replica_identity(connection, oid) == ""


class NoSource:
    """In the place of Postgres where there is none; nobody gets so far as to ask it."""

    def read(
        self,
        table: StreamTable,
        fields: Collection[int],
        keys: Sequence[Sequence[str]],
        xids: Set[int],
    ) -> Found:
        """StopError."""
        raise untold(table)

    def close(self) -> None:
        """Nothing."""


def untold(table: StreamTable) -> StopError:
    """A change that does not tell its whole row, and nobody to ask."""
    label = table.relation.label
    return StopError(
        f"a change of {label} does not tell all of its row, and there is no Postgres url to read it again",
        code="ROW_UNTOLD",
        table=label,
        hint=f"postgres.url; or ALTER TABLE {label} REPLICA IDENTITY FULL; or kafka.without_postgres: "
        "dead_letter to set such rows aside",
    )


@dataclass(slots=True)
class Filled:
    """The rows as they are to be applied, and those that are set aside."""

    changes: TableWindow
    letters: list[DeadLetter] = field(default_factory=list)
    read: int = 0


def fill(
    changes: TableWindow,
    source: Source,
    retry: Retry,
    position: str,
    without_postgres: WithoutPostgres,
) -> Filled:
    """Each row with what its message did not tell."""
    open_rows: dict[int, dict[PointId, Changed]] = {}
    for identity, state in changes.states.items():
        if isinstance(state, Changed) and state.table.unchanged(state.row):
            open_rows.setdefault(id(state.table), {})[identity] = state
    filled = Filled(changes)
    for states in open_rows.values():
        table = next(iter(states.values())).table
        if isinstance(source, NoSource):
            _set_aside(table, states, filled, position, without_postgres)
            continue
        items = list(states.items())
        for start in range(0, len(items), KEYS_AT_ONCE):
            _read(table, dict(items[start : start + KEYS_AT_ONCE]), filled, source, retry)
    return filled


def _read(
    table: StreamTable,
    states: dict[PointId, Changed],
    filled: Filled,
    source: Source,
    retry: Retry,
) -> None:
    keys = [table.key_texts(state.row) for state in states.values()]
    fields = frozenset[int]().union(*(table.unchanged(s.row) for s in states.values()))
    xids = {state.xid for state in states.values()}
    found = retry.call(partial(source.read, table, fields, keys, xids))
    rows = {table.id_of(row): row for row in found.rows}
    filled.read += len(states)
    for identity, state in states.items():
        row = rows.get(identity)
        if row is None:
            # Gone: what follows in the topic says where to.
            del filled.changes.states[identity]
            continue
        whole = tuple(
            now if told is UNCHANGED else told for told, now in zip(state.row, row, strict=True)
        )
        # What cannot be read any more (`Found.lacking`) is left to the applier, which knows what may be.
        filled.changes.states[identity] = Changed(table, whole, state.xid)


def _set_aside(
    table: StreamTable,
    states: dict[PointId, Changed],
    filled: Filled,
    position: str,
    without_postgres: WithoutPostgres,
) -> None:
    if without_postgres == "stop":
        raise untold(table)
    for identity, state in states.items():
        columns = sorted(table.relation.columns[index] for index in table.unchanged(state.row))
        reason = f"the message does not tell {', '.join(columns)}, and there is no Postgres to ask"
        texts = table.key_texts(state.row)
        filled.letters.append(table.mapping.dead_letter(texts, reason, position))
        del filled.changes.states[identity]
