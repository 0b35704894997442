"""Whatever the pages are, and wherever a run is broken off: every id comes once, in its order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backfill.pinecone_ledger import Ledger, Result, Work
from backfill.pinecone_state import NamespaceProgress
from bridge.pinecone.records import IdPage, encoded_length
from bridge.pinecone.scan import START, Batch, Cursor, batches

NAMES = st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=30)
LISTS = st.lists(NAMES, unique=True, max_size=60)


@st.composite
def pages(draw: st.DrawFn) -> list[list[str]]:
    """Ids cut into pages, some of them empty."""
    ids = draw(LISTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=12)))
    bounds = [0, *cuts, len(ids)]
    return [ids[a:b] for a, b in pairwise(bounds)]


def listing(cut: list[list[str]]) -> Callable[[str | None], IdPage]:
    def list_page(token: str | None) -> IdPage:
        number = int(token or 0)
        following = str(number + 1) if number + 1 < len(cut) else None
        return IdPage(ids=tuple(cut[number]), following=following)

    return list_page


@given(pages(), st.integers(1, 20), st.integers(40, 400))
def test_batches_are_the_ids_in_order_within_both_sizes(
    cut: list[list[str]], size: int, url_bytes: int
) -> None:
    got = list(batches(listing(cut), START, size=size, url_bytes=url_bytes))
    assert [one for batch in got for one in batch.ids] == [one for page in cut for one in page]
    for batch in got:
        assert len(batch.ids) <= size
        assert len(batch.ids) <= 1 or sum(map(encoded_length, batch.ids)) <= url_bytes
    assert [batch.cursor.done for batch in got] == [False] * (len(got) - 1) + [True]


@given(pages(), st.integers(1, 20), st.data())
def test_a_run_goes_on_where_it_was_broken_off(
    cut: list[list[str]], size: int, data: st.DataObject
) -> None:
    ids = [one for page in cut for one in page]
    done: list[str] = []
    cursor = START
    while not cursor.done:
        got = list(batches(listing(cut), cursor, size=size))
        for batch in got[: data.draw(st.integers(1, len(got)))]:
            done += batch.ids
            cursor = batch.cursor
    assert done == ids


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_progress_never_passes_a_batch_that_is_not_there(sizes: list[int], chance: object) -> None:
    """Batches come back in any order."""
    work = [
        Work(
            namespace="n",
            generation=0,
            number=number,
            batch=Batch(
                ids=tuple(f"{number}-{n}" for n in range(size)),
                cursor=Cursor(token=str(number), done=number == len(sizes) - 1),
            ),
            present_stay=False,
        )
        for number, size in enumerate(sizes)
    ]
    ledger = Ledger(NamespaceProgress(label="i", namespace="n"))
    order = list(work)
    chance.shuffle(order)  # type: ignore[attr-defined]
    there: set[int] = set()
    for one in order:
        ledger.take(Result(work=one, made=len(one.batch.ids)))
        there.add(one.number)
        through = next((n for n in range(len(work)) if n not in there), len(work))
        assert ledger.progress.records == sum(sizes[:through])
        assert ledger.progress.token == (str(through - 1) if through else None)
    assert ledger.progress.done
