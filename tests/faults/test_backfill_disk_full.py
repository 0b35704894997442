"""The disk of an edge directory is full: the run stops and says so; with space it goes on."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from bridge.qdrant import edge_space
from tests.conftest import Database
from tests.support.command import Running, bridge
from tests.support.comparison import Expectation, differences
from tests.support.places import EdgePlace

ROWS: Final = 6_000  # some 25 MB on the disk


def fill(database: Database) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, v vector(256))")
    database.execute(
        "INSERT INTO docs SELECT i, repeat('x', 500), array_fill(i::real, ARRAY[256])::vector"
        f" FROM generate_series(1, {ROWS}) i"
    )
    database.execute("ANALYZE docs")


def arguments(database: Database, place: EdgePlace) -> list[str]:
    return [
        "backfill", "pgvector", "--pg.url", database.url, "--pg.table", "docs",
        "--qdrant.url", place.url, "--qdrant.distance-metric", "v=euclid",
        "--migration.num-workers", "1",
    ]  # fmt: skip


def may_mount() -> bool:
    """Whether this process may mount a small file system."""
    try:
        with tempfile.TemporaryDirectory() as directory, small_disk(Path(directory), 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[None]:
    """A file system of that size at the directory."""
    mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory))
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True, capture_output=True)


def require_exact_after_another_run(database: Database, place: EdgePlace) -> None:
    chunks = place.records("docs", "chunk")
    table = bridge(*arguments(database, place), "--json").require().table
    assert chunks.items() <= place.records("docs", "chunk").items()
    copied = sum(chunk["rows_read"] for chunk in chunks.values())
    assert table["copied_now"] == ROWS - copied
    expected = Expectation(distances={"v": "euclid"})
    assert differences(database, "docs", place.points("docs"), expected) == []


# Not everybody may mount; a limit on the size of files stops the engine just as well.
FILE_SIZE: Final = 0
ENOUGH_FOR_HALF: Final = (edge_space.RESERVE_BYTES >> 20) + 14
DISKS: Final = {"a limit on file size": FILE_SIZE} | (
    {"too small a disk": 20, "a disk that fills up": ENOUGH_FOR_HALF} if may_mount() else {}
)


@contextmanager
def confined(directory: Path, megabytes: int) -> Iterator[Callable[[], object]]:
    """The directory on a disk of that size; what is given mends it."""
    if megabytes == FILE_SIZE:
        yield lambda: None  # the next run is not limited
    else:
        with small_disk(directory, megabytes):
            yield lambda: mount("-o", "remount,size=1g", str(directory))


@pytest.mark.parametrize("megabytes", DISKS.values(), ids=DISKS)
def test_a_full_disk_stops_the_run_and_with_space_it_goes_on(
    database: Database, tmp_path: Path, megabytes: int
) -> None:
    fill(database)
    disk = tmp_path / "disk"
    disk.mkdir()
    place = EdgePlace(disk / "edge")
    # In blocks of 512 or 1,024 bytes, as the shell has it: less than one of Edge's files.
    limited = ("sh", "-c", 'ulimit -f 8192; exec "$0" "$@"') if megabytes == FILE_SIZE else ()
    with confined(disk, megabytes) as mend:
        with Running(*arguments(database, place), prefix=limited) as running:
            outcome = running.finish().require(3)
        assert "DISK_FULL" in outcome.err and "the same command again" in outcome.err
        assert "Traceback" not in outcome.err
        if megabytes == ENOUGH_FOR_HALF:
            assert place.records("docs", "chunk") != {}
        mend()
        require_exact_after_another_run(database, place)
