"""A million rows: bounded memory, and every row there. Takes minutes, hence `long`."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import Database
from tests.support.command import Running
from tests.support.comparison import Expectation, differences
from tests.support.places import SERVERS, ServerPlace, open_place
from tests.support.processes import children, resident_bytes

ROWS: Final = 1_000_000
DIMENSION: Final = 384
MOST_BYTES: Final = 512 << 20
SAMPLE: Final = 5_000
SEED: Final = 20_240_601


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerPlace]:
    with open_place(request.param, tmp_path) as opened:
        assert isinstance(opened, ServerPlace)
        yield opened


def peak_bytes(running: Running) -> int:
    """The most that the command and its workers held together; looked at twice a second."""
    peak = 0
    while True:
        tree = [running.pid, *children(running.pid)]
        peak = max(peak, sum(map(resident_bytes, tree)))
        try:
            running.process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        return peak


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_million_rows_are_copied_in_bounded_memory(
    database: Database, server: ServerPlace
) -> None:
    database.execute(
        "CREATE TABLE large (id bigint PRIMARY KEY, title text, price float8, at timestamptz,"
        f" v vector({DIMENSION}))"
    )
    database.execute(
        "INSERT INTO large SELECT i, 'title of row ' || i, i / 7.0,"
        " '2024-01-01'::timestamptz + i * '1s'::interval,"
        f" (SELECT array_agg(sin(i * 0.001 + d)) FROM generate_series(1, {DIMENSION}) d)::vector"
        f" FROM generate_series(1, {ROWS}) i"
    )
    database.execute("ANALYZE large")
    name = server.name("large")
    arguments = (
        "backfill", "pgvector", "--pg.url", database.url, "--pg.table", "large",
        "--qdrant.url", server.url, "--qdrant.collection", name,
        "--qdrant.distance-metric", "v=dot", "--json",
    )  # fmt: skip
    with Running(*arguments) as running:
        peak = peak_bytes(running)
        table = running.finish().require().table
    print(f"peak {peak / 2**20:.0f} MiB, {ROWS / table['copy_seconds']:,.0f} rows/s, seed {SEED}")
    assert table["source_count"] == table["target_count"] == server.count(name) == ROWS
    assert peak < MOST_BYTES
    ids = random.Random(SEED).sample(range(1, ROWS + 1), SAMPLE)
    where = f"id = ANY ('{{{','.join(map(str, ids))}}}')"
    expected = Expectation(distances={"v": "dot"}, where=where)
    assert differences(database, "large", server.some_points(name, ids), expected) == []
