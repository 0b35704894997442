"""`script/bench sync`: how fast the daemon catches up, and how far it lags behind at a fixed rate.

In one run, on one table, for inserts, payload-only updates, full updates and deletes:

    pg_recvlogical   the same changes read from a copy of the slot and thrown away: the limit
    null target      the daemon against a server that acknowledges everything
    server           the daemon against Qdrant
    points/batch     patches that were serialised beforehand, sent to that server; nothing else

A backlog is there before a reader starts; its time runs from the daemon's start (imports apart) to the
checkpoint behind the last change. A lag is the time from COMMIT to what a reader of Qdrant sees; on the
null target, to the checkpoint. Only ratios within one run say something.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.backfill import null_server, qdrant, say, statement_of
from benchmarks.measure import machine
from benchmarks.sync_daemon import PIPELINE
from benchmarks.sync_load import KINDS, NAMES, POOL, Committed, Kind, change_steadily, make_backlog
from benchmarks.sync_source import SLOT, DaemonProcess, Place, Source
from bridge.events import Read
from bridge.plan import Patch
from bridge.postgres import chunks, scan
from bridge.postgres.connection import connect
from bridge.postgres.embedded import EmbeddedPostgres, installation
from bridge.qdrant.channel import Endpoint, Sender
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.wire_updates import encode_patches
from bridge.stream_state import RECORD_NAME

SETTINGS = {
    "fsync": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    # Changes that come one by one must be visible to others at once, as on a server with a disk.
    "autovacuum": "off",
}
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """One backlog, one reader. `cpu_us_per_change` and `peak_mib` are of the reader alone."""

    kind: str
    reader: str
    changes: int
    seconds: float
    changes_per_second: int
    cpu_us_per_change: float | None = None
    peak_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """Changes at a fixed rate, one target. `retained_mib`: the most log that the slot held back."""

    kind: str
    target: str
    changes: int
    changes_per_second: int
    p50_ms: int
    p95_ms: int
    p99_ms: int
    retained_mib: float


def run(
    *,
    rows: int,
    dimension: int,
    rate: int,
    seconds: float,
    qdrant_url: str | None,
    with_server: bool,
) -> dict[str, Any]:
    """Measure one table; the report of it."""
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres.temporary("18", SETTINGS))
        say(f"making {rows:,} rows x {dimension} dimensions")
        table = f"sync_{dimension}"
        pool = max(rows, round(rate * seconds))
        tables.make(postgres.url(), POOL, rows=pool, dimension=dimension)
        tables.make(postgres.url(), table, rows=0, dimension=dimension, logged=True)
        source = Source(postgres.url(), table)
        null = stack.enter_context(null_server())
        places = [Place(name="null target", endpoint=null, null=True)]
        if with_server:
            server = stack.enter_context(qdrant(qdrant_url))
            stack.enter_context(_collection(source, server))
            places.append(Place(name="server", endpoint=server, null=False))
        caught = [
            figure for kind in KINDS for figure in catch_up(source, places, kind, rows, postgres)
        ]
        lags = (
            [
                figure
                for place in places
                for figure in lag_behind(source, place, rate=rate, seconds=seconds)
            ]
            if seconds
            else []
        )
    return {
        "rows": rows,
        "dimension": dimension,
        "rate": rate,
        "target": "QDRANT_URL" if qdrant_url else "test server over Edge",
        "machine": machine(),
        "catch_up": [asdict(figure) for figure in caught],
        "lag": [asdict(figure) for figure in lags],
        "ratios": ratios(caught),
    }


@contextmanager
def _collection(source: Source, place: Endpoint) -> Iterator[None]:
    """The table's collection, empty, gone afterwards."""
    target = ServerTarget(place)
    spec = source.inspection.mapping.collection
    target.delete_collection(spec.name)
    target.create_collection(spec)
    try:
        yield
    finally:
        target.delete_collection(spec.name)
        store = QdrantState(target, PIPELINE)
        if store.exists():
            store.remove("stream", [RECORD_NAME])
        target.close()


