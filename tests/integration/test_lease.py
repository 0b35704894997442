"""Two daemons of one pipeline, as processes: one writes, whatever happens to it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.command import ANY_PORT, Running
from tests.support.daemons import Pipeline, http_address, wait_streaming
from tests.support.databases import Database
from tests.support.places import ServerPlace
from tests.support.qdrant_server import delay


@pytest.fixture
def pipeline(database: Database, place: ServerPlace, tmp_path: Path) -> Pipeline:
    return Pipeline.make(database, place, tmp_path)


def test_a_second_daemon_refuses_and_names_the_first(pipeline: Pipeline) -> None:
    with pipeline.run() as first:
        wait_streaming(first)
        with pipeline.run() as second:
            outcome = second.finish(20).require(3)
        assert "LEASE_HELD" in outcome.err
        assert f"process {first.pid} on" in outcome.err
        with Running("sync", "postgres", "--config", pipeline.config) as third:
            assert "LEASE_HELD" in third.finish(20).require(3).err
        # The first was not disturbed.
        pipeline.database.execute("INSERT INTO docs VALUES (1000, 'late', '[1,2,3]')")
        pipeline.wait_now()
        assert pipeline.place.count(pipeline.name) == pipeline.rows + 1
        first.signal(signal.SIGTERM)
        first.finish().require()


def test_a_second_daemon_with_the_same_port_names_the_first_not_the_port(
    pipeline: Pipeline,
) -> None:
    with pipeline.run() as first:
        address = {ANY_PORT: http_address(first)}
        wait_streaming(first)
        with pipeline.run(environment=address) as second:
            outcome = second.finish(20).require(3)
        assert "LEASE_HELD" in outcome.err and f"process {first.pid} on" in outcome.err
        arguments = ("sync", "postgres", "--config", pipeline.config)
        with Running(*arguments, environment=address) as third:
            assert "LEASE_HELD" in third.finish(20).require(3).err


def test_a_backfill_beside_a_live_daemon_refuses(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        copy = pipeline.command("backfill", "pgvector", "--migration.restart").require(3)
        assert "LEASE_HELD" in copy.err
        shard = pipeline.command("backfill", "pgvector", "--shard=0/2").require(3)
        assert "LEASE_HELD" in shard.err
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()
    pipeline.command("backfill", "pgvector").require()


def test_after_a_clean_end_the_next_daemon_starts_at_once(pipeline: Pipeline) -> None:
    with pipeline.run() as first:
        wait_streaming(first)
        first.signal(signal.SIGTERM)
        first.finish().require()
    assert pipeline.lease()["holder"] == ""
    with pipeline.run() as second:
        wait_streaming(second)
        second.signal(signal.SIGTERM)
        assert "waiting_for_lease" not in second.finish().require().err


def test_a_killed_daemon_is_taken_over_at_once(pipeline: Pipeline) -> None:
    with pipeline.run() as first:
        wait_streaming(first)
        first.kill()
        first.finish()
    assert pipeline.lease()["pid"] == first.pid
    with pipeline.run() as second:
        wait_streaming(second)
        second.signal(signal.SIGTERM)
        assert "waiting_for_lease" not in second.finish().require().err


def test_a_stopped_daemon_that_was_taken_over_writes_nothing_and_ends(pipeline: Pipeline) -> None:
    database, place = pipeline.database, pipeline.place
    with pipeline.run() as first:
        wait_streaming(first)
        first.signal(signal.SIGSTOP)
        # It is alive and holds the slot: what frees that is Postgres' own timeout, or this.
        database.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            f" WHERE slot_name = '{pipeline.slot}'"
        )
        pipeline.wait_silent()
        with pipeline.run() as second:
            second.wait_line("waiting_for_lease", 30)
            wait_streaming(second)
            database.execute("UPDATE docs SET body = 'by the second' WHERE id = 1")
            pipeline.wait_now()
            assert place.server is not None
            written: list[str] = []
            place.server.requests.recorder = lambda method, request: (
                written.append(request.collection_name) if method == "Points.Upsert" else None
            )
            first.signal(signal.SIGCONT)
            outcome = first.finish(30).require(3)
            assert "LEASE_LOST" in outcome.err
            assert f"process {second.pid} on" in outcome.err
            place.server.requests.recorder = None
            # It asked whether it still holds the lease, and left the data alone.
            assert written and set(written) == {"_qdrant_bridge"}
            assert place.points(pipeline.name)[1].payload["body"] == "by the second"
            # The second one never noticed.
            assert pipeline.lease()["pid"] == second.pid
            assert pipeline.status()["stop"] is None
            second.signal(signal.SIGTERM)
            second.finish().require()


def test_workers_of_a_frozen_copy_write_no_more_than_its_lease_allows(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    """They are processes of their own, which nobody has stopped."""
    pipeline = Pipeline.make(database, place, tmp_path, rows=20_000)
    assert place.server is not None
    # So slow that the copy lasts longer than the lease.
    rule = place.server.faults.add(
        method="Upsert", collection=pipeline.name, action=delay(1.0), times=None
    )
    with pipeline.run() as first:
        place.server.faults.wait_fired(rule, 2)
        first.signal(signal.SIGSTOP)
        pipeline.wait_silent()
        place.server.requests.reset()
        with pytest.raises(TimeoutError):
            place.server.requests.wait_for("Upsert", 1, timeout_seconds=3.0)
        assert 0 < place.count(pipeline.name) < pipeline.rows
        place.server.faults.clear()
        first.signal(signal.SIGCONT)
        # Nobody has come in between, so it goes on.
        wait_streaming(first)
        assert place.count(pipeline.name) == pipeline.rows


def test_a_daemon_whose_target_was_away_goes_on(pipeline: Pipeline) -> None:
    place = pipeline.place
    assert place.server is not None
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        place.server.stop()
        pipeline.database.execute("INSERT INTO docs VALUES (1000, 'late', '[1,2,3]')")
        daemon.wait_line('"waiting"', 60)
        place.server.start()
        pipeline.wait_now()
        assert place.count(pipeline.name) == pipeline.rows + 1
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def test_the_record_names_no_more_than_the_process(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        record = pipeline.lease()
        assert set(record) == {
            "holder", "stamp", "host", "pid", "machine", "space", "started", "renewed",
        }  # fmt: skip
        assert record["pid"] == daemon.pid
        taken = json.loads(daemon.wait_line("lease_taken"))
        assert taken["pipeline"] == pipeline.name
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()
