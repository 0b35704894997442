"""Suspects are settled by looks: what each order of events on both sides comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from bridge.config_tables import TableSettings
from bridge.map_table import map_table
from bridge.mapping import TableMapping
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.positions import Lsn
from bridge.postgres.verify_reads import RowLooks, Versioned
from tests.support.source_tables import table
from verify.comparison import Comparer
from verify.extras import ROUNDS, ExtraSearch
from verify.looks import Settler
from verify.points import Points
from verify.stream import NoStream

KEY = ("1",)


def mapping(**settings: Any) -> TableMapping:
    return map_table(
        table(id="int4", title="text"),
        TableSettings.model_validate({"vectors": "none", **settings}),
    )


class Source:
    """One row, and what happens at each step of a look: `script` is called with the step's name."""

    follows = True

    def __init__(self, script: Callable[[str, Source], None] = lambda step, source: None) -> None:
        self.title: str | None = "new"
        self.version = 1
        self.stored: dict[PointId, Point] = {}
        self.waited: list[Lsn] = []
        self.looks = 0
        self._script = script

    def write(self, title: str | None) -> None:
        """The row changes; None: it goes."""
        self.title, self.version = title, self.version + 1

    def store(self, title: str | None) -> None:
        """The point changes."""
        self.stored = {} if title is None else {1: Point(1, {}, {"id": 1, "title": title})}

    # --- what reads rows

    def rows(self, of: TableMapping, keys: Sequence[Any]) -> list[Versioned]:
        self.looks += 1
        read = self._rows()
        self._script("read", self)
        return read if KEY in list(map(tuple, keys)) else []

    def _rows(self) -> list[Versioned]:
        if self.title is None:
            return []
        row: list[Any] = [(1).to_bytes(4, "big"), self.title.encode()]
        return [Versioned(row=row, version=(str(self.version).encode(),))]

    def versions(self, of: TableMapping, keys: Sequence[Any]) -> dict[tuple[str, ...], Any]:
        self._script("versions", self)
        return {KEY: self._rows()[0].version} if self.title is not None else {}

    def place(self) -> Lsn:
        return Lsn(self.version)

    def await_visible(self, patience_seconds: float) -> None:
        self._script("visible", self)

    # --- what follows, and what reads points

    def await_passed(self, position: Lsn) -> None:
        self.waited.append(position)
        self._script("passed", self)

    def get(self, ids: Sequence[PointId], *, with_vectors: bool = True) -> _Read:
        found = [self.stored[one] for one in ids if one in self.stored]
        self._script("got", self)
        return _Read(found)


class _Read:
    def __init__(self, points: list[Point]) -> None:
        self._points = points

    def result(self) -> list[Point]:
        return self._points


def settled(
    source: Source,
    letters: Mapping[str, str] | None = None,
    stale: Sequence[Any] = (),
    tries: int = 5,
) -> list[tuple[str, str]]:
    """(kind, reason) of the row's verdicts."""
    of = mapping()
    settler = Settler(
        of,
        comparer=Comparer.of(of, stale),
        looks=cast(RowLooks, source),
        points=cast(Points, source),
        follower=source,
        letters=lambda: letters or {},
        with_vectors=False,
        tries=tries,
    )
    return [(one.kind, one.reason) for one in settler.settle([KEY])]


def test_what_has_arrived_by_now_is_no_difference() -> None:
    def arrives(step: str, source: Source) -> None:
        if step == "passed":
            source.store("new")

    assert settled(Source(arrives)) == []


def test_what_has_not_arrived_though_the_stream_has_passed_it_is_one() -> None:
    source = Source()
    assert settled(source) == [("missing", "")]
    source.store("old")
    assert settled(source) == [("altered", "")]
    assert source.waited


def test_a_row_that_changed_meanwhile_is_looked_at_again() -> None:
    def changes_once(step: str, source: Source) -> None:
        if step == "got" and source.looks == 1:
            source.write("newer")
            source.store("newer")

    source = Source(changes_once)
    assert settled(source) == []
    assert source.looks == 2


