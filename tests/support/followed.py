"""Tables of any shape that a daemon follows, as a process, on a test server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.support.command import Outcome, Running, config_file
from tests.support.comparison import Expectation, differences
from tests.support.daemons import PATIENCE_SECONDS, Pipeline, wait_streaming
from tests.support.databases import Database
from tests.support.places import ServerPlace

# Behind 2 kB a value is TOASTed, and `unchanged` in an UPDATE that does not touch it.
DIMENSION: Final = 768


class Followed:
    """`docs`, of these columns, and the pipeline that follows it.

    Vectors have `DIMENSION` components; `vector(n)` in SQL makes one from a number. Distances are
    euclid, which keeps every bit.
    """

    def __init__(
        self,
        database: Database,
        place: ServerPlace,
        directory: Path,
        *,
        columns: str = f"id int PRIMARY KEY, title text, price int, v vector({DIMENSION})",
        **settings: Any,
    ) -> None:
        self.database = database
        self.place = place
        database.execute(
            "CREATE FUNCTION vec(n float8) RETURNS vector LANGUAGE sql IMMUTABLE AS"
            f" $$SELECT array_agg(n + i * 0.5)::real[]::vector FROM generate_series(1, {DIMENSION}) i$$"
        )
        database.execute("CREATE FUNCTION long(t text) RETURNS text LANGUAGE sql IMMUTABLE AS"
            " $$SELECT string_agg(md5(t || i), '') FROM generate_series(1, 200) i$$")  # fmt: skip
        database.execute(f"CREATE TABLE docs ({columns})")
        name = place.name("f").lower()
        table = {"collection": name, "vectors": {"v": {"distance": "euclid"}}, **settings}
        self.pipeline = Pipeline(
            database=database,
            place=place,
            name=name,
            rows=0,
            config=config_file(
                directory,
                {
                    "pipeline": name,
                    "postgres": {"url": database.url},
                    "qdrant": {"url": place.url},
                    "tables": {"public.docs": table},
                    "sync": {"source": "postgres"},
                    "http": {"listen": "127.0.0.1:0"},
                },
            ),
        )
        self.expected = Expectation(distances={"v": "euclid"})

    def sql(self, *statements: str) -> None:
        """Run them, each in a transaction of its own."""
        for statement in statements:
            self.database.execute(statement)

    def sql_at_once(self, *statements: str) -> None:
        """Run them in one transaction."""
        with self.database.connect(autocommit=False) as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def streaming(self) -> Iterator[Running]:
        """The daemon, once it has caught up."""
        with self.pipeline.run() as running:
            wait_streaming(running)
            yield running

    def prepare(self) -> None:
        """Copy the table; what comes next is left to the stream of a later daemon."""
        with self.streaming() as running:
            running.kill()

    def wait(self) -> None:
        """Return once the target has what Postgres has committed."""
        self.pipeline.wait_now()

    def require_equal(self, table: str = "docs", **expected: Any) -> None:
        """The collection is the table."""
        found = differences(self.database, table, self.points(), replace(self.expected, **expected))
        assert found == [], found[:10]

    def points(self) -> Mapping[Any, Any]:
        """Every point."""
        return self.place.points(self.pipeline.name)

    def payload(self, identity: int) -> Mapping[str, Any]:
        """A point's payload."""
        payload: Mapping[str, Any] = self.points()[identity].payload
        return payload

    def stopped(self, running: Running, code: str) -> Outcome:
        """The daemon has ended with this stop code, and has told it."""
        outcome = running.finish(PATIENCE_SECONDS).require(3)
        assert code in outcome.err
        assert self.pipeline.status()["stop"]["code"] == code
        return outcome
