"""What changes the source in `script/bench sync`: a backlog at once, or changes at a fixed rate.

Rows come from an unlogged table, so that making them writes no log of its own. Every kind of change
touches the same keys, in transactions of a fixed number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import psycopg

Kind = Literal["insert", "payload", "full", "delete"]
KINDS: Final[tuple[Kind, ...]] = ("insert", "payload", "full", "delete")
NAMES: Final[Mapping[Kind, str]] = {
    "insert": "inserts",
    "payload": "payload-only updates",
    "full": "full updates",
    "delete": "deletes",
}
ROWS_A_TRANSACTION = 1000
POOL = "pool"

_STATEMENTS: Final[Mapping[Kind, str]] = {
    "insert": "INSERT INTO {table} SELECT * FROM pool WHERE id >= %(low)s AND id < %(high)s",
    "payload": "UPDATE {table} SET title = 'payload', price = price + 1"
    " WHERE id >= %(low)s AND id < %(high)s",
    # The vector of another row: its own would be a value that did not change.
    "full": "UPDATE {table} t SET title = 'full', embedding = p.embedding FROM pool p"
    " WHERE t.id >= %(low)s AND t.id < %(high)s AND p.id = t.id # 1",
    "delete": "DELETE FROM {table} WHERE id >= %(low)s AND id < %(high)s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A transaction: when its COMMIT was sent (since 1970), its last key, and the log behind it."""

    at: float
    last_id: int
    position: int


def make_backlog(url: str, table: str, kind: Kind, rows: int, *, at_once: bool = False) -> str:
    """Change the rows, in one transaction if `at_once`; the log's position behind the changes."""
    step = rows if at_once else ROWS_A_TRANSACTION
    statement = _STATEMENTS[kind].format(table=table)
    with psycopg.connect(url, autocommit=True) as connection:
        for low in range(0, rows, step):
            connection.execute(statement, {"low": low, "high": min(rows, low + step)})
        row = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        assert row is not None
        return str(row[0])


def change_steadily(
    url: str, table: str, kind: Kind, *, rate: int, seconds: float, step: int = 10
) -> Iterator[Committed]:
    """Change `rate` rows a second in transactions of `step`; each as it has committed.

    A transaction that is late does not delay those behind it.
    """
    statement = _STATEMENTS[kind].format(table=table)
    began = time.time()
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(round(rate * seconds / step)):
            time.sleep(max(0.0, began + number * step / rate - time.time()))
            low, high = number * step, (number + 1) * step
            connection.execute("BEGIN")
            connection.execute(statement, {"low": low, "high": high})
            at = time.time()
            connection.execute("COMMIT")
            row = connection.execute("SELECT pg_current_wal_flush_lsn() - '0/0'").fetchone()
            assert row is not None
            yield Committed(at=at, last_id=high - 1, position=int(row[0]))
