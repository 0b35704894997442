"""Postgres as `apply.Source`: rows read again by key, over a connection of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bridge.errors import Unreachable
from bridge.postgres import scan
from bridge.postgres.connection import Connection, connect
from bridge.postgres.reread import read_visible
from sync.tables import Row, StreamTable


class RereadSource:
    """Opens its connection at the first use, and again after it broke."""

    def __init__(self, url: str, *, allow_plaintext: bool, wait: Callable[[float], None]) -> None:
        self._url = url
        self._allow_plaintext = allow_plaintext
        self._wait = wait
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def read(self, table: StreamTable, keys: Sequence[Sequence[str]], xids: set[int]) -> list[Row]:
        """The rows with these keys, in a snapshot that shows all of these transactions."""
        with self._lock:
            if self._connection is None:
                self._connection = connect(self._url, allow_plaintext=self._allow_plaintext)
                scan.prepare(self._connection)
            try:
                rows = read_visible(
                    self._connection,
                    table.mapping.table,
                    table.layout.selection,
                    table.layout.key_columns,
                    keys,
                    xids,
                    wait=self._wait,
                )
            except Unreachable:
                self._connection.close()
                self._connection = None
                raise
        return [tuple(row) for row in rows]

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
