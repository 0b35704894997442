"""Requests beside the topics, interleaved at random with commits, their visibility, and other processes.

The model has what makes it hard: a transaction is delivered when it commits and visible to others only
later; other processes apply the topic's partitions whenever they like, between any two looks and writes of
the request. Whatever happens, at the end of the topics the points are the rows.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

import pytest

from bridge import requests
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.requests import Request
from tests.support.debezium_setting import LABEL, Setting

KEYS = range(8)
PARTITIONS = 2
SEEDS = 150


class World:
    """Postgres, the topic and the other processes, around one process that executes a request."""

    def __init__(self, seed: int) -> None:
        self._numbers = numbers = random.Random(seed)
        rows = {key: "first" for key in KEYS if numbers.random() < 0.6}
        self.setting = Setting(points=[], titles=dict(rows), topics={"t": PARTITIONS})
        # The collection is damaged: points are missing, old, or have no row.
        for key in KEYS:
            if numbers.random() < 0.6:
                title = rows.get(key, "extra") if numbers.random() < 0.5 else "damaged"
                self.setting.target.put(Point(key, {}, {"title": title}))
        self._topic: list[deque[tuple[int, str | None]]] = [deque() for _ in range(PARTITIONS)]
        self._invisible: dict[int, tuple[int, str | None]] = {}
        self._xid = 100
        self._busy = False
        self._left = numbers.randrange(10, 60)
        self.setting.source.looked = lambda number: self.happens()
        self.setting.target.fault = self._fault

    def _fault(self, _method: str, _ids: Sequence[PointId]) -> None:
        self.happens()

    def happens(self) -> None:
        """Some things, from none to a few."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._left and self._numbers.random() < 0.6:
                self._left -= 1
                self._numbers.choice((self._commit, self._show, self._apply, self._apply))()
        finally:
            self._busy = False

    def _commit(self) -> None:
        """Of one row: who has its lock next has seen the transaction before."""
        free = sorted(set(KEYS) - {key for key, _title in self._invisible.values()})
        if not free:
            return
        key = self._numbers.choice(free)
        there = key in self.setting.source.titles
        title = None if there and self._numbers.random() < 0.4 else f"v{self._xid}"
        self._topic[key % PARTITIONS].append((key, title))
        self._invisible[self._xid] = (key, title)
        self.setting.source.under_way = set(self._invisible)
        self._xid += 1

    def _show(self) -> None:
        if not self._invisible:
            return
        xid = self._numbers.choice(sorted(self._invisible))
        key, title = self._invisible.pop(xid)
        if title is None:
            self.setting.source.titles.pop(key, None)
        else:
            self.setting.source.titles[key] = title
        self.setting.source.under_way = set(self._invisible)

    def _apply(self) -> None:
        """Another process: straight into the collection."""
        partition = self._numbers.choice(self._topic)
        if not partition:
            return
        key, title = partition.popleft()
        if title is None:
            self.setting.target.points.pop(key, None)
        else:
            self.setting.target.put(Point(key, {}, {"title": title}))

    def end(self, request: Request) -> None:
        """Everything becomes visible, is applied, and the request ends; in any order."""
        for _ in range(10_000):
            self.happens()
            self.setting.work()
            if not self._left:
                self._numbers.choice((self._show, self._apply))()
            record = self.setting.store.get("request", request.name)
            if Request.from_record(record).progress.ended:
                break
        else:
            raise AssertionError("the request does not end")
        self._left = 0
        while self._invisible:
            self._show()
        while any(self._topic):
            self._apply()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_at_the_end_of_the_topics_the_points_are_the_rows(seed: int) -> None:
    world = World(seed)
    setting = world.setting
    if seed % 3 == 0:
        request = requests.make(
            "retry", LABEL, keys=tuple(str(key) for key in KEYS), waited_for=True
        )
        # Only rows that there are: a letter says nothing of points without one.
        for key in set(KEYS) - setting.source.titles.keys():
            setting.target.points.pop(key, None)
    else:
        request = requests.make("resync", LABEL, waited_for=True)
    requests.ask(setting.store, request)
    world.end(request)
    found = {key: point.payload["title"] for key, point in setting.target.points.items()}
    assert found == setting.source.titles
