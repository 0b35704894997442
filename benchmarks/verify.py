"""`script/bench verify`: rows/s, CPU and memory of a comparison, beside its two limits.

In one run, on one table:

    copy        COPY (FORMAT binary) read and thrown away, by one connection
    scroll      every point with payload and vectors, read page by page and thrown away undecoded
    verify      the whole command, in a process of its own: checks, plan, every row, every id; vectors by
                their scores, as it is by default, and by their components (`--exact-vectors`)

Without QDRANT_URL also an edge directory, which the command opens itself. CPU and memory are those of the
command's processes; memory is their proportional set sizes, which count a shared page once. Only ratios
within one run say something.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from backfill.pgvector import Options, TableBackfill
from backfill.preflight import inspect
from benchmarks import tables
from benchmarks.backfill import SETTINGS, Figure, copy_alone, figure, qdrant, row_of, say
from benchmarks.measure import machine
from benchmarks.processes import Watch, listener
from bridge.config_tables import TableSettings
from bridge.point_ids import PointId
from bridge.postgres.connection import connect
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.channel import Endpoint, open_channel
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.reader import SCROLL
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.wire_points import encode_scroll, next_page

_PAGE = 256
_LOOK_SECONDS = 0.05
EXACT = "--exact-vectors"


def run(*, rows: int, dimension: int, workers: int, qdrant_url: str | None) -> dict[str, Any]:
    """Measure one table; the report of it."""
    table = f"bench_verify_{dimension}"
    with EmbeddedPostgres.temporary("18", SETTINGS) as postgres, qdrant(qdrant_url) as place:
        url = postgres.url()
        say(f"making {rows:,} rows x {dimension} dimensions, and copying them")
        tables.make(url, table, rows=rows, dimension=dimension)
        fill(url, table, place, workers)
        with connect(url) as connection:
            inspection = inspect(connection, table, TableSettings())

        def watch() -> Watch:
            return Watch(qdrant=listener(place.port), postgres=postgres.pid)

        figures = [
            copy_alone(url, inspection, connections=1),
            scroll_alone(place, table, rows),
            whole_verify("verify", url, table, place.label, rows, workers, watch=watch),
            whole_verify(
                "verify, components", url, table, place.label, rows, workers, EXACT, watch=watch
            ),
        ]
        ServerTarget(place).delete_collection(table)
        if qdrant_url is None:
            figures += in_edge(url, table, rows)
    for one in figures:
        say(row_of(one))
    return {
        "rows": rows,
        "dimension": dimension,
        "workers": workers,
        "target": "QDRANT_URL" if qdrant_url else "test server over Edge",
        "machine": machine(),
        "figures": [asdict(one) for one in figures],
    }


def fill(url: str, table: str, place: Endpoint, workers: int) -> None:
    """Copy the table; not measured."""
    target = ServerTarget(place)
    target.delete_collection(table)
    options = Options(
        postgres_url=url, endpoint=place, workers=workers, restart=True, wait_for_index=False
    )
    store = QdrantState(target, table)
    TableBackfill(
        table, TableSettings(), target=target, store=store, options=options, tell=lambda event: None
    ).run()
    store.remove("owner", [table])
    # A server that builds its index meanwhile would be what is measured.
    target.set_indexing_threshold(table, 0)
    while not target.optimize(table):
        time.sleep(0.5)
    target.close()


def in_edge(url: str, table: str, rows: int) -> list[Figure]:
    """The same command on a directory, which one process has open."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "edge"
        target = EdgeTarget(place)
        options = Options(postgres_url=url, workers=2, restart=True, wait_for_index=False)
        store = QdrantState(target, table)
        TableBackfill(
            table, TableSettings(), target=target, store=store, options=options,
            tell=lambda event: None,
        ).run()  # fmt: skip
        target.close()
        return [
            whole_verify("edge: verify", url, table, f"edge://{place}", rows, 1),
            whole_verify("edge: components", url, table, f"edge://{place}", rows, 1, EXACT),
        ]


def scroll_alone(place: Endpoint, collection: str, rows: int) -> Figure:
    """Read everything and throw it away, page by page as their order demands."""
    channel: grpc.Channel = open_channel(place)
    scroll = channel.unary_unary(SCROLL, request_serializer=None, response_deserializer=None)
    after: PointId | None = None
    size = 0
    before = time.perf_counter()
    while True:
        request = encode_scroll(
            collection, after=after, limit=_PAGE, with_payload=True, with_vectors=True
        )
        answer: bytes = scroll(request)
        size += len(answer)
        after = next_page(answer)
        if after is None:
            break
    seconds = time.perf_counter() - before
    channel.close()
    return figure("scroll alone", rows, size, seconds)


def whole_verify(
    name: str,
    url: str,
    table: str,
    target: str,
    rows: int,
    workers: int,
    *more: str,
    watch: Callable[[], Watch] = Watch,
) -> Figure:
    """The command, and the most memory that its processes had together."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "bridge.yaml"
        settings = {
            "pipeline": table,
            "postgres": {"url": url},
            "qdrant": {"url": target},
            "tables": {table: {}},
        }
        config.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "cli.main", "verify", "--config", str(config), "--json",
                   "--migration.num-workers", str(workers), *more]  # fmt: skip
        cpu = _cpu_of_children()
        others = watch()
        before = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            peak = _watched(process)
            assert process.stdout is not None
            printed = process.stdout.read()
        wall = time.perf_counter() - before
        others_used = others.us_per_row(rows)
    report = json.loads(printed)
    (found,) = report["tables"].values()
    assert report["equal"] and found["compared"] == rows, found
    used = _cpu_of_children() - cpu
    return figure(
        name,
        rows,
        0,
        found["seconds"],
        cpu_us_per_row=round(used / rows * 1e6, 1),
        peak_mib=round(peak / 2**20),
        others_us_per_row=others_used,
        note=f"the whole command {wall:.1f} s",
    )


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watched(process: subprocess.Popen[str]) -> int:
    """The highest sum of the resident sets of a process and its children, while it runs."""
    peak = 0
    while process.poll() is None:
        pids = [process.pid, *_children(process.pid)]
        peak = max(peak, sum(map(_proportional_bytes, pids)))
        time.sleep(_LOOK_SECONDS)
    return peak


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue  # it has ended
    return found


def save(path: Path, reports: list[dict[str, Any]]) -> None:
    """The results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(reports, indent=2) + "\n")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's own arguments."""
    one = commands.add_parser("verify", help="rows/s, CPU and memory of a comparison")
    one.add_argument("--rows", type=int, default=40_000)
    one.add_argument("--dimension", type=int, action="append", help="default: 1536")
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--json", type=Path, default=Path("benchmarks/results/verify.json"))
    one.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    reports = [
        run(
            rows=arguments.rows,
            dimension=dimension,
            workers=arguments.workers,
            qdrant_url=os.environ.get("QDRANT_URL"),
        )
        for dimension in arguments.dimension or (1536,)
    ]
    save(arguments.json, reports)
