"""`status` of a stream: the report, and waiting for a position."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from bridge.positions import Lsn
from tests.support.command import Running, bridge
from tests.support.daemons import Pipeline, wait_streaming
from tests.support.databases import Database
from tests.support.places import ServerPlace


@pytest.fixture
def pipeline(database: Database, place: ServerPlace, tmp_path: Path) -> Pipeline:
    return Pipeline.make(database, place, tmp_path)


def test_the_report_of_a_stream(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        pipeline.database.execute("INSERT INTO docs VALUES (1000, 'late', '[1,2,3]')")
        pipeline.database.execute("DELETE FROM docs WHERE id = 1")
        position = pipeline.database.execute("SELECT pg_current_wal_lsn()::text")[0][0]
        pipeline.wait_now()
        report = pipeline.status()
        assert set(report) == {
            "version", "pipeline", "phase", "complete", "checkpoint_lsn", "source_lsn", "lag",
            "slot", "tables", "dead_letters", "requests", "stop", "holder",
        }  # fmt: skip
        assert report["phase"] == "streaming"
        assert report["complete"] is True
        assert Lsn.parse(report["checkpoint_lsn"]) >= Lsn.parse(position)
        assert Lsn.parse(report["source_lsn"]) >= Lsn.parse(report["checkpoint_lsn"])
        assert set(report["lag"]) == {"bytes", "seconds"}
        assert report["slot"]["active"] is True
        assert report["slot"]["wal_status"] == "reserved"
        assert report["slot"]["retained_bytes"] >= 0
        table = report["tables"]["public.docs"]
        assert table["collection"] == pipeline.name
        assert table["rows_read"] == pipeline.rows
        assert (table["upserts"], table["deletes"]) == (pipeline.rows + 1, 1)
        assert report["stop"] is None
        assert report["holder"]["alive"] is True
        assert f"process {daemon.pid} on " in report["holder"]["process"]
        told = pipeline.command("status").require().out
        assert f"pipeline {pipeline.name}: streaming" in told
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()
    after = pipeline.status()
    assert (after["phase"], after["stop"]) == ("stopped", None)
    assert after["slot"]["active"] is False
    told = pipeline.command("status").require().out
    assert f"pipeline {pipeline.name}: ended in order" in told
    assert "is not read by anybody" in told
    assert after["holder"] == {"process": None, "alive": False}


def test_a_daemon_that_was_killed_is_not_shown_as_streaming(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        daemon.kill()
    report = pipeline.status()
    assert (report["phase"], report["holder"]["alive"]) == ("streaming", False)
    told = pipeline.command("status").require().out
    assert "no daemon is running (the last one was streaming" in told


def test_without_postgres_the_rest_is_reported_with_a_note(pipeline: Pipeline) -> None:
    _prepared(pipeline)
    settings = json.loads(Path(pipeline.config).read_text())
    settings["postgres"]["url"] = "postgresql://nobody@127.0.0.1:1/none"
    Path(pipeline.config).write_text(json.dumps(settings))
    report = pipeline.status()
    assert (report["source_lsn"], report["lag"], report["slot"]) == (None, None, None)
    assert report["checkpoint_lsn"]
    assert report["source_note"]
    del settings["postgres"]
    Path(pipeline.config).write_text(json.dumps(settings))
    assert "no Postgres url" in pipeline.status()["source_note"]
    assert "no Postgres url" in pipeline.command("status").require().out


def test_a_stop_is_in_the_report_until_the_next_start(pipeline: Pipeline) -> None:
    _prepared(pipeline)
    pipeline.database.execute(f"DROP PUBLICATION {pipeline.slot}")
    with pipeline.run() as daemon:
        assert "PUBLICATION_CHANGED" in daemon.finish().require(3).err
    report = pipeline.status()
    assert report["phase"] == "stopped"
    assert report["stop"]["code"] == "PUBLICATION_CHANGED"
    assert report["stop"]["message"] and report["stop"]["hint"]
    assert "PUBLICATION_CHANGED" in pipeline.command("status").require().out


def test_what_was_asked_and_is_not_done_is_listed(pipeline: Pipeline) -> None:
    _prepared(pipeline)
    assert pipeline.status()["requests"] == []
    pipeline.command("resync", "public.docs", "--no-wait").require()
    (asked,) = pipeline.status()["requests"]
    assert (asked["action"], asked["table"], asked["stage"]) == ("resync", "public.docs", "asked")
    assert "asked: resync public.docs" in pipeline.command("status").require().out
    with pipeline.run() as daemon:
        daemon.wait_line('"request_ended"')
        assert pipeline.status()["requests"] == []


def test_waiting_returns_once_a_change_is_in_qdrant(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        for number in range(1000, 1010):
            pipeline.database.execute(f"INSERT INTO docs VALUES ({number}, 'x', '[1,2,3]')")
            pipeline.wait_now()
            assert number in pipeline.place.points(pipeline.name)
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def test_waiting_gives_up_after_its_timeout(pipeline: Pipeline) -> None:
    _prepared(pipeline)
    pipeline.database.execute("INSERT INTO docs VALUES (1000, 'late', '[1,2,3]')")
    outcome = pipeline.command("status", "--wait", "now", "--timeout", "0.3").require(4)
    assert "was not reached within 0.3 s" in outcome.err
    assert "stopped" in outcome.err
    outcome = pipeline.command("status", "--wait=FFFF/0", "--timeout=0").require(4)
    assert "FFFF/0" in outcome.err
    # What has been reached needs no daemon.
    pipeline.command("status", "--wait=0/1", "--timeout=0").require()


def test_waiting_for_something_else_is_refused(pipeline: Pipeline) -> None:
    _prepared(pipeline)
    outcome = pipeline.command("status", "--wait", "yesterday").require(2)
    assert "'yesterday' is no position" in outcome.err
    assert "--wait" in pipeline.command("status", "--timeout", "3").require(2).err
    assert "--watch" in pipeline.command("status", "--watch", "--json").require(2).err


def test_watching_goes_on_until_it_is_interrupted(pipeline: Pipeline) -> None:
    _prepared(pipeline)
    with Running("status", "--watch", "--config", pipeline.config) as watching:
        watching.wait_out(f"pipeline {pipeline.name}: ended in order")
        watching.signal(signal.SIGINT)
        watching.finish().require()


def test_a_pipeline_that_has_not_begun_has_no_status(pipeline: Pipeline) -> None:
    outcome = bridge("status", "--config", pipeline.config).require(2)
    assert "has not begun" in outcome.err


def _prepared(pipeline: Pipeline) -> None:
    """A pipeline that has been copied, has streamed, and was told to stop."""
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()
