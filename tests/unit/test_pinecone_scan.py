"""Pages -> batches -> records, with pages that are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bridge.errors import Unreachable
from bridge.pinecone.errors import TooLong, Unreadable
from bridge.pinecone.pace import Gate, Pace
from bridge.pinecone.records import IdPage, Record, RecordPage, encoded_length
from bridge.pinecone.scan import START, Batch, Cursor, Endpoint, Fetcher, batches
from bridge.retry import Retry


def listing(*pages: Sequence[str]) -> Callable[[str | None], IdPage]:
    """Pages whose tokens are their numbers."""

    def list_page(token: str | None) -> IdPage:
        number = int(token or 0)
        following = str(number + 1) if number + 1 < len(pages) else None
        return IdPage(ids=tuple(pages[number]), following=following, read_units=1)

    return list_page


def ids(count: int, start: int = 0) -> list[str]:
    return [f"id-{number}" for number in range(start, start + count)]


def found(*pages: Sequence[str], cursor: Cursor = START, **sizes: int) -> list[Batch]:
    return list(batches(listing(*pages), cursor, **sizes))


def test_full_pages_are_batches() -> None:
    first, second = found(ids(4), ids(4, 4), size=4)
    assert first == Batch(ids=tuple(ids(4)), cursor=Cursor(token="1"), read_units=1)
    assert second.cursor.done


def test_short_pages_are_put_together() -> None:
    got = found(ids(1), [], ids(2, 1), [], [], ids(4, 3), ids(1, 7), size=4)
    assert [len(batch.ids) for batch in got] == [4, 4]
    assert got[0].cursor == Cursor(token="5", after="id-3")
    assert got[-1].cursor == Cursor(done=True)
    assert sum(batch.read_units for batch in got) == 7


def test_nothing_is_a_batch_that_is_done() -> None:
    assert found([]) == [Batch(ids=(), cursor=Cursor(done=True), read_units=1)]
    assert found([], []) == [Batch(ids=(), cursor=Cursor(done=True), read_units=2)]


def test_an_empty_last_page_ends_it() -> None:
    got = found(ids(4), [], size=4)
    assert [batch.cursor for batch in got] == [Cursor(token="1"), Cursor(done=True)]


def test_a_done_cursor_lists_nothing() -> None:
    def never(_token: str | None) -> IdPage:
        raise AssertionError

    assert list(batches(never, Cursor(done=True))) == []


def test_long_ids_make_small_batches() -> None:
    names = ["%" * 100 for _ in range(5)]
    got = found([f"{n}{name}" for n, name in enumerate(names)], size=100, url_bytes=700)
    assert [len(batch.ids) for batch in got] == [2, 2, 1]
    assert all(sum(map(encoded_length, batch.ids)) <= 700 for batch in got)


def test_an_id_longer_than_all_stays_alone() -> None:
    assert [len(b.ids) for b in found(["%" * 500, "a"], size=9, url_bytes=700)] == [1, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_from_every_cursor_the_rest_comes_once(size: int) -> None:
    pages: list[list[str]] = [ids(3), [], ids(4, 3), ids(1, 7), ids(6, 8)]
    whole = ids(14)
    done: list[str] = []
    for batch in found(*pages, size=size):
        done += batch.ids
        rest = [one for later in found(*pages, cursor=batch.cursor, size=size) for one in later.ids]
        assert done + rest == whole


def test_a_page_that_has_changed_is_taken_whole() -> None:
    """The id that was the last one is gone."""
    cursor = Cursor(token="0", after="gone")
    assert found(ids(3), cursor=cursor)[0].ids == tuple(ids(3))
    many = [ids(50, 50 * number) for number in range(9)]
    assert [one for batch in found(*many, cursor=cursor) for one in batch.ids] == ids(450)


def test_an_id_that_has_moved_to_a_later_page_is_found_there() -> None:
    cursor = Cursor(token="0", after="id-6")
    (batch,) = found(ids(2), [], ids(3, 2), ids(4, 5), cursor=cursor)
    assert batch.ids == ("id-7", "id-8")


# --- fetching -------------------------------------------------------------------------------------


class Pages:
    """Records for all ids but `missing`; pages with a `bad` id cannot be read."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.bad: set[str] = set()
        self.longest = 10**9
        self.failures: list[Exception] = []
        self.asked: list[tuple[str, ...]] = []

    def list_page(self, namespace: str, token: str | None) -> IdPage:
        raise AssertionError

    def fetch(self, namespace: str, ids: Sequence[str]) -> RecordPage:
        self.asked.append(tuple(ids))
        if self.failures:
            raise self.failures.pop(0)
        if sum(map(encoded_length, ids)) > self.longest:
            raise TooLong("414")
        if self.bad & set(ids):
            raise Unreadable("a record that cannot be read")
        records = [Record(one, {}, {}, {}) for one in ids if one not in self.missing]
        return RecordPage(records=records, read_units=1)


def fetcher(pages: Pages, url_bytes: int = 8000) -> Fetcher:
    endpoint = Endpoint(
        pace=Pace(0),
        gate=Gate(start=4, most=4),
        retry=Retry(patience_seconds=5, sleep=lambda _: None, draw=lambda: 0.0),
    )
    return Fetcher(pages, endpoint, url_bytes=url_bytes)


def test_missing_ids_are_told() -> None:
    pages = Pages()
    pages.missing = {"id-3", "id-7"}
    got = fetcher(pages).fetch("", ids(10))
    assert [record.id for record in got.records] == [i for i in ids(10) if i not in pages.missing]
    assert got.missing == ["id-3", "id-7"]
    assert got.read_units == 1


@pytest.mark.parametrize("bad", [["id-0"], ["id-99"], ["id-5", "id-6", "id-70"], ids(100)])
def test_bad_records_are_found_by_halves(bad: list[str]) -> None:
    pages = Pages()
    pages.bad = set(bad)
    got = fetcher(pages).fetch("", ids(100))
    assert [one.id for one in got.unread] == bad
    assert len(got.records) == 100 - len(bad)
    assert len(pages.asked) <= 3 + len(bad) * 2 * 9


def test_an_answer_that_could_not_be_read_once_blames_nobody() -> None:
    pages = Pages()
    pages.failures = [Unreadable("?"), Unreadable("?")]
    got = fetcher(pages).fetch("", ids(5))
    assert got.unread == []
    assert len(pages.asked) == 3


def test_a_url_that_was_too_long_teaches_the_next_ones() -> None:
    pages = Pages()
    pages.longest = 2500
    names = ["x" * 95 + f"{number:03}" for number in range(60)]
    fetching = fetcher(pages)
    assert len(fetching.fetch("", names).records) == 60
    pages.asked.clear()
    assert len(fetching.fetch("", names).records) == 60
    assert max(sum(map(encoded_length, one)) for one in pages.asked) <= 2500


def test_one_id_that_nobody_takes_is_set_aside() -> None:
    pages = Pages()
    pages.longest = 100
    got = fetcher(pages).fetch("", ["a", "%" * 90, "b"])
    assert [one.id for one in got.unread] == ["%" * 90]
    assert [one.id for one in got.records] == ["a", "b"]


def test_an_outage_is_waited_for_and_the_same_is_asked_again() -> None:
    pages = Pages()
    pages.failures = [Unreachable("away")] * 7
    got = fetcher(pages).fetch("", ids(3))
    assert len(got.records) == 3
    assert pages.asked == [tuple(ids(3))] * 8
