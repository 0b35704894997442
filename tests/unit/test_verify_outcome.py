"""What `verify` lists, and which remedy it names for what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bridge.errors import CheckFailed
from cli.verify_outcome import remedies, require_passed
from cli.verify_view import LISTED, print_repair, print_results
from verify.looks import Kind, Verdict
from verify.report import Findings, TableResult, to_json


def result(*kinds: Kind, extras: int = 0, **more: Any) -> TableResult:
    found = Findings()
    for number, kind in enumerate(kinds):
        found.add(Verdict(kind=kind, key=(str(number),), id=number))
    for number in range(extras):
        found.add_extra(number)
    settings = {"table": "public.docs", "collection": "docs", **more}
    return TableResult(source=9, target=9, compared=9, findings=found, **settings)


def hints(*results: TableResult, follows: bool = True, repaired: bool = False) -> str:
    return "; ".join(remedies(results, follows=follows, repaired=repaired))


def test_the_remedy_is_that_of_what_was_found() -> None:
    assert "verify --repair" in hints(result("missing"))
    assert "dead-letters" not in hints(result("missing"))
    assert "resync public.docs" in hints(result("stale"))
    assert "verify --repair" not in hints(result("stale"))
    assert "again" in hints(result("unsettled"))
    assert hints(result(), result()) == ""


def test_after_a_repair_another_repair_is_no_remedy() -> None:
    left = hints(result("dead_lettered"), repaired=True)
    assert "dead-letters list" in left and "--repair" not in left
    assert "--repair" not in hints(result("missing"), repaired=True)


@pytest.mark.parametrize(
    ("table", "follows", "remedy"),
    [
        ("public.docs", True, "qdrant-bridge resync --all"),
        ("public.docs", False, "qdrant-bridge backfill pgvector --migration.restart"),
        ("pinecone:docs", True, "qdrant-bridge backfill pinecone --migration.restart"),
    ],
)
def test_a_missing_collection_is_no_work_for_a_repair(
    table: str, follows: bool, remedy: str
) -> None:
    gone = result(table=table, schema=("the collection docs does not exist",), absent=True)
    assert hints(gone, follows=follows).startswith(remedy)
    assert "--repair" not in hints(gone, follows=follows)


def test_a_later_vector_asks_for_another_collection_or_to_be_left_out() -> None:
    told = hints(result(schema=("the vector column e2 came",), unplaced=("e2",)))
    assert "another `collection`" in told and "resync --all" in told and "`columns`" in told
    assert "make the vectors fit" not in told


@pytest.mark.parametrize(
    ("exact", "remedy", "other"),
    [(1.0, "hnsw m", "vectors differ"), (0.0, "vectors differ", "hnsw m")],
)
def test_searches_blame_the_index_only_if_exact_ones_are_right(
    exact: float, remedy: str, other: str
) -> None:
    report = to_json("shop", [result()])
    measures = dict.fromkeys(
        ("recall_mean", "recall_median", "recall_min", "recall_p5", "spearman", "ndcg", "mrr"),
        exact,
    )
    report["tables"]["public.docs"]["recall"] = {
        "v": {"passed": False, "missed": ["mrr 0.000 is below 0.60"], "exact": measures}
    }
    with pytest.raises(CheckFailed) as raised:
        require_passed(report, [result()], follows=True, repaired=False)
    assert remedy in raised.value.hint and other not in raised.value.hint


def lines(text: str) -> Sequence[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_a_repair_lists_some_and_counts_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    done = {
        "dry_run": False,
        "written": [str(n) for n in range(19_990)],
        "removed": [1, 2],
        "problems": [],
        "extras_kept": False,
    }
    print_repair("public.docs", done)
    listed = lines(capsys.readouterr().out)
    assert len(listed) == LISTED + 1 + 2
    assert listed[0] == "public.docs: written: key 0"
    assert listed[LISTED] == "public.docs: written: … and 19,980 more"
    assert listed[-1] == "public.docs: removed: point 2"


def test_differences_beyond_the_examples_are_counted_in_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stale: list[Kind] = ["stale"] * 12
    print_results(to_json("shop", [result(*stale, "missing", extras=11)]))
    listed = lines(capsys.readouterr().out)
    assert "public.docs: stale: … and 2 more" in listed
    assert "public.docs: extra: … and 1 more" in listed
    assert not any("missing: …" in line for line in listed)


def test_names_and_headings_stay_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(to_json("shop", [result(table="public.a_table_with_quite_a_long_name")]))
    heading, row = lines(capsys.readouterr().out)[:2]
    assert heading.split() == [
        "table", "rows", "points", "compared",
        "missing", "extra", "stale", "altered", "unsettled", "dead-lettered",
    ]  # fmt: skip
    assert row.split()[0] == "public.a_table_with_quite_a_long_name"
