"""Qdrant fails in the middle of a backfill, in every way it can: nothing is lost, nothing hidden."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from backfill.indexing import Indexing
from backfill.messages import ChunkCopied, Waiting
from bridge.errors import Unreachable
from tests.conftest import Database
from tests.support.api import backfill_with
from tests.support.command import bridge
from tests.support.comparison import Expectation, differences
from tests.support.jobs import Job
from tests.support.places import (
    SERVERS,
    EdgePlace,
    ServerPlace,
    open_place,
    open_server,
)
from tests.support.ports import free_port
from tests.support.proxy import TcpProxy
from tests.support.qdrant_faults import Action, Rule
from tests.support.qdrant_server import (
    QdrantServer,
    delay,
    fail,
    internal,
    lost_response,
    rate_limited,
    unavailable,
    wait_timeout,
)

SMALL: Final = ("--migration.batch-size", "100")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerPlace]:
    with open_server(tmp_path) as opened:
        yield opened


@pytest.fixture(params=SERVERS)
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerPlace]:
    with open_place(request.param, tmp_path) as opened:
        assert isinstance(opened, ServerPlace)
        yield opened


def faulty(place: ServerPlace) -> QdrantServer:
    """The test server behind a place."""
    assert place.server is not None
    return place.server


# --- single faults ------------------------------------------------------------------------------

FAULTS: Final[dict[str, tuple[Action, int]]] = {
    "429 with retry-after": (rate_limited(1), 2),
    "429 for the size of the request": (rate_limited(None), 3),
    "UNAVAILABLE": (unavailable(), 4),
    "INTERNAL": (internal(), 3),
    "ABORTED": (fail(grpc.StatusCode.ABORTED, "injected"), 2),
    "DEADLINE_EXCEEDED": (fail(grpc.StatusCode.DEADLINE_EXCEEDED, "injected"), 2),
    "a lost response": (lost_response(), 3),
    "WaitTimeout": (wait_timeout(), 3),
    "a slow answer": (delay(0.5), 2),
}


@pytest.mark.parametrize(("action", "times"), FAULTS.values(), ids=FAULTS)
def test_a_fault_while_points_are_written_costs_no_row(
    database: Database, server: ServerPlace, action: Action, times: int
) -> None:
    job = Job.make(database, server, 1200, workers=1, more=SMALL)
    rule = faulty(server).faults.add(
        method="Upsert", collection=job.name, action=action, nth=3, times=times
    )
    job.finish()
    assert rule.fired == times


@pytest.mark.parametrize(("action", "times"), FAULTS.values(), ids=FAULTS)
def test_a_fault_while_progress_is_recorded_costs_no_row(
    database: Database, server: ServerPlace, action: Action, times: int
) -> None:
    job = Job.make(database, server, 1200, workers=1)
    # Behind the owner, the plan and the indexing that was: finished chunks.
    rule = faulty(server).faults.add(
        method="Upsert", collection="_qdrant_bridge", action=action, nth=4, times=times
    )
    job.finish()
    assert rule.fired == times


@pytest.mark.parametrize("method", ["Collections.Get", "Points.Count", "Collections.Update"])
def test_an_outage_at_the_very_end_is_waited_out(
    database: Database, server: ServerPlace, method: str
) -> None:
    """All rows are copied: only the index and the counts are left, and may take long."""
    job = Job.make(database, server, 600, workers=1)
    rules: list[Rule] = []

    def tell(event: Any) -> None:
        if isinstance(event, ChunkCopied) and not rules:
            rules.append(faulty(server).faults.add(method=method, action=unavailable(), times=3))

    report = backfill_with(database, server, "docs", tell=tell)
    assert report.problems == () and report.target_count == job.rows
    assert rules[0].fired == 3
    assert server.threshold("docs") not in (None, 0)


def test_retry_after_is_honoured(database: Database, server: ServerPlace) -> None:
    job = Job.make(database, server, 300, workers=1, more=SMALL)
    arrivals: list[tuple[float, int, int]] = []

    def record(method: str, request: Any) -> None:
        if method == "Points.Upsert" and request.collection_name == job.name:
            first = request.points[0].id.num
            arrivals.append((time.monotonic(), first, len(request.points)))

    faulty(server).requests.recorder = record
    faulty(server).faults.add(method="Upsert", collection=job.name, action=rate_limited(2))
    job.finish()
    again = [moment for moment, first, _size in arrivals if first == arrivals[0][1]]
    assert len(again) == 2
    assert again[1] - again[0] >= 2.0


def test_a_request_larger_than_the_limiters_budget_is_split(
    database: Database, server: ServerPlace
) -> None:
    job = Job.make(database, server, 512, workers=1)
    limiter = rate_limited(None)
    sizes: list[int] = []

    def at_most_20(request: Any, proceed: Any, stopping: threading.Event) -> Any:
        if len(request.points) > 20:
            return limiter(request, proceed, stopping)
        sizes.append(len(request.points))
        return proceed()

    faulty(server).faults.add(method="Upsert", collection=job.name, action=at_most_20, times=None)
    job.finish()
    assert sum(sizes) == 512 and max(sizes) == 16


def test_an_interrupted_wait_for_the_index_is_gone_on_with(
    database: Database, server: ServerPlace
) -> None:
    Job.make(database, server, 100)

    def interrupt(event: Any) -> None:
        if isinstance(event, Indexing):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backfill_with(database, server, "docs", tell=interrupt)
    assert server.threshold("docs") not in (None, 0)
    told: list[Any] = []
    report = backfill_with(database, server, "docs", tell=told.append)
    assert report.copied_now == 0 and report.index_seconds is not None
    assert any(isinstance(event, Indexing) for event in told)
    assert backfill_with(database, server, "docs").index_seconds is None


# --- outages ------------------------------------------------------------------------------------


def test_a_server_that_is_gone_for_a_while_is_waited_for(
    database: Database, server: ServerPlace
) -> None:
    job = Job.make(database, server, 3000, more=SMALL)
    with_fault = faulty(server)
    rule = with_fault.faults.add(
        method="Upsert", collection=job.name, action=delay(60.0), nth=5, times=None
    )
    running = job.background("--json")
    with_fault.faults.wait_fired(rule)
    with_fault.faults.clear()
    with_fault.kill()
    with_fault.start()
    assert running.finish().require().table["copied_now"] == 3000
    job.require_equal()


def test_an_outage_is_told_and_the_run_goes_on_when_it_ends(
    database: Database, any_server: ServerPlace
) -> None:
    more = ("--migration.batch-size", "50", "--migration.batch-delay", "20")
    job = Job.make(database, any_server, 2000, more=more)
    with TcpProxy(int(any_server.url.rpartition(":")[2])) as proxy:
        through = replace(job, url=f"http://127.0.0.1:{proxy.port}")
        running = through.background()
        running.wait_line("chunks to copy")
        proxy.refuse()
        proxy.cut()
        running.wait_line("waiting")
        proxy.heal()
        running.finish().require()
    job.require_equal()


@pytest.mark.long
def test_a_network_that_swallows_everything_is_noticed_and_waited_out(
    database: Database, server: ServerPlace
) -> None:
    """Nobody closes the connection: only the keepalive tells, within half a minute."""
    more = ("--migration.batch-size", "50", "--migration.batch-delay", "20")
    job = Job.make(database, server, 2000, more=more)
    with TcpProxy(faulty(server).port) as proxy:
        running = replace(job, url=f"http://127.0.0.1:{proxy.port}").background()
        running.wait_line("chunks to copy")
        proxy.black_hole()
        running.wait_line("waiting")
        proxy.heal()
        running.finish().require()
    job.require_equal()


# --- giving up ----------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_told_at_once(database: Database) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(1))")
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    outcome = bridge(
        "backfill", "pgvector", "--pg.url", database.url, "--pg.table", "docs", "--qdrant.url", url
    ).require(4)
    assert time.monotonic() - started < 20
    assert url in outcome.err and "is it running" in outcome.err


def test_patience_ends_and_the_run_can_be_gone_on_with(
    database: Database, server: ServerPlace
) -> None:
    job = Job.make(database, server, 1500, workers=1)
    waits: list[Waiting] = []
    stopped: list[bool] = []

    def tell(event: Any) -> None:
        if isinstance(event, ChunkCopied) and not stopped:
            stopped.append(True)
            faulty(server).kill()
        if isinstance(event, Waiting):
            waits.append(event)

    with pytest.raises(Unreachable) as gone:
        backfill_with(database, server, "docs", tell=tell, patience_seconds=1.0)
    assert gone.value.exit_code == 4
    assert any("indexing is still off" in wait.reason for wait in waits)
    faulty(server).start()
    report = backfill_with(database, server, "docs", tell=tell)
    assert 0 < report.copied_now < job.rows
    assert report.target_count == job.rows
    assert server.threshold("docs") not in (None, 0)
    assert differences(database, "docs", server.points("docs"), Expectation()) == []


# --- what is written to changes -----------------------------------------------------------------


def test_a_collection_deleted_underneath_stops_the_run(
    database: Database, any_server: ServerPlace
) -> None:
    more = ("--migration.batch-size", "50", "--migration.batch-delay", "50")
    job = Job.make(database, any_server, 1500, workers=1, more=more)
    job.run("--shard", "0/2").require()
    assert job.chunks() != {}
    rest = ("--shard", "1/2")
    running = job.background(*rest)
    running.wait_line("chunks to copy")
    any_server.client.delete_collection(job.name)
    outcome = running.finish().require(3)
    assert "TARGET_CHANGED" in outcome.err and "--migration.restart" in outcome.err
    assert not any_server.exists(job.name)
    assert "TARGET_CHANGED" in job.run(*rest).require(3).err
    assert not any_server.exists(job.name)
    job.run("--migration.restart").require()
    job.require_equal()


def test_two_backfills_at_once_do_each_other_no_harm(
    database: Database, any_server: ServerPlace
) -> None:
    job = Job.make(database, any_server, 3000)
    with job.start("--json") as one, job.start("--json") as other:
        tables = [running.finish().require().table for running in (one, other)]
    assert all(table["target_count"] == 3000 for table in tables)
    assert len(any_server.records(job.name, "plan")) == 1
    job.require_equal()


def test_a_second_backfill_into_an_edge_directory_is_refused(
    database: Database, tmp_path: Path
) -> None:
    job = Job.make(
        database, EdgePlace(tmp_path / "edge"), 3000, more=("--migration.batch-delay", "50")
    )
    with job.start() as first:
        first.wait_line("chunks to copy")
        refused = job.run().require(2)
        assert f"in use by process {first.pid}" in refused.err
        first.finish().require()
    job.require_equal()
