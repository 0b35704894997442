"""Random changes against a simple model of Postgres and Qdrant: the end state must be equal.

The model knows what matters of Postgres: transactions, TOASTed values that an UPDATE does not send
again, replica identities, key changes, and that a row read again may be newer than the change that made
it be read. The bridge's own steps are real, from events to writes; the target is in memory. Any write
may be the last before a crash, after which everything since the checkpoint comes again, in other
windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.events import UNCHANGED, Begin, Commit, Delete, Insert, Truncate, Update
from bridge.positions import Lsn
from bridge.retry import Retry
from sync.apply import Applier
from sync.tables import StreamTable
from sync.window import TableWindow
from sync.windows import Limits, Window, WindowBuilder
from tests.support.fake_target import Crash, FakeTarget
from tests.support.stream_rows import COLUMNS, FakeSource, docs_mapping, relation_of, row_of

IDS: Final = st.integers(1, 4)
WHERE: Final = {"lang": ["en", "de"]}
Row = Mapping[str, Any]
# What the backfill left: rows that a window does not hold itself.
COPIED: Final[tuple[Row, ...]] = (
    {"id": 1, "title": "big-1", "lang": "en", "v": [1, 0, 0], "w": [1, 0]},
    {"id": 2, "title": "2", "lang": "de", "v": [0, 1, 0], "w": None},
    {"id": 3, "title": "big-3", "lang": "en", "v": None, "w": [0, 1]},
)

changes = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from([None, "a", "b", "big-a", "big-b"]),
        "price": st.sampled_from([None, 1.5, 2.5]),
        "lang": st.sampled_from([None, "en", "de", "fr", "big-fr"]),
        "v": st.sampled_from([None, [1, 1, 1], [2, 2, 2], [3, 3, 3], [math.nan, 0, 0]]),
        "w": st.sampled_from([None, [4, 4], [5, 5]]),
    },
)
statements = st.one_of(
    st.tuples(st.just("insert"), IDS, changes),
    st.tuples(st.just("update"), IDS, changes),
    st.tuples(st.just("update"), IDS, changes),
    st.tuples(st.just("move"), IDS, IDS, changes),
    st.tuples(st.just("move"), IDS, IDS, changes),
    st.tuples(st.just("swap"), IDS, IDS),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("truncate")),
)
transactions = st.lists(st.lists(statements, min_size=1, max_size=5), min_size=1, max_size=8)


class Postgres:
    """A table and its log: `states[n]` are the rows after n transactions, `log[n]` the n-th's events."""

    def __init__(self, identity: str) -> None:
        flags = tuple(identity == "f" or name == "id" for name in COLUMNS)
        self.identity = identity
        self.relation = relation_of(docs_mapping(), replica_identity=identity, key=flags)
        self.rows: dict[int, Row] = {row["id"]: row for row in COPIED}
        self.states: list[Mapping[int, Row]] = [dict(self.rows)]
        self.log: list[list[object]] = []

    def commit(self, listed: list[tuple[Any, ...]]) -> None:
        number = len(self.log) + 1
        events: list[object] = [
            Begin(xid=number, final_lsn=Lsn(number * 10), commit_time_microseconds=0)
        ]
        for name, *arguments in listed:
            events += getattr(self, f"_{name}")(*arguments)
        end = Lsn(number * 10 + 1)
        events.append(Commit(commit_lsn=Lsn(number * 10), end_lsn=end, commit_time_microseconds=0))
        self.log.append(events)
        self.states.append(dict(self.rows))

    def _insert(self, identity: int, values: Row) -> Iterator[object]:
        if identity not in self.rows:
            self.rows[identity] = {"id": identity, **values}
            yield Insert(relation=self.relation, row=row_of(self.rows[identity]))

    def _update(self, identity: int, values: Row) -> Iterator[object]:
        return self._move(identity, identity, values)

    def _move(self, identity: int, other: int, values: Row) -> Iterator[object]:
        old = self.rows.get(identity)
        if old is None or (other != identity and other in self.rows):
            return
        del self.rows[identity]
        new = self.rows[other] = {**old, **values, "id": other}
        sent = {
            name: UNCHANGED if name not in values and _is_toasted(name, new.get(name)) else value
            for name, value in new.items()
        }
        before = None
        if self.identity == "f":
            before = row_of(old)
        elif other != identity:
            before = row_of({"id": identity})
        yield Update(
            relation=self.relation,
            row=row_of(sent),
            old=before,
            old_is_key=self.identity == "d",
        )

    def _swap(self, one: int, other: int) -> Iterator[object]:
        if one != other and one in self.rows and other in self.rows:
            yield from self._move(one, 99, {})
            yield from self._move(other, one, {})
            yield from self._move(99, other, {})

    def _delete(self, identity: int) -> Iterator[object]:
        old = self.rows.pop(identity, None)
        if old is not None:
            whole = self.identity == "f"
            row = row_of(old if whole else {"id": identity})
            yield Delete(relation=self.relation, old=row, old_is_key=not whole)

    def _truncate(self) -> Iterator[object]:
        self.rows.clear()
        yield Truncate(relations=(self.relation,))


