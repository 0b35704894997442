"""`qdrant-bridge demo`, as a process: what it shows, what it keeps, and that it leaves nothing running
that it was not told to keep."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
import qdrant_edge

from tests.support.command import Outcome, Running
from tests.support.processes import POLL_SECONDS, await_exit
from tests.support.shell import command

PATIENCE_SECONDS: Final = 60.0


@contextmanager
def _directory() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="qdrant-bridge-test-demo-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that Postgres' own account can enter, which pytest's are not."""
    with _directory() as place:
        yield place


def processes_in(directory: Path) -> list[str]:
    """The command lines of processes that work in this directory (Postgres, the daemon), but not the
    demo's own."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "command="], capture_output=True, text=True, check=True
    )
    return [line for line in listed.stdout.splitlines() if f"{directory}/" in line]


@pytest.fixture(scope="module")
def shown() -> Iterator[Outcome]:
    """A demo from its beginning to its end; it left nothing behind."""
    with _directory() as place:
        with Running("demo", "--directory", str(place)) as running:
            outcome = running.finish().require()
        assert list(place.iterdir()) == []
        assert processes_in(place) == []
        yield outcome


def test_the_demo_finds_the_same_in_both(shown: Outcome) -> None:
    assert "15 of 15 hits are the same in both." in shown.out
    assert "3,000 rows" in shown.err
    assert re.search(r"packages +3,000 +3,000 +0 ", shown.err)
    assert "…" not in shown.err
    for question in (
        "store passwords safely",
        "split a PDF into single pages",
        "control a telescope",
    ):
        assert question in shown.out
    assert shown.out.count("pgvector") == shown.out.count("Qdrant") == 3
    # Both similarities of each hit, and names as long as this one, on a screen of 80 columns.
    assert len(re.findall(r"^\S+ +0\.\d{4}  \S+ +0\.\d{4} ", shown.out, re.MULTILINE)) == 15
    assert shown.out.count("password-gorilla") == 2
    assert max(map(len, shown.out.splitlines())) <= 80


def test_changes_arrive_whole_although_the_daemon_is_killed_meanwhile(shown: Outcome) -> None:
    before, _, after = shown.err.partition("kill -9")
    assert re.search(r" [1-9][0-9,]* applied", before)
    # A lag that grows has its reason beside it.
    assert re.search(r" 0 applied, lag .*; the daemon is starting$", before, re.MULTILINE)
    assert "; no daemon runs" in after and not shown.err.rstrip().endswith("starting")
    assert "starts again, from its checkpoint" in after
    [[changes, rows, points]] = re.findall(
        r"([0-9,]+) changes and a kill -9 later: ([0-9,]+) rows in Postgres, ([0-9,]+) points",
        shown.out,
    )
    assert int(changes.replace(",", "")) > 200
    assert rows == points > "3,000"
    assert "All 25 columns of every row are the same." in shown.out
    *_, told = re.findall(r"([0-9,]+) changes by SQL, ([0-9,]+) applied", shown.err)
    assert told == (changes, changes)


def test_what_is_kept_runs_on_and_can_be_read(directory: Path) -> None:
    with Running("demo", "--keep", "--directory", str(directory)) as running:
        outcome = running.finish().require()
    assert f"kept: edge://{directory}/qdrant" in outcome.err
    [(daemon, postgres)] = re.findall(r"kill (\d+); kill -INT (\d+)$", outcome.err, re.MULTILINE)
    [own] = re.findall(r"^  (\S.*) status --config", outcome.err, re.MULTILINE)
    assert shutil.which(own.split()[0]) is not None, own
    assert f"  {own} sync postgres --config" in outcome.err
    assert re.search(
        rf"^  rm -r {directory}/postgres {directory}/qdrant ", outcome.err, re.MULTILINE
    )
    [(url, row)] = re.findall(r"psql '(\S+)' -c \"UPDATE .* WHERE id = (\d+)", outcome.err)
    try:
        rows = _change_and_await(url, int(row))
        first = _search(outcome.err).splitlines()[0]
        assert first.endswith(" changed"), "its own nearest one, as it is since the change"
        os.kill(int(daemon), signal.SIGTERM)
        await_exit(int(daemon))
    finally:
        os.kill(int(postgres), signal.SIGINT)
        await_exit(int(postgres))
    assert processes_in(directory) == []
    shard = qdrant_edge.EdgeShard.load(str(directory / "qdrant" / "collections" / "packages"))
    try:
        assert shard.count(qdrant_edge.CountRequest(exact=True)) == rows
        [record] = shard.retrieve([int(row)], True, False)
        assert record.payload is not None and record.payload["summary"] == "changed"
    finally:
        shard.close()
    kept = (f"--qdrant.url=edge://{directory}/qdrant", "--pg.table=packages", "--json")
    status = command("status", *kept).require().report
    assert status["complete"]
    assert status["tables"]["public.packages"]["rows_read"] == 3000
    again = command("demo", "--directory", str(directory)).require(2)
    assert "exists already" in again.err


def _search(told: str) -> str:
    """What the search prints that the demo shows, run beside the daemon."""
    [program] = re.findall(r"^  \S+ -c \"\n(from pathlib .*?)\"$", told, re.MULTILINE | re.DOTALL)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout


def _change_and_await(url: str, row: int) -> int:
    """Change a row by SQL, wait until the daemon has applied it; how many rows there are."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE packages SET summary = 'changed' WHERE id = %s", (row,))
        reached = "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots"
        behind = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert behind is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while connection.execute(reached, behind).fetchone() != (True,):
            assert time.monotonic() < deadline
            time.sleep(POLL_SECONDS)
        counted = connection.execute("SELECT count(*) FROM packages").fetchone()
    assert counted is not None
    return int(counted[0])


@pytest.mark.parametrize(
    ("moment", "number", "keep"),
    [
        # A server whose files stay would stay as well, if it were forgotten.
        ("postgres starts", signal.SIGINT, True),
        ("rows are loaded", signal.SIGINT, False),
        ("chunks are copied", signal.SIGINT, True),
        ("chunks are copied", signal.SIGTERM, False),
        ("the daemon follows", signal.SIGINT, True),
        ("the daemon follows", signal.SIGTERM, False),
    ],
)
def test_an_interrupted_demo_leaves_nothing_running(
    directory: Path, moment: str, number: signal.Signals, keep: bool
) -> None:
    flags = ("--keep",) if keep else ()
    with Running("demo", "--directory", str(directory), *flags) as running:
        if moment == "postgres starts":
            _await_file(directory / "postgres" / "port", running)
        elif moment == "rows are loaded":
            running.wait_line("1. Postgres with pgvector is running")
        elif moment == "chunks are copied":
            running.wait_line("chunks to copy")
        else:
            running.wait_line("changes by SQL")
        server = _server(directory)
        running.signal(number)
        outcome = running.finish().require(128 + number)
        assert processes_in(directory) == []
    if server is not None:
        await_exit(server)
    assert "interrupted" in outcome.err
    assert "Traceback" not in outcome.err
    assert keep or list(directory.iterdir()) == []


def _server(directory: Path) -> int | None:
    """The pid of the Postgres server there, if it has one by now."""
    try:
        return int((directory / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return None


def _await_file(path: Path, running: Running) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert running.process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
