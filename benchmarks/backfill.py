"""`script/bench backfill`: rows/s, MB/s, CPU and memory of the backfill, beside its two limits.

In one run, on one table:

    copy        COPY (FORMAT binary) read and thrown away: by one connection, and by as many as workers
    null        the backfill's workers against a server that acknowledges everything
    upsert      requests that were serialised beforehand, sent to a Qdrant server; nothing else
    backfill    the whole command's work against that server: checks, plan, copy, counts

Only ratios within one run say something: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backfill.messages import Chunk, ChunkCopied, Task
from backfill.pgvector import Options, TableBackfill
from backfill.pool import Pool
from backfill.preflight import Inspection, inspect
from benchmarks import tables
from benchmarks.measure import forget_peak, machine, resident_bytes, usage
from benchmarks.processes import Watch, listener
from bridge.config_tables import TableSettings
from bridge.events import Read
from bridge.postgres import chunks, scan
from bridge.postgres.connection import connect
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.channel import Endpoint, Sender, endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.wire import encode_upsert

SETTINGS = {"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "4GB"}
BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement. `cpu_us_per_row` and `peak_mib` are of the bridge's own processes alone;
    `others_us_per_row` says what the two databases took, and what the cores had left over."""

    name: str
    rows: int
    seconds: float
    rows_per_second: float
    mb_per_second: float
    cpu_us_per_row: float | None = None
    peak_mib: float | None = None
    others_us_per_row: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def figure(name: str, rows: int, size: int, seconds: float, **more: Any) -> Figure:
    """A figure from what was counted."""
    return Figure(
        name=name,
        rows=rows,
        seconds=round(seconds, 3),
        rows_per_second=round(rows / seconds),
        mb_per_second=round(size / seconds / 1e6, 1),
        **more,
    )


def run(
    *,
    rows: int,
    dimension: int,
    workers: int,
    qdrant_url: str | None,
    with_server: bool,
    with_index: bool,
) -> dict[str, Any]:
    """Measure one table; the report of it."""
    table = f"bench_{dimension}"
    with EmbeddedPostgres.temporary("18", SETTINGS) as postgres:
        url = postgres.url()
        say(f"making {rows:,} rows x {dimension} dimensions")
        tables.make(url, table, rows=rows, dimension=dimension)
        with connect(url) as connection:
            inspection = inspect(connection, table, TableSettings())
        figures = [
            copy_alone(url, inspection, connections=1),
            copy_alone(url, inspection, connections=workers),
            against_null(url, inspection, workers),
        ]
        if with_server:
            with qdrant(qdrant_url) as place:
                figures.append(upserts_alone(url, inspection, place))
                watch = Watch(qdrant=listener(place.port), postgres=postgres.pid)
                figures += whole_backfill(
                    url, table, place, workers, with_index=with_index, watch=watch
                )
    for one in figures:
        say(row_of(one))
    return {
        "rows": rows,
        "dimension": dimension,
        "workers": workers,
        "batch": BATCH,
        "target": "QDRANT_URL" if qdrant_url else "test server over Edge",
        "machine": machine(),
        "figures": [asdict(one) for one in figures],
        "ratios": ratios(figures),
    }


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def row_of(one: Figure) -> str:
    """One line for people."""
    cpu = "" if one.cpu_us_per_row is None else f"  {one.cpu_us_per_row:5.1f} us CPU a row"
    memory = "" if one.peak_mib is None else f"  {one.peak_mib:5.0f} MiB"
    others = "".join(f"  {name} {value:.0f}" for name, value in one.others_us_per_row.items())
    return (
        f"{one.name:<28}{one.rows_per_second:>9,} rows/s {one.mb_per_second:>7,.1f} MB/s{cpu}{memory}"
        f"{others}  {one.note}"
    )


