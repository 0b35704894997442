"""`teardown`: what the bridge made goes, what it copied stays."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest

from tests.support.command import bridge
from tests.support.daemons import Pipeline, wait_streaming
from tests.support.databases import Database
from tests.support.places import STATE, ServerPlace


@pytest.fixture
def pipeline(database: Database, place: ServerPlace, tmp_path: Path) -> Pipeline:
    return Pipeline.make(database, place, tmp_path)


def _streamed(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def _slots(pipeline: Pipeline) -> list[str]:
    rows = pipeline.database.execute(
        f"SELECT slot_name::text FROM pg_replication_slots WHERE slot_name = '{pipeline.slot}'"
    )
    return [name for (name,) in rows]


def _publications(database: Database) -> list[str]:
    return [name for (name,) in database.execute("SELECT pubname::text FROM pg_publication")]


def test_slot_publication_and_records_go_and_points_stay(pipeline: Pipeline) -> None:
    _streamed(pipeline)
    assert _slots(pipeline) and _publications(pipeline.database)
    report = pipeline.command("teardown", "--yes", "--json").require().report
    assert report["version"] == 1
    assert report["pipeline"] == pipeline.name
    assert f"slot {pipeline.slot}" in report["removed"]
    assert _slots(pipeline) == []
    assert _publications(pipeline.database) == []
    assert pipeline.place.points(STATE) == {}
    assert pipeline.place.count(pipeline.name) == pipeline.rows


def test_it_may_be_repeated(pipeline: Pipeline) -> None:
    _streamed(pipeline)
    pipeline.command("teardown", "--yes").require()
    again = pipeline.command("teardown", "--yes").require()
    assert "there is nothing to remove" in again.err


def test_before_anything_was_made_there_is_nothing_to_remove(pipeline: Pipeline) -> None:
    outcome = pipeline.command("teardown", "--yes").require()
    assert "there is nothing to remove" in outcome.err
    assert not pipeline.place.exists(STATE)


def test_after_it_the_pipeline_may_begin_again(pipeline: Pipeline) -> None:
    _streamed(pipeline)
    pipeline.command("teardown", "--yes").require()
    _streamed(pipeline)
    assert pipeline.place.count(pipeline.name) == pipeline.rows


def test_without_yes_and_a_terminal_nothing_is_removed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    _streamed(pipeline)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    outcome = pipeline.command("teardown").require(2)
    assert "--yes" in outcome.err
    assert pipeline.slot in outcome.err
    assert _slots(pipeline) == [pipeline.slot]
    assert pipeline.place.records(pipeline.name, "stream")


def test_a_live_daemon_is_not_torn_down(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        wait_streaming(daemon)
        outcome = pipeline.command("teardown", "--yes").require(3)
        assert "LEASE_HELD" in outcome.err
        assert f"process {daemon.pid} on" in outcome.err
        assert _slots(pipeline) == [pipeline.slot]
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def test_a_publication_of_the_users_stays(pipeline: Pipeline) -> None:
    database = pipeline.database
    database.execute(f"CREATE PUBLICATION {pipeline.slot} FOR TABLE docs")
    _streamed(pipeline)
    pipeline.command("teardown", "--yes").require()
    assert _slots(pipeline) == []
    assert _publications(database) == [pipeline.slot]


def test_another_pipelines_records_stay(pipeline: Pipeline, place: ServerPlace) -> None:
    database = pipeline.database
    database.execute("CREATE TABLE other (id int PRIMARY KEY, v vector(3))")
    database.execute("INSERT INTO other VALUES (1, '[1,2,3]')")
    other = place.name("other").lower()
    bridge(
        "backfill", "pgvector", f"--pg.url={database.url}", "--pg.table=other",
        f"--qdrant.url={place.url}", f"--qdrant.collection={other}",
    ).require()  # fmt: skip
    _streamed(pipeline)
    pipeline.command("teardown", "--yes").require()
    assert place.records(other, "chunk")
    assert place.records("", "owner").keys() == {other}
