"""Truncates that have no order: what is removed, what comes back, while others write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from bridge.errors import StopError, Unreachable
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry
from sync.debezium_sweep import Sweep
from sync.debezium_truncate import concerned, reopen
from sync.debezium_window import Emptied, KafkaWindow
from sync.kafka_partition import Partition
from tests.support.debezium_setting import LABEL, Setting


def test_points_without_a_row_go_once_every_partition_has_passed() -> None:
    setting = Setting(points=[1, 2, 99], titles={1: "a", 2: "b"})
    assert not setting.empty()
    setting.settle(offset=4)
    assert set(setting.target.points) == {1, 2, 99}
    setting.settle()
    assert set(setting.target.points) == {1, 2}
    assert setting.events[-1] == "truncate_settled"


def test_a_row_that_appears_before_the_removal_keeps_its_point() -> None:
    setting = Setting(points=[1, 3], titles={1: "a"})

    def insert(number: int) -> None:
        if number == 2:
            setting.source.titles[3] = "inserted"

    setting.source.looked = insert
    setting.empty()
    setting.settle()
    assert set(setting.target.points) == {1, 3}
    assert "delete" not in setting.target.methods()


def test_a_row_that_appears_at_the_removal_is_written_again() -> None:
    setting = Setting(points=[1, 3], titles={1: "a"})

    def insert(method: str, _ids: Sequence[PointId]) -> None:
        if method == "delete":
            setting.source.titles[3] = "inserted"

    setting.target.fault = insert
    setting.empty()
    setting.settle()
    assert setting.target.payload(3)["title"] == "inserted"
    assert setting.target.numbers(3) == [1.0, 2.0, 3.0]


def test_a_row_that_was_written_before_it_could_be_seen_comes_back() -> None:
    setting = Setting(points=[1, 3], titles={1: "a"})

    def delivered(method: str, _ids: Sequence[PointId]) -> None:
        # Its change was delivered and applied; its transaction has not ended for others.
        setting.source.under_way = {9}

    setting.target.fault = delivered
    setting.empty()
    setting.settle()
    setting.target.fault = lambda method, ids: None
    assert set(setting.target.points) == {1}
    assert "truncate_settled" not in setting.events
    setting.source.titles[3] = "seen at last"
    setting.source.under_way = {10}
    setting.settle()
    assert setting.target.payload(3)["title"] == "seen at last"
    setting.source.under_way = set()
    setting.settle()
    assert setting.events[-1] == "truncate_settled"


def test_what_another_process_wrote_meanwhile_is_not_written_over() -> None:
    setting = Setting(points=[3], titles={})

    def others(number: int) -> None:
        if number == 3:
            setting.source.titles[3] = "then"
        if number == 5:
            setting.target.put(Point(3, {}, {"title": "newer"}))

    setting.source.looked = others
    setting.empty()
    setting.settle()
    assert setting.target.payload(3)["title"] == "newer"


def test_a_row_that_is_gone_again_when_it_was_written_leaves_no_point() -> None:
    setting = Setting(points=[3], titles={})

    def others(method: str, _ids: Sequence[PointId]) -> None:
        if method == "delete" and setting.target.methods().count("delete") == 0:
            setting.source.titles[3] = "for a moment"
        if method == "upsert":
            del setting.source.titles[3]

    setting.target.fault = others
    setting.empty()
    setting.settle()
    assert not setting.target.points


def test_a_sweep_that_fails_between_its_steps_is_done_again_from_the_start() -> None:
    setting = Setting(points=[1, 3, 99], titles={1: "a"})

    def outage(number: int) -> None:
        if number == 3:
            setting.source.titles[3] = "inserted"
            raise Unreachable("away")

    setting.source.looked = outage
    setting.empty()
    with pytest.raises(Unreachable):
        setting.settle()
    # Its change comes in the topic: what the sweep removed is written by that, or by the next sweep.
    setting.target.put(Point(3, {}, {"title": "inserted"}))
    setting.source.looked = lambda number: None
    setting.settle()
    assert set(setting.target.points) == {1, 3}


def test_no_more_is_held_than_a_page() -> None:
    setting = Setting(points=list(range(2500)), titles=dict.fromkeys(range(0, 2500, 2), "t"))
    setting.empty()
    setting.settle()
    assert sorted(setting.target.points) == list(range(0, 2500, 2))
    assert setting.source.most_keys <= 1000


def test_ids_that_do_not_tell_their_key_are_compared_with_all_keys() -> None:
    setting = Setting(points=[], titles={-1: "a", -2: "b"})
    rule = setting.table.layout.id_rule
    ids = [rule.of([str(-number)]) for number in range(1, 6)]
    setting.target.put(*(Point(one, {}, {}) for one in ids))
    sweep = Sweep(
        setting.table,
        setting.source,
        cast(Target, setting.target),
        retry=Retry(),
        insert=setting.writer.insert,
        untold_at_once=2,
    )
    assert all(sweep.steps())
    assert set(setting.target.points) == set(ids[:2])
    assert sweep.removed == 3


def test_a_truncate_that_is_not_visible_yet_is_waited_for() -> None:
    setting = Setting(points=[1], titles={1: "a"})
    setting.source.under_way = {7}
    setting.empty()
    setting.settle()
    del setting.source.titles[1]
    assert set(setting.target.points) == {1}
    setting.source.under_way = {8}
    setting.settle()
    assert not setting.target.points


def test_a_table_that_was_dropped_is_not_taken_for_an_empty_one() -> None:
    setting = Setting(points=[1], titles={})
    setting.source.dropped = True
    setting.empty()
    with pytest.raises(StopError) as caught:
        setting.settle()
    assert caught.value.code == "SCHEMA_CHANGED"
    assert set(setting.target.points) == {1}


def test_a_truncate_of_one_partition_of_the_table_leaves_the_others_rows() -> None:
    setting = Setting(points=[1, 99], titles={1: "a"}, topics={"t": 1}, leaves=True)
    assert setting.truncates.may_wait()
    assert not setting.empty(whole=False)
    assert set(setting.target.points) == {1, 99}
    # Rows of other partitions do not depend on the truncate's position.
    assert setting.truncates.before(LABEL, ["t"]) is None
    setting.settle()
    assert set(setting.target.points) == {1}


def test_a_truncate_in_one_of_several_topics_waits_for_all_of_them() -> None:
    setting = Setting(points=[1, 99], titles={1: "a"}, topics={"t": 1, "u": 1})
    setting.ends["u"] = 9
    assert not setting.empty()
    assert setting.truncates.before(LABEL, ["t", "u"]) is None
    setting.settle(offset=8)
    assert set(setting.target.points) == {1, 99}
    setting.settle(offset=9)
    assert set(setting.target.points) == {1}


def test_a_truncate_of_a_part_that_comes_again_is_looked_at_again() -> None:
    setting = Setting(points=[99], titles={}, topics={"t": 1}, leaves=True)
    setting.empty(whole=False)
    setting.settle()
    # Messages from before it were read again.
    setting.target.put(Point(99, {}, {}))
    setting.empty(whole=False)
    setting.settle()
    assert not setting.target.points


def test_a_part_is_settled_again_when_a_partition_is_read_from_before_its_end() -> None:
    setting = Setting(points=[99], titles={}, topics={"t": 2}, leaves=True)
    store, elsewhere = cast(QdrantState, setting.store), Partition("t", 1)
    setting.empty(whole=False)
    setting.settle()
    assert not setting.target.points
    assert not concerned(store, elsewhere, 5)
    assert not concerned(store, Partition("another", 1), 0)
    # Somebody takes the other partition, from before the end.
    again = concerned(store, elsewhere, 4)
    reopen(store, again)
    setting.target.put(Point(99, {}, {}))
    setting.settle(offset=4)
    assert set(setting.target.points) == {99}
    setting.settle()
    assert not setting.target.points


def test_a_sweep_that_began_before_a_partition_was_taken_back_does_not_count() -> None:
    setting = Setting(points=[99], titles={}, topics={"t": 2}, leaves=True)
    store = cast(QdrantState, setting.store)
    setting.empty(whole=False)

    def taken(method: str, _ids: Sequence[PointId]) -> None:
        if method == "delete":
            setting.target.fault = lambda method, ids: None
            reopen(store, concerned(store, Partition("t", 1), 4))

    setting.target.fault = taken
    setting.settle()
    assert not setting.target.points
    assert setting.target.methods() == ["delete"]
    # Gone through once more, for what has been read since.
    assert setting.swept() == 2
    assert setting.events.count("truncate_settled") == 1


def test_a_whole_truncate_is_not_settled_again() -> None:
    setting = Setting(points=[99], titles={})
    setting.empty()
    # What lies before it does not count, by its position in the log.
    assert not concerned(cast(QdrantState, setting.store), Partition("t", 1), 0)


@pytest.mark.parametrize("topics", [{"t": 1, "u": 1}, {"t": 2}])
def test_without_postgres_a_truncate_that_has_no_order_stops(topics: dict[str, int]) -> None:
    setting = Setting(points=[1], titles={}, topics=topics, postgres=False)
    with pytest.raises(StopError) as caught:
        setting.empty()
    assert caught.value.code == "TRUNCATE_UNORDERED"
    assert set(setting.target.points) == {1}


def test_only_where_the_collection_was_emptied_are_dead_letters_forgotten() -> None:
    for count, left in ((1, set()), (2, {"7"})):
        setting = Setting(points=[1], titles={}, topics={"t": count})
        letter = setting.table.mapping.dead_letter(["7"], "r", "p")
        setting.letters.settle(LABEL, [letter], ())
        window = KafkaWindow(0.0)
        window.emptied = Emptied(label=LABEL, partition=Partition("t", 0), lsn=100)
        setting.writer.apply(window)
        assert setting.letters.set_aside(LABEL) == left


def test_a_record_of_an_earlier_version_is_understood() -> None:
    setting = Setting(points=[99], titles={})
    record = {"label": LABEL, "lsn": 1, "topic": "t", "partition": 0, "ends": [5, 5], "done": False}
    setting.store.put("stream", f"truncate/{LABEL}", record)
    setting.settle()
    assert not setting.target.points
