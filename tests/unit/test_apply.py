"""How the changes of a window become writes (design.md section 6, "Applying changes")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from bridge.errors import RateLimited, Rejected, StopError, Unreachable
from bridge.events import UNCHANGED, Insert
from bridge.plan import Patch, Point
from bridge.retry import Retry
from sync.apply import Applied, Applier
from tests.support.fake_target import FakeTarget
from tests.support.stream_rows import COLUMNS, FakeSource, StreamDocs, row_of, tuple_of

NAN = float("nan")


def floats(*numbers: float) -> bytes:
    return np.array(numbers, dtype="<f4").tobytes()


def point(identity: int, **payload: Any) -> Point:
    """A point as it was before: v is (9, 9, 9), w (8, 8)."""
    vectors = {"v": floats(9, 9, 9), "w": floats(8, 8)}
    whole: dict[str, Any] = {"id": identity, "title": "before", "price": None, "lang": None}
    return Point(identity, vectors, {**whole, **payload})


class Applying:
    """A target, a source, and how long was waited."""

    def __init__(self) -> None:
        self.target = FakeTarget()
        self.source = FakeSource()
        self.waits: list[float] = []
        retry = Retry(sleep=self.waits.append, draw=lambda: 0.0)
        self.applier = Applier(self.target, self.source, retry=retry)

    def __call__(self, docs: StreamDocs, set_aside: Sequence[str] = ()) -> Applied:
        return self.applier.apply(docs.next_window(), "0/1", frozenset(set_aside))


@pytest.fixture
def run() -> Iterator[Applying]:
    yield Applying()


# --- whole rows and patches -----------------------------------------------------------------------


def test_a_row_that_came_whole_is_written_without_looking_anywhere(run: Applying) -> None:
    docs = StreamDocs()
    docs.insert(id=1, title="one", price=2.5, v=[1, 2, 3])
    applied = run(docs)
    assert run.target.payload(1) == {"id": 1, "title": "one", "price": 2.5, "lang": None}
    assert run.target.numbers(1) == [1, 2, 3]
    assert run.target.numbers(1, "w") is None
    assert run.source.asked == []
    assert (applied.upserts, applied.patches, applied.deletes) == (1, 0, 0)


def test_unchanged_vectors_stay_and_the_others_are_set(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.update(id=1, title="new", w=[5, 6])
    applied = run(docs)
    assert run.target.numbers(1) == [9, 9, 9]
    assert run.target.numbers(1, "w") == [5, 6]
    assert run.target.payload(1)["title"] == "new"
    assert run.source.asked == []
    assert (applied.upserts, applied.patches) == (0, 1)


def test_a_vector_that_became_null_is_cleared_while_the_other_stays(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.update(id=1, w=None)
    run(docs)
    assert run.target.numbers(1) == [9, 9, 9]
    assert run.target.numbers(1, "w") is None


def test_a_null_is_kept_in_the_payload_of_a_patch(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.update(id=1, title=None)
    run(docs)
    assert run.target.payload(1) == {"id": 1, "title": None, "price": None, "lang": None}


def test_nulls_omit_leaves_them_out_of_points_and_patches(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs(nulls="omit")
    docs.update(id=1, price=1.5)
    docs.insert(id=2, title="two")
    run(docs)
    assert run.target.payload(1) == {"id": 1, "price": 1.5}
    assert run.target.payload(2) == {"id": 2, "title": "two"}


def test_a_template_makes_the_id_and_its_fields_in_points_and_patches(run: Applying) -> None:
    docs = StreamDocs(id={"template": "doc-{id}", "namespace": "ns"})
    docs.insert(id=1, title="one", v=[1, 2, 3])
    run(docs)
    (identity,) = run.target.points
    docs.update(id=1, title="two")
    run(docs)
    assert list(run.target.points) == [identity]
    payload = run.target.payload(identity)
    assert (payload["__id__"], payload["namespace"], payload["title"]) == ("doc-1", "ns", "two")
    assert run.target.numbers(identity) == [1, 2, 3]
    docs.delete(1)
    run(docs)
    assert run.target.points == {}


# --- reading again --------------------------------------------------------------------------------


def test_a_patch_of_a_missing_point_becomes_a_whole_point_from_the_row(run: Applying) -> None:
    run.source.rows[1] = {"title": "newer", "v": [1, 2, 3], "w": None}
    docs = StreamDocs()
    docs.update(id=1, title="new")
    run(docs)
    assert run.target.numbers(1) == [1, 2, 3]
    assert run.target.payload(1)["title"] == "new"  # what the event brought counts
    assert run.source.asked == [({"id", "v", "w"}, ["1"], {700})]


def test_an_unchanged_payload_column_comes_from_the_row_and_never_from_the_point(
    run: Applying,
) -> None:
    run.target.put(point(1, title="the point's"))
    run.source.rows[1] = {"title": "the row's", "v": [1, 2, 3], "w": [1, 1]}
    docs = StreamDocs()
    docs.update(id=1, title=UNCHANGED, price=1.0)
    run(docs)
    assert run.target.payload(1)["title"] == "the row's"
    assert run.target.numbers(1) == [1, 2, 3]


def test_a_row_that_is_gone_is_left_to_its_delete(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.update(id=1, title=UNCHANGED)
    docs.update(id=2, title="x")
    applied = run(docs)
    assert run.target.points == {1: point(1)}
    assert run.target.calls == []
    assert applied == Applied()


def test_a_column_that_cannot_be_read_any_more_is_left_out(run: Applying) -> None:
    run.source.rows = {1: {"v": [1, 2, 3]}, 2: {"v": [4, 5, 6], "w": [1, 1]}}
    run.source.lacking = frozenset({"title"})
    docs = StreamDocs()
    docs.update(id=1, title=UNCHANGED, price=1.0)
    docs.update(id=2, title="sent", price=2.0)
    run(docs)
    assert run.target.payload(1) == {"id": 1, "price": 1.0, "lang": None}
    assert run.target.payload(2)["title"] == "sent"
    assert run.target.numbers(2) == [4, 5, 6]


def test_a_vector_column_that_cannot_be_read_any_more_stops(run: Applying) -> None:
    run.source.rows[1] = {}
    run.source.lacking = frozenset({"v"})
    docs = StreamDocs()
    docs.update(id=1, title=UNCHANGED)
    with pytest.raises(StopError) as caught:
        run(docs)
    assert caught.value.code == "SCHEMA_CHANGED"
    assert run.target.calls == []


# --- keys -----------------------------------------------------------------------------------------


def test_a_moved_row_takes_its_vector_from_the_row_and_the_old_point_goes_last(
    run: Applying,
) -> None:
    run.target.put(point(1))
    run.source.rows[2] = {"v": [1, 2, 3], "w": [1, 1]}
    docs = StreamDocs()
    docs.update(old=1, id=2, title="moved")
    run(docs)
    assert set(run.target.points) == {2}
    assert run.target.numbers(2) == [1, 2, 3]
    assert run.target.calls == [("upsert", (2,)), ("delete", (1,))]


def test_a_moved_row_that_is_gone_takes_its_vectors_from_the_old_point(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.update(old=1, id=2, title="moved", w=[5, 6])
    run(docs)
    assert set(run.target.points) == {2}
    assert run.target.numbers(2) == [9, 9, 9]
    assert run.target.numbers(2, "w") == [5, 6]
    assert run.target.payload(2)["title"] == "moved"


def test_an_old_point_without_a_vector_lends_none(run: Applying) -> None:
    run.target.put(Point(1, {"v": floats(9, 9, 9)}, {}))
    docs = StreamDocs()
    docs.update(old=1, id=2)
    run(docs)
    assert run.target.numbers(2) == [9, 9, 9]
    assert run.target.numbers(2, "w") is None


def test_a_moved_row_is_never_merged_with_the_old_points_payload(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.update(old=1, id=2, title=UNCHANGED)
    run(docs)
    assert run.target.points == {}  # its next change, or its delete, follows


def test_a_chain_of_keys_takes_the_vector_from_where_it_began(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.update(old=1, id=2)
    docs.update(old=2, id=3)
    run(docs)
    assert set(run.target.points) == {3}
    assert run.target.numbers(3) == [9, 9, 9]


def test_two_rows_swap_their_keys_and_keep_their_vectors(run: Applying) -> None:
    run.target.put(point(1), Point(2, {"v": floats(7, 7, 7)}, {}))
    docs = StreamDocs()
    docs.update(old=1, id=99, title="one")
    docs.update(old=2, id=1, title="two")
    docs.update(old=99, id=2, title="one")
    run(docs)  # both are gone from the source by now
    assert run.target.numbers(1) == [7, 7, 7]
    assert run.target.numbers(2) == [9, 9, 9]
    assert (run.target.payload(1)["title"], run.target.payload(2)["title"]) == ("two", "one")


def test_a_row_that_came_back_to_its_key_is_read_again(run: Applying) -> None:
    run.target.put(Point(1, {"v": floats(7, 7, 7)}, {}))  # another row's, from before a crash
    run.source.rows[1] = {"v": [1, 2, 3], "w": None}
    docs = StreamDocs()
    docs.update(old=1, id=2)
    docs.update(old=2, id=1, title="back")
    run(docs)
    assert run.target.numbers(1) == [1, 2, 3]
    assert set(run.target.points) == {1}


def test_deleting_a_point_that_is_not_there_is_no_error(run: Applying) -> None:
    docs = StreamDocs()
    docs.delete(5)
    assert run(docs).deletes == 1


# --- where ----------------------------------------------------------------------------------------


def test_a_row_that_stops_matching_goes(run: Applying) -> None:
    run.target.put(point(1))
    docs = StreamDocs(where={"lang": ["en", "de"]})
    docs.update(id=1, lang="fr")
    applied = run(docs)
    assert run.target.points == {}
    assert applied.deletes == 1


def test_a_row_that_begins_to_match_is_read_whole(run: Applying) -> None:
    run.source.rows[1] = {"v": [1, 2, 3], "w": [4, 5]}
    docs = StreamDocs(where={"lang": "en"})
    docs.update(id=1, title="x", lang="en")
    run(docs)
    assert run.target.numbers(1) == [1, 2, 3]
    assert run.target.payload(1)["title"] == "x"


def test_a_row_that_never_matched_is_not_written(run: Applying) -> None:
    docs = StreamDocs(where={"lang": "en"})
    docs.insert(id=1, lang="fr", v=[1, 2, 3])
    run(docs)
    assert run.target.points == {}


@pytest.mark.parametrize(("lang", "kept"), [("en", True), ("fr", False), (None, False)])
def test_where_on_a_column_that_was_not_sent_asks_the_row(
    run: Applying, lang: str | None, kept: bool
) -> None:
    run.target.put(point(1))
    run.source.rows[1] = {"lang": lang, "v": [1, 2, 3], "w": None}
    docs = StreamDocs(where={"lang": "en"})
    docs.update(id=1, lang=UNCHANGED, title="x")
    run(docs)
    assert set(run.target.points) == ({1} if kept else set())


def test_where_may_look_at_a_column_that_is_not_mapped(run: Applying) -> None:
    docs = StreamDocs(where={"lang": "en"}, payload={"title": "title"})
    docs.insert(id=1, lang="en", title="a", v=[1, 2, 3])
    docs.insert(id=2, lang="fr", title="b", v=[1, 2, 3])
    run(docs)
    assert set(run.target.points) == {1}
    assert run.target.payload(1) == {"title": "a"}
    run.source.rows[1] = {"lang": "en", "v": [4, 5, 6]}
    docs.update(id=1, lang=UNCHANGED, title="c")
    run(docs)
    assert run.target.payload(1) == {"title": "c"}
    assert run.source.asked[-1][0] == {"id", "lang", "v", "w"}


def test_where_not_null_needs_no_decoder_of_the_column(run: Applying) -> None:
    docs = StreamDocs(where={"price": "not null", "lang": None})
    docs.insert(id=1, price=1.0, v=[1, 2, 3])
    docs.insert(id=2, v=[1, 2, 3])
    docs.insert(id=3, price=1.0, lang="x", v=[1, 2, 3])
    run(docs)
    assert set(run.target.points) == {1}


def test_where_on_a_text_that_is_no_utf8_is_a_dead_letter(run: Applying) -> None:
    docs = StreamDocs(where={"lang": "en"})
    fields = list(row_of({"id": 1, "v": [1, 2, 3]}).values)
    fields[COLUMNS.index("lang")] = b"\xff"
    docs.window.insert(docs.table, Insert(relation=docs.relation, row=tuple_of(fields)), 700)
    applied = run(docs)
    assert [letter.key for letter in applied.letters] == ["1"]
    assert run.target.points == {}


# --- dead letters ---------------------------------------------------------------------------------


def test_a_row_that_no_point_can_hold_is_a_dead_letter_and_the_old_point_stays(
    run: Applying,
) -> None:
    run.target.put(point(1))
    docs = StreamDocs()
    docs.insert(id=1, title="x", v=[1, NAN, 3])
    docs.insert(id=2, title="y", v=[1, 2, 3])
    applied = run(docs)
    assert run.target.points[1] == point(1)
    assert run.target.numbers(2) == [1, 2, 3]
    ((letter),) = applied.letters
    assert (letter.table, letter.key, letter.position) == ("public.docs", "1", "0/1")
    assert applied.settled == ["2"]


def test_a_change_of_a_row_that_was_set_aside_is_no_patch(run: Applying) -> None:
    """Its point has an older vector than the row: a patch would make that look right."""
    run.target.put(point(1))
    run.source.rows[1] = {"v": [1, NAN, 3], "w": None}
    docs = StreamDocs()
    docs.update(id=1, title="x")
    applied = run(docs, set_aside=["1"])
    assert run.target.points[1] == point(1)
    assert [letter.key for letter in applied.letters] == ["1"]
    run.source.rows[1] = {"v": [1, 2, 3], "w": None}
    docs.update(id=1, title="x")
    applied = run(docs, set_aside=["1"])
    assert run.target.numbers(1) == [1, 2, 3]
    assert (applied.letters, applied.settled) == ([], ["1"])


def test_a_row_that_goes_settles_its_dead_letter(run: Applying) -> None:
    docs = StreamDocs(where={"lang": "en"})
    docs.delete(1)
    docs.update(old=2, id=3, lang="fr")
    assert sorted(run(docs).settled) == ["1", "2", "3"]


def test_a_null_in_a_key_is_a_dead_letter_without_a_key(run: Applying) -> None:
    docs = StreamDocs(identity="f")
    docs.insert(id=None)
    applied = run(docs)
    assert [(letter.key, letter.position) for letter in applied.letters] == [("NULL", "0/1")]
    assert run.target.calls == []


def test_a_point_that_the_target_refuses_is_found_among_the_others(run: Applying) -> None:
    run.target.refuse = lambda p: p.id == 3
    docs = StreamDocs()
    for identity in range(1, 8):
        docs.insert(id=identity, v=[1, 2, 3])
    applied = run(docs)
    assert set(run.target.points) == {1, 2, 4, 5, 6, 7}
    assert [letter.key for letter in applied.letters] == ["3"]
    assert applied.upserts == 6
    assert "3" not in applied.settled


def test_a_patch_that_the_target_refuses_is_found_among_the_others(run: Applying) -> None:
    def refused(one: Point | Patch) -> bool:
        return one.id == 3

    run.target.put(*map(point, range(1, 8)))
    run.target.refuse = refused
    docs = StreamDocs()
    for identity in range(1, 8):
        docs.update(id=identity, title="new")
    applied = run(docs)
    titles = {i: run.target.payload(i)["title"] for i in range(1, 8)}
    assert titles == {i: "before" if i == 3 else "new" for i in range(1, 8)}
    assert [letter.key for letter in applied.letters] == ["3"]
    assert applied.patches == 6
    assert sorted(applied.settled) == ["1", "2", "4", "5", "6", "7"]


def test_a_patch_that_cannot_be_encoded_is_a_dead_letter(run: Applying) -> None:
    run.target.put(point(1), point(2))
    docs = StreamDocs()
    docs.update(id=1, v=[1, NAN, 3])
    docs.update(id=2, title="fine")
    applied = run(docs)
    assert run.target.points[1] == point(1)
    assert run.target.payload(2)["title"] == "fine"
    assert [letter.key for letter in applied.letters] == ["1"]


def test_too_many_refused_points_stop(run: Applying) -> None:
    run.target.refuse = lambda p: True
    run.applier = Applier(run.target, run.source, retry=Retry(), refused_limit=3)
    docs = StreamDocs()
    for identity in range(1, 9):
        docs.insert(id=identity, v=[1, 2, 3])
    with pytest.raises(StopError) as caught:
        run(docs)
    assert caught.value.code == "DEAD_LETTERS"


# --- outages --------------------------------------------------------------------------------------


def test_an_outage_is_waited_for_and_the_same_is_written_again(run: Applying) -> None:
    run.target.put(point(1), point(3))
    failures = [Unreachable("away")] * 3

    def fault(method: str, ids: Sequence[Any]) -> None:
        if failures:
            raise failures.pop()

    run.target.fault = fault
    docs = StreamDocs()
    docs.update(id=1, title="new")
    docs.insert(id=2, v=[1, 2, 3])
    docs.delete(3)
    run(docs)
    assert len(run.waits) == 3
    assert set(run.target.points) == {1, 2}
    assert run.target.payload(1)["title"] == "new"


def test_a_rate_limit_on_patches_is_waited_for_and_then_met_with_halves(run: Applying) -> None:
    def fault(method: str, ids: Sequence[Any]) -> None:
        if len(ids) > 2:
            raise RateLimited("too much", retry_after_seconds=7.0)

    run.target.put(*map(point, range(1, 9)))
    run.target.fault = fault
    docs = StreamDocs()
    for identity in range(1, 9):
        docs.update(id=identity, title="new")
    applied = run(docs)
    assert all(p.payload["title"] == "new" for p in run.target.points.values())
    assert applied.patches == 8
    assert max(len(ids) for _method, ids in run.target.calls) == 2
    assert run.waits == [7.0] * 3  # once before the halves of eight, and of each four


def test_nothing_is_removed_before_what_replaces_it_is_durable(run: Applying) -> None:
    def fault(method: str, ids: Sequence[Any]) -> None:
        if method == "upsert":
            raise Rejected("no") if len(ids) > 1 else StopError("gone", code="TARGET_CHANGED")

    run.target.put(point(1))
    run.source.rows[2] = {"v": [1, 2, 3], "w": None}
    run.target.fault = fault
    docs = StreamDocs()
    docs.update(old=1, id=2)
    with pytest.raises(StopError):
        run(docs)
    assert set(run.target.points) == {1}


# --- tables without vectors: only the mapped fields are ours -----------------------------------------


def foreign(identity: int) -> Point:
    """A point that somebody else made and keeps more in."""
    return Point(identity, {"dense": floats(1, 2)}, {"title": "old", "price": 1.0, "theirs": "x"})


def fields_only(**more: Any) -> StreamDocs:
    return StreamDocs(vectors="none", payload={"title": "title", "price": "price"}, **more)


def test_mapped_fields_are_set_and_the_rest_of_the_point_stays(run: Applying) -> None:
    run.target.put(foreign(1))
    docs = fields_only()
    docs.update(id=1, title="new", price=None)
    applied = run(docs)
    assert run.target.points[1] == Point(
        1, {"dense": floats(1, 2)}, {"title": "new", "theirs": "x"}
    )
    assert (applied.upserts, applied.settled) == (1, ["1"])


def test_a_new_row_becomes_a_point_without_a_vector(run: Applying) -> None:
    docs = fields_only()
    docs.insert(id=1, title="new", v=[1, 2, 3])
    run(docs)
    assert run.target.points == {1: Point(1, {}, {"title": "new"})}


def test_a_field_that_was_not_sent_is_read_again(run: Applying) -> None:
    run.target.put(foreign(1))
    run.source.rows[1] = {"title": "the row's"}
    docs = fields_only()
    docs.update(id=1, title=UNCHANGED, price=2.0)
    run(docs)
    assert run.target.payload(1) == {"title": "the row's", "price": 2.0, "theirs": "x"}


def test_a_deleted_row_takes_the_point_with_it(run: Applying) -> None:
    run.target.put(foreign(1), foreign(2))
    docs = fields_only()
    docs.delete(1)
    run(docs)
    assert set(run.target.points) == {2}


def test_a_row_under_another_key_takes_along_what_others_keep_in_its_point(run: Applying) -> None:
    run.target.put(foreign(1))
    docs = fields_only()
    docs.update(old=1, id=2, title="moved", price=None)
    run(docs)
    assert run.target.points == {
        2: Point(2, {"dense": floats(1, 2)}, {"title": "moved", "theirs": "x"})
    }


def test_the_template_writes_the_ids_own_fields(run: Applying) -> None:
    docs = fields_only(id={"template": "doc-{id}", "namespace": "ns"})
    docs.insert(id=1, title="one")
    run(docs)
    (identity,) = run.target.points
    assert run.target.payload(identity) == {"title": "one", "__id__": "doc-1", "namespace": "ns"}


def test_a_fields_update_that_is_refused_is_found_among_the_others(run: Applying) -> None:
    run.target.refuse = lambda p: p.id == 2
    docs = fields_only()
    for identity in (1, 2, 3):
        docs.insert(id=identity, title="x")
    applied = run(docs)
    assert set(run.target.points) == {1, 3}
    assert [letter.key for letter in applied.letters] == ["2"]
