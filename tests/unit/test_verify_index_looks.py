"""Records that differ are looked at again, with pauses, until it is sure what they are."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from bridge.collection_spec import CollectionSpec, VectorSpec
from bridge.pinecone.mapping import FieldNames, PineconeMapping
from bridge.pinecone.records import Record
from bridge.pinecone.scan import Fetched
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.retry import Retry
from verify.index_extras import RecordExtras
from verify.index_looks import LOOKS, PAUSE_SECONDS, TRIES, RecordSettler
from verify.index_subject import IndexSubject
from verify.points import Page, PendingScores

SPEC = VectorSpec(name="", shape="dense", distance="dot", dimension=1)
MAPPING = PineconeMapping(
    label="pinecone:x",
    collection=CollectionSpec(name="x", vectors=(SPEC,)),
    fields=FieldNames(id="__id__"),
    dense={"": SPEC},
    sparse={},
)


class Script:
    """Records that are other ones at each look: values by id, None where there is none."""

    def __init__(self, looks: Mapping[str, Sequence[float | None]]) -> None:
        self._looks = looks
        self.times = 0
        self.pauses: list[float] = []

    def fetch(self, namespace: str, ids: Sequence[str]) -> Fetched:
        found = Fetched()
        for one in ids:
            values = self._looks[one]
            value = values[min(self.times, len(values) - 1)]
            if value is None:
                found.missing.append(one)
            else:
                found.records.append(Record(one, {"": [value]}, {}, {}))
        self.times += 1
        return found


class Stored:
    """Points that stay as they are."""

    def __init__(self, points: Mapping[PointId, Point]) -> None:
        self._points = points

    def get(self, ids: Sequence[PointId], *, with_vectors: bool = True) -> Here:
        return Here([self._points[one] for one in ids if one in self._points])

    def scores(self, vector_name: str, query: bytes, ids: Sequence[PointId]) -> PendingScores:
        raise AssertionError("nobody asks for scores")

    def ids(self, after: PointId | None, limit: int) -> Page:
        return list(self._points.values()), None

    def close(self) -> None:
        """Nothing is open."""


class Here:
    def __init__(self, points: list[Point]) -> None:
        self._points = points

    def result(self) -> list[Point]:
        return self._points


def stored(value: float, number: int = 7, **payload: str) -> dict[PointId, Point]:
    fields = {"__id__": str(number), **payload}
    return {number: Point(number, {"": struct.pack("<f", value)}, dict(fields))}


def subject(letters: Mapping[str, str] | None = None) -> IndexSubject:
    return IndexSubject(
        table="pinecone:x",
        label="pinecone:x",
        mapping=MAPPING,
        namespaces=("",),
        counts={"": 1},
        letters=lambda: letters or {},
    )


def settled(
    looks: Sequence[float | None],
    points: Mapping[PointId, Point],
    letters: Mapping[str, str] | None = None,
) -> tuple[list[str], Script]:
    """(kinds, what was asked) of the record `7`."""
    script = Script({"7": looks})
    settler = RecordSettler(
        subject(letters),
        records=script,
        points=Stored(points),
        retry=Retry(patience_seconds=0),
        sleep=script.pauses.append,
    )
    return [one.kind for one in settler.settle([("7",)])], script


def test_what_differs_at_every_look_is_reported_after_so_many_pauses() -> None:
    kinds, script = settled([2.0], stored(1.0))
    assert (kinds, script.times) == (["altered"], LOOKS)
    assert script.pauses == [PAUSE_SECONDS] * (LOOKS - 1)


def test_a_record_that_was_read_as_it_had_been_is_not_reported() -> None:
    assert settled([2.0, 2.0, 1.0], stored(1.0))[0] == []
    assert settled([None, None, 1.0], stored(1.0))[0] == []


def test_a_record_that_changed_between_looks_must_hold_still_first() -> None:
    kinds, script = settled([2.0, 3.0], stored(1.0))
    assert (kinds, script.times) == (["altered"], 1 + LOOKS)


def test_a_record_that_never_holds_still_is_unsettled() -> None:
    kinds, script = settled([float(number) for number in range(2, 100)], stored(1.0))
    assert (kinds, script.times) == (["unsettled"], TRIES)


def test_a_record_without_a_point_is_missing_and_one_that_is_gone_is_nothing() -> None:
    assert settled([2.0], {})[0] == ["missing"]
    assert settled([2.0, None], {})[0] == []
    assert settled([None, None, 2.0], {})[0] == ["missing"]


def test_a_record_that_was_set_aside_is_told_as_such() -> None:
    assert settled([2.0], {}, {"7": "refused"})[0] == ["dead_lettered"]
    assert settled([float("nan")], stored(1.0))[0] == ["dead_lettered"]


def extras(
    looks: Sequence[float | None], points: Mapping[PointId, Point], listed: Sequence[PointId] = ()
) -> list[PointId]:
    script = Script({str(one): looks for one in range(10)})
    search = RecordExtras(
        subject(),
        records=script,
        points=Stored(points),
        all_ids=lambda: [listed],
        retry=Retry(patience_seconds=0),
        tell=lambda number: None,
        sleep=script.pauses.append,
    )
    return search.settle(set(points))


def test_a_point_is_an_extra_if_its_record_is_there_at_no_look() -> None:
    assert extras([None], stored(1.0)) == [7]
    assert extras([None, None, 1.0], stored(1.0)) == []


def test_a_point_that_tells_no_record_is_looked_for_in_the_listing() -> None:
    nameless = {7: Point(7, {}, {}), **stored(1.0, 8, __id__="another")}
    assert extras([None], nameless) == [7, 8]
    assert extras([None], nameless, [8]) == [7]