def test_a_change_and_back_shows() -> None:
    def there_and_back(step: str, source: Source) -> None:
        if step == "read" and source.looks == 1:
            source.write("other")
            source.store("other")
        if step == "got" and source.looks == 1:
            source.write("new")
            source.store("new")

    assert settled(Source(there_and_back)) == []


def test_what_was_streamed_before_it_could_be_seen_is_waited_for() -> None:
    """The point is newer than any snapshot shows, until the transaction has ended."""

    def early(step: str, source: Source) -> None:
        if step == "read" and source.looks == 1:
            source.store("newer")
        if step == "visible" and source.looks == 1:
            source.write("newer")

    assert settled(Source(early)) == []


def test_where_nothing_follows_nothing_is_waited_for_or_written() -> None:
    steps: list[str] = []
    source = Source(lambda step, source: steps.append(step))
    source.follows = False
    assert settled(source) == [("missing", "")]
    assert (source.waited, steps) == ([], ["read", "got", "versions"])


def test_a_row_that_is_gone_is_no_difference() -> None:
    def goes(step: str, source: Source) -> None:
        if step == "got":
            source.write(None)

    assert settled(Source(goes)) == []
    source = Source()
    source.write(None)
    assert settled(source) == []


def test_a_row_that_changes_at_every_look_is_unsettled() -> None:
    def never_still(step: str, source: Source) -> None:
        if step == "got":
            source.write(f"version {source.looks}")

    source = Source(never_still)
    assert settled(source, tries=4) == [("unsettled", "")]
    assert source.looks == 4


def test_a_row_that_was_set_aside_is_told_with_its_reason() -> None:
    assert settled(Source(), letters={"1": "too large"}) == [("dead_lettered", "too large")]


@pytest.mark.parametrize(("changed", "kind"), [("title", "stale"), ("price", "altered")])
def test_only_columns_of_a_recorded_change_make_a_row_stale(changed: str, kind: str) -> None:
    source = Source()
    source.store("old")
    assert settled(source, stale=[(changed,)]) == [(kind, "")]


# --- extras --------------------------------------------------------------------------------------


def searched(source: Source, *, follower: Any = None) -> list[PointId]:
    search = ExtraSearch(
        mapping(),
        points=cast(Points, source),
        looks=cast(RowLooks, source),
        follower=follower or source,
        all_ids=lambda: [],
        retry=_Once(),  # type: ignore[arg-type]
        tell=lambda number: None,
    )
    return search.settle({1})


class _Once:
    def call(self, action: Callable[[], Any]) -> Any:
        return action()


def test_a_point_without_a_row_is_an_extra_after_every_round() -> None:
    source = Source()
    source.write(None)
    source.store("left over")
    assert searched(source) == [1]
    assert len(source.waited) == ROUNDS
    assert searched(source, follower=NoStream()) == [1]


def test_a_point_that_goes_when_the_stream_has_passed_is_none() -> None:
    def deleted(step: str, source: Source) -> None:
        if step == "passed":
            source.store(None)

    source = Source(deleted)
    source.write(None)
    source.store("on its way out")
    assert searched(source) == []


def test_a_point_whose_row_comes_is_none() -> None:
    def inserted(step: str, source: Source) -> None:
        if step == "visible":
            source.write("here")

    source = Source(inserted)
    source.write(None)
    source.store("here")
    assert searched(source) == []


def test_an_id_tells_its_key_only_where_that_is_certain() -> None:
    source = Source()
    search = ExtraSearch(
        mapping(),
        points=cast(Points, source),
        looks=cast(RowLooks, source),
        follower=source,
        all_ids=lambda: [[2**40]],
        retry=_Once(),  # type: ignore[arg-type]
        tell=lambda number: None,
    )
    # Beyond int4: no row can have it, and it is looked for among all ids all the same.
    assert search.settle({2**40}) == []
