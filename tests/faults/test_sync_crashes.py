"""A daemon that fails at any step of a window: killed, an error, a lost response (faults.md, "killed at
any step"; "timeout after it applied").

After every failure the stored checkpoint has passed nothing that Qdrant lacks, and the slot nothing that
the checkpoint has not passed; at the end the collection is the table. The first tests go through all
failpoints in a row, one daemon after the other dying over what the one before it left; `long` has each
failure alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.command import ROOT
from tests.support.daemons import wait_streaming
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.jobs import KILLED
from tests.support.marked import Marked
from tests.support.places import open_server
from tests.support.qdrant_faults import Rule
from tests.support.qdrant_server import lost_response

FAILPOINTS: Final = (
    "sync.decode",
    "sync.before_write",
    "sync.after_write",
    "sync.before_checkpoint",
    "sync.after_checkpoint",
    "sync.after_acknowledge",
)
# The first time that a daemon comes by, and one in the middle of what it has to do.
OCCURRENCES: Final = (1, 6)
PLACES: Final = [(failpoint, nth) for failpoint in FAILPOINTS for nth in OCCURRENCES]
# Windows here are too small for a group of patches.
ELSEWHERE: Final = {"sync.before_fence": "test_sync_patch_groups.py"}
# A method and the collection that it writes to: data, or the checkpoint.
RESPONSES: Final = (
    ("Upsert", "data"),
    ("UpdateBatch", "data"),
    ("Delete", "data"),
    ("Upsert", "state"),
)


@pytest.fixture
def marked(database: Database, tmp_path: Path) -> Iterator[Marked]:
    with open_server(tmp_path) as place:
        docs = Followed(database, place, tmp_path)
        docs.sql(
            "INSERT INTO docs SELECT i, long('r' || i), i, vec(i) FROM generate_series(1, 9) i"
        )
        docs.prepare()
        yield Marked(docs)


def test_every_failpoint_of_the_stream_is_in_the_matrix() -> None:
    paths = [*(ROOT / "sync").glob("*.py"), *(ROOT / "bridge").rglob("*.py")]
    source = "".join(path.read_text() for path in paths if "debezium" not in path.name)
    assert set(re.findall(r'failpoint\("(sync\.\w+)"\)', source)) == {*FAILPOINTS, *ELSEWHERE}
    for failpoint, path in ELSEWHERE.items():
        assert failpoint in (ROOT / "tests" / "faults" / path).read_text()


def die(marked: Marked, failpoint: str) -> None:
    with marked.run(f"{failpoint}") as dying:
        assert dying.finish().code == KILLED
    marked.require_durable()


def finish(marked: Marked) -> None:
    """Whatever happened: a daemon that nothing happens to ends with the collection being the table."""
    with marked.run() as running:
        wait_streaming(running)
        marked.docs.wait()
    marked.docs.require_equal()
    assert marked.checkpoint() >= marked.last
    marked.require_durable()


def test_killed_at_every_failpoint_one_daemon_after_the_other(marked: Marked) -> None:
    for number, failpoint in enumerate(FAILPOINTS, 1):
        marked.write(number)
        die(marked, f"{failpoint}:kill@6")
    finish(marked)


def test_an_error_at_every_failpoint_ends_a_session_and_no_more(marked: Marked) -> None:
    for number in range(1, 4):
        marked.write(number)
    failpoints = ",".join(f"{name}:error@6" for name in FAILPOINTS)
    with marked.run(failpoints) as running:
        wait_streaming(running)
        marked.docs.wait()
        marked.require_durable()
        for failpoint in FAILPOINTS:
            running.wait_line(f"failpoint {failpoint}")
    finish(marked)


def lose(marked: Marked, method: str, of: str, nth: int = 1) -> Rule:
    place, name = marked.docs.place, marked.docs.pipeline.name
    assert place.server is not None
    return place.server.faults.add(
        method=method,
        collection=name if of == "data" else "_qdrant_bridge",
        action=lost_response(),
        nth=nth,
    )


def test_every_response_lost_once_and_nothing_else(marked: Marked) -> None:
    with marked.run() as running:
        wait_streaming(running)
        rules = [lose(marked, method, of) for method, of in RESPONSES]
        for number in range(1, 4):
            marked.write(number)
        marked.docs.wait()
        assert [rule.fired for rule in rules] == [1] * len(rules)
        marked.require_durable()
    finish(marked)


def test_killed_around_the_slot_and_in_the_copy(database: Database, tmp_path: Path) -> None:
    """Before there is a checkpoint: the next start goes on, with the slot that is there."""
    with open_server(tmp_path) as place:
        marked = Marked(Followed(database, place, tmp_path))
        steps = ("backfill.before_slot", "backfill.after_slot", "backfill.after_plan",
            "backfill.before_checkpoint", "backfill.after_checkpoint")  # fmt: skip
        for number, failpoint in enumerate(steps, 1):
            marked.write(number)
            with marked.run(f"{failpoint}:kill@1") as dying:
                assert dying.finish().code == KILLED
        finish(marked)
        slots = database.execute("SELECT count(*) FROM pg_replication_slots WHERE database ="
            " current_database()")  # fmt: skip
        assert slots == [(1,)]


# --- each failure alone ---------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("failpoint", "nth"), PLACES)
def test_killed_at_one_failpoint(marked: Marked, failpoint: str, nth: int) -> None:
    marked.write(1)
    die(marked, f"{failpoint}:kill@{nth}")
    finish(marked)


@pytest.mark.long
@pytest.mark.parametrize(("failpoint", "nth"), PLACES)
def test_an_error_at_one_failpoint(marked: Marked, failpoint: str, nth: int) -> None:
    marked.write(1)
    with marked.run(f"{failpoint}:error@{nth}") as running:
        running.wait_line(f"failpoint {failpoint}")
        wait_streaming(running)
        marked.docs.wait()
        marked.require_durable()
    finish(marked)


@pytest.mark.long
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize(("method", "of"), RESPONSES)
def test_killed_after_a_lost_response(marked: Marked, method: str, of: str, nth: int) -> None:
    with marked.run() as running:
        wait_streaming(running)
        rule = lose(marked, method, of, nth)
        for number in range(1, 4):
            marked.write(number)
        assert marked.docs.place.server is not None
        marked.docs.place.server.faults.wait_fired(rule)
        running.kill()
        running.finish()
    marked.require_durable()
    finish(marked)
