"""A stream begun again after its slot was lost, and tables that come to a stream later."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.command import Running
from tests.support.daemons import Pipeline, wait_streaming
from tests.support.databases import Database
from tests.support.jobs import KILLED
from tests.support.places import ServerPlace
from tests.support.resyncs import (
    anything,
    configure,
    copy,
    fill,
    made,
    require_equal,
    run,
)
from tests.support.writers import Statement, Writers


@pytest.fixture
def pipeline(database: Database, place: ServerPlace, tmp_path: Path) -> Pipeline:
    return made(database, place, tmp_path)


# --- a lost slot -----------------------------------------------------------------------------------


def lose_slot(pipeline: Pipeline) -> None:
    """Drop it, and change what nobody will ever tell."""
    execute = pipeline.database.execute
    execute("SELECT pg_drop_replication_slot(%s)", (pipeline.slot,))
    execute("DELETE FROM docs WHERE id % 5 = 0")
    execute("UPDATE docs SET n = 9 WHERE id % 3 = 0")
    execute("INSERT INTO docs SELECT id + 20000, 'unseen', n, v FROM docs WHERE id < 100")


def test_after_a_lost_slot_everything_is_begun_again_if_it_is_asked_for(
    pipeline: Pipeline,
) -> None:
    copy(pipeline)
    lose_slot(pipeline)
    with run(pipeline) as running:
        assert "SLOT_LOST" in running.finish().require(3).err
    assert "--yes" in pipeline.command("resync", "--all").require(2).err
    with Writers(pipeline.database, anything, seed=4) as writers:
        writers.await_written(20)
        pipeline.command("resync", "--all", "--yes").require()
        assert pipeline.status()["stop"] is None
        with run(pipeline) as running:
            wait_streaming(running)
            writers.await_written(20)
    with run(pipeline) as running:
        wait_streaming(running)
        pipeline.wait_now()
        require_equal(pipeline)


@pytest.mark.parametrize("failpoint", ["extension.after_drop", "extension.before_record"])
def test_a_new_beginning_that_was_killed_is_repeated(pipeline: Pipeline, failpoint: str) -> None:
    copy(pipeline)
    lose_slot(pipeline)
    again = ("resync", "--all", "--yes", "--config", pipeline.config)
    with Running(*again, failpoints=f"{failpoint}:kill@1") as dying:
        assert dying.finish().code == KILLED
    with run(pipeline) as refused:
        refused.finish().require(3)
    pipeline.command("resync", "--all", "--yes").require()
    require_equal(pipeline)


@pytest.mark.parametrize("change", ["publication", "collection", "checkpoint"])
def test_other_losses_are_mended_in_the_same_way(pipeline: Pipeline, change: str) -> None:
    copy(pipeline)
    if change == "publication":
        pipeline.database.execute(f"ALTER PUBLICATION {pipeline.slot} DROP TABLE docs")
        pipeline.database.execute("DELETE FROM docs WHERE id < 300")
        pipeline.database.execute(f"ALTER PUBLICATION {pipeline.slot} ADD TABLE docs")
    elif change == "collection":
        pipeline.place.client.delete_collection(f"{pipeline.name}_docs")
    else:
        pipeline.database.execute("DELETE FROM docs WHERE id < 300")
        pipeline.database.execute(
            "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", (pipeline.slot,)
        )
    with run(pipeline) as running:
        running.finish().require(3)
    pipeline.command("resync", "--all", "--yes").require()
    require_equal(pipeline)


# --- tables that come later ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failpoint", ["", "extension.after_publication", "extension.before_record"]
)
def test_a_table_added_later_is_copied_into_the_running_stream(
    pipeline: Pipeline, tmp_path: Path, failpoint: str
) -> None:
    copy(pipeline)
    fill(pipeline.database, "notes", 700)
    configure(
        tmp_path, pipeline.database, pipeline.place, pipeline.name, "public.docs", "public.notes"
    )
    if failpoint:
        with run(pipeline, f"{failpoint}:kill@1") as dying:
            assert dying.finish().code == KILLED

    def choose(numbers: random.Random, connection: int) -> Statement:
        statement, values = anything(numbers, connection)
        return statement.replace("docs", "notes"), values

    with (
        Writers(pipeline.database, choose, seed=5) as writers,
        Running("sync", "postgres", "--config", pipeline.config) as running,
    ):
        running.wait_line('"request_ended"')
        writers.await_written(20)
    with run(pipeline) as running:
        wait_streaming(running)
        pipeline.wait_now()
        require_equal(pipeline, "notes")
        require_equal(pipeline)
        report = pipeline.status()
    assert report["complete"] is True
    assert set(report["tables"]) == {"public.docs", "public.notes"}


def test_a_table_made_anew_is_followed_again(pipeline: Pipeline) -> None:
    copy(pipeline)
    pipeline.database.execute("DROP TABLE docs")
    fill(pipeline.database, rows=100)
    with run(pipeline) as running:
        running.wait_line('"request_ended"')
        pipeline.database.execute("UPDATE docs SET n = 4 WHERE id < 10")
        pipeline.wait_now()
        require_equal(pipeline)


def test_a_publication_of_somebody_else_is_not_altered(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.database.execute(f"CREATE PUBLICATION {pipeline.slot} FOR TABLE docs")
    copy(pipeline)
    fill(pipeline.database, "notes", 10)
    configure(
        tmp_path, pipeline.database, pipeline.place, pipeline.name, "public.docs", "public.notes"
    )
    with run(pipeline) as running:
        outcome = running.finish().require(2)
    assert f"ALTER PUBLICATION {pipeline.slot} ADD TABLE public.notes;" in outcome.err
