"""Planted secrets and row values, searched for in everything that a pipeline says of itself.

A password, an API key and a value that stands in rows go through a whole life: copy, stream, dead letter,
outage, refused password, stop. They may be nowhere in logs, tracebacks, metrics, status, pages, reports,
`config` or the state in Qdrant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from qdrant_client import QdrantClient

from bridge.postgres.embedded import EmbeddedPostgres
from tests.support.command import Running, bridge, config_file
from tests.support.daemons import ask, http_address, wait_streaming
from tests.support.databases import SETTINGS, Database, fresh_database
from tests.support.qdrant_server import QdrantServer

PASSWORD = "canary-pass/word?é"
API_KEY = "canary-api-key-8c1f"
VALUE = "canary-value-of-a-row"
WRONG = "canary-wrong-password"
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), API_KEY, WRONG)
ROLE = "bridge_canary"


class Place:
    """A Postgres that asks this role for its password, and a Qdrant that asks for the key."""

    def __init__(self, database: Database, qdrant: QdrantServer, directory: Path) -> None:
        self.database = database
        self.qdrant = qdrant
        self.directory = directory
        database.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, v vector(3))")
        database.execute(
            f"INSERT INTO docs SELECT i, '{VALUE} ' || i, ARRAY[i, 1, 2]::real[]::vector"
            " FROM generate_series(1, 50) i"
        )
        database.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
        database.execute(f"GRANT SELECT ON docs TO {ROLE}")
        database.execute("CREATE PUBLICATION bridge_canary FOR TABLE docs")
        self.write_url(PASSWORD)
        (directory / "key").write_text(API_KEY)
        self.config = config_file(
            directory,
            {
                "pipeline": "canary",
                "postgres": {"url_file": str(directory / "url")},
                "qdrant": {"url": qdrant.url, "api_key_file": str(directory / "key")},
                "tables": {"public.docs": {}},
                "sync": {"source": "postgres"},
                "http": {"listen": "127.0.0.1:0", "hold_on_stop": True},
            },
        )

    def write_url(self, password: str) -> None:
        """The role's url with this password."""
        parts = urlsplit(self.database.url)
        address = f"127.0.0.1:{parts.port}"
        url = f"postgresql://{ROLE}:{quote(password, safe='')}@{address}{parts.path}"
        (self.directory / "url").write_text(url)

    def records(self) -> str:
        """All that the bridge remembers."""
        client = QdrantClient(
            host="127.0.0.1",
            port=self.qdrant.port,
            grpc_port=self.qdrant.port,
            prefer_grpc=True,
            https=False,
            api_key=API_KEY,
            check_compatibility=False,
        )
        try:
            points, _ = client.scroll("_qdrant_bridge", limit=1000)
            return json.dumps([point.payload for point in points])
        finally:
            client.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    hba = (f"host all {ROLE} 127.0.0.1/32 scram-sha-256",)
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres.temporary("18", SETTINGS, hba=hba))
        database = stack.enter_context(fresh_database(server))
        qdrant = QdrantServer(tmp_path / "qdrant", api_key=API_KEY)
        yield Place(database, stack.enter_context(qdrant), tmp_path)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_no_canary_is_in_anything_that_is_said(place: Place) -> None:
    said: dict[str, str] = {}

    def command(*arguments: str) -> None:
        outcome = bridge(*arguments, "--config", place.config)
        said[" ".join(arguments)] = outcome.out + outcome.err

    with Running("run", "--config", place.config, "--debug") as daemon:
        address = http_address(daemon)
        wait_streaming(daemon)
        place.database.execute(f"INSERT INTO docs VALUES (100, '{VALUE}', '[3e38,3e38,3e38]')")
        place.database.execute(f"UPDATE docs SET body = body || '{VALUE}' WHERE id < 10")
        bridge("status", "--config", place.config, "--wait", "now", "--timeout=30").require()
        place.qdrant.stop()
        place.database.execute(f"UPDATE docs SET body = '{VALUE}' WHERE id < 20")
        daemon.wait_line('"waiting"')
        said["status page, waiting"] = ask(address, "/status.json")[1]
        place.qdrant.start()
        bridge("status", "--config", place.config, "--wait", "now", "--timeout=60").require()

        for path in ("/", "/status.json", "/metrics", "/readyz", "/healthz", "/nothing"):
            said[path] = ask(address, path)[1]
        for words in _COMMANDS:
            command(*words)
        said["state"] = place.records()

        # A vector of another dimension stops it, in the middle of a row.
        place.database.execute("ALTER TABLE docs ALTER v TYPE vector(4) USING '[1,2,3,4]'::vector")
        place.database.execute(f"INSERT INTO docs VALUES (200, '{VALUE}', '[1,2,3,4]')")
        daemon.wait_line('"holding"')
        said["status page, stopped"] = ask(address, "/status.json")[1]
        said["metrics, stopped"] = ask(address, "/metrics")[1]
        daemon.process.terminate()
        outcome = daemon.finish()
        said["daemon"] = outcome.out + outcome.err

    place.write_url(WRONG)
    for words in (("doctor",), ("backfill", "pgvector"), ("status",), ("verify",)):
        command(*words, "--debug")
    assert "password authentication failed" in said["backfill pgvector --debug"]
    assert "Traceback" in said["backfill pgvector --debug"], "the test looks into tracebacks"

    _require_silent(said)


_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("config",),
    ("config", "--json"),
    ("doctor",),
    ("plan",),
    ("status",),
    ("status", "--json"),
    ("dead-letters", "list"),
    ("dead-letters", "list", "--json"),
    ("dead-letters", "show", "100"),
    ("verify", "--json"),
)


def _require_silent(said: dict[str, Any]) -> None:
    assert "dead_letter" in said["daemon"]
    assert "SCHEMA_CHANGED" in said["daemon"]
    assert "100" in said["dead-letters list"]
    assert '"public.docs"' in said["state"]
    for place, text in said.items():
        for secret in SECRETS:
            assert secret not in text, f"{secret} is in {place}"
        assert VALUE not in text, f"a row's value is in {place}"
