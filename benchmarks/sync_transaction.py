"""One huge transaction: what the daemon's memory comes to, also if Qdrant is away at first.

The transaction is read by `pg_recvlogical` as well, since with it the server's own work (it spills the
changes to its disk and reads them back) is most of the time.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks import tables
from benchmarks.backfill import null_server, say
from benchmarks.measure import machine
from benchmarks.sync import SETTINGS, CatchUp, received, row_of
from benchmarks.sync_load import POOL, make_backlog
from benchmarks.sync_source import DaemonProcess, Place, Source
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.channel import Endpoint

DIMENSION = 384


def run(*, rows: int, away_seconds: float) -> dict[str, Any]:
    """Insert the rows in one transaction; read it with the null target there, and away at first."""
    with EmbeddedPostgres.temporary("18", SETTINGS) as postgres:
        say(f"making one transaction of {rows:,} rows x {DIMENSION} dimensions")
        table = f"sync_{DIMENSION}"
        tables.make(postgres.url(), POOL, rows=rows, dimension=DIMENSION)
        tables.make(postgres.url(), table, rows=0, dimension=DIMENSION, logged=True)
        source = Source(postgres.url(), table)
        until = make_backlog(source.url, table, "insert", rows, at_once=True)
        figures = [
            received(source, "insert", rows, until, postgres),
            followed(source, rows, until, away_seconds=0.0),
        ]
        if away_seconds:
            figures.append(followed(source, rows, until, away_seconds=away_seconds))
    for figure in figures:
        say(row_of(figure))
    return {
        "rows": rows,
        "dimension": DIMENSION,
        "machine": machine(),
        "transaction": [asdict(figure) for figure in figures],
    }


def followed(source: Source, rows: int, until: str, *, away_seconds: float) -> CatchUp:
    """The daemon; the target comes after so many seconds."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    place = Place(
        name="null target",
        endpoint=Endpoint(host="127.0.0.1", port=port, tls=False),
        null=True,
    )
    with (
        source.slot("bench_transaction") as facts,
        DaemonProcess(source, place, facts, until) as daemon,
        ExitStack() as stack,
    ):
        daemon.wait("ready")
        time.sleep(away_seconds)
        stack.enter_context(null_server(port))
        told = daemon.end()
    away = f", away for {away_seconds:.0f} s" if away_seconds else ""
    return CatchUp(
        kind="one transaction",
        reader=place.name + away,
        changes=rows,
        seconds=round(told["seconds"], 3),
        changes_per_second=round(rows / told["seconds"]),
        cpu_us_per_change=round(told["cpu_seconds"] / rows * 1e6, 1),
        peak_mib=round(told["peak_bytes"] / 2**20),
    )
