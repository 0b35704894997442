"""A process that reads Kafka, in front of a table in memory: for tests of what is written beside topics."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

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
from sync.debezium_job import Desk
from sync.debezium_requests import RequestRunner
from sync.debezium_reread import NoSource
from sync.debezium_rows import TableRows
from sync.debezium_sweep import table_gone
from sync.debezium_tables import TopicTables
from sync.debezium_truncate import Truncates
from sync.debezium_window import Emptied
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
        *,
        rows: int,
        **more: object,
    ) -> Page:
        self.looks += 1
        self.looked(self.looks)
        after = -(2**63) if stretch.after is None else int(stretch.after[0])
        first = after if stretch.first is None else int(stretch.first[0])
        last = 2**63 if stretch.last is None else int(stretch.last[0])
        keys = sorted(one for one in self.titles if after < one <= last and one >= first)
        found = self._look(selection, keys[:rows])
        return Page(snapshot=SNAPSHOT, rows=found, ended=len(keys) < rows)

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

    scrolls = 0

    def scroll(
        self, _collection: str, *, after: PointId | None = None, limit: int, **_more: object
    ) -> tuple[list[Point], PointId | None]:
        self.scrolls += 1
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
        tables = self._tables = _Tables(found)

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
        self.now = 0.0
        self.retry = retry
        self.runner = self.make_runner()

    def make_runner(self) -> RequestRunner:
        """That of a process which has just got the partitions."""
        desk = Desk(
            tables=self._tables,
            sweep=self.truncates.sweep,
            write=self.writer.write_rows,
            forget=self.writer.forget,
            store=cast(QdrantState, self.store),
            retry=self.retry,
            open_rows=self.truncates.open_rows,
            tell=lambda event, **fields: self.events.append(event),
        )
        return RequestRunner(desk, self.writer.topics_of, clock=lambda: self.now)

    def work(self, most: int = 200) -> int:
        """Let the runner go on until it has nothing to do at once; the pieces that it did."""
        for done in range(most):
            self.runner.work({Partition(topic, 0) for topic in self.topics})
            if self.runner.due_in():
                self.now += self.runner.due_in()
                return done + 1
        raise AssertionError("it does not end")

    def empty(self, *, topic: str = "t", lsn: int | None = 100, whole: bool = True) -> bool:
        place = Partition(topic, 0)
        return self.truncates.empty(Emptied(label=LABEL, partition=place, lsn=lsn, whole=whole))

    def swept(self) -> int:
        """How often the collection was gone through."""
        return self.target.scrolls

    def settle(self, offset: int = 5) -> None:
        states = [
            PartitionState(
                topic=topic, partition=n, offset=offset, end=5, phase="streaming", owner="o"
            )
            for topic, count in self.topics.items()
            for n in range(count)
        ]
        owned = {Partition(topic, 0) for topic in self.topics}
        while self.truncates.settle(owned, lambda: states) == 0.0:
            pass


class _Tables:
    def __init__(self, found: TableRows) -> None:
        self.found = found

    def table(self, _topic: str) -> TableRows:
        return self.found

    def mapping(self, _label: str) -> TableMapping:
        return self.found.table.mapping

    def settings(self, _label: str) -> Any:
        return SimpleNamespace(owns_collection=False)
