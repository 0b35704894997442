"""What is said at the end: the counts, and what they mean; the ledger's accounts; names of collections."""

from __future__ import annotations

from typing import Any

import pytest

from backfill.pinecone_inspect import collection_of
from backfill.pinecone_ledger import Ledger, Result, Work
from backfill.pinecone_report import NOT_A_SNAPSHOT, EndCounts, judge
from backfill.pinecone_state import NamespaceProgress
from bridge.collection_spec import VectorSpec, check_name
from bridge.pinecone.plan import IndexPlan, PlannedVector
from bridge.pinecone.reader import most_requests, record_bytes
from bridge.pinecone.scan import Batch, Cursor


def progress(namespace: str = "", **counts: Any) -> NamespaceProgress:
    return NamespaceProgress(label="pinecone:i", namespace=namespace, done=True, **counts)


def said(
    one: NamespaceProgress, *, source: int, target: int, found: int = 0, settled: int = 0
) -> tuple[list[str], list[str]]:
    counts = EndCounts(
        source={"": source}, target={"c": target}, found={"c": found}, letters_settled=settled
    )
    problems, notes = judge([one], {"": "c"}, counts)
    assert notes[-1] == NOT_A_SNAPSHOT
    return list(problems), list(notes[:-1])


def test_counts_that_agree_are_no_problem() -> None:
    assert said(progress(records=5, written=5), source=5, target=5) == ([], [])


@pytest.mark.parametrize(("source", "words"), [(6, "Pinecone counts 6"), (4, "Pinecone counts 4")])
def test_another_count_of_the_source_is_one(source: int, words: str) -> None:
    (problem,), _ = said(progress(records=5, written=5), source=source, target=5)
    assert words in problem


def test_points_that_are_missing_or_too_many_are_one() -> None:
    (problem,), _ = said(progress(records=5, written=5), source=5, target=4)
    assert "holds 4" in problem
    (problem,), _ = said(progress(records=5, written=5), source=5, target=6)
    assert "holds 6" in problem


def test_points_that_were_there_before_are_told_and_no_problem() -> None:
    problems, (note,) = said(progress(records=5, written=5), source=5, target=9, found=4)
    assert problems == []
    assert "held 4 points" in note


def test_records_set_aside_count_and_retried_ones_do_not() -> None:
    one = progress(records=5, written=3, dead_letters=2)
    problems, (note,) = said(one, source=5, target=3)
    assert problems == []
    assert "2 records were set aside" in note
    assert said(one, source=5, target=5, settled=2) == ([], [])


def test_a_record_that_is_neither_is_a_problem() -> None:
    (problem,), _ = said(progress(records=5, written=3, dead_letters=1), source=5, target=3)
    assert "of 5 records 3 were written and 1 set aside" in problem


def test_many_namespaces_that_differ_are_summed_up() -> None:
    all_of_them = [progress(f"n{number}", records=1, written=1) for number in range(9)]
    counts = EndCounts(source={}, target={"c": 9})
    problems, _ = judge(all_of_them, {one.namespace: "c" for one in all_of_them}, counts)
    assert len(problems) == 6
    assert problems[-1] == "4 more namespaces differ"


# --- the ledger -----------------------------------------------------------------------------------


def result(number: int, *ids: str, generation: int = 0, done: bool = False) -> Result:
    batch = Batch(ids=ids, cursor=Cursor(token=f"t{number}", done=done))
    work = Work(namespace="", generation=generation, number=number, batch=batch, present_stay=False)
    return Result(work=work, made=len(ids))


def test_a_refused_point_is_taken_off_the_written_ones_once() -> None:
    ledger = Ledger(progress())
    ledger.take(result(0, "a", "b"))
    ledger.take(result(2, "e", "f"))
    ledger.refuse("a")
    ledger.refuse("e")  # of a batch that is not counted yet
    assert (ledger.progress.written, ledger.progress.dead_letters) == (1, 1)
    ledger.take(result(1, "c"))
    assert (ledger.progress.records, ledger.progress.written) == (5, 3)
    assert ledger.progress.dead_letters == 2


def test_a_listing_that_begins_again_counts_anew() -> None:
    ledger = Ledger(progress())
    ledger.take(result(0, "a"))
    ledger.take(result(2, "c"))
    ledger.begin_again(1, present_stay=True)
    ledger.take(result(1, "b"))  # of before
    assert (ledger.progress.records, ledger.progress.token) == (0, None)
    ledger.take(result(0, "a", "b", "c", generation=1, done=True))
    assert ledger.progress.records == 3
    assert ledger.progress.done


def test_no_permit_is_lost_when_a_listing_begins_again() -> None:
    ledger = Ledger(progress())
    for _ in range(3):
        ledger.ahead.acquire()
    ledger.take(result(2, "c"))
    ledger.begin_again(1, present_stay=False)
    ledger.take(result(0, "a"))
    ledger.take(result(1, "b"))
    assert ledger.ahead._value == 128


# --- names and numbers ----------------------------------------------------------------------------


def test_each_namespace_has_a_collection_that_qdrant_takes() -> None:
    names = ["", "a", "a/b", "a:b", "a_b", "x" * 400, "x" * 401, "ümlaut"]
    made = [collection_of(name, "split", "base") for name in names]
    assert len(set(made)) == len(names)
    assert made[:2] == ["base", "base-a"]
    for name in made:
        check_name(name, what="it", hint="")
    assert {collection_of(name, "joint", "base") for name in names} == {"base"}


def test_wide_records_are_read_fewer_at_once() -> None:
    assert most_requests(record_bytes([8])) == 32
    assert most_requests(record_bytes([1536])) == 15
    assert most_requests(record_bytes([20_000])) == 4


def test_a_plan_is_stored_as_it_is() -> None:
    spec = VectorSpec(name="", shape="dense", distance="dot", dimension=3)
    plan = IndexPlan(
        label="pinecone:i",
        host="h",
        layout="joint",
        collections={"": "c", "b": "c"},
        counts={"": 1, "b": 2},
        vectors=(PlannedVector(source="", spec=spec),),
        id_field="__id__",
        namespace_field="ns",
        float_fields=("a", "b"),
        indexes={"ns": "tenant"},
        fingerprint="f",
        created_at="now",
    )
    assert IndexPlan.from_record(plan.to_record()) == plan
    mappings = plan.mappings()
    assert mappings[""] is mappings["b"]
    assert mappings[""].fields.namespace == "ns"
