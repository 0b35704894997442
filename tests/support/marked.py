"""Transactions of every kind that leave a mark each, so that a checkpoint can be held against Qdrant.

    marked = Marked(docs)
    marked.write(round)         # transactions of every kind
    marked.require_durable()    # what the stored checkpoint has passed is in Qdrant; the slot is behind it

`docs` has the columns `id`, `title`, `price` and a TOASTed `v`. The daemon must not run meanwhile, or
stand still, when `require_durable` looks.
"""

from __future__ import annotations

from typing import Final

from bridge.positions import Lsn
from tests.support.command import Running
from tests.support.followed import Followed

# Several windows a transaction.
SMALL_WINDOWS: Final = {
    "QDRANT_BRIDGE_SYNC__WINDOW__OPERATIONS": "5",
    "QDRANT_BRIDGE_SYNC__WINDOW__MILLISECONDS": "5",
}
_MARKS: Final = 1_000_000


class Marked:
    """Writes to `docs` and remembers where each of its transactions ended."""

    def __init__(self, docs: Followed) -> None:
        self.docs = docs
        self._ended: dict[int, Lsn] = {}

    def run(self, failpoints: str = "") -> Running:
        """The daemon, with windows so small that every transaction has several."""
        return Running(
            "run", "--config", self.docs.pipeline.config,
            failpoints=failpoints, environment=SMALL_WINDOWS,
        )  # fmt: skip

    def write(self, round_number: int) -> None:
        """Inserts, updates with and without the vector, deletes, changes of a key, a rolled-back
        savepoint; each round has rows of its own and touches those of the round before."""
        low = round_number * 100
        self._transaction(
            "INSERT INTO docs SELECT i, CASE WHEN i % 2 = 0 THEN 'short' ELSE long('t' || i) END, i,"
            f" vec(i) FROM generate_series({low + 1}, {low + 12}) i"
        )
        self._transaction(
            f"UPDATE docs SET price = -price WHERE id > {low - 100} AND id < {_MARKS}"
        )
        self._transaction(
            f"UPDATE docs SET v = vec(id * 3) WHERE id = {low + 1}",
            f"UPDATE docs SET title = 'short', v = NULL WHERE id = {low + 2}",
            f"DELETE FROM docs WHERE id = {low + 3}",
            "SAVEPOINT s",
            f"DELETE FROM docs WHERE id = {low + 4}",
            f"INSERT INTO docs VALUES ({low + 99}, 'never', 0, NULL)",
            "ROLLBACK TO s",
            f"UPDATE docs SET id = id + 50 WHERE id = {low + 5}",
            f"UPDATE docs SET id = {low + 3}, price = 0 WHERE id = {low + 6}",
        )
        self._transaction(f"DELETE FROM docs WHERE id = {low + 55}")

    def _transaction(self, *statements: str) -> None:
        number = len(self._ended)
        mark = f"INSERT INTO docs VALUES ({_MARKS + number}, 'mark', {number}, NULL)"
        self.docs.sql_at_once(*statements, mark)
        ((lsn,),) = self.docs.database.execute("SELECT pg_current_wal_lsn()::text")
        self._ended[number] = Lsn.parse(lsn)

    @property
    def last(self) -> Lsn:
        """Behind the last transaction."""
        return max(self._ended.values())

    def checkpoint(self) -> Lsn:
        """The stored one."""
        docs = self.docs
        record = docs.place.records(docs.pipeline.name, "stream")["stream"]
        return Lsn.parse(record["checkpoint"])

    def confirmed(self) -> Lsn:
        """What Postgres was told."""
        ((lsn,),) = self.docs.database.execute(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
            (self.docs.pipeline.slot,),
        )
        return Lsn.parse(lsn)

    def require_durable(self) -> None:
        """No transaction that the checkpoint has passed lacks its mark, and none is acknowledged that
        the checkpoint has not passed."""
        confirmed, checkpoint, points = self.confirmed(), self.checkpoint(), self.docs.points()
        assert confirmed <= checkpoint
        passed = [number for number, lsn in self._ended.items() if lsn <= checkpoint]
        assert [number for number in passed if _MARKS + number not in points] == []