def ratios(figures: list[Figure]) -> dict[str, float]:
    """The comparisons that count."""
    by_name = {one.name: one.rows_per_second for one in figures}
    found = {"null to COPY alone": by_name["null target"] / by_name["COPY alone, 1 connection"]}
    if "backfill" in by_name:
        found["backfill to upserts alone"] = by_name["backfill"] / by_name["upserts alone"]
    return {name: round(ratio, 3) for name, ratio in found.items()}


def statement_of(inspection: Inspection, bounds: chunks.KeyRange) -> Any:
    """The COPY that the backfill would send for these bounds."""
    mapping = inspection.mapping
    return scan.copy_statement(
        inspection.table, mapping.selection, mapping.key_columns, bounds, dict(mapping.where)
    )


def copy_alone(url: str, inspection: Inspection, *, connections: int) -> Figure:
    """Read everything and throw it away; several connections share the key ranges."""
    parts = ranges(url, inspection, connections)
    name = f"COPY alone, {connections} connection{'s' if connections > 1 else ''}"
    context = multiprocessing.get_context("spawn")
    with context.Pool(connections) as pool:
        pool.map(_warm, range(connections))
        before = time.perf_counter()
        counted = pool.starmap(_read, [(url, inspection.table.name, part) for part in parts], 1)
        seconds = time.perf_counter() - before
    rows, size = (sum(column) for column in zip(*counted, strict=True))
    return figure(name, rows, size, seconds)


