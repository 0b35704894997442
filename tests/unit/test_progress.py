"""What a backfill shows while it runs: counted by a pure tally, under a clock of the test's own."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from backfill.indexing import Indexing
from backfill.messages import ChunkCopied, Progress, Waiting
from backfill.pgvector import Planned
from bridge.plan import DeadLetter
from bridge.workers import WorkerLost
from cli.display import Bars, duration
from cli.progress import Lines, Tally


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def planned(*, chunks: int = 2, left: int = 2, done: int = 0, estimate: int = 1000) -> Planned:
    return Planned(
        table="public.docs",
        collection="docs",
        chunks=chunks,
        chunks_left=left,
        rows_done=done,
        bytes_done=done * 100,
        estimated_rows=estimate,
        workers=2,
    )


def copied(chunk: int, rows: int, *, letters: int = 0) -> ChunkCopied:
    return ChunkCopied(
        chunk=chunk,
        rows_read=rows,
        rows_written=rows - letters,
        size_bytes=rows * 100,
        seconds=1.0,
        letters=tuple(
            DeadLetter(table="public.docs", key=str(number), reason="r", position="p")
            for number in range(letters)
        ),
        partitions={},
    )


def progress(chunk: int, rows: int) -> Progress:
    return Progress(chunk=chunk, rows=rows, size_bytes=rows * 100)


def test_progress_of_a_chunk_is_what_it_has_so_far_not_what_is_new(clock: Clock) -> None:
    tally = Tally(planned(), clock)
    tally.take(progress(0, 100))
    tally.take(progress(0, 250))
    tally.take(progress(1, 40))
    assert (tally.rows, tally.size_bytes) == (290, 29_000)
    tally.take(copied(0, 300))
    assert (tally.rows, tally.chunks_done) == (340, 1)


def test_a_chunk_that_is_read_again_is_not_counted_twice(clock: Clock) -> None:
    tally = Tally(planned(), clock)
    tally.take(progress(0, 400))
    tally.take(WorkerLost(pid=7, chunks=(0,)))
    assert tally.rows == 0
    tally.take(progress(0, 100))
    tally.take(copied(0, 500))
    assert tally.rows == 500
    tally.take(WorkerLost(pid=8, chunks=()))
    assert tally.rows == 500


def test_a_chunk_tried_again_in_its_worker_begins_at_nothing(clock: Clock) -> None:
    tally = Tally(planned(), clock)
    tally.take(progress(0, 400))
    tally.take(progress(0, 0))
    tally.take(copied(0, 450))
    assert tally.rows == 450


def test_rows_that_were_set_aside_are_failures(clock: Clock) -> None:
    tally = Tally(planned(), clock)
    tally.take(copied(0, 10, letters=3))
    tally.take(copied(1, 10, letters=1))
    assert tally.failures == 4
    assert tally.line().endswith("4 failed")


def test_an_earlier_runs_rows_count_but_not_in_the_rate(clock: Clock) -> None:
    tally = Tally(planned(chunks=4, left=2, done=600), clock)
    assert (tally.rows, tally.size_bytes, tally.chunks_done) == (600, 60_000, 2)
    clock.now += 2
    tally.take(progress(2, 100))
    assert tally.rates() == (50.0, 5000.0)


def test_the_rate_is_that_of_the_last_half_minute(clock: Clock) -> None:
    tally = Tally(planned(estimate=100_000), clock)
    for _ in range(10):
        clock.now += 1
        tally.take(progress(0, tally.rows + 1000))
    assert tally.rates()[0] == pytest.approx(1000)
    for _ in range(60):  # an outage
        clock.now += 1
        tally.take(Waiting(reason="away", seconds=1.0))
    assert tally.rates() == (0.0, 0.0)
    assert "time left unknown" in tally.line()
    for _ in range(40):
        clock.now += 1
        tally.take(progress(0, tally.rows + 500))
    assert tally.rates()[0] == pytest.approx(500)


def test_a_lost_workers_rows_make_no_negative_rate(clock: Clock) -> None:
    tally = Tally(planned(), clock)
    clock.now += 1
    tally.take(progress(0, 100))
    clock.now += 40
    tally.take(WorkerLost(pid=7, chunks=(0,)))
    assert min(tally.rates()) >= 0.0


def test_the_total_is_an_estimate_until_all_chunks_are_done(clock: Clock) -> None:
    tally = Tally(planned(estimate=150), clock)
    assert tally.total_rows() == 150
    tally.take(copied(0, 200))
    assert tally.total_rows() == 200  # more than was thought
    tally.take(copied(1, 50))
    assert tally.total_rows() == 250
    low = Tally(planned(estimate=-1), clock)
    assert low.total_rows() == 0


def test_the_line(clock: Clock) -> None:
    tally = Tally(planned(estimate=60_000), clock)
    clock.now += 2
    tally.take(Progress(chunk=0, rows=20_000, size_bytes=123_400_000))
    assert tally.line() == "20,000 of ~60,000 rows, 10,000 rows/s, 61.7 MB/s, 4 s left, 0 failed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (89, "89 s"),
        (90, "2 min"),
        (60 * 89, "89 min"),
        (60 * 90, "1 h 30 min"),
        (3600 * 3 + 300, "3 h 05 min"),
        (3600 * 100, "100 h 00 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_come_every_few_seconds_and_at_what_matters(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> list[str]:
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    with Lines(clock) as show:
        show(planned(chunks=4, left=2, done=500))
        assert said() == [
            "public.docs -> docs: 2 of 4 chunks to copy, 2 workers, 500 rows copied before"
        ]
        for _ in range(9):
            clock.now += 1
            show(progress(2, 10))
        assert len(said()) == 1
        for _ in range(19):
            clock.now += 1
            show(Waiting(reason="Qdrant does not answer", seconds=0.5))
        assert said() == ["waiting 0.5 s: Qdrant does not answer"] * 2
        show(WorkerLost(pid=7, chunks=(2, 3)))
        assert said() == ["worker 7 died; what it had is read again"]
        for indexed in (0, 5, 10):
            show(Indexing(collection="docs", points=10, indexed=indexed))
        assert said() == ["docs: Qdrant indexes, 0 of 10 vectors"]


@pytest.mark.parametrize(("width", "drawn"), [(80, False), (140, True)])
def test_a_narrow_terminal_has_the_words_and_no_bar(width: int, drawn: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, record=True)
    bars = Bars(console)
    line = "11,276 of ~19,991 rows, 9,100 rows/s, 58.2 MB/s, 5 s left, 0 failed"
    task = bars.progress.add_task("public.docs", total=100, line=line)
    bars.progress.update(task, completed=50)
    console.print(bars.progress.get_renderable())
    shown = console.export_text()
    assert line in shown
    assert ("━" in shown) is drawn
