"""Pages merged into the stream: what is skipped, what is applied, when a page is forgotten."""

from __future__ import annotations

from bridge.positions import Lsn
from bridge.snapshots import Snapshot
from sync.merge import Merge
from tests.support.stream_rows import StreamDocs

MARK = 690


def snapshot(text: str) -> Snapshot:
    return Snapshot.parse(text)


def test_a_change_that_the_page_shows_is_skipped_and_a_later_one_is_applied() -> None:
    merge, docs = Merge(MARK), StreamDocs()
    merge.wrote(snapshot("705:705:"), Lsn(100), [1, 2])
    docs.xid = 700
    docs.update(id=1, title="older")
    docs.delete(2)
    docs.update(id=3, title="not in the page")
    assert set(merge.unshown(docs.next_window()).states) == {3}
    docs.xid = 705
    docs.update(id=1, title="newer")
    docs.delete(2)
    assert set(merge.unshown(docs.next_window()).states) == {1, 2}


def test_a_transaction_in_progress_in_the_snapshot_is_applied_whatever_its_number() -> None:
    merge, docs = Merge(MARK), StreamDocs()
    merge.wrote(snapshot("700:705:700"), Lsn(100), [1, 2])
    docs.xid = 700
    docs.update(id=1, title="in progress then")
    docs.xid = 703
    docs.update(id=2, title="over then")
    assert set(merge.unshown(docs.next_window()).states) == {1}


def test_a_key_that_changed_loses_its_old_point_though_the_page_has_the_new_row() -> None:
    merge, docs = Merge(MARK), StreamDocs()
    merge.wrote(snapshot("705:705:"), Lsn(100), [9])
    docs.update(id=9, old=1)
    assert set(merge.unshown(docs.next_window()).states) == {1}


def test_the_last_change_of_a_point_in_a_window_decides() -> None:
    merge, docs = Merge(MARK), StreamDocs()
    merge.wrote(snapshot("705:705:"), Lsn(100), [1])
    docs.xid = 700
    docs.insert(id=1, title="shown", v=[1, 2, 3])
    docs.xid = 706
    docs.update(id=1, title="not shown")
    (state,) = merge.unshown(docs.next_window()).states.values()
    assert state.xid == 706


def test_a_page_is_forgotten_once_the_stream_has_passed_its_mark() -> None:
    merge, docs = Merge(MARK), StreamDocs()
    merge.wrote(snapshot("705:705:"), Lsn(100), [1])
    merge.wrote(snapshot("707:707:"), Lsn(200), [2])
    merge.passed(Lsn(99))
    assert (merge.held, merge.oldest) == (2, Lsn(100))
    merge.passed(Lsn(100))
    assert (merge.held, merge.oldest) == (1, Lsn(200))
    docs.update(id=1, title="applied again")
    docs.update(id=2, title="shown")
    assert set(merge.unshown(docs.next_window()).states) == {1}
    merge.passed(Lsn(200))
    assert merge.idle


def test_a_point_of_two_pages_stays_until_the_later_one_is_passed() -> None:
    merge = Merge(MARK)
    merge.wrote(snapshot("705:705:"), Lsn(100), [1])
    merge.wrote(snapshot("707:707:"), Lsn(200), [1])
    merge.passed(Lsn(100))
    assert merge.held == 1
    merge.passed(Lsn(200))
    assert merge.held == 0


def test_a_snapshot_counts_only_if_it_shows_what_the_stream_has_written() -> None:
    merge = Merge(MARK)
    merge.streamed([700, 701])
    assert not merge.usable(snapshot("701:702:701"))
    assert merge.usable(snapshot("702:702:"))


def test_a_snapshot_counts_only_once_everything_older_than_the_mark_has_ended() -> None:
    merge = Merge(MARK)
    assert not merge.usable(snapshot("680:695:680"))
    assert not merge.usable(snapshot("690:695:690"))
    assert merge.usable(snapshot("692:695:692"))


def test_32_bit_numbers_are_taken_in_the_snapshots_epoch() -> None:
    epoch = 2**32
    merge, docs = Merge(epoch - 10), StreamDocs()
    merge.streamed([5])
    assert not merge.usable(snapshot(f"{epoch - 3}:{epoch + 5}:{epoch - 3}"))
    assert merge.usable(snapshot(f"{epoch + 6}:{epoch + 6}:"))
    merge.wrote(snapshot(f"{epoch + 6}:{epoch + 6}:"), Lsn(100), [1, 2])
    docs.xid = 2**32 - 1
    docs.update(id=1, title="before the wrap, shown")
    docs.xid = 7
    docs.update(id=2, title="after it, not shown")
    assert set(merge.unshown(docs.next_window()).states) == {2}


def test_a_truncate_leaves_what_was_read_behind_it() -> None:
    merge = Merge(MARK)
    merge.wrote(snapshot("702:702:"), Lsn(100), [1])
    merge.wrote(snapshot("705:705:"), Lsn(200), [2])
    assert merge.outliving(703) == {2}
    assert merge.outliving(706) == set()