def ratios(figures: Sequence[CatchUp]) -> dict[str, float]:
    """The null target's rate to pg_recvlogical's, by kind of change."""
    rates = {(figure.kind, figure.reader): figure.changes_per_second for figure in figures}
    return {
        f"{NAMES[kind]}: null target to pg_recvlogical": round(
            rates[NAMES[kind], "null target"] / rates[NAMES[kind], "pg_recvlogical"], 3
        )
        for kind in KINDS
        if (NAMES[kind], "null target") in rates
    }


# --- catching up -----------------------------------------------------------------------------------


def catch_up(
    source: Source, places: Sequence[Place], kind: Kind, rows: int, postgres: EmbeddedPostgres
) -> Iterator[CatchUp]:
    """One backlog, read by everybody in turn."""
    until = make_backlog(source.url, source.table, kind, rows)
    yield _told(received(source, kind, rows, until, postgres))
    for place in places:
        yield _told(followed(source, place, kind, rows, until))
        if kind == "payload" and not place.null:
            yield _told(patches_alone(source, place, rows))
    source.pass_over()


def _told(figure: CatchUp) -> CatchUp:
    say(row_of(figure))
    return figure


def row_of(figure: CatchUp) -> str:
    """One line for people."""
    cpu = "" if figure.cpu_us_per_change is None else f"  {figure.cpu_us_per_change:5.1f} us CPU"
    memory = "" if figure.peak_mib is None else f"  {figure.peak_mib:4} MiB"
    return f"{figure.kind:<22}{figure.reader:<20}{figure.changes_per_second:>8,} changes/s{cpu}{memory}"


def received(
    source: Source, kind: Kind, rows: int, until: str, postgres: EmbeddedPostgres
) -> CatchUp:
    """pg_recvlogical, from its start to its end."""
    with source.slot("bench_received") as facts:
        command = [str(installation(postgres.version) / "bin" / "pg_recvlogical"), "--start"]
        command += ["--dbname", source.url, "--slot", facts["slot"], "--file", os.devnull]
        command += ["--no-loop", "--fsync-interval", "0", "--endpos", until]
        for option in ("proto_version=1", f"publication_names={SLOT}", "binary=true"):
            command += ["--option", option]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        seconds = time.perf_counter() - began
    return CatchUp(
        kind=NAMES[kind],
        reader="pg_recvlogical",
        changes=rows,
        seconds=round(seconds, 3),
        changes_per_second=round(rows / seconds),
    )


def followed(source: Source, place: Place, kind: Kind, rows: int, until: str) -> CatchUp:
    """The daemon, from its start to the last checkpoint."""
    with (
        source.slot("bench_followed") as facts,
        DaemonProcess(source, place, facts, until) as daemon,
    ):
        told = daemon.end()
    return CatchUp(
        kind=NAMES[kind],
        reader=place.name,
        changes=rows,
        seconds=round(told["seconds"], 3),
        changes_per_second=round(rows / told["seconds"]),
        cpu_us_per_change=round(told["cpu_seconds"] / rows * 1e6, 1),
        peak_mib=round(told["peak_bytes"] / 2**20),
    )


def patches_alone(source: Source, place: Place, rows: int) -> CatchUp:
    """`points/batch` requests made beforehand, four of them in flight."""
    requests = list(_patch_requests(source))
    sender = Sender(place.endpoint)
    flying: deque[Any] = deque()
    began = time.perf_counter()
    for request in requests:
        if len(flying) >= 4:
            flying.popleft().result()
        flying.append(sender.send_batch(request))
    while flying:
        flying.popleft().result()
    seconds = time.perf_counter() - began
    sender.close()
    return CatchUp(
        kind=NAMES["payload"],
        reader="points/batch alone",
        changes=rows,
        seconds=round(seconds, 3),
        changes_per_second=round(rows / seconds),
    )


def _patch_requests(source: Source) -> Iterator[bytes]:
    mapping, table = source.inspection.mapping, source.inspection.table
    with connect(source.url) as connection:
        for batch in scan.read_batches(
            connection,
            statement_of(source.inspection, chunks.KeyRange(lower=None, upper=None)),
            fields=len(mapping.selection),
            table=table.label,
            batch_rows=250,
            batch_bytes=2**40,
        ):
            read = Read(table=table.label, rows=batch.rows, position="")
            points, _letters = mapping.points(read)
            patches = [Patch(point.id, point.payload, {}, frozenset()) for point in points]
            yield encode_patches(mapping.collection.name, patches)


