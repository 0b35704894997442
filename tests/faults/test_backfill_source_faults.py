"""Postgres fails in the middle of a backfill: the chunk is read again, and the copy is exact."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from bridge.postgres.embedded import EmbeddedPostgres
from tests.conftest import Database
from tests.support.command import Background, bridge
from tests.support.comparison import differences
from tests.support.databases import fresh_database
from tests.support.jobs import Job
from tests.support.places import EDGE, TEST_SERVER, Place, ServerPlace, open_place, open_server
from tests.support.ports import free_port
from tests.support.proxy import TcpProxy
from tests.support.qdrant_server import delay

# One chunk, of more bytes than the sockets between hold: the COPY is under way while it is held.
ROWS: Final = 4000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerPlace]:
    with open_server(tmp_path) as opened:
        yield opened


def fill(database: Database) -> None:
    database.execute("CREATE TABLE wide (id int PRIMARY KEY, body text, v vector(4))")
    database.execute("ALTER TABLE wide ALTER body SET STORAGE EXTERNAL")
    database.execute(
        "INSERT INTO wide SELECT i, repeat(md5(i::text), 200), ARRAY[i, 1, 2, 3]::real[]::vector"
        f" FROM generate_series(1, {ROWS}) i"
    )


def start(url: str, place: Place, *more: str) -> Background:
    return Background(
        "backfill", "pgvector", "--pg.url", url, "--pg.table", "wide", "--qdrant.url", place.url,
        "--migration.num-workers", "1", "--migration.batch-size", "100", *more,
    )  # fmt: skip


def break_in_mid_chunk(
    database: Database, server: ServerPlace, break_it: Callable[[], object], url: str = ""
) -> None:
    """Hold the copy in the middle of a COPY, break the source, let go; the end must be exact."""
    assert server.server is not None
    faults, requests = server.server.faults, server.server.requests
    release = threading.Event()
    rule = faults.add(method="Upsert", collection="wide", action=delay(release), nth=3)
    running = start(url or database.url, server)
    faults.wait_fired(rule)
    ((copies,),) = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY (SELECT%'"
    )
    assert copies == 1
    break_it()
    release.set()
    running.wait_line("waiting")
    running.finish().require()
    # 40 requests of 100 rows, and those that had gone before the source broke.
    assert requests.count("Upsert") > ROWS / 100 + 3
    assert differences(database, "wide", server.points("wide")) == []


def test_a_server_that_crashes_and_recovers_is_read_again(
    own_postgres: EmbeddedPostgres, server: ServerPlace
) -> None:
    with fresh_database(own_postgres) as database:
        fill(database)
        break_in_mid_chunk(database, server, lambda: own_postgres.restart("immediate"))


def test_a_terminated_backend_is_replaced(database: Database, server: ServerPlace) -> None:
    fill(database)
    terminate = (
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'COPY (SELECT%'"
    )
    break_in_mid_chunk(database, server, lambda: database.execute(terminate))


def test_a_cancelled_statement_is_begun_again(database: Database, server: ServerPlace) -> None:
    fill(database)
    cancel = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'COPY (SELECT%'"
    )
    break_in_mid_chunk(database, server, lambda: database.execute(cancel))


def test_a_cut_connection_is_made_again(database: Database, server: ServerPlace) -> None:
    fill(database)
    with TcpProxy(database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        break_in_mid_chunk(database, server, proxy.cut, url)


def test_a_connection_cut_between_two_chunks_is_made_again(
    database: Database, server: ServerPlace
) -> None:
    job = Job.make(database, server, 1200, workers=1)
    assert server.server is not None
    faults = server.server.faults
    with TcpProxy(database.server.port) as proxy:

        def cut(request: Any, proceed: Any, stopping: threading.Event) -> Any:
            proxy.cut()
            return proceed()

        # The second request holds the rest of the first chunk: nothing is being read.
        rule = faults.add(method="Upsert", collection=job.name, action=cut, nth=2)
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        replace(job, database=replace(database, url=url)).run().require()
    assert rule.fired == 1
    job.require_equal()


@pytest.mark.parametrize("kind", [TEST_SERVER, EDGE])
def test_a_source_that_is_away_for_a_while_is_waited_for(
    database: Database, tmp_path: Path, kind: str
) -> None:
    fill(database)
    with open_place(kind, tmp_path) as place, TcpProxy(database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        running = start(url, place, "--migration.batch-delay", "20")
        running.wait_line("chunks to copy")
        proxy.refuse()
        proxy.cut()
        running.wait_line("waiting")
        proxy.heal()
        running.finish().require()
        assert differences(database, "wide", place.points("wide")) == []


def test_a_source_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/db"
    outcome = bridge(
        "backfill", "pgvector", "--pg.url", url, "--pg.table", "docs",
        "--qdrant.url", f"edge://{tmp_path}/edge",
    ).require(4)  # fmt: skip
    assert "does not answer" in outcome.err


def test_a_table_dropped_underneath_stops_the_run(database: Database, server: ServerPlace) -> None:
    fill(database)
    database.execute("ANALYZE wide")  # several chunks
    assert server.server is not None
    release = threading.Event()
    rule = server.server.faults.add(method="Upsert", collection="wide", action=delay(release))
    running = start(database.url, server)
    server.server.faults.wait_fired(rule)
    dropping = threading.Thread(target=database.execute, args=("DROP TABLE wide",))
    dropping.start()  # waits for the COPY under way
    release.set()
    outcome = running.finish().require(2)
    dropping.join()
    assert "wide" in outcome.err
    assert server.threshold("wide") not in (None, 0)
