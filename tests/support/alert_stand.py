"""A stand on which the conditions of alerts are caused: Postgres, Qdrant, daemons, what they export.

One Postgres, one test server and one daemon that follows are shared by the causes, each of which leaves
them as calm as it found them; a cause that damages a pipeline makes one of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from bridge.postgres.embedded import EmbeddedPostgres
from tests.support.command import Running
from tests.support.daemons import Pipeline, ask, http_address, wait_streaming
from tests.support.databases import SETTINGS, Database, fresh_database
from tests.support.places import open_server
from tests.support.prometheus import firing, parsed
from tests.support.qdrant_server import QdrantServer

Metrics = dict[str, float]
Condition = Callable[[Metrics], bool]
Course = Callable[[Metrics, Metrics], bool]

PATIENCE_SECONDS: Final = 60.0
LAG: Final = "qdrant_bridge_lag_seconds"
_CPU: Final = "process_cpu_seconds_total"
# No checkpoint of its own makes Postgres drop log that a test is looking at.
_SETTINGS: Final = {**SETTINGS, "checkpoint_timeout": "1h"}
_LOG = "INSERT INTO filler VALUES (1)", "SELECT pg_switch_wal()"


def grown(*series: str) -> Course:
    """Each of them is larger than it was."""
    return lambda first, now: all(now.get(name, 0.0) > first.get(name, 0.0) for name in series)


def is_calm(now: Metrics) -> bool:
    """A session streams, and Qdrant lacks nothing."""
    return now.get(LAG) == 0.0 and now["qdrant_bridge_ready"] == 1.0


class Observed:
    """A daemon that is looked at."""

    def __init__(self, pipeline: Pipeline, daemon: Running, directory: Path) -> None:
        self.pipeline = pipeline
        self.daemon = daemon
        self.address = http_address(daemon)
        self._directory = directory

    def metrics_when(
        self, condition: Condition, meanwhile: Callable[[], None] = lambda: None
    ) -> Metrics:
        """A scrape of which the condition holds. `/metrics` is what tells, so it is asked until then;
        `meanwhile` is done before each look."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            meanwhile()
            found = parsed(ask(self.address, "/metrics")[1])
            if condition(found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def fired(
        self,
        condition: Condition,
        course: Course | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> set[str]:
        """The alerts of what goes on, for an hour, as it did between two scrapes: `condition` holds of
        the first, and `course` tells whether a later one is the second. Without it, the second is as
        the first."""
        first = self.metrics_when(condition)
        began = time.monotonic()

        def is_second(now: Metrics) -> bool:
            lasts = condition(now) if course is None else course(first, now)
            return lasts and now[_CPU] > first[_CPU]

        second = self.metrics_when(is_second, meanwhile)
        return firing(first, second, time.monotonic() - began, self._directory)

    def change(self, *statements: str) -> None:
        """In the source, each in a transaction of its own."""
        for statement in statements:
            self.pipeline.database.execute(statement)

    def write_log(self) -> None:
        """32 MB of log, of changes that nobody follows."""
        with self.pipeline.database.connect() as connection:
            for _ in range(2):
                for statement in _LOG:
                    connection.execute(statement)


class Stand:
    """See the module."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.postgres = stack.enter_context(EmbeddedPostgres.temporary("18", _SETTINGS))
        self.place = stack.enter_context(open_server(directory))
        self._follower: Observed | None = None

    @property
    def qdrant(self) -> QdrantServer:
        """The test server."""
        assert self.place.server is not None
        return self.place.server

    def follower(self) -> Observed:
        """The daemon that is shared; it is calm."""
        if self._follower is None:
            pipeline = self.pipeline(self._stack)
            daemon = self._stack.enter_context(pipeline.run())
            wait_streaming(daemon)
            self._follower = Observed(pipeline, daemon, self._directory)
        self._follower.metrics_when(is_calm)
        return self._follower

    def pipeline(self, stack: ExitStack, **more: Any) -> Pipeline:
        """Another one; it goes with the stack."""
        database = stack.enter_context(fresh_database(self.postgres))
        database.execute("CREATE TABLE filler (n int)")
        http = {"listen": "127.0.0.1:0", "hold_on_stop": True}
        return Pipeline.make(database, self.place, self._place(database), **{"http": http, **more})

    def _place(self, database: Database) -> Path:
        directory = self._directory / database.name
        directory.mkdir()
        return directory

    def directory(self, name: str) -> Path:
        """A path of which nothing is there yet."""
        return self._directory / name

    @contextmanager
    def daemon(self, **more: Any) -> Iterator[Observed]:
        """A daemon on a pipeline of its own; it may be anywhere between its start and its end."""
        with ExitStack() as stack:
            pipeline = self.pipeline(stack, **more)
            with pipeline.run() as daemon:
                yield Observed(pipeline, daemon, self._directory)


@contextmanager
def alert_stand(directory: Path) -> Iterator[Stand]:
    """The stand; daemons and servers go with it."""
    with ExitStack() as stack:
        yield Stand(stack, directory)
