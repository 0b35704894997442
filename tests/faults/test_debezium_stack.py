"""Real Kafka, Connect and Debezium: whatever happens to them and to us, the collection ends as the table.

One stack serves all of this file, on the JVM; each test has a database, a connector, topics and a group
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import models

from sync.kafka_partition import Partition
from tests.support.kafka_member import Member
from tests.support.kafka_pipeline import KafkaPipeline, change
from tests.support.kafka_stack import Stack, reset_group, stack, until
from tests.support.places import ServerPlace
from tests.support.qdrant_server import QdrantServer
from tests.support.writers import Writers


@pytest.fixture(scope="module")
def jvm() -> Iterator[Stack]:
    with stack() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ServerPlace]:
    with QdrantServer(tmp_path / "qdrant") as server:
        place = ServerPlace(server.url, server)
        yield place
        place.close()


def fill(pipeline: KafkaPipeline, rows: int = 100) -> None:
    pipeline.sql(
        "INSERT INTO docs SELECT i, 't' || i, i, long(i::text), vec(i)"
        f" FROM generate_series(1, {rows}) i"
    )


def test_a_table_is_copied_and_followed_through_its_life(
    jvm: Stack, place: ServerPlace, tmp_path: Path
) -> None:
    pipeline = KafkaPipeline.make(jvm, place, tmp_path, rest=True)
    fill(pipeline)
    connector = pipeline.connect()
    pipeline.command("doctor").require(0)
    with Writers(pipeline.database, change, seed=7) as writers:
        with pipeline.run() as running:
            running.wait_line('"assigned"')
            writers.await_written(150)
            running.kill()
            running.finish()
        writers.await_written(50)
        with pipeline.run() as running:
            running.wait_line('"assigned"')
            writers.await_written(50)
    with pipeline.run() as running:
        pipeline.require_equal()
        # DDL: no event tells of it.
        pipeline.sql(
            "ALTER TABLE docs ADD COLUMN extra int DEFAULT 7",
            "UPDATE docs SET title = 'after ADD COLUMN'",
        )
        pipeline.require_equal()
        pipeline.sql(
            "ALTER TABLE docs RENAME COLUMN extra TO more",
            "UPDATE docs SET more = 8",
            "ALTER TABLE docs ALTER COLUMN more TYPE text",
            "UPDATE docs SET more = 'eight'",
            "ALTER TABLE docs DROP COLUMN more",
            "ALTER TABLE docs ADD COLUMN more text",
            "UPDATE docs SET title = 'after DROP and ADD'",
        )
        pipeline.require_equal()
        connector.stop()
        pipeline.sql(
            "INSERT INTO docs SELECT i, 't', 1, 'x', vec(i) FROM generate_series(1000, 4000) i",
            "UPDATE docs SET v = NULL WHERE id % 7 = 0",
            "DELETE FROM docs WHERE id > 3900",
        )
        connector.resume()
        pipeline.require_equal()
        pipeline.sql("TRUNCATE docs", "INSERT INTO docs VALUES (1, 'again', 1, 'b', vec(1))")
        pipeline.require_equal()
        report = pipeline.status()
        assert report["phase"] == "streaming"
        assert report["kafka"]["processes"] == 1
        assert report["tables"]["public.docs"]["deletes"] > 0
        running.process.terminate()
        running.finish().require(0)
    assert pipeline.status()["phase"] == "stopped"
    pipeline.drop()


def test_it_outlives_brokers_and_workers(jvm: Stack, place: ServerPlace, tmp_path: Path) -> None:
    pipeline = KafkaPipeline.make(jvm, place, tmp_path, kafka={"existing_rows": "snapshot"})
    fill(pipeline)
    connector = pipeline.connect(**{"snapshot.mode": "initial"})
    with pipeline.run() as running, Writers(pipeline.database, change, seed=11) as writers:
        running.wait_line('"assigned"')
        writers.await_written(50)
        jvm.kill("connectdistributed")
        writers.await_written(50)
        connector.wait_running()
        jvm.kill("kafka.kafka")
        writers.await_written(50)
    with pipeline.run() as running:
        connector.wait_running()
        pipeline.require_equal(90)
        # Rewound by hand, everything comes once more.
        running.process.terminate()
        running.finish().require(0)
    reset_group(jvm.kafka, f"bridge_{pipeline.name}", {Partition(pipeline.topic.name, 0): 0})
    with pipeline.run() as running:
        running.wait_line('"rewound"')
        pipeline.sql("UPDATE docs SET title = 'after the rewind'")
        pipeline.require_equal()
        # A message that nobody can read is set aside, and the others are not.
        pipeline.topic.send([(b'{"id":5}', b"\xff not JSON"), (b"\x00", b'{"op":"x","source":{}}')])
        pipeline.sql("INSERT INTO docs VALUES (9999, 'behind it', 1, 'b', vec(1))")
        pipeline.require_equal()
        letters = pipeline.command("dead-letters", "list", "--json").require().report
        assert len(letters["dead_letters"]) == 2
    pipeline.drop()


def test_a_group_of_three_ends_exact_after_kills_and_truncates(
    jvm: Stack, place: ServerPlace, tmp_path: Path
) -> None:
    pipeline = KafkaPipeline.make(jvm, place, tmp_path, partitions=12)
    fill(pipeline)
    pipeline.connect()
    with Writers(pipeline.database, change, seed=13) as writers, pipeline.run() as one:
        one.wait_line('"assigned"')
        with pipeline.run() as two, pipeline.run() as three:
            two.wait_line('"assigned"')
            three.wait_line('"assigned"')
            until(lambda: pipeline.status()["kafka"]["processes"] == 3, "three processes")
            writers.await_written(150)
            two.kill()
            writers.await_written(100)
            pipeline.sql("TRUNCATE docs")
            writers.await_written(100)
            with pipeline.run() as four:
                four.wait_line('"assigned"')
                writers.await_written(100)
                three.process.terminate()
                three.finish().require(0)
                writers.await_written(100)
                one.kill()
                writers.await_written(50)
    with pipeline.run() as five:
        five.wait_line('"assigned"')
        pipeline.require_equal(90)
        report = pipeline.status()
        (topic,) = report["kafka"]["topics"].values()
        assert len(topic["partitions"]) == 12
    pipeline.drop()


def test_what_may_be_missing_stops_it(jvm: Stack, place: ServerPlace, tmp_path: Path) -> None:
    pipeline = KafkaPipeline.make(jvm, place, tmp_path)
    here = Partition(pipeline.topic.name, 0)
    with pipeline.run() as running:
        running.wait_line('"assigned"')
        running.process.terminate()
        running.finish().require(0)
    pipeline.topic.send([(b'{"id":1}', None)] * 5)

    def stops_with(code: str) -> None:
        with pipeline.run() as running:
            assert code in running.finish(60).require(3).err
        assert pipeline.status()["stop"]["code"] == code

    # The group was moved ahead of what is written.
    reset_group(jvm.kafka, f"bridge_{pipeline.name}", {here: 4})
    stops_with("GAP")
    # Retention took what comes next.
    reset_group(jvm.kafka, f"bridge_{pipeline.name}", {here: 0})
    pipeline.topic.delete_before({0: 5})
    stops_with("GAP")
    pipeline.topic.add_partitions(2)
    stops_with("PARTITIONS_CHANGED")


def test_rows_are_read_again_beside_the_topics(
    jvm: Stack, place: ServerPlace, tmp_path: Path
) -> None:
    pipeline = KafkaPipeline.make(jvm, place, tmp_path, partitions=4)
    fill(pipeline, 700)
    pipeline.connect()

    def damage() -> None:
        """What no message tells: points that are gone, wrong, or too many."""
        place.client.delete(pipeline.name, list(range(1, 700, 3)))
        place.client.set_payload(pipeline.name, {"title": "damaged"}, points=[302, 305, 308, 602])
        place.client.overwrite_payload(pipeline.name, {"title": "damaged"}, points=[698])
        place.client.upsert(pipeline.name, [models.PointStruct(id=77_777, vector={}, payload={})])

    with pipeline.run() as one, pipeline.run() as two:
        one.wait_line('"assigned"')
        two.wait_line('"assigned"')
        pipeline.require_equal()
        with Writers(pipeline.database, change, seed=17) as writers:
            writers.await_written(50)
            damage()
            done = pipeline.command("resync", "public.docs", "--json").require(0)
            writers.await_written(100)
        (request,) = done.report["requests"]
        assert request["outcome"] == "done"
        assert request["extras"] >= 1
        pipeline.require_equal()
        # A message that nobody can read: its row is written as it is.
        pipeline.sql("INSERT INTO docs VALUES (9000, 'fine', 1, 'b', vec(1))")
        until(lambda: place.client.retrieve(pipeline.name, [9000]), "the row")
        pipeline.topic.send([(b'{"id":9000}', b"\xff not JSON")])
        letters = ("dead-letters", "list", "--json")
        until(lambda: pipeline.command(*letters).report["dead_letters"], "the dead letter")
        pipeline.command("dead-letters", "retry", "--all").require(0)
        assert not pipeline.command(*letters).report["dead_letters"]
        damage()
        pipeline.command("verify", "--repair", "--json").require(0)
        pipeline.require_equal()
        for process in (one, two):
            process.process.terminate()
        one.finish().require(0)
        two.finish().require(0)
    # Nobody runs: the command is a member of the group for so long.
    damage()
    pipeline.sql("UPDATE docs SET title = 'while nobody ran' WHERE id < 50")
    until(lambda: not pipeline.command("status", "--json").report["kafka"]["processes"], "the end")
    pipeline.command("resync", "public.docs", "--from", "1", "--to", "699").require(0)
    with pipeline.run() as three:
        three.wait_line('"assigned"')
        pipeline.require_equal()
        assert pipeline.command("verify").require(0)
    pipeline.drop()


def test_a_group_that_gives_everything_up_at_each_change_ends_exact(
    jvm: Stack, place: ServerPlace, tmp_path: Path
) -> None:
    # Eager: a client of another version, or a setting, may bring it about; nothing of it is ours to choose.
    pipeline = KafkaPipeline.make(jvm, place, tmp_path, partitions=4)
    fill(pipeline)
    pipeline.connect()
    with pipeline.run() as running:
        running.wait_line('"assigned"')
        running.process.terminate()
        running.finish().require(0)
    with (
        Writers(pipeline.database, change, seed=19) as writers,
        Member(pipeline, cooperative=False) as one,
    ):
        one.await_event("assigned")
        assert one.partitions == {0, 1, 2, 3}
        writers.await_written(50)
        with Member(pipeline, cooperative=False) as two:
            two.await_event("assigned")
            one.await_event("assigned", 2)
            assert "given_up" in one.events
            until(lambda: len(one.partitions) == len(two.partitions) == 2, "two each")
            assert one.partitions | two.partitions == {0, 1, 2, 3}
            writers.await_written(50)
        until(lambda: len(one.partitions) == 4, "all of them")
        writers.await_written(50)
    with Member(pipeline, cooperative=False) as three:
        three.await_event("assigned")
        pipeline.require_equal()
    pipeline.drop()
