"""A pipeline that reads Kafka: a database of the stack, a table `docs`, processes of one group.

The table's vectors are above 2 kB, so that an update which leaves them alone does not bring them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import psycopg

from bridge.postgres.embedded import EmbeddedPostgres
from tests.support.command import Outcome, Running, bridge, config_file
from tests.support.comparison import Expectation, differences
from tests.support.databases import Database
from tests.support.kafka_stack import Connector, Stack, Topic, until
from tests.support.places import ServerPlace
from tests.support.writers import Statement

DIMENSION: Final = 768
SESSION_SECONDS: Final = 6
COLUMNS: Final = (
    f"id int PRIMARY KEY, title text, price numeric(12,2), body text, v vector({DIMENSION})"
)
_FUNCTIONS: Final = (
    "CREATE FUNCTION vec(n float8) RETURNS vector LANGUAGE sql IMMUTABLE AS"
    f" $$SELECT array_agg(n + i * 0.5)::real[]::vector FROM generate_series(1, {DIMENSION}) i$$",
    "CREATE FUNCTION long(t text) RETURNS text LANGUAGE sql IMMUTABLE AS"
    " $$SELECT string_agg(md5(t || i), '') FROM generate_series(1, 200) i$$",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPipeline:
    """See the module. `topic` is that of `docs`."""

    stack: Stack
    database: Database
    place: ServerPlace
    name: str
    topic: Topic
    config: str
    expected: Expectation = field(default_factory=lambda: Expectation(distances={"v": "euclid"}))

    @classmethod
    def make(
        cls,
        stack: Stack,
        place: ServerPlace,
        directory: Path,
        *,
        partitions: int = 1,
        columns: str = COLUMNS,
        kafka: Mapping[str, Any] | None = None,
        postgres: bool = True,
        rest: bool = False,
        **settings: Any,
    ) -> KafkaPipeline:
        """Make the database, the topic and the configuration; no connector yet. `rest`: Kafka Connect
        is asked about it."""
        name = place.name("k").lower()
        with psycopg.connect(stack.postgres, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        database = Database(name=name, url=stack.url(name), server=cast(EmbeddedPostgres, None))
        database.execute("CREATE EXTENSION vector")
        for function in _FUNCTIONS:
            database.execute(function)
        database.execute(f"CREATE TABLE docs ({columns})")
        topic = Topic(
            servers=stack.kafka, name=f"{name}.public.docs", partitions=partitions
        ).create()
        table = {"collection": name, "vectors": {"v": {"distance": "euclid"}}, **settings}
        config = {
            "pipeline": name,
            **({"postgres": {"url": database.url}} if postgres else {}),
            "qdrant": {"url": place.url},
            "tables": {"public.docs": table},
            "sync": {"source": "debezium"},
            "kafka": {
                "bootstrap_servers": stack.kafka,
                "topics": {topic.name: "public.docs"},
                "session_timeout_seconds": SESSION_SECONDS,
                "modes": {"decimal": "string"},
                **({"connect_url": stack.connect, "connector": name} if rest else {}),
                **(kafka or {}),
            },
            "http": {"listen": "127.0.0.1:0"},
        }
        return cls(
            stack=stack,
            database=database,
            place=place,
            name=name,
            topic=topic,
            config=config_file(directory, config),
        )

    @property
    def connector(self) -> Connector:
        """The one that fills the topic."""
        return Connector(stack=self.stack, name=self.name, database=self.name)

    def connect(self, **settings: str) -> Connector:
        """Register it; returns when it streams."""
        connector = self.connector
        connector.put(**{"snapshot.mode": "no_data", "decimal.handling.mode": "string", **settings})
        return connector

    def run(self, **options: Any) -> Running:
        """A process of the group."""
        return Running("run", "--config", self.config, **options)

    def sync(self, **options: Any) -> Running:
        """A process that copies nothing."""
        return Running("sync", "debezium", "--config", self.config, **options)

    def sql(self, *statements: str) -> None:
        """Run them, each in a transaction of its own."""
        for statement in statements:
            self.database.execute(statement)

    def command(self, *arguments: str) -> Outcome:
        """Another command on the same configuration."""
        return bridge(*arguments, "--config", self.config)

    def status(self) -> dict[str, Any]:
        """The report."""
        return self.command("status", "--json").require().report

    def found(self) -> list[str]:
        """What differs between the table and the collection."""
        return differences(self.database, "docs", self.place.points(self.name), self.expected)

    def require_equal(self, seconds: float = 60.0) -> None:
        """Return once the collection is the table."""
        last: list[list[str]] = [[]]

        def equal() -> bool:
            last[0] = self.found()
            return not last[0]

        try:
            until(equal, "the collection to be the table", seconds)
        except AssertionError:
            raise AssertionError(f"they differ: {last[0][:10]}") from None

    def drop(self) -> None:
        """Drop the connector and its slot."""
        self.connector.remove()


def change(numbers: random.Random, _connection: int) -> Statement:
    """Some change of some row: what the direct path's workload does, too."""
    row, n = numbers.randrange(1, 200), numbers.randrange(1000)
    statements: list[tuple[int, str, tuple[Any, ...]]] = [
        (
            4,
            "INSERT INTO docs VALUES (%s, %s, %s, long(%s), vec(%s))",
            (row, f"t{n}", n, str(n), n),
        ),
        (6, "UPDATE docs SET title = %s WHERE id = %s", (f"t{n}", row)),
        (2, "UPDATE docs SET body = long(%s), price = %s WHERE id = %s", (str(n), n, row)),
        (3, "UPDATE docs SET v = vec(%s) WHERE id = %s", (n, row)),
        (1, "UPDATE docs SET v = NULL WHERE id = %s", (row,)),
        (2, "UPDATE docs SET id = %s WHERE id = %s", (numbers.randrange(1, 200), row)),
        (2, "DELETE FROM docs WHERE id = %s", (row,)),
    ]
    weights = [weight for weight, _statement, _values in statements]
    (chosen,) = numbers.choices(statements, weights)
    return chosen[1], chosen[2]
