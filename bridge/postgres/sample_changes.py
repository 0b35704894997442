"""Changes of the packages table, as an application would make them: for the demo and the tests.

Seeded, so that two runs do the same. Every transaction inserts some rows, changes the payload of others
(their vectors are then not sent), the vectors of others, the key of one, and deletes some.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from psycopg import sql

from bridge.errors import StopError
from bridge.positions import Lsn
from bridge.postgres.connection import Connection, translated
from bridge.postgres.sample import COLUMNS, TABLE

KINDS = ("inserted", "updated", "given a new key", "deleted")

_COPIED = [name for name in COLUMNS if name not in ("id", "package")]
_INSERT = sql.SQL(
    "INSERT INTO packages (id, package, {columns}) SELECT n.id, p.package || '-' || n.id, {values}"
    " FROM unnest(%s::bigint[], %s::bigint[]) AS n(id, other) JOIN packages p ON p.id = n.other"
).format(
    columns=sql.SQL(", ").join(map(sql.Identifier, _COPIED)),
    values=sql.SQL(", ").join(sql.SQL("p.{}").format(sql.Identifier(name)) for name in _COPIED),
)
_UPDATE_PAYLOAD = (
    "UPDATE packages SET version = version || '+1', dependants = coalesce(dependants, 0) + 1,"
    " released_at = now() WHERE id = ANY(%s)"
)
_UPDATE_VECTOR = (
    "UPDATE packages p SET embedding = o.embedding, summary = o.summary"
    " FROM unnest(%s::bigint[], %s::bigint[]) AS n(id, other), packages o"
    " WHERE p.id = n.id AND o.id = n.other"
)
_UPDATE_KEY = "UPDATE packages SET id = %s WHERE id = %s"
_DELETE = "DELETE FROM packages WHERE id = ANY(%s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What one did, and how far the log had come when it had committed."""

    counts: Counter[str]
    position: Lsn


class SampleChanges:
    """Changes the table over one connection, a transaction a call."""

    def __init__(self, connection: Connection, *, seed: int = 20_261_124) -> None:
        self._connection = connection
        self._random = random.Random(seed)  # noqa: S311 - it picks rows, no secrets
        with translated(table=TABLE, connection=connection):
            rows = connection.execute("SELECT id FROM packages ORDER BY id").fetchall()
        self._ids = [int(row[0]) for row in rows]
        self._next_id = max(self._ids) + 1

    @property
    def first_id(self) -> int:
        """A row that is there now."""
        return min(self._ids)

    def commit_one(self) -> Transaction:
        """One transaction of 24 changes."""
        with translated(table=TABLE, connection=self._connection):
            with self._connection.transaction():
                counts = self._change()
            row = self._connection.execute("SELECT pg_catalog.pg_current_wal_lsn()").fetchone()
        if row is None:
            raise StopError("Postgres does not tell how far its log is", code="PROTOCOL")
        return Transaction(counts=counts, position=Lsn.parse(str(row[0])))

    def _change(self) -> Counter[str]:
        execute = self._connection.execute
        new = [self._new_id() for _ in range(5)]
        execute(_INSERT, (new, self._some(5)))
        execute(_UPDATE_PAYLOAD, (self._some(12),))
        execute(_UPDATE_VECTOR, (self._some(3), self._some(3)))
        [moved] = self._some(1)
        target = self._new_id()
        execute(_UPDATE_KEY, (target, moved))
        self._ids[self._ids.index(moved)] = target
        gone = self._some(3)
        execute(_DELETE, (gone,))
        self._ids = [identity for identity in self._ids if identity not in gone] + new
        return Counter({KINDS[0]: 5, KINDS[1]: 15, KINDS[2]: 1, KINDS[3]: 3})

    def _some(self, count: int) -> list[int]:
        return self._random.sample(self._ids, count)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1
