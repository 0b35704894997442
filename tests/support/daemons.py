"""A pipeline whose daemon runs as a process: a table, a test server, a configuration.

with pipeline.run() as running:
    pipeline.wait_streaming(running)
    database.execute("INSERT ...")
    pipeline.wait_now()
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bridge.lease import LEASE_SECONDS, boottime
from tests.support.command import Outcome, Running, bridge, config_file
from tests.support.databases import Database
from tests.support.places import ServerPlace

PATIENCE_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Table `docs` of `rows` rows; collection and pipeline have one name of their own."""

    database: Database
    place: ServerPlace
    name: str
    rows: int
    config: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        database: Database,
        place: ServerPlace,
        directory: Path,
        *,
        rows: int = 20,
        **more: Any,
    ) -> Self:
        """Fill the table and write the configuration; `more` are sections of it."""
        database.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, v vector(3))")
        database.execute(
            "INSERT INTO docs SELECT i, 'row ' || i, ARRAY[i, 1, 2]::real[]::vector"
            f" FROM generate_series(1, {rows}) i"
        )
        name = place.name("p").lower()
        settings = {
            "pipeline": name,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": {"public.docs": {"collection": name}},
            "sync": {"source": "postgres"},
            **more,
        }
        return cls(
            database=database,
            place=place,
            name=name,
            rows=rows,
            config=config_file(directory, settings),
        )

    def run(self, *more: str, environment: Mapping[str, str] | None = None) -> Running:
        """`run` as a process."""
        return Running("run", "--config", self.config, *more, environment=environment)

    def command(self, *arguments: str) -> Outcome:
        """Another command on the same configuration, in this process."""
        return bridge(*arguments, "--config", self.config)

    def status(self) -> dict[str, Any]:
        """The report."""
        return self.command("status", "--json").require().report

    def wait_now(self) -> None:
        """Return once everything that Postgres has committed by now is in Qdrant."""
        self.command("status", "--wait", "now", f"--timeout={PATIENCE_SECONDS}").require()

    def lease(self) -> dict[str, Any]:
        """The lease's record."""
        record: dict[str, Any] = self.place.records(self.name, "lease")["lease"]
        return record

    def wait_silent(self) -> None:
        """Return once the lease was not renewed for as long as it lasts. What is waited for is the
        clock that the record is compared with; nothing else tells of silence."""
        silent = threading.Event()
        while (left := self.lease()["renewed"] + LEASE_SECONDS - boottime()) >= 0:
            silent.wait(left + 0.01)

    @property
    def slot(self) -> str:
        """The slot's and the publication's name."""
        return f"bridge_{self.name}"


def wait_streaming(running: Running) -> None:
    """Return once the daemon says that it has caught up."""
    running.wait_line('"streaming"', PATIENCE_SECONDS)


def http_address(running: Running) -> str:
    """Where the daemon answers."""
    line: dict[str, str] = json.loads(running.wait_line('"listening"', PATIENCE_SECONDS))
    return line["address"]


def ask(address: str, path: str) -> tuple[int, str]:
    """GET: (status, body)."""
    try:
        # The scheme is ours.
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