# --- at a fixed rate -------------------------------------------------------------------------------


def lag_behind(source: Source, place: Place, *, rate: int, seconds: float) -> Iterator[Lag]:
    """All kinds of change, one after the other, at a fixed rate, while the daemon streams."""
    for kind in KINDS:
        source.pass_over()
        with (
            source.slot("bench_lag") as facts,
            DaemonProcess(source, place, facts, None) as daemon,
        ):
            daemon.wait("ready")
            watcher = Watcher(source, place, kind)
            retained = 0
            for number, committed in enumerate(
                change_steadily(source.url, source.table, kind, rate=rate, seconds=seconds)
            ):
                watcher.expect(committed)
                if number % 20 == 0:
                    retained = max(retained, source.retained_bytes(facts["slot"]))
            lags = watcher.lags()
            told = daemon.end()
        if place.null:
            lags = _until_checkpoint(watcher.committed, told["checkpoints"])
        # What was never seen would be the longest lag of all: no figure without it.
        assert len(lags) == len(watcher.committed), f"{len(watcher.committed) - len(lags)} not seen"
        p50, p95, p99 = (round(1000 * float(p)) for p in np.percentile(lags, [50, 95, 99]))
        lag = Lag(
            kind=NAMES[kind],
            target=place.name,
            changes=round(rate * seconds),
            changes_per_second=rate,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            retained_mib=round(retained / 2**20, 1),
        )
        say(
            f"{lag.kind:<22}{lag.target:<20}lag {p50:>5} {p95:>5} {p99:>5} ms (p50, p95, p99)"
            f"  {lag.retained_mib:5.1f} MiB of log retained"
        )
        yield lag
    source.pass_over()


def _until_checkpoint(
    committed: Sequence[Committed], checkpoints: Sequence[tuple[float, int]]
) -> list[float]:
    """Seconds from each commit to the first checkpoint that covers it."""
    positions = np.array([position for _at, position in checkpoints])
    found = np.searchsorted(positions, [one.position for one in committed])
    return [
        checkpoints[number][0] - one.at
        for one, number in zip(committed, found.tolist(), strict=True)
        if number < len(checkpoints)
    ]


class Watcher:
    """Looks in Qdrant for each transaction's last row, as a reader of the collection would."""

    def __init__(self, source: Source, place: Place, kind: Kind) -> None:
        self.committed: list[Committed] = []
        self._waiting: deque[Committed] = deque()
        self._lags: list[float] = []
        self._collection = source.inspection.mapping.collection.name
        self._kind = kind
        self._all_known = threading.Event()
        self._target = None if place.null else ServerTarget(place.endpoint)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._target is not None:
            self._thread.start()

    def expect(self, committed: Committed) -> None:
        """Wait for this one too."""
        self.committed.append(committed)
        if self._target is not None:
            self._waiting.append(committed)

    def lags(self) -> list[float]:
        """Seconds from each COMMIT to when its last row was seen, once all have been."""
        self._all_known.set()
        if self._target is not None:
            self._thread.join(PATIENCE_SECONDS)
            self._target.close()
        else:
            time.sleep(1.0)  # the last checkpoint comes soon; the daemon drains before it ends
        return self._lags

    def _watch(self) -> None:
        assert self._target is not None
        while self._waiting or not self._all_known.is_set():
            # Windows are applied in order, so that what comes behind the first few waits anyway.
            looked = [self._waiting[n] for n in range(min(50, len(self._waiting)))]
            ids = [one.last_id for one in looked]
            points = self._target.retrieve(self._collection, ids) if ids else []
            seen = {point.id: point.payload for point in points}
            now = time.time()
            for one in looked:
                if not self._is_there(seen.get(one.last_id)):
                    break
                self._lags.append(now - one.at)
                self._waiting.popleft()
            time.sleep(0.005)

    def _is_there(self, payload: Any) -> bool:
        if self._kind == "delete":
            return payload is None
        if payload is None:
            return False
        return self._kind == "insert" or payload["title"] == self._kind


def save(path: Path, reports: list[dict[str, Any]]) -> None:
    """The reports as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 1, "reports": reports}, indent=1) + "\n")