def ranges(url: str, inspection: Inspection, parts: int) -> list[chunks.KeyRange]:
    """Key ranges of about equal size."""
    table, key = inspection.table, inspection.mapping.key_columns
    if parts == 1:
        return chunks.key_ranges([])
    size = max(1, -(-table.estimated_rows // (parts * 4)))
    with connect(url) as connection:
        return chunks.key_ranges(chunks.plan_bounds(connection, table, key, target_rows=size))


def _warm(_number: int) -> None:
    """Start the process before the clock runs."""


def _read(url: str, table: str, part: chunks.KeyRange) -> tuple[int, int]:
    with connect(url) as connection:
        inspection = inspect(connection, table, TableSettings())
        query = statement_of(inspection, part).as_string(connection).encode()
        rows = size = 0
        for message in scan.copy_messages(connection.pgconn, query):
            rows += 1
            size += len(message)
        return rows - 1, size  # the last message is the end mark


def against_null(url: str, inspection: Inspection, workers: int) -> Figure:
    """The workers as the command runs them, against a server that only says yes."""
    with null_server() as place:
        task = Task(
            postgres_url=url,
            allow_plaintext=False,
            endpoint=place,
            mapping=inspection.mapping,
            batch_rows=BATCH,
        )
        parts = ranges(url, inspection, max(2, workers))
        todo = [Chunk(number=number, bounds=part) for number, part in enumerate(parts)]
        rows = size = peak = 0
        forget_peak()
        before = usage()
        with Pool(task, workers=workers) as pool:
            for event in pool.run(todo):
                if isinstance(event, ChunkCopied):
                    rows += event.rows_written
                    size += event.size_bytes
                    peak = max(peak, resident_bytes([os.getpid(), *pool.pids]))
        after = usage()
    cpu = (after.cpu - before.cpu) / rows * 1e6
    return figure(
        "null target",
        rows,
        size,
        after.wall - before.wall,
        cpu_us_per_row=round(cpu, 1),
        peak_mib=round(peak / 2**20),
        note="start of the workers included",
    )


@contextlib.contextmanager
def null_server(port: int = 0) -> Iterator[Endpoint]:
    """The null target in a process of its own, whose CPU is not counted."""
    command = [sys.executable, "-m", "benchmarks.null_server", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        port = int(process.stdout.readline())
        try:
            yield endpoint(f"http://127.0.0.1:{port}", api_key=None)
        finally:
            process.stdin.close()
            # Not among the children that have ended, as far as the figures go.
            process.wait()


@contextlib.contextmanager
def qdrant(url: str | None) -> Iterator[Endpoint]:
    """The server of `url`, or the project's test server in a process of its own."""
    if url is not None:
        yield endpoint(url, api_key=os.environ.get("QDRANT_BRIDGE_QDRANT__API_KEY"))
        return
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "tests.support.qdrant_server", "--directory", directory]
        command += ["--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().split()[-1])
            try:
                yield endpoint(f"http://127.0.0.1:{port}", api_key=None)
            finally:
                process.terminate()


def upserts_alone(url: str, inspection: Inspection, place: Endpoint) -> Figure:
    """Requests made beforehand, sent as fast as the server takes them, indexing deferred."""
    requests = list(serialised(url, inspection))
    target = ServerTarget(place)
    name = f"{inspection.table.name}_alone"
    target.delete_collection(name)
    spec = inspection.mapping.collection
    target.create_collection(dataclasses.replace(spec, name=name))
    target.set_indexing_threshold(name, 0)
    sender = Sender(place)
    watch = Watch(qdrant=listener(place.port))
    before = usage()
    flying: deque[Any] = deque()
    for request, _rows in requests:
        if len(flying) >= IN_FLIGHT:
            flying.popleft().result()
        flying.append(sender.send(request))
    while flying:
        flying.popleft().result()
    after = usage()
    rows = sum(count for _request, count in requests)
    others = watch.us_per_row(rows)
    assert target.count(name) == rows
    target.delete_collection(name)
    sender.close()
    target.close()
    size = sum(len(request) for request, _rows in requests)
    cpu = (after.cpu - before.cpu) / rows * 1e6
    return figure(
        "upserts alone",
        rows,
        size,
        after.wall - before.wall,
        cpu_us_per_row=round(cpu, 1),
        others_us_per_row=others,
    )


IN_FLIGHT = 8
"""As many as two workers of the backfill have."""


def serialised(url: str, inspection: Inspection) -> Iterator[tuple[bytes, int]]:
    """Upserts of the whole table as the backfill would send them."""
    mapping = inspection.mapping
    with connect(url) as connection:
        for batch in scan.read_batches(
            connection,
            statement_of(inspection, chunks.KeyRange(lower=None, upper=None)),
            fields=len(mapping.selection),
            table=inspection.table.label,
            batch_rows=BATCH,
            batch_bytes=2**40,
        ):
            read = Read(table=inspection.table.label, rows=batch.rows, position="")
            points, _letters = mapping.points(read)
            name = f"{inspection.table.name}_alone"
            yield encode_upsert(name, points), len(points)


def whole_backfill(
    url: str, table: str, place: Endpoint, workers: int, *, with_index: bool, watch: Watch
) -> list[Figure]:
    """The command's work from its first check to its last count; the index build apart.

    What the databases and the machine took is counted as far as `watch` reaches, which is from a little
    before the copy to a little behind it.
    """
    target = ServerTarget(place)
    target.delete_collection(table)
    options = Options(
        postgres_url=url, endpoint=place, workers=workers, restart=True, wait_for_index=with_index
    )
    store = QdrantState(target, "benchmark")
    before = usage()
    report = TableBackfill(
        table, TableSettings(), target=target, store=store, options=options, tell=lambda event: None
    ).run()
    after = usage()
    others = watch.us_per_row(report.rows_read) if report.index_seconds is None else {}
    assert not report.problems, report.problems
    target.delete_collection(table)
    store.remove("owner", [table])
    target.close()
    cpu = (after.cpu - before.cpu) / report.rows_read * 1e6
    figures = [
        figure(
            "backfill",
            report.rows_read,
            report.size_bytes,
            report.copy_seconds,
            cpu_us_per_row=round(cpu, 1),
            others_us_per_row=others,
        )
    ]
    if report.index_seconds is not None:
        figures.append(
            figure(
                "index build afterwards",
                report.rows_read,
                report.size_bytes,
                max(report.index_seconds, 1e-3),
                note="by the server",
            )
        )
    return figures


def save(path: Path, reports: list[dict[str, Any]]) -> None:
    """The reports as JSON."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 1, "reports": reports}, indent=1) + "\n")
