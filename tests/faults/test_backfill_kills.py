"""A backfill that is killed, again and again: the next run goes on, and the end is exact.

Whoever is killed, and wherever: no row is lost, none is extra, and no finished chunk is read again.
The proof of the last is in `Job.finish`: the records of finished chunks stay as they were, to the
digit of their durations, and the run reports exactly the other rows as copied.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.postgres.embedded import EmbeddedPostgres
from tests.conftest import Database
from tests.support.command import PATIENCE_SECONDS, Running
from tests.support.databases import fresh_database
from tests.support.jobs import KILLED, Job, await_end
from tests.support.places import (
    EDGE,
    PLACES,
    SERVERS,
    TEST_SERVER,
    EdgePlace,
    Place,
    ServerPlace,
    open_place,
    open_server,
)
from tests.support.processes import await_exit
from tests.support.qdrant_server import delay

SEED = 20_240_601


@pytest.fixture(params=(TEST_SERVER, pytest.param(EDGE, marks=pytest.mark.long)))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture(params=PLACES)
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture(params=SERVERS)
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerPlace]:
    with open_place(request.param, tmp_path) as opened:
        assert isinstance(opened, ServerPlace)
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerPlace]:
    with open_server(tmp_path) as opened:
        yield opened


# --- the parent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "failpoint"),
    [
        (TEST_SERVER, "backfill.after_plan:kill@1"),
        (TEST_SERVER, "backfill.before_checkpoint:kill@1"),
        (TEST_SERVER, "backfill.before_checkpoint:kill@3"),
        (TEST_SERVER, "backfill.after_checkpoint:kill@1"),
        (EDGE, "backfill.before_checkpoint:kill@2"),
        pytest.param(EDGE, "backfill.after_plan:kill@1", marks=pytest.mark.long),
        pytest.param(EDGE, "backfill.after_checkpoint:kill@2", marks=pytest.mark.long),
    ],
)
def test_a_parent_killed_at_a_failpoint_is_gone_on_from(
    database: Database, tmp_path: Path, kind: str, failpoint: str
) -> None:
    with open_place(kind, tmp_path) as place:
        kill_and_go_on(Job.make(database, place, 1600, workers=1), failpoint)


def kill_and_go_on(job: Job, failpoint: str) -> None:
    with job.start(failpoints=failpoint) as running:
        assert running.finish().code == KILLED
    name, _, number = failpoint.partition(":kill@")
    finished = int(number) - ("after_checkpoint" not in name) if "checkpoint" in name else 0
    assert len(job.chunks()) == finished
    job.finish()


def test_a_parent_killed_at_any_checkpoint_in_a_row_is_gone_on_from(
    database: Database, server: ServerPlace
) -> None:
    job = Job.make(database, server, 1600, workers=1)
    for finished in range(1, 4):
        with job.start(failpoints="backfill.after_checkpoint:kill@1") as running:
            assert running.finish().code == KILLED
        assert len(job.chunks()) == finished
    job.finish()


def test_workers_end_when_their_parent_is_killed(database: Database, server: ServerPlace) -> None:
    job = Job.make(database, server, 3000)
    assert server.server is not None
    rule = server.server.faults.add(
        method="Upsert", collection=job.name, action=delay(60.0), times=None
    )
    with job.start() as running:
        server.server.faults.wait_fired(rule, 2, PATIENCE_SECONDS)
        workers = running.workers
        running.kill()
        await_end(workers)
        assert running.finish().code == KILLED
    assert len(workers) == 2
    server.server.kill()  # drops the requests that are held
    server.server.start()
    server.server.faults.clear()
    job.finish()


# --- workers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failpoint",
    ["backfill.read:kill@3", "backfill.mid_chunk:kill@2", "backfill.after_chunk:kill@1"],
)
def test_workers_that_die_again_and_again_stop_the_run_which_can_be_gone_on_with(
    database: Database, place: Place, failpoint: str
) -> None:
    job = Job.make(database, place, 1600, more=("--migration.batch-size", "100"))
    # Every worker inherits the failpoint, and so does each that takes its place.
    with job.start(failpoints=failpoint) as running:
        outcome = running.finish()
    if outcome.code == 3:
        assert "WORKER_DIED" in outcome.err
    else:
        outcome.require()
    assert re.search(r"worker \d+ died; what it had is read again", outcome.err)
    job.finish()


def test_a_killed_worker_is_replaced_and_the_run_goes_on(
    database: Database, any_place: Place
) -> None:
    more = ("--migration.batch-size", "50", "--migration.batch-delay", "20")
    job = Job.make(database, any_place, 3000, more=more)
    with job.start() as running:
        running.wait_line("chunks to copy")
        victim = first_worker(running)
        os.kill(victim, signal.SIGKILL)
        outcome = running.finish().require()
    assert f"worker {victim} died" in outcome.err
    job.require_equal()


def first_worker(running: Running) -> int:
    """The pid of a worker, once there is one."""
    while not running.workers:
        assert running.process.poll() is None
    return running.workers[0]


# --- at random moments --------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [6, pytest.param(30, marks=pytest.mark.long)])
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(
    database: Database, server: ServerPlace, kills: int
) -> None:
    """A moment is a number of requests that have arrived; who dies is drawn as well."""
    draw = random.Random(SEED)
    print(f"seed {SEED}")
    more = ("--migration.batch-size", "50", "--migration.batch-delay", "5")
    job = Job.make(database, server, 2500 * kills, more=more)
    job.plan_small_chunks()
    chunks = 0
    for number in range(kills):
        before = job.chunks()
        kill_once(job, draw, at_upsert=draw.randint(5, 60))
        after = job.chunks()
        assert before.items() <= after.items(), f"kill {number}: a finished chunk was read again"
        chunks = len(after)
    report = job.finish()
    assert 0 < chunks < report["chunks"], "the kills did not hit the copy in its middle"


def kill_once(job: Job, draw: random.Random, at_upsert: int) -> None:
    """Run until so many upserts have arrived, and kill a worker or the parent."""
    assert isinstance(job.place, ServerPlace) and job.place.server is not None
    requests = job.place.server.requests
    requests.reset()
    with job.start() as running:
        while running.process.poll() is None and requests.count("Upsert") < at_upsert:
            with contextlib.suppress(TimeoutError):
                requests.wait_for("Upsert", at_upsert, timeout_seconds=1.0)
        assert running.process.poll() is None, "the copy ended before it could be killed"
        workers = running.workers
        victim = draw.choice([running.pid, running.pid, *workers])
        os.kill(victim, signal.SIGKILL)
        if victim != running.pid:
            await_exit(victim)
            running.kill()  # soon after: its replacement has hardly begun
        await_end(workers)
        assert running.finish().code in (KILLED, 0)


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.long)])
def test_kills_at_random_moments_leave_an_edge_directory_sound(
    database: Database, tmp_path: Path, kills: int
) -> None:
    """The engine dies with the parent here, in the middle of whatever it was writing."""
    draw = random.Random(SEED)
    print(f"seed {SEED}")
    more = ("--migration.batch-size", "50", "--migration.batch-delay", "10")
    job = Job.make(database, EdgePlace(tmp_path / "edge"), 1000 * kills, more=more)
    job.plan_small_chunks()
    for _ in range(kills):
        with job.start() as running:
            running.wait_line("chunks to copy")
            workers = [first_worker(running)]
            try:
                running.finish(timeout_seconds=draw.uniform(0.3, 1.5))
            except subprocess.TimeoutExpired:
                running.kill()
            await_end(workers)
    job.finish()


def test_finished_chunks_are_not_read_again_says_postgres_log(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with fresh_database(own_postgres) as database, open_server(tmp_path) as server:
        job = Job.make(database, server, 3000, workers=1)
        with job.start(failpoints="backfill.after_checkpoint:kill@2") as running:
            assert running.finish().code == KILLED
        done = len(job.chunks())
        database.execute(f"ALTER DATABASE {database.name} SET log_statement = 'all'")
        seen = own_postgres.log_path.stat().st_size
        report = job.finish()
        with own_postgres.log_path.open() as log:
            log.seek(seen)
            copies = [line for line in log if "statement: COPY (SELECT" in line]
    assert done == 2
    assert len(copies) == report["chunks"] - done


# --- asked to stop ------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_indexing_restored_and_it_can_be_gone_on_with(
    database: Database, any_server: ServerPlace, number: signal.Signals, code: int
) -> None:
    more = ("--migration.batch-size", "50", "--migration.batch-delay", "50")
    job = Job.make(database, any_server, 3000, more=more)
    with job.start() as running:
        running.wait_line("chunks to copy")
        workers = [first_worker(running)]
        assert any_server.threshold(job.name) == 0
        running.signal(number)
        outcome = running.finish().require(code)
        await_end(workers)
    assert "interrupted; what is finished is kept" in outcome.err
    assert "Traceback" not in outcome.err
    assert any_server.threshold(job.name) not in (None, 0)
    job.finish()


def test_a_kill_leaves_indexing_off_and_the_next_run_restores_it(
    database: Database, any_server: ServerPlace
) -> None:
    job = Job.make(database, any_server, 1500)
    with job.start(failpoints="backfill.after_checkpoint:kill@1") as running:
        assert running.finish().code == KILLED
    assert any_server.threshold(job.name) == 0
    job.finish()
    assert any_server.threshold(job.name) not in (None, 0)
