"""A backfill that tests interrupt: a table, where it goes, and how to run the command on it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.command import Background, Outcome, Running, bridge
from tests.support.comparison import Expectation, differences
from tests.support.databases import Database
from tests.support.places import Place
from tests.support.processes import await_exit

KILLED = -signal.SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Table `docs` of `rows` rows into the collection `name`; the rows keep every bit (euclid).

    `url`: where the command looks for the target, if not where the place itself is.
    """

    database: Database
    place: Place
    rows: int
    name: str
    workers: int = 2
    more: tuple[str, ...] = ()
    url: str = ""
    expected: Expectation = field(default_factory=lambda: Expectation(distances={"v": "euclid"}))

    @classmethod
    def make(cls, database: Database, place: Place, rows: int, **more: Any) -> Job:
        """Fill the table first. Chunks have 500 rows at least, a quarter of a worker's share."""
        database.execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text, price numeric(12,2), v vector(8))"
        )
        database.execute(
            "INSERT INTO docs SELECT i, 'row ' || i, i * 1.25,"
            " ARRAY[i, 1, -i, 0.5, i / 3.0, 7, i % 10, -1]::real[]::vector"
            f" FROM generate_series(1, {rows}) i"
        )
        database.execute("ANALYZE docs")
        return cls(database=database, place=place, rows=rows, name=place.name(), **more)

    @property
    def arguments(self) -> list[str]:
        """The command's."""
        return [
            "backfill", "pgvector", "--pg.url", self.database.url, "--pg.table", "docs",
            "--qdrant.url", self.url or self.place.url, "--qdrant.collection", self.name,
            "--qdrant.distance-metric", "v=euclid",
            "--migration.num-workers", str(self.workers), *self.more,
        ]  # fmt: skip

    def start(self, *more: str, failpoints: str = "") -> Running:
        """Run it as a process."""
        return Running(*self.arguments, *more, failpoints=failpoints)

    def background(self, *more: str) -> Background:
        """Run it in a thread."""
        return Background(*self.arguments, *more)

    def run(self, *more: str) -> Outcome:
        """Run it in this process, with `--json`."""
        return bridge(*self.arguments, "--json", *more)

    def plan_small_chunks(self) -> None:
        """Make its plan, of chunks of 500 rows, and nothing more: as for more workers, then killed."""
        many = ("--migration.num-workers", str(self.rows // 2000 + 1))
        with self.start(*many, failpoints="backfill.after_plan:kill@1") as running:
            assert running.finish().code == KILLED

    def chunks(self) -> Mapping[str, Any]:
        """The records of finished chunks."""
        return self.place.records(self.name, "chunk")

    def finish(self) -> dict[str, Any]:
        """Run it to its end; the report. The collection is the table, and nothing was read twice."""
        before = self.chunks()
        table = self.run().require().table
        after = self.chunks()
        # A chunk read again would have got a new record, with another duration.
        assert before.items() <= after.items()
        rows_before = sum(record["rows_read"] for record in before.values())
        assert table["copied_now"] == table["rows_read"] - rows_before
        assert table["source_count"] == table["target_count"] == table["rows_read"]
        self.require_equal()
        return table

    def require_equal(self) -> None:
        """The collection is the table."""
        found = differences(self.database, "docs", self.place.points(self.name), self.expected)
        assert found == [], found[:10]


def await_end(pids: list[int]) -> None:
    """Return once all of them have ended: they must not outlive their parent."""
    assert pids, "there was no worker to wait for"
    for pid in pids:
        await_exit(pid)
