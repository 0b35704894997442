"""What a pipeline remembers: its records come back as they went, and none replaces another."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.plan import DeadLetter
from bridge.state import ChunkDone, Source, TablePlan, letter_from_record, letter_name

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def _through_json(record: Any) -> Any:
    """As a target gives it back: plain lists and dictionaries."""
    return json.loads(json.dumps(record))


def plan(bounds: tuple[tuple[str, ...], ...]) -> TablePlan:
    return TablePlan(
        source=Source(system_id="73", database="app", table="public.docs", table_oid=16_400),
        collection="docs",
        key=("tenant", "id"),
        bounds=bounds,
        fingerprint="f00d",
        points_before=3,
        rows_before=10,
        created_at="2026-01-02T03:04:05.000006Z",
    )


@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_a_plan_comes_back_as_it_was_stored(bounds: list[tuple[str, str]]) -> None:
    stored = plan(tuple(bounds))
    assert TablePlan.from_record(_through_json(stored.to_record())) == stored


def test_a_plan_has_one_chunk_more_than_bounds() -> None:
    assert plan(()).chunks == 1
    assert plan((("a", "1"), ("b", "2"))).chunks == 3


def test_a_record_of_a_plan_is_plain_lists() -> None:
    record = plan((("a", "1"),)).to_record()
    assert record["bounds"] == [["a", "1"]]
    assert record["source"]["table"] == "public.docs"


def test_a_finished_chunk_comes_back_as_it_was_stored() -> None:
    done = ChunkDone(
        table='app."Weird/Table"',
        number=7,
        rows_read=10,
        rows_written=9,
        dead_letters=1,
        size_bytes=2**40,
        seconds=1.25,
        partitions={"16401": 10},
    )
    assert ChunkDone.from_record(_through_json(asdict(done))) == done


def _chunk(table: str, number: int) -> ChunkDone:
    return ChunkDone(
        table=table, number=number, rows_read=0, rows_written=0, dead_letters=0, size_bytes=0
    )


@given(st.tuples(texts, st.integers(0, 10**6)), st.tuples(texts, st.integers(0, 10**6)))
def test_no_chunk_replaces_another(one: tuple[str, int], other: tuple[str, int]) -> None:
    assert (_chunk(*one).name == _chunk(*other).name) == (one == other)


def test_a_dead_letter_comes_back_as_it_was_stored() -> None:
    letter = DeadLetter(
        table="public.docs", key='["a","b"]', reason="too large", position="chunk 3"
    )
    record = _through_json({**asdict(letter), "at": "2026-01-02T03:04:05Z"})
    assert letter_from_record(record) == letter


def test_a_row_that_fails_again_replaces_its_letter() -> None:
    first = DeadLetter(table="public.docs", key="7", reason="a reason", position="chunk 1")
    again = DeadLetter(table="public.docs", key="7", reason="another", position="chunk 2")
    other = DeadLetter(table="public.docs", key="8", reason="a reason", position="chunk 1")
    assert letter_name(first) == letter_name(again) != letter_name(other)


# Tables are labelled as SQL writes them: a name that is no plain word stands in quotes.
labels = st.sampled_from(["public.a", "public.b", 'public."a/b"', 'public."a/1"', 'public."a"'])


@given(st.tuples(labels, texts), st.tuples(labels, texts))
def test_letters_of_different_rows_have_different_names(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    names = [
        letter_name(DeadLetter(table=table, key=key, reason="", position=""))
        for table, key in (one, other)
    ]
    assert (names[0] == names[1]) == (one == other)