def _is_toasted(name: str, value: Any) -> bool:
    return value is not None and (name in ("v", "w") or str(value).startswith("big"))


@dataclass
class Chance:
    """Choices that hypothesis made, taken one after the other, over and over."""

    choices: list[int]
    taken: int = 0

    def below(self, limit: int) -> int:
        self.taken += 1
        return self.choices[self.taken % len(self.choices)] % limit


@dataclass
class Bridge:
    """The pipeline: what survives a crash is the target, the letters and the checkpoint."""

    postgres: Postgres
    where: Mapping[str, Any]
    chance: Chance
    target: FakeTarget = field(default_factory=FakeTarget)
    letters: set[str] = field(default_factory=set)
    done: int = 0
    seen: int = 0
    crashes_left: int = 3

    def run(self) -> None:
        """Until the log's end, whatever happens in between."""
        copied = TableWindow()
        table = StreamTable(docs_mapping(), self.postgres.relation, ["binary"] * len(COLUMNS))
        for row in COPIED:
            copied.insert(table, Insert(relation=self.postgres.relation, row=row_of(row)), 1)
        Applier(self.target, FakeSource(), retry=Retry()).apply(copied, "0/0")
        self.target.fault = self._maybe_crash
        while self.done < len(self.postgres.log):
            try:
                for window, last in self._windows():
                    self._apply(window, last)
            except Crash:
                continue

    def _maybe_crash(self, method: str, ids: object) -> None:
        if self.crashes_left and self.chance.below(4) == 0:
            self.crashes_left -= 1
            raise Crash

    def _windows(self) -> Iterator[tuple[Window, int]]:
        """Windows of random sizes, and how many transactions have begun by then."""
        mapping = docs_mapping(where=self.where)
        limits = Limits(operations=1 + self.chance.below(6), size_bytes=10**9, seconds=0)
        builder = WindowBuilder(limits, lambda _: mapping, binary=True, clock=lambda: 0.0)
        announced = False
        for number in range(self.done, len(self.postgres.log)):
            for event in self.postgres.log[number]:
                if not announced and not isinstance(event, Begin | Commit):
                    builder.add(self.postgres.relation)
                    announced = True
                builder.add(event)
                for window in builder.take():
                    yield window, number + 1
            if self.chance.below(2):
                for window in builder.flush():
                    yield window, number + 1
        for window in builder.flush():
            yield window, len(self.postgres.log)

    def _apply(self, window: Window, last: int) -> None:
        # What is read again is as new as the window, or newer; and never older than before.
        latest = len(self.postgres.states) - 1
        self.seen = max(self.seen, last + self.chance.below(latest - last + 1))
        source = FakeSource(dict(self.postgres.states[self.seen]))
        if window.truncated:
            self.target.clear("docs")
            self.letters.clear()
        for changes in window.tables.values():
            applier = Applier(self.target, source, retry=Retry())
            applied = applier.apply(changes, "0/1", frozenset(self.letters))
            self.letters |= {letter.key for letter in applied.letters}
            self.letters -= set(applied.settled)
        if window.checkpoint is not None:
            self.done = window.checkpoint.value // 10


def expected(rows: Mapping[int, Row], where: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What the points should be; `letter` for a row that cannot become one."""
    points: dict[int, dict[str, Any]] = {}
    for identity, row in rows.items():
        if where and row.get("lang") not in where["lang"]:
            continue
        points[identity] = {
            "payload": {"id": identity, **{n: row.get(n) for n in ("title", "price", "lang")}},
            "v": row.get("v"),
            "w": row.get("w"),
            "letter": any(map(math.isnan, row.get("v") or ())),
        }
    return points


@pytest.mark.parametrize("identity", ["d", "f"])
@pytest.mark.parametrize("where", [{}, WHERE], ids=["all rows", "where"])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(listed=transactions, choices=st.lists(st.integers(0, 59), min_size=1, max_size=40))
def test_the_target_ends_up_as_the_source(
    identity: str, where: dict[str, Any], listed: list[Any], choices: list[int]
) -> None:
    postgres = Postgres(identity)
    for statements_of_one in listed:
        postgres.commit(statements_of_one)
    bridge = Bridge(postgres, where, Chance(choices))
    bridge.run()
    wanted = expected(postgres.rows, where)
    target = bridge.target
    assert bridge.letters == {str(i) for i, point in wanted.items() if point["letter"]}
    good = {i: point for i, point in wanted.items() if not point["letter"]}
    assert set(target.points) - {i for i in wanted if i not in good} == set(good)
    for i, point in good.items():
        assert target.payload(i) == point["payload"]
        assert target.numbers(i, "v") == point["v"]
        assert target.numbers(i, "w") == point["w"]
