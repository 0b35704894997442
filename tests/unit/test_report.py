"""What a backfill says at its end: when counts agree, when they do not, and when that is no failure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backfill.report import REPORT_VERSION, Counts, TableReport, judge, sum_up, to_json
from bridge.state import ChunkDone


def counts(
    source: int, target: int, *, found: int = 0, partitions: dict[str, int] | None = None
) -> Counts:
    return Counts(source=source, target=target, partitions=partitions or {}, found_points=found)


def chunk(number: int, *, read: int, letters: int = 0, size: int = 10) -> ChunkDone:
    return ChunkDone(
        table="public.docs",
        number=number,
        rows_read=read,
        rows_written=read - letters,
        dead_letters=letters,
        size_bytes=size,
    )


def report(**changes: Any) -> TableReport:
    values: dict[str, Any] = {
        "table": "public.docs",
        "collection": "docs",
        "chunks": 2,
        "chunks_done": 2,
        "rows_read": 10,
        "rows_written": 10,
        "dead_letters": 0,
        "size_bytes": 100,
        "copied_now": 10,
        "copy_seconds": 1.5,
        **changes,
    }
    return TableReport(**values)


def test_equal_counts_have_nothing_to_tell() -> None:
    assert judge(10, 10, 0, {}, counts(10, 10)) == ((), ())


def test_an_empty_table_is_equal() -> None:
    assert judge(0, 0, 0, {}, counts(0, 0)) == ((), ())


def test_rows_that_are_neither_written_nor_set_aside_are_a_problem() -> None:
    problems, _notes = judge(10, 8, 1, {}, counts(10, 8))
    assert problems == ("10 rows were read, but 8 written and 1 set aside",)


def test_rows_counted_twice_are_a_problem() -> None:
    problems, _notes = judge(10, 11, 0, {}, counts(10, 11))
    assert problems == ("10 rows were read, but 11 written and 0 set aside",)


def test_dead_letters_are_told_and_no_failure() -> None:
    problems, notes = judge(10, 8, 2, {}, counts(10, 8))
    assert problems == ()
    assert notes == ("2 rows were set aside: qdrant-bridge dead-letters list",)


@pytest.mark.parametrize("now", [9, 11])
def test_a_table_that_changed_meanwhile_is_told_and_no_failure(now: int) -> None:
    problems, notes = judge(10, 10, 0, {}, counts(now, 10))
    assert problems == ()
    assert len(notes) == 1
    assert "10 rows were read" in notes[0]
    assert f"it has {now} now" in notes[0]


def test_a_table_that_changed_meanwhile_still_must_add_up() -> None:
    problems, _notes = judge(10, 7, 0, {}, counts(11, 7))
    assert problems == ("10 rows were read, but 7 written and 0 set aside",)


def test_a_target_that_holds_less_than_was_written_is_a_problem() -> None:
    problems, _notes = judge(10, 10, 0, {}, counts(10, 9))
    assert problems == ("10 points were written, but the collection holds 9",)


def test_a_target_that_holds_more_than_was_written_is_a_problem() -> None:
    (problem,), _notes = judge(10, 10, 0, {}, counts(10, 12))
    assert problem.startswith("10 points were written, but the collection holds 12")
    assert "deleted" in problem


def test_points_that_were_there_before_are_told_and_no_failure() -> None:
    problems, notes = judge(10, 10, 0, {}, counts(10, 15, found=5))
    assert problems == ()
    assert len(notes) == 1
    assert "held 5 points before" in notes[0]
    assert "holds 15 now" in notes[0]


def test_each_partition_is_counted() -> None:
    read = {"docs_a": 6, "docs_b": 4}
    assert judge(10, 10, 0, read, counts(10, 10, partitions=read)) == ((), ())


def test_a_partition_that_was_read_in_part_is_a_problem_though_the_sum_agrees() -> None:
    problems, _notes = judge(
        10, 10, 0, {"docs_a": 7, "docs_b": 3}, counts(10, 10, partitions={"docs_a": 6, "docs_b": 4})
    )
    assert problems == (
        "partition docs_a has 6 rows, of which 7 were read",
        "partition docs_b has 4 rows, of which 3 were read",
    )


def test_a_partition_that_was_not_read_at_all_is_a_problem() -> None:
    problems, _notes = judge(6, 6, 0, {"docs_a": 6}, counts(6, 6, partitions={"docs_a": 6, "x": 1}))
    assert problems == ("partition x has 1 rows, of which 0 were read",)


def test_chunks_are_summed_up() -> None:
    chunks = [chunk(0, read=5, letters=1), chunk(1, read=7, size=30), chunk(2, read=0, size=0)]
    assert sum_up(chunks) == (12, 11, 1, 40)
    assert sum_up([]) == (0, 0, 0, 0)


def test_a_table_is_complete_when_every_chunk_is_done() -> None:
    assert report().complete
    assert not report(chunks_done=1).complete


def test_the_report_is_json_with_a_version() -> None:
    first = report(partitions={"docs_a": 3}, notes=("a note",), source_count=10, target_count=10)
    second = report(table="public.other", problems=("a problem",), chunks_done=1)
    whole = json.loads(json.dumps(to_json("shop", [first, second])))
    assert whole["version"] == REPORT_VERSION
    assert whole["pipeline"] == "shop"
    assert whole["ok"] is False
    assert list(whole["tables"]) == ["public.docs", "public.other"]
    assert whole["tables"]["public.docs"]["complete"] is True
    assert whole["tables"]["public.docs"]["source_count"] == 10
    assert whole["tables"]["public.docs"]["partitions"] == {"docs_a": 3}
    assert whole["tables"]["public.other"]["problems"] == ["a problem"]
    assert whole["tables"]["public.other"]["source_count"] is None


def test_notes_alone_do_not_spoil_a_report() -> None:
    assert to_json("shop", [report(notes=("a note",))])["ok"] is True
    assert to_json("shop", [])["ok"] is True


def test_a_table_that_stood_still_and_was_read_in_part_is_a_problem() -> None:
    stood_still = Counts(source=10, target=8, partitions={}, found_points=0, source_before=10)
    problems, notes = judge(8, 8, 0, {}, stood_still)
    assert problems == ("8 rows were read of a table that had 10 all the time",)
    assert notes == ()


def test_points_that_went_missing_are_a_problem_whatever_the_table_did() -> None:
    problems, _notes = judge(10, 10, 0, {}, counts(11, 9))
    assert problems == ("10 points were written, but the collection holds 9",)
