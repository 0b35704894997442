"""Postgres as `apply.Source`: rows read again by key, over a connection of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence, Set

from bridge.events import UNCHANGED, Field, StreamField
from bridge.postgres import scan
from bridge.postgres.connection import Connection, connect
from bridge.postgres.reread import read_visible
from sync.apply import Found
from sync.tables import Row, StreamTable


class RereadSource:
    """Opens its connection at the first use, and again after it broke; `check` looks at each."""

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
        self._wait = wait
        self._check = check
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def read(
        self,
        table: StreamTable,
        fields: Collection[int],
        keys: Sequence[Sequence[str]],
        xids: Set[int],
    ) -> Found:
        """These fields of the rows with these keys, as `apply.Source` has it."""
        wanted = sorted({*fields, *table.key_fields})
        selection = [table.layout.selection[index] for index in wanted]
        with self._lock:
            fresh = self._connection is None
            if self._connection is None:
                self._connection = connect(self._url, allow_plaintext=self._allow_plaintext)
                scan.prepare(self._connection)
            try:
                if fresh:
                    self._check(self._connection)
                read = read_visible(
                    self._connection,
                    table.mapping.table,
                    selection,
                    table.layout.key_columns,
                    keys,
                    xids,
                    wait=self._wait,
                )
            except BaseException:
                # Whatever it was, the connection may be in the middle of something.
                self._connection.close()
                self._connection = None
                raise
        columns = table.relation.columns
        lacking = frozenset(index for index in wanted if columns[index] in read.lacking)
        rows = [_wide(len(columns), wanted, row, lacking) for row in read.rows]
        return Found(rows=rows, lacking=lacking)

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _wide(
    width: int, fields: Sequence[int], values: Sequence[Field], lacking: frozenset[int]
) -> Row:
    """The row in the stream's layout; what was not read counts as not sent."""
    row: list[StreamField] = [UNCHANGED] * width
    for index, value in zip(fields, values, strict=True):
        if index not in lacking:
            row[index] = value
    return tuple(row)
