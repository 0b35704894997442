"""Truncates that have no order: what is removed, what comes back, while others write."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.errors import StopError, Unreachable
from bridge.kafka_state import PartitionState
from bridge.mapping import Selected, TableMapping
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.postgres.pages import Page, Stretch
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry
from bridge.schema import Table
from bridge.snapshots import Snapshot
from sync.debezium_reread import NoSource
from sync.debezium_rows import TableRows
from sync.debezium_sweep import Sweep, table_gone
from sync.debezium_tables import TopicTables
from sync.debezium_truncate import Truncates
from sync.debezium_window import Emptied, KafkaWindow
from sync.debezium_writer import WindowWriter
from sync.kafka_partition import Partition
from sync.letters import Letters
from tests.support.debezium_messages import rows as table_rows
from tests.support.kafka_fake import MemoryRecords, MemoryTarget

LABEL = "public.docs"
SNAPSHOT = Snapshot.parse("10:10:")


class Source:
    """Postgres: `titles` by key. `looked` is called before each look with its number, from 1."""

    def __init__(self, titles: dict[int, str]) -> None:
        self.titles = titles
        self.looks = 0
        self.looked: Callable[[int], None] = lambda number: None
        self.under_way: set[int] = set()
        self.dropped = False
        self.most_keys = 0

    def _look(self, selection: Sequence[Selected], keys: Sequence[int]) -> list[Any]:
        found = []
        for key in keys:
            if key in self.titles:
                vector = struct.pack(">HH3f", 3, 0, 1.0, 2.0, 3.0)
                whole = {
                    "id": key.to_bytes(8, "big", signed=True),
                    "title": self.titles[key].encode(),
                    "v": vector,
                }
                found.append([whole[item.column] for item in selection])
        return found

    def page(
        self,
        table: Table,
        selection: Sequence[Selected],
        key: Sequence[str],
        stretch: Stretch,
        where: dict[str, object],
        **more: object,
    ) -> Page:
        self.looks += 1
        self.looked(self.looks)
        after = -(2**63) if stretch.after is None else int(stretch.after[0])
        keys = sorted(one for one in self.titles if one > after)
        return Page(snapshot=SNAPSHOT, rows=self._look(selection, keys), ended=True)

    def rows_of(
        self,
        table: Table,
        selection: Sequence[Selected],
        key: Sequence[str],
        keys: Sequence[Sequence[str]],
        where: dict[str, object],
        **more: object,
    ) -> Page:
        self.looks += 1
        self.looked(self.looks)
        self.most_keys = max(self.most_keys, len(keys))
        found = self._look(selection, [int(one) for (one,) in keys])
        return Page(snapshot=SNAPSHOT, rows=found, ended=True)

    def in_progress(self) -> set[int]:
        return self.under_way

    def require(self, table: Table) -> None:
        if self.dropped:
            raise table_gone(table.label)

    def close(self) -> None:
        """Nothing is open."""


class Scrolled(MemoryTarget):
    """Pages of points, in the order of their ids."""

    def scroll(
        self, _collection: str, *, after: PointId | None = None, limit: int, **_more: object
    ) -> tuple[list[Point], PointId | None]:
        ids = sorted(self.points, key=lambda one: (isinstance(one, str), one))
        place = 0
        while after is not None and ids[place : place + 1] and ids[place] != after:
            place += 1
        following = ids[place + limit : place + limit + 1]
        page = [self.points[one] for one in ids[place : place + limit]]
        return page, following[0] if following else None


class Setting:
    """A process with points for some keys, in front of a table."""

    def __init__(
        self,
        *,
        points: Sequence[PointId],
        titles: dict[int, str],
        topics: dict[str, int] | None = None,
        leaves: bool = False,
        postgres: bool = True,
    ) -> None:
        found = table_rows()
        if leaves:
            mapping = found.table.mapping
            table = replace(mapping.table, partitions=((11, "public", "docs_2023"),))
            found = TableRows.of(replace(mapping, table=table), found.modes)
        self.topics = topics or {"t": 2}
        self.source = Source(titles)
        self.target = Scrolled()
        self.target.put(*(Point(one, {}, {"title": "old"}) for one in points))
        self.store = MemoryRecords()
        self.ends = dict.fromkeys(self.topics, 5)
        self.events: list[str] = []
        self.table = found.table
        tables = _Tables(found)

        def tell(event: str, **_fields: object) -> None:
            self.events.append(event)

        def truncates(writer: WindowWriter) -> Truncates:
            return Truncates(
                cast(TopicTables, tables),
                target=cast(Target, self.target),
                store=cast(QdrantState, self.store),
                retry=Retry(sleep=lambda seconds: None, patience_seconds=0.0),
                postgres_url=None,
                allow_plaintext=False,
                ends_of=lambda topic: [self.ends[topic]] * self.topics[topic],
                partitions=self.topics,
                topics_of={LABEL: list(self.topics)},
                insert=writer.insert,
                tell=tell,
                open_rows=(lambda: self.source) if postgres else None,
            )

        retry = Retry(sleep=lambda seconds: None, patience_seconds=0.0)
        self.letters = Letters(self.store, retry, limit=10, tell=tell)
        self.writer = WindowWriter(
            target=cast(Target, self.target),
            source=NoSource(),
            retry=retry,
            letters=self.letters,
            truncates=truncates,
            tables=tables,
            topics_of={LABEL: list(self.topics)},
            ordering="weak",
            without_postgres="stop",
        )
        self.truncates = self.writer.truncates

    def empty(self, *, topic: str = "t", lsn: int | None = 100, whole: bool = True) -> bool:
        place = Partition(topic, 0)
        return self.truncates.empty(Emptied(label=LABEL, partition=place, lsn=lsn, whole=whole))

    def settle(self, offset: int = 5) -> None:
        states = [
            PartitionState(
                topic=topic, partition=n, offset=offset, end=5, phase="streaming", owner="o"
            )
            for topic, count in self.topics.items()
            for n in range(count)
        ]
        self.truncates.settle({Partition(topic, 0) for topic in self.topics}, states)


class _Tables:
    def __init__(self, found: TableRows) -> None:
        self.found = found

    def table(self, _topic: str) -> TableRows:
        return self.found

    def mapping(self, _label: str) -> TableMapping:
        return self.found.table.mapping

    def settings(self, _label: str) -> Any:
        return SimpleNamespace(owns_collection=False)


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
    sweep.run()
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
